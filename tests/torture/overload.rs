//! Overload and abusive clients: clients within the limits are served, clients beyond them are
//! rejected at once, and memory stays bounded.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::buyers::Client;
use super::embedded::sale;
use super::place::Place;
use super::sale::Sale;
use super::{ITEMS, PATIENCE};

/// Number of buyers that connect before the abuse begins, and keep their connection.
const INSIDE: usize = 20;
/// Number of clients that connect when every connection is in use.
const NEWCOMERS: usize = 20;
/// Clients that connect at the same time. With more, a full listen queue would drop packets, and
/// clients would wait for seconds.
const CONNECTING: usize = 256;
/// Memory bound of a process without clients: itself, and 16 MB of page cache for each of its six
/// connections to the file.
const EMPTY_MB: usize = 130;
/// Memory bound of a connection: a head of 16 KiB in a buffer that doubles, a body of 16 KiB, a
/// response, and its tasks.
const CONNECTION_KB: usize = 80;
/// Memory bound of the 64 pages that are sent at the same time, of 1,000 rows with names of 128
/// bytes, which JSON at most doubles.
const PAGES_MB: usize = 64 * 1_000 * 400 / 1_000_000;
/// How clients abuse a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abuse {
    Idle,
    SlowHead,
    SlowBody,
    Deaf,
    Flood,
}

impl Abuse {
    pub const ALL: [(Abuse, &str); 5] = [
        (Abuse::Idle, "idle connections"),
        (Abuse::SlowHead, "slow heads"),
        (Abuse::SlowBody, "slow bodies"),
        (Abuse::Deaf, "clients that never read"),
        (Abuse::Flood, "50 times the orders that may wait"),
    ];

    /// Runs one client until its connection is closed.
    async fn commit(self, mut client: Client, seen: &Seen) {
        match self {
            // A client that sends nothing cannot tell that the listen queue dropped its connection.
            Abuse::Idle => drop(seen.order(&mut client, "idle").await),
            Abuse::SlowHead => {
                let head = format!("POST /buy HTTP/1.1\r\nX-Filler: {}", "x".repeat(15_000));
                let _cut = client.0.write_all(head.as_bytes()).await;
                while client.0.write_all(b"x").await.is_ok() {
                    sleep(Duration::from_millis(500)).await;
                }
            }
            Abuse::SlowBody => {
                let head = "POST /buy HTTP/1.1\r\nContent-Type: application/json\r\n\
                            Content-Length: 16384\r\n\r\n";
                let _cut = client.0.write_all(head.as_bytes()).await;
                let _cut = client.0.write_all(" ".repeat(16_000).as_bytes()).await;
                while client.0.write_all(b" ").await.is_ok() {
                    sleep(Duration::from_millis(500)).await;
                }
            }
            Abuse::Deaf => {
                let requests = "GET /inventory HTTP/1.1\r\n\r\n".repeat(100);
                while client.0.write_all(requests.as_bytes()).await.is_ok() {}
                return;
            }
            Abuse::Flood => while seen.order(&mut client, "flood").await {},
        }
        let mut rest = Vec::new();
        let _cut = client.0.read_to_end(&mut rest).await;
    }
}

/// Counts over all clients of a group.
#[derive(Debug, Default)]
struct Seen {
    accepted: AtomicU64,
    refused: AtomicU64,
    longest_ms: AtomicU64,
}

impl Seen {
    /// Sends one order. Returns `false` if the connection broke.
    async fn order(&self, client: &mut Client, user: &str) -> bool {
        let begun = Instant::now();
        let body = json!({"user_id": user, "item_id": ITEMS[0].0}).to_string();
        let Some(reply) = client.ask("POST", "/buy", "", &body).await else { return false };
        let waited = begun.elapsed().as_millis() as u64;
        self.longest_ms.fetch_max(waited, Ordering::Relaxed);
        match reply.status {
            202 => self.accepted.fetch_add(1, Ordering::Relaxed),
            503 if reply.retry_after.is_some() => self.refused.fetch_add(1, Ordering::Relaxed),
            _ => panic!("{reply:?}"),
        };
        true
    }
}

/// The effect of an abuse, in figures.
pub struct Figures {
    pub abuse: &'static str,
    connections: usize,
    peak_mb: usize,
    bound_mb: usize,
    /// The buyers inside: accepted orders, 503 responses, and the longest wait.
    accepted: u64,
    refused: u64,
    longest_ms: u64,
    /// The longest time until a client beyond the limit got a 503 or was disconnected.
    newcomer_ms: u64,
}

impl Figures {
    pub const HEAD: &str = "\
| abuse | connections | peak memory | bound | orders of those inside | 503 | longest wait | a newcomer waits |
|---|--:|--:|--:|--:|--:|--:|--:|";

    pub fn holds(&self) -> bool {
        self.peak_mb <= self.bound_mb && self.accepted > 0
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { abuse, connections, peak_mb, bound_mb, accepted, refused, .. } = self;
        let longest = self.longest_ms;
        let newcomer = self.newcomer_ms;
        write!(
            f,
            "| {abuse} | {connections} | {peak_mb} MB | {bound_mb} MB | {accepted} | {refused} \
             | {longest} ms | {newcomer} ms |"
        )
    }
}

/// Runs the abuse against a server that allows `connections`, with as many clients.
pub async fn abused(
    (abuse, name): (Abuse, &'static str),
    connections: usize,
    long: Duration,
) -> Figures {
    let most = connections.to_string();
    let intake = if abuse == Abuse::Flood { connections / 50 } else { 10_000 }.to_string();
    let limits = [
        ("FLUX_CONNECTIONS_MAX", &*most),
        ("FLUX_INTAKE_MAX", &*intake),
        // The longest timeout, so that no client is disconnected before the end.
        ("FLUX_READ_TIMEOUT_MS", "600000"),
    ];
    let sale = sale(&limits, 2, 0);
    sale.is_open().await;
    if abuse == Abuse::Deaf {
        sell_seats(sale.port).await;
    }
    let inside = Arc::new(Seen::default());
    let outside = Arc::new(Seen::default());
    let mut clients = JoinSet::new();
    let mut watcher = Client::connect(sale.port).await.unwrap();
    let port = sale.port;
    for n in 0..INSIDE {
        let mut client = Client::connect(port).await.unwrap();
        let seen = inside.clone();
        clients.spawn(async move {
            while seen.order(&mut client, &format!("inside-{n}")).await {
                sleep(Duration::from_millis(20)).await;
            }
        });
    }
    let connecting = Arc::new(Semaphore::new(CONNECTING));
    for _ in 0..connections - INSIDE - 1 {
        let seen = outside.clone();
        let connecting = connecting.clone();
        clients.spawn(async move {
            loop {
                let slot = connecting.acquire().await.unwrap();
                if let Some(client) = Client::connect(port).await {
                    drop(slot);
                    abuse.commit(client, &seen).await;
                }
                sleep(Duration::from_millis(50)).await;
            }
        });
    }
    all_taken(&mut watcher, connections).await;
    let mut coming = std::pin::pin!(newcomers(port));
    let newcomer_ms = loop {
        tokio::select! {
            longest = &mut coming => break longest,
            // An idle watcher would be disconnected to make room.
            () = sleep(Duration::from_millis(200)) => {
                watcher.ask("GET", "/stats", "", "").await.expect("it has a connection");
            }
        }
    };
    let until = Instant::now() + long;
    while Instant::now() < until {
        let stats = watcher.ask("GET", "/stats", "", "").await.expect("it has a connection");
        assert_eq!(stats.status, 200);
        sleep(Duration::from_millis(200)).await;
    }
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let figures = Figures {
        abuse: name,
        connections,
        peak_mb: peak_mb(&sale),
        bound_mb: EMPTY_MB + PAGES_MB + connections * CONNECTION_KB / 1_000,
        accepted: count(&inside.accepted),
        refused: count(&inside.refused),
        longest_ms: count(&inside.longest_ms),
        newcomer_ms,
    };
    assert_eq!(clients.try_join_next().map(|ended| ended.unwrap()), None, "one inside was cut");
    clients.shutdown().await;
    recovers(sale).await;
    figures
}

/// Fills the inventory with the longest possible page.
async fn sell_seats(port: u16) {
    let mut client = Client::connect(port).await.unwrap();
    for n in 0..1_000 {
        let owner = "\"".repeat(128);
        let seat = format!("{n:0>128}");
        let body = json!({"user_id": owner, "item_id": seat}).to_string();
        assert_eq!(client.ask("POST", "/buy", "", &body).await.unwrap().status, 202);
    }
}

/// Waits until every connection that the server allows is open.
async fn all_taken(watcher: &mut Client, connections: usize) {
    let begun = Instant::now();
    loop {
        let stats = watcher.ask("GET", "/stats", "", "").await.expect("it has a connection");
        let open = stats.body["connections"].as_u64().unwrap() as usize;
        // Some clients are always reconnecting, and idle connections are limited to nine tenths.
        if open + connections / 20 + connections / 10 >= connections {
            return;
        }
        assert!(begun.elapsed() < 3 * PATIENCE, "{open} of {connections} connections");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Connects when all connections are in use, and waits for a response, a 503 or the end of the
/// connection. Returns the longest wait in ms.
async fn newcomers(port: u16) -> u64 {
    let mut longest = 0;
    for n in 0..NEWCOMERS {
        let begun = Instant::now();
        let seen = Seen::default();
        let one = async {
            match Client::connect(port).await {
                Some(mut client) => seen.order(&mut client, &format!("newcomer-{n}")).await,
                None => false,
            }
        };
        timeout(PATIENCE, one).await.expect("an answer, or the end of the connection");
        longest = longest.max(begun.elapsed().as_millis() as u64);
    }
    longest
}

fn peak_mb(sale: &Sale) -> usize {
    let pid = sale.processes[0].child.id();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1_024 / 1_000_000
}

/// Checks that after the abuse everybody is served again, and nothing is lost.
async fn recovers(mut sale: Sale) {
    let begun = Instant::now();
    while !matches!(super::buyers::ask(sale.port, "GET", "/readyz", None, "").await,
        Some(reply) if reply.status == 200)
    {
        assert!(begun.elapsed() < PATIENCE, "nobody gets in");
        sleep(Duration::from_millis(20)).await;
    }
    sale.is_decided().await;
    assert_eq!(sale.place.audit()["verdict"], "pass");
    sale.processes[0].stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn abuse_leaves_buyers_served_and_memory_bounded() {
    let long = Duration::from_secs(2);
    let mut running: JoinSet<Figures> =
        Abuse::ALL.into_iter().map(|abuse| abused(abuse, 400, long)).collect();
    while let Some(figures) = running.join_next().await {
        let figures = figures.unwrap();
        println!("{figures}");
        assert!(figures.holds(), "{figures}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn few_descriptors_lower_the_connection_limit() {
    let mut place = Place::new(&[]);
    place.provision(&[]);
    place.descriptors = Some(300);
    let mut sale = Sale::start(place, 1, 0);
    sale.is_open().await;
    let mut inside = Client::connect(sale.port).await.unwrap();
    let seen = Seen::default();
    assert!(seen.order(&mut inside, "inside").await);
    let mut idle = Vec::new();
    for _ in 0..20 {
        for _ in 0..20 {
            idle.push(Client::connect(sale.port).await);
        }
        // A request, so that this connection is not idle.
        assert!(seen.order(&mut inside, "inside").await);
    }
    newcomers(sale.port).await;
    assert_eq!(seen.accepted.load(Ordering::Relaxed), 21);
    assert_eq!(sale.place.logged("cannot accept"), [""; 0]);
    assert_eq!(sale.place.logged("connections limited to 44").len(), 1);
    sale.processes[0].stop().await;
}
