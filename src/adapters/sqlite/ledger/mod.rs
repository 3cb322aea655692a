//! The ledger in the embedded store. The queue inserts a row for each order; the ledger writes the
//! decision into that row.

mod audit;
mod write;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::types::Type;
use rusqlite::{Connection, Row, params};

use super::store::counts::Counts;
use super::store::items::ItemRow;
use super::store::orders::OrderRow;
use super::store::{Store, StoreError, objects, state};
use crate::core::model::{
    Clock, Decided, Item, ItemChange, ItemId, Listing, MacKeys, MacState, OrderId, OrderKey, UserId,
};
use crate::core::ports::ledger::{
    AuditedItem, AuditedOrder, Commit, Committed, ItemRemoved, ItemSet, ItemsFrom, Ledger,
    LedgerError, OrderRecord, OrderState, Page, StoreAudit, StoreTotals,
};

#[derive(Debug)]
pub struct SqliteLedger {
    store: Store,
    key: OrderKey,
    keys: MacKeys,
    clock: Arc<dyn Clock>,
}

impl SqliteLedger {
    pub fn new(store: Store, key: OrderKey, clock: Arc<dyn Clock>) -> Self {
        Self { store, key, keys: MacKeys::new(&key), clock }
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
        let keys = self.keys;
        Ok(self.store.read(move |c| read_item(c, &keys, &item)).await?)
    }

    async fn find(&self, orders: &[OrderId]) -> Result<Vec<Option<OrderRecord>>, LedgerError> {
        let orders = orders.to_vec();
        let find = move |c: &Connection| orders.iter().map(|id| find_one(c, id)).collect();
        Ok(self.store.read(find).await?)
    }

    async fn commit(&self, commit: &Commit) -> Result<Committed, LedgerError> {
        let commit = commit.clone();
        let keys = self.keys;
        Ok(self.store.write(move |tx| write::commit(tx, &commit, &keys)).await?)
    }

    async fn record(&self, rejected: &[Decided]) -> Result<Vec<OrderId>, LedgerError> {
        let rejected = rejected.to_vec();
        let keys = self.keys;
        Ok(self.store.write(move |tx| write::rejections(tx, &rejected, &keys)).await?)
    }

    async fn set_item(&self, item: &ItemId, change: ItemChange) -> Result<ItemSet, LedgerError> {
        let item = item.clone();
        let keys = self.keys;
        let clock = self.clock.clone();
        let set = move |tx: &Connection| {
            let read = read_item(tx, &keys, &item)?;
            let set = ItemSet::plan(&item, read.as_ref(), change, clock.now());
            if let ItemSet::Created(item) | ItemSet::Changed(item) = &set {
                write_item(tx, &keys, item)?;
            }
            Ok(set)
        };
        Ok(self.store.write(set).await?)
    }

    async fn remove_item(&self, item: &ItemId) -> Result<ItemRemoved, LedgerError> {
        let item = item.clone();
        let keys = self.keys;
        let remove = move |tx: &Connection| {
            let read = read_item(tx, &keys, &item)?;
            let row = ItemRow::find(tx, &keys, item.as_str())?;
            let ordered = match row {
                Some(row) => row.arrivals()? > row.removed()?,
                None => false,
            };
            let removed = ItemRemoved::plan(read.as_ref(), ordered);
            if let ItemRemoved::Removed(item) = &removed {
                write_item(tx, &keys, item)?;
            }
            Ok(removed)
        };
        Ok(self.store.write(remove).await?)
    }

    async fn unlisted_items(&self) -> Result<Option<u64>, LedgerError> {
        let count = "SELECT count(*) FROM items WHERE listing = 1";
        let read = move |c: &Connection| {
            c.prepare_cached(count)?.query_row([], |row| row.get(0)).map(Some)
        };
        Ok(self.store.read(read).await?)
    }

    async fn totals(&self) -> Result<Option<StoreTotals>, LedgerError> {
        let read = |c: &Connection| {
            let mut counts = c.prepare_cached("SELECT accepted FROM counts")?;
            let accepted = counts.query_row([], |row| row.get(0))?;
            let mut decided = c.prepare_cached("SELECT state, orders FROM decisions")?;
            let rows = decided.query_map([], |row| {
                let decision = state::decision(row.get(0)?).ok_or_else(|| {
                    let why = "unknown state of an order in the table decisions";
                    rusqlite::Error::FromSqlConversionFailure(0, Type::Integer, why.into())
                })?;
                Ok((decision, row.get::<_, u64>(1)?))
            })?;
            let decided = rows.collect::<rusqlite::Result<_>>()?;
            Ok(Some(StoreTotals { accepted, decided }))
        };
        Ok(self.store.read(read).await?)
    }

    async fn items(&self, after: Option<&str>, limit: usize) -> Result<Page<Item>, LedgerError> {
        let from = ItemsFrom::parse(after);
        let keys = self.keys;
        let read = move |c: &Connection| {
            let after = from.after.as_deref().unwrap_or_default();
            let mut rows = ItemRow::page(c, &keys, from.listing, after, limit)?;
            if from.listing == Listing::Listed && rows.len() < limit {
                let room = limit - rows.len();
                rows.extend(ItemRow::page(c, &keys, Listing::Unlisted, "", room)?);
            }
            rows.iter().map(ItemRow::item).collect::<rusqlite::Result<Vec<_>>>()
        };
        let rows = self.store.read(read).await?;
        Ok(page(rows, limit, |item| ItemsFrom::behind(item).cursor()))
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
        let after = cursor(after);
        let keys = self.keys;
        Ok(self.store.read(move |c| audit::items(c, &keys, after)).await?)
    }

    async fn audit_orders(
        &self,
        item: Option<&ItemId>,
        after: Option<&str>,
    ) -> Result<Page<AuditedOrder>, LedgerError> {
        let item = item.cloned();
        let after = cursor(after);
        let keys = audit::Keys { mac: self.keys, old: self.key };
        Ok(self.store.read(move |c| audit::orders(c, &keys, item.as_ref(), after)).await?)
    }

    async fn audit_store(&self) -> Result<StoreAudit, LedgerError> {
        let keys = self.keys;
        Ok(self.store.read(move |c| audit::store(c, &keys)).await?)
    }

    async fn check_writers(&self) -> Result<(), LedgerError> {
        let foreign = self.store.read(objects::foreign_triggers).await?;
        match foreign.first() {
            None => Ok(()),
            Some(first) => Err(LedgerError::Broken(format!("{}: {first}", self.store))),
        }
    }

    async fn check(&self) -> Result<(), LedgerError> {
        let read = |c: &Connection| c.query_row("SELECT 1 FROM counts", [], |_| Ok(()));
        Ok(self.store.read(read).await?)
    }
}

/// The row number after which a page of the audit begins. Anything but a number is the first page.
fn cursor(after: Option<&str>) -> i64 {
    after.and_then(|after| after.parse().ok()).unwrap_or(i64::MIN)
}

fn page<T>(rows: Vec<T>, limit: usize, key: impl Fn(&T) -> String) -> Page<T> {
    let next = if rows.len() < limit { None } else { rows.last().map(key) };
    Page { rows, next }
}

/// Parses a text column as an id. A value that flux never writes is an error that names the column.
fn parsed<T, E: std::error::Error + Send + Sync + 'static>(
    row: &Row<'_>,
    column: usize,
    parse: impl Fn(&str) -> Result<T, E>,
) -> rusqlite::Result<T> {
    parse(row.get_ref(column)?.as_str()?)
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(e)))
}

fn write_item(tx: &Connection, keys: &MacKeys, item: &Item) -> rusqlite::Result<()> {
    let mut counts = Counts::read(tx, keys)?;
    let mut row = ItemRow::find_or_insert(tx, keys, item.id.as_str())?;
    row.set(item, &mut counts)?;
    row.save(tx, keys, &mut counts)?;
    counts.save(tx, keys)
}

fn read_item(
    connection: &Connection,
    keys: &MacKeys,
    item: &ItemId,
) -> rusqlite::Result<Option<Item>> {
    let item = ItemRow::find(connection, keys, item.as_str())?.map(|row| row.item()).transpose()?;
    Ok(item.filter(|item| item.version > 0))
}

fn find_one(connection: &Connection, id: &OrderId) -> rusqlite::Result<Option<OrderRecord>> {
    Ok(OrderRow::find_to_show(connection, id)?.map(OrderRecord::from))
}

impl From<OrderRow> for OrderRecord {
    fn from(row: OrderRow) -> Self {
        let state = match row.state {
            MacState::Queued => OrderState::Queued,
            MacState::DeadLettered => OrderState::DeadLettered,
            MacState::Decided(decision) => OrderState::Decided { decision, decided_at: row.at },
        };
        OrderRecord { order: row.order, state }
    }
}
