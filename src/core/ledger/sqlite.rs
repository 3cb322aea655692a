//! The ledger on the embedded store: decisions are written into the rows of the orders that the
//! queue put there.

use std::fmt;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    AuditedItem, AuditedOrder, Commit, Committed, Expect, ItemSet, Ledger, LedgerError,
    OrderRecord, OrderState, Page, Tally,
};
use crate::core::connection::sqlite::{Store, StoreError, item_no, state, take_places};
use crate::core::order::{
    Clock, Decided, Item, ItemChange, ItemId, Order, OrderId, OrderKey, Quantity, SystemClock,
    Timestamp, UserId,
};

/// Rows in one page of an audit: a snapshot of a few milliseconds.
const AUDIT_PAGE: usize = 1_000;

#[derive(Debug)]
pub struct SqliteLedger {
    store: Store,
    key: OrderKey,
}

impl SqliteLedger {
    pub fn new(store: Store, key: OrderKey) -> Self {
        Self { store, key }
    }
}

impl fmt::Display for SqliteLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ledger in {}", self.store)
    }
}

impl From<StoreError> for LedgerError {
    fn from(e: StoreError) -> Self {
        match e {
            StoreError::RolledBack(why) => LedgerError::Busy(why),
            StoreError::Unknown(why) => LedgerError::OutcomeUnknown(why),
            StoreError::Broken(why) => LedgerError::Broken(why),
        }
    }
}

#[async_trait]
impl Ledger for SqliteLedger {
    fn max_commit(&self) -> usize {
        512
    }

    async fn item(&self, item: &ItemId) -> Result<Option<Item>, LedgerError> {
        let item = item.clone();
        Ok(self.store.read(move |c| read_item(c, &item)).await?)
    }

    async fn find(&self, orders: &[OrderId]) -> Result<Vec<Option<OrderRecord>>, LedgerError> {
        let orders = orders.to_vec();
        let find = move |c: &Connection| orders.iter().map(|id| find_one(c, id)).collect();
        Ok(self.store.read(find).await?)
    }

    async fn commit(&self, commit: &Commit) -> Result<Committed, LedgerError> {
        let (commit, key) = (commit.clone(), self.key);
        Ok(self.store.write(move |tx| write_commit(tx, &commit, &key)).await?)
    }

    async fn record(&self, rejected: &[Decided]) -> Result<Vec<OrderId>, LedgerError> {
        let (rejected, key) = (rejected.to_vec(), self.key);
        Ok(self.store.write(move |tx| write_rejections(tx, &rejected, &key)).await?)
    }

    async fn set_item(&self, item: &ItemId, change: ItemChange) -> Result<ItemSet, LedgerError> {
        let item = item.clone();
        let set = move |tx: &Connection| {
            let read = read_item(tx, &item)?;
            let set = ItemSet::plan(&item, read.as_ref(), change, SystemClock.now());
            if let ItemSet::Created(item) | ItemSet::Changed(item) = &set {
                write_item(tx, item)?;
            }
            Ok(set)
        };
        Ok(self.store.write(set).await?)
    }

    async fn tally(&self) -> Result<Option<Tally>, LedgerError> {
        let read = |c: &Connection| {
            let accepted = c.prepare_cached("SELECT accepted FROM totals")?;
            let accepted = { accepted }.query_row([], |row| row.get(0))?;
            let mut decided = c.prepare_cached("SELECT state, orders FROM decisions")?;
            let rows = decided.query_map([], |row| {
                Ok(state::decision(row.get(0)?).zip(Some(row.get::<_, u64>(1)?)))
            })?;
            let decided = rows.filter_map(Result::transpose).collect::<rusqlite::Result<_>>()?;
            Ok(Some(Tally { accepted, decided }))
        };
        Ok(self.store.read(read).await?)
    }

    async fn items(&self, after: Option<&str>, limit: usize) -> Result<Page<Item>, LedgerError> {
        let after = after.unwrap_or_default().to_owned();
        let sql = format!("{ITEM} WHERE version > 0 AND id > ? ORDER BY id LIMIT ?");
        let read = move |c: &Connection| {
            let mut items = c.prepare_cached(&sql)?;
            let rows = items.query_map(params![after, limit as i64], item_row)?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        let rows = self.store.read(read).await?;
        Ok(page(rows, limit, |item| item.id.to_string()))
    }

    async fn inventory(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<(ItemId, UserId)>, LedgerError> {
        let after = after.unwrap_or_default().to_owned();
        let read = move |c: &Connection| {
            let mut sold = c.prepare_cached(
                "SELECT id, owner FROM items
                 WHERE owner IS NOT NULL AND id > ? ORDER BY id LIMIT ?",
            )?;
            let rows = sold.query_map(params![after, limit as i64], |row| {
                Ok((parsed(row, 0, ItemId::parse)?, parsed(row, 1, UserId::parse)?))
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        let rows = self.store.read(read).await?;
        Ok(page(rows, limit, |(item, _)| item.to_string()))
    }

    async fn audit_items(&self, after: Option<&str>) -> Result<Page<AuditedItem>, LedgerError> {
        let after = after.unwrap_or_default().to_owned();
        let read = move |c: &Connection| {
            let sql = format!("{ITEM} WHERE id > ? ORDER BY id LIMIT ?");
            let mut items = c.prepare_cached(&sql)?;
            let rows = items.query_map(params![after, AUDIT_PAGE as i64], |row| {
                let (arrivals, moved) = (row.get::<_, u64>("arrivals")?, row.get("moved")?);
                let orders = Some(arrivals.saturating_sub(moved));
                Ok(AuditedItem { item: item_row(row)?, orders })
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        let rows = self.store.read(read).await?;
        Ok(page(rows, AUDIT_PAGE, |audited| audited.item.id.to_string()))
    }

    async fn audit_orders(
        &self,
        item: Option<&ItemId>,
        after: Option<&str>,
    ) -> Result<Page<AuditedOrder>, LedgerError> {
        let (item, key) = (item.cloned(), self.key);
        let after: i64 = after.and_then(|a| a.parse().ok()).unwrap_or(0);
        let read = move |c: &Connection| {
            let (from, to) = match &item {
                None => (after, i64::MAX),
                Some(item) => {
                    let no = c
                        .prepare_cached("SELECT no FROM items WHERE id = ?")?
                        .query_row([item.as_str()], |row| row.get::<_, i64>(0))
                        .optional()?;
                    no.map_or((0, 0), |no| (after.max(no << 32), (no + 1) << 32))
                }
            };
            let sql = format!("{ORDER} WHERE place > ? AND place < ? ORDER BY place LIMIT ?");
            let mut orders = c.prepare_cached(&sql)?;
            let rows = orders.query_map(params![from, to, AUDIT_PAGE as i64], |row| {
                Ok((row.get::<_, i64>("place")?, audited_row(row, &key)?))
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        let rows = self.store.read(read).await?;
        let places = page(rows, AUDIT_PAGE, |(place, _)| place.to_string());
        let rows = places.rows.into_iter().map(|(_, order)| order).collect();
        Ok(Page { rows, next: places.next })
    }

    async fn check(&self) -> Result<(), LedgerError> {
        let read = |c: &Connection| c.query_row("SELECT 1 FROM totals", [], |_| Ok(()));
        Ok(self.store.read(read).await?)
    }
}

const ITEM: &str =
    "SELECT id, stock, free, held, sold, owner, version, arrivals, moved, restocked_at, closed_at
    FROM items";
const ORDER: &str = "SELECT place, orders.id, user, quantity, accepted_at, state, decided_at, seal,
    items.id AS item FROM orders LEFT JOIN items ON items.no = place >> 32";

fn page<T>(rows: Vec<T>, limit: usize, key: impl Fn(&T) -> String) -> Page<T> {
    let next = if rows.len() < limit { None } else { rows.last().map(key) };
    Page { rows, next }
}

/// A text column as an id; what flux did not write shows as an error that names the column.
fn parsed<T, E: std::error::Error + Send + Sync + 'static>(
    row: &Row<'_>,
    column: usize,
    parse: impl Fn(&str) -> Result<T, E>,
) -> rusqlite::Result<T> {
    parse(row.get_ref(column)?.as_str()?).map_err(|e| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(e))
    })
}

fn read_item(connection: &Connection, item: &ItemId) -> rusqlite::Result<Option<Item>> {
    let sql = format!("{ITEM} WHERE id = ? AND version > 0");
    connection.prepare_cached(&sql)?.query_row([item.as_str()], item_row).optional()
}

fn item_row(row: &Row<'_>) -> rusqlite::Result<Item> {
    let owner = match row.get_ref(5)? {
        rusqlite::types::ValueRef::Null => None,
        _ => Some(parsed(row, 5, UserId::parse)?),
    };
    Ok(Item {
        id: parsed(row, 0, ItemId::parse)?,
        stock: row.get(1)?,
        free: row.get(2)?,
        held: row.get(3)?,
        sold: row.get(4)?,
        owner,
        restocked_at: row.get::<_, Option<u64>>("restocked_at")?.map(Timestamp),
        closed_at: row.get::<_, Option<u64>>("closed_at")?.map(Timestamp),
        version: row.get(6)?,
    })
}

fn write_item(tx: &Connection, item: &Item) -> rusqlite::Result<()> {
    let no = item_no(tx, item.id.as_str())?;
    let owner = item.owner.as_ref().map(UserId::as_str);
    let [restocked_at, closed_at] = [item.restocked_at, item.closed_at].map(|at| at.map(|at| at.0));
    let (stock, free, held, sold) = (item.stock, item.free, item.held, item.sold);
    tx.prepare_cached(
        "UPDATE items SET stock = ?, free = ?, held = ?, sold = ?, owner = ?, restocked_at = ?,
         closed_at = ?, version = ? WHERE no = ?",
    )?
    .execute(params![
        stock,
        free,
        held,
        sold,
        owner,
        restocked_at,
        closed_at,
        item.version,
        no
    ])?;
    Ok(())
}

fn find_one(connection: &Connection, id: &OrderId) -> rusqlite::Result<Option<OrderRecord>> {
    let sql = format!("{ORDER} WHERE orders.id = ?");
    connection.prepare_cached(&sql)?.query_row([id.as_bytes()], order_row).optional()
}

fn order_row(row: &Row<'_>) -> rusqlite::Result<OrderRecord> {
    let order = Order {
        id: OrderId::from_bytes(row.get(1)?),
        user: parsed(row, 2, UserId::parse)?,
        quantity: Quantity::new(row.get(3)?).unwrap_or(Quantity::ONE),
        accepted_at: Timestamp(row.get(4)?),
        item: parsed(row, 8, ItemId::parse)?,
        trace: None,
    };
    let decided_at = Timestamp(row.get(6)?);
    let state = match row.get::<_, i64>(5)? {
        state::DEAD_LETTERED => OrderState::DeadLettered,
        code => state::decision(code)
            .map_or(OrderState::Queued, |decision| OrderState::Decided { decision, decided_at }),
    };
    Ok(OrderRecord { order, state })
}

fn audited_row(row: &Row<'_>, key: &OrderKey) -> rusqlite::Result<AuditedOrder> {
    let record = order_row(row)?;
    let seal: [u8; 8] = row.get(7)?;
    let sealed = match record.state {
        OrderState::Decided { decision, decided_at } => {
            let decided = Decided { order: record.order.clone(), decision, decided_at };
            decided.seal(key).to_be_bytes() == seal
        }
        OrderState::Queued => row.get::<_, i64>(5)? == state::QUEUED && seal == [0; 8],
        OrderState::DeadLettered => seal == [0; 8],
    };
    Ok(AuditedOrder { record, sealed })
}

fn write_commit(tx: &Connection, commit: &Commit, key: &OrderKey) -> rusqlite::Result<Committed> {
    let Commit { item, expect, decided } = commit;
    let version = read_item(tx, &item.id)?.map_or(0, |item| item.version);
    let item_moved = match expect {
        Expect::Version(read) => *read != version,
        Expect::Anything => false,
    };
    let written = if item_moved { 0 } else { write_decisions(tx, decided, key)? };
    if item_moved || written < decided.len() {
        undo_decisions(tx, &decided[..written])?;
        let NotWaiting { seen, absent } = not_waiting(tx, decided)?;
        if item_moved || !seen.is_empty() {
            return Ok(Committed::Refused { item_moved, seen });
        }
        absent.into_iter().try_for_each(|order| insert_order(tx, order))?;
        write_decisions(tx, decided, key)?;
    }
    write_item(tx, item)?;
    count_decided(tx, decided)?;
    Ok(Committed::Written)
}

/// Writes those that wait, and returns the others that have a decision.
fn write_rejections(
    tx: &Connection,
    rejected: &[Decided],
    key: &OrderKey,
) -> rusqlite::Result<Vec<OrderId>> {
    let (mut left, mut seen) = (rejected, Vec::new());
    loop {
        let written = write_decisions(tx, left, key)?;
        count_decided(tx, &left[..written])?;
        let Some(next) = left.get(written) else { return Ok(seen) };
        let found = not_waiting(tx, std::slice::from_ref(next))?;
        found.absent.into_iter().try_for_each(|order| insert_order(tx, order))?;
        left = &left[written + found.seen.len()..];
        seen.extend(found.seen);
    }
}

/// Writes decisions into rows that wait, as far as the first that does not; returns how many.
fn write_decisions(
    tx: &Connection,
    decided: &[Decided],
    key: &OrderKey,
) -> rusqlite::Result<usize> {
    let mut update = tx.prepare_cached(
        "UPDATE orders SET state = ?, decided_at = ?, seal = ? WHERE id = ? AND state = 10",
    )?;
    for (written, decided) in decided.iter().enumerate() {
        let (state, seal) = (state::of(decided.decision), decided.seal(key).to_be_bytes());
        let id = decided.order.id.as_bytes();
        if update.execute(params![state, decided.decided_at.0, seal, id])? == 0 {
            return Ok(written);
        }
    }
    Ok(decided.len())
}

fn undo_decisions(tx: &Connection, decided: &[Decided]) -> rusqlite::Result<()> {
    let mut undo = tx.prepare_cached(
        "UPDATE orders SET state = 10, decided_at = accepted_at, seal = zeroblob(8) WHERE id = ?",
    )?;
    decided.iter().try_for_each(|d| undo.execute([d.order.id.as_bytes()]).map(drop))
}

fn count_decided(tx: &Connection, decided: &[Decided]) -> rusqlite::Result<()> {
    let all = decided.len() as i64;
    tx.prepare_cached("UPDATE totals SET decided = decided + ?")?.execute([all])?;
    let mut count = tx.prepare_cached(
        "INSERT INTO decisions VALUES (?, ?)
         ON CONFLICT (state) DO UPDATE SET orders = orders + excluded.orders",
    )?;
    // Most batches say one thing, or two of which each is a run.
    let runs = decided.chunk_by(|a, b| a.decision == b.decision);
    runs.into_iter().try_for_each(|run| {
        count.execute(params![state::of(run[0].decision), run.len() as i64]).map(drop)
    })
}

struct NotWaiting<'a> {
    /// Decided, or dead-lettered.
    seen: Vec<OrderId>,
    /// The queue never had it.
    absent: Vec<&'a Order>,
}

fn not_waiting<'a>(tx: &Connection, decided: &'a [Decided]) -> rusqlite::Result<NotWaiting<'a>> {
    let mut find = tx.prepare_cached("SELECT state FROM orders WHERE id = ?")?;
    let mut found = NotWaiting { seen: Vec::new(), absent: Vec::new() };
    for Decided { order, .. } in decided {
        let state = find.query_row([order.id.as_bytes()], |row| row.get(0)).optional()?;
        match state {
            None => found.absent.push(order),
            Some(state::QUEUED) => {}
            Some(_) => found.seen.push(order.id),
        }
    }
    Ok(found)
}

fn insert_order(tx: &Connection, order: &Order) -> rusqlite::Result<()> {
    let place = take_places(tx, item_no(tx, order.item.as_str())?, 1)?;
    tx.prepare_cached("INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, ?, zeroblob(8), ?)")?.execute(
        params![
            place,
            order.id.as_bytes(),
            order.user.as_str(),
            order.quantity.units(),
            order.accepted_at.0,
            state::QUEUED,
            order.accepted_at.0,
            order.trace.as_ref().map(|trace| trace.to_bytes())
        ],
    )?;
    tx.prepare_cached("UPDATE totals SET accepted = accepted + 1")?.execute([])?;
    Ok(())
}
