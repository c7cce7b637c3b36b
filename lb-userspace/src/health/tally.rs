//! What the checks of one backend have come to: how many, how long they took, why they failed. Pure.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Upper bounds of the buckets in microseconds, from 1 ms to 5 s; the last bucket has none.
pub const BOUNDS_US: [u64; 12] =
    [1_000, 2_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000];

/// The checks of a backend since the daemon began to check it: since its start, or since a reload changed how it is checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CheckTally {
    /// Checks that have come to a result.
    pub count: u64,
    /// Those that failed, by kind of failure; kinds that there were none of are absent.
    pub failed: BTreeMap<String, u64>,
    /// How often the backend's state changed; the first result is a change, too.
    pub transitions: u64,
    /// How long it was down altogether, in milliseconds; not the time since it went down, if it is down.
    #[serde(default)]
    pub down_ms: u64,
    /// What the last one took, in microseconds.
    pub last_us: u64,
    /// What all of them took together.
    pub sum_us: u64,
    /// How many took at most as long as each of [`BOUNDS_US`], and how many longer, not cumulated.
    pub buckets: [u64; BOUNDS_US.len() + 1],
}

impl CheckTally {
    /// One more; with the kind of its failure, if it failed.
    pub fn add(&mut self, took: Duration, failure: Option<&str>) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.count += 1;
        self.last_us = us;
        self.sum_us = self.sum_us.saturating_add(us);
        self.buckets[BOUNDS_US.iter().position(|bound| us <= *bound).unwrap_or(BOUNDS_US.len())] += 1;
        if let Some(failure) = failure {
            *self.failed.entry(failure.to_owned()).or_default() += 1;
        }
    }

    /// It was down for so long, and is not any more, or in another way.
    pub fn was_down(&mut self, lasted: Duration) {
        self.down_ms = self.down_ms.saturating_add(u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_is_in_one_bucket_and_a_failure_under_its_kind() {
        let mut tally = CheckTally::default();
        for (us, failure) in [
            (0, None),
            (1_000, None),
            (1_001, Some("timeout")),
            (5_000_001, Some("timeout")),
            (9, Some("refused")),
        ] {
            tally.add(Duration::from_micros(us), failure);
        }
        assert_eq!(tally.buckets, [3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!((tally.count, tally.last_us, tally.sum_us), (5, 9, 5_002_011));
        assert_eq!(tally.failed, BTreeMap::from([("refused".to_owned(), 1), ("timeout".to_owned(), 2)]));
        tally.add(Duration::MAX, None);
        assert_eq!((tally.last_us, tally.sum_us), (u64::MAX, u64::MAX), "no overflow");
    }
}
