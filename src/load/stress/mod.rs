//! A load test from its start to its report.

mod conclusion;

use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::audit::audit_with;
use super::buyers::{Sale, open_connections};
use super::cost::Prices;
use super::drain::{Observations, await_in_ledger, await_over_http};
use super::error::StressError;
use super::guard_experiment::GuardExperiment;
use super::http_audit;
use super::http_audit::{ShownItem, StockSample, StockSampler};
use super::observation::{FirstDecisions, ObservedState, changed_since, wait_for_decisions};
use super::plan::LoadPlan;
use super::report::Report;
use super::stats::LoadStats;
use super::summary::AuditSummary;
use super::timeline::Timeline;
use crate::client::Address;
use crate::core::engine::Ports;
use crate::core::model::{Clock, Decision, OrderId, SystemClock, Timestamp};
use crate::core::ports::ledger::{AuditedOrder, ItemSet, OrderState};
use crate::core::ports::usage::{Calls, Operations, Usage};

/// How long waiting buyers may take to receive their decision after all orders are decided.
const WAITERS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the workers may take to acknowledge the decided orders.
const ACKS_TIMEOUT: Duration = Duration::from_secs(10);
const BACKLOG_PAUSE: Duration = Duration::from_millis(50);

/// The server under test.
#[derive(Debug)]
pub struct Target {
    pub address: Address,
    /// `None` with `--target`.
    pub own: Option<OwnStore>,
}

/// The temporary store and the workers of a load test that starts its own server.
#[derive(Debug)]
pub struct OwnStore {
    /// For the auditor; its reads are not counted in `calls`.
    pub ports: Ports,
    /// Counters of the round trips of intake and workers.
    pub calls: Vec<Arc<Calls>>,
    pub experiment: Option<GuardExperiment>,
    /// Independent workers, including those of an experiment.
    pub workers: usize,
    pub backend: &'static str,
    /// `None` if the backend has no cost per order.
    pub prices: Option<Prices>,
    pub fifo: bool,
}

/// The auditor's result, from the ledger or over HTTP.
#[derive(Default)]
struct AuditedSale {
    summary: AuditSummary,
    /// Orders whose decision changed after it was first read.
    changed: u64,
    last_decision: Option<Timestamp>,
    timeline: Timeline,
    sold: Timeline,
}

/// A sale that has ended and is not audited yet.
struct CompletedSale {
    stats: LoadStats,
    observations: Observations,
    first_decisions: FirstDecisions,
    calls: Option<Operations>,
    stock: Vec<StockSample>,
    times: SaleTimes,
}

struct SaleTimes {
    started_at: Timestamp,
    accepting: Duration,
    deciding: Duration,
}

/// A load test of one item.
#[derive(Debug)]
pub struct Stress {
    pub plan: LoadPlan,
    pub target: Target,
}

impl Stress {
    /// Runs the sale, waits for all decisions and audits. Cancelling it stops the buyers.
    pub async fn run(self) -> Result<Report, StressError> {
        let before = self.prepare().await?;
        let mut sale = self.run_sale().await?;
        let address = &self.target.address;
        let changed = changed_since(address, &sale.first_decisions.decisions).await;
        let changed = changed.map_err(|e| StressError::from((address, e)))?;
        let mut audited = self.audit(&sale, before).await?;
        audited.changed += changed;
        if let Some(last) = audited.last_decision {
            sale.times.deciding = last.since(sale.times.started_at);
        }
        Ok(self.report(sale, audited).await)
    }

    async fn run_sale(&self) -> Result<CompletedSale, StressError> {
        let address = &self.target.address;
        let connections = open_connections(address, self.plan.connections).await;
        let calls = self.calls();
        let began = Instant::now();
        let started_at = self.now();
        let (sender, receiver) = unbounded_channel();
        let stop_waiters = CancellationToken::new();
        let _stops_when_dropped = stop_waiters.clone().drop_guard();
        let mut waiters = tokio::spawn(wait_for_decisions(
            address.clone(),
            began,
            receiver,
            stop_waiters.clone(),
        ));
        let sampler = match self.target.own {
            None => Some(StockSampler::start(address, &self.plan.item, began)),
            Some(_) => None,
        };
        let requests = (self.plan.users as f64 * (1.0 + self.plan.duplicates)) as u64;
        let selling = bar("selling", requests);
        let sale = Sale::new(self.plan.clone(), sender, selling.clone(), began);
        let mut stats = sale.run(connections).await;
        selling.finish_and_clear();

        stats.accepted.sort_unstable();
        stats.accepted.dedup();
        let observations = self.await_decisions(std::mem::take(&mut stats.accepted)).await?;
        let accepting = stats.last_accepted - began;
        let times = SaleTimes { started_at, accepting, deciding: began.elapsed() };
        let calls = self.calls_since(calls).await?;
        let first_decisions = match timeout(WAITERS_TIMEOUT, &mut waiters).await {
            Ok(ended) => ended,
            Err(_timed_out) => {
                stop_waiters.cancel();
                waiters.await
            }
        };
        let first_decisions = first_decisions.expect("the waiting buyers do not panic");
        let stock = match sampler {
            Some(sampler) => sampler.finish().await,
            None => Vec::new(),
        };
        Ok(CompletedSale { stats, observations, first_decisions, calls, stock, times })
    }

    /// Sets the stock in the temporary store; with `--target`, checks and returns the item.
    async fn prepare(&self) -> Result<Option<ShownItem>, StressError> {
        let Some(own) = &self.target.own else {
            return self.check_target_item().await;
        };
        match own.ports.ledger.set_stock(&self.plan.item, self.plan.stock.unwrap_or(1)).await? {
            ItemSet::BelowTaken(taken) => Err(StressError::BelowTaken(taken)),
            _ => Ok(None),
        }
    }

    async fn check_target_item(&self) -> Result<Option<ShownItem>, StressError> {
        let address = &self.target.address;
        let item = &self.plan.item;
        http_audit::check_access(address).await?;
        let shown = http_audit::item(address, item).await?;
        match (self.plan.stock, shown.map(|shown| shown.stock)) {
            (Some(wanted), stock) if stock != Some(wanted) => {
                let stock = stock.map_or("not listed".to_owned(), |stock| format!("{stock}"));
                let address = address.clone();
                Err(StressError::OtherStock { address, item: item.clone(), stock, wanted })
            }
            _ => Ok(shown),
        }
    }

    fn now(&self) -> Timestamp {
        let own = self.target.own.as_ref();
        own.map_or_else(|| SystemClock.now(), |own| own.ports.clock.now())
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

    async fn await_decisions(&self, orders: Vec<OrderId>) -> Result<Observations, StressError> {
        let deciding = bar("deciding", orders.len() as u64);
        let observations = match &self.target.own {
            Some(own) => await_in_ledger(&*own.ports.ledger, orders, deciding.clone()).await?,
            None => await_over_http(&self.target.address, orders, deciding.clone()).await,
        };
        deciding.finish_and_clear();
        Ok(observations)
    }

    /// The operations since `before`, up to the last acknowledgement.
    async fn calls_since(&self, before: Operations) -> Result<Option<Operations>, StressError> {
        let Some(own) = &self.target.own else { return Ok(None) };
        let end = Instant::now() + ACKS_TIMEOUT;
        while Instant::now() < end {
            match own.ports.queue.backlog().await {
                Ok(backlog) if backlog.waiting > 0 => {}
                Ok(_) | Err(_) => break,
            }
            tokio::time::sleep(BACKLOG_PAUSE).await;
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
        sale: &CompletedSale,
        before: Option<ShownItem>,
    ) -> Result<AuditedSale, StressError> {
        let observations = &sale.observations;
        let Some(own) = &self.target.own else {
            tokio::time::sleep(http_audit::ITEM_CACHE_TIME).await;
            let after = http_audit::item(&self.target.address, &self.plan.item).await?;
            let summary = http_audit::summary(observations, before, after);
            return Ok(AuditedSale { summary, ..AuditedSale::default() });
        };
        let mut audited = AuditedSale::default();
        let mut on_order = |row: &AuditedOrder| {
            let Ok(record) = &row.record else { return };
            let order = &record.order;
            let first = observations.get(order.id);
            let decided = match record.state {
                OrderState::Decided { decision, decided_at } => Some((decision, decided_at)),
                OrderState::Queued | OrderState::DeadLettered => None,
            };
            if let Some((Decision::Sold, at)) = decided {
                let since_start = at.since(sale.times.started_at);
                audited.timeline.at(since_start).sold += order.quantity.units();
                audited.sold.at(since_start).sold += order.quantity.units();
            }
            let Some(first) = first else { return };
            audited.timeline.at(order.accepted_at.since(sale.times.started_at)).accepted += 1;
            if let Some((_, at)) = decided {
                audited.timeline.at(at.since(sale.times.started_at)).decided += 1;
                audited.last_decision = audited.last_decision.max(Some(at));
            }
            let now = ObservedState::from(record.state);
            audited.changed +=
                u64::from(matches!(first, ObservedState::Decided(_)) && first != now);
        };
        let report = audit_with(&*own.ports.ledger, Some(&self.plan.item), &mut on_order).await?;
        audited.summary = report.total;
        Ok(audited)
    }

    async fn backend(&self) -> String {
        match &self.target.own {
            Some(own) => own.backend.to_owned(),
            None => http_audit::backend(&self.target.address).await,
        }
    }
}

/// A progress bar on stderr; hidden if that is not a terminal.
fn bar(name: &'static str, length: u64) -> ProgressBar {
    let template = "{prefix:9} [{wide_bar}] {pos}/{len}, {rate}, {elapsed}";
    let style = ProgressStyle::with_template(template).expect("the template is well formed");
    let style = style.with_key("rate", |bar: &ProgressState, out: &mut dyn std::fmt::Write| {
        let _cut_short = write!(out, "{:.0}/s", bar.per_sec());
    });
    ProgressBar::new(length).with_style(style.progress_chars("=> ")).with_prefix(name)
}
