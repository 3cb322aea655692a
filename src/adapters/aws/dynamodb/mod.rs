//! The ledger on Amazon DynamoDB: `TABLE` has a row per decided order, `TABLE_items` one per item,
//! and `TABLE_meta` the order key.
//!
//! Every write is conditional. A batch is one transaction whose client request token is a hash of
//! its content, so repeating a commit repeats the same request. (Amazon DynamoDB API Reference,
//! `TransactWriteItems`: 100 actions; a token is remembered for 10 minutes.)

pub mod order_key;
mod rows;
pub mod setup;
mod transaction;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{KeysAndAttributes, ReturnConsumedCapacity};
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::client::{Aws, Fault, Refusal, pause, repeat, repeat_at_most};
use crate::core::model::{
    Clock, Decided, Item, ItemChange, ItemId, Listing, MacKeys, OrderId, OrderKey, UserId,
};
use crate::core::ports::ledger::{
    AuditedItem, AuditedOrder, Commit, Committed, Expect, ItemRemoved, ItemSet, ItemsFrom, Ledger,
    LedgerError, OrderRecord, Page, StoreTotals,
};
use rows::{ITEM_ID, ORDER_ID, Row, number, text};
use transaction::Written;

/// Actions in a transaction, and keys in a batch read (Amazon DynamoDB Developer Guide, "Quotas").
const BATCH: usize = 100;
/// Asks DynamoDB to report the consumed capacity with each response.
const UNITS: ReturnConsumedCapacity = ReturnConsumedCapacity::Total;
/// Requests of one call that are in flight at once.
const REQUESTS_IN_FLIGHT: usize = 4;
/// Rows that one page of a scan reads.
const PAGE: usize = 1_000;
/// Scans per page of items, at most. Items cannot be queried by their listing, so a scan also reads
/// items that do not belong on the page.
const ITEM_SCANS: usize = 8;
/// New request tokens that one commit tries, at most.
const ROUNDS: u32 = 8;
/// Reads of an item during one change of it, at most. On a hot item a worker commits between the read
/// and the write in most rounds.
const CHANGE_ROUNDS: u32 = 64;
/// Bounds the pause between two rounds, as an attempt of [`pause`]: a longer one would meet the next
/// commit as well.
const CHANGE_PAUSE: u32 = 2;

#[derive(Debug)]
pub struct DynamoLedger {
    client: Client,
    orders: String,
    items: String,
    key: OrderKey,
    keys: MacKeys,
    clock: Arc<dyn Clock>,
}

/// A filter expression of a scan, with its names and values.
struct Filter {
    expression: &'static str,
    names: &'static [(&'static str, &'static str)],
    values: Row,
}

impl DynamoLedger {
    /// Makes no call; [`Ledger::check`] is the first.
    pub fn new(aws: &Aws, table: &str, key: OrderKey, clock: Arc<dyn Clock>) -> Self {
        Self {
            client: aws.dynamodb(),
            orders: table.to_owned(),
            items: items_table(table),
            key,
            keys: MacKeys::new(&key),
            clock,
        }
    }

    /// The ids of those orders that have a decision.
    async fn decided_before(&self, decided: &[Decided]) -> Result<Vec<OrderId>, LedgerError> {
        let ids: Vec<OrderId> = decided.iter().map(|d| d.order.id).collect();
        let found = self.find(&ids).await?;
        Ok(ids.into_iter().zip(found).filter_map(|(id, row)| row.map(|_| id)).collect())
    }

    async fn record_batch(&self, rejected: &[Decided]) -> Result<Vec<OrderId>, LedgerError> {
        let mut pending = rejected.to_vec();
        let mut decided_before = Vec::new();
        let mut round = 0;
        while !pending.is_empty() {
            let actions: Vec<_> = pending.iter().map(|d| self.put_order(d)).collect();
            let known = match self.write(&actions, &self.token(&pending, round)).await? {
                Written::Done => break,
                Written::Refused(indices) => indices.iter().map(|&n| pending[n].order.id).collect(),
                Written::TokenTaken if round == ROUNDS => return Err(token_taken()),
                Written::TokenTaken => self.decided_before(&pending).await?,
            };
            pending.retain(|d| !known.contains(&d.order.id));
            decided_before.extend(known);
            round += 1;
        }
        Ok(decided_before)
    }

    async fn find_batch(&self, orders: &[OrderId]) -> Result<Vec<OrderRecord>, LedgerError> {
        let keys = orders.iter().map(|id| rows::key(ORDER_ID, id.to_string()));
        let mut wanted = Some(keys.collect::<Vec<_>>());
        let mut found = Vec::with_capacity(orders.len());
        let mut attempt = 1;
        while let Some(keys) = wanted.take() {
            let keys = KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true);
            let keys = keys.build().expect("keys are set");
            let read = repeat(|| {
                let request = self.client.batch_get_item().return_consumed_capacity(UNITS);
                let request = request.request_items(&self.orders, keys.clone());
                async move { request.send().await.map_err(|e| Fault::of(&e)) }
            });
            let mut answer = read.await.map_err(|fault| self.error(fault))?;
            for row in answer.responses.iter().flatten().flat_map(|(_, rows)| rows) {
                found.push(rows::read_order(row).map_err(|e| self.damaged(&self.orders, e))?);
            }
            let left = answer.unprocessed_keys.as_mut().and_then(|all| all.remove(&self.orders));
            if let Some(left) = left {
                if attempt == ROUNDS {
                    let why = format!("DynamoDB left keys unprocessed in {ROUNDS} reads");
                    return Err(LedgerError::Busy(why));
                }
                pause(attempt).await;
                attempt += 1;
                wanted = Some(left.keys);
            }
        }
        Ok(found)
    }

    /// Writes an item if its version is still `read`; `false` if it has changed.
    async fn replace_item(&self, item: &Item, read: u64, round: u32) -> Result<bool, LedgerError> {
        let action = self.put_item(item, Expect::Version(read));
        let content = (item, read);
        match self.write(&[action], &self.token(&content, round)).await? {
            Written::Done => Ok(true),
            Written::Refused(_) | Written::TokenTaken => Ok(false),
        }
    }

    /// One page of a consistent scan, its rows converted by `read`.
    async fn scan<T>(
        &self,
        (table, key_name): (&str, &str),
        (after, limit): (Option<&str>, usize),
        filter: Option<Filter>,
        read: impl Fn(&Row) -> Result<T, rows::Damaged>,
    ) -> Result<Page<T>, LedgerError> {
        let mut request = self
            .client
            .scan()
            .return_consumed_capacity(UNITS)
            .table_name(table)
            .consistent_read(true)
            .limit(limit.clamp(1, PAGE) as i32)
            .set_exclusive_start_key(after.map(|key| rows::key(key_name, key)));
        if let Some(Filter { expression, names, values }) = filter {
            let names = names.iter().map(|(short, name)| (short.to_string(), name.to_string()));
            request = request
                .filter_expression(expression)
                .set_expression_attribute_names(Some(names.collect()))
                .set_expression_attribute_values(Some(values));
        }
        let scanned = repeat(|| {
            let request = request.clone();
            async move { request.send().await.map_err(|e| Fault::of(&e)) }
        });
        let answer = scanned.await.map_err(|fault| self.error(fault))?;
        let found: Result<Vec<T>, _> = answer.items().iter().map(read).collect();
        let last = answer.last_evaluated_key().and_then(|key| key.get(key_name));
        let next = last.and_then(|value| value.as_s().ok().cloned());
        Ok(Page { rows: found.map_err(|e| self.damaged(table, e))?, next })
    }

    async fn check_table(&self, table: &str, key_name: &str) -> Result<(), LedgerError> {
        let read = repeat_at_most(2, || {
            let request = self.client.get_item().table_name(table);
            let request = request.set_key(Some(rows::key(key_name, "none")));
            async move { request.send().await.map_err(|e| Fault::of(&e)) }
        });
        match read.await {
            Err(Fault::Refused(Refusal::NotFound, _)) => {
                Err(LedgerError::Broken(format!("there is no table {table}: run `flux provision`")))
            }
            Err(Fault::Refused(Refusal::Invalid, why)) => Err(LedgerError::Broken(format!(
                "table {table} must have the key {key_name} (S) ({why}): set dynamodb_table \
                     to a table that `flux provision` made"
            ))),
            Err(fault) => Err(self.error(fault)),
            Ok(_) => Ok(()),
        }
    }

    fn error(&self, fault: Fault) -> LedgerError {
        match fault {
            Fault::Busy(why) => LedgerError::Busy(why),
            Fault::Unknown(why) => LedgerError::OutcomeUnknown(why),
            Fault::Refused(Refusal::NotFound, _) => LedgerError::Broken(format!(
                "there is no table {} or {}: run `flux provision`",
                self.orders, self.items
            )),
            Fault::Refused(_, why) => LedgerError::Broken(format!("table {}: {why}", self.orders)),
        }
    }

    fn damaged(&self, table: &str, damaged: rows::Damaged) -> LedgerError {
        LedgerError::Broken(format!("table {table}: {damaged}"))
    }
}

/// The name of the table of items beside a table of orders.
pub fn items_table(table: &str) -> String {
    format!("{table}_items")
}

fn kept_changing(id: &ItemId) -> LedgerError {
    LedgerError::Busy(format!(
        "item {id} changed during each of {CHANGE_ROUNDS} attempts to write it"
    ))
}

fn token_taken() -> LedgerError {
    LedgerError::Busy("the request token was used for another request".to_owned())
}

impl fmt::Display for DynamoLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DynamoDB tables {} and {}", self.orders, self.items)
    }
}

#[async_trait]
impl Ledger for DynamoLedger {
    fn max_commit(&self) -> usize {
        BATCH - 1
    }

    async fn item(&self, item: &ItemId) -> Result<Option<Item>, LedgerError> {
        let read = repeat(|| {
            let request = self.client.get_item().table_name(&self.items).consistent_read(true);
            let request = request.return_consumed_capacity(UNITS);
            let request = request.set_key(Some(rows::key(ITEM_ID, item.as_str())));
            async move { request.send().await.map_err(|e| Fault::of(&e)) }
        });
        let answer = read.await.map_err(|fault| self.error(fault))?;
        let found = answer.item().map(|row| rows::read_item(row, &self.keys)).transpose();
        found.map_err(|e| self.damaged(&self.items, e))
    }

    async fn find(&self, orders: &[OrderId]) -> Result<Vec<Option<OrderRecord>>, LedgerError> {
        let distinct: HashSet<OrderId> = orders.iter().copied().collect();
        let distinct: Vec<OrderId> = distinct.into_iter().collect();
        let batches: Vec<_> = distinct.chunks(BATCH).map(|ids| self.find_batch(ids)).collect();
        let found = stream::iter(batches).buffer_unordered(REQUESTS_IN_FLIGHT);
        let found: Vec<Vec<OrderRecord>> = found.try_collect().await?;
        let by_id: HashMap<OrderId, OrderRecord> =
            found.into_iter().flatten().map(|record| (record.order.id, record)).collect();
        Ok(orders.iter().map(|id| by_id.get(id).cloned()).collect())
    }

    /// Commits in one transaction. The token makes a repeat after a lost response safe, because
    /// DynamoDB answers it without writing again. If the token is already taken by a request with other
    /// bytes, an earlier attempt or another worker may have written part of this commit. Then the
    /// ledger is read: the commit is refused if the item or an order has changed, and otherwise
    /// repeated with a new token. A write between that read and the repeat is harmless, because the
    /// repeat has the same conditions.
    async fn commit(&self, commit: &Commit) -> Result<Committed, LedgerError> {
        let orders = commit.decided.iter().map(|decided| self.put_order(decided));
        let item = self.put_item(&commit.item, commit.expect);
        let actions: Vec<_> = std::iter::once(item).chain(orders).collect();
        for round in 0..ROUNDS {
            match self.write(&actions, &self.token(commit, round)).await? {
                Written::Done => return Ok(Committed::Written),
                Written::Refused(indices) => {
                    // Action 0 is the item, the others are the orders.
                    let orders = indices.iter().filter_map(|index| index.checked_sub(1));
                    let decided_before = orders.map(|n| commit.decided[n].order.id).collect();
                    return Ok(Committed::Refused {
                        item_changed: indices.contains(&0),
                        decided_before,
                    });
                }
                Written::TokenTaken => {
                    let decided_before = self.decided_before(&commit.decided).await?;
                    let item = self.item(&commit.item.id).await?;
                    let version = Expect::Version(item.map_or(0, |item| item.version));
                    let item_changed = ![version, Expect::Anything].contains(&commit.expect);
                    if item_changed || !decided_before.is_empty() {
                        return Ok(Committed::Refused { item_changed, decided_before });
                    }
                }
            }
        }
        Err(token_taken())
    }

    async fn record(&self, rejected: &[Decided]) -> Result<Vec<OrderId>, LedgerError> {
        let batches: Vec<_> = rejected.chunks(BATCH).map(|b| self.record_batch(b)).collect();
        let decided_before = stream::iter(batches).buffered(REQUESTS_IN_FLIGHT);
        Ok(decided_before.try_collect::<Vec<_>>().await?.concat())
    }

    async fn set_item(&self, id: &ItemId, change: ItemChange) -> Result<ItemSet, LedgerError> {
        for round in 1..=CHANGE_ROUNDS {
            let old = self.item(id).await?;
            let read = old.as_ref().map_or(0, |item| item.version);
            let set = ItemSet::plan(id, old.as_ref(), change, self.clock.now());
            let (ItemSet::Created(new) | ItemSet::Changed(new)) = &set else { return Ok(set) };
            if self.replace_item(new, read, round).await? {
                return Ok(set);
            }
            pause(round.min(CHANGE_PAUSE)).await;
        }
        Err(kept_changing(id))
    }

    async fn remove_item(&self, id: &ItemId) -> Result<ItemRemoved, LedgerError> {
        for round in 1..=CHANGE_ROUNDS {
            let old = self.item(id).await?;
            let read = old.as_ref().map_or(0, |item| item.version);
            let removed = ItemRemoved::plan(old.as_ref(), false);
            let ItemRemoved::Removed(new) = &removed else { return Ok(removed) };
            if self.replace_item(new, read, round).await? {
                return Ok(removed);
            }
            pause(round.min(CHANGE_PAUSE)).await;
        }
        Err(kept_changing(id))
    }

    async fn totals(&self) -> Result<Option<StoreTotals>, LedgerError> {
        Ok(None)
    }

    async fn items(&self, after: Option<&str>, limit: usize) -> Result<Page<Item>, LedgerError> {
        let read = |row: &Row| rows::read_item(row, &self.keys);
        let mut from = ItemsFrom::parse(after);
        let mut items = Vec::new();
        let mut has_unlisted = after.is_some();
        for _ in 0..ITEM_SCANS {
            let table = (self.items.as_str(), ITEM_ID);
            let window = (from.after.as_deref(), limit - items.len());
            let page = self.scan(table, window, None, &read).await?;
            has_unlisted |= page.rows.iter().any(|item| item.listing == Listing::Unlisted);
            items.extend(page.rows.into_iter().filter(|item| item.listing == from.listing));
            from = match (page.next, from.listing) {
                (Some(next), listing) => ItemsFrom { listing, after: Some(next) },
                (None, Listing::Listed) if has_unlisted => {
                    ItemsFrom { listing: Listing::Unlisted, after: None }
                }
                (None, _) => return Ok(Page { rows: items, next: None }),
            };
            if items.len() >= limit {
                break;
            }
        }
        Ok(Page { rows: items, next: Some(from.cursor()) })
    }

    async fn inventory(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<(ItemId, UserId)>, LedgerError> {
        let filter = Filter {
            expression: "#stock = :one AND attribute_exists(#owner)",
            names: &[("#stock", rows::STOCK), ("#owner", rows::OWNER)],
            values: HashMap::from([(":one".to_owned(), number(1))]),
        };
        let table = (self.items.as_str(), ITEM_ID);
        let read = |row: &Row| rows::read_item(row, &self.keys);
        let page = self.scan(table, (after, limit), Some(filter), read).await?;
        let sold = page.rows.into_iter().filter_map(|item| Some((item.id, item.owner?)));
        Ok(Page { rows: sold.collect(), next: page.next })
    }

    async fn audit_items(&self, after: Option<&str>) -> Result<Page<AuditedItem>, LedgerError> {
        let read = |row: &Row| Ok(rows::audit_item(row, &self.keys));
        self.scan((&self.items, ITEM_ID), (after, PAGE), None, read).await
    }

    async fn audit_orders(
        &self,
        item: Option<&ItemId>,
        after: Option<&str>,
    ) -> Result<Page<AuditedOrder>, LedgerError> {
        let filter = item.map(|item| Filter {
            expression: "#item = :item",
            names: &[("#item", ITEM_ID)],
            values: HashMap::from([(":item".to_owned(), text(item.as_str()))]),
        });
        let read = |row: &Row| Ok(rows::audit_order(row, &self.keys, &self.key));
        self.scan((&self.orders, ORDER_ID), (after, PAGE), filter, read).await
    }

    async fn check(&self) -> Result<(), LedgerError> {
        self.check_table(&self.orders, ORDER_ID).await?;
        self.check_table(&self.items, ITEM_ID).await
    }
}
