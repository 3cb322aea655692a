use flux::core::model::{Item, UserId};
use flux::core::ports::ledger::{Commit, Committed, Expect};

use super::*;

const ORDER: &str = r#"{"user_id":"ann","item_id":"ticket_001"}"#;

pub fn limits(connections: usize, read_timeout_ms: u64, drain_ms: u64) -> Setup {
    let read_timeout = Duration::from_millis(read_timeout_ms);
    let drain = Duration::from_millis(drain_ms);
    let idle_timeout = read_timeout;
    let limits = Limits { connections, read_timeout, idle_timeout, pages: 1, drain };
    Setup { limits, ..Setup::default() }
}

#[tokio::test]
async fn slow_sender_is_disconnected() {
    let server = TestServer::start_with(limits(100, 200, 1_000)).await;
    let mut slow_body = server.connect().await;
    slow_body
        .send("POST /buy HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 40\r\n\r\n{")
        .await;
    let mut slow_head = server.connect().await;
    slow_head.send("POST /buy HTTP/1.1\r\nContent-Le").await;
    let mut silent = server.connect().await;
    let mut idle = server.connect().await;
    assert_eq!(idle.ask("POST", "/buy", "", ORDER.as_bytes()).await.status, 202);

    let reply = slow_body.reply(false).await.unwrap();
    reply.problem(408);
    assert_eq!(reply.header("connection"), Some("close"));
    slow_head.reply(false).await.unwrap().problem(408);
    for client in [&mut slow_body, &mut slow_head, &mut silent, &mut idle] {
        assert!(client.is_closed().await);
    }
    server.good_order().await;
}

#[tokio::test]
async fn connection_limit_is_a_503_at_once() {
    let server = TestServer::start_with(limits(2, 10_000, 1_000)).await;
    let mut first = server.connect().await;
    let mut second = server.connect().await;
    assert_eq!(first.ask("GET", "/healthz", "", b"").await.status, 200);
    assert_eq!(second.ask("GET", "/stats", "", b"").await.json()["connections"], 2);
    for _ in 0..3 {
        let mut third = server.connect().await;
        let reply = third.ask("POST", "/buy", "", ORDER.as_bytes()).await;
        reply.problem(503);
        assert_eq!(reply.header("retry-after"), Some("1"));
        assert!(third.is_closed().await);
    }
    drop(first);
    let mut free = None;
    for _ in 0..100 {
        let mut client = server.connect().await;
        if client.ask("POST", "/buy", "", ORDER.as_bytes()).await.status == 202 {
            free = Some(client);
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(free.is_some(), "a closed connection makes room for another");
}

#[tokio::test]
async fn half_closed_and_aborted_connections_are_harmless() {
    let server = TestServer::start().await;
    let request = format!(
        "POST /buy HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{ORDER}",
        ORDER.len()
    );
    // The client has sent everything and still reads.
    let mut client = server.connect().await;
    client.send(&request).await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.reply(false).await.unwrap().status, 202);
    assert!(client.is_closed().await);
    // The client aborts within the body.
    let mut client = server.connect().await;
    client.send(&request[..request.len() - 5]).await;
    client.stream.shutdown().await.unwrap();
    client.reply(false).await.unwrap().problem(400);
    // The client aborts within the head, or disconnects without reading.
    for cut in [10, request.len()] {
        let mut client = server.connect().await;
        client.send(&request[..cut]).await;
        drop(client);
    }
    server.good_order().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    let order = format!(
        "POST /buy HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{ORDER}",
        ORDER.len()
    );
    let bad = "POST /buy HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    client.send(format!("{order}{bad}{order}GET /healthz HTTP/1.1\r\n\r\n")).await;
    for status in [202, 400, 202, 200] {
        assert_eq!(client.reply(false).await.unwrap().status, status);
    }
}

#[tokio::test]
async fn expect_100_continue_is_honoured() {
    let server = TestServer::start().await;
    let head = |length| {
        format!(
            "POST /buy HTTP/1.1\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let mut client = server.connect().await;
    client.send(head(ORDER.len())).await;
    let mut interim = [0; 25];
    client.stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send(ORDER).await;
    assert_eq!(client.reply(false).await.unwrap().status, 202);
    client.send(head(1_000_000)).await;
    client.reply(false).await.unwrap().problem(413);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn stop_answers_waits_and_ends() {
    let server = TestServer::start_with(limits(100, 10_000, 300)).await;
    let order = server.good_order().await;
    let mut idle = server.connect().await;
    let mut untouched = server.connect().await;
    assert_eq!(idle.ask("GET", "/healthz", "", b"").await.status, 200);
    let mut waiting = server.connect().await;
    waiting.send(format!("GET /orders/{order}?wait=30 HTTP/1.1\r\n\r\n")).await;
    let mut stuck = server.connect().await;
    stuck
        .send("POST /buy HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 40\r\n\r\n{")
        .await;
    tokio::time::sleep(Duration::from_millis(100)).await;

    server.stop.cancel();
    let reply = waiting.reply(false).await.unwrap();
    assert_eq!(reply.json()["status"], "queued");
    assert!(idle.is_closed().await && untouched.is_closed().await);
    timeout(Duration::from_secs(3), server.serving).await.expect("bounded").unwrap();
    assert!(stuck.is_closed().await);
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn stopping_server_refuses_new_requests() {
    let server = TestServer::start_with(limits(100, 20_000, 20_000)).await;
    let mut here = server.connect().await;
    let (begin, end) = ORDER.split_at(5);
    here.send(format!(
        "POST /buy HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{begin}",
        ORDER.len()
    ))
    .await;
    while server.get("/stats").await.json()["connections"] != 2 {}

    server.stop.cancel();
    for path in ["/readyz", "/items"] {
        let reply = server.get(path).await;
        assert!(reply.problem(503).starts_with("stopping"));
        assert_eq!(reply.header("retry-after"), Some("1"));
    }
    here.send(end).await;
    assert_eq!(here.reply(false).await.unwrap().status, 202);
    timeout(PATIENCE, server.serving).await.expect("bounded").unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn full_queue_is_a_503_with_retry_after() {
    let server = TestServer::start_with(Setup { backlog_max: 2, ..Setup::default() }).await;
    let statuses = [server.buy("", ORDER).await, server.buy("", ORDER).await].map(|r| r.status);
    assert_eq!(statuses, [202, 202]);
    let reply = server.buy("", ORDER).await;
    reply.problem(503);
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert!(reply.json().get("order_id").is_none(), "the order was not accepted");
}

/// Sells one-of-a-kind items directly in the ledger.
pub async fn sell(server: &TestServer, numbers: std::ops::Range<usize>) {
    for n in numbers {
        let owner = Some(UserId::parse("ann").unwrap());
        let id = ItemId::parse(&format!("seat:{n:04}")).unwrap();
        let item = Item { free: 0, sold: 1, owner, version: 1, ..Item::new(id, 1) };
        let commit = Commit { item, expect: Expect::Version(0), decided: vec![] };
        assert_eq!(server.ports.ledger.commit(&commit).await.unwrap(), Committed::Written);
    }
}

#[tokio::test]
async fn unread_list_blocks_nobody() {
    let server = TestServer::start_with(limits(100, 300, 1_000)).await;
    sell(&server, 0..1_000).await;
    let path = "/items?limit=1000";
    let mut deaf = server.connect().await;
    deaf.send(format!("GET {path} HTTP/1.1\r\n\r\n").repeat(400)).await;
    // Other requests get the cached page; requests with the admin key read the ledger.
    let admin = format!("Authorization: Bearer {ADMIN_KEY}\r\n");
    loop {
        let reply = server.ask("GET", path, &admin, "").await;
        if reply.status != 200 {
            reply.problem(503);
            assert_eq!(reply.header("retry-after"), Some("1"));
            break;
        }
    }
    server.good_order().await;
    let mut open = 2;
    for _ in 0..200 {
        open = server.get("/stats").await.json()["connections"].as_u64().unwrap();
        if open == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(open, 1, "only the connection of this request");
    assert_eq!(server.get(path).await.status, 200);
    drop(deaf);
}
