//! The queue between the API and the workers: durable, at least once.

use std::fmt::{Debug, Display};
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

use super::dead_letters;
use super::dead_letters::{DeadLetter, DlqCursor, DlqFilter, LetterPosition};
use crate::core::model::{Order, OrderId, Timestamp};

/// Why a call, or one entry of it, failed, by what the caller can do about it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueueError {
    /// Nothing was done. Retry after a pause.
    #[error("the queue is busy: {0}")]
    Busy(String),
    /// The queue has reached its limit (P8), with this many orders. Nothing was queued.
    #[error("the queue is full: {0} orders are waiting")]
    Full(u64),
    /// The call may have been carried out. Repeating it is safe: a repeated order is dropped before
    /// the commit.
    #[error("the queue did not answer: {0}")]
    OutcomeUnknown(String),
    /// Retrying does not help: no such queue, no permission, a corrupt file.
    #[error("{0}")]
    Broken(String),
}

/// The result of sending an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The order is durable, now or from an earlier send of the same request.
    Queued,
    /// The order id belongs to another request: its key was reused. Not queued.
    KeyReused,
}

/// Identifies a delivery until it is acknowledged. The text is the adapter's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Receipt(pub String);

/// Sort key of an item's orders: they are decided in ascending order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrival(pub u128);

/// The position of a queued order among its item's orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuePosition {
    /// The most orders that are decided before it; 0 if it is next.
    pub ahead: u64,
    /// Orders of the item that have left the head of the queue. Only grows.
    pub passed: u64,
}

/// A received message with its orders, oldest first. Its entries that are not orders are already in
/// the dead-letter queue.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub receipt: Receipt,
    pub orders: Vec<(Arrival, Order)>,
    /// How often the message has been delivered, this time included. From 1.
    pub receive_count: u32,
}

/// The contents of the queue; estimates if the service only estimates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, schemars::JsonSchema)]
pub struct Backlog {
    /// Orders (embedded) or messages (SQS) that are queued, including those in flight.
    pub waiting: u64,
    pub dead_letters: u64,
    /// Time of acceptance of the oldest queued order. Only the embedded queue knows it, among the
    /// first [`OLDEST_AMONG`] items with queued orders.
    #[serde(skip)]
    pub oldest: Option<Timestamp>,
}

/// The most items that are searched for the oldest queued order.
pub const OLDEST_AMONG: usize = 1_000;

/// Limits and properties of a queue.
#[derive(Debug, Clone, Copy)]
pub struct QueueLimits {
    /// The most orders in one call of [`Queue::send`].
    pub send: usize,
    /// The most sends in progress at once.
    pub sends_in_flight: usize,
    /// True if [`Queue::dead_letter_cursor`] reads the oldest letters first.
    pub letters_in_order: bool,
}

#[async_trait]
pub trait Queue: Debug + Display + Send + Sync {
    fn limits(&self) -> QueueLimits;

    /// Makes orders durable. Returns one result per order, in the order given. At most
    /// [`QueueLimits::send`] orders. Idempotent in effect: a repeated order is dropped before its
    /// decision. Not safe to cancel: the orders of a cancelled send may be queued.
    async fn send(&self, orders: &[Order]) -> Vec<Result<Sent, QueueError>>;

    /// Receives deliveries with about `max` orders in all; waits up to `wait` for the first. They
    /// are invisible to other receivers until the visibility timeout. Not safe to cancel: the
    /// deliveries of a cancelled receive stay invisible until then.
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>, QueueError>;

    /// Deletes these deliveries, because all their orders are decided or dead-lettered. Any number.
    /// Returns one result per receipt. Idempotent.
    async fn ack(&self, receipts: &[Receipt]) -> Vec<Result<(), QueueError>>;

    /// Restarts the visibility timeout of these deliveries. Best effort.
    async fn extend(&self, receipts: &[Receipt]) -> Result<(), QueueError>;

    /// Makes these deliveries visible at once, and releases everything else that this receiver
    /// holds without need. Any number of receipts, also none. Best effort.
    async fn release(&self, receipts: &[Receipt]) -> Result<(), QueueError>;

    /// Puts letters into the dead-letter queue, durably. Only after that may the delivery that
    /// contained them be acknowledged. Idempotent by order id if the queue can compare ids.
    async fn dead_letter(&self, letters: &[DeadLetter]) -> Result<(), QueueError>;

    /// Begins a pass through the letters that match, or, with [`DlqFilter::All`], those of them
    /// after a position. A queue that cannot search returns other letters as well.
    fn dead_letter_cursor(
        &self,
        filter: &DlqFilter,
        after: Option<LetterPosition>,
    ) -> Box<dyn DlqCursor + '_>;

    /// True if dropping a letter decides its order as dropped in the same write. Otherwise the
    /// caller must record the decision before [`Resolution::Drop`](dead_letters::Resolution::Drop).
    fn decides_dropped(&self) -> bool {
        false
    }

    /// Called when a process starts to serve or to decide, after its webhook outbox has begun:
    /// completes an upgrade of the store. Idempotent.
    async fn begin(&self) -> Result<(), QueueError> {
        Ok(())
    }

    /// At most `max` dead letters, one for each order, oldest first as far as the queue can tell.
    async fn dead_letters(&self, max: usize) -> Result<Vec<DeadLetter>, QueueError> {
        let mut found: Vec<DeadLetter> = Vec::new();
        let collect = |letters: Vec<DeadLetter>| {
            for letter in letters {
                if found.iter().all(|known| known.order_id != letter.order_id) {
                    found.push(letter);
                }
            }
            max.saturating_sub(found.len())
        };
        dead_letters::scan(self, None, max, collect).await?;
        found.sort_by_key(DeadLetter::position);
        found.truncate(max);
        Ok(found)
    }

    /// The position of a queued order; `None` if it is not queued, or the queue does not know.
    /// Takes constant time, however many orders are queued.
    async fn position(&self, order: OrderId) -> Result<Option<QueuePosition>, QueueError>;

    /// The contents of the queue.
    async fn backlog(&self) -> Result<Backlog, QueueError>;

    /// `Ok` if the queue is usable. `Broken` names what is missing and what to do.
    async fn check(&self) -> Result<(), QueueError>;
}
