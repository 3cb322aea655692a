//! The ports on real stores and services, one folder per vendor. Only the wiring imports these.

#[cfg(feature = "aws")]
pub mod aws;
pub mod http_client;
pub mod memory;
#[cfg(feature = "otel")]
pub mod otlp;
#[cfg(feature = "redis")]
pub mod redis;
pub mod sqlite;
