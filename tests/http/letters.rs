//! Dead letters over HTTP, for the admin.

use flux::core::model::{OrderId, Timestamp};
use flux::core::ports::dead_letters::DeadLetter;
use serde_json::{Value, json};

use super::*;

async fn dead_letter(server: &TestServer, count: u32) -> Vec<OrderId> {
    let letters: Vec<DeadLetter> = (0..count)
        .map(|n| DeadLetter {
            order_id: server.ports.order_ids.from_message("a message", n as usize),
            reason: format!("it is {}", if n % 2 == 0 { "even" } else { "odd" }),
            body: json!({"user_id": format!("user{n}"), "item_id": "hall"}).to_string(),
            at: Timestamp(1_700_000_000_000 + u64::from(n)),
        })
        .collect();
    server.ports.queue.dead_letter(&letters).await.unwrap();
    letters.iter().map(|letter| letter.order_id).collect()
}

fn admin() -> String {
    format!("Authorization: Bearer {ADMIN_KEY}\r\n")
}

async fn list(server: &TestServer, query: &str) -> Value {
    let reply = server.ask("GET", &format!("/dead-letters{query}"), &admin(), "").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

async fn post(server: &TestServer, what: &str, body: Value) -> Value {
    let path = format!("/dead-letters/{what}");
    let reply = server.ask("POST", &path, &admin(), body.to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

fn ids(page: &Value) -> Vec<&str> {
    let letters = page["dead_letters"].as_array().unwrap();
    letters.iter().map(|letter| letter["order_id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn letters_come_in_pages_and_by_reason_to_the_admin_alone() {
    let server = TestServer::start().await;
    let orders: Vec<String> =
        dead_letter(&server, 7).await.iter().map(OrderId::to_string).collect();
    for (method, path) in [
        ("GET", "/dead-letters"),
        ("POST", "/dead-letters/redrive"),
        ("POST", "/dead-letters/drop"),
    ] {
        server.ask(method, path, "", r#"{"all":true}"#).await.problem(401);
    }
    let first = list(&server, "?limit=3").await;
    let shown = json!({
        "order_id": orders[0], "reason": "it is even", "at": "2023-11-14T22:13:20.000Z",
        "body": r#"{"item_id":"hall","user_id":"user0"}"#,
    });
    assert_eq!(first["dead_letters"][0], shown);
    let (mut seen, mut page) = (Vec::new(), first);
    loop {
        seen.extend(ids(&page).into_iter().map(str::to_owned));
        let Some(next) = page.get("next").and_then(Value::as_str) else { break };
        page = list(&server, &format!("?limit=3&after={next}")).await;
    }
    assert_eq!(seen, orders);
    let odd = list(&server, "?reason=is%20odd&limit=2").await;
    assert_eq!(ids(&odd), [&orders[1], &orders[3]]);
    let next = odd["next"].as_str().unwrap();
    let rest = list(&server, &format!("?reason=is%20odd&limit=2&after={next}")).await;
    assert_eq!((ids(&rest), rest.get("next")), (vec![orders[5].as_str()], None));
    for query in ["?limit=0", "?limit=1001", "?after=7", "?reason=%ff"] {
        server.ask("GET", &format!("/dead-letters{query}"), &admin(), "").await.problem(400);
    }
}

#[tokio::test]
async fn letters_are_sent_again_or_dropped_and_each_is_told_of() {
    let server = TestServer::start().await;
    server.put_stock("hall", 2).await;
    let orders = dead_letter(&server, 6).await;
    let dry = post(&server, "redrive", json!({"all": true, "dry_run": true})).await;
    assert_eq!(
        (dry["dry_run"].as_bool(), ids(&dry).len(), &dry["left"]),
        (Some(true), 6, &json!(6))
    );
    let nobody = server.ports.order_ids.from_message("another message", 0);
    let done = post(&server, "redrive", json!({"order_ids": [orders[0], nobody]})).await;
    let expected = json!([
        {"order_id": orders[0], "became": "sent_again"}, {"order_id": nobody, "became": "gone"},
    ]);
    assert_eq!((&done["dead_letters"], &done["left"]), (&expected, &json!(5)));
    assert_eq!(done["more"], false);
    let again = post(&server, "redrive", json!({"order_ids": [orders[0]]})).await;
    assert_eq!(again["dead_letters"][0]["became"], "gone");

    server.start_worker();
    server.get(&format!("/orders/{}?wait=20", orders[0])).await;
    let letter = DeadLetter {
        order_id: orders[0],
        reason: "received too often".to_owned(),
        body: "who knows".to_owned(),
        at: Timestamp(1_700_000_000_500),
    };
    let poison = DeadLetter { order_id: nobody, ..letter.clone() };
    server.ports.queue.dead_letter(&[letter, poison]).await.unwrap();
    let done = post(&server, "redrive", json!({"all": true, "reason": "too often"})).await;
    let fates = done["dead_letters"].as_array().unwrap();
    let of = |id: OrderId| fates.iter().find(|fate| fate["order_id"] == json!(id)).unwrap();
    assert_eq!(of(orders[0])["became"], "already_decided");
    assert_eq!(of(nobody)["became"], "kept");
    assert!(of(nobody)["why"].as_str().unwrap().contains("not an order"), "{done}");

    let done = post(&server, "drop", json!({"all": true, "reason": "even"})).await;
    assert_eq!((ids(&done).len(), &done["left"]), (2, &json!(4)));
    let done = post(&server, "drop", json!({"order_ids": orders})).await;
    assert_eq!(
        done["dead_letters"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|f| f["became"] == "dropped")
            .count(),
        3
    );
    assert_eq!(ids(&list(&server, "").await), [nobody.to_string()]);
}

#[tokio::test]
async fn what_is_meant_must_be_said() {
    let server = TestServer::start().await;
    dead_letter(&server, 1).await;
    let many = json!({"order_ids": vec![OrderId::from_bytes([7; 16]); 1_001]}).to_string();
    for body in [
        "",
        "{}",
        "[]",
        r#"{"all":false}"#,
        r#"{"reason":"even"}"#,
        r#"{"order_ids":["x"]}"#,
        r#"{"order_ids":[],"all":true}"#,
        r#"{"all":true,"dryrun":true}"#,
        &many,
    ] {
        for what in ["redrive", "drop"] {
            server.ask("POST", &format!("/dead-letters/{what}"), &admin(), body).await.problem(400);
        }
    }
    server.ask("GET", "/dead-letters/drop", &admin(), "").await.problem(405);
    let most = json!({"order_ids": vec![OrderId::from_bytes([7; 16]); 1_000]});
    post(&server, "drop", most).await;
    assert_eq!(ids(&list(&server, "").await).len(), 1);
}

#[tokio::test]
async fn buyer_of_a_dropped_order_is_told_so_whenever_asked() {
    let server = TestServer::start().await;
    let key = "Idempotency-Key: click-1\r\n";
    let body = r#"{"user_id":"ann","item_id":"hall"}"#;
    server.put_stock("hall", 2).await;
    let id = server.buy(key, body).await.json()["order_id"].as_str().unwrap().to_owned();
    let letter = DeadLetter {
        order_id: OrderId::parse(&id).unwrap(),
        reason: "received too often".to_owned(),
        body: body.to_owned(),
        at: Timestamp(1_700_000_000_000),
    };
    server.ports.queue.dead_letter(&[letter]).await.unwrap();
    let path = format!("/orders/{id}");
    assert_eq!(server.get(&path).await.json()["status"], "dead_lettered");
    let done = post(&server, "drop", json!({"order_ids": [id]})).await;
    assert_eq!(done["dead_letters"][0]["became"], "dropped");

    let order = server.get(&format!("{path}?wait=20")).await.json();
    assert_eq!((&order["status"], &order["user_id"]), (&json!("dropped"), &json!("ann")));
    assert!(order["decided_at"].is_string() && order.get("place").is_none(), "{order}");
    let (_, event) = server.events(&format!("{path}/events"), "").await.next().await.unwrap();
    assert_eq!(event, order);
    let again = server.buy(key, body).await;
    assert_eq!((again.status, &again.json()["order_id"]), (202, &json!(id)));
    server.start_worker();
    assert_eq!(server.get(&format!("{path}?wait=20")).await.json(), order);
    let stats = server.get("/stats").await.json();
    assert_eq!((&stats["dropped"], &stats["backlog"]["waiting"]), (&json!(1), &json!(0)));
    let metrics = server.get("/metrics").await.text();
    let line = "flux_decisions_total{outcome=\"dropped\",reason=\"\"} 1\n";
    assert!(metrics.contains(line), "{metrics}");
    assert_eq!(server.get("/items/hall").await.json()["free"], 2);
}
