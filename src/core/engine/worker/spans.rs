//! Spans of a lane's work: one of each batch that contains a traced order, and one of each such
//! order. At `debug` there is also a log line of each order.

use tokio::time::Instant;
use tracing::Level;

use super::WorkerState;
use super::in_flight::Pending;
use crate::core::engine::tracer::OpenSpan;
use crate::core::model::{Decided, Order};
use crate::core::ports::queue::Delivery;
use crate::core::ports::tracing::SpanKind;

/// Records the span of a receive that began at `asked`. The span starts when the oldest traced
/// order was accepted if that was later: before that, the wait concerned none of these orders.
pub fn of_receive(state: &WorkerState, asked: Instant, deliveries: &[Delivery]) {
    let orders = deliveries.iter().flat_map(|delivery| &delivery.orders).map(|(_, order)| order);
    let mut span = state.ports.tracer.batch("receive", SpanKind::Client, orders.clone());
    if span.is_open()
        && let Some(oldest) = orders.filter(|o| o.trace.is_some()).map(|o| o.accepted_at).min()
    {
        let age = state.ports.clock.now().since(oldest);
        span.since(Instant::now().checked_sub(age).map_or(asked, |accepted| asked.max(accepted)));
        span.set("messaging.operation.type", || "receive");
        span.set("messaging.batch.message_count", || deliveries.len());
    }
}

/// Opens the span of a batch. It starts when the first of its traced orders was received.
pub fn of_batch(state: &WorkerState, batch: &[Pending]) -> OpenSpan {
    let orders = batch.iter().map(|pending| &pending.order);
    let mut span = state.ports.tracer.batch("decide batch", SpanKind::Consumer, orders);
    if span.is_open()
        && let Some(received) =
            batch.iter().filter(|p| p.order.trace.is_some()).map(Pending::received).min()
    {
        span.since(received);
        span.set("flux.item_id", || batch[0].order.item.to_string());
        span.set("messaging.operation.type", || "process");
        span.set("messaging.batch.message_count", || batch.len());
    }
    span
}

/// Records the spans of orders that this lane decided. `decided` has the order of `batch`.
pub fn of_decisions(state: &WorkerState, span: &OpenSpan, batch: &[Pending], decided: &[Decided]) {
    if span.is_open() || tracing::enabled!(Level::DEBUG) {
        for (pending, decided) in batch.iter().zip(decided) {
            let reason = decided.decision.reason().map(|reason| reason.as_str());
            record_order(state, span, pending, batch.len(), decided.decision.status(), reason);
        }
    }
}

/// Records the spans of orders that were found decided: by another worker, or by a commit of this
/// lane whose response was lost.
pub fn of_found(state: &WorkerState, span: &OpenSpan, found: &[Pending]) {
    if span.is_open() || tracing::enabled!(Level::DEBUG) {
        for pending in found {
            record_order(state, span, pending, found.len(), "decided before", None);
        }
    }
}

fn record_order(
    state: &WorkerState,
    batch: &OpenSpan,
    pending: &Pending,
    count: usize,
    outcome: &'static str,
    reason: Option<&'static str>,
) {
    let order = &pending.order;
    let attempt = pending.attempt();
    let Order { id, item, .. } = order;
    let trace_id = order.trace_id();
    tracing::debug!(order_id = %id, item_id = %item, trace_id, outcome, reason, attempt, "decided");
    let mut span = state.ports.tracer.decision("decide", order);
    if !span.is_open() {
        return;
    }
    span.since(pending.received());
    span.link_to(batch);
    let now = state.ports.clock.now();
    let queued = now.since(order.accepted_at).saturating_sub(Instant::now() - pending.received());
    span.set("flux.order_id", || id.to_string());
    span.set("flux.item_id", || item.to_string());
    span.set("flux.outcome", || outcome);
    if let Some(reason) = reason {
        span.set("flux.reason", || reason);
    }
    span.set("flux.queued_ms", || queued.as_millis() as u64);
    span.set("flux.attempt", || u64::from(attempt));
    span.set("messaging.batch.message_count", || count);
}
