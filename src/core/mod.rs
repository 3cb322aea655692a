//! The domain: orders, items, how orders are decided, and the ports to everything outside.
//!
//! No I/O, no vendor, no HTTP. Imports run one way: `engine` -> `ports` -> `model`.

pub mod engine;
pub mod metrics;
pub mod model;
pub mod ports;
