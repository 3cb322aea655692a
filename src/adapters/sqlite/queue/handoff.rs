//! What a process queued itself reaches its own receiver from memory; all else is found by looking
//! into the file, and only when there may be something to find.

use std::time::Duration;

use tokio::time::Instant;

use super::rows::Waiting;
use crate::core::model::Order;

/// Orders that are remembered until the next receive (P8); past it they are read from the file.
const FRESH_MAX: usize = 4_096;
/// The longest time without a look: a claim of a killed process ends without a sign.
pub const POLL_INTERVAL: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub struct HandoffCache {
    rows: Vec<(i64, Order)>,
    /// The file may hold what `rows` does not.
    stale: bool,
    /// The file's tick at the last look, and when that was.
    looked: (u64, Instant),
}

impl HandoffCache {
    pub fn new() -> Self {
        Self { rows: Vec::new(), stale: true, looked: (0, Instant::now()) }
    }

    /// Keeps new rows of items that are received here.
    pub fn add(&mut self, mut rows: Vec<(i64, Order)>, is_claimed: impl Fn(i64) -> bool) {
        let all = rows.len();
        rows.retain(|(place, _)| is_claimed(place >> 32));
        rows.truncate(FRESH_MAX.saturating_sub(self.rows.len()));
        self.stale |= rows.len() < all;
        self.rows.append(&mut rows);
    }

    /// The rows that come next in their item's line, behind its `cursor`, at most `max`. The
    /// others are left to the file.
    pub fn take(&mut self, max: usize, cursor: impl Fn(i64) -> Option<i64>) -> Vec<Waiting> {
        let mut rows = std::mem::take(&mut self.rows);
        let all = rows.len();
        rows.sort_unstable_by_key(|(place, _)| *place);
        let mut taken = None;
        rows.retain(|(place, _)| {
            let before = taken.filter(|before| before >> 32 == place >> 32);
            let is_next = before.or_else(|| cursor(place >> 32)) == Some(place - 1);
            if is_next {
                taken = Some(*place);
            }
            is_next
        });
        rows.truncate(max);
        self.stale |= rows.len() < all;
        rows.into_iter().map(|(place, order)| Waiting { place, order: Ok(order) }).collect()
    }

    /// From now on the file has to be looked into.
    pub fn look(&mut self) {
        self.stale = true;
    }

    /// Whether the file has to be looked into, which is then taken for done.
    pub fn needs_poll(&mut self, tick: u64, now: Instant) -> bool {
        let (looked_tick, at) = self.looked;
        let must = self.stale || looked_tick != tick || now >= at + POLL_INTERVAL;
        if must {
            (self.stale, self.looked) = (false, (tick, now));
        }
        must
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::{ItemId, OrderId, Quantity, Timestamp, UserId};

    fn row(place: i64) -> (i64, Order) {
        let order = Order {
            id: OrderId::from_bytes([place as u8; 16]),
            user: UserId::parse("ann").unwrap(),
            item: ItemId::parse("hat").unwrap(),
            quantity: Quantity::ONE,
            accepted_at: Timestamp(1),
            trace: None,
        };
        (place, order)
    }

    fn taken(handoff: &mut HandoffCache, max: usize, cursor: i64) -> Vec<i64> {
        handoff.take(max, |_| Some(cursor)).iter().map(|waiting| waiting.place).collect()
    }

    /// Whether it has to be looked, once.
    fn looks(handoff: &mut HandoffCache, tick: u64, now: Instant) -> bool {
        let must = handoff.needs_poll(tick, now);
        assert!(!handoff.needs_poll(tick, now));
        must
    }

    #[test]
    fn rows_are_taken_in_sequence() {
        let (mut handoff, now) = (HandoffCache::new(), Instant::now());
        assert!(looks(&mut handoff, 0, now));
        handoff.add(vec![row(8), row(9)], |_| true);
        handoff.add(vec![row(6), row(7)], |_| true);
        assert_eq!(taken(&mut handoff, 9, 5), [6, 7, 8, 9]);
        assert!(!looks(&mut handoff, 0, now));
    }

    #[test]
    fn gaps_excess_and_unclaimed_rows_need_a_poll() {
        let (mut handoff, now) = (HandoffCache::new(), Instant::now());
        handoff.add(vec![row(6), row(8)], |_| true);
        assert_eq!(taken(&mut handoff, 9, 5), [6]);
        assert!(looks(&mut handoff, 0, now));
        handoff.add(vec![row(7), row(8)], |_| true);
        assert_eq!(taken(&mut handoff, 1, 6), [7]);
        assert!(looks(&mut handoff, 0, now));
        handoff.add(vec![row(8)], |_| false);
        assert!(taken(&mut handoff, 9, 7).is_empty());
        assert!(looks(&mut handoff, 0, now));
    }

    #[test]
    fn change_or_interval_needs_a_poll() {
        let (mut handoff, now) = (HandoffCache::new(), Instant::now());
        assert!(looks(&mut handoff, 0, now));
        assert!(looks(&mut handoff, 1, now));
        assert!(looks(&mut handoff, 1, now + POLL_INTERVAL));
    }
}
