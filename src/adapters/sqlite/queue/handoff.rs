//! Orders that this process has queued reach its own receiver through memory. All other orders are
//! found by polling the file, and only when there may be something to find.

use std::time::Duration;

use tokio::time::Instant;

use super::rows::QueuedRow;
use crate::adapters::sqlite::store::seq;
use crate::core::model::Order;

/// Maximum number of orders kept until the next receive (P8). Further ones are read from the file.
const ROWS_MAX: usize = 4_096;
/// The longest time without a poll: nothing signals the end of a killed process's claim.
pub const POLL_INTERVAL: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub struct HandoffCache {
    /// Sequence numbers and orders.
    rows: Vec<(i64, Order)>,
    /// True if the file may contain orders that `rows` does not.
    stale: bool,
    /// The change counter of the store at the last poll.
    polled_change: u64,
    /// The time of the last poll.
    polled_at: Instant,
}

impl HandoffCache {
    pub fn new() -> Self {
        Self { rows: Vec::new(), stale: true, polled_change: 0, polled_at: Instant::now() }
    }

    /// Keeps new rows of items that this process has claimed.
    pub fn add(&mut self, mut rows: Vec<(i64, Order)>, is_claimed: impl Fn(i64) -> bool) {
        let all = rows.len();
        rows.retain(|(seq, _)| is_claimed(seq::item_key(*seq)));
        rows.truncate(ROWS_MAX.saturating_sub(self.rows.len()));
        self.stale |= rows.len() < all;
        self.rows.append(&mut rows);
    }

    /// Takes at most `max` rows that directly follow their item's `cursor`. All other rows are
    /// discarded, and the next poll reads them from the file.
    pub fn take(&mut self, max: usize, cursor: impl Fn(i64) -> Option<i64>) -> Vec<QueuedRow> {
        let mut rows = std::mem::take(&mut self.rows);
        let all = rows.len();
        rows.sort_unstable_by_key(|(seq, _)| *seq);
        let mut last_taken = None;
        rows.retain(|(seq, _)| {
            let item_key = seq::item_key(*seq);
            let previous = last_taken.filter(|last| seq::item_key(*last) == item_key);
            let is_next = previous.or_else(|| cursor(item_key)) == Some(seq - 1);
            if is_next {
                last_taken = Some(*seq);
            }
            is_next
        });
        rows.truncate(max);
        self.stale |= rows.len() < all;
        rows.into_iter().map(|(seq, order)| QueuedRow { seq, order: Ok(order) }).collect()
    }

    /// Makes the next [`HandoffCache::needs_poll`] return `true`.
    pub fn require_poll(&mut self) {
        self.stale = true;
    }

    /// Whether the file must be polled. If so, the poll counts as done at `now`, so that changes
    /// during the poll cause another one.
    pub fn needs_poll(&mut self, change_counter: u64, now: Instant) -> bool {
        let is_due = self.stale
            || self.polled_change != change_counter
            || now >= self.polled_at + POLL_INTERVAL;
        if is_due {
            self.stale = false;
            self.polled_change = change_counter;
            self.polled_at = now;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::{ItemId, OrderId, Quantity, Timestamp, UserId};

    fn row(seq: i64) -> (i64, Order) {
        let order = Order {
            id: OrderId::from_bytes([seq as u8; 16]),
            user: UserId::parse("ann").unwrap(),
            item: ItemId::parse("hat").unwrap(),
            quantity: Quantity::ONE,
            accepted_at: Timestamp(1),
            trace: None,
        };
        (seq, order)
    }

    fn taken(handoff: &mut HandoffCache, max: usize, cursor: i64) -> Vec<i64> {
        handoff.take(max, |_| Some(cursor)).iter().map(|row| row.seq).collect()
    }

    /// Whether a poll is needed; asserts that one poll is enough.
    fn polls(handoff: &mut HandoffCache, change_counter: u64, now: Instant) -> bool {
        let is_due = handoff.needs_poll(change_counter, now);
        assert!(!handoff.needs_poll(change_counter, now));
        is_due
    }

    #[test]
    fn rows_are_taken_in_sequence() {
        let mut handoff = HandoffCache::new();
        let now = Instant::now();
        assert!(polls(&mut handoff, 0, now));
        handoff.add(vec![row(8), row(9)], |_| true);
        handoff.add(vec![row(6), row(7)], |_| true);
        assert_eq!(taken(&mut handoff, 9, 5), [6, 7, 8, 9]);
        assert!(!polls(&mut handoff, 0, now));
    }

    #[test]
    fn gaps_excess_and_unclaimed_rows_need_a_poll() {
        let mut handoff = HandoffCache::new();
        let now = Instant::now();
        handoff.add(vec![row(6), row(8)], |_| true);
        assert_eq!(taken(&mut handoff, 9, 5), [6]);
        assert!(polls(&mut handoff, 0, now));
        handoff.add(vec![row(7), row(8)], |_| true);
        assert_eq!(taken(&mut handoff, 1, 6), [7]);
        assert!(polls(&mut handoff, 0, now));
        handoff.add(vec![row(8)], |_| false);
        assert!(taken(&mut handoff, 9, 7).is_empty());
        assert!(polls(&mut handoff, 0, now));
    }

    #[test]
    fn change_or_interval_needs_a_poll() {
        let mut handoff = HandoffCache::new();
        let now = Instant::now();
        assert!(polls(&mut handoff, 0, now));
        assert!(polls(&mut handoff, 1, now));
        assert!(polls(&mut handoff, 1, now + POLL_INTERVAL));
    }
}
