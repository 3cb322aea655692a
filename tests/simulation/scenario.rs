//! One run: its items and processes, and how it ends.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flux::core::engine::Ports;
use flux::core::engine::failpoints::disable;
use flux::core::engine::intake::Intake;
use flux::core::engine::redrive;
use flux::core::engine::redrive::RedriveOptions;
use flux::core::engine::worker::{Rules, Worker};
use flux::core::model::{Clock, ItemChange, ItemId, OrderId};
use flux::core::ports::dead_letters::{DlqAction, DlqFilter};
use flux::core::ports::queue::QueueError;
use flux::telemetry::Silent;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::buyers;
use super::guards::Guard;
use super::process::Process;
use super::store::{Backend, Setup, Store};
use super::world::{Fault, Happened, World};

/// How long all decisions, or the stop of a process, may take without faults.
const DECIDED_WITHIN: Duration = Duration::from_secs(1_200);

/// The result of a run.
#[derive(Debug, Default)]
pub struct Report {
    /// Broken promises.
    pub wrong: Vec<String>,
    pub trace: Vec<String>,
    pub happened: Happened,
    pub orders: u64,
    pub sold: u64,
    pub inversions: u64,
}

/// The items, buyers and processes of a run.
#[derive(Debug)]
pub struct Plan {
    pub items: Vec<ItemId>,
    stocks: &'static [u64],
    pub buyers: u64,
    /// Duration with faults, in milliseconds.
    pub length: u64,
    /// Buyers start within this time, in milliseconds.
    pub rush: u64,
    apis: u64,
    workers: u64,
    redis: bool,
    waiting_max: usize,
    rules: Rules,
}

/// An API process and its intake.
#[derive(Debug, Clone)]
pub struct ApiProcess {
    pub process: Arc<Process>,
    pub intake: Intake,
}

#[derive(Debug)]
pub struct Sale {
    pub world: Arc<World>,
    pub plan: Plan,
    store: Arc<Store>,
    running_apis: Mutex<Vec<Option<ApiProcess>>>,
    ended: CancellationToken,
}

#[derive(PartialEq)]
enum End {
    Killed,
    Stopped,
}

/// Runs a seed, with one guard disabled if it is given. The same seed gives the same run.
pub fn run(seed: u64, without: Option<Guard>) -> Report {
    disable(without.and_then(Guard::in_pipeline));
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    let report = runtime.block_on(run_sale(seed, without));
    disable(None);
    report
}

async fn run_sale(seed: u64, without: Option<Guard>) -> Report {
    let sale = Arc::new(Sale::random(World::new(seed), without));
    let world = sale.world.clone();
    world.trace(format_args!("seed {seed}: {:?}, {:?}", sale.plan, sale.store.setup));
    sale.list_items();
    let mut lives = JoinSet::new();
    for slot in 0..sale.plan.apis as usize {
        lives.spawn(sale.clone().serve(slot));
    }
    for slot in 0..sale.plan.workers {
        lives.spawn(sale.clone().work(slot));
    }
    // Those who send requests: the buyers, the admin and the organiser who drops dead letters.
    let mut people = JoinSet::new();
    people.spawn(sale.clone().administer());
    people.spawn(sale.clone().drop_letters());
    for number in 0..sale.plan.buyers {
        people.spawn(buyers::buy(sale.clone(), number));
    }
    sleep(Duration::from_millis(sale.plan.length)).await;
    world.stop_faults();
    world.trace(format_args!("no further faults"));
    sale.await_decisions(people).await;
    sale.ended.cancel();
    let stopped =
        timeout(DECIDED_WITHIN, async { while lives.join_next().await.is_some() {} }).await;
    sale.close(stopped.is_ok())
}

/// Redrives all dead letters.
pub async fn redrive_all(ports: &Ports) -> Result<bool, QueueError> {
    let options = RedriveOptions::default();
    redrive::act(ports, &DlqFilter::ALL, DlqAction::Redrive, &options, &mut |_, _| {}).await
}

/// Drops all dead letters.
pub async fn drop_all(ports: &Ports) -> Result<bool, QueueError> {
    let options = RedriveOptions::default();
    redrive::act(ports, &DlqFilter::ALL, DlqAction::Drop, &options, &mut |_, _| {}).await
}

impl Sale {
    fn random(world: Arc<World>, without: Option<Guard>) -> Sale {
        let w = &world;
        // One item that all buyers want at once, and several workers.
        let hot = w.one_in(4);
        let backends = [Backend::Standard, Backend::Standard, Backend::Fifo, Backend::Embedded];
        let backend = if hot { Backend::Standard } else { *w.pick(&backends) };
        let visibility = *w.pick(&[1_000, 4_000, 15_000]);
        let setup = Setup {
            backend,
            visibility: Duration::from_millis(visibility),
            receives_max: *w.pick(&[1, 2, 5, 100]),
            backlog_max: *w.pick(&[10, 1_000]),
            commit_max: *w.pick(&[2, 5, 99]),
            old_receipts_count: w.one_in(2),
            webhooks_enabled: backend != Backend::Embedded && w.one_in(2),
            without,
        };
        let rules = Rules {
            unlisted_stock: w.below(2),
            concurrency: w.between((1, 4)) as usize,
            lease: Duration::from_millis(visibility / w.between((2, 8))),
            visibility: setup.visibility,
            receive_wait: w.span((100, 3_000)),
            drain: w.span((50, 6_000)),
        };
        let items = if hot { 1 } else { *w.pick(&[1, 1, 2, 4]) };
        let items = (0..items).map(|n| ItemId::parse(&format!("item-{n}")).unwrap());
        let plan = Plan {
            items: items.collect(),
            stocks: if hot { &[3, 30, 100] } else { &[0, 1, 1, 3, 10, 30] },
            buyers: w.between((if hot { 20 } else { 1 }, 40)),
            length: *w.pick(&[500, 5_000, 40_000]),
            rush: *w.pick(&[50, 40_000]),
            apis: w.between((1, 2)),
            workers: w.between((if hot { 3 } else { 1 }, 4)),
            redis: !w.one_in(if hot { 2 } else { 4 }),
            waiting_max: *w.pick(&[3, 1_000]),
            rules,
        };
        w.audit(|auditor| {
            auditor.unlisted_stock = plan.rules.unlisted_stock;
            auditor.webhooks_enabled = setup.webhooks_enabled;
            auditor.strict_order = backend != Backend::Standard;
            auditor.keys_are_compared = plan.redis || backend == Backend::Embedded;
        });
        let store = Store::new(w, setup);
        let running_apis = Mutex::new(vec![None; plan.apis as usize]);
        Sale { plan, store, running_apis, ended: CancellationToken::new(), world }
    }

    fn process(&self, name: String) -> Arc<Process> {
        Process::new(&self.world, name)
    }

    fn ports(&self, process: &Arc<Process>) -> Ports {
        self.store.ports(process, self.plan.redis)
    }

    /// An API process that is running.
    pub fn running_api(&self) -> Option<ApiProcess> {
        let running_apis = self.running_apis.lock().unwrap();
        let open: Vec<&ApiProcess> = running_apis.iter().flatten().collect();
        (!open.is_empty()).then(|| (*self.world.pick(&open)).clone())
    }

    /// Runs an API process and restarts it, until the sale ends.
    async fn serve(self: Arc<Self>, slot: usize) {
        for life in 1.. {
            let process = self.process(format!("api{slot}.{life}"));
            let (intake, sending) = Intake::start(&self.ports(&process), self.plan.waiting_max);
            let sending = tokio::spawn(sending);
            self.running_apis.lock().unwrap()[slot] =
                Some(ApiProcess { process: process.clone(), intake });
            let end = self.inject_faults(&process).await;
            self.running_apis.lock().unwrap()[slot] = None;
            match end {
                End::Killed => process.kill(),
                End::Stopped => process.while_alive(sending).await,
            }
            if self.is_over_after_a_break().await {
                return;
            }
        }
    }

    /// Runs a worker process and restarts it, until the sale ends.
    async fn work(self: Arc<Self>, slot: u64) {
        for life in 1.. {
            let process = self.process(format!("worker{slot}.{life}"));
            let ports = self.ports(&process);
            let rules = self.plan.rules.clone();
            let stop = CancellationToken::new();
            let worker = Worker { ports, rules, observer: Arc::new(Silent) };
            let working = tokio::spawn(worker.run(stop.clone()));
            if self.inject_faults(&process).await == End::Stopped {
                self.world.trace(format_args!("{} is stopped", process.name));
                stop.cancel();
                if self.world.happens(Fault::Kill) {
                    sleep(self.world.span((1, 8_000))).await;
                    process.kill();
                } else {
                    process.while_alive(working).await;
                    self.world.trace(format_args!("{} has stopped", process.name));
                }
            } else {
                process.kill();
            }
            if self.is_over_after_a_break().await {
                return;
            }
        }
    }

    async fn is_over_after_a_break(&self) -> bool {
        sleep(self.world.span((10, 5_000))).await;
        self.ended.is_cancelled()
    }

    /// Injects faults into a process until one ends it.
    async fn inject_faults(&self, process: &Process) -> End {
        let world = &self.world;
        loop {
            tokio::select! {
                biased;
                () = process.died() => return End::Killed,
                () = self.ended.cancelled() => return End::Stopped,
                () = sleep(world.span((20, 1_500))) => {}
            }
            if world.happens(Fault::Kill) {
                return End::Killed;
            }
            if world.happens(Fault::Stop) {
                return End::Stopped;
            }
            if world.happens(Fault::Pause) {
                process.pause().await;
            }
            let sign = if world.one_in(2) { 1 } else { -1 };
            if world.happens(Fault::ClockJump) {
                process.jump(sign * world.between((1, 60_000)) as i64);
            }
            if world.happens(Fault::ClockLeap) {
                process.jump(sign * 31 * 24 * 3_600_000);
            }
        }
    }

    fn list_items(&self) {
        let now = self.process("admin".to_owned()).now();
        for item in &self.plan.items {
            if !self.world.one_in(5) {
                let stock = *self.world.pick(self.plan.stocks);
                self.store.set_item(item, ItemChange::stock(stock), now);
            }
        }
    }

    /// An admin who changes stocks, closes and reopens sales, redrives dead letters, and sends
    /// foreign and forged messages.
    async fn administer(self: Arc<Self>) {
        while !self.world.is_calm() {
            let admin = self.process("admin".to_owned());
            admin.while_alive(self.administer_as(&admin)).await;
        }
    }

    async fn administer_as(&self, admin: &Arc<Process>) {
        let world = &self.world;
        let ports = self.ports(admin);
        while !world.is_calm() {
            sleep(world.span((50, 2_000))).await;
            let item = world.pick(&self.plan.items);
            if world.happens(Fault::Restock)
                && let Ok(Some(found)) = ports.ledger.item(item).await
            {
                let more = found.stock + world.between((1, 5));
                let _busy = ports.ledger.set_stock(item, more).await;
            }
            if world.happens(Fault::StockLowered)
                && let Ok(Some(found)) = ports.ledger.item(item).await
            {
                let _busy = ports.ledger.set_stock(item, found.stock.saturating_sub(1)).await;
            }
            if world.happens(Fault::SaleClosed)
                && let Ok(Some(found)) = ports.ledger.item(item).await
            {
                let change = ItemChange::closed(found.closed_at.is_none());
                let _busy = ports.ledger.set_item(item, change).await;
            }
            if world.happens(Fault::ItemRemoved) {
                let _busy = ports.ledger.remove_item(item).await;
            }
            if world.happens(Fault::ForeignMessage) {
                self.store.put_foreign(item);
            }
            if world.happens(Fault::ForgedId) {
                self.store.put_forged(item, self.plan.buyers);
            }
            if world.happens(Fault::Redrive) {
                let _busy = redrive_all(&ports).await;
            }
        }
    }

    async fn drop_letters(self: Arc<Self>) {
        let world = &self.world;
        while !world.is_calm() {
            let organiser = self.process("organiser".to_owned());
            let ports = self.ports(&organiser);
            let drops = async {
                while !world.is_calm() {
                    sleep(world.span((50, 2_000))).await;
                    if world.happens(Fault::LettersDropped) {
                        let _busy = drop_all(&ports).await;
                    }
                }
            };
            tokio::select! {
                biased;
                _ended = self.inject_faults(&organiser) => organiser.kill(),
                () = organiser.while_alive(drops) => {}
            }
        }
    }

    /// Redrives dead letters until every order is decided.
    async fn await_decisions(&self, mut people: JoinSet<()>) {
        let end = self.world.now() + DECIDED_WITHIN;
        while people.join_next().await.is_some() {}
        let operator = self.process("operator".to_owned());
        let ports = self.ports(&operator);
        while self.world.now() < end {
            let _busy = redrive_all(&ports).await;
            sleep(Duration::from_secs(2)).await;
            let open = self.world.audit(|auditor| auditor.undecided().len());
            if open == 0
                && self.store.state().messages.is_empty()
                && !self.world.has_calls_in_progress()
            {
                return;
            }
        }
    }

    fn close(&self, stopped: bool) -> Report {
        let letters: BTreeSet<OrderId> = self.store.state().letters.keys().copied().collect();
        self.world.audit(|auditor| {
            if !stopped {
                auditor.wrong.push("a stopped process did not end".to_owned());
            }
            auditor.close(&letters);
        });
        let (wrong, (orders, sold), inversions) = self
            .world
            .audit(|auditor| (auditor.wrong.clone(), auditor.totals(), auditor.inversions));
        let (trace, happened) = self.world.take_trace();
        Report { wrong, trace, happened, orders, sold, inversions }
    }
}
