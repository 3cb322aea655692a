//! Outcomes on the embedded store: told directly within the process; another process's are found
//! by looking at the orders waited for whenever the file has changed.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::Connection;
use tokio_util::sync::CancellationToken;

use super::store::{Store, state};
use crate::core::model::OrderId;
use crate::core::ports::notifier::{Outcomes, Waiters};

/// The least time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub struct SqliteOutcomes {
    store: Store,
    waiters: OnceLock<Arc<Waiters>>,
}

impl SqliteOutcomes {
    pub fn new(store: Store) -> Self {
        Self { store, waiters: OnceLock::new() }
    }
}

impl fmt::Display for SqliteOutcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "outcomes in {}", self.store)
    }
}

#[async_trait]
impl Outcomes for SqliteOutcomes {
    async fn publish(&self, orders: &[OrderId]) {
        if let Some(waiters) = self.waiters.get() {
            waiters.wake(orders.iter().copied());
        }
    }

    /// In the file, with the ledger.
    async fn check(&self) -> Result<(), String> {
        Ok(())
    }

    async fn listen(&self, waiters: Arc<Waiters>, stop: CancellationToken) {
        let waiters = self.waiters.get_or_init(|| waiters).clone();
        let mut changes = self.store.changes();
        // What was written before this may not have been looked at.
        changes.mark_changed();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
            let orders = waiters.orders();
            if !orders.is_empty() {
                let decided = self.store.read(move |connection| decided(connection, &orders));
                waiters.wake(decided.await.unwrap_or_default());
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
