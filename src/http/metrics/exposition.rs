//! The text format of Prometheus ("Exposition formats", version 0.0.4).

use std::fmt::{Display, Write};

use crate::core::metrics::Histogram;

const MICROSECONDS: f64 = 1e6;

/// The metrics of one scrape. The values of a family must follow it directly.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    pub fn into_text(self) -> String {
        self.text
    }

    /// Begins a family. `kind`: counter, gauge or histogram.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    /// Adds a value to the family.
    pub fn value(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(name);
        for (number, (label, text)) in labels.iter().enumerate() {
            self.text.push(if number == 0 { '{' } else { ',' });
            let text = text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
            self.write(format_args!("{label}=\"{text}\""));
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        self.line(format_args!(" {value}"));
    }

    pub fn counter(&mut self, name: &str, about: &str, value: impl Display) {
        self.family(name, "counter", about);
        self.value(name, &[], value);
    }

    pub fn gauge(&mut self, name: &str, about: &str, value: impl Display) {
        self.family(name, "gauge", about);
        self.value(name, &[], value);
    }

    /// Writes a histogram of microseconds in seconds.
    pub fn seconds(&mut self, name: &str, about: &str, histogram: &Histogram) {
        self.histogram(name, about, histogram, MICROSECONDS);
    }

    /// Writes a histogram of plain numbers.
    pub fn sizes(&mut self, name: &str, about: &str, histogram: &Histogram) {
        self.histogram(name, about, histogram, 1.0);
    }

    fn histogram(&mut self, name: &str, about: &str, histogram: &Histogram, unit: f64) {
        self.family(name, "histogram", about);
        let bucket = format!("{name}_bucket");
        let mut sum = 0;
        let bounds = histogram.bounds().iter().map(|bound| (*bound as f64 / unit).to_string());
        let bounds = bounds.chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(histogram.counts()) {
            sum += count;
            self.value(&bucket, &[("le", &bound)], sum);
        }
        self.value(&format!("{name}_sum"), &[], histogram.sum() as f64 / unit);
        self.value(&format!("{name}_count"), &[], sum);
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        self.write(text);
        self.text.push('\n');
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.write_fmt(text).expect("writing to memory does not fail");
    }
}
