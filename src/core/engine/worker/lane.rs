//! A lane: decides one item's orders, a batch at a time, oldest first.
//!
//! It keeps the lock and what it knows of the item for as long as orders keep coming. What it
//! knows may be wrong at any time (the lock is only for speed): the commit's condition finds out.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::WorkerState;
use super::in_flight::Pending;
use super::repeats::{each_once, extract_others, letter};
use super::spans;
use crate::core::engine::tracer::OpenSpan;
use crate::core::model::{Decided, Item, ItemId, Order, OrderId, decide};
use crate::core::ports::dead_letters::DeadLetter;
use crate::core::ports::ledger::{Commit, Committed, Expect, LedgerError, OrderRecord, OrderState};
use crate::core::ports::lock::{Acquired, Renewed, Token};
use crate::core::ports::queue::QueueError;

/// How long a lane waits for more orders before it ends, if no other lane waits for its slot.
const LINGER: Duration = Duration::from_millis(10);
/// The least time between the beginnings of two batches, unless a commit is full: a commit costs
/// the store as much for one order as for ten.
const GATHER: Duration = Duration::from_millis(2);
/// A lock that others want is given up after so long or so many commits, whichever is first.
const TURN: (Duration, u32) = (Duration::from_millis(200), 10);
/// Pause between two tries for a busy lock, before jitter.
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// How many commits' worth of orders a lane takes at once when its item turns all away.
const REJECTED_TOGETHER: usize = 4;
/// Pause after a failed call to the ledger, before jitter; doubled for each further one up to
/// the second value.
const LEDGER_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(3));

pub struct Lane {
    state: Arc<WorkerState>,
    item: ItemId,
    token: Token,
    held: Option<Held>,
    /// The item as the ledger has it, unless somebody else wrote it since.
    known: Option<Item>,
    /// It did so when it was last read: sold out, or closed.
    turns_all_away: bool,
    /// When the batch before this one was begun.
    begun: Option<Instant>,
    /// Of the batch that is being decided.
    span: OpenSpan,
}

/// The lock in flight.
struct Held {
    since: Instant,
    /// When the lease was last known whole, and how many commits ago.
    renewed: Instant,
    commits: u32,
}

/// Why a batch was not decided.
#[derive(Debug, thiserror::Error)]
enum BatchError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// What must be dead-lettered could not be.
    #[error(transparent)]
    Letters(#[from] QueueError),
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
            known: None,
            turns_all_away: false,
            begun: None,
            span: OpenSpan::none(),
        }
    }

    /// Decides until the item's line is empty.
    pub async fn run(mut self) {
        let state = self.state.clone();
        let Ok(_slot) = state.slots.clone().acquire_owned().await else { return };
        let mut pause = LEDGER_PAUSE.0;
        while !state.halt.is_cancelled() {
            let Some(mut batch) = self.next_batch().await else { break };
            match self.decide(&mut batch).await {
                Ok(()) => pause = LEDGER_PAUSE.0,
                Err(BatchError::Stopped) => break,
                Err(e) => {
                    let orders = batch.len();
                    tracing::warn!(item_id = %self.item, orders, "{e}; trying again");
                    self.known = None;
                    self.put_back(batch);
                    if !state.pause(self.jitter(pause)).await {
                        break;
                    }
                    pause = (pause * 2).min(LEDGER_PAUSE.1);
                }
            }
        }
        self.unlock().await;
    }

    /// The oldest orders of the line, each once; `None` when the lane is over.
    async fn next_batch(&mut self) -> Option<Vec<Pending>> {
        self.gather().await;
        let mut lingered = self.state.slots.available_permits() == 0;
        loop {
            {
                let mut lines = self.state.lines();
                let line = lines.get_mut(&self.item)?;
                if !line.is_empty() {
                    line.sort_by_key(|pending| pending.arrival);
                    // Rejections alone need not fit into one commit.
                    let commits = if self.turns_all_away { REJECTED_TOGETHER } else { 1 };
                    let count = line.len().min(commits * self.state.ports.ledger.max_commit());
                    let (batch, others) = each_once(line.drain(..count));
                    line.extend(others);
                    return Some(batch);
                }
                if lingered || self.state.stop.is_cancelled() {
                    lines.remove(&self.item);
                    return None;
                }
            }
            lingered = true;
            self.state.pause(LINGER).await;
        }
    }

    /// Waits until the next batch may begin.
    async fn gather(&mut self) {
        let full = self.state.ports.ledger.max_commit();
        let waiting = self.state.lines().get(&self.item).map_or(0, Vec::len);
        if waiting < full
            && let Some(begun) = self.begun
        {
            self.state.pause(GATHER.saturating_sub(begun.elapsed())).await;
        }
        self.begun = Some(Instant::now());
    }

    fn put_back(&self, batch: Vec<Pending>) {
        self.state.lines().entry(self.item.clone()).or_default().extend(batch);
    }

    /// Decides the whole batch; on a hitch, what is left in it is undecided.
    async fn decide(&mut self, batch: &mut Vec<Pending>) -> Result<(), BatchError> {
        self.span = spans::of_batch(&self.state, batch);
        let decided = self.decide_all(batch).await;
        let mut span = std::mem::replace(&mut self.span, OpenSpan::none());
        if let Err(e @ (BatchError::Ledger(_) | BatchError::Letters(_))) = &decided {
            span.fail(|| e.to_string());
        }
        decided
    }

    async fn decide_all(&mut self, batch: &mut Vec<Pending>) -> Result<(), BatchError> {
        while !batch.is_empty() {
            if self.turns_all_away {
                self.known = self.item().await?;
                self.turns_all_away = self.known.as_ref().is_some_and(Item::turns_all_away);
            }
            if self.turns_all_away {
                let known = self.known.take();
                self.reject(batch, known.as_ref()).await?;
                continue;
            }
            if self.lock().await? {
                self.join_line(batch);
            }
            // What is known from before this batch came must not turn it away: the item may have
            // been restocked since, and only a commit would find out.
            let fresh = self.known.is_none();
            if fresh {
                self.known = self.read().await?;
            }
            match self.known.clone() {
                None => self.reject(batch, None).await?,
                Some(item) if item.turns_all_away() => {
                    self.turns_all_away = true;
                    self.unlock().await;
                    if fresh {
                        self.reject(batch, Some(&item)).await?;
                    }
                }
                Some(item) => {
                    let most = self.state.ports.ledger.max_commit().min(batch.len());
                    let later = batch.split_off(most);
                    let written = self.commit(batch, &item).await;
                    batch.extend(later);
                    written?;
                }
            }
        }
        Ok(())
    }

    async fn read(&self) -> Result<Option<Item>, LedgerError> {
        let unlisted = self.state.rules.unlisted_stock;
        let item = self.item().await?;
        Ok(item.or_else(|| (unlisted > 0).then(|| Item::unlisted(self.item.clone(), unlisted))))
    }

    async fn item(&self) -> Result<Option<Item>, LedgerError> {
        self.span.call("ledger.item", self.state.ports.ledger.item(&self.item)).await
    }

    /// Rejections that need no units: neither lock nor item write. `item` was read after the
    /// batch was received, and turns all away; or there is no such item.
    async fn reject(
        &mut self,
        batch: &mut Vec<Pending>,
        item: Option<&Item>,
    ) -> Result<(), BatchError> {
        let verdict = decide(item, orders(batch), self.state.ports.clock.now());
        self.state.story.deciding(&verdict.decided);
        let record = self.state.ports.ledger.record(&verdict.decided);
        let seen = self.span.call("ledger.record", record).await?;
        self.complete(batch, verdict.decided, &seen).await
    }

    async fn commit(&mut self, batch: &mut Vec<Pending>, item: &Item) -> Result<(), BatchError> {
        let verdict = decide(Some(item), orders(batch), self.state.ports.clock.now());
        let Some(next) = verdict.item else { return Ok(()) };
        self.state.story.deciding(&verdict.decided);
        let expect = Expect::Version(item.version);
        let commit = Commit { item: next, expect, decided: verdict.decided };
        let metrics = &self.state.ports.metrics;
        let written = self.state.ports.ledger.commit(&commit);
        match self.span.call("ledger.commit", written).await {
            Ok(Committed::Written) => {
                self.known = Some(commit.item);
                metrics.decided_together.record(commit.decided.len() as u64);
                if let Some(held) = &mut self.held {
                    held.commits += 1;
                }
                self.complete(batch, commit.decided, &[]).await?;
            }
            Ok(Committed::Refused { item_moved, seen }) => {
                let seen_before = seen.len();
                tracing::debug!(item_id = %self.item, item_moved, seen_before, "refused");
                metrics.conflicts.add(1);
                if item_moved {
                    self.known = None;
                }
                let found = self.closed_among(&seen).await?;
                self.drop_seen(batch, &seen, found).await?;
            }
            Err(LedgerError::OutcomeUnknown(why)) => {
                tracing::warn!(item_id = %self.item, "{why}; reading what was written");
                metrics.unknown_commits.add(1);
                self.known = None;
                let found = self.closed_among(&ids(batch)).await?;
                let seen: Vec<OrderId> = found.iter().map(|record| record.order.id).collect();
                self.drop_seen(batch, &seen, found).await?;
            }
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }

    /// What the ledger has of those that wait no more.
    async fn closed_among(&self, orders: &[OrderId]) -> Result<Vec<OrderRecord>, LedgerError> {
        let found = self.state.ports.ledger.find(orders);
        let found = self.span.call("ledger.find", found).await?;
        let waits = |record: &OrderRecord| matches!(record.state, OrderState::Queued);
        Ok(found.into_iter().flatten().filter(|record| !waits(record)).collect())
    }

    /// The batch is decided, but for `seen`, which was so before. On an error only those are left.
    async fn complete(
        &self,
        batch: &mut Vec<Pending>,
        mut decided: Vec<Decided>,
        seen: &[OrderId],
    ) -> Result<(), BatchError> {
        let is_seen = |pending: &mut Pending| seen.contains(&pending.order.id);
        let known: Vec<Pending> = batch.extract_if(.., is_seen).collect();
        decided.retain(|d| !seen.contains(&d.order.id));
        self.state.story.saved(&decided);
        let ports = &self.state.ports;
        ports.metrics.decided(&decided, ports.clock.now());
        spans::of_decisions(&self.state, &self.span, batch, &decided);
        let ids = decided.iter().map(|one| one.order.id).collect();
        self.state.complete_batch(decided, std::mem::replace(batch, known));
        self.publish(ids);
        if batch.is_empty() {
            return Ok(());
        }
        let found = self.closed_among(seen).await?;
        self.drop_seen(batch, seen, found).await
    }

    /// Takes out what has a decision already, or is dead-lettered; the ledger has `found` of it.
    /// Other requests under the ids of decided orders are dead-lettered. On an error the batch is
    /// whole.
    async fn drop_seen(
        &self,
        batch: &mut Vec<Pending>,
        seen: &[OrderId],
        found: Vec<OrderRecord>,
    ) -> Result<(), BatchError> {
        let others = extract_others(batch, &found);
        if !others.is_empty() {
            let names = &self.state.ports.order_ids;
            let letters: Vec<DeadLetter> =
                others.iter().map(|other| letter(&other.order, names)).collect();
            if let Err(e) = self.state.ports.queue.dead_letter(&letters).await {
                batch.extend(others);
                return Err(e.into());
            }
            self.state.in_flight.let_go(others);
        }
        let is_seen = |pending: &mut Pending| seen.contains(&pending.order.id);
        let gone: Vec<Pending> = batch.extract_if(.., is_seen).collect();
        if gone.is_empty() {
            return Ok(());
        }
        spans::of_seen(&self.state, &self.span, &gone);
        let ids = ids(&gone);
        let decided = found.into_iter().filter(|record| ids.contains(&record.order.id));
        self.state.let_go(gone, decided.filter_map(OrderRecord::decided).collect());
        self.publish(ids);
        Ok(())
    }

    /// Tells those who wait, without making those in line wait for it.
    fn publish(&self, orders: Vec<OrderId>) {
        let notifier = self.state.ports.notifier.clone();
        tokio::spawn(async move { notifier.publish(&orders).await });
    }

    /// Adds what came into the line while the lane waited for the lock.
    fn join_line(&self, batch: &mut Vec<Pending>) {
        if let Some(line) = self.state.lines().get_mut(&self.item)
            && !line.is_empty()
        {
            batch.append(line);
            batch.sort_by_key(|pending| pending.arrival);
            (*batch, *line) = each_once(batch.drain(..));
        }
    }

    /// Holds the lock when it returns, or goes on without one if the lock's service is away.
    /// Whether it was not held before.
    async fn lock(&mut self) -> Result<bool, BatchError> {
        self.keep_lock().await;
        let Some(lock) = self.state.lock() else { return Ok(false) };
        let (lease, new) = (self.state.rules.lease, self.held.is_none());
        let (metrics, since) = (&self.state.ports.metrics, Instant::now());
        while self.held.is_none() {
            let asked = Instant::now();
            let acquired = lock.acquire(&self.item, self.token, lease);
            match self.span.call("lock.acquire", acquired).await {
                Ok(Acquired::Yes) => {
                    self.state.story.lock_acquired(&self.item);
                    metrics.lock_wait.record_time(since.elapsed());
                    self.known = None;
                    self.held = Some(Held { since: asked, renewed: asked, commits: 0 });
                }
                Ok(Acquired::Busy) => {
                    metrics.lock_busy.add(1);
                    if !self.state.pause(self.jitter(LOCK_PAUSE)).await {
                        return Err(BatchError::Stopped);
                    }
                }
                Err(e) => {
                    self.state.lock_is_away(&e);
                    return Ok(false);
                }
            }
        }
        Ok(new)
    }

    /// Renews the lease in time; gives the lock up when it was lost, or others want it and had
    /// to wait long enough.
    async fn keep_lock(&mut self) {
        let (Some(lock), Some(held)) = (self.state.lock(), &self.held) else { return };
        let lease = self.state.rules.lease;
        let turn_over = held.since.elapsed() >= TURN.0 || held.commits >= TURN.1;
        if !turn_over && held.renewed.elapsed() < lease / 3 {
            return;
        }
        let asked = Instant::now();
        let renewed = lock.renew(&self.item, self.token, lease);
        match self.span.call("lock.renew", renewed).await {
            Ok(Renewed::Yes { wanted: false }) => {
                self.held = Some(Held { since: asked, renewed: asked, commits: 0 });
            }
            Ok(Renewed::Yes { wanted: true }) if turn_over => {
                self.unlock().await;
                self.state.pause(self.jitter(2 * LOCK_PAUSE)).await;
            }
            Ok(Renewed::Yes { wanted: true }) => {
                if let Some(held) = &mut self.held {
                    held.renewed = asked;
                }
            }
            Ok(Renewed::Lost) => {
                self.state.ports.metrics.lock_lost.add(1);
                self.held = None;
            }
            Err(e) => {
                self.state.lock_is_away(&e);
                self.held = None;
            }
        }
    }

    async fn unlock(&mut self) {
        self.known = None;
        if let (Some(lock), Some(_)) = (self.state.lock(), self.held.take())
            && let Err(e) = lock.release(&self.item, self.token).await
        {
            tracing::warn!(item_id = %self.item, "{e}; the lock ends with its lease");
        }
    }

    /// Between half of the pause and one and a half of it.
    fn jitter(&self, pause: Duration) -> Duration {
        let chance = self.state.ports.ids.next_id() as u8;
        pause / 2 + pause * u32::from(chance) / 255
    }
}

fn orders(batch: &[Pending]) -> Vec<Order> {
    batch.iter().map(|pending| pending.order.clone()).collect()
}

fn ids(batch: &[Pending]) -> Vec<OrderId> {
    batch.iter().map(|pending| pending.order.id).collect()
}
