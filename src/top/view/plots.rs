//! Plots of the last minutes, one column per second.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, RenderDirection, Sparkline};

use super::Theme;
use crate::top::dashboard::{PlotPoint, Snapshot};
use crate::top::format::{count, count_or_unknown, rate, time};
use crate::top::state::AppState;

/// Smallest width of a plot that shows its maximum.
const MAX_WIDTH: u16 = 50;

struct SparklinePlot {
    title: &'static str,
    /// The current value, formatted.
    current: String,
    value: fn(&PlotPoint) -> Option<f64>,
    format: fn(f64) -> String,
}

pub fn draw(frame: &mut Frame<'_>, area: Rect, state: &AppState, sale: &Snapshot, theme: &Theme) {
    let backlog = &sale.backlog;
    let oldest = time(backlog.oldest_ms.map(|ms| ms as f64));
    let p50 = time(sale.decision_ms.p50);
    let p99 = time(sale.decision_ms.p99);
    let plots = [
        SparklinePlot {
            title: "Accepted",
            current: rate(sale.rates.accepted),
            value: |p| p.accepted_per_s,
            format: |value| rate(Some(value)),
        },
        SparklinePlot {
            title: "Decided",
            current: rate(sale.rates.decided),
            value: |p| p.decided_per_s,
            format: |value| rate(Some(value)),
        },
        SparklinePlot {
            title: "Waiting",
            current: match backlog.waiting {
                Some(0) => "0".to_owned(),
                waiting => format!("{}, oldest {oldest}", count_or_unknown(waiting)),
            },
            value: |p| p.waiting.map(|orders| orders as f64),
            format: |value| count(value as u64),
        },
        SparklinePlot {
            title: "Decision",
            current: format!("p50 {p50}, p99 {p99}"),
            value: |p| p.p99_ms,
            format: |value| time(Some(value)),
        },
    ];
    let [upper, lower] = area.layout(&Layout::vertical([Constraint::Fill(1); 2]));
    for (row, pair) in [upper, lower].into_iter().zip(plots.chunks(2)) {
        let columns: [Rect; 2] =
            row.layout(&Layout::horizontal([Constraint::Fill(1); 2]).spacing(1));
        for (column, plot) in columns.into_iter().zip(pair) {
            draw_plot(frame, column, plot, state, theme);
        }
    }
}

fn draw_plot(
    frame: &mut Frame<'_>,
    area: Rect,
    plot: &SparklinePlot,
    state: &AppState,
    theme: &Theme,
) {
    let title = Line::from(vec![
        Span::styled(format!("{} ", plot.title), theme.strong()),
        Span::raw(plot.current.clone()),
    ]);
    // Newest first, because the plot is drawn from right to left.
    let values = state.points.iter().rev().take(usize::from(area.width)).map(plot.value);
    let max = values.clone().flatten().reduce(f64::max).filter(|_| area.width >= MAX_WIDTH);
    let max = max.map(|max| format!(" max {}", (plot.format)(max)));
    let max = Line::styled(max.unwrap_or_default(), theme.quiet()).right_aligned();
    let block = Block::new().borders(Borders::TOP).border_style(theme.quiet());
    let block = block.title(title).title(max);
    // In hundredths, so that rates below 1 are drawn.
    let values = values.map(|value| value.map(|value| (value * 100.0).round() as u64));
    let bars = Sparkline::default()
        .data(values)
        .direction(RenderDirection::RightToLeft)
        .absent_value_symbol(" ")
        .style(theme.plot())
        .block(block);
    frame.render_widget(bars, area);
}
