//! Traces across processes, from a buyer's request to the decision.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::logs::{buy_with, end};
use super::{PATIENCE, Workdir, decided, story};
use crate::traces::{CALLER, TRACE, traceparent};

/// Receives OTLP over HTTP, as JSON, on loopback.
struct Collector {
    url: String,
    /// The spans, each with its resource added as `resource`.
    spans: Arc<Mutex<Vec<Value>>>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Collector {
    fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let collector = Collector { url, spans: Arc::default(), heads: Arc::default() };
        let spans = collector.spans.clone();
        let heads = collector.heads.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let spans = spans.clone();
                let heads = heads.clone();
                std::thread::spawn(move || while receive(&stream, &spans, &heads).is_some() {});
            }
        });
        collector
    }

    fn find(&self, name: &str) -> Vec<Value> {
        let spans = self.spans.lock().unwrap();
        spans.iter().filter(|span| span["name"] == name).cloned().collect()
    }
}

/// Receives one request; `None` at the end of the connection.
fn receive(
    stream: &TcpStream,
    spans: &Mutex<Vec<Value>>,
    heads: &Mutex<Vec<String>>,
) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    let mut length = 0;
    while !head.ends_with("\r\n\r\n") {
        let before = head.len();
        reader.read_line(&mut head).ok().filter(|read| *read > 0)?;
        if let Some(value) = head[before..].to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let exported: Value = serde_json::from_slice(&body).unwrap();
    for of_resource in exported["resourceSpans"].as_array().unwrap() {
        for of_scope in of_resource["scopeSpans"].as_array().unwrap() {
            for span in of_scope["spans"].as_array().unwrap() {
                let mut span = span.clone();
                span["resource"] = of_resource["resource"].clone();
                spans.lock().unwrap().push(span);
            }
        }
    }
    heads.lock().unwrap().push(head);
    let mut stream = stream;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").ok()
}

fn attribute(of: &Value, key: &str) -> String {
    let attributes = of["attributes"].as_array().unwrap();
    let found = attributes.iter().find(|a| a["key"] == key).map(|a| &a["value"]);
    let found = found.unwrap_or_else(|| panic!("no {key} in {of}"));
    found["stringValue"].as_str().or(found["intValue"].as_str()).unwrap().to_owned()
}

/// Sends an order with a trace and one with a malformed trace, with `serve` and `work` as separate
/// processes.
fn follow_an_order(workdir: Workdir) {
    let collector = Collector::start();
    let workdir = workdir
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url)
        .with("OTEL_EXPORTER_OTLP_HEADERS", "x-sesame=open%2Dsesame%2Dplease")
        // Variables of the SDK that flux does not check; they must have no effect.
        .with("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-unchecked=1")
        .with("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1")
        .with("OTEL_SERVICE_NAME", "the shop")
        .with("FLUX_TRACE_RATIO", "0")
        .with("FLUX_LOG", "info,flux::calls=debug");
    let (serve, address) = workdir.serve("");
    let mut work = workdir.start("work");
    work.log_line("working on");
    let headers = [("traceparent", &*traceparent()), ("tracestate", "shop=1")];
    let order = buy_with(&address, &headers, "ann");
    assert_eq!(decided(&address, &order)["status"], "sold");
    let malformed = traceparent().to_uppercase();
    let untraced = buy_with(&address, &[("traceparent", &malformed)], "bob");
    assert_eq!(decided(&address, &untraced)["status"], "rejected");
    let logged = [end(serve), end(work)].concat().concat();
    assert!(!logged.contains("open-sesame-please") && !logged.contains("WARN"), "{logged}");

    let only = |name| match &collector.find(name)[..] {
        [one] => one.clone(),
        spans => panic!("{name}: {spans:#?}"),
    };
    let request = only("POST /buy");
    let decide = only("decide");
    let batch = only("decide batch");
    assert_eq!((request["traceId"].as_str(), request["kind"].as_u64()), (Some(TRACE), Some(2)));
    assert_eq!(request["parentSpanId"], CALLER);
    assert_eq!(request["traceState"], "shop=1");
    assert_eq!(attribute(&request, "http.response.status_code"), "202");
    assert_eq!(attribute(&request["resource"], "service.name"), "the shop");
    for part in [&decide, &batch, &only("send"), &only("receive")] {
        assert_eq!(
            (&part["traceId"], &part["parentSpanId"]),
            (&request["traceId"], &request["spanId"])
        );
    }
    for (key, value) in [
        ("flux.order_id", order.as_str()),
        ("flux.item_id", "ticket_001"),
        ("flux.outcome", "sold"),
        ("flux.attempt", "1"),
        ("messaging.batch.message_count", "1"),
    ] {
        assert_eq!(attribute(&decide, key), value);
    }
    assert_eq!(decide["links"][0]["spanId"], batch["spanId"]);
    assert_eq!(batch["links"][0]["spanId"], request["spanId"]);
    assert_eq!(only("ledger.commit")["parentSpanId"], batch["spanId"]);
    let nanos = |span: &Value, key: &str| span[key].as_str().unwrap().parse::<u64>().unwrap();
    let begun = nanos(&request, "startTimeUnixNano");
    let ended = nanos(&decide, "endTimeUnixNano");
    assert!(begun < ended && ended - begun < PATIENCE.as_nanos() as u64, "{begun} {ended}");
    let heads = collector.heads.lock().unwrap();
    let is_right = |head: &&String| {
        let is_ours = head.contains("open-sesame-please") && !head.contains("x-unchecked");
        head.starts_with("POST /v1/traces ") && is_ours
    };
    assert_eq!(heads.iter().filter(is_right).count(), heads.len());
}

#[test]
fn trace_spans_request_and_decision() {
    follow_an_order(Workdir::new());
}

#[cfg(all(feature = "aws", feature = "redis"))]
#[test]
fn trace_continues_through_sqs() {
    let redis = crate::conformance::address("FLUX_TEST_REDIS");
    let (workdir, _) = story::provisioned(Workdir::on_aws().with("REDIS_URL", &redis), "");
    follow_an_order(workdir);
}

#[test]
fn unavailable_collector_delays_nothing() {
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = format!("http://{}", mute.local_addr().unwrap());
    for (url, is_away) in [("http://127.0.0.1:1", true), (mute.as_str(), false)] {
        let workdir = Workdir::new().with("FLUX_OTLP_ENDPOINT", url).with("FLUX_TRACE_RATIO", "1");
        let (mut serve, address) = workdir.serve("--workers 5");
        let order = buy_with(&address, &[("Accept", "*/*")], "ann");
        assert_eq!(decided(&address, &order)["status"], "sold");
        if is_away {
            serve.log_line("trace export failed");
        }
        let logged = end(serve).concat();
        assert!(logged.contains("trace export failed"), "{logged}");
        assert!(!logged.contains("exiting at once"), "{logged}");
    }
}

#[test]
fn invalid_collector_is_refused_without_secrets() {
    let refused = |name, value| Workdir::new().with(name, value).refused("work");
    let endpoint = |value| {
        let line = refused("OTEL_EXPORTER_OTLP_ENDPOINT", value);
        assert!(line.contains("otlp_endpoint") && line.contains("http://127.0.0.1:4318"), "{line}");
    };
    endpoint("127.0.0.1:4318");
    endpoint("http://me:open-sesame-please@127.0.0.1:4318");
    let workdir = Workdir::new().with("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
    let line = workdir.with("OTEL_EXPORTER_OTLP_HEADERS", "open-sesame-please").refused("work");
    assert!(line.contains("NAME=VALUE"), "{line}");
}
