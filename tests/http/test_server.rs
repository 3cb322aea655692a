//! The server under test, and a client that sends raw requests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use flux::adapters::sqlite::heartbeats::SqliteHeartbeats;
use flux::adapters::sqlite::ledger::SqliteLedger;
use flux::adapters::sqlite::notifier::SqliteNotifier;
use flux::adapters::sqlite::queue::SqliteQueue;
use flux::adapters::sqlite::store::Store;
use flux::core::engine::Ports;
use flux::core::engine::heartbeat::with_heartbeats;
use flux::core::engine::intake::Intake;
use flux::core::engine::tracer::Tracer;
use flux::core::engine::worker::{Observer, Rules, Worker};
use flux::core::model::{Decided, ItemId, OrderIds, SystemClock, SystemIdSource};
use flux::core::ports::heartbeats::Kind;
use flux::http::{Access, AccessRules, Api, Keys, Limits, serve};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub const PATIENCE: Duration = Duration::from_secs(20);
pub const ADMIN_KEY: &str = "the admin's key";

/// The configuration of a server under test.
pub struct Setup {
    pub unlisted_stock: Option<u64>,
    pub admin_key: Option<&'static str>,
    /// The access rules; `admin_key` replaces their admin keys.
    pub access: AccessRules,
    pub backend: &'static str,
    pub limits: Limits,
    pub backlog_max: u64,
}

impl Default for Setup {
    fn default() -> Self {
        let limits = Limits {
            connections: 100,
            pages: 64,
            read_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            drain: Duration::from_secs(5),
        };
        Self {
            unlisted_stock: Some(1),
            admin_key: Some(ADMIN_KEY),
            access: AccessRules::default(),
            backend: "embedded",
            limits,
            backlog_max: 1_000_000,
        }
    }
}

pub struct TestServer {
    pub address: SocketAddr,
    pub ports: Ports,
    pub access: Arc<Access>,
    pub stop: CancellationToken,
    pub serving: JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl TestServer {
    pub async fn start() -> TestServer {
        Self::start_with(Setup::default()).await
    }

    pub async fn start_with(setup: Setup) -> TestServer {
        let directory = tempfile::tempdir().unwrap();
        let ports = ports(&directory.path().join("flux.db"), setup.backlog_max).await;
        let stop = CancellationToken::new();
        let (intake, sending) = Intake::start(&ports, 1_000);
        tokio::spawn(sending);
        let admin_keys = setup.admin_key.map(|key| Keys::parse(&key.into())).unwrap_or_default();
        let access = Access::new(AccessRules { admin_keys, ..setup.access });
        let api = Api {
            ports: ports.clone(),
            intake,
            subscribers: Arc::default(),
            unlisted_stock: setup.unlisted_stock,
            access: access.clone(),
            backend: setup.backend,
            limits: setup.limits,
        };
        let notifier = ports.notifier.clone();
        let subscribers = api.subscribers.clone();
        let stopped = stop.clone();
        tokio::spawn(async move { notifier.listen(subscribers, stopped).await });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve(listener, Arc::new(api), stop.clone()));
        TestServer { address, ports, access, stop, serving, _directory: directory }
    }

    /// Starts a worker, which decides orders from now on.
    pub fn start_worker(&self) {
        let rules = Rules {
            unlisted_stock: 1,
            concurrency: 4,
            lease: Duration::from_secs(5),
            visibility: Duration::from_secs(30),
            receive_wait: Duration::from_millis(200),
            drain: Duration::from_secs(1),
        };
        let worker = Worker { ports: self.ports.clone(), rules, observer: Arc::new(Silence) };
        let ports = self.ports.clone();
        let stop = self.stop.clone();
        let working = async move { with_heartbeats(&ports, Kind::Work, 4, worker.run(stop)).await };
        tokio::spawn(working);
    }

    pub async fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).await.unwrap();
        Client { stream: BufReader::new(stream) }
    }

    /// Sends one request over a new connection.
    pub async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: impl AsRef<[u8]>,
    ) -> Reply {
        self.connect().await.ask(method, path, headers, body.as_ref()).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, "", "").await
    }

    /// Opens an event stream.
    pub async fn events(&self, path: &str, headers: &str) -> Events {
        let mut client = self.connect().await;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")).await;
        let reply = client.reply(true).await.expect("a response");
        assert_eq!((reply.status, reply.header("transfer-encoding")), (200, Some("chunked")));
        assert_eq!(reply.header("content-type"), Some("text/event-stream"));
        Events { client, unread: String::new() }
    }

    pub async fn buy(&self, headers: &str, body: &str) -> Reply {
        self.ask("POST", "/buy", headers, body).await
    }

    /// Sends a valid order, which must be accepted, and returns its id.
    pub async fn good_order(&self) -> String {
        let reply = self.buy("", r#"{"user_id":"Zoë","item_id":"ticket_001"}"#).await;
        assert_eq!(reply.status, 202, "{}", reply.text());
        reply.json()["order_id"].as_str().unwrap().to_owned()
    }

    pub async fn put_stock(&self, item: &str, stock: u64) -> Reply {
        let headers = format!("Authorization: Bearer {ADMIN_KEY}\r\n");
        let body = format!(r#"{{"stock":{stock}}}"#);
        self.ask("PUT", &format!("/items/{item}"), &headers, body).await
    }
}

async fn ports(file: &std::path::Path, backlog_max: u64) -> Ports {
    let store = Store::open(file).unwrap();
    let key = store.order_key(None).await.unwrap();
    let order_ids = Arc::new(OrderIds::new(key, 1));
    let clock = Arc::new(SystemClock);
    let visibility = Duration::from_secs(30);
    let queue = SqliteQueue::new(store.clone(), key, clock.clone(), visibility, backlog_max);
    Ports {
        queue: Arc::new(queue),
        ledger: Arc::new(SqliteLedger::new(store.clone(), key, clock.clone())),
        lock: None,
        notifier: Arc::new(SqliteNotifier::new(store.clone())),
        idempotency: None,
        webhooks: None,
        order_ids,
        ids: Arc::new(SystemIdSource),
        calls: Arc::default(),
        metrics: Arc::default(),
        heartbeats: Arc::new(SqliteHeartbeats::new(store, clock.clone())),
        clock,
        tracer: Tracer::off(),
    }
}

#[derive(Debug)]
struct Silence;

impl Observer for Silence {
    fn lock_acquired(&self, _: &ItemId) {}
    fn deciding(&self, _: &[Decided]) {}
    fn saved(&self, _: &[Decided]) {}
}

/// A connection that sends exactly the given bytes.
pub struct Client {
    pub stream: BufReader<TcpStream>,
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Client {
    /// Sends bytes. Errors are ignored, because a refusing server may have closed the connection.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Sends a request. Without a `Content-Type` in `headers` a body is sent as JSON.
    pub async fn ask(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> Reply {
        let length = body.len();
        let has_type = headers.to_lowercase().contains("content-type:");
        let is_json = ["POST", "PUT"].contains(&method) && !has_type;
        let kind = if is_json { "Content-Type: application/json\r\n" } else { "" };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}{kind}\
             Content-Length: {length}\r\n\r\n"
        );
        self.send([head.as_bytes(), body].concat()).await;
        self.reply(method == "HEAD").await.expect("a response")
    }

    /// Reads the next response; `None` if the server closed the connection without one.
    pub async fn reply(&mut self, to_head: bool) -> Option<Reply> {
        timeout(PATIENCE, async {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(self.stream.read_u8().await.ok()?);
            }
            let head = String::from_utf8(head).unwrap();
            let mut reply = Reply { status: head[9..12].parse().unwrap(), head, body: Vec::new() };
            if !to_head && reply.status >= 200 {
                let length = match reply.status {
                    204 | 304 => 0,
                    _ => reply.header("content-length").unwrap().parse().unwrap(),
                };
                reply.body.resize(length, 0);
                self.stream.read_exact(&mut reply.body).await.ok()?;
            }
            Some(reply)
        })
        .await
        .expect("in time")
    }

    /// Whether the server closes the connection within [`PATIENCE`].
    pub async fn is_closed(&mut self) -> bool {
        timeout(PATIENCE, self.stream.read_u8()).await.is_ok_and(|read| read.is_err())
    }
}

/// The reading side of an event stream.
pub struct Events {
    pub client: Client,
    unread: String,
}

impl Events {
    /// The name and data of the next event; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.unread.split_once("\n\n") {
                let field = |name: &str| {
                    let mut fields = event.lines().filter_map(|line| line.split_once(": "));
                    fields.find(|(n, _)| *n == name).map(|(_, value)| value.to_owned())
                };
                let found = field("event").zip(field("data"));
                self.unread = rest.to_owned();
                match found {
                    Some((name, data)) => {
                        return Some((name, serde_json::from_str(&data).unwrap()));
                    }
                    None => continue,
                }
            }
            let chunk = timeout(PATIENCE, self.chunk()).await.expect("in time");
            self.unread += &String::from_utf8(chunk?).unwrap();
        }
    }

    async fn chunk(&mut self) -> Option<Vec<u8>> {
        let mut size = String::new();
        let stream = &mut self.client.stream;
        stream.read_line(&mut size).await.ok()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        let mut chunk = vec![0; size + 2];
        stream.read_exact(&mut chunk).await.ok()?;
        chunk.truncate(size);
        (size > 0).then_some(chunk)
    }
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Checks what holds for every response.
    #[track_caller]
    pub fn keeps_the_contract(&self) {
        assert!(self.header("x-request-id").is_some(), "{}", self.head);
        assert_eq!(self.header("x-content-type-options"), Some("nosniff"), "{}", self.head);
        match self.status {
            status @ (400..=499 | 503) => {
                assert!(!self.problem(status).is_empty());
                assert!(status != 503 || self.header("retry-after").is_some(), "{}", self.head);
            }
            204 => assert!(self.header("allow").is_some(), "{}", self.head),
            _ => {
                assert!((200..300).contains(&self.status), "{}", self.head);
                if self.header("content-security-policy").is_some() {
                    assert_eq!(self.header("content-type"), Some("text/html; charset=utf-8"));
                    return;
                }
                match self.header("content-type") {
                    Some("application/json") => drop(self.json()),
                    // `/metrics`.
                    other => assert_eq!(other, Some("text/plain; version=0.0.4; charset=utf-8")),
                }
            }
        }
    }

    /// Checks that this is a problem (RFC 9457) with this status, and returns its detail.
    #[track_caller]
    pub fn problem(&self, status: u16) -> String {
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
