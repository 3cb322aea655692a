//! What a worker has in flight: orders received and not yet decided, and the deliveries they came
//! in, each acknowledged when its last order is decided.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::repeats::is_repeat;
use crate::core::engine::failpoints;
use crate::core::engine::failpoints::Failpoint;
use crate::core::metrics::Metrics;
use crate::core::model::{Order, OrderId};
use crate::core::ports::queue::{Arrival, Delivery, Queue, QueueError, Receipt};

/// Acknowledgements sent in one call.
const ACKS_PER_CALL: usize = 500;
/// How often an acknowledgement is tried. After that the delivery comes again and is found decided.
const ACK_ATTEMPTS: u32 = 5;
const ACK_PAUSE: Duration = Duration::from_millis(50);
/// Decided orders that are remembered, so that their repeats cost nothing.
const RECENT_MAX: usize = 16_384;

/// An order waiting for its decision, with the delivery to be acknowledged after it.
#[derive(Debug)]
pub struct Pending {
    pub arrival: Arrival,
    pub order: Order,
    guard: Arc<DeliveryGuard>,
    /// Guards of repeats of this order that came in meanwhile.
    repeats: Vec<Arc<DeliveryGuard>>,
}

impl Pending {
    pub fn received(&self) -> Instant {
        self.guard.received
    }

    /// How often the order was delivered, this time included. From 1.
    pub fn attempt(&self) -> u32 {
        self.guard.receive_count
    }

    /// Lets a repeat of the same order share this one's fate.
    pub fn absorb(&mut self, repeat: Pending) {
        self.repeats.push(repeat.guard);
        self.repeats.extend(repeat.repeats);
    }
}

/// A delivery of which some orders are undecided.
#[derive(Debug)]
struct DeliveryGuard {
    receipt: Receipt,
    received: Instant,
    receive_count: u32,
    undecided: AtomicUsize,
    lost: Arc<Lost>,
}

/// Deliveries of which nobody has the undecided orders any more, and how many those were: their
/// lane broke.
type Lost = Mutex<Vec<(Receipt, usize)>>;

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
    /// `None` is the last.
    acks: mpsc::UnboundedSender<Option<Receipt>>,
    /// Deliveries in flight, and since when.
    deliveries: Mutex<HashMap<Receipt, Instant>>,
    orders: AtomicUsize,
    fewer: Notify,
    metrics: Arc<Metrics>,
    recent: Mutex<Recent>,
    lost: Arc<Lost>,
}

#[derive(Debug, Default)]
struct Recent {
    orders: HashMap<OrderId, Order>,
    line: VecDeque<OrderId>,
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
            fewer: Notify::new(),
            metrics,
            recent: Mutex::default(),
            lost: Arc::default(),
        };
        (in_flight, acknowledge)
    }

    /// Waits until at most half of `max` orders are in flight; says for how many there is room.
    pub async fn room(&self, max: usize) -> usize {
        loop {
            let fewer = self.fewer.notified();
            let orders = self.orders.load(Ordering::Acquire);
            if orders <= max / 2 {
                return max - orders;
            }
            fewer.await;
        }
    }

    /// Takes a delivery; what was decided lately is settled at once and not returned.
    pub fn take(&self, delivery: Delivery) -> Vec<Pending> {
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
        let pend = |(arrival, order)| Pending {
            arrival,
            order,
            guard: guard.clone(),
            repeats: Vec::new(),
        };
        let (repeats, new): (Vec<_>, Vec<_>) = {
            let recent = self.recent();
            let pending = orders.into_iter().map(pend);
            pending.partition(|p| recent.has(&p.order))
        };
        self.mark_decided(repeats);
        new
    }

    /// These orders have their decision in the ledger; it is remembered for their repeats.
    pub fn mark_decided(&self, decided: Vec<Pending>) {
        {
            let mut recent = self.recent();
            decided.iter().for_each(|pending| recent.add(&pending.order));
        }
        self.let_go(decided);
    }

    /// These orders are not for this worker to decide: somebody else has, or they are dead-lettered.
    /// The latter may come again, so none of it is remembered.
    pub fn let_go(&self, closed: Vec<Pending>) {
        let mut settled = 0;
        for pending in closed {
            for guard in pending.repeats.into_iter().chain([pending.guard]) {
                settled += 1;
                if guard.undecided.fetch_sub(1, Ordering::AcqRel) == 1 {
                    self.deliveries().remove(&guard.receipt);
                    let _stopping = self.acks.send(Some(guard.receipt.clone()));
                }
            }
        }
        self.orders.fetch_sub(settled, Ordering::AcqRel);
        self.metrics.in_flight.take(settled as u64);
        self.fewer.notify_waiters();
    }

    /// The deliveries in flight since before `then`.
    pub fn taken_before(&self, then: Instant) -> Vec<Receipt> {
        let deliveries = self.deliveries();
        deliveries.iter().filter(|(_, since)| **since <= then).map(|(r, _)| r.clone()).collect()
    }

    /// Makes deliveries visible to others at once.
    pub async fn give_back(&self, receipts: &[Receipt]) {
        if let Err(e) = self.queue.release(receipts).await {
            let count = receipts.len();
            tracing::warn!("{count} deliveries come back only after their timeout: {e}");
        }
    }

    /// Gives up the deliveries whose orders a broken lane lost, and makes them visible again.
    pub async fn give_up_lost(&self) {
        let lost = std::mem::take(&mut *self.lost.lock().unwrap_or_else(PoisonError::into_inner));
        if lost.is_empty() {
            return;
        }
        let orders = lost.iter().map(|(_, orders)| orders).sum();
        let receipts: Vec<Receipt> = lost.into_iter().map(|(receipt, _)| receipt).collect();
        self.deliveries().retain(|receipt, _| !receipts.contains(receipt));
        self.orders.fetch_sub(orders, Ordering::AcqRel);
        self.metrics.in_flight.take(orders as u64);
        self.fewer.notify_waiters();
        self.give_back(&receipts).await;
    }

    /// Sends the last acknowledgements, and gives back what is left.
    pub async fn finish(&self, acking: JoinHandle<()>) {
        let left: Vec<Receipt> = self.deliveries().drain().map(|(receipt, _)| receipt).collect();
        let _stopping = self.acks.send(None);
        let (_acked, ()) = tokio::join!(acking, self.give_back(&left));
        // What the last acknowledgements left without work.
        self.give_back(&[]).await;
    }

    fn deliveries(&self) -> MutexGuard<'_, HashMap<Receipt, Instant>> {
        self.deliveries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recent {
    /// Whether it was decided lately. Another request under the same id was not.
    fn has(&self, order: &Order) -> bool {
        self.orders.get(&order.id).is_some_and(|decided| is_repeat(decided, order))
    }

    fn add(&mut self, order: &Order) {
        let kept = Order { trace: None, ..order.clone() };
        if self.orders.insert(order.id, kept).is_some() {
            return;
        }
        self.line.push_back(order.id);
        if self.line.len() > RECENT_MAX
            && let Some(oldest) = self.line.pop_front()
        {
            self.orders.remove(&oldest);
        }
    }
}

/// Acknowledges what is settled, many at a time.
pub struct Acks {
    queue: Arc<dyn Queue>,
    receipts: mpsc::UnboundedReceiver<Option<Receipt>>,
}

impl Acks {
    /// Runs until the last.
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
            let answers = self.queue.ack(&batch).await;
            let failed =
                batch.into_iter().zip(answers).filter_map(|(receipt, answer)| match answer {
                    Ok(()) => None,
                    Err(QueueError::Broken(why)) => {
                        tracing::warn!("a delivery will come again and be found decided: {why}");
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
            tracing::warn!("{} deliveries will come again and be found decided", batch.len());
        }
    }
}
