//! IdempotencyStore in Redis: a key per order id with the fingerprint of its request.

use std::fmt;

use async_trait::async_trait;
use fred::interfaces::KeysInterface;
use fred::types::{Expiration, SetOptions};

use super::client::Redis;
use crate::core::model::DECISION_RETENTION;
use crate::core::ports::idempotency::{Fingerprint, IdempotencyError, IdempotencyStore, KeyCheck};

/// A mark outlives the sale: it lasts as long as decisions are remembered.
const LIFE: Expiration = Expiration::EX(DECISION_RETENTION.as_secs() as i64);

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
    /// `SET NX GET`, Redis 7.0 or newer: answers what was there, and sets it if nothing was.
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
        for mark in fingerprints {
            let key = self.redis.name(&format!("mark:{}", mark.order));
            let fingerprint = format!("{:016x}", mark.hash);
            let options = Some(SetOptions::NX);
            let queued = pipeline.set::<(), _, _>(key, fingerprint, Some(LIFE), options, true);
            queued.await.map_err(failed)?;
        }
        let before: Vec<Option<String>> = pipeline.all().await.map_err(failed)?;
        let fits = |(mark, before): (&Fingerprint, &Option<String>)| match before {
            Some(other) if *other != format!("{:016x}", mark.hash) => KeyCheck::Mismatch,
            _ => KeyCheck::Match,
        };
        Ok(fingerprints.iter().zip(&before).map(fits).collect())
    }
}
