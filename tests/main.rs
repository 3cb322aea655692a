mod config;
mod house;
mod http;
mod sale;
