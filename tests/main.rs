//! Everything that is tested from outside the modules, in one binary.

mod config;
mod conformance;
mod house;
mod http;
mod sale;
