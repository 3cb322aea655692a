//! One connection per vendor, shared by that vendor's adapters. Nothing else imports these.

pub mod aws;
pub mod redis;
pub mod sqlite;

/// What setting up a resource did, or in a dry run would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Made,
    Changed,
    Unchanged,
}
