//! One look at everything: the processes by their heartbeats, the queue and the ledger.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::processes::{LiveProcess, OrderRates, Processes};
use super::store;
use super::store::{StoreView, Sweep};
use crate::core::engine::Ports;
use crate::core::metrics::LAST_MAX;
use crate::core::model::{Decision, Timestamp};
use crate::core::ports::heartbeats::{Counts, LastDecision};
use crate::core::ports::ledger::StoreTotals;

const PULSES_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the stores are asked that are paid by the request.
const PAID_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(in crate::http) struct Sample {
    pub at: Timestamp,
    /// Orders so far; `None` where nobody knows.
    pub accepted: Option<u64>,
    pub decided: Option<DecisionCounts>,
    /// `None` where nobody knows.
    pub rates: Option<OrderRates>,
    /// `None` where only this process is seen.
    pub processes: Option<Vec<LiveProcess>>,
    pub decision_ms: (Option<f64>, Option<f64>),
    pub ack_ms: (Option<f64>, Option<f64>),
    pub last: Vec<LastDecision>,
    pub store: StoreView,
    /// Whether the queue tells the age of its oldest order; none is told when nothing waits.
    pub tells_age: bool,
}

impl Sample {
    /// How long the oldest waiting order has waited, where that is known.
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
    /// When the stores were last asked.
    looked: Option<Instant>,
}

impl Sampler {
    pub fn new(ports: Ports, embedded: bool) -> Self {
        Self {
            ports,
            embedded,
            processes: Processes::default(),
            sweep: Sweep::default(),
            store: StoreView::default(),
            looked: None,
        }
    }

    /// `wanted`: whether anybody looks; if not, stores that are paid by the request are not asked.
    /// Takes some seconds when they do not answer. What a cancelled sample found is lost.
    pub async fn sample(&mut self, wanted: bool) -> Sample {
        let living = timeout(PULSES_TIMEOUT, self.ports.heartbeats.processes()).await;
        let living = living.map_err(|e| e.to_string()).and_then(|l| l.map_err(|e| e.to_string()));
        let (seen, rates) = match living {
            Ok(living) => {
                let (seen, rates) = self.processes.take(living);
                (Some(seen), rates)
            }
            Err(e) => {
                tracing::debug!("dashboard sample without pulses: {e}");
                (None, None)
            }
        };
        self.look_at_stores(wanted).await;
        let alone = !self.ports.heartbeats.reach_others();
        // A process that sees no others knows what was decided only where it decides itself.
        let decides = seen.iter().flatten().any(|process| process.heartbeat.concurrency > 0);
        let counted = &self.processes.counts;
        let (accepted, decided) = match &self.store.tally {
            Some(tally) => (Some(tally.accepted), Some(DecisionCounts::from(tally))),
            None => {
                (Some(counted.accepted), (!alone || decides).then(|| DecisionCounts::from(counted)))
            }
        };
        Sample {
            at: self.ports.clock.now(),
            accepted,
            decided,
            rates,
            processes: seen.filter(|_| !alone),
            decision_ms: self.processes.decision_ms(),
            ack_ms: self.processes.ack_ms(),
            last: self.processes.last(LAST_MAX),
            store: self.store.clone(),
            tells_age: self.embedded && self.store.backlog.is_some(),
        }
    }

    async fn look_at_stores(&mut self, wanted: bool) {
        if !self.embedded && !wanted {
            self.store = StoreView::default();
            self.looked = None;
            return;
        }
        if !self.embedded && self.looked.is_some_and(|at| at.elapsed() < PAID_EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        self.store = store::look(&self.ports, self.embedded, &mut self.sweep, &self.store).await;
    }
}

impl From<&StoreTotals> for DecisionCounts {
    fn from(tally: &StoreTotals) -> Self {
        let mut decided = DecisionCounts::default();
        for (decision, orders) in &tally.decided {
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
