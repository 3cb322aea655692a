//! The buyers: they send their orders, come again when told to, and some wait for the decision.

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

use super::connection::{Address, Answer, Connection};
use super::plan::{Plan, Shot, Shots};
use super::tally::Tally;
use crate::core::model::{Clock, OrderId, SystemClock};

/// When nobody's order was accepted for so long, the buyers go home.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause after a broken connection.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// An accepted order whose buyer waits to see the decision, counted from the scheduled instant.
pub(super) type Waiting = (OrderId, Instant);

/// The sale as all its buyers share it.
#[derive(Debug)]
pub(super) struct Sale {
    plan: Plan,
    /// Part of every Idempotency-Key, so that no run repeats another one's orders.
    run: String,
    started: Instant,
    /// Requests not sent yet, and how many were.
    shots: Mutex<(Shots, u64)>,
    tally: Mutex<Tally>,
    waiting: UnboundedSender<Waiting>,
    bar: ProgressBar,
}

/// The buyers' connections, open before the sale begins, as those are whose page has the shop open.
/// One that cannot be opened is tried again with its first order.
pub(super) async fn arrive(address: &Address, count: usize) -> Vec<Connection> {
    let arriving = (0..count).map(|_| async {
        let mut connection = Connection::to(address);
        let _with_its_first_order = connection.connect().await;
        connection
    });
    join_all(arriving).await
}

impl Sale {
    pub fn new(
        plan: Plan,
        waiting: UnboundedSender<Waiting>,
        bar: ProgressBar,
        started: Instant,
    ) -> Self {
        let shots = Mutex::new((Shots::new(&plan), 0));
        let tally = Mutex::new(Tally::new(started));
        let run = format!("{:x}", SystemClock.now().0);
        Self { plan, run, started, shots, tally, waiting, bar }
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends every order, over these connections; ends when each was accepted or given up.
    /// Cancelling stops it.
    pub async fn hold(self, connections: Vec<Connection>) -> Tally {
        let sale = Arc::new(self);
        let mut buyers = JoinSet::new();
        for connection in connections {
            buyers.spawn(sale.clone().send_orders(connection));
        }
        while let Some(done) = buyers.join_next().await {
            done.expect("a buyer does not panic");
        }
        let sale = Arc::into_inner(sale).expect("every buyer has gone home");
        sale.tally.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send_orders(self: Arc<Self>, mut connection: Connection) {
        while let Some((shot, scheduled)) = self.next_shot().await {
            self.buy(&mut connection, shot, scheduled).await;
            self.bar.inc(1);
        }
    }

    /// The next request and when it was to be sent. A timer may be late by a millisecond; that
    /// counts as latency.
    async fn next_shot(&self) -> Option<(Shot, Instant)> {
        let (shot, before) = {
            let mut shots = self.shots.lock().unwrap_or_else(PoisonError::into_inner);
            let shot = shots.0.next()?;
            shots.1 += 1;
            (shot, shots.1 - 1)
        };
        let Some(rate) = self.plan.rate else { return Some((shot, Instant::now())) };
        let scheduled = self.started + Duration::from_secs_f64(before as f64 / rate);
        tokio::time::sleep_until(scheduled).await;
        Some((shot, scheduled))
    }

    async fn buy(&self, connection: &mut Connection, shot: Shot, scheduled: Instant) {
        let begun = Instant::now();
        let (headers, body) = self.request(shot);
        loop {
            self.tally().request();
            let pause = match connection.post("/buy", headers.clone(), body.clone()).await {
                Ok(answer) => match answer.come_again() {
                    None => return self.answered(shot, scheduled, &answer),
                    Some(pause) => {
                        self.tally().refuse();
                        pause
                    }
                },
                Err(_unanswered) => {
                    self.tally().connection_errors += 1;
                    RECONNECT_PAUSE
                }
            };
            tokio::time::sleep(pause).await;
            let mut tally = self.tally();
            if begun.max(tally.last_accepted).elapsed() > PATIENCE {
                tally.given_up += 1;
                return;
            }
        }
    }

    fn answered(&self, shot: Shot, scheduled: Instant, answer: &Answer) {
        let mut tally = self.tally();
        let order = (answer.status == StatusCode::ACCEPTED).then(|| located(answer)).flatten();
        let Some(order) = order else {
            let body = String::from_utf8_lossy(&answer.body);
            let short: String = body.chars().take(200).collect();
            return tally.surprise(&format!("POST /buy: {} {short}", answer.status));
        };
        tally.accept(order, scheduled, shot.keyed.then_some(shot.buyer));
        if shot.waits() {
            let _nobody_serves_waiters = self.waiting.send((order, scheduled));
        }
    }

    fn request(&self, shot: Shot) -> (HeaderMap, Bytes) {
        let name = format!("buyer-{}-{}", self.plan.seed, shot.buyer);
        let body = json!({"user_id": name, "item_id": self.plan.item}).to_string();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if shot.keyed {
            let key = HeaderValue::try_from(format!("{}-{name}", self.run));
            let key = key.expect("letters, digits and dashes are a header value");
            headers.insert(IDEMPOTENCY_KEY, key);
        }
        (headers, body.into())
    }
}

fn located(answer: &Answer) -> Option<OrderId> {
    let path = answer.headers.get(LOCATION)?.to_str().ok()?;
    OrderId::parse(path.rsplit('/').next()?).ok()
}
