//! Estimates how long queued orders wait, from how fast the queue of each item moved lately.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

use crate::core::model::ItemId;
use crate::core::ports::queue::QueuePosition;

/// Maximum items with observations; the least recently used is evicted.
const ITEMS_MAX: NonZeroUsize = NonZeroUsize::new(1_024).unwrap();
/// Minimum time between two observations of an item, and how many are kept.
const OBSERVE_EVERY: Duration = Duration::from_millis(500);
const OBSERVATIONS_MAX: usize = 20;
/// Maximum age of an observation; the rate may have changed since.
const OBSERVATION_MAX_AGE: Duration = Duration::from_secs(30);
/// Minimum time over which a rate is measured.
const MEASURE_MIN: Duration = Duration::from_secs(1);

/// Observes the queue position whenever a client asks for it. Without clients there are no
/// observations.
#[derive(Debug)]
pub(super) struct WaitEstimator {
    items: Mutex<LruCache<ItemId, Observations>>,
}

impl Default for WaitEstimator {
    fn default() -> Self {
        Self { items: Mutex::new(LruCache::sparse(ITEMS_MAX)) }
    }
}

/// Pairs of a time and the number of orders of the item decided by then; oldest first.
type Observations = VecDeque<(Instant, u64)>;

impl WaitEstimator {
    /// Estimated seconds until the order at this position is decided. `None` while the rate is
    /// unknown or zero.
    pub fn wait_s(&self, item: &ItemId, position: QueuePosition, now: Instant) -> Option<u64> {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        let observations = items.get_or_insert_mut_ref(item, Observations::new);
        while observations
            .front()
            .is_some_and(|(at, _)| now.duration_since(*at) > OBSERVATION_MAX_AGE)
        {
            observations.pop_front();
        }
        if observations.back().is_none_or(|(at, _)| now.duration_since(*at) >= OBSERVE_EVERY) {
            observations.push_back((now, position.passed));
        }
        if observations.len() > OBSERVATIONS_MAX {
            observations.pop_front();
        }
        let (since, passed) = observations.front()?;
        let decided = position.passed.checked_sub(*passed)?;
        let took = now.duration_since(*since);
        if decided == 0 || took < MEASURE_MIN {
            return None;
        }
        let s = (position.ahead + 1) as f64 * took.as_secs_f64() / decided as f64;
        Some(s.ceil() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_is_known_once_the_queue_has_moved() {
        let estimator = WaitEstimator::default();
        let begin = Instant::now();
        let item = ItemId::parse("a").unwrap();
        let at = |ms: u64, ahead, passed| {
            estimator.wait_s(
                &item,
                QueuePosition { ahead, passed },
                begin + Duration::from_millis(ms),
            )
        };
        assert_eq!(at(0, 99, 0), None);
        assert_eq!(at(1_000, 99, 0), None, "the queue has not moved");
        assert_eq!(at(2_000, 49, 50), Some(2), "fifty in two seconds");
        assert_eq!(at(4_000, 0, 100), Some(1));
        assert_eq!(at(5_000, 199, 100), Some(10), "a later position");
        assert_eq!(at(60_000, 99, 100), None, "the observations are too old");
        assert_eq!(at(62_000, 89, 110), Some(18));
    }

    #[test]
    fn item_in_use_is_not_evicted() {
        let estimator = WaitEstimator::default();
        let begin = Instant::now();
        let at = |ms, n: usize, passed| {
            let item = ItemId::parse(&format!("item-{n}")).unwrap();
            estimator.wait_s(
                &item,
                QueuePosition { ahead: 9, passed },
                begin + Duration::from_millis(ms),
            )
        };
        assert_eq!(at(0, 0, 0), None);
        for n in 1..2 * ITEMS_MAX.get() {
            at(1_000, n, 0);
            at(1_000, 0, 10);
        }
        assert_eq!(at(1_500, 0, 15), Some(1), "ten per second since 0 s");
    }

    #[test]
    fn observations_are_bounded() {
        let estimator = WaitEstimator::default();
        let now = Instant::now();
        for n in 0..3 * ITEMS_MAX.get() {
            let item = ItemId::parse(&format!("item-{n}")).unwrap();
            for second in 0..100 {
                let now = now + Duration::from_secs(second);
                estimator.wait_s(&item, QueuePosition { ahead: 1, passed: second }, now);
            }
        }
        let items = estimator.items.lock().unwrap();
        assert_eq!(items.len(), ITEMS_MAX.get());
        assert!(items.iter().all(|(_, observations)| observations.len() <= OBSERVATIONS_MAX));
    }
}
