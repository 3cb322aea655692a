//! Notifier on the embedded store: told directly within the process; another process's are found
//! by looking at the orders waited for whenever the file has changed.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::Connection;
use tokio_util::sync::CancellationToken;

use super::store::{Store, state};
use crate::core::model::OrderId;
use crate::core::ports::notifier::{Notifier, Subscribers};

/// The least time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

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
        write!(f, "outcomes in {}", self.store)
    }
}

#[async_trait]
impl Notifier for SqliteNotifier {
    async fn publish(&self, orders: &[OrderId]) {
        if let Some(subscribers) = self.subscribers.get() {
            subscribers.wake(orders.iter().copied());
        }
    }

    /// In the file, with the ledger.
    async fn check(&self) -> Result<(), String> {
        Ok(())
    }

    async fn listen(&self, subscribers: Arc<Subscribers>, stop: CancellationToken) {
        let subscribers = self.subscribers.get_or_init(|| subscribers).clone();
        let mut changes = self.store.changes();
        // What was written before this may not have been looked at.
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
            tokio::time::sleep(LOOK_EVERY).await;
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
