//! The report of `flux stress`, as text and as JSON; `page` renders it as HTML.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::cost::Cost;
use super::guard_experiment::DisabledGuard;
use super::http_audit::StockSample;
use super::stats::{LatencyBin, Percentiles};
use super::summary::AuditResult;
use super::timeline::Timeline;
use crate::core::model::ItemId;

/// The figures of a load test, and the conditions of its run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub verdict: AuditResult,
    /// Broken promises, and reasons why a promise could not be checked. Empty if the verdict is
    /// `pass`.
    pub faults: Vec<String>,
    pub item_id: ItemId,
    pub stock: u64,
    pub users: u64,
    /// `POST /buy` requests, including repeats and retries.
    pub requests: u64,
    /// Distinct order ids in 202 responses.
    pub accepted: u64,
    /// Units.
    pub sold: u64,
    pub held: u64,
    /// Orders.
    pub rejected: u64,
    /// Rejected orders by reason.
    pub reasons: BTreeMap<&'static str, u64>,
    pub expired: u64,
    pub dropped: u64,
    pub oversold_units: u64,
    pub stranded_units: u64,
    pub undecided: u64,
    pub decided_twice: u64,
    /// Accepted orders in the dead-letter queue.
    pub dead_lettered: u64,
    /// Accepted orders that are not found any more.
    pub missing_orders: u64,
    /// Orders decided out of order, see [`AuditSummary::inversions`]. Null with `--target`.
    ///
    /// [`AuditSummary::inversions`]: super::summary::AuditSummary::inversions
    pub inversions: Option<u64>,
    /// 429 and 503 responses; the buyer retries after each.
    pub refused: u64,
    pub connection_errors: u64,
    /// Null if nothing was measured.
    pub ack_ms: Option<Percentiles>,
    pub decision_ms: Option<Percentiles>,
    pub accepted_per_s: f64,
    pub decided_per_s: f64,
    /// Null with `--target`, because only the server's processes can count them.
    pub requests_per_order: Option<RequestsPerOrder>,
    /// Null with `--target` and on the embedded backend.
    pub cost: Option<Cost>,
    /// `ledger` if the stored orders were audited, `http` if the API's responses were.
    pub audited_by: &'static str,
    pub without: Vec<DisabledGuard>,
    pub backend: String,
    /// Null with `--target`.
    pub workers: Option<usize>,
    pub connections: usize,
    pub rate: Option<f64>,
    pub duplicates: f64,
    pub seed: u64,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// Seconds from the start to the last acceptance.
    pub accepting_s: f64,
    /// Seconds from the start to the last decision.
    pub deciding_s: f64,
    pub machine: Machine,
    /// `git describe` of the sources, or `unknown`.
    pub commit: &'static str,
    /// Data of the HTML report's plots; not in the JSON.
    #[serde(skip)]
    pub plots: PlotData,
}

/// The data of the HTML report's plots.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PlotData {
    pub(super) timeline: Timeline,
    /// Units sold, by the ledger. A timeline of its own, because its bins are finer if the units
    /// are sold long before the last order is decided.
    pub(super) sold: Timeline,
    pub(super) ack: Vec<LatencyBin>,
    pub(super) decision: Vec<LatencyBin>,
    /// With `--target`, the item as the server showed it; else empty.
    pub(super) stock: Vec<StockSample>,
}

/// Network round trips per accepted order, from the first send to the last acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RequestsPerOrder {
    pub sqs: f64,
    pub redis: f64,
    pub dynamodb: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Machine {
    pub cores: usize,
    /// Null if unknown.
    pub memory_bytes: Option<u64>,
    pub os: String,
}

impl Machine {
    pub fn this() -> Self {
        let memory = std::fs::read_to_string("/proc/meminfo").ok();
        let kib = memory.as_deref().and_then(|text| {
            let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
            total.trim().strip_suffix(" kB")?.parse::<u64>().ok()
        });
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kib.map(|kib| kib * 1024),
            os: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        }
    }
}

/// A few lines of text; the last one begins with the verdict.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "item         {}, stock {}, backend {}",
            self.item_id, self.stock, self.backend
        )?;
        writeln!(
            f,
            "buyers       {} on {} connections, {} requests, seed {}",
            self.users, self.connections, self.requests, self.seed
        )?;
        write!(f, "orders       accepted {}", self.accepted)?;
        write!(f, ", sold {}, rejected {}", self.sold, self.rejected)?;
        writeln!(f, ", undecided {}", self.undecided)?;
        let others = [
            ("responses 429 and 503 ", self.refused),
            ("connection errors ", self.connection_errors),
            ("decided out of order ", self.inversions.unwrap_or(0)),
        ];
        for (name, amount) in others.iter().filter(|(_, amount)| *amount > 0) {
            writeln!(f, "             {name}{amount}")?;
        }
        let note = if self.audited_by == "http" { " (until all were read over HTTP)" } else { "" };
        writeln!(
            f,
            "throughput   {:.0} accepted/s, {:.0} decided/s{note}",
            self.accepted_per_s, self.decided_per_s
        )?;
        for (name, latency) in [("accepted in", self.ack_ms), ("decided in", self.decision_ms)] {
            if let Some(Percentiles { p50, p99, p999, max }) = latency {
                write!(f, "{name:<12} p50 {p50:.1} ms, p99 {p99:.1}, ")?;
                writeln!(f, "p99.9 {p999:.1}, max {max:.1}")?;
            }
        }
        if let Some(per_order) = self.requests_per_order
            && self.backend != "embedded"
        {
            let RequestsPerOrder { sqs, redis, dynamodb } = per_order;
            write!(f, "round trips  per order: SQS {sqs:.3}, DynamoDB {dynamodb:.3}, ")?;
            writeln!(f, "Redis {redis:.3}")?;
        }
        if let Some(cost) = &self.cost {
            cost.fmt(f)?;
        }
        if self.audited_by == "http" {
            writeln!(f, "audited      by HTTP only; orders of other buyers are not included")?;
        }
        if let Some(text) = self.expectation() {
            writeln!(f, "without      {text}")?;
        }
        write!(
            f,
            "{}: sold {} of {}, oversold {}, stranded {}, undecided {}, decided twice {}",
            self.verdict,
            self.sold,
            self.stock,
            self.oversold_units,
            self.stranded_units,
            self.undecided,
            self.decided_twice
        )?;
        self.faults.iter().try_for_each(|fault| write!(f, "; {fault}"))
    }
}

impl Report {
    /// With a disabled guard: the expected result, and the actual one.
    pub(super) fn expectation(&self) -> Option<String> {
        if self.without.is_empty() {
            return None;
        }
        let names: Vec<_> = self.without.iter().map(|guard| guard.as_str()).collect();
        let must_oversell = self.without.contains(&DisabledGuard::LedgerCondition);
        let expected = if must_oversell { "must oversell" } else { "no promise may break" };
        let actual = match (self.verdict, self.oversold_units) {
            (AuditResult::Pass, _) => "no promise was broken".to_owned(),
            (AuditResult::Fail, 0) => "another promise was broken".to_owned(),
            (AuditResult::Fail, units) => format!("it oversold {units} units"),
        };
        let as_expected = match must_oversell {
            true => self.oversold_units > 0,
            false => self.verdict == AuditResult::Pass,
        };
        let note = if as_expected { "as expected" } else { "NOT as expected" };
        Some(format!("{}: {expected}; {actual}, {note}", names.join(", ")))
    }
}
