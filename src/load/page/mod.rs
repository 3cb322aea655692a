//! The report of `flux stress` for people: one HTML file with plots, which needs nothing from
//! outside and no script. All text is escaped by `maud`.

mod charts;
mod plot;

use std::fmt::Display;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::cost::Cost;
use super::report::{Report, RequestsPerOrder};
use super::summary::AuditResult;
use plot::{latency, thousands};

const STYLE: &str = include_str!("style.css");
/// The file may show what is in it, and fetch nothing.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// What the report itself does not know.
#[derive(Debug, Clone, Default)]
pub struct Circumstances {
    pub command_line: String,
    /// Settings other than the default ones, and no secret.
    pub settings: Vec<(&'static str, String)>,
}

/// A figure of the JSON report under its name there, with its value beside what people read.
fn figure(name: &str, value: impl Display, text: impl Display) -> Markup {
    html! { data data-name=(name) value=(value) { (text) } }
}

fn count(name: &str, value: u64) -> Markup {
    figure(name, value, thousands(value))
}

impl Report {
    /// One HTML document. Its size does not grow with the sale.
    pub fn page(&self, around: &Circumstances) -> String {
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
                        (self.what_broke())
                        section { h2 { "Over time" } (self.over_time()) }
                        section { h2 { "How long it took" } (self.speed()) (self.histograms()) }
                        section { h2 { "What became of the orders" } (self.outcomes()) }
                        section { h2 { "What it took" } (self.round_trips()) }
                        section { h2 { "Circumstances" } (self.circumstances(around)) }
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
                    (tile("oversold", "oversold_units", self.oversold_units, "more units sold and held than there were"))
                    (tile("stranded", "stranded_units", self.stranded_units, "units left over although a buyer was told: sold out"))
                    (tile("undecided", "undecided", self.undecided, "accepted orders without a decision"))
                    (tile("decided twice", "decided_twice", self.decided_twice, "answers that changed after they were first seen"))
                }
                @if !self.by_ledger() {
                    p.note { "Audited by HTTP only: orders of other buyers were not seen, and decisions over time are \
                        those that waiting buyers saw." }
                }
            }
        }
    }

    fn what_broke(&self) -> Markup {
        html! {
            @if !self.faults.is_empty() {
                section.faults {
                    h2 { "What broke" }
                    ul { @for fault in &self.faults { li { (fault) } } }
                }
            }
            @if let Some(remark) = self.expectation() {
                p.remark { "Without a guard, on purpose: " (remark) "." }
            }
        }
    }

    fn speed(&self) -> Markup {
        let whole = |rate: f64| thousands(rate.round() as u64);
        html! {
            dl.tiles {
                div { dt { "accepted a second" } dd { (figure("accepted_per_s", self.accepted_per_s, whole(self.accepted_per_s))) } }
                div { dt { "decided a second" } dd { (figure("decided_per_s", self.decided_per_s, whole(self.decided_per_s))) } }
                div { dt { "until the last acceptance" } dd { (figure("accepting_s", self.accepting_s, latency(self.accepting_s * 1e3))) } }
                div { dt { "until the last decision" } dd { (figure("deciding_s", self.deciding_s, latency(self.deciding_s * 1e3))) } }
            }
            div.wide { table {
                thead { tr { th { "counted from the scheduled instant" } th { "p50" } th { "p99" } th { "p99.9" } th { "max" } } }
                tbody { @for (name, of, at) in [
                    ("ack_ms", "acknowledged", self.ack_ms),
                    ("decision_ms", "decision seen by the buyer", self.decision_ms),
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

    fn outcomes(&self) -> Markup {
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
            ("missing_orders", "accepted, and known to nobody any more", self.missing_orders),
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
                (count("requests", self.requests)) " requests were sent, repeats and renewed attempts among them: "
                (count("refused", self.refused)) " were told to come again, "
                (count("connection_errors", self.connection_errors)) " connections were lost. "
                "Rejected in all: " (count("rejected", self.rejected)) "; held: " (count("held", self.held))
                @if let Some(inversions) = self.inversions {
                    "; decided out of turn: " (count("inversions", inversions))
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
            return html! { p { "Only the server's own processes could count their requests." } };
        };
        if self.backend == "embedded" {
            return html! { p { "No request over the network: the embedded backend is one file, and not paid by use." } };
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
                (cost.as_of) "); Redis is paid by the hour."
            }
            div.wide { table {
                thead { tr { th { "operation" } th { "round trips" } th { "requests" } th { "write units" } th { "read units" } th { "requests per order" } } }
                tbody { @for made in &cost.operations {
                    tr {
                        th { (format!("{:?}", made.service)) " " (made.operation) }
                        td { (thousands(made.usage.round_trips)) } td { (thousands(made.usage.requests)) }
                        td { (thousands(made.usage.write_units.round() as u64)) }
                        td { (thousands(made.usage.read_units.round() as u64)) }
                        td { (format!("{:.4}", made.usage.requests as f64 / self.accepted.max(1) as f64)) }
                    }
                } }
            } }
        }
    }

    fn circumstances(&self, around: &Circumstances) -> Markup {
        let memory = self.machine.memory_bytes.map_or(String::new(), |bytes| {
            format!(", {:.1} GiB of memory", bytes as f64 / f64::from(1 << 30))
        });
        let rate = self.rate.map_or("whenever a connection is free".to_owned(), |rate| {
            format!("{rate} a second, on time whether or not answers come")
        });
        let workers = self.workers.map_or("the server's own".to_owned(), |n| n.to_string());
        let without: Vec<&str> = self.without.iter().map(|guard| guard.as_str()).collect();
        let mut rows = vec![
            ("command", around.command_line.clone()),
            ("started", self.started_at.clone()),
            ("machine", format!("{} cores, {}{memory}", self.machine.cores, self.machine.os)),
            ("built from", self.commit.to_owned()),
            ("backend", self.backend.clone()),
            ("workers", workers),
            ("connections that send orders", thousands(self.connections as u64)),
            ("requests are sent", rate),
            ("repeated under one key", format!("{} of the buyers", self.duplicates)),
            ("seed", self.seed.to_string()),
            (
                "audited",
                format!("by {}", if self.by_ledger() { "the stored orders" } else { "HTTP" }),
            ),
        ];
        if !without.is_empty() {
            rows.push(("without", without.join(", ")));
        }
        rows.extend(around.settings.iter().map(|(key, value)| (*key, value.clone())));
        html! {
            dl.rows { @for (name, value) in rows {
                dt { (name) } dd { @if name == "command" { code { (value) } } @else { (value) } }
            } }
        }
    }
}

fn tile(name: &str, figure: &str, value: u64, means: &str) -> Markup {
    let class = if value == 0 { "good" } else { "bad" };
    html! {
        div class=(class) title=(means) { dt { (name) } dd { (count(figure, value)) } }
    }
}
