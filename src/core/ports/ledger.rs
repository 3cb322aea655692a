//! The ledger: items and decisions. It alone keeps P1 to P4. The lock only saves refused commits.

use std::fmt::{Debug, Display};

use async_trait::async_trait;

use crate::core::model::{
    Decided, Decision, Item, ItemChange, ItemId, Listing, MacCheck, Order, OrderId, Timestamp,
    UserId,
};

/// Why a call failed, by what the caller can do about it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LedgerError {
    /// Nothing was written or read. Retry after a pause.
    #[error("the ledger is busy: {0}")]
    Busy(String),
    /// The write may have been applied. The same call may be repeated at once: it is idempotent
    /// while its token lives. After that, [`Ledger::find`] returns what was written.
    #[error("the ledger did not answer: {0}")]
    OutcomeUnknown(String),
    /// Retrying does not help: a missing table, no permission, a corrupt file.
    #[error("{0}")]
    Broken(String),
}

/// The condition of a commit on its item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The item has this version, which was read before; 0: it has no row.
    Version(u64),
    /// No condition. Oversells. Only `flux stress --without ledger-condition` uses it, on its
    /// temporary store, to prove that the audit detects that.
    Anything,
}

/// Decisions about one item, written as a whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The item after these decisions.
    pub item: Item,
    pub expect: Expect,
    /// At most [`Ledger::max_commit`]; each order at most once.
    pub decided: Vec<Decided>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    Written,
    /// Nothing was written.
    Refused {
        /// True if the item has another version now.
        item_changed: bool,
        /// Orders of the batch that were decided or dead-lettered before.
        decided_before: Vec<OrderId>,
    },
}

/// An order as the ledger knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderRecord {
    pub order: Order,
    pub state: OrderState,
}

impl OrderRecord {
    /// The order with its decision; `None` if it has none.
    pub fn decided(self) -> Option<Decided> {
        match self.state {
            OrderState::Decided { decision, decided_at } => {
                Some(Decided { order: self.order, decision, decided_at })
            }
            OrderState::Queued | OrderState::DeadLettered => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderState {
    /// Known only to a ledger that shares its store with the queue.
    Queued,
    /// In the dead-letter queue.
    DeadLettered,
    Decided {
        decision: Decision,
        decided_at: Timestamp,
    },
}

/// An order row as the audit reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditedOrder {
    /// The error names the row that cannot be read, and why.
    pub record: Result<OrderRecord, String>,
    pub mac: MacCheck,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditedItem {
    /// The error names the row that cannot be read, and why.
    pub item: Result<Item, String>,
    /// `None` if the store does not count.
    pub counts: Option<ItemCounts>,
    pub mac: MacCheck,
}

/// A store's counts of an item's orders, covered by the MAC of the item's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ItemCounts {
    /// Order rows that the item must have.
    pub orders: u64,
    /// Orders that were moved to a later position in the item's queue. While an audit reads pages,
    /// such an order can be on a second, later page.
    pub moved: u64,
    pub decided: u64,
    pub dead_lettered: u64,
}

/// What the audit reads of the store as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreAudit {
    /// Descriptions of what was changed by anything but flux.
    pub findings: Vec<String>,
    /// Rows without a MAC, written by earlier versions, that are neither items nor orders.
    pub old_rule: u64,
    /// Number of orders by decision, if the store counts.
    pub decided: Option<Vec<(Decision, u64)>>,
}

/// A store's counts since its creation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreTotals {
    /// Orders queued, without repeats.
    pub accepted: u64,
    /// Number of orders by decision, without zeros.
    pub decided: Vec<(Decision, u64)>,
}

/// A page of rows, and the cursor of the next page; `None` on the last page.
#[derive(Debug, Clone)]
pub struct Page<T> {
    pub rows: Vec<T>,
    pub next: Option<String>,
}

/// The result of [`Ledger::set_item`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemSet {
    Created(Item),
    Changed(Item),
    Unchanged(Item),
    /// Refused: this many units are held or sold, more than the new stock.
    BelowTaken(u64),
    /// Refused: the item has no row, and the change has no stock to create one with.
    Unlisted,
}

impl ItemSet {
    /// Applies a change to the item as read. The caller must write a `Created` or `Changed` item,
    /// on the condition that it has the version that was read.
    pub fn plan(id: &ItemId, read: Option<&Item>, change: ItemChange, now: Timestamp) -> ItemSet {
        let known = read.filter(|item| !item.is_removed());
        let old = match (known, read, change.stock) {
            (Some(item), ..) | (None, Some(item), Some(_)) => item.clone(),
            (None, None, Some(stock)) => Item::new(id.clone(), stock),
            (None, _, None) => return ItemSet::Unlisted,
        };
        match old.changed(change, now) {
            Err(taken) => ItemSet::BelowTaken(taken),
            Ok(item) if read.is_none() => ItemSet::Created(Item { version: 1, ..item }),
            Ok(item) if known.is_none() => ItemSet::Created(item),
            Ok(item) if item == old => ItemSet::Unchanged(item),
            Ok(item) => ItemSet::Changed(item),
        }
    }
}

/// The result of [`Ledger::remove_item`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemRemoved {
    Removed(Item),
    /// It was removed before.
    Already,
    /// Refused: the item has orders, or units are held or sold.
    HasOrders,
    /// Refused: the item has no row.
    Unlisted,
}

impl ItemRemoved {
    /// Applies a removal to the item as read; `has_orders` is true if the store has orders for it.
    /// The caller must write a `Removed` item, on the condition that it has the version that was
    /// read.
    pub fn plan(read: Option<&Item>, has_orders: bool) -> ItemRemoved {
        match read {
            None => ItemRemoved::Unlisted,
            Some(item) if item.is_removed() => ItemRemoved::Already,
            Some(item) if has_orders || item.held + item.sold > 0 => ItemRemoved::HasOrders,
            Some(item) => ItemRemoved::Removed(item.removed()),
        }
    }
}

/// The start of a page of items: after an item among the listed ones, which are first, or among the
/// unlisted ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemsFrom {
    pub listing: Listing,
    pub after: Option<String>,
}

/// First character of a cursor among the unlisted items. Item ids cannot contain it.
const UNLISTED_PREFIX: char = '~';

impl ItemsFrom {
    pub fn parse(cursor: Option<&str>) -> Self {
        let cursor = cursor.unwrap_or_default();
        let (listing, after) = match cursor.strip_prefix(UNLISTED_PREFIX) {
            Some(after) => (Listing::Unlisted, after),
            None => (Listing::Listed, cursor),
        };
        Self { listing, after: Some(after.to_owned()).filter(|after| !after.is_empty()) }
    }

    pub fn cursor(&self) -> String {
        let after = self.after.as_deref().unwrap_or_default();
        match self.listing {
            Listing::Listed => after.to_owned(),
            Listing::Unlisted | Listing::Removed => format!("{UNLISTED_PREFIX}{after}"),
        }
    }

    pub fn behind(item: &Item) -> Self {
        Self { listing: item.listing, after: Some(item.id.to_string()) }
    }
}

/// All methods are safe to cancel: a write is applied as a whole or not at all. Reads are
/// consistent: they return every write that was confirmed before they began.
#[async_trait]
pub trait Ledger: Debug + Display + Send + Sync {
    /// The most decisions in one [`Commit`].
    fn max_commit(&self) -> usize;

    /// The item, also if it is removed; `None` if it has no row.
    async fn item(&self, item: &ItemId) -> Result<Option<Item>, LedgerError>;

    /// The record of each order, in the order given; `None` if unknown. Any number of ids.
    async fn find(&self, orders: &[OrderId]) -> Result<Vec<Option<OrderRecord>>, LedgerError>;

    /// Writes a batch, on its condition and on the condition that each order is undecided.
    /// Idempotent: a repeated commit is `Written` again while its token lives (10 minutes on
    /// DynamoDB), and later `Refused` with its own orders in `decided_before`.
    async fn commit(&self, commit: &Commit) -> Result<Committed, LedgerError>;

    /// Writes rejections without touching the item. An order that is decided keeps its decision;
    /// the ids of such orders are returned. Any number of orders. Idempotent.
    async fn record(&self, rejected: &[Decided]) -> Result<Vec<OrderId>, LedgerError>;

    /// Creates the item, changes its stock, closes its sale or reopens it. Conditional like a
    /// commit: after it returns, no decision based on an earlier read is written. Idempotent.
    async fn set_item(&self, item: &ItemId, change: ItemChange) -> Result<ItemSet, LedgerError>;

    /// Removes an item without orders: it is in no list, its orders are `unknown_item`, and only
    /// setting its stock restores it. Conditional like a commit: after it returns, no sale based on
    /// an earlier read is written. Idempotent. Orders that were only rejected count as orders if
    /// the store knows an item's orders.
    async fn remove_item(&self, item: &ItemId) -> Result<ItemRemoved, LedgerError>;

    /// Number of unlisted items, including those with only queued orders; `None` if the store does
    /// not count.
    async fn unlisted_items(&self) -> Result<Option<u64>, LedgerError> {
        Ok(None)
    }

    /// [`Ledger::set_item`] with a stock only.
    async fn set_stock(&self, item: &ItemId, stock: u64) -> Result<ItemSet, LedgerError> {
        self.set_item(item, ItemChange::stock(stock)).await
    }

    /// `None` if the store does not count.
    async fn totals(&self) -> Result<Option<StoreTotals>, LedgerError>;

    /// Items in pages of at most `limit`: listed ones, then unlisted ones, without removed ones.
    /// `after` is the `next` of the page before. An item that becomes listed between two pages may
    /// be on neither.
    async fn items(&self, after: Option<&str>, limit: usize) -> Result<Page<Item>, LedgerError>;

    /// Sold one-of-a-kind items with their owners, in pages like [`Ledger::items`].
    async fn inventory(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<(ItemId, UserId)>, LedgerError>;

    /// For the audit: items, with the number of order rows they must have.
    async fn audit_items(&self, after: Option<&str>) -> Result<Page<AuditedItem>, LedgerError>;

    /// For the audit: order rows of one item or of all, oldest first if the store knows their age.
    async fn audit_orders(
        &self,
        item: Option<&ItemId>,
        after: Option<&str>,
    ) -> Result<Page<AuditedOrder>, LedgerError>;

    /// For the audit: everything that is neither an item nor an order. Empty by default.
    async fn audit_store(&self) -> Result<StoreAudit, LedgerError> {
        Ok(StoreAudit::default())
    }

    /// Called before a process serves or decides. `Broken` names what in the store would change
    /// writes to it, such as a foreign trigger, and how to remove it. By default there is nothing.
    async fn check_writers(&self) -> Result<(), LedgerError> {
        Ok(())
    }

    /// `Ok` if the ledger is usable; for `/readyz` and at start. `Broken` names what is missing and
    /// what to do.
    async fn check(&self) -> Result<(), LedgerError>;
}
