//! A sale on the embedded store, without HTTP: intake, queue, lanes, ledger.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{AcqRel, Acquire};
use std::time::Duration;

use async_trait::async_trait;
use flux::config::Settings;
use flux::core::engine::Ports;
use flux::core::engine::intake::{Intake, OrderRequest, Refused};
use flux::core::engine::worker::{Observer, Rules, Worker};
use flux::core::model::{
    Decided, Decision, IdempotencyKey, Item, ItemChange, ItemId, Listing, OrderId, Quantity,
    Reason, UserId,
};
use flux::core::ports::ledger::{
    AuditedItem, AuditedOrder, Commit, Committed, ItemRemoved, ItemSet, Ledger, LedgerError,
    OrderRecord, OrderState, Page, StoreTotals,
};
use flux::telemetry::Silent;
use flux::wiring;
use tokio_util::sync::CancellationToken;

async fn ports(directory: &Path) -> (Settings, Ports) {
    let settings = Settings { data: directory.join("flux.db"), ..Settings::default() };
    let ports = wiring::connect(&settings).await.unwrap();
    (settings, ports)
}

fn intake(ports: &Ports) -> Intake {
    let (intake, sending) = Intake::start(ports, 10_000);
    tokio::spawn(sending);
    intake
}

fn request(user: &str, item: &str, quantity: u64, key: Option<&str>) -> OrderRequest {
    OrderRequest {
        user: UserId::parse(user).unwrap(),
        item: ItemId::parse(item).unwrap(),
        quantity: Quantity::new(quantity).unwrap(),
        key: key.map(|k| IdempotencyKey::parse(k.as_bytes()).unwrap()),
        trace: None,
    }
}

async fn decisions(ports: &Ports, ids: &[OrderId]) -> Vec<Decision> {
    for _ in 0..1_000 {
        let found = ports.ledger.find(ids).await.unwrap();
        let decided = found.iter().flatten().filter_map(|record| match record.state {
            OrderState::Decided { decision, .. } => Some(decision),
            OrderState::Queued | OrderState::DeadLettered => None,
        });
        let decided: Vec<_> = decided.collect();
        if decided.len() == ids.len() {
            return decided;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not decided in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_workers_sell_each_unit_once_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let (settings, ports) = ports(directory.path()).await;
    let items: Vec<String> = (0..7).map(|n| format!("item{n}")).collect();
    for item in &items {
        ports.ledger.set_stock(&ItemId::parse(item).unwrap(), 20).await.unwrap();
    }
    let intake = intake(&ports);
    let stop = CancellationToken::new();
    let mut workers = Vec::new();
    for _ in 0..3 {
        let (_, ports) = self::ports(directory.path()).await;
        let rules = wiring::rules(&settings, 4);
        let worker = Worker { ports, rules, observer: Arc::new(Silent) };
        workers.push(tokio::spawn(worker.run(stop.clone())));
    }
    let mut orders = Vec::new();
    for n in 0..700 {
        let request = request(&format!("user{n}"), &items[n % 7], 1, Some("k"));
        // On a slow disk the answer may be late. A repeated request is the same order.
        orders.push(loop {
            match intake.accept(request.clone()).await {
                Ok(order) => break order,
                Err(Refused::Unconfirmed { .. }) => {}
                Err(e) => panic!("{e}"),
            }
        });
    }
    let ids: Vec<OrderId> = orders.iter().map(|order| order.id).collect();
    for (n, decision) in decisions(&ports, &ids).await.into_iter().enumerate() {
        let first = n / 7 < 20;
        let no = Decision::Rejected(Reason::SoldOut);
        assert_eq!(decision, if first { Decision::Sold } else { no }, "order {n}");
    }
    stop.cancel();
    for worker in workers {
        worker.await.unwrap();
    }
    assert_eq!(ports.queue.backlog().await.unwrap().waiting, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_request_is_the_same_order() {
    let directory = tempfile::tempdir().unwrap();
    let (_, ports) = ports(directory.path()).await;
    let intake = intake(&ports);
    let first = intake.accept(request("ann", "x", 1, Some("k"))).await.unwrap();
    let again = intake.accept(request("ann", "x", 1, Some("k"))).await.unwrap();
    assert_eq!(first.id, again.id);
    assert_eq!(ports.queue.backlog().await.unwrap().waiting, 1);
    for other in [request("ann", "x", 2, Some("k")), request("ann", "y", 1, Some("k"))] {
        assert!(matches!(intake.accept(other).await, Err(Refused::KeyReused)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_file_is_upgraded() {
    let directory = tempfile::tempdir().unwrap();
    let item = ItemId::parse("x").unwrap();
    let (_, before) = ports(directory.path()).await;
    before.ledger.set_stock(&item, 5).await.unwrap();
    let order = intake(&before).accept(request("ann", "y", 1, None)).await.unwrap();
    let decision = Decision::Rejected(Reason::SoldOut);
    let decided_at = before.clock.now();
    before.ledger.record(&[Decided { order, decision, decided_at }]).await.unwrap();
    let counted = before.ledger.totals().await.unwrap().unwrap();
    assert_eq!((counted.accepted, &*counted.decided), (1, &[(decision, 1)][..]));
    let old = rusqlite::Connection::open(directory.path().join("flux.db")).unwrap();
    old.execute_batch(
        "DROP INDEX unlisted_items; ALTER TABLE items DROP COLUMN listing;
         ALTER TABLE items DROP COLUMN decided; ALTER TABLE items DROP COLUMN dead;
         ALTER TABLE items DROP COLUMN mac_from; ALTER TABLE items DROP COLUMN mac;
         ALTER TABLE dead_letters DROP COLUMN mac; ALTER TABLE counts RENAME TO totals;
         ALTER TABLE totals RENAME COLUMN dead_lettered TO dead;
         ALTER TABLE totals DROP COLUMN writes; ALTER TABLE totals DROP COLUMN letters;
         ALTER TABLE totals DROP COLUMN old_items; ALTER TABLE totals DROP COLUMN old_letters;
         ALTER TABLE totals DROP COLUMN mac; DROP INDEX dead_letters_by_age;
         ALTER TABLE items DROP COLUMN closed_at; ALTER TABLE orders DROP COLUMN trace;
         DROP TABLE decisions; DROP TABLE pulses;
         PRAGMA user_version = 2",
    )
    .unwrap();
    drop(old);

    let (_, ports) = ports(directory.path()).await;
    let read = ports.ledger.item(&item).await.unwrap().unwrap();
    assert_eq!((read.status(), read.listing), ("open", Listing::Listed));
    assert_eq!(ports.ledger.totals().await.unwrap(), Some(counted));
    ports.ledger.set_item(&item, ItemChange::closed(true)).await.unwrap();
    assert_eq!(ports.ledger.item(&item).await.unwrap().unwrap().status(), "closed");
}

/// A ledger that panics in the first `breaks` reads of one item.
#[derive(Debug)]
struct Breaking {
    real: Arc<dyn Ledger>,
    breaks: AtomicUsize,
}

impl std::fmt::Display for Breaking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.real.fmt(f)
    }
}

#[async_trait]
impl Ledger for Breaking {
    fn max_commit(&self) -> usize {
        self.real.max_commit()
    }

    async fn item(&self, item: &ItemId) -> Result<Option<Item>, LedgerError> {
        let less = |left: usize| left.checked_sub(1);
        if item.as_str() == "cursed" && self.breaks.fetch_update(AcqRel, Acquire, less).is_ok() {
            panic!("nobody may read this item");
        }
        self.real.item(item).await
    }

    async fn find(&self, orders: &[OrderId]) -> Result<Vec<Option<OrderRecord>>, LedgerError> {
        self.real.find(orders).await
    }

    async fn commit(&self, commit: &Commit) -> Result<Committed, LedgerError> {
        self.real.commit(commit).await
    }

    async fn record(&self, rejected: &[Decided]) -> Result<Vec<OrderId>, LedgerError> {
        self.real.record(rejected).await
    }

    async fn set_item(&self, item: &ItemId, change: ItemChange) -> Result<ItemSet, LedgerError> {
        self.real.set_item(item, change).await
    }

    async fn remove_item(&self, item: &ItemId) -> Result<ItemRemoved, LedgerError> {
        self.real.remove_item(item).await
    }

    async fn totals(&self) -> Result<Option<StoreTotals>, LedgerError> {
        self.real.totals().await
    }

    async fn items(&self, after: Option<&str>, limit: usize) -> Result<Page<Item>, LedgerError> {
        self.real.items(after, limit).await
    }

    async fn inventory(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<(ItemId, UserId)>, LedgerError> {
        self.real.inventory(after, limit).await
    }

    async fn audit_items(&self, after: Option<&str>) -> Result<Page<AuditedItem>, LedgerError> {
        self.real.audit_items(after).await
    }

    async fn audit_orders(
        &self,
        item: Option<&ItemId>,
        after: Option<&str>,
    ) -> Result<Page<AuditedOrder>, LedgerError> {
        self.real.audit_orders(item, after).await
    }

    async fn check(&self) -> Result<(), LedgerError> {
        self.real.check().await
    }
}

/// The visibility timeout is an hour: orders that the lane does not release are not redelivered.
#[tokio::test(flavor = "multi_thread")]
async fn broken_lane_returns_its_orders() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("flux.db");
    let settings = Settings { data, visibility_timeout_ms: 3_600_000, ..Settings::default() };
    let mut ports = wiring::connect(&settings).await.unwrap();
    let real = ports.ledger.clone();
    ports.ledger = Arc::new(Breaking { real, breaks: AtomicUsize::new(2) });
    let intake = intake(&ports);
    let rules = Rules { lease: Duration::from_millis(500), ..wiring::rules(&settings, 4) };
    let stop = CancellationToken::new();
    let observer = Arc::new(Silent);
    let worker = tokio::spawn(Worker { ports: ports.clone(), rules, observer }.run(stop.clone()));

    let requests = [("ann", "cursed"), ("bob", "plain"), ("cid", "cursed"), ("dan", "other")];
    let accepted = requests.map(|(user, item)| intake.accept(request(user, item, 1, None)));
    let orders = futures_util::future::try_join_all(accepted).await.unwrap();
    let ids: Vec<OrderId> = orders.iter().map(|order| order.id).collect();
    let made = decisions(&ports, &ids).await;
    assert_eq!(made.iter().filter(|made| **made == Decision::Sold).count(), 3, "{made:?}");
    assert_eq!((made[1], made[3]), (Decision::Sold, Decision::Sold));
    stop.cancel();
    worker.await.unwrap();
    assert_eq!(ports.metrics.in_flight.get(), 0);
    assert_eq!(ports.queue.backlog().await.unwrap().waiting, 0);
}

/// Blocks the lane after its first commit until the test releases it.
#[derive(Debug)]
struct Held {
    wrote: std::sync::mpsc::SyncSender<()>,
    release: std::sync::Mutex<std::sync::mpsc::Receiver<()>>,
}

impl Observer for Held {
    fn lock_acquired(&self, _: &ItemId) {}
    fn deciding(&self, _: &[Decided]) {}
    fn saved(&self, _: &[Decided]) {
        if self.wrote.try_send(()).is_ok() {
            self.release.lock().unwrap().recv().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn restock_applies_to_the_next_batch() {
    let directory = tempfile::tempdir().unwrap();
    let (settings, ports) = ports(directory.path()).await;
    let item = ItemId::parse("x").unwrap();
    let intake = intake(&ports);
    let (wrote, written) = std::sync::mpsc::sync_channel(1);
    let (release, released) = std::sync::mpsc::channel();
    let observer = Arc::new(Held { wrote, release: released.into() });
    let rules = wiring::rules(&settings, 4);
    let stop = CancellationToken::new();
    let worker = tokio::spawn(Worker { ports: ports.clone(), rules, observer }.run(stop.clone()));

    let first = intake.accept(request("ann", "x", 1, None)).await.unwrap();
    let wait = || written.recv_timeout(Duration::from_secs(10));
    tokio::task::block_in_place(wait).unwrap();
    ports.ledger.set_stock(&item, 2).await.unwrap();
    let second = intake.accept(request("bob", "x", 1, None)).await.unwrap();
    // Time for the order to reach the lane's queue.
    tokio::time::sleep(Duration::from_millis(700)).await;
    drop(written);
    release.send(()).unwrap();
    assert_eq!(decisions(&ports, &[first.id, second.id]).await, [Decision::Sold, Decision::Sold]);
    stop.cancel();
    worker.await.unwrap();
}
