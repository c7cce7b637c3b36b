//! Many measured times, summed up. Pure.

use serde::{Deserialize, Serialize};

/// The percentiles of many times, in nanoseconds: each is the smallest time that at least so many are not longer than.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// How many times.
    pub count: u64,
    /// Half of them.
    pub p50_ns: u64,
    /// 99 of 100.
    pub p99_ns: u64,
    /// 999 of 1,000.
    pub p999_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

impl Latency {
    /// Sums times in nanoseconds up; none where there is none.
    #[must_use]
    pub fn of(mut times: Vec<u64>) -> Option<Self> {
        times.sort_unstable();
        let max_ns = *times.last()?;
        let at = |thousandths: usize| times[(times.len() * thousandths).div_ceil(1000) - 1];
        let (p50_ns, p99_ns, p999_ns) = (at(500), at(990), at(999));
        Some(Self { count: times.len() as u64, p50_ns, p99_ns, p999_ns, max_ns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_the_nearest_and_order_does_not_matter() {
        let percentiles = |times: Vec<u64>| {
            let Latency { count, p50_ns, p99_ns, p999_ns, max_ns } = Latency::of(times)?;
            Some([count, p50_ns, p99_ns, p999_ns, max_ns])
        };
        assert_eq!(percentiles((1..=1000).rev().collect()), Some([1000, 500, 990, 999, 1000]));
        assert_eq!(percentiles(vec![7]), Some([1, 7, 7, 7, 7]));
        assert_eq!(percentiles(vec![3, 1]), Some([2, 1, 3, 3, 3]));
        assert_eq!(percentiles(vec![]), None);
    }
}
