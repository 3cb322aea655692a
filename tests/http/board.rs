//! What those see who watch the sale.

use flux::core::model::OrderId;
use flux::core::ports::dead_letters::DeadLetter;
use flux::http::{AccessRules, Keys};
use serde_json::{Value, json};

use super::*;

/// The first board that is as wanted.
async fn board(events: &mut Events, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let seen = timeout(PATIENCE, async {
        loop {
            let (name, board) = events.next().await.expect("the stream goes on");
            assert_eq!(name, "board");
            if wanted(&board) {
                return board;
            }
            last = board;
        }
    });
    seen.await.unwrap_or_else(|_| panic!("never as wanted: {last}"))
}

#[tokio::test]
async fn who_watches_sees_what_became_of_the_orders_and_who_decides_them() {
    let shop = Shop::open().await;
    let mut events = shop.events("/events", "").await;
    let (name, history) = events.next().await.unwrap();
    assert_eq!(name, "history");
    assert!(history["points"].is_array());
    let (first, second) = (shop.good_order().await, shop.good_order().await);
    shop.hire();
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
    let item = shop.get("/items/ticket_001").await.json();
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
            shop.get(&format!("/orders/{}", one["order_id"].as_str().unwrap())).await.json();
        assert_eq!((&one["status"], &one["reason"]), (&order["status"], &order["reason"]));
        assert_eq!(one["decided_at"], order["decided_at"]);
    }

    let later = shop.events("/events", "").await.next().await.unwrap().1;
    let newest = later["points"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(newest["waiting"], 0);
    assert!(newest["at_ms"].as_u64() >= seen["at_ms"].as_u64());
}

#[tokio::test]
async fn who_bought_is_shown_to_the_admin_and_to_anybody_where_buying_takes_no_key() {
    let keys = |key: &str| Keys::parse(&key.into());
    let bearer = |key: &str| format!("Authorization: Bearer {key}\r\n");
    for (buy_keys, headers, shown) in [
        (keys("a shop"), bearer("a shop"), Value::Null),
        (keys("a shop"), bearer(ADMIN_KEY), json!("Zoë")),
        (Keys::default(), String::new(), json!("Zoë")),
    ] {
        let access = AccessRules { buy_keys, ..AccessRules::default() };
        let shop = Shop::open_as(Setup { access, ..Setup::default() }).await;
        shop.hire();
        let order = r#"{"user_id":"Zoë","item_id":"ticket_001"}"#;
        assert_eq!(shop.buy(&headers, order).await.status, 202);
        let mut events = shop.events("/events", &headers).await;
        assert_eq!(events.next().await.unwrap().0, "history");
        let seen = board(&mut events, |board| board["last"] != json!([])).await;
        assert_eq!(seen["last"][0]["user_id"], shown);
    }
}

#[tokio::test]
async fn a_stream_shows_names_by_the_keys_of_now() {
    let keys = |key: &str| Keys::parse(&key.into());
    let rules = |admin: &str, buy: Option<&str>| AccessRules {
        admin_keys: keys(admin),
        buy_keys: buy.map(keys).unwrap_or_default(),
        ..AccessRules::default()
    };
    let shop = Shop::open().await;
    shop.hire();
    shop.good_order().await;
    let of = |key: &str| format!("Authorization: Bearer {key}\r\n");
    let mut admins = shop.events("/events", &of(ADMIN_KEY)).await;
    let mut public = shop.events("/events", "").await;
    let named = |board: &Value| board["last"][0]["user_id"] == "Zoë";
    let nameless = |board: &Value| board["last"] != json!([]) && !named(board);
    for events in [&mut admins, &mut public] {
        assert_eq!(events.next().await.unwrap().0, "history");
        board(events, named).await;
    }
    // Buying takes a key from now on.
    shop.access.replace(rules(ADMIN_KEY, Some("a shop")));
    board(&mut public, nameless).await;
    board(&mut admins, named).await;
    // The admin's key is withdrawn; what was sent before the change may still be on its way.
    shop.access.replace(rules("another key", Some("a shop")));
    board(&mut admins, nameless).await;
    for _ in 0..2 {
        let (_, seen) = admins.next().await.unwrap();
        assert!(nameless(&seen), "{seen}");
    }
}

#[tokio::test]
async fn what_waits_and_what_is_dead_is_shown_with_its_age_and_its_reason() {
    let shop = Shop::open().await;
    let (dead, _waiting) = (shop.good_order().await, shop.good_order().await);
    let letter = DeadLetter {
        order_id: OrderId::parse(&dead).unwrap(),
        reason: "test".to_owned(),
        body: String::new(),
        at: shop.ports.clock.now(),
    };
    shop.ports.queue.dead_letter(&[letter]).await.unwrap();
    let mut events = shop.events("/events", "").await;
    events.next().await.unwrap();
    let seen = board(&mut events, |board| board["backlog"]["oldest_ms"].as_u64() > Some(0)).await;
    assert_eq!((&seen["backlog"]["waiting"], &seen["workers"]), (&json!(1), &json!([])));
    let letter = &seen["dead_letters"][0];
    assert_eq!((&letter["order_id"], &letter["reason"]), (&json!(dead), &json!("test")));
    let oldest = seen["backlog"]["oldest_ms"].as_u64();
    board(&mut events, |board| board["backlog"]["oldest_ms"].as_u64() > oldest).await;
}

#[tokio::test]
async fn a_stop_ends_what_they_see_at_once() {
    let drain = Duration::from_secs(600);
    let limits = Limits { drain, ..Setup::default().limits };
    let shop = Shop::open_as(Setup { limits, ..Setup::default() }).await;
    let mut events = shop.events("/events", "").await;
    events.next().await.unwrap();
    shop.stop.cancel();
    while events.next().await.is_some() {}
    timeout(PATIENCE, shop.serving).await.expect("nothing holds it up").unwrap();
}

#[tokio::test]
async fn stores_that_are_paid_by_the_request_are_asked_only_while_somebody_watches() {
    let shop = Shop::open_as(Setup { backend: "aws", ..Setup::default() }).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let mut events = shop.events("/events", "").await;
    let (_, history) = events.next().await.unwrap();
    let points = history["points"].as_array().unwrap();
    assert!(points.iter().all(|point| point["waiting"] == Value::Null), "{points:?}");
    board(&mut events, |board| board["backlog"]["waiting"] == 0).await;
}
