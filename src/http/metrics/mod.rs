//! `GET /metrics`: the metrics of this process and the latest dashboard sample, for Prometheus.

mod exposition;
mod process;
pub(super) mod server;

use hyper::header::{self, HeaderValue};

use super::dashboard::Sample;
use super::response::{Response, ResponseBody};
use super::state::AppState;
use crate::core::engine::Ports;
use crate::core::ports::usage::Service;
use exposition::Exposition;

/// Prometheus, "Exposition formats", "Basic info".
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) fn get(state: &AppState) -> Response {
    let mut out = Exposition::default();
    write_http(&mut out, state);
    write_meters(&mut out, &state.api.ports);
    if let Some(sample) = state.dashboard.sample_for_metrics() {
        write_sample(&mut out, &sample);
    }
    response(out)
}

fn write_http(out: &mut Exposition, state: &AppState) {
    let requests = state.requests.load(std::sync::atomic::Ordering::Relaxed);
    out.counter("flux_http_requests_total", "HTTP requests, including scrapes.", requests);
    let open = state.connections();
    out.gauge("flux_http_connections", "Open connections of the API.", open);
}

/// The metrics of a process without an API.
fn process_metrics(ports: &Ports) -> Response {
    let mut out = Exposition::default();
    write_meters(&mut out, ports);
    response(out)
}

fn response(mut out: Exposition) -> Response {
    process::write(&mut out);
    let mut response = Response::new(ResponseBody::whole(out.into_text()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(TEXT_FORMAT));
    response
}

fn write_meters(out: &mut Exposition, ports: &Ports) {
    let m = &ports.metrics;
    let build = [("version", env!("CARGO_PKG_VERSION")), ("commit", env!("COMMIT_OF_FLUX"))];
    out.family("flux_build_info", "gauge", "Version and commit of this process.");
    out.value("flux_build_info", &build, 1);
    out.counter("flux_orders_accepted_total", "Orders accepted (202).", m.accepted.get());
    let refused = "flux_orders_refused_total";
    out.family(refused, "counter", "Requests to /buy that were refused.");
    for (class, count) in ["4xx", "5xx"].into_iter().zip(&m.refused) {
        out.value(refused, &[("class", class)], count.get());
    }
    let decisions = "flux_decisions_total";
    out.family(decisions, "counter", "Orders decided by this process.");
    out.value(decisions, &[("outcome", "sold"), ("reason", "")], m.decisions.sold.get());
    out.value(decisions, &[("outcome", "expired"), ("reason", "")], m.decisions.expired.get());
    out.value(decisions, &[("outcome", "dropped"), ("reason", "")], m.decisions.dropped.get());
    for (reason, count) in m.decisions.rejected() {
        out.value(decisions, &[("outcome", "rejected"), ("reason", reason.as_str())], count);
    }
    out.counter("flux_units_sold_total", "Units sold by this process.", m.units_sold.get());
    let about = "Time from the acceptance of an order until its decision was written.";
    out.seconds("flux_decision_seconds", about, &m.decision);
    out.seconds("flux_ack_seconds", "Time from a request for an order to its 202.", &m.ack);
    out.seconds("flux_lock_wait_seconds", "Time to acquire an item's lock.", &m.lock_wait);
    out.sizes("flux_commit_orders", "Orders decided in one commit.", &m.decided_together);
    out.sizes("flux_send_orders", "Orders in one send to the queue.", &m.sent_together);
    for (name, about, counter) in [
        (
            "flux_ledger_conflicts_total",
            "Commits refused because another writer was first.",
            &m.conflicts,
        ),
        ("flux_ledger_unknown_total", "Commits without an answer.", &m.unknown_commits),
        ("flux_lock_busy_total", "Attempts to acquire a lock that was held.", &m.lock_busy),
        ("flux_lock_lost_total", "Locks lost while held.", &m.lock_lost),
        ("flux_redeliveries_total", "Messages received again.", &m.redeliveries),
    ] {
        out.counter(name, about, counter.get());
    }
    let about = "Orders received and not yet decided.";
    out.gauge("flux_orders_in_hand", about, m.in_flight.get());
    if ports.webhooks.is_some() {
        let name = "flux_webhooks_total";
        out.family(name, "counter", "Webhook attempts of this process.");
        for (result, count) in ["taken", "failed", "dead"].into_iter().zip(&m.webhooks) {
            out.value(name, &[("result", result)], count.get());
        }
        let about = "Waiting webhooks (messages on SQS); 0 from a process that sends none.";
        let waiting = m.webhooks_waiting.load(std::sync::atomic::Ordering::Relaxed);
        out.gauge("flux_webhooks_waiting", about, waiting);
    }
    write_calls(out, ports);
}

fn write_calls(out: &mut Exposition, ports: &Ports) {
    let name = "flux_service_calls_total";
    out.family(
        name,
        "counter",
        "Round trips to the services. error: refused or without an answer.",
    );
    let failures = ports.calls.failures();
    for ((service, operation), usage) in ports.calls.operations() {
        let service_name = match service {
            Service::Sqs => "sqs",
            Service::Dynamodb => "dynamodb",
            Service::Redis => "redis",
        };
        let failed = failures.get(&(service, operation.clone())).copied().unwrap_or(0);
        for (result, count) in [("ok", usage.round_trips.saturating_sub(failed)), ("error", failed)]
        {
            let labels =
                [("service", service_name), ("operation", &*operation), ("result", result)];
            out.value(name, &labels, count);
        }
    }
}

/// Unknown values are left out.
fn write_sample(out: &mut Exposition, sample: &Sample) {
    let backlog = sample.store.backlog.as_ref();
    if let Some(backlog) = backlog {
        let about = "Waiting orders (messages on SQS), including those in flight.";
        out.gauge("flux_backlog_orders", about, backlog.waiting);
        out.gauge("flux_dead_letters", "Dead letters.", backlog.dead_letters);
    }
    if sample.reports_age {
        let oldest = sample.oldest().map_or(0.0, |age| age.as_secs_f64());
        out.gauge("flux_backlog_oldest_seconds", "Age of the oldest waiting order.", oldest);
    }
    if let Some(errors) = sample.store.unit_errors {
        let about = "Units held and sold beyond the stock, according to the item counters.";
        out.gauge("flux_oversold_units", about, errors.oversold);
        let about = "Units missing from the item counters, or in excess.";
        out.gauge("flux_stranded_units", about, errors.stranded);
    }
    if let Some(processes) = &sample.processes {
        let deciding = processes.iter().filter(|process| process.heartbeat.concurrency > 0).count();
        out.gauge("flux_workers", "Live processes that decide orders.", deciding);
    }
}
