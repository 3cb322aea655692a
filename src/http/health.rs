//! Health checks of the services, and counts of what is queued.

use std::time::Duration;

use tokio::time::timeout;

use super::request_id;
use crate::core::engine::Ports;
use crate::core::ports::ledger::LedgerError;
use crate::core::ports::queue::{Backlog, QueueError};
use crate::core::ports::webhook_outbox::OutboxBacklog;

/// A service that takes longer to answer counts as unavailable.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
pub(super) const OK: &str = "ok";

/// The state of each service. For a required service the error is the cause, in words for clients.
#[derive(Debug, Clone, Copy)]
pub(super) struct Health {
    pub ledger: Result<(), &'static str>,
    pub queue: Result<(), &'static str>,
    pub lock: &'static str,
    pub notifier: &'static str,
}

/// What is queued; `None` where the store did not answer.
#[derive(Debug, Clone)]
pub(super) struct StoreCounts {
    pub backlog: Option<Backlog>,
    /// `None` without an outbox; `Some(None)` if the outbox did not answer.
    pub webhooks: Option<Option<OutboxBacklog>>,
}

pub(super) async fn count_stores(ports: &Ports) -> StoreCounts {
    let backlog = timeout(CHECK_TIMEOUT, ports.queue.backlog()).await.ok().and_then(Result::ok);
    let webhooks = match &ports.webhooks {
        None => None,
        Some(outbox) => {
            Some(timeout(CHECK_TIMEOUT, outbox.waiting()).await.ok().and_then(Result::ok))
        }
    };
    StoreCounts { backlog, webhooks }
}

pub(super) async fn check(ports: &Ports) -> Health {
    let lock = async {
        match &ports.lock {
            None => "not configured: sales continue without it",
            Some(lock) => optional_service(timeout(CHECK_TIMEOUT, lock.check()).await),
        }
    };
    let (ledger, queue, lock, notifier) = tokio::join!(
        timeout(CHECK_TIMEOUT, ports.ledger.check()),
        timeout(CHECK_TIMEOUT, ports.queue.check()),
        lock,
        timeout(CHECK_TIMEOUT, ports.notifier.check()),
    );
    let ledger = ledger.map(|checked| checked.map_err(|e| ledger_cause(&e)));
    let queue = queue.map(|checked| checked.map_err(|e| queue_cause(&e)));
    Health {
        ledger: required_service("ledger", ledger),
        queue: required_service("queue", queue),
        lock,
        notifier: optional_service(notifier),
    }
}

type InTime<E> = Result<Result<(), E>, tokio::time::error::Elapsed>;

fn optional_service<E>(checked: InTime<E>) -> &'static str {
    let is_available = matches!(checked, Ok(Ok(())));
    if is_available { OK } else { "unavailable: sales continue without it, slower" }
}

/// Logs the whole error and returns the part of it that clients may know.
fn required_service(
    service: &'static str,
    checked: InTime<(&'static str, String)>,
) -> Result<(), &'static str> {
    let (cause, error) = match checked {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(causes)) => causes,
        Err(_) => ("does not answer", "no answer in time".to_owned()),
    };
    tracing::warn!(request_id = request_id::current(), "not ready: {service}: {error}");
    Err(cause)
}

/// The cause in words for clients, and the whole error for the log.
fn ledger_cause(error: &LedgerError) -> (&'static str, String) {
    let cause = match error {
        LedgerError::Busy(_) => "is busy",
        LedgerError::OutcomeUnknown(_) => "does not answer",
        LedgerError::Broken(text) => broken(text),
    };
    (cause, error.to_string())
}

fn queue_cause(error: &QueueError) -> (&'static str, String) {
    let cause = match error {
        QueueError::Busy(_) | QueueError::Full(_) => "is busy",
        QueueError::OutcomeUnknown(_) => "does not answer",
        QueueError::Broken(text) => broken(text),
    };
    (cause, error.to_string())
}

fn broken(text: &str) -> &'static str {
    match text.contains("flux provision") {
        true => "does not exist: run `flux provision`",
        false => "unusable: see the log of this process",
    }
}
