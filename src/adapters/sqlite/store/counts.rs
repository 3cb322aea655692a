//! The single row of `counts`: totals over the whole store, with a MAC. The audit compares it with
//! the rows, and so detects an item that was reset to an earlier state together with its orders.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::orders::{ORDER, OrderRow};
use super::state;
use crate::core::model::{Decision, Mac, MacCheck, MacKeys};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Accepted orders, each counted once.
    pub accepted: i64,
    pub decided: i64,
    /// Orders that are dead-lettered at present.
    pub dead: i64,
    /// Sum of the versions of all items.
    pub writes: i64,
    /// Rows in `dead_letters`.
    pub letters: i64,
    /// Items from before MACs existed that have none yet.
    pub old_items: i64,
    /// Dead letters from before MACs existed.
    pub old_letters: i64,
    mac: Option<Mac>,
    check: MacCheck,
}

const READ: &str =
    "SELECT accepted, decided, dead_lettered, writes, letters, old_items, old_letters, mac
    FROM counts";

impl Counts {
    pub fn read(connection: &Connection, keys: &MacKeys) -> rusqlite::Result<Counts> {
        let mut counts = connection.prepare_cached(READ)?.query_row([], of_row)?;
        counts.check = match counts.mac {
            Some(mac) if mac == counts.mac(keys) => MacCheck::Fits,
            None if !has_macs(connection, keys)? => MacCheck::OldRule,
            _ => MacCheck::Wrong,
        };
        Ok(counts)
    }

    /// Orders without a decision, including those in flight. 0 if the counts contradict each other.
    pub fn waiting(&self) -> u64 {
        let waiting = self.accepted.wrapping_sub(self.decided).wrapping_sub(self.dead);
        u64::try_from(waiting).unwrap_or(0)
    }

    pub fn check(&self) -> MacCheck {
        self.check
    }

    pub fn save(&self, tx: &Connection, keys: &MacKeys) -> rusqlite::Result<()> {
        let mac = self.check.carry_on(|| self.mac(keys));
        let update = "UPDATE counts SET accepted = ?, decided = ?, dead_lettered = ?, writes = ?,
            letters = ?, old_items = ?, old_letters = ?, mac = ?";
        tx.prepare_cached(update)?
            .execute(params![
                self.accepted,
                self.decided,
                self.dead,
                self.writes,
                self.letters,
                self.old_items,
                self.old_letters,
                mac
            ])
            .map(drop)
    }

    fn mac(&self, keys: &MacKeys) -> Mac {
        let mut mac = keys.counts_row();
        for number in [
            self.accepted,
            self.decided,
            self.dead,
            self.writes,
            self.letters,
            self.old_items,
            self.old_letters,
        ] {
            mac.number(number);
        }
        mac.finish()
    }
}

/// Adds orders with this decision to the table `decisions`.
pub fn count_decided(tx: &Connection, decision: Decision, orders: i64) -> rusqlite::Result<()> {
    let count = "INSERT INTO decisions VALUES (?, ?)
        ON CONFLICT (state) DO UPDATE SET orders = orders + excluded.orders";
    tx.prepare_cached(count)?.execute(params![state::of(decision), orders]).map(drop)
}

/// Whether any row has a MAC. The first write after the file is created or upgraded gives `counts`
/// its MAC, and no row can have one before. So a file whose `counts` lost its MAC cannot pass as one
/// that was just upgraded. Reads all orders, once in the life of an upgraded file.
fn has_macs(connection: &Connection, keys: &MacKeys) -> rusqlite::Result<bool> {
    let any = "SELECT 1 FROM items WHERE mac IS NOT NULL
        UNION ALL SELECT 1 FROM dead_letters WHERE mac IS NOT NULL LIMIT 1";
    if connection.query_row(any, [], |_| Ok(())).optional()?.is_some() {
        return Ok(true);
    }
    let mut orders = connection.prepare_cached(ORDER)?;
    let mut rows = orders.query([])?;
    while let Some(row) = rows.next()? {
        if OrderRow::read(row).is_ok_and(|row| row.has_mac(keys)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn of_row(row: &Row<'_>) -> rusqlite::Result<Counts> {
    Ok(Counts {
        accepted: row.get(0)?,
        decided: row.get(1)?,
        dead: row.get(2)?,
        writes: row.get(3)?,
        letters: row.get(4)?,
        old_items: row.get(5)?,
        old_letters: row.get(6)?,
        mac: row.get(7)?,
        check: MacCheck::Wrong,
    })
}
