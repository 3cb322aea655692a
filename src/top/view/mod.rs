//! Draws the screen: header, tab and footer, depending on the size of the terminal.

mod lists;
mod plots;

use std::cmp::Reverse;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Wrap};

use super::dashboard::Snapshot;
use super::format::{age, count, count_or_unknown, rate, sanitized};
use super::state::{AppState, Tab};

/// Smallest terminal on which anything is drawn.
const MIN_WIDTH: u16 = 40;
const MIN_HEIGHT: u16 = 10;
/// Smallest width at which the overview has two columns of lists.
const TWO_COLUMNS_WIDTH: u16 = 60;
/// Smallest width at which the footer has the keys.
const FOOTER_KEYS_WIDTH: u16 = 80;

/// The styles of the screen.
#[derive(Debug, Clone, Copy)]
pub struct Theme {
    /// If false, only bold and reversed text is used.
    pub colour: bool,
}

impl Theme {
    fn coloured(&self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }

    fn good(&self) -> Style {
        self.coloured(Color::Green)
    }

    fn warn(&self) -> Style {
        self.coloured(Color::Yellow).add_modifier(Modifier::BOLD)
    }

    fn bad(&self) -> Style {
        self.coloured(Color::Red).add_modifier(Modifier::BOLD)
    }

    fn plot(&self) -> Style {
        self.coloured(Color::Cyan)
    }

    fn quiet(&self) -> Style {
        if self.colour { Style::new().fg(Color::DarkGray) } else { Style::new() }
    }

    fn strong(&self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }
}

pub fn draw(frame: &mut Frame<'_>, state: &AppState, theme: &Theme) {
    let area = frame.area();
    if area.width < MIN_WIDTH || area.height < MIN_HEIGHT {
        let text = format!("needs at least {MIN_WIDTH}x{MIN_HEIGHT}");
        frame.render_widget(Line::from(text), area);
        return;
    }
    let parts = [Constraint::Length(3), Constraint::Fill(1), Constraint::Length(1)];
    let [header, tab, footer] = area.layout(&Layout::vertical(parts));
    draw_header(frame, header, state, theme);
    match &state.snapshot {
        Some(sale) => draw_tab(frame, tab, state, sale, theme),
        None => draw_no_data(frame, tab, state, theme),
    }
    draw_footer(frame, footer, state, theme);
    if state.help {
        draw_help(frame, area, theme);
    }
}

/// Address and freshness, the counts, and the faults.
fn draw_header(frame: &mut Frame<'_>, area: Rect, state: &AppState, theme: &Theme) {
    let [first, second, third] = area.layout(&Layout::vertical([Constraint::Length(1); 3]));
    let mut server =
        vec![Span::styled("flux ", theme.strong()), Span::raw(sanitized(&state.address, 40))];
    if let Some(sale) = &state.snapshot {
        let backend = sanitized(&sale.backend, 12);
        server.push(Span::styled(format!("  {backend}, up {}", age(sale.uptime_s)), theme.quiet()));
    }
    frame.render_widget(Line::from(server), first);
    frame.render_widget(Line::from(freshness(state, theme)).right_aligned(), first);
    let Some(sale) = &state.snapshot else { return };
    let rates = &sale.rates;
    let mut counts = vec![Span::styled("orders  ", theme.quiet())];
    for (name, number, per_second) in [
        ("accepted", sale.accepted, Some(rates.accepted)),
        ("decided", sale.decided, Some(rates.decided)),
        ("sold", sale.sold, None),
        ("rejected", sale.rejected, None),
    ] {
        counts.push(Span::raw(format!("{name} ")));
        counts.push(Span::styled(count_or_unknown(number), theme.strong()));
        let per_second = per_second.map(|per_second| format!(" {}", rate(per_second)));
        counts.push(Span::styled(per_second.unwrap_or_default(), theme.quiet()));
        counts.push(Span::raw("  "));
    }
    frame.render_widget(Line::from(counts), second);
    frame.render_widget(Line::from(faults_and_reasons(sale, theme)), third);
}

fn freshness(state: &AppState, theme: &Theme) -> Span<'static> {
    match (&state.error, state.stale()) {
        (Some(error), Some(stale)) => {
            let error = sanitized(error, 50);
            Span::styled(format!("STALE {}: {error}", age(stale.as_secs())), theme.bad())
        }
        (Some(_), None) => Span::styled("NO CONNECTION", theme.bad()),
        (None, Some(stale)) => {
            Span::styled(format!("STALE {}", age(stale.as_secs())), theme.warn())
        }
        (None, None) if state.snapshot.is_some() => Span::styled("live", theme.good()),
        (None, None) => Span::styled("connecting", theme.quiet()),
    }
}

/// Oversold and stranded units, dead letters, and the reasons why orders were rejected.
fn faults_and_reasons(sale: &Snapshot, theme: &Theme) -> Vec<Span<'static>> {
    let fault = |name: &str, units: Option<u64>| {
        let style = match units {
            None => theme.quiet(),
            Some(0) => theme.good(),
            Some(_) => theme.bad(),
        };
        Span::styled(format!("{name} {}  ", count_or_unknown(units)), style)
    };
    let mut spans =
        vec![fault("oversold", sale.oversold_units), fault("stranded", sale.stranded_units)];
    let letters = sale.backlog.dead_letters;
    let style =
        if letters.is_some_and(|letters| letters > 0) { theme.warn() } else { theme.quiet() };
    spans.push(Span::styled(format!("dead letters {}  ", count_or_unknown(letters)), style));
    let mut reasons: Vec<_> = sale.rejected_by_reason.iter().collect();
    reasons.sort_by_key(|(_, orders)| Reverse(**orders));
    for (reason, orders) in reasons {
        let reason = sanitized(reason, 24);
        spans.push(Span::styled(format!("{reason} {}  ", count(*orders)), theme.quiet()));
    }
    for (name, orders) in [("expired", sale.expired), ("dropped", sale.dropped)] {
        if orders != Some(0) {
            spans.push(Span::styled(
                format!("{name} {}  ", count_or_unknown(orders)),
                theme.quiet(),
            ));
        }
    }
    spans
}

fn draw_tab(frame: &mut Frame<'_>, area: Rect, state: &AppState, sale: &Snapshot, theme: &Theme) {
    let from = state.scrolled;
    match state.tab {
        Tab::Overview => draw_overview(frame, area, state, sale, theme),
        Tab::Items => lists::items(frame, area, sale, from, theme),
        Tab::Workers => lists::workers(frame, area, sale, from, theme),
        Tab::Decisions => lists::decisions(frame, area, sale, from, theme),
        Tab::DeadLetters => lists::dead_letters(frame, area, sale, from, theme),
    }
}

/// Plots above, lists below.
fn draw_overview(
    frame: &mut Frame<'_>,
    area: Rect,
    state: &AppState,
    sale: &Snapshot,
    theme: &Theme,
) {
    let plots_height = (area.height * 2 / 5).max(4);
    let parts = [Constraint::Length(plots_height), Constraint::Fill(1)];
    let [above, below] = area.layout(&Layout::vertical(parts));
    plots::draw(frame, above, state, sale, theme);
    if area.width < TWO_COLUMNS_WIDTH {
        return lists::items(frame, below, sale, 0, theme);
    }
    let [left, right] = below.layout(&Layout::horizontal([Constraint::Fill(1); 2]).spacing(1));
    let workers = sale.workers.as_ref().map_or(1, Vec::len).max(1) as u16;
    let workers_height = (workers + 2).min(right.height / 2);
    let parts = [Constraint::Length(workers_height), Constraint::Fill(1)];
    let [upper, lower] = right.layout(&Layout::vertical(parts));
    lists::items(frame, left, sale, 0, theme);
    lists::workers(frame, upper, sale, 0, theme);
    lists::decisions(frame, lower, sale, 0, theme);
}

fn draw_no_data(frame: &mut Frame<'_>, area: Rect, state: &AppState, theme: &Theme) {
    let text = match &state.error {
        Some(error) => {
            Line::styled(format!("{}; reconnecting", sanitized(error, 200)), theme.bad())
        }
        None => Line::styled("waiting for data", theme.quiet()),
    };
    let lines = Paragraph::new(vec![Line::default(), text]).centered().wrap(Wrap { trim: true });
    frame.render_widget(lines, area);
}

fn draw_footer(frame: &mut Frame<'_>, area: Rect, state: &AppState, theme: &Theme) {
    let mut tabs = Vec::new();
    for (index, tab) in Tab::ALL.into_iter().enumerate() {
        let style = match tab == state.tab {
            true => Style::new().add_modifier(Modifier::REVERSED),
            false => theme.quiet(),
        };
        tabs.push(Span::styled(format!(" {} {} ", index + 1, tab.title()), style));
    }
    frame.render_widget(Line::from(tabs), area);
    if area.width >= FOOTER_KEYS_WIDTH {
        let keys = Line::styled("? help  q quit", theme.quiet());
        frame.render_widget(keys.right_aligned(), area);
    }
}

const HELP: [&str; 8] = [
    "Tab, arrows, 1-5   switch the tab",
    "Up, Down, PgUp/Dn  scroll the list",
    "?                  show or hide this help",
    "q, Esc, Ctrl-C     quit",
    "",
    "Unknown numbers are shown as ?. On AWS,",
    "totals are updated every few seconds.",
    "Bars: # sold, = held, . free",
];

fn draw_help(frame: &mut Frame<'_>, area: Rect, theme: &Theme) {
    let area = area.centered(Constraint::Length(48), Constraint::Length(HELP.len() as u16 + 2));
    frame.render_widget(Clear, area);
    let lines: Vec<Line<'_>> = HELP.iter().map(|line| Line::raw(*line)).collect();
    let block = Block::bordered().title(Span::styled(" Keys ", theme.strong()));
    frame.render_widget(Paragraph::new(lines).block(block), area);
}
