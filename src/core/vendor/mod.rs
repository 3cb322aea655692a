//! One connection per vendor, shared by that vendor's adapters. Nothing else imports these.

pub mod aws;
pub mod redis;
pub mod sqlite;
