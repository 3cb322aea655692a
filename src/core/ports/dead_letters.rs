//! Dead letters, and the cursor that reads and resolves them.

use async_trait::async_trait;
use serde::Serialize;

use super::queue::{Queue, QueueError};
use crate::core::model::{Decision, Order, OrderId, Timestamp, as_rfc3339};

/// An order, or a text that is no order, that could not be decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    pub order_id: OrderId,
    pub reason: String,
    /// The JSON text of one order, or the text that was received instead of one.
    pub body: String,
    #[serde(serialize_with = "as_rfc3339")]
    pub at: Timestamp,
}

/// The sort key of dead letters: oldest first.
pub type LetterPosition = (Timestamp, OrderId);

impl DeadLetter {
    pub fn position(&self) -> LetterPosition {
        (self.at, self.order_id)
    }
}

/// Logs one line for any number of letters that were written together.
pub fn log_written(letters: &[DeadLetter]) {
    let Some(DeadLetter { order_id, reason, .. }) = letters.first() else { return };
    let more = letters.len() - 1;
    tracing::error!(%order_id, more, "dead letter: {reason}; see flux dlq list");
}

/// Selects dead letters, of orders and of webhook events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DlqFilter {
    /// All letters, or those whose reason contains this text.
    All {
        reason: Option<String>,
    },
    These(Vec<OrderId>),
}

impl DlqFilter {
    pub const ALL: DlqFilter = DlqFilter::All { reason: None };

    pub fn matches(&self, order: OrderId, reason: &str) -> bool {
        match self {
            DlqFilter::All { reason: wanted } => {
                wanted.as_deref().is_none_or(|text| reason.contains(text))
            }
            DlqFilter::These(orders) => orders.contains(&order),
        }
    }
}

/// What a user does with dead letters, of orders and of webhook events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DlqAction {
    /// Puts them into their queue again.
    Redrive,
    /// Deletes them for good. An undecided order becomes [`Decision::Dropped`].
    Drop,
}

/// What a queue does with one dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// Deletes the letter. See [`Queue::decides_dropped`] for the decision of its order.
    Drop,
    /// Makes this order durable in the queue, then deletes the letter. The order has the letter's
    /// order id.
    Resend(Order),
}

/// The result of a [`Resolution`]. After an error the letter is still there; the error says whether
/// the order is in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolved {
    /// The letter is deleted. Holds the decision of its order, if the queue's store has one.
    Dropped(Option<Decision>),
    /// The order is durable in the queue. The letter is deleted, or a later pass finds it again.
    Sent,
    /// The letter stays: another order with its id was sent in this pass and has to be decided
    /// first.
    Kept,
    /// Another process deleted the letter since it was read.
    Gone,
}

/// The index of a letter in the page that [`DlqCursor::peek`] returned last.
pub type LetterHandle = usize;

/// One pass through the dead letters, in bounded memory for any number of letters. Two passes at
/// the same time lose no letter, but one may not return letters that the other has read.
///
/// Not safe to cancel: letters may stay hidden from other readers for 30 s. The same applies to a
/// cursor that is dropped without [`DlqCursor::close`].
#[async_trait]
pub trait DlqCursor: Send {
    /// Reads about `limit` further letters; none of them changes. A page may be empty before the
    /// end. `None` when all letters were read, or as many as one pass can hold.
    async fn peek(&mut self, limit: usize) -> Result<Option<Vec<DeadLetter>>, QueueError>;

    /// Resolves letters of the last page, each at most once, and returns one result for each, in
    /// the order given. Letters without a resolution stay. Safe to repeat in another pass.
    async fn resolve(
        &mut self,
        work: Vec<(LetterHandle, Resolution)>,
    ) -> Vec<Result<Resolved, QueueError>>;

    /// Ends the pass: the letters that it read and did not resolve are visible to other readers
    /// again. Returns true if there may be letters that the pass did not return.
    async fn close(self: Box<Self>) -> bool;
}

/// Reads the letters after a position page by page, beginning with a page of `limit` letters.
/// `visit` returns the size of the next page; 0 ends the scan. Returns true if there may be letters
/// that were not visited.
pub async fn scan<Q: Queue + ?Sized>(
    queue: &Q,
    after: Option<LetterPosition>,
    limit: usize,
    mut visit: impl FnMut(Vec<DeadLetter>) -> usize + Send,
) -> Result<bool, QueueError> {
    let mut cursor = queue.dead_letter_cursor(&DlqFilter::ALL, after);
    let mut limit = limit;
    let mut read = Ok(());
    while limit > 0 {
        match cursor.peek(limit).await {
            Ok(Some(letters)) => limit = visit(letters),
            Ok(None) => break,
            Err(e) => {
                read = Err(e);
                break;
            }
        }
    }
    let more = cursor.close().await;
    read.map(|()| more)
}
