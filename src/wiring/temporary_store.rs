//! A store for one run of `flux stress`, thrown away after it.

use anyhow::Result;
use tempfile::TempDir;

use super::aws;
use crate::config::{Backend, Settings};
use crate::core::model::{IdSource, SystemIdSource};

/// A store that nobody else has, to be deleted in the end.
#[derive(Debug)]
pub enum TemporaryStore {
    File(TempDir),
    Cloud(Box<aws::TemporaryCloud>),
}

impl TemporaryStore {
    /// Makes the store, and points the settings at it.
    pub async fn make(settings: &mut Settings) -> Result<TemporaryStore> {
        // Nobody would send what an outbox holds.
        settings.webhook_url = None;
        settings.webhook_secret = None;
        if settings.backend() == Backend::Embedded {
            let directory = TempDir::with_prefix("flux-stress-")?;
            settings.data = directory.path().join("flux.db");
            return Ok(TemporaryStore::File(directory));
        }
        let name =
            format!("flux-stress-{}", uuid::Uuid::from_u128(SystemIdSource.next_id()).simple());
        let fifo = is_fifo(settings);
        let cloud = aws::TemporaryCloud::make(settings, name, fifo).await?;
        Ok(TemporaryStore::Cloud(Box::new(cloud)))
    }

    pub async fn delete(self) {
        match self {
            TemporaryStore::File(directory) => drop(directory),
            TemporaryStore::Cloud(cloud) => cloud.delete().await,
        }
    }
}

/// Whether the settings name a FIFO queue.
pub fn is_fifo(settings: &Settings) -> bool {
    settings.sqs_queue_url.as_ref().is_some_and(|url| url.ends_with(".fifo"))
}
