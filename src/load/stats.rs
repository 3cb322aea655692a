//! Statistics of the buyers' requests. Apart from the ids of accepted orders (16 bytes each), their
//! size does not depend on the number of orders.

use std::collections::HashMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::time::Instant;

use super::timeline::Timeline;
use crate::core::model::OrderId;
use crate::core::model::text::visible;

/// Bins of a histogram per factor of ten.
const BINS_PER_DECADE: f64 = 20.0;
/// Longer latencies count as this one.
const LATENCY_MAX: Duration = Duration::from_secs(3_600);

#[derive(Debug)]
pub(super) struct LoadStats {
    /// `POST /buy` requests, whatever their result.
    pub requests: u64,
    /// One id per 202 response; the id of a repeated order is included twice.
    pub accepted: Vec<OrderId>,
    began: Instant,
    pub last_accepted: Instant,
    /// 429 and 503 responses.
    pub refused: u64,
    pub connection_errors: u64,
    /// Orders that were not accepted before the buyers gave up.
    pub given_up: u64,
    /// Responses that no buyer should get.
    pub unexpected: u64,
    pub first_unexpected: Option<String>,
    /// Repeats with another order id than the request they repeat (P5).
    pub mismatched_repeats: u64,
    pub ack: LatencyHistogram,
    pub timeline: Timeline,
    /// By buyer: the order of a repeated request, until its second acceptance.
    accepted_once: HashMap<u64, OrderId>,
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
            mismatched_repeats: 0,
            ack: LatencyHistogram::new(),
            timeline: Timeline::default(),
            accepted_once: HashMap::new(),
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

    /// Records a 202. `keyed_by` is the buyer, if the request has an Idempotency-Key.
    pub fn add_accepted(&mut self, order: OrderId, scheduled: Instant, keyed_by: Option<u64>) {
        self.last_accepted = Instant::now();
        self.ack.record(self.last_accepted - scheduled);
        self.accepted.push(order);
        if keyed_by.is_none_or(|buyer| self.is_first(buyer, order)) {
            self.timeline.at(self.last_accepted - self.began).acknowledged += 1;
        }
    }

    fn is_first(&mut self, buyer: u64, order: OrderId) -> bool {
        let first = self.accepted_once.remove(&buyer);
        match first {
            None => drop(self.accepted_once.insert(buyer, order)),
            Some(first) => self.mismatched_repeats += u64::from(first != order),
        }
        first.is_none()
    }

    /// Hidden characters of `answer` are escaped, because it is the text of another server.
    pub fn add_unexpected(&mut self, answer: &str) {
        self.unexpected += 1;
        self.first_unexpected.get_or_insert_with(|| visible(answer).into_owned());
    }
}

/// Latencies, with three significant digits.
#[derive(Debug)]
pub(super) struct LatencyHistogram(Histogram<u64>);

impl LatencyHistogram {
    pub fn new() -> Self {
        let bounds = Histogram::new_with_bounds(1, LATENCY_MAX.as_micros() as u64, 3);
        Self(bounds.expect("1 us to an hour with three digits is a valid range"))
    }

    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record((latency.as_micros() as u64).max(1));
    }

    /// `None` if nothing was recorded.
    pub fn percentiles(&self) -> Option<Percentiles> {
        let ms = |micros: u64| micros as f64 / 1_000.0;
        (!self.0.is_empty()).then(|| Percentiles {
            p50: ms(self.0.value_at_quantile(0.5)),
            p99: ms(self.0.value_at_quantile(0.99)),
            p999: ms(self.0.value_at_quantile(0.999)),
            max: ms(self.0.max()),
        })
    }

    /// Bins on a logarithmic scale from the shortest to the longest latency, including empty bins.
    pub fn bins(&self) -> Vec<LatencyBin> {
        let index = |micros: u64| ((micros.max(1) as f64).log10() * BINS_PER_DECADE) as usize;
        let ms = |index: usize| 10f64.powf(index as f64 / BINS_PER_DECADE) / 1_000.0;
        let mut bins: Vec<LatencyBin> = Vec::new();
        if self.0.is_empty() {
            return bins;
        }
        let first = index(self.0.min());
        for value in self.0.iter_recorded() {
            let bin = index(value.value_iterated_to());
            while first + bins.len() <= bin {
                let next = first + bins.len();
                bins.push(LatencyBin { from_ms: ms(next), to_ms: ms(next + 1), count: 0 });
            }
            bins[bin - first].count += value.count_at_value();
        }
        bins
    }
}

/// A bin of a histogram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LatencyBin {
    pub from_ms: f64,
    pub to_ms: f64,
    pub count: u64,
}

/// Percentiles of a latency, in milliseconds.
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
    fn bin_spans_its_latencies() {
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
        assert!(bins.len() < 200, "{} bins", bins.len());
    }
}
