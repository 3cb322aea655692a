//! A row of `items` with its MAC. Rows are read, changed and written within a transaction.

use rusqlite::types::{FromSql, Value};
use rusqlite::{Connection, OptionalExtension, Row, params_from_iter};

use super::counts::Counts;
use super::{listing, seq};
use crate::core::model::{Item, ItemId, Listing, Mac, MacCheck, MacKeys, Timestamp, UserId};

/// The columns that the MAC covers, in the order of [`column!`]. It does not cover `claimed_by` and
/// `claimed_until`: they change many times a second, and no decision depends on them.
const COLUMNS: &str = "no, id, stock, free, held, sold, owner, version, restocked_at, closed_at,
    arrivals, moved, decided, dead, mac_from, listing";

/// The index of each column in [`ItemRow::values`].
mod column {
    pub const NO: usize = 0;
    pub const ID: usize = 1;
    pub const STOCK: usize = 2;
    pub const FREE: usize = 3;
    pub const HELD: usize = 4;
    pub const SOLD: usize = 5;
    pub const OWNER: usize = 6;
    pub const VERSION: usize = 7;
    pub const RESTOCKED_AT: usize = 8;
    pub const CLOSED_AT: usize = 9;
    pub const ARRIVALS: usize = 10;
    pub const MOVED: usize = 11;
    pub const DECIDED: usize = 12;
    pub const DEAD: usize = 13;
    pub const MAC_FROM: usize = 14;
    pub const LISTING: usize = 15;
    pub const COUNT: usize = 16;
}
use column::*;

/// A row as it is in the file. The values keep their SQLite types, so that a row that somebody else
/// changed to what flux never writes can still be updated, and still fails its MAC.
#[derive(Debug)]
pub struct ItemRow {
    values: Vec<Value>,
    mac: Value,
    check: MacCheck,
    /// True if the row was inserted in this transaction.
    new: bool,
}

impl ItemRow {
    pub fn find(c: &Connection, keys: &MacKeys, id: &str) -> rusqlite::Result<Option<ItemRow>> {
        let sql = format!("SELECT {COLUMNS}, mac FROM items WHERE id = ?");
        c.prepare_cached(&sql)?.query_row([id], |row| Self::of_row(row, keys)).optional()
    }

    pub fn by_key(c: &Connection, keys: &MacKeys, key: i64) -> rusqlite::Result<Option<ItemRow>> {
        let sql = format!("SELECT {COLUMNS}, mac FROM items WHERE no = ?");
        c.prepare_cached(&sql)?.query_row([key], |row| Self::of_row(row, keys)).optional()
    }

    /// The item's row, inserted if there is none. The caller has to save it.
    pub fn find_or_insert(tx: &Connection, keys: &MacKeys, id: &str) -> rusqlite::Result<ItemRow> {
        if let Some(found) = Self::find(tx, keys, id)? {
            return Ok(found);
        }
        let sql = format!("INSERT INTO items (id, listing) VALUES (?, ?) RETURNING {COLUMNS}, mac");
        let mut insert = tx.prepare_cached(&sql)?;
        let values = (id, listing::of(Listing::Unlisted));
        let row = insert.query_row(values, |row| Self::of_row(row, keys))?;
        Ok(ItemRow { new: true, ..row })
    }

    /// Rows of this listing with ids after `after`, sorted by id. Items that only have undecided
    /// orders are left out.
    pub fn page(
        c: &Connection,
        keys: &MacKeys,
        listing: Listing,
        after: &str,
        limit: usize,
    ) -> rusqlite::Result<Vec<ItemRow>> {
        // A literal instead of a parameter, so that SQLite uses the index over unlisted items.
        let listing = listing::of(listing);
        let sql = format!(
            "SELECT {COLUMNS}, mac FROM items
             WHERE listing = {listing} AND version > 0 AND id > ? ORDER BY id LIMIT ?"
        );
        let mut page = c.prepare_cached(&sql)?;
        let rows = page.query_map((after, limit as i64), |row| Self::of_row(row, keys))?;
        rows.collect()
    }

    /// Rows of all items with keys after `after`, sorted by key. Unlike the other columns, the key is
    /// an integer whatever somebody wrote into the file.
    pub fn page_of_all(
        c: &Connection,
        keys: &MacKeys,
        after: i64,
        limit: usize,
    ) -> rusqlite::Result<Vec<ItemRow>> {
        let sql = format!("SELECT {COLUMNS}, mac FROM items WHERE no > ? ORDER BY no LIMIT ?");
        let mut page = c.prepare_cached(&sql)?;
        let rows = page.query_map((after, limit as i64), |row| Self::of_row(row, keys))?;
        rows.collect()
    }

    fn of_row(row: &Row<'_>, keys: &MacKeys) -> rusqlite::Result<ItemRow> {
        let values = (0..COUNT).map(|column| row.get::<_, Value>(column));
        let values: Vec<Value> = values.collect::<rusqlite::Result<_>>()?;
        let mac = row.get::<_, Value>(COUNT)?;
        let check = match &mac {
            Value::Null => MacCheck::OldRule,
            Value::Blob(mac) if mac[..] == mac_of(&values, keys)[..] => MacCheck::Fits,
            _ => MacCheck::Wrong,
        };
        Ok(ItemRow { values, mac, check, new: false })
    }

    /// `OldRule` is valid for [`Counts::old_items`] items in total.
    pub fn check(&self) -> MacCheck {
        self.check
    }

    /// The item. A value that flux never writes is an error that names the column.
    pub fn item(&self) -> rusqlite::Result<Item> {
        let time =
            |column| Ok::<_, rusqlite::Error>(self.get::<Option<u64>>(column)?.map(Timestamp));
        let owner = self.get::<Option<String>>(OWNER)?;
        let owner = owner.map(|owner| self.parsed(OWNER, UserId::parse(&owner))).transpose()?;
        Ok(Item {
            id: self.parsed(ID, ItemId::parse(&self.get::<String>(ID)?))?,
            stock: self.get(STOCK)?,
            free: self.get(FREE)?,
            held: self.get(HELD)?,
            sold: self.get(SOLD)?,
            owner,
            restocked_at: time(RESTOCKED_AT)?,
            closed_at: time(CLOSED_AT)?,
            listing: self.parsed(LISTING, listing::read(self.get(LISTING)?))?,
            version: self.get(VERSION)?,
            altered: false,
        })
    }

    /// The number of the row, `items.no`.
    pub fn key(&self) -> rusqlite::Result<i64> {
        self.get(NO)
    }

    /// The id for messages; the row's key if the id is no text.
    pub fn id(&self) -> String {
        self.get::<String>(ID).unwrap_or_else(|_| format!("number {:?}", self.values[NO]))
    }

    pub fn version(&self) -> rusqlite::Result<u64> {
        self.get(VERSION)
    }

    /// Number of rows that were ever inserted into `orders` for this item.
    pub fn arrivals(&self) -> rusqlite::Result<i64> {
        self.get(ARRIVALS)
    }

    /// The sequence number of the item's last order.
    pub fn last_seq(&self) -> rusqlite::Result<i64> {
        Ok(seq::of_arrival(self.key()?, self.arrivals()?))
    }

    /// Number of rows that were removed from `orders`: a redrive removes the row of the
    /// dead-lettered order, and inserts it again as a new arrival.
    pub fn removed(&self) -> rusqlite::Result<i64> {
        self.get(MOVED)
    }

    /// Number of decided orders.
    pub fn decided(&self) -> rusqlite::Result<i64> {
        self.get(DECIDED)
    }

    /// Number of dead-lettered orders.
    pub fn dead(&self) -> rusqlite::Result<i64> {
        self.get(DEAD)
    }

    /// The first arrival whose row must have a MAC; earlier ones are from before MACs existed.
    pub fn mac_from(&self) -> rusqlite::Result<i64> {
        self.get(MAC_FROM)
    }

    pub fn add_arrivals(&mut self, count: i64) -> rusqlite::Result<()> {
        self.add(ARRIVALS, count)
    }

    pub fn add_removed(&mut self, count: i64) -> rusqlite::Result<()> {
        self.add(MOVED, count)
    }

    pub fn add_decided(&mut self, count: i64) -> rusqlite::Result<()> {
        self.add(DECIDED, count)
    }

    pub fn add_dead(&mut self, count: i64) -> rusqlite::Result<()> {
        self.add(DEAD, count)
    }

    /// Sets the columns of `item`, and adds its new versions to [`Counts::writes`].
    pub fn set(&mut self, item: &Item, counts: &mut Counts) -> rusqlite::Result<()> {
        let number = |number: u64| Value::Integer(number as i64);
        let time = |at: Option<u64>| at.map_or(Value::Null, number);
        let written = (item.version as i64).wrapping_sub(self.get::<i64>(VERSION)?);
        counts.writes = counts.writes.wrapping_add(written);
        self.values[STOCK] = number(item.stock);
        self.values[FREE] = number(item.free);
        self.values[HELD] = number(item.held);
        self.values[SOLD] = number(item.sold);
        let owner = item.owner.as_ref().map(|owner| owner.as_str().to_owned());
        self.values[OWNER] = owner.map_or(Value::Null, Value::Text);
        self.values[VERSION] = number(item.version);
        self.values[RESTOCKED_AT] = time(item.restocked_at.map(|at| at.0));
        self.values[CLOSED_AT] = time(item.closed_at.map(|at| at.0));
        self.values[LISTING] = Value::Integer(listing::of(item.listing));
        Ok(())
    }

    /// Writes the row with a new MAC. If somebody else had changed the row, the new MAC is invalid
    /// too, so the change stays detectable.
    pub fn save(
        mut self,
        tx: &Connection,
        keys: &MacKeys,
        counts: &mut Counts,
    ) -> rusqlite::Result<()> {
        let check = match self.check {
            MacCheck::OldRule if self.new => MacCheck::Fits,
            MacCheck::OldRule if counts.old_items > 0 => {
                counts.old_items -= 1;
                MacCheck::Fits
            }
            MacCheck::OldRule => MacCheck::Wrong,
            check => check,
        };
        self.mac = Value::Blob(check.carry_on(|| mac_of(&self.values, keys)).to_vec());
        let values = self.values[STOCK..MAC_FROM].iter();
        let values = values.chain([&self.values[LISTING], &self.mac, &self.values[NO]]);
        tx.prepare_cached(
            "UPDATE items SET stock = ?, free = ?, held = ?, sold = ?, owner = ?, version = ?,
             restocked_at = ?, closed_at = ?, arrivals = ?, moved = ?, decided = ?, dead = ?,
             listing = ?, mac = ? WHERE no = ?",
        )?
        .execute(params_from_iter(values))
        .map(drop)
    }

    fn get<T: FromSql>(&self, column: usize) -> rusqlite::Result<T> {
        let value = (&self.values[column]).into();
        self.parsed(column, T::column_result(value))
    }

    /// Names the column in the error of a value that flux never writes.
    fn parsed<T, E: std::error::Error + Send + Sync + 'static>(
        &self,
        column: usize,
        value: Result<T, E>,
    ) -> rusqlite::Result<T> {
        value.map_err(|e| {
            let kind = self.values[column].data_type();
            rusqlite::Error::FromSqlConversionFailure(column, kind, Box::new(e))
        })
    }

    fn add(&mut self, column: usize, count: i64) -> rusqlite::Result<()> {
        self.values[column] = Value::Integer(self.get::<i64>(column)?.wrapping_add(count));
        Ok(())
    }
}

fn mac_of(values: &[Value], keys: &MacKeys) -> Mac {
    let mut mac = keys.item_row();
    // The MACs of rows from before the column `listing` existed do not cover it. All of these are
    // listed, so leaving that value out keeps their MACs valid.
    let listed = Value::Integer(listing::of(Listing::Listed));
    let values = values.iter().enumerate();
    for (_, value) in values.filter(|(column, value)| *column != LISTING || **value != listed) {
        match value {
            Value::Null => mac.absent(),
            Value::Integer(number) => mac.number(*number),
            Value::Real(real) => mac.real(*real),
            Value::Text(text) => mac.text(text),
            Value::Blob(bytes) => mac.bytes(bytes),
        };
    }
    mac.finish()
}
