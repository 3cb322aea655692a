//! The queue's message: one order as a JSON object with at least `user_id` and `item_id`, or many
//! as an array of such objects.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::core::model::{
    InvalidId, ItemId, Order, OrderId, OrderIds, Quantity, Timestamp, TraceContext, UserId,
};
use crate::core::ports::dead_letters::DeadLetter;

/// The most orders in one message.
pub const MAX_ORDERS: usize = 99;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long before its message another producer may have accepted an order. An older time is a
/// mistake, such as seconds instead of milliseconds.
const BEFORE_MAX: Duration = DAY.saturating_mul(366);
/// How long after its message, because the producer's clock may be ahead.
const AFTER_MAX: Duration = DAY;

/// 2^53: up to here a float represents each whole number exactly.
const EXACT_FLOAT: f64 = 9_007_199_254_740_992.0;

#[derive(Serialize, Deserialize)]
struct OrderJson<'a> {
    #[serde(borrow, deserialize_with = "text_or_number")]
    user_id: Cow<'a, str>,
    #[serde(borrow, deserialize_with = "text_or_number")]
    item_id: Cow<'a, str>,
    #[serde(default = "one")]
    quantity: WholeNumber,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    order_id: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    accepted_at: Option<WholeNumber>,
    #[serde(
        borrow,
        default,
        deserialize_with = "text_or_none",
        skip_serializing_if = "Option::is_none"
    )]
    traceparent: Option<Cow<'a, str>>,
    #[serde(
        borrow,
        default,
        deserialize_with = "text_or_none",
        skip_serializing_if = "Option::is_none"
    )]
    tracestate: Option<Cow<'a, str>>,
}

fn one() -> WholeNumber {
    WholeNumber(1)
}

/// A whole number. `1.0` is accepted, because some producers write all numbers that way.
#[derive(Clone, Copy, Serialize)]
#[serde(transparent)]
struct WholeNumber(u64);

impl<'de> Deserialize<'de> for WholeNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = WholeNumber;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number from 0")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<WholeNumber, E> {
                Ok(WholeNumber(number))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<WholeNumber, E> {
                if number.fract() == 0.0 && (0.0..=EXACT_FLOAT).contains(&number) {
                    return Ok(WholeNumber(number as u64));
                }
                Err(E::invalid_value(Unexpected::Float(number), &self))
            }
        }
        deserializer.deserialize_any(Number)
    }
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A string, or the text of a number: some producers have numeric ids.
fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cow<'de, str>, D::Error> {
    let raw = <&RawValue>::deserialize(deserializer)?.get();
    if raw.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        return Ok(raw.into());
    }
    let text = serde_json::from_str::<Text<'de>>(raw);
    text.map(|text| text.0).map_err(|_| D::Error::custom("user_id and item_id must be strings"))
}

/// A string; `None` for any other value, because an invalid trace must not cost the order.
fn text_or_none<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Cow<'de, str>>, D::Error> {
    let raw = <&RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str::<Text<'de>>(raw.get()).ok().map(|text| text.0))
}

impl<'a> From<&'a Order> for OrderJson<'a> {
    fn from(order: &'a Order) -> Self {
        OrderJson {
            user_id: order.user.as_str().into(),
            item_id: order.item.as_str().into(),
            quantity: WholeNumber(order.quantity.units()),
            order_id: Some(order.id.to_string().into()),
            accepted_at: Some(WholeNumber(order.accepted_at.0)),
            traceparent: order.trace.as_ref().map(|trace| trace.to_string().into()),
            tracestate: order.trace.as_ref().and_then(|trace| trace.state()).map(Cow::from),
        }
    }
}

impl OrderJson<'_> {
    fn trace(&self) -> Option<Box<TraceContext>> {
        let parent = self.traceparent.as_ref()?.as_bytes();
        TraceContext::parse(parent, self.tracestate.as_deref()).map(Box::new)
    }
}

/// Encodes orders as a message: an object for one order, an array for more.
pub fn encode(orders: &[Order]) -> String {
    let text = match orders {
        [order] => serde_json::to_string(&OrderJson::from(order)),
        orders => serde_json::to_string(&orders.iter().map(OrderJson::from).collect::<Vec<_>>()),
    };
    text.expect("strings and numbers always have a JSON form")
}

/// The origin of a message: its id and time stand in for an order id and a time of acceptance that
/// an entry leaves out.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    pub message_id: &'a str,
    pub sent_at: Timestamp,
}

/// Reads a message. A leading byte order mark is skipped. An entry that is not an order becomes a
/// dead letter; the other entries are still read. The same message always gives the same result.
pub fn decode(body: &str, origin: Origin<'_>, ids: &OrderIds) -> (Vec<Order>, Vec<DeadLetter>) {
    let body = body.strip_prefix('\u{feff}').unwrap_or(body);
    let entries = match serde_json::from_str::<Vec<&RawValue>>(body) {
        Ok(entries) => entries.into_iter().map(RawValue::get).collect(),
        Err(_) => vec![body],
    };
    let mut orders = Vec::with_capacity(entries.len());
    let mut letters = Vec::new();
    for (index, text) in entries.into_iter().enumerate() {
        match decode_one(text, index, origin, ids) {
            Ok(order) => orders.push(order),
            Err((order_id, reason)) => letters.push(DeadLetter {
                order_id,
                reason,
                body: text.to_owned(),
                at: origin.sent_at,
            }),
        }
    }
    (orders, letters)
}

fn decode_one(
    text: &str,
    index: usize,
    origin: Origin<'_>,
    ids: &OrderIds,
) -> Result<Order, (OrderId, String)> {
    let derived_id = ids.from_message(origin.message_id, index);
    // serde would also read an array of the fields' values.
    if !text.trim_start().starts_with('{') {
        return Err((derived_id, "not an order: not a JSON object".to_owned()));
    }
    let json: OrderJson<'_> =
        serde_json::from_str(text).map_err(|e| (derived_id, format!("not an order: {e}")))?;
    let id = match &json.order_id {
        None => derived_id,
        Some(text) => OrderId::parse(text)
            .ok()
            .filter(|id| ids.verify(*id))
            .ok_or((derived_id, "order_id was not created with this order_key".to_owned()))?,
    };
    let accepted_at = match (json.accepted_at, &json.order_id) {
        (None, _) => origin.sent_at,
        // flux accepted it and its buyer has a 202, so even an implausible time must be read.
        (Some(WholeNumber(at)), Some(_)) => Timestamp(at),
        (Some(WholeNumber(at)), None) => {
            plausible(Timestamp(at), origin.sent_at).map_err(|reason| (id, reason))?
        }
    };
    let checked = || {
        Ok(Order {
            id,
            user: UserId::parse(&json.user_id)?,
            item: ItemId::parse(&json.item_id)?,
            quantity: Quantity::new(json.quantity.0)?,
            accepted_at,
            trace: json.trace(),
        })
    };
    checked().map_err(|e: InvalidId| (id, e.to_string()))
}

/// Checks a time of acceptance against the time of its message. A time far in the past would expire
/// the order at once; one far in the future would sort it behind all others.
fn plausible(at: Timestamp, sent_at: Timestamp) -> Result<Timestamp, String> {
    if sent_at.since(at) <= BEFORE_MAX && at.since(sent_at) <= AFTER_MAX {
        return Ok(at);
    }
    Err(format!(
        "accepted_at {} is not plausible: give milliseconds since 1970, or leave it out",
        at.0
    ))
}

/// Reads the text of a dead letter, or its replacement, as an order that arrives now under the
/// letter's id. The error is the reason why it is not an order.
pub fn repair(text: &str, id: OrderId, now: Timestamp, ids: &OrderIds) -> Result<Order, String> {
    let (mut orders, letters) = decode(text, Origin { message_id: "", sent_at: now }, ids);
    match (orders.pop(), letters.into_iter().next()) {
        (_, Some(letter)) => Err(letter.reason),
        (Some(order), None) if orders.is_empty() => Ok(Order { id, accepted_at: now, ..order }),
        _ => Err("not an order: must be one JSON object".to_owned()),
    }
}

/// The order in a dead letter, under the letter's id; `None` if the letter's text is not an order.
pub fn order_in(letter: &DeadLetter, ids: &OrderIds) -> Option<Order> {
    let (mut orders, letters) =
        decode(&letter.body, Origin { message_id: "", sent_at: letter.at }, ids);
    let order = orders.pop().filter(|_| orders.is_empty() && letters.is_empty())?;
    Some(Order { id: letter.order_id, ..order })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::OrderKey;

    const ORIGIN: Origin<'_> = Origin { message_id: "m-1", sent_at: Timestamp(77) };

    fn ids() -> OrderIds {
        OrderIds::new(OrderKey::from_text("k"), 1)
    }

    fn order(ids: &OrderIds, user: &str) -> Order {
        Order {
            id: ids.generate(Timestamp(5)),
            user: UserId::parse(user).unwrap(),
            item: ItemId::parse("ticket_001").unwrap(),
            quantity: Quantity::new(3).unwrap(),
            accepted_at: Timestamp(5),
            trace: None,
        }
    }

    #[test]
    fn decode_reads_what_encode_wrote() {
        let ids = ids();
        let one = vec![order(&ids, "Zoë \"the\" \\ first")];
        assert!(encode(&one).starts_with("{\"user_id\":"));
        assert_eq!(decode(&encode(&one), ORIGIN, &ids), (one, vec![]));
        let many = vec![order(&ids, "ann"), order(&ids, "bob")];
        assert_eq!(decode(&encode(&many), ORIGIN, &ids), (many, vec![]));
    }

    #[test]
    fn unreadable_trace_does_not_cost_its_order() {
        let ids = ids();
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let traced = |state| TraceContext::parse(parent.as_bytes(), state).map(Box::new);
        let mut orders = [None, Some("a=\"b\",c=d")]
            .map(|state| Order { trace: traced(state), ..order(&ids, "ann") });
        assert_eq!(decode(&encode(&orders), ORIGIN, &ids), (orders.to_vec(), vec![]));
        orders[0].trace = None;
        assert!(!encode(&orders[..1]).contains("trace"));
        for wrong in ["7", "null", "[{}]", "\"00-\"", "\"\\u0000\""] {
            let body = format!(
                r#"{{"user_id":"ann","item_id":"x","traceparent":{wrong},"tracestate":{wrong}}}"#
            );
            let (orders, letters) = decode(&body, ORIGIN, &ids);
            assert_eq!((orders[0].trace.as_ref(), letters.len()), (None, 0), "{wrong}");
        }
    }

    #[test]
    fn message_without_ids_gives_same_order_at_each_delivery() {
        let ids = ids();
        let read = || decode(r#"{"user_id":"ann","item_id":"x"}"#, ORIGIN, &ids).0.remove(0);
        assert_eq!(read(), read());
        assert_eq!((read().quantity, read().accepted_at), (Quantity::ONE, Timestamp(77)));
    }

    #[test]
    fn numeric_ids_and_float_numbers_are_read() {
        let read = |body: &str| {
            let (mut orders, letters) = decode(body, ORIGIN, &ids());
            assert_eq!(letters, [], "{body}");
            orders.remove(0)
        };
        let plain = read(r#"{"user_id":"7","item_id":"42","accepted_at":70}"#);
        for body in [
            r#"{"user_id":7,"item_id":42,"accepted_at":70,"quantity":1}"#,
            r#"{"user_id":7,"item_id":"42","accepted_at":70.0,"quantity":1.0}"#,
            "\u{feff}{\"user_id\":\"7\",\"item_id\":42,\"accepted_at\":7e1,\"quantity\":1e0}",
            "\u{feff}[{\"user_id\":\"7\",\"item_id\":42,\"accepted_at\":70}]",
        ] {
            assert_eq!(read(body), plain, "{body}");
            let repaired = repair(body, plain.id, ORIGIN.sent_at, &ids()).unwrap();
            assert_eq!((repaired.user, repaired.quantity), (plain.user.clone(), plain.quantity));
        }
        let long = read(r#"{"user_id":123456789012345678901234567890,"item_id":"x"}"#);
        assert_eq!(long.user.as_str(), "123456789012345678901234567890");
    }

    #[test]
    fn invalid_numbers_are_dead_letters() {
        for wrong in [
            r#""quantity":1.5"#,
            r#""quantity":-1"#,
            r#""quantity":"1""#,
            r#""quantity":1e99"#,
            r#""quantity":null"#,
            r#""accepted_at":-1"#,
            r#""accepted_at":"now""#,
            r#""user_id":true"#,
            r#""user_id":null"#,
            r#""user_id":["ann"]"#,
        ] {
            let user = if wrong.contains("user_id") { "" } else { r#""user_id":"ann","# };
            let body = format!(r#"{{{user}"item_id":"x",{wrong}}}"#);
            assert_eq!(decode(&body, ORIGIN, &ids()).1.len(), 1, "{wrong}");
            assert!(repair(&body, ids().generate(Timestamp(1)), ORIGIN.sent_at, &ids()).is_err());
        }
    }

    #[test]
    fn implausible_accepted_at_is_a_dead_letter() {
        let now = Timestamp(1_795_872_274_000);
        let day = DAY.as_millis() as u64;
        let ids = ids();
        let read = |at: u64, own: bool| {
            let id = if own { ids.generate(now).to_string() } else { String::new() };
            let id = if own { format!(r#","order_id":"{id}""#) } else { id };
            let body = format!(r#"{{"user_id":"ann","item_id":"x","accepted_at":{at}{id}}}"#);
            decode(&body, Origin { message_id: "m-1", sent_at: now }, &ids).1.pop()
        };
        // Seconds, microseconds, nothing, everything, a year and a half ago, the day after next.
        let wrong = [now.0 / 1_000, now.0 * 1_000, 0, u64::MAX, now.0 - 500 * day, now.0 + 2 * day];
        for at in wrong {
            let reason = read(at, false).unwrap().reason;
            assert!(reason.contains(&format!("accepted_at {at} is not plausible")), "{reason}");
        }
        for at in [now.0, now.0 - 60 * day, now.0 + day / 2] {
            assert_eq!(read(at, false), None, "{at}");
        }
        // flux accepted it while its clock was ahead.
        assert_eq!(read(now.0 + 31 * day, true), None);
    }

    #[test]
    fn invalid_entry_is_a_dead_letter_and_its_neighbours_are_read() {
        let body = r#"[{"user_id":"ann","item_id":"x"},{"user_id":"bob"},["ann","x"],
            {"user_id":"cid","item_id":"x","quantity":500},
            {"user_id":"dan","item_id":"x","order_id":"00000000000000000000000000000000"}]"#;
        let (orders, letters) = decode(body, ORIGIN, &ids());
        assert_eq!(orders.len(), 1);
        let reasons: Vec<_> = letters.iter().map(|l| l.reason.as_str()).collect();
        assert!(reasons[0].contains("item_id") && reasons[1].contains("not an order"));
        assert!(reasons[2].contains("quantity") && reasons[3].contains("order_key"));
        assert_eq!(letters[0].body, r#"{"user_id":"bob"}"#);
        let (orders, letters) = decode("no json", ORIGIN, &ids());
        assert_eq!((orders.len(), letters.len()), (0, 1));
    }
}
