//! The contracts on SQS and DynamoDB, and tests of what only these adapters do.

use std::sync::Arc;
use std::time::Duration;

use flux::adapters::aws::client::{Aws, AwsSettings};
use flux::adapters::aws::dynamodb::DynamoLedger;
use flux::adapters::aws::dynamodb::setup::TableSetup;
use flux::adapters::aws::sqs::setup::{DeadLetters, QueueSetup, WantedQueue};
use flux::adapters::aws::sqs::{SqsQueue, SqsSettings};
use flux::core::engine::message;
use flux::core::model::Timestamp;
use flux::core::ports::dead_letters::DeadLetter;
use flux::core::ports::queue::QueueError;
use flux::core::ports::usage::Calls;

use flux::adapters::aws::webhook_outbox::{SqsOutbox, queue_names};
use flux::core::model::SystemClock;
use flux::core::model::event::Kinds;
use flux::core::ports::webhook_outbox::{OutboxError, WebhookOutbox};

use super::{address, clock, fresh_name, key, ledger, names, now, order, queue, webhook_outbox};

const VISIBILITY: Duration = Duration::from_secs(2);

/// The stand-ins, without a proxy.
pub async fn stand_ins() -> Aws {
    stand_ins_counted(Arc::default()).await
}

pub async fn stand_ins_counted(calls: Arc<Calls>) -> Aws {
    let settings = AwsSettings {
        region: Some("eu-central-1".to_owned()),
        endpoint_url_sqs: Some(address("FLUX_TEST_SQS")),
        endpoint_url_dynamodb: Some(address("FLUX_TEST_DYNAMODB")),
        ..AwsSettings::default()
    };
    Aws::load(settings, calls).await.unwrap()
}

/// Creates a queue with its dead-letter queue. Returns the queue's URL.
pub async fn make_queue(aws: &Aws, suffix: &str, max_receive_count: u32) -> String {
    let setup = QueueSetup::new(aws);
    let name = fresh_name("queue");
    let dead = WantedQueue {
        name: format!("{name}-dlq{suffix}"),
        visibility: VISIBILITY,
        retention: Duration::from_secs(3_600),
        dead_letters: None,
    };
    let dead_letters = Some(DeadLetters { queue_name: dead.name.clone(), max_receive_count });
    let queue = WantedQueue { name: format!("{name}{suffix}"), dead_letters, ..dead.clone() };
    setup.ensure(&dead, true).await.unwrap();
    setup.ensure(&queue, true).await.unwrap();
    setup.url(&queue.name).await.unwrap().unwrap()
}

pub fn open_queue(aws: &Aws, queue_url: String) -> queue::Bench {
    open_queue_of(aws, queue_url, message::MAX_ORDERS)
}

fn open_queue_of(aws: &Aws, queue_url: String, orders_per_message: usize) -> queue::Bench {
    let names = names();
    let settings = SqsSettings {
        queue_url,
        dead_letter_queue_url: None,
        visibility: VISIBILITY,
        orders_per_message,
    };
    let queue = Arc::new(SqsQueue::new(aws, settings, names.clone(), clock()));
    queue::Bench { queue, names, visibility: VISIBILITY }
}

mod standard_queue {
    async fn bench() -> super::queue::Bench {
        let aws = super::stand_ins().await;
        super::open_queue(&aws, super::make_queue(&aws, "", 100).await)
    }
    super::queue::queue_contract!(bench);
}

mod fifo_queue {
    async fn bench() -> super::queue::Bench {
        let aws = super::stand_ins().await;
        super::open_queue(&aws, super::make_queue(&aws, ".fifo", 100).await)
    }
    super::queue::queue_contract!(bench);
}

#[tokio::test]
async fn unpacked_mode_sends_one_message_per_order() {
    let aws = stand_ins().await;
    for suffix in ["", ".fifo"] {
        let url = make_queue(&aws, suffix, 100).await;
        let bench = open_queue_of(&aws, url.clone(), 1);
        let orders = ["ann", "bob", "cid"].map(|user| order(&bench.names, "x", user));
        assert!(bench.queue.send(&orders).await.iter().all(Result::is_ok));
        assert_eq!(bench.queue.backlog().await.unwrap().waiting, 3);
        let read = aws.sqs().receive_message().queue_url(&url).max_number_of_messages(10);
        let messages = read.send().await.unwrap().messages.unwrap_or_default();
        let bodies: Vec<&str> = messages.iter().filter_map(|message| message.body()).collect();
        assert!(!bodies.is_empty());
        assert!(bodies.iter().all(|body| body.starts_with("{\"user_id\":")), "{bodies:?}");
    }
}

/// An outbox for a queue of orders that does not have to exist.
pub async fn outbox(aws: &Aws) -> SqsOutbox {
    let orders = fresh_name("orders");
    let setup = QueueSetup::new(aws);
    for name in queue_names(&orders) {
        let retention = Duration::from_secs(3_600);
        let queue = WantedQueue { name, visibility: VISIBILITY, retention, dead_letters: None };
        setup.ensure(&queue, true).await.unwrap();
    }
    let [queue, _] = queue_names(&orders);
    let url = setup.url(&queue).await.unwrap().unwrap().replace("-webhooks", "");
    SqsOutbox::new(aws, &url, Kinds::ALL, Arc::new(SystemClock))
}

mod webhook {
    async fn bench() -> super::webhook_outbox::Bench {
        let webhooks = super::outbox(&super::stand_ins().await).await;
        let webhooks = super::Arc::new(webhooks);
        super::webhook_outbox::Bench { webhooks, names: super::names(), ledger: None }
    }
    super::webhook_outbox::webhook_outbox_contract!(bench);
}

#[tokio::test]
async fn missing_outbox_queue_is_reported() {
    let aws = stand_ins().await;
    let url = format!("{}/000000000000/away", address("FLUX_TEST_SQS"));
    let outbox = SqsOutbox::new(&aws, &url, Kinds::ALL, Arc::new(SystemClock));
    let Err(OutboxError::Broken(said)) = outbox.begin().await else { panic!() };
    assert!(said.contains("away-webhooks") && said.contains("flux provision"), "{said}");
}

mod dynamodb {
    async fn bench() -> super::ledger::Bench {
        let aws = super::stand_ins().await;
        let table = super::fresh_name("orders");
        super::TableSetup::new(&aws, &table).ensure(None, true, &mut |_, _| {}).await.unwrap();
        let ledger = super::DynamoLedger::new(&aws, &table, super::key(), super::clock());
        super::ledger::Bench { ledger: super::Arc::new(ledger), names: super::names() }
    }
    super::ledger::ledger_contract!(bench);
}

pub async fn send_raw(aws: &Aws, url: &str, body: &str) {
    aws.sqs().send_message().queue_url(url).message_body(body).send().await.unwrap();
}

#[tokio::test]
async fn malformed_order_is_dead_lettered_alone() {
    let aws = stand_ins().await;
    let url = make_queue(&aws, "", 100).await;
    let bench = open_queue(&aws, url.clone());
    let body =
        r#"[{"user_id":"ann","item_id":"x"},{"user_id":"bob"},{"user_id":"cid","item_id":"x"}]"#;
    for text in ["no json", "[]", body] {
        send_raw(&aws, &url, text).await;
    }
    let came = queue::receive(&*bench.queue, 2).await;
    assert_eq!(came.len(), 1);
    let letters = bench.queue.dead_letters(10).await.unwrap();
    let mut bodies: Vec<&str> = letters.iter().map(|l| l.body.as_str()).collect();
    bodies.sort_unstable();
    assert_eq!(bodies, ["[]", "no json", r#"{"user_id":"bob"}"#]);
    assert!(letters.iter().all(|l| l.reason.starts_with("not an order")));
    assert_eq!(bench.queue.backlog().await.unwrap().waiting, 1);
}

#[tokio::test]
async fn foreign_order_keeps_its_id_on_redelivery() {
    let aws = stand_ins().await;
    let url = make_queue(&aws, "", 100).await;
    let bench = open_queue(&aws, url.clone());
    send_raw(&aws, &url, r#"{"user_id":"ann","item_id":"x"}"#).await;
    let first = queue::receive(&*bench.queue, 1).await;
    let again = queue::receive(&*bench.queue, 1).await;
    assert_eq!(first[0].orders, again[0].orders);
    assert!(now().since(first[0].orders[0].1.accepted_at) < Duration::from_secs(60));
}

#[tokio::test]
async fn message_order_breaks_ties() {
    let aws = stand_ins().await;
    let url = make_queue(&aws, "", 100).await;
    let bench = open_queue(&aws, url.clone());
    let users = ["eve", "dan", "cid", "bob", "ann", "fay"];
    let orders = users.map(|user| serde_json::json!({"user_id": user, "item_id": "x"}));
    send_raw(&aws, &url, &serde_json::Value::from(orders.to_vec()).to_string()).await;
    let mut came = queue::receive(&*bench.queue, users.len()).await.remove(0).orders;
    came.sort_by_key(|(arrival, _)| *arrival);
    let came: Vec<&str> = came.iter().map(|(_, order)| order.user.as_str()).collect();
    assert_eq!(came, users);
}

#[tokio::test]
async fn over_received_message_splits_into_letters() {
    let aws = stand_ins().await;
    let bench = open_queue(&aws, make_queue(&aws, "", 1).await);
    let queue = &*bench.queue;
    let orders = [order(&bench.names, "x", "ann"), order(&bench.names, "x", "bob")];
    queue::send(queue, &orders).await;
    let held = queue::receive(queue, 2).await;
    queue.release(&[held[0].receipt.clone()]).await.unwrap();
    assert!(queue.receive(10, Duration::from_secs(1)).await.unwrap().is_empty());

    let letters = queue.dead_letters(10).await.unwrap();
    let reasons: Vec<&str> = letters.iter().map(|l| l.reason.as_str()).collect();
    assert_eq!(reasons, ["received too often"; 2]);
    assert_eq!(queue::redrive(queue, &orders[1]).await, [(orders[1].id, "sent")]);
    let left = queue.dead_letters(10).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].order_id, left[0].reason.as_str()), (orders[0].id, "received too often"));
    assert_eq!(queue::receive(queue, 1).await[0].orders[0].1.id, orders[1].id);
}

#[tokio::test]
async fn missing_queue_or_table_is_reported() {
    let aws = stand_ins().await;
    let url = make_queue(&aws, "", 100).await;
    let bench = open_queue(&aws, format!("{url}-away"));
    let Err(QueueError::Broken(said)) = bench.queue.check().await else { panic!() };
    assert!(said.contains("-away") && said.contains("flux provision"), "{said}");
    let ledger = DynamoLedger::new(&aws, "nowhere", key(), clock());
    let said = flux::core::ports::ledger::Ledger::check(&ledger).await.unwrap_err().to_string();
    assert!(said.contains("nowhere") && said.contains("flux provision"), "{said}");
}

#[tokio::test]
async fn large_letter_survives_concurrent_listings() {
    let aws = stand_ins().await;
    let bench = open_queue(&aws, make_queue(&aws, "", 100).await);
    let queue = &*bench.queue;
    let letter = |n: usize, body: String| DeadLetter {
        order_id: bench.names.from_message("somebody's message", n),
        reason: "not an order".to_owned(),
        body,
        at: Timestamp(n as u64 + 1),
    };
    let mut letters: Vec<DeadLetter> = (0..40).map(|n| letter(n, n.to_string())).collect();
    letters.push(letter(40, "é".repeat(128 * 1024)));
    queue.dead_letter(&letters).await.unwrap();
    let (one, other) = tokio::join!(queue.dead_letters(100), queue.dead_letters(100));
    assert!(one.unwrap().len() + other.unwrap().len() >= letters.len());
    assert_eq!(queue.dead_letters(100).await.unwrap(), letters);
}
