//! A row of `dead_letters` with its MAC.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::counts::Counts;
use crate::core::model::{Mac, MacCheck, MacKeys, OrderId, Timestamp};

pub const LETTER: &str = "SELECT order_id, reason, body, at, mac FROM dead_letters";

/// What the letter says, in the order of the columns.
#[derive(Debug, Clone, Copy)]
pub struct LetterRow<'a> {
    pub order: OrderId,
    pub reason: &'a str,
    pub body: &'a str,
    pub at: Timestamp,
}

impl LetterRow<'_> {
    fn mac(&self, keys: &MacKeys) -> Mac {
        let mut mac = keys.letter_row();
        mac.bytes(self.order.as_bytes()).text(self.reason).text(self.body).number(self.at.0 as i64);
        mac.finish()
    }

    /// Writes the letter in place of an older one of the same order.
    pub fn save(
        &self,
        tx: &Connection,
        keys: &MacKeys,
        counts: &mut Counts,
    ) -> rusqlite::Result<()> {
        remove(tx, keys, counts, self.order)?;
        counts.letters += 1;
        tx.prepare_cached("INSERT INTO dead_letters VALUES (?, ?, ?, ?, ?)")?
            .execute(params![
                self.order.as_bytes(),
                self.reason,
                self.body,
                self.at.0,
                self.mac(keys)
            ])
            .map(drop)
    }
}

/// Whether a row of [`LETTER`] is as flux wrote it.
pub fn check(row: &Row<'_>, keys: &MacKeys) -> MacCheck {
    let fits = || -> rusqlite::Result<bool> {
        let letter = LetterRow {
            order: OrderId::from_bytes(row.get(0)?),
            reason: row.get_ref(1)?.as_str()?,
            body: row.get_ref(2)?.as_str()?,
            at: Timestamp(row.get(3)?),
        };
        Ok(row.get_ref(4)?.as_blob()? == letter.mac(keys))
    };
    match (row.get_ref(4), fits()) {
        (Ok(ValueRef::Null), _) => MacCheck::OldRule,
        (_, Ok(true)) => MacCheck::Fits,
        _ => MacCheck::Wrong,
    }
}

/// Deletes the order's letter; `None` when there was none.
pub fn remove(
    tx: &Connection,
    keys: &MacKeys,
    counts: &mut Counts,
    order: OrderId,
) -> rusqlite::Result<Option<MacCheck>> {
    let sql = "DELETE FROM dead_letters WHERE order_id = ?
        RETURNING order_id, reason, body, at, mac";
    let mut delete = tx.prepare_cached(sql)?;
    let found = delete.query_row([order.as_bytes()], |row| Ok(check(row, keys))).optional()?;
    if let Some(check) = found {
        counts.letters -= 1;
        counts.old_letters -= i64::from(check == MacCheck::OldRule);
    }
    Ok(found)
}
