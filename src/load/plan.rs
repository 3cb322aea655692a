//! The requests of a load test and their order, which depends only on the seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::core::model::ItemId;

/// A repeat is sent at most this many requests after the first request, so that some repeats
/// arrive before the first response and some after it.
const REPEAT_WITHIN: u64 = 200;
/// One buyer in 20 waits for its decision.
pub(super) const BUYERS_PER_WAITER: u64 = 20;

/// A load test of one item: every buyer orders one unit.
#[derive(Debug, Clone)]
pub struct LoadPlan {
    pub item: ItemId,
    /// Stock at the start. On the temporary store it is set (`None`: 1); on a `--target` server it
    /// is required (`None`: any).
    pub stock: Option<u64>,
    /// Buyers, each with one order.
    pub users: u64,
    /// Connections that send orders, at least 1.
    pub connections: usize,
    /// Requests per second, above 0; with `None` a request is sent whenever a connection is free.
    pub rate: Option<f64>,
    /// Fraction of the buyers, 0 to 1, that repeat their order with the same Idempotency-Key.
    pub duplicates: f64,
    pub seed: u64,
}

/// One request to buy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ScheduledRequest {
    /// Number of requests before this one.
    pub position: u64,
    pub buyer: u64,
    /// True if it has an Idempotency-Key.
    pub keyed: bool,
    /// True if it repeats an earlier request.
    pub repeat: bool,
}

impl ScheduledRequest {
    pub fn waits(self) -> bool {
        !self.repeat && self.buyer.is_multiple_of(BUYERS_PER_WAITER)
    }
}

/// Iterates over the requests of a plan. Its memory is bounded by [`REPEAT_WITHIN`].
#[derive(Debug)]
pub(super) struct RequestSchedule {
    users: u64,
    duplicates: f64,
    rng: fastrand::Rng,
    next_buyer: u64,
    position: u64,
    /// Positions at which repeats are due, each with its buyer.
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
    fn seed_determines_requests_and_each_buyer_has_one() {
        let requests = |seed| RequestSchedule::new(&plan(1_000, 0.1, seed)).collect::<Vec<_>>();
        assert_eq!(requests(7), requests(7));
        assert_ne!(requests(7), requests(8));
        let first = requests(7).iter().filter(|s| !s.repeat).map(|s| s.buyer).collect::<Vec<_>>();
        assert_eq!(first, (0..1_000).collect::<Vec<_>>());
    }

    #[test]
    fn only_keyed_requests_are_repeated_once_each() {
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
