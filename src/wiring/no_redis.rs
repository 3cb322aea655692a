//! The aws backend in a build without the feature `redis`. A setting that names a Redis was refused
//! when it was read.

use std::sync::Arc;

use anyhow::Result;

use crate::config::Settings;
use crate::core::engine::Ports;
use crate::core::ports::heartbeats::Heartbeats;

/// The same ports, with a warning: the sale goes on without a lock.
pub(super) async fn with_redis(_settings: &Settings, ports: Ports) -> Result<Ports> {
    tracing::warn!("built without the feature redis: {}", super::WITHOUT_LOCK);
    Ok(ports)
}

/// None: the processes of the sale are not known.
pub(super) async fn heartbeats(_settings: &Settings) -> Result<Option<Arc<dyn Heartbeats>>> {
    Ok(None)
}
