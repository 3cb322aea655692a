//! Outcomes within one process, where no service carries them to others: those look later.

use std::fmt;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::core::model::OrderId;
use crate::core::ports::notifier::{Outcomes, Waiters};

#[derive(Debug, Default)]
pub struct LocalOutcomes {
    waiters: OnceLock<Arc<Waiters>>,
}

impl fmt::Display for LocalOutcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("outcomes within this process")
    }
}

#[async_trait]
impl Outcomes for LocalOutcomes {
    async fn publish(&self, orders: &[OrderId]) {
        if let Some(waiters) = self.waiters.get() {
            waiters.wake(orders.iter().copied());
        }
    }

    /// Within the process, nothing can be away.
    async fn check(&self) -> Result<(), String> {
        Ok(())
    }

    async fn listen(&self, waiters: Arc<Waiters>, stop: CancellationToken) {
        self.waiters.get_or_init(|| waiters);
        stop.cancelled().await;
    }
}
