//! How many flows may be reset now, so that no more than so many are in a second. Pure.

use std::time::{Duration, Instant};

/// What was not done in time is made up for, but no more than that much of it: a thread that was paused must not send all
/// that it missed at once.
const CATCHES_UP: Duration = Duration::from_millis(100);

/// A rate, and what of it is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between two flows; `None`: there is no limit.
    distance: Option<Duration>,
    next: Instant,
}

impl Pace {
    /// So many in a second, the first of them at `now`; 0 is no limit.
    pub fn new(rate: u32, now: Instant) -> Self {
        let distance = (rate != 0).then(|| Duration::from_nanos(1_000_000_000 / u64::from(rate)));
        Self { distance, next: now }
    }

    /// Goes on at another rate; what is used up stays so.
    pub fn set_rate(&mut self, rate: u32, now: Instant) {
        let next = self.next;
        *self = Self::new(rate, now);
        if let Some(distance) = self.distance {
            self.next = next.clamp(now - distance.min(CATCHES_UP), now + distance);
        }
    }

    /// How many may go at `now`, at most `wanted`; these count as gone.
    pub fn take(&mut self, wanted: usize, now: Instant) -> usize {
        let Some(distance) = self.distance else { return wanted };
        let earliest = now.checked_sub(CATCHES_UP).unwrap_or(now);
        self.next = self.next.max(earliest);
        let Some(late) = now.checked_duration_since(self.next) else { return 0 };
        let due = late.as_nanos() / distance.as_nanos().max(1) + 1;
        let taken = wanted.min(usize::try_from(due).unwrap_or(usize::MAX));
        // No more than `due`, which CATCHES_UP and the largest rate bound.
        self.next += distance * u32::try_from(taken).unwrap_or(u32::MAX);
        taken
    }

    /// When the next one may go; not later than `now` where there is no limit.
    pub fn next(&self, now: Instant) -> Instant {
        if self.distance.is_some() { self.next } else { now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_rate_all_go_at_once() {
        let now = Instant::now();
        let mut pace = Pace::new(0, now);
        assert_eq!(pace.take(1_000_000, now), 1_000_000);
        assert_eq!(pace.next(now), now);
    }

    #[test]
    fn a_second_has_as_many_as_the_rate_says_however_often_it_is_asked() {
        for rate in [1, 7, 50, 1000, 999_983] {
            for step in [Duration::from_micros(1700), Duration::from_millis(20), Duration::from_millis(90)] {
                let begin = Instant::now();
                let mut pace = Pace::new(rate, begin);
                let mut taken = 0;
                let mut now = begin;
                while now < begin + Duration::from_secs(2) {
                    taken += pace.take(usize::MAX, now);
                    now += step;
                }
                let (least, most) = (2 * rate as usize - (rate as usize / 10).max(1), 2 * rate as usize + 1);
                // A rate that is no whole number of nanoseconds is rounded up, by less than a thousandth.
                let most = most + most / 1000;
                assert!((least..=most).contains(&taken), "{taken} at {rate} per second, every {step:?}");
            }
        }
    }

    #[test]
    fn what_is_not_wanted_is_not_saved_up() {
        let begin = Instant::now();
        let mut pace = Pace::new(100, begin);
        assert_eq!(pace.take(1, begin), 1);
        assert_eq!(pace.take(1, begin), 0);
        assert_eq!(pace.next(begin), begin + Duration::from_millis(10));
        let later = begin + Duration::from_secs(60);
        assert_eq!(pace.take(usize::MAX, later), 11, "a tenth of a second's and the one that is due");
    }

    #[test]
    fn another_rate_begins_where_the_old_one_was() {
        let begin = Instant::now();
        let mut pace = Pace::new(1, begin);
        assert_eq!(pace.take(5, begin), 1);
        pace.set_rate(10, begin);
        assert_eq!(pace.take(5, begin), 0);
        assert_eq!(pace.next(begin), begin + Duration::from_millis(100));
        pace.set_rate(0, begin);
        assert_eq!(pace.take(5, begin), 5);
    }
}
