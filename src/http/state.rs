//! What the handlers of one server share. Imports no handler.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use hyper::header::HeaderValue;
use hyper::http::request;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::{Access, Caller, caller};
use super::client::Client;
use super::dashboard::Dashboard;
use super::health::{Health, StoreCounts};
use super::idle::{IDLE_LEAST, spare};
use super::item_cache::ItemCache;
use super::lists::Lists;
use super::shared_reads::SharedReads;
use super::wait_estimate::WaitEstimator;
use super::waits::{WaitPlace, Waits};
use crate::core::engine::Ports;
use crate::core::engine::intake::Intake;
use crate::core::model::{Item, ItemId, OrderId};
use crate::core::ports::ledger::{LedgerError, OrderRecord};
use crate::core::ports::notifier::Subscribers;

/// Bounds of the server (P8).
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open connections; the next is answered 503 and closed.
    pub connections: usize,
    /// Time to send a whole request head, from its first byte, and again its body. Also how long an
    /// answer may wait for the client to read on.
    pub read_timeout: Duration,
    /// How long a connection may be idle: before its first request, and between two. Shorter while
    /// fewer than a tenth of the connections are free.
    pub idle_timeout: Duration,
    /// Pages of items or of the inventory on their way at once, until the client has read them; the
    /// next is answered 503. A page is up to some 400 KB, and while the ledger reads it, workers
    /// and buyers wait.
    pub pages: usize,
    /// Time that requests which are here may still take once the server is told to stop.
    pub drain: Duration,
}

/// What the routes need.
#[derive(Debug)]
pub struct Api {
    pub ports: Ports,
    pub intake: Intake,
    pub subscribers: Arc<Subscribers>,
    /// Units of an item that nobody listed; 0 refuses orders for it. `None`: none where keys are on
    /// or others reach the server.
    pub unlisted_stock: Option<u64>,
    pub access: Arc<Access>,
    /// `embedded` or `aws`, for `/stats`; on `aws` only the queue knows an undecided order.
    pub backend: &'static str,
    pub limits: Limits,
}

/// Clients are told to keep an idle connection for this much less than the server does, so that no
/// request is on its way to a connection that is being closed.
const KEEP_LESS: Duration = Duration::from_secs(1);

/// Single items that were read lately. Kept only for a moment, because a buyer looks before and
/// after buying.
type ItemReads = SharedReads<ItemId, Result<Option<Item>, LedgerError>>;
const ITEM_READS_MAX: NonZeroUsize = NonZeroUsize::new(2_048).unwrap();
const ITEM_FRESH: Duration = Duration::from_millis(100);

/// Orders that were read within the last second. Used on AWS only, where each read costs money, also
/// the read of a queued order that the ledger does not have yet.
type OrderReads = SharedReads<OrderId, Result<Option<OrderRecord>, LedgerError>>;
/// Orders whose last read is kept: some 5 MB.
const ORDER_READS_MAX: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
const ORDER_FRESH: Duration = Duration::from_secs(1);
/// Anybody may ask for the health and the counts of the stores.
const STATUS_FRESH: Duration = Duration::from_secs(1);

/// What the connections and handlers of one server share.
#[derive(Debug)]
pub(super) struct AppState {
    pub api: Arc<Api>,
    pub access: Arc<Access>,
    pub item_cache: ItemCache,
    pub wait_estimator: WaitEstimator,
    pub lists: Lists,
    pub item_reads: ItemReads,
    pub order_reads: OrderReads,
    pub health_checks: SharedReads<(), Health>,
    pub store_counts: SharedReads<(), StoreCounts>,
    pub stop: CancellationToken,
    pub started: Instant,
    pub requests: AtomicU64,
    pub dashboard: Dashboard,
    /// Tells this process's requests from those of another.
    pub process: u32,
    /// The address on which the server listens.
    pub address: Option<SocketAddr>,
    /// Cloned by each open connection.
    pub open: Arc<()>,
    /// One permit: two requests at once would hide dead letters from each other.
    pub dead_letter_access: Arc<Semaphore>,
    /// Long polls and event streams.
    pub waits: Arc<Waits>,
    /// For `Keep-Alive`: when there is room, and when idle connections make room.
    keep_alive: [Option<HeaderValue>; 2],
    /// The tasks that send events; they end with the connections.
    pub streams: TaskTracker,
}

impl AppState {
    pub fn new(api: Arc<Api>, address: Option<SocketAddr>, stop: CancellationToken) -> Self {
        let started = Instant::now();
        let idle = api.limits.idle_timeout;
        Self {
            access: api.access.clone(),
            item_cache: ItemCache::new(api.ports.ledger.clone()),
            wait_estimator: WaitEstimator::default(),
            lists: Lists::new(api.limits.pages),
            // An item that is missing may be listed the next moment, in any process.
            item_reads: SharedReads::new(ITEM_READS_MAX, ITEM_FRESH, |read| {
                !matches!(read, Ok(None))
            }),
            order_reads: SharedReads::new(ORDER_READS_MAX, ORDER_FRESH, |_| true),
            health_checks: SharedReads::new(NonZeroUsize::MIN, STATUS_FRESH, |_| true),
            store_counts: SharedReads::new(NonZeroUsize::MIN, STATUS_FRESH, |_| true),
            stop,
            started,
            requests: AtomicU64::new(0),
            dashboard: Dashboard::new(api.ports.clone(), api.access.clone(), api.backend, started),
            process: api.ports.ids.next_id() as u32,
            address,
            open: Arc::default(),
            dead_letter_access: Arc::new(Semaphore::new(1)),
            waits: Arc::default(),
            keep_alive: [keep_alive(idle), keep_alive(idle.min(IDLE_LEAST))],
            streams: TaskTracker::new(),
            api,
        }
    }

    pub fn connections_max(&self) -> usize {
        self.access.connections_max().unwrap_or(self.api.limits.connections)
    }

    /// How long an idle connection is kept, as its client is told; `None` if that is too short to
    /// count on.
    pub fn keep_alive(&self) -> Option<HeaderValue> {
        let places = self.connections_max();
        let full = places.saturating_sub(self.connections()) < spare(places);
        self.keep_alive[usize::from(full)].clone()
    }

    pub fn connections(&self) -> usize {
        Arc::strong_count(&self.open) - 1
    }

    /// Whether orders for items that nobody listed are accepted.
    pub fn sells_unlisted(&self) -> bool {
        let by_default = || self.access.is_private(self.address);
        self.api.unlisted_stock.map_or_else(by_default, |stock| stock > 0)
    }

    /// A place for a long poll or event stream; `None` if this client, or all clients together, have
    /// as many as they may.
    pub fn place_to_wait(&self, head: &request::Parts, client: &Client) -> Option<WaitPlace> {
        let address = match caller(head) {
            // A shop waits for many buyers.
            Caller::Admin | Caller::Shop => None,
            _ => Some(self.access.counted_address(head, client.peer)),
        };
        self.waits.take(address, self.connections_max())
    }
}

/// The value of `Keep-Alive` for connections that are kept idle for so long.
fn keep_alive(idle: Duration) -> Option<HeaderValue> {
    let seconds = idle.saturating_sub(KEEP_LESS).as_secs();
    let value = HeaderValue::try_from(format!("timeout={seconds}"));
    value.ok().filter(|_| seconds > 0)
}
