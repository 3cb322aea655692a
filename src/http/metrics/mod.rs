//! `GET /metrics`: this process's metrics, and the latest sample of its dashboard, as Prometheus
//! reads it.

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
    let mut page = Exposition::default();
    write_http(&mut page, state);
    write_meters(&mut page, &state.api.ports);
    if let Some(sample) = state.dashboard.scraped() {
        write_sample(&mut page, &sample);
    }
    response(page)
}

fn write_http(page: &mut Exposition, state: &AppState) {
    let requests = state.requests.load(std::sync::atomic::Ordering::Relaxed);
    page.counter("flux_http_requests_total", "HTTP requests, these ones included.", requests);
    let open = state.connections();
    page.gauge("flux_http_connections", "Open connections of the API.", open);
}

/// The metrics of a process without an API.
fn of_process(ports: &Ports) -> Response {
    let mut page = Exposition::default();
    write_meters(&mut page, ports);
    response(page)
}

fn response(mut page: Exposition) -> Response {
    process::write(&mut page);
    let mut response = Response::new(ResponseBody::whole(page.into_text()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(TEXT_FORMAT));
    response
}

fn write_meters(page: &mut Exposition, ports: &Ports) {
    let m = &ports.metrics;
    let build = [("version", env!("CARGO_PKG_VERSION")), ("commit", env!("COMMIT_OF_FLUX"))];
    page.family("flux_build_info", "gauge", "What this process was built from.");
    page.value("flux_build_info", &build, 1);
    page.counter("flux_orders_accepted_total", "Orders answered 202.", m.accepted.get());
    let refused = "flux_orders_refused_total";
    page.family(refused, "counter", "Requests for an order that were answered otherwise.");
    for (class, count) in ["4xx", "5xx"].into_iter().zip(&m.refused) {
        page.value(refused, &[("class", class)], count.get());
    }
    let decisions = "flux_decisions_total";
    page.family(decisions, "counter", "Orders decided by this process.");
    page.value(decisions, &[("outcome", "sold"), ("reason", "")], m.decisions.sold.get());
    page.value(decisions, &[("outcome", "expired"), ("reason", "")], m.decisions.expired.get());
    page.value(decisions, &[("outcome", "dropped"), ("reason", "")], m.decisions.dropped.get());
    for (reason, count) in m.decisions.rejected() {
        page.value(decisions, &[("outcome", "rejected"), ("reason", reason.as_str())], count);
    }
    page.counter("flux_units_sold_total", "Units sold by this process.", m.units_sold.get());
    let about = "From an order's acceptance until its decision was written.";
    page.seconds("flux_decision_seconds", about, &m.decision);
    page.seconds("flux_ack_seconds", "From an order's request to its 202.", &m.ack);
    page.seconds("flux_lock_wait_seconds", "Until an item's lock was had.", &m.lock_wait);
    page.sizes("flux_commit_orders", "Orders decided in one commit.", &m.decided_together);
    page.sizes("flux_send_orders", "Orders in one send to the queue.", &m.sent_together);
    for (name, about, counter) in [
        (
            "flux_ledger_conflicts_total",
            "Commits refused because somebody else had written first.",
            &m.conflicts,
        ),
        ("flux_ledger_unknown_total", "Commits that were not answered.", &m.unknown_commits),
        ("flux_lock_busy_total", "Times that a lock was somebody else's.", &m.lock_busy),
        ("flux_lock_lost_total", "Locks lost while they were held.", &m.lock_lost),
        ("flux_redeliveries_total", "Deliveries that had come before.", &m.redeliveries),
    ] {
        page.counter(name, about, counter.get());
    }
    let about = "Orders received and not yet decided.";
    page.gauge("flux_orders_in_hand", about, m.in_flight.get());
    if ports.webhooks.is_some() {
        let name = "flux_webhooks_total";
        page.family(name, "counter", "Attempts of this process to send a webhook.");
        for (result, count) in ["taken", "failed", "dead"].into_iter().zip(&m.webhooks) {
            page.value(name, &[("result", result)], count.get());
        }
        let about = "Webhooks (messages on SQS) that wait; 0 from a process that sends none.";
        let waiting = m.webhooks_waiting.load(std::sync::atomic::Ordering::Relaxed);
        page.gauge("flux_webhooks_waiting", about, waiting);
    }
    write_calls(page, ports);
}

fn write_calls(page: &mut Exposition, ports: &Ports) {
    let name = "flux_service_calls_total";
    page.family(name, "counter", "Round trips to the services; error: refused, or not answered.");
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
            page.value(name, &labels, count);
        }
    }
}

/// What is not known has no line.
fn write_sample(page: &mut Exposition, sample: &Sample) {
    let backlog = sample.store.backlog.as_ref();
    if let Some(backlog) = backlog {
        let about = "Orders (messages on SQS) that wait, those in workers' hands included.";
        page.gauge("flux_backlog_orders", about, backlog.waiting);
        page.gauge("flux_dead_letters", "Dead letters.", backlog.dead_letters);
    }
    if sample.tells_age {
        let oldest = sample.oldest().map_or(0.0, |age| age.as_secs_f64());
        page.gauge("flux_backlog_oldest_seconds", "Age of the oldest waiting order.", oldest);
    }
    if let Some(wrong) = sample.store.wrong {
        let about = "Units held and sold beyond the stock, by the items' counters.";
        page.gauge("flux_oversold_units", about, wrong.oversold);
        let about = "Units missing from, or too many in, the items' counters.";
        page.gauge("flux_stranded_units", about, wrong.stranded);
    }
    if let Some(processes) = &sample.processes {
        let deciding = processes.iter().filter(|process| process.heartbeat.concurrency > 0).count();
        page.gauge("flux_workers", "Living processes that decide.", deciding);
    }
}
