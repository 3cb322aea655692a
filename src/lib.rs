//! flux: a flash-sale order engine. See README.md for its use, ARCHITECTURE.md for its inside.

pub mod core;
pub mod http;
pub mod provision;
