//! Sends the events of the outbox to the shop's endpoint (Standard Webhooks 1.0).

mod circuit_breaker;
mod endpoint;
pub mod sender;
mod signature;

pub use endpoint::{EndpointReply, EndpointUrl, WebhookEndpoint};
pub use signature::{Secrets, sign};
