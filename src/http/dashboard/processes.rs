//! What the processes' heartbeats say together: how much was done in all, and how fast it goes on.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::core::metrics::{TIMES_US, percentile};
use crate::core::ports::heartbeats::{Counts, Heartbeat, LastDecision, ProcessStatus};

/// Processes that are remembered, so that one that comes back is not counted twice; beyond it the
/// one that was silent for longest is forgotten.
const REMEMBERED_MAX: usize = 1_000;
/// The rate of a process that has been silent for so long is not known.
const RATE_LIFE: Duration = Duration::from_millis(2_500);
/// Samples over which times are shown.
const WINDOW: usize = 10;

/// Orders a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct OrderRates {
    pub accepted: f64,
    pub decided: f64,
    pub sold: f64,
    pub rejected: f64,
}

impl OrderRates {
    fn plus(self, other: OrderRates) -> OrderRates {
        OrderRates {
            accepted: self.accepted + other.accepted,
            decided: self.decided + other.decided,
            sold: self.sold + other.sold,
            rejected: self.rejected + other.rejected,
        }
    }
}

#[derive(Debug)]
struct Process {
    heartbeat: Heartbeat,
    written: Instant,
    /// Between its last two heartbeats; `None` while there was only one.
    rates: Option<OrderRates>,
}

/// A living process as it is shown.
#[derive(Debug, Clone)]
pub struct LiveProcess {
    pub heartbeat: Heartbeat,
    pub age: Duration,
    pub decided_per_s: Option<f64>,
}

#[derive(Debug, Default)]
pub struct Processes {
    known: BTreeMap<String, Process>,
    /// Of all that were ever seen.
    pub counts: Counts,
    decision: TimeWindow,
    ack: TimeWindow,
}

impl Processes {
    /// Takes in what the living say now; returns them, and how fast all of them together go on,
    /// where that is known of each.
    pub fn take(&mut self, living: Vec<ProcessStatus>) -> (Vec<LiveProcess>, Option<OrderRates>) {
        let first = self.known.is_empty();
        let now = Instant::now();
        let mut all = Some(OrderRates::default());
        let mut seen = Vec::with_capacity(living.len());
        for ProcessStatus { heartbeat, age } in living {
            let written = now.checked_sub(age).unwrap_or(now);
            let rates = self.take_one(&heartbeat, written, first);
            let rates = rates.filter(|_| age < RATE_LIFE);
            all = all.zip(rates).map(|(all, rates)| all.plus(rates));
            seen.push(LiveProcess {
                heartbeat,
                age,
                decided_per_s: rates.map(|rates| rates.decided),
            });
        }
        self.decision.turn();
        self.ack.turn();
        self.forget();
        (seen, all)
    }

    /// What was done before the first sample is no part of the times of the last seconds.
    fn take_one(
        &mut self,
        heartbeat: &Heartbeat,
        written: Instant,
        first: bool,
    ) -> Option<OrderRates> {
        let nothing = Counts::default();
        let (before, since) = match self.known.get(&heartbeat.id) {
            Some(known) if known.is_repeated_by(heartbeat, written) => return known.rates,
            Some(known) => (&known.heartbeat.counts, Some(known.until(heartbeat, written))),
            // What it did since its start, if that was a moment ago.
            None => (
                &nothing,
                heartbeat.at.map(|at| at.since(heartbeat.started_at)).filter(is_a_moment),
            ),
        };
        let new = difference(&heartbeat.counts, before);
        let idle = heartbeat.counts == nothing;
        let rates =
            since.map(|since| OrderRates::of(&new, since)).or(idle.then(OrderRates::default));
        let known = self.known.get(&heartbeat.id);
        if !first || known.is_some() {
            self.decision.add(&heartbeat.decision, known.map(|k| &*k.heartbeat.decision));
            self.ack.add(&heartbeat.ack, known.map(|k| &*k.heartbeat.ack));
        }
        add(&mut self.counts, new);
        let process = Process { heartbeat: heartbeat.clone(), written, rates };
        self.known.insert(heartbeat.id.clone(), process);
        rates
    }

    fn forget(&mut self) {
        while self.known.len() > REMEMBERED_MAX {
            let silent = self.known.iter().min_by_key(|(_, process)| process.written);
            let Some(id) = silent.map(|(id, _)| id.clone()) else { return };
            self.known.remove(&id);
        }
    }

    /// The newest decisions of all of them, newest first, each once.
    pub fn last(&self, most: usize) -> Vec<LastDecision> {
        let mut last: Vec<&LastDecision> =
            self.known.values().flat_map(|process| &process.heartbeat.last).collect();
        last.sort_by_key(|one| (std::cmp::Reverse(one.decided_at), one.order_id));
        last.dedup_by_key(|one| one.order_id);
        last.into_iter().take(most).cloned().collect()
    }

    /// Milliseconds within which half, and 99 of 100, were decided; over the last seconds.
    pub fn decision_ms(&self) -> (Option<f64>, Option<f64>) {
        self.decision.p50_p99_ms()
    }

    /// The same of the 202.
    pub fn ack_ms(&self) -> (Option<f64>, Option<f64>) {
        self.ack.p50_p99_ms()
    }
}

impl Process {
    /// Whether this is the heartbeat that is known. The time at which it was written is only as exact as
    /// the read of its age: it serves for heartbeats of older versions, which do not say when they were
    /// made.
    fn is_repeated_by(&self, heartbeat: &Heartbeat, written: Instant) -> bool {
        match (self.heartbeat.at, heartbeat.at) {
            (Some(before), Some(now)) => before == now,
            _ => written <= self.written,
        }
    }

    /// The time between the known heartbeat and this one.
    fn until(&self, heartbeat: &Heartbeat, written: Instant) -> Duration {
        match (self.heartbeat.at, heartbeat.at) {
            (Some(before), Some(now)) if now > before => now.since(before),
            _ => written.saturating_duration_since(self.written),
        }
    }
}

fn is_a_moment(time: &Duration) -> bool {
    *time < RATE_LIFE
}

impl OrderRates {
    fn of(new: &Counts, since: Duration) -> OrderRates {
        // A process's first heartbeat is made at its start.
        let per_s = |count: u64| count as f64 / since.as_secs_f64().max(0.001);
        OrderRates {
            accepted: per_s(new.accepted),
            decided: per_s(new.decided()),
            sold: per_s(new.sold),
            rejected: per_s(new.all_rejected()),
        }
    }
}

fn difference(now: &Counts, before: &Counts) -> Counts {
    let rejected = now.rejected.iter().map(|(reason, count)| {
        let before = before.rejected.get(reason).copied().unwrap_or(0);
        (reason.clone(), count.saturating_sub(before))
    });
    Counts {
        accepted: now.accepted.saturating_sub(before.accepted),
        sold: now.sold.saturating_sub(before.sold),
        expired: now.expired.saturating_sub(before.expired),
        dropped: now.dropped.saturating_sub(before.dropped),
        rejected: rejected.collect(),
    }
}

fn add(counts: &mut Counts, new: Counts) {
    counts.accepted += new.accepted;
    counts.sold += new.sold;
    counts.expired += new.expired;
    counts.dropped += new.dropped;
    for (reason, count) in new.rejected {
        *counts.rejected.entry(reason).or_default() += count;
    }
}

/// A histogram of the last [`WINDOW`] samples.
#[derive(Debug, Default)]
struct TimeWindow {
    samples: VecDeque<Vec<u64>>,
    newest: Vec<u64>,
}

impl TimeWindow {
    fn add(&mut self, counts: &[u64], before: Option<&[u64]>) {
        self.newest.resize(TIMES_US.len() + 1, 0);
        for (bucket, sum) in self.newest.iter_mut().enumerate() {
            let count = |counts: &[u64]| counts.get(bucket).copied().unwrap_or(0);
            *sum += count(counts).saturating_sub(before.map_or(0, count));
        }
    }

    fn turn(&mut self) {
        self.samples.push_back(std::mem::take(&mut self.newest));
        if self.samples.len() > WINDOW {
            self.samples.pop_front();
        }
    }

    fn p50_p99_ms(&self) -> (Option<f64>, Option<f64>) {
        let mut counts = vec![0; TIMES_US.len() + 1];
        for sample in &self.samples {
            counts.iter_mut().zip(sample).for_each(|(sum, count)| *sum += count);
        }
        let ms = |share| percentile(TIMES_US, &counts, share).map(|us| us / 1_000.0);
        (ms(0.5), ms(0.99))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::Timestamp;
    use crate::core::ports::heartbeats::Kind;

    fn living(id: &str, sold: u64, age_ms: u64) -> ProcessStatus {
        let mut decision = vec![0; TIMES_US.len() + 1];
        decision[5] = sold;
        let heartbeat = Heartbeat {
            id: id.to_owned(),
            kind: Kind::Work,
            host: "here".to_owned(),
            pid: 1,
            started_at: Timestamp(0),
            at: None,
            concurrency: 1,
            counts: Counts { sold, ..Counts::default() },
            decision,
            ack: Vec::new(),
            in_flight: 0,
            last: Vec::new(),
        };
        ProcessStatus { heartbeat, age: Duration::from_millis(age_ms) }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_process_did_is_counted_once_whether_it_lives_on_dies_or_comes_back() {
        let mut processes = Processes::default();
        let (_, rates) = processes.take(vec![living("a", 100, 0), living("b", 5, 0)]);
        assert_eq!((processes.counts.sold, rates), (105, None), "nobody knows when");
        assert_eq!(processes.decision_ms(), (None, None), "done before anybody looked");
        tokio::time::advance(Duration::from_secs(1)).await;
        let (seen, rates) = processes.take(vec![living("a", 130, 0)]);
        assert_eq!((seen.len(), processes.counts.sold), (1, 135));
        assert_eq!(rates.map(|rates| rates.sold), Some(30.0));
        assert!(processes.decision_ms().0.is_some_and(|p50| (0.63..=1.0).contains(&p50)));
        tokio::time::advance(Duration::from_secs(9)).await;
        let (_, rates) = processes.take(vec![living("b", 15, 0)]);
        assert_eq!((processes.counts.sold, rates.map(|rates| rates.sold)), (145, Some(1.0)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pulse_that_is_read_twice_keeps_its_rate_and_a_late_one_has_none() {
        let mut processes = Processes::default();
        let mut beat = |at, sold, age_ms| {
            let mut living = living("a", sold, age_ms);
            living.heartbeat.at = Some(Timestamp(at));
            let (seen, rates) = processes.take(vec![living]);
            assert_eq!(seen[0].decided_per_s, rates.map(|rates| rates.decided));
            rates.map(|rates| rates.sold)
        };
        assert_eq!(beat(500, 10, 0), Some(20.0), "since its start");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(beat(1_500, 40, 0), Some(30.0));
        tokio::time::advance(Duration::from_millis(900)).await;
        // Its age was read some milliseconds before the time of day.
        assert_eq!(beat(1_500, 40, 893), Some(30.0));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(beat(1_500, 40, 2_900), None);
        assert_eq!(beat(4_500, 40, 0), Some(0.0));
    }

    #[tokio::test(start_paused = true)]
    async fn times_are_those_of_the_last_seconds() {
        let mut processes = Processes::default();
        processes.take(vec![living("a", 0, 0)]);
        tokio::time::advance(Duration::from_secs(1)).await;
        processes.take(vec![living("a", 7, 0)]);
        for _ in 0..WINDOW {
            assert!(processes.decision_ms().1.is_some());
            tokio::time::advance(Duration::from_secs(1)).await;
            processes.take(vec![living("a", 7, 0)]);
        }
        assert_eq!(processes.decision_ms(), (None, None));
    }
}
