//! Measured figures: a series has one sample per round, and series of the same rounds are compared round by round. Pure.
//!
//! On a machine whose speed changes while one measures, two medians differ by what the machine did between them. The
//! ratio of two samples that were taken one right after the other does not: hence [`Series::ratio`].

use serde::Serialize;

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Time, shown in nanoseconds: of a packet.
    Nanoseconds,
    /// Time in seconds, shown as fits: `180 us`, `1.2 ms`, `3.10 s`.
    Seconds,
    /// So many a second.
    PerSecond,
    /// Bits per second, shown as fits: `9.4 Gbit/s`.
    BitsPerSecond,
    /// Shown as fits: `512 B`, `7.6 kB`, `96.0 MB` (powers of ten).
    Bytes,
    /// Executed, or contained.
    Instructions,
    /// So many of something.
    Count,
    /// One figure as a multiple of another.
    Ratio,
}

impl Unit {
    /// A value with its unit, in a few characters.
    #[must_use]
    pub fn text(self, value: f64) -> String {
        match self {
            Self::Nanoseconds => format!("{} ns", digits(value)),
            Self::Seconds if value.abs() < 1e-3 => format!("{} us", digits(value * 1e6)),
            Self::Seconds if value.abs() < 1.0 => format!("{} ms", digits(value * 1e3)),
            Self::Seconds => format!("{value:.2} s"),
            Self::PerSecond => format!("{}/s", digits(value)),
            Self::BitsPerSecond => scaled(value, &["bit/s", "kbit/s", "Mbit/s", "Gbit/s"]),
            Self::Bytes => scaled(value, &["B", "kB", "MB", "GB"]),
            Self::Instructions | Self::Count => digits(value),
            Self::Ratio => format!("{value:.2}"),
        }
    }

    /// What stands at the axis of a plot.
    #[must_use]
    pub fn axis(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Seconds => "s",
            Self::PerSecond => "1/s",
            Self::BitsPerSecond => "bit/s",
            Self::Bytes => "bytes",
            Self::Instructions => "instructions",
            Self::Count => "",
            Self::Ratio => "x",
        }
    }
}

/// Three digits at least; thousands with a comma.
fn digits(value: f64) -> String {
    match value.abs() {
        small if small < 9.995 => format!("{value:.2}"),
        small if small < 99.95 => format!("{value:.1}"),
        _ => {
            let whole = format!("{:.0}", value.abs());
            let mut text = if value < 0.0 { "-".to_owned() } else { String::new() };
            for (at, digit) in whole.char_indices() {
                if at > 0 && (whole.len() - at).is_multiple_of(3) {
                    text.push(',');
                }
                text.push(digit);
            }
            text
        }
    }
}

fn scaled(value: f64, units: &[&str]) -> String {
    let (mut value, mut units) = (value, units.iter());
    let mut unit = units.next().copied().unwrap_or_default();
    for larger in units {
        if value.abs() < 1000.0 {
            break;
        }
        (value, unit) = (value / 1000.0, larger);
    }
    format!("{} {unit}", digits(value))
}

/// What a series comes to. Quartiles are interpolated between the two nearest samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// How many samples.
    pub count: usize,
    /// The smallest.
    pub min: f64,
    /// A quarter is below.
    pub p25: f64,
    /// The one in the middle.
    pub median: f64,
    /// A quarter is above.
    pub p75: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Sums samples up; none where there are none, or one is no number.
    #[must_use]
    pub fn of(samples: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        if sorted.iter().any(|sample| !sample.is_finite()) {
            return None;
        }
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let at = |part: f64| {
            let place = part * (sorted.len() - 1) as f64;
            let below = place as usize;
            let above = (below + 1).min(sorted.len() - 1);
            sorted[below] + (sorted[above] - sorted[below]) * place.fract()
        };
        Some(Self { count: sorted.len(), min, p25: at(0.25), median: at(0.5), p75: at(0.75), max })
    }

    /// The middle half, `240 - 251 ns`.
    #[must_use]
    pub fn middle(&self, unit: Unit) -> String {
        let (low, high) = (unit.text(self.p25), unit.text(self.p75));
        // The unit once, where both have the same.
        match (low.split_once(' '), high.split_once(' ')) {
            (Some((low, one)), Some((_, other))) if one == other => format!("{low} - {high}"),
            _ => format!("{low} - {high}"),
        }
    }
}

/// One figure of one subject in all rounds.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What was measured: `new connections`.
    pub figure: String,
    /// Of what: `xvip, nat`.
    pub subject: String,
    /// In what.
    pub unit: Unit,
    /// One per round, in the rounds' order; none for a round in which it could not be measured.
    pub samples: Vec<Option<f64>>,
}

impl Series {
    /// One without samples yet.
    #[must_use]
    pub fn new(figure: &str, subject: &str, unit: Unit) -> Self {
        Self { figure: figure.to_owned(), subject: subject.to_owned(), unit, samples: vec![] }
    }

    /// Sets the sample of a round, counted from 0.
    pub fn set(&mut self, round: usize, value: f64) {
        if self.samples.len() <= round {
            self.samples.resize(round + 1, None);
        }
        self.samples[round] = Some(value);
    }

    /// What it comes to; none without samples.
    #[must_use]
    pub fn spread(&self) -> Option<Spread> {
        Spread::of(self.samples.iter().flatten().copied())
    }

    /// This as a multiple of `base`, round by round; rounds in which either is missing, or `base` is zero, do not count.
    #[must_use]
    pub fn ratio(&self, base: &Self) -> Option<Spread> {
        Spread::of(self.pairs(base).filter(|(_, base)| *base != 0.0).map(|(this, base)| this / base))
    }

    /// By how much this is more than `base`, round by round.
    #[must_use]
    pub fn excess(&self, base: &Self) -> Self {
        let mut excess = Self::new(&self.figure, &self.subject, self.unit);
        for (round, (this, base)) in self.samples.iter().zip(&base.samples).enumerate() {
            if let (Some(this), Some(base)) = (this, base) {
                excess.set(round, this - base);
            }
        }
        excess
    }

    fn pairs(&self, other: &Self) -> impl Iterator<Item = (f64, f64)> {
        self.samples.iter().zip(&other.samples).filter_map(|(this, other)| Some(((*this)?, (*other)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(samples: &[Option<f64>]) -> Series {
        Series { samples: samples.to_vec(), ..Series::new("time", "this", Unit::Nanoseconds) }
    }

    #[test]
    fn quartiles_lie_between_the_nearest_samples() {
        let spread = Spread::of([5.0, 1.0, 4.0, 2.0, 3.0]).unwrap();
        assert_eq!((spread.count, spread.min, spread.max), (5, 1.0, 5.0));
        assert_eq!((spread.p25, spread.median, spread.p75), (2.0, 3.0, 4.0));
        let spread = Spread::of([10.0, 20.0, 30.0, 40.0]).unwrap();
        assert_eq!((spread.p25, spread.median, spread.p75), (17.5, 25.0, 32.5));
        assert_eq!(Spread::of([7.0]).unwrap().p75, 7.0);
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([1.0, f64::NAN]), None);
    }

    #[test]
    fn a_ratio_is_that_of_the_rounds_and_not_of_the_medians() {
        // The machine was twice as slow in the second and third round, and the case takes three times the floor.
        let floor = series(&[Some(10.0), Some(20.0), Some(20.0)]);
        let case = series(&[Some(30.0), Some(60.0), None]);
        let ratio = case.ratio(&floor).unwrap();
        assert_eq!((ratio.count, ratio.min, ratio.median, ratio.max), (2, 3.0, 3.0, 3.0));
        assert_eq!(case.excess(&floor).samples, [Some(20.0), Some(40.0)]);
        assert_eq!(case.ratio(&series(&[Some(0.0)])), None);
    }

    #[test]
    fn rounds_that_are_missing_stay_so() {
        let mut series = series(&[]);
        series.set(2, 4.0);
        assert_eq!(series.samples, [None, None, Some(4.0)]);
        assert_eq!(series.spread().unwrap().count, 1);
    }

    #[test]
    fn values_are_short() {
        let cases = [
            (Unit::Nanoseconds, 246.3, "246 ns"),
            (Unit::Nanoseconds, -12.34, "-12.3 ns"),
            (Unit::Seconds, 0.000_18, "180 us"),
            (Unit::Seconds, 0.0012, "1.20 ms"),
            (Unit::Seconds, 3.1, "3.10 s"),
            (Unit::PerSecond, 12_345.6, "12,346/s"),
            (Unit::BitsPerSecond, 9.4e9, "9.40 Gbit/s"),
            (Unit::Bytes, 512.0, "512 B"),
            (Unit::Bytes, 7600.0, "7.60 kB"),
            (Unit::Count, 1_000_000.0, "1,000,000"),
            (Unit::Ratio, 0.8, "0.80"),
        ];
        for (unit, value, text) in cases {
            assert_eq!(unit.text(value), text);
        }
        let spread = Spread::of([240.0, 250.0]).unwrap();
        assert_eq!(spread.middle(Unit::Nanoseconds), "242 - 248 ns");
    }
}
