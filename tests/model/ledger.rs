//! The ledger as its port specifies it, with the books of an auditor who observes every step.

use flux::core::model::{
    DecidedBatch, Decision, Item, ItemChange, ItemId, Order, Reason, Timestamp, decide,
};

/// The most orders in a model.
pub const ORDERS: usize = 3;
const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// The bit of a closed sale in a set of levels. The bits of free units are lower.
const CLOSED: u8 = 1 << 7;

/// A set of orders, one bit each.
pub type Orders = u8;

/// The decision of each order.
pub type Decisions = [Option<Decision>; ORDERS];

pub fn members(orders: Orders) -> impl Iterator<Item = usize> {
    (0..ORDERS).filter(move |order| orders & 1 << order != 0)
}

/// The part of an [`Item`] that the protocol depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Row {
    pub stock: u8,
    pub free: u8,
    pub sold: u8,
    pub version: u8,
    pub closed: bool,
}

impl Row {
    /// An item without sales.
    pub fn new(stock: u8) -> Row {
        Row { stock, free: stock, sold: 0, version: 0, closed: false }
    }

    /// The level of the item as a bit: its free units, or [`CLOSED`].
    fn level(self) -> u8 {
        if self.closed { CLOSED } else { 1 << self.free }
    }

    /// True if every order is rejected.
    pub fn rejects_all(self) -> bool {
        self.item().rejects_all()
    }

    fn item(self) -> Item {
        Item {
            free: self.free.into(),
            sold: self.sold.into(),
            version: self.version.into(),
            closed_at: self.closed.then_some(NOW),
            ..Item::new(ItemId::parse("ticket_001").unwrap(), self.stock.into())
        }
    }

    /// Runs the real [`decide`] on the orders of `batch`.
    pub fn decide(self, all: &[Order], batch: Orders) -> (Row, Decisions) {
        let orders = members(batch).map(|order| all[order].clone()).collect();
        let DecidedBatch { item, decided } = decide(Some(&self.item()), orders, NOW);
        let mut decisions = [None; ORDERS];
        for (order, decided) in members(batch).zip(decided) {
            decisions[order] = Some(decided.decision);
        }
        (item.expect("an item was given").into(), decisions)
    }
}

impl From<Item> for Row {
    fn from(item: Item) -> Row {
        let [stock, free, sold, version] =
            [item.stock, item.free, item.sold, item.version].map(|n| n.try_into().unwrap());
        Row { stock, free, sold, version, closed: item.closed_at.is_some() }
    }
}

/// The condition of a write, in addition to each order being undecided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Condition {
    Version(u8),
    /// Broken: a fencing number, not lower than the highest one that wrote.
    Fence(u8),
    /// Broken: none at all.
    Nothing,
    /// Independent rejections: an order that is decided keeps its decision.
    EachAlone,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Write {
    pub condition: Condition,
    /// The item as read, and after the write. Rejections do not write it.
    pub read: Row,
    pub next: Row,
    pub decided: Decisions,
}

#[derive(Debug, PartialEq, Eq)]
pub enum WriteResult {
    Written,
    Refused { item_changed: bool, decided_before: Orders },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ledger {
    pub item: Row,
    pub rows: Decisions,
    highest_fence: u8,
    pub books: Books,
}

/// What no single part of flux can observe.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Books {
    /// Units of all written sales.
    pub given: u8,
    /// True if a decided order got another decision.
    pub decided_again: bool,
    /// True if an order was rejected although its units were free ever since it was sent.
    pub wrongly_refused: bool,
    /// True if a unit was sold while the sale was closed.
    pub sold_when_closed: bool,
    /// For each undecided order: the levels of the item since it was sent.
    levels: [u8; ORDERS],
}

impl Ledger {
    pub fn new(item: Row) -> Ledger {
        Ledger { item, rows: [None; ORDERS], highest_fence: 0, books: Books::default() }
    }

    pub fn restock(&mut self) {
        self.change(ItemChange::stock(u64::from(self.item.stock) + 1));
    }

    /// Closes or reopens the sale.
    pub fn close(&mut self, closed: bool) {
        self.change(ItemChange::closed(closed));
    }

    fn change(&mut self, change: ItemChange) {
        let after = self.item.item().changed(change, NOW);
        self.item = after.expect("stock is not lowered").into();
        self.books.record_level(self.item.level());
    }

    /// The order is sent: it may be decided from now on.
    pub fn order_sent(&mut self, order: usize) {
        self.books.levels[order] = self.item.level();
    }

    pub fn decided_among(&self, orders: Orders) -> Orders {
        members(orders).filter(|&order| self.rows[order].is_some()).fold(0, |set, o| set | 1 << o)
    }

    /// Applies a write as a whole or not at all. With `undecided` it requires that its orders are
    /// undecided.
    pub fn apply(&mut self, write: &Write, all: &[Order], undecided: bool) -> WriteResult {
        let orders = (0..ORDERS).filter(|&o| write.decided[o].is_some()).fold(0, |s, o| s | 1 << o);
        let decided_before = if undecided { self.decided_among(orders) } else { 0 };
        let item_changed = match write.condition {
            Condition::Version(read) => read != self.item.version,
            Condition::Fence(number) => number < self.highest_fence,
            Condition::Nothing | Condition::EachAlone => false,
        };
        let alone = write.condition == Condition::EachAlone;
        if !alone && (item_changed || decided_before != 0) {
            return WriteResult::Refused { item_changed, decided_before };
        }
        if let Condition::Fence(number) = write.condition {
            self.highest_fence = number;
        }
        let mut free = write.read.free;
        for order in members(orders & !decided_before) {
            let units = all[order].quantity.units() as u8;
            if write.decided[order] == Some(Decision::Sold) {
                free -= units;
                self.books.given += units;
                self.books.sold_when_closed |= self.item.closed;
                self.books.record_level(Row { free, ..write.read }.level());
            }
            self.decide(order, units, write.decided[order]);
        }
        if !alone {
            self.item = write.next;
            self.books.record_level(self.item.level());
        }
        WriteResult::Written
    }

    fn decide(&mut self, order: usize, units: u8, decision: Option<Decision>) {
        let books = &mut self.books;
        if self.rows[order].is_some() {
            books.decided_again = true;
        } else {
            let fitting = match decision {
                Some(Decision::Rejected(Reason::SoldOut)) => 1,
                Some(Decision::Rejected(Reason::NotEnough)) => (1 << units) - 2,
                Some(Decision::Rejected(Reason::Closed)) => CLOSED,
                _ => u8::MAX,
            };
            books.wrongly_refused |= books.levels[order] & fitting == 0;
        }
        books.levels[order] = 0;
        self.rows[order] = decision;
    }
}

impl Books {
    fn record_level(&mut self, now: u8) {
        for level in self.levels.iter_mut().filter(|level| **level != 0) {
            *level |= now;
        }
    }
}
