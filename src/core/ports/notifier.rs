//! The notifier: notifies long polls and streams that an order was decided. The decision itself is
//! read from the ledger, so a lost notification only delays the response.

use std::collections::HashMap;
use std::fmt::{Debug, Display};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::core::model::OrderId;

/// The subscriptions of this process, by order.
#[derive(Debug, Default)]
pub struct Subscribers {
    orders: Mutex<HashMap<OrderId, Subscribed>>,
}

/// An order with at least one subscription.
#[derive(Debug, Default)]
struct Subscribed {
    subscriptions: usize,
    notify: Arc<Notify>,
    /// Time of the last notification.
    notified_last: Arc<Mutex<Option<Instant>>>,
}

/// A subscription to one order; ends when dropped.
#[derive(Debug)]
pub struct Subscription<'a> {
    subscribers: &'a Subscribers,
    order: OrderId,
    notify: Arc<Notify>,
    notified_last: Arc<Mutex<Option<Instant>>>,
}

impl Subscribers {
    /// Subscribes to an order. Read the ledger after this, not before: a decision in between would
    /// only be found by the next read.
    pub fn subscribe(&self, order: OrderId) -> Subscription<'_> {
        let mut orders = self.lock();
        let entry = orders.entry(order).or_default();
        entry.subscriptions += 1;
        let notify = entry.notify.clone();
        Subscription {
            subscribers: self,
            order,
            notify,
            notified_last: entry.notified_last.clone(),
        }
    }

    /// Wakes the subscriptions to these orders.
    pub fn wake(&self, decided: impl IntoIterator<Item = OrderId>) {
        let orders = self.lock();
        if orders.is_empty() {
            return;
        }
        for order in decided {
            if let Some(entry) = orders.get(&order) {
                let mut notified_last =
                    entry.notified_last.lock().unwrap_or_else(PoisonError::into_inner);
                *notified_last = Some(Instant::now());
                entry.notify.notify_waiters();
            }
        }
    }

    /// The orders with subscriptions.
    pub fn orders(&self) -> Vec<OrderId> {
        self.lock().keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<OrderId, Subscribed>> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription<'_> {
    /// Resolves at the first notification after this call. Create it before reading the ledger.
    pub fn notification(&self) -> tokio::sync::futures::OwnedNotified {
        self.notify.clone().notified_owned()
    }

    /// Time of the last notification since the order has subscriptions. A read of the ledger that
    /// began earlier may have missed the decision.
    pub fn notified_at(&self) -> Option<Instant> {
        *self.notified_last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Subscription<'_> {
    fn drop(&mut self) {
        let mut orders = self.subscribers.lock();
        if let Some(entry) = orders.get_mut(&self.order) {
            entry.subscriptions -= 1;
            if entry.subscriptions == 0 {
                orders.remove(&self.order);
            }
        }
    }
}

#[async_trait]
pub trait Notifier: Debug + Display + Send + Sync {
    /// Notifies all processes that these orders were decided. Best effort; never fails.
    async fn publish(&self, orders: &[OrderId]);

    /// Wakes this process's subscribers whenever any process publishes, until `stop` is cancelled.
    async fn listen(&self, subscribers: Arc<Subscribers>, stop: CancellationToken);

    /// `Ok` if notifications work; for `/readyz`. The error is for the log.
    async fn check(&self) -> Result<(), String>;
}
