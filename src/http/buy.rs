//! `POST /buy`: the hot path.

use std::borrow::Cow;
use std::fmt;
use std::io::Write;
use std::net::IpAddr;

use hyper::StatusCode;
use hyper::header;
use hyper::http::request;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use tokio::time::Instant;

use super::access::Access;
use super::body;
use super::body::RequestBody;
use super::openapi::schemas::NewUserId;
use super::problem::{Problem, json_text};
use super::response::Response;
use super::state::AppState;
use super::trace;
use crate::core::engine::intake::{OrderRequest, Refused};
use crate::core::model::TraceContext;
use crate::core::model::{IdempotencyKey, ItemId, Order, Quantity, UserId};

const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Hex digits of an order id.
const ORDER_ID_LENGTH: usize = 32;

pub(super) async fn buy(
    state: &AppState,
    head: &request::Parts,
    peer: IpAddr,
    body: &mut RequestBody,
) -> Result<Response, Problem> {
    let metrics = &state.api.ports.metrics;
    let begun = Instant::now();
    let (carried, mut span) = state.api.ports.tracer.request("POST /buy", trace::of(head));
    let bought = accept(state, head, peer, body, carried).await;
    trace::set_outcome(&mut span, &bought);
    match bought {
        Ok(order) => {
            metrics.accepted.add(1);
            metrics.ack.record_time(begun.elapsed());
            let order_id = order.id;
            let item_id = &order.item;
            tracing::debug!(%order_id, %item_id, trace_id = order.trace_id(), "accepted");
            Ok(accepted(&state.access, &order))
        }
        Err(problem) => {
            metrics.refused[usize::from(problem.status().is_server_error())].add(1);
            Err(problem)
        }
    }
}

async fn accept(
    state: &AppState,
    head: &request::Parts,
    peer: IpAddr,
    body: &mut RequestBody,
    trace: Option<Box<TraceContext>>,
) -> Result<Order, Problem> {
    state.access.admit_site(head, peer)?;
    state.access.admit_buyer(head, peer)?;
    body::expect_json(head, &state.access)?;
    let key = idempotency_key(head)?;
    let bytes = body.read().await?;
    let buy: BuyRequest = serde_json::from_slice(&bytes)
        .map_err(|e| Problem::bad_request(format!("the body is not an order: {e}")))?;
    let request = OrderRequest {
        user: UserId::parse_new(&buy.user_id)?,
        item: ItemId::parse(&buy.item_id)?,
        quantity: Quantity::new(buy.quantity)?,
        key,
        trace,
    };
    state.access.admit_buyer_for(&request.user, head)?;
    state.item_cache.admit(&request.item, state.sells_unlisted()).await?;
    state.api.intake.accept(request).await.map_err(Problem::from)
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let detail = refused.to_string();
        match refused {
            Refused::Overloaded(_) => Problem::unavailable(detail),
            Refused::Unconfirmed { order, .. } => Problem::unavailable(detail).with_order(order),
            Refused::KeyReused => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail),
        }
    }
}

/// The 202. Written by hand because it is on the hot path.
fn accepted(access: &Access, order: &Order) -> Response {
    let location = access.location(format_args!("/orders/{}", order.id));
    let mut text = Vec::with_capacity(256);
    let written = (|| {
        let id = &location.as_bytes()[location.len() - ORDER_ID_LENGTH..];
        text.extend_from_slice(br#"{"message":"Order received","order_id":""#);
        text.extend_from_slice(id);
        text.extend_from_slice(br#"","status":"queued","order":{"user_id":"#);
        serde_json::to_writer(&mut text, order.user.as_str())?;
        let item = &order.item;
        let units = order.quantity.units();
        writeln!(text, r#","item_id":"{item}","quantity":{units}}}}}"#)
    })();
    written.expect("writing to memory does not fail");
    let mut response = json_text(StatusCode::ACCEPTED, text);
    response.headers_mut().insert(header::LOCATION, location);
    response
}

fn idempotency_key(head: &request::Parts) -> Result<Option<IdempotencyKey>, Problem> {
    let mut keys = head.headers.get_all(IDEMPOTENCY_KEY).iter();
    match (keys.next(), keys.next()) {
        (None, _) => Ok(None),
        (Some(key), None) => Ok(Some(IdempotencyKey::parse(key.as_bytes())?)),
        (Some(_), Some(_)) => Err(Problem::bad_request("send at most one Idempotency-Key header")),
    }
}

/// The body of `/buy`. A known key must not be repeated. Unknown keys are ignored if their values
/// are JSON and nested no deeper than serde_json's limit of 128.
#[derive(schemars::JsonSchema)]
#[schemars(rename = "OrderRequest")]
pub(super) struct BuyRequest<'a> {
    #[schemars(with = "NewUserId")]
    user_id: Cow<'a, str>,
    #[schemars(with = "ItemId")]
    item_id: Cow<'a, str>,
    #[schemars(with = "Quantity", default = "one")]
    quantity: u64,
}

impl<'de> Deserialize<'de> for BuyRequest<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(BuyRequestVisitor)
    }
}

fn one() -> Quantity {
    Quantity::ONE
}

struct BuyRequestVisitor;

impl<'de> Visitor<'de> for BuyRequestVisitor {
    type Value = BuyRequest<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with user_id and item_id")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut user_id = None;
        let mut item_id = None;
        let mut quantity = None;
        while let Some(key) = map.next_key::<JsonText>()? {
            match &*key.0 {
                "user_id" => once(&mut user_id, "user_id", text(&mut map, "user_id"))?,
                "item_id" => once(&mut item_id, "item_id", text(&mut map, "item_id"))?,
                "quantity" => {
                    let what = "quantity must be a whole number from 1 to 100";
                    let units = map.next_value().map_err(|_| de::Error::custom(what));
                    once(&mut quantity, "quantity", units)?;
                }
                _ => {
                    map.next_value::<Ignored>()?;
                }
            }
        }
        Ok(BuyRequest {
            user_id: user_id.ok_or_else(|| de::Error::missing_field("user_id"))?,
            item_id: item_id.ok_or_else(|| de::Error::missing_field("item_id"))?,
            quantity: quantity.unwrap_or(1),
        })
    }
}

fn text<'de, A: MapAccess<'de>>(map: &mut A, key: &str) -> Result<Cow<'de, str>, A::Error> {
    let text = map.next_value::<JsonText>().map(|text| text.0);
    text.map_err(|_| de::Error::custom(format_args!("{key} must be a string of UTF-8")))
}

fn once<T, E: de::Error>(
    slot: &mut Option<T>,
    key: &'static str,
    value: Result<T, E>,
) -> Result<(), E> {
    match slot.replace(value?) {
        None => Ok(()),
        Some(_) => Err(E::duplicate_field(key)),
    }
}

/// A string, borrowed if it has no escapes.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct JsonText<'a>(#[serde(borrow)] Cow<'a, str>);

/// Any JSON within serde_json's depth limit; `IgnoredAny` has no such limit.
struct Ignored;

impl<'de> Deserialize<'de> for Ignored {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Ignored)
    }
}

impl<'de> Visitor<'de> for Ignored {
    type Value = Ignored;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Ignored, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Ignored, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Ignored, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Ignored, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Ignored, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Ignored, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Ignored, A::Error> {
        while seq.next_element::<Ignored>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ignored, A::Error> {
        while map.next_entry::<Ignored, Ignored>()?.is_some() {}
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::core::model::OrderId;

    #[tokio::test]
    async fn unconfirmed_send_is_a_503_with_the_order_id() {
        let order = OrderId::from_bytes([7; 16]);
        let unconfirmed = Refused::Unconfirmed { order, cause: "no answer".to_owned() };
        let response = Problem::from(unconfirmed).into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(problem["order_id"], order.to_string());
    }
}
