//! The real server over real sockets on loopback, on the real embedded store.

mod bad_input;
mod bounds;
mod routes;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use flux::core::Ports;
use flux::core::connection::sqlite::Store;
use flux::core::ledger::sqlite::SqliteLedger;
use flux::core::order::intake::Intake;
use flux::core::order::worker::{Rules, Story, Worker};
use flux::core::order::{Decided, ItemId, OrderNames, SystemClock};
use flux::core::outcomes::sqlite::SqliteOutcomes;
use flux::core::queue::sqlite::SqliteQueue;
use flux::http::{Api, Limits, serve};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);
const ADMIN_KEY: &str = "the admin's key";

/// How a server under test differs from the usual one.
struct Setup {
    unlisted_stock: u64,
    admin_key: Option<&'static str>,
    backend: &'static str,
    limits: Limits,
    backlog_max: u64,
}

impl Default for Setup {
    fn default() -> Self {
        let limits = Limits {
            connections: 100,
            pages: 1,
            read_timeout: Duration::from_secs(10),
            drain: Duration::from_secs(5),
        };
        Self {
            unlisted_stock: 1,
            admin_key: Some(ADMIN_KEY),
            backend: "embedded",
            limits,
            backlog_max: 1_000_000,
        }
    }
}

struct Shop {
    address: SocketAddr,
    ports: Ports,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Shop {
    async fn open() -> Shop {
        Self::open_as(Setup::default()).await
    }

    async fn open_as(setup: Setup) -> Shop {
        let directory = tempfile::tempdir().unwrap();
        let ports = ports(&directory.path().join("flux.db"), setup.backlog_max).await;
        let stop = CancellationToken::new();
        let (intake, sending) = Intake::start(
            ports.queue.clone(),
            None,
            ports.names.clone(),
            ports.clock.clone(),
            1_000,
        );
        tokio::spawn(sending);
        let api = Api {
            ports: ports.clone(),
            intake,
            waiters: Arc::default(),
            unlisted_stock: setup.unlisted_stock,
            admin_key: setup.admin_key.map(Into::into),
            backend: setup.backend,
            limits: setup.limits,
        };
        let (outcomes, waiters, stopped) =
            (ports.outcomes.clone(), api.waiters.clone(), stop.clone());
        tokio::spawn(async move { outcomes.listen(waiters, stopped).await });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve(listener, Arc::new(api), stop.clone()));
        Shop { address, ports, stop, serving, _directory: directory }
    }

    /// Decides orders from now on.
    fn hire(&self) {
        let rules = Rules {
            unlisted_stock: 1,
            concurrency: 4,
            lease: Duration::from_secs(5),
            visibility: Duration::from_secs(30),
            receive_wait: Duration::from_millis(200),
            drain: Duration::from_secs(1),
        };
        let worker = Worker { ports: self.ports.clone(), rules, story: Arc::new(Silence) };
        tokio::spawn(worker.run(self.stop.clone()));
    }

    async fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).await.unwrap();
        Client { stream: BufReader::new(stream) }
    }

    /// One request over a connection of its own.
    async fn ask(&self, method: &str, path: &str, headers: &str, body: impl AsRef<[u8]>) -> Reply {
        self.connect().await.ask(method, path, headers, body.as_ref()).await
    }

    async fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, "", "").await
    }

    async fn buy(&self, headers: &str, body: &str) -> Reply {
        self.ask("POST", "/buy", headers, body).await
    }

    /// Buys, in a well-formed way that must work at any time.
    async fn good_order(&self) -> String {
        let reply = self.buy("", r#"{"user_id":"Zoë","item_id":"ticket_001"}"#).await;
        assert_eq!(reply.status, 202, "{}", reply.text());
        reply.json()["order_id"].as_str().unwrap().to_owned()
    }

    async fn put_stock(&self, item: &str, stock: u64) -> Reply {
        let headers = format!("Authorization: Bearer {ADMIN_KEY}\r\n");
        let body = format!(r#"{{"stock":{stock}}}"#);
        self.ask("PUT", &format!("/items/{item}"), &headers, body).await
    }
}

async fn ports(file: &std::path::Path, backlog_max: u64) -> Ports {
    let store = Store::open(file).unwrap();
    let key = store.order_key(None).await.unwrap();
    let names = Arc::new(OrderNames::new(key, 1));
    let clock = Arc::new(SystemClock);
    let visibility = Duration::from_secs(30);
    let queue =
        SqliteQueue::new(store.clone(), names.clone(), clock.clone(), visibility, backlog_max);
    Ports {
        queue: Arc::new(queue),
        ledger: Arc::new(SqliteLedger::new(store.clone(), key)),
        lock: None,
        outcomes: Arc::new(SqliteOutcomes::new(store)),
        marks: None,
        names,
        clock,
        calls: Arc::default(),
    }
}

#[derive(Debug)]
struct Silence;

impl Story for Silence {
    fn lock_acquired(&self, _: &ItemId) {}
    fn deciding(&self, _: &[Decided]) {}
    fn saved(&self, _: &[Decided]) {}
}

/// A connection that writes exactly what a test says.
struct Client {
    stream: BufReader<TcpStream>,
}

#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Client {
    /// Sends; a server that refuses may have hung up already.
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    async fn ask(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> Reply {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: shop\r\n{headers}Content-Length: {length}\r\n\r\n"
        );
        self.send([head.as_bytes(), body].concat()).await;
        self.reply(method == "HEAD").await.expect("an answer")
    }

    /// The next answer; `None` when the server closed without one.
    async fn reply(&mut self, to_head: bool) -> Option<Reply> {
        timeout(PATIENCE, async {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(self.stream.read_u8().await.ok()?);
            }
            let head = String::from_utf8(head).unwrap();
            let mut reply = Reply { status: head[9..12].parse().unwrap(), head, body: Vec::new() };
            if !to_head {
                let length = reply.header("content-length").unwrap().parse().unwrap();
                reply.body.resize(length, 0);
                self.stream.read_exact(&mut reply.body).await.ok()?;
            }
            Some(reply)
        })
        .await
        .expect("in time")
    }

    /// Whether the server has closed the connection, or does soon.
    async fn is_closed(&mut self) -> bool {
        timeout(PATIENCE, self.stream.read_u8()).await.is_ok_and(|read| read.is_err())
    }
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Checks that this is a problem as RFC 9457 has it, and returns its detail.
    #[track_caller]
    fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{} {}", self.head, self.text());
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], "about:blank");
        assert!(problem["title"].is_string());
        let detail = problem["detail"].as_str().unwrap();
        assert!(!detail.contains('\n'), "{detail}");
        detail.to_owned()
    }
}
