//! The state of the services behind the ports: messages, dead letters, items, decisions, locks,
//! idempotency. Changed only inside of a call, so each change happens whole and at one moment.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use flux::adapters::memory::heartbeats::MemoryHeartbeats;
use flux::core::engine::Ports;
use flux::core::engine::tracer::Tracer;
use flux::core::model::{Decided, Item, ItemId, Order, OrderId, OrderIds, OrderKey};
use flux::core::ports::dead_letters::DeadLetter;
use flux::core::ports::lock::Token;
use flux::core::ports::webhook_outbox::WebhookOutbox;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::guards::Guard;
use super::ledger::SimLedger;
use super::lock::SimRedis;
use super::outbox::SimWebhooks;
use super::process::Process;
use super::queue::SimQueue;
use super::world::World;

/// The queue that is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// SQS: at least once, in any order.
    Standard,
    /// SQS FIFO: an item's messages in order, one receiver at a time.
    Fifo,
    /// The embedded store: queue and ledger share their rows, and the queue compares repeats.
    Embedded,
}

/// The configuration of the services.
#[derive(Debug, Clone)]
pub struct Setup {
    pub backend: Backend,
    pub visibility: Duration,
    /// Receives after which a message is dead-lettered.
    pub receives_max: u32,
    pub backlog_max: usize,
    pub commit_max: usize,
    /// True if a receipt of an earlier delivery still deletes its message.
    pub old_receipts_count: bool,
    /// True if webhooks are configured: workers put an event of each decision.
    pub webhooks_enabled: bool,
    /// The disabled guard, if any.
    pub without: Option<Guard>,
}

#[derive(Debug)]
pub struct Message {
    pub body: String,
    /// Messages of one group have one receiver at a time.
    pub group: Option<ItemId>,
    pub visible: Instant,
    pub receives: u32,
    /// The receiver until it is visible again.
    pub holder: String,
    /// Number of its current receipt.
    pub receipt: u64,
}

#[derive(Debug)]
pub struct HeldLock {
    pub token: Token,
    pub until: Instant,
    pub wanted_until: Instant,
}

#[derive(Debug, Default)]
pub struct State {
    /// The last sequence number.
    pub last_seq: u64,
    /// By sequence number.
    pub messages: BTreeMap<u64, Message>,
    pub letters: BTreeMap<OrderId, DeadLetter>,
    /// Embedded: each order that was ever queued.
    pub rows: BTreeMap<OrderId, Order>,
    pub items: BTreeMap<ItemId, Item>,
    pub decided: BTreeMap<OrderId, Decided>,
    pub locks: BTreeMap<ItemId, HeldLock>,
    pub idempotency: BTreeMap<OrderId, u64>,
}

#[derive(Debug)]
pub struct Store {
    pub setup: Setup,
    pub world: Arc<World>,
    pub names: Arc<OrderIds>,
    state: Mutex<State>,
    /// Notified of changes, for waiting receivers.
    pub changes: Notify,
}

fn names(process: u32) -> Arc<OrderIds> {
    Arc::new(OrderIds::new(OrderKey::from_text("sale"), process))
}

impl Store {
    pub fn new(world: &Arc<World>, setup: Setup) -> Arc<Store> {
        let names = names(0);
        let state = Mutex::default();
        Arc::new(Store { setup, world: world.clone(), names, state, changes: Notify::new() })
    }

    /// The ports of a process. Without `redis` there is no lock and no idempotency store.
    pub fn ports(self: &Arc<Self>, process: &Arc<Process>, redis: bool) -> Ports {
        let process = process.clone();
        let store = self.clone();
        let services = Arc::new(SimRedis { process: process.clone(), store: store.clone() });
        let idempotency = redis && !self.is_embedded();
        let number = self.state().next_seq() as u32;
        let outbox = SimWebhooks { process: process.clone(), store: store.clone() };
        let outbox: Arc<dyn WebhookOutbox> = Arc::new(outbox);
        Ports {
            queue: Arc::new(SimQueue { process: process.clone(), store: store.clone() }),
            ledger: Arc::new(SimLedger::new(process.clone(), store)),
            lock: if redis { Some(services.clone()) } else { None },
            notifier: services.clone(),
            idempotency: if idempotency { Some(services) } else { None },
            webhooks: self.setup.webhooks_enabled.then_some(outbox),
            order_ids: names(number),
            clock: process.clone(),
            ids: process,
            calls: Arc::default(),
            metrics: Arc::default(),
            heartbeats: Arc::new(MemoryHeartbeats::default()),
            tracer: Tracer::off(),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn is_disabled(&self, guard: Guard) -> bool {
        self.setup.without == Some(guard)
    }

    pub fn is_embedded(&self) -> bool {
        self.setup.backend == Backend::Embedded
    }

    pub fn changed(&self) {
        self.changes.notify_waiters();
    }
}

impl State {
    pub fn next_seq(&mut self) -> u64 {
        self.last_seq += 1;
        self.last_seq
    }

    /// Embedded: removes decided or dead-lettered orders from the queue.
    pub fn close_rows(&mut self, orders: &[OrderId]) {
        self.messages.retain(|_, message| {
            !orders.iter().any(|id| message.body.contains(&format!("\"order_id\":\"{id}\"")))
        });
    }
}
