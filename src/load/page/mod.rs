//! The HTML report of `flux stress`: one self-contained file with plots, without scripts. `maud`
//! escapes all text.

mod charts;
mod plot;

use std::fmt::Display;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::cost::{Cost, OperationUsage};
use super::report::{Report, RequestsPerOrder};
use super::summary::AuditResult;
use plot::{latency, thousands};

const STYLE: &str = include_str!("style.css");
/// Forbids the page to fetch or run anything.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// Conditions of the run that the report does not contain.
#[derive(Debug, Clone, Default)]
pub struct Circumstances {
    pub command_line: String,
    /// Settings that differ from their defaults, without secrets.
    pub settings: Vec<(&'static str, String)>,
}

/// A figure, with its name and value in the JSON report as attributes.
fn figure(name: &str, value: impl Display, text: impl Display) -> Markup {
    html! { data data-name=(name) value=(value) { (text) } }
}

fn count(name: &str, value: u64) -> Markup {
    figure(name, value, thousands(value))
}

impl Report {
    /// One HTML document. Its size does not grow with the sale.
    pub fn page(&self, circumstances: &Circumstances) -> String {
        let title = format!("{}: {} buyers for {}", self.verdict, self.users, self.item_id);
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta http-equiv="Content-Security-Policy" content=(POLICY);
                    title { (title) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    (self.head())
                    main {
                        (self.broken_promises())
                        section { h2 { "Over time" } (self.over_time()) }
                        section { h2 { "Throughput and latency" } (self.speed()) (self.histograms()) }
                        section { h2 { "Orders by status" } (self.orders_by_status()) }
                        section { h2 { "Round trips and cost" } (self.round_trips()) }
                        section { h2 { "Test conditions" } (self.conditions(circumstances)) }
                    }
                    footer { "flux " (env!("CARGO_PKG_VERSION")) ", " (self.commit) }
                }
            }
        };
        page.into_string()
    }

    fn head(&self) -> Markup {
        let passed = self.verdict == AuditResult::Pass;
        let class = if passed { "pass" } else { "fail" };
        html! {
            header class=(class) {
                p.verdict { data data-name="verdict" value=(class) { (self.verdict) } }
                h1 {
                    (thousands(self.users)) " buyers for " span.units { (count("stock", self.stock))
                    (if self.stock == 1 { " unit" } else { " units" }) } " of " code { (self.item_id) }
                }
                dl.tiles {
                    div { dt { "sold" } dd { (count("sold", self.sold)) small { " of " (thousands(self.stock)) } } }
                    (tile("oversold", "oversold_units", self.oversold_units, "units held or sold in excess of the stock"))
                    (tile("stranded", "stranded_units", self.stranded_units, "unsold units although an order was rejected as sold out"))
                    (tile("undecided", "undecided", self.undecided, "accepted orders without a decision"))
                    (tile("decided twice", "decided_twice", self.decided_twice, "decisions that changed after they were first read"))
                }
                @if !self.by_ledger() {
                    p.note { "Audited by HTTP only: orders of other buyers are not included, and decisions over time are \
                        those that waiting buyers received." }
                }
            }
        }
    }

    fn broken_promises(&self) -> Markup {
        html! {
            @if !self.faults.is_empty() {
                section.faults {
                    h2 { "Broken promises" }
                    ul { @for fault in &self.faults { li { (fault) } } }
                }
            }
            @if let Some(text) = self.expectation() {
                p.remark { "Guards disabled on purpose: " (text) "." }
            }
        }
    }

    fn speed(&self) -> Markup {
        let whole = |rate: f64| thousands(rate.round() as u64);
        html! {
            dl.tiles {
                div { dt { "accepted per second" } dd { (figure("accepted_per_s", self.accepted_per_s, whole(self.accepted_per_s))) } }
                div { dt { "decided per second" } dd { (figure("decided_per_s", self.decided_per_s, whole(self.decided_per_s))) } }
                div { dt { "until the last acceptance" } dd { (figure("accepting_s", self.accepting_s, latency(self.accepting_s * 1e3))) } }
                div { dt { "until the last decision" } dd { (figure("deciding_s", self.deciding_s, latency(self.deciding_s * 1e3))) } }
            }
            div.wide { table {
                thead { tr { th { "time since the scheduled send" } th { "p50" } th { "p99" } th { "p99.9" } th { "max" } } }
                tbody { @for (name, of, at) in [
                    ("ack_ms", "acknowledged", self.ack_ms),
                    ("decision_ms", "decision received by the buyer", self.decision_ms),
                ] { @if let Some(at) = at {
                    tr {
                        th { (of) }
                        @for (which, ms) in [("p50", at.p50), ("p99", at.p99), ("p999", at.p999), ("max", at.max)] {
                            td { (figure(&format!("{name}.{which}"), ms, latency(ms))) }
                        }
                    }
                } } }
            } }
        }
    }

    fn orders_by_status(&self) -> Markup {
        let mut rows =
            vec![(count("accepted", self.accepted), "accepted".to_owned(), self.accepted)];
        let sold = self.accepted - self.rejected_and_open();
        rows.push((html! { (thousands(sold)) }, "sold".to_owned(), sold));
        for (reason, orders) in &self.reasons {
            let cell = count(&format!("reasons.{reason}"), *orders);
            rows.push((cell, format!("rejected: {}", reason.replace('_', " ")), *orders));
        }
        for (name, text, orders) in [
            ("expired", "expired", self.expired),
            ("dropped", "dropped", self.dropped),
            ("dead_lettered", "in the dead-letter queue", self.dead_lettered),
            ("missing_orders", "accepted, but not found any more", self.missing_orders),
        ] {
            rows.push((count(name, orders), text.to_owned(), orders));
        }
        rows.push((html! { (thousands(self.undecided)) }, "undecided".to_owned(), self.undecided));
        rows.retain(|(_, name, orders)| *orders > 0 || name == "sold");
        let part = |orders: u64| 100.0 * orders as f64 / self.accepted.max(1) as f64;
        html! {
            div.wide { table.bars { tbody { @for (cell, name, orders) in rows {
                tr {
                    th { (name) } td { (cell) }
                    td.part { (format!("{:.1} %", part(orders))) }
                    td.drawn { svg viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true" {
                        rect.bar width=(format!("{:.2}", part(orders))) height="8" {}
                    } }
                }
            } } } }
            p.note {
                "Requests, including repeats and retries: " (count("requests", self.requests))
                "; responses 429 and 503: " (count("refused", self.refused))
                "; connection errors: " (count("connection_errors", self.connection_errors))
                ". Orders rejected: " (count("rejected", self.rejected)) "; units held: " (count("held", self.held))
                @if let Some(inversions) = self.inversions {
                    "; orders decided out of order: " (count("inversions", inversions))
                }
                "."
            }
        }
    }

    fn rejected_and_open(&self) -> u64 {
        let rejected: u64 = self.reasons.values().sum();
        let decided = rejected + self.expired + self.dropped;
        decided + self.undecided + self.dead_lettered + self.missing_orders
    }

    fn round_trips(&self) -> Markup {
        let Some(RequestsPerOrder { sqs, redis, dynamodb }) = self.requests_per_order else {
            return html! { p { "Not available with --target: only the server's processes can count them." } };
        };
        if self.backend == "embedded" {
            return html! { p { "None: the embedded backend is a local file." } };
        }
        let trips = |name: &str, per: f64| {
            figure(&format!("requests_per_order.{name}"), per, format!("{per:.4}"))
        };
        html! {
            p {
                "Round trips per accepted order, from the first send to the last acknowledgement: SQS "
                (trips("sqs", sqs)) ", DynamoDB " (trips("dynamodb", dynamodb)) ", Redis " (trips("redis", redis)) "."
            }
            @if let Some(cost) = &self.cost { (self.price(cost)) }
        }
    }

    fn price(&self, cost: &Cost) -> Markup {
        let per = &cost.per_1000_orders;
        let dollars = |name: &str, usd: f64| {
            figure(&format!("cost.per_1000_orders.{name}"), usd, format!("${usd:.6}"))
        };
        html! {
            p {
                "1,000 orders cost " strong { (dollars("usd", per.usd)) } ": SQS " (dollars("sqs_usd", per.sqs_usd))
                ", DynamoDB " (dollars("dynamodb_usd", per.dynamodb_usd)) " (prices of " (cost.region) ", "
                (cost.as_of) "); Redis is billed by the hour."
            }
            div.wide { table {
                thead { tr { th { "operation" } th { "round trips" } th { "requests" } th { "write units" } th { "read units" } th { "requests per order" } } }
                tbody { @for OperationUsage { service, operation, usage } in &cost.operations {
                    tr {
                        th { (format!("{service:?}")) " " (operation) }
                        td { (thousands(usage.round_trips)) } td { (thousands(usage.requests)) }
                        td { (thousands(usage.write_units.round() as u64)) }
                        td { (thousands(usage.read_units.round() as u64)) }
                        td { (format!("{:.4}", usage.requests as f64 / self.accepted.max(1) as f64)) }
                    }
                } }
            } }
        }
    }

    fn conditions(&self, circumstances: &Circumstances) -> Markup {
        let memory = self.machine.memory_bytes.map_or(String::new(), |bytes| {
            format!(", {:.1} GiB of memory", bytes as f64 / f64::from(1 << 30))
        });
        let rate = self.rate.map_or("whenever a connection is free".to_owned(), |rate| {
            format!("{rate} per second, on schedule whether or not responses arrive")
        });
        let workers = self.workers.map_or("unknown".to_owned(), |n| n.to_string());
        let without: Vec<&str> = self.without.iter().map(|guard| guard.as_str()).collect();
        let mut rows = vec![
            ("command", circumstances.command_line.clone()),
            ("started", self.started_at.clone()),
            ("machine", format!("{} cores, {}{memory}", self.machine.cores, self.machine.os)),
            ("commit", self.commit.to_owned()),
            ("backend", self.backend.clone()),
            ("workers", workers),
            ("connections", thousands(self.connections as u64)),
            ("requests sent", rate),
            (
                "repeated orders",
                format!("{} of the buyers, with one Idempotency-Key", self.duplicates),
            ),
            ("seed", self.seed.to_string()),
            ("audited by", if self.by_ledger() { "the stored orders" } else { "HTTP" }.to_owned()),
        ];
        if !without.is_empty() {
            rows.push(("disabled guards", without.join(", ")));
        }
        rows.extend(circumstances.settings.iter().map(|(key, value)| (*key, value.clone())));
        html! {
            dl.rows { @for (name, value) in rows {
                dt { (name) } dd { @if name == "command" { code { (value) } } @else { (value) } }
            } }
        }
    }
}

fn tile(name: &str, figure: &str, value: u64, description: &str) -> Markup {
    let class = if value == 0 { "good" } else { "bad" };
    html! {
        div class=(class) title=(description) { dt { (name) } dd { (count(figure, value)) } }
    }
}
