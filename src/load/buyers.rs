//! The buyers of a load test: each sends its order, retries after a 429 or 503, and some wait for
//! the decision.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use indicatif::ProgressBar;
use serde_json::json;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::observation::WaitingBuyer;
use super::plan::{LoadPlan, RequestSchedule, ScheduledRequest};
use super::stats::LoadStats;
use crate::client::{Address, Connection, ServerResponse};
use crate::core::model::{Clock, OrderId, SystemClock};

/// Buyers give up if no order was accepted for this time.
const ACCEPTANCE_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause after a connection error.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// State that all buyers of a load test share.
#[derive(Debug)]
pub(super) struct Sale {
    plan: LoadPlan,
    /// Prefix of all Idempotency-Keys of this run, so that it does not repeat another run's orders.
    run_id: String,
    started: Instant,
    schedule: Mutex<RequestSchedule>,
    stats: Mutex<LoadStats>,
    waiting: UnboundedSender<WaitingBuyer>,
    bar: ProgressBar,
}

/// Opens the buyers' connections before the sale starts, as browsers do with an open shop page. A
/// connection that fails is opened again with its first request.
pub(super) async fn open_connections(address: &Address, count: usize) -> Vec<Connection> {
    let opening = (0..count).map(|_| async {
        let mut connection = Connection::to(address);
        let _opened_by_first_request = connection.connect().await;
        connection
    });
    join_all(opening).await
}

impl Sale {
    pub fn new(
        plan: LoadPlan,
        waiting: UnboundedSender<WaitingBuyer>,
        bar: ProgressBar,
        started: Instant,
    ) -> Self {
        let schedule = Mutex::new(RequestSchedule::new(&plan));
        let stats = Mutex::new(LoadStats::new(started));
        let run_id = format!("{:x}", SystemClock.now().0);
        Self { plan, run_id, started, schedule, stats, waiting, bar }
    }

    fn stats(&self) -> MutexGuard<'_, LoadStats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends all orders over these connections. Returns when each was accepted or given up;
    /// cancelling it stops the buyers.
    pub async fn run(self, connections: Vec<Connection>) -> LoadStats {
        let sale = Arc::new(self);
        let mut buyers = JoinSet::new();
        for connection in connections {
            buyers.spawn(sale.clone().send_orders(connection));
        }
        while let Some(ended) = buyers.join_next().await {
            ended.expect("a buyer does not panic");
        }
        let sale = Arc::into_inner(sale).expect("every buyer has ended");
        sale.stats.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send_orders(self: Arc<Self>, mut connection: Connection) {
        while let Some((request, scheduled)) = self.next_request().await {
            self.buy(&mut connection, request, scheduled).await;
            self.bar.inc(1);
        }
    }

    /// The next request, and when it was scheduled. The timer may fire up to a millisecond late,
    /// which counts as latency.
    async fn next_request(&self) -> Option<(ScheduledRequest, Instant)> {
        let request = self.schedule.lock().unwrap_or_else(PoisonError::into_inner).next()?;
        let Some(rate) = self.plan.rate else { return Some((request, Instant::now())) };
        let scheduled = self.started + Duration::from_secs_f64(request.position as f64 / rate);
        tokio::time::sleep_until(scheduled).await;
        Some((request, scheduled))
    }

    async fn buy(
        &self,
        connection: &mut Connection,
        request: ScheduledRequest,
        scheduled: Instant,
    ) {
        let begun = Instant::now();
        let (headers, body) = self.http_request(request);
        loop {
            self.stats().add_request();
            let pause = match connection.post("/buy", headers.clone(), body.clone()).await {
                Ok(answer) => match answer.retry_after() {
                    None => return self.record_answer(request, scheduled, &answer),
                    Some(pause) => {
                        self.stats().add_refusal();
                        pause
                    }
                },
                Err(_unanswered) => {
                    self.stats().connection_errors += 1;
                    RECONNECT_PAUSE
                }
            };
            tokio::time::sleep(pause).await;
            let mut stats = self.stats();
            if begun.max(stats.last_accepted).elapsed() > ACCEPTANCE_TIMEOUT {
                stats.given_up += 1;
                return;
            }
        }
    }

    fn record_answer(
        &self,
        request: ScheduledRequest,
        scheduled: Instant,
        answer: &ServerResponse,
    ) {
        let mut stats = self.stats();
        let order = (answer.status == StatusCode::ACCEPTED).then(|| order_id(answer)).flatten();
        let Some(order) = order else {
            let body = String::from_utf8_lossy(&answer.body);
            let short: String = body.chars().take(200).collect();
            return stats.add_unexpected(&format!("POST /buy: {} {short}", answer.status));
        };
        stats.add_accepted(order, scheduled, request.keyed.then_some(request.buyer));
        if request.waits() {
            let _receiver_gone = self.waiting.send(WaitingBuyer { order, scheduled });
        }
    }

    fn http_request(&self, request: ScheduledRequest) -> (HeaderMap, Bytes) {
        let name = format!("buyer-{}-{}", self.plan.seed, request.buyer);
        let body = json!({"user_id": name, "item_id": self.plan.item}).to_string();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if request.keyed {
            let key = HeaderValue::try_from(format!("{}-{name}", self.run_id));
            let key = key.expect("letters, digits and dashes are valid in a header");
            headers.insert(IDEMPOTENCY_KEY, key);
        }
        (headers, body.into())
    }
}

/// The order that the `Location` header names.
fn order_id(answer: &ServerResponse) -> Option<OrderId> {
    let path = answer.headers.get(LOCATION)?.to_str().ok()?;
    OrderId::parse(path.rsplit('/').next()?).ok()
}
