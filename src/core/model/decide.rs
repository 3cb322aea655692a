use super::{DECISION_RETENTION, Decided, Decision, Item, Order, Reason, Timestamp};

/// What [`decide`] made of a batch: the item after it and one decision per order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// `None` when there is no such item. Its version is one higher than the one read.
    pub item: Option<Item>,
    pub decided: Vec<Decided>,
}

/// Decides a batch of one item's orders, first come, first served. Pure.
///
/// `orders` must be distinct and undecided, oldest first. An item counts as sold out at
/// `free` = 0 only; an order for more than is free is `not_enough` and leaves the units to the
/// next. While an item's sale is closed, its orders are `closed`, sold out or not; orders for a
/// removed item are `unknown_item`. An order older
/// than [`DECISION_RETENTION`] is `expired`: its first answer, if it ever had one, may be
/// forgotten, so it must not get units now.
pub fn decide(item: Option<&Item>, orders: Vec<Order>, now: Timestamp) -> Verdict {
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
    Verdict { item: next, decided }
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

    fn decisions(verdict: &Verdict) -> Vec<Decision> {
        verdict.decided.iter().map(|d| d.decision).collect()
    }

    #[test]
    fn one_ticket_goes_to_the_first_and_is_sold_out_for_the_second() {
        let verdict = decide(Some(&item(1)), vec![order(1, 1), order(2, 1)], NOW);
        assert_eq!(decisions(&verdict), [Decision::Sold, Decision::Rejected(Reason::SoldOut)]);
        let after = verdict.item.unwrap();
        assert_eq!((after.free, after.sold, after.version), (0, 1, 5));
        assert_eq!(after.owner.unwrap().as_str(), "user1");
    }

    #[test]
    fn units_that_were_not_enough_for_one_are_left_to_the_next() {
        let verdict = decide(Some(&item(3)), vec![order(1, 2), order(2, 2), order(3, 1)], NOW);
        let no = Decision::Rejected(Reason::NotEnough);
        assert_eq!(decisions(&verdict), [Decision::Sold, no, Decision::Sold]);
    }

    #[test]
    fn an_order_older_than_the_retention_gets_no_units() {
        let old = Order { accepted_at: Timestamp(0), ..order(1, 1) };
        let verdict = decide(Some(&item(1)), vec![old, order(2, 1)], NOW);
        assert_eq!(decisions(&verdict), [Decision::Expired, Decision::Sold]);
    }

    #[test]
    fn an_order_for_an_item_that_does_not_exist_is_rejected() {
        let verdict = decide(None, vec![order(1, 1)], NOW);
        assert_eq!(decisions(&verdict), [Decision::Rejected(Reason::UnknownItem)]);
        assert_eq!(verdict.item, None);
    }

    #[test]
    fn a_closed_item_is_closed_to_all_sold_out_or_not_and_keeps_its_units() {
        for stock in [0, 5] {
            let closed = Item { closed_at: Some(NOW), ..item(stock) };
            let verdict = decide(Some(&closed), vec![order(1, 1), order(2, 9)], NOW);
            assert_eq!(decisions(&verdict), [Decision::Rejected(Reason::Closed); 2]);
            assert_eq!(verdict.item, Some(Item { version: 5, ..closed }));
        }
        let closed = Item { closed_at: Some(NOW), ..item(5) };
        let old = Order { accepted_at: Timestamp(0), ..order(1, 1) };
        assert_eq!(decisions(&decide(Some(&closed), vec![old], NOW)), [Decision::Expired]);
    }

    #[test]
    fn orders_for_a_removed_item_are_unknown_until_it_is_listed_again() {
        let removed = item(5).removed();
        let verdict = decide(Some(&removed), vec![order(1, 1)], NOW);
        assert_eq!(decisions(&verdict), [Decision::Rejected(Reason::UnknownItem)]);
        let listed = removed.changed(ItemChange::stock(0), NOW).unwrap();
        assert_eq!((listed.status(), listed.version), ("sold_out", removed.version + 1));
        let listed = removed.changed(ItemChange::stock(2), NOW).unwrap();
        assert_eq!(decisions(&decide(Some(&listed), vec![order(1, 1)], NOW)), [Decision::Sold]);
    }

    proptest! {
        #[test]
        fn units_are_conserved_and_a_sold_out_is_said_only_at_zero(
            stock in 0u64..400,
            quantities in proptest::collection::vec(1u64..=100, 0..60),
        ) {
            let before = item(stock);
            let orders = quantities.iter().enumerate().map(|(n, &q)| order(n as u8, q)).collect();
            let verdict = decide(Some(&before), orders, NOW);
            let after = verdict.item.unwrap();
            prop_assert_eq!(after.free + after.held + after.sold, after.stock);
            let mut free = stock;
            for decided in &verdict.decided {
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
