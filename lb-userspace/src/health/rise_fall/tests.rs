use std::time::Duration;

use proptest::prelude::*;

use super::{CheckResult::*, Condition::*, DownKind::*, *};
use crate::config::model::Check;

const INTERVAL: Duration = Duration::from_secs(2);
const DOWN_INTERVAL: Duration = Duration::from_secs(1);
const FAST_INTERVAL: Duration = Duration::from_millis(200);

fn machine(rise: u32, fall: u32) -> RiseFall {
    RiseFall::new(&Health {
        check: Check::Tcp,
        interval: INTERVAL,
        down_interval: DOWN_INTERVAL,
        fast_interval: FAST_INTERVAL,
        timeout: Duration::from_secs(1),
        rise,
        fall,
        slow_start: Duration::ZERO,
        slow_start_rate: 0,
    })
}

const DEAD: CheckResult = Fail(Dead);
const ANSWERED: CheckResult = Fail(ShuttingDown);

/// What a row shows; then a result, and condition and pause after it, for each step.
type Row = (&'static str, &'static [(CheckResult, Condition, Duration)]);

/// Rise 3, fall 2.
#[test]
fn rows_of_results() {
    let rows: &[Row] = &[
        ("the first success decides", &[(Pass, Up, INTERVAL)]),
        (
            "the first failure decides, an answered one also the kind",
            &[(ANSWERED, Down(Some(ShuttingDown)), DOWN_INTERVAL)],
        ),
        (
            "a dead backend at start is down at once, dead after fall results",
            &[(DEAD, Down(None), FAST_INTERVAL), (DEAD, Down(Some(Dead)), DOWN_INTERVAL)],
        ),
        ("one failure is forgiven", &[(Pass, Up, INTERVAL), (DEAD, Up, FAST_INTERVAL), (Pass, Up, INTERVAL)]),
        (
            "fall dead results in a row",
            &[(Pass, Up, INTERVAL), (DEAD, Up, FAST_INTERVAL), (DEAD, Down(Some(Dead)), DOWN_INTERVAL)],
        ),
        (
            "an answered failure among the dead: out, but not dead yet; dead once they are fall in a row",
            &[
                (Pass, Up, INTERVAL),
                (ANSWERED, Up, FAST_INTERVAL),
                (DEAD, Down(Some(ShuttingDown)), FAST_INTERVAL),
                (DEAD, Down(Some(Dead)), DOWN_INTERVAL),
            ],
        ),
        (
            "one dead result while it shuts down resets nobody",
            &[
                (ANSWERED, Down(Some(ShuttingDown)), DOWN_INTERVAL),
                (DEAD, Down(Some(ShuttingDown)), FAST_INTERVAL),
                (ANSWERED, Down(Some(ShuttingDown)), DOWN_INTERVAL),
                (DEAD, Down(Some(ShuttingDown)), FAST_INTERVAL),
                (DEAD, Down(Some(Dead)), DOWN_INTERVAL),
            ],
        ),
        (
            "a dead one that answers again is shutting down, and comes up after rise successes in a row",
            &[
                (DEAD, Down(None), FAST_INTERVAL),
                (DEAD, Down(Some(Dead)), DOWN_INTERVAL),
                (ANSWERED, Down(Some(ShuttingDown)), DOWN_INTERVAL),
                (Pass, Down(Some(ShuttingDown)), FAST_INTERVAL),
                (Pass, Down(Some(ShuttingDown)), FAST_INTERVAL),
                (ANSWERED, Down(Some(ShuttingDown)), DOWN_INTERVAL),
                (Pass, Down(Some(ShuttingDown)), FAST_INTERVAL),
                (Pass, Down(Some(ShuttingDown)), FAST_INTERVAL),
                (Pass, Up, INTERVAL),
            ],
        ),
    ];
    for (what, steps) in rows {
        let mut machine = machine(3, 2);
        assert_eq!(machine.next_delay(), Duration::ZERO, "the first check is at once");
        for (at, (result, condition, delay)) in steps.iter().enumerate() {
            let from = machine.condition();
            let transition = machine.observe(*result);
            assert_eq!(machine.condition(), *condition, "{what}, step {at}");
            assert_eq!(machine.next_delay(), *delay, "{what}, step {at}");
            let expected = (from != *condition).then_some(Transition { from, to: *condition });
            assert_eq!(transition, expected, "{what}, step {at}");
        }
    }
}

#[test]
fn zero_thresholds_count_as_one() {
    let mut machine = machine(0, 0);
    machine.observe(Pass);
    machine.observe(DEAD);
    assert_eq!(machine.condition(), Down(Some(Dead)));
    machine.observe(Pass);
    assert_eq!(machine.condition(), Up);
}

/// The rules again, from the whole history and without counters.
fn model(history: &[CheckResult], rise: usize, fall: usize) -> Condition {
    let mut condition = Unknown;
    for end in 1..=history.len() {
        let seen = &history[..end];
        let last =
            |n: usize, f: fn(&CheckResult) -> bool| seen.len() >= n && seen[seen.len() - n..].iter().all(f);
        let now = seen[end - 1];
        let dead = last(fall, |r| *r == DEAD);
        let up = if condition == Unknown { now == Pass } else { last(rise, |r| *r == Pass) };
        let down = if condition == Unknown { now != Pass } else { last(fall, |r| *r != Pass) };
        let already_down = matches!(condition, Down(_));
        condition = match condition {
            _ if up => Up,
            _ if dead => Down(Some(Dead)),
            _ if now == ANSWERED && (down || already_down) => Down(Some(ShuttingDown)),
            Up if down => Down(Some(ShuttingDown)),
            Unknown if down => Down(None),
            same => same,
        };
    }
    condition
}

fn results() -> impl Strategy<Value = Vec<CheckResult>> {
    // Runs rather than single results, so that long thresholds are reached.
    let run = (prop_oneof![Just(Pass), Just(DEAD), Just(ANSWERED)], 1..5usize).prop_map(|(r, n)| vec![r; n]);
    prop::collection::vec(run, 0..20).prop_map(|runs| runs.concat())
}

proptest! {
    #[test]
    fn agrees_with_the_model(history in results(), rise in 1..6u32, fall in 1..6u32) {
        let mut machine = machine(rise, fall);
        for end in 1..=history.len() {
            let from = machine.condition();
            let transition = machine.observe(history[end - 1]);
            let to = model(&history[..end], rise as usize, fall as usize);
            prop_assert_eq!(machine.condition(), to);
            prop_assert_eq!(transition, (from != to).then_some(Transition { from, to }));
        }
    }

    #[test]
    fn dead_only_after_fall_dead_results_in_a_row(history in results(), rise in 1..6u32, fall in 1..6u32) {
        let mut machine = machine(rise, fall);
        for end in 1..=history.len() {
            let became_dead = machine.observe(history[end - 1])
                .is_some_and(|t| t.to == Down(Some(Dead)));
            let row = history[..end].iter().rev().take_while(|r| **r == DEAD).count();
            prop_assert!(!became_dead || row >= fall as usize);
            prop_assert!(row < fall as usize || machine.condition() == Down(Some(Dead)));
        }
    }

    #[test]
    fn the_pause_is_fast_exactly_when_the_last_result_disagrees(history in results(), rise in 1..6u32, fall in 1..6u32) {
        let mut machine = machine(rise, fall);
        for result in history {
            machine.observe(result);
            let expected = match (machine.condition(), result) {
                (Up, Pass) => INTERVAL,
                (Down(Some(kind)), Fail(failure)) if kind == failure => DOWN_INTERVAL,
                _ => FAST_INTERVAL,
            };
            prop_assert_eq!(machine.next_delay(), expected);
        }
    }
}
