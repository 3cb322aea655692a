//! The queue on Amazon SQS, standard or FIFO (a name that ends in `.fifo`).

mod batch_results;
mod dead_letters;
mod packing;
pub mod setup;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message,
    MessageSystemAttributeName, QueueAttributeName, SendMessageBatchRequestEntry,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::client::{Aws, Fault, LONGEST_POLL, repeat, repeat_at_most};
use crate::core::engine::message;
use crate::core::engine::message::Origin;
use crate::core::model::{Clock, IdSource, Order, OrderId, OrderIds, SystemIdSource, Timestamp};
use crate::core::ports::dead_letters::{DeadLetter, LetterVisitor, Letters};
use crate::core::ports::queue::{
    Arrival, Backlog, Delivery, Queue, QueueError, QueueLimits, QueuePosition, Receipt, Sent,
};
use batch_results::{batch_results, entry_error, queue_error};

/// Entries in one batch request, and messages in one receive (Amazon SQS Developer Guide,
/// "Message quotas").
const BATCH: usize = 10;
/// Batch requests of one call that are on their way at once.
const REQUESTS_IN_FLIGHT: usize = 8;
/// Attempts at a send; the intake makes more. On a FIFO queue they share one de-duplication id.
const SEND_ATTEMPTS: u32 = 2;

/// Which queue, and how long what was received stays invisible to others.
#[derive(Debug, Clone)]
pub struct SqsSettings {
    pub queue_url: String,
    /// `None`: the one that the queue's redrive policy names.
    pub dead_letter_queue_url: Option<String>,
    /// Whole seconds, 1 s to 12 h.
    pub visibility: Duration,
    /// Orders that one message carries at most: 1 to [`message::MAX_ORDERS`]. Any number is read.
    pub orders_per_message: usize,
}

#[derive(Debug)]
pub struct SqsQueue {
    client: Client,
    polling: Client,
    settings: SqsSettings,
    fifo: bool,
    dead_letter_queue: OnceCell<String>,
    names: Arc<OrderIds>,
    clock: Arc<dyn Clock>,
}

impl SqsQueue {
    /// Calls nothing yet; [`Queue::check`] does.
    pub fn new(
        aws: &Aws,
        settings: SqsSettings,
        names: Arc<OrderIds>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            client: aws.sqs(),
            polling: aws.sqs_polling(),
            fifo: settings.queue_url.ends_with(".fifo"),
            dead_letter_queue: OnceCell::new_with(settings.dead_letter_queue_url.clone()),
            settings,
            names,
            clock,
        }
    }

    fn url(&self) -> &str {
        &self.settings.queue_url
    }

    fn sent_at(&self, message: &Message) -> Timestamp {
        let sent = attribute(message, MessageSystemAttributeName::SentTimestamp);
        sent.map_or_else(|| self.clock.now(), |ms| Timestamp(ms as u64))
    }

    /// Sends at most [`BATCH`] messages in one request, and answers for each.
    async fn send_batch(
        &self,
        url: &str,
        entries: Vec<SendMessageBatchRequestEntry>,
    ) -> Vec<Result<(), QueueError>> {
        let count = entries.len();
        let sent = repeat_at_most(SEND_ATTEMPTS, || {
            let request = self.client.send_message_batch().queue_url(url);
            let request = request.set_entries(Some(entries.clone()));
            async move { request.send().await.map_err(|e| Fault::of(&e)) }
        });
        match sent.await {
            Err(fault) => vec![Err(queue_error(url, fault)); count],
            Ok(answer) => {
                let done = answer.successful().iter().map(|entry| entry.id());
                batch_results(count, done, answer.failed())
            }
        }
    }

    async fn change_visibility(
        &self,
        url: &str,
        receipts: &[Receipt],
        visibility: Duration,
    ) -> Result<(), QueueError> {
        let chunks = receipts.chunks(BATCH);
        let requests = chunks.map(|chunk| self.change_batch(url, chunk, visibility).boxed());
        in_flight(REQUESTS_IN_FLIGHT, requests.collect()).await.into_iter().collect()
    }

    async fn change_batch(
        &self,
        url: &str,
        receipts: &[Receipt],
        visibility: Duration,
    ) -> Result<(), QueueError> {
        let entries = receipts.iter().enumerate().map(|(n, receipt)| {
            ChangeMessageVisibilityBatchRequestEntry::builder()
                .id(n.to_string())
                .receipt_handle(&receipt.0)
                .visibility_timeout(visibility.as_secs() as i32)
                .build()
                .expect("id and receipt are set")
        });
        let entries: Vec<_> = entries.collect();
        let changed = repeat(|| {
            let request = self.client.change_message_visibility_batch().queue_url(url);
            let request = request.set_entries(Some(entries.clone()));
            async move { request.send().await.map_err(|e| Fault::of(&e)) }
        });
        let answer = changed.await.map_err(|fault| queue_error(url, fault))?;
        answer.failed().first().map_or(Ok(()), |failed| Err(entry_error(failed)))
    }

    async fn delete(&self, url: &str, receipts: &[Receipt]) -> Vec<Result<(), QueueError>> {
        let requests = receipts.chunks(BATCH).map(|chunk| self.delete_batch(url, chunk).boxed());
        in_flight(REQUESTS_IN_FLIGHT, requests.collect()).await.concat()
    }

    async fn delete_batch(&self, url: &str, receipts: &[Receipt]) -> Vec<Result<(), QueueError>> {
        let entries = receipts.iter().enumerate().map(|(n, receipt)| {
            DeleteMessageBatchRequestEntry::builder()
                .id(n.to_string())
                .receipt_handle(&receipt.0)
                .build()
                .expect("id and receipt are set")
        });
        let entries: Vec<_> = entries.collect();
        let deleted = repeat(|| {
            let request = self.client.delete_message_batch().queue_url(url);
            let request = request.set_entries(Some(entries.clone()));
            async move { request.send().await.map_err(|e| Fault::of(&e)) }
        });
        match deleted.await {
            Err(fault) => vec![Err(queue_error(url, fault)); receipts.len()],
            Ok(answer) => {
                let done = answer.successful().iter().map(|entry| entry.id());
                batch_results(receipts.len(), done, answer.failed())
            }
        }
    }

    async fn receive_messages(
        &self,
        url: &str,
        visibility: Duration,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Message>, QueueError> {
        let request = self
            .polling
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(max.clamp(1, BATCH) as i32)
            .wait_time_seconds(wait.min(LONGEST_POLL).as_secs() as i32)
            .visibility_timeout(visibility.as_secs() as i32)
            .message_attribute_names("All")
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_system_attribute_names(MessageSystemAttributeName::SequenceNumber);
        let answer = request.send().await.map_err(|e| queue_error(url, Fault::of(&e)))?;
        Ok(answer.messages.unwrap_or_default())
    }

    /// Reads a message; what is no order in it comes as dead letters.
    fn read(&self, message: &Message) -> (Delivery, Vec<DeadLetter>) {
        let message_id = message.message_id().unwrap_or_default();
        let origin = Origin { message_id, sent_at: self.sent_at(message) };
        let body = message.body().unwrap_or_default();
        let (orders, mut letters) = message::decode(body, origin, &self.names);
        if orders.is_empty() && letters.is_empty() {
            letters.push(DeadLetter {
                order_id: self.names.from_message(message_id, 0),
                reason: "not an order: an empty list".to_owned(),
                body: body.to_owned(),
                at: origin.sent_at,
            });
        }
        let sequence = attribute(message, MessageSystemAttributeName::SequenceNumber);
        let mut before = 0;
        let arrival = |(index, order): (usize, Order)| {
            let arrival = match sequence {
                // 20 digits are under 2^67, and a body of 1 MiB has fewer than 2^20 orders.
                Some(number) => number << 20 | index as u128,
                // Ids made of a key or a message's name do not ascend within their millisecond.
                None => match arrival_by_age(&order) {
                    age if age >> 64 == before >> 64 => age.max(before + 1),
                    age => age,
                },
            };
            before = arrival;
            (Arrival(arrival), order)
        };
        let mut orders: Vec<_> = orders.into_iter().enumerate().map(arrival).collect();
        orders.sort_by_key(|(arrival, _)| *arrival);
        let received = attribute(message, MessageSystemAttributeName::ApproximateReceiveCount);
        let delivery = Delivery {
            receipt: receipt(message),
            orders,
            receive_count: received.map_or(1, |count| count as u32),
        };
        (delivery, letters)
    }

    async fn counts(&self, url: &str) -> Result<u64, QueueError> {
        let names = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
            QueueAttributeName::ApproximateNumberOfMessagesDelayed,
        ];
        let found = self.attributes(url, &names).await?;
        Ok(found.values().filter_map(|count| count.parse::<u64>().ok()).sum())
    }

    async fn attributes(
        &self,
        url: &str,
        names: &[QueueAttributeName],
    ) -> Result<std::collections::HashMap<QueueAttributeName, String>, QueueError> {
        let found = repeat_at_most(SEND_ATTEMPTS, || {
            let request = self.client.get_queue_attributes().queue_url(url);
            let request = request.set_attribute_names(Some(names.to_vec()));
            async move { request.send().await.map_err(|e| Fault::of(&e)) }
        });
        let answer = found.await.map_err(|fault| queue_error(url, fault))?;
        Ok(answer.attributes.unwrap_or_default())
    }
}

impl fmt::Display for SqsQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SQS queue {}", queue_name(self.url()))
    }
}

#[async_trait]
impl Queue for SqsQueue {
    fn limits(&self) -> QueueLimits {
        QueueLimits {
            send: BATCH * self.settings.orders_per_message,
            sends_in_flight: REQUESTS_IN_FLIGHT,
            letters_in_order: false,
        }
    }

    async fn send(&self, orders: &[Order]) -> Vec<Result<Sent, QueueError>> {
        let messages = packing::pack(orders, self.settings.orders_per_message, self.fifo);
        let requests = messages.chunks(BATCH).map(|chunk| {
            let entries = chunk.iter().enumerate();
            let entries = entries.map(|(n, indices)| self.entry(n, orders, indices)).collect();
            self.send_batch(self.url(), entries).boxed()
        });
        // A FIFO queue's requests go one after another: an item's messages keep their order.
        let at_once = if self.fifo { 1 } else { REQUESTS_IN_FLIGHT };
        let answered = in_flight(at_once, requests.collect()).await.concat();
        let mut answers = vec![Ok(Sent::Queued); orders.len()];
        for (indices, answer) in messages.iter().zip(answered) {
            for &index in indices {
                answers[index] = answer.clone().map(|()| Sent::Queued);
            }
        }
        answers
    }

    /// Takes at most `max` messages, and at most [`BATCH`]: up to 99 orders each.
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>, QueueError> {
        let messages =
            self.receive_messages(self.url(), self.settings.visibility, max, wait).await?;
        let mut deliveries = Vec::with_capacity(messages.len());
        let mut done = Vec::new();
        for (n, message) in messages.iter().enumerate() {
            let (delivery, letters) = self.read(message);
            if !letters.is_empty()
                && let Err(e) = self.dead_letter(&letters).await
            {
                // It stays in the queue and comes again, its neighbours with it.
                tracing::warn!("a message that is no order could not be dead-lettered: {e}");
                if self.fifo {
                    // What came after it must not overtake it, so it is given back.
                    let rest: Vec<Receipt> = messages[n + 1..].iter().map(receipt).collect();
                    if let Err(e) = self.release(&rest).await {
                        tracing::warn!(
                            "{} messages come only after their timeout: {e}",
                            rest.len()
                        );
                    }
                    break;
                }
                continue;
            }
            if delivery.orders.is_empty() {
                done.push(delivery.receipt);
            } else {
                deliveries.push(delivery);
            }
        }
        for answer in self.ack(&done).await {
            if let Err(e) = answer {
                tracing::warn!("a dead-lettered message could not be acknowledged: {e}");
            }
        }
        Ok(deliveries)
    }

    async fn ack(&self, receipts: &[Receipt]) -> Vec<Result<(), QueueError>> {
        self.delete(self.url(), receipts).await
    }

    async fn extend(&self, receipts: &[Receipt]) -> Result<(), QueueError> {
        self.change_visibility(self.url(), receipts, self.settings.visibility).await
    }

    async fn release(&self, receipts: &[Receipt]) -> Result<(), QueueError> {
        self.change_visibility(self.url(), receipts, Duration::ZERO).await
    }

    /// Not idempotent by itself; letters of one order are shown, redriven and dropped as one.
    async fn dead_letter(&self, letters: &[DeadLetter]) -> Result<(), QueueError> {
        self.send_letters(letters).await?;
        crate::core::ports::dead_letters::tell(letters);
        Ok(())
    }

    /// Finds no letter by its id: all are met, whichever are meant.
    async fn walk_letters(
        &self,
        _: &Letters,
        visitor: &mut dyn LetterVisitor,
    ) -> Result<bool, QueueError> {
        self.walk(visitor).await
    }

    /// SQS keeps no line that one could look at.
    async fn position(&self, _: OrderId) -> Result<Option<QueuePosition>, QueueError> {
        Ok(None)
    }

    async fn backlog(&self) -> Result<Backlog, QueueError> {
        let dead_letter_queue = self.dead_letter_queue().await?;
        let (waiting, dead_letters) =
            futures_util::join!(self.counts(self.url()), self.counts(dead_letter_queue));
        // Only CloudWatch knows the age of the oldest message.
        Ok(Backlog { waiting: waiting?, dead_letters: dead_letters?, oldest: None })
    }

    async fn check(&self) -> Result<(), QueueError> {
        self.backlog().await.map(|_| ())
    }
}

impl SqsQueue {
    fn entry(
        &self,
        number: usize,
        orders: &[Order],
        indices: &[usize],
    ) -> SendMessageBatchRequestEntry {
        let orders: Vec<Order> = indices.iter().map(|&index| orders[index].clone()).collect();
        let item = &orders[0].item;
        let of_one_item = orders.iter().all(|order| order.item == *item);
        SendMessageBatchRequestEntry::builder()
            .id(number.to_string())
            .message_body(packing::for_sqs(message::encode(&orders)))
            .set_message_group_id(of_one_item.then(|| item.to_string()))
            .set_message_deduplication_id(self.fifo.then(fresh_id))
            .build()
            .expect("id and body are set")
    }
}

/// The answers of all requests, in their order; so many are on their way at once.
async fn in_flight<T>(at_once: usize, requests: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    stream::iter(requests).buffered(at_once).collect().await
}

fn fresh_id() -> String {
    Uuid::from_u128(SystemIdSource.next_id()).to_string()
}

fn queue_name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

fn receipt(message: &Message) -> Receipt {
    Receipt(message.receipt_handle().unwrap_or_default().to_owned())
}

fn attribute(message: &Message, name: MessageSystemAttributeName) -> Option<u128> {
    message.attributes()?.get(&name)?.parse().ok()
}

/// By acceptance; within a millisecond by the order id, which ascends within a process.
fn arrival_by_age(order: &Order) -> u128 {
    let id = u128::from_be_bytes(*order.id.as_bytes());
    u128::from(order.accepted_at.0) << 64 | id >> 64
}
