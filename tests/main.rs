//! Everything that is tested from outside the modules, in one binary.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test that cannot go on fails, and tests run by the real clock"
)]
#![cfg_attr(
    not(all(feature = "aws", feature = "redis")),
    allow(dead_code, reason = "helpers of tests that need those")
)]

mod architecture;
mod audit;
mod claims;
mod cli;
mod config;
mod conformance;
#[cfg(all(feature = "aws", feature = "redis"))]
mod cost;
#[cfg(all(feature = "aws", feature = "redis"))]
mod dropped;
mod e2e_stress;
#[cfg(all(feature = "aws", feature = "redis"))]
mod faults;
mod fuzz;
mod hostile_server;
mod http;
mod integrity;
mod model;
mod nginx;
#[cfg(all(feature = "aws", feature = "redis"))]
mod order_key;
mod packaging;
#[cfg(all(feature = "aws", feature = "redis"))]
mod provision;
#[cfg(all(feature = "aws", feature = "redis"))]
mod redis_outage;
#[cfg(all(feature = "aws", feature = "redis"))]
mod redis_tls;
mod sale;
mod scaling;
mod simulation;
mod support;
mod torture;
mod traces;
mod webhooks;
