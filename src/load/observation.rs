//! An order's state as a buyer observes it, and the buyers that wait for a decision.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::stats::LatencyHistogram;
use super::timeline::Timeline;
use crate::client::{Address, Connection, Unanswered};
use crate::core::model::{Decision, OrderId};
use crate::core::ports::ledger::OrderState;

/// Connections on which buyers wait. If all are in use, further buyers queue for one, which counts
/// as time to decision.
const WAITING_CONNECTIONS: usize = 128;
const POLL_PAUSE: Duration = Duration::from_millis(200);
/// Seconds that one request waits for the order's decision.
const WAIT_S: u32 = 30;

/// An order's state as it was observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ObservedState {
    Waiting,
    Missing,
    DeadLettered,
    Decided(Decision),
}

impl From<OrderState> for ObservedState {
    fn from(state: OrderState) -> Self {
        match state {
            OrderState::Queued => ObservedState::Waiting,
            OrderState::DeadLettered => ObservedState::DeadLettered,
            OrderState::Decided { decision, .. } => ObservedState::Decided(decision),
        }
    }
}

/// An accepted order whose buyer waits for the decision.
#[derive(Debug, Clone, Copy)]
pub(super) struct WaitingBuyer {
    pub order: OrderId,
    /// Start of the time to decision.
    pub scheduled: Instant,
}

#[derive(Deserialize)]
struct OrderBody<'a> {
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(borrow, default)]
    reason: Option<Cow<'a, str>>,
}

impl Connection {
    /// Reads an order, waiting up to `wait` seconds for its decision. A response without a state
    /// (such as a 503) is returned as `Waiting`, so the caller reads the order again.
    pub(super) async fn observe(
        &mut self,
        order: OrderId,
        wait: u32,
    ) -> Result<ObservedState, Unanswered> {
        let answer = self.get(&format!("/orders/{order}?wait={wait}")).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(ObservedState::Missing);
        }
        let Ok(order) = serde_json::from_slice::<OrderBody<'_>>(&answer.body) else {
            return Ok(ObservedState::Waiting);
        };
        if order.status == "dead_lettered" {
            return Ok(ObservedState::DeadLettered);
        }
        let decision = Decision::from_parts(&order.status, order.reason.as_deref());
        Ok(decision.map_or(ObservedState::Waiting, ObservedState::Decided))
    }
}

/// The first decisions that the waiting buyers received, in no particular order.
#[derive(Debug)]
pub(super) struct FirstDecisions {
    pub decisions: Vec<(OrderId, Decision)>,
    pub latency: LatencyHistogram,
    pub timeline: Timeline,
    /// Waiting buyers that never received their decision.
    pub unanswered: u64,
}

impl FirstDecisions {
    fn new() -> Self {
        let decisions = Vec::new();
        let latency = LatencyHistogram::new();
        Self { decisions, latency, timeline: Timeline::default(), unanswered: 0 }
    }

    fn add(&mut self, observed: Option<ObservedDecision>, began: Instant) {
        let Some(ObservedDecision { order, decision, at, latency }) = observed else {
            self.unanswered += 1;
            return;
        };
        self.decisions.push((order, decision));
        self.latency.record(latency);
        self.timeline.at(at - began).observed += 1;
    }
}

struct ObservedDecision {
    order: OrderId,
    decision: Decision,
    at: Instant,
    latency: Duration,
}

/// Waits for the decisions of the buyers in `waiting`, until its sender is dropped and each buyer
/// has its decision, or until `stop`.
pub(super) async fn wait_for_decisions(
    address: Address,
    began: Instant,
    mut waiting: UnboundedReceiver<WaitingBuyer>,
    stop: CancellationToken,
) -> FirstDecisions {
    let slots = Arc::new(Semaphore::new(WAITING_CONNECTIONS));
    let idle = Arc::new(Mutex::new(Vec::<Connection>::new()));
    let mut waits = JoinSet::new();
    let mut first = FirstDecisions::new();
    let mut add = |ended: Result<Option<ObservedDecision>, JoinError>| {
        first.add(ended.expect("a waiting buyer does not panic"), began);
    };
    while let Some(WaitingBuyer { order, scheduled }) = waiting.recv().await {
        let slot = slots.clone().acquire_owned().await.expect("never closed");
        let free = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = free.unwrap_or_else(|| Connection::to(&address));
        let idle = idle.clone();
        let stop = stop.clone();
        waits.spawn(async move {
            let _slot = slot;
            let decision = stop.run_until_cancelled(await_decision(&mut connection, order)).await?;
            let at = Instant::now();
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            Some(ObservedDecision { order, decision, at, latency: at - scheduled })
        });
        while let Some(ended) = waits.try_join_next() {
            add(ended);
        }
    }
    while let Some(ended) = waits.join_next().await {
        add(ended);
    }
    first
}

async fn await_decision(connection: &mut Connection, order: OrderId) -> Decision {
    loop {
        match connection.observe(order, WAIT_S).await {
            Ok(ObservedState::Decided(decision)) => return decision,
            Ok(_) | Err(_) => tokio::time::sleep(POLL_PAUSE).await,
        }
    }
}

/// Counts the orders whose decision now differs from the first one.
pub(super) async fn changed_since(
    address: &Address,
    first: &[(OrderId, Decision)],
) -> Result<u64, Unanswered> {
    let mut connection = Connection::to(address);
    let mut changed = 0;
    for (order, decision) in first {
        let now = connection.observe(*order, 0).await?;
        changed += u64::from(now != ObservedState::Decided(*decision));
    }
    Ok(changed)
}
