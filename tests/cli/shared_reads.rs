//! What questions cost that anybody may ask, on AWS.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use super::{Desk, PATIENCE, buy};

fn text(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Calls of services by this server so far.
fn calls(address: &str) -> u64 {
    let metrics = text(address, "/metrics");
    let counts = metrics.lines().filter(|line| line.starts_with("flux_service_calls_total{"));
    counts.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn many_readers_share_backend_reads() {
    let (desk, _) = super::story::provisioned(Desk::on_aws(), "");
    desk.run("provision --item a --stock 1000");
    let (_serve, address) = desk.serve("");
    let order = format!("/orders/{}", buy(&address, "ann", "a"));
    let before = calls(&address);
    let begun = Instant::now();
    for _ in 0..100 {
        for path in ["/readyz", "/stats", "/items", "/items?after=a", "/items/a", &order] {
            let answer = text(&address, path);
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    }
    let made = calls(&address) - before;
    // At most ten for the item, ten for all else, and what the metrics have read.
    let allowed = 30 * (begun.elapsed().as_secs() + 2);
    assert!(made <= allowed, "{made} calls in {:?}", begun.elapsed());
}
