//! What a buyer observes of an order, and the buyers who wait for a decision.

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

/// Connections on which buyers wait; further ones queue, and that counts as time to decision.
const WAITING_CONNECTIONS: usize = 128;
const POLL_PAUSE: Duration = Duration::from_millis(200);

/// An order's state as somebody saw it.
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

/// An accepted order whose buyer waits to see the decision.
#[derive(Debug, Clone, Copy)]
pub(super) struct WaitingBuyer {
    pub order: OrderId,
    /// The time to decision counts from here.
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
    /// Looks at an order, waiting up to `wait` seconds for its decision. What cannot be read
    /// (a refusal, another status) is a `Waiting`: to be looked at again.
    pub(super) async fn observe(
        &mut self,
        order: OrderId,
        wait: u32,
    ) -> Result<ObservedState, Unanswered> {
        let answer = self.get(&format!("/orders/{order}?wait={wait}")).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(ObservedState::Missing);
        }
        let Ok(shown) = serde_json::from_slice::<OrderBody<'_>>(&answer.body) else {
            return Ok(ObservedState::Waiting);
        };
        if shown.status == "dead_lettered" {
            return Ok(ObservedState::DeadLettered);
        }
        let decision = Decision::from_parts(&shown.status, shown.reason.as_deref());
        Ok(decision.map_or(ObservedState::Waiting, ObservedState::Decided))
    }
}

/// What the waiting buyers were told first, in no order, and after how long.
#[derive(Debug)]
pub(super) struct FirstDecisions {
    pub decisions: Vec<(OrderId, Decision)>,
    pub latency: LatencyHistogram,
    pub timeline: Timeline,
    /// Buyers who never saw their decision.
    pub unseen: u64,
}

impl FirstDecisions {
    fn new() -> Self {
        let decisions = Vec::new();
        let latency = LatencyHistogram::new();
        Self { decisions, latency, timeline: Timeline::default(), unseen: 0 }
    }
}

struct ObservedDecision {
    order: OrderId,
    decision: Decision,
    at: Instant,
    latency: Duration,
}

/// Serves the waiting buyers until none comes any more and each has seen its decision, or until
/// `over`.
pub(super) async fn wait_for_decisions(
    address: Address,
    began: Instant,
    mut waiting: UnboundedReceiver<WaitingBuyer>,
    over: CancellationToken,
) -> FirstDecisions {
    let slots = Arc::new(Semaphore::new(WAITING_CONNECTIONS));
    let idle = Arc::new(Mutex::new(Vec::<Connection>::new()));
    let mut waits = JoinSet::new();
    let mut first = FirstDecisions::new();
    let mut note = |seen: Result<Option<ObservedDecision>, JoinError>| match seen
        .expect("a waiting buyer does not panic")
    {
        None => first.unseen += 1,
        Some(ObservedDecision { order, decision, at, latency }) => {
            first.decisions.push((order, decision));
            first.latency.record(latency);
            first.timeline.at(at - began).seen += 1;
        }
    };
    while let Some(WaitingBuyer { order, scheduled }) = waiting.recv().await {
        let slot = slots.clone().acquire_owned().await.expect("never closed");
        let free = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = free.unwrap_or_else(|| Connection::to(&address));
        let idle = idle.clone();
        let over = over.clone();
        waits.spawn(async move {
            let _slot = slot;
            let decision = over.run_until_cancelled(await_decision(&mut connection, order)).await?;
            let at = Instant::now();
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            Some(ObservedDecision { order, decision, at, latency: at - scheduled })
        });
        while let Some(seen) = waits.try_join_next() {
            note(seen);
        }
    }
    while let Some(seen) = waits.join_next().await {
        note(seen);
    }
    first
}

async fn await_decision(connection: &mut Connection, order: OrderId) -> Decision {
    loop {
        match connection.observe(order, 30).await {
            Ok(ObservedState::Decided(decision)) => return decision,
            Ok(_) | Err(_) => tokio::time::sleep(POLL_PAUSE).await,
        }
    }
}

/// How many of these orders are answered otherwise now than they were first.
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
