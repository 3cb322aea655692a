//! The lock in Redis: one key per item with the holder's token, and one key that another process sets
//! when it wants the lock. Both have the item as hash tag, so a cluster keeps them on one node.
//!
//! Each operation is one script in one round trip. Scripts are sent in full with `EVAL`: they are short,
//! and a node need not have them cached, for example after a failover.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use fred::interfaces::LuaInterface;

use super::client::Redis;
use crate::core::model::ItemId;
use crate::core::ports::lock::{Acquired, Lock, LockError, Renewed, Token};

/// Expiry of the `wanted` key, in milliseconds. A waiting process asks again within this time, which
/// renews the key.
const WANTED_MS: u64 = 1_000;

/// A script, and the name under which it is counted.
type Script = (&'static str, &'static str);

/// Takes a free lock, or renews its own lease. A new holder deletes the `wanted` key: either it set the
/// key itself, or the next process that asks sets it again.
const ACQUIRE: Script = (
    "EVAL acquire",
    "\
if redis.call('set', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  redis.call('del', KEYS[2])
  return 1
end
if redis.call('get', KEYS[1]) == ARGV[1] then
  redis.call('pexpire', KEYS[1], ARGV[2])
  return 1
end
redis.call('set', KEYS[2], '1', 'PX', ARGV[3])
return 0",
);

/// Returns 0 if the lock is lost, 1 if it is held, 2 if it is held and wanted. The `wanted` key stays
/// until it expires or the lock changes hands.
const RENEW: Script = (
    "EVAL renew",
    "\
if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('pexpire', KEYS[1], ARGV[2])
return 1 + redis.call('exists', KEYS[2])",
);

const RELEASE: Script = (
    "EVAL release",
    "\
if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('del', KEYS[1])",
);

/// The lock that the workers of a sale share.
#[derive(Debug)]
pub struct RedisLock {
    redis: Redis,
}

impl RedisLock {
    pub fn new(redis: Redis) -> Self {
        Self { redis }
    }

    async fn run(
        &self,
        (name, script): Script,
        item: &ItemId,
        token: Token,
        lease: Duration,
    ) -> Result<u64, LockError> {
        let key = |what: &str| self.redis.name(&format!("{{{item}}}:{what}"));
        let keys = vec![key("lock"), key("wanted")];
        let token = format!("{:032x}", token.0);
        let args = vec![token, lease.as_millis().max(1).to_string(), WANTED_MS.to_string()];
        let client = self.redis.round_trip(name, 1).map_err(LockError)?;
        let ran = client.eval(script, keys, args).await;
        ran.map_err(|e| LockError(self.redis.failed(name, &e)))
    }
}

impl fmt::Display for RedisLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.redis.fmt(f)
    }
}

#[async_trait]
impl Lock for RedisLock {
    async fn acquire(
        &self,
        item: &ItemId,
        token: Token,
        lease: Duration,
    ) -> Result<Acquired, LockError> {
        match self.run(ACQUIRE, item, token, lease).await? {
            1 => Ok(Acquired::Yes),
            _ => Ok(Acquired::Busy),
        }
    }

    async fn renew(
        &self,
        item: &ItemId,
        token: Token,
        lease: Duration,
    ) -> Result<Renewed, LockError> {
        match self.run(RENEW, item, token, lease).await? {
            0 => Ok(Renewed::Lost),
            held => Ok(Renewed::Yes { wanted: held == 2 }),
        }
    }

    async fn release(&self, item: &ItemId, token: Token) -> Result<(), LockError> {
        self.run(RELEASE, item, token, Duration::ZERO).await.map(|_| ())
    }

    async fn check(&self) -> Result<(), LockError> {
        self.redis.check().await.map_err(LockError)
    }
}
