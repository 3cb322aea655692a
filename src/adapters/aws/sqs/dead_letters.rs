//! The dead-letter queue: an SQS queue of its own.
//!
//! A letter that flux wrote is one message, with its order id and reason as message attributes. A
//! message that SQS moved there after too many receives has none, and may hold many orders: each
//! is shown as a letter of its own. Looking through the queue means receiving all of it; what is
//! not wanted is given back at the end.

use std::collections::HashSet;
use std::collections::hash_map::{Entry, HashMap, RandomState};
use std::hash::BuildHasher;
use std::time::Duration;

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
use crate::core::ports::dead_letters::{Became, DeadLetter, LetterVisitor, Wish};
use crate::core::ports::queue::{Queue, QueueError, Receipt};

/// How long letters are hidden from others while the queue is looked through; and for so long
/// after a walk that was killed.
const LOOK: Duration = Duration::from_secs(30);
/// Messages that one walk meets at most: what is not wanted of them is hidden until its end.
const MET_MAX: usize = 10_000;
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
    /// Messages, by their ids.
    met: HashSet<String>,
    /// How many were met again since the last new one.
    again: usize,
    /// Orders that were sent again, with a digest of what each asks for.
    sent: HashMap<OrderId, u64>,
    digests: RandomState,
    /// What was received, and when, and is not taken away.
    keep: HashMap<Receipt, Instant>,
}

impl Look {
    /// Whether the order is to be sent: not when it is on its way already. `Wish::Keep` if another
    /// request under its id is: it can be judged only once that one is decided.
    fn send(&mut self, wish: &mut Wish) -> Option<Order> {
        let Wish::Send(order) = wish else { return None };
        let digest = self.digests.hash_one((&order.user, &order.item, order.quantity.units()));
        match self.sent.entry(order.id) {
            Entry::Vacant(new) => {
                new.insert(digest);
                Some(order.clone())
            }
            Entry::Occupied(first) => {
                if *first.get() != digest {
                    *wish = Wish::Keep;
                }
                None
            }
        }
    }

    fn keep(&mut self, receipts: impl IntoIterator<Item = Receipt>) {
        let now = Instant::now();
        self.keep.extend(receipts.into_iter().map(|receipt| (receipt, now)));
    }
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

    /// See `Queue::walk_letters`: receives message after message, hidden from others until the end.
    pub(super) async fn walk(&self, visitor: &mut dyn LetterVisitor) -> Result<bool, QueueError> {
        let mut look = Look::default();
        let walked = self.walk_on(&mut look, visitor).await;
        self.give_back(look).await;
        walked
    }

    async fn walk_on(
        &self,
        look: &mut Look,
        visitor: &mut dyn LetterVisitor,
    ) -> Result<bool, QueueError> {
        while look.met.len() < MET_MAX {
            let Some(most) = visitor.more().await else { return Ok(true) };
            let messages = match self.look(look, most).await? {
                Some(messages) => messages,
                None => return Ok(false),
            };
            // What is not done with in the end is kept, whatever goes wrong.
            look.keep(messages.iter().map(|message| message.receipt.clone()));
            if !messages.is_empty() {
                self.act(look, messages, visitor).await?;
            }
        }
        Ok(true)
    }

    /// The next messages, those left out that were met before; `None` when all were met.
    async fn look(
        &self,
        look: &mut Look,
        most: usize,
    ) -> Result<Option<Vec<DeadMessage>>, QueueError> {
        let url = self.dead_letter_queue().await?;
        let messages = self.receive_messages(url, LOOK, most, WAIT).await?;
        if messages.is_empty() || look.again > look.met.len() {
            look.keep(messages.iter().map(receipt));
            return Ok(None);
        }
        let mut new = Vec::with_capacity(messages.len());
        for message in messages {
            if look.met.insert(message.message_id().unwrap_or_default().to_owned()) {
                look.again = 0;
                new.push(self.open(&message));
            } else {
                // It was looked at for so long that it came round.
                look.again += 1;
                look.keep([receipt(&message)]);
            }
        }
        Ok(Some(new))
    }

    async fn act(
        &self,
        look: &mut Look,
        messages: Vec<DeadMessage>,
        visitor: &mut dyn LetterVisitor,
    ) -> Result<(), QueueError> {
        let letters: Vec<DeadLetter> =
            messages.iter().flat_map(|message| message.letters.iter().cloned()).collect();
        let mut wishes = visitor.judge(&letters).await?;
        // A second letter of an order that is on its way again is only taken away.
        let orders: Vec<Order> = wishes.iter_mut().filter_map(|wish| look.send(wish)).collect();
        let mut unsent: HashMap<OrderId, QueueError> = HashMap::new();
        for orders in orders.chunks(self.limits().send) {
            for (order, answer) in orders.iter().zip(self.send(orders).await) {
                if let Err(e) = answer {
                    look.sent.remove(&order.id);
                    unsent.insert(order.id, e);
                }
            }
        }
        let mut left = wishes.as_mut_slice();
        for message in messages {
            let (own, rest) = left.split_at_mut(message.letters.len());
            left = rest;
            self.finish(look, message, own, &unsent, visitor).await;
        }
        let all_failed = !orders.is_empty() && unsent.len() == orders.len();
        unsent.into_values().next().filter(|_| all_failed).map_or(Ok(()), Err)
    }

    /// Takes a message away once all that is not to stay of it is done.
    async fn finish(
        &self,
        look: &mut Look,
        message: DeadMessage,
        wishes: &[Wish],
        unsent: &HashMap<OrderId, QueueError>,
        visitor: &mut dyn LetterVisitor,
    ) {
        let stays = |letter: &DeadLetter, wish: &Wish| {
            *wish == Wish::Keep || unsent.contains_key(&letter.order_id)
        };
        let pairs = || message.letters.iter().zip(wishes);
        let stay: Vec<DeadLetter> =
            pairs().filter(|(l, w)| stays(l, w)).map(|(l, _)| l.clone()).collect();
        let replaced = match stay.len() == message.letters.len() {
            true => Ok(()),
            false => self.replace(&message.receipt, &stay).await,
        };
        if replaced.is_ok() && stay.len() < message.letters.len() {
            look.keep.remove(&message.receipt);
        }
        for (letter, wish) in pairs() {
            let became = match (wish, &replaced, unsent.get(&letter.order_id)) {
                (Wish::Keep, ..) => continue,
                (_, _, Some(e)) => Became::Failed(e.clone()),
                (Wish::Send(_), Ok(()), None) => Became::Sent,
                (Wish::Send(_), Err(e), None) => {
                    tracing::warn!("the letter of {} is still there: {e}", letter.order_id);
                    Became::Sent
                }
                (Wish::Drop, Ok(()), None) => Became::Dropped(None),
                (Wish::Drop, Err(e), None) => Became::Failed(e.clone()),
            };
            visitor.became(letter.order_id, became);
        }
    }

    /// Puts the letters that stay into the queue one by one, then deletes their message.
    async fn replace(&self, message: &Receipt, stay: &[DeadLetter]) -> Result<(), QueueError> {
        self.send_letters(stay).await?;
        let url = self.dead_letter_queue().await?;
        self.delete(url, std::slice::from_ref(message)).await.into_iter().collect()
    }

    async fn give_back(&self, look: Look) {
        let hidden = look.keep.into_iter().filter(|(_, since)| since.elapsed() < LOOK);
        let hidden: Vec<Receipt> = hidden.map(|(receipt, _)| receipt).collect();
        if hidden.is_empty() {
            return;
        }
        let given = match self.dead_letter_queue().await {
            Ok(url) => self.change_visibility(url, &hidden, Duration::ZERO).await,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::{ItemId, OrderIds, OrderKey, Quantity, UserId};

    #[test]
    fn a_second_letter_of_an_order_is_not_sent_and_another_request_under_its_id_is_kept() {
        let id = OrderIds::new(OrderKey::from_text("k"), 1).generate(Timestamp(1));
        let wish = |user: &str| {
            Wish::Send(Order {
                id,
                user: UserId::parse(user).unwrap(),
                item: ItemId::parse("x").unwrap(),
                quantity: Quantity::ONE,
                accepted_at: Timestamp(1),
                trace: None,
            })
        };
        let mut look = Look::default();
        assert!(look.send(&mut wish("ann")).is_some());
        let mut again = wish("ann");
        assert_eq!(look.send(&mut again), None);
        assert_eq!(again, wish("ann"));
        let mut other = wish("bob");
        assert_eq!(look.send(&mut other), None);
        assert_eq!(other, Wish::Keep);
    }
}
