use std::{collections::BTreeSet, sync::LazyLock};

use HealthState::{Down, Unknown, Up};
use proptest::prelude::*;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);
const NANO: Duration = Duration::from_nanos(1);

fn at(seconds: f64) -> Instant {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    *START + Duration::from_secs_f64(seconds)
}

/// A backend that came up again at second 0.
fn recovered(length: Duration) -> SlowStart {
    let mut backend = SlowStart::default();
    backend.observe(Down, length, at(0.0));
    backend.observe(Up, length, at(0.0));
    backend
}

/// Every weight that a timer which follows `next_step` gets to see, with when.
fn walk(ramp: Ramp, weight: u16) -> Vec<(Duration, u16)> {
    let mut now = ramp.since;
    let mut seen = vec![(Duration::ZERO, ramp.effective_weight(weight, now))];
    while let Some(next) = ramp.next_step(now) {
        assert!(next > now, "time goes on");
        now = next;
        seen.push((now - ramp.since, ramp.effective_weight(weight, now)));
        assert!(seen.len() <= 10, "{ramp:?}: {seen:?}");
    }
    seen
}

#[test]
fn ninety_seconds_are_ten_steps_of_ten_seconds() {
    let ramp = Ramp { since: at(0.0), length: Duration::from_secs(90) };
    let expected: Vec<_> = (0..10u16).map(|n| (Duration::from_secs(10) * n.into(), 20 * (n + 1))).collect();
    assert_eq!(walk(ramp, 200), expected);
    // The weight stands still between two steps, and the last one comes exactly at the end.
    assert_eq!(ramp.effective_weight(200, at(9.999)), 20);
    assert_eq!(ramp.effective_weight(200, at(90.0) - NANO), 180);
    assert_eq!(ramp.effective_weight(200, at(1e9)), 200);
}

#[test]
fn small_weights_are_at_least_one_and_zero_stays_zero() {
    let ramp = Ramp { since: at(0.0), length: MINUTE };
    let weights = |weight| walk(ramp, weight).into_iter().map(|(_, weight)| weight).collect::<Vec<_>>();
    assert_eq!(weights(0), [0; 10]);
    assert_eq!(weights(1), [1; 10]);
    assert_eq!(weights(3), [1, 1, 1, 2, 2, 2, 3, 3, 3, 3]);
    assert_eq!(weights(256)[..3], [26, 52, 77]);
}

#[test]
fn never_at_the_start_of_the_daemon() {
    let mut backend = SlowStart::default();
    for state in [Unknown, Up, Unknown, Up] {
        backend.observe(state, MINUTE, at(0.0));
        assert_eq!(backend.effective_weight(100, at(0.0)), 100, "{state:?}");
        assert_eq!(backend.next_step(at(0.0)), None, "{state:?}");
    }
}

#[test]
fn a_backend_that_the_daemon_first_met_when_it_was_down_has_recovered_when_it_is_up() {
    let mut backend = SlowStart::default();
    backend.observe(Unknown, MINUTE, at(0.0));
    backend.observe(Down, MINUTE, at(1.0));
    backend.observe(Up, MINUTE, at(2.0));
    assert_eq!(backend.effective_weight(100, at(2.0)), 10);
}

#[test]
fn staying_up_does_not_begin_it_again() {
    let mut backend = recovered(MINUTE);
    for second in 1..120 {
        backend.observe(Up, MINUTE, at(second.into()));
    }
    assert_eq!(backend.effective_weight(100, at(120.0)), 100);
    assert_eq!(backend.next_step(at(120.0)), None);
}

#[test]
fn a_backend_that_goes_down_in_between_begins_again() {
    let mut backend = recovered(MINUTE);
    assert_eq!(backend.effective_weight(100, at(30.0)), 50);
    backend.observe(Down, MINUTE, at(30.0));
    assert_eq!(backend.next_step(at(30.0)), None, "nothing to wait for while it is down");
    backend.observe(Up, MINUTE, at(40.0));
    assert_eq!(backend.effective_weight(100, at(40.0)), 10);
    assert_eq!(backend.effective_weight(100, at(100.0)), 100);
}

#[test]
fn a_new_length_counts_for_the_next_ramp() {
    let mut backend = recovered(MINUTE);
    backend.observe(Up, MINUTE * 10, at(30.0));
    assert_eq!(backend.effective_weight(100, at(60.0)), 100);
}

#[test]
fn a_length_of_zero_is_no_slow_start() {
    assert_eq!(recovered(Duration::ZERO).effective_weight(100, at(0.0)), 100);
    assert_eq!(recovered(Duration::ZERO).next_step(at(0.0)), None);
    let ramp = Ramp { since: at(0.0), length: Duration::ZERO };
    assert_eq!((ramp.effective_weight(100, at(0.0)), ramp.next_step(at(0.0))), (100, None));
}

#[test]
fn extreme_lengths_and_times_are_no_reason_to_panic() {
    for length in [NANO, NANO * 7, Duration::MAX] {
        let ramp = Ramp { since: at(10.0), length };
        // A clock that seems to run backwards: as if no time had passed.
        assert_eq!(ramp.effective_weight(100, at(0.0)), 10);
        let _ = ramp.next_step(at(0.0));
        let _ = ramp.next_step(at(1e9));
    }
}

#[test]
fn backends_that_recover_together_share_as_if_there_were_no_slow_start() {
    let (one, other) = (recovered(MINUTE), recovered(MINUTE));
    for second in 0..=60 {
        let weight =
            |backend: &SlowStart, weight| u32::from(backend.effective_weight(weight, at(second.into())));
        assert_eq!(weight(&one, 100), weight(&other, 100));
        assert_eq!(weight(&one, 200), 2 * weight(&other, 100));
        // A small weight is rounded by less than one.
        assert!(weight(&one, 100).abs_diff(10 * weight(&other, 10)) < 10);
    }
}

proptest! {
    #[test]
    fn weights_only_grow_in_at_most_ten_steps_up_to_the_whole(
        weight in 0..=256u16,
        length in 0..u64::from(u32::MAX) * 1000,
        times in proptest::collection::vec(0..u64::from(u32::MAX) * 1100, 100),
    ) {
        let ramp = Ramp { since: at(0.0), length: Duration::from_nanos(length) };
        let mut times: Vec<Duration> = times.into_iter().map(Duration::from_nanos).collect();
        times.extend([Duration::ZERO, ramp.length]);
        times.sort();
        let mut last = 0;
        let mut distinct = BTreeSet::new();
        for time in times {
            let now = ramp.since + time;
            let effective = ramp.effective_weight(weight, now);
            prop_assert!(effective >= last && effective <= weight);
            prop_assert_eq!(effective == 0, weight == 0);
            if time >= ramp.length {
                prop_assert_eq!(effective, weight);
            }
            distinct.insert(effective);
            last = effective;
            // Between now and the next step nothing changes, so a timer that sleeps until then misses nothing.
            if let Some(next) = ramp.next_step(now) {
                prop_assert!(next > now && next <= ramp.since + ramp.length);
                prop_assert_eq!(ramp.effective_weight(weight, next - NANO), effective);
            } else {
                prop_assert!(time >= ramp.length);
            }
        }
        prop_assert!(distinct.len() <= 10);
        prop_assert!(walk(ramp, weight).last().unwrap().1 == weight);
    }
}
