//! Traces: which request an order came with, carried from the API to its decision.

mod context;

pub use context::TraceContext;
