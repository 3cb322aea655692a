//! The feed of the dashboard.

use flux::core::model::OrderId;
use flux::core::ports::dead_letters::DeadLetter;
use flux::http::{AccessRules, Keys};
use serde_json::{Value, json};

use super::*;

/// The first `board` event that satisfies `wanted`.
async fn board(events: &mut Events, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let found = timeout(PATIENCE, async {
        loop {
            let (name, board) = events.next().await.expect("the stream continues");
            assert_eq!(name, "board");
            if wanted(&board) {
                return board;
            }
            last = board;
        }
    });
    found.await.unwrap_or_else(|_| panic!("no such event; the last was {last}"))
}

#[tokio::test]
async fn feed_has_decisions_and_workers() {
    let server = TestServer::start().await;
    let mut events = server.events("/events", "").await;
    let (name, history) = events.next().await.unwrap();
    assert_eq!(name, "history");
    assert!(history["points"].is_array());
    let first = server.good_order().await;
    let second = server.good_order().await;
    server.start_worker();
    let seen = board(&mut events, |board| {
        board["decided"] == 2 && board["last"].as_array().is_some_and(|last| last.len() == 2)
    })
    .await;
    assert_eq!((&seen["backend"], &seen["accepted"]), (&json!("embedded"), &json!(2)));
    assert_eq!(
        (&seen["sold"], &seen["rejected"], &seen["expired"]),
        (&json!(1), &json!(1), &json!(0))
    );
    assert_eq!(seen["rejected_by_reason"], json!({ "sold_out": 1 }));
    assert_eq!(seen["backlog"], json!({ "waiting": 0, "oldest_ms": null, "dead_letters": 0 }));
    let item = server.get("/items/ticket_001").await.json();
    assert_eq!((&seen["items"], &seen["items_more"]), (&json!([item]), &json!(false)));
    assert_eq!((&seen["oversold_units"], &seen["stranded_units"]), (&json!(0), &json!(0)));
    let worker = &seen["workers"][0];
    assert_eq!((&worker["kind"], &worker["concurrency"]), (&json!("work"), &json!(4)));
    assert_eq!(worker["pid"], std::process::id());
    let last = seen["last"].as_array().unwrap();
    let mut ids: Vec<&str> = last.iter().map(|one| one["order_id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    let mut both = [&*first, &*second];
    both.sort_unstable();
    assert_eq!(ids, both);
    for one in last {
        let order =
            server.get(&format!("/orders/{}", one["order_id"].as_str().unwrap())).await.json();
        assert_eq!((&one["status"], &one["reason"]), (&order["status"], &order["reason"]));
        assert_eq!(one["decided_at"], order["decided_at"]);
    }

    let later = server.events("/events", "").await.next().await.unwrap().1;
    let newest = later["points"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(newest["waiting"], 0);
    assert!(newest["at_ms"].as_u64() >= seen["at_ms"].as_u64());
}

#[tokio::test]
async fn names_require_the_admin_key_if_keys_are_on() {
    let keys = |key: &str| Keys::parse(&key.into());
    let bearer = |key: &str| format!("Authorization: Bearer {key}\r\n");
    for (buy_keys, headers, shown) in [
        (keys("a shop"), bearer("a shop"), Value::Null),
        (keys("a shop"), bearer(ADMIN_KEY), json!("Zoë")),
        (Keys::default(), String::new(), json!("Zoë")),
    ] {
        let access = AccessRules { buy_keys, ..AccessRules::default() };
        let server = TestServer::start_with(Setup { access, ..Setup::default() }).await;
        server.start_worker();
        let order = r#"{"user_id":"Zoë","item_id":"ticket_001"}"#;
        assert_eq!(server.buy(&headers, order).await.status, 202);
        let mut events = server.events("/events", &headers).await;
        assert_eq!(events.next().await.unwrap().0, "history");
        let seen = board(&mut events, |board| board["last"] != json!([])).await;
        assert_eq!(seen["last"][0]["user_id"], shown);
    }
}

#[tokio::test]
async fn withdrawn_key_hides_names_on_open_streams() {
    let keys = |key: &str| Keys::parse(&key.into());
    let rules = |admin: &str, buy: Option<&str>| AccessRules {
        admin_keys: keys(admin),
        buy_keys: buy.map(keys).unwrap_or_default(),
        ..AccessRules::default()
    };
    let server = TestServer::start().await;
    server.start_worker();
    server.good_order().await;
    let of = |key: &str| format!("Authorization: Bearer {key}\r\n");
    let mut admins = server.events("/events", &of(ADMIN_KEY)).await;
    let mut public = server.events("/events", "").await;
    let named = |board: &Value| board["last"][0]["user_id"] == "Zoë";
    let nameless = |board: &Value| board["last"] != json!([]) && !named(board);
    for events in [&mut admins, &mut public] {
        assert_eq!(events.next().await.unwrap().0, "history");
        board(events, named).await;
    }
    // From here on buying requires a key.
    server.access.replace(rules(ADMIN_KEY, Some("a shop")));
    board(&mut public, nameless).await;
    board(&mut admins, named).await;
    // The admin key is withdrawn; events from before the change may still arrive.
    server.access.replace(rules("another key", Some("a shop")));
    board(&mut admins, nameless).await;
    for _ in 0..2 {
        let (_, seen) = admins.next().await.unwrap();
        assert!(nameless(&seen), "{seen}");
    }
}

#[tokio::test]
async fn feed_has_backlog_age_and_dead_letters() {
    let server = TestServer::start().await;
    let dead = server.good_order().await;
    let _waiting = server.good_order().await;
    let letter = DeadLetter {
        order_id: OrderId::parse(&dead).unwrap(),
        reason: "test".to_owned(),
        body: String::new(),
        at: server.ports.clock.now(),
    };
    server.ports.queue.dead_letter(&[letter]).await.unwrap();
    let mut events = server.events("/events", "").await;
    events.next().await.unwrap();
    let seen = board(&mut events, |board| board["backlog"]["oldest_ms"].as_u64() > Some(0)).await;
    assert_eq!((&seen["backlog"]["waiting"], &seen["workers"]), (&json!(1), &json!([])));
    let letter = &seen["dead_letters"][0];
    assert_eq!((&letter["order_id"], &letter["reason"]), (&json!(dead), &json!("test")));
    let oldest = seen["backlog"]["oldest_ms"].as_u64();
    board(&mut events, |board| board["backlog"]["oldest_ms"].as_u64() > oldest).await;
}

#[tokio::test]
async fn stop_ends_feeds_at_once() {
    let drain = Duration::from_secs(600);
    let limits = Limits { drain, ..Setup::default().limits };
    let server = TestServer::start_with(Setup { limits, ..Setup::default() }).await;
    let mut events = server.events("/events", "").await;
    events.next().await.unwrap();
    server.stop.cancel();
    while events.next().await.is_some() {}
    timeout(PATIENCE, server.serving).await.expect("the streams end").unwrap();
}

#[tokio::test]
async fn paid_stores_are_read_only_while_watched() {
    let server = TestServer::start_with(Setup { backend: "aws", ..Setup::default() }).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let mut events = server.events("/events", "").await;
    let (_, history) = events.next().await.unwrap();
    let points = history["points"].as_array().unwrap();
    assert!(points.iter().all(|point| point["waiting"] == Value::Null), "{points:?}");
    board(&mut events, |board| board["backlog"]["waiting"] == 0).await;
}
