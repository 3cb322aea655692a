//! `GET /orders/ID[?wait=SECONDS]` and `GET /orders/ID/events`.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::http::request;
use hyper::{Method, StatusCode};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::Instant;

use super::access;
use super::access::Session;
use super::client::Client;
use super::event_stream;
use super::event_stream::{EventStream, RETRY, SILENCE_MAX};
use super::problem::{Problem, json, json_bytes};
use super::query;
use super::response;
use super::response::Response;
use super::state::AppState;
use crate::core::model::{ItemId, OrderId, Quantity, Reason, UserId, rfc3339};
use crate::core::ports::ledger::{LedgerError, OrderRecord, OrderState};

const WAIT_MAX_S: u64 = 30;
/// When a client that got no place to wait is to ask again.
const ASK_AGAIN_S: u64 = 2;
/// Notifications can be lost, so a waiting buyer's order is looked at this often anyway.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// How long an order is followed at most; who still wants to know asks again.
const FOLLOW_MAX: Duration = Duration::from_secs(300);
/// With n streams open, each looks n times this later: together they read the store at most
/// 1,000 times a second, the looks at a decision apart.
const POLL_DELAY_PER_STREAM: Duration = Duration::from_millis(1);
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

/// What is known of an order that somebody asked for.
struct ObservedOrder {
    id: OrderId,
    /// `None` where only the queue knows the order.
    record: Option<OrderRecord>,
    line: LineJson,
}

impl ObservedOrder {
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

/// With keys on, a caller without a good credential is answered 401 whatever the id, and one who
/// may not see the order as if there were none.
pub(super) async fn get(
    state: &AppState,
    id: &str,
    head: &request::Parts,
    client: &Client,
) -> Result<Response, Problem> {
    state.access.admit_to_orders(access::caller(head))?;
    let wait = wait(head.uri.query())?;
    let id = order_id(id)?;
    let mut session = Session::of(head);
    if wait.is_zero() {
        let observed = observe(state, id, &mut session, None).await?;
        return Ok(json(StatusCode::OK, &observed.shown()));
    }
    let Some(_place) = state.place_to_wait(head, client) else {
        let observed = observe(state, id, &mut session, None).await?;
        let mut response = json(StatusCode::OK, &observed.shown());
        if observed.is_open() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(ASK_AGAIN_S));
        }
        return Ok(response);
    };
    // An answer nobody waits for any more is the one that is there.
    let gone = client.gone();
    let observed = wait_for_decision(state, id, session, wait, gone).await?;
    Ok(json(StatusCode::OK, &observed.shown()))
}

/// The order as an event each time that it changes, until it is decided, or the caller may no
/// longer see it.
pub(super) async fn events(
    state: &Arc<AppState>,
    id: &str,
    head: &request::Parts,
    client: &Client,
) -> Result<Response, Problem> {
    state.access.admit_to_orders(access::caller(head))?;
    let mut session = Session::of(head);
    let observed = observe(state, order_id(id)?, &mut session, None).await?;
    if head.method == Method::HEAD {
        return Ok(event_stream::head_only());
    }
    let heard = head.headers.get("last-event-id");
    if !observed.is_open() && heard.is_some_and(|heard| heard == END) {
        // An EventSource asks again after the end, unless it is told so.
        return Ok(response::empty(StatusCode::NO_CONTENT));
    }
    let Some(place) = state.place_to_wait(head, client) else {
        return Ok(event_stream::only(&observed.event()));
    };
    let (events, response) = EventStream::open(place, client);
    let owned = state.clone();
    state.streams.spawn(async move {
        tokio::select! {
            biased;
            () = owned.stop.cancelled() => {}
            () = events.closed() => {}
            () = tokio::time::sleep(FOLLOW_MAX) => {}
            () = follow(&owned, observed.id, session, &events) => {}
        }
    });
    Ok(response)
}

async fn follow(state: &AppState, id: OrderId, mut session: Session, events: &EventStream) {
    let waiting = state.api.subscribers.subscribe(id);
    let mut sent = Vec::new();
    let mut sent_at = Instant::now();
    loop {
        let notification = waiting.notification();
        let mut open = true;
        match observe(state, id, &mut session, waiting.notified_at()).await {
            Ok(observed) => {
                open = observed.is_open();
                let now = json_bytes(&observed.shown());
                if now != sent {
                    let mut event = observed.event();
                    if sent.is_empty() {
                        event = event_stream::with_retry(RETRY, &event);
                    }
                    if !events.send(event).await {
                        return;
                    }
                    sent = now;
                    sent_at = Instant::now();
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
        if sent_at.elapsed() >= SILENCE_MAX {
            events.send(event_stream::keep_alive()).await;
            sent_at = Instant::now();
        }
        let pause = POLL_EVERY + POLL_DELAY_PER_STREAM * state.streams.len() as u32;
        tokio::select! {
            () = notification => {}
            () = tokio::time::sleep(pause.min(SILENCE_MAX)) => {}
        }
    }
}

/// What there is to show of an order, to who may see it now; 404 when there is no such order.
/// An order of somebody else costs the same look, and is answered the same. On AWS the look may
/// have been somebody's within the last second, but not one from before `since`.
async fn observe(
    state: &AppState,
    id: OrderId,
    session: &mut Session,
    since: Option<Instant>,
) -> Result<ObservedOrder, Problem> {
    let record = match state.api.backend {
        "aws" => state.order_reads.get(&id, since, read_order(state, id)).await?,
        _ => read_order(state, id).await?,
    };
    let caller = state.access.current_caller(session).await;
    state.access.admit_to_orders(caller)?;
    let there = match &record {
        Some(record) => state.access.sees_order_of(&record.order.user, caller),
        None => may_be_queued(state, id),
    };
    if !there {
        return Err(Problem::not_found("there is no such order"));
    }
    let observed = ObservedOrder { id, record, line: LineJson::default() };
    Ok(if observed.is_open() { in_line(state, observed).await } else { observed })
}

async fn read_order(state: &AppState, id: OrderId) -> Result<Option<OrderRecord>, LedgerError> {
    Ok(state.api.ports.ledger.find(&[id]).await?.pop().flatten())
}

/// Where it stands. That need not be known, so a queue that does not say is no fault.
async fn in_line(state: &AppState, observed: ObservedOrder) -> ObservedOrder {
    let Some(record) = &observed.record else { return observed };
    let line = match state.api.ports.queue.position(observed.id).await {
        Ok(Some(line)) => line,
        Ok(None) => return observed,
        Err(e) => {
            tracing::debug!("no place in line: {e}");
            return observed;
        }
    };
    let estimated_wait_s = state.wait_estimator.wait_s(&record.order.item, line, Instant::now());
    let line = LineJson { place: Some(line.ahead + 1), estimated_wait_s };
    ObservedOrder { line, ..observed }
}

/// What there is to show once the order is decided, or the time is over, or the client has gone,
/// or the server stops.
async fn wait_for_decision(
    state: &AppState,
    id: OrderId,
    mut session: Session,
    wait: Duration,
    gone: impl Future<Output = ()>,
) -> Result<ObservedOrder, Problem> {
    let mut gone = std::pin::pin!(gone);
    let deadline = Instant::now() + wait;
    let waiting = state.api.subscribers.subscribe(id);
    loop {
        let notification = waiting.notification();
        let observed = observe(state, id, &mut session, waiting.notified_at()).await?;
        let now = Instant::now();
        if !observed.is_open() || now >= deadline || state.stop.is_cancelled() {
            return Ok(observed);
        }
        tokio::select! {
            () = notification => {}
            () = &mut gone => return Ok(observed),
            () = tokio::time::sleep_until(deadline.min(now + POLL_EVERY)) => {}
            () = state.stop.cancelled() => {}
        }
    }
}

/// Whether an order that the ledger does not know may still be in the queue: only where the
/// two share no store, and only under a name that flux made.
fn may_be_queued(state: &AppState, id: OrderId) -> bool {
    state.api.backend == "aws" && state.api.ports.order_ids.verify(id)
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
