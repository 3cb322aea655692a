//! What a buyer sees of an order, and the buyers who wait to see it.

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

use super::buyers::Waiting;
use super::connection::{Address, Connection, Unanswered};
use super::course::Counts;
use super::tally::Latency;
use crate::core::model::{Decision, OrderId};
use crate::core::ports::ledger::OrderState;

/// Connections on which buyers wait; further ones queue, and that counts as time to decision.
const WAITING_CONNECTIONS: usize = 128;
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// An order's state as somebody saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    Waiting,
    Missing,
    DeadLettered,
    Decided(Decision),
}

impl From<OrderState> for Sight {
    fn from(state: OrderState) -> Self {
        match state {
            OrderState::Queued => Sight::Waiting,
            OrderState::DeadLettered => Sight::DeadLettered,
            OrderState::Decided { decision, .. } => Sight::Decided(decision),
        }
    }
}

#[derive(Deserialize)]
struct Shown<'a> {
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(borrow, default)]
    reason: Option<Cow<'a, str>>,
}

impl Connection {
    /// Looks at an order, waiting up to `wait` seconds for its decision. What cannot be read
    /// (a refusal, another status) is a `Waiting`: to be looked at again.
    pub(super) async fn look(&mut self, order: OrderId, wait: u32) -> Result<Sight, Unanswered> {
        let answer = self.get(&format!("/orders/{order}?wait={wait}")).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(Sight::Missing);
        }
        let Ok(shown) = serde_json::from_slice::<Shown<'_>>(&answer.body) else {
            return Ok(Sight::Waiting);
        };
        if shown.status == "dead_lettered" {
            return Ok(Sight::DeadLettered);
        }
        let decision = Decision::from_parts(&shown.status, shown.reason.as_deref());
        Ok(decision.map_or(Sight::Waiting, Sight::Decided))
    }
}

/// What the waiting buyers were told first, in no order, and after how long.
#[derive(Debug)]
pub(super) struct FirstSights {
    pub decisions: Vec<(OrderId, Decision)>,
    pub latency: Latency,
    pub counts: Counts,
    /// Buyers who never saw their decision.
    pub unseen: u64,
}

impl FirstSights {
    fn new() -> Self {
        let (latency, counts) = (Latency::new(), Counts::default());
        Self { decisions: Vec::new(), latency, counts, unseen: 0 }
    }
}

struct Seen {
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
    mut waiting: UnboundedReceiver<Waiting>,
    over: CancellationToken,
) -> FirstSights {
    let slots = Arc::new(Semaphore::new(WAITING_CONNECTIONS));
    let idle = Arc::new(Mutex::new(Vec::<Connection>::new()));
    let mut waits = JoinSet::new();
    let mut sights = FirstSights::new();
    let mut note = |seen: Result<Option<Seen>, JoinError>| match seen
        .expect("a waiting buyer does not panic")
    {
        None => sights.unseen += 1,
        Some(Seen { order, decision, at, latency }) => {
            sights.decisions.push((order, decision));
            sights.latency.record(latency);
            sights.counts.at(at - began).seen += 1;
        }
    };
    while let Some((order, scheduled)) = waiting.recv().await {
        let slot = slots.clone().acquire_owned().await.expect("never closed");
        let free = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = free.unwrap_or_else(|| Connection::to(&address));
        let (idle, over) = (idle.clone(), over.clone());
        waits.spawn(async move {
            let _slot = slot;
            let decision = over.run_until_cancelled(see(&mut connection, order)).await?;
            let at = Instant::now();
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            Some(Seen { order, decision, at, latency: at - scheduled })
        });
        while let Some(seen) = waits.try_join_next() {
            note(seen);
        }
    }
    while let Some(seen) = waits.join_next().await {
        note(seen);
    }
    sights
}

async fn see(connection: &mut Connection, order: OrderId) -> Decision {
    loop {
        match connection.look(order, 30).await {
            Ok(Sight::Decided(decision)) => return decision,
            Ok(_) | Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
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
        let now = connection.look(*order, 0).await?;
        changed += u64::from(now != Sight::Decided(*decision));
    }
    Ok(changed)
}
