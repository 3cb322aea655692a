//! SVG plots: axes, steps, areas, bars.

use maud::{Markup, html};

const HEIGHT: f64 = 250.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 18.0;
const BOTTOM: f64 = 42.0;
/// Vertical distance between the labels of two marks.
const MARK_HEIGHT: f64 = 14.0;

/// A scale and its labelled ticks.
pub(super) struct Axis {
    from: f64,
    to: f64,
    logarithmic: bool,
    ticks: Vec<(f64, String)>,
    name: String,
}

impl Axis {
    /// From 0 to a round number at or above `most`, in steps of at least 1.
    pub fn amounts(most: f64, name: &str) -> Self {
        let step = round_step(most.max(1.0), 5.0).max(1.0);
        let steps = (most.max(1.0) / step).ceil();
        let ticks = (0..=steps as u64).map(|n| (n as f64 * step, amount(n as f64 * step)));
        let to = steps * step;
        Self { from: 0.0, to, logarithmic: false, ticks: ticks.collect(), name: name.to_owned() }
    }

    /// From 0 to `end` seconds, labelled in ms, s, min or h.
    pub fn time(end: f64, name: &str) -> Self {
        let end = end.max(0.001);
        let (unit, seconds) = match end {
            ..2.0 => ("ms", 0.001),
            ..240.0 => ("s", 1.0),
            ..14_400.0 => ("min", 60.0),
            _ => ("h", 3_600.0),
        };
        let step = round_step(end / seconds, 8.0);
        let steps = (end / seconds / step).floor() as u64;
        let ticks = (0..=steps).map(|n| (n as f64 * step * seconds, amount(n as f64 * step)));
        let name = format!("{name} ({unit})");
        Self { from: 0.0, to: end, logarithmic: false, ticks: ticks.collect(), name }
    }

    /// A logarithmic scale of latencies; both bounds must be above 0.
    pub fn latency(from_ms: f64, to_ms: f64) -> Self {
        let decades = (to_ms / from_ms).log10();
        let marks: &[f64] = match decades {
            ..1.5 => &[1.0, 2.0, 5.0],
            ..3.0 => &[1.0, 3.0],
            _ => &[1.0],
        };
        let powers = from_ms.log10().floor() as i32..=to_ms.log10().ceil() as i32;
        let all = powers.flat_map(|power| marks.iter().map(move |m| m * 10f64.powi(power)));
        let inside = all.filter(|ms| (from_ms..=to_ms).contains(ms));
        let ticks = inside.map(|ms| (ms, latency(ms))).collect();
        Self { from: from_ms, to: to_ms, logarithmic: true, ticks, name: "time".to_owned() }
    }

    /// The position of a value on the axis, from 0 to 1.
    fn position(&self, value: f64) -> f64 {
        match self.logarithmic {
            true => (value / self.from).ln() / (self.to / self.from).ln(),
            false => (value - self.from) / (self.to - self.from),
        }
    }
}

/// 1, 2 or 5 times a power of ten, so that `range` has at most about `steps` steps.
fn round_step(range: f64, steps: f64) -> f64 {
    let min = range / steps;
    let power = 10f64.powf(min.log10().floor());
    let factors = [1.0, 2.0, 5.0];
    power * factors.into_iter().find(|f| f * power >= min * 0.999).unwrap_or(10.0)
}

/// `12,345`, `1.5 M`.
pub(super) fn amount(value: f64) -> String {
    match value {
        ..1e3 => format!("{}", (value * 1e3).round() / 1e3),
        ..1e6 => thousands(value.round() as u64),
        ..1e9 => format!("{} M", value / 1e6),
        _ => format!("{} bn", value / 1e9),
    }
}

pub(super) fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of milliseconds, formatted in µs, ms or s.
pub(super) fn latency(ms: f64) -> String {
    match ms {
        ..0.9995 => format!("{:.0} µs", ms * 1_000.0),
        ..9.995 => format!("{} ms", (ms * 100.0).round() / 100.0),
        ..1_000.0 => format!("{} ms", (ms * 10.0).round() / 10.0),
        _ => format!("{} s", (ms / 10.0).round() / 100.0),
    }
}

pub(super) struct Plot {
    /// Prefix of the ids of its title and description.
    pub id: &'static str,
    pub width: f64,
    pub title: &'static str,
    /// Text alternative.
    pub description: String,
    pub x: Axis,
    pub y: Axis,
    /// Labelled values on the x axis.
    pub marks: Vec<(f64, String)>,
}

impl Plot {
    /// The plot with its axes; `content` is drawn with the other functions.
    pub fn draw(&self, content: Markup) -> Markup {
        let title = format!("{}-title", self.id);
        let description = format!("{}-description", self.id);
        let base = HEIGHT - BOTTOM;
        let right = self.width - RIGHT;
        html! {
            svg viewBox=(format!("0 0 {} {HEIGHT}", self.width)) role="img"
                aria-labelledby=(format!("{title} {description}")) {
                title id=(title) { (self.title) }
                desc id=(description) { (self.description) }
                @for (value, text) in &self.y.ticks {
                    @let y = round(self.y(*value));
                    line.grid x1=(LEFT) x2=(right) y1=(y) y2=(y) {}
                    text.tick.left x=(LEFT - 8.0) y=(y) dy="0.35em" { (text) }
                }
                @for (value, text) in &self.x.ticks {
                    @let x = round(self.x(*value));
                    line.notch x1=(x) x2=(x) y1=(base) y2=(base + 5.0) {}
                    text.tick x=(x) y=(base + 18.0) { (text) }
                }
                text.name x=(right) y=(HEIGHT - 6.0) { (self.x.name) }
                text.name.up x=(LEFT) y="12" { (self.y.name) }
                (content)
                line.base x1=(LEFT) x2=(right) y1=(base) y2=(base) {}
                (self.named_marks())
            }
        }
    }

    fn named_marks(&self) -> Markup {
        html! {
            @for (row, (value, text)) in self.marks.iter().enumerate() {
                @let x = self.x(*value);
                @let y = 24.0 + MARK_HEIGHT * row as f64;
                @let (side, beside) = if x > self.width * 0.6 { ("end", -4.0) } else { ("start", 4.0) };
                line.mark x1=(round(x)) x2=(round(x)) y1=(round(y - 10.0)) y2=(HEIGHT - BOTTOM) {}
                text.mark.(side) x=(round(x + beside)) y=(round(y)) { (text) }
            }
        }
    }

    fn top(&self) -> f64 {
        22.0 + MARK_HEIGHT * self.marks.len() as f64
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + self.x.position(value) * (self.width - RIGHT - LEFT)
    }

    fn y(&self, value: f64) -> f64 {
        let base = HEIGHT - BOTTOM;
        base - self.y.position(value) * (base - self.top())
    }

    /// The path of a step plot, with one value per `span` seconds.
    pub fn steps(&self, span: f64, values: &[f64]) -> String {
        let end = values.len() as f64 * span;
        let mut path = String::new();
        for (n, value) in values.iter().enumerate() {
            let x = round(self.x(n as f64 * span));
            let y = round(self.y(*value));
            path += &if n == 0 { format!("M{x} {y}") } else { format!("H{x}V{y}") };
        }
        path + &format!("H{}", round(self.x(end)))
    }

    /// The path of the area between `values` and `below`.
    pub fn between(&self, span: f64, values: &[f64], below: &[f64]) -> String {
        let mut path = self.steps(span, values);
        for (n, value) in below.iter().enumerate().rev() {
            let y = round(self.y(*value));
            let x = round(self.x(n as f64 * span));
            path += &format!("V{y}H{x}");
        }
        path + "Z"
    }

    pub fn bar(&self, from: f64, to: f64, height: f64) -> Markup {
        let x = self.x(from);
        let y = self.y(height);
        let width = (self.x(to) - x - 1.0).max(1.0);
        let height = HEIGHT - BOTTOM - y;
        html! {
            rect.bar x=(round(x)) y=(round(y)) width=(round(width)) height=(round(height)) {}
        }
    }

    pub fn level(&self, value: f64) -> Markup {
        let y = round(self.y(value));
        html! { line.level x1=(LEFT) x2=(self.width - RIGHT) y1=(y) y2=(y) {} }
    }
}

/// Rounds a coordinate to a tenth of a unit, which keeps the file small.
fn round(coordinate: f64) -> f64 {
    (coordinate * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axis_covers_its_values_with_few_ticks() {
        for most in [0.0, 1.0, 3.0, 9.9, 10.0, 11.0, 64_321.0, 1e12] {
            let axis = Axis::amounts(most, "");
            assert!(axis.to >= most && axis.ticks.len() <= 7, "{most}: {}", axis.to);
            assert!(axis.to <= 2.0 * most.max(1.0), "{most}: {}", axis.to);
        }
        for end in [0.0, 0.002, 1.3, 60.0, 5_000.0, 3e6] {
            let ticks = Axis::time(end, "").ticks.len();
            assert!((2..=10).contains(&ticks), "{end}: {ticks}");
        }
        for (from, to) in [(0.001, 3.6e6), (1.0, 1.12), (0.3, 80.0)] {
            assert!(Axis::latency(from, to).ticks.len() <= 10);
        }
    }

    #[test]
    fn numbers_are_formatted_with_units() {
        let amounts = [0.0, 0.1 * 3.0, 1.5, 999.0, 20_000.0, 1.5e6, 1e12].map(amount);
        assert_eq!(amounts, ["0", "0.3", "1.5", "999", "20,000", "1.5 M", "1000 bn"]);
        let latencies = [0.0005, 0.25, 1.0, 9.994, 64.81, 999.9, 12_340.0].map(latency);
        let expected = ["0 µs", "250 µs", "1 ms", "9.99 ms", "64.8 ms", "999.9 ms", "12.34 s"];
        assert_eq!(latencies, expected);
        assert_eq!([0, 999, 1_000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}
