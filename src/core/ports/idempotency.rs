//! The idempotency store: remembers the fingerprint of each request with an Idempotency-Key, so
//! that the same key with another request is refused (P5). Used only if the queue cannot compare a
//! repeat with the first request; the embedded queue can.
//!
//! It is not relied on for safety: without it, the worker dead-letters the later request.

use std::fmt::{Debug, Display};

use async_trait::async_trait;

use crate::core::model::OrderId;

/// The order id that was derived from a key, and a hash of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    pub order: OrderId,
    pub hash: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyCheck {
    /// The key is new, or was used with the same request.
    Match,
    /// The key was used with another request.
    Mismatch,
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("Idempotency-Keys cannot be compared: {0}")]
pub struct IdempotencyError(pub String);

#[async_trait]
pub trait IdempotencyStore: Debug + Display + Send + Sync {
    /// Compares each fingerprint with the stored one of its order, and stores it if there is none.
    /// One round trip. Returns the results in the order given. Idempotent.
    async fn check_keys(
        &self,
        fingerprints: &[Fingerprint],
    ) -> Result<Vec<KeyCheck>, IdempotencyError>;
}
