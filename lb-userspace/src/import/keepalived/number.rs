//! Numbers as keepalived 2.2.7 reads them: C's `strtoul`, with a range. It goes on after each mistake, sometimes with what it has
//! read so far and sometimes with a default.

use std::time::Duration;

/// A number as keepalived takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number<T> {
    /// As written.
    Good(T),
    /// Something follows that does not belong to it; keepalived warns and takes it.
    Trailing(T),
    /// None, or out of range.
    Bad,
}

impl<T> Number<T> {
    /// Whatever value was read.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Good(value) | Self::Trailing(value) => Some(value),
            Self::Bad => None,
        }
    }

    /// The value if nothing follows it.
    pub fn strict(self) -> Option<T> {
        match self {
            Self::Good(value) => Some(value),
            Self::Trailing(_) | Self::Bad => None,
        }
    }
}

/// A whole number in a range (`read_unsigned_func`, `read_int_func`).
pub fn whole(text: &str, range: std::ops::RangeInclusive<i64>) -> Number<i64> {
    let text = text.trim_start();
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let length = digits.bytes().take_while(u8::is_ascii_digit).count();
    let Ok(value) = digits[..length].parse::<i64>() else { return Number::Bad };
    let value = if negative { -value } else { value };
    match (range.contains(&value), length == digits.len()) {
        (true, true) => Number::Good(value),
        (true, false) => Number::Trailing(value),
        (false, _) => Number::Bad,
    }
}

/// Seconds with a fraction, to the microsecond (`read_decimal_unsigned_func`, `read_timer`).
pub fn seconds(text: &str, range: std::ops::RangeInclusive<Duration>) -> Number<Duration> {
    let text = text.trim_start();
    let whole_length = text.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = text.split_at(whole_length);
    let fraction = rest.strip_prefix('.').unwrap_or("");
    let fraction_length = fraction.bytes().take_while(u8::is_ascii_digit).count();
    if whole.is_empty() && fraction_length == 0 {
        return Number::Bad;
    }
    let Ok(seconds) = (if whole.is_empty() { Ok(0) } else { whole.parse::<u32>() }) else {
        return Number::Bad;
    };
    let micros = fraction[..fraction_length]
        .bytes()
        .chain(std::iter::repeat(b'0'))
        .take(6)
        .fold(0_u64, |value, digit| value * 10 + u64::from(digit - b'0'));
    let value = Duration::from_secs(u64::from(seconds)) + Duration::from_micros(micros);
    let clean = rest.is_empty() || (rest.starts_with('.') && fraction_length == fraction.len());
    match (range.contains(&value), clean) {
        (true, true) => Number::Good(value),
        (true, false) => Number::Trailing(value),
        (false, _) => Number::Bad,
    }
}

/// `on`, `true`, `yes` and their contraries; nothing is `true`.
pub fn switch(word: Option<&str>) -> Option<bool> {
    match word {
        None | Some("on" | "true" | "yes") => Some(true),
        Some("off" | "false" | "no") => Some(false),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_strtoul_reads_them() {
        for (text, expected) in [
            ("100", Number::Good(100)),
            (" 7", Number::Good(7)),
            ("+7", Number::Good(7)),
            ("-5", Number::Good(-5)),
            ("10s", Number::Trailing(10)),
            ("256", Number::Bad),
            ("-6", Number::Bad),
            ("", Number::Bad),
            ("s", Number::Bad),
            ("99999999999999999999", Number::Bad),
            ("-", Number::Bad),
        ] {
            assert_eq!(whole(text, -5..=255), expected, "{text:?}");
        }
    }

    #[test]
    fn seconds_have_six_digits_behind_the_point() {
        let range = Duration::from_millis(10)..=Duration::from_secs(255);
        for (text, expected) in [
            ("1", Number::Good(Duration::from_secs(1))),
            ("0.25", Number::Good(Duration::from_millis(250))),
            (".5", Number::Good(Duration::from_millis(500))),
            ("1.1234567", Number::Good(Duration::from_micros(1_123_456))),
            ("1s", Number::Trailing(Duration::from_secs(1))),
            ("1.5s", Number::Trailing(Duration::from_millis(1500))),
            ("0", Number::Bad),
            ("0.001", Number::Bad),
            ("256", Number::Bad),
            ("-1", Number::Bad),
            (".", Number::Bad),
            ("4294967296", Number::Bad),
        ] {
            assert_eq!(seconds(text, range.clone()), expected, "{text:?}");
        }
    }
}
