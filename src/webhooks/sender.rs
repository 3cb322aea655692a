//! Sends the outbox's events to the endpoint, many at once over kept connections. Decisions never
//! wait for it.

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

/// Requests in flight at once.
const IN_FLIGHT: usize = 32;
/// Events taken from the outbox and waiting for a request.
const AHEAD: usize = 128;
/// Results recorded in one call, at most.
const RESULTS_PER_CALL: usize = 512;
/// How long one call waits for events; a stop may take as long.
const TAKE_WAIT: Duration = Duration::from_millis(500);
/// Pause after a failed call to the outbox; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest of these pauses.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often the waiting events are counted.
const COUNT_EVERY: Duration = Duration::from_secs(5);
/// Added to the lease for the calls to the outbox.
const LEASE_MARGIN: Duration = Duration::from_secs(5);
/// Retries of a call that records results. If all fail, the events are sent again after their lease.
const RECORD_RETRIES: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(FIRST_PAUSE)
    .with_max_delay(LONGEST_PAUSE)
    .with_max_times(7);

/// Pauses between an event's attempts. After the last attempt the event is a dead letter.
pub const PAUSES: [Duration; 6] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(120),
    Duration::from_secs(600),
    Duration::from_secs(3_600),
    Duration::from_secs(6 * 3_600),
];

/// Sends the events of one outbox to one endpoint.
#[derive(Debug)]
pub struct Sender {
    pub webhooks: Arc<dyn WebhookOutbox>,
    pub endpoint: WebhookEndpoint,
    /// Pauses between attempts, [`PAUSES`] in production.
    pub pauses: Vec<Duration>,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn IdSource>,
    /// Time that requests in flight may take after a stop.
    pub drain: Duration,
    pub metrics: Arc<Metrics>,
}

/// State shared by the tasks of a sender.
struct Shared {
    breaker: CircuitBreaker,
    stop: CancellationToken,
    /// Cancelled when requests in flight are abandoned.
    halt: CancellationToken,
}

/// An event to send.
struct Attempt {
    due: DueEvent,
    /// True for the probe of an open circuit.
    probe: bool,
}

impl Sender {
    /// Sends until stopped. Then it waits up to `drain` for requests in flight and returns the other
    /// events to the outbox. If it is cancelled instead, taken events are due again after their lease.
    pub async fn run(self, stop: CancellationToken) {
        tracing::info!(endpoint = %self.endpoint.url, "sending webhooks");
        let sender = Arc::new(self);
        let shared = Arc::new(Shared {
            breaker: CircuitBreaker::default(),
            stop,
            halt: CancellationToken::new(),
        });
        let (attempts, waiting) = mpsc::channel(AHEAD);
        let (finished, results) = mpsc::channel(AHEAD);
        let waiting = Arc::new(Mutex::new(waiting));
        let mut runners = JoinSet::new();
        for _ in 0..IN_FLIGHT {
            let runner =
                sender.clone().attempt_all(shared.clone(), waiting.clone(), finished.clone());
            runners.spawn(runner);
        }
        drop(finished);
        let recording = tokio::spawn(sender.clone().record_all(results));
        let counting = tokio::spawn(sender.clone().count());
        sender.take_all(&shared, attempts).await;
        counting.abort();
        let halting = tokio::spawn(async move {
            tokio::time::sleep(sender.drain).await;
            shared.halt.cancel();
        });
        while runners.join_next().await.is_some() {}
        halting.abort();
        let _ended = recording.await;
    }

    async fn count(self: Arc<Self>) {
        loop {
            if let Ok(counts) = self.webhooks.waiting().await {
                self.metrics.webhooks_waiting.store(counts.waiting, Ordering::Relaxed);
            }
            tokio::time::sleep(COUNT_EVERY).await;
        }
    }

    /// The lease of taken events: long enough for the last one if all before it time out.
    fn lease(&self) -> Duration {
        let rounds = (AHEAD / IN_FLIGHT + 2) as u32;
        self.endpoint.timeout * rounds + LEASE_MARGIN
    }

    /// Takes events from the outbox until stopped. The circuit breaker decides how many: none while it
    /// is open, one as a probe, otherwise as many as the queue has room for.
    async fn take_all(&self, shared: &Shared, attempts: mpsc::Sender<Attempt>) {
        let Shared { breaker, stop, .. } = shared;
        let mut pause = FIRST_PAUSE;
        while !stop.is_cancelled() {
            let room = attempts.capacity();
            let (max, probe) = match breaker.state() {
                Circuit::Open { until } => {
                    // A request that was in flight may close the circuit earlier.
                    let until = until.min(Instant::now() + LONGEST_PAUSE);
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep_until(until) => continue,
                    }
                }
                Circuit::HalfOpen => (1, true),
                Circuit::Closed if room < AHEAD / 2 => {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        _room = attempts.reserve_many(AHEAD / 2) => continue,
                    }
                }
                Circuit::Closed => (room, false),
            };
            match self.webhooks.take(max, TAKE_WAIT, self.lease()).await {
                Ok(due) => {
                    pause = FIRST_PAUSE;
                    for due in due {
                        let _never_closed = attempts.send(Attempt { due, probe }).await;
                    }
                }
                Err(e) => {
                    tracing::warn!("cannot read {}: {e}; retrying", self.webhooks);
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Makes one attempt after another. An event that was taken before the circuit opened or the stop
    /// began is returned without an attempt. The check may race with either change, which costs one
    /// attempt at most.
    async fn attempt_all(
        self: Arc<Self>,
        shared: Arc<Shared>,
        waiting: Arc<Mutex<mpsc::Receiver<Attempt>>>,
        finished: mpsc::Sender<(DueEvent, AttemptResult)>,
    ) {
        loop {
            let next = waiting.lock().await.recv().await;
            let Some(Attempt { due, probe }) = next else { return };
            let skip = shared.stop.is_cancelled() || shared.breaker.is_open() && !probe;
            let result = if skip {
                AttemptResult::NotAttempted
            } else {
                tokio::select! {
                    biased;
                    result = self.attempt(&due, &shared.breaker) => result,
                    () = shared.halt.cancelled() => AttemptResult::NotAttempted,
                }
            };
            let _never_closed = finished.send((due, result)).await;
        }
    }

    async fn attempt(&self, due: &DueEvent, breaker: &CircuitBreaker) -> AttemptResult {
        let order = due.decided.order.id;
        let id = webhook_id(order);
        let [accepted, failed, dead] = &self.metrics.webhooks;
        let (why, retry_after) =
            match self.endpoint.send(&id, body(&due.decided), self.clock.now()).await {
                EndpointReply::Accepted => {
                    if breaker.succeeded() {
                        tracing::info!("webhook endpoint {} available again", self.endpoint.url);
                    }
                    accepted.add(1);
                    return AttemptResult::Sent;
                }
                EndpointReply::Gone => {
                    let reason =
                        "HTTP status 410: the endpoint accepts no more webhooks".to_owned();
                    tracing::error!(order_id = %order, "webhook dead-lettered: {reason}");
                    breaker.failed(None);
                    dead.add(1);
                    return AttemptResult::Dead { reason };
                }
                EndpointReply::Failed { why, retry_after } => (why, retry_after),
            };
        failed.add(1);
        if breaker.failed(retry_after) {
            let url = &self.endpoint.url;
            tracing::warn!("webhook endpoint {url} unavailable ({why}); deliveries paused");
        }
        let Some(pause) = self.pauses.get(due.attempts as usize) else {
            let attempts = due.attempts + 1;
            let reason = format!("{why}, at the last of {attempts} attempts");
            tracing::error!(order_id = %order, "webhook dead-lettered: {reason}");
            dead.add(1);
            return AttemptResult::Dead { reason };
        };
        tracing::debug!(order_id = %order, attempt = due.attempts + 1, "webhook failed: {why}");
        let longest = self.pauses.iter().max().copied().unwrap_or_default();
        let pause = self.jitter(*pause).max(retry_after.unwrap_or_default().min(longest));
        AttemptResult::RetryAt { until: self.clock.now().plus(pause) }
    }

    /// A random time from `pause` to 1.5 times `pause`.
    fn jitter(&self, pause: Duration) -> Duration {
        let random = self.ids.next_id() as u8;
        pause + pause / 2 * u32::from(random) / 255
    }

    async fn record_all(self: Arc<Self>, mut results: mpsc::Receiver<(DueEvent, AttemptResult)>) {
        let mut batch = Vec::new();
        while results.recv_many(&mut batch, RESULTS_PER_CALL).await > 0 {
            let record = || self.webhooks.record_results(&batch);
            if let Err(e) = record.retry(RECORD_RETRIES).await {
                let count = batch.len();
                tracing::warn!(count, "results not recorded; webhooks may be sent twice: {e}");
            }
            batch.clear();
        }
    }
}
