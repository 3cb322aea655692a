//! Notifier: notifications that an order was decided, for those who wait. The ledger is the truth; a lost
//! notification only means a later look.

use std::collections::HashMap;
use std::fmt::{Debug, Display};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::core::model::OrderId;

/// Who waits in this process, and for which orders.
#[derive(Debug, Default)]
pub struct Subscribers {
    waiting: Mutex<HashMap<OrderId, Subscribed>>,
}

/// An order that is waited for.
#[derive(Debug, Default)]
struct Subscribed {
    waits: usize,
    notify: Arc<Notify>,
    /// When the last notification was given.
    notified_last: Arc<Mutex<Option<Instant>>>,
}

/// A wait for one order; ends when dropped.
#[derive(Debug)]
pub struct Subscription<'a> {
    subscribers: &'a Subscribers,
    order: OrderId,
    notify: Arc<Notify>,
    notified_last: Arc<Mutex<Option<Instant>>>,
}

impl Subscribers {
    /// Begins to wait. Look at the ledger after this, not before, or a decision in between is
    /// only seen at the next look.
    pub fn subscribe(&self, order: OrderId) -> Subscription<'_> {
        let mut waiting = self.lock();
        let entry = waiting.entry(order).or_default();
        entry.waits += 1;
        let notify = entry.notify.clone();
        Subscription {
            subscribers: self,
            order,
            notify,
            notified_last: entry.notified_last.clone(),
        }
    }

    /// Wakes whoever waits for these orders.
    pub fn wake(&self, orders: impl IntoIterator<Item = OrderId>) {
        let waiting = self.lock();
        if waiting.is_empty() {
            return;
        }
        for order in orders {
            if let Some(waited) = waiting.get(&order) {
                let mut notified_last =
                    waited.notified_last.lock().unwrap_or_else(PoisonError::into_inner);
                *notified_last = Some(Instant::now());
                waited.notify.notify_waiters();
            }
        }
    }

    /// The orders that are waited for.
    pub fn orders(&self) -> Vec<OrderId> {
        self.lock().keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<OrderId, Subscribed>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription<'_> {
    /// Resolves at a notification given after this call. Create it before looking at the ledger.
    pub fn notification(&self) -> tokio::sync::futures::OwnedNotified {
        self.notify.clone().notified_owned()
    }

    /// When the last notification was given while somebody waited: a look that began earlier may have
    /// missed the decision.
    pub fn notified_at(&self) -> Option<Instant> {
        *self.notified_last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Subscription<'_> {
    fn drop(&mut self) {
        let mut waiting = self.subscribers.lock();
        if let Some(entry) = waiting.get_mut(&self.order) {
            entry.waits -= 1;
            if entry.waits == 0 {
                waiting.remove(&self.order);
            }
        }
    }
}

#[async_trait]
pub trait Notifier: Debug + Display + Send + Sync {
    /// Tells every process that these orders were decided. Best effort; never fails.
    async fn publish(&self, orders: &[OrderId]);

    /// Wakes this process's subscribers at what any process publishes, until stopped.
    async fn listen(&self, subscribers: Arc<Subscribers>, stop: CancellationToken);

    /// Answers when notifications can be given: for `/readyz`. The error is for the log.
    async fn check(&self) -> Result<(), String>;
}
