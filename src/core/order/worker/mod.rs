//! The worker: receives deliveries, hands their orders to lanes, one per item, and acknowledges
//! what is decided.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Decided, ItemId};
use crate::core::Ports;

/// By what a worker works.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Stock of an item that nobody listed; 0 rejects its orders as `unknown_item`.
    pub unlisted_stock: u64,
    /// Items decided at once.
    pub concurrency: usize,
    /// How long a lock is held without being renewed.
    pub lease: Duration,
    /// How long a delivery stays invisible to others without being extended.
    pub visibility: Duration,
}

/// Told what happens, for a person to read along. Must not block.
pub trait Story: Debug + Send + Sync {
    fn lock_acquired(&self, item: &ItemId);
    /// About to be written.
    fn deciding(&self, decided: &[Decided]);
    /// Written for good.
    fn saved(&self, decided: &[Decided]);
}

#[derive(Debug)]
pub struct Worker {
    pub ports: Ports,
    pub rules: Rules,
    pub story: Arc<dyn Story>,
}

impl Worker {
    /// Works until stopped, then finishes what is begun, gives back the rest and ends.
    pub async fn run(self, stop: CancellationToken) {
        stop.cancelled().await;
    }
}
