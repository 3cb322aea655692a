//! Store reads that concurrent and later requests share, so that many requests cost one read.

use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

/// A cache of values by key. Concurrent requests for a key share one read: the first reads, the
/// others wait for its value. Holds the `keys_max` most recently used keys.
#[derive(Debug)]
pub(super) struct SharedReads<K: Eq + Hash, V> {
    slots: Mutex<LruCache<K, Arc<Slot<V>>>>,
    max_age: Duration,
    /// Whether a value may be cached for later requests.
    is_cacheable: fn(&V) -> bool,
}

/// The last read of a key. Locked during a read.
type Slot<V> = tokio::sync::Mutex<Option<Read<V>>>;

#[derive(Debug)]
struct Read<V> {
    begun: Instant,
    ended: Instant,
    value: V,
}

impl<K: Eq + Hash + Clone, V: Clone> SharedReads<K, V> {
    /// Caches values for `max_age`, if `is_cacheable` allows it.
    pub fn new(keys_max: NonZeroUsize, max_age: Duration, is_cacheable: fn(&V) -> bool) -> Self {
        Self { slots: Mutex::new(LruCache::sparse(keys_max)), max_age, is_cacheable }
    }

    /// The cached value, if it is no older than the maximum age and its read began at or after
    /// `since`; otherwise the result of `read`. Cancel-safe: the next caller reads.
    pub async fn get(&self, key: &K, since: Option<Instant>, read: impl Future<Output = V>) -> V {
        let slot = self.slot(key);
        let mut last = slot.lock().await;
        if let Some(read) = &*last
            && read.ended.elapsed() < self.max_age
            && since.is_none_or(|since| since <= read.begun)
        {
            return read.value.clone();
        }
        // Frees the old value before the new one is read.
        *last = None;
        let begun = Instant::now();
        let value = read.await;
        if (self.is_cacheable)(&value) {
            *last = Some(Read { begun, ended: Instant::now(), value: value.clone() });
        }
        value
    }

    /// Discards all values. A read in progress may still answer its own waiters, but later callers
    /// get a new slot and so a later read.
    pub fn clear(&self) {
        self.slots().clear();
    }

    fn slot(&self, key: &K) -> Arc<Slot<V>> {
        self.slots().get_or_insert_ref(key, Arc::default).clone()
    }

    fn slots(&self) -> MutexGuard<'_, LruCache<K, Arc<Slot<V>>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const MAX_AGE: Duration = Duration::from_secs(1);

    async fn count(reads: &AtomicUsize) -> usize {
        tokio::time::sleep(Duration::from_millis(300)).await;
        reads.fetch_add(1, Ordering::Relaxed)
    }

    #[tokio::test(start_paused = true)]
    async fn requests_within_the_maximum_age_share_a_read() {
        let shared = SharedReads::new(NonZeroUsize::new(4).unwrap(), MAX_AGE, |_| true);
        let reads = AtomicUsize::new(0);
        let ask = async |key: &'static str| shared.get(&key, None, count(&reads)).await;
        let (first, second, third, other) = tokio::join!(ask("a"), ask("a"), ask("a"), ask("b"));
        assert_eq!((second, third, other), (first, first, 1 - first));
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert_eq!(ask("a").await, first);
        // A caller that knows of a change does not get a value from before it.
        let changed = Instant::now();
        assert_eq!(shared.get(&"a", Some(changed), count(&reads)).await, 2);
        assert_eq!(shared.get(&"a", Some(changed), count(&reads)).await, 2);
        tokio::time::sleep(MAX_AGE).await;
        assert_eq!(ask("a").await, 3);
        shared.clear();
        assert_eq!(ask("a").await, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn cached_keys_are_bounded() {
        const KEYS_MAX: NonZeroUsize = NonZeroUsize::new(100).unwrap();
        let shared = SharedReads::new(KEYS_MAX, MAX_AGE, |read| read % 2 == 0);
        let reads = AtomicUsize::new(0);
        for key in 0..10_000 {
            shared.get(&key, None, async { reads.fetch_add(1, Ordering::Relaxed) }).await;
        }
        assert_eq!(shared.slots().len(), KEYS_MAX.get());
        // A value that is not cacheable is read by each caller.
        let odd = shared.get(&9_999, None, async { 1 }).await;
        assert_eq!((odd, shared.get(&9_999, None, async { 3 }).await), (1, 3));
    }
}
