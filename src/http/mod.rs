//! The HTTP API: reads requests, asks the intake and the ledger, answers JSON.
//!
//! Answers are `application/json`, errors `application/problem+json` (RFC 9457), to what cannot be
//! read as HTTP too.

mod access;
mod body;
mod buy;
mod connection;
mod dashboard;
mod dead_letters;
mod etag;
mod event_stream;
mod idle;
mod inventory;
mod item_cache;
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
mod routes;
mod server;
mod shared;
mod status;
mod stream;
mod trace;
mod wait_estimate;
mod waits;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::core::engine::Ports;
use crate::core::engine::intake::Intake;
use crate::core::ports::notifier::Waiters;
pub use access::{
    Access, AccessRules, KeySet, KeySource, Keys, Origins, Proxies, PublicUrl, Rate, TokenRules,
};
pub use metrics::serve_metrics;
pub use server::listen;

/// Bounds of the server (P8).
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open connections; the next is answered 503 and closed.
    pub connections: usize,
    /// Time to send a whole request head, from its first byte, and again its body. Also how long an
    /// answer may wait for the client to read on.
    pub read_timeout: Duration,
    /// How long a connection may be idle: before its first request, and between two. Shorter while
    /// fewer than a tenth of the connections are free.
    pub idle_timeout: Duration,
    /// Pages of items or of the inventory on their way at once, until the client has read them; the
    /// next is answered 503. A page is up to some 400 KB, and while the ledger reads it, workers
    /// and buyers wait.
    pub pages: usize,
    /// Time that requests which are here may still take once the server is told to stop.
    pub drain: Duration,
}

/// What the routes need.
#[derive(Debug)]
pub struct Api {
    pub ports: Ports,
    pub intake: Intake,
    pub waiters: Arc<Waiters>,
    /// Units of an item that nobody listed; 0 refuses orders for it. `None`: none where keys are on
    /// or others reach the server.
    pub unlisted_stock: Option<u64>,
    pub access: Arc<Access>,
    /// `embedded` or `aws`, for `/stats`; on `aws` only the queue knows an undecided order.
    pub backend: &'static str,
    pub limits: Limits,
}

/// Serves until stopped, then lets the requests that are here finish, for at most
/// [`Limits::drain`], and ends. When it returns, nothing of it holds `api` any more.
pub async fn serve(listener: TcpListener, api: Arc<Api>, stop: CancellationToken) {
    server::run(listener, api, stop).await;
}
