//! The experiment of `--without`: four independent workers decide one item's orders at the same time,
//! held at a barrier so that all have read before anyone commits.
//!
//! Without the lock nothing may go wrong: the ledger's condition lets one of the four commits
//! through. Without the ledger's condition they must oversell every time, lock or no lock: the
//! holder of the lock stands at the barrier past its lease, as a paused process would, and the
//! next one gets the lock and reads what the first one read.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::core::engine::Ports;
use crate::core::engine::worker::{Observer, Rules, Worker};
use crate::core::model::{Decided, Item, ItemChange, ItemId, Order, OrderId, UserId};
use crate::core::ports::dead_letters::{DeadLetter, LetterVisitor, Letters};
use crate::core::ports::ledger::{
    AuditedItem, AuditedOrder, Commit, Committed, Expect, ItemRemoved, ItemSet, Ledger,
    LedgerError, OrderRecord, Page, StoreAudit, StoreTotals,
};
use crate::core::ports::queue::{
    Arrival, Backlog, Delivery, Queue, QueueError, QueueLimits, QueuePosition, Receipt, Sent,
};

const WORKERS: usize = 4;
/// How long the first commit of a worker is held for those of the others.
const BARRIER_WAIT: Duration = Duration::from_secs(10);
/// The lease of the experiment: short, so that it passes while its holder stands at the barrier.
const LEASE: Duration = Duration::from_millis(300);
/// How long one worker may wait at the real queue while others wait for their turn at it.
const TURN: Duration = Duration::from_millis(50);

/// A guard that can be taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DisabledGuard {
    Lock,
    LedgerCondition,
}

impl DisabledGuard {
    pub fn as_str(self) -> &'static str {
        match self {
            DisabledGuard::Lock => "lock",
            DisabledGuard::LedgerCondition => "ledger-condition",
        }
    }
}

/// Four workers that decide at the same time, and the guards they lack.
#[derive(Debug)]
pub struct GuardExperiment {
    pub without: Vec<DisabledGuard>,
    barrier: Arc<Barrier>,
}

impl GuardExperiment {
    /// The workers, to be run beside the API whose orders come through `ports`. Of `rules`, the
    /// lease and the receive wait are the experiment's own.
    pub fn start(
        ports: &Ports,
        rules: &Rules,
        observer: &Arc<dyn Observer>,
        without: Vec<DisabledGuard>,
    ) -> (GuardExperiment, Vec<Worker>) {
        let barrier = Arc::new(Barrier::default());
        let queue = Arc::new(SharedQueue::new(ports.queue.clone()));
        let worker = |worker| {
            let ledger = HeldLedger {
                real: ports.ledger.clone(),
                barrier: barrier.clone(),
                first: AtomicBool::new(true),
                conditional: !without.contains(&DisabledGuard::LedgerCondition),
            };
            let lock = ports.lock.clone().filter(|_| !without.contains(&DisabledGuard::Lock));
            let view = WorkerQueueView { queue: queue.clone(), worker };
            let ports =
                Ports { queue: Arc::new(view), ledger: Arc::new(ledger), lock, ..ports.clone() };
            let rules = Rules { lease: LEASE, receive_wait: TURN, ..rules.clone() };
            Worker { ports, rules, observer: observer.clone() }
        };
        let workers = (0..WORKERS).map(worker).collect();
        (GuardExperiment { without, barrier }, workers)
    }

    /// Whether all four stood at the barrier together; if not, the experiment proves nothing.
    pub fn met(&self) -> bool {
        *self.barrier.arrived.borrow() >= WORKERS && !self.barrier.missed.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
struct Barrier {
    arrived: watch::Sender<usize>,
    /// Somebody left before all were there.
    missed: AtomicBool,
}

impl Barrier {
    async fn stand(&self) {
        let mut arrived = self.arrived.subscribe();
        self.arrived.send_modify(|count| *count += 1);
        let all = arrived.wait_for(|count| *count >= WORKERS);
        if timeout(BARRIER_WAIT, all).await.is_err() {
            self.missed.store(true, Ordering::Relaxed);
        }
    }
}

/// The real queue's deliveries, split among the workers order by order.
#[derive(Debug)]
struct SharedQueue {
    real: Arc<dyn Queue>,
    /// One worker receives from the real queue at a time.
    turn: tokio::sync::Mutex<()>,
    deliveries: Mutex<SplitDeliveries>,
}

#[derive(Debug, Default)]
struct SplitDeliveries {
    inboxes: [VecDeque<Delivery>; WORKERS],
    next_worker: usize,
    next_delivery: u64,
    /// Deliveries with parts that are not acknowledged, by number.
    open: HashMap<u64, OpenDelivery>,
}

#[derive(Debug)]
struct OpenDelivery {
    real: Receipt,
    parts: usize,
}

impl SharedQueue {
    fn new(real: Arc<dyn Queue>) -> Self {
        Self { real, turn: Default::default(), deliveries: Default::default() }
    }

    fn deliveries(&self) -> MutexGuard<'_, SplitDeliveries> {
        self.deliveries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SplitDeliveries {
    /// Splits a delivery into as many parts as there are workers, or orders in it.
    fn split(&mut self, delivery: Delivery) {
        let mut parts: [Vec<(Arrival, Order)>; WORKERS] = Default::default();
        for order in delivery.orders {
            parts[self.next_worker].push(order);
            self.next_worker = (self.next_worker + 1) % WORKERS;
        }
        let number = self.next_delivery;
        self.next_delivery += 1;
        let count = parts.iter().filter(|part| !part.is_empty()).count();
        self.open.insert(number, OpenDelivery { real: delivery.receipt, parts: count });
        for (worker, orders) in parts.into_iter().enumerate().filter(|(_, part)| !part.is_empty()) {
            let receipt = Receipt(format!("{number}/{worker}"));
            let receive_count = delivery.receive_count;
            self.inboxes[worker].push_back(Delivery { receipt, orders, receive_count });
        }
    }

    /// Counts a part as acknowledged; returns the real receipt with the last one.
    fn ack(&mut self, part: &Receipt) -> Option<Receipt> {
        let number = delivery_of(part)?;
        let delivery = self.open.get_mut(&number)?;
        delivery.parts -= 1;
        if delivery.parts > 0 {
            return None;
        }
        self.open.remove(&number).map(|delivery| delivery.real)
    }

    fn real(&self, parts: &[Receipt]) -> Vec<Receipt> {
        let numbers = parts.iter().filter_map(delivery_of);
        numbers.filter_map(|number| Some(self.open.get(&number)?.real.clone())).collect()
    }
}

fn delivery_of(part: &Receipt) -> Option<u64> {
    part.0.split('/').next()?.parse().ok()
}

/// The queue as one worker sees it: the real queue, with its own share of the deliveries.
#[derive(Debug)]
struct WorkerQueueView {
    queue: Arc<SharedQueue>,
    worker: usize,
}

impl fmt::Display for WorkerQueueView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "share {} of {}", self.worker, self.queue.real)
    }
}

impl WorkerQueueView {
    fn share(&self) -> Vec<Delivery> {
        self.queue.deliveries().inboxes[self.worker].drain(..).collect()
    }
}

#[async_trait]
impl Queue for WorkerQueueView {
    fn limits(&self) -> QueueLimits {
        self.queue.real.limits()
    }

    async fn send(&self, orders: &[Order]) -> Vec<Result<Sent, QueueError>> {
        self.queue.real.send(orders).await
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>, QueueError> {
        let share = self.share();
        if !share.is_empty() {
            return Ok(share);
        }
        let _turn = self.queue.turn.lock().await;
        let share = self.share();
        if !share.is_empty() {
            return Ok(share);
        }
        let deliveries = self.queue.real.receive(max, wait.min(TURN)).await?;
        deliveries.into_iter().for_each(|delivery| self.queue.deliveries().split(delivery));
        Ok(self.share())
    }

    async fn ack(&self, receipts: &[Receipt]) -> Vec<Result<(), QueueError>> {
        let last: Vec<Option<Receipt>> = {
            let mut deliveries = self.queue.deliveries();
            receipts.iter().map(|part| deliveries.ack(part)).collect()
        };
        let mut answers = Vec::with_capacity(last.len());
        for receipt in last {
            let answer = match receipt {
                Some(real) => self.queue.real.ack(&[real]).await.pop().unwrap_or(Ok(())),
                None => Ok(()),
            };
            answers.push(answer);
        }
        answers
    }

    async fn extend(&self, receipts: &[Receipt]) -> Result<(), QueueError> {
        let real = self.queue.deliveries().real(receipts);
        self.queue.real.extend(&real).await
    }

    /// Gives the whole delivery back; what the others decided of it will be found decided.
    async fn release(&self, receipts: &[Receipt]) -> Result<(), QueueError> {
        let real = self.queue.deliveries().real(receipts);
        let numbers = receipts.iter().filter_map(delivery_of);
        numbers.for_each(|number| drop(self.queue.deliveries().open.remove(&number)));
        self.queue.real.release(&real).await
    }

    async fn dead_letter(&self, letters: &[DeadLetter]) -> Result<(), QueueError> {
        self.queue.real.dead_letter(letters).await
    }

    async fn walk_letters(
        &self,
        letters: &Letters,
        visitor: &mut dyn LetterVisitor,
    ) -> Result<bool, QueueError> {
        self.queue.real.walk_letters(letters, visitor).await
    }

    async fn position(&self, order: OrderId) -> Result<Option<QueuePosition>, QueueError> {
        self.queue.real.position(order).await
    }

    async fn backlog(&self) -> Result<Backlog, QueueError> {
        self.queue.real.backlog().await
    }

    async fn check(&self) -> Result<(), QueueError> {
        self.queue.real.check().await
    }
}

/// The real ledger, with one worker's first commit held at the barrier.
#[derive(Debug)]
struct HeldLedger {
    real: Arc<dyn Ledger>,
    barrier: Arc<Barrier>,
    first: AtomicBool,
    conditional: bool,
}

impl fmt::Display for HeldLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, first commits held", self.real)
    }
}

#[async_trait]
impl Ledger for HeldLedger {
    fn max_commit(&self) -> usize {
        self.real.max_commit()
    }

    async fn commit(&self, commit: &Commit) -> Result<Committed, LedgerError> {
        if self.first.swap(false, Ordering::Relaxed) {
            self.barrier.stand().await;
        }
        if self.conditional {
            return self.real.commit(commit).await;
        }
        self.real.commit(&Commit { expect: Expect::Anything, ..commit.clone() }).await
    }

    async fn item(&self, item: &ItemId) -> Result<Option<Item>, LedgerError> {
        self.real.item(item).await
    }

    async fn find(&self, orders: &[OrderId]) -> Result<Vec<Option<OrderRecord>>, LedgerError> {
        self.real.find(orders).await
    }

    async fn record(&self, rejected: &[Decided]) -> Result<Vec<OrderId>, LedgerError> {
        self.real.record(rejected).await
    }

    async fn set_item(&self, item: &ItemId, change: ItemChange) -> Result<ItemSet, LedgerError> {
        self.real.set_item(item, change).await
    }

    async fn remove_item(&self, item: &ItemId) -> Result<ItemRemoved, LedgerError> {
        self.real.remove_item(item).await
    }

    async fn totals(&self) -> Result<Option<StoreTotals>, LedgerError> {
        self.real.totals().await
    }

    async fn items(&self, after: Option<&str>, limit: usize) -> Result<Page<Item>, LedgerError> {
        self.real.items(after, limit).await
    }

    async fn inventory(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<(ItemId, UserId)>, LedgerError> {
        self.real.inventory(after, limit).await
    }

    async fn audit_items(&self, after: Option<&str>) -> Result<Page<AuditedItem>, LedgerError> {
        self.real.audit_items(after).await
    }

    async fn audit_orders(
        &self,
        item: Option<&ItemId>,
        after: Option<&str>,
    ) -> Result<Page<AuditedOrder>, LedgerError> {
        self.real.audit_orders(item, after).await
    }

    async fn audit_store(&self) -> Result<StoreAudit, LedgerError> {
        self.real.audit_store().await
    }

    async fn check(&self) -> Result<(), LedgerError> {
        self.real.check().await
    }
}
