//! The picture: a head, the page, a foot. It fits what room there is, and says more where there is
//! more.

mod lists;
mod plots;

use std::cmp::Reverse;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Wrap};

use super::dashboard::Snapshot;
use super::format::{age, known, rate, shown};
use super::state::{AppState, Tab};

/// Below this nothing can be shown.
const MIN_WIDTH: u16 = 40;
const MIN_HEIGHT: u16 = 10;

/// Below this there is one column of lists.
const SIDE_BY_SIDE: u16 = 60;

/// How things are told apart.
#[derive(Debug, Clone, Copy)]
pub struct Theme {
    /// Without it by weight and signs only.
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
        let text = format!("at least {MIN_WIDTH}x{MIN_HEIGHT}, please");
        frame.render_widget(Line::from(text), area);
        return;
    }
    let parts = [Constraint::Length(3), Constraint::Fill(1), Constraint::Length(1)];
    let [head, page, foot] = area.layout(&Layout::vertical(parts));
    draw_head(frame, head, state, theme);
    match &state.snapshot {
        Some(sale) => draw_page(frame, page, state, sale, theme),
        None => draw_nothing(frame, page, state, theme),
    }
    draw_foot(frame, foot, state, theme);
    if state.help {
        draw_help(frame, area, theme);
    }
}

/// Where, how fresh, the verdict; and the counts.
fn draw_head(frame: &mut Frame<'_>, area: Rect, state: &AppState, theme: &Theme) {
    let [first, second, third] = area.layout(&Layout::vertical([Constraint::Length(1); 3]));
    let mut place =
        vec![Span::styled("flux ", theme.strong()), Span::raw(shown(&state.address, 40))];
    if let Some(sale) = &state.snapshot {
        let backend = shown(&sale.backend, 12);
        place.push(Span::styled(format!("  {backend}, up {}", age(sale.uptime_s)), theme.quiet()));
    }
    frame.render_widget(Line::from(place), first);
    frame.render_widget(Line::from(freshness(state, theme)).right_aligned(), first);
    let Some(sale) = &state.snapshot else { return };
    let rates = &sale.rates;
    let mut counts = vec![Span::styled("orders  ", theme.quiet())];
    for (what, number, per_second) in [
        ("accepted", sale.accepted, Some(rates.accepted)),
        ("decided", sale.decided, Some(rates.decided)),
        ("sold", sale.sold, None),
        ("rejected", sale.rejected, None),
    ] {
        counts.push(Span::raw(format!("{what} ")));
        counts.push(Span::styled(known(number), theme.strong()));
        let speed = per_second.map(|per_second| format!(" {}", rate(per_second)));
        counts.push(Span::styled(speed.unwrap_or_default(), theme.quiet()));
        counts.push(Span::raw("  "));
    }
    frame.render_widget(Line::from(counts), second);
    frame.render_widget(Line::from(verdict(sale, theme)), third);
}

fn freshness(state: &AppState, theme: &Theme) -> Span<'static> {
    match (&state.error, state.stale()) {
        (Some(error), Some(old)) => {
            let error = shown(error, 50);
            Span::styled(format!("STALE {}: {error}", age(old.as_secs())), theme.bad())
        }
        (Some(_), None) => Span::styled("NO CONNECTION", theme.bad()),
        (None, Some(old)) => Span::styled(format!("STALE {}", age(old.as_secs())), theme.warn()),
        (None, None) if state.snapshot.is_some() => Span::styled("live", theme.good()),
        (None, None) => Span::styled("connecting", theme.quiet()),
    }
}

/// Whether units are where they should be, and why orders were rejected.
fn verdict(sale: &Snapshot, theme: &Theme) -> Vec<Span<'static>> {
    let judged = |what: &str, units: Option<u64>| {
        let style = match units {
            None => theme.quiet(),
            Some(0) => theme.good(),
            Some(_) => theme.bad(),
        };
        Span::styled(format!("{what} {}  ", known(units)), style)
    };
    let mut said =
        vec![judged("oversold", sale.oversold_units), judged("stranded", sale.stranded_units)];
    let letters = sale.backlog.dead_letters;
    let style =
        if letters.is_some_and(|letters| letters > 0) { theme.warn() } else { theme.quiet() };
    said.push(Span::styled(format!("dead letters {}  ", known(letters)), style));
    let mut reasons: Vec<_> = sale.rejected_by_reason.iter().collect();
    reasons.sort_by_key(|(_, orders)| Reverse(**orders));
    for (reason, orders) in reasons {
        let reason = shown(reason, 24);
        said.push(Span::styled(format!("{reason} {}  ", known(Some(*orders))), theme.quiet()));
    }
    for (what, orders) in [("expired", sale.expired), ("dropped", sale.dropped)] {
        if orders != Some(0) {
            said.push(Span::styled(format!("{what} {}  ", known(orders)), theme.quiet()));
        }
    }
    said
}

fn draw_page(frame: &mut Frame<'_>, area: Rect, state: &AppState, sale: &Snapshot, theme: &Theme) {
    let from = state.scrolled;
    match state.tab {
        Tab::Overview => draw_overview(frame, area, state, sale, theme),
        Tab::Items => lists::items(frame, area, sale, from, theme),
        Tab::Workers => lists::workers(frame, area, sale, from, theme),
        Tab::Decisions => lists::decisions(frame, area, sale, from, theme),
        Tab::DeadLetters => lists::dead_letters(frame, area, sale, from, theme),
    }
}

/// Plots above, lists below; side by side as far as there is room.
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
    if area.width < SIDE_BY_SIDE {
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

fn draw_nothing(frame: &mut Frame<'_>, area: Rect, state: &AppState, theme: &Theme) {
    let why = match &state.error {
        Some(error) => Line::styled(format!("{}; trying again", shown(error, 200)), theme.bad()),
        None => Line::styled("waiting for the first data", theme.quiet()),
    };
    let lines = Paragraph::new(vec![Line::default(), why]).centered().wrap(Wrap { trim: true });
    frame.render_widget(lines, area);
}

fn draw_foot(frame: &mut Frame<'_>, area: Rect, state: &AppState, theme: &Theme) {
    let mut pages = Vec::new();
    for (index, tab) in Tab::ALL.into_iter().enumerate() {
        let here = tab == state.tab;
        let style =
            if here { Style::new().add_modifier(Modifier::REVERSED) } else { theme.quiet() };
        pages.push(Span::styled(format!(" {} {} ", index + 1, tab.title()), style));
    }
    frame.render_widget(Line::from(pages), area);
    if area.width >= 80 {
        let keys = Line::styled("? help  q leave", theme.quiet());
        frame.render_widget(keys.right_aligned(), area);
    }
}

const HELP: [&str; 8] = [
    "Tab, arrows, 1-5   another page",
    "Up, Down, PgUp/Dn  scroll a list",
    "?                  this, and away with it",
    "q, Esc, Ctrl-C     leave",
    "",
    "Numbers that nobody knows are ?. On AWS",
    "the stores are asked every few seconds.",
    "Bars: # sold, = held, . free",
];

fn draw_help(frame: &mut Frame<'_>, area: Rect, theme: &Theme) {
    let area = area.centered(Constraint::Length(48), Constraint::Length(HELP.len() as u16 + 2));
    frame.render_widget(Clear, area);
    let lines: Vec<Line<'_>> = HELP.iter().map(|line| Line::raw(*line)).collect();
    let block = Block::bordered().title(Span::styled(" Keys ", theme.strong()));
    frame.render_widget(Paragraph::new(lines).block(block), area);
}
