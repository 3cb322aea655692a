//! The queue's message, as any producer may have written it.

use std::sync::LazyLock;

use flux::core::order::message::{Origin, decode, encode};
use flux::core::order::{
    ItemId, Order, OrderId, OrderKey, OrderNames, Quantity, Timestamp, UserId,
};
use flux::core::queue::DeadLetter;
use serde_json::Value;
use serde_json::value::RawValue;

const ORIGIN: Origin<'_> = Origin { message_id: "m-1", sent_at: Timestamp(77) };
/// What `queue/sqs/pack.rs` counts for an order.
const ORDER_BYTES: usize = 700;

static NAMES: LazyLock<OrderNames> =
    LazyLock::new(|| OrderNames::new(OrderKey::from_text("a key"), 1));

/// Every entry is an order or a dead letter, the same at each delivery; an order says what its
/// entry says; what is written is read back; and a bad entry costs only itself.
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
    costs_only_itself(&body);
}

fn again(body: &str) -> (Vec<Order>, Vec<DeadLetter>) {
    decode(body, ORIGIN, &NAMES)
}

fn each_entry_is_one_of_both(body: &str, orders: &[Order], letters: &[DeadLetter]) {
    let array = serde_json::from_str::<Vec<&RawValue>>(body);
    let entries = array.map_or(vec![body], |all| all.into_iter().map(RawValue::get).collect());
    assert_eq!(entries.len(), orders.len() + letters.len());
    let (mut orders, mut letters) = (orders.iter(), letters.iter().peekable());
    for entry in entries {
        match letters.next_if(|letter| letter.body == entry) {
            Some(letter) => assert!(!letter.reason.is_empty()),
            None => says(entry, orders.next().expect("as many as entries")),
        }
    }
}

fn says(entry: &str, order: &Order) {
    assert!(entry.trim_start().starts_with('{'), "an order made of {entry}");
    // serde_json reads values to a depth of 128; what flux ignores may be deeper.
    let Ok(entry) = serde_json::from_str::<Value>(entry) else { return };
    assert_eq!(entry["user_id"], order.user.as_str());
    assert_eq!(entry["item_id"], order.item.as_str());
    assert_eq!(entry.get("quantity").map_or(Some(1), Value::as_u64), Some(order.quantity.units()));
    if let Some(id) = entry["order_id"].as_str() {
        assert_eq!(OrderId::parse(id), Ok(order.id));
    }
    assert!(NAMES.verify(order.id));
}

fn costs_only_itself(body: &str) {
    let good = |user: &str| Order {
        id: NAMES.fresh(Timestamp(5)),
        user: UserId::parse(user).expect("valid"),
        item: ItemId::parse("ticket_001").expect("valid"),
        quantity: Quantity::ONE,
        accepted_at: Timestamp(5),
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
