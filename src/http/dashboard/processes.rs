//! Sums up the heartbeats of all processes: total counts, current rates and times.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::core::metrics::{TIMES_US, percentile};
use crate::core::ports::heartbeats::{Counts, Heartbeat, LastDecision, ProcessStatus};

/// Maximum known processes. A process stays known after its last heartbeat, so that it is not
/// counted twice if it returns; beyond the maximum the one silent for longest is removed.
const KNOWN_MAX: usize = 1_000;
/// Maximum age of a heartbeat whose rate is still shown.
const RATE_MAX_AGE: Duration = Duration::from_millis(2_500);
/// Number of samples over which times are computed.
const WINDOW: usize = 10;

/// Orders per second.
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
    written_at: Instant,
    /// Rates between its last two heartbeats; `None` after the first.
    rates: Option<OrderRates>,
}

/// A process with a current heartbeat.
#[derive(Debug, Clone)]
pub struct LiveProcess {
    pub heartbeat: Heartbeat,
    pub age: Duration,
    pub decided_per_s: Option<f64>,
}

#[derive(Debug, Default)]
pub struct Processes {
    known: BTreeMap<String, Process>,
    /// Sum over all processes, also ended ones.
    pub counts: Counts,
    decision: TimeWindow,
    ack: TimeWindow,
}

impl Processes {
    /// Adds the current heartbeats. Returns the live processes and their total rates; those are
    /// `None` if the rate of any process is unknown.
    pub fn update(
        &mut self,
        statuses: Vec<ProcessStatus>,
    ) -> (Vec<LiveProcess>, Option<OrderRates>) {
        let is_first = self.known.is_empty();
        let now = Instant::now();
        let mut all = Some(OrderRates::default());
        let mut live = Vec::with_capacity(statuses.len());
        for ProcessStatus { heartbeat, age } in statuses {
            let written_at = now.checked_sub(age).unwrap_or(now);
            let rates = self.update_one(&heartbeat, written_at, is_first);
            let rates = rates.filter(|_| age < RATE_MAX_AGE);
            all = all.zip(rates).map(|(all, rates)| all.plus(rates));
            live.push(LiveProcess {
                heartbeat,
                age,
                decided_per_s: rates.map(|rates| rates.decided),
            });
        }
        self.decision.next_sample();
        self.ack.next_sample();
        self.remove_oldest();
        (live, all)
    }

    /// Adds one heartbeat and returns the rates since the process's last one. Heartbeats carry
    /// totals since the start of their process, so only the difference to the last one is added.
    /// The times of the very first sample are skipped: its decisions are of unknown age.
    fn update_one(
        &mut self,
        heartbeat: &Heartbeat,
        written_at: Instant,
        is_first: bool,
    ) -> Option<OrderRates> {
        let zero = Counts::default();
        let (before, elapsed) = match self.known.get(&heartbeat.id) {
            Some(known) if known.is_repeated_by(heartbeat, written_at) => return known.rates,
            Some(known) => (&known.heartbeat.counts, Some(known.until(heartbeat, written_at))),
            // Everything since its start, if the process started just before.
            None => (&zero, heartbeat.at.map(|at| at.since(heartbeat.started_at)).filter(is_short)),
        };
        let new = difference(&heartbeat.counts, before);
        let is_idle = heartbeat.counts == zero;
        let rates = elapsed
            .map(|elapsed| OrderRates::of(&new, elapsed))
            .or(is_idle.then(OrderRates::default));
        let known = self.known.get(&heartbeat.id);
        if !is_first || known.is_some() {
            self.decision.add(&heartbeat.decision, known.map(|k| &*k.heartbeat.decision));
            self.ack.add(&heartbeat.ack, known.map(|k| &*k.heartbeat.ack));
        }
        add(&mut self.counts, new);
        let process = Process { heartbeat: heartbeat.clone(), written_at, rates };
        self.known.insert(heartbeat.id.clone(), process);
        rates
    }

    fn remove_oldest(&mut self) {
        while self.known.len() > KNOWN_MAX {
            let oldest = self.known.iter().min_by_key(|(_, process)| process.written_at);
            let Some(id) = oldest.map(|(id, _)| id.clone()) else { return };
            self.known.remove(&id);
        }
    }

    /// The newest `max` decisions of all processes, newest first, without duplicates.
    pub fn last(&self, max: usize) -> Vec<LastDecision> {
        let mut last: Vec<&LastDecision> =
            self.known.values().flat_map(|process| &process.heartbeat.last).collect();
        last.sort_by_key(|one| (std::cmp::Reverse(one.decided_at), one.order_id));
        last.dedup_by_key(|one| one.order_id);
        last.into_iter().take(max).cloned().collect()
    }

    /// 50th and 99th percentile of the time to a decision in the last samples, in milliseconds.
    pub fn decision_ms(&self) -> (Option<f64>, Option<f64>) {
        self.decision.p50_p99_ms()
    }

    /// 50th and 99th percentile of the time to the 202 in the last samples, in milliseconds.
    pub fn ack_ms(&self) -> (Option<f64>, Option<f64>) {
        self.ack.p50_p99_ms()
    }
}

impl Process {
    /// Whether this is the known heartbeat again. Heartbeats of older versions have no timestamp; for
    /// them the less exact write time is compared.
    fn is_repeated_by(&self, heartbeat: &Heartbeat, written_at: Instant) -> bool {
        match (self.heartbeat.at, heartbeat.at) {
            (Some(before), Some(now)) => before == now,
            _ => written_at <= self.written_at,
        }
    }

    /// The time between the known heartbeat and this one.
    fn until(&self, heartbeat: &Heartbeat, written_at: Instant) -> Duration {
        match (self.heartbeat.at, heartbeat.at) {
            (Some(before), Some(now)) if now > before => now.since(before),
            _ => written_at.saturating_duration_since(self.written_at),
        }
    }
}

fn is_short(time: &Duration) -> bool {
    *time < RATE_MAX_AGE
}

impl OrderRates {
    fn of(new: &Counts, elapsed: Duration) -> OrderRates {
        // The first heartbeat of a process may be written at its start.
        let per_s = |count: u64| count as f64 / elapsed.as_secs_f64().max(0.001);
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

    fn next_sample(&mut self) {
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

    fn status(id: &str, sold: u64, age_ms: u64) -> ProcessStatus {
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
    async fn returning_process_is_counted_once() {
        let mut processes = Processes::default();
        let (_, rates) = processes.update(vec![status("a", 100, 0), status("b", 5, 0)]);
        assert_eq!((processes.counts.sold, rates), (105, None), "of unknown time");
        assert_eq!(processes.decision_ms(), (None, None), "decided before the first sample");
        tokio::time::advance(Duration::from_secs(1)).await;
        let (live, rates) = processes.update(vec![status("a", 130, 0)]);
        assert_eq!((live.len(), processes.counts.sold), (1, 135));
        assert_eq!(rates.map(|rates| rates.sold), Some(30.0));
        assert!(processes.decision_ms().0.is_some_and(|p50| (0.63..=1.0).contains(&p50)));
        tokio::time::advance(Duration::from_secs(9)).await;
        let (_, rates) = processes.update(vec![status("b", 15, 0)]);
        assert_eq!((processes.counts.sold, rates.map(|rates| rates.sold)), (145, Some(1.0)));
    }

    #[tokio::test(start_paused = true)]
    async fn repeated_heartbeat_keeps_its_rate_and_an_old_one_has_none() {
        let mut processes = Processes::default();
        let mut sold_per_s = |at, sold, age_ms| {
            let mut status = status("a", sold, age_ms);
            status.heartbeat.at = Some(Timestamp(at));
            let (live, rates) = processes.update(vec![status]);
            assert_eq!(live[0].decided_per_s, rates.map(|rates| rates.decided));
            rates.map(|rates| rates.sold)
        };
        assert_eq!(sold_per_s(500, 10, 0), Some(20.0), "since its start");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(sold_per_s(1_500, 40, 0), Some(30.0));
        tokio::time::advance(Duration::from_millis(900)).await;
        // Its age was read some milliseconds before the time of day.
        assert_eq!(sold_per_s(1_500, 40, 893), Some(30.0));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(sold_per_s(1_500, 40, 2_900), None);
        assert_eq!(sold_per_s(4_500, 40, 0), Some(0.0));
    }

    #[tokio::test(start_paused = true)]
    async fn times_cover_the_last_samples() {
        let mut processes = Processes::default();
        processes.update(vec![status("a", 0, 0)]);
        tokio::time::advance(Duration::from_secs(1)).await;
        processes.update(vec![status("a", 7, 0)]);
        for _ in 0..WINDOW {
            assert!(processes.decision_ms().1.is_some());
            tokio::time::advance(Duration::from_secs(1)).await;
            processes.update(vec![status("a", 7, 0)]);
        }
        assert_eq!(processes.decision_ms(), (None, None));
    }
}
