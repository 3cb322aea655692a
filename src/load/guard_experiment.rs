//! `flux stress --without`: four independent workers decide one item's orders at the same time. A
//! barrier holds the first commit of each until all four have read the item.
//!
//! Without the lock no promise may break, because the ledger's condition accepts only one of the
//! four commits. Without the ledger's condition the workers must oversell every time, with the lock
//! too: the worker that has the lock waits at the barrier until its lease has expired, as a paused
//! process would, and the next worker gets the lock and reads the same state of the item.

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
use crate::core::ports::dead_letters::{DeadLetter, DlqCursor, DlqFilter, LetterPosition};
use crate::core::ports::ledger::{
    AuditedItem, AuditedOrder, Commit, Committed, Expect, ItemRemoved, ItemSet, Ledger,
    LedgerError, OrderRecord, Page, StoreAudit, StoreTotals,
};
use crate::core::ports::queue::{
    Arrival, Backlog, Delivery, Queue, QueueError, QueueLimits, QueuePosition, Receipt, Sent,
};

const WORKERS: usize = 4;
/// Longest wait of a worker at the barrier.
const BARRIER_WAIT: Duration = Duration::from_secs(10);
/// Lease of the lock. Short, so that it expires while the worker that has it is at the barrier.
const LEASE: Duration = Duration::from_millis(300);
/// Longest receive from the real queue; the other workers wait for its end.
const RECEIVE_WAIT: Duration = Duration::from_millis(50);

/// A guard that the experiment disables.
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

/// Four workers that decide at the same time, without the disabled guards.
#[derive(Debug)]
pub struct GuardExperiment {
    pub without: Vec<DisabledGuard>,
    barrier: Arc<Barrier>,
}

impl GuardExperiment {
    /// Creates the workers, which receive the orders that the API sends through `ports`. The lease
    /// and the receive wait of `rules` are replaced.
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
            let rules = Rules { lease: LEASE, receive_wait: RECEIVE_WAIT, ..rules.clone() };
            Worker { ports, rules, observer: observer.clone() }
        };
        let workers = (0..WORKERS).map(worker).collect();
        (GuardExperiment { without, barrier }, workers)
    }

    /// True if all four workers were at the barrier together. If not, the experiment proves
    /// nothing.
    pub fn met(&self) -> bool {
        *self.barrier.arrived.borrow() >= WORKERS && !self.barrier.missed.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
struct Barrier {
    arrived: watch::Sender<usize>,
    /// True if a worker timed out before all had arrived.
    missed: AtomicBool,
}

impl Barrier {
    async fn wait(&self) {
        let mut arrived = self.arrived.subscribe();
        self.arrived.send_modify(|count| *count += 1);
        let all = arrived.wait_for(|count| *count >= WORKERS);
        if timeout(BARRIER_WAIT, all).await.is_err() {
            self.missed.store(true, Ordering::Relaxed);
        }
    }
}

/// Distributes the orders of the real queue's deliveries among the workers, round robin.
#[derive(Debug)]
struct SharedQueue {
    real: Arc<dyn Queue>,
    /// Held by the worker that receives from the real queue.
    receiving: tokio::sync::Mutex<()>,
    deliveries: Mutex<SplitDeliveries>,
}

#[derive(Debug, Default)]
struct SplitDeliveries {
    inboxes: [VecDeque<Delivery>; WORKERS],
    next_worker: usize,
    next_delivery: u64,
    /// Deliveries with parts that are not acknowledged, by their number.
    open: HashMap<u64, OpenDelivery>,
}

#[derive(Debug)]
struct OpenDelivery {
    real: Receipt,
    parts: usize,
}

impl SharedQueue {
    fn new(real: Arc<dyn Queue>) -> Self {
        Self { real, receiving: Default::default(), deliveries: Default::default() }
    }

    fn deliveries(&self) -> MutexGuard<'_, SplitDeliveries> {
        self.deliveries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SplitDeliveries {
    /// Splits a delivery into one part per worker; workers that get none of its orders get no part.
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

    /// Marks a part as acknowledged. Returns the real receipt if it was the last part.
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

/// One worker's queue: the real queue, with the worker's share of the deliveries.
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
        let _receiving = self.queue.receiving.lock().await;
        // Another worker may have received orders for this one in the meantime.
        let share = self.share();
        if !share.is_empty() {
            return Ok(share);
        }
        let deliveries = self.queue.real.receive(max, wait.min(RECEIVE_WAIT)).await?;
        deliveries.into_iter().for_each(|delivery| self.queue.deliveries().split(delivery));
        Ok(self.share())
    }

    async fn ack(&self, receipts: &[Receipt]) -> Vec<Result<(), QueueError>> {
        let last: Vec<Option<Receipt>> = {
            let mut deliveries = self.queue.deliveries();
            receipts.iter().map(|part| deliveries.ack(part)).collect()
        };
        let mut results = Vec::with_capacity(last.len());
        for receipt in last {
            let result = match receipt {
                Some(real) => self.queue.real.ack(&[real]).await.pop().unwrap_or(Ok(())),
                None => Ok(()),
            };
            results.push(result);
        }
        results
    }

    async fn extend(&self, receipts: &[Receipt]) -> Result<(), QueueError> {
        let real = self.queue.deliveries().real(receipts);
        self.queue.real.extend(&real).await
    }

    /// Releases the whole delivery. Orders of it that other workers have already decided are
    /// recognised as decided when it is delivered again.
    async fn release(&self, receipts: &[Receipt]) -> Result<(), QueueError> {
        let real = self.queue.deliveries().real(receipts);
        let numbers = receipts.iter().filter_map(delivery_of);
        numbers.for_each(|number| drop(self.queue.deliveries().open.remove(&number)));
        self.queue.real.release(&real).await
    }

    async fn dead_letter(&self, letters: &[DeadLetter]) -> Result<(), QueueError> {
        self.queue.real.dead_letter(letters).await
    }

    fn dead_letter_cursor(
        &self,
        filter: &DlqFilter,
        after: Option<LetterPosition>,
    ) -> Box<dyn DlqCursor + '_> {
        self.queue.real.dead_letter_cursor(filter, after)
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

/// One worker's ledger: the real ledger, with the worker's first commit held at the barrier.
#[derive(Debug)]
struct HeldLedger {
    real: Arc<dyn Ledger>,
    barrier: Arc<Barrier>,
    /// True until the worker's first commit.
    first: AtomicBool,
    /// False if commits are made without the ledger's condition.
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
            self.barrier.wait().await;
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
