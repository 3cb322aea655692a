//! The worker: receives deliveries, hands their orders to lanes, one per item, and acknowledges
//! what is decided.

mod in_flight;
mod lane;
mod outbox;
mod repeats;
mod spans;

use std::collections::HashMap;
use std::fmt::Debug;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Ports;
use crate::core::model::{Decided, ItemId};
use crate::core::ports::lock::{Lock, LockError};
use crate::core::ports::queue::QueueError;
use in_flight::{InFlight, Pending};
use lane::Lane;

/// Orders that one worker has in flight at most (P8): received and not yet decided.
const IN_FLIGHT_MAX: usize = 8_192;
/// Pause after a receive that failed; doubled for each further one up to the second value.
const RECEIVE_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Pause before the orders of a lane that broke are given back: they may well break the next.
const AFTER_PANIC: Duration = Duration::from_secs(1);

/// How long a worker decides without the lock before it asks a failed service again.
const WITHOUT_LOCK: Duration = Duration::from_secs(1);

/// By what a worker works.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Stock of an item that nobody listed; 0 rejects its orders as `unknown_item`.
    pub unlisted_stock: u64,
    /// Items decided at once.
    pub concurrency: usize,
    /// How long a lock is held without being renewed.
    pub lease: Duration,
    /// How long a delivery stays invisible to others without being extended.
    pub visibility: Duration,
    /// How long one receive waits for orders; a stop waits as long.
    pub receive_wait: Duration,
    /// How long after a stop the orders in flight are still decided; the rest is given back.
    pub drain: Duration,
}

/// Told what happens, for a person to read along. Must not block.
pub trait Story: Debug + Send + Sync {
    fn lock_acquired(&self, item: &ItemId);
    /// About to be written.
    fn deciding(&self, decided: &[Decided]);
    /// Written for good.
    fn saved(&self, decided: &[Decided]);
}

#[derive(Debug)]
pub struct Worker {
    pub ports: Ports,
    pub rules: Rules,
    pub story: Arc<dyn Story>,
}

/// What a worker's lanes share.
#[derive(Debug)]
struct WorkerState {
    ports: Ports,
    rules: Rules,
    story: Arc<dyn Story>,
    in_flight: InFlight,
    /// Orders waiting for their lane; an item with an entry has a lane.
    lines: Mutex<HashMap<ItemId, Vec<Pending>>>,
    /// Lanes at work at once.
    slots: Arc<Semaphore>,
    /// Until when no lock is asked for, because its service was away.
    no_lock_until: Mutex<Option<Instant>>,
    /// On their way to the outbox of webhooks.
    publishing: TaskTracker,
    /// No new work is begun after this.
    halt: CancellationToken,
    /// Pauses are cut short after this.
    stop: CancellationToken,
}

impl Worker {
    /// Works until stopped; then takes no more, decides what is in flight as long as `drain` lasts,
    /// acknowledges it, gives the rest back and ends. Not safe to cancel: what was received would
    /// stay invisible until its visibility timeout.
    pub async fn run(self, stop: CancellationToken) {
        let (in_flight, acks) = InFlight::new(self.ports.queue.clone(), self.ports.metrics.clone());
        let state = Arc::new(WorkerState {
            slots: Arc::new(Semaphore::new(self.rules.concurrency)),
            ports: self.ports,
            rules: self.rules,
            story: self.story,
            in_flight,
            lines: Mutex::default(),
            no_lock_until: Mutex::default(),
            publishing: TaskTracker::new(),
            halt: CancellationToken::new(),
            stop: stop.clone(),
        });
        let lanes = TaskTracker::new();
        let acking = tokio::spawn(acks.run());
        let extending = tokio::spawn(extend(state.clone()));
        let halting = tokio::spawn(halt(state.clone()));
        while !stop.is_cancelled() {
            state.receive(&lanes).await;
        }
        lanes.close();
        lanes.wait().await;
        state.publishing.close();
        state.publishing.wait().await;
        halting.abort();
        extending.abort();
        state.in_flight.finish(acking).await;
    }
}

impl WorkerState {
    /// One receive, once there is room for what it may bring.
    async fn receive(self: &Arc<Self>, lanes: &TaskTracker) {
        let room = tokio::select! {
            biased;
            () = self.stop.cancelled() => return,
            room = self.in_flight.room(IN_FLIGHT_MAX) => room,
        };
        let mut pause = RECEIVE_PAUSE.0;
        let (asked, deliveries) = loop {
            let asked = Instant::now();
            match self.ports.queue.receive(room, self.rules.receive_wait).await {
                Ok(deliveries) => break (asked, deliveries),
                Err(e) => self.report(&e),
            }
            if !self.pause(pause).await {
                return;
            }
            pause = (pause * 2).min(RECEIVE_PAUSE.1);
        };
        if self.stop.is_cancelled() {
            let receipts: Vec<_> = deliveries.into_iter().map(|d| d.receipt).collect();
            self.in_flight.give_back(&receipts).await;
            return;
        }
        let again = deliveries.iter().filter(|delivery| delivery.receive_count > 1).count();
        if again > 0 {
            tracing::info!(again, "deliveries come again");
            self.ports.metrics.redeliveries.add(again as u64);
        }
        spans::of_receive(self, asked, &deliveries);
        for delivery in deliveries {
            for pending in self.in_flight.take(delivery) {
                self.line_up(pending, lanes);
            }
        }
    }

    fn report(&self, error: &QueueError) {
        tracing::error!("cannot receive from {}: {error}", self.ports.queue);
    }

    /// Puts an order into its item's line and opens a lane for it if there is none.
    fn line_up(self: &Arc<Self>, pending: Pending, lanes: &TaskTracker) {
        let item = pending.order.item.clone();
        let mut lines = self.lines();
        if let Some(line) = lines.get_mut(&item) {
            line.push(pending);
            return;
        }
        lines.insert(item.clone(), vec![pending]);
        drop(lines);
        lanes.spawn(self.clone().run_lane(item));
    }

    /// A lane that breaks takes its orders along, and nothing else: after a moment they are given
    /// back, to be received anew by whoever is first.
    async fn run_lane(self: Arc<Self>, item: ItemId) {
        let lane = Lane::new(self.clone(), item.clone());
        let Err(panic) = AssertUnwindSafe(lane.run()).catch_unwind().await else { return };
        let why = panic.downcast_ref::<String>().map(String::as_str);
        let why = why.or_else(|| panic.downcast_ref().copied()).unwrap_or("no reason given");
        tracing::error!(item_id = %item, "deciding its orders broke off, and is tried anew: {why}");
        self.pause(AFTER_PANIC).await;
        drop(self.lines().remove(&item));
        self.in_flight.give_up_lost().await;
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, HashMap<ItemId, Vec<Pending>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock, unless there is none or its service was away a moment ago.
    fn lock(&self) -> Option<Arc<dyn Lock>> {
        let until = *self.no_lock_until.lock().unwrap_or_else(PoisonError::into_inner);
        let away = until.is_some_and(|until| Instant::now() < until);
        self.ports.lock.clone().filter(|_| !away)
    }

    /// The lock's service failed: goes on without it for a moment.
    fn lock_is_away(&self, error: &LockError) {
        tracing::warn!("{error}; deciding without it, which is as safe");
        let until = Instant::now() + WITHOUT_LOCK;
        *self.no_lock_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    /// Waits; `false` when stopped meanwhile.
    async fn pause(&self, pause: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            () = tokio::time::sleep(pause) => true,
        }
    }
}

/// Begins no new work once the time to drain is over.
async fn halt(state: Arc<WorkerState>) {
    state.stop.cancelled().await;
    tokio::time::sleep(state.rules.drain).await;
    state.halt.cancel();
}

/// Keeps what is in flight invisible to others, for as long as the worker runs.
async fn extend(state: Arc<WorkerState>) {
    let third = state.rules.visibility / 3;
    loop {
        tokio::time::sleep(third).await;
        state.in_flight.give_up_lost().await;
        let old = state.in_flight.taken_before(Instant::now() - third / 2);
        if !old.is_empty()
            && let Err(e) = state.ports.queue.extend(&old).await
        {
            tracing::warn!("{} deliveries may come twice: {e}", old.len());
        }
    }
}
