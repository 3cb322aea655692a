//! Sends what waits in the outbox to the endpoint: many requests at once over kept connections, none
//! of which the decisions ever wait for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::circuit_breaker::{Circuit, CircuitBreaker};
use super::{EndpointReply, WebhookEndpoint};
use crate::core::metrics::Metrics;
use crate::core::model::event::{body, webhook_id};
use crate::core::model::{Clock, IdSource};
use crate::core::ports::webhook_outbox::{AttemptResult, DueEvent, WebhookOutbox};

/// Requests on their way at once.
const IN_FLIGHT: usize = 32;
/// Events taken ahead of them.
const AHEAD: usize = 128;
/// Notifier that are told to the outbox at once.
const RECORDED_TOGETHER: usize = 512;
/// How long one look for events may wait, and so a stop.
const TAKE_WAIT: Duration = Duration::from_millis(500);
/// Pause after a call to the outbox that failed; doubled for each further one up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often it is counted what waits.
const COUNT_EVERY: Duration = Duration::from_secs(5);
/// How often the outbox is told of outcomes again. After that their events come again.
const SETTLE_RETRIES: ExponentialBuilder =
    ExponentialBuilder::new().with_min_delay(PAUSE.0).with_max_delay(PAUSE.1).with_max_times(7);

/// The pauses between an event's attempts. After the last attempt it is a dead letter.
pub const PAUSES: [Duration; 6] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(120),
    Duration::from_secs(600),
    Duration::from_secs(3_600),
    Duration::from_secs(6 * 3_600),
];

#[derive(Debug)]
pub struct Sender {
    pub webhooks: Arc<dyn WebhookOutbox>,
    pub endpoint: WebhookEndpoint,
    /// As [`PAUSES`].
    pub pauses: Vec<Duration>,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn IdSource>,
    /// How long after a stop the requests on their way may still take.
    pub drain: Duration,
    pub metrics: Arc<Metrics>,
}

/// What the parts of a sender share.
struct Road {
    breaker: CircuitBreaker,
    stop: CancellationToken,
    /// No request is waited for any longer.
    halt: CancellationToken,
}

/// An event on its way, and whether it is the one that asks if the endpoint is back.
struct Turn {
    due: DueEvent,
    asks: bool,
}

impl Sender {
    /// Sends until stopped; then lets the requests on their way end, and gives the rest back. When
    /// cancelled, what was taken is due again after its lease.
    pub async fn run(self, stop: CancellationToken) {
        tracing::info!("sending webhooks to {}", self.endpoint.endpoint);
        let sender = Arc::new(self);
        let road = Arc::new(Road {
            breaker: CircuitBreaker::default(),
            stop,
            halt: CancellationToken::new(),
        });
        let (turns, waiting) = mpsc::channel(AHEAD);
        let (outcomes, results) = mpsc::channel(AHEAD);
        let waiting = Arc::new(Mutex::new(waiting));
        let mut runners = JoinSet::new();
        for _ in 0..IN_FLIGHT {
            let runner = sender.clone().run_turns(road.clone(), waiting.clone(), outcomes.clone());
            runners.spawn(runner);
        }
        drop(outcomes);
        let recording = tokio::spawn(sender.clone().record_all(results));
        let counting = tokio::spawn(sender.clone().count());
        sender.take_all(&road, turns).await;
        counting.abort();
        let halting = tokio::spawn(async move {
            tokio::time::sleep(sender.drain).await;
            road.halt.cancel();
        });
        while runners.join_next().await.is_some() {}
        halting.abort();
        let _settled = recording.await;
    }

    async fn count(self: Arc<Self>) {
        loop {
            if let Ok(now) = self.webhooks.waiting().await {
                self.metrics.webhooks_waiting.store(now.waiting, Ordering::Relaxed);
            }
            tokio::time::sleep(COUNT_EVERY).await;
        }
    }

    /// How long taken events are this sender's own: a full line before the last of them, each
    /// taking as long as it may.
    fn lease(&self) -> Duration {
        let rounds = (AHEAD / IN_FLIGHT + 2) as u32;
        self.endpoint.timeout * rounds + Duration::from_secs(5)
    }

    async fn take_all(&self, road: &Road, turns: mpsc::Sender<Turn>) {
        let Road { breaker, stop, .. } = road;
        let mut pause = PAUSE.0;
        while !stop.is_cancelled() {
            let room = turns.capacity();
            let (max, asks) = match breaker.ask() {
                Circuit::Open { until } => {
                    // A request that was on its way may find the endpoint back before.
                    let until = until.min(Instant::now() + PAUSE.1);
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep_until(until) => continue,
                    }
                }
                Circuit::HalfOpen => (1, true),
                Circuit::Closed if room < AHEAD / 2 => {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        _room = turns.reserve_many(AHEAD / 2) => continue,
                    }
                }
                Circuit::Closed => (room, false),
            };
            match self.webhooks.take(max, TAKE_WAIT, self.lease()).await {
                Ok(due) => {
                    pause = PAUSE.0;
                    for due in due {
                        let _never_closed = turns.send(Turn { due, asks }).await;
                    }
                }
                Err(e) => {
                    tracing::warn!("{}: {e}; trying again", self.webhooks);
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    async fn run_turns(
        self: Arc<Self>,
        road: Arc<Road>,
        waiting: Arc<Mutex<mpsc::Receiver<Turn>>>,
        outcomes: mpsc::Sender<(DueEvent, AttemptResult)>,
    ) {
        loop {
            let next = waiting.lock().await.recv().await;
            let Some(Turn { due, asks }) = next else { return };
            let late = road.stop.is_cancelled() || road.breaker.is_away() && !asks;
            let outcome = if late {
                AttemptResult::NotAttempted
            } else {
                tokio::select! {
                    biased;
                    outcome = self.attempt(&due, &road.breaker) => outcome,
                    () = road.halt.cancelled() => AttemptResult::NotAttempted,
                }
            };
            let _never_closed = outcomes.send((due, outcome)).await;
        }
    }

    async fn attempt(&self, due: &DueEvent, breaker: &CircuitBreaker) -> AttemptResult {
        let order = due.decided.order.id;
        let id = webhook_id(order);
        let [taken, failed, dead] = &self.metrics.webhooks;
        let (why, retry_after) =
            match self.endpoint.send(&id, body(&due.decided), self.clock.now()).await {
                EndpointReply::Taken => {
                    if breaker.succeeded() {
                        tracing::info!("{} takes webhooks again", self.endpoint.endpoint);
                    }
                    taken.add(1);
                    return AttemptResult::Sent;
                }
                EndpointReply::Gone => {
                    let reason = "HTTP status 410: the shop wants no webhooks there".to_owned();
                    tracing::error!(order_id = %order, "{reason}; the event is a dead letter");
                    breaker.failed(None);
                    dead.add(1);
                    return AttemptResult::Dead { reason };
                }
                EndpointReply::Failed { why, retry_after } => (why, retry_after),
            };
        failed.add(1);
        if breaker.failed(retry_after) {
            tracing::warn!("{} takes no webhooks ({why}); they wait", self.endpoint.endpoint);
        }
        let Some(pause) = self.pauses.get(due.attempts as usize) else {
            let attempts = due.attempts + 1;
            let reason = format!("{why}, at the last of {attempts} attempts");
            tracing::error!(order_id = %order, "{reason}; the event is a dead letter");
            dead.add(1);
            return AttemptResult::Dead { reason };
        };
        tracing::debug!(order_id = %order, attempt = due.attempts + 1, "{why}");
        let longest = self.pauses.iter().max().copied().unwrap_or_default();
        let pause = self.jitter(*pause).max(retry_after.unwrap_or_default().min(longest));
        AttemptResult::RetryAt { until: self.clock.now().plus(pause) }
    }

    /// From the pause to one and a half of it.
    fn jitter(&self, pause: Duration) -> Duration {
        let chance = self.ids.next_id() as u8;
        pause + pause / 2 * u32::from(chance) / 255
    }

    async fn record_all(self: Arc<Self>, mut results: mpsc::Receiver<(DueEvent, AttemptResult)>) {
        let mut batch = Vec::new();
        while results.recv_many(&mut batch, RECORDED_TOGETHER).await > 0 {
            let settle = || self.webhooks.record_results(&batch);
            if let Err(e) = settle.retry(SETTLE_RETRIES).await {
                let count = batch.len();
                tracing::warn!("{}: {e}; {count} webhooks may be sent twice", self.webhooks);
            }
            batch.clear();
        }
    }
}
