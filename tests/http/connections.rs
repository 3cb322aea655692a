//! Limits of connections and waits, and what refused clients receive.

use flux::http::{AccessRules, Origins};

use super::bounds::limits;
use super::*;
use crate::nginx::Nginx;

/// Waits until `wanted` connections are open, including the one that asks.
async fn open_connections(server: &TestServer, wanted: u64) {
    let asking = async {
        while server.get("/stats").await.json()["connections"] != wanted {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // PATIENCE is shorter than the waits of 30 seconds.
    timeout(PATIENCE, asking).await.expect("the connections of disconnected clients are free");
}

fn admin() -> String {
    format!("Authorization: Bearer {ADMIN_KEY}\r\n")
}

#[tokio::test]
async fn waits_end_when_their_clients_leave() {
    let server = TestServer::start().await;
    let order = server.good_order().await;
    let mut left = Vec::new();
    for path in ["?wait=30", "/events"] {
        let mut client = server.connect().await;
        client.send(format!("GET /orders/{order}{path} HTTP/1.1\r\n\r\n")).await;
        left.push(client);
    }
    // The beginning of the next request hides the end of the stream from a read.
    let mut pipelined = server.connect().await;
    pipelined.send(format!("GET /orders/{order}?wait=30 HTTP/1.1\r\n\r\nGET /")).await;
    left.push(pipelined);
    let mut live = server.connect().await;
    live.send("GET /events HTTP/1.1\r\n\r\n").await;
    left.push(live);
    open_connections(&server, 5).await;
    drop(left);
    open_connections(&server, 1).await;
}

#[tokio::test]
async fn half_closed_client_gets_the_current_state() {
    let server = TestServer::start().await;
    let order = server.good_order().await;
    for path in ["", "?wait=30"] {
        let mut client = server.connect().await;
        client.send(format!("GET /orders/{order}{path} HTTP/1.1\r\n\r\n")).await;
        client.stream.shutdown().await.unwrap();
        let reply = client.reply(false).await.unwrap();
        assert_eq!(reply.json()["status"], "queued");
        assert!(client.is_closed().await);
    }
    let mut events = server.events(&format!("/orders/{order}/events"), "").await;
    events.client.stream.shutdown().await.unwrap();
    assert_eq!(events.next().await.unwrap().1["status"], "queued");
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn one_address_has_a_quarter_of_the_waits() {
    let server = TestServer::start_with(limits(16, 10_000, 1_000)).await;
    let order = server.good_order().await;
    let path = format!("/orders/{order}?wait=30");
    let request = format!("GET {path} HTTP/1.1\r\n\r\n");
    let mut waiting = [server.connect().await, server.connect().await];
    for client in &mut waiting {
        client.send(&request).await;
    }
    open_connections(&server, 3).await;
    let at_once = server.get(&path).await;
    assert_eq!(at_once.json()["status"], "queued");
    assert!(at_once.header("retry-after").is_some());
    let only = server.get(&format!("/orders/{order}/events")).await;
    assert!(only.text().starts_with("retry: 5000\nevent: order\ndata: {"), "{}", only.text());
    server.get("/events").await.problem(503);
    // Requests with the admin key are exempt.
    let events = server.events(&format!("/orders/{order}/events"), &admin()).await;
    server.start_worker();
    for client in &mut waiting {
        assert_eq!(client.reply(false).await.unwrap().json()["status"], "sold");
    }
    drop(events);
}

#[tokio::test]
async fn idle_timeout_exceeds_head_timeout() {
    let mut setup = limits(100, 200, 1_000);
    setup.limits.idle_timeout = Duration::from_secs(75);
    let server = TestServer::start_with(setup).await;
    let mut untouched = server.connect().await;
    let mut idle = server.connect().await;
    for _ in 0..2 {
        let reply = idle.ask("GET", "/healthz", "", b"").await;
        assert_eq!(reply.header("keep-alive"), Some("timeout=74"));
        assert_eq!(reply.header("connection"), Some("keep-alive"));
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    assert_eq!(untouched.ask("GET", "/healthz", "", b"").await.status, 200);
    untouched.send("GET /heal").await;
    untouched.reply(false).await.unwrap().problem(408);

    let last = server.ask("GET", "/healthz", "Connection: x, Close\r\n", "").await;
    assert_eq!((last.header("connection"), last.header("keep-alive")), (Some("close"), None));
    let mut old = server.connect().await;
    old.send("GET /healthz HTTP/1.0\r\n\r\n").await;
    assert_eq!(old.reply(false).await.unwrap().header("keep-alive"), None);
    assert!(old.is_closed().await);
}

#[tokio::test]
async fn connections_idle_longest_make_room() {
    let mut setup = limits(20, 10_000, 1_000);
    setup.limits.idle_timeout = Duration::from_secs(600);
    let server = TestServer::start_with(setup).await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        let mut client = server.connect().await;
        assert_eq!(client.ask("GET", "/healthz", "", b"").await.status, 200);
        idle.push(client);
    }
    let told = idle[19].ask("GET", "/healthz", "", b"").await;
    assert_eq!(told.header("keep-alive"), Some("timeout=4"));
    let getting_in = async {
        while server.get("/healthz").await.header("connection") == Some("close") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, getting_in).await.expect("a connection is accepted");
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
    let server = TestServer::start_with(for_a_page(limits(1, 10_000, 1_000))).await;
    let mut inside = server.connect().await;
    assert_eq!(inside.ask("GET", "/healthz", "", b"").await.status, 200);
    let first = format!("{ORIGIN}Access-Control-Request-Method: POST\r\n");
    let preflight = server.ask("OPTIONS", "/buy", &first, "").await;
    assert_eq!(preflight.status, 204);
    is_readable_by_the_page(&preflight);
    let body = r#"{"user_id":"ann","item_id":"ticket_001"}"#;
    let refused = server.buy(ORIGIN, body).await;
    assert!(refused.problem(503).starts_with("too many connections"));
    is_readable_by_the_page(&refused);
    assert_eq!(refused.header("retry-after"), Some("1"));
    // A full process is alive.
    assert_eq!(server.get("/healthz").await.status, 200);
    // A client that sends nothing is refused as well.
    server.connect().await.reply(false).await.unwrap().problem(503);
    assert_eq!(inside.ask("POST", "/buy", "", body.as_bytes()).await.status, 202);
}

#[tokio::test]
async fn page_can_read_why_its_request_was_not_understood() {
    let server = TestServer::start_with(for_a_page(limits(100, 200, 1_000))).await;
    let long = "x".repeat(100_000);
    for (request, status) in [
        (format!("GET /%zz%\u{1} HTTP/1.1\r\n{ORIGIN}\r\n"), 400),
        (format!("GET / HTTP/1.1\r\n{ORIGIN}Cookie: {long}\r\n\r\n"), 431),
        (format!("GET / HTTP/1.1\r\n{ORIGIN}Cookie: a"), 408),
    ] {
        let mut client = server.connect().await;
        // Earlier responses are complete.
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
    let server = TestServer::start_with(for_a_page(limits(100, 20_000, 20_000))).await;
    let mut here = server.connect().await;
    let json = "Content-Type: application/json\r\n";
    here.send(format!("POST /buy HTTP/1.1\r\n{json}Content-Length: 2\r\n\r\n{{")).await;
    open_connections(&server, 2).await;
    server.stop.cancel();
    let refused = server.ask("GET", "/items", ORIGIN, "").await;
    assert!(refused.problem(503).starts_with("stopping"));
    is_readable_by_the_page(&refused);
    here.send("}").await;
    assert_eq!(here.reply(false).await.unwrap().header("keep-alive"), None);
}

#[tokio::test]
async fn events_forbid_caching_and_buffering() {
    let server = TestServer::start().await;
    let order = server.good_order().await;
    for path in ["/events", &format!("/orders/{order}/events")] {
        let head = server.ask("HEAD", path, "", "").await;
        assert_eq!(head.header("x-accel-buffering"), Some("no"));
        let kept = head.header("cache-control").unwrap();
        assert!(kept.contains("no-transform") && kept.contains("no-cache"), "{kept}");
    }
}

#[tokio::test]
async fn nginx_does_not_buffer_events() {
    let server = TestServer::start().await;
    let order = server.good_order().await;
    let nginx = Nginx::start(&format!("location / {{ proxy_pass http://{}; }}", server.address));
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
        timeout(PATIENCE, reading).await.expect("nginx passes events on at once");
    }
}
