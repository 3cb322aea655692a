//! The decision `dropped`: the outcome of an undecided order whose dead letter is dropped.

use std::collections::HashSet;

use super::Ports;
use super::failpoints;
use super::failpoints::Failpoint;
use super::message;
use crate::core::model::{Decided, Decision, OrderId};
use crate::core::ports::dead_letters::DeadLetter;
use crate::core::ports::queue::QueueError;

/// Records the decision `dropped` for the undecided orders of these letters, unless the queue does
/// so itself. A letter whose text is no order has no buyer, and nothing is recorded for it.
///
/// Called before the letters are deleted: a process that is killed in between leaves letters that
/// can be dropped again. In the other order it would leave undecided orders that nobody can find.
/// Idempotent.
pub(super) async fn record(ports: &Ports, letters: &[&DeadLetter]) -> Result<(), QueueError> {
    if ports.queue.decides_dropped() || failpoints::is_off(Failpoint::DroppedFirst) {
        return Ok(());
    }
    let decided_at = ports.clock.now();
    let orders = letters.iter().filter_map(|letter| message::order_in(letter, &ports.order_ids));
    let mut ids: HashSet<OrderId> = HashSet::new();
    let mut dropped: Vec<Decided> = orders
        .filter(|order| ids.insert(order.id))
        .map(|order| Decided { order, decision: Decision::Dropped, decided_at })
        .collect();
    if dropped.is_empty() {
        return Ok(());
    }
    let known = ports.ledger.record(&dropped).await;
    let known = known.map_err(|e| QueueError::Busy(format!("orders cannot be dropped: {e}")))?;
    dropped.retain(|one| !known.contains(&one.order.id));
    publish(ports, dropped.iter().map(|one| one.order.id).collect()).await;
    Ok(())
}

/// Counts orders that were decided as dropped, and notifies the clients that wait for their
/// decisions. Best effort.
pub(super) async fn publish(ports: &Ports, orders: Vec<OrderId>) {
    if !orders.is_empty() {
        ports.metrics.decisions.dropped.add(orders.len() as u64);
        ports.notifier.publish(&orders).await;
    }
}
