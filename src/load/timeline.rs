//! Counts of events over time. Their size is bounded, however long the sale runs.

use std::ops::AddAssign;
use std::time::Duration;

/// Largest number of bins. If the sale runs longer, the length of a bin is doubled.
const BINS_MAX: usize = 128;

/// Counts of events by the time since the start of the sale.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Timeline {
    /// Length of a bin: a power of two, so that any two timelines can be merged.
    bin_ms: u64,
    bins: Vec<TimeBin>,
}

/// The events in one bin of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct TimeBin {
    /// `POST /buy` requests.
    pub requests: u64,
    /// 429 and 503 responses.
    pub refused: u64,
    /// First 202 responses of orders.
    pub acknowledged: u64,
    /// Decisions received by waiting buyers.
    pub observed: u64,
    /// Orders by their time of acceptance in the ledger.
    pub accepted: u64,
    /// Orders by their time of decision in the ledger.
    pub decided: u64,
    /// Units sold, by the time of decision in the ledger.
    pub sold: u64,
}

impl AddAssign for TimeBin {
    fn add_assign(&mut self, other: TimeBin) {
        self.requests += other.requests;
        self.refused += other.refused;
        self.acknowledged += other.acknowledged;
        self.observed += other.observed;
        self.accepted += other.accepted;
        self.decided += other.decided;
        self.sold += other.sold;
    }
}

impl Default for Timeline {
    fn default() -> Self {
        Self { bin_ms: 1, bins: Vec::new() }
    }
}

impl Timeline {
    /// The bin of an instant.
    pub fn at(&mut self, since_start: Duration) -> &mut TimeBin {
        let ms = u64::try_from(since_start.as_millis()).unwrap_or(u64::MAX);
        while ms / self.bin_ms >= BINS_MAX as u64 {
            self.double();
        }
        let bin = (ms / self.bin_ms) as usize;
        if self.bins.len() <= bin {
            self.bins.resize(bin + 1, TimeBin::default());
        }
        &mut self.bins[bin]
    }

    pub fn merge(&mut self, mut other: Timeline) {
        while self.bin_ms < other.bin_ms {
            self.double();
        }
        while other.bin_ms < self.bin_ms {
            other.double();
        }
        if self.bins.len() < other.bins.len() {
            self.bins.resize(other.bins.len(), TimeBin::default());
        }
        self.bins.iter_mut().zip(other.bins).for_each(|(ours, theirs)| *ours += theirs);
    }

    /// Length of a bin in seconds.
    pub fn bin_seconds(&self) -> f64 {
        self.bin_ms as f64 / 1_000.0
    }

    pub fn bins(&self) -> &[TimeBin] {
        &self.bins
    }

    fn double(&mut self) {
        self.bin_ms *= 2;
        let pair = |pair: &[TimeBin]| {
            let mut sum = TimeBin::default();
            pair.iter().for_each(|bin| sum += *bin);
            sum
        };
        self.bins = self.bins.chunks(2).map(pair).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(every: u64, times: u64) -> Timeline {
        let mut timeline = Timeline::default();
        (0..times).for_each(|n| timeline.at(Duration::from_millis(n * every)).accepted += 1);
        timeline
    }

    fn accepted(timeline: &Timeline) -> u64 {
        timeline.bins.iter().map(|bin| bin.accepted).sum()
    }

    #[test]
    fn size_is_bounded_and_no_count_is_lost() {
        for (every, times) in [(0, 9), (1, 1), (3, 128), (1, 1_000), (60_000, 10_000)] {
            let timeline = counted(every, times);
            assert!(timeline.bins.len() <= BINS_MAX);
            assert_eq!(accepted(&timeline), times);
            let last = every * (times - 1) / timeline.bin_ms;
            assert_eq!(timeline.bins.len() as u64, last + 1);
            assert!(timeline.bins[last as usize].accepted > 0);
        }
        let mut longest = Timeline::default();
        longest.at(Duration::MAX).accepted += 1;
        assert_eq!(accepted(&longest), 1);
    }

    #[test]
    fn timelines_with_different_bins_are_merged() {
        let short = counted(1, 100);
        let long = counted(10, 1_000);
        for (mut one, other) in [(short.clone(), long.clone()), (long, short)] {
            one.merge(other);
            assert_eq!(accepted(&one), 1_100);
            assert_eq!(one.bin_ms, 128);
            assert_eq!((one.bins[0].accepted, one.bins[1].accepted), (113, 13));
        }
    }
}
