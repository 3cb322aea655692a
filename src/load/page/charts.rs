//! What is plotted of a sale, and its figures for who would rather read them.

use maud::{Markup, html};

use super::plot::{Axis, Plot, amount, latency, thousands};
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

    /// Orders accepted and decided in a span, by whoever knows best.
    fn known(&self, span: &TimeBin) -> (u64, u64) {
        match self.by_ledger() {
            true => (span.accepted, span.decided),
            false => (span.acknowledged, span.seen),
        }
    }

    fn end(&self) -> f64 {
        self.plots.timeline.bins().len() as f64 * self.plots.timeline.bin_seconds()
    }

    pub(super) fn over_time(&self) -> Markup {
        if self.plots.timeline.bins().is_empty() {
            return html! { p { "Nothing happened." } };
        }
        html! {
            (self.rates())
            @if self.by_ledger() { (self.stock_by_ledger()) (self.waiting()) }
            @else { (self.stock_as_seen()) }
            (self.table())
        }
    }

    fn rates(&self) -> Markup {
        let timeline = &self.plots.timeline;
        let span = timeline.bin_seconds();
        let rate = |of: &dyn Fn(&TimeBin) -> u64| -> Vec<f64> {
            timeline.bins().iter().map(|at| of(at) as f64 / span).collect()
        };
        let requests = rate(&|at| at.requests);
        let refused = rate(&|at| at.refused);
        let accepted = rate(&|at| self.known(at).0);
        let decided = rate(&|at| self.known(at).1);
        let most = |rates: &[f64]| rates.iter().copied().fold(0.0, f64::max);
        let highest = [&requests, &accepted, &decided].map(|rates| most(rates));
        let plot = Plot {
            id: "rates",
            width: WIDE,
            title: "Arrivals and decisions per second",
            says: format!(
                "In spans of {}: at most {} requests, {} orders accepted and {} decided a second.",
                latency(span * 1_000.0),
                thousands(highest[0] as u64),
                thousands(highest[1] as u64),
                thousands(highest[2] as u64)
            ),
            x: Axis::time(self.end(), "since the start"),
            y: Axis::amounts(highest.into_iter().fold(0.0, f64::max), "per second"),
            marks: Vec::new(),
        };
        let decided_name = match self.by_ledger() {
            true => "decided".to_owned(),
            false => format!("decisions seen by the one buyer in {BUYERS_PER_WAITER} who waits"),
        };
        let come_again = self.refused > 0;
        let drawn = html! {
            path.area.accepted d=(plot.between(span, &accepted, &vec![0.0; accepted.len()])) {}
            path.line.requests d=(plot.steps(span, &requests)) {}
            path.line.accepted d=(plot.steps(span, &accepted)) {}
            @if come_again { path.line.refused d=(plot.steps(span, &refused)) {} }
            path.line.decided d=(plot.steps(span, &decided)) {}
        };
        let mut legend = vec![("requests", "requests to buy"), ("accepted", "orders accepted")];
        legend.push(("decided", &decided_name));
        if come_again {
            legend.push(("refused", "told to come again"));
        }
        figure(&plot, drawn, &legend)
    }

    /// Until the last unit was sold, and a little longer.
    fn stock_by_ledger(&self) -> Markup {
        let span = self.plots.sold.bin_seconds();
        let mut sold = running(self.plots.sold.bins().iter().map(|at| at.sold));
        let stock = self.stock as f64;
        let last = sold.last().copied().unwrap_or(0.0);
        let after = (sold.len() / 8 + 1).min((self.end() / span) as usize);
        sold.resize(sold.len() + after, last);
        let ended = match sold.iter().position(|sold| *sold >= stock) {
            Some(at) => format!("sold out within {}", latency((at + 1) as f64 * span * 1_000.0)),
            None => format!("{} sold in the end", amount(last)),
        };
        let over = match self.oversold_units {
            0 => String::new(),
            units => format!(", and {} more than there were", thousands(units)),
        };
        let units = if self.stock == 1 { "unit" } else { "units" };
        let says = format!("Of {} {units}: {ended}{over}.", thousands(self.stock));
        let plot = stock_plot(says, sold.len() as f64 * span, last.max(stock));
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
            legend.push(("over", "sold above the stock"));
        }
        figure(&plot, drawn, &legend)
    }

    /// What a foreign server showed of its item, other buyers' units too.
    fn stock_as_seen(&self) -> Markup {
        let seen = &self.plots.stock;
        let Some(last) = seen.last() else {
            return html! { p.note { "The server showed no stock of this item." } };
        };
        let span = self.plots.timeline.bin_seconds();
        let mut shown = Vec::new();
        for n in 0..self.plots.timeline.bins().len() {
            let until = (n + 1) as f64 * span;
            let before = seen.iter().take_while(|look| look.since_start.as_secs_f64() <= until);
            let item = before.last().unwrap_or(&seen[0]).item;
            shown.push([item.sold, item.sold + item.held, item.sold + item.held + item.free]);
        }
        let of = |which: usize| -> Vec<f64> { shown.iter().map(|at| at[which] as f64).collect() };
        let sold = of(0);
        let taken = of(1);
        let all = of(2);
        let most = all.iter().copied().fold(last.item.stock as f64, f64::max);
        let says = format!(
            "As the server showed it, other buyers' units too: {} of {} sold in the end.",
            thousands(last.item.sold),
            thousands(last.item.stock)
        );
        let plot = stock_plot(says, self.end(), most);
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

    /// Orders accepted and not decided, at the end of each span.
    fn waiting(&self) -> Markup {
        let timeline = &self.plots.timeline;
        let span = timeline.bin_seconds();
        let accepted = running(timeline.bins().iter().map(|at| at.accepted));
        let decided = running(timeline.bins().iter().map(|at| at.decided));
        let waiting: Vec<f64> =
            accepted.iter().zip(&decided).map(|(a, d)| (a - d).max(0.0)).collect();
        let most = waiting.iter().copied().fold(0.0, f64::max);
        let plot = Plot {
            id: "waiting",
            width: WIDE,
            title: "Orders waiting for their decision",
            says: format!("At the end of each span: at most {}.", thousands(most as u64)),
            x: Axis::time(self.end(), "since the start"),
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
                summary { "The same in figures" }
                div.wide { table {
                    thead { tr {
                        th { "until (s)" } th { "requests" } th { "told to come again" }
                        th { "accepted" } th { @if self.by_ledger() { "decided" } @else { "seen" } }
                        @if self.by_ledger() { th { "units sold" } }
                    } }
                    tbody { @for (n, at) in timeline.bins().iter().enumerate() {
                        @let (accepted, decided) = self.known(at);
                        tr {
                            td { (format!("{:.3}", (n + 1) as f64 * span)) }
                            @for figure in [at.requests, at.refused, accepted, decided] {
                                td { (thousands(figure)) }
                            }
                            @if self.by_ledger() { td { (thousands(at.sold)) } }
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
                "Time until a buyer saw the decision",
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
    at: Percentiles,
) -> Markup {
    let (from, to) = bins.first().zip(bins.last()).map_or((1.0, 10.0), |(first, last)| {
        // At least a factor of ten, so that few bars are no wall.
        let middle = (first.from_ms * last.to_ms).sqrt();
        (first.from_ms.min(middle / 3.2), last.to_ms.max(middle * 3.2))
    });
    let most = bins.iter().map(|bin| bin.count).max().unwrap_or(0);
    let marks = [("p50", at.p50), ("p99", at.p99), ("p99.9", at.p999), ("max", at.max)];
    let named = |(name, ms): (&str, f64)| (ms.clamp(from, to), format!("{name} {}", latency(ms)));
    let marks: Vec<(f64, String)> = marks.map(named).into();
    let plot = Plot {
        id,
        width: HALF,
        title,
        says: marks.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join(", "),
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
            figcaption { strong { (plot.title) } " " span.says { (plot.says) } }
            @if !legend.is_empty() {
                ul.legend { @for (class, name) in legend { li { i.(class) {} (name) } } }
            }
            div.wide { (plot.draw(drawn)) }
        }
    }
}

fn stock_plot(says: String, end: f64, most: f64) -> Plot {
    Plot {
        id: "stock",
        width: WIDE,
        title: "Stock over time",
        says,
        x: Axis::time(end, "since the start"),
        y: Axis::amounts(most, "units"),
        marks: Vec::new(),
    }
}

/// Each sum so far.
fn running(amounts: impl Iterator<Item = u64>) -> Vec<f64> {
    let mut sum = 0;
    let add = |amount| {
        sum += amount;
        sum as f64
    };
    amounts.map(add).collect()
}
