//! Numbers as haproxy.cfg writes them: durations (HAProxy 2.6's manual, §2.5) and counts.

use std::time::Duration;

/// What HAProxy's timers hold, in milliseconds.
const MAX_MILLIS: u128 = i32::MAX as u128;

/// A duration: a whole number and `us`, `ms`, `s`, `m`, `h` or `d`; milliseconds without a unit. A part of a millisecond
/// counts as a whole one. `None` if it is none, or more than HAProxy's timers hold (24.8 days).
pub fn duration(text: &str) -> Option<Duration> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number = u128::from(number.parse::<u64>().ok()?);
    let millis = match unit {
        "us" => number.div_ceil(1000),
        "" | "ms" => number,
        "s" => number * 1000,
        "m" => number * 60_000,
        "h" => number * 3_600_000,
        "d" => number * 86_400_000,
        _ => return None,
    };
    let millis = u64::try_from(millis).ok().filter(|_| millis <= MAX_MILLIS)?;
    Some(Duration::from_millis(millis))
}

/// A count without a sign.
pub fn count(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// A count as C's `atol` reads it, which HAProxy uses in places: the digits that it begins with, 0 without any.
pub fn leading_count(text: &str) -> u64 {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().unwrap_or(if end == 0 { 0 } else { u64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_haproxys_units() {
        for (text, millis) in [
            ("5000", 5000),
            ("50000ms", 50_000),
            ("10s", 10_000),
            ("1m", 60_000),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
            ("1500us", 2),
            ("0", 0),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1", "1.5s", "1w", "10 s", "25d", "99999999999999999999", "1ss", "+1"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn counts_have_no_sign() {
        assert_eq!(count("4000"), Some(4000));
        for text in ["", "+1", "-1", "1k", "99999999999999999999999"] {
            assert_eq!(count(text), None, "{text}");
        }
    }

    #[test]
    fn some_counts_end_where_their_digits_do() {
        for (text, count) in [
            ("10k", 10),
            ("many", 0),
            ("", 0),
            ("-5", 0),
            ("250", 250),
            ("99999999999999999999999", u64::MAX),
        ] {
            assert_eq!(leading_count(text), count, "{text}");
        }
    }
}
