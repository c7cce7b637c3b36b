//! How long a service was away, from requests that were begun at a steady rate. Pure.
//!
//! The time without service is the longest span in which no request that *began* in it succeeded: from the beginning of
//! the last request before a run of failures that succeeded to the beginning of the first one after it. So it is never
//! shorter than what a client saw, and longer by at most two pauses between requests. Where nothing failed it is zero,
//! however long the pauses were: a probe that was not scheduled says nothing about the service.

use std::time::Duration;

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// When it began, in microseconds of the monotonic clock.
    pub began_us: u64,
    /// Whether it was answered in full within its time-out.
    pub succeeded: bool,
}

/// The longest time from the beginning of one request to that of the next: where it is long, the probe itself was kept
/// from running, and an outage may have been shorter than it looks.
#[must_use]
pub fn longest_pause(attempts: &[Attempt]) -> Duration {
    let mut begun: Vec<_> = attempts.iter().map(|attempt| attempt.began_us).collect();
    begun.sort_unstable();
    Duration::from_micros(begun.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0))
}

/// The longest time without service that these requests, in any order, tell of.
///
/// A run of failures at the very beginning counts from its first failure, one at the very end up to `until_us`.
#[must_use]
pub fn longest_outage(mut attempts: Vec<Attempt>, until_us: u64) -> Duration {
    attempts.sort_unstable_by_key(|attempt| attempt.began_us);
    let mut longest = 0;
    let mut last_success = None;
    let mut away_since = None;
    for Attempt { began_us, succeeded } in attempts {
        if !succeeded {
            away_since = away_since.or(last_success).or(Some(began_us));
            continue;
        }
        if let Some(since) = away_since.take() {
            longest = longest.max(began_us.saturating_sub(since));
        }
        last_success = Some(began_us);
    }
    if let Some(since) = away_since {
        longest = longest.max(until_us.saturating_sub(since));
    }
    Duration::from_micros(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What requests beginning at these times came to: `+` succeeded, `-` failed.
    fn outage(requests: &[(u64, char)], until_us: u64) -> u64 {
        let attempts =
            requests.iter().map(|(began_us, sign)| Attempt { began_us: *began_us, succeeded: *sign == '+' });
        longest_outage(attempts.collect(), until_us).as_micros().try_into().unwrap()
    }

    #[test]
    fn an_outage_lasts_from_success_to_success() {
        assert_eq!(outage(&[(0, '+'), (5, '+'), (10, '-'), (15, '-'), (20, '+'), (25, '+')], 30), 15);
    }

    #[test]
    fn the_longest_of_several_counts() {
        let two = [(0, '+'), (5, '-'), (10, '+'), (15, '-'), (20, '-'), (25, '+'), (30, '-'), (35, '+')];
        assert_eq!(outage(&two, 40), 15);
        let in_order_of_their_ends =
            [(25, '+'), (0, '+'), (35, '+'), (10, '+'), (20, '-'), (5, '-'), (30, '-'), (15, '-')];
        assert_eq!(outage(&in_order_of_their_ends, 40), 15);
    }

    #[test]
    fn a_probe_that_slept_is_no_outage() {
        assert_eq!(outage(&[(0, '+'), (900, '+'), (905, '+')], 2_000), 0);
        assert_eq!(outage(&[], 2_000), 0);
    }

    #[test]
    fn a_pause_is_between_neighbours() {
        let attempts = [25, 0, 5, 10].map(|began_us| Attempt { began_us, succeeded: true });
        assert_eq!(longest_pause(&attempts), Duration::from_micros(15));
        assert_eq!(longest_pause(&[]), Duration::ZERO);
    }

    #[test]
    fn runs_at_the_edges_count_as_far_as_they_are_known() {
        assert_eq!(outage(&[(5, '-'), (10, '-'), (15, '+')], 20), 10);
        assert_eq!(outage(&[(5, '+'), (10, '-'), (15, '-')], 100), 95);
    }

    #[test]
    fn a_success_in_the_middle_ends_it() {
        // A request that began in it and succeeded: the service was there at that moment.
        assert_eq!(outage(&[(0, '+'), (5, '-'), (10, '-'), (15, '+'), (20, '-'), (25, '+')], 30), 15);
    }
}
