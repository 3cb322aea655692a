//! After the last request: waits until every accepted order is decided, and takes a first reading
//! of all decisions.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::audit::patiently;
use super::connection::{Address, Connection};
use super::sight::Sight;
use crate::core::model::{Decision, OrderId, Reason};
use crate::core::ports::ledger::{Ledger, LedgerError};

/// When no order was decided for so long, those that are left are undecided.
const PATIENCE: Duration = Duration::from_secs(60);
/// Ids in one reading.
const READING: usize = 1_000;
/// Pause before looking again at orders that wait.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Connections on which a foreign server is asked.
const CONNECTIONS: usize = 32;

/// The first reading: every accepted order as it was seen last.
#[derive(Debug)]
pub(super) struct Reading {
    /// By id, ascending.
    sights: Vec<(OrderId, Sight)>,
}

impl Reading {
    fn of(mut sights: Vec<(OrderId, Sight)>) -> Self {
        sights.sort_unstable_by_key(|(order, _)| *order);
        Self { sights }
    }

    pub fn get(&self, order: OrderId) -> Option<Sight> {
        let found = self.sights.binary_search_by_key(&order, |(id, _)| *id).ok()?;
        Some(self.sights[found].1)
    }

    pub fn orders(&self) -> u64 {
        self.sights.len() as u64
    }

    pub fn count(&self, which: impl Fn(Sight) -> bool) -> u64 {
        self.sights.iter().filter(|(_, sight)| which(*sight)).count() as u64
    }

    pub fn sold(&self) -> u64 {
        self.count(|sight| sight == Sight::Decided(Decision::Sold))
    }

    pub fn rejected(&self) -> u64 {
        self.count(|sight| matches!(sight, Sight::Decided(Decision::Rejected(_))))
    }

    pub fn sold_out(&self) -> u64 {
        self.count(|sight| sight == Sight::Decided(Decision::Rejected(Reason::SoldOut)))
    }
}

/// Patience that begins anew whenever an order is decided.
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

    fn is_over(&self) -> bool {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed() > PATIENCE
    }
}

fn waits(sight: Sight) -> bool {
    matches!(sight, Sight::Waiting | Sight::Missing)
}

/// Reads `orders`, each once or more, from a ledger of our own.
pub(super) async fn settle_by_ledger(
    ledger: &dyn Ledger,
    orders: Vec<OrderId>,
    bar: ProgressBar,
) -> Result<Reading, LedgerError> {
    let progress = Progress::new(bar);
    let mut sights = Vec::with_capacity(orders.len());
    for chunk in orders.chunks(READING) {
        let mut open = chunk.to_vec();
        while !open.is_empty() {
            let found = patiently(|| ledger.find(&open)).await?;
            let now = found.into_iter().map(|r| r.map_or(Sight::Missing, |r| r.state.into()));
            let seen: Vec<(OrderId, Sight)> = open.drain(..).zip(now).collect();
            let (waiting, settled): (Vec<_>, Vec<_>) = seen.into_iter().partition(|s| waits(s.1));
            progress.decided(settled.len() as u64);
            sights.extend(settled);
            if progress.is_over() {
                sights.extend(waiting);
            } else if !waiting.is_empty() {
                open.extend(waiting.into_iter().map(|(order, _)| order));
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }
    Ok(Reading::of(sights))
}

/// Reads `orders`, each once or more, from a server.
pub(super) async fn settle_by_http(
    address: &Address,
    orders: Vec<OrderId>,
    bar: ProgressBar,
) -> Reading {
    let progress = Arc::new(Progress::new(bar));
    let open = Arc::new(Mutex::new(VecDeque::from(orders)));
    let mut readers = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (open, progress) = (open.clone(), progress.clone());
        let mut connection = Connection::to(address);
        readers.spawn(async move {
            let mut sights = Vec::new();
            let next = || open.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            while let Some(order) = next() {
                sights.push((order, last_sight(&mut connection, order, &progress).await));
            }
            sights
        });
    }
    Reading::of(readers.join_all().await.concat())
}

async fn last_sight(connection: &mut Connection, order: OrderId, progress: &Progress) -> Sight {
    loop {
        let sight = connection.look(order, 5).await.unwrap_or(Sight::Waiting);
        if !waits(sight) {
            progress.decided(1);
            return sight;
        }
        if progress.is_over() {
            return sight;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
