//! How often a source may try passwords: some at once, and then one each ten seconds. Pure: the time is an argument.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::source::Source;

/// Wrong passwords that a source may try at once; people mistype.
const AT_ONCE: u32 = 5;
/// After them, one each.
const EACH: Duration = Duration::from_secs(10);
/// So many sources are remembered. One that is forgotten may try again: that must cost another thousand sources.
const SOURCES: usize = 1024;

/// The passwords that were tried lately.
#[derive(Debug, Default)]
pub struct Attempts {
    /// When each source will have been quiet for long enough, as if it had paid [`EACH`] for each attempt.
    paid_until: HashMap<Source, Instant>,
}

impl Attempts {
    /// Counts an attempt before it is looked at, so that many at once are not free.
    ///
    /// # Errors
    /// How long to wait, where there were too many; this one is not counted then.
    pub fn begin(&mut self, source: Source, now: Instant) -> Result<(), Duration> {
        let until = self.paid_until.get(&source).copied().unwrap_or(now).max(now);
        let wait = until.saturating_duration_since(now).saturating_sub(EACH * (AT_ONCE - 1));
        if !wait.is_zero() {
            return Err(wait);
        }
        if self.paid_until.len() >= SOURCES && !self.paid_until.contains_key(&source) {
            self.make_room(now);
        }
        self.paid_until.insert(source, until + EACH);
        Ok(())
    }

    /// The password was right: that attempt was none.
    pub fn succeeded(&mut self, source: Source) {
        if let Some(until) = self.paid_until.get_mut(&source) {
            *until = until.checked_sub(EACH).unwrap_or(*until);
        }
    }

    fn make_room(&mut self, now: Instant) {
        self.paid_until.retain(|_, until| *until > now);
        if self.paid_until.len() >= SOURCES
            && let Some(source) =
                self.paid_until.iter().min_by_key(|(_, until)| **until).map(|(source, _)| *source)
        {
            self.paid_until.remove(&source);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn source(number: u32) -> Source {
        Source::from(IpAddr::from(number.to_be_bytes()))
    }

    #[test]
    fn after_five_wrong_ones_there_is_one_each_ten_seconds() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        for _ in 0..5 {
            assert_eq!(attempts.begin(source(1), now), Ok(()));
        }
        assert_eq!(attempts.begin(source(1), now), Err(EACH));
        assert_eq!(attempts.begin(source(2), now), Ok(()), "others are not concerned");
        let later = now + Duration::from_secs(4);
        assert_eq!(attempts.begin(source(1), later), Err(Duration::from_secs(6)));
        let later = now + EACH;
        assert_eq!(attempts.begin(source(1), later), Ok(()));
        assert_eq!(attempts.begin(source(1), later), Err(EACH));
        let later = now + Duration::from_secs(3600);
        for _ in 0..5 {
            assert_eq!(attempts.begin(source(1), later), Ok(()), "quiet for long enough");
        }
        assert!(attempts.begin(source(1), later).is_err());
    }

    #[test]
    fn right_passwords_are_free() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        for _ in 0..100 {
            assert_eq!(attempts.begin(source(1), now), Ok(()));
            attempts.succeeded(source(1));
        }
    }

    #[test]
    fn many_sources_take_no_more_memory() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let culprit = source(u32::MAX);
        (0..5).for_each(|_| assert_eq!(attempts.begin(culprit, now), Ok(())));
        for number in 0..10_000 {
            assert_eq!(attempts.begin(source(number), now), Ok(()));
        }
        assert_eq!(attempts.paid_until.len(), SOURCES);
        assert!(attempts.begin(culprit, now).is_err(), "who tried most is remembered longest");
        assert_eq!(attempts.begin(source(20_000), now + Duration::from_secs(60)), Ok(()));
        assert_eq!(attempts.paid_until.len(), 1, "those that are quiet are forgotten first");
    }
}
