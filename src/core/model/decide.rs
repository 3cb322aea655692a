//! The decision of a batch of orders.

use super::{DECISION_RETENTION, Decided, Decision, Item, Order, Reason, Timestamp};

/// The result of [`decide`]: the item after the batch, and one decision per order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecidedBatch {
    /// `None` if the item does not exist. Otherwise its version is one higher than that of the item
    /// given.
    pub item: Option<Item>,
    pub decided: Vec<Decided>,
}

/// Decides a batch of one item's orders, first come, first served. Pure.
///
/// `orders` must be distinct and undecided, oldest first. An item is sold out only at `free` = 0.
/// An order for more than `free` units is rejected as `not_enough` and leaves the units to later
/// orders. While the sale is closed, all orders are rejected as `closed`, even if the item is sold
/// out. Orders for a removed item are rejected as `unknown_item`. An order older than
/// [`DECISION_RETENTION`] is `expired`: an earlier decision of it may have been deleted, so it must
/// not get units.
pub fn decide(item: Option<&Item>, orders: Vec<Order>, now: Timestamp) -> DecidedBatch {
    let mut next = item.cloned();
    let decided = orders
        .into_iter()
        .map(|order| {
            let decision = decide_one(next.as_mut(), &order, now);
            Decided { order, decision, decided_at: now }
        })
        .collect();
    if let Some(item) = &mut next {
        item.version += 1;
    }
    DecidedBatch { item: next, decided }
}

fn decide_one(item: Option<&mut Item>, order: &Order, now: Timestamp) -> Decision {
    if now.since(order.accepted_at) > DECISION_RETENTION {
        return Decision::Expired;
    }
    let Some(item) = item.filter(|item| !item.is_removed()) else {
        return Decision::Rejected(Reason::UnknownItem);
    };
    if item.closed_at.is_some() {
        return Decision::Rejected(Reason::Closed);
    }
    let units = order.quantity.units();
    if item.free == 0 {
        return Decision::Rejected(Reason::SoldOut);
    }
    if item.free < units {
        return Decision::Rejected(Reason::NotEnough);
    }
    item.free -= units;
    item.sold += units;
    if item.stock == 1 {
        item.owner = Some(order.user.clone());
    }
    Decision::Sold
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::model::{ItemChange, ItemId, OrderId, Quantity, UserId};

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    fn item(stock: u64) -> Item {
        Item { version: 4, ..Item::new(ItemId::parse("ticket_001").unwrap(), stock) }
    }

    fn order(n: u8, quantity: u64) -> Order {
        Order {
            id: OrderId::from_bytes([n; 16]),
            user: UserId::parse(&format!("user{n}")).unwrap(),
            item: item(1).id,
            quantity: Quantity::new(quantity).unwrap(),
            accepted_at: NOW,
            trace: None,
        }
    }

    fn decisions(result: &DecidedBatch) -> Vec<Decision> {
        result.decided.iter().map(|d| d.decision).collect()
    }

    #[test]
    fn first_order_gets_the_last_unit() {
        let result = decide(Some(&item(1)), vec![order(1, 1), order(2, 1)], NOW);
        assert_eq!(decisions(&result), [Decision::Sold, Decision::Rejected(Reason::SoldOut)]);
        let after = result.item.unwrap();
        assert_eq!((after.free, after.sold, after.version), (0, 1, 5));
        assert_eq!(after.owner.unwrap().as_str(), "user1");
    }

    #[test]
    fn not_enough_leaves_units_to_the_next() {
        let result = decide(Some(&item(3)), vec![order(1, 2), order(2, 2), order(3, 1)], NOW);
        let no = Decision::Rejected(Reason::NotEnough);
        assert_eq!(decisions(&result), [Decision::Sold, no, Decision::Sold]);
    }

    #[test]
    fn expired_order_gets_no_units() {
        let old = Order { accepted_at: Timestamp(0), ..order(1, 1) };
        let result = decide(Some(&item(1)), vec![old, order(2, 1)], NOW);
        assert_eq!(decisions(&result), [Decision::Expired, Decision::Sold]);
    }

    #[test]
    fn order_for_a_missing_item_is_rejected() {
        let result = decide(None, vec![order(1, 1)], NOW);
        assert_eq!(decisions(&result), [Decision::Rejected(Reason::UnknownItem)]);
        assert_eq!(result.item, None);
    }

    #[test]
    fn closed_item_rejects_all_and_keeps_its_units() {
        for stock in [0, 5] {
            let closed = Item { closed_at: Some(NOW), ..item(stock) };
            let result = decide(Some(&closed), vec![order(1, 1), order(2, 9)], NOW);
            assert_eq!(decisions(&result), [Decision::Rejected(Reason::Closed); 2]);
            assert_eq!(result.item, Some(Item { version: 5, ..closed }));
        }
        let closed = Item { closed_at: Some(NOW), ..item(5) };
        let old = Order { accepted_at: Timestamp(0), ..order(1, 1) };
        assert_eq!(decisions(&decide(Some(&closed), vec![old], NOW)), [Decision::Expired]);
    }

    #[test]
    fn removed_item_is_unknown_until_listed() {
        let removed = item(5).removed();
        let result = decide(Some(&removed), vec![order(1, 1)], NOW);
        assert_eq!(decisions(&result), [Decision::Rejected(Reason::UnknownItem)]);
        let listed = removed.changed(ItemChange::stock(0), NOW).unwrap();
        assert_eq!((listed.status(), listed.version), ("sold_out", removed.version + 1));
        let listed = removed.changed(ItemChange::stock(2), NOW).unwrap();
        assert_eq!(decisions(&decide(Some(&listed), vec![order(1, 1)], NOW)), [Decision::Sold]);
    }

    proptest! {
        #[test]
        fn units_are_conserved_and_sold_out_means_zero_free(
            stock in 0u64..400,
            quantities in proptest::collection::vec(1u64..=100, 0..60),
        ) {
            let before = item(stock);
            let orders = quantities.iter().enumerate().map(|(n, &q)| order(n as u8, q)).collect();
            let result = decide(Some(&before), orders, NOW);
            let after = result.item.unwrap();
            prop_assert_eq!(after.free + after.held + after.sold, after.stock);
            let mut free = stock;
            for decided in &result.decided {
                let units = decided.order.quantity.units();
                match decided.decision {
                    Decision::Sold => free = free.checked_sub(units).expect("oversold"),
                    Decision::Rejected(Reason::SoldOut) => prop_assert_eq!(free, 0),
                    Decision::Rejected(Reason::NotEnough) => {
                        prop_assert!(free > 0 && free < units);
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            prop_assert_eq!(free, after.free);
        }
    }
}
