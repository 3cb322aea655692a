//! The race without a guard: four independent workers decide one item's orders at the same time,
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
use crate::core::engine::worker::{Rules, Story, Worker};
use crate::core::model::{Decided, Item, ItemChange, ItemId, Order, OrderId, UserId};
use crate::core::ports::dead_letters::{DeadLetter, LetterVisitor, Letters};
use crate::core::ports::ledger::{
    AuditedItem, AuditedOrder, Commit, Committed, Expect, ItemRemoved, ItemSet, Ledger,
    LedgerError, OrderRecord, Page, StoreAudit, Tally,
};
use crate::core::ports::queue::{
    Arrival, Backlog, Delivery, Line, Queue, QueueError, QueueLimits, Receipt, Sent,
};

const WORKERS: usize = 4;
/// How long the first commit of a worker is held for those of the others.
const BARRIER_WAIT: Duration = Duration::from_secs(10);
/// The lease of the race: short, so that it passes while its holder stands at the barrier.
const LEASE: Duration = Duration::from_millis(300);
/// How long one worker may wait at the real queue while others wait for their turn at it.
const TURN: Duration = Duration::from_millis(50);

/// What can be taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guard {
    Lock,
    LedgerCondition,
}

impl Guard {
    pub fn as_str(self) -> &'static str {
        match self {
            Guard::Lock => "lock",
            Guard::LedgerCondition => "ledger-condition",
        }
    }
}

/// Four workers that are about to race, and what they race without.
#[derive(Debug)]
pub struct Race {
    pub without: Vec<Guard>,
    barrier: Arc<Barrier>,
}

impl Race {
    /// The workers, to be run beside the API whose orders come through `ports`. Of `rules`, the
    /// lease and the receive wait are the race's own.
    pub fn start(
        ports: &Ports,
        rules: &Rules,
        story: &Arc<dyn Story>,
        without: Vec<Guard>,
    ) -> (Race, Vec<Worker>) {
        let barrier = Arc::new(Barrier::default());
        let table = Arc::new(Table::new(ports.queue.clone()));
        let worker = |seat| {
            let ledger = HeldLedger {
                real: ports.ledger.clone(),
                barrier: barrier.clone(),
                first: AtomicBool::new(true),
                conditional: !without.contains(&Guard::LedgerCondition),
            };
            let lock = ports.lock.clone().filter(|_| !without.contains(&Guard::Lock));
            let queue = Arc::new(Seat { table: table.clone(), seat });
            let ports = Ports { queue, ledger: Arc::new(ledger), lock, ..ports.clone() };
            let rules = Rules { lease: LEASE, receive_wait: TURN, ..rules.clone() };
            Worker { ports, rules, story: story.clone() }
        };
        let workers = (0..WORKERS).map(worker).collect();
        (Race { without, barrier }, workers)
    }

    /// Whether all four stood at the barrier together; if not, the race proves nothing.
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

/// The real queue's deliveries, dealt out order by order.
#[derive(Debug)]
struct Table {
    real: Arc<dyn Queue>,
    /// One seat asks the real queue at a time.
    turn: tokio::sync::Mutex<()>,
    dealt: Mutex<Dealt>,
}

#[derive(Debug)]
struct Dealt {
    inboxes: [VecDeque<Delivery>; WORKERS],
    next_seat: usize,
    next_deal: u64,
    /// Per deal: the real receipt, and how many parts of it are not acknowledged.
    deals: HashMap<u64, (Receipt, usize)>,
}

impl Table {
    fn new(real: Arc<dyn Queue>) -> Self {
        let (inboxes, deals) = Default::default();
        let dealt = Mutex::new(Dealt { inboxes, next_seat: 0, next_deal: 0, deals });
        Self { real, turn: tokio::sync::Mutex::default(), dealt }
    }

    fn dealt(&self) -> MutexGuard<'_, Dealt> {
        self.dealt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dealt {
    /// Splits a delivery into as many parts as there are seats, or orders in it.
    fn deal(&mut self, delivery: Delivery) {
        let mut parts: [Vec<(Arrival, Order)>; WORKERS] = Default::default();
        for order in delivery.orders {
            parts[self.next_seat].push(order);
            self.next_seat = (self.next_seat + 1) % WORKERS;
        }
        let deal = self.next_deal;
        self.next_deal += 1;
        let dealt = parts.iter().filter(|part| !part.is_empty()).count();
        self.deals.insert(deal, (delivery.receipt, dealt));
        for (seat, orders) in parts.into_iter().enumerate().filter(|(_, part)| !part.is_empty()) {
            let receipt = Receipt(format!("{deal}/{seat}"));
            let receive_count = delivery.receive_count;
            self.inboxes[seat].push_back(Delivery { receipt, orders, receive_count });
        }
    }

    /// Counts a part as acknowledged; returns the real receipt with the last one.
    fn ack(&mut self, part: &Receipt) -> Option<Receipt> {
        let deal = deal_of(part)?;
        let (_, parts) = self.deals.get_mut(&deal)?;
        *parts -= 1;
        if *parts > 0 {
            return None;
        }
        self.deals.remove(&deal).map(|(receipt, _)| receipt)
    }

    fn real(&self, parts: &[Receipt]) -> Vec<Receipt> {
        let deals = parts.iter().filter_map(deal_of);
        deals.filter_map(|deal| Some(self.deals.get(&deal)?.0.clone())).collect()
    }
}

fn deal_of(part: &Receipt) -> Option<u64> {
    part.0.split('/').next()?.parse().ok()
}

/// One worker's place at the table: the real queue, with its own share of the deliveries.
#[derive(Debug)]
struct Seat {
    table: Arc<Table>,
    seat: usize,
}

impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "share {} of {}", self.seat, self.table.real)
    }
}

impl Seat {
    fn share(&self) -> Vec<Delivery> {
        self.table.dealt().inboxes[self.seat].drain(..).collect()
    }
}

#[async_trait]
impl Queue for Seat {
    fn limits(&self) -> QueueLimits {
        self.table.real.limits()
    }

    async fn send(&self, orders: &[Order]) -> Vec<Result<Sent, QueueError>> {
        self.table.real.send(orders).await
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>, QueueError> {
        let share = self.share();
        if !share.is_empty() {
            return Ok(share);
        }
        let _turn = self.table.turn.lock().await;
        let share = self.share();
        if !share.is_empty() {
            return Ok(share);
        }
        let deliveries = self.table.real.receive(max, wait.min(TURN)).await?;
        deliveries.into_iter().for_each(|delivery| self.table.dealt().deal(delivery));
        Ok(self.share())
    }

    async fn ack(&self, receipts: &[Receipt]) -> Vec<Result<(), QueueError>> {
        let last: Vec<Option<Receipt>> = {
            let mut dealt = self.table.dealt();
            receipts.iter().map(|part| dealt.ack(part)).collect()
        };
        let mut answers = Vec::with_capacity(last.len());
        for receipt in last {
            let answer = match receipt {
                Some(real) => self.table.real.ack(&[real]).await.pop().unwrap_or(Ok(())),
                None => Ok(()),
            };
            answers.push(answer);
        }
        answers
    }

    async fn extend(&self, receipts: &[Receipt]) -> Result<(), QueueError> {
        let real = self.table.dealt().real(receipts);
        self.table.real.extend(&real).await
    }

    /// Gives the whole delivery back; what the others decided of it will be found decided.
    async fn release(&self, receipts: &[Receipt]) -> Result<(), QueueError> {
        let real = self.table.dealt().real(receipts);
        let deals = receipts.iter().filter_map(deal_of);
        deals.for_each(|deal| drop(self.table.dealt().deals.remove(&deal)));
        self.table.real.release(&real).await
    }

    async fn dead_letter(&self, letters: &[DeadLetter]) -> Result<(), QueueError> {
        self.table.real.dead_letter(letters).await
    }

    async fn walk_letters(
        &self,
        letters: &Letters,
        visitor: &mut dyn LetterVisitor,
    ) -> Result<bool, QueueError> {
        self.table.real.walk_letters(letters, visitor).await
    }

    async fn line(&self, order: OrderId) -> Result<Option<Line>, QueueError> {
        self.table.real.line(order).await
    }

    async fn backlog(&self) -> Result<Backlog, QueueError> {
        self.table.real.backlog().await
    }

    async fn check(&self) -> Result<(), QueueError> {
        self.table.real.check().await
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

    async fn tally(&self) -> Result<Option<Tally>, LedgerError> {
        self.real.tally().await
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
