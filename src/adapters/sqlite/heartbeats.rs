//! Heartbeats in the embedded store: one row per process. All processes share the machine's clock.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, params};

use super::store::{Store, StoreError};
use crate::core::model::Clock;
use crate::core::ports::heartbeats::{
    Heartbeat, HeartbeatError, Heartbeats, KEPT, LIFE, ProcessStatus,
};

#[derive(Debug)]
pub struct SqliteHeartbeats {
    store: Store,
    clock: Arc<dyn Clock>,
}

impl SqliteHeartbeats {
    pub fn new(store: Store, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock }
    }
}

impl fmt::Display for SqliteHeartbeats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "heartbeats in {}", self.store)
    }
}

impl From<StoreError> for HeartbeatError {
    fn from(e: StoreError) -> Self {
        Self(e.to_string())
    }
}

#[async_trait]
impl Heartbeats for SqliteHeartbeats {
    async fn write(&self, heartbeat: &Heartbeat) -> Result<(), HeartbeatError> {
        let text = serde_json::to_string(heartbeat).map_err(|e| HeartbeatError(e.to_string()))?;
        let id = heartbeat.id.clone();
        let now = self.clock.now();
        let write = move |tx: &Connection| {
            // A heartbeat in the future was written before the clock was set back.
            tx.prepare_cached("DELETE FROM pulses WHERE abs(?1 - at) > ?2")?
                .execute(params![now.0, KEPT.as_millis() as u64])?;
            tx.prepare_cached("INSERT OR REPLACE INTO pulses VALUES (?, ?, ?)")?
                .execute(params![id, now.0, text])?;
            Ok(())
        };
        Ok(self.store.write(write).await?)
    }

    async fn remove(&self, id: &str) -> Result<(), HeartbeatError> {
        let id = id.to_owned();
        let remove = move |tx: &Connection| {
            tx.prepare_cached("DELETE FROM pulses WHERE id = ?")?.execute([id]).map(drop)
        };
        Ok(self.store.write(remove).await?)
    }

    async fn processes(&self) -> Result<Vec<ProcessStatus>, HeartbeatError> {
        let now = self.clock.now();
        let read = move |connection: &Connection| {
            let mut heartbeats = connection.prepare_cached(
                "SELECT pulse, abs(?1 - at) FROM pulses WHERE abs(?1 - at) <= ?2 ORDER BY id",
            )?;
            let rows = heartbeats.query_map(params![now.0, LIFE.as_millis() as u64], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, u64>(1)?))
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        let rows = self.store.read(read).await?;
        let status = |(text, age): (String, u64)| {
            let heartbeat = serde_json::from_str(&text).ok()?;
            Some(ProcessStatus { heartbeat, age: Duration::from_millis(age) })
        };
        Ok(rows.into_iter().filter_map(status).collect())
    }

    fn reach_others(&self) -> bool {
        true
    }
}
