//! The outbox on Amazon SQS: a standard queue of its own, `NAME-webhooks`, and its dead-letter
//! queue.
//!
//! A new message carries the events of up to [`EVENTS_PER_MESSAGE`] orders. An event that is retried
//! later is sent as a message of its own, which has the time at which it is due. Its former message
//! is deleted after that, so a crash in between duplicates the event and does not lose it.

mod dead_letters;
#[cfg(feature = "aws")]
pub mod stored;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message,
    QueueAttributeName, SendMessageBatchRequestEntry,
};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use super::client::{Aws, Fault, LONGEST_POLL, Refusal, repeat};
use crate::core::model::event::Kinds;
use crate::core::model::{Clock, Decided, Timestamp};
use crate::core::ports::dead_letters::{DlqAction, DlqFilter};
use crate::core::ports::webhook_outbox::{
    AttemptResult, DeadEvent, DueEvent, Lease, OutboxBacklog, OutboxError, WebhookOutbox,
};
use stored::Stored;

/// Events in one message: few, so that a lease is long enough for all of them.
const EVENTS_PER_MESSAGE: usize = 10;
/// Entries in one batch request, and messages in one receive (Amazon SQS Developer Guide,
/// "Message quotas").
const BATCH: usize = 10;
/// Batch requests of one call that are in flight at once.
const REQUESTS_IN_FLIGHT: usize = 8;
/// Attempts at the entries of a batch that SQS did not accept.
const ROUNDS: u32 = 4;
/// The longest delay of a new message, in seconds (Amazon SQS Developer Guide, "Message quotas").
const DELAY_MAX_S: u64 = 900;
/// The longest visibility timeout, in seconds (the same).
const HIDE_MAX_S: u64 = 43_200;
/// A message that is due within this time is not hidden again.
const SOON: Duration = Duration::from_secs(1);

/// The names of the outbox's queue and its dead-letter queue, derived from the queue of orders.
pub fn queue_names(orders: &str) -> [String; 2] {
    let name = orders.strip_suffix(".fifo").unwrap_or(orders);
    [format!("{name}-webhooks"), format!("{name}-webhooks-dlq")]
}

/// A message of either queue.
#[derive(Serialize, Deserialize)]
struct Envelope {
    /// Failed attempts so far.
    attempts: u32,
    due: Timestamp,
    events: Vec<Stored>,
    /// Why it is a dead letter; absent in the main queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug)]
pub struct SqsOutbox {
    client: Client,
    polling: Client,
    queue_url: String,
    dead_letter_queue_url: String,
    kinds: Kinds,
    clock: Arc<dyn Clock>,
    /// Received messages that have events without a result, by receipt. A message is deleted only
    /// after all its events have one.
    open: Mutex<HashMap<String, Open>>,
}

/// The results so far of the events of one message.
#[derive(Debug, Default)]
struct Open {
    /// Events without a result.
    left: usize,
    not_attempted: Vec<DueEvent>,
    retry_later: Vec<(DueEvent, Timestamp)>,
    dead: Vec<(DueEvent, String)>,
    sent: bool,
}

impl SqsOutbox {
    /// The outbox of the queue of orders with this URL. Makes no call; [`WebhookOutbox::begin`] is the
    /// first.
    pub fn new(aws: &Aws, orders_url: &str, kinds: Kinds, clock: Arc<dyn Clock>) -> Self {
        let (account_url, name) = orders_url.rsplit_once('/').unwrap_or(("", orders_url));
        let [queue, dead] = queue_names(name).map(|name| format!("{account_url}/{name}"));
        Self {
            client: aws.sqs(),
            polling: aws.sqs_polling(),
            queue_url: queue,
            dead_letter_queue_url: dead,
            kinds,
            clock,
            open: Mutex::default(),
        }
    }

    /// Sends envelopes to one of the queues. After an error some of them may have been sent.
    async fn send(&self, url: &str, envelopes: &[Envelope]) -> Result<(), OutboxError> {
        let now = self.clock.now();
        let entries: Vec<_> = envelopes.iter().enumerate().map(|(n, e)| entry(n, e, now)).collect();
        let batches = entries.chunks(BATCH).map(|batch| self.send_batch(url, batch.to_vec()));
        let batches: Vec<_> = batches.collect();
        stream::iter(batches).buffered(REQUESTS_IN_FLIGHT).try_collect().await
    }

    async fn send_batch(
        &self,
        url: &str,
        mut entries: Vec<SendMessageBatchRequestEntry>,
    ) -> Result<(), OutboxError> {
        let mut why = String::new();
        for _ in 0..ROUNDS {
            let sent = repeat(|| {
                let request = self.client.send_message_batch().queue_url(url);
                let request = request.set_entries(Some(entries.clone()));
                async move { request.send().await.map_err(|e| Fault::of(&e)) }
            });
            let answer = sent.await.map_err(|fault| failed(url, fault))?;
            let done: HashSet<&str> = answer.successful().iter().map(|entry| entry.id()).collect();
            entries.retain(|entry| !done.contains(entry.id()));
            if entries.is_empty() {
                return Ok(());
            }
            why = answer.failed().first().map_or_else(String::new, |e| e.code().to_owned());
        }
        Err(OutboxError::Busy(format!(
            "{} did not accept {} messages: {why}",
            name(url),
            entries.len()
        )))
    }

    async fn receive(
        &self,
        url: &str,
        wait: Duration,
        hidden: Duration,
    ) -> Result<Vec<Message>, OutboxError> {
        let request = self
            .polling
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(BATCH as i32)
            .wait_time_seconds(wait.min(LONGEST_POLL).as_secs_f64().ceil() as i32)
            .visibility_timeout(hidden.as_secs().min(HIDE_MAX_S) as i32);
        let answer = request.send().await.map_err(|e| failed(url, Fault::of(&e)))?;
        Ok(answer.messages.unwrap_or_default())
    }

    /// Sets the visibility timeout of each message, in seconds; 0 returns it to the queue. Best
    /// effort: a message that was not changed is delivered again after its old timeout.
    async fn hide(&self, url: &str, receipts: &[(String, u64)]) {
        for batch in receipts.chunks(BATCH) {
            let entries = batch.iter().enumerate().map(|(n, (receipt, seconds))| {
                ChangeMessageVisibilityBatchRequestEntry::builder()
                    .id(n.to_string())
                    .receipt_handle(receipt)
                    .visibility_timeout((*seconds).min(HIDE_MAX_S) as i32)
                    .build()
                    .expect("id and receipt are set")
            });
            let request = self.client.change_message_visibility_batch().queue_url(url);
            if let Err(e) = request.set_entries(Some(entries.collect())).send().await {
                let error = failed(url, Fault::of(&e));
                tracing::debug!(queue = name(url), %error, "change of visibility failed");
            }
        }
    }

    async fn delete(&self, url: &str, receipts: &[String]) -> Result<(), OutboxError> {
        for batch in receipts.chunks(BATCH) {
            let entries = batch.iter().enumerate().map(|(n, receipt)| {
                DeleteMessageBatchRequestEntry::builder()
                    .id(n.to_string())
                    .receipt_handle(receipt)
                    .build()
                    .expect("id and receipt are set")
            });
            let entries: Vec<_> = entries.collect();
            let deleted = repeat(|| {
                let request = self.client.delete_message_batch().queue_url(url);
                let request = request.set_entries(Some(entries.clone()));
                async move { request.send().await.map_err(|e| Fault::of(&e)) }
            });
            deleted.await.map_err(|fault| failed(url, fault))?;
        }
        Ok(())
    }

    /// The events of a message if it is due; a message that is not due is added to `not_due`.
    fn open_message(
        &self,
        message: &Message,
        now: Timestamp,
        not_due: &mut NotDue,
    ) -> Vec<DueEvent> {
        let receipt = message.receipt_handle().unwrap_or_default().to_owned();
        let body = message.body().unwrap_or_default();
        let envelope = serde_json::from_str::<Envelope>(body).ok();
        let decided: Option<Vec<Decided>> =
            envelope.as_ref().and_then(|e| e.events.iter().map(Stored::decided).collect());
        let (Some(envelope), Some(decided)) = (envelope, decided) else {
            // Only flux should write to this queue. The redrive policy moves it to the dead letters.
            tracing::warn!(
                queue = name(&self.queue_url),
                "message is not an event of flux; skipped"
            );
            return Vec::new();
        };
        if envelope.due > now.plus(SOON) {
            not_due.push((receipt, envelope.due.since(now).as_secs() + 1));
            return Vec::new();
        }
        let open = Open { left: decided.len(), ..Open::default() };
        self.open().insert(receipt.clone(), open);
        let attempts = envelope.attempts;
        let due = |decided| DueEvent { lease: Lease(receipt.clone()), decided, attempts };
        decided.into_iter().map(due).collect()
    }

    /// Stores results; returns the messages whose events all have one now.
    fn close_messages(&self, results: &[(DueEvent, AttemptResult)]) -> Vec<(String, Open)> {
        let mut open = self.open();
        let mut closed = Vec::new();
        for (due, result) in results {
            let receipt = &due.lease.0;
            let Some(message) = open.get_mut(receipt) else { continue };
            match result {
                AttemptResult::Sent => message.sent = true,
                AttemptResult::RetryAt { until } => message.retry_later.push((due.clone(), *until)),
                AttemptResult::Dead { reason } => message.dead.push((due.clone(), reason.clone())),
                AttemptResult::NotAttempted => message.not_attempted.push(due.clone()),
            }
            message.left = message.left.saturating_sub(1);
            if message.left == 0 {
                closed.extend(open.remove_entry(receipt));
            }
        }
        closed
    }

    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<String, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn count(&self, url: &str) -> Result<u64, OutboxError> {
        let counted = repeat(|| {
            let request = self
                .client
                .get_queue_attributes()
                .queue_url(url)
                .attribute_names(QueueAttributeName::ApproximateNumberOfMessages)
                .attribute_names(QueueAttributeName::ApproximateNumberOfMessagesNotVisible)
                .attribute_names(QueueAttributeName::ApproximateNumberOfMessagesDelayed);
            async move { request.send().await.map_err(|e| Fault::of(&e)) }
        });
        let answer = counted.await.map_err(|fault| failed(url, fault))?;
        let counts = answer.attributes.unwrap_or_default();
        Ok(counts.values().filter_map(|count| count.parse::<u64>().ok()).sum())
    }
}

/// Receipts of messages that are not due, with the seconds until then.
type NotDue = Vec<(String, u64)>;

impl Open {
    fn is_untouched(&self) -> bool {
        !self.sent && self.retry_later.is_empty() && self.dead.is_empty()
    }
}

fn entry(number: usize, envelope: &Envelope, now: Timestamp) -> SendMessageBatchRequestEntry {
    let body = serde_json::to_string(envelope).expect("strings and numbers have a JSON form");
    // As escapes, because SQS rejects these characters (Amazon SQS API Reference, `SendMessage`).
    let body = body.replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff");
    let delay = envelope.due.since(now).as_secs().min(DELAY_MAX_S);
    SendMessageBatchRequestEntry::builder()
        .id((number % BATCH).to_string())
        .message_body(body)
        .set_delay_seconds((delay > 0).then_some(delay as i32))
        .build()
        .expect("id and body are set")
}

fn name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

fn failed(url: &str, fault: Fault) -> OutboxError {
    match fault {
        Fault::Busy(why) | Fault::Unknown(why) => OutboxError::Busy(why),
        Fault::Refused(Refusal::NotFound, _) => OutboxError::Broken(format!(
            "there is no queue {}: run `flux provision` with webhook_url set",
            name(url)
        )),
        Fault::Refused(_, why) => OutboxError::Broken(format!("SQS queue {}: {why}", name(url))),
    }
}

impl fmt::Display for SqsOutbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "webhooks in SQS queue {}", name(&self.queue_url))
    }
}

#[async_trait]
impl WebhookOutbox for SqsOutbox {
    async fn begin(&self) -> Result<(), OutboxError> {
        self.waiting().await.map(drop)
    }

    async fn end(&self) -> Result<(), OutboxError> {
        let why =
            "on AWS each worker with a webhook_url adds events: remove it from their settings";
        Err(OutboxError::Broken(why.to_owned()))
    }

    fn put_by_ledger(&self) -> bool {
        false
    }

    async fn put(&self, decided: &[Decided]) -> Result<(), OutboxError> {
        let wanted = decided.iter().filter(|one| self.kinds.want(one.decision));
        let events: Vec<Stored> = wanted.map(Stored::from).collect();
        let envelope = |events: &[Stored]| Envelope {
            attempts: 0,
            due: Timestamp(0),
            events: events.to_vec(),
            reason: None,
        };
        let envelopes: Vec<Envelope> = events.chunks(EVENTS_PER_MESSAGE).map(envelope).collect();
        self.send(&self.queue_url, &envelopes).await
    }

    async fn take(
        &self,
        _max: usize,
        wait: Duration,
        lease: Duration,
    ) -> Result<Vec<DueEvent>, OutboxError> {
        let messages = self.receive(&self.queue_url, wait, lease).await?;
        let mut due = Vec::new();
        let mut not_due = NotDue::new();
        let now = self.clock.now();
        for message in &messages {
            due.extend(self.open_message(message, now, &mut not_due));
        }
        self.hide(&self.queue_url, &not_due).await;
        Ok(due)
    }

    /// Records results in an order that loses no event: retries and dead letters are sent first, and
    /// only then are the messages that contained them deleted. A failure or crash in between leaves the
    /// old message in the queue, and its events are delivered twice. A message with no result but
    /// `NotAttempted` is returned as it is, which costs nothing.
    async fn record_results(
        &self,
        results: &[(DueEvent, AttemptResult)],
    ) -> Result<(), OutboxError> {
        let mut retries = Vec::new();
        let mut dead = Vec::new();
        let mut returned = Vec::new();
        let mut done = Vec::new();
        for (receipt, message) in self.close_messages(results) {
            if message.is_untouched() {
                returned.push((receipt, 0));
                continue;
            }
            let later =
                message.retry_later.iter().map(|(due, until)| (due, due.attempts + 1, *until));
            let unchanged =
                message.not_attempted.iter().map(|due| (due, due.attempts, Timestamp(0)));
            retries.extend(later.chain(unchanged).map(|(due, attempts, until)| Envelope {
                attempts,
                due: until,
                events: vec![Stored::from(&due.decided)],
                reason: None,
            }));
            dead.extend(message.dead.into_iter().map(|(due, reason)| Envelope {
                attempts: due.attempts + 1,
                due: self.clock.now(),
                events: vec![Stored::from(&due.decided)],
                reason: Some(reason),
            }));
            done.push(receipt);
        }
        self.hide(&self.queue_url, &returned).await;
        self.send(&self.queue_url, &retries).await?;
        self.send(&self.dead_letter_queue_url, &dead).await?;
        self.delete(&self.queue_url, &done).await
    }

    async fn dead_letters(&self, max: usize) -> Result<Vec<DeadEvent>, OutboxError> {
        self.list_letters(max).await
    }

    async fn resolve_letters(
        &self,
        filter: &DlqFilter,
        action: DlqAction,
    ) -> Result<usize, OutboxError> {
        self.take_letters(filter, action).await
    }

    /// Counts messages, each of which has up to [`EVENTS_PER_MESSAGE`] events.
    async fn waiting(&self) -> Result<OutboxBacklog, OutboxError> {
        let (waiting, dead_letters) = futures_util::join!(
            self.count(&self.queue_url),
            self.count(&self.dead_letter_queue_url)
        );
        Ok(OutboxBacklog { waiting: waiting?, dead_letters: dead_letters? })
    }
}
