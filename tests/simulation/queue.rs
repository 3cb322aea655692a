//! The client of the simulated queue in one process.

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flux::core::model::{Clock, Order, OrderId};
use flux::core::ports::dead_letters::{
    DeadLetter, DlqCursor, DlqFilter, LetterHandle, LetterPosition, Resolution, Resolved,
};
use flux::core::ports::queue::{
    Arrival, Backlog, Delivery, Queue, QueueError, QueueLimits, QueuePosition, Receipt, Sent,
};
use tokio::time::Instant;

use super::messages::Taken;
use super::process::{Failed, Process};
use super::store::{Backend, Store};

/// The most messages in one receive.
const BATCH: usize = 10;

/// The client of the simulated queue in one process.
#[derive(Debug)]
pub struct SimQueue {
    pub process: Arc<Process>,
    pub store: Arc<Store>,
}

impl fmt::Display for SimQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "simulated {:?} queue", self.store.setup.backend)
    }
}

impl From<Failed> for QueueError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Refused => QueueError::Busy("throttled".to_owned()),
            Failed::Unknown => QueueError::OutcomeUnknown("no reply".to_owned()),
        }
    }
}

impl SimQueue {
    /// Decodes a message like the SQS adapter: entries that are not orders are dead-lettered, and a
    /// message without orders is then acknowledged. On an error the message stays in the queue.
    async fn open(&self, taken: Taken) -> Result<Option<Delivery>, QueueError> {
        let receipt = taken.receipt();
        let Taken { seq, body, receives, .. } = taken;
        let (orders, letters) = self.store.decode(&body, seq);
        if !letters.is_empty() {
            self.dead_letter(&letters).await?;
        }
        if orders.is_empty() {
            let _redelivered = self.ack(&[receipt]).await;
            return Ok(None);
        }
        let arrival = |(n, order): (usize, Order)| {
            let arrival = match self.store.setup.backend {
                Backend::Standard => {
                    let id = u128::from_be_bytes(*order.id.as_bytes());
                    u128::from(order.accepted_at.0) << 64 | id >> 64
                }
                Backend::Fifo | Backend::Embedded => u128::from(seq) << 20 | n as u128,
            };
            (Arrival(arrival), order)
        };
        let mut orders: Vec<_> = orders.into_iter().enumerate().map(arrival).collect();
        orders.sort_by_key(|(arrival, _)| *arrival);
        Ok(Some(Delivery { receipt, orders, receive_count: receives }))
    }
}

#[async_trait]
impl Queue for SimQueue {
    fn limits(&self) -> QueueLimits {
        QueueLimits { send: 12, sends_in_flight: 2, letters_in_order: false }
    }

    async fn send(&self, orders: &[Order]) -> Vec<Result<Sent, QueueError>> {
        let store = self.store.clone();
        let batch = orders.to_vec();
        let sent = self.process.call(format!("sends {}", orders.len()), move || store.send(&batch));
        match sent.await {
            Ok(answers) => answers,
            Err(failed) => vec![Err(failed.into()); orders.len()],
        }
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>, QueueError> {
        let end = Instant::now() + wait;
        let max = max.clamp(1, BATCH);
        let taken = loop {
            let changed = self.store.changes.notified();
            let store = self.store.clone();
            let who = self.process.name.clone();
            let take = move || store.take(&who, max);
            // The embedded queue delivers from the receiver's own memory.
            let taken = if self.store.is_embedded() {
                self.process.local_call("receives".to_owned(), take).await?
            } else {
                self.process.call("receives".to_owned(), take).await?
            };
            let now = Instant::now();
            if !taken.is_empty() || now >= end {
                break taken;
            }
            let next = self.store.next_visible().unwrap_or(end).min(end);
            tokio::select! {
                biased;
                () = changed => {}
                () = tokio::time::sleep_until(next) => {}
            }
        };
        let mut deliveries = Vec::new();
        let mut taken = taken.into_iter();
        while let Some(message) = taken.next() {
            match self.open(message).await {
                Ok(delivery) => deliveries.extend(delivery),
                Err(_) if self.store.setup.backend == Backend::Fifo => {
                    let rest = taken.map(|taken| taken.receipt()).collect::<Vec<_>>();
                    let _late = self.release(&rest).await;
                    break;
                }
                Err(_) => {}
            }
        }
        Ok(deliveries)
    }

    async fn ack(&self, receipts: &[Receipt]) -> Vec<Result<(), QueueError>> {
        let store = self.store.clone();
        let batch = receipts.to_vec();
        let acked =
            self.process.call(format!("acks {}", receipts.len()), move || store.ack(&batch));
        match acked.await {
            Ok(answers) => answers,
            Err(failed) => vec![Err(failed.into()); receipts.len()],
        }
    }

    async fn extend(&self, receipts: &[Receipt]) -> Result<(), QueueError> {
        let store = self.store.clone();
        let batch = receipts.to_vec();
        let extend = move || store.hide(&batch, store.setup.visibility);
        Ok(self.process.call(format!("extends {}", receipts.len()), extend).await?)
    }

    async fn release(&self, receipts: &[Receipt]) -> Result<(), QueueError> {
        let store = self.store.clone();
        let batch = receipts.to_vec();
        let release = move || store.hide(&batch, Duration::ZERO);
        Ok(self.process.call(format!("releases {}", receipts.len()), release).await?)
    }

    async fn dead_letter(&self, letters: &[DeadLetter]) -> Result<(), QueueError> {
        let (store, letters) = (self.store.clone(), letters.to_vec());
        let bury = move || store.dead_letter(&mut store.state(), 0, letters);
        Ok(self.process.call("buries".to_owned(), bury).await?)
    }

    fn dead_letter_cursor(
        &self,
        _: &DlqFilter,
        _: Option<LetterPosition>,
    ) -> Box<dyn DlqCursor + '_> {
        Box::new(SimCursor { queue: self, last: None, page: Vec::new(), at_end: false })
    }

    fn decides_dropped(&self) -> bool {
        self.store.is_embedded()
    }

    async fn position(&self, _: OrderId) -> Result<Option<QueuePosition>, QueueError> {
        Ok(None)
    }

    async fn backlog(&self) -> Result<Backlog, QueueError> {
        let state = self.store.state();
        Ok(Backlog {
            waiting: state.messages.len() as u64,
            dead_letters: state.letters.len() as u64,
            oldest: None,
        })
    }

    async fn check(&self) -> Result<(), QueueError> {
        Ok(())
    }
}

/// A pass through the letters in the order of their ids.
struct SimCursor<'a> {
    queue: &'a SimQueue,
    last: Option<OrderId>,
    page: Vec<OrderId>,
    at_end: bool,
}

#[async_trait]
impl DlqCursor for SimCursor<'_> {
    async fn peek(&mut self, limit: usize) -> Result<Option<Vec<DeadLetter>>, QueueError> {
        let store = self.queue.store.clone();
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let read = move || {
            let state = store.state();
            let letters = state.letters.range((after, Bound::Unbounded));
            letters.take(limit).map(|(_, letter)| letter.clone()).collect::<Vec<_>>()
        };
        let letters = self.queue.process.call("looks at letters".to_owned(), read).await?;
        self.page = letters.iter().map(|letter| letter.order_id).collect();
        self.last = self.page.last().copied().or(self.last);
        self.at_end = letters.is_empty();
        Ok((!self.at_end).then_some(letters))
    }

    async fn resolve(
        &mut self,
        work: Vec<(LetterHandle, Resolution)>,
    ) -> Vec<Result<Resolved, QueueError>> {
        let count = work.len();
        let store = self.queue.store.clone();
        let work = work.into_iter().map(|(handle, resolution)| (self.page[handle], resolution));
        let work: Vec<(OrderId, Resolution)> = work.collect();
        let now = self.queue.process.now();
        let resolve = move || store.resolve_letters(&work, now);
        match self.queue.process.call(format!("does {count} letters"), resolve).await {
            Ok(results) => results.into_iter().map(Ok).collect(),
            Err(failed) => vec![Err(failed.into()); count],
        }
    }

    async fn close(self: Box<Self>) -> bool {
        !self.at_end
    }
}
