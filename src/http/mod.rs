//! The HTTP API over the intake and the ledger.
//!
//! Responses are `application/json`; errors, also those to malformed HTTP, are
//! `application/problem+json` (RFC 9457).

mod access;
mod body;
mod buy;
mod client;
mod connection;
mod dashboard;
mod dead_letters;
mod etag;
mod event_stream;
mod health;
mod idle;
mod inventory;
mod item_cache;
mod item_json;
mod items;
mod lists;
mod metrics;
mod openapi;
mod orders;
mod page;
mod pages;
mod problem;
mod query;
mod raw;
mod request_id;
mod response;
mod route;
mod routes;
mod server;
mod shared_reads;
mod state;
mod status;
mod stream;
mod trace;
mod wait_estimate;
mod waits;

pub use access::{
    Access, AccessRules, KeySet, KeySource, Keys, Origins, Proxies, PublicUrl, Rate, TokenRules,
};
pub use metrics::server::serve_metrics;
pub use server::{listen, serve};
pub use state::{Api, Limits};
