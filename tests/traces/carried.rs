//! What an order brings along, with nothing exported.

use std::time::Duration;

use flux::core::engine::redrive;
use flux::core::engine::redrive::RedriveOptions;
use flux::core::model::Order;
use flux::core::ports::dead_letters::DeadLetter;
use flux::core::ports::dead_letters::{DlqAction, DlqFilter};

use super::traceparent;
use crate::http::test_server::TestServer;

const ORDER: &str = r#"{"user_id":"ann","item_id":"x"}"#;

async fn queued(server: &TestServer) -> Order {
    let queue = &server.ports.queue;
    let mut deliveries = queue.receive(10, Duration::from_secs(20)).await.unwrap();
    queue.ack(&[deliveries[0].receipt.clone()]).await;
    deliveries.remove(0).orders.remove(0).1
}

#[tokio::test]
async fn an_order_keeps_its_traceparent_as_far_as_the_worker_and_in_its_dead_letter() {
    let server = TestServer::start().await;
    let headers =
        format!("traceparent: {}\r\ntracestate: a=1\r\nTracestate: b=2\r\n", traceparent());
    assert_eq!(server.buy(&headers, ORDER).await.status, 202);
    let order = queued(&server).await;
    let trace = order.trace.as_ref().unwrap();
    assert_eq!((trace.to_string(), trace.state()), (traceparent(), Some("a=1,b=2")));

    let body = flux::core::engine::message::encode(std::slice::from_ref(&order));
    let (reason, at) = ("it was meant to".to_owned(), order.accepted_at);
    let letter = DeadLetter { order_id: order.id, reason, body, at };
    server.ports.queue.dead_letter(&[letter]).await.unwrap();
    let options = RedriveOptions::default();
    let redrive = DlqAction::Redrive;
    redrive::act(&server.ports, &DlqFilter::ALL, redrive, &options, &mut |_, _| {}).await.unwrap();
    let again = queued(&server).await;
    assert_eq!((again.id, again.trace), (order.id, order.trace));
}

#[tokio::test]
async fn a_repeat_on_another_trace_is_the_same_order_on_the_first_ones() {
    let server = TestServer::start().await;
    let buy = async |trace: &str| {
        let headers = format!("Idempotency-Key: k\r\ntraceparent: {trace}\r\n");
        let reply = server.buy(&headers, ORDER).await;
        assert_eq!(reply.status, 202, "{}", reply.text());
        reply.json()["order_id"].as_str().unwrap().to_owned()
    };
    let first = buy(&traceparent()).await;
    assert_eq!(buy(&traceparent().replace("4bf9", "ffff")).await, first);
    let order = queued(&server).await;
    assert_eq!((order.id.to_string(), order.trace.unwrap().to_string()), (first, traceparent()));
}

#[tokio::test]
async fn a_malformed_or_repeated_traceparent_is_ignored_and_its_order_taken() {
    let server = TestServer::start().await;
    let good = traceparent();
    for headers in [
        format!("traceparent: {}\r\n", good.to_uppercase()),
        format!("traceparent: {good}, {good}\r\n"),
        format!("traceparent: {good}\r\ntraceparent: {good}\r\n"),
        "tracestate: a=1\r\n".to_owned(),
    ] {
        assert_eq!(server.buy(&headers, ORDER).await.status, 202, "{headers}");
        assert_eq!(queued(&server).await.trace, None, "{headers}");
    }
}
