//! Ports for a process that is alone.

pub mod heartbeats;
pub mod notifier;
