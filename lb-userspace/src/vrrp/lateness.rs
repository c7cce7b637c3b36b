//! How late advertisements leave: the jitter that a busy machine puts on a timer.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Upper bounds of the buckets in microseconds; the last bucket has none.
pub const BOUNDS_US: [u64; 8] = [100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000];

/// A histogram of how long after their time advertisements were sent, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lateness {
    /// Advertisements that had a time.
    pub count: u64,
    /// The last one's.
    pub last_us: u64,
    /// The latest one's.
    pub max_us: u64,
    /// All together.
    pub sum_us: u64,
    /// How many were at most as late as each of [`BOUNDS_US`], and how many later, not cumulated.
    pub buckets: [u64; BOUNDS_US.len() + 1],
}

impl Lateness {
    /// One more.
    pub fn add(&mut self, late: Duration) {
        let us = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
        self.count += 1;
        self.last_us = us;
        self.max_us = self.max_us.max(us);
        self.sum_us = self.sum_us.saturating_add(us);
        let bucket = BOUNDS_US.iter().position(|bound| us <= *bound).unwrap_or(BOUNDS_US.len());
        self.buckets[bucket] += 1;
    }

    /// Of 100 advertisements so many were at most so late, in microseconds: the bound of the bucket, or the maximum.
    pub fn percentile_us(&self, percent: u64) -> u64 {
        let wanted = (self.count * percent).div_ceil(100);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return BOUNDS_US.get(bucket).map_or(self.max_us, |bound| self.max_us.min(*bound));
            }
        }
        self.max_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_advertisement_is_in_one_bucket() {
        let mut lateness = Lateness::default();
        assert_eq!(lateness.percentile_us(99), 0);
        for us in [0, 100, 101, 2_000, 5_000_000] {
            lateness.add(Duration::from_micros(us));
        }
        assert_eq!(lateness.buckets, [2, 1, 0, 1, 0, 0, 0, 0, 1]);
        assert_eq!((lateness.count, lateness.last_us, lateness.max_us), (5, 5_000_000, 5_000_000));
        assert_eq!(lateness.sum_us, 5_002_201);
        assert_eq!((lateness.percentile_us(40), lateness.percentile_us(60)), (100, 300));
        assert_eq!(lateness.percentile_us(99), 5_000_000);
    }
}
