//! `/stats`, `/healthz` and `/readyz`.

use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;
use tokio::time::timeout;

use super::problem;
use super::problem::Problem;
use super::request_id;
use super::response::Answer;
use super::server::{Server, stopping};
use super::shared::Shared;
use crate::core::engine::Ports;
use crate::core::metrics::Counter;
use crate::core::ports::ledger::LedgerError;
use crate::core::ports::queue::{Backlog, QueueError};
use crate::core::ports::webhook_outbox::Waiting;

/// A store that takes longer than this to say that it is there counts as away.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
const OK: &str = "ok";

/// Counts of this process, except for the backlog, which is the queue's.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Stats")]
pub(super) struct StatsJson {
    #[schemars(extend("enum" = ["embedded", "aws"]))]
    backend: &'static str,
    uptime_s: u64,
    /// HTTP requests, these ones included.
    requests: u64,
    /// Orders answered 202.
    accepted: u64,
    /// Requests to `/buy` answered otherwise.
    refused: u64,
    /// Decided by this process.
    sold: u64,
    rejected: u64,
    expired: u64,
    /// Dead letters of undecided orders that were dropped through this process.
    dropped: u64,
    /// Received by this process and not yet decided.
    in_hand: u64,
    /// Null when the queue does not say.
    backlog: Option<Backlog>,
    /// How long the oldest waiting order has waited; null when none waits, or the queue does not say.
    oldest_ms: Option<u64>,
    connections: usize,
    /// Where a shop is told of decisions: null when the outbox does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    webhooks: Option<Option<Waiting>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<&'static str>,
}

impl Server {
    pub async fn stats(&self) -> Answer {
        let Ports { meters, clock, .. } = &self.api.ports;
        let counted = self.store_counts.get(&(), None, count_stores(&self.api.ports)).await;
        let (backlog, webhooks) = counted;
        let oldest = backlog.as_ref().and_then(|backlog| backlog.oldest);
        problem::json(
            StatusCode::OK,
            &StatsJson {
                backend: self.api.backend,
                uptime_s: self.started.elapsed().as_secs(),
                requests: self.requests.load(Ordering::Relaxed),
                accepted: meters.accepted.get(),
                refused: meters.refused.iter().map(Counter::get).sum(),
                sold: meters.outcomes.sold.get(),
                rejected: meters.outcomes.rejected().map(|(_, count)| count).sum(),
                expired: meters.outcomes.expired.get(),
                dropped: meters.outcomes.dropped.get(),
                in_hand: meters.in_hand.get(),
                backlog,
                oldest_ms: oldest.map(|at| clock.now().since(at).as_millis() as u64),
                connections: self.connections(),
                webhooks,
                warning: self.warning(),
            },
        )
    }

    fn warning(&self) -> Option<&'static str> {
        self.api.access.warning(self.address)
    }

    pub fn healthz(&self) -> Answer {
        problem::json(StatusCode::OK, &json!({ "status": "ok" }))
    }

    /// Ready when ledger and queue are. Without its lock or its hints of outcomes a sale is slower,
    /// but goes on; and buyers are served whether or not a worker is there.
    pub async fn readyz(&self) -> Result<Answer, Problem> {
        if self.stop.is_cancelled() {
            return Err(stopping());
        }
        let check = check(&self.api.ports);
        let Checked { ledger, queue, lock, outcomes } = self.checks.get(&(), None, check).await;
        let parts = [("ledger", ledger.err().unwrap_or(OK)), ("queue", queue.err().unwrap_or(OK))];
        let others = [("lock", lock), ("outcomes", outcomes)];
        let parts = parts.into_iter().chain(others);
        if ledger.is_ok() && queue.is_ok() {
            let mut ready = json!({ "status": "ready" });
            parts.for_each(|(part, says)| ready[part] = says.into());
            if let Some(warning) = self.warning() {
                ready["warning"] = warning.into();
            }
            return Ok(problem::json(StatusCode::OK, &ready));
        }
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not ready");
        Err(parts.fold(problem, |problem, (part, says)| problem.with_member(part, says)))
    }
}

/// What the parts of a sale say of themselves; an error says why one that is needed cannot be used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checked {
    ledger: Result<(), &'static str>,
    queue: Result<(), &'static str>,
    lock: &'static str,
    outcomes: &'static str,
}

/// Everybody may ask for these, so they are read once a second at most.
pub(super) type Checks = Shared<(), Checked>;
pub(super) type StoreCounts = Shared<(), (Option<Backlog>, Option<Option<Waiting>>)>;
const FRESH: Duration = Duration::from_secs(1);

pub(super) fn checks() -> Checks {
    Shared::new(NonZeroUsize::MIN, FRESH, |_| true)
}

pub(super) fn store_counts() -> StoreCounts {
    Shared::new(NonZeroUsize::MIN, FRESH, |_| true)
}

async fn count_stores(ports: &Ports) -> (Option<Backlog>, Option<Option<Waiting>>) {
    let backlog = timeout(CHECK_TIMEOUT, ports.queue.backlog()).await.ok().and_then(Result::ok);
    let webhooks = match &ports.webhooks {
        None => None,
        Some(outbox) => {
            Some(timeout(CHECK_TIMEOUT, outbox.waiting()).await.ok().and_then(Result::ok))
        }
    };
    (backlog, webhooks)
}

async fn check(ports: &Ports) -> Checked {
    let lock = async {
        match &ports.lock {
            None => "none: the sale goes on without",
            Some(lock) => besides(timeout(CHECK_TIMEOUT, lock.check()).await),
        }
    };
    let (ledger, queue, lock, outcomes) = tokio::join!(
        timeout(CHECK_TIMEOUT, ports.ledger.check()),
        timeout(CHECK_TIMEOUT, ports.queue.check()),
        lock,
        timeout(CHECK_TIMEOUT, ports.outcomes.check()),
    );
    let ledger = ledger.map(|checked| checked.map_err(|e| ledger_cause(&e)));
    let queue = queue.map(|checked| checked.map_err(|e| queue_cause(&e)));
    Checked {
        ledger: needed("ledger", ledger),
        queue: needed("queue", queue),
        lock,
        outcomes: besides(outcomes),
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
