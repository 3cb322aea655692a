//! Orders that arrive under an id that is in use already. A repeat asks for what the first asked
//! for (`accepted_at` and the trace may differ) and shares its decision. Anything else is another
//! request under that id: it is dead-lettered, never acknowledged as a repeat.
//!
//! An honest producer sends no such thing, except a client that reuses an Idempotency-Key while
//! nobody compares it. Whoever can guess or read ids can: without this check a forged order that
//! is decided first would swallow the real one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::in_flight::Pending;
use crate::core::engine::failpoints;
use crate::core::engine::failpoints::Failpoint;
use crate::core::engine::message;
use crate::core::model::{Order, OrderId, OrderIds};
use crate::core::ports::dead_letters::DeadLetter;
use crate::core::ports::ledger::{OrderRecord, OrderState};

const REASON: &str =
    "order_id is already decided for another request: its user_id, item_id or quantity differs";

/// Whether both ask for the same thing, and so get the same decision.
pub fn is_repeat(first: &Order, other: &Order) -> bool {
    first.same_request(other) || failpoints::is_off(Failpoint::RequestCompared)
}

/// The first of each id, its repeats absorbed; and the other requests under the ids of these,
/// which can be judged only once the first is decided.
pub fn each_once(line: impl Iterator<Item = Pending>) -> (Vec<Pending>, Vec<Pending>) {
    if failpoints::is_off(Failpoint::RepeatDropped) {
        return (line.collect(), Vec::new());
    }
    let mut batch: Vec<Pending> = Vec::new();
    let mut others = Vec::new();
    let mut places: HashMap<OrderId, usize> = HashMap::new();
    for pending in line {
        match places.entry(pending.order.id) {
            Entry::Occupied(first) => {
                let first = &mut batch[*first.get()];
                if is_repeat(&first.order, &pending.order) {
                    first.absorb(pending);
                } else {
                    others.push(pending);
                }
            }
            Entry::Vacant(new) => {
                new.insert(batch.len());
                batch.push(pending);
            }
        }
    }
    (batch, others)
}

/// Takes those out of the batch whose id is decided for another request.
pub fn extract_others(batch: &mut Vec<Pending>, found: &[OrderRecord]) -> Vec<Pending> {
    let decided = found.iter().filter(|r| matches!(r.state, OrderState::Decided { .. }));
    let decided: HashMap<OrderId, &Order> = decided.map(|r| (r.order.id, &r.order)).collect();
    let is_other = |pending: &mut Pending| {
        let first = decided.get(&pending.order.id);
        first.is_some_and(|first| !is_repeat(first, &pending.order))
    };
    batch.extract_if(.., is_other).collect()
}

/// The dead letter of such a request. It has an id of its own, the same at each delivery, so that
/// a redrive does not take it for decided: the order is decided under that id.
pub fn letter(order: &Order, names: &OrderIds) -> DeadLetter {
    let body = message::encode(std::slice::from_ref(order));
    DeadLetter {
        order_id: names.from_message(&body, 0),
        reason: REASON.to_owned(),
        at: order.accepted_at,
        body,
    }
}
