//! The webhook event of a decision.

use serde::Serialize;

use super::{Decided, Decision, OrderId, Reason, rfc3339};

/// The kinds of decisions that are sent as events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kinds {
    sold: bool,
    rejected: bool,
    expired: bool,
    dropped: bool,
}

impl Kinds {
    pub const ALL: Kinds = Kinds { sold: true, rejected: true, expired: true, dropped: true };

    /// Parses a subset of `sold,rejected,expired,dropped`. The error completes "must be ...".
    pub fn parse(text: &str) -> Result<Kinds, String> {
        let mut kinds = Kinds { sold: false, rejected: false, expired: false, dropped: false };
        for word in text.split(',').map(str::trim) {
            match word {
                "sold" => kinds.sold = true,
                "rejected" => kinds.rejected = true,
                "expired" => kinds.expired = true,
                "dropped" => kinds.dropped = true,
                _ => {
                    return Err(
                        "sold, rejected, expired, dropped, or several with commas".to_owned()
                    );
                }
            }
        }
        Ok(kinds)
    }

    pub fn want(self, decision: Decision) -> bool {
        match decision {
            Decision::Sold => self.sold,
            Decision::Rejected(_) => self.rejected,
            Decision::Expired => self.expired,
            Decision::Dropped => self.dropped,
        }
    }
}

/// The `webhook-id` of an order's event: the same for every attempt and every repeat.
pub fn webhook_id(order: OrderId) -> String {
    format!("msg_{order}")
}

#[derive(Serialize)]
struct EventJson<'a> {
    r#type: &'a str,
    timestamp: String,
    data: OrderJson<'a>,
}

/// The same fields as `GET /orders/ID`, which a test checks.
#[derive(Serialize)]
struct OrderJson<'a> {
    order_id: String,
    user_id: &'a str,
    item_id: &'a str,
    quantity: u64,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    accepted_at: String,
    decided_at: String,
}

/// The body of the request: the same for every attempt.
pub fn body(decided: &Decided) -> Vec<u8> {
    let Decided { order, decision, decided_at } = decided;
    let event = EventJson {
        r#type: match decision {
            Decision::Sold => "order.sold",
            Decision::Rejected(_) => "order.rejected",
            Decision::Expired => "order.expired",
            Decision::Dropped => "order.dropped",
        },
        timestamp: rfc3339(*decided_at),
        data: OrderJson {
            order_id: order.id.to_string(),
            user_id: order.user.as_str(),
            item_id: order.item.as_str(),
            quantity: order.quantity.units(),
            status: decision.status(),
            reason: decision.reason(),
            accepted_at: rfc3339(order.accepted_at),
            decided_at: rfc3339(*decided_at),
        },
    };
    serde_json::to_vec(&event).expect("strings and numbers always have a JSON form")
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::core::model::{ItemId, Order, Quantity, Timestamp, UserId};

    pub fn decided(decision: Decision) -> Decided {
        let order = Order {
            id: OrderId::from_bytes([7; 16]),
            user: UserId::parse("Zoë \u{ffff}").unwrap(),
            item: ItemId::parse("hall_A").unwrap(),
            quantity: Quantity::new(2).unwrap(),
            accepted_at: Timestamp(1_795_441_740_123),
            trace: None,
        };
        Decided { order, decision, decided_at: Timestamp(1_795_441_740_200) }
    }

    #[test]
    fn body_contains_the_order_and_its_decision() {
        let text = String::from_utf8(body(&decided(Decision::Sold))).unwrap();
        let id = OrderId::from_bytes([7; 16]);
        assert_eq!(
            text,
            format!(
                r#"{{"type":"order.sold","timestamp":"2026-11-23T13:49:00.200Z","data":{{"order_id":"{id}","user_id":"Zoë {}","item_id":"hall_A","quantity":2,"status":"sold","accepted_at":"2026-11-23T13:49:00.123Z","decided_at":"2026-11-23T13:49:00.200Z"}}}}"#,
                '\u{ffff}'
            )
        );
    }

    #[test]
    fn kinds_parse_and_filter() {
        let some = Kinds::parse("sold, expired").unwrap();
        assert!(some.want(Decision::Sold) && some.want(Decision::Expired));
        assert!(!some.want(Decision::Rejected(Reason::SoldOut)) && !some.want(Decision::Dropped));
        assert_eq!(Kinds::parse("sold,rejected,expired,dropped"), Ok(Kinds::ALL));
        assert!(Kinds::parse("sold,").is_err() && Kinds::parse("Sold").is_err());
    }
}
