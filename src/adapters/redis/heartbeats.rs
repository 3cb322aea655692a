//! Heartbeats in Redis: one hash with a field per process. Ages are measured by Redis's clock, so the
//! clocks of the machines need not agree.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use fred::interfaces::LuaInterface;

use super::client::Redis;
use crate::core::ports::heartbeats::{
    Heartbeat, HeartbeatError, Heartbeats, KEPT, LIFE, ProcessStatus,
};

/// Writes a heartbeat, prefixed by the time in milliseconds, and removes heartbeats that are too old.
const WRITE: &str = "\
local t = redis.call('time')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local all = redis.call('hgetall', KEYS[1])
for i = 1, #all, 2 do
  local at = tonumber(string.match(all[i + 1], '^%d+') or '0')
  if math.abs(now - at) > tonumber(ARGV[3]) then redis.call('hdel', KEYS[1], all[i]) end
end
redis.call('hset', KEYS[1], ARGV[1], string.format('%d %s', now, ARGV[2]))
return redis.call('pexpire', KEYS[1], ARGV[3])";

const REMOVE: &str = "return redis.call('hdel', KEYS[1], ARGV[1])";

/// Returns the time in milliseconds, followed by all values.
const READ: &str = "\
local t = redis.call('time')
local all = redis.call('hvals', KEYS[1])
table.insert(all, 1, string.format('%d', t[1] * 1000 + math.floor(t[2] / 1000)))
return all";

/// The heartbeats of a sale's processes.
#[derive(Debug)]
pub struct RedisHeartbeats {
    redis: Redis,
    key: String,
}

impl RedisHeartbeats {
    pub fn new(redis: Redis) -> Self {
        Self { key: redis.name("pulses"), redis }
    }

    async fn run<T: fred::types::FromValue>(
        &self,
        (name, script): (&str, &'static str),
        args: Vec<String>,
    ) -> Result<T, HeartbeatError> {
        let client = self.redis.round_trip(name, 1).map_err(HeartbeatError)?;
        let ran = client.eval(script, vec![self.key.clone()], args).await;
        ran.map_err(|e| HeartbeatError(self.redis.failed(name, &e)))
    }
}

impl fmt::Display for RedisHeartbeats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.redis.fmt(f)
    }
}

#[async_trait]
impl Heartbeats for RedisHeartbeats {
    async fn write(&self, heartbeat: &Heartbeat) -> Result<(), HeartbeatError> {
        let text = serde_json::to_string(heartbeat).map_err(|e| HeartbeatError(e.to_string()))?;
        let args = vec![heartbeat.id.clone(), text, KEPT.as_millis().to_string()];
        self.run(("EVAL pulse", WRITE), args).await
    }

    async fn remove(&self, id: &str) -> Result<(), HeartbeatError> {
        self.run(("EVAL pulse", REMOVE), vec![id.to_owned()]).await
    }

    async fn processes(&self) -> Result<Vec<ProcessStatus>, HeartbeatError> {
        let mut values: Vec<String> = self.run(("EVAL pulses", READ), Vec::new()).await?;
        if values.is_empty() {
            return Ok(Vec::new());
        }
        let now: u64 = values.remove(0).parse().unwrap_or(0);
        let alive = |value: String| {
            let (at, text) = value.split_once(' ')?;
            let age = Duration::from_millis(now.abs_diff(at.parse().ok()?));
            let heartbeat = serde_json::from_str(text).ok()?;
            (age <= LIFE).then_some(ProcessStatus { heartbeat, age })
        };
        let mut processes: Vec<ProcessStatus> = values.into_iter().filter_map(alive).collect();
        processes.sort_by(|a, b| a.heartbeat.id.cmp(&b.heartbeat.id));
        Ok(processes)
    }

    fn reach_others(&self) -> bool {
        true
    }
}
