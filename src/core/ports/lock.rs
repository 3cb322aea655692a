//! The lock: one decider per item at a time, for speed. Safety is the ledger's condition.

use std::fmt::{Debug, Display};
use std::time::Duration;

use async_trait::async_trait;

use crate::core::model::ItemId;

/// The lock's service did not do it. The sale goes on without the lock.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the lock is not available: {0}")]
pub struct LockError(pub String);

/// Who holds a lock: drawn at random by each lane, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(pub u128);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acquired {
    /// Held until the lease is over. Also when the same token held it before.
    Yes,
    /// Somebody else holds it, and has been told that it is wanted.
    Busy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    /// Held for another lease.
    Yes {
        /// Somebody else has asked for it within the last second or so.
        wanted: bool,
    },
    /// Another holds it, or nobody.
    Lost,
}

/// A lock with a lease per item. The lease is counted by the service's clock from when it grants,
/// so the holder must count from before it asked.
#[async_trait]
pub trait Lock: Debug + Display + Send + Sync {
    async fn acquire(
        &self,
        item: &ItemId,
        token: Token,
        lease: Duration,
    ) -> Result<Acquired, LockError>;

    /// Makes the lease whole again, if the token still holds the lock.
    async fn renew(
        &self,
        item: &ItemId,
        token: Token,
        lease: Duration,
    ) -> Result<Renewed, LockError>;

    /// Gives the lock back, if the token still holds it; a stranger's release does nothing.
    async fn release(&self, item: &ItemId, token: Token) -> Result<(), LockError>;

    /// Whether the service answers, and can grant locks.
    async fn check(&self) -> Result<(), LockError>;
}
