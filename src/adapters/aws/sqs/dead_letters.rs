//! The dead-letter queue: an SQS queue of its own.
//!
//! A letter that flux wrote is one message, with its order id and reason as message attributes. A
//! message that SQS moved there after too many receives has none, and may hold many orders: each
//! is a letter of its own. SQS cannot list messages, only receive them, which hides them from other
//! readers: a pass makes the letters that it did not resolve visible again at its end.

use std::collections::HashSet;
use std::collections::hash_map::{Entry, HashMap, RandomState};
use std::hash::BuildHasher;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::types::{
    Message, MessageAttributeValue, QueueAttributeName, SendMessageBatchRequestEntry,
};
use serde::Deserialize;
use tokio::time::Instant;

use super::packing::{for_sqs, plain};
use super::{BATCH, SEND_ATTEMPTS, SqsQueue, fresh_id, queue_error, queue_name, receipt};
use crate::adapters::aws::client::{Fault, repeat_at_most};
use crate::core::engine::message;
use crate::core::model::{Order, OrderId, Timestamp};
use crate::core::ports::dead_letters::{DeadLetter, DlqCursor, LetterHandle, Resolution, Resolved};
use crate::core::ports::queue::{Queue, QueueError, Receipt};

/// How long a letter that was read is hidden from other readers, unless the pass ends before.
const HIDDEN: Duration = Duration::from_secs(30);
/// Messages that one pass reads, at most: those that it does not resolve are hidden until its end.
const READ_MAX: usize = 10_000;
/// The shortest wait for which SQS queries all of its servers (Amazon SQS Developer Guide, "Amazon
/// SQS short and long polling"): an empty response means that no visible message is left.
const WAIT: Duration = Duration::from_secs(1);
/// A request's messages with their attributes, in bytes (Amazon SQS Developer Guide, "Message
/// quotas").
const REQUEST_BYTES: usize = 1024 * 1024;
const REASON_CHARS: usize = 300;
/// Upper bound of the names, types and values of a letter's attributes, in bytes.
const ATTRIBUTE_BYTES: usize = 4 * REASON_CHARS + 200;
const RECEIVED_TOO_OFTEN: &str = "received too often";

/// A message of the dead-letter queue with the letters in it.
struct DeadMessage {
    receipt: Receipt,
    letters: Vec<DeadLetter>,
}

/// A pass through the dead-letter queue, by one receive for each page. Returns all letters: SQS
/// cannot search.
pub(super) struct Cursor<'a> {
    queue: &'a SqsQueue,
    /// Ids of the messages that were read.
    read: HashSet<String>,
    /// Messages that were received once more, since the last new one.
    repeats: usize,
    sent: SentOrders,
    /// Messages that were received and not deleted, and when.
    hidden: HashMap<Receipt, Instant>,
    page: Vec<DeadMessage>,
    at_end: bool,
}

/// The orders that were sent in this pass, with a digest of each request.
#[derive(Default)]
struct SentOrders {
    requests: HashMap<OrderId, u64>,
    digests: RandomState,
}

#[derive(Debug, PartialEq, Eq)]
enum KnownOrder {
    New,
    Sent,
    /// Another request with the order's id was sent.
    Conflict,
}

impl SentOrders {
    fn check(&mut self, order: &Order) -> KnownOrder {
        let digest = self.digests.hash_one((&order.user, &order.item, order.quantity.units()));
        match self.requests.entry(order.id) {
            Entry::Vacant(entry) => {
                entry.insert(digest);
                KnownOrder::New
            }
            Entry::Occupied(sent) if *sent.get() == digest => KnownOrder::Sent,
            Entry::Occupied(_) => KnownOrder::Conflict,
        }
    }
}

#[derive(Deserialize)]
struct RedrivePolicy {
    #[serde(rename = "deadLetterTargetArn")]
    target: String,
}

impl SqsQueue {
    /// The URL of the dead-letter queue: the configured one, or that of the redrive policy.
    pub(super) async fn dead_letter_queue(&self) -> Result<&str, QueueError> {
        let found = self.dead_letter_queue.get_or_try_init(|| async {
            let attributes =
                self.attributes(self.url(), &[QueueAttributeName::RedrivePolicy]).await?;
            let policy = attributes.get(&QueueAttributeName::RedrivePolicy);
            let policy = policy.and_then(|p| serde_json::from_str::<RedrivePolicy>(p).ok());
            let Some(RedrivePolicy { target }) = policy else {
                let name = queue_name(self.url());
                return Err(QueueError::Broken(format!(
                    "queue {name} has no dead-letter queue: run `flux provision`"
                )));
            };
            let mut parts = target.rsplit(':');
            let name = parts.next().unwrap_or_default();
            let owner = parts.next();
            let asked = repeat_at_most(SEND_ATTEMPTS, || {
                let request = self.client.get_queue_url().queue_name(name);
                let request = request.set_queue_owner_aws_account_id(owner.map(str::to_owned));
                async move { request.send().await.map_err(|e| Fault::of(&e)) }
            });
            let answer = asked.await.map_err(|fault| queue_error(name, fault))?;
            Ok(answer.queue_url.unwrap_or_default())
        });
        found.await.map(String::as_str)
    }

    pub(super) async fn send_letters(&self, letters: &[DeadLetter]) -> Result<(), QueueError> {
        let url = self.dead_letter_queue().await?;
        let mut batch = Vec::new();
        let mut bytes = 0;
        for letter in letters {
            let entry = letter_entry(batch.len(), letter, url.ends_with(".fifo"));
            let more = entry.message_body().len() + ATTRIBUTE_BYTES;
            if batch.len() == BATCH || bytes + more > REQUEST_BYTES {
                self.send_all(url, std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
            bytes += more;
            batch.push(letter_entry(batch.len(), letter, url.ends_with(".fifo")));
        }
        self.send_all(url, batch).await
    }

    async fn send_all(
        &self,
        url: &str,
        entries: Vec<SendMessageBatchRequestEntry>,
    ) -> Result<(), QueueError> {
        if entries.is_empty() {
            return Ok(());
        }
        self.send_batch(url, entries).await.into_iter().collect()
    }

    /// Writes the letters that stay as messages of their own, then deletes their message.
    async fn replace(&self, message: &Receipt, stay: &[DeadLetter]) -> Result<(), QueueError> {
        self.send_letters(stay).await?;
        let url = self.dead_letter_queue().await?;
        self.delete(url, std::slice::from_ref(message)).await.into_iter().collect()
    }

    fn open(&self, message: &Message) -> DeadMessage {
        let text = |name: &str| {
            let attribute = message.message_attributes()?.get(name)?;
            attribute.string_value().map(str::to_owned)
        };
        let receipt = receipt(message);
        let id = text("order_id").and_then(|id| OrderId::parse(&id).ok());
        if let (Some(order_id), Some(reason)) = (id, text("reason")) {
            let at = text("at").and_then(|at| at.parse().ok());
            let at = at.map_or_else(|| self.sent_at(message), Timestamp);
            let body = message.body().unwrap_or_default().to_owned();
            let letter = DeadLetter { order_id, reason, body, at };
            return DeadMessage { receipt, letters: vec![letter] };
        }
        let (delivery, mut letters) = self.read(message);
        let at = self.sent_at(message);
        letters.extend(delivery.orders.into_iter().map(|(_, order)| DeadLetter {
            order_id: order.id,
            reason: RECEIVED_TOO_OFTEN.to_owned(),
            body: message::encode(&[order]),
            at,
        }));
        DeadMessage { receipt, letters }
    }
}

impl<'a> Cursor<'a> {
    pub(super) fn new(queue: &'a SqsQueue) -> Self {
        Self {
            queue,
            read: HashSet::new(),
            repeats: 0,
            sent: SentOrders::default(),
            hidden: HashMap::new(),
            page: Vec::new(),
            at_end: false,
        }
    }

    /// Returns what would become of each letter if every message could be deleted. An order whose
    /// letter is there twice is sent once. Two requests under one id cannot both be sent: the
    /// second is judged by the decision of the first, so its letter stays until then.
    async fn send(
        &mut self,
        work: &[(LetterHandle, Resolution)],
    ) -> Vec<Result<Resolved, QueueError>> {
        let mut orders: Vec<Order> = Vec::new();
        let planned = work.iter().map(|(_, resolution)| match resolution {
            Resolution::Drop => Resolved::Dropped(None),
            Resolution::Resend(order) => match self.sent.check(order) {
                KnownOrder::New => {
                    orders.push(order.clone());
                    Resolved::Sent
                }
                KnownOrder::Sent => Resolved::Sent,
                KnownOrder::Conflict => Resolved::Kept,
            },
        });
        let planned: Vec<Resolved> = planned.collect();
        let mut failed: HashMap<OrderId, QueueError> = HashMap::new();
        for orders in orders.chunks(self.queue.limits().send) {
            for (order, result) in orders.iter().zip(self.queue.send(orders).await) {
                if let Err(e) = result {
                    self.sent.requests.remove(&order.id);
                    failed.insert(order.id, e);
                }
            }
        }
        let results = work.iter().zip(planned).map(|((_, resolution), planned)| match resolution {
            Resolution::Resend(order) if planned == Resolved::Sent => {
                failed.get(&order.id).map_or(Ok(planned), |e| Err(e.clone()))
            }
            Resolution::Resend(_) | Resolution::Drop => Ok(planned),
        });
        results.collect()
    }
}

#[async_trait]
impl DlqCursor for Cursor<'_> {
    async fn peek(&mut self, limit: usize) -> Result<Option<Vec<DeadLetter>>, QueueError> {
        self.page.clear();
        if self.read.len() >= READ_MAX {
            return Ok(None);
        }
        let url = self.queue.dead_letter_queue().await?;
        let messages = self.queue.receive_messages(url, HIDDEN, limit, WAIT).await?;
        let now = Instant::now();
        self.hidden.extend(messages.iter().map(|message| (receipt(message), now)));
        // A pass of more than HIDDEN receives its first messages again. It ends once it has received
        // as many known messages in a row as it knows.
        self.at_end = messages.is_empty() || self.repeats > self.read.len();
        if self.at_end {
            return Ok(None);
        }
        for message in &messages {
            if self.read.insert(message.message_id().unwrap_or_default().to_owned()) {
                self.repeats = 0;
                self.page.push(self.queue.open(message));
            } else {
                self.repeats += 1;
            }
        }
        Ok(Some(self.page.iter().flat_map(|message| message.letters.iter().cloned()).collect()))
    }

    /// Sends the orders, then deletes each message whose letters are resolved. Of a message with
    /// letters that stay, those are written as messages of their own first. A process that is killed
    /// in between leaves letters twice, or letters of orders that were sent: both are harmless, as
    /// an order id is decided once.
    async fn resolve(
        &mut self,
        work: Vec<(LetterHandle, Resolution)>,
    ) -> Vec<Result<Resolved, QueueError>> {
        let mut results = self.send(&work).await;
        let mut first = 0;
        for message in std::mem::take(&mut self.page) {
            let handles = first..first + message.letters.len();
            first = handles.end;
            let mut resolved: Vec<usize> = (0..work.len()).collect();
            resolved.retain(|&n| {
                let is_done = matches!(results[n], Ok(Resolved::Dropped(_) | Resolved::Sent));
                is_done && handles.contains(&work[n].0)
            });
            if resolved.is_empty() {
                continue;
            }
            let gone: HashSet<LetterHandle> = resolved.iter().map(|&n| work[n].0).collect();
            let letters = handles.zip(message.letters);
            let stay = letters.filter(|(handle, _)| !gone.contains(handle));
            let stay: Vec<DeadLetter> = stay.map(|(_, letter)| letter).collect();
            match self.queue.replace(&message.receipt, &stay).await {
                Ok(()) => drop(self.hidden.remove(&message.receipt)),
                Err(e) => {
                    tracing::warn!("dead-letter message could not be deleted: {e}");
                    for n in resolved {
                        if !matches!(results[n], Ok(Resolved::Sent)) {
                            results[n] = Err(e.clone());
                        }
                    }
                }
            }
        }
        results
    }

    async fn close(self: Box<Self>) -> bool {
        let hidden = self.hidden.into_iter().filter(|(_, since)| since.elapsed() < HIDDEN);
        let hidden: Vec<Receipt> = hidden.map(|(receipt, _)| receipt).collect();
        if !hidden.is_empty() {
            let shown = match self.queue.dead_letter_queue().await {
                Ok(url) => self.queue.change_visibility(url, &hidden, Duration::ZERO).await,
                Err(e) => Err(e),
            };
            if let Err(e) = shown {
                tracing::warn!("dead letters stay hidden for {} s: {e}", HIDDEN.as_secs());
            }
        }
        !self.at_end
    }
}

fn letter_entry(number: usize, letter: &DeadLetter, fifo: bool) -> SendMessageBatchRequestEntry {
    let id = letter.order_id.to_string();
    let reason: String = plain(&letter.reason).chars().take(REASON_CHARS).collect();
    let mut body = for_sqs(letter.body.clone());
    // Only texts that are no order can be so long.
    body.truncate(body.floor_char_boundary(REQUEST_BYTES - ATTRIBUTE_BYTES));
    if body.is_empty() {
        body.push(' ');
    }
    SendMessageBatchRequestEntry::builder()
        .id(number.to_string())
        .message_body(body)
        .message_attributes("reason", text_attribute(reason))
        .message_attributes("at", text_attribute(letter.at.0.to_string()))
        .message_attributes("order_id", text_attribute(id.clone()))
        .set_message_group_id(fifo.then_some(id))
        .set_message_deduplication_id(fifo.then(fresh_id))
        .build()
        .expect("id and body are set")
}

fn text_attribute(value: String) -> MessageAttributeValue {
    let attribute = MessageAttributeValue::builder().data_type("String").string_value(value);
    attribute.build().expect("the type is set")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::{ItemId, OrderIds, OrderKey, Quantity, UserId};

    #[test]
    fn duplicate_letter_is_sent_once_and_conflicting_letter_kept() {
        let id = OrderIds::new(OrderKey::from_text("k"), 1).generate(Timestamp(1));
        let order = |user: &str| Order {
            id,
            user: UserId::parse(user).unwrap(),
            item: ItemId::parse("x").unwrap(),
            quantity: Quantity::ONE,
            accepted_at: Timestamp(1),
            trace: None,
        };
        let mut sent = SentOrders::default();
        assert_eq!(sent.check(&order("ann")), KnownOrder::New);
        assert_eq!(sent.check(&order("ann")), KnownOrder::Sent);
        assert_eq!(sent.check(&order("bob")), KnownOrder::Conflict);
    }
}
