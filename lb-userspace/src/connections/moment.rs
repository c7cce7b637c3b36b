//! A time as operators write it, for `xvip who --at`. Pure: the present and the time zone are given.

use jiff::{
    Timestamp,
    civil::{Date, DateTime, Time},
    tz::TimeZone,
};

/// From when until when, milliseconds since 1970: as exact as what was written. The end is not part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The first.
    pub from: u64,
    /// The one after the last.
    pub to: u64,
}

/// Why a text is no time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a time: write 2026-01-02T03:04:05Z (without Z: local time; also without date, or with a fraction), seconds since \
     1970, \"now\" or \"2m ago\""
)]
pub struct NoTime;

/// Reads a time. `now` is the present, `zone` the one of a time without a zone.
///
/// # Errors
/// The text is none.
pub fn moment(text: &str, now: Timestamp, zone: &TimeZone) -> Result<Moment, NoTime> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("now") {
        return moment_of(now, 1);
    }
    if let Some(ago) = text.strip_suffix("ago") {
        return ago_of(ago.trim(), now);
    }
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && text.matches('.').count() <= 1 {
        return unix(text);
    }
    let exact = precision(text);
    if let Ok(time) = text.parse::<Timestamp>() {
        return moment_of(time, exact);
    }
    let local = |time: DateTime| -> Result<Moment, NoTime> {
        let time = time.to_zoned(zone.clone()).map_err(|_| NoTime)?;
        moment_of(time.timestamp(), exact)
    };
    // A time alone is today's. A date alone would be a whole day.
    if text.contains('-') {
        let has_time = text.contains(':');
        return text.parse::<DateTime>().ok().filter(|_| has_time).map_or(Err(NoTime), local);
    }
    let time: Time = text.parse().ok().filter(|_| text.contains(':')).ok_or(NoTime)?;
    let today: Date = now.to_zoned(zone.clone()).date();
    local(today.to_datetime(time))
}

/// How many milliseconds the last digit of a time stands for.
fn precision(text: &str) -> u64 {
    let time = text.split(['T', 't', ' ']).find(|part| part.contains(':')).unwrap_or(text);
    let time = time.split(['Z', 'z', '+', '-', '[']).next().unwrap_or(time);
    match time.split_once(['.', ',']) {
        Some((_, fraction)) => fraction_precision(fraction),
        None if time.matches(':').count() < 2 => 60_000,
        None => 1000,
    }
}

fn fraction_precision(fraction: &str) -> u64 {
    match fraction.len() {
        0 => 1000,
        1 => 100,
        2 => 10,
        _ => 1,
    }
}

fn moment_of(time: Timestamp, exact: u64) -> Result<Moment, NoTime> {
    let from = u64::try_from(time.as_millisecond()).map_err(|_| NoTime)?;
    Ok(Moment { from, to: from.saturating_add(exact) })
}

fn unix(text: &str) -> Result<Moment, NoTime> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    // So many digits are milliseconds, as some programs print them.
    if seconds.len() == 13 && fraction.is_empty() {
        let from: u64 = seconds.parse().map_err(|_| NoTime)?;
        return Ok(Moment { from, to: from + 1 });
    }
    let seconds: u64 = seconds.parse().ok().filter(|_| seconds.len() <= 11).ok_or(NoTime)?;
    let milliseconds: u64 = match fraction {
        "" => 0,
        fraction => format!("{fraction:0<3}")[..3].parse().map_err(|_| NoTime)?,
    };
    let from = seconds * 1000 + milliseconds;
    Ok(Moment { from, to: from + fraction_precision(fraction) })
}

fn ago_of(ago: &str, now: Timestamp) -> Result<Moment, NoTime> {
    // humantime panics on larger ones.
    let is_sane = ago.len() <= 32 && !ago.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 9);
    let ago = is_sane.then(|| humantime::parse_duration(ago).ok()).flatten().ok_or(NoTime)?;
    let exact = if ago.subsec_millis() == 0 { 1000 } else { 1 };
    moment_of(now.checked_sub(ago).map_err(|_| NoTime)?, exact)
}

#[cfg(test)]
mod tests {
    use jiff::tz::offset;

    use super::*;

    #[test]
    fn times_as_people_write_them() {
        let now: Timestamp = "2026-01-02T10:00:00.500Z".parse().expect("a time");
        let zone = TimeZone::fixed(offset(2));
        let at = |text: &str| -> u64 {
            u64::try_from(text.parse::<Timestamp>().expect("a time").as_millisecond()).expect("after 1970")
        };
        for (text, from, exact) in [
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z", 1000),
            ("2026-01-02T03:04:05.6Z", "2026-01-02T03:04:05.6Z", 100),
            ("2026-01-02 03:04:05.67+01:00", "2026-01-02T02:04:05.67Z", 10),
            ("2026-01-02T03:04:05.678901234-05:30", "2026-01-02T08:34:05.678Z", 1),
            ("2026-01-02T03:04:05", "2026-01-02T01:04:05Z", 1000),
            ("2026-01-02 03:04", "2026-01-02T01:04:00Z", 60_000),
            ("03:04:05.123", "2026-01-02T01:04:05.123Z", 1),
            ("03:04", "2026-01-02T01:04:00Z", 60_000),
            ("1767323045", "2026-01-02T03:04:05Z", 1000),
            ("1767323045.5", "2026-01-02T03:04:05.5Z", 100),
            ("1767323045.678901", "2026-01-02T03:04:05.678Z", 1),
            ("1767323045678", "2026-01-02T03:04:05.678Z", 1),
            ("now", "2026-01-02T10:00:00.500Z", 1),
            ("2m ago", "2026-01-02T09:58:00.500Z", 1000),
            (" 1h 30m ago ", "2026-01-02T08:30:00.500Z", 1000),
            ("1500ms ago", "2026-01-02T09:59:59Z", 1),
        ] {
            let expected = Moment { from: at(from), to: at(from) + exact };
            assert_eq!(moment(text, now, &zone), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused_and_nothing_panics() {
        let now: Timestamp = "2026-01-02T10:00:00Z".parse().expect("a time");
        for text in [
            "",
            ".",
            "..",
            "soon",
            "ago",
            "2 ago",
            "2026-01-02",
            "2026-13-02T00:00:00Z",
            "25:00",
            "1",
            "3",
            "99999999999999999999",
            "999999999999",
            "18446744073709551615s 1000000000ns ago",
            "999999999y ago",
            "1969-01-01T00:00:00Z",
            "03",
            "é ago",
            "1.é",
        ] {
            let is_small_number = matches!(text, "1" | "3" | "03");
            assert_eq!(moment(text, now, &TimeZone::UTC).is_ok(), is_small_number, "{text:?}");
        }
    }
}
