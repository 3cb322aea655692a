use super::{ItemId, Timestamp, UserId};

/// The most units an item can have.
pub const MAX_STOCK: u64 = 1_000_000_000_000;

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
    /// Counts the writes to this item; 0 is an item the ledger has no row of yet.
    pub version: u64,
}

impl Item {
    /// An item nobody bought from yet and the ledger does not know yet.
    pub fn new(id: ItemId, stock: u64) -> Self {
        let (free, owner, restocked_at) = (stock, None, None);
        Self { id, stock, free, held: 0, sold: 0, owner, restocked_at, version: 0 }
    }

    pub fn status(&self) -> &'static str {
        if self.free == 0 { "sold_out" } else { "open" }
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
