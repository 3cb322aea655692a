//! The road of an order: accepted by the intake, queued, decided by the worker's lanes.

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

/// The ports that a process of flux works with. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ports {
    pub queue: Arc<dyn queue::Queue>,
    pub ledger: Arc<dyn ledger::Ledger>,
    /// `None`: decide without a lock. Slower under contention, as safe as with it.
    pub lock: Option<Arc<dyn lock::Lock>>,
    pub notifier: Arc<dyn notifier::Notifier>,
    /// `None` where the queue itself notices a reused key.
    pub idempotency: Option<Arc<dyn idempotency::IdempotencyStore>>,
    /// `None` where no shop wants to be told of decisions.
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
    /// The outbox that whoever acknowledges orders must tell of their decisions before; `None`
    /// where the ledger does so itself, or nobody wants to know.
    pub fn outbox_before_ack(&self) -> Option<&Arc<dyn webhook_outbox::WebhookOutbox>> {
        self.webhooks.as_ref().filter(|webhooks| !webhooks.put_by_ledger())
    }
}
