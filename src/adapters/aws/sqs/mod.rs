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
use crate::core::ports::dead_letters::{DeadLetter, DlqCursor, DlqFilter, LetterPosition};
use crate::core::ports::queue::{
    Arrival, Backlog, Delivery, Queue, QueueError, QueueLimits, QueuePosition, Receipt, Sent,
};
use batch_results::{batch_results, entry_error, queue_error};

/// Entries in one batch request, and messages in one receive (Amazon SQS Developer Guide,
/// "Message quotas").
const BATCH: usize = 10;
/// Batch requests of one call that are in flight at once.
const REQUESTS_IN_FLIGHT: usize = 8;
/// Attempts at a send, which the intake repeats. On a FIFO queue the attempts share one
/// de-duplication id.
const SEND_ATTEMPTS: u32 = 2;

/// The queue, and how its messages are sent and received.
#[derive(Debug, Clone)]
pub struct SqsSettings {
    pub queue_url: String,
    /// `None` for the queue that the redrive policy names.
    pub dead_letter_queue_url: Option<String>,
    /// How long a received message stays invisible to others: whole seconds, 1 s to 12 h.
    pub visibility: Duration,
    /// The most orders in a sent message, 1 to [`message::MAX_ORDERS`]. Received messages may have any
    /// number.
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
    /// Makes no call; [`Queue::check`] is the first.
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

    /// Sends at most [`BATCH`] messages in one request; returns a result for each.
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

    /// Reads a message. Entries that are not orders are returned as dead letters.
    ///
    /// Orders get ascending arrival numbers. On a FIFO queue they follow SQS's sequence number and
    /// the index in the message. A standard queue has no order of its own, so they follow the time of
    /// acceptance; within a millisecond ids from an Idempotency-Key do not ascend, so the index in the
    /// message decides.
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
        let mut previous = 0;
        let arrival = |(index, order): (usize, Order)| {
            let arrival = match sequence {
                // 20 digits fit into 67 bits, and a body of 1 MiB has fewer than 2^20 orders.
                Some(number) => number << 20 | index as u128,
                None => match arrival_by_age(&order) {
                    age if age >> 64 == previous >> 64 => age.max(previous + 1),
                    age => age,
                },
            };
            previous = arrival;
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
        // On a FIFO queue requests are sent one by one, so that an item's messages keep their order.
        let at_once = if self.fifo { 1 } else { REQUESTS_IN_FLIGHT };
        let sent = in_flight(at_once, requests.collect()).await.concat();
        let mut results = vec![Ok(Sent::Queued); orders.len()];
        for (indices, result) in messages.iter().zip(sent) {
            for &index in indices {
                results[index] = result.clone().map(|()| Sent::Queued);
            }
        }
        results
    }

    /// Receives at most `max` messages, and at most [`BATCH`]: up to 99 orders each.
    ///
    /// Entries that are not orders are dead-lettered before their message is acknowledged or
    /// delivered. If that fails or the process is killed in between, the message stays in the queue
    /// and is received again; an entry can then be dead-lettered twice, which readers of dead
    /// letters expect.
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
                tracing::warn!("dead-lettering failed; message will be redelivered: {e}");
                if self.fifo {
                    // Later messages must not overtake it, so they are returned to the queue.
                    let rest: Vec<Receipt> = messages[n + 1..].iter().map(receipt).collect();
                    if let Err(e) = self.release(&rest).await {
                        let count = rest.len();
                        tracing::warn!(count, "release failed; redelivery after the timeout: {e}");
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
        for result in self.ack(&done).await {
            if let Err(e) = result {
                tracing::warn!(
                    "ack of a dead-lettered message failed; it will be redelivered: {e}"
                );
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
        crate::core::ports::dead_letters::log_written(letters);
        Ok(())
    }

    fn dead_letter_cursor(
        &self,
        _: &DlqFilter,
        _: Option<LetterPosition>,
    ) -> Box<dyn DlqCursor + '_> {
        Box::new(dead_letters::Cursor::new(self))
    }

    /// SQS does not report positions.
    async fn position(&self, _: OrderId) -> Result<Option<QueuePosition>, QueueError> {
        Ok(None)
    }

    async fn backlog(&self) -> Result<Backlog, QueueError> {
        let dead_letter_queue = self.dead_letter_queue().await?;
        let (waiting, dead_letters) =
            futures_util::join!(self.counts(self.url()), self.counts(dead_letter_queue));
        // The age of the oldest message is available from CloudWatch only.
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

/// The results of all requests, in their order; at most `at_once` are in flight.
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

/// Orders by time of acceptance; within a millisecond by order id, which ascends within a process.
fn arrival_by_age(order: &Order) -> u128 {
    let id = u128::from_be_bytes(*order.id.as_bytes());
    u128::from(order.accepted_at.0) << 64 | id >> 64
}
