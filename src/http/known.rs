//! Which items are listed, so that the hot path need not ask the ledger for each order.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use super::request_id;
use crate::core::ledger::Ledger;
use crate::core::order::ItemId;

/// How many items are remembered; past it, all are forgotten and asked for anew.
const KNOWN_MAX: usize = 65_536;

/// Remembers only that an item is listed: an item, once listed, stays so.
#[derive(Debug)]
pub(super) struct KnownItems {
    ledger: Arc<dyn Ledger>,
    listed: RwLock<HashSet<ItemId>>,
}

impl KnownItems {
    pub fn new(ledger: Arc<dyn Ledger>) -> Self {
        Self { ledger, listed: RwLock::default() }
    }

    /// Whether the item is listed. Yes when the ledger cannot say: the decision will.
    pub async fn contains(&self, item: &ItemId) -> bool {
        if self.listed.read().unwrap_or_else(PoisonError::into_inner).contains(item) {
            return true;
        }
        match self.ledger.item(item).await {
            Ok(None) => return false,
            Ok(Some(_)) => {}
            Err(e) => {
                let request_id = request_id::current();
                tracing::warn!(request_id, item_id = %item, "took an order without knowing its item: {e}");
                return true;
            }
        }
        let mut listed = self.listed.write().unwrap_or_else(PoisonError::into_inner);
        if listed.len() >= KNOWN_MAX {
            listed.clear();
        }
        listed.insert(item.clone());
        true
    }
}
