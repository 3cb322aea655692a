//! The screen on terminals of several sizes, and the plain text.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::{Color, Modifier};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::feed::FeedEvent;
use super::plain;
use super::state::{AppState, Tab, UserCommand};
use super::view::{Theme, draw};
use crate::client::Address;

const COLOURED: Theme = Theme { colour: true };

fn snapshot() -> Value {
    json!({
        "at": "2026-11-24T12:00:00.000Z", "at_ms": 1_000_000, "backend": "embedded",
        "uptime_s": 3_700, "accepted": 12_345, "decided": 12_300, "sold": 500,
        "rejected": 11_800, "expired": null, "dropped": 3,
        "rates": {"accepted": 2_345.6, "decided": 2_300.1, "sold": 4.0, "rejected": 2_296.1},
        "rejected_by_reason": {"sold_out": 11_790, "not_enough": 10},
        "backlog": {"waiting": 45, "oldest_ms": 21, "dead_letters": 1},
        "decision_ms": {"p50": 4.2, "p99": 31.0}, "ack_ms": {"p50": 1.0, "p99": 9.0},
        "workers": [{"id": "a", "kind": "work", "host": "box", "pid": 4242, "concurrency": 50,
            "started_at": "", "age_ms": 300, "decided_per_s": 2_300.1, "in_hand": 7}],
        "items": [
            {"item_id": "hall_A", "stock": 500, "free": 0, "held": 0, "sold": 500, "status": "sold_out"},
            {"item_id": "hall_B", "stock": 100, "free": 99, "held": 0, "sold": 1, "status": "open"},
        ],
        "items_more": false,
        "last": [{"order_id": "o-1", "item_id": "hall_A", "user_id": "Tanisha", "quantity": 1,
            "status": "sold", "decided_at": "2026-11-24T11:59:59.900Z"}],
        "dead_letters": [{"order_id": "o-2", "reason": "not an order", "at": "2026-11-24T11:59:59Z"}],
        "oversold_units": 0, "stranded_units": 0, "something_new": [1, 2],
    })
}

fn state(snapshot: &Value) -> AppState {
    let mut state = AppState::of(&Address::parse("http://127.0.0.1:5000").unwrap());
    let points = (0..200_u32).map(|second| super::dashboard::PlotPoint {
        at_ms: u64::from(second),
        accepted_per_s: (second > 100).then_some(f64::from(second)),
        ..Default::default()
    });
    state.update(FeedEvent::History(points.collect()));
    state.update(FeedEvent::Snapshot(Box::new(serde_json::from_value(snapshot.clone()).unwrap())));
    state
}

fn terminal(state: &AppState, (width, height): (u16, u16), theme: Theme) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, state, &theme)).unwrap();
    terminal
}

fn picture(state: &AppState, size: (u16, u16)) -> String {
    terminal(state, size, COLOURED).backend().to_string()
}

fn assert_shows(picture: &str, parts: &[&str]) {
    for part in parts {
        assert!(picture.contains(part), "no {part:?} in\n{picture}");
    }
}

#[test]
fn overview_fits_any_terminal() {
    let state = state(&snapshot());
    for size in [(80, 24), (120, 40), (200, 60)] {
        let picture = picture(&state, size);
        assert_shows(
            &picture,
            &[
                "http://127.0.0.1:5000",
                "embedded, up 1h1m",
                "live",
                "accepted 12,345 2,346/s",
                "oversold 0",
                "stranded 0",
                "dead letters 1",
                "sold_out 11,790",
                "45, oldest 21 ms",
                "p50 4.2 ms, p99 31 ms",
                "hall_A",
                "500/500",
                "box:4242",
                "Tanisha",
                "11:59:59",
                "1 Overview",
                "q quit",
                "█",
            ],
        );
    }
    assert_shows(&picture(&state, (40, 10)), &["hall_A", "accepted 12,345"]);
    assert_shows(&picture(&state, (39, 9)), &["needs at least 40x10"]);
}

#[test]
fn bar_is_full_only_if_sold_out() {
    let picture = picture(&state(&snapshot()), (80, 24));
    let bar = |item: &str| {
        let line = picture.lines().find(|line| line.contains(item)).unwrap();
        line.chars().filter(|c| "#=.".contains(*c)).collect::<String>()
    };
    assert!(bar("hall_A").chars().all(|c| c == '#'));
    assert!(bar("hall_B").starts_with("#.") && bar("hall_B").ends_with('.'));
    let mut one_left = snapshot();
    one_left["items"] = json!([{"item_id": "x_", "stock": 1_000, "free": 1, "sold": 999}]);
    let picture = self::picture(&state(&one_left), (80, 24));
    assert_shows(&picture, &["#. ", "999/1,000"]);
}

#[test]
fn tabs_switch_lists_scroll_and_help_toggles() {
    let mut many = snapshot();
    let items = (0..100).map(|n| json!({"item_id": format!("item_{n:03}"), "stock": 1, "free": 1}));
    many["items"] = items.collect();
    let mut state = state(&many);
    state.apply(UserCommand::MoveTab(1));
    assert_eq!(state.tab, Tab::Items);
    assert_shows(&picture(&state, (80, 24)), &["item_000", "item_018"]);
    state.apply(UserCommand::Scroll(50));
    let scrolled = picture(&state, (80, 24));
    assert_shows(&scrolled, &["item_050"]);
    assert!(!scrolled.contains("item_049"));
    state.apply(UserCommand::Scroll(isize::MAX));
    assert_shows(&picture(&state, (80, 24)), &["item_099"]);
    state.apply(UserCommand::MoveTab(-2));
    assert_shows(&picture(&state, (80, 24)), &["flux dlq list", "o-2", "not an order"]);
    state.apply(UserCommand::Help);
    assert_shows(&picture(&state, (80, 24)), &["Keys", "switch the tab"]);
    assert!(state.apply(UserCommand::Back), "closes the help first");
    assert!(!state.apply(UserCommand::Back));
}

#[tokio::test(start_paused = true)]
async fn stale_data_is_marked_with_its_age() {
    let mut state = state(&snapshot());
    state.received_at = Some(Instant::now());
    tokio::time::advance(std::time::Duration::from_secs(4)).await;
    assert_shows(&picture(&state, (80, 24)), &["STALE 4s", "hall_A"]);
    state.update(FeedEvent::Disconnected("no connection: refused".to_owned()));
    assert_shows(&picture(&state, (80, 24)), &["STALE 4s: no connection: refused"]);
    state.update(FeedEvent::Snapshot(Box::new(serde_json::from_value(snapshot()).unwrap())));
    assert_shows(&picture(&state, (80, 24)), &["live"]);
    let mut never = AppState::of(&Address::parse("http://127.0.0.1:1").unwrap());
    never.update(FeedEvent::Disconnected("no connection: refused".to_owned()));
    assert_shows(&picture(&never, (80, 24)), &["NO CONNECTION", "refused; reconnecting"]);
}

#[test]
fn oversold_units_are_red_and_bold() {
    let mut wrong = snapshot();
    wrong["oversold_units"] = json!(3);
    let state = state(&wrong);
    let cell = |theme| {
        let terminal = terminal(&state, (80, 24), theme);
        let buffer = terminal.backend().buffer().clone();
        let y = (0..24).find(|y| {
            (0..8).map(|x| buffer[(x, *y)].symbol()).eq("oversold".split("").skip(1).take(8))
        });
        buffer[(0, y.unwrap())].clone()
    };
    assert_eq!(cell(COLOURED).fg, Color::Red);
    let plain = cell(Theme { colour: false });
    assert_eq!(plain.fg, Color::Reset);
    assert!(plain.modifier.contains(Modifier::BOLD));
    let terminal = terminal(&state, (80, 24), Theme { colour: false });
    let colours = terminal.backend().buffer().content().iter().map(|cell| (cell.fg, cell.bg));
    assert!(colours.into_iter().all(|both| both == (Color::Reset, Color::Reset)));
}

/// Puts an escape sequence, a newline and a right-to-left override into every text.
fn poison(value: &mut Value) {
    match value {
        Value::String(text) => *text = format!("\u{1b}]0;x\u{7}\u{9b}2J\r\n\u{202e}{text}"),
        Value::Array(all) => all.iter_mut().for_each(poison),
        Value::Object(all) => all.values_mut().for_each(poison),
        _ => {}
    }
}

#[test]
fn foreign_text_cannot_send_escape_sequences() {
    let mut snapshot = snapshot();
    poison(&mut snapshot);
    let mut state = state(&snapshot);
    let assert_harmless = |text: &str| {
        let bad = |c: &char| c.is_control() && *c != '\n' || *c == '\u{202e}';
        assert_eq!(text.chars().find(bad), None, "{text:?}");
    };
    for page in Tab::ALL {
        state.apply(UserCommand::Tab(page));
        assert_harmless(&picture(&state, (120, 40)));
    }
    let text = plain::page(&state);
    assert_harmless(&text);
    let lines = text.lines().count();
    assert_eq!(lines, plain::page(&self::state(&self::snapshot())).lines().count(), "{text}");
}

#[test]
fn plain_text_has_one_fact_per_line() {
    let text = plain::page(&state(&snapshot()));
    for line in [
        "flux at http://127.0.0.1:5000, backend embedded, up 1h1m",
        "units: 0 oversold, 0 stranded",
        "orders: 12,345 accepted (2,346/s), 12,300 decided (2,300/s), 500 sold, 11,800 rejected, ? expired, 3 dropped",
        "backlog: 45 waiting, the oldest for 21 ms, 1 dead letters",
        "item hall_A: 500 sold, 0 held, 0 free of 500 units, sold_out",
        "worker box:4242 (work): 2,300/s, 7 in flight",
        "decision 11:59:59 o-1: 1 of hall_A to Tanisha sold",
        "dead letter 11:59:59 o-2: not an order",
    ] {
        assert!(text.lines().any(|l| l == line), "no {line:?} in\n{text}");
    }
}
