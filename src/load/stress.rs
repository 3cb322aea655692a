//! The race from its start to its report.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::audit::audit_seeing;
use super::buyers::Sale;
use super::connection::{Address, Unanswered};
use super::cost::{Cost, Prices};
use super::figures::{Figures, Verdict};
use super::plan::Plan;
use super::race::Race;
use super::report::{Machine, Report, RequestsPerOrder};
use super::settle::{Reading, settle_by_http, settle_by_ledger};
use super::sight::{FirstSights, Sight, changed_since, wait_for_decisions};
use super::tally::Tally;
use super::window::{self, ItemShown};
use crate::core::Ports;
use crate::core::calls::{CallCounts, Calls, Operations, Usage};
use crate::core::ledger::{AuditedOrder, ItemSet, LedgerError, OrderState};
use crate::core::order::{ItemId, OrderId, Timestamp};

/// How long buyers may still wait to see their decision when all orders are decided.
const LAST_SIGHT: Duration = Duration::from_secs(10);
/// How long the workers may take to acknowledge what is decided.
const LAST_ACKS: Duration = Duration::from_secs(10);

/// A server and, when it is ours, its store.
#[derive(Debug)]
pub struct Target {
    pub address: Address,
    pub own: Option<Own>,
}

/// A throw-away store of our own, and who works on it.
#[derive(Debug)]
pub struct Own {
    /// For the auditor; its reads are not counted in `calls`.
    pub ports: Ports,
    /// Count the round trips of the intake and the workers, and best nobody else's.
    pub calls: Vec<Arc<Calls>>,
    pub race: Option<Race>,
    pub backend: &'static str,
    /// `None` where nothing is paid by use.
    pub prices: Option<Prices>,
    pub fifo: bool,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum StressError {
    #[error("no answer from {0}: {1}; start `flux serve` there, or give another --target")]
    Unreachable(Address, String),
    #[error("{0}: {1} is no answer of flux; give the address of a `flux serve` as --target")]
    NotFlux(Address, String),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("{0} units of this item are held or sold already; give at least that as --stock")]
    BelowTaken(u64),
    #[error(
        "{address}: the stock of {item} is {stock}; set it to {wanted} with `flux provision`, or \
         leave --stock out"
    )]
    OtherStock { address: Address, item: ItemId, stock: String, wanted: u64 },
}

impl From<(&Address, Unanswered)> for StressError {
    fn from((address, e): (&Address, Unanswered)) -> Self {
        StressError::Unreachable(address.clone(), e.to_string())
    }
}

/// What the auditor found, from the ledger or by HTTP.
struct Findings {
    figures: Figures,
    changed: u64,
    last_decision: Option<Timestamp>,
}

#[derive(Debug)]
pub struct Stress {
    pub plan: Plan,
    pub target: Target,
}

impl Stress {
    /// Runs the race, waits for every decision, audits. Cancelling it stops the buyers.
    pub async fn run(self) -> Result<Report, StressError> {
        let before = self.prepare().await?;
        let address = &self.target.address;
        let calls = self.calls();
        let (began, clock) = (Instant::now(), self.now());
        let (sender, receiver) = unbounded_channel();
        let over = CancellationToken::new();
        let _ends = over.clone().drop_guard();
        let mut watching =
            tokio::spawn(wait_for_decisions(address.clone(), receiver, over.clone()));
        let shots = (self.plan.users as f64 * (1.0 + self.plan.duplicates)) as u64;
        let selling = bar("selling", shots);
        let sale = Sale::new(self.plan.clone(), address.clone(), sender, selling.clone());
        let mut tally = sale.hold().await;
        selling.finish_and_clear();

        tally.accepted.sort_unstable();
        tally.accepted.dedup();
        let reading = self.settle(std::mem::take(&mut tally.accepted)).await?;
        let settled = Instant::now();
        let calls = self.calls_since(calls).await?;
        let seen = match timeout(LAST_SIGHT, &mut watching).await {
            Ok(seen) => seen,
            Err(_late) => {
                over.cancel();
                watching.await
            }
        };
        let sights = seen.expect("the waiting buyers do not panic");
        let changed = changed_since(address, &sights.decisions).await;
        let changed = changed.map_err(|e| StressError::from((address, e)))?;
        let mut findings = self.audit(&reading, before).await?;
        findings.changed += changed;

        let deciding = match (clock, findings.last_decision) {
            (Some(from), Some(to)) => to.since(from),
            _ => settled - began,
        };
        let times = Times { accepting: tally.last_accepted - began, deciding };
        Ok(self.report(&tally, &reading, &sights, findings, calls, times).await)
    }

    /// Sets our own item's stock, or looks at a foreign one.
    async fn prepare(&self) -> Result<Option<ItemShown>, StressError> {
        let Some(own) = &self.target.own else {
            return self.look_at_foreign().await;
        };
        match own.ports.ledger.set_stock(&self.plan.item, self.plan.stock.unwrap_or(1)).await? {
            ItemSet::BelowTaken(taken) => Err(StressError::BelowTaken(taken)),
            _ => Ok(None),
        }
    }

    async fn look_at_foreign(&self) -> Result<Option<ItemShown>, StressError> {
        let (address, item) = (&self.target.address, &self.plan.item);
        let shown = window::item(address, item).await?;
        match (self.plan.stock, shown.map(|shown| shown.stock)) {
            (Some(wanted), stock) if stock != Some(wanted) => {
                let stock = stock.map_or("not listed".to_owned(), |stock| format!("{stock}"));
                let (address, item) = (address.clone(), item.clone());
                Err(StressError::OtherStock { address, item, stock, wanted })
            }
            _ => Ok(shown),
        }
    }

    fn now(&self) -> Option<Timestamp> {
        self.target.own.as_ref().map(|own| own.ports.clock.now())
    }

    fn calls(&self) -> Operations {
        let mut sum = Operations::new();
        for calls in self.target.own.iter().flat_map(|own| &own.calls) {
            for (operation, usage) in calls.operations() {
                *sum.entry(operation).or_default() += usage;
            }
        }
        sum
    }

    async fn settle(&self, orders: Vec<OrderId>) -> Result<Reading, StressError> {
        let deciding = bar("deciding", orders.len() as u64);
        let reading = match &self.target.own {
            Some(own) => settle_by_ledger(&*own.ports.ledger, orders, deciding.clone()).await?,
            None => settle_by_http(&self.target.address, orders, deciding.clone()).await,
        };
        deciding.finish_and_clear();
        Ok(reading)
    }

    /// What was done until the last acknowledgement.
    async fn calls_since(&self, before: Operations) -> Result<Option<Operations>, StressError> {
        let Some(own) = &self.target.own else { return Ok(None) };
        let end = Instant::now() + LAST_ACKS;
        while Instant::now() < end {
            match own.ports.queue.backlog().await {
                Ok(backlog) if backlog.waiting > 0 => {}
                Ok(_) | Err(_) => break,
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut calls = self.calls();
        for (operation, usage) in &mut calls {
            *usage = *usage - before.get(operation).copied().unwrap_or_default();
        }
        calls.retain(|_, usage| *usage != Usage::default());
        Ok(Some(calls))
    }

    async fn audit(
        &self,
        reading: &Reading,
        before: Option<ItemShown>,
    ) -> Result<Findings, StressError> {
        let Some(own) = &self.target.own else {
            let after = window::item(&self.target.address, &self.plan.item).await?;
            let figures = window::figures(reading, before, after);
            return Ok(Findings { figures, changed: 0, last_decision: None });
        };
        let (mut changed, mut last_decision) = (0, None);
        let mut see = |row: &AuditedOrder| {
            let Some(first) = reading.get(row.record.order.id) else { return };
            if let OrderState::Decided { decided_at, .. } = row.record.state {
                last_decision = last_decision.max(Some(decided_at));
            }
            let now = Sight::from(row.record.state);
            changed += u64::from(matches!(first, Sight::Decided(_)) && first != now);
        };
        let report = audit_seeing(&*own.ports.ledger, Some(&self.plan.item), &mut see).await?;
        Ok(Findings { figures: report.total, changed, last_decision })
    }

    async fn backend(&self) -> String {
        match &self.target.own {
            Some(own) => own.backend.to_owned(),
            None => window::backend(&self.target.address).await,
        }
    }

    async fn report(
        &self,
        tally: &Tally,
        reading: &Reading,
        sights: &FirstSights,
        findings: Findings,
        calls: Option<Operations>,
        times: Times,
    ) -> Report {
        let Findings { figures, changed, .. } = findings;
        let (plan, own) = (&self.plan, &self.target.own);
        let race = own.as_ref().and_then(|own| own.race.as_ref());
        let accepted = reading.orders();
        let per_order = |calls: u64| calls as f64 / accepted.max(1) as f64;
        let decided = accepted - reading.count(|sight| !matches!(sight, Sight::Decided(_)));
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
            connections: plan.connections,
            rate: plan.rate,
            duplicates: plan.duplicates,
            seed: plan.seed,
            machine: Machine::this(),
            commit: env!("FLUX_COMMIT"),
        };
        report.faults.extend(faults(tally, sights, &report));
        if race.is_some_and(|race| !race.met()) {
            let why = "the four workers never met at the barrier: give the race more --users";
            report.faults.push(why.to_owned());
        }
        report.verdict = Verdict::passed_if(report.faults.is_empty());
        report
    }
}

struct Times {
    accepting: Duration,
    deciding: Duration,
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

/// On stderr, and only when that is a terminal.
fn bar(what: &'static str, length: u64) -> ProgressBar {
    let template = "{prefix:9} [{wide_bar}] {pos}/{len}, {rate}, {elapsed}";
    let style = ProgressStyle::with_template(template).expect("the template is well formed");
    let style = style.with_key("rate", |bar: &ProgressState, out: &mut dyn std::fmt::Write| {
        let _cut_short = write!(out, "{:.0}/s", bar.per_sec());
    });
    ProgressBar::new(length).with_style(style.progress_chars("=> ")).with_prefix(what)
}
