//! How fast a node may send: a bucket of bytes that fills with the bandwidth.

use std::time::{Duration, Instant};

/// For how long a quiet node may save up.
const BURST: Duration = Duration::from_millis(20);
/// The least that is saved up: a message of some hundred records fits.
const LEAST_BURST: f64 = 65_536.0;
/// For how long news may be ahead of the bandwidth; a full sync waits meanwhile.
const DEBT: Duration = Duration::from_millis(250);

/// What is sent, and how urgent it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// News of single flows.
    News,
    /// A part of a full sync.
    Full,
}

/// The bucket. Between two calls, time must not run backwards; if it does, nothing fills.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Bytes per second.
    rate: f64,
    /// Bytes that may be sent; below 0 what was sent ahead.
    level: f64,
    filled: Instant,
}

impl Pace {
    /// `rate` in bytes per second, at least 1. The bucket is full.
    pub fn new(rate: u64, now: Instant) -> Self {
        let rate = rate.max(1) as f64;
        Self { rate, level: Self::burst(rate), filled: now }
    }

    fn burst(rate: f64) -> f64 {
        (rate * BURST.as_secs_f64()).max(LEAST_BURST)
    }

    /// Another rate, from now on.
    pub fn set_rate(&mut self, rate: u64, now: Instant) {
        self.fill(now);
        self.rate = rate.max(1) as f64;
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled);
        self.filled = self.filled.max(now);
        self.level = (self.level + elapsed.as_secs_f64() * self.rate).min(Self::burst(self.rate));
    }

    /// Whether a message may be sent now.
    pub fn allows(&mut self, urgency: Urgency, now: Instant) -> bool {
        self.fill(now);
        self.level > self.least(urgency)
    }

    fn least(&self, urgency: Urgency) -> f64 {
        match urgency {
            Urgency::News => -(self.rate * DEBT.as_secs_f64()).max(LEAST_BURST),
            Urgency::Full => 0.0,
        }
    }

    /// Bytes that were sent.
    pub fn spend(&mut self, bytes: usize) {
        self.level -= bytes as f64;
    }

    /// When [`Self::allows`] will be true; not before `now`.
    pub fn ready_at(&self, urgency: Urgency, now: Instant) -> Instant {
        let missing = (self.least(urgency) - self.level).max(0.0);
        // The millisecond more is for the strict comparison, and for timers that have no finer steps.
        let wait = Duration::try_from_secs_f64(missing / self.rate).unwrap_or(Duration::from_secs(3600));
        now.max(self.filled + wait + Duration::from_millis(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_the_long_run_no_more_than_the_rate_is_sent() {
        for (rate, urgency) in
            [(25_000_000, Urgency::Full), (125_000, Urgency::Full), (125_000, Urgency::News)]
        {
            let start = Instant::now();
            let mut pace = Pace::new(rate, start);
            let (mut now, mut sent) = (start, 0_u64);
            while now < start + Duration::from_secs(10) {
                if pace.allows(urgency, now) {
                    pace.spend(30_000);
                    sent += 30_000;
                } else {
                    let ready = pace.ready_at(urgency, now);
                    assert!(ready > now, "a timer that ends at once would spin");
                    now = ready;
                }
            }
            let (low, high) = (rate * 8, rate * 10 + rate / 2 + 200_000);
            assert!((low..=high).contains(&sent), "{rate}: {sent}");
        }
    }

    #[test]
    fn news_may_go_while_a_full_sync_waits() {
        let now = Instant::now();
        let mut pace = Pace::new(1_000_000, now);
        while pace.allows(Urgency::Full, now) {
            pace.spend(10_000);
        }
        assert!(pace.allows(Urgency::News, now));
    }

    #[test]
    fn a_clock_that_stands_or_goes_back_fills_nothing() {
        let now = Instant::now() + Duration::from_secs(10);
        let mut pace = Pace::new(1000, now);
        pace.spend(100_000);
        assert!(!pace.allows(Urgency::Full, now));
        assert!(!pace.allows(Urgency::Full, now - Duration::from_secs(9)));
        assert!(!pace.allows(Urgency::Full, now));
    }
}
