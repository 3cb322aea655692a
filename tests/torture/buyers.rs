//! Buyers that retry: they buy over HTTP while the server fails and restarts, and record all
//! responses.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flux::core::engine::Ports;
use flux::core::model::{Decision, OrderId};
use flux::core::ports::ledger::{OrderRecord, OrderState};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{ITEMS, PATIENCE, TestRng};

/// Timeout of a request: a server that is suspended accepts connections and does not respond.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A response with its `Retry-After`.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub retry_after: Option<String>,
    pub body: Value,
}

/// Sends one request over a new connection. `None` if the connection broke.
pub async fn ask(
    port: u16,
    method: &str,
    path: &str,
    key: Option<&str>,
    body: &str,
) -> Option<Reply> {
    let key = key.map(|key| format!("Idempotency-Key: {key}\r\n")).unwrap_or_default();
    let headers = format!("Connection: close\r\n{key}");
    timeout(ANSWER_WITHIN, async {
        Client::connect(port).await?.ask(method, path, &headers, body).await
    })
    .await
    .ok()?
}

/// A connection for many requests.
pub struct Client(pub BufReader<TcpStream>);

impl Client {
    pub async fn connect(port: u16) -> Option<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        Some(Client(BufReader::new(stream)))
    }

    /// `None` if the connection broke.
    pub async fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> Option<Reply> {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.0.write_all(request.as_bytes()).await.ok()?;
        self.reply().await
    }

    /// Reads the next response.
    pub async fn reply(&mut self) -> Option<Reply> {
        let mut line = String::new();
        self.0.read_line(&mut line).await.ok()?;
        let status = line.split(' ').nth(1)?.parse().ok()?;
        let mut length = None;
        let mut retry_after = None;
        loop {
            line.clear();
            self.0.read_line(&mut line).await.ok()?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().ok(),
                "retry-after" => retry_after = Some(value.to_owned()),
                _ => {}
            }
        }
        let mut body = vec![0; length?];
        self.0.read_exact(&mut body).await.ok()?;
        Some(Reply { status, retry_after, body: serde_json::from_slice(&body).ok()? })
    }
}

/// An accepted order, as the buyer requested it.
#[derive(Debug, Clone, PartialEq)]
struct Promise {
    user: String,
    item: &'static str,
    quantity: u64,
}

/// The records of all buyers.
#[derive(Debug, Default)]
pub struct Memory {
    /// Orders that got a 202.
    promises: Mutex<HashMap<OrderId, Promise>>,
    /// The first decision that was read of each order.
    seen: Mutex<HashMap<OrderId, (Value, Value)>>,
    pub refused: AtomicU64,
    pub broken: AtomicU64,
    /// The longest wait for a response.
    pub longest: Mutex<Duration>,
}

/// Running buyers.
pub struct Crowd {
    pub memory: Arc<Memory>,
    buyers: JoinSet<()>,
    over: CancellationToken,
}

impl Crowd {
    pub fn gather(port: u16, buyers: usize, rng: &mut TestRng) -> Crowd {
        let memory = Arc::new(Memory::default());
        let over = CancellationToken::new();
        let mut crowd = Crowd { memory, over, buyers: JoinSet::new() };
        for name in 0..buyers {
            let memory = crowd.memory.clone();
            let over = crowd.over.clone();
            let mut rng = rng.fork();
            crowd.buyers.spawn(async move {
                for n in 0.. {
                    if over.is_cancelled() {
                        return;
                    }
                    memory.buy(port, format!("buyer-{name}-{n}"), &mut rng).await;
                    if n % 10 == 0 {
                        memory.look(port, &mut rng).await;
                    }
                }
            });
        }
        crowd
    }

    /// Waits until one more buyer gets a 503. The server retries sends for a moment before it sends
    /// one, so buyers do not notice a fault that ends sooner.
    pub async fn is_refused(&self) {
        let before = self.memory.refused.load(Ordering::Relaxed);
        let begun = Instant::now();
        while self.memory.refused.load(Ordering::Relaxed) == before {
            assert!(begun.elapsed() < PATIENCE, "the fault has no effect");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn stop(mut self) -> Arc<Memory> {
        self.over.cancel();
        while let Some(ended) = self.buyers.join_next().await {
            ended.unwrap();
        }
        self.memory
    }
}

impl Memory {
    pub fn accepted(&self) -> usize {
        self.promises.lock().unwrap().len()
    }

    /// Sends one order of one user. A third of the orders have an idempotency key, and are repeated
    /// until two responses are 202.
    async fn buy(&self, port: u16, user: String, rng: &mut TestRng) {
        let (item, _) = ITEMS[rng.below(ITEMS.len() as u64) as usize];
        let promise = Promise { user, item, quantity: 1 + rng.below(3) };
        let body = json!({"user_id": promise.user, "item_id": item, "quantity": promise.quantity});
        let body = body.to_string();
        let key = rng.once_in(3).then(|| format!("key of {}", promise.user).replace(' ', "-"));
        let mut wanted = if key.is_some() { 2 } else { 1 };
        let mut named = None;
        for _ in 0..20 {
            let begun = Instant::now();
            let reply = ask(port, "POST", "/buy", key.as_deref(), &body).await;
            self.waited(begun.elapsed());
            let id = reply.as_ref().and_then(|reply| reply.body["order_id"].as_str());
            let id = id.map(|id| OrderId::parse(id).unwrap());
            if let (Some(id), Some(_)) = (id, &key) {
                assert_eq!(*named.get_or_insert(id), id, "one key, two orders");
            }
            match reply.as_ref().map(|reply| reply.status) {
                Some(202) => {
                    self.promises.lock().unwrap().insert(id.unwrap(), promise.clone());
                    wanted -= 1;
                }
                Some(503) => {
                    assert!(reply.unwrap().retry_after.is_some());
                    self.refused.fetch_add(1, Ordering::Relaxed);
                }
                Some(_) => panic!("{reply:?}"),
                None => {
                    self.broken.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
            }
            if wanted == 0 || key.is_none() {
                return;
            }
        }
    }

    fn waited(&self, wait: Duration) {
        let mut longest = self.longest.lock().unwrap();
        *longest = (*longest).max(wait);
    }

    /// Reads a random accepted order. Its first decision must not change.
    async fn look(&self, port: u16, rng: &mut TestRng) {
        let order = {
            let promises = self.promises.lock().unwrap();
            promises.keys().nth(rng.below(promises.len().max(1) as u64) as usize).copied()
        };
        let Some(order) = order else { return };
        let reply = ask(port, "GET", &format!("/orders/{order}"), None, "").await;
        if let Some(Reply { status: 200, body, .. }) = reply
            && body["status"] != "queued"
        {
            let now = (body["status"].clone(), body["reason"].clone());
            let mut seen = self.seen.lock().unwrap();
            assert_eq!(*seen.entry(order).or_insert_with(|| now.clone()), now, "{order}");
        }
    }

    /// Compares the ledger with the buyers' records after all orders are decided: each decision must
    /// be about the order that was accepted, and equal to the one that was read before. Returns the
    /// number of accepted orders without a decision.
    pub async fn lost(&self, ports: &Ports) -> usize {
        let promises = self.promises.lock().unwrap().clone();
        let seen = self.seen.lock().unwrap().clone();
        let orders: Vec<OrderId> = promises.keys().copied().collect();
        let decided = decided(ports, &orders).await;
        for OrderRecord { order, state } in &decided {
            let promise = &promises[&order.id];
            assert_eq!(
                (order.user.as_str(), order.item.as_str(), order.quantity.units()),
                (promise.user.as_str(), promise.item, promise.quantity)
            );
            let OrderState::Decided { decision, .. } = state else { panic!("{state:?}") };
            assert!(matches!(decision, Decision::Sold | Decision::Rejected(_)), "{decision:?}");
            if let Some((status, reason)) = seen.get(&order.id) {
                assert_eq!(status, decision.status());
                assert_eq!(reason.as_str(), decision.reason().map(|reason| reason.as_str()));
            }
        }
        assert!(!seen.is_empty(), "nobody saw a decision");
        orders.len() - decided.len()
    }
}

/// The records of these orders. Waits until all are decided, for the time limit at most.
async fn decided(ports: &Ports, orders: &[OrderId]) -> Vec<OrderRecord> {
    let begun = Instant::now();
    loop {
        let found = ports.ledger.find(orders).await.unwrap();
        let is_decided = |record: &OrderRecord| matches!(record.state, OrderState::Decided { .. });
        let decided: Vec<_> = found.into_iter().flatten().filter(is_decided).collect();
        if decided.len() == orders.len() || begun.elapsed() > PATIENCE {
            return decided;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
