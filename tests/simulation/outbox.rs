//! The simulated webhook outbox: events are only put. Sending them is tested over real HTTP.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flux::core::model::Decided;
use flux::core::ports::dead_letters::{DlqAction, DlqFilter};
use flux::core::ports::webhook_outbox::{
    AttemptResult, DeadEvent, DueEvent, OutboxBacklog, OutboxError, WebhookOutbox,
};

use super::process::{Failed, Process};
use super::store::Store;
use super::world::Fault;

#[derive(Debug)]
pub struct SimWebhooks {
    pub process: Arc<Process>,
    pub store: Arc<Store>,
}

impl fmt::Display for SimWebhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated outbox")
    }
}

impl From<Failed> for OutboxError {
    fn from(failed: Failed) -> Self {
        OutboxError::Busy(format!("{failed:?}"))
    }
}

fn not_simulated<T>() -> Result<T, OutboxError> {
    Err(OutboxError::Broken("sending is not simulated".to_owned()))
}

#[async_trait]
impl WebhookOutbox for SimWebhooks {
    async fn begin(&self) -> Result<(), OutboxError> {
        Ok(())
    }

    async fn end(&self) -> Result<(), OutboxError> {
        not_simulated()
    }

    fn put_by_ledger(&self) -> bool {
        false
    }

    async fn put(&self, decided: &[Decided]) -> Result<(), OutboxError> {
        let world = self.store.world.clone();
        let batch = decided.to_vec();
        let put = move || {
            for one in &batch {
                if world.happens(Fault::PartialBatch) {
                    return false;
                }
                world.audit(|auditor| auditor.event_put(one));
            }
            true
        };
        if self.process.call(format!("puts events of {}", decided.len()), put).await? {
            return Ok(());
        }
        Err(OutboxError::Busy("some were not put".to_owned()))
    }

    async fn take(&self, _: usize, _: Duration, _: Duration) -> Result<Vec<DueEvent>, OutboxError> {
        not_simulated()
    }

    async fn record_results(&self, _: &[(DueEvent, AttemptResult)]) -> Result<(), OutboxError> {
        not_simulated()
    }

    async fn dead_letters(&self, _: usize) -> Result<Vec<DeadEvent>, OutboxError> {
        not_simulated()
    }

    async fn resolve_letters(&self, _: &DlqFilter, _: DlqAction) -> Result<usize, OutboxError> {
        not_simulated()
    }

    async fn waiting(&self) -> Result<OutboxBacklog, OutboxError> {
        not_simulated()
    }
}
