//! Who may do what.

use flux::http::{AccessRules, Keys};
use serde_json::json;

use super::*;

const ANNS: &str = r#"{"user_id":"ann","item_id":"ticket_001"}"#;

fn keys(keys: &str) -> Keys {
    Keys::parse(&keys.into())
}

fn bearing(key: &str) -> String {
    format!("Authorization: Bearer {key}\r\n")
}

/// Where buying takes one of two keys.
async fn shop_with_keys() -> Shop {
    let access = AccessRules { buy_keys: keys("old key, new key"), ..AccessRules::default() };
    Shop::open_as(Setup { access, ..Setup::default() }).await
}

#[tokio::test]
async fn with_a_buy_key_only_its_holder_and_the_admin_buy_and_for_anybody() {
    let shop = shop_with_keys().await;
    for key in ["old key", "new key", ADMIN_KEY] {
        assert_eq!(shop.buy(&bearing(key), ANNS).await.status, 202, "{key}");
    }
    for headers in ["", "Authorization: Basic b2xkIGtleQ==\r\n"] {
        let reply = shop.buy(headers, ANNS).await;
        assert!(reply.problem(401).contains("Authorization: Bearer"));
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
    }
    for wrong in ["old key, new key", "old kez", "old ke", "old key2", ","] {
        shop.buy(&bearing(wrong), ANNS).await.problem(401);
    }
    assert_eq!(shop.get("/stats").await.json()["accepted"], 3);
}

#[tokio::test]
async fn with_keys_an_order_is_shown_to_who_may_see_it_and_to_others_it_does_not_exist() {
    let shop = shop_with_keys().await;
    let order = shop.buy(&bearing("new key"), ANNS).await.json();
    let path = format!("/orders/{}", order["order_id"].as_str().unwrap());
    for key in ["old key", ADMIN_KEY] {
        assert_eq!(shop.ask("GET", &path, &bearing(key), "").await.json()["user_id"], "ann");
    }
    let none = shop.get(&format!("/orders/{}?wait=1", "0".repeat(32))).await;
    for headers in [String::new(), bearing("wrong")] {
        let hidden = shop.ask("GET", &format!("{path}?wait=1"), &headers, "").await;
        assert_eq!((hidden.problem(404), &hidden.body), (none.problem(404), &none.body));
        shop.ask("GET", &format!("{path}/events"), &headers, "").await.problem(404);
    }
}

#[tokio::test]
async fn with_keys_owners_are_shown_to_the_admin_only_and_items_to_all() {
    let shop = shop_with_keys().await;
    let order = shop.buy(&bearing("new key"), ANNS).await.json();
    shop.hire();
    let path = format!("/orders/{}?wait=20", order["order_id"].as_str().unwrap());
    shop.ask("GET", &path, &bearing("new key"), "").await;
    shop.get("/inventory").await.problem(401);
    shop.ask("GET", "/inventory", &bearing("new key"), "").await.problem(403);
    let owners = shop.ask("GET", "/inventory", &bearing(ADMIN_KEY), "").await.json();
    assert_eq!(owners, json!([{ "id": "ticket_001", "owner": "ann" }]));
    assert_eq!(shop.get("/items/ticket_001").await.json()["sold"], 1);
    assert_eq!(shop.get("/items").await.status, 200);
    // The buy key is not the admin's.
    let stock = r#"{"stock":5}"#;
    shop.ask("PUT", "/items/a", &bearing("new key"), stock).await.problem(403);
    assert_eq!(shop.ask("PUT", "/items/a", &bearing(ADMIN_KEY), stock).await.status, 201);
}

#[tokio::test]
async fn an_answer_in_json_is_taken_for_nothing_else() {
    let shop = Shop::open().await;
    for reply in [shop.get("/stats").await, shop.buy("", ANNS).await, shop.get("/none").await] {
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{}", reply.head);
    }
}
