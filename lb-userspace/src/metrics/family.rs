//! A row of the table of metrics, and the samples that are read for it.

use std::{collections::BTreeSet, time::SystemTime};

use prometheus_client::registry::Unit;

use super::{PREFIX, catalogue::Kind};
use crate::status::Status;

/// A metric, and how it is read.
#[derive(Debug)]
pub struct Family {
    /// What its full name begins with: ours, or that of what every process tells.
    pub prefix: &'static str,
    /// Without prefix, unit and the suffix of its kind.
    pub name: &'static str,
    /// What kind of thing it is.
    pub kind: Kind,
    /// What it is measured in, if in anything.
    pub unit: Option<Measure>,
    /// What it means: one sentence, without its full stop.
    pub help: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What has to be so for it to be there at all; absent where it always is.
    pub only: Option<&'static str>,
    read: fn(&Status, &mut Samples),
}

/// A base unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Bytes.
    Bytes,
    /// A part of a whole, 0 to 1.
    Ratio,
    /// Seconds; with `timestamp` in the name, since the beginning of 1970 in UTC.
    Seconds,
}

impl Measure {
    /// As names end with it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Ratio => "ratio",
            Self::Seconds => "seconds",
        }
    }

    /// As the library knows it.
    pub fn unit(self) -> Unit {
        match self {
            Self::Bytes => Unit::Bytes,
            Self::Ratio => Unit::Other(self.name().to_owned()),
            Self::Seconds => Unit::Seconds,
        }
    }
}

type Labels = &'static [&'static str];
type Reader = fn(&Status, &mut Samples);

impl Family {
    const fn new(kind: Kind, name: &'static str, help: &'static str, labels: Labels, read: Reader) -> Self {
        Self { prefix: PREFIX, name, kind, unit: None, help, labels, only: None, read }
    }

    /// What goes up and down.
    pub const fn gauge(name: &'static str, help: &'static str, labels: Labels, read: Reader) -> Self {
        Self::new(Kind::Gauge, name, help, labels, read)
    }

    /// What only grows, or begins again with 0.
    pub const fn counter(name: &'static str, help: &'static str, labels: Labels, read: Reader) -> Self {
        Self::new(Kind::Counter, name, help, labels, read)
    }

    /// What has nothing but labels.
    pub const fn info(name: &'static str, help: &'static str, labels: Labels, read: Reader) -> Self {
        Self::new(Kind::Info, name, help, labels, read)
    }

    /// How many of something were at most so large.
    pub const fn histogram(name: &'static str, help: &'static str, labels: Labels, read: Reader) -> Self {
        Self::new(Kind::Histogram, name, help, labels, read)
    }

    /// Measured in this.
    pub const fn of(mut self, unit: Measure) -> Self {
        self.unit = Some(unit);
        self
    }

    /// What every process tells under the same name, by the conventions of Prometheus' client libraries.
    pub const fn of_process(mut self) -> Self {
        self.prefix = "process";
        self
    }

    /// There only if this is so.
    pub const fn only(mut self, when: &'static str) -> Self {
        self.only = Some(when);
        self
    }

    /// As OpenMetrics names the family: without the suffix of its kind.
    pub fn open_name(&self) -> String {
        match self.unit {
            Some(unit) => format!("{}_{}_{}", self.prefix, self.name, unit.name()),
            None => format!("{}_{}", self.prefix, self.name),
        }
    }

    /// As queries name it.
    pub fn full_name(&self) -> String {
        self.open_name() + self.kind.suffix()
    }

    /// What a status has for it; `None` where it has nothing.
    pub fn read(&'static self, status: &Status) -> Option<Read> {
        let mut samples = Samples::default();
        (self.read)(status, &mut samples);
        (!samples.all.is_empty()).then_some(Read { family: self, samples: samples.all })
    }
}

/// A family with what was read for it.
#[derive(Debug)]
pub struct Read {
    /// Whose samples they are.
    pub family: &'static Family,
    /// At least one; no two with the same labels.
    pub samples: Vec<Sample>,
}

/// One series at this moment.
#[derive(Debug)]
pub struct Sample {
    /// The values of the family's labels, in their order.
    pub labels: Vec<String>,
    /// Its value.
    pub value: Value,
}

/// The value of a sample; it fits the kind of its family.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number of things.
    Whole(u64),
    /// A measure.
    Fraction(f64),
    /// Of a histogram.
    Distribution {
        /// All together.
        sum: f64,
        /// How many.
        count: u64,
        /// Upper bounds and how many are in each, not cumulated; the last bound is infinite.
        buckets: Vec<(f64, u64)>,
    },
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Whole(number)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Whole(number.into())
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Whole(number.into())
    }
}

impl From<u8> for Value {
    fn from(number: u8) -> Self {
        Self::Whole(number.into())
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Whole(number as u64)
    }
}

impl From<f64> for Value {
    fn from(measure: f64) -> Self {
        Self::Fraction(measure)
    }
}

impl From<bool> for Value {
    fn from(is_so: bool) -> Self {
        Self::Whole(is_so.into())
    }
}

impl Value {
    /// Of microseconds in buckets with these upper bounds and one above them.
    pub fn of_microseconds(count: u64, sum_us: u64, bounds_us: &[u64], buckets: &[u64]) -> Self {
        let bounds = bounds_us.iter().map(|bound| seconds_of_us(*bound)).chain([f64::INFINITY]);
        let buckets = bounds.zip(buckets.iter().copied()).collect();
        Self::Distribution { sum: seconds_of_us(sum_us), count, buckets }
    }
}

/// Takes samples.
#[derive(Debug, Default)]
pub struct Samples {
    all: Vec<Sample>,
    seen: BTreeSet<Vec<String>>,
}

impl Samples {
    /// One, with the values of the family's labels in their order. A second one with the same labels would make the whole
    /// text unreadable: it is left out.
    pub fn add(&mut self, labels: &[&str], value: impl Into<Value>) {
        let labels: Vec<String> = labels.iter().map(|&label| label.to_owned()).collect();
        if self.seen.insert(labels.clone()) {
            self.all.push(Sample { labels, value: value.into() });
        }
    }

    /// One for each state that there is, 1 for the one that is so now; the state is the last label. One that is not
    /// among them gets a series, too, rather than none that is 1.
    pub fn states(&mut self, labels: &[&str], states: &[&str], now: &str) {
        let strange = (!states.contains(&now)).then_some(&now);
        for state in states.iter().chain(strange) {
            self.add(&[labels, &[*state]].concat(), *state == now);
        }
    }

    /// A moment, as seconds since 1970; nothing where the text is no time.
    pub fn moment(&mut self, labels: &[&str], rfc3339: &str) {
        let since_1970 = humantime::parse_rfc3339(rfc3339)
            .ok()
            .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        if let Some(since_1970) = since_1970 {
            self.add(labels, since_1970.as_secs_f64());
        }
    }
}

/// Milliseconds as seconds.
pub fn seconds_of_ms(ms: u64) -> f64 {
    ms as f64 / 1e3
}

/// Microseconds as seconds.
pub fn seconds_of_us(us: u64) -> f64 {
    us as f64 / 1e6
}

/// Without its prefix length.
pub fn address_of(vip: &str) -> &str {
    vip.split('/').next().unwrap_or(vip)
}
