//! An item in a receiver's hands, and what of it is delivered.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::core::model::Timestamp;
use crate::core::ports::queue::Receipt;

/// How long a claim on an item outlives its process.
pub const CLAIM: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Claim {
    pub until: Timestamp,
    /// The last place delivered.
    pub cursor: i64,
    /// The last place ever delivered here: up to it, a delivery is a repeat.
    pub reached: i64,
    /// Deliveries not acknowledged: first place -> last place and end of invisibility.
    pub in_flight: BTreeMap<i64, (i64, Instant)>,
}

impl Claim {
    /// On item `no`, of which nothing is delivered.
    pub fn new(no: i64, until: Timestamp) -> Self {
        let cursor = no << 32;
        Self { until, cursor, reached: cursor, in_flight: BTreeMap::new() }
    }

    pub fn holds(&self, place: i64) -> bool {
        let before = self.in_flight.range(..=place).next_back();
        before.is_some_and(|(_, (last, _))| *last >= place)
    }

    pub fn give_back(&mut self, first: i64) {
        self.in_flight.remove(&first);
        self.cursor = self.cursor.min(first - 1);
    }

    /// Gives back what is invisible no longer; whether there was any.
    pub fn expire(&mut self, now: Instant) -> bool {
        let over = |(first, (_, until)): (&i64, &(i64, Instant))| (*until <= now).then_some(*first);
        let over: Vec<i64> = self.in_flight.iter().filter_map(over).collect();
        over.iter().for_each(|first| self.give_back(*first));
        !over.is_empty()
    }
}

/// A claim that seems to last longer was made before the clock was set back, and counts no more.
pub fn longest_claim(now: Timestamp) -> Timestamp {
    now.plus(2 * CLAIM)
}

/// The receipt of the delivery of these places.
pub fn receipt(first: i64, last: i64) -> Receipt {
    Receipt(format!("{first}-{last}"))
}

pub fn places(receipt: &Receipt) -> Option<(i64, i64)> {
    let (first, last) = receipt.0.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}
