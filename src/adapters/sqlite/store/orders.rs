//! A row of `orders` with its MAC. A decision updates the row in place. The MAC is in the column
//! `seal`, whose name is from before MACs.

use rusqlite::types::{FromSqlError, Type};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{seq, state};
use crate::core::model::{
    BROKEN, Decided, ItemId, Mac, MacCheck, MacKeys, MacState, Order, OrderId, OrderKey, Quantity,
    Timestamp, UserId,
};

/// The seal of undecided rows from before MACs.
const NO_SEAL: Mac = [0; 8];

/// The columns that [`OrderRow::read`] expects.
pub const ORDER: &str = "SELECT place, orders.id, user, quantity, accepted_at, state, decided_at,
    seal, trace, items.id, items.mac_from FROM orders LEFT JOIN items ON items.no = place >> 32";

/// A row whose values flux can have written.
#[derive(Debug)]
pub struct OrderRow {
    pub seq: i64,
    pub order: Order,
    pub state: MacState,
    /// The time of the decision; until then, the time of acceptance.
    pub at: Timestamp,
    seal: Mac,
    trace: Option<Vec<u8>>,
    mac_from: i64,
}

impl OrderRow {
    /// Reads a row of [`ORDER`]. A value that flux never writes is an error that names the column.
    pub fn read(row: &Row<'_>) -> rusqlite::Result<OrderRow> {
        let quantity = Quantity::new(row.get(3)?).map_err(|e| damaged(3, Type::Integer, e))?;
        Self::read_with_quantity(row, quantity)
    }

    fn read_with_quantity(row: &Row<'_>, quantity: Quantity) -> rusqlite::Result<OrderRow> {
        Ok(OrderRow {
            seq: row.get(0)?,
            order: Order {
                id: OrderId::from_bytes(row.get(1)?),
                user: parsed(row, 2, UserId::parse)?,
                item: parsed(row, 9, ItemId::parse)?,
                quantity,
                accepted_at: Timestamp(row.get(4)?),
                trace: None,
            },
            state: state_of(row.get(5)?)
                .ok_or_else(|| damaged(5, Type::Integer, FromSqlError::InvalidType))?,
            at: Timestamp(row.get(6)?),
            seal: row.get(7)?,
            trace: row.get(8)?,
            mac_from: row.get(10)?,
        })
    }

    pub fn find(connection: &Connection, id: &OrderId) -> rusqlite::Result<Option<OrderRow>> {
        Self::find_as(connection, id, Self::read)
    }

    /// Like [`OrderRow::find`], but also finds an order that was dead-lettered because its quantity
    /// cannot be read, and shows it as an order for one unit. For display only, never for a MAC or a
    /// decision.
    pub fn find_to_show(
        connection: &Connection,
        id: &OrderId,
    ) -> rusqlite::Result<Option<OrderRow>> {
        Self::find_as(connection, id, |row| match (Self::read(row), row.get(5)?) {
            (Err(_), state::DEAD_LETTERED | state::DROPPED) => {
                Self::read_with_quantity(row, Quantity::ONE)
            }
            (read, _) => read,
        })
    }

    fn find_as(
        connection: &Connection,
        id: &OrderId,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<OrderRow>,
    ) -> rusqlite::Result<Option<OrderRow>> {
        let sql = format!("{ORDER} WHERE orders.id = ?");
        connection.prepare_cached(&sql)?.query_row([id.as_bytes()], read).optional()
    }

    /// Whether the row is as flux wrote it. `key` is for rows from before MACs.
    pub fn check(&self, keys: &MacKeys, key: &OrderKey) -> MacCheck {
        if self.has_mac(keys) {
            return MacCheck::Fits;
        }
        if seq::arrival(self.seq) >= self.mac_from {
            return MacCheck::Wrong;
        }
        let old = match self.state {
            MacState::Queued | MacState::DeadLettered => NO_SEAL,
            MacState::Decided(decision) => {
                let order = self.order.clone();
                Decided { order, decision, decided_at: self.at }.legacy_mac(key).to_be_bytes()
            }
        };
        if self.seal == old { MacCheck::OldRule } else { MacCheck::Wrong }
    }

    pub fn has_mac(&self, keys: &MacKeys) -> bool {
        self.seal == self.mac(keys, self.state)
    }

    /// The MAC of the row in this state, with its present time.
    pub fn mac(&self, keys: &MacKeys, state: MacState) -> Mac {
        keys.order(&self.order, self.seq, state, self.at, self.trace.as_deref())
    }
}

/// The parts of an undecided row that its MAC needs besides the order.
#[derive(Debug)]
pub struct Undecided {
    pub seq: i64,
    at: i64,
    seal: Mac,
    trace: Option<Vec<u8>>,
}

impl Undecided {
    /// Reads `place, decided_at, seal, trace`. A seal that is no MAC counts as a wrong one.
    pub fn read(row: &Row<'_>) -> rusqlite::Result<Undecided> {
        let seal = row.get(2).unwrap_or(BROKEN);
        let trace = row.get(3).unwrap_or_default();
        Ok(Undecided { seq: row.get(0)?, at: row.get(1)?, seal, trace })
    }

    /// The MAC of the decided row. It is valid only if the row belongs to this order and has not been
    /// changed since it was queued. `mac_from` is the item's.
    pub fn decided(&self, decided: &Decided, mac_from: i64, keys: &MacKeys) -> Mac {
        let Decided { order, decision, decided_at } = decided;
        let trace = self.trace.as_deref();
        let mac = |state, at| keys.order(order, self.seq, state, at, trace);
        let old = seq::arrival(self.seq) < mac_from && self.seal == NO_SEAL;
        let check = match old || self.seal == mac(MacState::Queued, Timestamp(self.at as u64)) {
            true => MacCheck::Fits,
            false => MacCheck::Wrong,
        };
        check.carry_on(|| mac(MacState::Decided(*decision), *decided_at))
    }
}

/// Inserts a queued order. Returns `false` if an order with this id exists. `sound` is `false` if
/// the order comes from a row that somebody else had changed; the new row's MAC is then invalid.
pub fn insert(
    tx: &Connection,
    keys: &MacKeys,
    seq: i64,
    order: &Order,
    sound: bool,
) -> rusqlite::Result<bool> {
    let trace = order.trace.as_ref().map(|trace| trace.to_bytes());
    let at = order.accepted_at;
    let check = if sound { MacCheck::Fits } else { MacCheck::Wrong };
    let mac = check.carry_on(|| keys.order(order, seq, MacState::Queued, at, trace.as_deref()));
    let inserted = tx
        .prepare_cached("INSERT OR IGNORE INTO orders VALUES (?, ?, ?, ?, ?, 10, ?, ?, ?)")?
        .execute(params![
            seq,
            order.id.as_bytes(),
            order.user.as_str(),
            order.quantity.units(),
            at.0,
            at.0,
            mac,
            trace
        ])?;
    Ok(inserted == 1)
}

fn state_of(code: i64) -> Option<MacState> {
    match code {
        state::QUEUED => Some(MacState::Queued),
        state::DEAD_LETTERED => Some(MacState::DeadLettered),
        code => state::decision(code).map(MacState::Decided),
    }
}

fn parsed<T, E: std::error::Error + Send + Sync + 'static>(
    row: &Row<'_>,
    column: usize,
    parse: impl Fn(&str) -> Result<T, E>,
) -> rusqlite::Result<T> {
    parse(row.get_ref(column)?.as_str()?).map_err(|e| damaged(column, Type::Text, e))
}

fn damaged(
    column: usize,
    kind: Type,
    why: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, kind, Box::new(why))
}
