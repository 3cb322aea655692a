//! Whether the parts of a sale can be used, and what waits in its stores.

use std::time::Duration;

use tokio::time::timeout;

use super::request_id;
use crate::core::engine::Ports;
use crate::core::ports::ledger::LedgerError;
use crate::core::ports::queue::{Backlog, QueueError};
use crate::core::ports::webhook_outbox::Waiting;

/// A store that takes longer than this to say that it is there counts as away.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
pub(super) const OK: &str = "ok";

/// What the parts of a sale say of themselves; an error says why one that is needed cannot be used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Health {
    pub ledger: Result<(), &'static str>,
    pub queue: Result<(), &'static str>,
    pub lock: &'static str,
    pub notifier: &'static str,
}

/// What waits in the stores; `None` where a store does not say.
#[derive(Debug, Clone)]
pub(super) struct StoreCounts {
    pub backlog: Option<Backlog>,
    /// `None` without an outbox.
    pub webhooks: Option<Option<Waiting>>,
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
            None => "none: the sale goes on without",
            Some(lock) => besides(timeout(CHECK_TIMEOUT, lock.check()).await),
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
        ledger: needed("ledger", ledger),
        queue: needed("queue", queue),
        lock,
        notifier: besides(notifier),
    }
}

type InTime<E> = Result<Result<(), E>, tokio::time::error::Elapsed>;

/// What a part is that a sale can go on without.
fn besides<E>(checked: InTime<E>) -> &'static str {
    let well = matches!(checked, Ok(Ok(())));
    if well { OK } else { "not available: the sale goes on without, slower" }
}

/// Why a part that is needed cannot be used. The log says more than the caller may know.
fn needed(part: &'static str, checked: InTime<(&'static str, String)>) -> Result<(), &'static str> {
    let (cause, more) = match checked {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(told)) => told,
        Err(_) => ("does not answer", "no answer in time".to_owned()),
    };
    tracing::warn!(request_id = request_id::current(), "not ready: {part}: {more}");
    Err(cause)
}

fn ledger_cause(error: &LedgerError) -> (&'static str, String) {
    let cause = match error {
        LedgerError::Busy(_) => "is busy",
        LedgerError::OutcomeUnknown(_) => "does not answer",
        LedgerError::Broken(said) => broken(said),
    };
    (cause, error.to_string())
}

fn queue_cause(error: &QueueError) -> (&'static str, String) {
    let cause = match error {
        QueueError::Busy(_) | QueueError::Full(_) => "is busy",
        QueueError::OutcomeUnknown(_) => "does not answer",
        QueueError::Broken(said) => broken(said),
    };
    (cause, error.to_string())
}

fn broken(said: &str) -> &'static str {
    match said.contains("flux provision") {
        true => "does not exist: run `flux provision`",
        false => "cannot be used: the log says why",
    }
}
