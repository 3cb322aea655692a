//! The contract of each port as plain functions, run over every adapter.
//!
//! A module's `NAME_contract!(make)` makes a test of each of its functions; `make` is an async
//! function that gives a fresh bench with names of its own, so that tests run side by side. An
//! adapter whose service is not there fails.

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

/// Tests of the named functions of a contract, each over a fresh bench.
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

/// A name that nothing else has.
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

/// The same order on a trace, which has a state where one is given.
pub fn traced(order: Order, state: Option<&str>) -> Order {
    let parent = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    Order { trace: TraceContext::parse(parent, state).map(Box::new), ..order }
}

pub fn ids(orders: &[Order]) -> Vec<OrderId> {
    orders.iter().map(|order| order.id).collect()
}
