//! Idempotency keys in Redis: one key per order id, with the fingerprint of its request.

use std::fmt;

use async_trait::async_trait;
use fred::interfaces::KeysInterface;
use fred::types::{Expiration, SetOptions};

use super::client::Redis;
use crate::core::model::DECISION_RETENTION;
use crate::core::ports::idempotency::{Fingerprint, IdempotencyError, IdempotencyStore, KeyCheck};

/// Expiry of a fingerprint: the retention of decisions, so that it outlives the sale.
const LIFE: Expiration = Expiration::EX(DECISION_RETENTION.as_secs() as i64);

/// The fingerprints of requests with an Idempotency-Key.
#[derive(Debug)]
pub struct RedisIdempotency {
    redis: Redis,
}

impl RedisIdempotency {
    pub fn new(redis: Redis) -> Self {
        Self { redis }
    }
}

impl fmt::Display for RedisIdempotency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.redis.fmt(f)
    }
}

#[async_trait]
impl IdempotencyStore for RedisIdempotency {
    /// Uses `SET NX GET` (Redis 7.0 or newer), which returns the stored fingerprint, or stores the new
    /// one if there is none.
    async fn check_keys(
        &self,
        fingerprints: &[Fingerprint],
    ) -> Result<Vec<KeyCheck>, IdempotencyError> {
        if fingerprints.is_empty() {
            return Ok(Vec::new());
        }
        let failed = |e: fred::error::Error| IdempotencyError(self.redis.failed("SET", &e));
        let client = self.redis.round_trip("SET", fingerprints.len()).map_err(IdempotencyError)?;
        let pipeline = client.pipeline();
        for request in fingerprints {
            let key = self.redis.name(&format!("mark:{}", request.order));
            let options = Some(SetOptions::NX);
            let queued = pipeline.set::<(), _, _>(key, hex(request), Some(LIFE), options, true);
            queued.await.map_err(failed)?;
        }
        let stored: Vec<Option<String>> = pipeline.all().await.map_err(failed)?;
        let check = |(request, stored): (&Fingerprint, &Option<String>)| match stored {
            Some(other) if *other != hex(request) => KeyCheck::Mismatch,
            _ => KeyCheck::Match,
        };
        Ok(fingerprints.iter().zip(&stored).map(check).collect())
    }
}

fn hex(request: &Fingerprint) -> String {
    format!("{:016x}", request.hash)
}
