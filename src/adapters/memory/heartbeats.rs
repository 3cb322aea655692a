//! Heartbeats within one process. Other processes do not see them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::core::ports::heartbeats::{Heartbeat, HeartbeatError, Heartbeats, LIFE, ProcessStatus};

#[derive(Debug, Default)]
pub struct MemoryHeartbeats {
    heartbeats: Mutex<BTreeMap<String, (Instant, Heartbeat)>>,
}

impl MemoryHeartbeats {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (Instant, Heartbeat)>> {
        self.heartbeats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for MemoryHeartbeats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("heartbeats within this process")
    }
}

#[async_trait]
impl Heartbeats for MemoryHeartbeats {
    async fn write(&self, heartbeat: &Heartbeat) -> Result<(), HeartbeatError> {
        self.lock().insert(heartbeat.id.clone(), (Instant::now(), heartbeat.clone()));
        Ok(())
    }

    async fn remove(&self, id: &str) -> Result<(), HeartbeatError> {
        self.lock().remove(id);
        Ok(())
    }

    async fn processes(&self) -> Result<Vec<ProcessStatus>, HeartbeatError> {
        let mut heartbeats = self.lock();
        heartbeats.retain(|_, (at, _)| at.elapsed() <= LIFE);
        let status = |(at, heartbeat): &(Instant, Heartbeat)| ProcessStatus {
            heartbeat: heartbeat.clone(),
            age: at.elapsed(),
        };
        Ok(heartbeats.values().map(status).collect())
    }

    fn reach_others(&self) -> bool {
        false
    }
}
