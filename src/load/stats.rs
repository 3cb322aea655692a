//! What the buyers have seen so far, in figures that do not grow with the sale; only the ids of
//! accepted orders are kept, 16 bytes each.

use std::collections::HashMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::time::Instant;

use super::timeline::Timeline;
use crate::core::model::OrderId;
use crate::core::model::text::visible;

/// Bars of a histogram, for each factor of ten.
const BINS_PER_DECADE: f64 = 20.0;
/// The longest latency that is told from longer ones.
const LATENCY_MAX: Duration = Duration::from_secs(3_600);

#[derive(Debug)]
pub(super) struct LoadStats {
    /// HTTP requests to buy, whatever became of them.
    pub requests: u64,
    /// One id per 202; a repeat's is there twice.
    pub accepted: Vec<OrderId>,
    began: Instant,
    pub last_accepted: Instant,
    /// Answers that said to come again (429, 503).
    pub refused: u64,
    pub connection_errors: u64,
    /// Orders that nobody accepted before the buyers gave up.
    pub given_up: u64,
    /// Answers that no buyer should get, and the first of them.
    pub unexpected: u64,
    pub first_unexpected: Option<String>,
    /// Repeats that got another order id than the request they repeat (P5).
    pub renamed: u64,
    pub ack: LatencyHistogram,
    pub timeline: Timeline,
    /// Keyed requests, by buyer, of which one of the two was accepted.
    half_answered: HashMap<u64, OrderId>,
}

impl LoadStats {
    pub fn new(began: Instant) -> Self {
        Self {
            requests: 0,
            accepted: Vec::new(),
            began,
            last_accepted: began,
            refused: 0,
            connection_errors: 0,
            given_up: 0,
            unexpected: 0,
            first_unexpected: None,
            renamed: 0,
            ack: LatencyHistogram::new(),
            timeline: Timeline::default(),
            half_answered: HashMap::new(),
        }
    }

    pub fn add_request(&mut self) {
        self.requests += 1;
        self.timeline.at(self.began.elapsed()).requests += 1;
    }

    pub fn add_refusal(&mut self) {
        self.refused += 1;
        self.timeline.at(self.began.elapsed()).refused += 1;
    }

    /// Notes a 202; `keyed_by` is the buyer of a keyed request, whose twin must get the same order.
    pub fn add_accepted(&mut self, order: OrderId, scheduled: Instant, keyed_by: Option<u64>) {
        self.last_accepted = Instant::now();
        self.ack.record(self.last_accepted - scheduled);
        self.accepted.push(order);
        if keyed_by.is_none_or(|buyer| self.is_first(buyer, order)) {
            self.timeline.at(self.last_accepted - self.began).acknowledged += 1;
        }
    }

    fn is_first(&mut self, buyer: u64, order: OrderId) -> bool {
        let twin = self.half_answered.remove(&buyer);
        match twin {
            None => drop(self.half_answered.insert(buyer, order)),
            Some(twin) => self.renamed += u64::from(twin != order),
        }
        twin.is_none()
    }

    /// `answer` is another server's text.
    pub fn add_unexpected(&mut self, answer: &str) {
        self.unexpected += 1;
        self.first_unexpected.get_or_insert_with(|| visible(answer).into_owned());
    }
}

/// Latencies, to three digits.
#[derive(Debug)]
pub(super) struct LatencyHistogram(Histogram<u64>);

impl LatencyHistogram {
    pub fn new() -> Self {
        let bounds = Histogram::new_with_bounds(1, LATENCY_MAX.as_micros() as u64, 3);
        Self(bounds.expect("1 us to an hour in three digits is a valid range"))
    }

    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record((latency.as_micros() as u64).max(1));
    }

    /// `None` when nothing was recorded.
    pub fn percentiles(&self) -> Option<Percentiles> {
        let ms = |micros: u64| micros as f64 / 1_000.0;
        (!self.0.is_empty()).then(|| Percentiles {
            p50: ms(self.0.value_at_quantile(0.5)),
            p99: ms(self.0.value_at_quantile(0.99)),
            p999: ms(self.0.value_at_quantile(0.999)),
            max: ms(self.0.max()),
        })
    }

    /// Bars on a logarithmic scale, from the shortest latency to the longest, empty ones included.
    pub fn bins(&self) -> Vec<LatencyBin> {
        let place = |micros: u64| ((micros.max(1) as f64).log10() * BINS_PER_DECADE) as usize;
        let ms = |place: usize| 10f64.powf(place as f64 / BINS_PER_DECADE) / 1_000.0;
        let mut bins: Vec<LatencyBin> = Vec::new();
        if self.0.is_empty() {
            return bins;
        }
        let first = place(self.0.min());
        for value in self.0.iter_recorded() {
            let place = place(value.value_iterated_to());
            while first + bins.len() <= place {
                let at = first + bins.len();
                bins.push(LatencyBin { from_ms: ms(at), to_ms: ms(at + 1), count: 0 });
            }
            bins[place - first].count += value.count_at_value();
        }
        bins
    }
}

/// A bar of a histogram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LatencyBin {
    pub from_ms: f64,
    pub to_ms: f64,
    pub count: u64,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_latency_is_in_the_bar_that_spans_it() {
        let mut latency = LatencyHistogram::new();
        assert_eq!(latency.bins(), []);
        for micros in [1, 900, 1_000, 1_001, 250_000, 9_000_000_000] {
            latency.record(Duration::from_micros(micros));
            let ms = latency.percentiles().unwrap().max;
            let bins = latency.bins();
            let last = bins.last().unwrap();
            assert!(last.from_ms <= ms * 1.001 && ms <= last.to_ms * 1.001, "{ms} in {last:?}");
        }
        let bins = latency.bins();
        assert_eq!(bins.iter().map(|bin| bin.count).sum::<u64>(), 6);
        assert!(bins.windows(2).all(|pair| pair[0].to_ms == pair[1].from_ms));
        assert!(bins.len() < 200, "bounded by the range: {}", bins.len());
    }
}
