//! Backups of the embedded store.

use std::path::PathBuf;

use anyhow::Result;
use tokio_util::sync::CancellationToken;

use super::{UsageError, in_use};
use crate::adapters::sqlite::store;
use crate::adapters::sqlite::store::{Contents, CopyError, Restored};
use crate::config::{Backend, Settings};
use crate::core::model::{Clock, SystemClock, rfc3339};

/// Copies the store into a new file; a sale may go on meanwhile.
pub async fn backup(settings: &Settings, to: PathBuf, stop: CancellationToken) -> Result<Contents> {
    let store = settings.data.clone();
    blocking(move || store::backup(&store, &to, &stop)).await
}

/// Puts a backup in the place of the store, which no process may be using.
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

/// Deletes the embedded store, which no process may have open, unless `force`.
pub async fn delete(settings: &Settings, force: bool) -> Result<()> {
    let store = settings.data.clone();
    blocking(move || store::delete(&store, force)).await
}

/// Refuses on AWS, and says what there is instead.
pub fn embedded_only(settings: &Settings, command: &str) -> Result<(), UsageError> {
    if settings.backend() == Backend::Embedded {
        return Ok(());
    }
    let table = &settings.dynamodb_table;
    Err(UsageError(format!(
        "flux {command} is for the embedded store: on aws use backups of DynamoDB (`aws dynamodb \
         create-backup`, or point-in-time recovery) of {table}, {table}_items and {table}_meta"
    )))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CopyError> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await?;
    done.map_err(|e| match e {
        CopyError::Refused(what) => UsageError(what).into(),
        CopyError::Failed(what) => anyhow::Error::msg(what),
    })
}
