//! Faults of AWS that the stand-ins do not produce, injected by a proxy (microburst): throttling,
//! conflicts, failed entries of a batch, lost responses.
//!
//! A test's rules match only requests that name its own table or queue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flux::adapters::aws::client::{Aws, AwsSettings};
use flux::adapters::aws::dynamodb::DynamoLedger;
use flux::adapters::aws::dynamodb::setup::TableSetup;
use flux::core::model::{Decided, Decision, Item, Order, OrderIds, Reason, decide};
use flux::core::ports::ledger::{Commit, Committed, Expect, Ledger, LedgerError};
use flux::core::ports::queue::QueueError;
use flux::core::ports::usage::Calls;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::conformance::aws::{make_queue, open_queue, stand_ins};
use crate::conformance::{address, clock, fresh_name, item, key, names, now, order, queue};

/// Sends rules to a proxy: `PATCH` adds them, `DELETE` removes them.
pub async fn control(proxy: &str, method: &str, rules: &Value) {
    let host = proxy.strip_prefix("http://").unwrap();
    let body = rules.to_string();
    let request = format!(
        "{method} /_microburst/rules HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = tokio::net::TcpStream::connect(host).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
}

/// AWS behind a proxy that injects faults into requests for the resource `name`.
struct Faulty {
    aws: Aws,
    proxy: String,
    name: String,
}

impl Faulty {
    async fn new(variable: &str, name: String) -> Self {
        let proxy = address(variable);
        let settings = AwsSettings {
            region: Some("eu-central-1".to_owned()),
            endpoint_url: Some(proxy.clone()),
            endpoint_url_sqs: Some(proxy.clone()),
            endpoint_url_dynamodb: Some(proxy.clone()),
            credentials: None,
        };
        let aws = Aws::load(settings, Arc::new(Calls::default())).await.unwrap();
        Self { aws, proxy, name }
    }

    fn body(&self) -> String {
        format!("contains(to_string(@), '{}')", self.name)
    }

    /// Injects `fault` into the next `times` requests of this operation.
    async fn next(&self, operation: &str, times: u32, fault: Value) {
        let mut rule = json!({"operation": operation, "times": times, "body": self.body()});
        rule.as_object_mut().unwrap().extend(fault.as_object().unwrap().clone());
        control(&self.proxy, "PATCH", &json!([rule])).await;
    }

    async fn heal(&self) {
        control(&self.proxy, "DELETE", &json!([{"body": self.body()}])).await;
    }
}

fn error(code: &str) -> Value {
    json!({"error": {"code": code}})
}

/// A cancelled transaction with these reasons.
fn cancelled(codes: &[&str]) -> Value {
    let reasons: Vec<Value> = codes.iter().map(|code| json!({"Code": code})).collect();
    json!({"error": {"code": "TransactionCanceledException",
                     "fields": {"CancellationReasons": reasons}}})
}

/// Applies the request, and closes the connection before the response.
fn reply_lost() -> Value {
    json!({"response": {"abort_bytes": 0}})
}

/// A successful response with these fields.
fn response(fields: Value) -> Value {
    json!({"error": {"code": "none", "status": 200, "fields": fields}})
}

/// DynamoDB that loses the first two responses of this operation on the table `name`.
pub async fn lossy_dynamodb(name: &str, operation: &str) -> Aws {
    faulty_dynamodb(name, operation, 2, reply_lost()).await
}

/// DynamoDB that denies the first calls of this operation on the table `name`.
pub async fn denied_dynamodb(name: &str, operation: &str) -> Aws {
    faulty_dynamodb(name, operation, 2, error("AccessDeniedException")).await
}

async fn faulty_dynamodb(name: &str, operation: &str, times: u32, fault: Value) -> Aws {
    let faulty = Faulty::new("FLUX_TEST_MICROBURST_DYNAMODB", name.to_owned()).await;
    faulty.next(operation, times, fault).await;
    faulty.aws
}

struct Table {
    faulty: Faulty,
    ledger: DynamoLedger,
    names: Arc<OrderIds>,
}

async fn table() -> Table {
    let name = fresh_name("faults");
    TableSetup::new(&stand_ins().await, &name).ensure(None, true, &mut |_, _| {}).await.unwrap();
    let faulty = Faulty::new("FLUX_TEST_MICROBURST_DYNAMODB", name.clone()).await;
    let ledger = DynamoLedger::new(&faulty.aws, &name, key(), clock());
    Table { faulty, ledger, names: names() }
}

impl Table {
    fn orders(&self, count: usize) -> Vec<Order> {
        (0..count).map(|n| order(&self.names, "x", &format!("user-{n}"))).collect()
    }

    fn commit(&self) -> Commit {
        let decision = decide(Some(&Item::new(item("x"), 100)), self.orders(3), now());
        let item = decision.item.unwrap();
        Commit { item, expect: Expect::Version(0), decided: decision.decided }
    }

    async fn assert_written_once(&self, commit: &Commit) {
        assert_eq!(self.ledger.item(&item("x")).await.unwrap().as_ref(), Some(&commit.item));
        let ids: Vec<_> = commit.decided.iter().map(|d| d.order.id).collect();
        assert!(self.ledger.find(&ids).await.unwrap().iter().all(Option::is_some));
    }
}

#[tokio::test]
async fn throttled_or_conflicting_commit_is_written() {
    let table = table().await;
    for fault in [
        error("ThrottlingException"),
        error("ProvisionedThroughputExceededException"),
        error("TransactionInProgressException"),
        cancelled(&["TransactionConflict", "None", "None", "None"]),
        cancelled(&["None", "ThrottlingError", "ProvisionedThroughputExceeded", "None"]),
    ] {
        table.faulty.next("TransactWriteItems", 1, fault).await;
    }
    let commit = table.commit();
    assert_eq!(table.ledger.commit(&commit).await.unwrap(), Committed::Written);
    table.assert_written_once(&commit).await;
}

#[tokio::test]
async fn endless_conflict_is_busy_and_writes_nothing() {
    let table = table().await;
    table.faulty.next("TransactWriteItems", 1_000, cancelled(&["TransactionConflict"])).await;
    let begun = Instant::now();
    let refused = table.ledger.commit(&table.commit()).await;
    assert!(matches!(refused, Err(LedgerError::Busy(_))), "{refused:?}");
    assert!(begun.elapsed() < Duration::from_secs(15));
    assert_eq!(table.ledger.item(&item("x")).await.unwrap(), None);
}

#[tokio::test]
async fn reasons_are_read_entry_by_entry() {
    let table = table().await;
    let commit = table.commit();
    let mixed = ["TransactionConflict", "None", "ConditionalCheckFailed", "None"];
    table.faulty.next("TransactWriteItems", 1, cancelled(&mixed)).await;
    let decided_before = vec![commit.decided[1].order.id];
    let refused = Committed::Refused { item_changed: false, decided_before };
    assert_eq!(table.ledger.commit(&commit).await.unwrap(), refused);
}

#[tokio::test]
async fn commit_with_a_lost_response_is_written_once() {
    let table = table().await;
    table.faulty.next("TransactWriteItems", 2, reply_lost()).await;
    let commit = table.commit();
    assert_eq!(table.ledger.commit(&commit).await.unwrap(), Committed::Written);
    table.assert_written_once(&commit).await;
}

#[tokio::test]
async fn commit_without_responses_is_unknown_and_repeatable() {
    let table = table().await;
    table.faulty.next("TransactWriteItems", 1, reply_lost()).await;
    table.faulty.next("TransactWriteItems", 1_000, error("ThrottlingException")).await;
    let commit = table.commit();
    let unknown = table.ledger.commit(&commit).await;
    assert!(matches!(unknown, Err(LedgerError::OutcomeUnknown(_))), "{unknown:?}");
    table.faulty.heal().await;
    assert_eq!(table.ledger.commit(&commit).await.unwrap(), Committed::Written);
    table.assert_written_once(&commit).await;
}

#[tokio::test]
async fn taken_token_is_resolved_by_reading_the_rows() {
    let table = table().await;
    let mismatch = error("IdempotentParameterMismatchException");
    table.faulty.next("TransactWriteItems", 1, mismatch.clone()).await;
    let commit = table.commit();
    assert_eq!(table.ledger.commit(&commit).await.unwrap(), Committed::Written);
    table.faulty.next("TransactWriteItems", 1, mismatch).await;
    let Ok(Committed::Refused { item_changed, decided_before }) =
        table.ledger.commit(&commit).await
    else {
        panic!()
    };
    assert_eq!((item_changed, decided_before.len()), (true, 3));
    table.assert_written_once(&commit).await;
}

#[tokio::test]
async fn repeated_rejections_are_not_reported_as_earlier() {
    let table = table().await;
    table.faulty.next("TransactWriteItems", 1, reply_lost()).await;
    let decision = Decision::Rejected(Reason::SoldOut);
    let rejected = |order| Decided { order, decision, decided_at: now() };
    let batch: Vec<Decided> = table.orders(3).into_iter().map(rejected).collect();
    assert_eq!(table.ledger.record(&batch).await.unwrap(), []);
}

#[tokio::test]
async fn unprocessed_keys_are_read_again() {
    let table = table().await;
    let commit = table.commit();
    table.ledger.commit(&commit).await.unwrap();
    let ids: Vec<_> = commit.decided.iter().map(|d| d.order.id).collect();
    let keys: Vec<Value> =
        ids.iter().map(|id| json!({"order_id": {"S": id.to_string()}})).collect();
    let unread = json!({"Responses": {}, "UnprocessedKeys": {
        &table.faulty.name: {"Keys": keys, "ConsistentRead": true}}});
    table.faulty.next("BatchGetItem", 2, response(unread)).await;
    assert!(table.ledger.find(&ids).await.unwrap().iter().all(Option::is_some));
}

/// A queue that is reached through the proxy, and its name.
async fn faulty_queue(suffix: &str) -> (Faulty, queue::Bench, String) {
    let url = make_queue(&stand_ins().await, suffix, 100).await;
    let name = url.rsplit('/').next().unwrap().trim_end_matches(".fifo").to_owned();
    let faulty = Faulty::new("FLUX_TEST_MICROBURST_SQS", name).await;
    let bench = open_queue(&faulty.aws, url.clone());
    (faulty, bench, url)
}

fn failed(id: usize, code: &str, sender_fault: bool) -> Value {
    json!({"Id": id.to_string(), "Code": code, "SenderFault": sender_fault, "Message": "no"})
}

fn done(id: usize) -> Value {
    json!({"Id": id.to_string(), "MessageId": "m", "MD5OfMessageBody": "d"})
}

#[tokio::test]
async fn failed_send_entries_fail_exactly_their_orders() {
    let (faulty, bench, _) = faulty_queue("").await;
    let entries = json!({"Successful": [done(0)], "Failed": [
        failed(1, "RequestThrottled", true), failed(2, "InvalidMessageContents", true),
        failed(3, "InternalError", false)]});
    faulty.next("SendMessageBatch", 1, response(entries)).await;
    let items = ["a", "b", "c", "d", "e", "b"];
    let orders: Vec<Order> = items.iter().map(|i| order(&bench.names, i, "ann")).collect();
    let results = bench.queue.send(&orders).await;
    assert!(results[0].is_ok());
    for busy in [1, 5] {
        assert!(matches!(results[busy], Err(QueueError::Busy(_))), "{results:?}");
    }
    assert!(matches!(results[2], Err(QueueError::Broken(_))), "{results:?}");
    // An entry that the response does not mention may have been sent.
    for unknown in [3, 4] {
        assert!(matches!(results[unknown], Err(QueueError::OutcomeUnknown(_))), "{results:?}");
    }
}

#[tokio::test]
async fn throttled_send_is_repeated() {
    let (faulty, bench, _) = faulty_queue("").await;
    faulty.next("SendMessageBatch", 1, error("RequestThrottled")).await;
    queue::send(&*bench.queue, &[order(&bench.names, "a", "ann")]).await;
    assert_eq!(queue::receive(&*bench.queue, 1).await.len(), 1);
}

#[tokio::test]
async fn fifo_send_with_a_lost_response_is_one_message() {
    let (faulty, bench, _) = faulty_queue(".fifo").await;
    faulty.next("SendMessageBatch", 1, reply_lost()).await;
    queue::send(&*bench.queue, &[order(&bench.names, "a", "ann")]).await;
    assert_eq!(bench.queue.backlog().await.unwrap().waiting, 1);
}

#[tokio::test]
async fn send_without_responses_is_unknown() {
    let (faulty, bench, _) = faulty_queue("").await;
    faulty.next("SendMessageBatch", 1_000, reply_lost()).await;
    let results = bench.queue.send(&[order(&bench.names, "a", "ann")]).await;
    assert!(matches!(results[..], [Err(QueueError::OutcomeUnknown(_))]), "{results:?}");
}

#[tokio::test]
async fn failed_ack_entries_fail_alone() {
    let (faulty, bench, _) = faulty_queue("").await;
    let queue = &*bench.queue;
    for user in ["ann", "bob"] {
        queue::send(queue, &[order(&bench.names, "a", user)]).await;
    }
    let held = queue::receive(queue, 2).await;
    let receipts: Vec<_> = held.iter().map(|d| d.receipt.clone()).collect();
    let entries =
        json!({"Successful": [{"Id": "1"}], "Failed": [failed(0, "InternalError", false)]});
    faulty.next("DeleteMessageBatch", 1, response(entries)).await;
    let results = queue.ack(&receipts).await;
    assert!(results[0].is_err() && results[1].is_ok(), "{results:?}");
    faulty.next("DeleteMessageBatch", 2, error("InternalError")).await;
    assert!(queue.ack(&receipts).await.iter().all(Result::is_ok));
    assert_eq!(queue.backlog().await.unwrap().waiting, 0);
}

#[tokio::test]
async fn fifo_messages_do_not_overtake_poison() {
    for (suffix, overtakes) in [("", 1), (".fifo", 0)] {
        let (faulty, bench, _) = faulty_queue(suffix).await;
        let message = |n: usize, body: &str| {
            let id = n.to_string();
            json!({"MessageId": id, "ReceiptHandle": id, "Body": body,
                   "Attributes": {"SequenceNumber": id}})
        };
        let poison = message(1, r#"[7, {"user_id":"ann","item_id":"x"}]"#);
        let sound = message(2, r#"{"user_id":"bob","item_id":"x"}"#);
        faulty.next("ReceiveMessage", 1, response(json!({"Messages": [poison, sound]}))).await;
        faulty.next("SendMessageBatch", 1_000, error("InternalError")).await;
        let came = bench.queue.receive(10, Duration::from_secs(1)).await.unwrap();
        assert_eq!(came.len(), overtakes, "{came:?}");
    }
}

#[tokio::test]
async fn poison_stays_queued_until_dead_lettered() {
    let (faulty, bench, url) = faulty_queue("").await;
    let aws = stand_ins().await;
    let poison = "[7, {\"user_id\":\"ann\",\"item_id\":\"x\"}]";
    aws.sqs().send_message().queue_url(&url).message_body(poison).send().await.unwrap();
    faulty.next("SendMessageBatch", 1_000, error("InternalError")).await;
    let queue = &*bench.queue;
    let none = queue.receive(10, Duration::from_secs(1)).await.unwrap();
    assert!(none.is_empty(), "{none:?}");
    assert_eq!(queue.backlog().await.unwrap().waiting, 1);

    faulty.heal().await;
    queue::receive(queue, 1).await;
    assert_eq!(queue.dead_letters(10).await.unwrap()[0].body, "7");
}
