//! What a buyer sees of an order between the 202 and its end.

use serde_json::json;

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
    let mut open = [shop.events(&path, "").await, shop.events(&path, "").await];
    let refused = shop.get(&path).await;
    refused.problem(503);
    assert_eq!(refused.header("retry-after"), Some("1"));
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
