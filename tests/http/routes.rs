use flux::core::model::OrderId;
use flux::core::ports::dead_letters::DeadLetter;
use flux::http::{AccessRules, Keys};
use serde_json::json;

use super::*;

#[tokio::test]
async fn an_order_is_answered_202_with_its_place() {
    let shop = Shop::open().await;
    let body = r#"{"user_id":"Zoë \"Z\"","item_id":"ticket_001","quantity":3}"#;
    let reply = shop.buy("", body).await;
    assert_eq!(reply.status, 202);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let answer = reply.json();
    let id = answer["order_id"].as_str().unwrap();
    assert_eq!(reply.header("location"), Some(format!("/orders/{id}").as_str()));
    let order = json!({ "user_id": "Zoë \"Z\"", "item_id": "ticket_001", "quantity": 3 });
    let expected = json!({
        "message": "Order received", "order_id": id, "status": "queued", "order": order,
    });
    assert_eq!(answer, expected);

    let shown = shop.get(&format!("/orders/{id}")).await.json();
    assert_eq!((&shown["status"], &shown["quantity"]), (&json!("queued"), &json!(3)));
    let accepted_at = shown["accepted_at"].as_str().unwrap();
    assert!(accepted_at.starts_with("20") && accepted_at.ends_with('Z'), "{accepted_at}");
    assert!(shown.get("decided_at").is_none() && shown.get("reason").is_none());
}

#[tokio::test]
async fn who_waits_is_answered_at_the_decision() {
    let shop = Shop::open().await;
    let (first, second) = (shop.good_order().await, shop.good_order().await);
    let begin = std::time::Instant::now();
    let path = format!("/orders/{second}?wait=30");
    let waiting = shop.get(&path);
    let hired = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        shop.hire();
    };
    let (reply, ()) = tokio::join!(waiting, hired);
    let waited = begin.elapsed();
    assert!(waited > Duration::from_millis(250) && waited < Duration::from_secs(10), "{waited:?}");
    let no = reply.json();
    assert_eq!((&no["status"], &no["reason"]), (&json!("rejected"), &json!("sold_out")));
    assert!(no["decided_at"].is_string());
    let yes = shop.get(&format!("/orders/{first}?wait=5")).await.json();
    assert_eq!((&yes["status"], yes.get("reason")), (&json!("sold"), None));

    let item = shop.get("/items/ticket_001").await.json();
    let sold = json!({
        "item_id": "ticket_001", "stock": 1, "free": 0, "held": 0, "sold": 1, "status": "sold_out",
        "unlisted": true,
    });
    assert_eq!(item, sold);
    let inventory = shop.get("/inventory").await;
    assert_eq!(inventory.json(), json!([{ "id": "ticket_001", "owner": "Zoë" }]));
}

#[tokio::test]
async fn a_wait_is_over_in_time() {
    let shop = Shop::open().await;
    let order = shop.good_order().await;
    let begin = std::time::Instant::now();
    let reply = shop.get(&format!("/orders/{order}?wait=1")).await;
    assert_eq!(reply.json()["status"], "queued");
    assert!(begin.elapsed() >= Duration::from_millis(900));
}

#[tokio::test]
async fn an_order_nobody_made_is_404_and_one_that_may_be_in_the_queue_is_queued() {
    let embedded = Shop::open().await;
    let aws = Shop::open_as(Setup { backend: "aws", ..Setup::default() }).await;
    let id = aws.ports.order_ids.generate(aws.ports.clock.now()).to_string();
    let known = json!({
        "order_id": id, "status": "queued", "place": null, "estimated_wait_s": null,
    });
    assert_eq!(aws.get(&format!("/orders/{id}")).await.json(), known);
    assert_eq!(aws.get(&format!("/orders/{id}?wait=1")).await.json(), known);
    for guess in ["0".repeat(32), "7".repeat(32), "x".to_owned(), id.to_uppercase()] {
        aws.get(&format!("/orders/{guess}")).await.problem(404);
    }
    let id = embedded.ports.order_ids.generate(embedded.ports.clock.now());
    embedded.get(&format!("/orders/{id}?wait=30")).await.problem(404);
}

#[tokio::test]
async fn stock_is_set_with_the_admin_key_only() {
    let shop = Shop::open().await;
    for headers in ["", "Authorization: Bearer the admin's kez\r\n", "Authorization: Bearer\r\n"] {
        let reply = shop.ask("PUT", "/items/a", headers, r#"{"stock":5}"#).await;
        reply.problem(401);
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
    }
    assert_eq!(shop.put_stock("a", 5).await.status, 201);
    let item = json!({
        "item_id": "a", "stock": 5, "free": 5, "held": 0, "sold": 0, "status": "open",
    });
    let again = shop.put_stock("a", 5).await;
    assert_eq!((again.status, again.json()), (200, item));
    assert_eq!(shop.put_stock("a", 9).await.json()["free"], 9);

    let admin = format!("Authorization: bearer {ADMIN_KEY}\r\n");
    for body in [
        "",
        "{}",
        "[5]",
        r#"{"stock":-1}"#,
        r#"{"stock":1.5}"#,
        r#"{"stock":"1"}"#,
        r#"{"stock":1,"stock":2}"#,
        r#"{"stock":1000000000001}"#,
    ] {
        shop.ask("PUT", "/items/a", &admin, body).await.problem(400);
    }
    shop.ask("PUT", "/items/a%20b", &admin, r#"{"stock":1}"#).await.problem(400);
    let text = format!("{admin}Content-Type: text/plain\r\n");
    shop.ask("PUT", "/items/a", &text, r#"{"stock":1}"#).await.problem(415);

    shop.buy("", r#"{"user_id":"ann","item_id":"a","quantity":4}"#).await;
    shop.hire();
    let order = shop.buy("", r#"{"user_id":"ann","item_id":"a","quantity":1}"#).await.json();
    let id = order["order_id"].as_str().unwrap();
    shop.get(&format!("/orders/{id}?wait=20")).await;
    assert!(shop.put_stock("a", 4).await.problem(409).contains('5'));

    let closed = Shop::open_as(Setup { admin_key: None, ..Setup::default() }).await;
    closed.put_stock("a", 5).await.problem(403);
    closed.get("/items/a").await.problem(404);
}

#[tokio::test]
async fn a_sale_is_closed_and_opened_again_with_the_admin_key_and_nobody_buys_meanwhile() {
    let shop = Shop::open().await;
    shop.hire();
    let put = |body: &'static str| {
        let admin = format!("Authorization: Bearer {ADMIN_KEY}\r\n");
        let shop = &shop;
        async move { shop.ask("PUT", "/items/a", &admin, body).await }
    };
    let buy = |user: &'static str, quantity: u64| {
        let order = json!({ "user_id": user, "item_id": "a", "quantity": quantity });
        let shop = &shop;
        async move {
            let id = shop.buy("", &order.to_string()).await.json()["order_id"].clone();
            let path = format!("/orders/{}?wait=20", id.as_str().unwrap());
            shop.get(&path).await.json()
        }
    };
    assert!(put(r#"{"status":"closed"}"#).await.problem(404).contains("stock"));
    for body in [r#"{"status":"shut"}"#, r#"{"status":null}"#, r#"{"status":"sold_out"}"#] {
        put(body).await.problem(400);
    }
    shop.ask("PUT", "/items/a", "", r#"{"status":"closed"}"#).await.problem(401);
    assert_eq!(put(r#"{"stock":3,"status":"open"}"#).await.status, 201);
    assert_eq!(buy("ann", 1).await["status"], "sold");
    let closed = put(r#"{"status":"closed"}"#).await;
    let item = json!({
        "item_id": "a", "stock": 3, "free": 2, "held": 0, "sold": 1, "status": "closed",
    });
    assert_eq!((closed.status, closed.json()), (200, item));
    let no = buy("bob", 1).await;
    assert_eq!((&no["status"], &no["reason"]), (&json!("rejected"), &json!("closed")));
    // More stock opens nothing, and neither does none.
    assert_eq!(put(r#"{"stock":9}"#).await.json()["status"], "closed");
    assert_eq!(buy("cid", 1).await["reason"], "closed");
    assert_eq!(put(r#"{"stock":1}"#).await.json()["status"], "closed");
    assert_eq!(buy("dan", 1).await["reason"], "closed");
    assert_eq!(put(r#"{"status":"open"}"#).await.json()["status"], "sold_out");
    assert_eq!(buy("eve", 1).await["reason"], "sold_out");
    assert_eq!(put(r#"{"stock":2,"status":"open"}"#).await.json()["status"], "open");
    assert_eq!(buy("fay", 1).await["status"], "sold");
    let first = shop.get(&format!("/orders/{}", no["order_id"].as_str().unwrap())).await.json();
    assert_eq!(first, no);
}

#[tokio::test]
async fn an_unlisted_item_is_404_when_only_listed_ones_are_sold() {
    let shop = Shop::open_as(Setup { unlisted_stock: Some(0), ..Setup::default() }).await;
    let order = r#"{"user_id":"ann","item_id":"a:1"}"#;
    shop.buy("", order).await.problem(404);
    // Ids in paths may be percent-encoded.
    assert_eq!(shop.put_stock("a%3A1", 2).await.json()["item_id"], "a:1");
    for _ in 0..2 {
        assert_eq!(shop.buy("", order).await.status, 202);
    }
    assert_eq!(shop.get("/items/a:1").await.json()["stock"], 2);
    assert_eq!(shop.get("/items/%61%3a1").await.json()["stock"], 2);
}

#[tokio::test]
async fn unlisted_items_are_sold_by_default_only_where_buying_takes_no_key() {
    let keyed =
        AccessRules { buy_keys: Keys::parse(&"a buy key".into()), ..AccessRules::default() };
    let keyed = Setup { unlisted_stock: None, access: keyed, ..Setup::default() };
    let shop = Shop::open_as(keyed).await;
    let order = r#"{"user_id":"ann","item_id":"Hall_A"}"#;
    let key = "Authorization: Bearer a buy key\r\n";
    let detail = shop.buy(key, order).await.problem(404);
    assert!(detail.contains("flux provision"), "{detail}");
    shop.put_stock("Hall_A", 1).await;
    assert_eq!(shop.buy(key, order).await.status, 202);
    let open = Shop::open_as(Setup { unlisted_stock: None, ..Setup::default() }).await;
    assert_eq!(open.buy("", order).await.status, 202);
}

#[tokio::test]
async fn invented_items_are_bounded_and_come_after_listed_ones() {
    let shop = Shop::open().await;
    shop.hire();
    shop.put_stock("zoo", 5).await;
    let buy = async |item: &str| {
        shop.buy("", &format!(r#"{{"user_id":"ann","item_id":"{item}"}}"#)).await
    };
    let buy = &buy;
    let buyers = (0..20).map(|buyer| async move {
        let mut accepted = 0;
        for n in 0..60 {
            accepted += usize::from(buy(&format!("invented-{buyer}-{n}")).await.status == 202);
        }
        accepted
    });
    let accepted: Vec<usize> = futures_util::future::join_all(buyers).await;
    assert_eq!(accepted.iter().sum::<usize>(), 1_000, "also of those that come at the same moment");
    let detail = buy("one-more").await.problem(404);
    assert!(detail.contains("list it with"), "{detail}");
    assert_eq!(buy("zoo").await.status, 202);
    let again = buy("invented-7-7").await.json();
    shop.get(&format!("/orders/{}?wait=20", again["order_id"].as_str().unwrap())).await;
    let page = shop.get("/items?limit=1").await.json();
    assert_eq!(page["items"][0]["item_id"], "zoo");
    assert_eq!(page["items"][0].get("unlisted"), None);
    let next = shop.get(&format!("/items?limit=1&after={}", page["next"].as_str().unwrap())).await;
    assert_eq!(next.json()["items"][0]["unlisted"], true);
    assert_eq!(shop.put_stock("one-more", 2).await.status, 201);
    assert_eq!(buy("one-more").await.status, 202);
}

#[tokio::test]
async fn an_item_without_orders_is_removed_and_listed_again() {
    let shop = Shop::open().await;
    shop.hire();
    let admin = format!("Authorization: Bearer {ADMIN_KEY}\r\n");
    let remove = async |item: &str| shop.ask("DELETE", &format!("/items/{item}"), &admin, "").await;
    shop.ask("DELETE", "/items/typo", "", "").await.problem(401);
    remove("typo").await.problem(404);
    shop.put_stock("typo", 3).await;
    for _ in 0..2 {
        assert_eq!(remove("typo").await.status, 204);
    }
    shop.get("/items/typo").await.problem(404);
    let order = r#"{"user_id":"ann","item_id":"typo"}"#;
    shop.buy("", order).await.problem(404);
    assert_eq!(shop.put_stock("typo", 2).await.status, 201);
    assert_eq!(shop.buy("", order).await.status, 202);
    let detail = remove("typo").await.problem(409);
    assert!(detail.contains("close its sale"), "{detail}");
}

#[tokio::test]
async fn items_come_in_pages() {
    let shop = Shop::open().await;
    for n in 0..5 {
        shop.put_stock(&format!("item:{n}"), n).await;
    }
    let (mut seen, mut path) = (Vec::new(), "/items?limit=2".to_owned());
    for _ in 0..10 {
        let page = shop.get(&path).await.json();
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 2);
        seen.extend(items.iter().map(|item| item["item_id"].as_str().unwrap().to_owned()));
        let Some(next) = page.get("next") else { break };
        let next = next.as_str().unwrap().replace(':', "%3A");
        path = format!("/items?limit=2&after={next}");
    }
    seen.sort();
    assert_eq!(seen, ["item:0", "item:1", "item:2", "item:3", "item:4"]);
}

#[tokio::test]
async fn head_answers_like_get_without_the_body() {
    let shop = Shop::open().await;
    let order = shop.good_order().await;
    let mut client = shop.connect().await;
    for path in ["/items", "/inventory", "/healthz", "/readyz", &format!("/orders/{order}")] {
        let get = client.ask("GET", path, "", b"").await;
        let head = client.ask("HEAD", path, "", b"").await;
        assert_eq!((get.status, head.status), (200, 200), "{path}");
        assert_eq!(head.header("content-length"), get.header("content-length"), "{path}");
    }
    assert_eq!(client.ask("HEAD", "/items/none", "", b"").await.status, 404);
    assert_eq!(client.ask("GET", "/healthz", "", b"").await.json(), json!({ "status": "ok" }));
}

#[tokio::test]
async fn stats_and_readiness_tell_about_this_process() {
    let shop = Shop::open().await;
    shop.good_order().await;
    let stats = shop.get("/stats").await.json();
    assert_eq!((&stats["backend"], &stats["accepted"]), (&json!("embedded"), &json!(1)));
    assert_eq!(stats["backlog"], json!({ "waiting": 1, "dead_letters": 0 }));
    assert!(stats["oldest_ms"].is_u64());
    assert_eq!((&stats["sold"], &stats["in_hand"]), (&json!(0), &json!(0)));
    assert!(stats["requests"].as_u64() >= Some(2) && stats["uptime_s"].is_u64());
    let ready = shop.get("/readyz").await.json();
    assert_eq!((&ready["status"], &ready["ledger"]), (&json!("ready"), &json!("ok")));
    assert_eq!((&ready["queue"], &ready["outcomes"]), (&json!("ok"), &json!("ok")));
    assert!(ready["lock"].as_str().unwrap().contains("continue without"));
}

#[tokio::test]
async fn a_dead_lettered_order_says_so() {
    let shop = Shop::open().await;
    let id = shop.good_order().await;
    let letter = DeadLetter {
        order_id: OrderId::parse(&id).unwrap(),
        reason: "test".to_owned(),
        body: String::new(),
        at: shop.ports.clock.now(),
    };
    shop.ports.queue.dead_letter(&[letter]).await.unwrap();
    let shown = shop.get(&format!("/orders/{id}?wait=30")).await.json();
    assert_eq!((&shown["order_id"], &shown["status"]), (&json!(id), &json!("dead_lettered")));
}

#[tokio::test]
async fn change_of_an_item_is_seen_by_whoever_asks_next() {
    let shop = Shop::open().await;
    for stock in 1..=5 {
        shop.put_stock("a", stock).await;
        for _ in 0..2 {
            assert_eq!(shop.get("/items/a").await.json()["stock"], stock);
            assert_eq!(shop.get("/items").await.json()["items"][0]["stock"], stock);
            assert_eq!(shop.get("/items?limit=1").await.json()["items"][0]["stock"], stock);
        }
    }
}
