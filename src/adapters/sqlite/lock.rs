//! The lock on the embedded store: one row per item. A lease whose end is further away than its
//! length was acquired before the clock was set back, and counts as expired.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{OptionalExtension, params};

use super::store::{Store, StoreError};
use crate::core::model::{Clock, ItemId};
use crate::core::ports::lock::{Acquired, Lock, LockError, Renewed, Token};

/// How long a failed attempt counts as somebody waiting for the lock, in milliseconds.
const WANTED_MS: u64 = 1_000;

#[derive(Debug)]
pub struct SqliteLock {
    store: Store,
    clock: Arc<dyn Clock>,
}

impl SqliteLock {
    pub fn new(store: Store, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock }
    }
}

impl fmt::Display for SqliteLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "locks in {}", self.store)
    }
}

fn failed(e: StoreError) -> LockError {
    LockError(e.to_string())
}

#[async_trait]
impl Lock for SqliteLock {
    async fn acquire(
        &self,
        item: &ItemId,
        token: Token,
        lease: Duration,
    ) -> Result<Acquired, LockError> {
        let item = item.clone();
        let clock = self.clock.clone();
        let acquire = move |tx: &rusqlite::Connection| {
            let now = clock.now();
            let taken = tx
                .prepare_cached(
                    "INSERT INTO locks (item, token, lease, until) VALUES (?1, ?2, ?3, ?4 + ?3)
                     ON CONFLICT (item) DO UPDATE
                     SET token = ?2, lease = ?3, until = ?4 + ?3, wanted_until = 0
                     WHERE token = ?2 OR until NOT BETWEEN ?4 + 1 AND ?4 + lease",
                )?
                .execute(params![item.as_str(), bytes(token), lease.as_millis() as u64, now.0])?;
            if taken == 1 {
                return Ok(Acquired::Yes);
            }
            tx.prepare_cached("UPDATE locks SET wanted_until = ? WHERE item = ?")?
                .execute(params![now.0 + WANTED_MS, item.as_str()])?;
            Ok(Acquired::Busy)
        };
        self.store.write(acquire).await.map_err(failed)
    }

    async fn renew(
        &self,
        item: &ItemId,
        token: Token,
        lease: Duration,
    ) -> Result<Renewed, LockError> {
        let item = item.clone();
        let clock = self.clock.clone();
        let renew = move |tx: &rusqlite::Connection| {
            let now = clock.now();
            let wanted_until: Option<u64> = tx
                .prepare_cached(
                    "UPDATE locks SET lease = ?3, until = ?4 + ?3
                     WHERE item = ?1 AND token = ?2 AND until > ?4 RETURNING wanted_until",
                )?
                .query_row(
                    params![item.as_str(), bytes(token), lease.as_millis() as u64, now.0],
                    |row| row.get(0),
                )
                .optional()?;
            Ok(wanted_until.map_or(Renewed::Lost, |u| Renewed::Yes { wanted: u > now.0 }))
        };
        self.store.write(renew).await.map_err(failed)
    }

    async fn release(&self, item: &ItemId, token: Token) -> Result<(), LockError> {
        let item = item.clone();
        let release = move |tx: &rusqlite::Connection| {
            tx.prepare_cached("DELETE FROM locks WHERE item = ? AND token = ?")?
                .execute(params![item.as_str(), bytes(token)])
        };
        self.store.write(release).await.map(drop).map_err(failed)
    }

    async fn check(&self) -> Result<(), LockError> {
        self.store.read(|_| Ok(())).await.map_err(failed)
    }
}

fn bytes(token: Token) -> [u8; 16] {
    token.0.to_be_bytes()
}
