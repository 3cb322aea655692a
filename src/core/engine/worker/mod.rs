//! The worker: receives deliveries, passes their orders to lanes, one per item, and acknowledges
//! deliveries whose orders are decided.

mod in_flight;
mod lane;
mod outbox;
mod recent;
mod repeats;
mod spans;

use std::collections::HashMap;
use std::fmt::Debug;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// The most orders that one worker has in flight (P8): received and not yet decided.
const IN_FLIGHT_MAX: usize = 8_192;
/// Pause after a failed receive; doubled after each further one.
const RECEIVE_PAUSE_MIN: Duration = Duration::from_millis(100);
const RECEIVE_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Pause before the orders of a lane that panicked are released: they may cause the next panic.
const PAUSE_AFTER_PANIC: Duration = Duration::from_secs(1);

/// How long a worker decides without the lock after the lock's service failed.
const WITHOUT_LOCK: Duration = Duration::from_secs(1);

/// A worker's settings.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Stock of an unlisted item; 0 rejects its orders as `unknown_item`.
    pub unlisted_stock: u64,
    /// The most items decided at once.
    pub concurrency: usize,
    /// Lease of a lock.
    pub lease: Duration,
    /// Visibility timeout: how long a delivery stays invisible to other workers unless extended.
    pub visibility: Duration,
    /// How long one receive waits for orders. A stop waits for the receive.
    pub receive_wait: Duration,
    /// How long after a stop the orders in flight are still decided. The rest are released.
    pub drain: Duration,
}

/// Is called at each step of a lane, to print it. Must not block.
pub trait Observer: Debug + Send + Sync {
    fn lock_acquired(&self, item: &ItemId);
    /// Before the decisions are written.
    fn deciding(&self, decided: &[Decided]);
    /// After the decisions are written.
    fn saved(&self, decided: &[Decided]);
}

#[derive(Debug)]
pub struct Worker {
    pub ports: Ports,
    pub rules: Rules,
    pub observer: Arc<dyn Observer>,
}

/// What a worker's lanes share.
#[derive(Debug)]
struct WorkerState {
    ports: Ports,
    rules: Rules,
    observer: Arc<dyn Observer>,
    in_flight: InFlight,
    /// Orders waiting for their lane. An item has an entry exactly while it has a lane, so a lane
    /// that ends removes its entry under the lock under which it found no orders.
    waiting: Mutex<HashMap<ItemId, Vec<Pending>>>,
    /// One permit for each lane that may run at once.
    slots: Arc<Semaphore>,
    /// Until when the lock is not used, because its service failed.
    no_lock_until: Mutex<Option<Instant>>,
    /// Tasks that put events into the outbox.
    outbox_writes: TaskTracker,
    /// Cancelled when the time to drain is over: no batch begins after that.
    halt: CancellationToken,
    /// Cancelled by a stop: nothing is received after that, and pauses end early.
    stop: CancellationToken,
}

impl Worker {
    /// Receives and decides until `stop` is cancelled. Then receives no more, decides the orders in
    /// flight for at most `drain`, acknowledges them and releases the rest. Not safe to cancel:
    /// received orders would stay invisible until their visibility timeout.
    pub async fn run(self, stop: CancellationToken) {
        let (in_flight, acks) = InFlight::new(self.ports.queue.clone(), self.ports.metrics.clone());
        let state = Arc::new(WorkerState {
            slots: Arc::new(Semaphore::new(self.rules.concurrency)),
            ports: self.ports,
            rules: self.rules,
            observer: self.observer,
            in_flight,
            waiting: Mutex::default(),
            no_lock_until: Mutex::default(),
            outbox_writes: TaskTracker::new(),
            halt: CancellationToken::new(),
            stop: stop.clone(),
        });
        let lanes = TaskTracker::new();
        let acks_task = tokio::spawn(acks.run());
        let extend_task = tokio::spawn(extend(state.clone()));
        let halt_task = tokio::spawn(halt_after_drain(state.clone()));
        while !stop.is_cancelled() {
            state.receive(&lanes).await;
        }
        lanes.close();
        lanes.wait().await;
        state.outbox_writes.close();
        state.outbox_writes.wait().await;
        halt_task.abort();
        extend_task.abort();
        state.in_flight.shut_down(acks_task).await;
    }
}

impl WorkerState {
    /// Receives once, when there is capacity for more orders.
    async fn receive(self: &Arc<Self>, lanes: &TaskTracker) {
        let capacity = tokio::select! {
            biased;
            () = self.stop.cancelled() => return,
            capacity = self.in_flight.wait_for_capacity(IN_FLIGHT_MAX) => capacity,
        };
        let mut pause = RECEIVE_PAUSE_MIN;
        let (asked, deliveries) = loop {
            let asked = Instant::now();
            match self.ports.queue.receive(capacity, self.rules.receive_wait).await {
                Ok(deliveries) => break (asked, deliveries),
                Err(e) => self.report(&e),
            }
            if !self.pause(pause).await {
                return;
            }
            pause = (pause * 2).min(RECEIVE_PAUSE_MAX);
        };
        if self.stop.is_cancelled() {
            let receipts: Vec<_> = deliveries.into_iter().map(|d| d.receipt).collect();
            self.in_flight.release(&receipts).await;
            return;
        }
        let count = deliveries.iter().filter(|delivery| delivery.receive_count > 1).count();
        if count > 0 {
            tracing::info!(count, "redeliveries received");
            self.ports.metrics.redeliveries.add(count as u64);
        }
        spans::of_receive(self, asked, &deliveries);
        for delivery in deliveries {
            for pending in self.in_flight.add(delivery) {
                self.enqueue(pending, lanes);
            }
        }
    }

    fn report(&self, error: &QueueError) {
        tracing::error!("receive from {} failed: {error}", self.ports.queue);
    }

    /// Adds an order to its item's waiting orders, and starts the item's lane if it has none.
    fn enqueue(self: &Arc<Self>, pending: Pending, lanes: &TaskTracker) {
        let item = pending.order.item.clone();
        let mut waiting = self.waiting();
        if let Some(orders) = waiting.get_mut(&item) {
            orders.push(pending);
            return;
        }
        waiting.insert(item.clone(), vec![pending]);
        drop(waiting);
        lanes.spawn(self.clone().run_lane(item));
    }

    /// Runs a lane and handles its panic: after a pause, the lane's orders are released, to be
    /// received by any worker. Other lanes continue.
    ///
    /// The orders of the current batch are dropped by the panic; the waiting ones are dropped here,
    /// with the item's entry, so that the next order starts a new lane. Both drops add to the lost
    /// deliveries that `release_lost` collects.
    async fn run_lane(self: Arc<Self>, item: ItemId) {
        let lane = Lane::new(self.clone(), item.clone());
        let Err(panic) = AssertUnwindSafe(lane.run()).catch_unwind().await else { return };
        let why = panic.downcast_ref::<String>().map(String::as_str);
        let why = why.or_else(|| panic.downcast_ref().copied()).unwrap_or("no reason given");
        tracing::error!(item_id = %item, "lane panicked; its orders will be redelivered: {why}");
        self.pause(PAUSE_AFTER_PANIC).await;
        drop(self.waiting().remove(&item));
        self.in_flight.release_lost().await;
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<ItemId, Vec<Pending>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock; `None` if none is configured or its service failed within [`WITHOUT_LOCK`].
    fn lock(&self) -> Option<Arc<dyn Lock>> {
        let until = *self.no_lock_until.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = until.is_some_and(|until| Instant::now() < until);
        self.ports.lock.clone().filter(|_| !failed)
    }

    /// Stops using the lock for [`WITHOUT_LOCK`], after its service failed.
    fn suspend_lock(&self, error: &LockError) {
        tracing::warn!("{error}; deciding without the lock, which is slower and as safe");
        let until = Instant::now() + WITHOUT_LOCK;
        *self.no_lock_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    /// Waits; returns false if the worker was stopped before the end.
    async fn pause(&self, pause: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            () = tokio::time::sleep(pause) => true,
        }
    }
}

/// Halts the worker when the time to drain is over.
async fn halt_after_drain(state: Arc<WorkerState>) {
    state.stop.cancelled().await;
    tokio::time::sleep(state.rules.drain).await;
    state.halt.cancel();
}

/// Extends the visibility timeout of the deliveries in flight while the worker runs.
async fn extend(state: Arc<WorkerState>) {
    let third = state.rules.visibility / 3;
    loop {
        tokio::time::sleep(third).await;
        state.in_flight.release_lost().await;
        let old = state.in_flight.received_before(Instant::now() - third / 2);
        if !old.is_empty()
            && let Err(e) = state.ports.queue.extend(&old).await
        {
            let count = old.len();
            tracing::warn!(count, "extend failed; deliveries may be redelivered: {e}");
        }
    }
}
