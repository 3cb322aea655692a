//! Caches which items can be ordered, so that the hot path does not read the ledger for each order.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use lru::LruCache;

use super::problem::Problem;
use super::request_id;
use crate::core::model::{ItemId, Listing};
use crate::core::ports::ledger::Ledger;

/// Maximum cached listed items; the least recently inserted is evicted.
const ITEMS_MAX: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();
/// Maximum unlisted items that orders may create, where that is allowed: in the whole store if it
/// counts them, and among those for which this process accepted orders. Several processes that
/// accept first orders at the same moment can exceed it, each by its orders in flight.
const UNLISTED_MAX: usize = 1_000;

/// Why an order for an item is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotForSale {
    Unlisted,
    TooManyUnlisted,
    /// The ledger did not answer.
    Unknown,
}

/// The cached items. An item that is removed from the command line stays cached, which is harmless:
/// its orders are rejected when they are decided.
#[derive(Debug)]
pub(super) struct ItemCache {
    ledger: Arc<dyn Ledger>,
    /// Lookups use `contains`, which needs only the read lock and does not count as a use.
    listed: RwLock<LruCache<ItemId, ()>>,
    unlisted: Mutex<HashSet<ItemId>>,
}

impl ItemCache {
    pub fn new(ledger: Arc<dyn Ledger>) -> Self {
        let listed = RwLock::new(LruCache::sparse(ITEMS_MAX));
        Self { ledger, listed, unlisted: Mutex::default() }
    }

    /// Checks whether an order for the item is accepted; with `any`, also for an unlisted item.
    /// Reads the ledger if the item is not cached. With `any`, an order for an item that cannot be
    /// read is accepted: the decision checks the item again.
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

    /// Accepts an order for an item without a row in the ledger, up to [`UNLISTED_MAX`] items.
    async fn admit_unlisted(&self, item: &ItemId) -> Result<(), NotForSale> {
        // Without an answer only this process's own count limits them.
        let stored = self.ledger.unlisted_items().await.ok().flatten().unwrap_or(0);
        let mut unlisted = self.unlisted();
        // Items whose first order is in flight have no row yet.
        let count = stored.max(unlisted.len() as u64);
        if count >= UNLISTED_MAX as u64 && !unlisted.contains(item) {
            return Err(NotForSale::TooManyUnlisted);
        }
        unlisted.insert(item.clone());
        Ok(())
    }

    /// Caches an unlisted item that has a row, while there is room.
    fn remember_unlisted(&self, item: &ItemId) {
        let mut unlisted = self.unlisted();
        if unlisted.len() < UNLISTED_MAX {
            unlisted.insert(item.clone());
        }
    }

    /// Records that the item was listed.
    pub fn list(&self, item: &ItemId) {
        self.unlisted().remove(item);
        self.listed.write().unwrap_or_else(PoisonError::into_inner).put(item.clone(), ());
    }

    /// Records that the item was removed.
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
            NotForSale::Unlisted => Problem::not_found(format!("item not found: {LIST_IT}")),
            NotForSale::TooManyUnlisted => Problem::not_found(format!(
                "item not found, and orders have already created {UNLISTED_MAX} unlisted items: \
                 {LIST_IT}"
            )),
            NotForSale::Unknown => Problem::unavailable(
                "the ledger is unavailable, so the item cannot be checked; try again",
            ),
        }
    }
}
