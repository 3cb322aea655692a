//! Items and their changes.

use super::{ItemId, Timestamp, UserId};

/// The most units an item can have.
pub const MAX_STOCK: u64 = 1_000_000_000_000;

/// An organiser's change to an item. `None` leaves a value unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ItemChange {
    pub stock: Option<u64>,
    pub closed: Option<bool>,
}

impl ItemChange {
    pub fn stock(stock: u64) -> Self {
        Self { stock: Some(stock), closed: None }
    }

    /// Closes or reopens the sale.
    pub fn closed(closed: bool) -> Self {
        Self { stock: None, closed: Some(closed) }
    }
}

/// How an item came to be, and whether it is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// Created by an organiser.
    Listed,
    /// Created by its first order, with the setting `unlisted_stock`.
    Unlisted,
    /// Removed by an organiser before it had orders. Its row stays, so that an order that arrives
    /// later does not create the item again.
    Removed,
}

/// An item in the ledger. Always `free + held + sold = stock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub id: ItemId,
    pub stock: u64,
    pub free: u64,
    pub held: u64,
    pub sold: u64,
    /// Buyer of a one-of-a-kind item (`stock` 1) that is sold.
    pub owner: Option<UserId>,
    /// Time of the last increase of the stock. A "sold out" from before that was correct at the
    /// time.
    pub restocked_at: Option<Timestamp>,
    /// Time since which the sale is closed; `None` if it is open. A closed item rejects all orders.
    pub closed_at: Option<Timestamp>,
    pub listing: Listing,
    /// Number of writes to this item; 0 if it has no row yet.
    pub version: u64,
    /// True if the row of this item did not match its MAC. Later writes keep it, so that the audit
    /// finds the change. Always false with a ledger that checks the row when it writes.
    pub altered: bool,
}

impl Item {
    /// A listed item without sales and without a row.
    pub fn new(id: ItemId, stock: u64) -> Self {
        Self {
            id,
            stock,
            free: stock,
            held: 0,
            sold: 0,
            owner: None,
            restocked_at: None,
            closed_at: None,
            listing: Listing::Listed,
            version: 0,
            altered: false,
        }
    }

    /// Like [`Item::new`], but unlisted.
    pub fn unlisted(id: ItemId, stock: u64) -> Self {
        Self { listing: Listing::Unlisted, ..Self::new(id, stock) }
    }

    pub fn is_removed(&self) -> bool {
        self.listing == Listing::Removed
    }

    /// A closed item is `closed` even if it is sold out: a restock alone would not reopen it.
    pub fn status(&self) -> &'static str {
        match self.closed_at {
            _ if self.is_removed() => "removed",
            Some(_) => "closed",
            None if self.free == 0 => "sold_out",
            None => "open",
        }
    }

    /// True if every order for the item is rejected, whatever its quantity, until an organiser
    /// changes the item.
    pub fn rejects_all(&self) -> bool {
        self.free == 0 || self.closed_at.is_some() || self.is_removed()
    }

    /// The item after a change. Its version is one higher if anything changed. Setting the stock
    /// lists the item. The error is the least possible stock, if the requested one is lower.
    pub fn changed(&self, change: ItemChange, now: Timestamp) -> Result<Self, u64> {
        let mut item = match change.stock {
            Some(stock) if stock != self.stock => self.with_stock(stock, now)?,
            _ => self.clone(),
        };
        if let Some(closed) = change.closed
            && closed != self.closed_at.is_some()
        {
            item.closed_at = closed.then_some(now);
            item.version = self.version + 1;
        }
        if change.stock.is_some() && self.listing != Listing::Listed {
            item.listing = Listing::Listed;
            item.version = self.version + 1;
        }
        Ok(item)
    }

    /// The item after its removal. It has no stock, so that a process of an earlier version, which
    /// does not know removed items, does not sell it either.
    pub fn removed(&self) -> Self {
        let version = self.version + 1;
        let altered = self.altered;
        Self { listing: Listing::Removed, version, altered, ..Self::new(self.id.clone(), 0) }
    }

    /// The item with another stock. The error is the least possible stock, if `stock` is lower.
    pub fn with_stock(&self, stock: u64, now: Timestamp) -> Result<Self, u64> {
        let taken = self.held + self.sold;
        let free = stock.checked_sub(taken).ok_or(taken)?;
        let owner = self.owner.clone().filter(|_| stock == 1);
        let restocked_at = if stock > self.stock { Some(now) } else { self.restocked_at };
        Ok(Self { stock, free, owner, restocked_at, version: self.version + 1, ..self.clone() })
    }
}
