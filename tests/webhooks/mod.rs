//! The sender of webhooks, over real HTTP, on the embedded outbox.

pub mod receiver;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flux::config::Settings;
use flux::core::engine::Ports;
use flux::core::model::{Item, Order, SystemIdSource, decide};
use flux::core::ports::dead_letters::{DlqAction, DlqFilter};
use flux::core::ports::ledger::{Commit, Expect};
use flux::core::ports::webhook_outbox::WebhookOutbox;
use flux::webhooks::sender::Sender;
use flux::wiring;
use tokio_util::sync::CancellationToken;

use crate::conformance::{item, now, order};
use receiver::{PATIENCE, Receiver, Reply};

pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
pub const NEW_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDAAAA";

/// A sale on a file of its own, with a webhook endpoint.
struct Sale {
    ports: Ports,
    settings: Settings,
    stop: CancellationToken,
}

impl Sale {
    async fn open(directory: &Path, receiver: &Receiver) -> Sale {
        let settings = Settings {
            data: directory.join("flux.db"),
            webhook_url: Some(receiver.url().into()),
            webhook_secret: Some(SECRET.into()),
            webhook_timeout_ms: 500,
            ..Settings::default()
        };
        let ports = wiring::start(&settings).await.unwrap();
        Sale { ports, settings, stop: CancellationToken::new() }
    }

    fn webhooks(&self) -> &Arc<dyn WebhookOutbox> {
        self.ports.webhooks.as_ref().unwrap()
    }

    /// Sends with these pauses between attempts (in milliseconds) until the sale is stopped.
    fn send(&self, pauses: &[u64]) -> tokio::task::JoinHandle<()> {
        let sender = Sender {
            webhooks: self.webhooks().clone(),
            endpoint: wiring::webhooks::endpoint(&self.settings).unwrap(),
            pauses: pauses.iter().map(|ms| Duration::from_millis(*ms)).collect(),
            clock: self.ports.clock.clone(),
            ids: Arc::new(SystemIdSource),
            drain: Duration::from_secs(2),
            metrics: self.ports.metrics.clone(),
        };
        tokio::spawn(sender.run(self.stop.clone()))
    }

    /// Decides `count` orders of an item with plenty of stock; returns their ids.
    async fn decide(&self, item_name: &str, count: usize) -> Vec<String> {
        let found = self.ports.ledger.item(&item(item_name)).await.unwrap();
        let read = found.unwrap_or_else(|| Item::new(item(item_name), 1_000_000));
        let orders: Vec<Order> = (0..count)
            .map(|n| order(&self.ports.order_ids, item_name, &format!("user-{n}")))
            .collect();
        let ids = orders.iter().map(|order| order.id.to_string()).collect();
        let decision = decide(Some(&read), orders, now());
        let expect = Expect::Version(read.version);
        let commit = Commit { item: decision.item.unwrap(), expect, decided: decision.decided };
        self.ports.ledger.commit(&commit).await.unwrap();
        ids
    }

    async fn wait_until(&self, what: &str, holds: impl AsyncFn(&Sale) -> bool) {
        let begun = Instant::now();
        while !holds(self).await {
            assert!(begun.elapsed() < PATIENCE, "not in time: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn wait_until_sent(&self) {
        self.wait_until("the outbox is empty", async |sale| {
            sale.webhooks().waiting().await.unwrap().waiting == 0
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_event_is_dead_lettered_and_delays_no_other() {
    let receiver = Receiver::open(&[SECRET], |_, _, event| {
        Reply::Status(if event["data"]["item_id"] == "poison" { 500 } else { 204 })
    });
    let directory = tempfile::tempdir().unwrap();
    let sale = Sale::open(directory.path(), &receiver).await;
    let poison = sale.decide("poison", 1).await;
    let sending = sale.send(&[20, 40, 60]);
    let mut others = Vec::new();
    for _ in 0..5 {
        others.extend(sale.decide("fine", 20).await);
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    sale.wait_until_sent().await;
    let events = receiver.wait_for_orders(&others);
    assert_eq!(events.len(), 101);
    let attempts =
        receiver.requests().iter().filter(|g| g.id == format!("msg_{}", poison[0])).count();
    assert_eq!((attempts, receiver.requests().len()), (4, 104));

    let letters = sale.webhooks().dead_letters(10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].order_id.to_string(), letters[0].attempts), (poison[0].clone(), 4));
    assert_eq!(letters[0].reason, "HTTP status 500, at the last of 4 attempts");
    let counts = sale.ports.metrics.webhooks.each_ref().map(|count| count.get());
    assert_eq!(counts, [100, 4, 1]);

    receiver.reply_with(|_, _, _| Reply::Status(200));
    let redriven = sale.webhooks().resolve_letters(&DlqFilter::ALL, DlqAction::Redrive).await;
    assert_eq!(redriven.unwrap(), 1);
    sale.wait_until_sent().await;
    assert_eq!(sale.webhooks().waiting().await.unwrap().dead_letters, 0);
    assert_eq!(receiver.requests().len(), 105);
    sale.stop.cancel();
    sending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_and_failed_responses_are_retried() {
    let receiver = Receiver::open(&[SECRET], |n, k, _| match (n % 5, k) {
        (_, 3..) => Reply::Status(200),
        (1, _) => Reply::HangUp,
        (2, _) => Reply::Status(503),
        (3, _) => Reply::Status(307),
        _ => Reply::Status(200),
    });
    let directory = tempfile::tempdir().unwrap();
    let sale = Sale::open(directory.path(), &receiver).await;
    let sending = sale.send(&[10; 20]);
    let mut orders = Vec::new();
    for n in 0..20 {
        orders.extend(sale.decide(&format!("item-{n}"), 10).await);
    }
    sale.wait_until_sent().await;
    assert_eq!(receiver.wait_for_orders(&orders).len(), 200);
    assert_eq!(sale.webhooks().waiting().await.unwrap().dead_letters, 0);
    sale.stop.cancel();
    sending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn open_circuit_costs_no_attempts() {
    let receiver = Receiver::open(&[SECRET], |_, _, _| Reply::Status(502));
    let directory = tempfile::tempdir().unwrap();
    let sale = Sale::open(directory.path(), &receiver).await;
    let orders = sale.decide("x", 300).await;
    let sending = sale.send(&[10; 30]);
    receiver.wait_for(10);
    // In this time a closed circuit sends some thousand requests.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let requests = receiver.requests().len();
    assert!(requests < 100, "{requests}");
    receiver.reply_with(|_, _, _| Reply::Status(200));
    sale.wait_until_sent().await;
    receiver.wait_for_orders(&orders);
    assert_eq!(sale.webhooks().waiting().await.unwrap().dead_letters, 0);
    sale.stop.cancel();
    sending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_sender_returns_its_events() {
    let receiver = Receiver::open(&[SECRET], |_, _, _| Reply::Never);
    let directory = tempfile::tempdir().unwrap();
    let mut sale = Sale::open(directory.path(), &receiver).await;
    sale.settings.webhook_timeout_ms = 60_000;
    let orders = sale.decide("x", 200).await;
    let sending = sale.send(&[10]);
    receiver.wait_for(32);
    sale.stop.cancel();
    sending.await.unwrap();
    receiver.reply_with(|_, _, _| Reply::Status(200));
    sale.stop = CancellationToken::new();
    let begun = Instant::now();
    let sending = sale.send(&[10]);
    receiver.wait_for_orders(&orders);
    sale.wait_until_sent().await;
    // A lease is six times the response timeout.
    assert!(begun.elapsed() < PATIENCE);
    sale.stop.cancel();
    sending.await.unwrap();
}

/// Measures the events per second to an endpoint on this machine that responds at once, and the cost of
/// the outbox for decisions:
/// `cargo test --config profile.dev.package.flux.opt-level=2 --test flux -- webhooks::events_per_second
/// --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn events_per_second() {
    let receiver = Receiver::open(&[SECRET], |_, _, _| Reply::Status(200));
    let directory = tempfile::tempdir().unwrap();
    let sale = Sale::open(directory.path(), &receiver).await;
    for round in 0..3 {
        for with in [false, true] {
            match with {
                true => sale.webhooks().begin().await.unwrap(),
                false => sale.webhooks().end().await.unwrap(),
            }
            let begun = Instant::now();
            for n in 0..20 {
                sale.decide(&format!("{round}-{with}-{n}"), 500).await;
            }
            let seconds = begun.elapsed().as_secs_f64();
            println!("10000 decided, webhooks {with}: {:.0} per second", 10_000.0 / seconds);
        }
    }
    let begun = Instant::now();
    let sending = sale.send(&[10]);
    sale.wait_until_sent().await;
    let seconds = begun.elapsed().as_secs_f64();
    println!("30000 events in {seconds:.2} s: {:.0} per second", 30_000.0 / seconds);
    sale.stop.cancel();
    sending.await.unwrap();
}
