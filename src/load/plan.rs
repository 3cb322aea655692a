//! Who asks for what, and when: the same sequence of requests for the same seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::core::model::ItemId;

/// A repeat comes at most so many requests after the request that it repeats: often while the
/// first is still on its way, often after it was answered.
const REPEAT_WITHIN: u64 = 200;
/// One buyer in so many waits to see the decision.
pub(super) const BUYERS_PER_WAITER: u64 = 20;

/// A load test of one item: every buyer orders one unit.
#[derive(Debug, Clone)]
pub struct LoadPlan {
    pub item: ItemId,
    /// Units at the start: set on a store of our own (`None`: 1), demanded of a foreign server
    /// (`None`: as it is).
    pub stock: Option<u64>,
    /// Buyers, each with one order.
    pub users: u64,
    /// Connections that send orders, from 1.
    pub connections: usize,
    /// Requests a second, above 0; `None` sends whenever a connection is free.
    pub rate: Option<f64>,
    /// Which part of the buyers, 0 to 1, sends the same order again under the same key.
    pub duplicates: f64,
    pub seed: u64,
}

/// One request to buy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ScheduledRequest {
    /// Requests before this one.
    pub position: u64,
    pub buyer: u64,
    /// Whether it bears an Idempotency-Key.
    pub keyed: bool,
    /// Whether the same was asked before.
    pub repeat: bool,
}

impl ScheduledRequest {
    pub fn waits(self) -> bool {
        !self.repeat && self.buyer.is_multiple_of(BUYERS_PER_WAITER)
    }
}

/// The requests of a plan, one by one. Holds the repeats that are due soon, nothing else.
#[derive(Debug)]
pub(super) struct RequestSchedule {
    users: u64,
    duplicates: f64,
    rng: fastrand::Rng,
    next_buyer: u64,
    position: u64,
    /// Position at which a buyer's repeat is due, and the buyer.
    repeats: BinaryHeap<Reverse<(u64, u64)>>,
}

impl RequestSchedule {
    pub fn new(plan: &LoadPlan) -> Self {
        Self {
            users: plan.users,
            duplicates: plan.duplicates,
            rng: fastrand::Rng::with_seed(plan.seed),
            next_buyer: 0,
            position: 0,
            repeats: BinaryHeap::new(),
        }
    }
}

impl Iterator for RequestSchedule {
    type Item = ScheduledRequest;

    fn next(&mut self) -> Option<ScheduledRequest> {
        let position = self.position;
        self.position += 1;
        let buyers_left = self.next_buyer < self.users;
        let due = self.repeats.peek().is_some_and(|Reverse((at, _))| *at <= self.position);
        if due || !buyers_left {
            let Reverse((_, buyer)) = self.repeats.pop()?;
            return Some(ScheduledRequest { position, buyer, keyed: true, repeat: true });
        }
        let buyer = self.next_buyer;
        self.next_buyer += 1;
        let keyed = self.rng.f64() < self.duplicates;
        if keyed {
            let at = self.position + 1 + self.rng.u64(..REPEAT_WITHIN);
            self.repeats.push(Reverse((at, buyer)));
        }
        Some(ScheduledRequest { position, buyer, keyed, repeat: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(users: u64, duplicates: f64, seed: u64) -> LoadPlan {
        let item = ItemId::parse("ticket_001").unwrap();
        LoadPlan { item, stock: None, users, connections: 1, rate: None, duplicates, seed }
    }

    #[test]
    fn a_seed_gives_the_same_requests_every_time_and_each_buyer_asks() {
        let requests = |seed| RequestSchedule::new(&plan(1_000, 0.1, seed)).collect::<Vec<_>>();
        assert_eq!(requests(7), requests(7));
        assert_ne!(requests(7), requests(8));
        let first = requests(7).iter().filter(|s| !s.repeat).map(|s| s.buyer).collect::<Vec<_>>();
        assert_eq!(first, (0..1_000).collect::<Vec<_>>());
    }

    #[test]
    fn every_keyed_request_is_repeated_once_and_later_and_no_other() {
        for duplicates in [0.0, 0.1, 1.0] {
            let requests: Vec<_> = RequestSchedule::new(&plan(2_000, duplicates, 3)).collect();
            let repeats = requests.iter().filter(|s| s.repeat).count();
            assert!((repeats as f64 - 2_000.0 * duplicates).abs() < 60.0, "{repeats}");
            assert_eq!(requests.iter().filter(|s| s.keyed).count(), 2 * repeats);
            for (at, request) in requests.iter().enumerate().filter(|(_, s)| s.repeat) {
                assert!(requests[..at].iter().any(|s| s.buyer == request.buyer && s.keyed));
            }
        }
    }
}
