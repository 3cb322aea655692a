use super::{ItemId, Timestamp, UserId};

/// The most units an item can have.
pub const MAX_STOCK: u64 = 1_000_000_000_000;

/// What an organiser changes about an item; what is `None` stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ItemChange {
    pub stock: Option<u64>,
    pub closed: Option<bool>,
}

impl ItemChange {
    pub fn stock(stock: u64) -> Self {
        Self { stock: Some(stock), closed: None }
    }

    /// Closes the sale, or opens it again.
    pub fn closed(closed: bool) -> Self {
        Self { stock: None, closed: Some(closed) }
    }
}

/// Whether an organiser listed an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    Listed,
    /// Made by its first order, with the setting `unlisted_stock`.
    Unlisted,
    /// Taken away by the organiser before it had orders. Its row stays, so that an order that is
    /// still on its way does not make the item again.
    Removed,
}

/// What the ledger knows of an item. `free + held + sold = stock`, always.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub id: ItemId,
    pub stock: u64,
    pub free: u64,
    pub held: u64,
    pub sold: u64,
    /// Who bought a one-of-a-kind item (`stock` 1), once it is sold.
    pub owner: Option<UserId>,
    /// When its stock was last raised, if ever: a "sold out" from before it was right then.
    pub restocked_at: Option<Timestamp>,
    /// Since when its sale is closed, if it is: all of its orders are rejected.
    pub closed_at: Option<Timestamp>,
    pub listing: Listing,
    /// Counts the writes to this item; 0 is an item the ledger has no row of yet.
    pub version: u64,
    /// True if the row that this was read from did not fit its MAC. Kept by all that is written
    /// after it, so that the audit finds the change; a ledger that looks at the row when it writes
    /// leaves it false.
    pub altered: bool,
}

impl Item {
    /// A listed item nobody bought from yet and the ledger does not know yet.
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

    /// [`Item::new`], but nobody listed it.
    pub fn unlisted(id: ItemId, stock: u64) -> Self {
        Self { listing: Listing::Unlisted, ..Self::new(id, stock) }
    }

    pub fn is_removed(&self) -> bool {
        self.listing == Listing::Removed
    }

    /// `closed` says more than `sold_out`: a restock alone changes nothing about it.
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

    /// The item after a change, under the next version if that makes a difference; or the least
    /// stock that is possible when the one asked for is too low. Who gives a stock lists the item.
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

    /// The item as it stays when it is removed. Without stock, so that a process of a version that
    /// does not know removed items sells none of it either.
    pub fn removed(&self) -> Self {
        let version = self.version + 1;
        let altered = self.altered;
        Self { listing: Listing::Removed, version, altered, ..Self::new(self.id.clone(), 0) }
    }

    /// The item with another stock, or the least stock that is possible when it is too low.
    pub fn with_stock(&self, stock: u64, now: Timestamp) -> Result<Self, u64> {
        let taken = self.held + self.sold;
        let free = stock.checked_sub(taken).ok_or(taken)?;
        let owner = self.owner.clone().filter(|_| stock == 1);
        let restocked_at = if stock > self.stock { Some(now) } else { self.restocked_at };
        Ok(Self { stock, free, owner, restocked_at, version: self.version + 1, ..self.clone() })
    }
}
