//! What is concluded from a race and its audit.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Findings, Held, Stress};
use crate::core::model::{Decision, Reason, rfc3339};
use crate::core::ports::usage::CallCounts;
use crate::load::cost::Cost;
use crate::load::course::Course;
use crate::load::figures::Verdict;
use crate::load::report::{Machine, Report, RequestsPerOrder};
use crate::load::settle::Reading;
use crate::load::sight::{FirstSights, Sight};
use crate::load::tally::Tally;

impl Stress {
    pub(super) async fn report(&self, held: Held, findings: Findings) -> Report {
        let Held { tally, reading, sights, calls, stock, times } = held;
        let Findings { figures, changed, mut counts, sold, .. } = findings;
        let (plan, own) = (&self.plan, &self.target.own);
        let race = own.as_ref().and_then(|own| own.race.as_ref());
        let accepted = reading.orders();
        let per_order = |calls: u64| calls as f64 / accepted.max(1) as f64;
        let decided = reading.count(|sight| matches!(sight, Sight::Decided(_)));
        counts.merge(tally.counts.clone());
        counts.merge(sights.counts.clone());
        let course =
            Course { counts, sold, ack: tally.ack.bins(), decision: sights.latency.bins(), stock };
        let mut report = Report {
            verdict: Verdict::Fail,
            faults: figures
                .faults()
                .iter()
                .map(|(name, units)| format!("{units} {name}"))
                .collect(),
            item_id: plan.item.clone(),
            stock: figures.stock,
            users: plan.users,
            requests: tally.requests,
            accepted,
            sold: figures.sold,
            held: figures.held,
            rejected: figures.rejected,
            reasons: reasons(&reading),
            expired: reading.count(|sight| sight == Sight::Decided(Decision::Expired)),
            dropped: reading.count(|sight| sight == Sight::Decided(Decision::Dropped)),
            oversold_units: figures.oversold_units,
            stranded_units: figures.stranded_units,
            undecided: reading.count(|sight| sight == Sight::Waiting),
            decided_twice: changed,
            dead_lettered: reading.count(|sight| sight == Sight::DeadLettered),
            missing_orders: reading.count(|sight| sight == Sight::Missing),
            inversions: own.is_some().then_some(figures.inversions),
            refused: tally.refused,
            connection_errors: tally.connection_errors,
            ack_ms: tally.ack.percentiles(),
            decision_ms: sights.latency.percentiles(),
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
            without: race.map(|race| race.without.clone()).unwrap_or_default(),
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
            course,
        };
        report.faults.extend(faults(&tally, &sights, &report));
        if race.is_some_and(|race| !race.met()) {
            let why = "the four workers never met at the barrier: give the race more --users";
            report.faults.push(why.to_owned());
        }
        report.verdict = Verdict::passed_if(report.faults.is_empty());
        report
    }
}

fn reasons(reading: &Reading) -> BTreeMap<&'static str, u64> {
    let rejected = |why: Reason| move |sight| sight == Sight::Decided(Decision::Rejected(why));
    let counted = Reason::ALL.into_iter().map(|why| (why.as_str(), reading.count(rejected(why))));
    counted.filter(|(_, orders)| *orders > 0).collect()
}

/// What broke a promise beside the auditor's findings.
fn faults(tally: &Tally, sights: &FirstSights, report: &Report) -> Vec<String> {
    let unseen = if report.undecided == 0 { sights.unseen } else { 0 };
    let counted = [
        (report.undecided, "orders undecided"),
        (report.missing_orders, "accepted orders that nobody knows any more"),
        (report.dead_lettered, "orders in the dead-letter queue"),
        (report.decided_twice, "answers changed after they were first seen"),
        (tally.renamed, "repeats answered with another order id"),
        (tally.given_up, "requests never accepted"),
        (unseen, "buyers who never saw their decision"),
    ];
    let counted = counted.iter().filter(|(amount, _)| *amount > 0);
    let mut faults: Vec<String> =
        counted.map(|(amount, name)| format!("{amount} {name}")).collect();
    if let Some(first) = &tally.first_unexpected {
        faults.push(format!("{} unexpected answers, the first: {first}", tally.unexpected));
    }
    if report.accepted == 0 {
        faults.push("no order was accepted".to_owned());
    }
    faults
}

fn per_second(orders: u64, time: Duration) -> f64 {
    orders as f64 / time.as_secs_f64().max(0.001)
}
