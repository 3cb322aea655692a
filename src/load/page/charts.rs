//! The plots of a load test, and a table of their figures.

use maud::{Markup, html};

use super::plot::{Axis, Plot, amount, latency, thousands};
use crate::load::http_audit::ShownItem;
use crate::load::plan::BUYERS_PER_WAITER;
use crate::load::report::Report;
use crate::load::stats::{LatencyBin, Percentiles};
use crate::load::timeline::TimeBin;

const WIDE: f64 = 760.0;
const HALF: f64 = 480.0;

impl Report {
    pub(super) fn by_ledger(&self) -> bool {
        self.audited_by == "ledger"
    }

    /// Orders accepted and decided in a bin: by the ledger, or with `--target` by the responses.
    fn accepted_and_decided(&self, bin: &TimeBin) -> (u64, u64) {
        match self.by_ledger() {
            true => (bin.accepted, bin.decided),
            false => (bin.acknowledged, bin.observed),
        }
    }

    fn end(&self) -> f64 {
        self.plots.timeline.bins().len() as f64 * self.plots.timeline.bin_seconds()
    }

    pub(super) fn over_time(&self) -> Markup {
        if self.plots.timeline.bins().is_empty() {
            return html! { p { "No requests were sent." } };
        }
        html! {
            (self.rates())
            @if self.by_ledger() { (self.stock_by_ledger()) (self.waiting()) }
            @else { (self.stock_by_samples()) }
            (self.table())
        }
    }

    fn rates(&self) -> Markup {
        let timeline = &self.plots.timeline;
        let span = timeline.bin_seconds();
        let rate = |count: &dyn Fn(&TimeBin) -> u64| -> Vec<f64> {
            timeline.bins().iter().map(|bin| count(bin) as f64 / span).collect()
        };
        let requests = rate(&|bin| bin.requests);
        let refused = rate(&|bin| bin.refused);
        let accepted = rate(&|bin| self.accepted_and_decided(bin).0);
        let decided = rate(&|bin| self.accepted_and_decided(bin).1);
        let max = |rates: &[f64]| rates.iter().copied().fold(0.0, f64::max);
        let highest = [&requests, &accepted, &decided].map(|rates| max(rates));
        let plot = Plot {
            id: "rates",
            width: WIDE,
            title: "Requests and decisions per second",
            description: format!(
                "Averages over {}. Peaks: {} requests, {} orders accepted, {} decided per second.",
                latency(span * 1_000.0),
                thousands(highest[0] as u64),
                thousands(highest[1] as u64),
                thousands(highest[2] as u64)
            ),
            x: Axis::time(self.end(), "time since start"),
            y: Axis::amounts(highest.into_iter().fold(0.0, f64::max), "per second"),
            marks: Vec::new(),
        };
        let decided_name = match self.by_ledger() {
            true => "decided".to_owned(),
            false => format!("decisions received by waiting buyers (1 of {BUYERS_PER_WAITER})"),
        };
        let any_refused = self.refused > 0;
        let drawn = html! {
            path.area.accepted d=(plot.between(span, &accepted, &vec![0.0; accepted.len()])) {}
            path.line.requests d=(plot.steps(span, &requests)) {}
            path.line.accepted d=(plot.steps(span, &accepted)) {}
            @if any_refused { path.line.refused d=(plot.steps(span, &refused)) {} }
            path.line.decided d=(plot.steps(span, &decided)) {}
        };
        let mut legend = vec![("requests", "requests"), ("accepted", "orders accepted")];
        legend.push(("decided", &decided_name));
        if any_refused {
            legend.push(("refused", "responses 429 and 503"));
        }
        figure(&plot, drawn, &legend)
    }

    /// The stock until the last unit was sold, and a little longer.
    fn stock_by_ledger(&self) -> Markup {
        let span = self.plots.sold.bin_seconds();
        let mut sold = running_sums(self.plots.sold.bins().iter().map(|bin| bin.sold));
        let stock = self.stock as f64;
        let last = sold.last().copied().unwrap_or(0.0);
        let after = (sold.len() / 8 + 1).min((self.end() / span) as usize);
        sold.resize(sold.len() + after, last);
        let result = match sold.iter().position(|sold| *sold >= stock) {
            Some(at) => format!("sold out within {}", latency((at + 1) as f64 * span * 1_000.0)),
            None => format!("{} sold", amount(last)),
        };
        let oversold = match self.oversold_units {
            0 => String::new(),
            units => format!(", {} oversold", thousands(units)),
        };
        let units = if self.stock == 1 { "unit" } else { "units" };
        let description = format!("{} {units}: {result}{oversold}.", thousands(self.stock));
        let plot = stock_plot(description, sold.len() as f64 * span, last.max(stock));
        let within: Vec<f64> = sold.iter().map(|sold| sold.min(stock)).collect();
        let nothing = vec![0.0; sold.len()];
        let all = vec![stock; sold.len()];
        let drawn = html! {
            path.area.sold d=(plot.between(span, &within, &nothing)) {}
            path.area.free d=(plot.between(span, &all, &within)) {}
            @if self.oversold_units > 0 {
                path.area.over d=(plot.between(span, &sold, &within)) {}
            }
            (plot.level(stock))
        };
        let mut legend = vec![("sold", "sold"), ("free", "free"), ("level", "stock")];
        if self.oversold_units > 0 {
            legend.push(("over", "oversold"));
        }
        figure(&plot, drawn, &legend)
    }

    /// The stock that a `--target` server showed, which includes units of other buyers.
    fn stock_by_samples(&self) -> Markup {
        let samples = &self.plots.stock;
        let Some(last) = samples.last() else {
            return html! { p.note { "The server showed no stock of this item." } };
        };
        let span = self.plots.timeline.bin_seconds();
        let mut items = Vec::new();
        for n in 0..self.plots.timeline.bins().len() {
            let until = (n + 1) as f64 * span;
            let before = samples.iter().take_while(|s| s.since_start.as_secs_f64() <= until);
            items.push(before.last().unwrap_or(&samples[0]).item);
        }
        let units = |count: &dyn Fn(&ShownItem) -> u64| -> Vec<f64> {
            items.iter().map(|item| count(item) as f64).collect()
        };
        let sold = units(&|item| item.sold);
        let taken = units(&|item| item.sold + item.held);
        let all = units(&|item| item.sold + item.held + item.free);
        let most = all.iter().copied().fold(last.item.stock as f64, f64::max);
        let description = format!(
            "As shown by the server, including other buyers' units: {} of {} sold at the end.",
            thousands(last.item.sold),
            thousands(last.item.stock)
        );
        let plot = stock_plot(description, self.end(), most);
        let drawn = html! {
            path.area.sold d=(plot.between(span, &sold, &vec![0.0; sold.len()])) {}
            path.area.held d=(plot.between(span, &taken, &sold)) {}
            path.area.free d=(plot.between(span, &all, &taken)) {}
            (plot.level(last.item.stock as f64))
        };
        let mut legend = vec![("sold", "sold"), ("free", "free"), ("level", "stock at the end")];
        if sold != taken {
            legend.insert(1, ("held", "held"));
        }
        figure(&plot, drawn, &legend)
    }

    /// Orders accepted and not yet decided, at the end of each bin.
    fn waiting(&self) -> Markup {
        let timeline = &self.plots.timeline;
        let span = timeline.bin_seconds();
        let accepted = running_sums(timeline.bins().iter().map(|bin| bin.accepted));
        let decided = running_sums(timeline.bins().iter().map(|bin| bin.decided));
        let waiting: Vec<f64> =
            accepted.iter().zip(&decided).map(|(a, d)| (a - d).max(0.0)).collect();
        let most = waiting.iter().copied().fold(0.0, f64::max);
        let plot = Plot {
            id: "waiting",
            width: WIDE,
            title: "Orders waiting for a decision",
            description: format!("At most {}.", thousands(most as u64)),
            x: Axis::time(self.end(), "time since start"),
            y: Axis::amounts(most, "orders"),
            marks: Vec::new(),
        };
        let drawn = html! {
            path.area.waiting d=(plot.between(span, &waiting, &vec![0.0; waiting.len()])) {}
            path.line.waiting d=(plot.steps(span, &waiting)) {}
        };
        figure(&plot, drawn, &[])
    }

    fn table(&self) -> Markup {
        let timeline = &self.plots.timeline;
        let span = timeline.bin_seconds();
        html! {
            details {
                summary { "Figures" }
                div.wide { table {
                    thead { tr {
                        th { "until (s)" } th { "requests" } th { "429 and 503" }
                        th { "accepted" }
                        th { @if self.by_ledger() { "decided" } @else { "decisions received" } }
                        @if self.by_ledger() { th { "units sold" } }
                    } }
                    tbody { @for (n, bin) in timeline.bins().iter().enumerate() {
                        @let (accepted, decided) = self.accepted_and_decided(bin);
                        tr {
                            td { (format!("{:.3}", (n + 1) as f64 * span)) }
                            @for figure in [bin.requests, bin.refused, accepted, decided] {
                                td { (thousands(figure)) }
                            }
                            @if self.by_ledger() { td { (thousands(bin.sold)) } }
                        }
                    } }
                } }
            }
        }
    }

    pub(super) fn histograms(&self) -> Markup {
        let latencies = [
            ("ack", "Time to acknowledgement", &self.plots.ack, self.ack_ms),
            (
                "decision",
                "Time until the buyer received the decision",
                &self.plots.decision,
                self.decision_ms,
            ),
        ];
        html! {
            div.pair { @for (id, title, bins, percentiles) in latencies {
                @if let Some(percentiles) = percentiles { (histogram(id, title, bins, percentiles)) }
                @else { p.note { (title) ": nothing was measured." } }
            } }
        }
    }
}

fn histogram(
    id: &'static str,
    title: &'static str,
    bins: &[LatencyBin],
    percentiles: Percentiles,
) -> Markup {
    let (from, to) = bins.first().zip(bins.last()).map_or((1.0, 10.0), |(first, last)| {
        // At least a factor of ten, so that a single bar does not fill the plot.
        let middle = (first.from_ms * last.to_ms).sqrt();
        (first.from_ms.min(middle / 3.2), last.to_ms.max(middle * 3.2))
    });
    let most = bins.iter().map(|bin| bin.count).max().unwrap_or(0);
    let Percentiles { p50, p99, p999, max } = percentiles;
    let mark = |(name, ms): (&str, f64)| (ms.clamp(from, to), format!("{name} {}", latency(ms)));
    let marks = [("p50", p50), ("p99", p99), ("p99.9", p999), ("max", max)];
    let marks: Vec<(f64, String)> = marks.map(mark).into();
    let plot = Plot {
        id,
        width: HALF,
        title,
        description: marks.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join(", "),
        x: Axis::latency(from, to),
        y: Axis::amounts(most as f64, "orders"),
        marks,
    };
    let drawn = html! {
        @for bin in bins.iter().filter(|bin| bin.count > 0) {
            (plot.bar(bin.from_ms, bin.to_ms, bin.count as f64))
        }
    };
    figure(&plot, drawn, &[])
}

fn figure(plot: &Plot, drawn: Markup, legend: &[(&str, &str)]) -> Markup {
    html! {
        figure {
            figcaption { strong { (plot.title) } " " span.description { (plot.description) } }
            @if !legend.is_empty() {
                ul.legend { @for (class, name) in legend { li { i.(class) {} (name) } } }
            }
            div.wide { (plot.draw(drawn)) }
        }
    }
}

fn stock_plot(description: String, end: f64, most: f64) -> Plot {
    Plot {
        id: "stock",
        width: WIDE,
        title: "Stock over time",
        description,
        x: Axis::time(end, "time since start"),
        y: Axis::amounts(most, "units"),
        marks: Vec::new(),
    }
}

fn running_sums(amounts: impl Iterator<Item = u64>) -> Vec<f64> {
    let mut sum = 0;
    let add = |amount| {
        sum += amount;
        sum as f64
    };
    amounts.map(add).collect()
}
