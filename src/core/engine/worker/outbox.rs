//! What is decided is acknowledged; where a shop wants to know and the ledger does not tell it
//! itself, its event is put into the outbox before that.

use std::sync::Arc;
use std::time::Duration;

use super::WorkerState;
use super::in_flight::Pending;
use crate::core::engine::failpoints;
use crate::core::engine::failpoints::Failpoint;
use crate::core::model::Decided;
use crate::core::ports::webhook_outbox::WebhookOutbox;

/// Pause after the outbox failed; doubled for each further time up to the second value.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(3));

impl WorkerState {
    /// These orders got their decisions just now. While their events are on their way the lane
    /// goes on; orders that wait for it stay in flight, which bounds them.
    pub fn complete_batch(self: &Arc<Self>, decided: Vec<Decided>, batch: Vec<Pending>) {
        let Some(outbox) = self.ports.outbox_before_ack().cloned() else {
            return self.in_flight.mark_decided(batch);
        };
        if batch.is_empty() {
            return;
        }
        let state = self.clone();
        self.publishing.spawn(async move {
            if failpoints::is_off(Failpoint::OutboxBeforeAck) {
                state.in_flight.mark_decided(batch);
                state.publish(&*outbox, &decided).await;
            } else if state.publish(&*outbox, &decided).await {
                state.in_flight.mark_decided(batch);
            }
        });
    }

    /// Orders that another worker has decided or dead-lettered. It may have died before the shop was
    /// told of `decided`, which the ledger has of them.
    pub fn let_go(self: &Arc<Self>, closed: Vec<Pending>, decided: Vec<Decided>) {
        let Some(outbox) = self.ports.outbox_before_ack().cloned() else {
            return self.in_flight.let_go(closed);
        };
        let state = self.clone();
        self.publishing.spawn(async move {
            if failpoints::is_off(Failpoint::OutboxForDecided)
                || state.publish(&*outbox, &decided).await
            {
                state.in_flight.let_go(closed);
            }
        });
    }

    /// `false` when it could not before the worker halted: what is not acknowledged then comes
    /// again, is found decided, and is told by whoever gets it.
    async fn publish(&self, outbox: &dyn WebhookOutbox, decided: &[Decided]) -> bool {
        let mut pause = PAUSE.0;
        loop {
            let Err(e) = outbox.put(decided).await else { return true };
            tracing::warn!("{} decisions are not acknowledged yet: {e}", decided.len());
            tokio::select! {
                biased;
                () = self.halt.cancelled() => return false,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE.1),
            }
        }
    }
}
