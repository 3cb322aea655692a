//! After the last request: waits until every accepted order is decided, and reads its decision.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::audit::retry_while_busy;
use super::observation::ObservedState;
use crate::client::{Address, Connection};
use crate::core::model::{Decision, OrderId, Reason};
use crate::core::ports::ledger::{Ledger, LedgerError};

/// Without progress for this time, the remaining orders count as undecided.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(60);
/// Order ids in one read of the ledger.
const IDS_PER_READ: usize = 1_000;
/// Pause before undecided orders are read again.
const POLL_PAUSE: Duration = Duration::from_millis(20);
/// Connections on which orders are read from a `--target` server.
const CONNECTIONS: usize = 32;
/// Seconds that one request waits for the order's decision.
const WAIT_S: u32 = 5;

/// The last observed state of each accepted order.
#[derive(Debug)]
pub(super) struct Observations {
    /// Sorted by id.
    states: Vec<(OrderId, ObservedState)>,
}

impl Observations {
    fn of(mut states: Vec<(OrderId, ObservedState)>) -> Self {
        states.sort_unstable_by_key(|(order, _)| *order);
        Self { states }
    }

    pub fn get(&self, order: OrderId) -> Option<ObservedState> {
        let found = self.states.binary_search_by_key(&order, |(id, _)| *id).ok()?;
        Some(self.states[found].1)
    }

    pub fn orders(&self) -> u64 {
        self.states.len() as u64
    }

    pub fn count(&self, matches: impl Fn(ObservedState) -> bool) -> u64 {
        self.states.iter().filter(|(_, state)| matches(*state)).count() as u64
    }

    pub fn sold(&self) -> u64 {
        self.count(|state| state == ObservedState::Decided(Decision::Sold))
    }

    pub fn rejected(&self) -> u64 {
        self.count(|state| matches!(state, ObservedState::Decided(Decision::Rejected(_))))
    }

    pub fn sold_out(&self) -> u64 {
        self.count(|state| state == ObservedState::Decided(Decision::Rejected(Reason::SoldOut)))
    }
}

/// A timeout that restarts whenever an order is decided.
#[derive(Debug)]
struct Progress {
    last: Mutex<Instant>,
    bar: ProgressBar,
}

impl Progress {
    fn new(bar: ProgressBar) -> Self {
        Self { last: Mutex::new(Instant::now()), bar }
    }

    fn decided(&self, orders: u64) {
        if orders > 0 {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            self.bar.inc(orders);
        }
    }

    fn timed_out(&self) -> bool {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed() > PROGRESS_TIMEOUT
    }
}

fn is_pending(state: ObservedState) -> bool {
    matches!(state, ObservedState::Waiting | ObservedState::Missing)
}

/// Reads `orders` from the ledger until each is decided or there is no more progress.
pub(super) async fn await_in_ledger(
    ledger: &dyn Ledger,
    orders: Vec<OrderId>,
    bar: ProgressBar,
) -> Result<Observations, LedgerError> {
    let progress = Progress::new(bar);
    let mut states = Vec::with_capacity(orders.len());
    for chunk in orders.chunks(IDS_PER_READ) {
        let mut open = chunk.to_vec();
        while !open.is_empty() {
            let found = retry_while_busy(|| ledger.find(&open)).await?;
            let now =
                found.into_iter().map(|r| r.map_or(ObservedState::Missing, |r| r.state.into()));
            let observed: Vec<(OrderId, ObservedState)> = open.drain(..).zip(now).collect();
            let (waiting, decided): (Vec<_>, Vec<_>) =
                observed.into_iter().partition(|(_, state)| is_pending(*state));
            progress.decided(decided.len() as u64);
            states.extend(decided);
            if progress.timed_out() {
                states.extend(waiting);
            } else if !waiting.is_empty() {
                open.extend(waiting.into_iter().map(|(order, _)| order));
                tokio::time::sleep(POLL_PAUSE).await;
            }
        }
    }
    Ok(Observations::of(states))
}

/// Like [`await_in_ledger`], from a server.
pub(super) async fn await_over_http(
    address: &Address,
    orders: Vec<OrderId>,
    bar: ProgressBar,
) -> Observations {
    let progress = Arc::new(Progress::new(bar));
    let open = Arc::new(Mutex::new(VecDeque::from(orders)));
    let mut readers = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let open = open.clone();
        let progress = progress.clone();
        let mut connection = Connection::to(address);
        readers.spawn(async move {
            let mut states = Vec::new();
            let next = || open.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            while let Some(order) = next() {
                states.push((order, last_state(&mut connection, order, &progress).await));
            }
            states
        });
    }
    Observations::of(readers.join_all().await.concat())
}

async fn last_state(
    connection: &mut Connection,
    order: OrderId,
    progress: &Progress,
) -> ObservedState {
    loop {
        let observed = connection.observe(order, WAIT_S).await;
        let state = observed.unwrap_or(ObservedState::Waiting);
        if !is_pending(state) {
            progress.decided(1);
            return state;
        }
        if progress.timed_out() {
            return state;
        }
        tokio::time::sleep(POLL_PAUSE).await;
    }
}
