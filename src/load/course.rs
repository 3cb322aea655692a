//! How a sale went over time, in figures that do not grow with it.

use std::ops::AddAssign;
use std::time::Duration;

use super::tally::Bin;
use super::window::StockSeen;

/// Spans of time that are told apart, at most; when a sale outlasts them, two become one.
const SPANS: usize = 128;

/// What is drawn of a sale, beside the figures of its report.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Course {
    pub(super) counts: Counts,
    /// Units sold, by the ledger; apart, so that a sale that is over at once is told finely.
    pub(super) sold: Counts,
    /// How many were acknowledged, and saw their decision, after how long.
    pub(super) ack: Vec<Bin>,
    pub(super) decision: Vec<Bin>,
    /// Of a foreign server's item; of our own, `counts` says it.
    pub(super) stock: Vec<StockSeen>,
}

/// Events by the time since the start of the sale.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Counts {
    /// Length of a span: a power of two, so that any two `Counts` can be put together.
    span_ms: u64,
    spans: Vec<Span>,
}

/// What happened in one span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Span {
    /// HTTP requests to buy.
    pub requests: u64,
    /// Answers that said to come again.
    pub refused: u64,
    /// Orders at their first 202.
    pub acknowledged: u64,
    /// Decisions when a waiting buyer saw them.
    pub seen: u64,
    /// Orders by their time of acceptance and of decision in the ledger.
    pub accepted: u64,
    pub decided: u64,
    /// Units, by the ledger.
    pub sold: u64,
}

impl AddAssign for Span {
    fn add_assign(&mut self, other: Span) {
        self.requests += other.requests;
        self.refused += other.refused;
        self.acknowledged += other.acknowledged;
        self.seen += other.seen;
        self.accepted += other.accepted;
        self.decided += other.decided;
        self.sold += other.sold;
    }
}

impl Default for Counts {
    fn default() -> Self {
        Self { span_ms: 1, spans: Vec::new() }
    }
}

impl Counts {
    /// The span of an instant, to be counted in.
    pub fn at(&mut self, since_start: Duration) -> &mut Span {
        let ms = u64::try_from(since_start.as_millis()).unwrap_or(u64::MAX);
        while ms / self.span_ms >= SPANS as u64 {
            self.double();
        }
        let span = (ms / self.span_ms) as usize;
        if self.spans.len() <= span {
            self.spans.resize(span + 1, Span::default());
        }
        &mut self.spans[span]
    }

    pub fn merge(&mut self, mut other: Counts) {
        while self.span_ms < other.span_ms {
            self.double();
        }
        while other.span_ms < self.span_ms {
            other.double();
        }
        if self.spans.len() < other.spans.len() {
            self.spans.resize(other.spans.len(), Span::default());
        }
        self.spans.iter_mut().zip(other.spans).for_each(|(ours, theirs)| *ours += theirs);
    }

    /// Seconds.
    pub fn span(&self) -> f64 {
        self.span_ms as f64 / 1_000.0
    }

    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    fn double(&mut self) {
        self.span_ms *= 2;
        let pair = |pair: &[Span]| {
            let mut sum = Span::default();
            pair.iter().for_each(|span| sum += *span);
            sum
        };
        self.spans = self.spans.chunks(2).map(pair).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(every: u64, times: u64) -> Counts {
        let mut counts = Counts::default();
        (0..times).for_each(|n| counts.at(Duration::from_millis(n * every)).accepted += 1);
        counts
    }

    fn accepted(counts: &Counts) -> u64 {
        counts.spans.iter().map(|span| span.accepted).sum()
    }

    #[test]
    fn a_sale_of_days_takes_no_more_room_than_one_of_a_second_and_loses_no_count() {
        for (every, times) in [(0, 9), (1, 1), (3, 128), (1, 1_000), (60_000, 10_000)] {
            let counts = counted(every, times);
            assert!(counts.spans.len() <= SPANS);
            assert_eq!(accepted(&counts), times);
            let last = every * (times - 1) / counts.span_ms;
            assert_eq!(counts.spans.len() as u64, last + 1);
            assert!(counts.spans[last as usize].accepted > 0);
        }
        let mut for_ever = Counts::default();
        for_ever.at(Duration::MAX).accepted += 1;
        assert_eq!(accepted(&for_ever), 1);
    }

    #[test]
    fn counts_of_different_lengths_are_put_together_time_by_time() {
        let (short, long) = (counted(1, 100), counted(10, 1_000));
        for (mut one, other) in [(short.clone(), long.clone()), (long, short)] {
            one.merge(other);
            assert_eq!(accepted(&one), 1_100);
            assert_eq!(one.span_ms, 128);
            assert_eq!((one.spans[0].accepted, one.spans[1].accepted), (113, 13));
        }
    }
}
