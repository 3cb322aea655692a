//! Packs orders into messages.

use std::collections::HashMap;

use crate::core::model::{ItemId, Order};

/// Messages that fit into one request. Up to this number every item gets messages of its own.
const FEW_MESSAGES: usize = 10;
/// The fewest orders of an item that get a message of their own when there are many items.
const ENOUGH: usize = 10;

/// The messages for these orders, as indices: at most `most` orders each. On a FIFO queue a message
/// has orders of one item only; on a standard queue items with few orders share messages. An order
/// is smaller than 1,000 bytes, so ten full messages stay under the 1 MiB of a request.
pub fn pack(orders: &[Order], most: usize, fifo: bool) -> Vec<Vec<usize>> {
    let mut indices: HashMap<&ItemId, usize> = HashMap::new();
    let mut by_item: Vec<Vec<usize>> = Vec::new();
    for (index, order) in orders.iter().enumerate() {
        let item = *indices.entry(&order.item).or_insert_with(|| {
            by_item.push(Vec::new());
            by_item.len() - 1
        });
        by_item[item].push(index);
    }
    let messages: Vec<Vec<usize>> =
        by_item.iter().flat_map(|all| all.chunks(most)).map(<[usize]>::to_vec).collect();
    if fifo || messages.len() <= FEW_MESSAGES {
        return messages;
    }
    let (mut packed, small): (Vec<_>, Vec<_>) =
        messages.into_iter().partition(|message| message.len() >= ENOUGH);
    let mut shared = small.concat();
    shared.sort_unstable();
    packed.extend(shared.chunks(most).map(<[usize]>::to_vec));
    packed
}

/// Escapes the two characters that a user id may contain and SQS rejects (Amazon SQS API Reference,
/// `SendMessage`). A JSON reader sees the same text.
pub fn for_sqs(json: String) -> String {
    if !json.contains(['\u{fffe}', '\u{ffff}']) {
        return json;
    }
    json.replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff")
}

/// Any text, with the characters that SQS rejects replaced.
pub fn plain(text: &str) -> String {
    let accepted = |c: char| match c {
        '\t' | '\n' | '\r' => true,
        '\u{fffe}' | '\u{ffff}' => false,
        c => c >= ' ',
    };
    text.chars().map(|c| if accepted(c) { c } else { '\u{fffd}' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::engine::message;
    use crate::core::engine::message::MAX_ORDERS;
    use crate::core::model::TraceContext;
    use crate::core::model::{OrderId, Quantity, Timestamp, UserId};

    fn order(n: usize, item: &str) -> Order {
        Order {
            id: OrderId::from_bytes((n as u128).to_be_bytes()),
            user: UserId::parse("ann").unwrap(),
            item: ItemId::parse(item).unwrap(),
            quantity: Quantity::ONE,
            accepted_at: Timestamp(1),
            trace: None,
        }
    }

    #[test]
    fn hot_item_fills_messages_in_order() {
        let orders: Vec<_> = (0..200).map(|n| order(n, "hot")).collect();
        let packed = pack(&orders, MAX_ORDERS, false);
        assert_eq!(packed.iter().map(Vec::len).collect::<Vec<_>>(), [99, 99, 2]);
        assert_eq!(packed.concat(), (0..200).collect::<Vec<_>>());
        let alone = pack(&orders, 1, false);
        assert_eq!(alone, (0..200).map(|n| vec![n]).collect::<Vec<_>>());
    }

    #[test]
    fn ten_full_messages_fit_one_request() {
        let parent = format!("00-{}-{}-01", "f".repeat(32), "f".repeat(16));
        let state = format!("a={},b={}", "\"".repeat(128), "c".repeat(55));
        let trace = TraceContext::parse(parent.as_bytes(), Some(&state));
        let order = Order {
            user: UserId::parse(&"\"".repeat(128)).unwrap(),
            quantity: Quantity::new(100).unwrap(),
            accepted_at: Timestamp(u64::MAX),
            trace: trace.map(Box::new),
            ..order(1, &"i".repeat(128))
        };
        assert_eq!(order.trace.as_ref().unwrap().state(), Some(&*state));
        let message = message::encode(&vec![order; MAX_ORDERS]);
        assert!(FEW_MESSAGES * message.len() < 1024 * 1024, "{}", message.len());
    }

    #[test]
    fn small_items_share_messages_on_standard_queues_only() {
        let orders: Vec<_> = (0..300).map(|n| order(n, &format!("item-{}", n % 150))).collect();
        assert_eq!(pack(&orders, MAX_ORDERS, false).len(), 4);
        let fifo = pack(&orders, MAX_ORDERS, true);
        assert_eq!(fifo.len(), 150);
        assert!(fifo.iter().all(|m| m.iter().all(|&n| orders[n].item == orders[m[0]].item)));
    }

    #[test]
    fn user_id_that_sqs_rejects_is_escaped() {
        let mut order = order(1, "x");
        order.user = UserId::parse("a\u{ffff}b").unwrap();
        let text = for_sqs(message::encode(&[order]));
        assert!(!text.contains('\u{ffff}'));
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["user_id"], "a\u{ffff}b");
    }
}
