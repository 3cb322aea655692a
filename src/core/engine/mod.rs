//! Processes orders: the intake accepts them, and the worker's lanes decide them.

pub mod dropped;
pub mod failpoints;
pub mod heartbeat;
pub mod intake;
pub mod message;
pub mod redrive;
pub mod tracer;
pub mod worker;

use std::sync::Arc;

use super::metrics::Metrics;
use super::model::{Clock, IdSource, OrderIds};
use super::ports::{heartbeats, idempotency, ledger, lock, notifier, queue, usage, webhook_outbox};
use tracer::Tracer;

/// The ports of one process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ports {
    pub queue: Arc<dyn queue::Queue>,
    pub ledger: Arc<dyn ledger::Ledger>,
    /// `None` decides without a lock: slower under contention, and as safe.
    pub lock: Option<Arc<dyn lock::Lock>>,
    pub notifier: Arc<dyn notifier::Notifier>,
    /// `None` if the queue itself detects reused keys.
    pub idempotency: Option<Arc<dyn idempotency::IdempotencyStore>>,
    /// `None` if no webhooks are configured.
    pub webhooks: Option<Arc<dyn webhook_outbox::WebhookOutbox>>,
    pub order_ids: Arc<OrderIds>,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn IdSource>,
    pub calls: Arc<usage::Calls>,
    pub metrics: Arc<Metrics>,
    pub heartbeats: Arc<dyn heartbeats::Heartbeats>,
    pub tracer: Tracer,
}

impl Ports {
    /// The outbox into which the events of decided orders must be put before the orders are
    /// acknowledged. `None` if the ledger puts them itself, or no webhooks are configured.
    pub fn outbox_before_ack(&self) -> Option<&Arc<dyn webhook_outbox::WebhookOutbox>> {
        self.webhooks.as_ref().filter(|webhooks| !webhooks.put_by_ledger())
    }
}
