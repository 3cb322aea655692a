//! Traces: from a buyer's request to the decision.

mod carried;

pub const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
pub const CALLER: &str = "00f067aa0ba902b7";

pub fn traceparent() -> String {
    format!("00-{TRACE}-{CALLER}-01")
}
