//! How many connections may be reset now. Pure: no clock.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// What is done within a little more than a second can reach clients within one.
const SECOND: Duration = Duration::from_millis(1100);
/// No more is made good of a moment in which nobody asked: a busy machine must not answer with a burst.
const AT_ONCE: Duration = Duration::from_millis(100);

/// Spreads resets over time: evenly, and in no second more than the rate, nor in a tenth of one longer.
#[derive(Clone, Debug)]
pub struct Pace {
    rate: u32,
    /// When the next one is due.
    due: Option<Instant>,
    /// Those of the last second.
    last: VecDeque<(Instant, u32)>,
}

impl Pace {
    /// So many in a second; 0 counts as 1.
    pub fn new(rate: u32) -> Self {
        Self { rate: rate.max(1), due: None, last: VecDeque::new() }
    }

    /// How many may be reset at `now`; they count as done. `wanted` is how many there are to do. Time never goes back.
    pub fn take(&mut self, wanted: u64, now: Instant) -> u32 {
        while self.last.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= SECOND) {
            self.last.pop_front();
        }
        let interval = SECOND / self.rate;
        let earliest = now.checked_sub(AT_ONCE.max(interval)).unwrap_or(now);
        let mut due = self.due.map_or(now, |due| due.max(earliest));
        let left = self.rate.saturating_sub(self.last.iter().map(|(_, count)| count).sum());
        let bound = u32::try_from(wanted).unwrap_or(u32::MAX).min(left);
        let mut count = 0;
        while count < bound && due <= now {
            due += interval;
            count += 1;
        }
        if count > 0 {
            self.due = Some(due);
            self.last.push_back((now, count));
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ten_in_a_second_are_one_in_each_tenth_and_a_little() {
        let begin = Instant::now();
        let mut pace = Pace::new(10);
        for n in 0..30 {
            assert_eq!(pace.take(100, begin + Duration::from_millis(n * 110)), 1, "{n}");
            assert_eq!(pace.take(100, begin + Duration::from_millis(n * 110 + 50)), 0);
        }
        assert_eq!(pace.take(0, begin + Duration::from_secs(10)), 0, "nothing to do");
    }

    #[test]
    fn a_pause_is_not_made_good() {
        let begin = Instant::now();
        let mut pace = Pace::new(1000);
        assert_eq!(pace.take(5000, begin), 1, "nothing was missed yet");
        assert!(pace.take(5000, begin + Duration::from_secs(5)) <= 101);
    }

    proptest! {
        #[test]
        fn no_second_has_more_than_the_rate_and_time_is_not_wasted(
            rate in 1..2000u32,
            steps in proptest::collection::vec(1..250u64, 50..300),
        ) {
            let begin = Instant::now();
            let mut pace = Pace::new(rate);
            let mut now = begin;
            let mut done = Vec::new();
            for step in &steps {
                done.push((now, pace.take(u64::MAX, now)));
                now += Duration::from_millis(*step);
            }
            for (n, (from, _)) in done.iter().enumerate() {
                let second = done[n..].iter().take_while(|(at, _)| *at - *from < SECOND);
                prop_assert!(second.map(|(_, count)| count).sum::<u32>() <= rate);
            }
            // Asked ten times a second or more often, it does at least half of what it may.
            if steps.iter().all(|step| *step <= 100) {
                let all: u32 = done.iter().map(|(_, count)| count).sum();
                prop_assert!(f64::from(all) + 1.0 >= (now - begin).as_secs_f64() * f64::from(rate) / 2.0);
            }
        }
    }
}
