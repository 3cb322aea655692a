//! Builds the report from a load test and its audit.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{AuditedSale, CompletedSale, Stress};
use crate::core::model::{Decision, Reason, rfc3339};
use crate::core::ports::usage::CallCounts;
use crate::load::cost::Cost;
use crate::load::drain::Observations;
use crate::load::observation::{FirstDecisions, ObservedState};
use crate::load::report::{Machine, PlotData, Report, RequestsPerOrder};
use crate::load::stats::LoadStats;
use crate::load::summary::AuditResult;

impl Stress {
    pub(super) async fn report(&self, sale: CompletedSale, audited: AuditedSale) -> Report {
        let CompletedSale { stats, observations, first_decisions, calls, stock, times } = sale;
        let AuditedSale { summary, changed, mut timeline, sold, .. } = audited;
        let plan = &self.plan;
        let own = &self.target.own;
        let experiment = own.as_ref().and_then(|own| own.experiment.as_ref());
        let accepted = observations.orders();
        let per_order = |calls: u64| calls as f64 / accepted.max(1) as f64;
        let decided = observations.count(|state| matches!(state, ObservedState::Decided(_)));
        timeline.merge(stats.timeline.clone());
        timeline.merge(first_decisions.timeline.clone());
        let ack = stats.ack.bins();
        let decision = first_decisions.latency.bins();
        let plots = PlotData { timeline, sold, ack, decision, stock };
        let mut report = Report {
            verdict: AuditResult::Fail,
            faults: summary
                .faults()
                .iter()
                .map(|(name, units)| format!("{units} {name}"))
                .collect(),
            item_id: plan.item.clone(),
            stock: summary.stock,
            users: plan.users,
            requests: stats.requests,
            accepted,
            sold: summary.sold,
            held: summary.held,
            rejected: summary.rejected,
            reasons: reasons(&observations),
            expired: observations.count(|state| state == ObservedState::Decided(Decision::Expired)),
            dropped: observations.count(|state| state == ObservedState::Decided(Decision::Dropped)),
            oversold_units: summary.oversold_units,
            stranded_units: summary.stranded_units,
            undecided: observations.count(|state| state == ObservedState::Waiting),
            decided_twice: changed,
            dead_lettered: observations.count(|state| state == ObservedState::DeadLettered),
            missing_orders: observations.count(|state| state == ObservedState::Missing),
            inversions: own.is_some().then_some(summary.inversions),
            refused: stats.refused,
            connection_errors: stats.connection_errors,
            ack_ms: stats.ack.percentiles(),
            decision_ms: first_decisions.latency.percentiles(),
            accepted_per_s: per_second(accepted, times.accepting),
            decided_per_s: per_second(decided, times.deciding),
            requests_per_order: calls.as_ref().map(CallCounts::of).map(|calls| RequestsPerOrder {
                sqs: per_order(calls.sqs),
                redis: per_order(calls.redis),
                dynamodb: per_order(calls.dynamodb),
            }),
            cost: calls.as_ref().and_then(|calls| {
                let own = own.as_ref()?;
                Some(Cost::of(calls, accepted, own.prices.as_ref()?, own.fifo))
            }),
            audited_by: if own.is_some() { "ledger" } else { "http" },
            without: experiment.map(|experiment| experiment.without.clone()).unwrap_or_default(),
            backend: self.backend().await,
            workers: own.as_ref().map(|own| own.workers),
            connections: plan.connections,
            rate: plan.rate,
            duplicates: plan.duplicates,
            seed: plan.seed,
            started_at: rfc3339(times.started_at),
            accepting_s: times.accepting.as_secs_f64(),
            deciding_s: times.deciding.as_secs_f64(),
            machine: Machine::this(),
            commit: env!("COMMIT_OF_FLUX"),
            plots,
        };
        report.faults.extend(faults(&stats, &first_decisions, &report));
        if experiment.is_some_and(|experiment| !experiment.met()) {
            let fault = "the four workers were never at the barrier together: give more --users";
            report.faults.push(fault.to_owned());
        }
        report.verdict = AuditResult::pass_if(report.faults.is_empty());
        report
    }
}

fn reasons(observations: &Observations) -> BTreeMap<&'static str, u64> {
    let count = |reason: Reason| {
        let rejected = ObservedState::Decided(Decision::Rejected(reason));
        (reason.as_str(), observations.count(|state| state == rejected))
    };
    Reason::ALL.into_iter().map(count).filter(|(_, orders)| *orders > 0).collect()
}

/// The broken promises that the auditor does not check.
fn faults(stats: &LoadStats, first_decisions: &FirstDecisions, report: &Report) -> Vec<String> {
    let unanswered = if report.undecided == 0 { first_decisions.unanswered } else { 0 };
    let counts = [
        (report.undecided, "orders undecided"),
        (report.missing_orders, "accepted orders not found any more"),
        (report.dead_lettered, "orders in the dead-letter queue"),
        (report.decided_twice, "decisions changed after they were first read"),
        (stats.mismatched_repeats, "repeats with another order id than the first request"),
        (stats.given_up, "requests never accepted"),
        (unanswered, "waiting buyers without a decision"),
    ];
    let counts = counts.iter().filter(|(amount, _)| *amount > 0);
    let mut faults: Vec<String> = counts.map(|(amount, name)| format!("{amount} {name}")).collect();
    if let Some(first) = &stats.first_unexpected {
        faults.push(format!("{} unexpected responses, the first: {first}", stats.unexpected));
    }
    if report.accepted == 0 {
        faults.push("no order was accepted".to_owned());
    }
    faults
}

fn per_second(orders: u64, time: Duration) -> f64 {
    orders as f64 / time.as_secs_f64().max(0.001)
}
