//! The orders that this worker decided last, so that their repeats need no read of the ledger.

use std::collections::{HashMap, VecDeque};

use crate::core::engine::failpoints;
use crate::core::engine::failpoints::Failpoint;
use crate::core::model::{Order, OrderId};

/// Decided orders that are remembered; the oldest is forgotten first.
const RECENT_MAX: usize = 16_384;

/// Whether both orders ask for the same thing, and so get the same decision.
pub fn is_repeat(first: &Order, other: &Order) -> bool {
    first.same_request(other) || failpoints::is_off(Failpoint::RequestCompared)
}

#[derive(Debug, Default)]
pub struct RecentOrders {
    orders: HashMap<OrderId, Order>,
    /// Oldest first.
    by_age: VecDeque<OrderId>,
}

impl RecentOrders {
    /// True if this request was decided recently. False for another request under the same id.
    pub fn contains(&self, order: &Order) -> bool {
        self.orders.get(&order.id).is_some_and(|decided| is_repeat(decided, order))
    }

    pub fn add(&mut self, order: &Order) {
        let kept = Order { trace: None, ..order.clone() };
        if self.orders.insert(order.id, kept).is_some() {
            return;
        }
        self.by_age.push_back(order.id);
        if self.by_age.len() > RECENT_MAX
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.orders.remove(&oldest);
        }
    }
}
