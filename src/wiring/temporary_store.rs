//! A store for one run of `flux stress`, deleted after it.

use anyhow::Result;
use tempfile::TempDir;

use super::aws;
use crate::config::{Backend, Settings};
use crate::core::model::{IdSource, SystemIdSource};

/// A store that no other process uses. The owner deletes it at the end.
#[derive(Debug)]
pub enum TemporaryStore {
    File(TempDir),
    Cloud(Box<aws::TemporaryCloud>),
}

impl TemporaryStore {
    /// Creates the store, and sets its location in the settings.
    pub async fn create(settings: &mut Settings) -> Result<TemporaryStore> {
        // No process would send the events of an outbox.
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
        let cloud = aws::TemporaryCloud::create(settings, name, fifo).await?;
        Ok(TemporaryStore::Cloud(Box::new(cloud)))
    }

    /// Deletes the store. A failure is logged.
    pub async fn delete(self) {
        match self {
            TemporaryStore::File(directory) => drop(directory),
            TemporaryStore::Cloud(cloud) => cloud.delete().await,
        }
    }
}

/// True if the settings name a FIFO queue.
pub fn is_fifo(settings: &Settings) -> bool {
    settings.sqs_queue_url.as_ref().is_some_and(|url| url.ends_with(".fifo"))
}
