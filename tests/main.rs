//! Everything that is tested from outside the modules, in one binary.

mod audit;
mod claims;
mod cli;
mod config;
mod conformance;
mod cost;
mod e2e_stress;
mod faults;
mod fuzz;
mod house;
mod http;
mod integrity;
mod liar;
mod model;
mod nginx;
mod order_key;
mod packaging;
mod provision;
mod redis_away;
mod redis_tls;
mod sale;
mod scaling;
mod simulation;
mod torture;
mod traces;
mod webhooks;
