//! Property tests: random requests, valid and invalid, sequential and pipelined, whole and in pieces,
//! get responses that match the API description.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Runtime;

use super::document::Document;
use super::*;

/// A request with valid HTTP syntax that may be wrong in any other way.
#[derive(Debug, Clone)]
struct Ask {
    method: &'static str,
    target: String,
    headers: Vec<&'static str>,
    body: Vec<u8>,
    framing: Framing,
}

#[derive(Debug, Clone, Copy)]
enum Framing {
    Length,
    Chunks(usize),
}

fn ask(method: &'static str, target: &str, headers: &[&'static str], body: &str) -> Ask {
    let headers = headers.to_vec();
    let body = body.as_bytes().to_vec();
    Ask { method, target: target.to_owned(), headers, body, framing: Framing::Length }
}

fn good_order() -> Ask {
    ask("POST", "/buy", &["Content-Type: application/json"], ORDER)
}

const ORDER: &str = r#"{"user_id":"ann","item_id":"ticket_001"}"#;
const HEADERS: [&str; 17] = [
    "Content-Type: application/json",
    "content-type: APPLICATION/JSON;charset=utf-8",
    "Content-Type: text/plain",
    "Content-Type:",
    "Idempotency-Key: k-1",
    "Idempotency-Key: two words",
    "Idempotency-Key: k\u{e9}",
    "Authorization: Bearer the admin's key",
    "Authorization: Basic YTpi",
    "Expect: 100-continue",
    "Connection: close",
    "Connection: keep-alive",
    "Accept-Encoding: gzip",
    "X-Empty:",
    "Origin: http://evil.example",
    "Sec-Fetch-Site: cross-site",
    "X-Forwarded-For: 192.0.2.1",
];

impl Ask {
    fn is_good_order(&self) -> bool {
        let plain = ["Content-Type: application/json", "Connection: keep-alive", "X-Empty:"];
        let method = self.method;
        let target = self.target.as_str();
        let body = self.body.as_slice();
        (method, target, body) == ("POST", "/buy", ORDER.as_bytes())
            && self.headers.contains(&plain[0])
            && self.headers.iter().all(|header| plain.contains(header))
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\nHost: localhost\r\n", self.method, self.target);
        for header in &self.headers {
            bytes += &format!("{header}\r\n");
        }
        let mut bytes = bytes.into_bytes();
        match self.framing {
            Framing::Length => {
                bytes.extend(format!("Content-Length: {}\r\n\r\n", self.body.len()).bytes());
                bytes.extend(&self.body);
            }
            Framing::Chunks(size) => {
                bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                for chunk in self.body.chunks(size) {
                    bytes.extend(format!("{:X};x=y\r\n", chunk.len()).bytes());
                    bytes.extend(chunk);
                    bytes.extend(b"\r\n");
                }
                bytes.extend(b"0\r\n\r\n");
            }
        }
        bytes
    }
}

fn targets() -> impl Strategy<Value = String> {
    let path = prop_oneof![
        4 => select(vec![
            "/buy", "/items", "/inventory", "/stats", "/healthz", "/readyz", "/docs",
            "/openapi.json", "/metrics", "/dead-letters", "/dead-letters/redrive", "/dead-letters/drop",
        ])
        .prop_map(str::to_owned),
        2 => "/items/[A-Za-z0-9._:%-]{0,12}",
        2 => "/orders/[0-9a-f]{32}(/events)?",
        1 => "/(orders|items|buy)/[!-~&&[^ #?]]{0,20}",
        1 => "[!-~&&[^ #?]]{1,20}".prop_map(|text| format!("/{text}")),
    ];
    let query = prop_oneof![
        3 => Just(String::new()),
        1 => r"\?(wait|limit)=[0-9]{0,4}",
        1 => r"\?(after|wait|limit)=[!-~&&[^ #]]{0,12}(&after=%41)?",
        1 => r"\?[!-~&&[^ #]]{0,20}",
    ];
    (path, query).prop_map(|(path, query)| path + &query)
}

fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let text = prop_oneof![
        4 => Just(ORDER.to_owned()),
        1 => Just(String::new()),
        2 => r#"\{"user_id":"[ -~é]{0,8}","item_id":"[a-z ]{0,4}","quantity":[0-9e.-]{1,4}\}"#,
        1 => r#"\{"stock":[0-9]{1,15}\}"#,
        1 => r#"[\[\]{}":,a-z0-9\\]{0,40}"#,
        1 => (15_000usize..40_000).prop_map(|length| format!("[{}", " ".repeat(length))),
    ];
    prop_oneof![8 => text.prop_map(String::into_bytes), 1 => vec(any::<u8>(), 0..60)]
}

fn asks() -> impl Strategy<Value = Ask> {
    let methods = select(vec![
        "GET", "GET", "HEAD", "POST", "POST", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE",
        "BREW",
    ]);
    let headers = subsequence(HEADERS.to_vec(), 0..4);
    let framing = prop_oneof![
        3 => Just(Framing::Length),
        1 => (1usize..30_000).prop_map(Framing::Chunks),
    ];
    let drawn = (methods, targets(), headers, bodies(), framing).prop_map(
        |(method, target, headers, body, framing)| Ask { method, target, headers, body, framing },
    );
    prop_oneof![1 => Just(good_order()), 4 => drawn]
}

/// Requests of one connection, and the lengths of the pieces in which they are sent (repeated).
fn talks() -> impl Strategy<Value = (Vec<Ask>, Vec<usize>)> {
    let pieces = prop_oneof![Just(vec![1_000_000]), vec(1usize..2_000, 1..6)];
    (vec(asks(), 1..6), pieces)
}

async fn send_in_pieces(client: &mut Client, mut bytes: &[u8], pieces: &[usize]) {
    for length in pieces.iter().cycle() {
        let (piece, rest) = bytes.split_at((*length).min(bytes.len()));
        client.send(piece).await;
        bytes = rest;
        if bytes.is_empty() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Checks that every request gets a response, up to one with `Connection: close`, and that the next
/// valid order is accepted, on this connection if it is still open.
async fn talk(
    server: &TestServer,
    document: &Document,
    asks: &[Ask],
    pieces: &[usize],
    taken: &mut Vec<String>,
) {
    let mut client = server.connect().await;
    let bytes: Vec<u8> = asks.iter().flat_map(Ask::bytes).collect();
    send_in_pieces(&mut client, &bytes, pieces).await;
    for ask in asks {
        let reply = loop {
            let reply = client.reply(ask.method == "HEAD").await.expect("an answer");
            if reply.status != 100 {
                break reply;
            }
        };
        if ask.method != "HEAD" {
            reply.keeps_the_contract();
            // OPTIONS and malformed HTTP have the same responses on all paths and are not documented.
            let options = (ask.method, reply.status) == ("OPTIONS", 204);
            if !options && !reply.text().contains("the request is not valid HTTP/1.1") {
                document.describes(ask.method, &ask.target, &reply);
            }
        }
        if reply.status == 202 {
            let order = reply.json()["order_id"].as_str().unwrap().to_owned();
            assert_eq!(reply.header("location").unwrap(), format!("/orders/{order}"));
            taken.push(order);
        }
        assert!(!ask.is_good_order() || [202, 503].contains(&reply.status), "{}", reply.text());
        if reply.header("connection") == Some("close") {
            // The method of malformed HTTP is unknown, so the response has a body.
            if (ask.method, reply.status) != ("HEAD", 400) {
                assert!(client.is_closed().await);
            }
            client = server.connect().await;
            break;
        }
    }
    client.send(good_order().bytes()).await;
    let reply = client.reply(false).await.expect("the connection can be reused");
    assert!([202, 503].contains(&reply.status), "{}", reply.text());
    reply.keeps_the_contract();
}

/// Runs the conversations and returns the ids of the accepted orders.
fn hold_talks(runtime: &Runtime, server: &TestServer, cases: u32) -> Vec<String> {
    let taken = std::cell::RefCell::default();
    let document = runtime.block_on(Document::of(server));
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let seed = format!("{:?}", runner.rng());
    let held = runner.run(&talks(), |(asks, pieces)| {
        runtime.block_on(talk(server, &document, &asks, &pieces, &mut taken.borrow_mut()));
        Ok(())
    });
    if let Err(failure) = held {
        panic!("{failure}\nthe first draw was made with {seed}");
    }
    taken.into_inner()
}

#[test]
fn random_requests_keep_the_contract() {
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(TestServer::start());
    let taken = hold_talks(&runtime, &server, 300);
    assert!(taken.len() > 30, "{}", taken.len());
    runtime.block_on(async {
        server.start_worker();
        for order in taken {
            let reply = server.get(&format!("/orders/{order}?wait=30")).await;
            assert!(["sold", "rejected"].contains(&reply.json()["status"].as_str().unwrap()));
        }
    });
}

#[test]
fn full_server_answers_503_and_recovers() {
    let runtime = Runtime::new().unwrap();
    let setup = Setup { backlog_max: 5, ..Setup::default() };
    let server = runtime.block_on(TestServer::start_with(setup));
    let taken = hold_talks(&runtime, &server, 100);
    assert!(taken.len() <= 5);
    runtime.block_on(async {
        server.buy("", ORDER).await.problem(503);
        server.start_worker();
        while server.buy("", ORDER).await.status != 202 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}
