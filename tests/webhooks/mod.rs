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

/// A sale on a file of its own whose shop is to be told, and how much was sent.
struct Stall {
    ports: Ports,
    settings: Settings,
    stop: CancellationToken,
}

impl Stall {
    async fn open(directory: &Path, receiver: &Receiver) -> Stall {
        let settings = Settings {
            data: directory.join("flux.db"),
            webhook_url: Some(receiver.url().into()),
            webhook_secret: Some(SECRET.into()),
            webhook_timeout_ms: 500,
            ..Settings::default()
        };
        let ports = wiring::start(&settings).await.unwrap();
        Stall { ports, settings, stop: CancellationToken::new() }
    }

    fn webhooks(&self) -> &Arc<dyn WebhookOutbox> {
        self.ports.webhooks.as_ref().unwrap()
    }

    /// Sends with these pauses between attempts, until the stall is stopped.
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

    /// Decides so many orders, two units each of plenty; their ids.
    async fn decide(&self, item_name: &str, count: usize) -> Vec<String> {
        let found = self.ports.ledger.item(&item(item_name)).await.unwrap();
        let read = found.unwrap_or_else(|| Item::new(item(item_name), 1_000_000));
        let orders: Vec<Order> = (0..count)
            .map(|n| order(&self.ports.order_ids, item_name, &format!("user-{n}")))
            .collect();
        let ids = orders.iter().map(|order| order.id.to_string()).collect();
        let verdict = decide(Some(&read), orders, now());
        let expect = Expect::Version(read.version);
        let commit = Commit { item: verdict.item.unwrap(), expect, decided: verdict.decided };
        self.ports.ledger.commit(&commit).await.unwrap();
        ids
    }

    async fn waits_until(&self, what: &str, holds: impl AsyncFn(&Stall) -> bool) {
        let begun = Instant::now();
        while !holds(self).await {
            assert!(begun.elapsed() < PATIENCE, "not in time: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn all_are_sent(&self) {
        self.waits_until("nothing waits", async |stall| {
            stall.webhooks().waiting().await.unwrap().waiting == 0
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_shop_never_takes_is_a_dead_letter_and_holds_up_no_other() {
    let receiver = Receiver::open(&[SECRET], |_, _, event| {
        Reply::Status(if event["data"]["item_id"] == "poison" { 500 } else { 204 })
    });
    let directory = tempfile::tempdir().unwrap();
    let stall = Stall::open(directory.path(), &receiver).await;
    let poison = stall.decide("poison", 1).await;
    let sending = stall.send(&[20, 40, 60]);
    let mut others = Vec::new();
    for _ in 0..5 {
        others.extend(stall.decide("fine", 20).await);
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    stall.all_are_sent().await;
    let told = receiver.wait_for_orders(&others);
    assert_eq!(told.len(), 101);
    let tries = receiver.got().iter().filter(|g| g.id == format!("msg_{}", poison[0])).count();
    assert_eq!((tries, receiver.got().len()), (4, 104));

    let letters = stall.webhooks().dead_letters(10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].order_id.to_string(), letters[0].attempts), (poison[0].clone(), 4));
    assert_eq!(letters[0].reason, "HTTP status 500, at the last of 4 attempts");
    let counts = stall.ports.metrics.webhooks.each_ref().map(|count| count.get());
    assert_eq!(counts, [100, 4, 1]);

    receiver.tell(|_, _, _| Reply::Status(200));
    let redriven = stall.webhooks().resolve_letters(&DlqFilter::ALL, DlqAction::Redrive).await;
    assert_eq!(redriven.unwrap(), 1);
    stall.all_are_sent().await;
    assert_eq!(stall.webhooks().waiting().await.unwrap().dead_letters, 0);
    assert_eq!(receiver.got().len(), 105);
    stall.stop.cancel();
    sending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_lost_or_refused_are_made_up_for() {
    let receiver = Receiver::open(&[SECRET], |n, k, _| match (n % 5, k) {
        (_, 3..) => Reply::Status(200),
        (1, _) => Reply::HangUp,
        (2, _) => Reply::Status(503),
        (3, _) => Reply::Status(307),
        _ => Reply::Status(200),
    });
    let directory = tempfile::tempdir().unwrap();
    let stall = Stall::open(directory.path(), &receiver).await;
    let sending = stall.send(&[10; 20]);
    let mut orders = Vec::new();
    for n in 0..20 {
        orders.extend(stall.decide(&format!("item-{n}"), 10).await);
    }
    stall.all_are_sent().await;
    assert_eq!(receiver.wait_for_orders(&orders).len(), 200);
    assert_eq!(stall.webhooks().waiting().await.unwrap().dead_letters, 0);
    stall.stop.cancel();
    sending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_that_is_away_is_left_alone_and_costs_no_event_its_attempts() {
    let receiver = Receiver::open(&[SECRET], |_, _, _| Reply::Status(502));
    let directory = tempfile::tempdir().unwrap();
    let stall = Stall::open(directory.path(), &receiver).await;
    let orders = stall.decide("x", 300).await;
    let sending = stall.send(&[10; 30]);
    receiver.wait_for(10);
    // In this time a shop that is asked freely is asked some thousand times.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let asked = receiver.got().len();
    assert!(asked < 100, "{asked}");
    receiver.tell(|_, _, _| Reply::Status(200));
    stall.all_are_sent().await;
    receiver.wait_for_orders(&orders);
    assert_eq!(stall.webhooks().waiting().await.unwrap().dead_letters, 0);
    stall.stop.cancel();
    sending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_is_told_to_stop_gives_back_what_it_took() {
    let receiver = Receiver::open(&[SECRET], |_, _, _| Reply::Never);
    let directory = tempfile::tempdir().unwrap();
    let mut stall = Stall::open(directory.path(), &receiver).await;
    stall.settings.webhook_timeout_ms = 60_000;
    let orders = stall.decide("x", 200).await;
    let sending = stall.send(&[10]);
    receiver.wait_for(32);
    stall.stop.cancel();
    sending.await.unwrap();
    receiver.tell(|_, _, _| Reply::Status(200));
    stall.stop = CancellationToken::new();
    let begun = Instant::now();
    let sending = stall.send(&[10]);
    receiver.wait_for_orders(&orders);
    stall.all_are_sent().await;
    // A lease lasts six times as long as an answer may take.
    assert!(begun.elapsed() < PATIENCE);
    stall.stop.cancel();
    sending.await.unwrap();
}

/// How many events a second go to a shop on this machine that answers at once, and what putting
/// them costs the decisions. Figures, no test:
/// `cargo test --config profile.dev.package.flux.opt-level=2 --test flux -- webhooks::events_a_second
/// --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn events_a_second() {
    let receiver = Receiver::open(&[SECRET], |_, _, _| Reply::Status(200));
    let directory = tempfile::tempdir().unwrap();
    let stall = Stall::open(directory.path(), &receiver).await;
    for round in 0..3 {
        for with in [false, true] {
            match with {
                true => stall.webhooks().begin().await.unwrap(),
                false => stall.webhooks().end().await.unwrap(),
            }
            let begun = Instant::now();
            for n in 0..20 {
                stall.decide(&format!("{round}-{with}-{n}"), 500).await;
            }
            let seconds = begun.elapsed().as_secs_f64();
            println!("10000 decided, webhooks {with}: {:.0} a second", 10_000.0 / seconds);
        }
    }
    let begun = Instant::now();
    let sending = stall.send(&[10]);
    stall.all_are_sent().await;
    let seconds = begun.elapsed().as_secs_f64();
    println!("30000 events in {seconds:.2} s: {:.0} a second", 30_000.0 / seconds);
    stall.stop.cancel();
    sending.await.unwrap();
}
