//! Waiting for a condition with a limit, never for a fixed time.

use std::thread;
use std::time::{Duration, Instant};

/// The condition did not come true in time.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("waited {limit:?} in vain for: {what}")]
pub struct TimedOut {
    /// What was waited for.
    pub what: String,
    /// How long.
    pub limit: Duration,
}

/// Asks `condition` every few milliseconds until it gives a value, and returns that.
///
/// # Errors
/// When `limit` has passed without one.
pub fn value<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<T, TimedOut> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if Instant::now() >= end {
            return Err(TimedOut { what: what.to_owned(), limit });
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Asks `condition` every few milliseconds until it is true.
///
/// # Errors
/// When `limit` has passed without that.
pub fn until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<(), TimedOut> {
    value(what, limit, || condition().then_some(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_first_value_and_reports_what_was_waited_for() {
        let mut asked = 0;
        let got = value("three", Duration::from_secs(5), || {
            asked += 1;
            (asked == 3).then_some(asked)
        });
        assert_eq!(got, Ok(3));
        let limit = Duration::from_millis(1);
        assert_eq!(until("rain", limit, || false), Err(TimedOut { what: "rain".to_owned(), limit }));
    }
}
