//! The race from its start to its report.

mod conclusion;

use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::audit::audit_seeing;
use super::buyers::{Sale, arrive};
use super::connection::{Address, Unanswered};
use super::cost::Prices;
use super::course::Counts;
use super::figures::Figures;
use super::plan::Plan;
use super::race::Race;
use super::report::Report;
use super::settle::{Reading, settle_by_http, settle_by_ledger};
use super::sight::{FirstSights, Sight, changed_since, wait_for_decisions};
use super::tally::Tally;
use super::window;
use super::window::{ItemShown, StockSeen, Watch};
use crate::core::engine::Ports;
use crate::core::model::{Clock, Decision, ItemId, OrderId, SystemClock, Timestamp};
use crate::core::ports::ledger::{AuditedOrder, ItemSet, LedgerError, OrderState};
use crate::core::ports::usage::{Calls, Operations, Usage};

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
    /// Independent workers, those of a race too.
    pub workers: usize,
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
    #[error("{0} sells to who has a key only; set buy_key (FLUX_BUY_KEY) to one of its keys")]
    NotAdmitted(Address),
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
    counts: Counts,
    sold: Counts,
}

/// The sale as it was, before it is audited.
struct Held {
    tally: Tally,
    reading: Reading,
    sights: FirstSights,
    calls: Option<Operations>,
    stock: Vec<StockSeen>,
    times: Times,
}

struct Times {
    started_at: Timestamp,
    accepting: Duration,
    deciding: Duration,
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
        let mut held = self.hold().await?;
        let address = &self.target.address;
        let changed = changed_since(address, &held.sights.decisions).await;
        let changed = changed.map_err(|e| StressError::from((address, e)))?;
        let mut findings = self.audit(&held, before).await?;
        findings.changed += changed;
        if let Some(last) = findings.last_decision {
            held.times.deciding = last.since(held.times.started_at);
        }
        Ok(self.report(held, findings).await)
    }

    async fn hold(&self) -> Result<Held, StressError> {
        let address = &self.target.address;
        let connections = arrive(address, self.plan.connections).await;
        let calls = self.calls();
        let (began, started_at) = (Instant::now(), self.now());
        let (sender, receiver) = unbounded_channel();
        let over = CancellationToken::new();
        let _ends = over.clone().drop_guard();
        let mut watching =
            tokio::spawn(wait_for_decisions(address.clone(), began, receiver, over.clone()));
        let window = match self.target.own {
            None => Some(Watch::start(address, &self.plan.item, began)),
            Some(_) => None,
        };
        let shots = (self.plan.users as f64 * (1.0 + self.plan.duplicates)) as u64;
        let selling = bar("selling", shots);
        let sale = Sale::new(self.plan.clone(), sender, selling.clone(), began);
        let mut tally = sale.hold(connections).await;
        selling.finish_and_clear();

        tally.accepted.sort_unstable();
        tally.accepted.dedup();
        let reading = self.settle(std::mem::take(&mut tally.accepted)).await?;
        let (accepting, deciding) = (tally.last_accepted - began, began.elapsed());
        let times = Times { started_at, accepting, deciding };
        let calls = self.calls_since(calls).await?;
        let seen = match timeout(LAST_SIGHT, &mut watching).await {
            Ok(seen) => seen,
            Err(_late) => {
                over.cancel();
                watching.await
            }
        };
        let sights = seen.expect("the waiting buyers do not panic");
        let stock = match window {
            Some(window) => window.seen().await,
            None => Vec::new(),
        };
        Ok(Held { tally, reading, sights, calls, stock, times })
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
        window::admits(address).await?;
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

    async fn audit(&self, held: &Held, before: Option<ItemShown>) -> Result<Findings, StressError> {
        let reading = &held.reading;
        let Some(own) = &self.target.own else {
            // The server may show what it read a moment ago.
            tokio::time::sleep(window::SHOWN_LATE).await;
            let after = window::item(&self.target.address, &self.plan.item).await?;
            let figures = window::figures(reading, before, after);
            let (counts, sold) = Default::default();
            return Ok(Findings { figures, changed: 0, last_decision: None, counts, sold });
        };
        let (mut changed, mut last_decision) = (0, None);
        let (mut counts, mut sold) = (Counts::default(), Counts::default());
        let mut see = |row: &AuditedOrder| {
            let Ok(record) = &row.record else { return };
            let order = &record.order;
            let first = reading.get(order.id);
            let decided = match record.state {
                OrderState::Decided { decision, decided_at } => Some((decision, decided_at)),
                OrderState::Queued | OrderState::DeadLettered => None,
            };
            if let Some((Decision::Sold, at)) = decided {
                let since_start = at.since(held.times.started_at);
                counts.at(since_start).sold += order.quantity.units();
                sold.at(since_start).sold += order.quantity.units();
            }
            let Some(first) = first else { return };
            counts.at(order.accepted_at.since(held.times.started_at)).accepted += 1;
            if let Some((_, at)) = decided {
                counts.at(at.since(held.times.started_at)).decided += 1;
                last_decision = last_decision.max(Some(at));
            }
            let now = Sight::from(record.state);
            changed += u64::from(matches!(first, Sight::Decided(_)) && first != now);
        };
        let report = audit_seeing(&*own.ports.ledger, Some(&self.plan.item), &mut see).await?;
        Ok(Findings { figures: report.total, changed, last_decision, counts, sold })
    }

    async fn backend(&self) -> String {
        match &self.target.own {
            Some(own) => own.backend.to_owned(),
            None => window::backend(&self.target.address).await,
        }
    }
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
