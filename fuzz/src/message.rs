//! The queue's messages, from any producer.

use std::collections::HashMap;
use std::sync::LazyLock;

use flux::core::engine::message::{Origin, decode, encode};
use flux::core::model::{ItemId, Order, OrderId, OrderIds, OrderKey, Quantity, Timestamp, UserId};
use flux::core::ports::dead_letters::DeadLetter;
use serde_json::Value;
use serde_json::value::RawValue;

/// A time at which the seeds' times of acceptance are plausible.
const NOW: Timestamp = Timestamp(1_700_000_000_077);
const ORIGIN: Origin<'_> = Origin { message_id: "m-1", sent_at: NOW };
/// The size of an order that `adapters/aws/sqs/packing.rs` assumes.
const ORDER_BYTES: usize = 700;

static NAMES: LazyLock<OrderIds> = LazyLock::new(|| OrderIds::new(OrderKey::from_text("a key"), 1));

/// Every entry is an order or a dead letter, and the same one at each delivery. An order matches
/// its entry. Decoding reads what encoding wrote. A bad entry affects no other.
pub fn any(bytes: &[u8]) {
    let body = String::from_utf8_lossy(bytes);
    let (orders, letters) = decode(&body, ORIGIN, &NAMES);
    assert_eq!((&orders, &letters), (&again(&body).0, &again(&body).1));
    each_entry_is_one_of_both(&body, &orders, &letters);
    if !orders.is_empty() {
        assert_eq!(again(&encode(&orders)), (orders.clone(), vec![]));
    }
    for order in &orders {
        let text = encode(std::slice::from_ref(order));
        assert!(text.len() < ORDER_BYTES, "{text}");
    }
    affects_no_other(&body);
}

fn again(body: &str) -> (Vec<Order>, Vec<DeadLetter>) {
    decode(body, ORIGIN, &NAMES)
}

fn each_entry_is_one_of_both(body: &str, orders: &[Order], letters: &[DeadLetter]) {
    let body = body.strip_prefix('\u{feff}').unwrap_or(body);
    let array = serde_json::from_str::<Vec<&RawValue>>(body);
    let entries = array.map_or(vec![body], |all| all.into_iter().map(RawValue::get).collect());
    assert_eq!(entries.len(), orders.len() + letters.len());
    let mut orders = orders.iter();
    let mut letters = letters.iter().peekable();
    for entry in entries {
        match letters.next_if(|letter| letter.body == entry) {
            Some(letter) => assert!(!letter.reason.is_empty()),
            None => matches_entry(entry, orders.next().expect("as many as entries")),
        }
    }
}

fn matches_entry(entry: &str, order: &Order) {
    assert!(entry.trim_start().starts_with('{'), "an order made of {entry}");
    let raw = serde_json::from_str::<HashMap<String, &RawValue>>(entry).expect("an object");
    for (key, id) in [("user_id", order.user.as_str()), ("item_id", order.item.as_str())] {
        let text = serde_json::from_str::<String>(raw[key].get());
        // A number is read as its text.
        assert_eq!(text.as_deref().unwrap_or(raw[key].get()), id);
    }
    // serde_json reads values to a depth of 128; what flux ignores may be deeper.
    let Ok(entry) = serde_json::from_str::<Value>(entry) else { return };
    let quantity = entry.get("quantity").map_or(Some(1.0), Value::as_f64);
    assert_eq!(quantity, Some(order.quantity.units() as f64));
    if let Some(at) = entry.get("accepted_at").and_then(Value::as_f64) {
        assert_eq!(at, order.accepted_at.0 as f64);
    }
    if let Some(id) = entry["order_id"].as_str() {
        assert_eq!(OrderId::parse(id), Ok(order.id));
    }
    assert!(NAMES.verify(order.id));
}

fn affects_no_other(body: &str) {
    let good = |user: &str| Order {
        id: NAMES.generate(NOW),
        user: UserId::parse(user).expect("valid"),
        item: ItemId::parse("ticket_001").expect("valid"),
        quantity: Quantity::ONE,
        accepted_at: NOW,
        trace: None,
    };
    let neighbours = [good("ann"), good("Zoë \"\\ 🎟")];
    let [before, after] = neighbours.each_ref().map(|o| encode(std::slice::from_ref(o)));
    let entry = match serde_json::from_str::<&RawValue>(body) {
        Ok(json) => json.get().to_owned(),
        Err(_) => Value::from(body).to_string(),
    };
    let (orders, letters) = again(&format!("[{before},{entry},{after}]"));
    assert_eq!(orders.len() + letters.len(), 3);
    assert_eq!((orders.first(), orders.last()), (neighbours.first(), neighbours.last()));
}
