//! The outbox's dead-letter queue. Looking through it means receiving all of it; what is not
//! wanted is given back at the end.

use std::collections::HashSet;
use std::time::Duration;

use super::stored::Stored;
use super::{Envelope, SqsOutbox};
use crate::core::model::{Decided, Timestamp};
use crate::core::ports::dead_letters::DlqFilter;
use crate::core::ports::webhook_outbox::{DeadEvent, OutboxError, is_selected};

/// How long letters are hidden from others while the queue is looked through.
const LOOK: Duration = Duration::from_secs(120);
/// The shortest wait by which SQS asks all of its servers (Amazon SQS Developer Guide, "Amazon SQS
/// short and long polling"): an empty answer means that nothing is left.
const WAIT: Duration = Duration::from_secs(1);
/// What SQS itself moved there has no reason with it.
const RECEIVED_TOO_OFTEN: &str = "received too often";

/// A walk through the dead-letter queue.
#[derive(Default)]
struct Look {
    met: HashSet<String>,
    keep: Vec<(String, u64)>,
}

/// A message of the dead-letter queue: its receipt, and what is in it.
struct Dead {
    receipt: String,
    envelope: Envelope,
    decided: Vec<Decided>,
}

impl SqsOutbox {
    pub(super) async fn list_letters(&self, max: usize) -> Result<Vec<DeadEvent>, OutboxError> {
        let mut look = Look::default();
        let found = self.collect_letters(&mut look, max).await;
        self.hide(&self.dead_letter_queue_url, &look.keep).await;
        found
    }

    async fn collect_letters(
        &self,
        look: &mut Look,
        max: usize,
    ) -> Result<Vec<DeadEvent>, OutboxError> {
        let (mut found, mut listed) = (Vec::new(), HashSet::new());
        while found.len() < max {
            let Some(messages) = self.look(look).await? else { break };
            for Dead { receipt, envelope, decided } in messages {
                look.keep.push((receipt, 0));
                let reason = envelope.reason.as_deref().unwrap_or(RECEIVED_TOO_OFTEN);
                let new = decided.into_iter().filter(|one| listed.insert(one.order.id));
                found.extend(new.map(|one| DeadEvent {
                    order_id: one.order.id,
                    status: one.decision.status(),
                    reason: reason.to_owned(),
                    attempts: envelope.attempts,
                    at: envelope.due,
                }));
            }
        }
        found.sort_by_key(|letter| letter.at);
        found.truncate(max);
        Ok(found)
    }

    /// Takes letters out, back into the outbox or for good; returns of how many orders.
    pub(super) async fn take_letters(
        &self,
        which: &DlqFilter,
        again: bool,
    ) -> Result<usize, OutboxError> {
        let mut look = Look::default();
        let taken = self.take_all_letters(&mut look, which, again).await;
        self.hide(&self.dead_letter_queue_url, &look.keep).await;
        taken
    }

    async fn take_all_letters(
        &self,
        look: &mut Look,
        which: &DlqFilter,
        again: bool,
    ) -> Result<usize, OutboxError> {
        let mut taken = HashSet::new();
        while let Some(messages) = self.look(look).await? {
            for Dead { receipt, envelope, decided } in messages {
                let why = envelope.reason.as_deref().unwrap_or_default();
                let (meant, stay): (Vec<Decided>, Vec<Decided>) =
                    decided.into_iter().partition(|one| is_selected(which, &one.order.id, why));
                if meant.is_empty() {
                    look.keep.push((receipt, 0));
                    continue;
                }
                let stored = |all: &[Decided]| all.iter().map(Stored::from).collect();
                if again {
                    let (due, events) = (Timestamp(0), stored(&meant));
                    let fresh = Envelope { attempts: 0, due, events, reason: None };
                    self.send(&self.queue_url, &[fresh]).await?;
                }
                if !stay.is_empty() {
                    let rest = Envelope { events: stored(&stay), ..envelope };
                    self.send(&self.dead_letter_queue_url, &[rest]).await?;
                }
                self.delete(&self.dead_letter_queue_url, &[receipt]).await?;
                taken.extend(meant.into_iter().map(|one| one.order.id));
            }
        }
        Ok(taken.len())
    }

    /// The next messages; `None` when all were seen, or when the first ones come round again.
    async fn look(&self, look: &mut Look) -> Result<Option<Vec<Dead>>, OutboxError> {
        let url = &self.dead_letter_queue_url;
        let mut new = Vec::new();
        let mut round = true;
        for message in self.receive(url, WAIT, LOOK).await? {
            let receipt = message.receipt_handle().unwrap_or_default().to_owned();
            if !look.met.insert(message.message_id().unwrap_or_default().to_owned()) {
                look.keep.push((receipt, 0));
                continue;
            }
            round = false;
            let envelope = serde_json::from_str::<Envelope>(message.body().unwrap_or_default());
            let decided = envelope.as_ref().ok().and_then(|envelope| {
                envelope.events.iter().map(Stored::decided).collect::<Option<Vec<_>>>()
            });
            match (envelope, decided) {
                (Ok(envelope), Some(decided)) => new.push(Dead { receipt, envelope, decided }),
                _ => {
                    tracing::warn!("a message that is no event of flux is left where it is");
                    look.keep.push((receipt, 0));
                }
            }
        }
        Ok((!round).then_some(new))
    }
}
