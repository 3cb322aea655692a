use flux::core::model::OrderId;
use flux::core::ports::dead_letters::DeadLetter;
use flux::http::{AccessRules, Keys};
use serde_json::json;

use super::*;

#[tokio::test]
async fn order_is_a_202_with_its_location() {
    let server = TestServer::start().await;
    let body = r#"{"user_id":"Zoë \"Z\"","item_id":"ticket_001","quantity":3}"#;
    let reply = server.buy("", body).await;
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

    let shown = server.get(&format!("/orders/{id}")).await.json();
    assert_eq!((&shown["status"], &shown["quantity"]), (&json!("queued"), &json!(3)));
    let accepted_at = shown["accepted_at"].as_str().unwrap();
    assert!(accepted_at.starts_with("20") && accepted_at.ends_with('Z'), "{accepted_at}");
    assert!(shown.get("decided_at").is_none() && shown.get("reason").is_none());
}

#[tokio::test]
async fn wait_ends_at_the_decision() {
    let server = TestServer::start().await;
    let first = server.good_order().await;
    let second = server.good_order().await;
    let begin = std::time::Instant::now();
    let path = format!("/orders/{second}?wait=30");
    let waiting = server.get(&path);
    let hired = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.start_worker();
    };
    let (reply, ()) = tokio::join!(waiting, hired);
    let waited = begin.elapsed();
    assert!(waited > Duration::from_millis(250) && waited < Duration::from_secs(10), "{waited:?}");
    let no = reply.json();
    assert_eq!((&no["status"], &no["reason"]), (&json!("rejected"), &json!("sold_out")));
    assert!(no["decided_at"].is_string());
    let yes = server.get(&format!("/orders/{first}?wait=5")).await.json();
    assert_eq!((&yes["status"], yes.get("reason")), (&json!("sold"), None));

    let item = server.get("/items/ticket_001").await.json();
    let sold = json!({
        "item_id": "ticket_001", "stock": 1, "free": 0, "held": 0, "sold": 1, "status": "sold_out",
        "unlisted": true,
    });
    assert_eq!(item, sold);
    let inventory = server.get("/inventory").await;
    assert_eq!(inventory.json(), json!([{ "id": "ticket_001", "owner": "Zoë" }]));
}

#[tokio::test]
async fn wait_times_out() {
    let server = TestServer::start().await;
    let order = server.good_order().await;
    let begin = std::time::Instant::now();
    let reply = server.get(&format!("/orders/{order}?wait=1")).await;
    assert_eq!(reply.json()["status"], "queued");
    assert!(begin.elapsed() >= Duration::from_millis(900));
}

#[tokio::test]
async fn unknown_order_is_a_404_unless_it_may_be_queued() {
    let embedded = TestServer::start().await;
    let aws = TestServer::start_with(Setup { backend: "aws", ..Setup::default() }).await;
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
async fn setting_stock_requires_the_admin_key() {
    let server = TestServer::start().await;
    for headers in ["", "Authorization: Bearer the admin's kez\r\n", "Authorization: Bearer\r\n"] {
        let reply = server.ask("PUT", "/items/a", headers, r#"{"stock":5}"#).await;
        reply.problem(401);
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
    }
    assert_eq!(server.put_stock("a", 5).await.status, 201);
    let item = json!({
        "item_id": "a", "stock": 5, "free": 5, "held": 0, "sold": 0, "status": "open",
    });
    let again = server.put_stock("a", 5).await;
    assert_eq!((again.status, again.json()), (200, item));
    assert_eq!(server.put_stock("a", 9).await.json()["free"], 9);

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
        server.ask("PUT", "/items/a", &admin, body).await.problem(400);
    }
    server.ask("PUT", "/items/a%20b", &admin, r#"{"stock":1}"#).await.problem(400);
    let text = format!("{admin}Content-Type: text/plain\r\n");
    server.ask("PUT", "/items/a", &text, r#"{"stock":1}"#).await.problem(415);

    server.buy("", r#"{"user_id":"ann","item_id":"a","quantity":4}"#).await;
    server.start_worker();
    let order = server.buy("", r#"{"user_id":"ann","item_id":"a","quantity":1}"#).await.json();
    let id = order["order_id"].as_str().unwrap();
    server.get(&format!("/orders/{id}?wait=20")).await;
    assert!(server.put_stock("a", 4).await.problem(409).contains('5'));

    let closed = TestServer::start_with(Setup { admin_key: None, ..Setup::default() }).await;
    closed.put_stock("a", 5).await.problem(403);
    closed.get("/items/a").await.problem(404);
}

#[tokio::test]
async fn closed_sale_rejects_orders_until_reopened() {
    let server = TestServer::start().await;
    server.start_worker();
    let put = |body: &'static str| {
        let admin = format!("Authorization: Bearer {ADMIN_KEY}\r\n");
        let server = &server;
        async move { server.ask("PUT", "/items/a", &admin, body).await }
    };
    let buy = |user: &'static str, quantity: u64| {
        let order = json!({ "user_id": user, "item_id": "a", "quantity": quantity });
        let server = &server;
        async move {
            let id = server.buy("", &order.to_string()).await.json()["order_id"].clone();
            let path = format!("/orders/{}?wait=20", id.as_str().unwrap());
            server.get(&path).await.json()
        }
    };
    assert!(put(r#"{"status":"closed"}"#).await.problem(404).contains("stock"));
    for body in [r#"{"status":"shut"}"#, r#"{"status":null}"#, r#"{"status":"sold_out"}"#] {
        put(body).await.problem(400);
    }
    server.ask("PUT", "/items/a", "", r#"{"status":"closed"}"#).await.problem(401);
    assert_eq!(put(r#"{"stock":3,"status":"open"}"#).await.status, 201);
    assert_eq!(buy("ann", 1).await["status"], "sold");
    let closed = put(r#"{"status":"closed"}"#).await;
    let item = json!({
        "item_id": "a", "stock": 3, "free": 2, "held": 0, "sold": 1, "status": "closed",
    });
    assert_eq!((closed.status, closed.json()), (200, item));
    let no = buy("bob", 1).await;
    assert_eq!((&no["status"], &no["reason"]), (&json!("rejected"), &json!("closed")));
    // Neither more stock nor less reopens the sale.
    assert_eq!(put(r#"{"stock":9}"#).await.json()["status"], "closed");
    assert_eq!(buy("cid", 1).await["reason"], "closed");
    assert_eq!(put(r#"{"stock":1}"#).await.json()["status"], "closed");
    assert_eq!(buy("dan", 1).await["reason"], "closed");
    assert_eq!(put(r#"{"status":"open"}"#).await.json()["status"], "sold_out");
    assert_eq!(buy("eve", 1).await["reason"], "sold_out");
    assert_eq!(put(r#"{"stock":2,"status":"open"}"#).await.json()["status"], "open");
    assert_eq!(buy("fay", 1).await["status"], "sold");
    let first = server.get(&format!("/orders/{}", no["order_id"].as_str().unwrap())).await.json();
    assert_eq!(first, no);
}

#[tokio::test]
async fn unlisted_item_is_a_404() {
    let server =
        TestServer::start_with(Setup { unlisted_stock: Some(0), ..Setup::default() }).await;
    let order = r#"{"user_id":"ann","item_id":"a:1"}"#;
    server.buy("", order).await.problem(404);
    // Ids in paths can be percent-encoded.
    assert_eq!(server.put_stock("a%3A1", 2).await.json()["item_id"], "a:1");
    for _ in 0..2 {
        assert_eq!(server.buy("", order).await.status, 202);
    }
    assert_eq!(server.get("/items/a:1").await.json()["stock"], 2);
    assert_eq!(server.get("/items/%61%3a1").await.json()["stock"], 2);
}

#[tokio::test]
async fn unlisted_items_are_sold_only_without_keys() {
    let keyed =
        AccessRules { buy_keys: Keys::parse(&"a buy key".into()), ..AccessRules::default() };
    let keyed = Setup { unlisted_stock: None, access: keyed, ..Setup::default() };
    let server = TestServer::start_with(keyed).await;
    let order = r#"{"user_id":"ann","item_id":"Hall_A"}"#;
    let key = "Authorization: Bearer a buy key\r\n";
    let detail = server.buy(key, order).await.problem(404);
    assert!(detail.contains("flux provision"), "{detail}");
    server.put_stock("Hall_A", 1).await;
    assert_eq!(server.buy(key, order).await.status, 202);
    let open = TestServer::start_with(Setup { unlisted_stock: None, ..Setup::default() }).await;
    assert_eq!(open.buy("", order).await.status, 202);
}

#[tokio::test]
async fn unlisted_items_are_bounded_and_listed_last() {
    let server = TestServer::start().await;
    server.start_worker();
    server.put_stock("zoo", 5).await;
    let buy = async |item: &str| {
        server.buy("", &format!(r#"{{"user_id":"ann","item_id":"{item}"}}"#)).await
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
    assert_eq!(accepted.iter().sum::<usize>(), 1_000, "also among concurrent orders");
    let detail = buy("one-more").await.problem(404);
    assert!(detail.contains("list it with"), "{detail}");
    assert_eq!(buy("zoo").await.status, 202);
    let again = buy("invented-7-7").await.json();
    server.get(&format!("/orders/{}?wait=20", again["order_id"].as_str().unwrap())).await;
    let page = server.get("/items?limit=1").await.json();
    assert_eq!(page["items"][0]["item_id"], "zoo");
    assert_eq!(page["items"][0].get("unlisted"), None);
    let next =
        server.get(&format!("/items?limit=1&after={}", page["next"].as_str().unwrap())).await;
    assert_eq!(next.json()["items"][0]["unlisted"], true);
    assert_eq!(server.put_stock("one-more", 2).await.status, 201);
    assert_eq!(buy("one-more").await.status, 202);
}

#[tokio::test]
async fn item_without_orders_can_be_removed() {
    let server = TestServer::start().await;
    server.start_worker();
    let admin = format!("Authorization: Bearer {ADMIN_KEY}\r\n");
    let remove =
        async |item: &str| server.ask("DELETE", &format!("/items/{item}"), &admin, "").await;
    server.ask("DELETE", "/items/typo", "", "").await.problem(401);
    remove("typo").await.problem(404);
    server.put_stock("typo", 3).await;
    for _ in 0..2 {
        assert_eq!(remove("typo").await.status, 204);
    }
    server.get("/items/typo").await.problem(404);
    let order = r#"{"user_id":"ann","item_id":"typo"}"#;
    server.buy("", order).await.problem(404);
    assert_eq!(server.put_stock("typo", 2).await.status, 201);
    assert_eq!(server.buy("", order).await.status, 202);
    let detail = remove("typo").await.problem(409);
    assert!(detail.contains("close its sale"), "{detail}");
}

#[tokio::test]
async fn items_have_pages() {
    let server = TestServer::start().await;
    for n in 0..5 {
        server.put_stock(&format!("item:{n}"), n).await;
    }
    let mut listed = Vec::new();
    let mut path = "/items?limit=2".to_owned();
    for _ in 0..10 {
        let page = server.get(&path).await.json();
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 2);
        listed.extend(items.iter().map(|item| item["item_id"].as_str().unwrap().to_owned()));
        let Some(next) = page.get("next") else { break };
        let next = next.as_str().unwrap().replace(':', "%3A");
        path = format!("/items?limit=2&after={next}");
    }
    listed.sort();
    assert_eq!(listed, ["item:0", "item:1", "item:2", "item:3", "item:4"]);
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let server = TestServer::start().await;
    let order = server.good_order().await;
    let mut client = server.connect().await;
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
async fn stats_and_readiness_report_this_process() {
    let server = TestServer::start().await;
    server.good_order().await;
    let stats = server.get("/stats").await.json();
    assert_eq!((&stats["backend"], &stats["accepted"]), (&json!("embedded"), &json!(1)));
    assert_eq!(stats["backlog"], json!({ "waiting": 1, "dead_letters": 0 }));
    assert!(stats["oldest_ms"].is_u64());
    assert_eq!((&stats["sold"], &stats["in_hand"]), (&json!(0), &json!(0)));
    assert!(stats["requests"].as_u64() >= Some(2) && stats["uptime_s"].is_u64());
    let ready = server.get("/readyz").await.json();
    assert_eq!((&ready["status"], &ready["ledger"]), (&json!("ready"), &json!("ok")));
    assert_eq!((&ready["queue"], &ready["outcomes"]), (&json!("ok"), &json!("ok")));
    assert!(ready["lock"].as_str().unwrap().contains("continue without"));
}

#[tokio::test]
async fn dead_lettered_order_has_its_status() {
    let server = TestServer::start().await;
    let id = server.good_order().await;
    let letter = DeadLetter {
        order_id: OrderId::parse(&id).unwrap(),
        reason: "test".to_owned(),
        body: String::new(),
        at: server.ports.clock.now(),
    };
    server.ports.queue.dead_letter(&[letter]).await.unwrap();
    let shown = server.get(&format!("/orders/{id}?wait=30")).await.json();
    assert_eq!((&shown["order_id"], &shown["status"]), (&json!(id), &json!("dead_lettered")));
}

#[tokio::test]
async fn item_change_clears_cached_reads() {
    let server = TestServer::start().await;
    for stock in 1..=5 {
        server.put_stock("a", stock).await;
        for _ in 0..2 {
            assert_eq!(server.get("/items/a").await.json()["stock"], stock);
            assert_eq!(server.get("/items").await.json()["items"][0]["stock"], stock);
            assert_eq!(server.get("/items?limit=1").await.json()["items"][0]["stock"], stock);
        }
    }
}
