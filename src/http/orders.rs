//! `GET /orders/ID[?wait=SECONDS]` and `GET /orders/ID/events`.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::http::request;
use hyper::{Method, Response, StatusCode};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::Instant;

use super::access::Session;
use super::connection::Client;
use super::event_stream;
use super::event_stream::{EventStream, RETRY, SILENCE_MAX};
use super::problem::{Problem, json, json_bytes};
use super::query;
use super::response::{Answer, AnswerBody};
use super::server::Server;
use super::shared::Shared;
use crate::core::model::{ItemId, OrderId, Quantity, Reason, UserId, rfc3339};
use crate::core::ports::ledger::{LedgerError, OrderRecord, OrderState};

const WAIT_MAX_S: u64 = 30;
/// When a client that got no place to wait is to ask again.
const ASK_AGAIN_S: u64 = 2;
/// Hints can be lost, so a waiting buyer's order is looked at this often anyway.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long an order is followed at most; who still wants to know asks again.
const FOLLOW_MAX: Duration = Duration::from_secs(300);
/// With n streams open, each looks n times this later: together they read the store at most
/// 1,000 times a second, the looks at a decision apart.
const LOOK_LATER: Duration = Duration::from_millis(1);
/// The id of an order's last event. A client that names it asks again after the end.
const END: &str = "end";

/// An order as buyers see it: `queued`, `sold`, `rejected` with a reason, `expired`,
/// `dead_lettered` (it could not be decided, and waits for the seller to send it again) or
/// `dropped` (the seller dropped it; it is never sold).
#[derive(Serialize, Default, JsonSchema)]
#[schemars(rename = "Order")]
pub(super) struct OrderJson<'a> {
    #[schemars(with = "OrderId")]
    order_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "UserId")]
    user_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ItemId")]
    item_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Quantity")]
    quantity: Option<u64>,
    #[schemars(extend("enum" = ["queued", "sold", "rejected", "expired", "dropped", "dead_lettered"]))]
    status: &'static str,
    /// Of a rejected order.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Reason")]
    reason: Option<Reason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    accepted_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    decided_at: Option<String>,
    #[serde(flatten)]
    line: Option<LineJson>,
}

/// Of a queued order.
#[derive(Debug, Clone, Copy, Serialize, Default, JsonSchema)]
struct LineJson {
    /// 1 is next; null where the queue cannot tell.
    place: Option<u64>,
    /// Null until it is known how fast the line moves.
    estimated_wait_s: Option<u64>,
}

/// What the ledger has of an order.
type Look = Result<Option<OrderRecord>, LedgerError>;
/// Looks that are shown to everybody who asks for the order within a second: on AWS, where each is
/// paid for, and where queued orders that the ledger does not know look like it too.
pub(super) type OrderLooks = Shared<OrderId, Look>;
/// Orders whose last look is kept: some 5 MB.
const LOOKS_MAX: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

pub(super) fn order_looks() -> OrderLooks {
    Shared::new(LOOKS_MAX, LOOK_EVERY, |_| true)
}

/// What is known of an order that somebody asked for.
struct Seen {
    id: OrderId,
    /// `None` where only the queue knows the order.
    record: Option<OrderRecord>,
    line: LineJson,
}

impl Seen {
    /// Whether there is no decision yet, and so something to wait for.
    fn is_open(&self) -> bool {
        self.record.as_ref().is_none_or(|record| record.state == OrderState::Queued)
    }

    fn shown(&self) -> OrderJson<'_> {
        let known = match &self.record {
            Some(record) => shown(record),
            None => OrderJson {
                order_id: self.id.to_string(),
                status: "queued",
                ..OrderJson::default()
            },
        };
        OrderJson { line: self.is_open().then_some(self.line), ..known }
    }

    fn event(&self) -> Bytes {
        let id = (!self.is_open()).then_some(END);
        event_stream::event("order", id, &json_bytes(&self.shown()))
    }
}

impl Server {
    /// With keys on, a caller without a good credential is answered 401 whatever the id, and one who
    /// may not see the order as if there were none.
    pub async fn order(
        &self,
        id: &str,
        head: &request::Parts,
        client: &Client,
    ) -> Result<Answer, Problem> {
        self.admit_to_orders(self.caller(head))?;
        let wait = wait(head.uri.query())?;
        let id = order_id(id)?;
        let mut session = self.session(head);
        if wait.is_zero() {
            let seen = self.see(id, &mut session, None).await?;
            return Ok(json(StatusCode::OK, &seen.shown()));
        }
        let Some(_place) = self.place_to_wait(head, client) else {
            let seen = self.see(id, &mut session, None).await?;
            let mut answer = json(StatusCode::OK, &seen.shown());
            if seen.is_open() {
                answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(ASK_AGAIN_S));
            }
            return Ok(answer);
        };
        // An answer nobody waits for any more is the one that is there.
        let gone = client.gone();
        let seen = self.wait_for_decision(id, session, wait, gone).await?;
        Ok(json(StatusCode::OK, &seen.shown()))
    }

    /// The order as an event each time that it changes, until it is decided, or the caller may no
    /// longer see it.
    pub async fn order_events(
        self: &Arc<Self>,
        id: &str,
        head: &request::Parts,
        client: &Client,
    ) -> Result<Answer, Problem> {
        self.admit_to_orders(self.caller(head))?;
        let mut session = self.session(head);
        let seen = self.see(order_id(id)?, &mut session, None).await?;
        if head.method == Method::HEAD {
            return Ok(event_stream::answer_to_head());
        }
        let heard = head.headers.get("last-event-id");
        if !seen.is_open() && heard.is_some_and(|heard| heard == END) {
            // An EventSource asks again after the end, unless it is told so.
            let mut over = Response::new(AnswerBody::whole(""));
            *over.status_mut() = StatusCode::NO_CONTENT;
            return Ok(over);
        }
        let Some((events, answer)) = self.event_stream(head, client) else {
            return Ok(event_stream::only(&seen.event()));
        };
        let server = self.clone();
        self.streams.spawn(async move {
            tokio::select! {
                biased;
                () = server.stop.cancelled() => {}
                () = events.closed() => {}
                () = tokio::time::sleep(FOLLOW_MAX) => {}
                () = server.follow(seen.id, session, &events) => {}
            }
        });
        Ok(answer)
    }

    async fn follow(&self, id: OrderId, mut session: Session, events: &EventStream) {
        let waiting = self.api.waiters.wait_for(id);
        let (mut told, mut told_at) = (Vec::new(), Instant::now());
        loop {
            let hint = waiting.hint();
            let mut open = true;
            match self.see(id, &mut session, waiting.hinted_at()).await {
                Ok(seen) => {
                    open = seen.is_open();
                    let now = json_bytes(&seen.shown());
                    if now != told {
                        let mut event = seen.event();
                        if told.is_empty() {
                            event = event_stream::with_retry(RETRY, &event);
                        }
                        if !events.send(event).await {
                            return;
                        }
                        (told, told_at) = (now, Instant::now());
                    }
                }
                // The key was withdrawn or the token has expired.
                Err(problem) if problem.status().is_client_error() => return,
                // The cause is in the log; the next look may do better.
                Err(_) => {}
            }
            if !open {
                return;
            }
            if told_at.elapsed() >= SILENCE_MAX {
                events.send(event_stream::beat()).await;
                told_at = Instant::now();
            }
            let pause = LOOK_EVERY + LOOK_LATER * self.streams.len() as u32;
            tokio::select! {
                () = hint => {}
                () = tokio::time::sleep(pause.min(SILENCE_MAX)) => {}
            }
        }
    }

    /// What there is to show of an order, to who may see it now; 404 when there is no such order.
    /// An order of somebody else costs the same look, and is answered the same. On AWS the look may
    /// have been somebody's within the last second, but not one from before `since`.
    async fn see(
        &self,
        id: OrderId,
        session: &mut Session,
        since: Option<Instant>,
    ) -> Result<Seen, Problem> {
        let record = match self.api.backend {
            "aws" => self.order_looks.get(&id, since, self.look(id)).await?,
            _ => self.look(id).await?,
        };
        let caller = session.caller(&self.api.access).await;
        self.admit_to_orders(caller)?;
        let there = match &record {
            Some(record) => self.sees_order_of(&record.order.user, caller),
            None => self.may_be_queued(id),
        };
        if !there {
            return Err(Problem::not_found("there is no such order"));
        }
        let seen = Seen { id, record, line: LineJson::default() };
        Ok(if seen.is_open() { self.in_line(seen).await } else { seen })
    }

    async fn look(&self, id: OrderId) -> Look {
        Ok(self.api.ports.ledger.find(&[id]).await?.pop().flatten())
    }

    /// Where it stands. That need not be known, so a queue that does not say is no fault.
    async fn in_line(&self, seen: Seen) -> Seen {
        let Some(record) = &seen.record else { return seen };
        let line = match self.api.ports.queue.line(seen.id).await {
            Ok(Some(line)) => line,
            Ok(None) => return seen,
            Err(e) => {
                tracing::debug!("no place in line: {e}");
                return seen;
            }
        };
        let estimated_wait_s = self.paces.wait_s(&record.order.item, line, Instant::now());
        let line = LineJson { place: Some(line.ahead + 1), estimated_wait_s };
        Seen { line, ..seen }
    }

    /// What there is to show once the order is decided, or the time is over, or the client has gone,
    /// or the server stops.
    async fn wait_for_decision(
        &self,
        id: OrderId,
        mut session: Session,
        wait: Duration,
        gone: impl Future<Output = ()>,
    ) -> Result<Seen, Problem> {
        let mut gone = std::pin::pin!(gone);
        let deadline = Instant::now() + wait;
        let waiting = self.api.waiters.wait_for(id);
        loop {
            let hint = waiting.hint();
            let seen = self.see(id, &mut session, waiting.hinted_at()).await?;
            let now = Instant::now();
            if !seen.is_open() || now >= deadline || self.stop.is_cancelled() {
                return Ok(seen);
            }
            tokio::select! {
                () = hint => {}
                () = &mut gone => return Ok(seen),
                () = tokio::time::sleep_until(deadline.min(now + LOOK_EVERY)) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    /// Whether an order that the ledger does not know may still be in the queue: only where the
    /// two share no store, and only under a name that flux made.
    fn may_be_queued(&self, id: OrderId) -> bool {
        self.api.backend == "aws" && self.api.ports.names.verify(id)
    }
}

fn order_id(text: &str) -> Result<OrderId, Problem> {
    OrderId::parse(text).map_err(|e| Problem::not_found(e.0))
}

fn wait(query: Option<&str>) -> Result<Duration, Problem> {
    let Some(value) = query::value(query, "wait") else { return Ok(Duration::ZERO) };
    let seconds = value.and_then(|text| text.parse().ok());
    match seconds.filter(|seconds| *seconds <= WAIT_MAX_S) {
        Some(seconds) => Ok(Duration::from_secs(seconds)),
        None => Err(Problem::bad_request("wait must be a whole number of seconds, at most 30")),
    }
}

fn shown(record: &OrderRecord) -> OrderJson<'_> {
    let order = &record.order;
    let (status, reason, decided_at) = match record.state {
        OrderState::Queued => ("queued", None, None),
        OrderState::DeadLettered => ("dead_lettered", None, None),
        OrderState::Decided { decision, decided_at } => {
            (decision.status(), decision.reason(), Some(rfc3339(decided_at)))
        }
    };
    OrderJson {
        order_id: order.id.to_string(),
        user_id: Some(order.user.as_str()),
        item_id: Some(order.item.as_str()),
        quantity: Some(order.quantity.units()),
        status,
        reason,
        accepted_at: Some(rfc3339(order.accepted_at)),
        decided_at,
        line: None,
    }
}
