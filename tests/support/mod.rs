//! Helpers of several test modules.

pub mod http;

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below 32768, where the ports begin that Linux assigns, and outside the ports of
/// `scripts/local-cloud`.
const PORTS: std::ops::Range<u16> = 10_000..20_000;

/// A port on which nothing listens. Each call in this process returns another one, and the kernel
/// does not assign it by itself. So neither a parallel test nor an outgoing connection takes it
/// before the caller listens on it.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let width = PORTS.end - PORTS.start;
    let start = (std::process::id() % u32::from(width)) as u16;
    loop {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed) % width;
        let port = PORTS.start + (start + offset) % width;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
