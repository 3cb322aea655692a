//! What a buyer sees of an order between the 202 and its end.

use flux::core::model::OrderId;
use flux::core::ports::dead_letters::DeadLetter;
use serde_json::{Value, json};

use super::*;

fn two_streams() -> Setup {
    let limits = Limits { connections: 4, ..Setup::default().limits };
    Setup { limits, ..Setup::default() }
}

#[tokio::test]
async fn who_follows_an_order_is_told_of_each_change_up_to_the_end() {
    let shop = Shop::open().await;
    let (_first, second) = (shop.good_order().await, shop.good_order().await);
    let path = format!("/orders/{second}/events");
    let mut events = shop.events(&path, "").await;
    let (name, queued) = events.next().await.unwrap();
    assert_eq!((name.as_str(), &queued["status"]), ("order", &json!("queued")));
    assert_eq!(queued, shop.get(&format!("/orders/{second}")).await.json());

    shop.hire();
    let mut last = queued;
    while let Some((_, order)) = events.next().await {
        assert_ne!(order, last);
        last = order;
    }
    assert_eq!((&last["status"], &last["reason"]), (&json!("rejected"), &json!("sold_out")));
    assert_eq!(last, shop.get(&format!("/orders/{second}")).await.json());

    // Who comes late is told the end; who has heard it already need not come again.
    let late = shop.events(&path, "Last-Event-ID: begin\r\n").await.next().await;
    assert_eq!(late, Some(("order".to_owned(), last)));
    assert_eq!(shop.ask("HEAD", &path, "", "").await.status, 200);
    let mut client = shop.connect().await;
    client.send(format!("GET {path} HTTP/1.1\r\nLast-Event-ID: end\r\n\r\n")).await;
    assert_eq!(client.reply(true).await.unwrap().status, 204);
}

#[tokio::test]
async fn an_order_nobody_made_cannot_be_followed() {
    let shop = Shop::open().await;
    for id in ["0".repeat(32), "x".to_owned()] {
        shop.get(&format!("/orders/{id}/events")).await.problem(404);
    }
    let order = shop.good_order().await;
    let path = format!("/orders/{order}/events");
    let refused = shop.ask("POST", &path, "", "").await;
    refused.problem(405);
    assert_eq!(refused.header("allow"), Some("GET, HEAD"));
    let head = shop.ask("HEAD", &path, "", "").await;
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
}

#[tokio::test]
async fn those_who_follow_leave_half_of_the_connections_to_buyers() {
    let shop = Shop::open_as(two_streams()).await;
    let order = shop.good_order().await;
    let path = format!("/orders/{order}/events");
    // One address has less than all of that.
    let admin = format!("Authorization: Bearer {ADMIN_KEY}\r\n");
    let mut open = [shop.events(&path, &admin).await, shop.events(&path, &admin).await];
    let only = shop.ask("GET", &path, &admin, "").await;
    assert_eq!((only.status, only.header("retry-after")), (200, Some("5")));
    assert!(only.text().starts_with("retry: 5000\nevent: order\n"), "{}", only.text());
    shop.hire();
    for events in &mut open {
        while events.next().await.is_some() {}
    }
    shop.events(&path, "").await;
}

#[tokio::test]
async fn a_stop_ends_the_streams_at_once() {
    let drain = Duration::from_secs(600);
    let limits = Limits { drain, ..Setup::default().limits };
    let shop = Shop::open_as(Setup { limits, ..Setup::default() }).await;
    let order = shop.good_order().await;
    let mut events = shop.events(&format!("/orders/{order}/events"), "").await;
    events.next().await.unwrap();
    shop.stop.cancel();
    assert_eq!(events.next().await, None);
    timeout(PATIENCE, shop.serving).await.expect("nothing holds it up").unwrap();
}

/// Takes a queued order out of its line.
async fn disable(shop: &Shop, order: &str) {
    let (order_id, at) = (OrderId::parse(order).unwrap(), shop.ports.clock.now());
    let letter = DeadLetter { order_id, reason: "test".to_owned(), body: String::new(), at };
    shop.ports.queue.dead_letter(&[letter]).await.unwrap();
}

#[tokio::test]
async fn a_queued_order_has_its_place_in_its_items_line_and_a_wait_once_the_line_moves() {
    let shop = Shop::open().await;
    let before = [shop.good_order().await, shop.good_order().await, shop.good_order().await];
    shop.buy("", r#"{"user_id":"ann","item_id":"another"}"#).await;
    let path = format!("/orders/{}", shop.good_order().await);
    let mut events = shop.events(&format!("{path}/events"), "").await;
    let shown = shop.get(&path).await.json();
    assert_eq!((&shown["place"], &shown["estimated_wait_s"]), (&json!(4), &Value::Null));
    assert_eq!(events.next().await.unwrap().1["place"], 4);

    tokio::time::sleep(Duration::from_millis(1_100)).await;
    disable(&shop, &before[0]).await;
    disable(&shop, &before[1]).await;
    let shown = loop {
        let shown = events.next().await.unwrap().1;
        if shown["place"] == 2 {
            break shown;
        }
    };
    assert!(shown["estimated_wait_s"].as_u64() >= Some(1), "{shown}");
    shop.hire();
    let mut last = shown;
    while let Some((_, order)) = events.next().await {
        last = order;
    }
    assert_eq!(last["status"], "rejected");
    assert!(last.get("place").is_none() && last.get("estimated_wait_s").is_none());
}
