//! Fuzz targets for everything that flux parses. Each target is a function of arbitrary bytes that
//! panics if a property does not hold. `tests/fuzz.rs` calls the same functions.

pub mod config;
pub mod http;
pub mod ids;
pub mod message;

#[path = "../../tests/http/test_server.rs"]
#[allow(dead_code)]
mod test_server;
