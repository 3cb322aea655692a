//! The state shared by the handlers of one server. Imports no handler.

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
use super::idle::{IDLE_MIN, reserve};
use super::item_cache::ItemCache;
use super::lists::Lists;
use super::shared_reads::SharedReads;
use super::wait_estimate::WaitEstimator;
use super::waits::{WaitPermit, Waits};
use crate::core::engine::Ports;
use crate::core::engine::intake::Intake;
use crate::core::model::{Item, ItemId, OrderId};
use crate::core::ports::ledger::{LedgerError, OrderRecord};
use crate::core::ports::notifier::Subscribers;

/// Bounds of the server (P8).
#[derive(Debug, Clone)]
pub struct Limits {
    /// Maximum open connections; further ones are answered 503 and closed.
    pub connections: usize,
    /// Maximum time to receive a request head, from its first byte, and again its body. Also how
    /// long a response waits for a client that does not read.
    pub read_timeout: Duration,
    /// Maximum idle time of a connection before its first request and between two. Shorter while
    /// fewer than a tenth of the connections are free.
    pub idle_timeout: Duration,
    /// Maximum list pages (of items or the inventory) in memory until their clients have read them;
    /// further ones are answered 503. A page is up to 400 KB, and reading it delays workers and
    /// buyers.
    pub pages: usize,
    /// Maximum time for requests in progress after the server is told to stop.
    pub drain: Duration,
}

/// The dependencies of the routes.
#[derive(Debug)]
pub struct Api {
    pub ports: Ports,
    pub intake: Intake,
    pub subscribers: Arc<Subscribers>,
    /// Stock of an unlisted item; 0 refuses orders for it. `None`: refused if keys are required or
    /// other machines can reach the server.
    pub unlisted_stock: Option<u64>,
    pub access: Arc<Access>,
    /// `embedded` or `aws`. On `aws` an undecided order is only in the queue.
    pub backend: &'static str,
    pub limits: Limits,
}

/// `Keep-Alive` is this much shorter than the server's own timeout, so that clients do not send on a
/// connection that the server is closing.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);

/// Recent reads of single items. Kept only briefly, because buyers read an item before and after
/// buying.
type ItemReads = SharedReads<ItemId, Result<Option<Item>, LedgerError>>;
const ITEM_READS_MAX: NonZeroUsize = NonZeroUsize::new(2_048).unwrap();
const ITEM_MAX_AGE: Duration = Duration::from_millis(100);

/// Recent reads of orders. Used only on AWS, where each read costs money, also that of a queued order
/// that the ledger does not have yet.
type OrderReads = SharedReads<OrderId, Result<Option<OrderRecord>, LedgerError>>;
/// Maximum cached orders: about 5 MB.
const ORDER_READS_MAX: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
const ORDER_MAX_AGE: Duration = Duration::from_secs(1);
/// Health and store counts are public, so they are cached.
const STATUS_MAX_AGE: Duration = Duration::from_secs(1);

/// The state shared by the connections and handlers of one server.
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
    /// Random number of this process, for request ids.
    pub process: u32,
    /// The listening address of the server.
    pub address: Option<SocketAddr>,
    /// Cloned by each open connection, to count them.
    pub open: Arc<()>,
    /// One permit, because on SQS two concurrent requests would hide dead letters from each other.
    pub dead_letter_access: Arc<Semaphore>,
    /// Long polls and event streams.
    pub waits: Arc<Waits>,
    /// Values of `Keep-Alive`: normally, and while idle connections are closed early.
    keep_alive: [Option<HeaderValue>; 2],
    /// Tasks that send events. They end with their connections.
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
            // A missing item is not cached, because any process may list it at any moment.
            item_reads: SharedReads::new(ITEM_READS_MAX, ITEM_MAX_AGE, |read| {
                !matches!(read, Ok(None))
            }),
            order_reads: SharedReads::new(ORDER_READS_MAX, ORDER_MAX_AGE, |_| true),
            health_checks: SharedReads::new(NonZeroUsize::MIN, STATUS_MAX_AGE, |_| true),
            store_counts: SharedReads::new(NonZeroUsize::MIN, STATUS_MAX_AGE, |_| true),
            stop,
            started,
            requests: AtomicU64::new(0),
            dashboard: Dashboard::new(api.ports.clone(), api.access.clone(), api.backend, started),
            process: api.ports.ids.next_id() as u32,
            address,
            open: Arc::default(),
            dead_letter_access: Arc::new(Semaphore::new(1)),
            waits: Arc::default(),
            keep_alive: [keep_alive(idle), keep_alive(idle.min(IDLE_MIN))],
            streams: TaskTracker::new(),
            api,
        }
    }

    pub fn connections_max(&self) -> usize {
        self.access.connections_max().unwrap_or(self.api.limits.connections)
    }

    /// The value of `Keep-Alive`; `None` if idle connections are closed too soon to promise any time.
    pub fn keep_alive(&self) -> Option<HeaderValue> {
        let max = self.connections_max();
        let is_crowded = max.saturating_sub(self.connections()) < reserve(max);
        self.keep_alive[usize::from(is_crowded)].clone()
    }

    pub fn connections(&self) -> usize {
        Arc::strong_count(&self.open) - 1
    }

    /// Whether orders for unlisted items are accepted.
    pub fn sells_unlisted(&self) -> bool {
        let by_default = || self.access.is_private(self.address);
        self.api.unlisted_stock.map_or_else(by_default, |stock| stock > 0)
    }

    /// A permit for a long poll or event stream; `None` if this client, or all clients together,
    /// have reached their limit.
    pub fn wait_permit(&self, head: &request::Parts, client: &Client) -> Option<WaitPermit> {
        let address = match caller(head) {
            // A shop waits on behalf of many buyers.
            Caller::Admin | Caller::Shop => None,
            _ => Some(self.access.counted_address(head, client.peer)),
        };
        self.waits.acquire(address, self.connections_max())
    }
}

/// The value of `Keep-Alive` for this idle timeout.
fn keep_alive(idle: Duration) -> Option<HeaderValue> {
    let seconds = idle.saturating_sub(KEEP_ALIVE_MARGIN).as_secs();
    let value = HeaderValue::try_from(format!("timeout={seconds}"));
    value.ok().filter(|_| seconds > 0)
}
