//! One connection per vendor, shared by that vendor's adapters; and the way to anybody else's HTTP
//! server. Only adapters and the wiring import these.

#[cfg(feature = "aws")]
pub mod aws;
#[cfg(feature = "redis")]
pub mod redis;
pub mod sqlite;
pub mod web;

/// What setting up a resource did, or in a dry run would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Made,
    Changed,
    Unchanged,
}
