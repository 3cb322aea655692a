//! The dashboard of `flux serve`: other processes and their metrics.

use std::io::Write;
use std::net::TcpStream;

use super::*;
use crate::support::http::Response;

/// The dashboard's event stream; each element is the data of one event.
fn dashboards(address: &str) -> impl Iterator<Item = Value> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    lines.filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok()).skip(1)
}

fn pids(dashboard: &Value) -> Vec<u64> {
    let workers = dashboard["workers"].as_array().unwrap().iter();
    workers.map(|worker| worker["pid"].as_u64().unwrap()).collect()
}

#[test]
fn dashboard_lists_worker_processes_until_they_end() {
    let workdir = Workdir::new();
    let (_serve, address) = workdir.serve("");
    let mut work = [workdir.start("work"), workdir.start("work --concurrency 7")];
    let all = work.each_ref().map(|process| u64::from(process.child.id()));
    let mut dashboards = dashboards(&address);
    let mut wait_for = |expected: &[u64]| {
        let begun = Instant::now();
        loop {
            let dashboard = dashboards.next().expect("the stream does not end");
            let pids = pids(&dashboard);
            if pids.len() == expected.len() && expected.iter().all(|pid| pids.contains(pid)) {
                return dashboard;
            }
            assert!(begun.elapsed() < PATIENCE, "{pids:?} instead of {expected:?}");
        }
    };
    let dashboard = wait_for(&all);
    assert!(dashboard["workers"].as_array().unwrap().iter().any(|w| w["concurrency"] == 7));
    work[1].signal("TERM");
    assert!(work[1].end().0.success());
    wait_for(&all[..1]);
    work[0].signal("KILL");
    wait_for(&[]);
    let order = buy(&address, "ann", "ticket_001");
    let again = workdir.start("work");
    assert_eq!(decided(&address, &order)["status"], "sold");
    let dashboard = wait_for(&[u64::from(again.child.id())]);
    assert_eq!(dashboard["accepted"], 1);
}

fn get(address: &str, path: &str) -> Response {
    request(address, &format!("GET {path}"), &[], "")
}

#[test]
fn worker_serves_metrics() {
    let workdir = Workdir::new().with("FLUX_METRICS_LISTEN", "127.0.0.1:0");
    let (_serve, address) = workdir.serve("");
    let mut work = workdir.start("work");
    let line = work.log_line("metrics on http://");
    let metrics = line.split_once("http://").unwrap().1.strip_suffix("/metrics").unwrap();
    let order = buy(&address, "ann", "ticket_001");
    assert_eq!(decided(&address, &order)["status"], "sold");
    let begun = Instant::now();
    while !get(metrics, "/metrics").body.contains("\nflux_units_sold_total 1\n") {
        assert!(begun.elapsed() < PATIENCE);
    }
    assert_eq!(get(metrics, "/healthz").status, 200);
    assert_eq!(get(metrics, "/buy").status, 404);
    work.signal("TERM");
    assert!(work.end().0.success());
}

#[test]
fn invalid_metrics_address_is_refused() {
    let bad = Workdir::new().with("FLUX_METRICS_LISTEN", "9100").refused("work");
    assert!(bad.contains("metrics_listen must be HOST:PORT"), "{bad}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let line = Workdir::new().with("FLUX_METRICS_LISTEN", &taken).refused("work");
    assert!(line.contains(&taken) && line.contains("change metrics_listen"), "{line}");
}
