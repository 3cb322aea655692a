//! Tests of the HTTP server over loopback sockets, on the embedded store.

mod access;
mod bad_input;
mod bounds;
mod connections;
mod contract;
mod dashboard;
mod document;
mod follow;
mod inventory;
mod letters;
mod metrics;
mod pages;
mod routes;
mod sites;
pub mod test_server;
pub mod tokens;

use std::time::Duration;

use flux::core::model::ItemId;
use flux::http::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use test_server::*;
