//! Event streams of orders.

use flux::core::model::OrderId;
use flux::core::ports::dead_letters::DeadLetter;
use serde_json::{Value, json};

use super::*;

fn two_streams() -> Setup {
    let limits = Limits { connections: 4, ..Setup::default().limits };
    Setup { limits, ..Setup::default() }
}

#[tokio::test]
async fn stream_has_each_change_up_to_the_decision() {
    let server = TestServer::start().await;
    let _first = server.good_order().await;
    let second = server.good_order().await;
    let path = format!("/orders/{second}/events");
    let mut events = server.events(&path, "").await;
    let (name, queued) = events.next().await.unwrap();
    assert_eq!((name.as_str(), &queued["status"]), ("order", &json!("queued")));
    assert_eq!(queued, server.get(&format!("/orders/{second}")).await.json());

    server.start_worker();
    let mut last = queued;
    while let Some((_, order)) = events.next().await {
        assert_ne!(order, last);
        last = order;
    }
    assert_eq!((&last["status"], &last["reason"]), (&json!("rejected"), &json!("sold_out")));
    assert_eq!(last, server.get(&format!("/orders/{second}")).await.json());

    // A late client gets the last event; one that has received it gets a 204.
    let late = server.events(&path, "Last-Event-ID: begin\r\n").await.next().await;
    assert_eq!(late, Some(("order".to_owned(), last)));
    assert_eq!(server.ask("HEAD", &path, "", "").await.status, 200);
    let mut client = server.connect().await;
    client.send(format!("GET {path} HTTP/1.1\r\nLast-Event-ID: end\r\n\r\n")).await;
    assert_eq!(client.reply(true).await.unwrap().status, 204);
}

#[tokio::test]
async fn unknown_order_cannot_be_followed() {
    let server = TestServer::start().await;
    for id in ["0".repeat(32), "x".to_owned()] {
        server.get(&format!("/orders/{id}/events")).await.problem(404);
    }
    let order = server.good_order().await;
    let path = format!("/orders/{order}/events");
    let refused = server.ask("POST", &path, "", "").await;
    refused.problem(405);
    assert_eq!(refused.header("allow"), Some("GET, HEAD"));
    let head = server.ask("HEAD", &path, "", "").await;
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
}

#[tokio::test]
async fn streams_leave_half_of_the_connections() {
    let server = TestServer::start_with(two_streams()).await;
    let order = server.good_order().await;
    let path = format!("/orders/{order}/events");
    // One address has only a quarter of these.
    let admin = format!("Authorization: Bearer {ADMIN_KEY}\r\n");
    let mut open = [server.events(&path, &admin).await, server.events(&path, &admin).await];
    let only = server.ask("GET", &path, &admin, "").await;
    assert_eq!((only.status, only.header("retry-after")), (200, Some("5")));
    assert!(only.text().starts_with("retry: 5000\nevent: order\n"), "{}", only.text());
    server.start_worker();
    for events in &mut open {
        while events.next().await.is_some() {}
    }
    server.events(&path, "").await;
}

#[tokio::test]
async fn stop_ends_streams_at_once() {
    let drain = Duration::from_secs(600);
    let limits = Limits { drain, ..Setup::default().limits };
    let server = TestServer::start_with(Setup { limits, ..Setup::default() }).await;
    let order = server.good_order().await;
    let mut events = server.events(&format!("/orders/{order}/events"), "").await;
    events.next().await.unwrap();
    server.stop.cancel();
    assert_eq!(events.next().await, None);
    timeout(PATIENCE, server.serving).await.expect("the streams end").unwrap();
}

/// Removes a queued order from the queue.
async fn remove_from_queue(server: &TestServer, order: &str) {
    let order_id = OrderId::parse(order).unwrap();
    let at = server.ports.clock.now();
    let letter = DeadLetter { order_id, reason: "test".to_owned(), body: String::new(), at };
    server.ports.queue.dead_letter(&[letter]).await.unwrap();
}

#[tokio::test]
async fn queued_order_has_position_and_wait() {
    let server = TestServer::start().await;
    let before = [server.good_order().await, server.good_order().await, server.good_order().await];
    server.buy("", r#"{"user_id":"ann","item_id":"another"}"#).await;
    let path = format!("/orders/{}", server.good_order().await);
    let mut events = server.events(&format!("{path}/events"), "").await;
    let shown = server.get(&path).await.json();
    assert_eq!((&shown["place"], &shown["estimated_wait_s"]), (&json!(4), &Value::Null));
    assert_eq!(events.next().await.unwrap().1["place"], 4);

    tokio::time::sleep(Duration::from_millis(1_100)).await;
    remove_from_queue(&server, &before[0]).await;
    remove_from_queue(&server, &before[1]).await;
    let shown = loop {
        let shown = events.next().await.unwrap().1;
        if shown["place"] == 2 {
            break shown;
        }
    };
    assert!(shown["estimated_wait_s"].as_u64() >= Some(1), "{shown}");
    server.start_worker();
    let mut last = shown;
    while let Some((_, order)) = events.next().await {
        last = order;
    }
    assert_eq!(last["status"], "rejected");
    assert!(last.get("place").is_none() && last.get("estimated_wait_s").is_none());
}
