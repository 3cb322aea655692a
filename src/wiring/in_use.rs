//! Which processes use a sale, before somebody takes its data away from under them.

use std::sync::Arc;

use anyhow::Result;

use super::UsageError;
use crate::adapters::sqlite::heartbeats::SqliteHeartbeats;
use crate::adapters::sqlite::store::Store;
use crate::config::{Backend, Settings};
use crate::core::model::SystemClock;
use crate::core::ports::heartbeats::{Heartbeats, Kind, LIFE, ProcessStatus};

/// Processes that are named one by one.
const NAMED: usize = 5;

/// Who is known to use the sale; `Err` if that cannot be told. A process that was killed is among
/// them until its last heartbeat is [`LIFE`] old.
pub async fn processes(settings: &Settings) -> Result<Vec<ProcessStatus>, UsageError> {
    let told = match settings.backend() {
        Backend::Embedded => {
            let store = Store::open(&settings.data).map_err(|e| UsageError(e.to_string()))?;
            SqliteHeartbeats::new(store, Arc::new(SystemClock)).processes().await
        }
        Backend::Aws => {
            let redis =
                super::redis::heartbeats(settings).await.map_err(|e| UsageError(e.to_string()))?;
            let Some(heartbeats) = redis else {
                let why = "without REDIS_HOST or REDIS_URL it is not known who uses the sale";
                return Err(UsageError(why.to_owned()));
            };
            heartbeats.processes().await
        }
    };
    told.map_err(|e| UsageError(format!("it is not known who uses the sale ({e})")))
}

/// Refuses if anybody uses the sale; `unless` says what else there is to do.
pub async fn refuse(settings: &Settings, unless: &str) -> Result<(), UsageError> {
    let living = processes(settings).await.map_err(|e| UsageError(format!("{e}{unless}")))?;
    if living.is_empty() {
        return Ok(());
    }
    let life = LIFE.as_secs();
    Err(UsageError(format!(
        "in use by {}: stop them first (a killed process counts for {life} s){unless}",
        named(&living)
    )))
}

/// The processes as an operator finds them.
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
