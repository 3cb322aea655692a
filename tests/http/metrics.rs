//! Checks `/metrics` against Prometheus' text format, and the alarms and plots against `/metrics`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::*;

/// A family of metrics: its kind, and its values by name and labels.
struct Family {
    kind: String,
    values: Vec<(String, BTreeMap<String, String>, f64)>,
}

fn is_name(text: &str) -> bool {
    let mut letters = text.bytes();
    letters.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && letters.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Parses `{a="b",c="d"}` with Prometheus' escapes. Returns the labels and the rest of the line.
fn labels(mut rest: &str) -> (BTreeMap<String, String>, &str) {
    let mut found = BTreeMap::new();
    if !rest.starts_with('{') {
        return (found, rest);
    }
    while !rest.starts_with('}') {
        let (name, value) = rest[1..].split_once("=\"").unwrap();
        assert!(is_name(name), "{name}");
        let mut text = String::new();
        let mut letters = value.char_indices();
        let end = loop {
            match letters.next().expect("a closing quote") {
                (at, '"') => break at + 1,
                (_, '\\') => match letters.next().unwrap().1 {
                    'n' => text.push('\n'),
                    escaped @ ('\\' | '"') => text.push(escaped),
                    other => panic!("\\{other} is no escape"),
                },
                (_, letter) => text.push(letter),
            }
        };
        assert!(found.insert(name.to_owned(), text).is_none(), "{name} comes twice");
        rest = &value[end..];
        assert!(rest.starts_with([',', '}']), "{rest}");
    }
    (found, &rest[1..])
}

/// Parses the text format (Prometheus, "Exposition formats"). Panics at syntax errors and at names
/// that break its conventions.
fn parse(text: &str) -> BTreeMap<String, Family> {
    assert!(text.ends_with('\n'));
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let (name, about) = line.strip_prefix("# HELP ").expect(line).split_once(' ').unwrap();
        assert!(is_name(name) && !about.is_empty(), "{line}");
        let line = lines.next().unwrap();
        let (typed, kind) = line.strip_prefix("# TYPE ").expect(line).split_once(' ').unwrap();
        assert_eq!(typed, name);
        assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
        let mut family = Family { kind: kind.to_owned(), values: Vec::new() };
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            let end = line.find(['{', ' ']).expect(line);
            let (labels, value) = labels(&line[end..]);
            let value = value.strip_prefix(' ').expect(line).parse().expect(line);
            let suffix = line[..end].strip_prefix(name).expect(line);
            let suffixes: &[&str] =
                if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.contains(&suffix), "{line}");
            let known = family.values.iter().any(|(n, l, _)| *n == line[..end] && *l == labels);
            assert!(!known, "{line} comes twice");
            family.values.push((line[..end].to_owned(), labels, value));
        }
        if kind == "histogram" {
            check_histogram(name, &family);
        }
        assert!(families.insert(name.to_owned(), family).is_none(), "{name} comes twice");
    }
    families
}

fn check_histogram(name: &str, family: &Family) {
    let bound = |text: &str| if text == "+Inf" { f64::INFINITY } else { text.parse().unwrap() };
    let buckets: Vec<(f64, f64)> = family
        .values
        .iter()
        .filter(|(n, _, _)| n.ends_with("_bucket"))
        .map(|(_, labels, count)| (bound(&labels["le"]), *count))
        .collect();
    assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name}: {buckets:?}");
    let (last, all) = *buckets.last().unwrap();
    let count = family.values.iter().find(|(n, _, _)| n.ends_with("_count")).unwrap().2;
    assert_eq!((last, all), (f64::INFINITY, count), "{name}");
}

/// The value of a metric with these labels.
fn value(families: &BTreeMap<String, Family>, name: &str, wanted: &[(&str, &str)]) -> Option<f64> {
    let values = families.values().flat_map(|family| &family.values);
    let is_wanted = |labels: &BTreeMap<String, String>| {
        wanted.iter().all(|(label, text)| labels.get(*label).is_some_and(|found| found == text))
    };
    let mut found = values.filter(|(n, labels, _)| n == name && is_wanted(labels));
    found.next().map(|(_, _, value)| *value)
}

async fn scrape(server: &TestServer) -> BTreeMap<String, Family> {
    let reply = server.get("/metrics").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    parse(&reply.text())
}

/// A server with one sold and one rejected order and one refused request, after the dashboard has
/// seen the worker.
async fn server_after_a_sale() -> (TestServer, BTreeMap<String, Family>) {
    let server = TestServer::start().await;
    server.start_worker();
    let first = server.good_order().await;
    let second = server.good_order().await;
    for order in [first, second] {
        server.get(&format!("/orders/{order}?wait=20")).await;
    }
    server.buy("", "no order").await.problem(400);
    let seen = timeout(PATIENCE, async {
        loop {
            let families = scrape(&server).await;
            if value(&families, "flux_workers", &[]) == Some(1.0)
                && value(&families, "flux_decision_seconds_count", &[]) == Some(2.0)
            {
                return families;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let seen = seen.await.expect("the metrics count the worker");
    (server, seen)
}

#[tokio::test]
async fn metrics_follow_the_text_format() {
    let (_shop, families) = server_after_a_sale().await;
    let value = |name, labels: &[(&str, &str)]| value(&families, name, labels);
    assert_eq!(value("flux_orders_accepted_total", &[]), Some(2.0));
    assert_eq!(value("flux_orders_refused_total", &[("class", "4xx")]), Some(1.0));
    assert_eq!(value("flux_orders_refused_total", &[("class", "5xx")]), Some(0.0));
    assert_eq!(value("flux_decisions_total", &[("outcome", "sold")]), Some(1.0));
    assert_eq!(value("flux_decisions_total", &[("reason", "sold_out")]), Some(1.0));
    assert_eq!(value("flux_units_sold_total", &[]), Some(1.0));
    assert_eq!(value("flux_ack_seconds_count", &[]), Some(2.0));
    assert!(value("flux_send_orders_count", &[]) >= Some(1.0));
    for name in ["flux_oversold_units", "flux_stranded_units", "flux_dead_letters"] {
        assert_eq!(value(name, &[]), Some(0.0), "{name}");
    }
    assert!(value("flux_build_info", &[("version", env!("CARGO_PKG_VERSION"))]) == Some(1.0));
    assert!(value("process_resident_memory_bytes", &[]) > Some(1e6));
    assert_eq!(families["flux_backlog_orders"].kind, "gauge");
}

/// The metric names in a PromQL expression.
fn metrics_of(expression: &str) -> BTreeSet<String> {
    const WORDS: [&str; 14] = [
        "sum",
        "max",
        "by",
        "rate",
        "increase",
        "absent",
        "histogram_quantile",
        "label_values",
        "le",
        "service",
        "operation",
        "result",
        "outcome",
        "instance",
    ];
    // Without the text in braces and brackets.
    let mut depth = 0;
    let outside = expression.chars().map(|letter| {
        depth += i32::from("{[".contains(letter));
        let kept = if depth == 0 { letter } else { ' ' };
        depth -= i32::from("}]".contains(letter));
        kept
    });
    let outside: String = outside.collect();
    let words = outside.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let words = words.filter(|w| w.starts_with(|c: char| c.is_ascii_alphabetic()));
    let words = words.filter(|w| !WORDS.contains(w) && !["reason", "class"].contains(w));
    words.map(str::to_owned).collect()
}

fn read(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// All texts under the keys `expr` and `query`.
fn expressions(json: &Value, found: &mut Vec<String>) {
    match json {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(text) if key == "expr" => found.push(text.clone()),
                    Value::String(text) if key == "query" && text.contains('(') => {
                        found.push(text.clone());
                    }
                    _ => expressions(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

#[tokio::test]
async fn plots_and_alarms_use_existing_metrics() {
    let (_shop, families) = server_after_a_sale().await;
    let mut plots = Vec::new();
    let dashboard = serde_json::from_str(&read("config/grafana-dashboard.json")).unwrap();
    expressions(&dashboard, &mut plots);
    let alerts = read("config/alerts.yml");
    let rules: Vec<String> = alerts
        .split("- alert:")
        .skip(1)
        .map(|rule| rule.split_once("expr:").unwrap().1.split("labels:").next().unwrap())
        .map(|expression| expression.split("for:").next().unwrap().replace('|', " "))
        .collect();
    assert!(plots.len() > 20 && rules.len() > 10);
    for expression in plots.iter().chain(&rules) {
        let names = metrics_of(expression);
        assert!(!names.is_empty(), "{expression}");
        for name in names {
            let of = |suffix| name.strip_suffix(suffix).is_some_and(|n| families.contains_key(n));
            let known = families.contains_key(&name)
                || ["_bucket", "_sum", "_count"].map(of).contains(&true);
            assert!(known, "there is no {name}, in {expression}");
        }
    }
}

#[test]
fn alarms_have_runbook_entries() {
    let alerts = read("config/alerts.yml");
    let runbook = read("docs/runbook.md").to_lowercase();
    for rule in alerts.split("- alert:").skip(1) {
        let name = rule.lines().next().unwrap().trim().to_lowercase();
        assert!(rule.contains(&format!("runbook: docs/runbook.md#{name}\n")), "{name}");
        assert!(runbook.contains(&format!("\n### {name}\n")), "docs/runbook.md has no {name}");
    }
}
