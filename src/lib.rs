//! flux, a flash-sale order engine. README.md describes its use, ARCHITECTURE.md its modules.

pub mod adapters;
pub mod clear_text;
mod client;
pub mod cmd;
pub mod config;
pub mod core;
pub mod http;
pub mod load;
pub mod stop;
pub mod telemetry;
#[cfg(feature = "top")]
pub mod top;
pub mod webhooks;
pub mod wiring;
