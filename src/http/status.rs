//! `/stats`, `/healthz` and `/readyz`.

use std::fmt::Display;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;
use tokio::time::timeout;

use super::answer::Answer;
use super::problem::{self, Problem};
use super::server::Server;
use crate::core::Ports;
use crate::core::meters::Counter;
use crate::core::queue::Backlog;
use crate::core::webhooks::Waiting;

/// A store that takes longer than this to say that it is there counts as away.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

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
}

impl Server {
    pub async fn stats(&self) -> Answer {
        let Ports { queue, meters, clock, .. } = &self.api.ports;
        let backlog = timeout(CHECK_TIMEOUT, queue.backlog()).await.ok().and_then(Result::ok);
        let webhooks = match &self.api.ports.webhooks {
            None => None,
            Some(outbox) => {
                Some(timeout(CHECK_TIMEOUT, outbox.waiting()).await.ok().and_then(Result::ok))
            }
        };
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
                in_hand: meters.in_hand.get(),
                backlog,
                oldest_ms: oldest.map(|at| clock.now().since(at).as_millis() as u64),
                connections: self.connections(),
                webhooks,
            },
        )
    }

    pub fn healthz(&self) -> Answer {
        problem::json(StatusCode::OK, &json!({ "status": "ok" }))
    }

    /// Ready when ledger and queue are. Without its lock a sale is slower, but goes on.
    pub async fn readyz(&self) -> Result<Answer, Problem> {
        let ports = &self.api.ports;
        let (ledger, queue) = tokio::join!(
            timeout(CHECK_TIMEOUT, ports.ledger.check()),
            timeout(CHECK_TIMEOUT, ports.queue.check()),
        );
        usable("ledger", ledger)?;
        usable("queue", queue)?;
        let lock = match &ports.lock {
            None => "none: the sale goes on without",
            Some(lock) => match timeout(CHECK_TIMEOUT, lock.check()).await {
                Ok(Ok(())) => "ok",
                _ => "not available: the sale goes on without, slower",
            },
        };
        let ready = json!({ "status": "ready", "ledger": "ok", "queue": "ok", "lock": lock });
        Ok(problem::json(StatusCode::OK, &ready))
    }
}

fn usable<E: Display>(
    store: &'static str,
    checked: Result<Result<(), E>, tokio::time::error::Elapsed>,
) -> Result<(), Problem> {
    let cause = match checked {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(e)) => e.to_string(),
        Err(_) => "no answer in time".to_owned(),
    };
    tracing::warn!("not ready: {store}: {cause}");
    let detail = format!("not ready: the {store} cannot be used; the log says why");
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail))
}
