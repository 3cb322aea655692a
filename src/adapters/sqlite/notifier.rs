//! The notifier on the embedded store. Within the process, subscribers are notified directly.
//! Decisions of other processes are found by reading the subscribed orders when the file changes.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::Connection;
use tokio_util::sync::CancellationToken;

use super::store::{Store, state};
use crate::core::model::OrderId;
use crate::core::ports::notifier::{Notifier, Subscribers};

/// Shortest time between two reads.
const READ_EVERY: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub struct SqliteNotifier {
    store: Store,
    subscribers: OnceLock<Arc<Subscribers>>,
}

impl SqliteNotifier {
    pub fn new(store: Store) -> Self {
        Self { store, subscribers: OnceLock::new() }
    }
}

impl fmt::Display for SqliteNotifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "notifications in {}", self.store)
    }
}

#[async_trait]
impl Notifier for SqliteNotifier {
    async fn publish(&self, orders: &[OrderId]) {
        if let Some(subscribers) = self.subscribers.get() {
            subscribers.wake(orders.iter().copied());
        }
    }

    /// It is available whenever the ledger is.
    async fn check(&self) -> Result<(), String> {
        Ok(())
    }

    async fn listen(&self, subscribers: Arc<Subscribers>, stop: CancellationToken) {
        let subscribers = self.subscribers.get_or_init(|| subscribers).clone();
        let mut changes = self.store.changes();
        // Decisions from before the subscription to changes have not been read.
        changes.mark_changed();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
            let orders = subscribers.orders();
            if !orders.is_empty() {
                let decided = self.store.read(move |connection| decided(connection, &orders));
                subscribers.wake(decided.await.unwrap_or_default());
            }
            tokio::time::sleep(READ_EVERY).await;
        }
    }
}

fn decided(connection: &Connection, orders: &[OrderId]) -> rusqlite::Result<Vec<OrderId>> {
    let mut find = connection.prepare_cached("SELECT state FROM orders WHERE id = ?")?;
    let mut decided = Vec::new();
    for order in orders {
        let mut rows = find.query([order.as_bytes()])?;
        if let Some(row) = rows.next()?
            && row.get::<_, i64>(0)? != state::QUEUED
        {
            decided.push(*order);
        }
    }
    Ok(decided)
}
