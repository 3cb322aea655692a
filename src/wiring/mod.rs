//! Builds a process from its settings. The only module that names every adapter.

pub mod access;
#[cfg_attr(not(feature = "aws"), path = "no_aws.rs")]
pub mod aws;
pub mod backup;
mod descriptors;
pub mod in_use;
#[cfg(feature = "aws")]
pub mod provision;
#[cfg_attr(not(feature = "redis"), path = "no_redis.rs")]
mod redis;
pub mod reload;
pub mod temporary_store;
#[cfg_attr(not(feature = "otel"), path = "no_traces.rs")]
pub mod traces;
pub mod webhooks;

use std::sync::{Arc, Once};
use std::time::Duration;

use anyhow::Result;
use backon::{ConstantBuilder, Retryable};
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::adapters::sqlite::heartbeats::SqliteHeartbeats;
use crate::adapters::sqlite::ledger::SqliteLedger;
use crate::adapters::sqlite::lock::SqliteLock;
use crate::adapters::sqlite::notifier::SqliteNotifier;
use crate::adapters::sqlite::queue::SqliteQueue;
use crate::adapters::sqlite::store;
use crate::adapters::sqlite::store::Store;
use crate::config::{Backend, Settings};
use crate::core::engine::Ports;
use crate::core::engine::intake::Intake;
use crate::core::engine::tracer::Tracer;
use crate::core::engine::worker::Rules;
use crate::core::metrics::Metrics;
use crate::core::model::event::Kinds;
use crate::core::model::{Clock, IdSource, OrderIds, OrderKey, SystemClock, SystemIdSource};
use crate::core::ports::ledger::LedgerError;
use crate::core::ports::notifier::Subscribers;
use crate::core::ports::queue::QueueError;
use crate::core::ports::usage::Calls;
use crate::http;
use crate::http::{Access, Api, Limits};

/// The longest wait of a receive on the embedded backend, so that an idle worker stops at once.
const EMBEDDED_WAIT: Duration = Duration::from_millis(500);

/// Pages that the API renders at once, see [`Limits::pages`]: 26 MB of memory at most.
const PAGES_AT_ONCE: usize = 64;

/// Default stock of an unlisted item in a worker. Such orders come from other producers; `flux serve`
/// has its own rule for those that it accepts.
const UNLISTED_STOCK: u64 = 1;

/// How long a starting process retries a queue or ledger that does not respond. Shorter than the grace
/// period, so that a process that is stopped while it waits still ends in time.
const START_PATIENCE: Duration = Duration::from_secs(5);
const START_PAUSE: Duration = Duration::from_millis(250);

/// The consequence of having no Redis, for log lines.
const WITHOUT_LOCK: &str = "deciding without a lock, which is as safe, but slower when several workers \
                            decide orders of one item";

/// A wrong flag, setting, file or environment: one line that says what to change. Exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// How a process uses the order key that the processes of a sale share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyUse {
    /// Reads the stored key; for processes that accept no orders.
    Read,
    /// Stores a new key if none is stored.
    StoreIfMissing,
}

/// Opens and checks the queue and the ledger. On AWS it does not connect to Redis, which only
/// processes that decide orders or wait for decisions need.
pub async fn open(settings: &Settings, key_use: KeyUse) -> Result<Ports> {
    let ports = unchecked(settings, key_use).await.map_err(|e| e.why)?;
    check(&ports).await.map_err(|e| e.why)?;
    Ok(ports)
}

/// [`open`], with Redis.
pub async fn connect(settings: &Settings) -> Result<Ports> {
    with_redis(settings, open(settings, KeyUse::StoreIfMissing).await?).await
}

/// [`connect`] for `flux serve` and `flux work`: it logs the backend and where its data are, and
/// retries for [`START_PATIENCE`], so that a worker restarted during a sale survives a short failure
/// of a service.
pub async fn start(settings: &Settings) -> Result<Ports> {
    let begun = Instant::now();
    let may_retry = |e: &Unavailable| e.temporary && begun.elapsed() <= START_PATIENCE;
    let first = Once::new();
    let warn = |e: &Unavailable, _| {
        first.call_once(|| tracing::warn!("{}; retrying for {START_PATIENCE:?}", e.why));
    };
    let pauses = ConstantBuilder::new().with_delay(START_PAUSE).without_max_times();
    let open = || unchecked(settings, KeyUse::StoreIfMissing);
    let opened = open.retry(pauses).when(may_retry).notify(warn).await;
    let ports = opened.map_err(|e| e.why)?;
    let checked = (|| check(&ports)).retry(pauses).when(may_retry).notify(warn).await;
    checked.map_err(|e| e.why)?;
    ports.ledger.check_writers().await.map_err(|e| UsageError(e.to_string()))?;
    if let Some(webhooks) = &ports.webhooks {
        webhooks.begin().await.map_err(|e| UsageError(e.to_string()))?;
    }
    ports.queue.begin().await.map_err(|e| UsageError(e.to_string()))?;
    tracing::info!("{}", describe(settings, &ports));
    if settings.backend() == Backend::Embedded && store::is_readable_by_all(&settings.data) {
        let data = settings.data.display();
        tracing::warn!("every user of this machine can read {data}: run chmod 600 {data}");
    }
    with_redis(settings, ports).await
}

async fn unchecked(settings: &Settings, key_use: KeyUse) -> Result<Ports, Unavailable> {
    match settings.backend() {
        Backend::Embedded => embedded(settings).await.map_err(Unavailable::permanent),
        Backend::Aws => aws::open(settings, key_use).await,
    }
}

/// A queue or ledger that cannot be used.
struct Unavailable {
    why: anyhow::Error,
    /// True if a retry may succeed.
    temporary: bool,
}

impl Unavailable {
    fn permanent(why: impl Into<anyhow::Error>) -> Unavailable {
        Unavailable { why: why.into(), temporary: false }
    }
}

impl From<LedgerError> for Unavailable {
    fn from(e: LedgerError) -> Unavailable {
        let temporary = !matches!(e, LedgerError::Broken(_));
        Unavailable { why: UsageError(e.to_string()).into(), temporary }
    }
}

impl From<QueueError> for Unavailable {
    fn from(e: QueueError) -> Unavailable {
        let temporary = !matches!(e, QueueError::Broken(_));
        Unavailable { why: UsageError(e.to_string()).into(), temporary }
    }
}

async fn check(ports: &Ports) -> Result<(), Unavailable> {
    ports.queue.check().await?;
    Ok(ports.ledger.check().await?)
}

async fn with_redis(settings: &Settings, ports: Ports) -> Result<Ports> {
    match settings.backend() {
        Backend::Embedded => Ok(ports),
        Backend::Aws => redis::with_redis(settings, ports).await,
    }
}

async fn embedded(settings: &Settings) -> Result<Ports> {
    let store = Store::open(&settings.data).map_err(|e| UsageError(e.to_string()))?;
    let key = settings.order_key.as_ref().map(order_key);
    let key = store.order_key(key).await.map_err(|e| UsageError(e.to_string()))?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let visibility = Duration::from_millis(settings.visibility_timeout_ms);
    let webhooks = webhooks::embedded(settings, &store, &clock).await?;
    let backlog_max = settings.backlog_max;
    let queue = SqliteQueue::new(store.clone(), key, clock.clone(), visibility, backlog_max);
    Ok(Ports {
        queue: Arc::new(queue),
        ledger: Arc::new(SqliteLedger::new(store.clone(), key, clock.clone())),
        lock: Some(Arc::new(SqliteLock::new(store.clone(), clock.clone()))),
        notifier: Arc::new(SqliteNotifier::new(store.clone())),
        idempotency: None,
        webhooks,
        order_ids: order_ids(key),
        ids: Arc::new(SystemIdSource),
        calls: Arc::new(Calls::default()),
        tracer: Tracer::off(),
        metrics: Arc::new(Metrics::default()),
        heartbeats: Arc::new(SqliteHeartbeats::new(store, clock.clone())),
        clock,
    })
}

fn order_key(text: &SecretString) -> OrderKey {
    OrderKey::from_text(text.expose_secret())
}

fn order_ids(key: OrderKey) -> Arc<OrderIds> {
    let process = SystemIdSource.next_id() as u32;
    Arc::new(OrderIds::new(key, process))
}

/// The kinds of events that are sent to the webhook endpoint.
fn event_kinds(settings: &Settings) -> Kinds {
    Kinds::parse(&settings.webhook_events).expect("the settings were checked")
}

/// Blocks until the embedded stores of this process are closed, for some seconds at most. It returns even
/// if other threads hang.
pub fn wait_for_stores() {
    store::wait_until_closed();
}

/// Serves the API until stopped. Returns when every accepted order is in the queue.
pub async fn serve(
    settings: &Settings,
    ports: Ports,
    access: Arc<Access>,
    listener: TcpListener,
    stop: CancellationToken,
) {
    let (intake, sending) = Intake::start(&ports, settings.intake_max);
    let subscribers = Arc::new(Subscribers::default());
    let api = Api {
        intake,
        subscribers: subscribers.clone(),
        unlisted_stock: settings.unlisted_stock,
        access,
        backend: match settings.backend() {
            Backend::Embedded => "embedded",
            Backend::Aws => "aws",
        },
        limits: Limits {
            connections: descriptors::connections(settings.connections_max),
            read_timeout: Duration::from_millis(settings.read_timeout_ms),
            idle_timeout: Duration::from_millis(settings.idle_timeout_ms),
            pages: PAGES_AT_ONCE,
            drain: Duration::from_millis(settings.grace_ms) * 2 / 3,
        },
        ports: ports.clone(),
    };
    let listening = ports.notifier.listen(subscribers, stop.clone());
    tokio::join!(http::serve(listener, Arc::new(api), stop), sending, listening);
}

/// The rules of a worker that decides `concurrency` items at once.
pub fn rules(settings: &Settings, concurrency: usize) -> Rules {
    let wait = Duration::from_millis(settings.receive_wait_ms);
    let grace = Duration::from_millis(settings.grace_ms);
    Rules {
        unlisted_stock: settings.unlisted_stock.unwrap_or(UNLISTED_STOCK),
        concurrency,
        lease: Duration::from_millis(settings.lease_ms),
        visibility: Duration::from_millis(settings.visibility_timeout_ms),
        receive_wait: match settings.backend() {
            Backend::Embedded => wait.min(EMBEDDED_WAIT),
            Backend::Aws => wait,
        },
        drain: grace * 2 / 3,
    }
}

/// The backend and the location of its data, as a log line.
pub fn describe(settings: &Settings, ports: &Ports) -> String {
    match settings.backend() {
        Backend::Embedded => format!("backend embedded, data in {}", settings.data.display()),
        Backend::Aws => format!("backend aws, {}, {}", ports.queue, ports.ledger),
    }
}
