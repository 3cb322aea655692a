//! Counted usage of the adapters' calls on the stand-ins, and the reported cost of a sale.

use std::sync::Arc;
use std::time::Duration;

use flux::adapters::aws::dynamodb::DynamoLedger;
use flux::adapters::aws::dynamodb::setup::TableSetup;
use flux::adapters::redis::client::{Redis, RedisSettings};
use flux::adapters::redis::idempotency::RedisIdempotency;
use flux::adapters::redis::lock::RedisLock;
use flux::adapters::redis::notifier::RedisNotifier;
use flux::clear_text::Tls;
use flux::cmd::test_deployment::{TestDeployment, Topology};
use flux::config::{Backend, Settings};
use flux::core::engine::message;
use flux::core::model::{Decided, Decision, Item, Order, Reason, decide};
use flux::core::ports::idempotency::{Fingerprint, IdempotencyStore};
use flux::core::ports::ledger::{Commit, Committed, Expect, Ledger};
use flux::core::ports::lock::{Lock, Token};
use flux::core::ports::notifier::Notifier;
use flux::core::ports::usage::{Calls, Service, Usage};
use flux::load::{AuditResult, LoadPlan, Stress};

use crate::conformance::aws::{make_queue, open_queue, stand_ins_counted};
use crate::conformance::{address, clock, fresh_name, ids, item, key, names, now, order, queue};

const BILLED_BYTES: u64 = 64 * 1024;

/// The usage counted for this operation.
fn usage(calls: &Calls, service: Service, operation: &str) -> Usage {
    let operations = calls.operations();
    let found = operations.get(&(service, operation.to_owned())).copied();
    found.unwrap_or_else(|| panic!("no {operation} among {operations:?}"))
}

fn requests(calls: &Calls, service: Service, operation: &str) -> (u64, u64) {
    let Usage { round_trips, requests, .. } = usage(calls, service, operation);
    (round_trips, requests)
}

fn units(calls: &Calls, operation: &str) -> (u64, f64, f64) {
    let usage = usage(calls, Service::Dynamodb, operation);
    (usage.round_trips, usage.read_units, usage.write_units)
}

#[tokio::test]
async fn sqs_requests_are_counted_as_they_are_billed() {
    let calls = Arc::new(Calls::default());
    let aws = stand_ins_counted(calls.clone()).await;
    let bench = open_queue(&aws, make_queue(&aws, "", 100).await);
    let user = "u".repeat(100);
    let orders: Vec<Order> = (0..990).map(|_| order(&bench.names, "hot", &user)).collect();
    let bytes: u64 = orders.chunks(99).map(|some| message::encode(some).len() as u64).sum();
    let billed = bytes.div_ceil(BILLED_BYTES);
    assert!(billed > 2, "{bytes} bytes are too few for this test");

    queue::send(&*bench.queue, &orders).await;
    assert_eq!(requests(&calls, Service::Sqs, "SendMessageBatch"), (1, billed));
    let deliveries = queue::receive(&*bench.queue, 990).await;
    let (round_trips, received) = requests(&calls, Service::Sqs, "ReceiveMessage");
    // Messages that are received one by one are billed one by one.
    assert!((billed..billed + round_trips).contains(&received), "{round_trips} {received}");
    let receipts: Vec<_> = deliveries.into_iter().map(|delivery| delivery.receipt).collect();
    bench.queue.extend(&receipts).await.unwrap();
    assert_eq!(requests(&calls, Service::Sqs, "ChangeMessageVisibilityBatch"), (1, 1));
    for result in bench.queue.ack(&receipts).await {
        result.unwrap();
    }
    assert_eq!(requests(&calls, Service::Sqs, "DeleteMessageBatch"), (1, 1));
    assert_eq!(calls.counts().dynamodb + calls.counts().redis, 0);
}

#[tokio::test]
async fn dynamodb_is_counted_in_read_and_write_units() {
    let calls = Arc::new(Calls::default());
    let aws = stand_ins_counted(calls.clone()).await;
    let table = fresh_name("orders");
    TableSetup::new(&aws, &table).ensure(None, true, &mut |_, _| {}).await.unwrap();
    let ledger = DynamoLedger::new(&aws, &table, key(), clock());
    let names = names();
    let orders: Vec<Order> = (0..99).map(|_| order(&names, "hot", "ann")).collect();
    let decision = decide(Some(&Item::new(item("hot"), 10)), orders.clone(), now());
    let expect = Expect::Version(0);
    let commit = Commit { item: decision.item.unwrap(), expect, decided: decision.decided };

    ledger.commit(&commit).await.unwrap();
    assert_eq!(units(&calls, "TransactWriteItems"), (1, 0.0, 200.0));
    // A repeated request is billed as reads.
    ledger.commit(&commit).await.unwrap();
    assert_eq!(units(&calls, "TransactWriteItems"), (2, 200.0, 200.0));
    // A cancelled transaction with two orders and the item counts as if it were written.
    let others = commit.decided[..2].to_vec();
    let refused = ledger.commit(&Commit { decided: others, ..commit.clone() }).await.unwrap();
    assert!(matches!(refused, Committed::Refused { .. }));
    assert_eq!(units(&calls, "TransactWriteItems"), (3, 200.0, 206.0));

    let rejected = |order| {
        let decision = Decision::Rejected(Reason::SoldOut);
        Decided { order, decision, decided_at: now() }
    };
    let late: Vec<_> = (0..5).map(|_| rejected(order(&names, "hot", "bob"))).collect();
    ledger.record(&late).await.unwrap();
    assert_eq!(units(&calls, "TransactWriteItems"), (4, 200.0, 216.0));

    ledger.item(&item("hot")).await.unwrap();
    assert_eq!(units(&calls, "GetItem"), (1, 1.0, 0.0));
    ledger.find(&ids(&orders[..7])).await.unwrap();
    assert_eq!(units(&calls, "BatchGetItem"), (1, 7.0, 0.0));
    ledger.items(None, 10).await.unwrap();
    assert_eq!(units(&calls, "Scan"), (1, 1.0, 0.0));
}

#[tokio::test]
async fn redis_is_counted_by_round_trip_and_command() {
    let calls = Arc::new(Calls::default());
    let url = address("FLUX_TEST_REDIS");
    let settings =
        RedisSettings { url, password: None, tls: Tls::Auto, prefix: fresh_name("cost") };
    let redis = Redis::connect(settings, calls.clone()).await.unwrap();
    let lock = RedisLock::new(redis.clone());
    let token = Token(1);
    let lease = Duration::from_secs(5);
    lock.acquire(&item("hot"), token, lease).await.unwrap();
    lock.renew(&item("hot"), token, lease).await.unwrap();
    lock.renew(&item("hot"), token, lease).await.unwrap();
    lock.release(&item("hot"), token).await.unwrap();
    let names = names();
    let orders: Vec<Order> = (0..3).map(|_| order(&names, "hot", "ann")).collect();
    let fingerprint = |order: &Order| Fingerprint { order: order.id, hash: 1 };
    let fingerprints: Vec<Fingerprint> = orders.iter().map(fingerprint).collect();
    RedisIdempotency::new(redis.clone()).check_keys(&fingerprints).await.unwrap();
    RedisNotifier::new(redis).publish(&ids(&orders)).await;
    let counted = [
        ("EVAL acquire", (1, 1)),
        ("EVAL renew", (2, 2)),
        ("EVAL release", (1, 1)),
        ("SET", (1, 3)),
        ("PUBLISH", (1, 1)),
    ];
    for (operation, wanted) in counted {
        assert_eq!(requests(&calls, Service::Redis, operation), wanted, "{operation}");
    }
    assert_eq!(calls.counts().redis, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn sale_on_aws_reports_its_cost() {
    let redis = address("FLUX_TEST_REDIS");
    let settings = Settings {
        backend: Some(Backend::Aws),
        aws_region: Some("eu-central-1".to_owned()),
        aws_endpoint_url_sqs: Some(address("FLUX_TEST_SQS")),
        aws_endpoint_url_dynamodb: Some(address("FLUX_TEST_DYNAMODB")),
        redis_url: Some(redis.into()),
        ..Settings::default()
    };
    let plan = LoadPlan {
        item: item("ticket_001"),
        stock: Some(20),
        users: 300,
        connections: 32,
        rate: None,
        duplicates: 0.0,
        seed: 7,
    };
    let topology = Topology { connections: plan.connections, workers: 2, without: Vec::new() };
    let (deployment, target) = TestDeployment::start(settings, topology).await.unwrap();
    let report = Stress { plan, target }.run().await.unwrap();
    deployment.end(Duration::from_secs(5)).await;

    assert_eq!((report.verdict, report.accepted, report.sold), (AuditResult::Pass, 300, 20));
    let cost = report.cost.as_ref().unwrap();
    let per = cost.per_1000_orders;
    // Two units per order, and two for the item per commit.
    assert!((2_000.0..3_000.0).contains(&per.dynamodb_write_units), "{cost:?}");
    assert!(per.sqs_requests > 0.0 && per.redis_commands > 0.0);
    assert!(per.usd > 0.00125 && per.usd < 0.0025, "{cost:?}");
    let round_trips = |service: Service| -> f64 {
        let operations = cost.operations.iter().filter(|operation| operation.service == service);
        operations.map(|operation| operation.usage.round_trips).sum::<u64>() as f64 / 300.0
    };
    let per_order = report.requests_per_order.unwrap();
    assert_eq!(round_trips(Service::Sqs), per_order.sqs);
    assert_eq!(round_trips(Service::Dynamodb), per_order.dynamodb);
    assert_eq!(round_trips(Service::Redis), per_order.redis);
    let text = report.to_string();
    assert!(text.contains("write units") && text.contains("prices of us-east-1"), "{text}");
    let json = serde_json::to_value(&report).unwrap();
    assert!(json["cost"]["per_1000_orders"]["usd"].is_number());
    assert!(json["cost"]["operations"][0]["round_trips"].is_number());
}
