//! Backups of the embedded store.

use std::path::PathBuf;

use anyhow::Result;
use tokio_util::sync::CancellationToken;

use super::{UsageError, in_use};
use crate::adapters::sqlite::store;
use crate::adapters::sqlite::store::{Contents, CopyError, Restored};
use crate::config::{Backend, Settings};
use crate::core::model::{Clock, SystemClock, rfc3339};

/// Copies the store into a new file, also during a sale.
pub async fn backup(settings: &Settings, to: PathBuf, stop: CancellationToken) -> Result<Contents> {
    let store = settings.data.clone();
    blocking(move || store::backup(&store, &to, &stop)).await
}

/// Replaces the store by a backup. Refused while a process uses the store.
pub async fn restore(
    settings: &Settings,
    from: PathBuf,
    replace: bool,
    stop: CancellationToken,
) -> Result<Restored> {
    let store = settings.data.clone();
    if store.exists() {
        in_use::refuse(settings, "").await?;
    }
    let now: String = rfc3339(SystemClock.now()).chars().filter(|c| c.is_alphanumeric()).collect();
    blocking(move || store::restore(&from, &store, replace, &now, &stop)).await
}

/// Deletes the embedded store. Without `force` it is refused while a process has the store open.
pub async fn delete(settings: &Settings, force: bool) -> Result<()> {
    let store = settings.data.clone();
    blocking(move || store::delete(&store, force)).await
}

/// Refuses the command on the aws backend; the error names the alternative.
pub fn embedded_only(settings: &Settings, command: &str) -> Result<(), UsageError> {
    if settings.backend() == Backend::Embedded {
        return Ok(());
    }
    let table = &settings.dynamodb_table;
    Err(UsageError(format!(
        "flux {command} is for the embedded store: on aws, back up the DynamoDB tables {table}, \
         {table}_items and {table}_meta (`aws dynamodb create-backup`, or point-in-time recovery)"
    )))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CopyError> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await?;
    done.map_err(|e| match e {
        CopyError::Refused(why) => UsageError(why).into(),
        CopyError::Failed(why) => anyhow::Error::msg(why),
    })
}
