//! Numbers, times and other people's text as they are shown.

use crate::core::model::text::is_hidden;

/// What nobody knows.
const UNKNOWN: &str = "?";

/// `12,345,678`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    groups.join(",")
}

pub fn known(number: Option<u64>) -> String {
    number.map_or_else(|| UNKNOWN.to_owned(), count)
}

/// Orders a second.
pub fn rate(rate: Option<f64>) -> String {
    match rate {
        None => UNKNOWN.to_owned(),
        Some(rate) if rate < 10.0 => format!("{rate:.1}/s"),
        Some(rate) => format!("{}/s", count(rate.round() as u64)),
    }
}

/// Milliseconds, as short as they can be told.
pub fn time(ms: Option<f64>) -> String {
    match ms {
        None => UNKNOWN.to_owned(),
        Some(ms) if ms < 10.0 => format!("{ms:.1} ms"),
        Some(ms) if ms < 1_000.0 => format!("{ms:.0} ms"),
        Some(ms) if ms < 60_000.0 => format!("{:.1} s", ms / 1_000.0),
        Some(ms) => age((ms / 1_000.0) as u64),
    }
}

/// The two largest units of a time in seconds.
pub fn age(seconds: u64) -> String {
    let days = seconds / 86_400;
    let hours = seconds / 3_600 % 24;
    let minutes = seconds / 60 % 60;
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

/// The time of day of an RFC 3339 instant, without its date.
pub fn clock(instant: &str) -> String {
    let time = instant.split_once('T').map_or(instant, |(_, time)| time);
    shown(time.split(['.', 'Z', '+']).next().unwrap_or(time), 8)
}

/// Text from outside, which shows only itself: a hidden character becomes a dot. At most `most` characters, the last one then a `…`.
pub fn shown(text: &str, most: usize) -> String {
    let plain = |c: char| if is_hidden(c) { '·' } else { c };
    let mut kept: String = text.chars().take(most).map(plain).collect();
    if text.chars().nth(most).is_some() {
        kept.pop();
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_unknown_is_shown() {
        assert_eq!(
            (count(0), count(999), count(1_234_567)),
            ("0".into(), "999".into(), "1,234,567".into())
        );
        assert_eq!((rate(Some(0.25)), rate(Some(12_345.6))), ("0.2/s".into(), "12,346/s".into()));
        assert_eq!((time(Some(0.5)), time(Some(250.0))), ("0.5 ms".into(), "250 ms".into()));
        assert_eq!((time(Some(2_500.0)), time(Some(7_260_000.0))), ("2.5 s".into(), "2h1m".into()));
        assert_eq!((known(None), rate(None), time(None)), ("?".into(), "?".into(), "?".into()));
        assert_eq!(clock("2026-11-24T12:34:56.789Z"), "12:34:56");
    }

    #[test]
    fn hidden_characters_are_replaced() {
        assert_eq!(shown("Zoë 東京 🎟", 20), "Zoë 東京 🎟");
        assert_eq!(shown("\u{1b}[2Jx\u{9b}y\u{202e}z\n", 20), "·[2Jx·y·z·");
        assert_eq!(shown("abcdef", 4), "abc…");
    }
}
