//! The intake: accepts orders one by one and sends them to the queue in batches.
//!
//! The next batch gathers while a send is in progress. No timer is involved, so a single order is
//! sent at once.

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
use crate::core::model::{
    Clock, IdempotencyKey, ItemId, Order, OrderId, OrderIds, OrderKey, Quantity, TraceContext,
    UserId,
};
use crate::core::ports::idempotency::{Fingerprint, IdempotencyStore, KeyCheck};
use crate::core::ports::queue::{Queue, QueueError, Sent};
use crate::core::ports::tracing::SpanKind;

/// Attempts to send an order before its buyer gets an error.
const SEND_ATTEMPTS: u32 = 4;
/// Pause before the second attempt; doubled before each further one.
const RESEND_PAUSE: Duration = Duration::from_millis(40);
/// An order that has waited longer is not sent, nor sent again after a failure: its buyer gets an
/// error. The last attempt may take longer.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Why an order was not accepted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refused {
    /// The intake or the queue is full (P8), or the order waited too long. It was not queued.
    #[error("{0}")]
    Overloaded(String),
    /// The order was sent and not confirmed: it may be in the queue.
    #[error("order {order} could not be confirmed: {cause}")]
    Unconfirmed { order: OrderId, cause: String },
    /// The Idempotency-Key was used before with another request.
    #[error("this Idempotency-Key was used for another request")]
    KeyReused,
}

/// A validated request for an order.
#[derive(Debug, Clone)]
pub struct OrderRequest {
    pub user: UserId,
    pub item: ItemId,
    pub quantity: Quantity,
    pub key: Option<IdempotencyKey>,
    /// The trace context of the order.
    pub trace: Option<Box<TraceContext>>,
}

/// An order that waits to be sent, with the caller to answer.
struct Unsent {
    order: Order,
    /// True if the request had an Idempotency-Key.
    keyed: bool,
    accepted: Instant,
    caller: oneshot::Sender<Result<(), Refused>>,
}

/// Accepts orders. Cheap to clone. When the last clone is dropped, [`Intake::start`]'s future sends
/// the remaining orders and ends.
#[derive(Debug, Clone)]
pub struct Intake {
    unsent: mpsc::Sender<Unsent>,
    ids: Arc<OrderIds>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Unsent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.order.fmt(f)
    }
}

impl Intake {
    /// An intake in which at most `waiting_max` orders wait to be sent, and the future that sends
    /// them.
    pub fn start(ports: &Ports, waiting_max: usize) -> (Intake, BoxFuture<'static, ()>) {
        let Ports { queue, idempotency, order_ids: ids, clock, metrics, tracer, .. } =
            ports.clone();
        let (sender, receiver) = mpsc::channel(waiting_max);
        let intake = Intake { unsent: sender, ids, clock };
        (intake, Box::pin(gather(queue, idempotency, metrics, tracer, receiver)))
    }

    /// Accepts an order; it is durable when this returns `Ok`. Idempotent if the request has a key.
    /// Cancelling the call does not withdraw the order.
    pub async fn accept(&self, request: OrderRequest) -> Result<Order, Refused> {
        let now = self.clock.now();
        let id = match &request.key {
            Some(key) => self.ids.from_idempotency_key(&request.user, key),
            None => self.ids.generate(now),
        };
        let order = Order {
            id,
            user: request.user,
            item: request.item,
            quantity: request.quantity,
            accepted_at: now,
            trace: request.trace,
        };
        let (caller, response) = oneshot::channel();
        let keyed = request.key.is_some();
        let unsent = Unsent { order: order.clone(), keyed, accepted: Instant::now(), caller };
        self.unsent.try_send(unsent).map_err(|_| {
            Refused::Overloaded(
                "the intake is full: more orders are waiting than intake_max".to_owned(),
            )
        })?;
        if failpoints::is_off(Failpoint::DurableBefore202) {
            return Ok(order);
        }
        let stopped =
            Refused::Unconfirmed { order: id, cause: "the server is stopping".to_owned() };
        response.await.unwrap_or(Err(stopped)).map(|()| order)
    }
}

/// Gathers orders into batches and sends each in a task of its own, until all senders are dropped;
/// then waits for the last sends.
///
/// A batch is gathered only when a send may start, so it grows while all sends are in progress.
async fn gather(
    queue: Arc<dyn Queue>,
    idempotency: Option<Arc<dyn IdempotencyStore>>,
    metrics: Arc<Metrics>,
    tracer: Tracer,
    mut unsent: mpsc::Receiver<Unsent>,
) {
    let limits = queue.limits();
    let slots = Arc::new(Semaphore::new(limits.sends_in_flight));
    loop {
        let slot = slots.clone().acquire_owned().await.expect("never closed");
        let Some(first) = unsent.recv().await else { break };
        // Gives requests that have already arrived the time to join this batch.
        tokio::task::yield_now().await;
        let mut batch = vec![first];
        while batch.len() < limits.send
            && let Ok(next) = unsent.try_recv()
        {
            batch.push(next);
        }
        metrics.sent_together.record(batch.len() as u64);
        let orders = batch.iter().map(|unsent| &unsent.order);
        let mut span = tracer.batch("send", SpanKind::Producer, orders);
        span.set("messaging.operation.type", || "send");
        span.set("messaging.batch.message_count", || batch.len());
        tokio::spawn(send(queue.clone(), idempotency.clone(), batch, span, slot));
    }
    let all = limits.sends_in_flight as u32;
    let _drained = slots.acquire_many(all).await;
}

/// Sends a batch and answers its callers. Sending an order twice is safe: the queue or the worker
/// drops the repeat.
async fn send(
    queue: Arc<dyn Queue>,
    idempotency: Option<Arc<dyn IdempotencyStore>>,
    batch: Vec<Unsent>,
    mut span: OpenSpan,
    _slot: OwnedSemaphorePermit,
) {
    let mut batch = refuse_expired(batch);
    if let Some(idempotency) = idempotency {
        batch = span.call("marks.mark", refuse_reused_keys(&*idempotency, batch)).await;
    }
    let mut pause = RESEND_PAUSE;
    for attempt in 1..=SEND_ATTEMPTS {
        if batch.is_empty() {
            return;
        }
        let orders: Vec<Order> = batch.iter().map(|unsent| unsent.order.clone()).collect();
        let results = span.call("queue.send", queue.send(&orders)).await;
        if let Some(Err(e)) = results.iter().find(|result| result.is_err()) {
            span.fail(|| e.to_string());
        }
        let longest_wait = batch.iter().map(|unsent| unsent.accepted.elapsed()).max();
        let last_attempt = attempt == SEND_ATTEMPTS || longest_wait > Some(WAIT_MAX);
        batch = answer_callers(batch, results, last_attempt);
        if !batch.is_empty() {
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
}

/// Refuses the orders that waited too long for a send, and returns the others.
fn refuse_expired(batch: Vec<Unsent>) -> Vec<Unsent> {
    let (expired, in_time): (Vec<_>, Vec<_>) =
        batch.into_iter().partition(|unsent| unsent.accepted.elapsed() > WAIT_MAX);
    for unsent in expired {
        let why = "the queue is not accepting orders at the moment".to_owned();
        let _disconnected = unsent.caller.send(Err(Refused::Overloaded(why)));
    }
    in_time
}

/// Answers the callers whose result is final; returns the orders to send again.
fn answer_callers(
    batch: Vec<Unsent>,
    results: Vec<Result<Sent, QueueError>>,
    last_attempt: bool,
) -> Vec<Unsent> {
    let mut retries = Vec::new();
    for (unsent, result) in batch.into_iter().zip(results) {
        let order = unsent.order.id;
        let response = match result {
            Ok(Sent::Queued) => Ok(()),
            Ok(Sent::KeyReused) => Err(Refused::KeyReused),
            Err(e @ QueueError::Full(_)) => Err(Refused::Overloaded(e.to_string())),
            Err(QueueError::Busy(_) | QueueError::OutcomeUnknown(_)) if !last_attempt => {
                retries.push(unsent);
                continue;
            }
            Err(e) => {
                let item_id = &unsent.order.item;
                let trace_id = unsent.order.trace_id();
                tracing::warn!(order_id = %order, %item_id, trace_id, "send failed: {e}");
                Err(Refused::Unconfirmed {
                    order,
                    cause: "the queue did not confirm it".to_owned(),
                })
            }
        };
        let _disconnected = unsent.caller.send(response);
    }
    retries
}

/// Refuses orders whose Idempotency-Key was used for another request, and returns the others. If
/// the check fails, all are returned: the worker dead-letters the later request under a used id.
async fn refuse_reused_keys(idempotency: &dyn IdempotencyStore, batch: Vec<Unsent>) -> Vec<Unsent> {
    let keyed = batch.iter().filter(|unsent| unsent.keyed);
    let fingerprints: Vec<Fingerprint> = keyed
        .map(|unsent| Fingerprint { order: unsent.order.id, hash: request_hash(&unsent.order) })
        .collect();
    if fingerprints.is_empty() {
        return batch;
    }
    let checks = match idempotency.check_keys(&fingerprints).await {
        Ok(checks) => checks,
        Err(e) => {
            tracing::warn!("{e}; reused keys are detected only at the decision");
            return batch;
        }
    };
    let mut checks = checks.into_iter();
    let mut kept = Vec::with_capacity(batch.len());
    for unsent in batch {
        match unsent.keyed.then(|| checks.next()).flatten() {
            Some(KeyCheck::Mismatch) => {
                let _disconnected = unsent.caller.send(Err(Refused::KeyReused));
            }
            Some(KeyCheck::Match) | None => kept.push(unsent),
        }
    }
    kept
}

/// A hash of the item and the quantity. The user is already part of the order id.
fn request_hash(order: &Order) -> u64 {
    let request = format!("{} {}", order.quantity.units(), order.item);
    OrderKey(*b"flux fingerprint").hash(request.as_bytes())
}
