//! A handful of measured times, summed up. Pure.

use std::time::Duration;

/// What a series comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// How many samples.
    pub count: usize,
    /// The shortest.
    pub min: Duration,
    /// The one in the middle; of an even number the mean of the two there.
    pub median: Duration,
    /// The smallest that at least nine in ten are not longer than (nearest rank).
    pub p90: Duration,
    /// The longest.
    pub max: Duration,
}

impl Summary {
    /// Sums a series up; none when it is empty.
    #[must_use]
    pub fn of(samples: &[Duration]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable();
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let count = sorted.len();
        let median = (sorted[(count - 1) / 2] + sorted[count / 2]) / 2;
        let p90 = sorted[(count * 9).div_ceil(10) - 1];
        Some(Self { count, min, median, p90, max })
    }
}

/// How often `ours` fits into `theirs`, in a table: `12x`, `1.4x`. What is shorter than the resolution of the measurement
/// counts as that much: `>120x`. Nothing where theirs is that short.
#[must_use]
pub fn ratio(theirs: Duration, ours: Duration, resolution: Duration) -> String {
    if theirs < resolution || resolution.is_zero() {
        return String::new();
    }
    let sign = if ours < resolution { ">" } else { "" };
    let ratio = theirs.as_secs_f64() / ours.max(resolution).as_secs_f64();
    if ratio < 10.0 { format!("{sign}{ratio:.1}x") } else { format!("{sign}{ratio:.0}x") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(samples: impl IntoIterator<Item = u64>) -> [u64; 4] {
        let samples: Vec<_> = samples.into_iter().map(Duration::from_millis).collect();
        let summary = Summary::of(&samples).unwrap();
        assert_eq!(summary.count, samples.len());
        [summary.min, summary.median, summary.p90, summary.max].map(|time| time.as_millis() as u64)
    }

    #[test]
    fn order_does_not_matter_and_ranks_are_the_nearest() {
        assert_eq!(summary((1..=20).rev()), [1, 10, 18, 20]);
        assert_eq!(summary([30, 10, 20]), [10, 20, 30, 30]);
        assert_eq!(summary([7]), [7, 7, 7, 7]);
        assert_eq!(summary(1..=10), [1, 5, 9, 10]);
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn ratios_have_two_digits() {
        let ms = Duration::from_millis;
        let ratio = |theirs, ours| ratio(ms(theirs), ms(ours), ms(5));
        assert_eq!(ratio(3200, 600), "5.3x");
        assert_eq!(ratio(3200, 20), "160x");
        assert_eq!(ratio(20, 3200), "0.0x");
        assert_eq!(ratio(600, 0), ">120x");
        assert_eq!(ratio(0, 600), "");
    }
}
