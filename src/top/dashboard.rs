//! The JSON of `GET /events`. An unknown number is null, here `None`. A field that an older server
//! does not send has its default.

use std::collections::BTreeMap;

use serde::Deserialize;

/// One second of the plots.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct PlotPoint {
    pub at_ms: u64,
    pub accepted_per_s: Option<f64>,
    pub decided_per_s: Option<f64>,
    pub waiting: Option<u64>,
    pub p99_ms: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct History {
    /// Oldest first.
    pub points: Vec<PlotPoint>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    pub at: String,
    pub at_ms: u64,
    pub backend: String,
    pub uptime_s: u64,
    pub accepted: Option<u64>,
    pub decided: Option<u64>,
    pub sold: Option<u64>,
    pub rejected: Option<u64>,
    pub expired: Option<u64>,
    pub dropped: Option<u64>,
    pub rates: OrderRates,
    pub rejected_by_reason: BTreeMap<String, u64>,
    pub backlog: BacklogFigures,
    pub decision_ms: LatencyPercentiles,
    pub ack_ms: LatencyPercentiles,
    /// `None` if the server does not know the processes.
    pub workers: Option<Vec<WorkerRow>>,
    /// `Some(false)` until the server has read the items.
    pub items_known: Option<bool>,
    pub items: Vec<ItemFigures>,
    /// True if there are more items than `items` contains.
    pub items_more: bool,
    pub last: Vec<DecisionRow>,
    pub dead_letters: Vec<DeadLetterRow>,
    pub oversold_units: Option<u64>,
    pub stranded_units: Option<u64>,
}

/// Orders per second.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct OrderRates {
    pub accepted: Option<f64>,
    pub decided: Option<f64>,
    pub sold: Option<f64>,
    pub rejected: Option<f64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct BacklogFigures {
    pub waiting: Option<u64>,
    pub oldest_ms: Option<u64>,
    pub dead_letters: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct LatencyPercentiles {
    pub p50: Option<f64>,
    pub p99: Option<f64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct WorkerRow {
    pub kind: String,
    pub host: String,
    pub pid: u32,
    pub age_ms: Option<u64>,
    pub decided_per_s: Option<f64>,
    #[serde(rename = "in_hand")]
    pub in_flight: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ItemFigures {
    pub item_id: String,
    pub stock: u64,
    pub free: u64,
    pub held: u64,
    pub sold: u64,
    pub status: String,
    /// True if the item was created by an order, not listed.
    pub unlisted: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct DecisionRow {
    pub order_id: String,
    pub item_id: String,
    /// `None` without the admin key.
    pub user_id: Option<String>,
    pub quantity: u64,
    pub status: String,
    pub reason: Option<String>,
    pub decided_at: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct DeadLetterRow {
    pub order_id: String,
    pub reason: String,
    pub at: String,
}

impl Snapshot {
    /// This snapshot as a point of the plots.
    pub fn point(&self) -> PlotPoint {
        PlotPoint {
            at_ms: self.at_ms,
            accepted_per_s: self.rates.accepted,
            decided_per_s: self.rates.decided,
            waiting: self.backlog.waiting,
            p99_ms: self.decision_ms.p99,
        }
    }
}
