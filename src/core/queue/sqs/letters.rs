//! The dead-letter queue: an SQS queue of its own.
//!
//! A letter that flux wrote is one message, with its order id and reason as message attributes. A
//! message that SQS moved there after too many receives has none, and may hold many orders: each
//! is shown as a letter of its own. Looking through the queue means receiving all of it; what is
//! not wanted is given back at the end.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use aws_sdk_sqs::types::{
    Message, MessageAttributeValue, QueueAttributeName, SendMessageBatchRequestEntry,
};
use serde::Deserialize;

use super::pack::{for_sqs, plain};
use super::{BATCH, SEND_ATTEMPTS, SqsQueue, fresh_id, queue_error, queue_name, receipt, sent_at};
use crate::core::connection::aws::{Fault, repeat_at_most};
use crate::core::order::message::{self, Origin};
use crate::core::order::{Order, OrderId, Timestamp};
use crate::core::queue::{DeadLetter, Queue, QueueError, Receipt, Redriven};

/// How long letters are hidden from others while the queue is looked through.
const LOOK: Duration = Duration::from_secs(120);
/// The shortest wait by which SQS asks all of its servers (Amazon SQS Developer Guide, "Amazon SQS
/// short and long polling"): an empty answer means that nothing is left.
const WAIT: Duration = Duration::from_secs(1);
/// A request's messages with their attributes, in bytes (Amazon SQS Developer Guide, "Message
/// quotas").
const REQUEST_BYTES: usize = 1024 * 1024;
const REASON_CHARS: usize = 300;
/// Names, types and values of a letter's attributes take less than this, in bytes.
const ATTRIBUTE_BYTES: usize = 4 * REASON_CHARS + 200;
const RECEIVED_TOO_OFTEN: &str = "received too often";

/// A message of the dead-letter queue with the letters in it.
struct DeadMessage {
    receipt: Receipt,
    letters: Vec<DeadLetter>,
}

/// A walk through the dead-letter queue.
#[derive(Default)]
struct Look {
    met: HashSet<String>,
    keep: Vec<Receipt>,
}

#[derive(Deserialize)]
struct RedrivePolicy {
    #[serde(rename = "deadLetterTargetArn")]
    target: String,
}

impl SqsQueue {
    /// The dead-letter queue's URL: as configured, or as the redrive policy has it.
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

    pub(super) async fn list_letters(&self, max: usize) -> Result<Vec<DeadLetter>, QueueError> {
        let mut look = Look::default();
        let found = self.collect_letters(&mut look, max).await;
        self.give_back(look).await;
        found
    }

    async fn collect_letters(
        &self,
        look: &mut Look,
        max: usize,
    ) -> Result<Vec<DeadLetter>, QueueError> {
        let mut found = Vec::new();
        let mut listed = HashSet::new();
        while found.len() < max {
            let messages = self.look(look).await?;
            if messages.is_empty() {
                break;
            }
            for message in messages {
                look.keep.push(message.receipt);
                found.extend(message.letters.into_iter().filter(|l| listed.insert(l.order_id)));
            }
        }
        found.sort_by_key(|letter| letter.at);
        found.truncate(max);
        Ok(found)
    }

    pub(super) async fn redrive_letters(
        &self,
        orders: &[OrderId],
        body: Option<&str>,
        now: Timestamp,
    ) -> Result<Vec<(OrderId, Redriven)>, QueueError> {
        let mut fates: HashMap<OrderId, Redriven> =
            orders.iter().map(|id| (*id, Redriven::Gone)).collect();
        let mut look = Look::default();
        let done = self.redrive_all(&mut look, &mut fates, body, now).await;
        self.give_back(look).await;
        done?;
        Ok(orders.iter().map(|id| (*id, fates[id].clone())).collect())
    }

    async fn redrive_all(
        &self,
        look: &mut Look,
        fates: &mut HashMap<OrderId, Redriven>,
        body: Option<&str>,
        now: Timestamp,
    ) -> Result<(), QueueError> {
        loop {
            let messages = self.look(look).await?;
            if messages.is_empty() {
                return Ok(());
            }
            for message in messages {
                let mut orders = Vec::new();
                let mut stay = Vec::new();
                let count = message.letters.len();
                for letter in message.letters {
                    match fates.get(&letter.order_id) {
                        None => stay.push(letter),
                        // A second letter of an order that is on its way again.
                        Some(Redriven::Sent) => {}
                        Some(_) => match self.mended(&letter, body, now) {
                            Ok(order) => orders.push(order),
                            Err(reason) => {
                                fates.insert(letter.order_id, Redriven::StillPoison(reason));
                                stay.push(letter);
                            }
                        },
                    }
                }
                if stay.len() == count {
                    look.keep.push(message.receipt);
                    continue;
                }
                for answer in self.send(&orders).await {
                    answer?;
                }
                fates.extend(orders.iter().map(|order| (order.id, Redriven::Sent)));
                self.replace(message.receipt, &stay).await?;
            }
        }
    }

    pub(super) async fn delete_letters(&self, orders: &[OrderId]) -> Result<usize, QueueError> {
        let orders: HashSet<OrderId> = orders.iter().copied().collect();
        let mut look = Look::default();
        let dropped = self.delete_all(&mut look, &orders).await;
        self.give_back(look).await;
        dropped
    }

    async fn delete_all(
        &self,
        look: &mut Look,
        orders: &HashSet<OrderId>,
    ) -> Result<usize, QueueError> {
        let mut dropped = HashSet::new();
        loop {
            let messages = self.look(look).await?;
            if messages.is_empty() {
                return Ok(dropped.len());
            }
            for message in messages {
                let (go, stay): (Vec<_>, Vec<_>) =
                    message.letters.into_iter().partition(|l| orders.contains(&l.order_id));
                if go.is_empty() {
                    look.keep.push(message.receipt);
                } else {
                    self.replace(message.receipt, &stay).await?;
                    dropped.extend(go.into_iter().map(|letter| letter.order_id));
                }
            }
        }
    }

    /// Puts the letters that stay into the queue one by one, then deletes their message.
    async fn replace(&self, message: Receipt, stay: &[DeadLetter]) -> Result<(), QueueError> {
        self.send_letters(stay).await?;
        let url = self.dead_letter_queue().await?;
        self.delete(url, &[message]).await.into_iter().collect()
    }

    /// The next messages; none when all were seen, or when the first ones come round again.
    async fn look(&self, look: &mut Look) -> Result<Vec<DeadMessage>, QueueError> {
        let url = self.dead_letter_queue().await?;
        let messages = self.receive_messages(url, LOOK, BATCH, WAIT).await?;
        let mut new = Vec::with_capacity(messages.len());
        for message in messages {
            if look.met.insert(message.message_id().unwrap_or_default().to_owned()) {
                new.push(self.open(&message));
            } else {
                look.keep.push(receipt(&message));
            }
        }
        Ok(new)
    }

    async fn give_back(&self, look: Look) {
        if look.keep.is_empty() {
            return;
        }
        let given = match self.dead_letter_queue().await {
            Ok(url) => self.change_visibility(url, &look.keep, Duration::ZERO).await,
            Err(e) => Err(e),
        };
        if let Err(e) = given {
            tracing::warn!("dead letters stay hidden for {} s: {e}", LOOK.as_secs());
        }
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
            let at = at.map_or_else(|| sent_at(message), Timestamp);
            let body = message.body().unwrap_or_default().to_owned();
            let letter = DeadLetter { order_id, reason, body, at };
            return DeadMessage { receipt, letters: vec![letter] };
        }
        let (delivery, mut letters) = self.read(message);
        let at = sent_at(message);
        letters.extend(delivery.orders.into_iter().map(|(_, order)| DeadLetter {
            order_id: order.id,
            reason: RECEIVED_TOO_OFTEN.to_owned(),
            body: message::encode(&[order]),
            at,
        }));
        DeadMessage { receipt, letters }
    }

    /// The order of a letter, with another text if there is one, or why it still is no order.
    fn mended(
        &self,
        letter: &DeadLetter,
        body: Option<&str>,
        now: Timestamp,
    ) -> Result<Order, String> {
        let text = body.unwrap_or(&letter.body);
        let origin = Origin { message_id: "", sent_at: now };
        let (mut orders, letters) = message::decode(text, origin, &self.names);
        match (orders.pop(), letters.into_iter().next()) {
            (_, Some(still)) => Err(still.reason),
            (Some(order), None) if orders.is_empty() => {
                Ok(Order { id: letter.order_id, accepted_at: now, ..order })
            }
            _ => Err("not an order: must be one JSON object".to_owned()),
        }
    }
}

fn letter_entry(number: usize, letter: &DeadLetter, fifo: bool) -> SendMessageBatchRequestEntry {
    let id = letter.order_id.to_string();
    let reason: String = plain(&letter.reason).chars().take(REASON_CHARS).collect();
    let mut body = for_sqs(letter.body.clone());
    // Cuts only what was no order: an order is far shorter.
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
