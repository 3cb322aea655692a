//! The contract of each port, as functions that run against every adapter.
//!
//! A module's `NAME_contract!(make)` turns each of its functions into a test. `make` is an async
//! function that returns a new bench with unique names, so that tests can run in parallel. If the
//! service of an adapter is not available, its tests fail.

#[cfg(all(feature = "aws", feature = "redis"))]
pub mod aws;
mod heartbeats;
#[cfg(feature = "redis")]
pub mod idempotency;
pub mod ledger;
pub mod lock;
pub mod notifier;
pub mod queue;
#[cfg(all(feature = "aws", feature = "redis"))]
pub mod redis;
mod sqlite;
pub mod webhook_outbox;

use std::sync::Arc;

use flux::core::model::TraceContext;
use flux::core::model::{
    Clock, ItemId, Order, OrderId, OrderIds, OrderKey, Quantity, SystemClock, Timestamp, UserId,
};

/// Turns the named functions of a contract into tests, each with a new bench.
macro_rules! conform {
    ($make:path, $port:ident: $($name:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $crate::conformance::$port::$name($make().await).await;
            }
        )+
    };
}
pub(crate) use conform;

/// The address of a service that the tests need.
pub fn address(variable: &str) -> String {
    let missing = |_| panic!("{variable} is not set: run scripts/test, which starts what it names");
    std::env::var(variable).unwrap_or_else(missing)
}

/// A unique name.
pub fn fresh_name(kind: &str) -> String {
    format!("{kind}-{}", uuid::Uuid::new_v4().simple())
}

pub fn key() -> OrderKey {
    OrderKey::from_text("conformance")
}

pub fn names() -> Arc<OrderIds> {
    Arc::new(OrderIds::new(key(), uuid::Uuid::new_v4().as_u128() as u32))
}

pub fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

pub fn now() -> Timestamp {
    clock().now()
}

pub fn item(name: &str) -> ItemId {
    ItemId::parse(name).unwrap()
}

pub fn order(names: &OrderIds, item_name: &str, user: &str) -> Order {
    let now = now();
    Order {
        id: names.generate(now),
        user: UserId::parse(user).unwrap(),
        item: item(item_name),
        quantity: Quantity::new(2).unwrap(),
        accepted_at: now,
        trace: None,
    }
}

/// The order with a trace context, and with a trace state if one is given.
pub fn traced(order: Order, state: Option<&str>) -> Order {
    let parent = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    Order { trace: TraceContext::parse(parent, state).map(Box::new), ..order }
}

pub fn ids(orders: &[Order]) -> Vec<OrderId> {
    orders.iter().map(|order| order.id).collect()
}
