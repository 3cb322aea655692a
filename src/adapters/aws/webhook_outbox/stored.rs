//! The stored form of a decision whose event is to be sent.

use serde::{Deserialize, Serialize};

use crate::core::model::{Decided, Decision, ItemId, Order, OrderId, Quantity, Timestamp, UserId};

/// A decision in a message of the outbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Stored {
    order_id: String,
    user_id: String,
    item_id: String,
    quantity: u64,
    accepted_at: Timestamp,
    decided_at: Timestamp,
    status: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl From<&Decided> for Stored {
    fn from(decided: &Decided) -> Self {
        let order = &decided.order;
        Stored {
            order_id: order.id.to_string(),
            user_id: order.user.to_string(),
            item_id: order.item.to_string(),
            quantity: order.quantity.units(),
            accepted_at: order.accepted_at,
            decided_at: decided.decided_at,
            status: decided.decision.status().to_owned(),
            reason: decided.decision.reason().map(|reason| reason.as_str().to_owned()),
        }
    }
}

impl Stored {
    /// The decision; `None` if flux cannot have written it.
    pub fn decided(&self) -> Option<Decided> {
        let order = Order {
            id: OrderId::parse(&self.order_id).ok()?,
            user: UserId::parse(&self.user_id).ok()?,
            item: ItemId::parse(&self.item_id).ok()?,
            quantity: Quantity::new(self.quantity).ok()?,
            accepted_at: self.accepted_at,
            trace: None,
        };
        let decision = Decision::from_parts(&self.status, self.reason.as_deref())?;
        Some(Decided { order, decision, decided_at: self.decided_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::event::tests::decided;

    #[test]
    fn stored_decision_is_read_back_unchanged() {
        for decision in Decision::all() {
            let text = serde_json::to_string(&Stored::from(&decided(decision))).unwrap();
            let read: Stored = serde_json::from_str(&text).unwrap();
            assert_eq!(read.decided(), Some(decided(decision)));
        }
    }
}
