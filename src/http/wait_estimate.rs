//! How fast the lines of items move, as far as this server has seen.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

use crate::core::model::ItemId;
use crate::core::ports::queue::QueuePosition;

/// Items whose line is watched, those that were observed last.
const ITEMS_MAX: NonZeroUsize = NonZeroUsize::new(1_024).unwrap();
/// The least time between two observations that are kept, and how many are kept of an item.
const OBSERVE_EVERY: Duration = Duration::from_millis(500);
const OBSERVATIONS_MAX: usize = 20;
/// A line that was observed longer ago may move otherwise by now.
const OBSERVATION_LIFE: Duration = Duration::from_secs(30);
/// The least time over which the speed of a line is measured.
const MEASURE: Duration = Duration::from_secs(1);

/// Learns from each observation of a line. A line is not observed while nobody waits.
#[derive(Debug)]
pub(super) struct WaitEstimator {
    items: Mutex<LruCache<ItemId, Observations>>,
}

impl Default for WaitEstimator {
    fn default() -> Self {
        Self { items: Mutex::new(LruCache::sparse(ITEMS_MAX)) }
    }
}

/// When, and how many orders had left the line by then; oldest first.
type Observations = VecDeque<(Instant, u64)>;

impl WaitEstimator {
    /// Seconds until the order at this place is decided, if its line goes on as it did lately.
    /// `None` while that is not known, or the line stands still.
    pub fn wait_s(&self, item: &ItemId, line: QueuePosition, now: Instant) -> Option<u64> {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        let observations = items.get_or_insert_mut_ref(item, Observations::new);
        while observations.front().is_some_and(|(at, _)| now.duration_since(*at) > OBSERVATION_LIFE)
        {
            observations.pop_front();
        }
        if observations.back().is_none_or(|(at, _)| now.duration_since(*at) >= OBSERVE_EVERY) {
            observations.push_back((now, line.passed));
        }
        if observations.len() > OBSERVATIONS_MAX {
            observations.pop_front();
        }
        let (since, passed) = observations.front()?;
        let moved = line.passed.checked_sub(*passed)?;
        let took = now.duration_since(*since);
        if moved == 0 || took < MEASURE {
            return None;
        }
        let s = (line.ahead + 1) as f64 * took.as_secs_f64() / moved as f64;
        Some(s.ceil() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_known_once_the_line_was_seen_to_move() {
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
        assert_eq!(at(1_000, 99, 0), None, "it stands still");
        assert_eq!(at(2_000, 49, 50), Some(2), "fifty in two seconds");
        assert_eq!(at(4_000, 0, 100), Some(1));
        assert_eq!(at(5_000, 199, 100), Some(10), "a later one's");
        assert_eq!(at(60_000, 99, 100), None, "nobody has looked for long");
        assert_eq!(at(62_000, 89, 110), Some(18));
    }

    #[test]
    fn item_in_use_is_remembered_however_many_others_are_asked_for() {
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
        assert_eq!(at(1_500, 0, 15), Some(1), "ten a second since 0 s");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
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
