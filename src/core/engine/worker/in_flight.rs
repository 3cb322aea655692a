//! What a worker has in flight: orders received and not yet decided, and the deliveries that
//! contain them. A delivery is acknowledged when its last order is decided.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::recent::RecentOrders;
use crate::core::engine::failpoints;
use crate::core::engine::failpoints::Failpoint;
use crate::core::metrics::Metrics;
use crate::core::model::Order;
use crate::core::ports::queue::{Arrival, Delivery, Queue, QueueError, Receipt};

/// Acknowledgements sent in one call.
const ACKS_PER_CALL: usize = 500;
/// Attempts at one acknowledgement. After the last the delivery is left to be redelivered; its
/// orders are then found decided.
const ACK_ATTEMPTS: u32 = 5;
/// Pause after the first failed attempt; it grows by as much with each further one.
const ACK_PAUSE: Duration = Duration::from_millis(50);

/// An undecided order, with the delivery that is acknowledged after its decision.
#[derive(Debug)]
pub struct Pending {
    pub arrival: Arrival,
    pub order: Order,
    guard: Arc<DeliveryGuard>,
    /// Guards of the repeats of this order that arrived before its decision.
    repeats: Vec<Arc<DeliveryGuard>>,
}

impl Pending {
    pub fn received(&self) -> Instant {
        self.guard.received
    }

    /// How often the order has been delivered, this time included. From 1.
    pub fn attempt(&self) -> u32 {
        self.guard.receive_count
    }

    /// Merges a repeat of the same order into this one: both are completed by one decision.
    pub fn absorb(&mut self, repeat: Pending) {
        self.repeats.push(repeat.guard);
        self.repeats.extend(repeat.repeats);
    }
}

/// A delivery with undecided orders, shared by the [`Pending`]s of all its orders.
///
/// Its drop detects orders that were lost. A delivery whose orders were all completed is dropped
/// with `undecided` at 0. If a lane panics, its orders are dropped with it, `undecided` stays above
/// 0, and the drop adds the delivery to `lost`, to be released by [`InFlight::release_lost`].
#[derive(Debug)]
struct DeliveryGuard {
    receipt: Receipt,
    received: Instant,
    receive_count: u32,
    undecided: AtomicUsize,
    lost: Arc<LostDeliveries>,
}

/// Deliveries whose lane panicked, each with the number of its undecided orders.
type LostDeliveries = Mutex<Vec<(Receipt, usize)>>;

impl Drop for DeliveryGuard {
    fn drop(&mut self) {
        let undecided = *self.undecided.get_mut();
        if undecided > 0 {
            let receipt = self.receipt.clone();
            self.lost.lock().unwrap_or_else(PoisonError::into_inner).push((receipt, undecided));
        }
    }
}

#[derive(Debug)]
pub struct InFlight {
    queue: Arc<dyn Queue>,
    /// `None` ends [`Acks::run`].
    acks: mpsc::UnboundedSender<Option<Receipt>>,
    /// Deliveries in flight, with the time of their receive.
    deliveries: Mutex<HashMap<Receipt, Instant>>,
    orders: AtomicUsize,
    completed: Notify,
    metrics: Arc<Metrics>,
    recent: Mutex<RecentOrders>,
    lost: Arc<LostDeliveries>,
}

impl InFlight {
    pub fn new(queue: Arc<dyn Queue>, metrics: Arc<Metrics>) -> (InFlight, Acks) {
        let (acks, receipts) = mpsc::unbounded_channel();
        let acknowledge = Acks { queue: queue.clone(), receipts };
        let in_flight = InFlight {
            queue,
            acks,
            deliveries: Mutex::default(),
            orders: AtomicUsize::new(0),
            completed: Notify::new(),
            metrics,
            recent: Mutex::default(),
            lost: Arc::default(),
        };
        (in_flight, acknowledge)
    }

    /// Waits until at most half of `max` orders are in flight; returns how many more fit.
    pub async fn wait_for_capacity(&self, max: usize) -> usize {
        loop {
            // Created before the count is read, so that no completion is missed between the two.
            let completed = self.completed.notified();
            let orders = self.orders.load(Ordering::Acquire);
            if orders <= max / 2 {
                return max - orders;
            }
            completed.await;
        }
    }

    /// Registers a delivery and returns its undecided orders. Repeats of recently decided orders
    /// are completed at once.
    pub fn add(&self, delivery: Delivery) -> Vec<Pending> {
        if delivery.orders.is_empty() {
            return Vec::new();
        }
        self.orders.fetch_add(delivery.orders.len(), Ordering::AcqRel);
        self.metrics.in_flight.add(delivery.orders.len() as u64);
        let received = Instant::now();
        self.deliveries().insert(delivery.receipt.clone(), received);
        if failpoints::is_off(Failpoint::AckAfterCommit) {
            let _stopping = self.acks.send(Some(delivery.receipt.clone()));
        }
        let undecided = AtomicUsize::new(delivery.orders.len());
        let lost = self.lost.clone();
        let Delivery { receipt, orders, receive_count } = delivery;
        let guard = Arc::new(DeliveryGuard { receipt, received, receive_count, undecided, lost });
        let pending = orders.into_iter().map(|(arrival, order)| Pending {
            arrival,
            order,
            guard: guard.clone(),
            repeats: Vec::new(),
        });
        let (repeats, undecided): (Vec<_>, Vec<_>) = {
            let recent = self.recent();
            pending.partition(|pending| recent.contains(&pending.order))
        };
        self.mark_decided(repeats);
        undecided
    }

    /// Completes orders whose decision is in the ledger, and remembers them for their repeats.
    pub fn mark_decided(&self, decided: Vec<Pending>) {
        {
            let mut recent = self.recent();
            decided.iter().for_each(|pending| recent.add(&pending.order));
        }
        self.complete(decided);
    }

    /// Completes orders that were decided by another worker or dead-lettered. They are not
    /// remembered: a dead-lettered order may be redriven, and must be decided then.
    ///
    /// The delivery of each last order is acknowledged. If the process is killed before that, the
    /// delivery is redelivered and its orders are found decided.
    pub fn complete(&self, closed: Vec<Pending>) {
        let mut completed = 0;
        for pending in closed {
            for guard in pending.repeats.into_iter().chain([pending.guard]) {
                completed += 1;
                if guard.undecided.fetch_sub(1, Ordering::AcqRel) == 1 {
                    self.deliveries().remove(&guard.receipt);
                    let _stopping = self.acks.send(Some(guard.receipt.clone()));
                }
            }
        }
        self.remove_orders(completed);
    }

    /// The deliveries in flight that were received at `limit` or before.
    pub fn received_before(&self, limit: Instant) -> Vec<Receipt> {
        let deliveries = self.deliveries();
        let old = deliveries.iter().filter(|(_, received)| **received <= limit);
        old.map(|(receipt, _)| receipt.clone()).collect()
    }

    /// Makes deliveries visible to other workers at once.
    pub async fn release(&self, receipts: &[Receipt]) {
        if let Err(e) = self.queue.release(receipts).await {
            let count = receipts.len();
            tracing::warn!(
                count,
                "release failed; deliveries return after their visibility timeout: {e}"
            );
        }
    }

    /// Removes the deliveries whose orders were lost when a lane panicked, and releases them.
    pub async fn release_lost(&self) {
        let lost = std::mem::take(&mut *self.lost.lock().unwrap_or_else(PoisonError::into_inner));
        if lost.is_empty() {
            return;
        }
        let orders = lost.iter().map(|(_, orders)| orders).sum();
        let receipts: Vec<Receipt> = lost.into_iter().map(|(receipt, _)| receipt).collect();
        self.deliveries().retain(|receipt, _| !receipts.contains(receipt));
        self.remove_orders(orders);
        self.release(&receipts).await;
    }

    /// Sends the last acknowledgements, waits for `acks_task` and releases all other deliveries.
    pub async fn shut_down(&self, acks_task: JoinHandle<()>) {
        let left: Vec<Receipt> = self.deliveries().drain().map(|(receipt, _)| receipt).collect();
        let _stopping = self.acks.send(None);
        let (_acked, ()) = tokio::join!(acks_task, self.release(&left));
        // Releases what the queue held only for the deliveries of the last acknowledgements.
        self.release(&[]).await;
    }

    fn remove_orders(&self, count: usize) {
        self.orders.fetch_sub(count, Ordering::AcqRel);
        self.metrics.in_flight.sub(count as u64);
        self.completed.notify_waiters();
    }

    fn deliveries(&self) -> MutexGuard<'_, HashMap<Receipt, Instant>> {
        self.deliveries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recent(&self) -> MutexGuard<'_, RecentOrders> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Acknowledges completed deliveries in batches.
pub struct Acks {
    queue: Arc<dyn Queue>,
    receipts: mpsc::UnboundedReceiver<Option<Receipt>>,
}

impl Acks {
    /// Runs until it receives `None` or [`InFlight`] is dropped.
    pub async fn run(mut self) {
        let mut last = false;
        while !last {
            let mut batch = Vec::new();
            if self.receipts.recv_many(&mut batch, ACKS_PER_CALL).await == 0 {
                return;
            }
            last = batch.iter().any(Option::is_none);
            self.acknowledge(batch.into_iter().flatten().collect()).await;
        }
    }

    async fn acknowledge(&self, mut batch: Vec<Receipt>) {
        for attempt in 1..=ACK_ATTEMPTS {
            if batch.is_empty() {
                return;
            }
            let results = self.queue.ack(&batch).await;
            let failed =
                batch.into_iter().zip(results).filter_map(|(receipt, result)| match result {
                    Ok(()) => None,
                    Err(QueueError::Broken(why)) => {
                        tracing::warn!("ack failed; delivery will be redelivered: {why}");
                        None
                    }
                    Err(_) => Some(receipt),
                });
            batch = failed.collect();
            if !batch.is_empty() {
                tokio::time::sleep(ACK_PAUSE * attempt).await;
            }
        }
        if !batch.is_empty() {
            let count = batch.len();
            tracing::warn!(count, "ack failed; deliveries will be redelivered");
        }
    }
}
