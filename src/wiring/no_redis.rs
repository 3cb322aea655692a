//! Redis in a build without the feature `redis`. Settings that name a Redis are refused when they are
//! read.

use std::sync::Arc;

use anyhow::Result;

use crate::config::Settings;
use crate::core::engine::Ports;
use crate::core::ports::heartbeats::Heartbeats;

/// Returns the same ports, with a warning: sales continue without a lock.
pub(super) async fn with_redis(_settings: &Settings, ports: Ports) -> Result<Ports> {
    tracing::warn!("built without the feature redis: {}", super::WITHOUT_LOCK);
    Ok(ports)
}

/// Returns `None`: the processes of the sale are not known.
pub(super) async fn heartbeats(_settings: &Settings) -> Result<Option<Arc<dyn Heartbeats>>> {
    Ok(None)
}
