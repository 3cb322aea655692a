//! What a commit and a batch of rejections do inside the file. Each looks first whether all of its
//! orders wait, and writes only then.

use rusqlite::{Connection, OptionalExtension, params};

use crate::adapters::sqlite::store::counts::{Counts, count_decided};
use crate::adapters::sqlite::store::items::ItemRow;
use crate::adapters::sqlite::store::orders;
use crate::adapters::sqlite::store::orders::Undecided;
use crate::adapters::sqlite::store::state;
use crate::core::model::{Decided, MacKeys, OrderId};
use crate::core::ports::ledger::{Commit, Committed, Expect};

pub fn commit(tx: &Connection, commit: &Commit, keys: &MacKeys) -> rusqlite::Result<Committed> {
    let Commit { item, expect, decided } = commit;
    let row = ItemRow::find(tx, keys, item.id.as_str())?;
    let version = row.map_or(Ok(0), |row| row.version())?;
    let item_changed = match expect {
        Expect::Version(read) => *read != version,
        Expect::Anything => false,
    };
    let found = look(tx, decided)?;
    if item_changed || !found.seen.is_empty() {
        return Ok(Committed::Refused { item_changed, decided_before: found.seen });
    }
    let mut counts = Counts::read(tx, keys)?;
    let undecided = found.all(tx, keys, &mut counts)?;
    let mut row = ItemRow::find_or_insert(tx, keys, item.id.as_str())?;
    write(tx, keys, &undecided, row.mac_from()?)?;
    row.add_decided(undecided.len() as i64)?;
    row.set(item, &mut counts)?;
    row.save(tx, keys, &mut counts)?;
    count(tx, &undecided)?;
    counts.decided += undecided.len() as i64;
    counts.save(tx, keys)?;
    Ok(Committed::Written)
}

/// Writes those that wait, and returns the others that have a decision.
pub fn rejections(
    tx: &Connection,
    rejected: &[Decided],
    keys: &MacKeys,
) -> rusqlite::Result<Vec<OrderId>> {
    let mut found = look(tx, rejected)?;
    let seen = std::mem::take(&mut found.seen);
    let mut counts = Counts::read(tx, keys)?;
    let undecided = found.all(tx, keys, &mut counts)?;
    for of_item in undecided.chunk_by(|(_, a), (_, b)| a.place >> 32 == b.place >> 32) {
        let row = ItemRow::numbered(tx, keys, of_item[0].1.place >> 32)?;
        write(tx, keys, of_item, row.as_ref().map_or(Ok(0), ItemRow::mac_from)?)?;
        if let Some(mut row) = row {
            row.add_decided(of_item.len() as i64)?;
            row.save(tx, keys, &mut counts)?;
        }
    }
    count(tx, &undecided)?;
    counts.decided += undecided.len() as i64;
    counts.save(tx, keys)?;
    Ok(seen)
}

/// A decision to be written, and its row.
type Writing<'a> = (&'a Decided, Undecided);

/// What is there of a batch.
struct Look<'a> {
    /// Decided, or dead-lettered.
    seen: Vec<OrderId>,
    /// The others, in the order of the batch; without a row if the queue never had it.
    waiting: Vec<(&'a Decided, Option<Undecided>)>,
}

fn look<'a>(tx: &Connection, decided: &'a [Decided]) -> rusqlite::Result<Look<'a>> {
    let mut find =
        tx.prepare_cached("SELECT place, decided_at, seal, trace, state FROM orders WHERE id = ?")?;
    let mut found = Look { seen: Vec::new(), waiting: Vec::with_capacity(decided.len()) };
    for one in decided {
        let row = find
            .query_row([one.order.id.as_bytes()], |row| {
                Ok((row.get::<_, i64>(4)?, Undecided::read(row)?))
            })
            .optional()?;
        match row {
            None => found.waiting.push((one, None)),
            Some((state::QUEUED, row)) => found.waiting.push((one, Some(row))),
            Some(_) => found.seen.push(one.order.id),
        }
    }
    Ok(found)
}

impl<'a> Look<'a> {
    /// All that wait, those that the queue never had as new arrivals.
    fn all(
        self,
        tx: &Connection,
        keys: &MacKeys,
        counts: &mut Counts,
    ) -> rusqlite::Result<Vec<Writing<'a>>> {
        let row = |(decided, row): (&'a Decided, Option<Undecided>)| match row {
            Some(row) => Ok((decided, row)),
            None => insert(tx, keys, decided, counts).map(|row| (decided, row)),
        };
        self.waiting.into_iter().map(row).collect()
    }
}

fn insert(
    tx: &Connection,
    keys: &MacKeys,
    decided: &Decided,
    counts: &mut Counts,
) -> rusqlite::Result<Undecided> {
    let mut item = ItemRow::find_or_insert(tx, keys, decided.order.item.as_str())?;
    item.add_arrivals(1)?;
    let place = item.last_place()?;
    orders::insert(tx, keys, place, &decided.order, true)?;
    item.save(tx, keys, counts)?;
    counts.accepted += 1;
    let find = "SELECT place, decided_at, seal, trace FROM orders WHERE place = ?";
    tx.prepare_cached(find)?.query_row([place], Undecided::read)
}

/// Writes decisions about one item into rows that wait.
fn write(
    tx: &Connection,
    keys: &MacKeys,
    undecided: &[Writing<'_>],
    mac_from: i64,
) -> rusqlite::Result<()> {
    let mut update = tx.prepare_cached(
        "UPDATE orders SET state = ?, decided_at = ?, seal = ? WHERE place = ? AND state = 10",
    )?;
    for (decided, row) in undecided {
        let mac = row.decided(decided, mac_from, keys);
        let state = state::of(decided.decision);
        let written = update.execute(params![state, decided.decided_at.0, mac, row.place])?;
        if written != 1 {
            // An order twice in one batch, which the caller has to prevent.
            return Err(rusqlite::Error::StatementChangedRows(written));
        }
    }
    Ok(())
}

fn count(tx: &Connection, undecided: &[Writing<'_>]) -> rusqlite::Result<()> {
    // Most batches say one thing, or two of which each is a run.
    let mut runs = undecided.chunk_by(|(a, _), (b, _)| a.decision == b.decision);
    runs.try_for_each(|run| count_decided(tx, run[0].0.decision, run.len() as i64))
}
