//! The outbox's dead-letter queue. SQS cannot list messages, only receive them, which hides them
//! from other readers: a pass makes the messages that it did not resolve visible again at its end.

use std::collections::HashSet;
use std::time::Duration;

use super::stored::Stored;
use super::{Envelope, SqsOutbox};
use crate::core::model::{Decided, OrderId, Timestamp};
use crate::core::ports::dead_letters::{DlqAction, DlqFilter};
use crate::core::ports::webhook_outbox::{DeadEvent, OutboxError};

/// How long a message that was read is hidden from other readers, unless the pass ends before.
const HIDDEN: Duration = Duration::from_secs(120);
/// The shortest wait for which SQS queries all of its servers (Amazon SQS Developer Guide, "Amazon
/// SQS short and long polling"): an empty response means that no visible message is left.
const WAIT: Duration = Duration::from_secs(1);
/// The reason of messages that SQS itself moved: they have none.
const RECEIVED_TOO_OFTEN: &str = "received too often";

/// A pass through the dead-letter queue.
struct Cursor<'a> {
    outbox: &'a SqsOutbox,
    /// Ids of the messages that were read.
    read: HashSet<String>,
    /// Receipts of messages that were received and not deleted.
    hidden: HashSet<String>,
}

/// A message of the dead-letter queue.
struct DeadMessage {
    receipt: String,
    envelope: Envelope,
    decided: Vec<Decided>,
}

impl SqsOutbox {
    pub(super) async fn list_letters(&self, max: usize) -> Result<Vec<DeadEvent>, OutboxError> {
        let mut cursor = Cursor::new(self);
        let listed = cursor.list(max).await;
        cursor.close().await;
        listed
    }

    pub(super) async fn take_letters(
        &self,
        filter: &DlqFilter,
        action: DlqAction,
    ) -> Result<usize, OutboxError> {
        let mut cursor = Cursor::new(self);
        let taken = cursor.resolve_all(filter, action).await;
        cursor.close().await;
        taken
    }
}

impl<'a> Cursor<'a> {
    fn new(outbox: &'a SqsOutbox) -> Self {
        Self { outbox, read: HashSet::new(), hidden: HashSet::new() }
    }

    async fn list(&mut self, max: usize) -> Result<Vec<DeadEvent>, OutboxError> {
        let mut letters: Vec<DeadEvent> = Vec::new();
        let mut listed: HashSet<OrderId> = HashSet::new();
        while letters.len() < max {
            let Some(messages) = self.peek().await? else { break };
            for DeadMessage { envelope, decided, .. } in messages {
                let reason = envelope.reason.as_deref().unwrap_or(RECEIVED_TOO_OFTEN);
                let new = decided.into_iter().filter(|one| listed.insert(one.order.id));
                letters.extend(new.map(|one| DeadEvent {
                    order_id: one.order.id,
                    status: one.decision.status(),
                    reason: reason.to_owned(),
                    attempts: envelope.attempts,
                    at: envelope.due,
                }));
            }
        }
        letters.sort_by_key(|letter| letter.at);
        letters.truncate(max);
        Ok(letters)
    }

    async fn resolve_all(
        &mut self,
        filter: &DlqFilter,
        action: DlqAction,
    ) -> Result<usize, OutboxError> {
        let mut resolved: HashSet<OrderId> = HashSet::new();
        while let Some(messages) = self.peek().await? {
            for message in messages {
                resolved.extend(self.resolve(message, filter, action).await?);
            }
        }
        Ok(resolved.len())
    }

    /// Sends what is to be sent before it deletes the message: a process that is killed in between
    /// leaves events twice, and loses none.
    async fn resolve(
        &mut self,
        message: DeadMessage,
        filter: &DlqFilter,
        action: DlqAction,
    ) -> Result<Vec<OrderId>, OutboxError> {
        let DeadMessage { receipt, envelope, decided } = message;
        let reason = envelope.reason.as_deref().unwrap_or(RECEIVED_TOO_OFTEN);
        let (selected, rest): (Vec<Decided>, Vec<Decided>) =
            decided.into_iter().partition(|one| filter.matches(one.order.id, reason));
        if selected.is_empty() {
            return Ok(Vec::new());
        }
        let stored = |all: &[Decided]| all.iter().map(Stored::from).collect();
        if action == DlqAction::Redrive {
            let events = stored(&selected);
            let untried = Envelope { attempts: 0, due: Timestamp(0), events, reason: None };
            self.outbox.send(&self.outbox.queue_url, &[untried]).await?;
        }
        let url = &self.outbox.dead_letter_queue_url;
        if !rest.is_empty() {
            let rest = Envelope { events: stored(&rest), ..envelope };
            self.outbox.send(url, &[rest]).await?;
        }
        self.outbox.delete(url, std::slice::from_ref(&receipt)).await?;
        self.hidden.remove(&receipt);
        Ok(selected.into_iter().map(|one| one.order.id).collect())
    }

    /// The next messages; `None` when all were read, or none of those received is new.
    async fn peek(&mut self) -> Result<Option<Vec<DeadMessage>>, OutboxError> {
        let mut new = Vec::new();
        let mut is_new = false;
        let url = &self.outbox.dead_letter_queue_url;
        for message in self.outbox.receive(url, WAIT, HIDDEN).await? {
            let receipt = message.receipt_handle().unwrap_or_default().to_owned();
            self.hidden.insert(receipt.clone());
            if !self.read.insert(message.message_id().unwrap_or_default().to_owned()) {
                continue;
            }
            is_new = true;
            let envelope = serde_json::from_str::<Envelope>(message.body().unwrap_or_default());
            let decided = envelope.as_ref().ok().and_then(|envelope| {
                envelope.events.iter().map(Stored::decided).collect::<Option<Vec<_>>>()
            });
            match (envelope, decided) {
                (Ok(envelope), Some(decided)) => {
                    new.push(DeadMessage { receipt, envelope, decided });
                }
                _ => tracing::warn!("dead-letter queue has a message that is no event; it stays"),
            }
        }
        Ok(is_new.then_some(new))
    }

    async fn close(self) {
        let shown: Vec<(String, u64)> =
            self.hidden.into_iter().map(|receipt| (receipt, 0)).collect();
        self.outbox.hide(&self.outbox.dead_letter_queue_url, &shown).await;
    }
}
