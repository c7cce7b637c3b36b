//! From a configured priority and the state of what is tracked to what VRRP may say. Pure.

use std::{num::NonZeroU8, time::SystemTime};

use serde::Serialize;

use crate::{
    config::model::{Track, Tracked},
    vrrp::advert::Priority,
};

/// Whether all is well with what is tracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TrackCondition {
    /// No result yet.
    Unknown,
    /// It is.
    Up,
    /// It is not.
    Down,
}

/// What is known about something tracked: a level, of which only the newest value matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackState {
    /// Whether all is well.
    pub condition: TrackCondition,
    /// Since when, by the wall clock, for people.
    pub since: SystemTime,
    /// The newest result that agrees with the condition, in words.
    pub reason: String,
}

impl TrackState {
    /// Nothing known yet.
    pub fn unknown(now: SystemTime) -> Self {
        Self { condition: TrackCondition::Unknown, since: now, reason: "no result yet".to_owned() }
    }
}

/// The name of what is tracked, for people.
pub fn subject(what: &Tracked) -> String {
    match what {
        Tracked::Interface { interface } => format!("interface {interface}"),
        Tracked::Script { command, .. } => format!("script {}", command.join(" ")),
    }
}

/// The priority that the tracks make of the configured one, as keepalived reckons (`vrrp_set_effective_priority`): a
/// positive weight counts while all is well, a negative one while it is not; what comes out is 1 to 254. The address
/// owner (255) stays what it is. What has no result yet does not count at all.
///
/// # Errors
/// Why the instance is in Fault: everything without weight that is down.
pub fn weigh<'a>(
    configured: NonZeroU8,
    tracks: impl IntoIterator<Item = (&'a Track, &'a TrackState)>,
) -> Result<Priority, String> {
    let mut total = i64::from(configured.get());
    let mut faults = Vec::new();
    for (track, state) in tracks {
        match (state.condition, track.weight) {
            (TrackCondition::Down, 0) => faults.push(format!("{}: {}", subject(&track.what), state.reason)),
            (TrackCondition::Up, weight) => total += i64::from(weight.max(0)),
            (TrackCondition::Down, weight) => total += i64::from(weight.min(0)),
            (TrackCondition::Unknown, _) => {}
        }
    }
    if !faults.is_empty() {
        return Err(faults.join("; "));
    }
    if Priority(configured.get()) == Priority::OWNER {
        return Ok(Priority::OWNER);
    }
    Ok(Priority(u8::try_from(total.clamp(1, 254)).unwrap_or(1)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn interface(name: &str, weight: i16) -> Track {
        Track { what: Tracked::Interface { interface: name.into() }, weight }
    }

    fn script(weight: i16) -> Track {
        let what = Tracked::Script {
            command: vec!["/usr/local/bin/check".into(), "-q".into()],
            user: "nobody".into(),
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(2),
            rise: 1,
            fall: 1,
        };
        Track { what, weight }
    }

    fn state(condition: TrackCondition, reason: &str) -> TrackState {
        TrackState { condition, since: SystemTime::UNIX_EPOCH, reason: reason.into() }
    }

    fn weighed(configured: u8, tracks: &[(i16, TrackCondition)]) -> Result<u8, String> {
        let tracks: Vec<(Track, TrackState)> =
            tracks.iter().map(|&(weight, condition)| (script(weight), state(condition, "exit 1"))).collect();
        let configured = NonZeroU8::new(configured).expect("not 0");
        weigh(configured, tracks.iter().map(|(track, state)| (track, state))).map(|priority| priority.0)
    }

    #[test]
    fn a_weight_counts_as_its_sign_says() {
        use TrackCondition::{Down, Unknown, Up};
        for (configured, tracks, expected) in [
            (100, &[][..], 100),
            (100, &[(20, Up)][..], 120),
            (100, &[(20, Down)][..], 100),
            (100, &[(-20, Up)][..], 100),
            (100, &[(-20, Down)][..], 80),
            (100, &[(20, Unknown), (-20, Unknown), (0, Unknown)][..], 100),
            (100, &[(0, Up)][..], 100),
            // The sum counts, not what it is on the way.
            (100, &[(253, Up), (-253, Down)][..], 100),
            (200, &[(100, Up), (-50, Down)][..], 250),
            (100, &[(253, Up)][..], 254),
            (100, &[(-253, Down)][..], 1),
            (254, &[(1, Up)][..], 254),
            (255, &[(-253, Down)][..], 255),
            (255, &[(253, Up)][..], 255),
        ] {
            assert_eq!(weighed(configured, tracks), Ok(expected), "{configured} with {tracks:?}");
        }
    }

    #[test]
    fn what_has_no_weight_and_is_down_is_a_fault_and_says_why() {
        use TrackCondition::{Down, Up};
        let error = weighed(100, &[(50, Up), (0, Down)]).expect_err("a fault");
        assert_eq!(error, "script /usr/local/bin/check -q: exit 1");
        assert!(weighed(255, &[(0, Down)]).is_err(), "the address owner, too");

        let tracks = [
            (interface("eth1", 0), state(Down, "no carrier")),
            (script(0), state(Down, "exit 2: too old")),
            (script(0), state(Up, "exit 0")),
        ];
        let error = weigh(NonZeroU8::MIN, tracks.iter().map(|(track, state)| (track, state)));
        let expected = "interface eth1: no carrier; script /usr/local/bin/check -q: exit 2: too old";
        assert_eq!(error, Err(expected.to_owned()));
    }
}
