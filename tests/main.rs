//! Everything that is tested from outside the modules, in one binary.

mod audit;
mod config;
mod conformance;
mod e2e_stress;
mod house;
mod http;
mod liar;
mod provision;
mod sale;
