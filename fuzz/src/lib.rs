//! What flux reads, and what must be so whatever it is given. Each target is a function of any
//! bytes that panics when it is not so; `tests/fuzz.rs` calls the same ones.

pub mod config;
pub mod http;
pub mod ids;
pub mod message;

#[path = "../../tests/http/shop.rs"]
#[allow(dead_code)]
mod shop;
