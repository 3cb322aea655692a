//! The notifier within one process. Subscribers in other processes are not notified; they find the
//! decision when they read the ledger again.

use std::fmt;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::core::model::OrderId;
use crate::core::ports::notifier::{Notifier, Subscribers};

#[derive(Debug, Default)]
pub struct MemoryNotifier {
    subscribers: OnceLock<Arc<Subscribers>>,
}

impl fmt::Display for MemoryNotifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("notifications within this process")
    }
}

#[async_trait]
impl Notifier for MemoryNotifier {
    async fn publish(&self, orders: &[OrderId]) {
        if let Some(subscribers) = self.subscribers.get() {
            subscribers.wake(orders.iter().copied());
        }
    }

    /// It is always available.
    async fn check(&self) -> Result<(), String> {
        Ok(())
    }

    async fn listen(&self, subscribers: Arc<Subscribers>, stop: CancellationToken) {
        self.subscribers.get_or_init(|| subscribers);
        stop.cancelled().await;
    }
}
