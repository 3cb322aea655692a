//! Redis, if the settings name one: the lock of the aws backend, and the notifications, heartbeats and
//! idempotency keys that its processes share.

use std::sync::Arc;

use anyhow::Result;
use secrecy::ExposeSecret;

use super::UsageError;
use crate::adapters::redis::client::{Redis, RedisSettings};
use crate::adapters::redis::heartbeats::RedisHeartbeats;
use crate::adapters::redis::idempotency::RedisIdempotency;
use crate::adapters::redis::lock::RedisLock;
use crate::adapters::redis::notifier::RedisNotifier;
use crate::config::Settings;
use crate::core::engine::Ports;
use crate::core::ports::heartbeats::Heartbeats;
use crate::core::ports::usage::Calls;

/// Returns the ports with lock, idempotency keys, notifier and heartbeats in Redis, if one is named.
pub(super) async fn with_redis(settings: &Settings, ports: Ports) -> Result<Ports> {
    let Some(redis) = redis(settings, ports.calls.clone()).await? else { return Ok(ports) };
    Ok(Ports {
        lock: Some(Arc::new(RedisLock::new(redis.clone()))),
        idempotency: Some(Arc::new(RedisIdempotency::new(redis.clone()))),
        notifier: Arc::new(RedisNotifier::new(redis.clone())),
        heartbeats: Arc::new(RedisHeartbeats::new(redis)),
        ..ports
    })
}

/// The heartbeats of a sale's processes; `None` if the settings name no Redis.
pub(super) async fn heartbeats(settings: &Settings) -> Result<Option<Arc<dyn Heartbeats>>> {
    if settings.redis_url.is_none() && settings.redis_host.is_none() {
        return Ok(None);
    }
    let redis = redis(settings, Arc::default()).await?;
    Ok(redis.map(|redis| Arc::new(RedisHeartbeats::new(redis)) as Arc<dyn Heartbeats>))
}

/// Connects to Redis. Returns `None` with a warning if the settings name none: sales continue without
/// it.
async fn redis(settings: &Settings, calls: Arc<Calls>) -> Result<Option<Redis>> {
    let url = match (&settings.redis_url, &settings.redis_host) {
        (Some(url), _) => url.expose_secret().to_owned(),
        (None, Some(host)) => at_host(host, settings.redis_port),
        (None, None) => {
            tracing::warn!("no REDIS_HOST or REDIS_URL: {}", super::WITHOUT_LOCK);
            return Ok(None);
        }
    };
    let password = settings.redis_password.as_ref().map(|p| p.expose_secret().to_owned());
    let prefix = format!("flux:{}", settings.dynamodb_table);
    let redis = RedisSettings { url, password, tls: settings.redis_tls, prefix };
    Ok(Some(Redis::connect(redis, calls).await.map_err(UsageError)?))
}

fn at_host(host: &str, port: u16) -> String {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare.contains(':') {
        format!("redis://[{bare}]:{port}")
    } else {
        format!("redis://{bare}:{port}")
    }
}
