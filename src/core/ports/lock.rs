//! The lock: lets one lane at a time decide an item, for speed. Safety comes from the condition of
//! each commit in the ledger.

use std::fmt::{Debug, Display};
use std::time::Duration;

use async_trait::async_trait;

use crate::core::model::ItemId;

/// The lock's service failed. The caller continues without the lock.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the lock is not available: {0}")]
pub struct LockError(pub String);

/// Identifies the holder of a lock: random, one per lane, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(pub u128);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acquired {
    /// Held until the lease expires. Also if the same token already held it.
    Yes,
    /// Held under another token. Its holder's next [`Lock::renew`] returns `wanted`.
    Busy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    /// Held for another lease.
    Yes {
        /// True if another token asked for the lock within about the last second.
        wanted: bool,
    },
    /// Held under another token, or not held.
    Lost,
}

/// A lock per item, with a lease. The service counts the lease from the moment it grants it, by its
/// own clock. The holder must count from before its call.
#[async_trait]
pub trait Lock: Debug + Display + Send + Sync {
    /// Does not wait: returns `Busy` if the lock is held. Idempotent for the same token.
    async fn acquire(
        &self,
        item: &ItemId,
        token: Token,
        lease: Duration,
    ) -> Result<Acquired, LockError>;

    /// Starts a new lease, if the token still holds the lock.
    async fn renew(
        &self,
        item: &ItemId,
        token: Token,
        lease: Duration,
    ) -> Result<Renewed, LockError>;

    /// Releases the lock, if the token still holds it; otherwise does nothing.
    async fn release(&self, item: &ItemId, token: Token) -> Result<(), LockError>;

    /// `Ok` if the service responds and can grant locks.
    async fn check(&self) -> Result<(), LockError>;
}
