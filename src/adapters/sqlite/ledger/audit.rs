//! The reads of the audit: rows with the results of their MAC checks, and the totals of the store.

use rusqlite::{Connection, OptionalExtension, params};

use super::page;
use crate::adapters::sqlite::store::counts::Counts;
use crate::adapters::sqlite::store::dead_letters;
use crate::adapters::sqlite::store::dead_letters::LETTER;
use crate::adapters::sqlite::store::items::ItemRow;
use crate::adapters::sqlite::store::orders::{ORDER, OrderRow};
use crate::adapters::sqlite::store::{objects, seq, state};
use crate::core::model::{ItemId, MacCheck, MacKeys, OrderKey};
use crate::core::ports::ledger::{
    AuditedItem, AuditedOrder, ItemCounts, OrderRecord, Page, StoreAudit,
};

/// Rows in one page of an audit. A page is one snapshot, which should be open for a few
/// milliseconds only.
const PAGE: usize = 1_000;

pub struct Keys {
    pub mac: MacKeys,
    /// For rows from before MACs.
    pub old: OrderKey,
}

pub fn items(c: &Connection, keys: &MacKeys, after: i64) -> rusqlite::Result<Page<AuditedItem>> {
    let rows = ItemRow::page_of_all(c, keys, after, PAGE)?;
    let last = rows.last().map(ItemRow::key).transpose()?;
    let next = last.filter(|_| rows.len() == PAGE).map(|key| key.to_string());
    let rows = rows.iter().map(|row| {
        let unreadable = |e: rusqlite::Error| format!("item {}: {e}", row.id());
        let item = row.item().map_err(unreadable);
        let counts = counts(row).map_err(unreadable);
        AuditedItem {
            counts: counts.clone().ok(),
            item: item.and_then(|item| counts.map(|_| item)),
            mac: row.check(),
        }
    });
    Ok(Page { rows: rows.collect(), next })
}

fn counts(row: &ItemRow) -> rusqlite::Result<ItemCounts> {
    let whole = |number: i64| {
        u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(0, number))
    };
    Ok(ItemCounts {
        orders: whole(row.arrivals()?.wrapping_sub(row.removed()?))?,
        moved: whole(row.removed()?)?,
        decided: whole(row.decided()?)?,
        dead_lettered: whole(row.dead()?)?,
    })
}

pub fn orders(
    c: &Connection,
    keys: &Keys,
    item: Option<&ItemId>,
    after: i64,
) -> rusqlite::Result<Page<AuditedOrder>> {
    let (after, last) = match item {
        None => (after, i64::MAX),
        Some(item) => {
            let key = c
                .prepare_cached("SELECT no FROM items WHERE id = ?")?
                .query_row([item.as_str()], |row| row.get::<_, i64>(0))
                .optional()?;
            key.map_or((0, 0), |key| (after.max(seq::of_arrival(key, 0)), seq::highest(key)))
        }
    };
    let sql = format!("{ORDER} WHERE place > ? AND place <= ? ORDER BY place LIMIT ?");
    let mut orders = c.prepare_cached(&sql)?;
    let rows = orders.query_map(params![after, last, PAGE as i64], |row| {
        let seq = row.get::<_, i64>(0)?;
        let order = match OrderRow::read(row) {
            Ok(row) => {
                let mac = row.check(&keys.mac, &keys.old);
                AuditedOrder { record: Ok(OrderRecord::from(row)), mac }
            }
            Err(e) => {
                let record = Err(format!("order at place {seq}: {e}"));
                AuditedOrder { record, mac: MacCheck::Wrong }
            }
        };
        Ok((seq, order))
    })?;
    let rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let Page { rows, next } = page(rows, PAGE, |(seq, _)| seq.to_string());
    Ok(Page { rows: rows.into_iter().map(|(_, order)| order).collect(), next })
}

/// Checks everything but items and orders, in one snapshot. It reads all dead letters.
pub fn store(c: &Connection, keys: &MacKeys) -> rusqlite::Result<StoreAudit> {
    let mut findings = objects::foreign_triggers(c)?;
    findings.extend(objects::foreign_views(c)?);
    findings.extend(objects::missing(c)?);
    let rows: i64 = c.query_row("SELECT count(*) FROM counts", [], |row| row.get(0))?;
    if rows != 1 {
        findings.push(format!("the table counts has {rows} rows instead of one"));
        return Ok(StoreAudit { findings, old_rule: 0, decided: None });
    }
    let counts = Counts::read(c, keys)?;
    if counts.check() == MacCheck::Wrong {
        findings.push("the row of counts was changed by something other than flux".to_owned());
    }
    sums(c, &counts, &mut findings)?;
    letter_rows(c, keys, &mut findings)?;
    let decided = decided(c, &counts, &mut findings)?;
    Ok(StoreAudit { findings, old_rule: counts.old_letters.unsigned_abs(), decided })
}

/// Compares the sums over items and dead letters with the counts of the store. An item that was reset
/// to an earlier state together with its orders has valid MACs, but its sums differ.
fn sums(c: &Connection, counts: &Counts, findings: &mut Vec<String>) -> rusqlite::Result<()> {
    for (what, sum, counted) in [
        ("orders of items", "SELECT total(arrivals - moved) FROM items", counts.accepted),
        ("decisions of items", "SELECT total(decided) FROM items", counts.decided),
        ("dead-lettered orders of items", "SELECT total(dead) FROM items", counts.dead),
        ("writes to items", "SELECT total(version) FROM items", counts.writes),
        ("items without a MAC", "SELECT total(mac IS NULL) FROM items", counts.old_items),
        ("dead letters", "SELECT total(1) FROM dead_letters", counts.letters),
        (
            "dead letters without a MAC",
            "SELECT total(mac IS NULL) FROM dead_letters",
            counts.old_letters,
        ),
    ] {
        let sum: f64 = c.query_row(sum, [], |row| row.get(0))?;
        if sum != counted as f64 {
            findings.push(format!("{what}: {sum} in the store, but {counted} were counted"));
        }
    }
    Ok(())
}

fn letter_rows(c: &Connection, keys: &MacKeys, findings: &mut Vec<String>) -> rusqlite::Result<()> {
    let mut read = c.prepare_cached(LETTER)?;
    let checks = read.query_map([], |row| Ok(dead_letters::check(row, keys)))?;
    let mut wrong = 0;
    for check in checks {
        wrong += u64::from(check? == MacCheck::Wrong);
    }
    if wrong > 0 {
        findings.push(format!("{wrong} dead letters were changed by something other than flux"));
    }
    Ok(())
}

/// The table `decisions`, which the audit compares with the orders.
fn decided(
    c: &Connection,
    counts: &Counts,
    findings: &mut Vec<String>,
) -> rusqlite::Result<Option<Vec<(crate::core::model::Decision, u64)>>> {
    let mut read = c.prepare_cached("SELECT state, orders FROM decisions")?;
    let rows = read.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, u64>(1)?)))?;
    let rows = rows.collect::<rusqlite::Result<Vec<_>>>();
    let known = |(code, orders): &(i64, u64)| state::decision(*code).zip(Some(*orders));
    let decided = rows.ok().and_then(|rows| rows.iter().map(known).collect::<Option<Vec<_>>>());
    let sum = decided.iter().flatten().map(|(_, orders)| *orders as i128).sum::<i128>();
    if sum != i128::from(counts.decided) {
        let counted = counts.decided;
        findings
            .push(format!("the table decisions has {sum} decisions, but {counted} were counted"));
    }
    if decided.is_none() {
        findings.push("the table decisions cannot be read".to_owned());
    }
    Ok(decided)
}
