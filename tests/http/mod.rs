//! The real server over real sockets on loopback, on the real embedded store.

mod access;
mod bad_input;
mod board;
mod bounds;
mod connections;
mod contract;
mod document;
mod follow;
mod inventory;
mod letters;
mod metrics;
mod pages;
mod routes;
pub mod shop;
mod sites;
pub mod tokens;

use std::time::Duration;

use flux::core::model::ItemId;
use flux::http::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use shop::*;
