//! The write transactions of the ledger: commits, and batches of rejections.

use rusqlite::{Connection, OptionalExtension, params};

use crate::adapters::sqlite::store::counts::{Counts, count_decided};
use crate::adapters::sqlite::store::items::ItemRow;
use crate::adapters::sqlite::store::orders;
use crate::adapters::sqlite::store::orders::Undecided;
use crate::adapters::sqlite::store::{seq, state};
use crate::core::model::{Decided, MacKeys, OrderId};
use crate::core::ports::ledger::{Commit, Committed, Expect};

/// Writes a batch of decisions about one item, or nothing.
///
/// The worker has decided outside of this transaction, from an item it read earlier, under a lock
/// that may have expired since. So both conditions are checked here: the item still has the version
/// that was read (nothing is oversold), and no order of the batch has a decision (decisions are
/// final). `BEGIN IMMEDIATE` keeps all other writers out until COMMIT, so the checks cannot become
/// false before the writes. They come before the first write because a refusal is no error: an error
/// would roll back the other jobs of the transaction, while a refusal is committed with them. If the
/// process is killed here, SQLite rolls back, and the orders are delivered and decided again.
pub fn commit(tx: &Connection, commit: &Commit, keys: &MacKeys) -> rusqlite::Result<Committed> {
    let Commit { item, expect, decided } = commit;
    let row = ItemRow::find(tx, keys, item.id.as_str())?;
    let version = row.map_or(Ok(0), |row| row.version())?;
    let item_changed = match expect {
        Expect::Version(read) => *read != version,
        Expect::Anything => false,
    };
    let batch = Batch::read(tx, decided)?;
    if item_changed || !batch.decided.is_empty() {
        return Ok(Committed::Refused { item_changed, decided_before: batch.decided });
    }
    let mut counts = Counts::read(tx, keys)?;
    let undecided = batch.insert_missing(tx, keys, &mut counts)?;
    let mut row = ItemRow::find_or_insert(tx, keys, item.id.as_str())?;
    write_decisions(tx, keys, &undecided, row.mac_from()?)?;
    row.add_decided(undecided.len() as i64)?;
    row.set(item, &mut counts)?;
    row.save(tx, keys, &mut counts)?;
    count_decisions(tx, &undecided)?;
    counts.decided += undecided.len() as i64;
    counts.save(tx, keys)?;
    Ok(Committed::Written)
}

/// Writes the rejections of undecided orders. Returns the other orders of the batch.
pub fn rejections(
    tx: &Connection,
    rejected: &[Decided],
    keys: &MacKeys,
) -> rusqlite::Result<Vec<OrderId>> {
    let mut batch = Batch::read(tx, rejected)?;
    let already_decided = std::mem::take(&mut batch.decided);
    let mut counts = Counts::read(tx, keys)?;
    let undecided = batch.insert_missing(tx, keys, &mut counts)?;
    let key = |(_, row): &Update<'_>| seq::item_key(row.seq);
    for of_item in undecided.chunk_by(|a, b| key(a) == key(b)) {
        let row = ItemRow::by_key(tx, keys, key(&of_item[0]))?;
        write_decisions(tx, keys, of_item, row.as_ref().map_or(Ok(0), ItemRow::mac_from)?)?;
        if let Some(mut row) = row {
            row.add_decided(of_item.len() as i64)?;
            row.save(tx, keys, &mut counts)?;
        }
    }
    count_decisions(tx, &undecided)?;
    counts.decided += undecided.len() as i64;
    counts.save(tx, keys)?;
    Ok(already_decided)
}

/// A decision to be written, and the row it goes into.
type Update<'a> = (&'a Decided, Undecided);

/// The rows that the file has for a batch of decisions.
struct Batch<'a> {
    /// Orders that are decided or dead-lettered already.
    decided: Vec<OrderId>,
    /// The other orders of the batch, in its order. An order that the queue never had has no row.
    undecided: Vec<(&'a Decided, Option<Undecided>)>,
}

impl<'a> Batch<'a> {
    fn read(tx: &Connection, decisions: &'a [Decided]) -> rusqlite::Result<Batch<'a>> {
        let mut find = tx.prepare_cached(
            "SELECT place, decided_at, seal, trace, state FROM orders WHERE id = ?",
        )?;
        let undecided = Vec::with_capacity(decisions.len());
        let mut batch = Batch { decided: Vec::new(), undecided };
        for decision in decisions {
            let row = find
                .query_row([decision.order.id.as_bytes()], |row| {
                    Ok((row.get::<_, i64>(4)?, Undecided::read(row)?))
                })
                .optional()?;
            match row {
                None => batch.undecided.push((decision, None)),
                Some((state::QUEUED, row)) => batch.undecided.push((decision, Some(row))),
                Some(_) => batch.decided.push(decision.order.id),
            }
        }
        Ok(batch)
    }

    /// Inserts the orders without a row as new arrivals. Returns all undecided orders.
    fn insert_missing(
        self,
        tx: &Connection,
        keys: &MacKeys,
        counts: &mut Counts,
    ) -> rusqlite::Result<Vec<Update<'a>>> {
        let row = |(decided, row): (&'a Decided, Option<Undecided>)| match row {
            Some(row) => Ok((decided, row)),
            None => insert(tx, keys, decided, counts).map(|row| (decided, row)),
        };
        self.undecided.into_iter().map(row).collect()
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
    let seq = item.last_seq()?;
    orders::insert(tx, keys, seq, &decided.order, true)?;
    item.save(tx, keys, counts)?;
    counts.accepted += 1;
    let find = "SELECT place, decided_at, seal, trace FROM orders WHERE place = ?";
    tx.prepare_cached(find)?.query_row([seq], Undecided::read)
}

/// Writes decisions about one item into undecided rows.
fn write_decisions(
    tx: &Connection,
    keys: &MacKeys,
    undecided: &[Update<'_>],
    mac_from: i64,
) -> rusqlite::Result<()> {
    let mut update = tx.prepare_cached(
        "UPDATE orders SET state = ?, decided_at = ?, seal = ? WHERE place = ? AND state = 10",
    )?;
    for (decided, row) in undecided {
        let mac = row.decided(decided, mac_from, keys);
        let state = state::of(decided.decision);
        let written = update.execute(params![state, decided.decided_at.0, mac, row.seq])?;
        if written != 1 {
            // The batch contains an order twice, which the caller has to prevent.
            return Err(rusqlite::Error::StatementChangedRows(written));
        }
    }
    Ok(())
}

fn count_decisions(tx: &Connection, undecided: &[Update<'_>]) -> rusqlite::Result<()> {
    // Most batches have one or two runs of equal decisions.
    let mut runs = undecided.chunk_by(|(a, _), (b, _)| a.decision == b.decision);
    runs.try_for_each(|run| count_decided(tx, run[0].0.decision, run.len() as i64))
}
