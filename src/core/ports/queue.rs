//! The queue between the API and the workers: durable, at least once.

use std::fmt::{Debug, Display};
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

use super::dead_letters::{DeadLetter, LetterVisitor, Letters};
use crate::core::model::{Order, OrderId, Timestamp};

/// What to do about a failed call or a failed entry of one.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueueError {
    /// Not taken; the same may be sent again after a pause.
    #[error("the queue is busy: {0}")]
    Busy(String),
    /// The queue holds as much as it may (P8); nothing was taken.
    #[error("the queue is full: {0} orders wait")]
    Full(u64),
    /// It may have been taken. Sending it again is safe: repeats are dropped before the commit.
    #[error("the queue did not answer: {0}")]
    OutcomeUnknown(String),
    /// Repeating will not help: no such queue, no permission, a broken file.
    #[error("{0}")]
    Broken(String),
}

/// What became of an order that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Durable now, or known from before with the same request.
    Queued,
    /// The order id is known with another request: its key was reused. Not taken.
    KeyReused,
}

/// Names a delivery until it is acknowledged; the adapter's own text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Receipt(pub String);

/// Where an order stands in its item's line: decided in ascending order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrival(pub u128);

/// A waiting order's place in the line of its item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuePosition {
    /// Orders that are decided before it, at most; none when it is next.
    pub ahead: u64,
    /// Orders of the item that have left the line at its head. Grows as the line moves.
    pub passed: u64,
}

/// One received message with the orders in it, oldest first. Entries that were no orders are
/// already in the dead-letter queue.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub receipt: Receipt,
    pub orders: Vec<(Arrival, Order)>,
    /// How often the message was delivered, this time included. From 1.
    pub receive_count: u32,
}

/// What the queue holds right now; estimates where the service only estimates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, schemars::JsonSchema)]
pub struct Backlog {
    /// Orders (embedded) or messages (SQS) that wait, those in workers' hands included.
    pub waiting: u64,
    pub dead_letters: u64,
    /// When the oldest waiting order was accepted, where the queue can tell: the embedded one, of
    /// the first [`OLDEST_AMONG`] items in whose lines orders wait.
    #[serde(skip)]
    pub oldest: Option<Timestamp>,
}

/// Items that are looked at for the oldest waiting order.
pub const OLDEST_AMONG: usize = 1_000;

/// Sizes that the queue works in.
#[derive(Debug, Clone, Copy)]
pub struct QueueLimits {
    /// The most orders one call of [`Queue::send`] takes.
    pub send: usize,
    /// How many sends may be on their way at once.
    pub sends_in_flight: usize,
    /// Whether [`Queue::walk_letters`] meets the oldest first.
    pub letters_in_order: bool,
}

#[async_trait]
pub trait Queue: Debug + Display + Send + Sync {
    fn limits(&self) -> QueueLimits;

    /// Makes orders durable, and answers for each, in the order given. At most
    /// [`QueueLimits::send`]. Not safe to cancel: a cancelled send may have been taken.
    async fn send(&self, orders: &[Order]) -> Vec<Result<Sent, QueueError>>;

    /// Takes deliveries of about `max` orders in all, waiting up to `wait` for the first. They
    /// are invisible to other receivers until the visibility timeout. Not safe to cancel: what a
    /// cancelled receive took stays invisible that long.
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>, QueueError>;

    /// Says that all orders of these deliveries are decided or dead-lettered. Any number; answers
    /// for each. Idempotent.
    async fn ack(&self, receipts: &[Receipt]) -> Vec<Result<(), QueueError>>;

    /// Starts the visibility timeout of these deliveries anew. Best effort.
    async fn extend(&self, receipts: &[Receipt]) -> Result<(), QueueError>;

    /// Gives deliveries back, to be received again at once, and with them whatever else is held
    /// without need: any number, none included. Best effort.
    async fn release(&self, receipts: &[Receipt]) -> Result<(), QueueError>;

    /// Puts letters into the dead-letter queue, durably; only after that may the delivery they
    /// came in be acknowledged. Idempotent by order id where the queue can tell.
    async fn dead_letter(&self, letters: &[DeadLetter]) -> Result<(), QueueError>;

    /// Shows dead letters to the visitor, a few at a time, and does with each what it wishes. What
    /// it keeps is as before. Two walks at once may miss what the other is looking at. Returns
    /// whether there may be letters that it did not meet: the visitor ended it, or there are more
    /// than one walk can hold. Safe to repeat after any error. Not safe to cancel: what was being
    /// looked at may stay hidden from others for half a minute.
    async fn walk_letters(
        &self,
        letters: &Letters,
        visitor: &mut dyn LetterVisitor,
    ) -> Result<bool, QueueError>;

    /// True if dropping a letter decides its order as dropped in the same write. Otherwise the
    /// caller of [`Queue::walk_letters`] must have it decided before it wishes [`Wish::Drop`].
    fn decides_dropped(&self) -> bool {
        false
    }

    /// Called when a process begins to serve or to decide, after its outbox of webhooks has begun:
    /// finishes what an upgrade of the store left to do. Idempotent.
    async fn begin(&self) -> Result<(), QueueError> {
        Ok(())
    }

    /// The dead letters, oldest first where the queue knows, at most `max`.
    async fn dead_letters(&self, max: usize) -> Result<Vec<DeadLetter>, QueueError> {
        let mut listing = super::dead_letters::Listing::new(max);
        self.walk_letters(&Letters::After(None), &mut listing).await?;
        Ok(listing.sorted())
    }

    /// Where an order stands; `None` when it does not wait, or the queue cannot tell. Takes no
    /// longer in a long line than in a short one.
    async fn position(&self, order: OrderId) -> Result<Option<QueuePosition>, QueueError>;

    async fn backlog(&self) -> Result<Backlog, QueueError>;

    /// Answers when the queue can be used. `Broken` names what is missing and what to do.
    async fn check(&self) -> Result<(), QueueError>;
}
