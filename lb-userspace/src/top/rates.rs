//! How fast a counter grows. Pure: time is passed in.

use std::{collections::VecDeque, time::Duration};

/// What has not grown for that long does not grow. The daemon counts bytes and packets every other second only.
const STALE: Duration = Duration::from_secs(6);
/// How many of the last rates are kept, for the small picture of them.
const KEPT: usize = 240;

/// A counter that only grows, but for a restart of whoever counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rate {
    last: Option<(Duration, u64)>,
    per_second: f64,
    history: VecDeque<f64>,
}

impl Rate {
    /// The counter stood at `count` at `at`, a time since any moment that is the same for all calls.
    ///
    /// What it grew by is spread over the time since it grew last: a counter that is brought up to date every other second,
    /// and asked for every second, is not seen to stand still in between.
    pub fn seen(&mut self, at: Duration, count: u64) {
        match self.last {
            Some((since, before)) if count > before => {
                let elapsed = at.saturating_sub(since).as_secs_f64();
                if elapsed > 0.0 {
                    self.per_second = (count - before) as f64 / elapsed;
                }
                self.last = Some((at, count));
            }
            Some((since, before)) if count == before => {
                if at.saturating_sub(since) > STALE {
                    self.per_second = 0.0;
                    // What comes next has come of late.
                    self.last = Some((at, count));
                }
            }
            // The first one; or counting has begun anew.
            _ => {
                self.per_second = 0.0;
                self.last = Some((at, count));
            }
        }
        if self.history.len() == KEPT {
            self.history.pop_front();
        }
        self.history.push_back(self.per_second);
    }

    /// Growth in a second.
    pub fn per_second(&self) -> f64 {
        self.per_second
    }

    /// The last rates, the newest last.
    pub fn history(&self) -> impl ExactSizeIterator<Item = f64> + DoubleEndedIterator {
        self.history.iter().copied()
    }

    /// The largest of the last `count`.
    pub fn largest(&self, count: usize) -> f64 {
        self.history.iter().rev().take(count).copied().fold(0.0, f64::max)
    }
}

/// The last `width` rates as a row of bars, blank where there are none yet; `full` is as high as it gets.
pub fn bars(rate: &Rate, width: usize, full: f64) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown: Vec<char> = rate
        .history()
        .rev()
        .take(width)
        .map(|rate| {
            if rate <= 0.0 || full <= 0.0 {
                return ' ';
            }
            let level = (rate / full * BARS.len() as f64).ceil() as usize;
            BARS[level.clamp(1, BARS.len()) - 1]
        })
        .collect();
    let blank = " ".repeat(width - shown.len());
    blank.chars().chain(shown.into_iter().rev()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(samples: &[(u64, u64)]) -> Rate {
        let mut rate = Rate::default();
        for &(seconds, count) in samples {
            rate.seen(Duration::from_secs(seconds), count);
        }
        rate
    }

    #[test]
    fn growth_is_per_second() {
        assert_eq!(after(&[]).per_second(), 0.0);
        assert_eq!(after(&[(0, 1000)]).per_second(), 0.0, "what was before is not growth");
        assert_eq!(after(&[(0, 1000), (1, 1010)]).per_second(), 10.0);
        assert_eq!(after(&[(0, 1000), (2, 1010)]).per_second(), 5.0);
    }

    #[test]
    fn a_counter_that_is_renewed_every_other_second_grows_steadily() {
        let rate = after(&[(0, 0), (1, 0), (2, 200), (3, 200), (4, 400), (5, 400)]);
        assert_eq!(rate.per_second(), 100.0);
        assert_eq!(rate.history().skip(2).collect::<Vec<_>>(), [100.0; 4]);
    }

    #[test]
    fn what_stands_still_for_long_is_zero_and_grows_anew() {
        assert_eq!(after(&[(0, 0), (1, 10), (8, 10)]).per_second(), 0.0);
        let rate = after(&[(0, 0), (1, 10), (8, 10), (9, 30)]);
        assert_eq!(rate.per_second(), 20.0, "of the last second, not of the last eight");
    }

    #[test]
    fn a_counter_that_begins_anew_is_no_growth() {
        let rate = after(&[(0, 1000), (1, 1010), (2, 3)]);
        assert_eq!(rate.per_second(), 0.0);
        assert_eq!(after(&[(0, 1000), (1, 3), (2, 5)]).per_second(), 2.0);
    }

    #[test]
    fn no_more_is_kept_than_is_drawn() {
        let mut rate = Rate::default();
        (0..1000).for_each(|second| rate.seen(Duration::from_secs(second), second));
        assert_eq!(rate.history().len(), KEPT);
    }

    #[test]
    fn bars_end_with_the_newest_rate() {
        let rate = after(&[(0, 0), (1, 8), (2, 12), (3, 13), (10, 13)]);
        assert_eq!(rate.history().collect::<Vec<_>>(), [0.0, 8.0, 4.0, 1.0, 0.0]);
        assert_eq!(bars(&rate, 7, 8.0), "   █▄▁ ");
        assert_eq!(bars(&rate, 2, 8.0), "▁ ");
        assert_eq!(bars(&rate, 3, 0.0), "   ");
        assert_eq!(rate.largest(3), 4.0);
        assert_eq!(rate.largest(9), 8.0);
    }
}
