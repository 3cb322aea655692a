//! The cost of unauthenticated reads on AWS.

use std::time::Instant;

use super::{Workdir, buy};
use crate::support::http::{Response, request};

fn get(address: &str, path: &str) -> Response {
    request(address, &format!("GET {path}"), &[], "")
}

/// Number of this server's calls to services so far.
fn calls(address: &str) -> u64 {
    let metrics = get(address, "/metrics").body;
    let counts = metrics.lines().filter(|line| line.starts_with("flux_service_calls_total{"));
    counts.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn many_readers_share_backend_reads() {
    let (workdir, _) = super::story::provisioned(Workdir::on_aws(), "");
    workdir.run("provision --item a --stock 1000");
    let (_serve, address) = workdir.serve("");
    let order = format!("/orders/{}", buy(&address, "ann", "a"));
    let before = calls(&address);
    let begun = Instant::now();
    for _ in 0..100 {
        for path in ["/readyz", "/stats", "/items", "/items?after=a", "/items/a", &order] {
            let response = get(&address, path);
            assert_eq!(response.status, 200, "{}", response.body);
        }
    }
    let calls = calls(&address) - before;
    // Per second at most ten for the item, ten for the other reads, and those of the metrics.
    let max = 30 * (begun.elapsed().as_secs() + 2);
    assert!(calls <= max, "{calls} calls in {:?}", begun.elapsed());
}
