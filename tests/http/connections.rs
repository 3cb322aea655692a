//! Who holds a connection, for how long, and what those are told who get none.

use flux::http::{AccessRules, Origins};

use super::bounds::limits;
use super::*;
use crate::nginx::Nginx;

/// Waits until so many connections are open, this one included.
async fn open_connections(shop: &Shop, wanted: u64) {
    let asking = async {
        while shop.get("/stats").await.json()["connections"] != wanted {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // Well before the end of a wait of 30 seconds.
    timeout(PATIENCE, asking).await.expect("the connections of those who left are free");
}

fn admin() -> String {
    format!("Authorization: Bearer {ADMIN_KEY}\r\n")
}

#[tokio::test]
async fn waits_end_when_their_clients_leave() {
    let shop = Shop::open().await;
    let order = shop.good_order().await;
    let mut left = Vec::new();
    for path in ["?wait=30", "/events"] {
        let mut client = shop.connect().await;
        client.send(format!("GET /orders/{order}{path} HTTP/1.1\r\n\r\n")).await;
        left.push(client);
    }
    // The beginning of a next request hides the end of the connection behind it.
    let mut pipelined = shop.connect().await;
    pipelined.send(format!("GET /orders/{order}?wait=30 HTTP/1.1\r\n\r\nGET /")).await;
    left.push(pipelined);
    let mut live = shop.connect().await;
    live.send("GET /events HTTP/1.1\r\n\r\n").await;
    left.push(live);
    open_connections(&shop, 5).await;
    drop(left);
    open_connections(&shop, 1).await;
}

#[tokio::test]
async fn client_that_only_stopped_sending_is_told_the_present_state() {
    let shop = Shop::open().await;
    let order = shop.good_order().await;
    for path in ["", "?wait=30"] {
        let mut client = shop.connect().await;
        client.send(format!("GET /orders/{order}{path} HTTP/1.1\r\n\r\n")).await;
        client.stream.shutdown().await.unwrap();
        let reply = client.reply(false).await.unwrap();
        assert_eq!(reply.json()["status"], "queued");
        assert!(client.is_closed().await);
    }
    let mut events = shop.events(&format!("/orders/{order}/events"), "").await;
    events.client.stream.shutdown().await.unwrap();
    assert_eq!(events.next().await.unwrap().1["status"], "queued");
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn one_address_has_a_quarter_of_the_waits() {
    let shop = Shop::open_as(limits(16, 10_000, 1_000)).await;
    let order = shop.good_order().await;
    let path = format!("/orders/{order}?wait=30");
    let request = format!("GET {path} HTTP/1.1\r\n\r\n");
    let mut waiting = [shop.connect().await, shop.connect().await];
    for client in &mut waiting {
        client.send(&request).await;
    }
    open_connections(&shop, 3).await;
    let at_once = shop.get(&path).await;
    assert_eq!(at_once.json()["status"], "queued");
    assert!(at_once.header("retry-after").is_some());
    let only = shop.get(&format!("/orders/{order}/events")).await;
    assert!(only.text().starts_with("retry: 5000\nevent: order\ndata: {"), "{}", only.text());
    shop.get("/events").await.problem(503);
    // The admin waits for many.
    let events = shop.events(&format!("/orders/{order}/events"), &admin()).await;
    shop.hire();
    for client in &mut waiting {
        assert_eq!(client.reply(false).await.unwrap().json()["status"], "sold");
    }
    drop(events);
}

#[tokio::test]
async fn idle_connection_is_kept_for_longer_than_a_head_may_take() {
    let mut setup = limits(100, 200, 1_000);
    setup.limits.idle_timeout = Duration::from_secs(75);
    let shop = Shop::open_as(setup).await;
    let mut untouched = shop.connect().await;
    let mut idle = shop.connect().await;
    for _ in 0..2 {
        let reply = idle.ask("GET", "/healthz", "", b"").await;
        assert_eq!(reply.header("keep-alive"), Some("timeout=74"));
        assert_eq!(reply.header("connection"), Some("keep-alive"));
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    assert_eq!(untouched.ask("GET", "/healthz", "", b"").await.status, 200);
    untouched.send("GET /heal").await;
    untouched.reply(false).await.unwrap().problem(408);

    let last = shop.ask("GET", "/healthz", "Connection: x, Close\r\n", "").await;
    assert_eq!((last.header("connection"), last.header("keep-alive")), (Some("close"), None));
    let mut old = shop.connect().await;
    old.send("GET /healthz HTTP/1.0\r\n\r\n").await;
    assert_eq!(old.reply(false).await.unwrap().header("keep-alive"), None);
    assert!(old.is_closed().await);
}

#[tokio::test]
async fn connections_idle_longest_make_room() {
    let mut setup = limits(20, 10_000, 1_000);
    setup.limits.idle_timeout = Duration::from_secs(600);
    let shop = Shop::open_as(setup).await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        let mut client = shop.connect().await;
        assert_eq!(client.ask("GET", "/healthz", "", b"").await.status, 200);
        idle.push(client);
    }
    let told = idle[19].ask("GET", "/healthz", "", b"").await;
    assert_eq!(told.header("keep-alive"), Some("timeout=4"));
    let getting_in = async {
        while shop.get("/healthz").await.header("connection") == Some("close") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, getting_in).await.expect("a place");
    assert!(idle[0].is_closed().await);
    assert_eq!(idle[19].ask("GET", "/healthz", "", b"").await.status, 200);
}

const ORIGIN: &str = "Origin: https://shop.example\r\nX-Request-Id: page-1\r\n";

#[track_caller]
fn is_readable_by_the_page(reply: &Reply) {
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://shop.example"));
    assert_eq!(reply.header("x-request-id"), Some("page-1"));
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(reply.header("connection"), Some("close"));
}

fn for_a_page(mut setup: Setup) -> Setup {
    let origins = Origins::parse("https://shop.example").unwrap();
    setup.access = AccessRules { origins, ..AccessRules::default() };
    setup
}

#[tokio::test]
async fn page_can_read_why_a_full_server_refuses_it() {
    let shop = Shop::open_as(for_a_page(limits(1, 10_000, 1_000))).await;
    let mut inside = shop.connect().await;
    assert_eq!(inside.ask("GET", "/healthz", "", b"").await.status, 200);
    let first = format!("{ORIGIN}Access-Control-Request-Method: POST\r\n");
    let preflight = shop.ask("OPTIONS", "/buy", &first, "").await;
    assert_eq!(preflight.status, 204);
    is_readable_by_the_page(&preflight);
    let body = r#"{"user_id":"ann","item_id":"ticket_001"}"#;
    let refused = shop.buy(ORIGIN, body).await;
    assert!(refused.problem(503).starts_with("too many connections"));
    is_readable_by_the_page(&refused);
    assert_eq!(refused.header("retry-after"), Some("1"));
    // A full process is not a dead one.
    assert_eq!(shop.get("/healthz").await.status, 200);
    // Who says nothing is told too.
    shop.connect().await.reply(false).await.unwrap().problem(503);
    assert_eq!(inside.ask("POST", "/buy", "", body.as_bytes()).await.status, 202);
}

#[tokio::test]
async fn page_can_read_why_its_request_was_not_understood() {
    let shop = Shop::open_as(for_a_page(limits(100, 200, 1_000))).await;
    let long = "x".repeat(100_000);
    for (request, status) in [
        (format!("GET /%zz%\u{1} HTTP/1.1\r\n{ORIGIN}\r\n"), 400),
        (format!("GET / HTTP/1.1\r\n{ORIGIN}Cookie: {long}\r\n\r\n"), 431),
        (format!("GET / HTTP/1.1\r\n{ORIGIN}Cookie: a"), 408),
    ] {
        let mut client = shop.connect().await;
        // Answers before it are whole.
        client.send(format!("GET /healthz HTTP/1.1\r\n\r\n{request}")).await;
        assert_eq!(client.reply(false).await.unwrap().status, 200);
        let reply = client.reply(false).await.unwrap();
        reply.problem(status);
        is_readable_by_the_page(&reply);
        assert!(reply.header("date").is_some());
        assert!(client.is_closed().await);
    }
}

#[tokio::test]
async fn page_can_read_that_a_server_is_stopping() {
    let shop = Shop::open_as(for_a_page(limits(100, 20_000, 20_000))).await;
    let mut here = shop.connect().await;
    let json = "Content-Type: application/json\r\n";
    here.send(format!("POST /buy HTTP/1.1\r\n{json}Content-Length: 2\r\n\r\n{{")).await;
    open_connections(&shop, 2).await;
    shop.stop.cancel();
    let refused = shop.ask("GET", "/items", ORIGIN, "").await;
    assert!(refused.problem(503).starts_with("stopping"));
    is_readable_by_the_page(&refused);
    here.send("}").await;
    assert_eq!(here.reply(false).await.unwrap().header("keep-alive"), None);
}

#[tokio::test]
async fn events_are_neither_kept_nor_held_back_by_proxies() {
    let shop = Shop::open().await;
    let order = shop.good_order().await;
    for path in ["/events", &format!("/orders/{order}/events")] {
        let head = shop.ask("HEAD", path, "", "").await;
        assert_eq!(head.header("x-accel-buffering"), Some("no"));
        let kept = head.header("cache-control").unwrap();
        assert!(kept.contains("no-transform") && kept.contains("no-cache"), "{kept}");
    }
}

#[tokio::test]
async fn nginx_passes_events_on_as_they_come() {
    let shop = Shop::open().await;
    let order = shop.good_order().await;
    let nginx = Nginx::start(&format!("location / {{ proxy_pass http://{}; }}", shop.address));
    for (path, event) in
        [(format!("/orders/{order}/events"), "event: order"), ("/events".into(), "event: board")]
    {
        let mut stream = TcpStream::connect(&nginx.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut came = Vec::new();
        let reading = async {
            while !String::from_utf8_lossy(&came).contains(event) {
                assert!(stream.read_buf(&mut came).await.unwrap() > 0, "the stream ended");
            }
        };
        timeout(PATIENCE, reading).await.expect("nginx does not hold it back");
    }
}
