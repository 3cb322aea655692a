//! The simulated outbox of webhooks, as one process sees it: only that events get into it. What
//! then sends them is tested over real HTTP.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flux::core::model::Decided;
use flux::core::ports::dead_letters::DlqFilter;
use flux::core::ports::webhook_outbox::{
    AttemptResult, DueEvent, Letter, OutboxError, Waiting, WebhookOutbox,
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

fn nobody_sends<T>() -> Result<T, OutboxError> {
    Err(OutboxError::Broken("nobody sends in a simulation".to_owned()))
}

#[async_trait]
impl WebhookOutbox for SimWebhooks {
    async fn begin(&self) -> Result<(), OutboxError> {
        Ok(())
    }

    async fn end(&self) -> Result<(), OutboxError> {
        nobody_sends()
    }

    fn put_by_ledger(&self) -> bool {
        false
    }

    async fn put(&self, decided: &[Decided]) -> Result<(), OutboxError> {
        let (world, batch) = (self.store.world.clone(), decided.to_vec());
        let put = move || {
            for one in &batch {
                if world.happens(Fault::PartialBatch) {
                    return false;
                }
                world.audit(|auditor| auditor.told(one));
            }
            true
        };
        if self.process.call(format!("tells of {}", decided.len()), put).await? {
            return Ok(());
        }
        Err(OutboxError::Busy("some were not put".to_owned()))
    }

    async fn take(&self, _: usize, _: Duration, _: Duration) -> Result<Vec<DueEvent>, OutboxError> {
        nobody_sends()
    }

    async fn record_results(&self, _: &[(DueEvent, AttemptResult)]) -> Result<(), OutboxError> {
        nobody_sends()
    }

    async fn dead_letters(&self, _: usize) -> Result<Vec<Letter>, OutboxError> {
        nobody_sends()
    }

    async fn redrive(&self, _: &DlqFilter) -> Result<usize, OutboxError> {
        nobody_sends()
    }

    async fn drop_letters(&self, _: &DlqFilter) -> Result<usize, OutboxError> {
        nobody_sends()
    }

    async fn waiting(&self) -> Result<Waiting, OutboxError> {
        nobody_sends()
    }
}
