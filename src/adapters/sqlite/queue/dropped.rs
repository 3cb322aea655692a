//! Orders of the embedded store that become `dropped` with their letters.

use rusqlite::{Connection, OptionalExtension, params};

use super::rows::{Keys, seq_and_state};
use crate::adapters::sqlite::store::counts::{Counts, count_decided};
use crate::adapters::sqlite::store::items::ItemRow;
use crate::adapters::sqlite::store::orders::OrderRow;
use crate::adapters::sqlite::store::schema::DROPPED_BEFORE;
use crate::adapters::sqlite::store::{Store, state};
use crate::core::model::{BROKEN, Decision, MacState, OrderId, Timestamp};
use crate::core::ports::queue::QueueError;

/// Orders decided in one transaction after an upgrade.
const TOGETHER: usize = 500;

/// Decides an order whose letter is gone as dropped, if it is dead-lettered. Returns its decision;
/// `None` if it has none, or the store does not know the order.
pub fn decide(
    tx: &Connection,
    keys: &Keys,
    id: OrderId,
    now: Timestamp,
) -> rusqlite::Result<Option<Decision>> {
    match seq_and_state(tx, id)? {
        Some((place, state::DEAD_LETTERED)) => {
            write(tx, keys, id, place, now)?;
            Ok(Some(Decision::Dropped))
        }
        Some((_, state)) => Ok(state::decision(state)),
        None => Ok(None),
    }
}

fn write(
    tx: &Connection,
    keys: &Keys,
    id: OrderId,
    place: i64,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let mut counts = Counts::read(tx, &keys.mac)?;
    let mac = match OrderRow::find(tx, &id) {
        Ok(Some(mut row)) => {
            let check = row.check(&keys.mac, &keys.old);
            row.at = now;
            check.carry_on(|| row.mac(&keys.mac, MacState::Decided(Decision::Dropped)))
        }
        // Somebody else changed the row to what no order is.
        _ => BROKEN,
    };
    tx.prepare_cached("UPDATE orders SET state = ?, decided_at = ?, seal = ? WHERE place = ?")?
        .execute(params![state::DROPPED, now.0, mac, place])?;
    if let Some(mut item) = ItemRow::by_key(tx, &keys.mac, place >> 32)? {
        item.add_dead(-1)?;
        item.add_decided(1)?;
        item.save(tx, &keys.mac, &mut counts)?;
    }
    count_decided(tx, Decision::Dropped, 1)?;
    counts.dead -= 1;
    counts.decided += 1;
    counts.save(tx, &keys.mac)
}

/// After an upgrade: decides the orders whose letters were dropped by an earlier version, which left
/// them dead-lettered. A few at a time, so that it may be killed anywhere; nothing where there are
/// none.
pub async fn finish_upgrade(store: &Store, keys: Keys, now: Timestamp) -> Result<(), QueueError> {
    if !store.read(is_left).await? {
        return Ok(());
    }
    if !store.read(move |c| has_all_letters(c, &keys)).await? {
        tracing::warn!(
            "dead letters were removed by something other than flux; their orders stay \
             dead_lettered: see flux audit"
        );
        return Ok(());
    }
    let mut after = 0;
    loop {
        let page = store.read(move |c| without_letter(c, after)).await?;
        let Some((last, _)) = page.last() else { break };
        after = *last;
        let decide_all = move |tx: &Connection| {
            page.iter().try_for_each(|(_, id)| match has_letter(tx, *id)? {
                true => Ok(()),
                false => decide(tx, &keys, *id, now).map(drop),
            })
        };
        store.write(decide_all).await?;
    }
    let done = |tx: &Connection| tx.execute("DELETE FROM meta WHERE key = ?", [DROPPED_BEFORE]);
    store.write(done).await?;
    Ok(())
}

fn is_left(c: &Connection) -> rusqlite::Result<bool> {
    let found = c.query_row("SELECT 1 FROM meta WHERE key = ?", [DROPPED_BEFORE], |_| Ok(()));
    found.optional().map(|found| found.is_some())
}

fn has_all_letters(c: &Connection, keys: &Keys) -> rusqlite::Result<bool> {
    let letters: i64 = c.query_row("SELECT count(*) FROM dead_letters", [], |row| row.get(0))?;
    Ok(Counts::read(c, &keys.mac)?.letters == letters)
}

/// Places and ids of dead-lettered orders without a letter, those behind a place.
fn without_letter(c: &Connection, after: i64) -> rusqlite::Result<Vec<(i64, OrderId)>> {
    let mut find = c.prepare_cached(
        "SELECT place, id FROM orders WHERE state = ? AND place > ?
         AND typeof(id) = 'blob' AND length(id) = 16
         AND NOT EXISTS (SELECT 1 FROM dead_letters WHERE order_id = orders.id)
         ORDER BY place LIMIT ?",
    )?;
    let values = params![state::DEAD_LETTERED, after, TOGETHER as i64];
    let rows = find
        .query_map(values, |row| Ok((row.get::<_, i64>(0)?, OrderId::from_bytes(row.get(1)?))))?;
    rows.collect()
}

fn has_letter(c: &Connection, id: OrderId) -> rusqlite::Result<bool> {
    let mut find = c.prepare_cached("SELECT 1 FROM dead_letters WHERE order_id = ?")?;
    find.exists([id.as_bytes()])
}
