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

use super::body::RequestBody;
use super::openapi::NewUserId;
use super::problem::{Problem, json_text};
use super::response::Answer;
use super::server::Server;
use super::trace;
use crate::core::engine::intake::{Refused, Request};
use crate::core::model::TraceContext;
use crate::core::model::{IdempotencyKey, ItemId, Order, Quantity, UserId};

const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Hex digits of an order's id.
const ORDER_ID_LENGTH: usize = 32;

impl Server {
    pub async fn buy(
        &self,
        head: &request::Parts,
        peer: IpAddr,
        body: &mut RequestBody,
    ) -> Result<Answer, Problem> {
        let (meters, begun) = (&self.api.ports.meters, Instant::now());
        let (carried, mut span) = self.api.ports.tracer.request("POST /buy", trace::of(head));
        let bought = self.accept(head, peer, body, carried).await;
        trace::set_outcome(&mut span, &bought);
        match bought {
            Ok(order) => {
                meters.accepted.add(1);
                meters.ack.record_time(begun.elapsed());
                let (order_id, item_id) = (order.id, &order.item);
                tracing::debug!(%order_id, %item_id, trace_id = order.trace_id(), "accepted");
                Ok(self.accepted(&order))
            }
            Err(problem) => {
                meters.refused[usize::from(problem.status().is_server_error())].add(1);
                Err(problem)
            }
        }
    }

    async fn accept(
        &self,
        head: &request::Parts,
        peer: IpAddr,
        body: &mut RequestBody,
        trace: Option<Box<TraceContext>>,
    ) -> Result<Order, Problem> {
        self.admit_site(head, peer)?;
        self.admit_buyer(head, peer)?;
        self.expect_json(head)?;
        let key = idempotency_key(head)?;
        let bytes = body.read().await?;
        let wish: Wish = serde_json::from_slice(&bytes)
            .map_err(|e| Problem::bad_request(format!("the body is not an order: {e}")))?;
        let request = Request {
            user: UserId::parse_new(&wish.user_id)?,
            item: ItemId::parse(&wish.item_id)?,
            quantity: Quantity::new(wish.quantity)?,
            key,
            trace,
        };
        self.admit_buyer_for(&request.user, head)?;
        self.known.admit(&request.item, self.sells_unlisted()).await?;
        self.api.intake.accept(request).await.map_err(Problem::from)
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let detail = refused.to_string();
        match refused {
            Refused::Overloaded(_) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail),
            Refused::Unconfirmed { order, .. } => {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).with_order(order)
            }
            Refused::KeyReused => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail),
        }
    }
}

impl Server {
    /// The 202: written by hand, because a struct would be no shorter and this runs for every order.
    fn accepted(&self, order: &Order) -> Answer {
        let location = self.location(format_args!("/orders/{}", order.id));
        let mut text = Vec::with_capacity(256);
        let written = (|| {
            let id = &location.as_bytes()[location.len() - ORDER_ID_LENGTH..];
            text.extend_from_slice(br#"{"message":"Order received","order_id":""#);
            text.extend_from_slice(id);
            text.extend_from_slice(br#"","status":"queued","order":{"user_id":"#);
            serde_json::to_writer(&mut text, order.user.as_str())?;
            let (item, units) = (&order.item, order.quantity.units());
            writeln!(text, r#","item_id":"{item}","quantity":{units}}}}}"#)
        })();
        written.expect("writing to memory does not fail");
        let mut answer = json_text(StatusCode::ACCEPTED, text);
        answer.headers_mut().insert(header::LOCATION, location);
        answer
    }
}

fn idempotency_key(head: &request::Parts) -> Result<Option<IdempotencyKey>, Problem> {
    let mut keys = head.headers.get_all(IDEMPOTENCY_KEY).iter();
    match (keys.next(), keys.next()) {
        (None, _) => Ok(None),
        (Some(key), None) => Ok(Some(IdempotencyKey::parse(key.as_bytes())?)),
        (Some(_), Some(_)) => Err(Problem::bad_request("send one Idempotency-Key, not several")),
    }
}

/// The body of `/buy`. A key of ours must not come twice; other keys are ignored, whatever they
/// hold, as long as it is JSON and not nested deeper than serde_json's limit of 128.
#[derive(schemars::JsonSchema)]
#[schemars(rename = "OrderRequest")]
pub(super) struct Wish<'a> {
    #[schemars(with = "NewUserId")]
    user_id: Cow<'a, str>,
    #[schemars(with = "ItemId")]
    item_id: Cow<'a, str>,
    #[schemars(with = "Quantity", default = "one")]
    quantity: u64,
}

impl<'de> Deserialize<'de> for Wish<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(WishVisitor)
    }
}

fn one() -> Quantity {
    Quantity::ONE
}

struct WishVisitor;

impl<'de> Visitor<'de> for WishVisitor {
    type Value = Wish<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with user_id and item_id")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut user_id, mut item_id, mut quantity) = (None, None, None);
        while let Some(key) = map.next_key::<Text>()? {
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
        Ok(Wish {
            user_id: user_id.ok_or_else(|| de::Error::missing_field("user_id"))?,
            item_id: item_id.ok_or_else(|| de::Error::missing_field("item_id"))?,
            quantity: quantity.unwrap_or(1),
        })
    }
}

fn text<'de, A: MapAccess<'de>>(map: &mut A, key: &str) -> Result<Cow<'de, str>, A::Error> {
    let text = map.next_value::<Text>().map(|text| text.0);
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

/// A string, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Any JSON, within the depth that serde_json allows; `IgnoredAny` has no such limit.
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
    async fn a_503_after_a_send_was_tried_names_the_order() {
        let order = OrderId::from_bytes([7; 16]);
        let unconfirmed = Refused::Unconfirmed { order, cause: "no answer".to_owned() };
        let answer = Problem::from(unconfirmed).into_answer();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()[header::RETRY_AFTER], "1");
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(problem["order_id"], order.to_string());
    }
}
