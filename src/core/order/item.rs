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
    /// Counts the writes to this item; 0 is an item the ledger has no row of yet.
    pub version: u64,
    /// True if the row that this was read from did not fit its MAC. Kept by all that is written
    /// after it, so that the audit finds the change; a ledger that looks at the row when it writes
    /// leaves it false.
    pub altered: bool,
}

impl Item {
    /// An item nobody bought from yet and the ledger does not know yet.
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
            version: 0,
            altered: false,
        }
    }

    /// `closed` says more than `sold_out`: a restock alone changes nothing about it.
    pub fn status(&self) -> &'static str {
        match self.closed_at {
            Some(_) => "closed",
            None if self.free == 0 => "sold_out",
            None => "open",
        }
    }

    /// Whether each of its orders gets a "no", whatever it asks for, until somebody changes the
    /// item.
    pub fn turns_all_away(&self) -> bool {
        self.free == 0 || self.closed_at.is_some()
    }

    /// The item after a change, under the next version if that makes a difference; or the least
    /// stock that is possible when the one asked for is too low.
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
        Ok(item)
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
