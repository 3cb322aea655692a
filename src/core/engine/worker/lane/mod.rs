//! A lane: decides one item's orders in batches, oldest first.
//!
//! It keeps the lock and a cached copy of the item while orders arrive. The copy may be outdated at
//! any time, because the lock is only for speed: the commit's condition on the item's version
//! detects that.

mod lock;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::WorkerState;
use super::in_flight::Pending;
use super::repeats::{dead_letter, extract_others, split_by_id};
use super::spans;
use crate::core::engine::tracer::OpenSpan;
use crate::core::model::{Decided, Item, ItemId, Order, OrderId, decide};
use crate::core::ports::dead_letters::DeadLetter;
use crate::core::ports::ledger::{Commit, Committed, Expect, LedgerError, OrderRecord, OrderState};
use crate::core::ports::lock::Token;
use crate::core::ports::queue::QueueError;
use lock::HeldLock;

/// How long a lane without orders waits for more before it ends, if no other lane needs its slot.
const LINGER: Duration = Duration::from_millis(10);
/// The least time between the starts of two batches, unless a full commit is waiting: a commit of
/// one order costs the store as much as a commit of ten.
const BATCH_INTERVAL: Duration = Duration::from_millis(2);
/// Size of a batch, in full commits, while the item rejects all orders.
const REJECTED_COMMITS: usize = 4;
/// Pause after a failed batch, before jitter; doubled after each further one.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(50);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(3);

pub struct Lane {
    state: Arc<WorkerState>,
    item: ItemId,
    token: Token,
    held: Option<HeldLock>,
    /// The item as last read or written by this lane; `None` if it must be read.
    cached: Option<Item>,
    /// True if the last read found the item sold out, closed or removed.
    rejects_all: bool,
    /// Start of the last batch.
    batch_started: Option<Instant>,
    /// Span of the current batch.
    span: OpenSpan,
}

/// Why a batch is not decided, or only in part.
#[derive(Debug, thiserror::Error)]
enum BatchError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("dead-lettering failed: {0}")]
    DeadLetter(#[from] QueueError),
    #[error("stopped while waiting for the lock")]
    Stopped,
}

impl Lane {
    pub fn new(state: Arc<WorkerState>, item: ItemId) -> Self {
        Self {
            token: Token(state.ports.ids.next_id()),
            state,
            item,
            held: None,
            cached: None,
            rejects_all: false,
            batch_started: None,
            span: OpenSpan::none(),
        }
    }

    /// Decides until no orders of the item are waiting, or the worker halts.
    ///
    /// Orders that are still undecided when it returns are dropped, and their deliveries released:
    /// [`super::in_flight::InFlight::shut_down`] does that after a stop.
    pub async fn run(mut self) {
        let state = self.state.clone();
        let Ok(_slot) = state.slots.clone().acquire_owned().await else { return };
        let mut pause = RETRY_PAUSE_MIN;
        while !state.halt.is_cancelled() {
            let Some(mut batch) = self.next_batch().await else { break };
            match self.decide(&mut batch).await {
                Ok(()) => pause = RETRY_PAUSE_MIN,
                Err(BatchError::Stopped) => break,
                Err(e) => {
                    let orders = batch.len();
                    tracing::warn!(item_id = %self.item, orders, "batch failed; retrying: {e}");
                    self.cached = None;
                    self.put_back(batch);
                    if !state.pause(self.jitter(pause)).await {
                        break;
                    }
                    pause = (pause * 2).min(RETRY_PAUSE_MAX);
                }
            }
        }
        self.unlock().await;
    }

    /// The oldest waiting orders, without their repeats; `None` when the lane ends.
    ///
    /// The check for waiting orders and the removal of the item's entry happen under one lock. So
    /// an order that arrives while the lane ends either is found here, or finds no entry and starts
    /// a new lane.
    async fn next_batch(&mut self) -> Option<Vec<Pending>> {
        self.pace_batches().await;
        let mut lingered = self.state.slots.available_permits() == 0;
        loop {
            {
                let mut waiting = self.state.waiting();
                let orders = waiting.get_mut(&self.item)?;
                if !orders.is_empty() {
                    orders.sort_by_key(|pending| pending.arrival);
                    // Rejections alone need not fit into one commit.
                    let commits = if self.rejects_all { REJECTED_COMMITS } else { 1 };
                    let count = orders.len().min(commits * self.state.ports.ledger.max_commit());
                    let (batch, others) = split_by_id(orders.drain(..count));
                    orders.extend(others);
                    return Some(batch);
                }
                if lingered || self.state.stop.is_cancelled() {
                    waiting.remove(&self.item);
                    return None;
                }
            }
            lingered = true;
            self.state.pause(LINGER).await;
        }
    }

    /// Waits until the next batch may start, see [`BATCH_INTERVAL`].
    async fn pace_batches(&mut self) {
        let full = self.state.ports.ledger.max_commit();
        let waiting = self.state.waiting().get(&self.item).map_or(0, Vec::len);
        if waiting < full
            && let Some(started) = self.batch_started
        {
            self.state.pause(BATCH_INTERVAL.saturating_sub(started.elapsed())).await;
        }
        self.batch_started = Some(Instant::now());
    }

    fn put_back(&self, batch: Vec<Pending>) {
        self.state.waiting().entry(self.item.clone()).or_default().extend(batch);
    }

    /// Decides the whole batch. On an error, the orders left in it are undecided.
    async fn decide(&mut self, batch: &mut Vec<Pending>) -> Result<(), BatchError> {
        self.span = spans::of_batch(&self.state, batch);
        let decided = self.decide_all(batch).await;
        let mut span = std::mem::replace(&mut self.span, OpenSpan::none());
        if let Err(e @ (BatchError::Ledger(_) | BatchError::DeadLetter(_))) = &decided {
            span.fail(|| e.to_string());
        }
        decided
    }

    /// Decides the batch in as many commits as needed.
    ///
    /// A commit is safe whatever the cached item says, because it is refused if the item has
    /// changed. A rejection is not: it is recorded without a condition on the item. So all orders
    /// are rejected only by an item that was read after they were received, or a restock in between
    /// would strand its units (P2). If the cached item rejects all, the loop reads it again.
    async fn decide_all(&mut self, batch: &mut Vec<Pending>) -> Result<(), BatchError> {
        while !batch.is_empty() {
            if self.rejects_all {
                self.cached = self.item().await?;
                self.rejects_all = self.cached.as_ref().is_some_and(Item::rejects_all);
            }
            if self.rejects_all {
                let item = self.cached.take();
                self.reject(batch, item.as_ref()).await?;
                continue;
            }
            if self.lock().await? {
                self.add_waiting(batch);
            }
            let read_now = self.cached.is_none();
            if read_now {
                self.cached = self.read().await?;
            }
            match self.cached.clone() {
                None => self.reject(batch, None).await?,
                Some(item) if item.rejects_all() => {
                    self.rejects_all = true;
                    self.unlock().await;
                    if read_now {
                        self.reject(batch, Some(&item)).await?;
                    }
                }
                Some(item) => {
                    let count = self.state.ports.ledger.max_commit().min(batch.len());
                    let rest = batch.split_off(count);
                    let result = self.commit(batch, &item).await;
                    batch.extend(rest);
                    result?;
                }
            }
        }
        Ok(())
    }

    /// The item, or the unlisted item that its first order creates.
    async fn read(&self) -> Result<Option<Item>, LedgerError> {
        let unlisted = self.state.rules.unlisted_stock;
        let item = self.item().await?;
        Ok(item.or_else(|| (unlisted > 0).then(|| Item::unlisted(self.item.clone(), unlisted))))
    }

    async fn item(&self) -> Result<Option<Item>, LedgerError> {
        self.span.call("ledger.item", self.state.ports.ledger.item(&self.item)).await
    }

    /// Rejects the whole batch, without the lock and without a write to the item. `item` rejects
    /// all orders and was read after the batch was received; `None` if it does not exist.
    async fn reject(
        &mut self,
        batch: &mut Vec<Pending>,
        item: Option<&Item>,
    ) -> Result<(), BatchError> {
        let decisions = decide(item, orders(batch), self.state.ports.clock.now()).decided;
        self.state.observer.deciding(&decisions);
        let record = self.state.ports.ledger.record(&decisions);
        let decided_before = self.span.call("ledger.record", record).await?;
        self.complete(batch, decisions, &decided_before).await
    }

    /// Writes one commit. Orders that turn out to be decided or dead-lettered leave the batch; the
    /// others stay in it for the caller's next commit.
    ///
    /// A refused commit wrote nothing: the item changed, or some orders had been decided before. A
    /// commit without a response may have been written: the ledger is asked which orders it
    /// contains. If the process is killed here, the orders are redelivered and found decided or
    /// not.
    async fn commit(&mut self, batch: &mut Vec<Pending>, item: &Item) -> Result<(), BatchError> {
        let outcome = decide(Some(item), orders(batch), self.state.ports.clock.now());
        let Some(next) = outcome.item else { return Ok(()) };
        self.state.observer.deciding(&outcome.decided);
        let expect = Expect::Version(item.version);
        let commit = Commit { item: next, expect, decided: outcome.decided };
        let metrics = &self.state.ports.metrics;
        let write = self.state.ports.ledger.commit(&commit);
        match self.span.call("ledger.commit", write).await {
            Ok(Committed::Written) => {
                self.cached = Some(commit.item);
                metrics.decided_together.record(commit.decided.len() as u64);
                if let Some(held) = &mut self.held {
                    held.commits += 1;
                }
                self.complete(batch, commit.decided, &[]).await?;
            }
            Ok(Committed::Refused { item_changed, decided_before }) => {
                let count = decided_before.len();
                let item_id = &self.item;
                tracing::debug!(%item_id, item_changed, decided_before = count, "commit refused");
                metrics.conflicts.add(1);
                if item_changed {
                    self.cached = None;
                }
                let found = self.find_closed(&decided_before).await?;
                self.drop_closed(batch, &decided_before, found).await?;
            }
            Err(LedgerError::OutcomeUnknown(why)) => {
                let item_id = &self.item;
                tracing::warn!(%item_id, "commit unconfirmed; reading its orders: {why}");
                metrics.unknown_commits.add(1);
                self.cached = None;
                let found = self.find_closed(&ids(batch)).await?;
                let closed: Vec<OrderId> = found.iter().map(|record| record.order.id).collect();
                self.drop_closed(batch, &closed, found).await?;
            }
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }

    /// The records of those orders that are decided or dead-lettered.
    async fn find_closed(&self, orders: &[OrderId]) -> Result<Vec<OrderRecord>, LedgerError> {
        let find = self.state.ports.ledger.find(orders);
        let found = self.span.call("ledger.find", find).await?;
        let is_queued = |record: &OrderRecord| matches!(record.state, OrderState::Queued);
        Ok(found.into_iter().flatten().filter(|record| !is_queued(record)).collect())
    }

    /// Completes a written batch. The decisions of the orders in `closed` were not written, because
    /// these were decided or dead-lettered before. On an error only those orders are left.
    async fn complete(
        &self,
        batch: &mut Vec<Pending>,
        mut decided: Vec<Decided>,
        closed: &[OrderId],
    ) -> Result<(), BatchError> {
        let is_closed = |pending: &mut Pending| closed.contains(&pending.order.id);
        let left: Vec<Pending> = batch.extract_if(.., is_closed).collect();
        decided.retain(|d| !closed.contains(&d.order.id));
        self.state.observer.saved(&decided);
        let ports = &self.state.ports;
        ports.metrics.decided(&decided, ports.clock.now());
        spans::of_decisions(&self.state, &self.span, batch, &decided);
        let ids = decided.iter().map(|one| one.order.id).collect();
        self.state.complete_batch(decided, std::mem::replace(batch, left));
        self.notify(ids);
        if batch.is_empty() {
            return Ok(());
        }
        let found = self.find_closed(closed).await?;
        self.drop_closed(batch, closed, found).await
    }

    /// Removes from the batch and completes the orders in `closed`, which are decided or
    /// dead-lettered; `found` are their records. Other requests under the ids of decided orders are
    /// dead-lettered first. On an error the batch is as before.
    async fn drop_closed(
        &self,
        batch: &mut Vec<Pending>,
        closed: &[OrderId],
        found: Vec<OrderRecord>,
    ) -> Result<(), BatchError> {
        let others = extract_others(batch, &found);
        if !others.is_empty() {
            let ids = &self.state.ports.order_ids;
            let letters: Vec<DeadLetter> =
                others.iter().map(|other| dead_letter(&other.order, ids)).collect();
            if let Err(e) = self.state.ports.queue.dead_letter(&letters).await {
                batch.extend(others);
                return Err(e.into());
            }
            self.state.in_flight.complete(others);
        }
        let is_closed = |pending: &mut Pending| closed.contains(&pending.order.id);
        let done: Vec<Pending> = batch.extract_if(.., is_closed).collect();
        if done.is_empty() {
            return Ok(());
        }
        spans::of_found(&self.state, &self.span, &done);
        let ids = ids(&done);
        let decided = found.into_iter().filter(|record| ids.contains(&record.order.id));
        self.state.complete_found(done, decided.filter_map(OrderRecord::decided).collect());
        self.notify(ids);
        Ok(())
    }

    /// Notifies subscribers of these orders. Runs in a task, so that no order waits for it.
    fn notify(&self, orders: Vec<OrderId>) {
        let notifier = self.state.ports.notifier.clone();
        tokio::spawn(async move { notifier.publish(&orders).await });
    }

    /// Adds the orders that arrived while the lane waited for the lock.
    fn add_waiting(&self, batch: &mut Vec<Pending>) {
        if let Some(orders) = self.state.waiting().get_mut(&self.item)
            && !orders.is_empty()
        {
            batch.append(orders);
            batch.sort_by_key(|pending| pending.arrival);
            (*batch, *orders) = split_by_id(batch.drain(..));
        }
    }

    /// A random time from half of the pause to one and a half of it.
    fn jitter(&self, pause: Duration) -> Duration {
        let random = self.state.ports.ids.next_id() as u8;
        pause / 2 + pause * u32::from(random) / 255
    }
}

fn orders(batch: &[Pending]) -> Vec<Order> {
    batch.iter().map(|pending| pending.order.clone()).collect()
}

fn ids(batch: &[Pending]) -> Vec<OrderId> {
    batch.iter().map(|pending| pending.order.id).collect()
}
