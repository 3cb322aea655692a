//! The last minutes as bars, one column a second.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, RenderDirection, Sparkline};

use super::super::board::{Board, Point};
use super::super::sight::Sight;
use super::super::words::{known, rate, time};
use super::Theme;

struct Plot {
    title: &'static str,
    now: String,
    value: fn(&Point) -> Option<f64>,
}

pub fn draw(frame: &mut Frame<'_>, area: Rect, sight: &Sight, board: &Board, theme: &Theme) {
    let backlog = &board.backlog;
    let oldest = time(backlog.oldest_ms.map(|ms| ms as f64));
    let (p50, p99) = (time(board.decision_ms.p50), time(board.decision_ms.p99));
    let plots = [
        Plot { title: "Accepted", now: rate(board.rates.accepted), value: |p| p.accepted_per_s },
        Plot { title: "Decided", now: rate(board.rates.decided), value: |p| p.decided_per_s },
        Plot {
            title: "Waiting",
            now: format!("{}, oldest {oldest}", known(backlog.waiting)),
            value: |p| p.waiting.map(|orders| orders as f64),
        },
        Plot { title: "Decision", now: format!("p50 {p50}, p99 {p99}"), value: |p| p.p99_ms },
    ];
    let [upper, lower] = area.layout(&Layout::vertical([Constraint::Fill(1); 2]));
    for (row, pair) in [upper, lower].into_iter().zip(plots.chunks(2)) {
        let columns: [Rect; 2] = row.layout(&Layout::horizontal([Constraint::Fill(1); 2]));
        for (column, plot) in columns.into_iter().zip(pair) {
            draw_plot(frame, column, plot, sight, theme);
        }
    }
}

fn draw_plot(frame: &mut Frame<'_>, area: Rect, plot: &Plot, sight: &Sight, theme: &Theme) {
    let title = Line::from(vec![
        Span::styled(format!("{} ", plot.title), theme.strong()),
        Span::raw(plot.now.clone()),
    ]);
    let block = Block::new().borders(Borders::TOP).border_style(theme.quiet()).title(title);
    // Newest first: it stands on the right. Hundredths keep what is small from vanishing.
    let hundredths = |value: f64| (value * 100.0).round() as u64;
    let values = sight.points.iter().rev().map(|point| (plot.value)(point).map(hundredths));
    let bars = Sparkline::default()
        .data(values.take(usize::from(area.width)))
        .direction(RenderDirection::RightToLeft)
        .absent_value_symbol(" ")
        .style(theme.plot())
        .block(block);
    frame.render_widget(bars, area);
}
