//! Reads of a store that are shared by all who ask, so that their number costs nothing.

use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

/// Values by key, each read at most once in a while, however many ask: one reads, the others wait
/// for that. Of `keys_max` keys, those that were asked for last.
#[derive(Debug)]
pub(super) struct SharedReads<K: Eq + Hash, V> {
    kept: Mutex<LruCache<K, Arc<Slot<V>>>>,
    fresh: Duration,
    /// Whether a value may be shown to those who ask later.
    keeps: fn(&V) -> bool,
}

/// Locked while it is read.
type Slot<V> = tokio::sync::Mutex<Option<Read<V>>>;

#[derive(Debug)]
struct Read<V> {
    begun: Instant,
    ended: Instant,
    value: V,
}

impl<K: Eq + Hash + Clone, V: Clone> SharedReads<K, V> {
    /// A value is shown for as long as `fresh`, if `keeps` says that it may be.
    pub fn new(keys_max: NonZeroUsize, fresh: Duration, keeps: fn(&V) -> bool) -> Self {
        Self { kept: Mutex::new(LruCache::sparse(keys_max)), fresh, keeps }
    }

    /// What was read last, if that is fresh and its reading did not begin before `since`; else what
    /// `read` gives. Safe to cancel: the next who asks reads.
    pub async fn get(&self, key: &K, since: Option<Instant>, read: impl Future<Output = V>) -> V {
        let slot = self.slot(key);
        let mut last = slot.lock().await;
        if let Some(read) = &*last
            && read.ended.elapsed() < self.fresh
            && since.is_none_or(|since| since <= read.begun)
        {
            return read.value.clone();
        }
        // Makes room in memory for the next.
        *last = None;
        let begun = Instant::now();
        let value = read.await;
        if (self.keeps)(&value) {
            *last = Some(Read { begun, ended: Instant::now(), value: value.clone() });
        }
        value
    }

    /// Whoever asks from now on is shown nothing that was read before.
    pub fn forget(&self) {
        self.kept().clear();
    }

    fn slot(&self, key: &K) -> Arc<Slot<V>> {
        self.kept().get_or_insert_ref(key, Arc::default).clone()
    }

    fn kept(&self) -> MutexGuard<'_, LruCache<K, Arc<Slot<V>>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const FRESH: Duration = Duration::from_secs(1);

    async fn count(reads: &AtomicUsize) -> usize {
        tokio::time::sleep(Duration::from_millis(300)).await;
        reads.fetch_add(1, Ordering::Relaxed)
    }

    #[tokio::test(start_paused = true)]
    async fn one_reads_for_all_who_ask_within_a_second() {
        let shared = SharedReads::new(NonZeroUsize::new(4).unwrap(), FRESH, |_| true);
        let reads = AtomicUsize::new(0);
        let ask = async |key: &'static str| shared.get(&key, None, count(&reads)).await;
        let (first, second, third, other) = tokio::join!(ask("a"), ask("a"), ask("a"), ask("b"));
        assert_eq!((second, third, other), (first, first, 1 - first));
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert_eq!(ask("a").await, first);
        // Somebody who knows of a change since then is not shown what was before it.
        let changed = Instant::now();
        assert_eq!(shared.get(&"a", Some(changed), count(&reads)).await, 2);
        assert_eq!(shared.get(&"a", Some(changed), count(&reads)).await, 2);
        tokio::time::sleep(FRESH).await;
        assert_eq!(ask("a").await, 3);
        shared.forget();
        assert_eq!(ask("a").await, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        const KEYS_MAX: NonZeroUsize = NonZeroUsize::new(100).unwrap();
        let shared = SharedReads::new(KEYS_MAX, FRESH, |read| read % 2 == 0);
        let reads = AtomicUsize::new(0);
        for key in 0..10_000 {
            shared.get(&key, None, async { reads.fetch_add(1, Ordering::Relaxed) }).await;
        }
        assert_eq!(shared.kept().len(), KEYS_MAX.get());
        // What is not to be kept is read by each who asks.
        let odd = shared.get(&9_999, None, async { 1 }).await;
        assert_eq!((odd, shared.get(&9_999, None, async { 3 }).await), (1, 3));
    }
}
