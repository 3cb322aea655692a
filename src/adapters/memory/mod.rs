//! Adapters within one process, for a deployment without a service that carries messages between
//! processes.

pub mod heartbeats;
pub mod notifier;
