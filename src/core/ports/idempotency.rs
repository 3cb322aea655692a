//! IdempotencyStore: the fingerprint of each request that came with an Idempotency-Key, so that the key with
//! another body is refused (P5). A hint kept beside the queue where the queue itself cannot tell;
//! an embedded queue can, and needs none.

use std::fmt::{Debug, Display};

use async_trait::async_trait;

use crate::core::model::OrderId;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    pub order: OrderId,
    pub fingerprint: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyCheck {
    /// New, or a repeat with the same fingerprint.
    Match,
    /// The order id was marked before with another fingerprint.
    Mismatch,
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("marks are not available: {0}")]
pub struct IdempotencyError(pub String);

#[async_trait]
pub trait IdempotencyStore: Debug + Display + Send + Sync {
    /// IdempotencyStore each order, in one round trip; answers in the order given. Idempotent.
    async fn check_keys(
        &self,
        fingerprints: &[Fingerprint],
    ) -> Result<Vec<KeyCheck>, IdempotencyError>;
}
