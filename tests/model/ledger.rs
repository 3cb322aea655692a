//! The ledger as its port promises it to be, and beside it the books of an auditor who sees
//! everything.

use flux::core::model::{
    DecidedBatch, Decision, Item, ItemChange, ItemId, Order, Reason, Timestamp, decide,
};

/// Orders in a model, at most.
pub const ORDERS: usize = 3;
const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// Stands beside the numbers of free units, which are small.
const CLOSED: u8 = 1 << 7;

/// A set of orders, a bit for each.
pub type Orders = u8;

/// What was decided of each order.
pub type Decisions = [Option<Decision>; ORDERS];

pub fn members(orders: Orders) -> impl Iterator<Item = usize> {
    (0..ORDERS).filter(move |order| orders & 1 << order != 0)
}

/// What the protocol turns on of an [`Item`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Row {
    pub stock: u8,
    pub free: u8,
    pub sold: u8,
    pub version: u8,
    pub closed: bool,
}

impl Row {
    /// An item that nobody bought from yet.
    pub fn new(stock: u8) -> Row {
        Row { stock, free: stock, sold: 0, version: 0, closed: false }
    }

    /// What an order that is decided now may be told, as a bit.
    fn level(self) -> u8 {
        if self.closed { CLOSED } else { 1 << self.free }
    }

    /// Whether each of its orders gets a "no".
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

    /// The real [`decide`] on these of the orders.
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

/// Under what a write is applied, beside each of its orders' being undecided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Condition {
    Version(u8),
    /// Broken: a fencing number, not lower than the highest one that wrote.
    Fence(u8),
    /// Broken: none at all.
    Nothing,
    /// Rejections, each for itself: one that is decided stays as it is.
    EachAlone,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Write {
    pub condition: Condition,
    /// The item as it was read, and as it is to be. The latter is not written with rejections.
    pub read: Row,
    pub next: Row,
    pub decided: Decisions,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
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

/// What no part of flux can see whole.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Books {
    /// Units that a written decision gave away, in all.
    pub given: u8,
    /// An order that had a decision was given another one.
    pub decided_again: bool,
    /// An order was turned away though the units it wanted were there ever since it was sent.
    pub wrongly_refused: bool,
    /// A unit was given away while the sale was closed.
    pub sold_when_closed: bool,
    /// For each order that is sent and undecided: the numbers of free units seen since while the
    /// sale was open, a bit each, and [`CLOSED`] if it was closed.
    levels: [u8; ORDERS],
}

impl Ledger {
    pub fn new(item: Row) -> Ledger {
        Ledger { item, rows: [None; ORDERS], highest_fence: 0, books: Books::default() }
    }

    pub fn restock(&mut self) {
        self.change(ItemChange::stock(u64::from(self.item.stock) + 1));
    }

    /// Closes the sale, or opens it again.
    pub fn close(&mut self, closed: bool) {
        self.change(ItemChange::closed(closed));
    }

    fn change(&mut self, change: ItemChange) {
        let after = self.item.item().changed(change, NOW);
        self.item = after.expect("stock is not lowered").into();
        self.books.saw(self.item.level());
    }

    /// From now on the order may be decided.
    pub fn expect(&mut self, order: usize) {
        self.books.levels[order] = self.item.level();
    }

    pub fn decided_among(&self, orders: Orders) -> Orders {
        members(orders).filter(|&order| self.rows[order].is_some()).fold(0, |set, o| set | 1 << o)
    }

    /// Applies a write whole or not at all; `unseen` is whether it minds orders that are decided.
    pub fn apply(&mut self, write: &Write, all: &[Order], unseen: bool) -> Answer {
        let orders = (0..ORDERS).filter(|&o| write.decided[o].is_some()).fold(0, |s, o| s | 1 << o);
        let decided_before = if unseen { self.decided_among(orders) } else { 0 };
        let item_changed = match write.condition {
            Condition::Version(read) => read != self.item.version,
            Condition::Fence(number) => number < self.highest_fence,
            Condition::Nothing | Condition::EachAlone => false,
        };
        let alone = write.condition == Condition::EachAlone;
        if !alone && (item_changed || decided_before != 0) {
            return Answer::Refused { item_changed, decided_before };
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
                self.books.saw(Row { free, ..write.read }.level());
            }
            self.decide(order, units, write.decided[order]);
        }
        if !alone {
            self.item = write.next;
            self.books.saw(self.item.level());
        }
        Answer::Written
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
    fn saw(&mut self, now: u8) {
        for level in self.levels.iter_mut().filter(|level| **level != 0) {
            *level |= now;
        }
    }
}
