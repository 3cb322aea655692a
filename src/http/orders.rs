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
/// `Retry-After` for a client without a permit to wait.
const RETRY_AFTER_S: u64 = 2;
/// Notifications can be lost, so a wait also polls the store.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// Maximum duration of an event stream; the client can reconnect.
const FOLLOW_MAX: Duration = Duration::from_secs(300);
/// The poll interval grows by this much per open stream, so that all streams together poll the store
/// at most 1,000 times a second; reads after a notification are not counted.
const POLL_DELAY_PER_STREAM: Duration = Duration::from_millis(1);
/// The id of an order's last event. A client that sends it reconnects after the end.
const END: &str = "end";

/// An order. `status` is `queued`, `sold`, `rejected` with a reason, `expired` (older than decisions
/// are kept), `dead_lettered` (it could not be decided, and the seller can send it again) or
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
    /// Why the order was rejected.
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
    position: Option<PositionJson>,
}

/// The queue position of a queued order.
#[derive(Debug, Clone, Copy, Serialize, Default, JsonSchema)]
struct PositionJson {
    /// Place in the queue of the item; 1 is next. Null where the queue does not report it.
    place: Option<u64>,
    /// Null while the rate of decisions is unknown.
    estimated_wait_s: Option<u64>,
}

/// An order as last read.
struct ObservedOrder {
    id: OrderId,
    /// `None` if the order is only in the queue.
    record: Option<OrderRecord>,
    position: PositionJson,
}

impl ObservedOrder {
    /// Whether the order is still undecided, so that waiting for it makes sense.
    fn is_undecided(&self) -> bool {
        self.record.as_ref().is_none_or(|record| record.state == OrderState::Queued)
    }

    fn json(&self) -> OrderJson<'_> {
        let order = match &self.record {
            Some(record) => order_json(record),
            None => OrderJson {
                order_id: self.id.to_string(),
                status: "queued",
                ..OrderJson::default()
            },
        };
        OrderJson { position: self.is_undecided().then_some(self.position), ..order }
    }

    fn event(&self) -> Bytes {
        let id = (!self.is_undecided()).then_some(END);
        event_stream::event("order", id, &json_bytes(&self.json()))
    }
}

/// If keys are required, a caller without a valid credential gets 401 for every id, and a caller who
/// may not see the order gets the same 404 as for an order that does not exist.
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
        return Ok(json(StatusCode::OK, &observed.json()));
    }
    let Some(_permit) = state.wait_permit(head, client) else {
        let observed = observe(state, id, &mut session, None).await?;
        let mut response = json(StatusCode::OK, &observed.json());
        if observed.is_undecided() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
        }
        return Ok(response);
    };
    let observed = wait_for_decision(state, id, session, wait, client.gone()).await?;
    Ok(json(StatusCode::OK, &observed.json()))
}

/// Sends the order as an event at each change, until it is decided or the caller may no longer see
/// it.
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
    let last_event_id = head.headers.get("last-event-id");
    if !observed.is_undecided() && last_event_id.is_some_and(|id| id == END) {
        // An EventSource reconnects after the end of a stream, until it gets a 204.
        return Ok(response::empty(StatusCode::NO_CONTENT));
    }
    let Some(permit) = state.wait_permit(head, client) else {
        return Ok(event_stream::single(&observed.event()));
    };
    let (events, response) = EventStream::open(permit, client);
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

/// Sends events until the order is decided, or the client is gone.
///
/// `notification()` is created before the read: it resolves for every notification after that, so a
/// decision between the read and the wait is not missed. A notification that is lost is made up for
/// by the next poll.
async fn follow(state: &AppState, id: OrderId, mut session: Session, events: &EventStream) {
    let subscription = state.api.subscribers.subscribe(id);
    let mut sent = Vec::new();
    let mut sent_at = Instant::now();
    loop {
        let notification = subscription.notification();
        let mut is_undecided = true;
        match observe(state, id, &mut session, subscription.notified_at()).await {
            Ok(observed) => {
                is_undecided = observed.is_undecided();
                let now = json_bytes(&observed.json());
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
            // Already logged; the next read may succeed.
            Err(_) => {}
        }
        if !is_undecided {
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

/// Reads an order for a caller who may see it; otherwise 404. The order of another user is read and
/// answered like one that does not exist, so neither the response nor its time reveals it. On AWS
/// the read may be a cached one of the last second, but not one from before `since`.
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
    let is_visible = match &record {
        Some(record) => state.access.can_see_order_of(&record.order.user, caller),
        None => may_be_queued(state, id),
    };
    if !is_visible {
        return Err(Problem::not_found("order not found"));
    }
    let observed = ObservedOrder { id, record, position: PositionJson::default() };
    Ok(if observed.is_undecided() { with_position(state, observed).await } else { observed })
}

async fn read_order(state: &AppState, id: OrderId) -> Result<Option<OrderRecord>, LedgerError> {
    Ok(state.api.ports.ledger.find(&[id]).await?.pop().flatten())
}

/// Adds the queue position. It is optional, so a failed read leaves it out.
async fn with_position(state: &AppState, observed: ObservedOrder) -> ObservedOrder {
    let Some(record) = &observed.record else { return observed };
    let position = match state.api.ports.queue.position(observed.id).await {
        Ok(Some(position)) => position,
        Ok(None) => return observed,
        Err(e) => {
            tracing::debug!("queue position unavailable: {e}");
            return observed;
        }
    };
    let item = &record.order.item;
    let estimated_wait_s = state.wait_estimator.wait_s(item, position, Instant::now());
    let position = PositionJson { place: Some(position.ahead + 1), estimated_wait_s };
    ObservedOrder { position, ..observed }
}

/// The order once it is decided, the time is over, the client is gone, or the server stops. See
/// [`follow`] for why the notification is created before the read.
async fn wait_for_decision(
    state: &AppState,
    id: OrderId,
    mut session: Session,
    wait: Duration,
    gone: impl Future<Output = ()>,
) -> Result<ObservedOrder, Problem> {
    let mut gone = std::pin::pin!(gone);
    let deadline = Instant::now() + wait;
    let subscription = state.api.subscribers.subscribe(id);
    loop {
        let notification = subscription.notification();
        let observed = observe(state, id, &mut session, subscription.notified_at()).await?;
        let now = Instant::now();
        if !observed.is_undecided() || now >= deadline || state.stop.is_cancelled() {
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

/// Whether an order that is not in the ledger may be in the queue: only on AWS, where they are
/// separate stores, and only if flux generated the id.
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

fn order_json(record: &OrderRecord) -> OrderJson<'_> {
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
        position: None,
    }
}
