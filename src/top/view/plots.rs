//! The last minutes as bars, one column a second.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, RenderDirection, Sparkline};

use super::Theme;
use crate::top::dashboard::{Board, Point};
use crate::top::sight::Sight;
use crate::top::words::{count, known, rate, time};

struct Plot {
    title: &'static str,
    now: String,
    value: fn(&Point) -> Option<f64>,
    /// How a value is told.
    told: fn(f64) -> String,
}

pub fn draw(frame: &mut Frame<'_>, area: Rect, sight: &Sight, board: &Board, theme: &Theme) {
    let backlog = &board.backlog;
    let oldest = time(backlog.oldest_ms.map(|ms| ms as f64));
    let (p50, p99) = (time(board.decision_ms.p50), time(board.decision_ms.p99));
    let plots = [
        Plot {
            title: "Accepted",
            now: rate(board.rates.accepted),
            value: |p| p.accepted_per_s,
            told: |value| rate(Some(value)),
        },
        Plot {
            title: "Decided",
            now: rate(board.rates.decided),
            value: |p| p.decided_per_s,
            told: |value| rate(Some(value)),
        },
        Plot {
            title: "Waiting",
            now: match backlog.waiting {
                Some(0) => "0".to_owned(),
                waiting => format!("{}, oldest {oldest}", known(waiting)),
            },
            value: |p| p.waiting.map(|orders| orders as f64),
            told: |value| count(value as u64),
        },
        Plot {
            title: "Decision",
            now: format!("p50 {p50}, p99 {p99}"),
            value: |p| p.p99_ms,
            told: |value| time(Some(value)),
        },
    ];
    let [upper, lower] = area.layout(&Layout::vertical([Constraint::Fill(1); 2]));
    for (row, pair) in [upper, lower].into_iter().zip(plots.chunks(2)) {
        let columns: [Rect; 2] =
            row.layout(&Layout::horizontal([Constraint::Fill(1); 2]).spacing(1));
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
    let seen = sight.points.iter().rev().take(usize::from(area.width)).map(plot.value);
    let highest = seen.clone().flatten().reduce(f64::max);
    let wide = area.width >= 50;
    let most = highest.filter(|_| wide).map(|most| format!(" {} at most", (plot.told)(most)));
    let most = Line::styled(most.unwrap_or_default(), theme.quiet()).right_aligned();
    let block = Block::new().borders(Borders::TOP).border_style(theme.quiet());
    let block = block.title(title).title(most);
    // Newest first: it stands on the right. Hundredths keep what is small from vanishing.
    let values = seen.map(|value| value.map(|value| (value * 100.0).round() as u64));
    let bars = Sparkline::default()
        .data(values)
        .direction(RenderDirection::RightToLeft)
        .absent_value_symbol(" ")
        .style(theme.plot())
        .block(block);
    frame.render_widget(bars, area);
}
