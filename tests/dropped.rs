//! Dropped dead letters: their orders are decided as `dropped`, once and for good, on both backends.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flux::adapters::aws::dynamodb::DynamoLedger;
use flux::adapters::aws::dynamodb::setup::TableSetup;
use flux::config::Settings;
use flux::core::engine::Ports;
use flux::core::engine::message;
use flux::core::engine::redrive;
use flux::core::engine::redrive::{DlqResult, RedriveOptions};
use flux::core::engine::worker::{Rules, Worker};
use flux::core::model::{Decided, Decision, Order, OrderId, decide};
use flux::core::ports::dead_letters::{DeadLetter, DlqAction, DlqFilter};
use flux::core::ports::ledger::{Commit, Committed, Expect, OrderState};
use flux::core::ports::queue::Queue;
use flux::load::{AuditReport, AuditResult, audit};
use flux::telemetry::Silent;
use flux::wiring;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::conformance::aws::{make_queue, open_queue, outbox, stand_ins};
use crate::conformance::queue::redrive;
use crate::conformance::{clock, fresh_name, ids, item, key, now, order};
use crate::webhooks::SECRET;

const PATIENCE: Duration = Duration::from_secs(40);
const STOCK: u64 = 1_000;

/// A sale of plenty whose shop is told of each decision.
struct Sale {
    ports: Ports,
    _directory: TempDir,
}

impl Sale {
    async fn embedded() -> Sale {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings {
            data: directory.path().join("flux.db"),
            webhook_url: Some("http://127.0.0.1:9/".into()),
            webhook_secret: Some(SECRET.into()),
            ..Settings::default()
        };
        let ports = wiring::start(&settings).await.unwrap();
        Sale::of(ports, directory).await
    }

    /// Queue, ledger and outbox on the stand-ins.
    async fn aws() -> Sale {
        let Sale { ports, _directory } = Sale::embedded().await;
        let aws = stand_ins().await;
        let bench = open_queue(&aws, make_queue(&aws, "", 100).await);
        let table = fresh_name("orders");
        TableSetup::new(&aws, &table).ensure(None, true, &mut |_, _| {}).await.unwrap();
        let ports = Ports {
            queue: bench.queue,
            order_ids: bench.names,
            ledger: Arc::new(DynamoLedger::new(&aws, &table, key(), clock())),
            webhooks: Some(Arc::new(outbox(&aws).await)),
            ..ports
        };
        Sale::of(ports, _directory).await
    }

    async fn both() -> [Sale; 2] {
        [Sale::embedded().await, Sale::aws().await]
    }

    async fn of(ports: Ports, directory: TempDir) -> Sale {
        ports.ledger.set_stock(&item("hall"), STOCK).await.unwrap();
        Sale { ports, _directory: directory }
    }

    fn queue(&self) -> &dyn Queue {
        &*self.ports.queue
    }

    /// Orders that were queued, received and dead-lettered.
    async fn dead(&self, count: usize) -> Vec<Order> {
        let names = &self.ports.order_ids;
        let orders = (0..count).map(|n| order(names, "hall", &format!("user-{n}")));
        let orders: Vec<Order> = orders.collect();
        for sent in self.queue().send(&orders).await {
            sent.unwrap();
        }
        let mut left = ids(&orders).into_iter().collect::<HashSet<OrderId>>();
        while !left.is_empty() {
            for came in self.queue().receive(count, Duration::from_secs(1)).await.unwrap() {
                let letters = came.orders.iter().map(|(_, order)| letter(order));
                self.queue().dead_letter(&letters.collect::<Vec<_>>()).await.unwrap();
                left.retain(|id| came.orders.iter().all(|(_, order)| order.id != *id));
                self.queue().ack(&[came.receipt]).await.pop().unwrap().unwrap();
            }
        }
        orders
    }

    async fn act(&self, action: DlqAction, filter: DlqFilter) -> HashMap<OrderId, DlqResult> {
        let mut results = HashMap::new();
        let mut report = |id, result| drop(results.insert(id, result));
        let options = RedriveOptions::default();
        redrive::act(&self.ports, &filter, action, &options, &mut report).await.unwrap();
        results
    }

    async fn drop_all(&self) -> HashMap<OrderId, DlqResult> {
        self.act(DlqAction::Drop, DlqFilter::ALL).await
    }

    async fn redrive_all(&self) -> HashMap<OrderId, DlqResult> {
        self.act(DlqAction::Redrive, DlqFilter::ALL).await
    }

    async fn decision(&self, id: OrderId) -> Option<Decision> {
        match self.ports.ledger.find(&[id]).await.unwrap().pop().flatten()?.state {
            OrderState::Decided { decision, .. } => Some(decision),
            OrderState::Queued | OrderState::DeadLettered => None,
        }
    }

    /// Sells the order as a worker that received it before.
    async fn sell(&self, order: &Order) -> Committed {
        let read = self.ports.ledger.item(&order.item).await.unwrap().unwrap();
        let verdict = decide(Some(&read), vec![order.clone()], now());
        let expect = Expect::Version(read.version);
        let commit = Commit { item: verdict.item.unwrap(), expect, decided: verdict.decided };
        self.ports.ledger.commit(&commit).await.unwrap()
    }

    fn hire(&self, stop: &CancellationToken) {
        let rules = Rules {
            unlisted_stock: 0,
            concurrency: 2,
            lease: Duration::from_secs(5),
            visibility: Duration::from_secs(2),
            receive_wait: Duration::from_millis(200),
            drain: Duration::from_secs(1),
        };
        let worker = Worker { ports: self.ports.clone(), rules, observer: Arc::new(Silent) };
        tokio::spawn(worker.run(stop.clone()));
    }

    async fn letters(&self) -> usize {
        self.queue().dead_letters(100).await.unwrap().len()
    }

    async fn audit(&self) -> AuditReport {
        let report = audit(&*self.ports.ledger, None).await.unwrap();
        assert_eq!(report.verdict, AuditResult::Pass, "{report}");
        report
    }

    /// Events of decisions that wait for the shop.
    async fn events(&self) -> Vec<(OrderId, Decision)> {
        let webhooks = self.ports.webhooks.as_ref().unwrap();
        let (wait, lease) = (Duration::from_secs(1), Duration::from_secs(60));
        let mut events = HashSet::new();
        loop {
            let due = webhooks.take(10, wait, lease).await.unwrap();
            if due.is_empty() {
                return events.into_iter().collect();
            }
            events.extend(due.iter().map(|due| (due.decided.order.id, due.decided.decision)));
        }
    }
}

fn letter(order: &Order) -> DeadLetter {
    DeadLetter {
        order_id: order.id,
        reason: "received too often".to_owned(),
        body: message::encode(std::slice::from_ref(order)),
        at: order.accepted_at,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_order_has_its_decision_event_and_count() {
    for sale in Sale::both().await {
        let orders = sale.dead(3).await;
        let results = sale.act(DlqAction::Drop, DlqFilter::These(ids(&orders[..2]))).await;
        assert!(results.values().all(|result| *result == DlqResult::Dropped), "{results:?}");
        for order in &orders[..2] {
            let found = sale.ports.ledger.find(&[order.id]).await.unwrap().pop().flatten();
            let Decided { order: dropped, decision, decided_at } =
                found.unwrap().decided().unwrap();
            assert_eq!((&dropped, decision), (order, Decision::Dropped));
            assert!(decided_at >= order.accepted_at);
        }
        assert_eq!((sale.decision(orders[2].id).await, sale.letters().await), (None, 1));
        let mut told = sale.events().await;
        told.sort_unstable_by_key(|(id, _)| *id);
        assert_eq!(told, [orders[0].id, orders[1].id].map(|id| (id, Decision::Dropped)));
        assert_eq!(sale.ports.metrics.decisions.dropped.get(), 2);
        assert_eq!(sale.audit().await.total.dropped, 2);
        if let Some(tally) = sale.ports.ledger.totals().await.unwrap() {
            assert_eq!((tally.accepted, tally.decided), (3, vec![(Decision::Dropped, 2)]));
        }
        assert_eq!(sale.queue().backlog().await.unwrap().waiting, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_sells_a_dropped_order() {
    for sale in Sale::both().await {
        let order = sale.dead(1).await.remove(0);
        sale.drop_all().await;
        // A worker that has had the message all the time; a copy of the letter; the message again.
        let seen = vec![order.id];
        assert_eq!(
            sale.sell(&order).await,
            Committed::Refused { item_changed: false, decided_before: seen }
        );
        sale.queue().dead_letter(&[letter(&order)]).await.unwrap();
        let results = sale.redrive_all().await;
        assert_eq!(results, HashMap::from([(order.id, DlqResult::AlreadyDecided)]));
        sale.queue().dead_letter(&[letter(&order)]).await.unwrap();
        assert_eq!(sale.drop_all().await, HashMap::from([(order.id, DlqResult::Dropped)]));
        let gone = sale.act(DlqAction::Drop, DlqFilter::These(vec![order.id])).await;
        assert_eq!(gone, HashMap::from([(order.id, DlqResult::Gone)]));
        sale.queue().send(std::slice::from_ref(&order)).await.pop().unwrap().unwrap();
        let stop = CancellationToken::new();
        sale.hire(&stop);
        let begun = Instant::now();
        while sale.queue().backlog().await.unwrap().waiting > 0 {
            assert!(begun.elapsed() < PATIENCE, "the message again is never acknowledged");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        stop.cancel();
        assert_eq!(sale.decision(order.id).await, Some(Decision::Dropped));
        let report = sale.audit().await;
        assert_eq!((report.total.dropped, report.total.sold), (1, 0));
        assert_eq!(sale.letters().await, 0);
    }
}

/// A redrive that read the letter before its order was decided.
#[tokio::test]
async fn late_redrive_of_a_decided_order_queues_nothing() {
    let sale = Sale::embedded().await;
    for decide_first in [true, false] {
        let order = sale.dead(1).await.remove(0);
        if decide_first {
            sale.drop_all().await;
            sale.queue().dead_letter(&[letter(&order)]).await.unwrap();
        }
        let wanted = if decide_first { "gone" } else { "sent" };
        assert_eq!(redrive(sale.queue(), &order).await, [(order.id, wanted)]);
        let waiting = u64::from(!decide_first);
        assert_eq!(sale.queue().backlog().await.unwrap().waiting, waiting);
        let report = sale.audit().await;
        assert_eq!((report.total.dropped, report.total.undecided), (1, waiting));
        assert_eq!(sale.letters().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_sold_before_the_drop_stays_sold() {
    for sale in Sale::both().await {
        let order = order(&sale.ports.order_ids, "hall", "ann");
        assert_eq!(sale.sell(&order).await, Committed::Written);
        sale.queue().dead_letter(&[letter(&order)]).await.unwrap();
        assert_eq!(sale.drop_all().await, HashMap::from([(order.id, DlqResult::AlreadyDecided)]));
        assert_eq!(sale.decision(order.id).await, Some(Decision::Sold));
        assert!(sale.events().await.contains(&(order.id, Decision::Sold)));
        assert_eq!((sale.letters().await, sale.ports.metrics.decisions.dropped.get()), (0, 0));
        sale.audit().await;
    }
}

/// Both at once, while a worker decides what is sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drop_and_redrive_at_once_end_in_one_decision() {
    for sale in Sale::both().await {
        let orders = sale.dead(60).await;
        let stop = CancellationToken::new();
        sale.hire(&stop);
        let begun = Instant::now();
        let mut dropped = HashMap::new();
        while sale.letters().await > 0 {
            assert!(begun.elapsed() < PATIENCE, "letters are left");
            let some = |n: usize| DlqFilter::These(ids(&orders[n..n + 40]));
            let (_, drops) = tokio::join!(
                sale.act(DlqAction::Redrive, some(0)),
                sale.act(DlqAction::Drop, some(20)),
            );
            dropped.extend(drops.into_iter().filter(|(_, result)| *result == DlqResult::Dropped));
        }
        let mut count = 0;
        for order in &orders {
            let decision = loop {
                match sale.decision(order.id).await {
                    Some(decision) => break decision,
                    None => tokio::time::sleep(Duration::from_millis(20)).await,
                }
                assert!(begun.elapsed() < PATIENCE, "{} is lost", order.id);
            };
            let wanted = match dropped.contains_key(&order.id) {
                true => Decision::Dropped,
                false => Decision::Sold,
            };
            assert_eq!(decision, wanted);
            count += u64::from(decision == Decision::Sold);
        }
        stop.cancel();
        let report = sale.audit().await;
        assert_eq!(report.total.sold, 2 * count);
        assert_eq!(report.total.dropped, 60 - count);
    }
}

/// As a drop leaves it that was killed after the row was written, and before the event was put.
#[tokio::test]
async fn drop_killed_before_its_letter_went_is_repeated() {
    let sale = Sale::aws().await;
    let order = sale.dead(1).await.remove(0);
    let (id, decision, decided_at) = (order.id, Decision::Dropped, now());
    sale.ports.ledger.record(&[Decided { order, decision, decided_at }]).await.unwrap();
    assert_eq!(sale.events().await, []);
    assert_eq!(sale.drop_all().await, HashMap::from([(id, DlqResult::Dropped)]));
    assert_eq!(sale.events().await, [(id, Decision::Dropped)]);
    assert_eq!((sale.letters().await, sale.audit().await.total.dropped), (0, 1));
}

#[tokio::test]
async fn letter_that_is_no_order_just_goes() {
    for sale in Sale::both().await {
        let id = sale.ports.order_ids.from_message("a message", 0);
        let what = |body: &str| DeadLetter {
            order_id: id,
            reason: "not an order".to_owned(),
            body: body.to_owned(),
            at: now(),
        };
        for body in ["hello?", r#"{"user_id":"ann"}"#, "[]", r#"[{"user_id":"a","item_id":"b"},7]"#]
        {
            sale.queue().dead_letter(&[what(body)]).await.unwrap();
            assert_eq!(sale.drop_all().await, HashMap::from([(id, DlqResult::Dropped)]), "{body}");
        }
        assert_eq!((sale.decision(id).await, sale.letters().await), (None, 0));
        assert_eq!(sale.audit().await.total.orders, 0);
    }
}

#[tokio::test]
async fn dry_run_drops_nothing() {
    for sale in Sale::both().await {
        let order = sale.dead(1).await.remove(0);
        let options = RedriveOptions { dry_run: true, ..RedriveOptions::default() };
        let mut reported = Vec::new();
        let mut report = |id, result| reported.push((id, result));
        redrive::act(&sale.ports, &DlqFilter::ALL, DlqAction::Drop, &options, &mut report)
            .await
            .unwrap();
        assert_eq!(reported, [(order.id, DlqResult::Dropped)]);
        assert_eq!((sale.decision(order.id).await, sale.letters().await), (None, 1));
    }
}

/// The file of an earlier version in which a letter was dropped: its order is decided at the start,
/// unless somebody else took the letter.
#[tokio::test]
async fn letter_dropped_by_an_earlier_version_decides_its_order_at_the_start() {
    for taken_by_another in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("flux.db");
        let old = rusqlite::Connection::open(&data).unwrap();
        old.execute_batch(include_str!("integrity/schema_6.sql")).unwrap();
        old.execute_batch("DELETE FROM dead_letters").unwrap();
        drop(old);
        let settings = Settings { data, ..Settings::default() };
        let ports = wiring::connect(&settings).await.unwrap();
        if taken_by_another {
            let other = rusqlite::Connection::open(&settings.data).unwrap();
            other.execute_batch("UPDATE counts SET letters = 1").unwrap();
        } else {
            // What is decided first does not keep it from being finished.
            ports.ledger.set_stock(&item("other"), 1).await.unwrap();
        }
        drop(ports);
        let ports = wiring::start(&settings).await.unwrap();
        let report = audit(&*ports.ledger, None).await.unwrap();
        let expected = if taken_by_another { (0, 1) } else { (1, 0) };
        assert_eq!((report.total.dropped, report.total.dead_lettered), expected, "{report}");
        if !taken_by_another {
            assert_eq!(report.verdict, AuditResult::Pass, "{report}");
            drop(ports);
            let again = wiring::start(&settings).await.unwrap();
            let again = audit(&*again.ledger, None).await.unwrap();
            assert_eq!(again.to_string(), report.to_string());
        }
    }
}
