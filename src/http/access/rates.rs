//! Rate limits per key in bounded memory.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Shards, each with its own lock, and the maximum keys of a shard: 524,288 keys in all, 26 MB.
const SHARDS: usize = 64;
const SHARD_MAX: usize = 8_192;

/// A rate limit: `per_second` on average, and up to `burst` at once after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub per_second: u32,
    pub burst: u32,
}

impl Rate {
    /// `None` (no limit) if `per_second` is 0. A `burst` of 0 means as many as `per_second`.
    pub fn new(per_second: u32, burst: u32) -> Option<Self> {
        let burst = if burst == 0 { per_second } else { burst };
        (per_second > 0).then_some(Self { per_second, burst })
    }
}

/// Limits each key to a rate by the generic cell rate algorithm in its virtual scheduling form
/// (ITU-T I.371). Per key it stores one instant: when the key's past requests are paid off. A key
/// whose instant has passed is equal to an unknown key and can be dropped.
///
/// A full shard drops those keys. If more than half of the shard is still left, the shard is
/// cleared, so that full scans stay rare; then each of its keys may send one extra burst. That takes
/// more than 4,096 keys of one shard that are all in debt, about 262,144 in all.
#[derive(Debug)]
pub(super) struct Limiter {
    pub rate: Rate,
    /// Time since `start` at which a key is paid off, by the key's hash. The hash is keyed, so that
    /// nobody can construct a collision with another key. An LRU cache would take twice the memory
    /// and an allocation per key.
    shards: Box<[Mutex<HashMap<u64, Duration>>]>,
    hasher: RandomState,
    start: Instant,
}

impl Limiter {
    pub fn new(rate: Rate) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { rate, shards, hasher: RandomState::new(), start: Instant::now() }
    }

    /// Counts one request of this key. Beyond the rate it is not counted, and the error is the time
    /// until the key's next request is allowed.
    pub fn take(&self, key: impl Hash) -> Result<(), Duration> {
        self.take_at(self.start.elapsed(), key)
    }

    /// The time until this key's next request is allowed; `None` if it is allowed now.
    pub fn wait(&self, key: impl Hash) -> Option<Duration> {
        let (hash, shard) = self.shard(key);
        let now = self.start.elapsed();
        self.wait_at(now, shard.get(&hash).copied().unwrap_or_default())
    }

    fn take_at(&self, now: Duration, key: impl Hash) -> Result<(), Duration> {
        let (hash, mut shard) = self.shard(key);
        let paid_off = shard.get(&hash).copied().unwrap_or_default();
        if let Some(wait) = self.wait_at(now, paid_off) {
            return Err(wait);
        }
        if shard.len() >= SHARD_MAX {
            shard.retain(|_, paid_off| *paid_off > now);
            if shard.len() > SHARD_MAX / 2 {
                shard.clear();
            }
        }
        shard.insert(hash, paid_off.max(now) + self.cost());
        Ok(())
    }

    fn wait_at(&self, now: Duration, paid_off: Duration) -> Option<Duration> {
        let tolerance = self.cost() * (self.rate.burst - 1);
        paid_off.checked_sub(now)?.checked_sub(tolerance).filter(|wait| !wait.is_zero())
    }

    /// The time that one request takes up.
    fn cost(&self) -> Duration {
        Duration::from_secs(1) / self.rate.per_second
    }

    fn shard(&self, key: impl Hash) -> (u64, MutexGuard<'_, HashMap<u64, Duration>>) {
        let hash = self.hasher.hash_one(key);
        let shard = &self.shards[hash as usize % SHARDS];
        (hash, shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn each_key_has_a_burst_and_then_its_rate() {
        let limiter = Limiter::new(Rate::new(10, 3).unwrap());
        for _ in 0..3 {
            assert_eq!(limiter.take_at(5_000 * MS, "ann"), Ok(()));
        }
        assert_eq!(limiter.take_at(5_000 * MS, "ann"), Err(100 * MS));
        assert_eq!(limiter.take_at(5_060 * MS, "ann"), Err(40 * MS));
        assert_eq!(limiter.take_at(5_060 * MS, "bob"), Ok(()), "keys are independent");
        assert_eq!(limiter.take_at(5_100 * MS, "ann"), Ok(()), "allowed after the reported wait");
        assert_eq!(limiter.take_at(5_100 * MS, "ann"), Err(100 * MS));
        let after_a_pause = 9_000 * MS;
        let taken = (0..9).filter(|_| limiter.take_at(after_a_pause, "ann").is_ok()).count();
        assert_eq!(taken, 3, "a pause earns one burst, however long");
        assert_eq!(Rate::new(0, 5), None);
        assert_eq!(Rate::new(7, 0), Some(Rate { per_second: 7, burst: 7 }));
    }

    #[test]
    fn a_million_keys_take_bounded_memory() {
        let limiter = Limiter::new(Rate::new(1, 1).unwrap());
        let stored = || limiter.shards.iter().map(|p| p.lock().unwrap().len()).sum::<usize>();
        for key in 0..300_000 {
            // 100,000 keys per second: each is paid off after the next 100,000.
            let now = key * Duration::from_micros(10);
            assert_eq!(limiter.take_at(now, key), Ok(()));
            if key % 100_000 == 99_999 {
                assert!(limiter.take_at(now, key).is_err(), "the last key is stored");
                assert!(limiter.take_at(now, key - 90_000).is_err(), "and those of 0.9 s before");
            }
        }
        // All at the same moment, so that none is paid off.
        for key in 0..1_000_000 {
            let _ = limiter.take_at(100_000_000 * MS, key);
        }
        assert!(stored() <= SHARDS * SHARD_MAX, "{}", stored());
    }
}
