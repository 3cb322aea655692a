//! Which items may be ordered, so that the hot path need not ask the ledger for each order.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use lru::LruCache;

use super::problem::Problem;
use super::request_id;
use crate::core::model::{ItemId, Listing};
use crate::core::ports::ledger::Ledger;

/// How many listed items are remembered, those that were listed or looked up last.
const ITEMS_MAX: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();
/// Items that nobody listed and that are sold all the same, where that is allowed: of the whole
/// store if it counts them, and of those that this process took orders for. Several processes that
/// take first orders at the same moment may go past it, each by what is on its way.
const UNLISTED_MAX: usize = 1_000;

/// Why an order for an item is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotForSale {
    Unlisted,
    TooManyUnlisted,
    /// The ledger does not say whether there is such an item.
    Unknown,
}

/// Remembers items that may be ordered. One that is removed from the command line is remembered on:
/// the decision knows.
#[derive(Debug)]
pub(super) struct ItemCache {
    ledger: Arc<dyn Ledger>,
    /// Reads do not touch its order, so that they share the lock.
    listed: RwLock<LruCache<ItemId, ()>>,
    unlisted: Mutex<HashSet<ItemId>>,
}

impl ItemCache {
    pub fn new(ledger: Arc<dyn Ledger>) -> Self {
        let listed = RwLock::new(LruCache::sparse(ITEMS_MAX));
        Self { ledger, listed, unlisted: Mutex::default() }
    }

    /// Whether an order for the item may be accepted; `any`: also if nobody listed it.
    pub async fn admit(&self, item: &ItemId, any: bool) -> Result<(), NotForSale> {
        if self.listed.read().unwrap_or_else(PoisonError::into_inner).contains(item) {
            return Ok(());
        }
        if any && self.unlisted().contains(item) {
            return Ok(());
        }
        match self.ledger.item(item).await {
            Ok(Some(found)) => match found.listing {
                Listing::Listed => {
                    self.list(item);
                    Ok(())
                }
                Listing::Unlisted if any => {
                    self.remember_unlisted(item);
                    Ok(())
                }
                Listing::Unlisted | Listing::Removed => Err(NotForSale::Unlisted),
            },
            Ok(None) if any => self.admit_unlisted(item).await,
            Ok(None) => Err(NotForSale::Unlisted),
            Err(e) => {
                let request_id = request_id::current();
                tracing::warn!(request_id, item_id = %item, "item lookup failed: {e}");
                if any { self.admit_unlisted(item).await } else { Err(NotForSale::Unknown) }
            }
        }
    }

    /// An order for an item without a row.
    async fn admit_unlisted(&self, item: &ItemId) -> Result<(), NotForSale> {
        // A store that does not answer does not count.
        let stored = self.ledger.unlisted_items().await.ok().flatten().unwrap_or(0);
        let mut unlisted = self.unlisted();
        // Those whose first order is on its way have no row yet.
        let count = stored.max(unlisted.len() as u64);
        if count >= UNLISTED_MAX as u64 && !unlisted.contains(item) {
            return Err(NotForSale::TooManyUnlisted);
        }
        unlisted.insert(item.clone());
        Ok(())
    }

    /// Saves the next order a look, while there is room.
    fn remember_unlisted(&self, item: &ItemId) {
        let mut unlisted = self.unlisted();
        if unlisted.len() < UNLISTED_MAX {
            unlisted.insert(item.clone());
        }
    }

    /// The item was listed.
    pub fn list(&self, item: &ItemId) {
        self.unlisted().remove(item);
        self.listed.write().unwrap_or_else(PoisonError::into_inner).put(item.clone(), ());
    }

    /// The item was removed.
    pub fn forget(&self, item: &ItemId) {
        self.listed.write().unwrap_or_else(PoisonError::into_inner).pop(item);
        self.unlisted().remove(item);
    }

    fn unlisted(&self) -> MutexGuard<'_, HashSet<ItemId>> {
        self.unlisted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<NotForSale> for Problem {
    fn from(why: NotForSale) -> Self {
        const LIST_IT: &str = "list it with flux provision --item ID --stock N, or PUT /items/ID";
        match why {
            NotForSale::Unlisted => Problem::not_found(format!("there is no such item: {LIST_IT}")),
            NotForSale::TooManyUnlisted => Problem::not_found(format!(
                "there is no such item, and orders have made {UNLISTED_MAX} items already that \
                 nobody listed: {LIST_IT}"
            )),
            NotForSale::Unknown => Problem::unavailable(
                "the ledger does not say whether there is such an item; try again",
            ),
        }
    }
}
