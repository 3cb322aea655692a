//! The intake: takes orders one by one, sends them many at a time.
//!
//! While one send is on its way the next orders gather; no timer adds latency to a lone order.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::Ports;
use super::failpoints;
use super::failpoints::Failpoint;
use super::tracer::{OpenSpan, Tracer};
use crate::core::metrics::Metrics;
use crate::core::model::TraceContext;
use crate::core::model::{
    Clock, IdempotencyKey, ItemId, Order, OrderId, OrderIds, Quantity, UserId,
};
use crate::core::ports::idempotency::{Fingerprint, IdempotencyStore, KeyCheck};
use crate::core::ports::queue::{Queue, QueueError, Sent};
use crate::core::ports::tracing::SpanKind;

/// How often an order is handed to the queue before its buyer is told to try again.
const SEND_ATTEMPTS: u32 = 4;
/// Pause before the second attempt; doubled for each further one.
const RESEND_PAUSE: Duration = Duration::from_millis(40);
/// An order that has waited so long is not sent any more, nor again after a failure: its buyer is
/// told to try again. One attempt at a send may come on top.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why an order was not accepted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refused {
    /// As many orders wait as may (P8). Nothing was sent.
    #[error("{0}")]
    Overloaded(String),
    /// A send was tried and not confirmed: the order may have been taken.
    #[error("order {order} could not be confirmed: {cause}")]
    Unconfirmed { order: OrderId, cause: String },
    /// The Idempotency-Key came before with another request.
    #[error("this Idempotency-Key was used for another request")]
    KeyReused,
}

/// A buyer's wish as the API read it.
#[derive(Debug, Clone)]
pub struct Request {
    pub user: UserId,
    pub item: ItemId,
    pub quantity: Quantity,
    pub key: Option<IdempotencyKey>,
    /// The trace that the order is to carry.
    pub trace: Option<Box<TraceContext>>,
}

struct Entry {
    order: Order,
    keyed: bool,
    since: Instant,
    answer: oneshot::Sender<Result<(), Refused>>,
}

/// The way in. Cheap to clone; when the last clone is dropped, [`Intake::start`]'s future ends
/// after what was accepted is sent.
#[derive(Debug, Clone)]
pub struct Intake {
    entries: mpsc::Sender<Entry>,
    names: Arc<OrderIds>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.order.fmt(f)
    }
}

impl Intake {
    /// An intake in which at most `waiting_max` orders wait to be sent, and the future that sends
    /// them.
    pub fn start(ports: &Ports, waiting_max: usize) -> (Intake, BoxFuture<'static, ()>) {
        let Ports { queue, idempotency, order_ids: names, clock, metrics, tracer, .. } =
            ports.clone();
        let (sender, receiver) = mpsc::channel(waiting_max);
        let intake = Intake { entries: sender, names, clock };
        (intake, Box::pin(gather(queue, idempotency, metrics, tracer, receiver)))
    }

    /// Accepts an order: durable when this answers. Cancelling it does not take the order back.
    pub async fn accept(&self, request: Request) -> Result<Order, Refused> {
        let now = self.clock.now();
        let id = match &request.key {
            Some(key) => self.names.from_idempotency_key(&request.user, key),
            None => self.names.generate(now),
        };
        let order = Order {
            id,
            user: request.user,
            item: request.item,
            quantity: request.quantity,
            accepted_at: now,
            trace: request.trace,
        };
        let (answer, answered) = oneshot::channel();
        let (keyed, since) = (request.key.is_some(), Instant::now());
        let entry = Entry { order: order.clone(), keyed, since, answer };
        self.entries.try_send(entry).map_err(|_| {
            Refused::Overloaded("more orders are waiting than can be taken".to_owned())
        })?;
        if failpoints::is_off(Failpoint::DurableBefore202) {
            return Ok(order);
        }
        let lost = Refused::Unconfirmed { order: id, cause: "the server is stopping".to_owned() };
        answered.await.unwrap_or(Err(lost)).map(|()| order)
    }
}

async fn gather(
    queue: Arc<dyn Queue>,
    idempotency: Option<Arc<dyn IdempotencyStore>>,
    metrics: Arc<Metrics>,
    tracer: Tracer,
    mut entries: mpsc::Receiver<Entry>,
) {
    let limits = queue.limits();
    let slots = Arc::new(Semaphore::new(limits.sends_in_flight));
    loop {
        let slot = slots.clone().acquire_owned().await.expect("never closed");
        let Some(first) = entries.recv().await else { break };
        // Lets the requests that are already here be read.
        tokio::task::yield_now().await;
        let mut batch = vec![first];
        while batch.len() < limits.send
            && let Ok(next) = entries.try_recv()
        {
            batch.push(next);
        }
        metrics.sent_together.record(batch.len() as u64);
        let orders = batch.iter().map(|entry| &entry.order);
        let mut span = tracer.batch("send", SpanKind::Producer, orders);
        span.set("messaging.operation.type", || "send");
        span.set("messaging.batch.message_count", || batch.len());
        tokio::spawn(send(queue.clone(), idempotency.clone(), batch, span, slot));
    }
    let all = limits.sends_in_flight as u32;
    let _drained = slots.acquire_many(all).await;
}

async fn send(
    queue: Arc<dyn Queue>,
    idempotency: Option<Arc<dyn IdempotencyStore>>,
    batch: Vec<Entry>,
    mut span: OpenSpan,
    _slot: OwnedSemaphorePermit,
) {
    let mut batch = refuse_late(batch);
    if let Some(idempotency) = idempotency {
        batch = span.call("marks.mark", refuse_reused_keys(&*idempotency, batch)).await;
    }
    let mut pause = RESEND_PAUSE;
    for attempt in 1..=SEND_ATTEMPTS {
        if batch.is_empty() {
            return;
        }
        let orders: Vec<Order> = batch.iter().map(|e| e.order.clone()).collect();
        let answers = span.call("queue.send", queue.send(&orders)).await;
        if let Some(Err(e)) = answers.iter().find(|answer| answer.is_err()) {
            span.fail(|| e.to_string());
        }
        let first = batch.iter().map(|entry| entry.since.elapsed()).max();
        let last_attempt = attempt == SEND_ATTEMPTS || first > Some(PATIENCE);
        batch = answer_callers(batch, answers, last_attempt);
        if !batch.is_empty() {
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
}

/// Turns away who waited too long behind sends that did not go through.
fn refuse_late(batch: Vec<Entry>) -> Vec<Entry> {
    let (late, in_time): (Vec<_>, Vec<_>) =
        batch.into_iter().partition(|entry| entry.since.elapsed() > PATIENCE);
    for entry in late {
        let what = "orders cannot be taken at the moment".to_owned();
        let _gone = entry.answer.send(Err(Refused::Overloaded(what)));
    }
    in_time
}

/// Answers those whose fate is known; returns those to send again.
fn answer_callers(
    batch: Vec<Entry>,
    answers: Vec<Result<Sent, QueueError>>,
    last_attempt: bool,
) -> Vec<Entry> {
    let mut again = Vec::new();
    for (entry, answer) in batch.into_iter().zip(answers) {
        let order = entry.order.id;
        let fate = match answer {
            Ok(Sent::Queued) => Ok(()),
            Ok(Sent::KeyReused) => Err(Refused::KeyReused),
            Err(e @ QueueError::Full(_)) => Err(Refused::Overloaded(e.to_string())),
            Err(QueueError::Busy(_) | QueueError::OutcomeUnknown(_)) if !last_attempt => {
                again.push(entry);
                continue;
            }
            Err(e) => {
                let (item_id, trace_id) = (&entry.order.item, entry.order.trace_id());
                tracing::warn!(order_id = %order, %item_id, trace_id, "send failed: {e}");
                Err(Refused::Unconfirmed { order, cause: "the queue did not take it".to_owned() })
            }
        };
        let _gone = entry.answer.send(fate);
    }
    again
}

async fn refuse_reused_keys(idempotency: &dyn IdempotencyStore, batch: Vec<Entry>) -> Vec<Entry> {
    let wanted: Vec<Fingerprint> = batch
        .iter()
        .filter(|e| e.keyed)
        .map(|e| Fingerprint { order: e.order.id, fingerprint: fingerprint(&e.order) })
        .collect();
    if wanted.is_empty() {
        return batch;
    }
    let answers = match idempotency.check_keys(&wanted).await {
        Ok(answers) => answers,
        Err(e) => {
            tracing::warn!("{e}; a reused Idempotency-Key is not noticed before the decision");
            return batch;
        }
    };
    let mut answers = answers.into_iter();
    let mut kept = Vec::with_capacity(batch.len());
    for entry in batch {
        match entry.keyed.then(|| answers.next()).flatten() {
            Some(KeyCheck::Mismatch) => {
                let _gone = entry.answer.send(Err(Refused::KeyReused));
            }
            Some(KeyCheck::Match) | None => kept.push(entry),
        }
    }
    kept
}

/// A digest of what a request asks for; its user is already in its order id.
fn fingerprint(order: &Order) -> u64 {
    let asked = format!("{} {}", order.quantity.units(), order.item);
    crate::core::model::OrderKey(*b"flux fingerprint").hash(asked.as_bytes())
}
