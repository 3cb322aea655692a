//! Takes one sample of the sale: heartbeats, queue and ledger.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::processes::{LiveProcess, OrderRates, Processes};
use super::store;
use super::store::{StoreView, Sweep};
use crate::core::engine::Ports;
use crate::core::metrics::LAST_MAX;
use crate::core::model::{Decision, Timestamp};
use crate::core::ports::heartbeats::{Counts, LastDecision};
use crate::core::ports::ledger::StoreTotals;

/// How often stores that charge per request are read.
const PAID_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(in crate::http) struct Sample {
    pub at: Timestamp,
    /// Orders accepted so far; `None` if unknown.
    pub accepted: Option<u64>,
    /// Orders decided so far; `None` if unknown.
    pub decided: Option<DecisionCounts>,
    /// `None` if unknown.
    pub rates: Option<OrderRates>,
    /// `None` if only this process is visible.
    pub processes: Option<Vec<LiveProcess>>,
    pub decision_ms: (Option<f64>, Option<f64>),
    pub ack_ms: (Option<f64>, Option<f64>),
    pub last: Vec<LastDecision>,
    pub store: StoreView,
    /// True if the queue reports the age of its oldest order. An empty queue has no such order.
    pub reports_age: bool,
}

impl Sample {
    /// How long the oldest queued order has waited; `None` if unknown or none is queued.
    pub fn oldest(&self) -> Option<Duration> {
        Some(self.at.since(self.store.backlog.as_ref()?.oldest?))
    }
}

/// Decided orders.
#[derive(Debug, Clone, Default)]
pub(in crate::http) struct DecisionCounts {
    pub all: u64,
    pub sold: u64,
    pub rejected: u64,
    pub expired: u64,
    pub dropped: u64,
    pub by_reason: BTreeMap<String, u64>,
}

#[derive(Debug)]
pub struct Sampler {
    ports: Ports,
    embedded: bool,
    processes: Processes,
    sweep: Sweep,
    store: StoreView,
    /// When the stores were last read.
    read_at: Option<Instant>,
}

impl Sampler {
    pub fn new(ports: Ports, embedded: bool) -> Self {
        Self {
            ports,
            embedded,
            processes: Processes::default(),
            sweep: Sweep::default(),
            store: StoreView::default(),
            read_at: None,
        }
    }

    /// Takes a sample. Unless `is_watched`, stores that charge per request are not read. Takes
    /// several seconds if the services do not answer. Cancelling it loses the sample.
    pub async fn sample(&mut self, is_watched: bool) -> Sample {
        let (live, rates) = match store::within(self.ports.heartbeats.processes()).await {
            Some(statuses) => {
                let (live, rates) = self.processes.update(statuses);
                (Some(live), rates)
            }
            None => (None, None),
        };
        self.read_stores(is_watched).await;
        let alone = !self.ports.heartbeats.reach_others();
        // A process that does not see the others knows decisions only if it makes them itself.
        let decides = live.iter().flatten().any(|process| process.heartbeat.concurrency > 0);
        let counted = &self.processes.counts;
        let (accepted, decided) = match &self.store.totals {
            Some(totals) => (Some(totals.accepted), Some(DecisionCounts::from(totals))),
            None => {
                (Some(counted.accepted), (!alone || decides).then(|| DecisionCounts::from(counted)))
            }
        };
        Sample {
            at: self.ports.clock.now(),
            accepted,
            decided,
            rates,
            processes: live.filter(|_| !alone),
            decision_ms: self.processes.decision_ms(),
            ack_ms: self.processes.ack_ms(),
            last: self.processes.last(LAST_MAX),
            store: self.store.clone(),
            reports_age: self.embedded && self.store.backlog.is_some(),
        }
    }

    async fn read_stores(&mut self, is_watched: bool) {
        if !self.embedded && !is_watched {
            self.store = StoreView::default();
            self.read_at = None;
            return;
        }
        if !self.embedded && self.read_at.is_some_and(|at| at.elapsed() < PAID_EVERY) {
            return;
        }
        self.read_at = Some(Instant::now());
        self.store = store::read(&self.ports, self.embedded, &mut self.sweep, &self.store).await;
    }
}

impl From<&StoreTotals> for DecisionCounts {
    fn from(totals: &StoreTotals) -> Self {
        let mut decided = DecisionCounts::default();
        for (decision, orders) in &totals.decided {
            decided.all += orders;
            match decision {
                Decision::Sold => decided.sold += orders,
                Decision::Expired => decided.expired += orders,
                Decision::Dropped => decided.dropped += orders,
                Decision::Rejected(reason) => {
                    decided.rejected += orders;
                    decided.by_reason.insert(reason.as_str().to_owned(), *orders);
                }
            }
        }
        decided
    }
}

impl From<&Counts> for DecisionCounts {
    fn from(counts: &Counts) -> Self {
        DecisionCounts {
            all: counts.decided(),
            sold: counts.sold,
            rejected: counts.all_rejected(),
            expired: counts.expired,
            dropped: counts.dropped,
            by_reason: counts.rejected.clone(),
        }
    }
}
