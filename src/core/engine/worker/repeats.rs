//! Orders that arrive under an id that is already in use. A repeat asks for the same thing as the
//! first order (`accepted_at` and the trace may differ) and shares its decision. Anything else is
//! another request under that id: it is dead-lettered, never acknowledged as a repeat.
//!
//! Honest producers do not send other requests under a used id, except a client that reuses an
//! Idempotency-Key while the key check is unavailable. Anybody who can guess or read ids can:
//! without this check, a forged order that is decided first would replace the real one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::in_flight::Pending;
use super::recent::is_repeat;
use crate::core::engine::failpoints;
use crate::core::engine::failpoints::Failpoint;
use crate::core::engine::message;
use crate::core::model::{Order, OrderId, OrderIds};
use crate::core::ports::dead_letters::DeadLetter;
use crate::core::ports::ledger::{OrderRecord, OrderState};

const REASON: &str =
    "order_id is already decided for another request: its user_id, item_id or quantity differs";

/// Splits orders into a batch and the rest. The batch has the first order of each id, with its
/// repeats absorbed. The rest are other requests under these ids; they can be handled only after
/// the first is decided.
pub fn split_by_id(orders: impl Iterator<Item = Pending>) -> (Vec<Pending>, Vec<Pending>) {
    if failpoints::is_off(Failpoint::RepeatDropped) {
        return (orders.collect(), Vec::new());
    }
    let mut batch: Vec<Pending> = Vec::new();
    let mut others = Vec::new();
    let mut indexes: HashMap<OrderId, usize> = HashMap::new();
    for pending in orders {
        match indexes.entry(pending.order.id) {
            Entry::Occupied(index) => {
                let first = &mut batch[*index.get()];
                if is_repeat(&first.order, &pending.order) {
                    first.absorb(pending);
                } else {
                    others.push(pending);
                }
            }
            Entry::Vacant(index) => {
                index.insert(batch.len());
                batch.push(pending);
            }
        }
    }
    (batch, others)
}

/// Removes from the batch the orders whose id is decided for another request, and returns them.
pub fn extract_others(batch: &mut Vec<Pending>, found: &[OrderRecord]) -> Vec<Pending> {
    let decided = found.iter().filter(|r| matches!(r.state, OrderState::Decided { .. }));
    let decided: HashMap<OrderId, &Order> = decided.map(|r| (r.order.id, &r.order)).collect();
    let is_other = |pending: &mut Pending| {
        let first = decided.get(&pending.order.id);
        first.is_some_and(|first| !is_repeat(first, &pending.order))
    };
    batch.extract_if(.., is_other).collect()
}

/// The dead letter of another request under a used id. Its own id is derived from the request, so
/// each delivery gives the same letter. It is not the order's id: that is decided, and a redrive
/// under it would be taken for a repeat.
pub fn dead_letter(order: &Order, ids: &OrderIds) -> DeadLetter {
    let body = message::encode(std::slice::from_ref(order));
    DeadLetter {
        order_id: ids.from_message(&body, 0),
        reason: REASON.to_owned(),
        at: order.accepted_at,
        body,
    }
}
