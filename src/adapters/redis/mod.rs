//! Redis, for data that may be lost: locks, idempotency keys, notifications, heartbeats.

pub mod client;
pub mod heartbeats;
pub mod idempotency;
pub mod lock;
pub mod notifier;
