//! flux's tests, in one binary.

mod conformance;
mod provision;
