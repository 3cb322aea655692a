//! Items, workers, decisions and dead letters, a row each.

use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Table};

use super::Theme;
use crate::top::dashboard::{DeadLetterRow, DecisionRow, ItemFigures, Snapshot, WorkerRow};
use crate::top::format::{clock, count, known, rate, shown};

/// What is cut off at the end of its column anyway.
const LONGEST: usize = 128;

fn block<'a>(title: &'a str, theme: &Theme) -> Block<'a> {
    let title = Span::styled(format!("{title} "), theme.strong());
    Block::new().borders(Borders::TOP).border_style(theme.quiet()).title(title)
}

/// In place of a list without rows.
fn draw_empty(frame: &mut Frame<'_>, area: Rect, block: Block<'_>, what: &str, theme: &Theme) {
    frame.render_widget(Paragraph::new(Line::styled(what, theme.quiet())).block(block), area);
}

pub fn items(frame: &mut Frame<'_>, area: Rect, sale: &Snapshot, from: usize, theme: &Theme) {
    let title = if sale.items_more { "Items (there are more)" } else { "Items" };
    let block = block(title, theme);
    if sale.items.is_empty() {
        let what = if sale.items_known == Some(false) { "not known yet" } else { "no item yet" };
        return draw_empty(frame, area, block, what, theme);
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
    // Between columns there is one blank.
    let beside = name_width + numbers_width + status_width + 3;
    let bar_width = area.width.saturating_sub(beside).clamp(4, 60);
    let rows = shown_items.iter().map(|item| {
        Row::new(vec![
            Line::raw(shown(&item.item_id, usize::from(name_width))),
            bar(item, usize::from(bar_width), theme),
            Line::raw(numbers(item)),
            Line::styled(shown(&item.status, LONGEST), theme.quiet()),
        ])
    });
    let columns = [name_width, bar_width, numbers_width, status_width].map(Constraint::Length);
    frame.render_widget(Table::new(rows, columns).block(block), area);
}

/// Sold, held and free units as parts of a bar; what is there at all gets a sign.
fn bar(item: &ItemFigures, width: usize, theme: &Theme) -> Line<'static> {
    let whole = item.stock.max(item.sold.saturating_add(item.held)).max(1) as f64;
    let signs = |units: u64, room: usize| {
        let share = (units as f64 / whole * width as f64).round() as usize;
        share.max(usize::from(units > 0)).min(room)
    };
    // One sign is kept for units that are free, so that a full bar means that none is.
    let room = width - usize::from(item.free > 0);
    let sold = signs(item.sold, room);
    let held = signs(item.held, room - sold);
    Line::from(vec![
        Span::styled("#".repeat(sold), theme.good()),
        Span::styled("=".repeat(held), theme.warn()),
        Span::styled(".".repeat(width - sold - held), theme.quiet()),
    ])
}

pub fn workers(frame: &mut Frame<'_>, area: Rect, sale: &Snapshot, from: usize, theme: &Theme) {
    let block = block("Workers", theme);
    let Some(workers) = &sale.workers else {
        return draw_empty(frame, area, block, "not seen from this server", theme);
    };
    if workers.is_empty() {
        return draw_empty(frame, area, block, "none: nobody decides", theme);
    }
    let rows = workers.iter().skip(from).take(usize::from(area.height));
    let rows = rows.map(|WorkerRow { kind, host, pid, age_ms, decided_per_s, in_hand }| {
        // A heartbeat arrives every second or so.
        let late = age_ms.is_some_and(|age| age > 5_000);
        let style = if late { theme.warn() } else { Style::new() };
        Row::new(vec![
            format!("{}:{pid}", shown(host, LONGEST)),
            format!("{:5} {:>9}", shown(kind, 5), rate(*decided_per_s)),
            format!("{} in hand", known(*in_hand)),
        ])
        .style(style)
    });
    let columns = [Constraint::Fill(1), Constraint::Length(15), Constraint::Length(11)];
    frame.render_widget(Table::new(rows, columns).block(block), area);
}

pub fn decisions(frame: &mut Frame<'_>, area: Rect, sale: &Snapshot, from: usize, theme: &Theme) {
    let block = block("Last decisions", theme);
    if sale.last.is_empty() {
        let what = if sale.decided == Some(0) { "none yet" } else { "none seen" };
        return draw_empty(frame, area, block, what, theme);
    }
    let named = sale.last.iter().any(|last| last.user_id.is_some());
    let rows = sale.last.iter().skip(from).take(usize::from(area.height));
    let rows = rows.map(|last| {
        let DecisionRow { order_id, item_id, user_id, quantity, status, reason, decided_at } = last;
        let style = if status == "sold" { theme.good() } else { theme.quiet() };
        let who = user_id.as_deref().filter(|_| named).unwrap_or(order_id);
        let units = if *quantity == 1 { String::new() } else { format!("{quantity} of ") };
        Row::new(vec![
            Line::raw(clock(decided_at)),
            Line::styled(shown(reason.as_deref().unwrap_or(status), LONGEST), style),
            Line::raw(format!("{units}{}", shown(item_id, LONGEST))),
            Line::raw(shown(who, LONGEST)),
        ])
    });
    let ending = |last: &DecisionRow| last.reason.as_ref().unwrap_or(&last.status).len();
    let ending = sale.last.iter().map(ending).max().unwrap_or(0).min(14) as u16;
    let columns = [
        Constraint::Length(8),
        Constraint::Length(ending),
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
        let none = sale.backlog.dead_letters == Some(0);
        let what = if none { "none" } else { "none to be seen" };
        return draw_empty(frame, area, block, what, theme);
    }
    let rows = sale.dead_letters.iter().skip(from).take(usize::from(area.height));
    let rows = rows.map(|DeadLetterRow { order_id, reason, at }| {
        Row::new(vec![
            Line::raw(clock(at)),
            Line::raw(shown(order_id, LONGEST)),
            Line::styled(shown(reason, LONGEST), theme.warn()),
        ])
    });
    let columns = [Constraint::Length(8), Constraint::Fill(1), Constraint::Fill(2)];
    frame.render_widget(Table::new(rows, columns).block(block), area);
}
