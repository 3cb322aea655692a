//! Dead letters, and what somebody who looks through them wants of each.

use async_trait::async_trait;
use serde::Serialize;

use super::queue::QueueError;
use crate::core::model::{Decision, Order, OrderId, Timestamp, as_rfc3339};

/// An order, or a thing that should have been one, that could not be decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    pub order_id: OrderId,
    pub reason: String,
    /// What the queue delivered: the text of one order object, or what came in its place.
    pub body: String,
    #[serde(serialize_with = "as_rfc3339")]
    pub at: Timestamp,
}

/// One line in the log for letters that were written together, however many.
pub fn tell(letters: &[DeadLetter]) {
    let Some(DeadLetter { order_id, reason, .. }) = letters.first() else { return };
    let more = letters.len() - 1;
    tracing::error!(%order_id, more, "dead letter: {reason}; flux dlq list tells more");
}

/// Where a letter stands among the others.
pub type LetterPlace = (Timestamp, OrderId);

impl DeadLetter {
    pub fn place(&self) -> LetterPlace {
        (self.at, self.order_id)
    }
}

/// Which letters a walk is for. A queue that cannot look for them shows others as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Letters {
    /// All, or those behind a place.
    After(Option<LetterPlace>),
    These(Vec<OrderId>),
}

/// What is to become of a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    Keep,
    /// For good. Its order becomes [`Decision::Dropped`], see [`super::queue::Queue::decides_dropped`].
    Drop,
    /// Into the queue as this order, whose id is the letter's.
    Send(Order),
}

/// What became of a letter that was not to be kept.
#[derive(Debug, Clone)]
pub enum Became {
    /// Gone for good. The decision of its order, where the queue's store has one.
    Dropped(Option<Decision>),
    /// Durable in the queue; the letter is gone, or is met again some other time.
    Sent,
    /// Somebody else took the letter meanwhile.
    Gone,
    /// The letter is still there; whether the order is in the queue says the error.
    Failed(QueueError),
}

/// Somebody who looks through the dead letters.
#[async_trait]
pub trait LetterVisitor: Send {
    /// Called before each look: how many letters, about, it may bring; `None` ends the walk. Takes
    /// its time, if the letters are to go slowly: nothing is hidden for its sake meanwhile.
    async fn more(&mut self) -> Option<usize>;

    /// What is to become of each of these, in the order given.
    async fn judge(&mut self, letters: &[DeadLetter]) -> Result<Vec<Wish>, QueueError>;

    fn became(&mut self, order: OrderId, became: Became);
}

/// Keeps all, and remembers the first of them.
pub struct Listing {
    max: usize,
    letters: Vec<DeadLetter>,
}

impl Listing {
    pub fn new(max: usize) -> Self {
        Self { max, letters: Vec::new() }
    }

    pub fn sorted(mut self) -> Vec<DeadLetter> {
        self.letters.sort_by_key(DeadLetter::place);
        self.letters.truncate(self.max);
        self.letters
    }
}

#[async_trait]
impl LetterVisitor for Listing {
    async fn more(&mut self) -> Option<usize> {
        self.max.checked_sub(self.letters.len()).filter(|left| *left > 0)
    }

    async fn judge(&mut self, letters: &[DeadLetter]) -> Result<Vec<Wish>, QueueError> {
        for letter in letters {
            if !self.letters.iter().any(|known| known.order_id == letter.order_id) {
                self.letters.push(letter.clone());
            }
        }
        Ok(vec![Wish::Keep; letters.len()])
    }

    fn became(&mut self, _: OrderId, _: Became) {}
}

/// Which letters are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DlqFilter {
    /// All; or those in whose reason this text stands.
    All {
        reason: Option<String>,
    },
    These(Vec<OrderId>),
}

impl DlqFilter {
    pub const ALL: DlqFilter = DlqFilter::All { reason: None };

    pub fn letters(&self) -> Letters {
        match self {
            DlqFilter::All { .. } => Letters::After(None),
            DlqFilter::These(orders) => Letters::These(orders.clone()),
        }
    }

    pub fn means(&self, letter: &DeadLetter) -> bool {
        match self {
            DlqFilter::All { reason } => has(letter, reason.as_deref()),
            DlqFilter::These(orders) => orders.contains(&letter.order_id),
        }
    }
}

pub fn has(letter: &DeadLetter, reason: Option<&str>) -> bool {
    reason.is_none_or(|text| letter.reason.contains(text))
}
