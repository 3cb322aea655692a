//! flux's tests, in one binary.

mod conformance;
mod faults;
mod provision;
mod redis_away;
