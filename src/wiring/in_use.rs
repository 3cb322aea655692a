//! Finds the processes that use a sale, before its data are deleted or replaced.

use std::sync::Arc;

use anyhow::Result;

use super::UsageError;
use crate::adapters::sqlite::heartbeats::SqliteHeartbeats;
use crate::adapters::sqlite::store::Store;
use crate::config::{Backend, Settings};
use crate::core::model::SystemClock;
use crate::core::ports::heartbeats::{Heartbeats, Kind, LIFE, ProcessStatus};

/// Processes that an error lists by name.
const NAMED: usize = 5;

/// The processes that use the sale, including killed ones whose last heartbeat is younger than
/// [`LIFE`]. An error means that they are not known.
pub async fn processes(settings: &Settings) -> Result<Vec<ProcessStatus>, UsageError> {
    let processes = match settings.backend() {
        Backend::Embedded => {
            let store = Store::open(&settings.data).map_err(|e| UsageError(e.to_string()))?;
            SqliteHeartbeats::new(store, Arc::new(SystemClock)).processes().await
        }
        Backend::Aws => {
            let redis =
                super::redis::heartbeats(settings).await.map_err(|e| UsageError(e.to_string()))?;
            let Some(heartbeats) = redis else {
                let why = "without REDIS_HOST or REDIS_URL the processes of the sale are not known";
                return Err(UsageError(why.to_owned()));
            };
            heartbeats.processes().await
        }
    };
    processes.map_err(|e| UsageError(format!("the processes of the sale are not known ({e})")))
}

/// Refuses if a process uses the sale. `unless` is appended to the error: the alternative to stopping
/// them.
pub async fn refuse(settings: &Settings, unless: &str) -> Result<(), UsageError> {
    let living = processes(settings).await.map_err(|e| UsageError(format!("{e}{unless}")))?;
    if living.is_empty() {
        return Ok(());
    }
    let life = LIFE.as_secs();
    Err(UsageError(format!(
        "in use by {}: stop them first (a killed process is listed for {life} s){unless}",
        named(&living)
    )))
}

/// The processes with kind, pid and host, as an operator finds them.
pub fn named(living: &[ProcessStatus]) -> String {
    let name = |ProcessStatus { heartbeat, .. }: &ProcessStatus| {
        let kind = match heartbeat.kind {
            Kind::Serve => "serve",
            Kind::Work => "work",
        };
        format!("flux {kind} (pid {} on {})", heartbeat.pid, heartbeat.host)
    };
    let mut names: Vec<String> = living.iter().take(NAMED).map(name).collect();
    if living.len() > NAMED {
        names.push(format!("{} more", living.len() - NAMED));
    }
    names.join(", ")
}
