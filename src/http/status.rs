//! `/stats`, `/healthz` and `/readyz`.

use std::sync::atomic::Ordering;

use hyper::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use super::health;
use super::health::{Health, OK, StoreCounts};
use super::problem;
use super::problem::Problem;
use super::response::Response;
use super::state::AppState;
use crate::core::engine::Ports;
use crate::core::metrics::Counter;
use crate::core::ports::queue::Backlog;
use crate::core::ports::webhook_outbox::OutboxBacklog;

/// Counts of this process, and of the queue (`backlog`, `oldest_ms`) and the outbox (`webhooks`).
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Stats")]
pub(super) struct StatsJson {
    #[schemars(extend("enum" = ["embedded", "aws"]))]
    backend: &'static str,
    uptime_s: u64,
    /// HTTP requests, including this one.
    requests: u64,
    /// Orders accepted (202).
    accepted: u64,
    /// Requests to `/buy` that were refused.
    refused: u64,
    /// Orders sold by this process; likewise the next three.
    sold: u64,
    rejected: u64,
    expired: u64,
    /// Undecided orders whose dead letters were dropped through this process.
    dropped: u64,
    /// Orders received by this process and not yet decided.
    in_hand: u64,
    /// Null if the queue did not answer.
    backlog: Option<Backlog>,
    /// Wait of the oldest queued order; null if none is queued, or the queue does not report it.
    oldest_ms: Option<u64>,
    connections: usize,
    /// Webhooks waiting to be sent, if webhooks are configured; null if the outbox did not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    webhooks: Option<Option<OutboxBacklog>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<&'static str>,
}

pub(super) async fn stats(state: &AppState) -> Response {
    let Ports { metrics, clock, .. } = &state.api.ports;
    let count = health::count_stores(&state.api.ports);
    let StoreCounts { backlog, webhooks } = state.store_counts.get(&(), None, count).await;
    let oldest = backlog.as_ref().and_then(|backlog| backlog.oldest);
    problem::json(
        StatusCode::OK,
        &StatsJson {
            backend: state.api.backend,
            uptime_s: state.started.elapsed().as_secs(),
            requests: state.requests.load(Ordering::Relaxed),
            accepted: metrics.accepted.get(),
            refused: metrics.refused.iter().map(Counter::get).sum(),
            sold: metrics.decisions.sold.get(),
            rejected: metrics.decisions.rejected().map(|(_, count)| count).sum(),
            expired: metrics.decisions.expired.get(),
            dropped: metrics.decisions.dropped.get(),
            in_hand: metrics.in_flight.get(),
            backlog,
            oldest_ms: oldest.map(|at| clock.now().since(at).as_millis() as u64),
            connections: state.connections(),
            webhooks,
            warning: warning(state),
        },
    )
}

fn warning(state: &AppState) -> Option<&'static str> {
    state.access.warning(state.address)
}

pub(super) fn healthz() -> Response {
    problem::json(StatusCode::OK, &json!({ "status": "ok" }))
}

/// Ready if the ledger and the queue are. Without the lock or the notifier sales continue, slower.
/// Workers are not checked, because orders are accepted without them.
pub(super) async fn readyz(state: &AppState) -> Result<Response, Problem> {
    if state.stop.is_cancelled() {
        return Err(Problem::stopping());
    }
    let check = health::check(&state.api.ports);
    let Health { ledger, queue, lock, notifier } = state.health_checks.get(&(), None, check).await;
    let services = [
        ("ledger", ledger.err().unwrap_or(OK)),
        ("queue", queue.err().unwrap_or(OK)),
        ("lock", lock),
        ("outcomes", notifier),
    ];
    if ledger.is_ok() && queue.is_ok() {
        let mut ready = json!({ "status": "ready" });
        services.into_iter().for_each(|(service, text)| ready[service] = text.into());
        if let Some(warning) = warning(state) {
            ready["warning"] = warning.into();
        }
        return Ok(problem::json(StatusCode::OK, &ready));
    }
    let problem = Problem::unavailable("not ready");
    Err(services
        .into_iter()
        .fold(problem, |problem, (service, text)| problem.with_member(service, text)))
}
