//! The report of `flux stress`: what is said at its end, and written as JSON; `page` writes it for
//! people.

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

/// Figures of a load test, with their circumstances.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub verdict: AuditResult,
    /// What broke a promise, or kept one from being checked; empty when the verdict is `pass`.
    pub faults: Vec<String>,
    pub item_id: ItemId,
    pub stock: u64,
    pub users: u64,
    /// HTTP requests to buy, repeats and renewed attempts included.
    pub requests: u64,
    /// Distinct order ids that were answered 202.
    pub accepted: u64,
    /// Units.
    pub sold: u64,
    pub held: u64,
    /// Orders.
    pub rejected: u64,
    /// Accepted orders that were rejected, by the reason they were given.
    pub reasons: BTreeMap<&'static str, u64>,
    pub expired: u64,
    pub dropped: u64,
    pub oversold_units: u64,
    pub stranded_units: u64,
    pub undecided: u64,
    pub decided_twice: u64,
    /// Accepted orders that ended in the dead-letter queue, or that nobody knows any more.
    pub dead_lettered: u64,
    pub missing_orders: u64,
    /// Orders decided out of turn; see the audit's figure of this name. Null with `--target`.
    pub inversions: Option<u64>,
    /// Answers 429 and 503, after each of which the buyer came again.
    pub refused: u64,
    pub connection_errors: u64,
    /// Null when nothing was measured.
    pub ack_ms: Option<Percentiles>,
    pub decision_ms: Option<Percentiles>,
    pub accepted_per_s: f64,
    pub decided_per_s: f64,
    /// Null with `--target`: only the server's own processes could count them.
    pub requests_per_order: Option<RequestsPerOrder>,
    /// Null with `--target` and on the embedded backend.
    pub cost: Option<Cost>,
    /// `ledger`: from the stored orders. `http`: from what the API shows.
    pub audited_by: &'static str,
    pub without: Vec<DisabledGuard>,
    pub backend: String,
    /// Null with `--target`.
    pub workers: Option<usize>,
    pub connections: usize,
    pub rate: Option<f64>,
    pub duplicates: f64,
    pub seed: u64,
    /// In RFC 3339, UTC.
    pub started_at: String,
    /// Seconds from the start to the last acceptance, and to the last decision.
    pub accepting_s: f64,
    pub deciding_s: f64,
    pub machine: Machine,
    /// `git describe` of the sources, or `unknown`.
    pub commit: &'static str,
    /// Drawn in the report for people, and not in the JSON.
    #[serde(skip)]
    pub plots: PlotData,
}

/// What is drawn of a sale, beside the figures of its report.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PlotData {
    pub(super) timeline: Timeline,
    /// Units sold, by the ledger; apart, so that a sale that is over at once is told finely.
    pub(super) sold: Timeline,
    /// How many were acknowledged, and saw their decision, after how long.
    pub(super) ack: Vec<LatencyBin>,
    pub(super) decision: Vec<LatencyBin>,
    /// Of a foreign server's item; of our own, `timeline` says it.
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
    /// Null where the system does not say.
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

/// For people: a few lines, and the verdict in the last one.
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
        let rough = [
            ("told to come again", self.refused),
            ("connections lost", self.connection_errors),
            ("decided out of turn", self.inversions.unwrap_or(0)),
        ];
        for (name, amount) in rough.iter().filter(|(_, amount)| *amount > 0) {
            writeln!(f, "             {name} {amount} times")?;
        }
        let seen = if self.audited_by == "http" { ", until all were read over HTTP" } else { "" };
        writeln!(
            f,
            "speed        {:.0} accepted/s, {:.0} decided/s{seen}",
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
            writeln!(f, "audited      by HTTP only: orders of other buyers were not seen")?;
        }
        if let Some(remark) = self.expectation() {
            writeln!(f, "without      {remark}")?;
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
    /// With a guard taken out: what had to happen, and what did.
    pub(super) fn expectation(&self) -> Option<String> {
        if self.without.is_empty() {
            return None;
        }
        let names: Vec<_> = self.without.iter().map(|guard| guard.as_str()).collect();
        let must_oversell = self.without.contains(&DisabledGuard::LedgerCondition);
        let expected = if must_oversell { "must oversell" } else { "nothing may go wrong" };
        let happened = match (self.verdict, self.oversold_units) {
            (AuditResult::Pass, _) => "nothing went wrong".to_owned(),
            (AuditResult::Fail, 0) => "something else went wrong".to_owned(),
            (AuditResult::Fail, units) => format!("it oversold {units} units"),
        };
        let as_expected = match must_oversell {
            true => self.oversold_units > 0,
            false => self.verdict == AuditResult::Pass,
        };
        let remark = if as_expected { "as expected" } else { "NOT as expected" };
        Some(format!("{}: {expected}; {happened}, {remark}", names.join(", ")))
    }
}
