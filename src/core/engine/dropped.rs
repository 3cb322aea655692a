//! The decision `dropped`: what an order becomes when its dead letter is dropped.

use std::collections::HashSet;

use super::Ports;
use super::failpoints;
use super::failpoints::Failpoint;
use super::message;
use crate::core::model::{Decided, Decision, OrderId};
use crate::core::ports::dead_letters::DeadLetter;
use crate::core::ports::queue::QueueError;

/// Decides the orders of these letters as dropped, if they are undecided, unless the queue does so
/// itself. To be called before the letters go: a process that is killed in between leaves letters
/// that can be dropped again. A letter whose text is no order has no buyer. Idempotent.
pub(super) async fn record<'a>(
    ports: &Ports,
    letters: impl Iterator<Item = &'a DeadLetter>,
) -> Result<(), QueueError> {
    if ports.queue.decides_dropped() || failpoints::is_off(Failpoint::DroppedFirst) {
        return Ok(());
    }
    let decided_at = ports.clock.now();
    let orders = letters.filter_map(|letter| message::order_in(letter, &ports.order_ids));
    let mut ids: HashSet<OrderId> = HashSet::new();
    let mut dropped: Vec<Decided> = orders
        .filter(|order| ids.insert(order.id))
        .map(|order| Decided { order, decision: Decision::Dropped, decided_at })
        .collect();
    if dropped.is_empty() {
        return Ok(());
    }
    let seen = ports.ledger.record(&dropped).await;
    let seen = seen.map_err(|e| QueueError::Busy(format!("no order can be dropped now: {e}")))?;
    dropped.retain(|one| !seen.contains(&one.order.id));
    publish(ports, dropped.iter().map(|one| one.order.id).collect()).await;
    Ok(())
}

/// Counts orders that were dropped just now, and tells those who wait for them. Best effort.
pub(super) async fn publish(ports: &Ports, orders: Vec<OrderId>) {
    if !orders.is_empty() {
        ports.metrics.decisions.dropped.add(orders.len() as u64);
        ports.notifier.publish(&orders).await;
    }
}
