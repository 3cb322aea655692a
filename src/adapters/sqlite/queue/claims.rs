//! A receiver's claim on an item: until it ends, no other receiver is given the item's orders.
//!
//! A claim keeps an item's orders in sequence and saves needless work; it is not needed for safety.
//! Two receivers can hold the same item, for example when one of them was suspended beyond the end
//! of its claim, or the clock was changed. Both then deliver the same orders, and the ledger refuses
//! the second decision of each. For this reason a claim needs no fencing number, and a process that
//! is killed only leaves its items undelivered until its claims end.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::adapters::sqlite::store::seq;
use crate::core::model::Timestamp;
use crate::core::ports::queue::Receipt;

/// How long a claim lasts without renewal, and so how long an item waits after its process is killed.
pub const CLAIM: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Claim {
    /// The end of the claim, as it is in the file.
    pub until: Timestamp,
    /// Sequence number of the last delivered order. Orders are read from the file after it.
    pub cursor: i64,
    /// The highest value that `cursor` has had: up to it, a delivery is a redelivery.
    pub max_cursor: i64,
    /// Unacknowledged deliveries: first sequence number -> last sequence number and the end of
    /// invisibility.
    pub in_flight: BTreeMap<i64, (i64, Instant)>,
}

impl Claim {
    /// A claim on the item, of which nothing is delivered yet.
    pub fn new(item_key: i64, until: Timestamp) -> Self {
        let cursor = seq::of_arrival(item_key, 0);
        Self { until, cursor, max_cursor: cursor, in_flight: BTreeMap::new() }
    }

    pub fn is_in_flight(&self, seq: i64) -> bool {
        let delivery = self.in_flight.range(..=seq).next_back();
        delivery.is_some_and(|(_, (last, _))| *last >= seq)
    }

    /// Makes the orders of the delivery available again, by moving the cursor before them.
    pub fn put_back(&mut self, first: i64) {
        self.in_flight.remove(&first);
        self.cursor = self.cursor.min(first - 1);
    }

    /// Puts back the deliveries whose invisibility has ended. Returns whether there were any.
    pub fn expire(&mut self, now: Instant) -> bool {
        let ended = self.in_flight.iter().filter(|(_, (_, until))| *until <= now);
        let ended: Vec<i64> = ended.map(|(first, _)| *first).collect();
        ended.iter().for_each(|first| self.put_back(*first));
        !ended.is_empty()
    }
}

/// The latest end that a claim can have. A claim that ends later was made before the clock was set
/// back, and is ignored.
pub fn latest_claim_end(now: Timestamp) -> Timestamp {
    now.plus(2 * CLAIM)
}

/// The receipt of a delivery, from its first and last sequence number.
pub fn receipt(first: i64, last: i64) -> Receipt {
    Receipt(format!("{first}-{last}"))
}

/// The first and last sequence number of a delivery; `None` if the receipt is not from this queue.
pub fn seq_range(receipt: &Receipt) -> Option<(i64, i64)> {
    let (first, last) = receipt.0.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}
