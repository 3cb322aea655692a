//! Log lines of processes, and the settings of traces.

use serde_json::Value;

use super::{Process, Workdir, decided};
use crate::support::http::request;
use crate::traces::{TRACE, traceparent};

/// Sends an order with these headers; returns its id.
pub fn buy_with(address: &str, headers: &[(&str, &str)], user: &str) -> String {
    let body = format!(r#"{{"user_id":"{user}","item_id":"ticket_001"}}"#);
    let response = request(address, "POST /buy", headers, &body);
    assert_eq!(response.status, 202, "{}", response.body);
    response.json()["order_id"].as_str().unwrap().to_owned()
}

pub fn end(mut process: Process) -> Vec<String> {
    process.signal("TERM");
    process.log_line("stopped");
    assert_eq!(process.end().0.code(), Some(0));
    process.logged.extend(process.log.iter());
    process.logged.clone()
}

fn serve_in_json(workdir: &Workdir) -> (Process, String) {
    let mut serve = workdir.start("serve --listen 127.0.0.1:0 --workers 5");
    let line = serve.log_line("listening on http://");
    let line: Value = serde_json::from_str(&line).unwrap();
    let address = line["message"].as_str().unwrap().split_once("http://").unwrap().1.to_owned();
    (serve, address)
}

#[test]
fn json_log_lines_identify_orders_only_at_debug() {
    let workdir = Workdir::new().with("FLUX_LOG_FORMAT", "json");
    let (serve, address) = serve_in_json(&workdir);
    let order = buy_with(&address, &[("traceparent", &traceparent())], "ann");
    decided(&address, &order);
    let logged = end(serve);
    assert!(logged.iter().all(|line| !line.contains(&order)), "{logged:#?}");
    let parse = |line: &String| serde_json::from_str::<Value>(line).unwrap();
    assert!(logged.iter().map(parse).all(|line| line["message"].is_string()));

    let workdir = workdir.with("FLUX_LOG", "info,flux=debug");
    let (serve, address) = serve_in_json(&workdir);
    let order = buy_with(&address, &[("traceparent", &traceparent())], "bob");
    decided(&address, &order);
    let lines: Vec<Value> = end(serve).iter().map(parse).collect();
    let of_order: Vec<&Value> = lines.iter().filter(|line| line["order_id"] == order).collect();
    for (line, message) in of_order.iter().zip(["accepted", "decided"]) {
        assert_eq!(line["message"], message);
        assert_eq!(
            (line["item_id"].as_str(), line["trace_id"].as_str()),
            (Some("ticket_001"), Some(TRACE))
        );
        assert!(line["timestamp"].is_string() && line["level"] == "DEBUG");
    }
    assert_eq!(of_order.len(), 2, "{lines:#?}");
    assert_eq!(of_order[1]["outcome"], "rejected");
    assert_eq!(of_order[1]["reason"], "sold_out");
}

#[test]
fn wrong_trace_ratio_is_refused() {
    let refused = |ratio| Workdir::new().with("FLUX_TRACE_RATIO", ratio).refused("work");
    assert!(refused("1.5").contains("from 0 to 1"));
    assert!(refused("some").contains("number"));
}

#[cfg(not(feature = "otel"))]
#[test]
fn collector_needs_the_feature_otel() {
    for command in ["work", "serve --listen 127.0.0.1:0"] {
        let workdir = Workdir::new().with("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
        let line = workdir.refused(command);
        assert!(line.contains("otlp_endpoint") && line.contains("--features otel"), "{line}");
    }
}
