//! What the buyers have seen so far, in figures that do not grow with the sale; only the ids of
//! accepted orders are kept, 16 bytes each.

use std::collections::HashMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::time::Instant;

use crate::core::order::OrderId;

/// The longest latency that is told from longer ones.
const LATENCY_MAX: Duration = Duration::from_secs(3_600);

#[derive(Debug)]
pub(super) struct Tally {
    /// HTTP requests to buy, whatever became of them.
    pub requests: u64,
    /// One id per 202; a repeat's is there twice.
    pub accepted: Vec<OrderId>,
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
    pub ack: Latency,
    /// Keyed requests, by buyer, of which one of the two was accepted.
    half_answered: HashMap<u64, OrderId>,
}

impl Tally {
    pub fn new() -> Self {
        Self {
            requests: 0,
            accepted: Vec::new(),
            last_accepted: Instant::now(),
            refused: 0,
            connection_errors: 0,
            given_up: 0,
            unexpected: 0,
            first_unexpected: None,
            renamed: 0,
            ack: Latency::new(),
            half_answered: HashMap::new(),
        }
    }

    pub fn accept(&mut self, order: OrderId, scheduled: Instant) {
        self.last_accepted = Instant::now();
        self.ack.record(scheduled.elapsed());
        self.accepted.push(order);
    }

    /// Notes under which name a keyed request was accepted; its twin must get the same.
    pub fn name(&mut self, buyer: u64, order: OrderId) {
        match self.half_answered.remove(&buyer) {
            None => drop(self.half_answered.insert(buyer, order)),
            Some(twin) => self.renamed += u64::from(twin != order),
        }
    }

    pub fn surprise(&mut self, answer: String) {
        self.unexpected += 1;
        self.first_unexpected.get_or_insert(answer);
    }
}

/// Latencies, to three digits.
#[derive(Debug)]
pub(super) struct Latency(Histogram<u64>);

impl Latency {
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
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}
