//! Sequence numbers of orders, the column `orders.place`: `items.no << 32 | n`, where n counts the
//! item's arrivals from 1. An item's orders are therefore stored next to each other, in their order
//! of arrival.

const ARRIVAL_BITS: u32 = 32;
const ARRIVAL: i64 = (1 << ARRIVAL_BITS) - 1;

/// The key of the order's item, `items.no`.
pub fn item_key(seq: i64) -> i64 {
    seq >> ARRIVAL_BITS
}

/// Which arrival of its item the order is, from 1.
pub fn arrival(seq: i64) -> i64 {
    seq & ARRIVAL
}

/// The number of the item's n-th arrival; with 0, the number before its first order.
pub fn of_arrival(item_key: i64, n: i64) -> i64 {
    item_key << ARRIVAL_BITS | n
}

/// The highest number that an order of the item can have.
pub fn highest(item_key: i64) -> i64 {
    item_key << ARRIVAL_BITS | ARRIVAL
}
