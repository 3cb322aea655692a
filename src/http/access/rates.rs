//! How often somebody may do something, in bounded memory.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Parts that can be looked at at once, and how many each remembers: 524,288 in all, some 20 MB.
const PARTS: usize = 64;
const PART_MAX: usize = 8_192;

/// A number of times a second; after a pause so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub per_second: u32,
    pub burst: u32,
}

impl Rate {
    /// `None` for 0 a second: no limit. Without a burst, it is the number of a second.
    pub fn new(per_second: u32, burst: u32) -> Option<Self> {
        let burst = if burst == 0 { per_second } else { burst };
        (per_second > 0).then_some(Self { per_second, burst })
    }
}

/// Keeps each of many to a rate. For each it remembers one instant, that at which all that it did
/// is paid for (the generic cell rate algorithm, in its virtual scheduling form: ITU-T I.371), and
/// those who have paid are the same as those who never came. Where more than 8,192 of a part have
/// not, all of that part are forgotten, so that they may come a burst too often.
#[derive(Debug)]
pub(super) struct Limiter {
    pub rate: Rate,
    /// Each by a keyed hash, so that nobody can choose who to be taken for. Not an LRU cache, which
    /// would take twice the memory and an allocation per buyer.
    parts: Box<[Mutex<HashMap<u64, Duration>>]>,
    hasher: RandomState,
    begun: Instant,
}

impl Limiter {
    pub fn new(rate: Rate) -> Self {
        let parts = (0..PARTS).map(|_| Mutex::default()).collect();
        Self { rate, parts, hasher: RandomState::new(), begun: Instant::now() }
    }

    /// Once more for this one; if it is too early, that is not counted, and the error says how
    /// long it is too early.
    pub fn take(&self, who: impl Hash) -> Result<(), Duration> {
        self.take_at(self.begun.elapsed(), who)
    }

    /// How long it is too early for this one, if it is.
    pub fn wait(&self, who: impl Hash) -> Option<Duration> {
        let (who, part) = self.part(who);
        let now = self.begun.elapsed();
        self.too_early(now, part.get(&who).copied().unwrap_or_default())
    }

    fn take_at(&self, now: Duration, who: impl Hash) -> Result<(), Duration> {
        let (who, mut part) = self.part(who);
        let paid = part.get(&who).copied().unwrap_or_default();
        if let Some(wait) = self.too_early(now, paid) {
            return Err(wait);
        }
        if part.len() >= PART_MAX {
            part.retain(|_, paid| *paid > now);
            if part.len() > PART_MAX / 2 {
                part.clear();
            }
        }
        part.insert(who, paid.max(now) + self.price());
        Ok(())
    }

    fn too_early(&self, now: Duration, paid: Duration) -> Option<Duration> {
        let credit = self.price() * (self.rate.burst - 1);
        paid.checked_sub(now)?.checked_sub(credit).filter(|wait| !wait.is_zero())
    }

    fn price(&self) -> Duration {
        Duration::from_secs(1) / self.rate.per_second
    }

    fn part(&self, who: impl Hash) -> (u64, MutexGuard<'_, HashMap<u64, Duration>>) {
        let who = self.hasher.hash_one(who);
        let part = &self.parts[who as usize % PARTS];
        (who, part.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn each_may_come_in_a_burst_and_then_at_the_rate() {
        let limiter = Limiter::new(Rate::new(10, 3).unwrap());
        for _ in 0..3 {
            assert_eq!(limiter.take_at(5_000 * MS, "ann"), Ok(()));
        }
        assert_eq!(limiter.take_at(5_000 * MS, "ann"), Err(100 * MS));
        assert_eq!(limiter.take_at(5_060 * MS, "ann"), Err(40 * MS));
        assert_eq!(limiter.take_at(5_060 * MS, "bob"), Ok(()), "others are others");
        assert_eq!(limiter.take_at(5_100 * MS, "ann"), Ok(()), "as soon as it was told");
        assert_eq!(limiter.take_at(5_100 * MS, "ann"), Err(100 * MS));
        let after_a_pause = 9_000 * MS;
        let taken = (0..9).filter(|_| limiter.take_at(after_a_pause, "ann").is_ok()).count();
        assert_eq!(taken, 3, "a pause is good for one burst, however long");
        assert_eq!(Rate::new(0, 5), None);
        assert_eq!(Rate::new(7, 0), Some(Rate { per_second: 7, burst: 7 }));
    }

    #[test]
    fn a_million_are_told_apart_in_bounded_memory() {
        let limiter = Limiter::new(Rate::new(1, 1).unwrap());
        let remembered = || limiter.parts.iter().map(|p| p.lock().unwrap().len()).sum::<usize>();
        for who in 0..300_000 {
            // 100,000 a second: each is paid for after the 100,000 that follow.
            let now = who * Duration::from_micros(10);
            assert_eq!(limiter.take_at(now, who), Ok(()));
            if who % 100_000 == 99_999 {
                assert!(limiter.take_at(now, who).is_err(), "the last is remembered");
                assert!(limiter.take_at(now, who - 90_000).is_err(), "and those of a second");
            }
        }
        // All at once: none of them is paid for.
        for who in 0..1_000_000 {
            let _ = limiter.take_at(100_000_000 * MS, who);
        }
        assert!(remembered() <= PARTS * PART_MAX, "{}", remembered());
    }
}
