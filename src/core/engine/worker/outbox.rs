//! Completes decided orders. If the ledger does not write webhook events itself, the events are put
//! into the outbox before the orders are acknowledged.

use std::sync::Arc;
use std::time::Duration;

use super::WorkerState;
use super::in_flight::Pending;
use crate::core::engine::failpoints;
use crate::core::engine::failpoints::Failpoint;
use crate::core::model::Decided;
use crate::core::ports::webhook_outbox::WebhookOutbox;

/// Pause after a failed write to the outbox; doubled after each further one.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(3);

impl WorkerState {
    /// Completes orders that this worker just decided. The lane continues while their events are
    /// written. The orders stay in flight until then, so their number is bounded.
    pub fn complete_batch(self: &Arc<Self>, decided: Vec<Decided>, batch: Vec<Pending>) {
        let Some(outbox) = self.ports.outbox_before_ack().cloned() else {
            return self.in_flight.mark_decided(batch);
        };
        if batch.is_empty() {
            return;
        }
        let state = self.clone();
        self.outbox_writes.spawn(async move {
            if failpoints::is_off(Failpoint::OutboxBeforeAck) {
                state.in_flight.mark_decided(batch);
                state.put_events(&*outbox, &decided).await;
            } else if state.put_events(&*outbox, &decided).await {
                state.in_flight.mark_decided(batch);
            }
        });
    }

    /// Completes orders that were found decided or dead-lettered. `decided` are their decisions in
    /// the ledger. The worker that wrote them may have been killed before it put their events, so
    /// the events are put again; the receiver recognises a repeated event by its id.
    pub fn complete_found(self: &Arc<Self>, found: Vec<Pending>, decided: Vec<Decided>) {
        let Some(outbox) = self.ports.outbox_before_ack().cloned() else {
            return self.in_flight.complete(found);
        };
        let state = self.clone();
        self.outbox_writes.spawn(async move {
            if failpoints::is_off(Failpoint::OutboxForDecided)
                || state.put_events(&*outbox, &decided).await
            {
                state.in_flight.complete(found);
            }
        });
    }

    /// Retries until the events are durable. Returns false if the worker halts first: the orders
    /// are then not acknowledged, are redelivered and found decided, and their next worker puts the
    /// events.
    async fn put_events(&self, outbox: &dyn WebhookOutbox, decided: &[Decided]) -> bool {
        let mut pause = PAUSE_MIN;
        loop {
            let Err(e) = outbox.put(decided).await else { return true };
            let count = decided.len();
            tracing::warn!(count, "outbox write failed; decided orders not acknowledged yet: {e}");
            tokio::select! {
                biased;
                () = self.halt.cancelled() => return false,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
            }
        }
    }
}
