//! The metrics that there are, for the manual and for whoever checks names.

use std::fmt::Write as _;

use super::{PARTS, families, family::Family};

/// What kind of thing a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, or begins again with 0.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Has nothing but labels; its value is 1.
    Info,
    /// How many of something were at most so large.
    Histogram,
}

impl Kind {
    /// As a type is named.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Info => "info",
            Self::Histogram => "histogram",
        }
    }

    /// What names end with, beside the unit.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Counter => "_total",
            Self::Gauge | Self::Histogram => "",
            Self::Info => "_info",
        }
    }
}

/// A metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metric {
    /// As queries name it; of a histogram, without `_bucket`, `_sum` and `_count`.
    pub name: String,
    /// What kind of thing it is.
    pub kind: Kind,
    /// The base unit: `bytes`, `ratio` or `seconds`; the name has it.
    pub unit: Option<&'static str>,
    /// What it means: one sentence, without its full stop.
    pub help: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What has to be so for it to be there at all; absent where it always is.
    pub only: Option<&'static str>,
}

impl Metric {
    fn new(family: &Family) -> Self {
        let &Family { kind, unit, help, labels, only, .. } = family;
        let unit = unit.map(super::family::Measure::name);
        Self { name: family.full_name(), kind, unit, help, labels, only }
    }

    /// The names of its series.
    pub fn series(&self) -> Vec<String> {
        match self.kind {
            Kind::Counter | Kind::Gauge | Kind::Info => vec![self.name.clone()],
            Kind::Histogram => {
                ["_bucket", "_sum", "_count"].map(|suffix| format!("{}{suffix}", self.name)).into()
            }
        }
    }
}

/// Every metric, in the order of the page.
pub fn catalogue() -> Vec<Metric> {
    families().map(Metric::new).collect()
}

/// The tables of `docs/metrics.md`: Markdown, a section for each part.
pub fn markdown() -> String {
    let mut out = String::new();
    for (part, families) in PARTS {
        // Writing to a string does not fail.
        let _ = writeln!(out, "### {part}\n\n| metric | kind | labels | |\n|---|---|---|---|");
        for metric in families.iter().map(Metric::new) {
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let only = metric.only.map(|only| format!(". Only {only}")).unwrap_or_default();
            let Metric { name, kind, help, .. } = metric;
            let _ = writeln!(out, "| `{name}` | {} | {} | {help}{only} |", kind.name(), labels.join(", "));
        }
        out.push('\n');
    }
    out.truncate(out.trim_end().len());
    out + "\n"
}
