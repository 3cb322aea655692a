//! The state of the sale and its history as server-sent events.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;

use super::processes::{LiveProcess, OrderRates};
use super::sample::Sample;
use crate::core::model::{ItemId, OrderId, UserId, rfc3339};
use crate::core::ports::heartbeats::{Kind, LastDecision};
use crate::http::item_json::ItemJson;
use crate::http::problem::json_bytes;

/// One second in the plots.
#[derive(Debug, Clone, Serialize)]
pub struct PlotPoint {
    at_ms: u64,
    accepted_per_s: Option<f64>,
    decided_per_s: Option<f64>,
    sold_per_s: Option<f64>,
    rejected_per_s: Option<f64>,
    waiting: Option<u64>,
    oldest_ms: Option<u64>,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
}

impl PlotPoint {
    pub fn of(sample: &Sample) -> PlotPoint {
        let per_s = |rate: fn(OrderRates) -> f64| sample.rates.map(rate).map(tenths);
        let (p50, p99) = sample.decision_ms;
        PlotPoint {
            at_ms: sample.at.0,
            accepted_per_s: per_s(|rates| rates.accepted),
            decided_per_s: per_s(|rates| rates.decided),
            sold_per_s: per_s(|rates| rates.sold),
            rejected_per_s: per_s(|rates| rates.rejected),
            waiting: sample.store.backlog.as_ref().map(|backlog| backlog.waiting),
            oldest_ms: oldest_ms(sample),
            p50_ms: p50.map(tenths),
            p99_ms: p99.map(tenths),
        }
    }
}

#[derive(Serialize)]
struct HistoryJson<'a> {
    points: &'a VecDeque<PlotPoint>,
}

#[derive(Serialize)]
struct DashboardJson<'a> {
    at: String,
    at_ms: u64,
    backend: &'static str,
    uptime_s: u64,
    accepted: Option<u64>,
    decided: Option<u64>,
    sold: Option<u64>,
    rejected: Option<u64>,
    expired: Option<u64>,
    dropped: Option<u64>,
    rates: RatesJson,
    rejected_by_reason: &'a BTreeMap<String, u64>,
    backlog: BacklogJson,
    decision_ms: TimesJson,
    ack_ms: TimesJson,
    workers: Option<Vec<WorkerJson<'a>>>,
    /// False until the items were read; `items` is empty then.
    items_known: bool,
    items: Vec<ItemJson<'a>>,
    items_more: bool,
    last: Vec<LastJson<'a>>,
    dead_letters: Vec<DeadLetterSummaryJson<'a>>,
    oversold_units: Option<u64>,
    stranded_units: Option<u64>,
}

#[derive(Serialize)]
struct RatesJson {
    accepted: Option<f64>,
    decided: Option<f64>,
    sold: Option<f64>,
    rejected: Option<f64>,
}

#[derive(Serialize)]
struct BacklogJson {
    waiting: Option<u64>,
    oldest_ms: Option<u64>,
    dead_letters: Option<u64>,
}

#[derive(Serialize)]
struct TimesJson {
    p50: Option<f64>,
    p99: Option<f64>,
}

/// A process that decides.
#[derive(Serialize)]
struct WorkerJson<'a> {
    id: &'a str,
    kind: Kind,
    host: &'a str,
    pid: u32,
    concurrency: usize,
    started_at: String,
    age_ms: u64,
    decided_per_s: Option<f64>,
    in_hand: u64,
}

#[derive(Serialize)]
struct LastJson<'a> {
    order_id: OrderId,
    item_id: &'a ItemId,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a UserId>,
    quantity: u64,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    decided_at: String,
}

#[derive(Serialize)]
struct DeadLetterSummaryJson<'a> {
    order_id: OrderId,
    reason: &'a str,
    at: String,
}

pub fn history(points: &VecDeque<PlotPoint>) -> Vec<u8> {
    json_bytes(&HistoryJson { points })
}

pub fn dashboard(sample: &Sample, backend: &'static str, uptime: Duration, names: bool) -> Vec<u8> {
    let store = &sample.store;
    let decided = sample.decided.as_ref();
    let no_reasons = BTreeMap::new();
    let per_s = |rate: fn(OrderRates) -> f64| sample.rates.map(rate).map(tenths);
    json_bytes(&DashboardJson {
        at: rfc3339(sample.at),
        at_ms: sample.at.0,
        backend,
        uptime_s: uptime.as_secs(),
        accepted: sample.accepted,
        decided: decided.map(|d| d.all),
        sold: decided.map(|d| d.sold),
        rejected: decided.map(|d| d.rejected),
        expired: decided.map(|d| d.expired),
        dropped: decided.map(|d| d.dropped),
        rates: RatesJson {
            accepted: per_s(|rates| rates.accepted),
            decided: per_s(|rates| rates.decided),
            sold: per_s(|rates| rates.sold),
            rejected: per_s(|rates| rates.rejected),
        },
        rejected_by_reason: decided.map_or(&no_reasons, |d| &d.by_reason),
        backlog: BacklogJson {
            waiting: store.backlog.as_ref().map(|b| b.waiting),
            oldest_ms: oldest_ms(sample),
            dead_letters: store.backlog.as_ref().map(|b| b.dead_letters),
        },
        decision_ms: times(sample.decision_ms),
        ack_ms: times(sample.ack_ms),
        workers: sample.processes.as_deref().map(workers),
        items_known: store.items.is_some(),
        items: store.items.iter().flatten().map(ItemJson::from).collect(),
        items_more: store.items_more,
        last: sample.last.iter().map(|one| last(one, names)).collect(),
        dead_letters: store
            .dead_letters
            .iter()
            .map(|letter| DeadLetterSummaryJson {
                order_id: letter.order_id,
                reason: &letter.reason,
                at: rfc3339(letter.at),
            })
            .collect(),
        oversold_units: store.unit_errors.map(|errors| errors.oversold),
        stranded_units: store.unit_errors.map(|errors| errors.stranded),
    })
}

fn workers(all: &[LiveProcess]) -> Vec<WorkerJson<'_>> {
    let deciding = all.iter().filter(|process| process.heartbeat.concurrency > 0);
    deciding.map(worker).collect()
}

fn worker(process: &LiveProcess) -> WorkerJson<'_> {
    let heartbeat = &process.heartbeat;
    WorkerJson {
        id: &heartbeat.id,
        kind: heartbeat.kind,
        host: &heartbeat.host,
        pid: heartbeat.pid,
        concurrency: heartbeat.concurrency,
        started_at: rfc3339(heartbeat.started_at),
        age_ms: process.age.as_millis() as u64,
        decided_per_s: process.decided_per_s.map(tenths),
        in_hand: heartbeat.in_flight,
    }
}

fn last(one: &LastDecision, names: bool) -> LastJson<'_> {
    LastJson {
        order_id: one.order_id,
        item_id: &one.item_id,
        user_id: names.then_some(&one.user_id),
        quantity: one.quantity.units(),
        status: &one.status,
        reason: one.reason.as_deref(),
        decided_at: rfc3339(one.decided_at),
    }
}

fn oldest_ms(sample: &Sample) -> Option<u64> {
    sample.oldest().map(|age| age.as_millis() as u64)
}

fn times((p50, p99): (Option<f64>, Option<f64>)) -> TimesJson {
    TimesJson { p50: p50.map(tenths), p99: p99.map(tenths) }
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
