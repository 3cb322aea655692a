//! What the engine needs from outside: one trait per file, with its errors.

pub mod dead_letters;
pub mod heartbeats;
pub mod idempotency;
pub mod ledger;
pub mod lock;
pub mod notifier;
pub mod queue;
pub mod tracing;
pub mod usage;
pub mod webhook_outbox;
