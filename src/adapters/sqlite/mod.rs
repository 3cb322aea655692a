//! The embedded backend: every port on one SQLite file.

pub mod heartbeats;
pub mod ledger;
pub mod lock;
pub mod notifier;
pub mod queue;
pub mod store;
pub mod webhook_outbox;
