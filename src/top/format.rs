//! Formats numbers, times and foreign text for the terminal.

use crate::core::model::text::is_hidden;

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

pub fn count_or_unknown(number: Option<u64>) -> String {
    number.map_or_else(|| UNKNOWN.to_owned(), count)
}

/// Orders per second.
pub fn rate(rate: Option<f64>) -> String {
    match rate {
        None => UNKNOWN.to_owned(),
        Some(rate) if rate < 10.0 => format!("{rate:.1}/s"),
        Some(rate) => format!("{}/s", count(rate.round() as u64)),
    }
}

/// A number of milliseconds, in ms, s or larger units.
pub fn time(ms: Option<f64>) -> String {
    match ms {
        None => UNKNOWN.to_owned(),
        Some(ms) if ms < 10.0 => format!("{ms:.1} ms"),
        Some(ms) if ms < 1_000.0 => format!("{ms:.0} ms"),
        Some(ms) if ms < 60_000.0 => format!("{:.1} s", ms / 1_000.0),
        Some(ms) => age((ms / 1_000.0) as u64),
    }
}

/// A number of seconds, in its two largest units.
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

/// The time of day of an RFC 3339 timestamp.
pub fn clock(instant: &str) -> String {
    let time = instant.split_once('T').map_or(instant, |(_, time)| time);
    sanitized(time.split(['.', 'Z', '+']).next().unwrap_or(time), 8)
}

/// Makes foreign text safe for a terminal: replaces control and other hidden characters by `·`, and
/// cuts the text to `max_chars`, with `…` as its last character.
pub fn sanitized(text: &str, max_chars: usize) -> String {
    let visible = |c: char| if is_hidden(c) { '·' } else { c };
    let mut sanitized: String = text.chars().take(max_chars).map(visible).collect();
    if text.chars().nth(max_chars).is_some() {
        sanitized.pop();
        sanitized.push('…');
    }
    sanitized
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_unknown_is_shown() {
        assert_eq!([0, 999, 1_234_567].map(count), ["0", "999", "1,234,567"]);
        assert_eq!([0.25, 12_345.6].map(|r| rate(Some(r))), ["0.2/s", "12,346/s"]);
        let times = [0.5, 250.0, 2_500.0, 7_260_000.0].map(|ms| time(Some(ms)));
        assert_eq!(times, ["0.5 ms", "250 ms", "2.5 s", "2h1m"]);
        assert_eq!([count_or_unknown(None), rate(None), time(None)], ["?", "?", "?"]);
        assert_eq!(clock("2026-11-24T12:34:56.789Z"), "12:34:56");
    }

    #[test]
    fn hidden_characters_are_replaced() {
        assert_eq!(sanitized("Zoë 東京 🎟", 20), "Zoë 東京 🎟");
        assert_eq!(sanitized("\u{1b}[2Jx\u{9b}y\u{202e}z\n", 20), "·[2Jx·y·z·");
        assert_eq!(sanitized("abcdef", 4), "abc…");
    }
}
