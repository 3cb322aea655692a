//! The ledger: items and decisions. It alone keeps P1-P4; the lock only saves it work.

use std::fmt::{Debug, Display};

use async_trait::async_trait;

use crate::core::model::{
    Decided, Decision, Item, ItemChange, ItemId, Listing, MacCheck, Order, OrderId, Timestamp,
    UserId,
};

/// What to do about a failed call.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LedgerError {
    /// Nothing was written or read; the same call may be made again after a pause.
    #[error("the ledger is busy: {0}")]
    Busy(String),
    /// The write may have been applied. The same call may be made again at once: it is
    /// idempotent within its token's life, after which [`Ledger::find`] tells.
    #[error("the ledger did not answer: {0}")]
    OutcomeUnknown(String),
    /// Repeating will not help: a missing table, no permission, a broken file.
    #[error("{0}")]
    Broken(String),
}

/// On what a commit depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The item still has the version that was read (0: still has no row).
    Version(u64),
    /// No condition on the item. Oversells; only `flux stress --without ledger-condition` on its
    /// throw-away store asks for it, to show that the audit can fail.
    Anything,
}

/// One batch of decisions about one item, written whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The item as it will be.
    pub item: Item,
    pub expect: Expect,
    /// At most [`Ledger::max_commit`], no order twice.
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
    /// `None` for what has no decision.
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
    /// Only a ledger that shares its store with the queue knows of queued orders.
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
    /// Or which row cannot be read, and why.
    pub record: Result<OrderRecord, String>,
    pub mac: MacCheck,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditedItem {
    /// Or which row cannot be read, and why.
    pub item: Result<Item, String>,
    /// `None` where the store does not count.
    pub counts: Option<ItemCounts>,
    pub mac: MacCheck,
}

/// What a store counts of an item's orders, under the MAC of the item's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ItemCounts {
    /// How many order rows the item must have.
    pub orders: u64,
    /// Orders that left their place in the line for a later one: the rows of a page may be met
    /// again on a later one.
    pub moved: u64,
    pub decided: u64,
    pub dead_lettered: u64,
}

/// What the audit reads of the store as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreAudit {
    /// What is not as flux wrote it, in words.
    pub findings: Vec<String>,
    /// Rows from before MACs that are neither items nor orders.
    pub old_rule: u64,
    /// How many orders have which decision, where the store counts.
    pub decided: Option<Vec<(Decision, u64)>>,
}

/// What a store has counted since it was made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreTotals {
    /// Orders taken, each once.
    pub accepted: u64,
    /// Decided orders, by decision; those that came about.
    pub decided: Vec<(Decision, u64)>,
}

/// A page of a long read, and where the next begins; `None` after the last page.
#[derive(Debug, Clone)]
pub struct Page<T> {
    pub rows: Vec<T>,
    pub next: Option<String>,
}

/// What became of [`Ledger::set_item`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemSet {
    Created(Item),
    Changed(Item),
    Unchanged(Item),
    /// Refused: so many units are held or sold already.
    BelowTaken(u64),
    /// Refused: the ledger has no row of the item, and no stock was given to make one.
    Unlisted,
}

impl ItemSet {
    /// What a change makes of the item as it was read. A `Created` or `Changed` one is still to be
    /// written, under the version that was read.
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

/// What became of [`Ledger::remove_item`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemRemoved {
    Removed(Item),
    /// It was removed before.
    Already,
    /// Refused: orders for it came, or units of it are held or sold.
    HasOrders,
    /// Refused: the ledger has no row of the item.
    Unlisted,
}

impl ItemRemoved {
    /// What a removal makes of the item as it was read; `ordered` is whether its store has orders
    /// for it. A `Removed` one is still to be written, under the version that was read.
    pub fn plan(read: Option<&Item>, ordered: bool) -> ItemRemoved {
        match read {
            None => ItemRemoved::Unlisted,
            Some(item) if item.is_removed() => ItemRemoved::Already,
            Some(item) if ordered || item.held + item.sold > 0 => ItemRemoved::HasOrders,
            Some(item) => ItemRemoved::Removed(item.removed()),
        }
    }
}

/// Where a page of items begins: behind an item among the listed ones, which come first, or among
/// the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemsFrom {
    pub listing: Listing,
    pub after: Option<String>,
}

/// Begins a cursor among the items that nobody listed. No item's id contains it.
const UNLISTED: char = '~';

impl ItemsFrom {
    pub fn parse(cursor: Option<&str>) -> Self {
        let cursor = cursor.unwrap_or_default();
        let (listing, after) = match cursor.strip_prefix(UNLISTED) {
            Some(after) => (Listing::Unlisted, after),
            None => (Listing::Listed, cursor),
        };
        Self { listing, after: Some(after.to_owned()).filter(|after| !after.is_empty()) }
    }

    pub fn cursor(&self) -> String {
        let after = self.after.as_deref().unwrap_or_default();
        match self.listing {
            Listing::Listed => after.to_owned(),
            Listing::Unlisted | Listing::Removed => format!("{UNLISTED}{after}"),
        }
    }

    pub fn behind(item: &Item) -> Self {
        Self { listing: item.listing, after: Some(item.id.to_string()) }
    }
}

/// Every method is safe to cancel: a write in flight is applied whole or not at all.
/// Reads are consistent: they see every write that was answered before they began.
#[async_trait]
pub trait Ledger: Debug + Display + Send + Sync {
    /// The most decisions one [`Commit`] may carry.
    fn max_commit(&self) -> usize;

    /// The item, a removed one too.
    async fn item(&self, item: &ItemId) -> Result<Option<Item>, LedgerError>;

    /// What is known of each order, in the order asked. Any number of ids.
    async fn find(&self, orders: &[OrderId]) -> Result<Vec<Option<OrderRecord>>, LedgerError>;

    /// Writes a batch under its condition and each order's being undecided. Idempotent: the same
    /// commit again is `Written` again while its token lives (10 minutes on DynamoDB), or else
    /// `Refused` with its own orders seen.
    async fn commit(&self, commit: &Commit) -> Result<Committed, LedgerError>;

    /// Records rejections of orders without touching the item; an order that has a decision keeps
    /// it. Returns the ids of those. Any number of orders; idempotent.
    async fn record(&self, rejected: &[Decided]) -> Result<Vec<OrderId>, LedgerError>;

    /// Creates the item, raises or lowers its stock, closes its sale or opens it again. A write
    /// like a commit: once it is answered, nothing is decided by what was read before it.
    /// Idempotent.
    async fn set_item(&self, item: &ItemId, change: ItemChange) -> Result<ItemSet, LedgerError>;

    /// Takes an item without orders away: it is in no list, its orders are `unknown_item`, and
    /// nothing but a stock that an organiser gives brings it back. A write like a commit: once it
    /// is answered, nothing is sold by what was read before it. Idempotent. Orders that were only
    /// rejected count where the store knows an item's orders.
    async fn remove_item(&self, item: &ItemId) -> Result<ItemRemoved, LedgerError>;

    /// How many items nobody listed, those with nothing but waiting orders included; `None` where
    /// the store does not count.
    async fn unlisted_items(&self) -> Result<Option<u64>, LedgerError> {
        Ok(None)
    }

    /// [`Ledger::set_item`] of the stock alone.
    async fn set_stock(&self, item: &ItemId, stock: u64) -> Result<ItemSet, LedgerError> {
        self.set_item(item, ItemChange::stock(stock)).await
    }

    /// `None` where the store does not count.
    async fn totals(&self) -> Result<Option<StoreTotals>, LedgerError>;

    /// Items in pages of at most `limit`, listed ones before those that nobody listed, removed ones
    /// left out; `after` is a former page's `next`. An item that is listed between two pages may
    /// be in neither.
    async fn items(&self, after: Option<&str>, limit: usize) -> Result<Page<Item>, LedgerError>;

    /// Sold one-of-a-kind items with their owners, in pages like [`Ledger::items`].
    async fn inventory(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<(ItemId, UserId)>, LedgerError>;

    /// For the audit: items with the number of order rows they must have.
    async fn audit_items(&self, after: Option<&str>) -> Result<Page<AuditedItem>, LedgerError>;

    /// For the audit: order rows (of one item, or all), oldest first where the store knows.
    async fn audit_orders(
        &self,
        item: Option<&ItemId>,
        after: Option<&str>,
    ) -> Result<Page<AuditedOrder>, LedgerError>;

    /// For the audit: what is neither an item nor an order. Nothing, where there is nothing else.
    async fn audit_store(&self) -> Result<StoreAudit, LedgerError> {
        Ok(StoreAudit::default())
    }

    /// Before a process serves or decides: `Broken` names what in the store would change what is
    /// written to it, and how to remove that. Nothing can, where there are no triggers.
    async fn check_writers(&self) -> Result<(), LedgerError> {
        Ok(())
    }

    /// Answers when the ledger can be used: for `/readyz` and at start. `Broken` names what is
    /// missing and what to do.
    async fn check(&self) -> Result<(), LedgerError>;
}
