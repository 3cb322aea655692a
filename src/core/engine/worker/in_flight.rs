//! What a worker has in hand: orders received and not yet decided, and the deliveries they came
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
use crate::core::engine::failpoints::Guard;
use crate::core::metrics::Meters;
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
    ticket: Arc<Ticket>,
    /// Tickets of repeats of this order that came in meanwhile.
    repeats: Vec<Arc<Ticket>>,
}

impl Pending {
    pub fn received(&self) -> Instant {
        self.ticket.received
    }

    /// How often the order was delivered, this time included. From 1.
    pub fn attempt(&self) -> u32 {
        self.ticket.receive_count
    }

    /// Lets a repeat of the same order share this one's fate.
    pub fn absorb(&mut self, repeat: Pending) {
        self.repeats.push(repeat.ticket);
        self.repeats.extend(repeat.repeats);
    }
}

/// A delivery of which some orders are undecided.
#[derive(Debug)]
struct Ticket {
    receipt: Receipt,
    received: Instant,
    receive_count: u32,
    undecided: AtomicUsize,
    lost: Arc<Lost>,
}

/// Deliveries of which nobody has the undecided orders any more, and how many those were: their
/// lane broke.
type Lost = Mutex<Vec<(Receipt, usize)>>;

impl Drop for Ticket {
    fn drop(&mut self) {
        let undecided = *self.undecided.get_mut();
        if undecided > 0 {
            let receipt = self.receipt.clone();
            self.lost.lock().unwrap_or_else(PoisonError::into_inner).push((receipt, undecided));
        }
    }
}

#[derive(Debug)]
pub struct Hand {
    queue: Arc<dyn Queue>,
    /// `None` is the last.
    acks: mpsc::UnboundedSender<Option<Receipt>>,
    /// Deliveries in hand, and since when.
    tickets: Mutex<HashMap<Receipt, Instant>>,
    orders: AtomicUsize,
    fewer: Notify,
    meters: Arc<Meters>,
    recent: Mutex<Recent>,
    lost: Arc<Lost>,
}

#[derive(Debug, Default)]
struct Recent {
    orders: HashMap<OrderId, Order>,
    line: VecDeque<OrderId>,
}

impl Hand {
    pub fn new(queue: Arc<dyn Queue>, meters: Arc<Meters>) -> (Hand, Acks) {
        let (acks, receipts) = mpsc::unbounded_channel();
        let acknowledge = Acks { queue: queue.clone(), receipts };
        let hand = Hand {
            queue,
            acks,
            tickets: Mutex::default(),
            orders: AtomicUsize::new(0),
            fewer: Notify::new(),
            meters,
            recent: Mutex::default(),
            lost: Arc::default(),
        };
        (hand, acknowledge)
    }

    /// Waits until at most half of `max` orders are in hand; says for how many there is room.
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
        self.meters.in_hand.add(delivery.orders.len() as u64);
        let received = Instant::now();
        self.tickets().insert(delivery.receipt.clone(), received);
        if failpoints::is_out(Guard::AckAfterCommit) {
            let _stopping = self.acks.send(Some(delivery.receipt.clone()));
        }
        let undecided = AtomicUsize::new(delivery.orders.len());
        let lost = self.lost.clone();
        let Delivery { receipt, orders, receive_count } = delivery;
        let ticket = Arc::new(Ticket { receipt, received, receive_count, undecided, lost });
        let pend = |(arrival, order)| Pending {
            arrival,
            order,
            ticket: ticket.clone(),
            repeats: Vec::new(),
        };
        let (repeats, new): (Vec<_>, Vec<_>) = {
            let recent = self.recent();
            let pending = orders.into_iter().map(pend);
            pending.partition(|p| recent.has(&p.order))
        };
        self.settle(repeats);
        new
    }

    /// These orders have their decision in the ledger; it is remembered for their repeats.
    pub fn settle(&self, decided: Vec<Pending>) {
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
            for ticket in pending.repeats.into_iter().chain([pending.ticket]) {
                settled += 1;
                if ticket.undecided.fetch_sub(1, Ordering::AcqRel) == 1 {
                    self.tickets().remove(&ticket.receipt);
                    let _stopping = self.acks.send(Some(ticket.receipt.clone()));
                }
            }
        }
        self.orders.fetch_sub(settled, Ordering::AcqRel);
        self.meters.in_hand.take(settled as u64);
        self.fewer.notify_waiters();
    }

    /// The deliveries in hand since before `then`.
    pub fn taken_before(&self, then: Instant) -> Vec<Receipt> {
        let tickets = self.tickets();
        tickets.iter().filter(|(_, since)| **since <= then).map(|(r, _)| r.clone()).collect()
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
        self.tickets().retain(|receipt, _| !receipts.contains(receipt));
        self.orders.fetch_sub(orders, Ordering::AcqRel);
        self.meters.in_hand.take(orders as u64);
        self.fewer.notify_waiters();
        self.give_back(&receipts).await;
    }

    /// Sends the last acknowledgements, and gives back what is left.
    pub async fn finish(&self, acking: JoinHandle<()>) {
        let left: Vec<Receipt> = self.tickets().drain().map(|(receipt, _)| receipt).collect();
        let _stopping = self.acks.send(None);
        let (_acked, ()) = tokio::join!(acking, self.give_back(&left));
        // What the last acknowledgements left without work.
        self.give_back(&[]).await;
    }

    fn tickets(&self) -> MutexGuard<'_, HashMap<Receipt, Instant>> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
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
