//! flux's tests, in one binary.

mod conformance;
mod faults;
mod provision;
