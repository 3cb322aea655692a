//! Reads of a store that are shared by all who ask, so that their number costs nothing.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Values by key, each read at most once in a while, however many ask: one reads, the others wait
/// for that. Of about twice `keys_max` keys; those that nobody asked for lately are forgotten.
#[derive(Debug)]
pub(super) struct Shared<K, V> {
    kept: Mutex<Kept<K, V>>,
    keys_max: usize,
    fresh: Duration,
    /// Whether a value may be shown to those who ask later.
    keeps: fn(&V) -> bool,
}

#[derive(Debug)]
struct Kept<K, V> {
    /// Asked for since `since`.
    young: HashMap<K, Arc<Slot<V>>>,
    /// Asked for before that, and not since.
    old: HashMap<K, Arc<Slot<V>>>,
    since: Instant,
}

/// Locked while it is read.
type Slot<V> = tokio::sync::Mutex<Option<Read<V>>>;

#[derive(Debug)]
struct Read<V> {
    begun: Instant,
    ended: Instant,
    value: V,
}

impl<K: Eq + Hash + Clone, V: Clone> Shared<K, V> {
    /// A value is shown for as long as `fresh`, if `keeps` says that it may be.
    pub fn new(keys_max: usize, fresh: Duration, keeps: fn(&V) -> bool) -> Self {
        let kept = Kept { young: HashMap::new(), old: HashMap::new(), since: Instant::now() };
        Self { kept: Mutex::new(kept), keys_max, fresh, keeps }
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
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.young.clear();
        kept.old.clear();
    }

    fn slot(&self, key: &K) -> Arc<Slot<V>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.since.elapsed() > self.fresh || kept.young.len() >= self.keys_max {
            kept.old = std::mem::take(&mut kept.young);
            kept.since = Instant::now();
        }
        if let Some(slot) = kept.young.get(key) {
            return slot.clone();
        }
        let slot = kept.old.remove(key).unwrap_or_default();
        kept.young.insert(key.clone(), slot.clone());
        slot
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
        let (shared, reads) = (Shared::new(4, FRESH, |_| true), AtomicUsize::new(0));
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
        let (shared, reads) = (Shared::new(100, FRESH, |read| read % 2 == 0), AtomicUsize::new(0));
        for key in 0..10_000 {
            shared.get(&key, None, async { reads.fetch_add(1, Ordering::Relaxed) }).await;
        }
        let kept = |kept: &Kept<i32, usize>| kept.young.len() + kept.old.len();
        assert!(kept(&shared.kept.lock().unwrap()) <= 200);
        // What is not to be kept is read by each who asks.
        let odd = shared.get(&9_999, None, async { 1 }).await;
        assert_eq!((odd, shared.get(&9_999, None, async { 3 }).await), (1, 3));
    }
}
