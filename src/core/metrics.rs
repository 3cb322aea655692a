//! Metrics of this process, since its start. Recording needs no lock and no allocation per order.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::model::{Decided, Decision, Reason, Timestamp};

/// Upper bounds of the buckets for times, in microseconds: 0.1 ms to 100 s, five per decade at
/// equal ratios (ISO 3, R5), so that a percentile is at most 60% off.
pub const TIMES_US: &[u64] = &[
    100,
    160,
    250,
    400,
    630,
    1_000,
    1_600,
    2_500,
    4_000,
    6_300,
    10_000,
    16_000,
    25_000,
    40_000,
    63_000,
    100_000,
    160_000,
    250_000,
    400_000,
    630_000,
    1_000_000,
    1_600_000,
    2_500_000,
    4_000_000,
    6_300_000,
    10_000_000,
    16_000_000,
    25_000_000,
    40_000_000,
    63_000_000,
    100_000_000,
];
/// Upper bounds of the buckets for numbers of orders.
pub const SIZES: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024];

/// The most buckets of a [`Histogram`], including the one above all bounds.
const BUCKETS_MAX: usize = 32;

/// Number of last decisions that are kept.
pub const LAST_MAX: usize = 20;
/// The most updates of the last decisions in one second.
const LAST_UPDATES_PER_SECOND: u64 = 20;

/// A value that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A value that grows and shrinks.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Subtracts at most what was added.
    pub fn sub(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts values in fixed buckets.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// One count per bound, and one for values above all bounds.
    counts: [AtomicU64; BUCKETS_MAX],
    sum: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [u64]) -> Self {
        Self { bounds, counts: [const { AtomicU64::new(0) }; BUCKETS_MAX], sum: AtomicU64::new(0) }
    }

    fn bucket(&self, value: u64) -> usize {
        self.bounds.partition_point(|bound| *bound < value)
    }

    pub fn record(&self, value: u64) {
        self.counts[self.bucket(value)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    pub fn record_time(&self, time: Duration) {
        self.record(time.as_micros() as u64);
    }

    /// Records many values with at most one addition per bucket.
    pub fn record_all(&self, values: impl Iterator<Item = u64>) {
        let mut counts = [0u64; BUCKETS_MAX];
        let mut sum = 0;
        for value in values {
            counts[self.bucket(value)] += 1;
            sum += value;
        }
        for (total, count) in self.counts.iter().zip(counts).filter(|(_, count)| *count > 0) {
            total.fetch_add(count, Ordering::Relaxed);
        }
        self.sum.fetch_add(sum, Ordering::Relaxed);
    }

    pub fn bounds(&self) -> &'static [u64] {
        self.bounds
    }

    /// Counts per bucket, not cumulative; one more than there are bounds.
    pub fn counts(&self) -> Vec<u64> {
        self.counts[..=self.bounds.len()].iter().map(|c| c.load(Ordering::Relaxed)).collect()
    }

    pub fn sum(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }
}

/// The value below which a `fraction` (0 to 1) of the counted values are, interpolated within its
/// bucket; `None` if nothing was counted. Values above all bounds count as the last bound.
pub fn percentile(bounds: &[u64], counts: &[u64], fraction: f64) -> Option<f64> {
    let total: u64 = counts.iter().sum();
    let wanted = fraction * total as f64;
    let mut below = 0.0;
    for (bucket, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let count = *count as f64;
        if below + count >= wanted {
            let last = bounds.last().copied().unwrap_or(0);
            let to = bounds.get(bucket).copied().unwrap_or(last) as f64;
            let from = bucket.checked_sub(1).map_or(0, |b| bounds[b]) as f64;
            return Some(from + (to - from) * ((wanted - below) / count).clamp(0.0, 1.0));
        }
        below += count;
    }
    None
}

/// Numbers of decisions.
#[derive(Debug, Default)]
pub struct DecisionCounts {
    pub sold: Counter,
    pub expired: Counter,
    pub dropped: Counter,
    rejected: [Counter; Reason::ALL.len()],
}

impl DecisionCounts {
    fn of(&self, decision: Decision) -> &Counter {
        match decision {
            Decision::Sold => &self.sold,
            Decision::Expired => &self.expired,
            Decision::Dropped => &self.dropped,
            Decision::Rejected(reason) => &self.rejected[reason as usize],
        }
    }

    pub fn rejected(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.into_iter().map(|reason| (reason, self.rejected[reason as usize].get()))
    }
}

/// The newest decisions, sampled.
#[derive(Debug, Default)]
struct LastDecisions {
    second: AtomicU64,
    updates: AtomicU64,
    /// Newest first.
    decided: Mutex<VecDeque<Decided>>,
}

impl LastDecisions {
    /// Adds decisions, unless the lock is taken or [`LAST_UPDATES_PER_SECOND`] is reached. Two
    /// threads may both reset the count of a second; that only allows a few more updates.
    fn update(&self, decided: &[Decided], now: Timestamp) {
        let second = now.0 / 1_000;
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.updates.store(0, Ordering::Relaxed);
        }
        if self.updates.fetch_add(1, Ordering::Relaxed) >= LAST_UPDATES_PER_SECOND {
            return;
        }
        let Ok(mut last) = self.decided.try_lock() else { return };
        for decided in &decided[decided.len().saturating_sub(LAST_MAX)..] {
            last.push_front(decided.clone());
        }
        last.truncate(LAST_MAX);
    }
}

/// The metrics of a process.
#[derive(Debug)]
pub struct Metrics {
    /// Orders answered 202, repeats included.
    pub accepted: Counter,
    /// Requests for an order answered with a status of 400 to 499, and of 500 or above.
    pub refused: [Counter; 2],
    /// Time from the request's head to the 202, in microseconds.
    pub ack: Histogram,
    /// Orders per send to the queue.
    pub sent_together: Histogram,
    pub decisions: DecisionCounts,
    pub units_sold: Counter,
    /// Time from an order's acceptance until its decision was written, in microseconds; measured in
    /// whole milliseconds.
    pub decision: Histogram,
    /// Orders per commit.
    pub decided_together: Histogram,
    /// Commits that were refused because another worker had written first.
    pub conflicts: Counter,
    /// Commits without a response.
    pub unknown_commits: Counter,
    /// Time that a lane waited for the lock, in microseconds.
    pub lock_wait: Histogram,
    /// Attempts to acquire a lock that was held by another lane.
    pub lock_busy: Counter,
    /// Locks that were lost before their release.
    pub lock_lost: Counter,
    /// Redelivered deliveries.
    pub redeliveries: Counter,
    /// Orders received and not yet decided.
    pub in_flight: Gauge,
    /// Attempts to send a webhook, by result: accepted, failed, dead-lettered.
    pub webhooks: [Counter; 3],
    /// Events in the outbox when this process's sender last checked.
    pub webhooks_waiting: AtomicU64,
    last: LastDecisions,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            accepted: Counter::default(),
            refused: Default::default(),
            ack: Histogram::new(TIMES_US),
            sent_together: Histogram::new(SIZES),
            decisions: DecisionCounts::default(),
            units_sold: Counter::default(),
            decision: Histogram::new(TIMES_US),
            decided_together: Histogram::new(SIZES),
            conflicts: Counter::default(),
            unknown_commits: Counter::default(),
            lock_wait: Histogram::new(TIMES_US),
            lock_busy: Counter::default(),
            lock_lost: Counter::default(),
            redeliveries: Counter::default(),
            in_flight: Gauge::default(),
            webhooks: Default::default(),
            webhooks_waiting: AtomicU64::default(),
            last: LastDecisions::default(),
        }
    }
}

impl Metrics {
    /// Records decisions that were written just now.
    pub fn decided(&self, decided: &[Decided], now: Timestamp) {
        if decided.is_empty() {
            return;
        }
        // Most batches contain one kind of decision; a run of it costs one addition.
        for run in decided.chunk_by(|a, b| a.decision == b.decision) {
            self.decisions.of(run[0].decision).add(run.len() as u64);
            if run[0].decision == Decision::Sold {
                self.units_sold.add(run.iter().map(|d| d.order.quantity.units()).sum());
            }
        }
        let time = |d: &Decided| now.since(d.order.accepted_at).as_micros() as u64;
        self.decision.record_all(decided.iter().map(time));
        self.last.update(decided, now);
    }

    /// At most [`LAST_MAX`] decisions, newest first.
    pub fn last(&self) -> Vec<Decided> {
        let last = self.last.decided.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        last.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::{ItemId, Order, OrderId, Quantity, UserId};

    fn decided(number: u8, decision: Decision, after_ms: u64) -> Decided {
        let order = Order {
            id: OrderId::from_bytes([number; 16]),
            user: UserId::parse("ann").unwrap(),
            item: ItemId::parse("x").unwrap(),
            quantity: Quantity::new(2).unwrap(),
            accepted_at: Timestamp(10_000 - after_ms),
            trace: None,
        };
        Decided { order, decision, decided_at: Timestamp(10_000) }
    }

    #[test]
    fn each_reason_has_its_own_counter() {
        let metrics = Metrics::default();
        for (n, reason) in Reason::ALL.into_iter().enumerate() {
            let batch = vec![decided(0, Decision::Rejected(reason), 1); n + 1];
            metrics.decided(&batch, Timestamp(10_000));
        }
        let counts: Vec<_> = metrics.decisions.rejected().collect();
        for (n, (reason, count)) in counts.into_iter().enumerate() {
            assert_eq!((reason, count), (Reason::ALL[n], n as u64 + 1));
        }
        assert_eq!(metrics.decisions.sold.get() + metrics.units_sold.get(), 0);
    }

    #[test]
    fn batch_counts_decisions_units_and_times() {
        let metrics = Metrics::default();
        let no = Decision::Rejected(Reason::SoldOut);
        let batch =
            [decided(1, Decision::Sold, 3), decided(2, Decision::Sold, 3), decided(3, no, 900)];
        metrics.decided(&batch, Timestamp(10_000));
        assert_eq!((metrics.decisions.sold.get(), metrics.units_sold.get()), (2, 4));
        assert_eq!(metrics.decision.sum(), 906_000);
        let counts = metrics.decision.counts();
        let p50 = percentile(TIMES_US, &counts, 0.5).unwrap();
        let p99 = percentile(TIMES_US, &counts, 0.99).unwrap();
        assert!((2_500.0..=4_000.0).contains(&p50), "{p50}");
        assert!((630_000.0..=1_000_000.0).contains(&p99), "{p99}");
        let newest: Vec<_> = metrics.last().iter().map(|d| d.order.id.as_bytes()[0]).collect();
        assert_eq!(newest, [3, 2, 1]);
    }

    #[test]
    fn last_decisions_are_bounded_in_rate_and_number() {
        let metrics = Metrics::default();
        for n in 0..100 {
            metrics.decided(&[decided(n, Decision::Sold, 1)], Timestamp(10_000));
        }
        assert_eq!(metrics.last()[0].order.id.as_bytes()[0], LAST_UPDATES_PER_SECOND as u8 - 1);
        let batch: Vec<_> = (100..150).map(|n| decided(n, Decision::Sold, 1)).collect();
        metrics.decided(&batch, Timestamp(11_000));
        assert_eq!(metrics.last().len(), LAST_MAX);
        assert_eq!(metrics.last()[0].order.id.as_bytes()[0], 149);
        assert_eq!(metrics.decisions.sold.get(), 150);
    }

    #[test]
    fn percentile_of_nothing_is_none_and_is_at_most_the_last_bound() {
        let histogram = Histogram::new(SIZES);
        assert_eq!(percentile(SIZES, &histogram.counts(), 0.5), None);
        histogram.record(1_000_000);
        assert_eq!(percentile(SIZES, &histogram.counts(), 0.99), Some(1_024.0));
        assert_eq!(histogram.counts().len(), SIZES.len() + 1);
    }
}
