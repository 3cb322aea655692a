//! The lists of items, workers, decisions and dead letters.

use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Table};

use super::Theme;
use crate::top::dashboard::{DeadLetterRow, DecisionRow, ItemFigures, Snapshot, WorkerRow};
use crate::top::format::{clock, count, count_or_unknown, rate, sanitized};

/// Longest text of a cell; the column's width cuts it further.
const CELL_CHARS: usize = 128;
/// Age of a heartbeat above which the worker's row is highlighted. Heartbeats are sent about every
/// second.
const LATE_HEARTBEAT_MS: u64 = 5_000;

fn block<'a>(title: &'a str, theme: &Theme) -> Block<'a> {
    let title = Span::styled(format!("{title} "), theme.strong());
    Block::new().borders(Borders::TOP).border_style(theme.quiet()).title(title)
}

/// Draws a text instead of an empty list.
fn draw_empty(frame: &mut Frame<'_>, area: Rect, block: Block<'_>, text: &str, theme: &Theme) {
    frame.render_widget(Paragraph::new(Line::styled(text, theme.quiet())).block(block), area);
}

pub fn items(frame: &mut Frame<'_>, area: Rect, sale: &Snapshot, from: usize, theme: &Theme) {
    let title = if sale.items_more { "Items (list is incomplete)" } else { "Items" };
    let block = block(title, theme);
    if sale.items.is_empty() {
        let text = if sale.items_known == Some(false) { "not known yet" } else { "no items" };
        return draw_empty(frame, area, block, text, theme);
    }
    let shown_items: Vec<&ItemFigures> =
        sale.items.iter().skip(from).take(usize::from(area.height)).collect();
    let numbers = |item: &ItemFigures| format!("{}/{}", count(item.sold), count(item.stock));
    let widest = |text: &dyn Fn(&ItemFigures) -> usize| {
        shown_items.iter().map(|item| text(item)).max().unwrap_or(0) as u16
    };
    let name_width = widest(&|item| item.item_id.chars().count()).min(area.width / 3);
    let numbers_width = widest(&|item| numbers(item).len());
    let status_width = widest(&|item| item.status.chars().count()).min(12);
    // Columns are separated by one blank.
    let other_columns = name_width + numbers_width + status_width + 3;
    let bar_width = area.width.saturating_sub(other_columns).clamp(4, 60);
    let rows = shown_items.iter().map(|item| {
        Row::new(vec![
            Line::raw(sanitized(&item.item_id, usize::from(name_width))),
            bar(item, usize::from(bar_width), theme),
            Line::raw(numbers(item)),
            Line::styled(sanitized(&item.status, CELL_CHARS), theme.quiet()),
        ])
    });
    let columns = [name_width, bar_width, numbers_width, status_width].map(Constraint::Length);
    frame.render_widget(Table::new(rows, columns).block(block), area);
}

/// A bar of sold, held and free units. A number of units above 0 has at least one character, so a
/// bar without dots means that no unit is free.
fn bar(item: &ItemFigures, width: usize, theme: &Theme) -> Line<'static> {
    let total = item.stock.max(item.sold.saturating_add(item.held)).max(1) as f64;
    let chars = |units: u64, max: usize| {
        let share = (units as f64 / total * width as f64).round() as usize;
        share.max(usize::from(units > 0)).min(max)
    };
    let taken_max = width - usize::from(item.free > 0);
    let sold = chars(item.sold, taken_max);
    let held = chars(item.held, taken_max - sold);
    Line::from(vec![
        Span::styled("#".repeat(sold), theme.good()),
        Span::styled("=".repeat(held), theme.warn()),
        Span::styled(".".repeat(width - sold - held), theme.quiet()),
    ])
}

pub fn workers(frame: &mut Frame<'_>, area: Rect, sale: &Snapshot, from: usize, theme: &Theme) {
    let block = block("Workers", theme);
    let Some(workers) = &sale.workers else {
        return draw_empty(frame, area, block, "not known to this server", theme);
    };
    if workers.is_empty() {
        return draw_empty(frame, area, block, "none: no orders are decided", theme);
    }
    let rows = workers.iter().skip(from).take(usize::from(area.height));
    let rows = rows.map(|WorkerRow { kind, host, pid, age_ms, decided_per_s, in_flight }| {
        let is_late = age_ms.is_some_and(|age| age > LATE_HEARTBEAT_MS);
        let style = if is_late { theme.warn() } else { Style::new() };
        Row::new(vec![
            format!("{}:{pid}", sanitized(host, CELL_CHARS)),
            format!("{:5} {:>9}", sanitized(kind, 5), rate(*decided_per_s)),
            format!("{} in flight", count_or_unknown(*in_flight)),
        ])
        .style(style)
    });
    let columns = [Constraint::Fill(1), Constraint::Length(15), Constraint::Length(13)];
    frame.render_widget(Table::new(rows, columns).block(block), area);
}

pub fn decisions(frame: &mut Frame<'_>, area: Rect, sale: &Snapshot, from: usize, theme: &Theme) {
    let block = block("Last decisions", theme);
    if sale.last.is_empty() {
        let text = if sale.decided == Some(0) { "none yet" } else { "not known" };
        return draw_empty(frame, area, block, text, theme);
    }
    let rows = sale.last.iter().skip(from).take(usize::from(area.height));
    let rows = rows.map(|last| {
        let DecisionRow { order_id, item_id, user_id, quantity, status, reason, decided_at } = last;
        let style = if status == "sold" { theme.good() } else { theme.quiet() };
        let buyer = user_id.as_deref().unwrap_or(order_id);
        let units = if *quantity == 1 { String::new() } else { format!("{quantity} of ") };
        Row::new(vec![
            Line::raw(clock(decided_at)),
            Line::styled(sanitized(reason.as_deref().unwrap_or(status), CELL_CHARS), style),
            Line::raw(format!("{units}{}", sanitized(item_id, CELL_CHARS))),
            Line::raw(sanitized(buyer, CELL_CHARS)),
        ])
    });
    let result_width = |last: &DecisionRow| last.reason.as_ref().unwrap_or(&last.status).len();
    let result_width = sale.last.iter().map(result_width).max().unwrap_or(0).min(14) as u16;
    let columns = [
        Constraint::Length(8),
        Constraint::Length(result_width),
        Constraint::Fill(1),
        Constraint::Fill(1),
    ];
    frame.render_widget(Table::new(rows, columns).block(block), area);
}

pub fn dead_letters(
    frame: &mut Frame<'_>,
    area: Rect,
    sale: &Snapshot,
    from: usize,
    theme: &Theme,
) {
    let block = block("Dead letters: flux dlq list", theme);
    if sale.dead_letters.is_empty() {
        let text = if sale.backlog.dead_letters == Some(0) { "none" } else { "not known" };
        return draw_empty(frame, area, block, text, theme);
    }
    let rows = sale.dead_letters.iter().skip(from).take(usize::from(area.height));
    let rows = rows.map(|DeadLetterRow { order_id, reason, at }| {
        Row::new(vec![
            Line::raw(clock(at)),
            Line::raw(sanitized(order_id, CELL_CHARS)),
            Line::styled(sanitized(reason, CELL_CHARS), theme.warn()),
        ])
    });
    let columns = [Constraint::Length(8), Constraint::Fill(1), Constraint::Fill(2)];
    frame.render_widget(Table::new(rows, columns).block(block), area);
}
