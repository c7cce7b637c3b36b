//! A second try for the cases of the lab that failed.
//!
//! The lab is a network of real kernels, daemons and clocks on a machine that may be busy with something else. A case that
//! fails in one run of two hundred throws away an hour of everybody's work, and teaches people to start the run again
//! without looking. So such a case is run once more, alone, when all others have ended; if it passes then, the run counts
//! it as passed, calls it `unsteady`, and prints why it failed first, as for any other failure: it is to be mended.
//!
//! Two things bound what this can hide. Only the lab gets it: what unit tests, properties and data-plane cases find does not
//! depend on time, and fails for good (`Runner: once` in a suite that needs root). And where more than [`MOST`] cases failed
//! nothing is run again, since that many are no accident.

use super::libtest::{Failure, Outcome};

/// How many unsteady cases a run that passes may have.
pub const MOST: usize = 3;

/// Tries again what may have failed by chance. `may_be_repeated` is asked for a suite by its name, `passes` runs one of its
/// cases.
pub fn settle(
    outcomes: &mut [Outcome],
    may_be_repeated: impl Fn(&str) -> bool,
    mut passes: impl FnMut(&str, &str) -> bool,
) {
    let by_chance = |outcome: &Outcome| may_be_repeated(&outcome.suite);
    let failed: usize = outcomes.iter().filter(|o| by_chance(o)).map(|outcome| outcome.failed.len()).sum();
    if failed > MOST {
        return;
    }
    for outcome in outcomes.iter_mut().filter(|outcome| may_be_repeated(&outcome.suite)) {
        let suite = &outcome.suite;
        let (unsteady, failed): (Vec<_>, Vec<_>) = std::mem::take(&mut outcome.failed)
            .into_iter()
            .partition(|failure| is_a_case(failure) && passes(suite, &failure.test));
        outcome.passed += unsteady.len();
        outcome.unsteady.extend(unsteady);
        outcome.failed = failed;
    }
}

/// Not a suite that crashed or hung, nor a skip that is not justified.
fn is_a_case(failure: &Failure) -> bool {
    failure.why.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(suite: &str, failed: &[&str]) -> Outcome {
        let failed = failed.iter().map(|test| Failure { test: (*test).to_owned(), why: String::new() });
        Outcome { passed: 5, failed: failed.collect(), ..Outcome::new(suite) }
    }

    fn names(failures: &[Failure]) -> Vec<&str> {
        failures.iter().map(|failure| failure.test.as_str()).collect()
    }

    #[test]
    fn what_passes_the_second_time_is_unsteady_and_what_fails_again_has_failed() {
        let mut outcomes = [outcome("sync", &["a", "b"]), outcome("modes", &[]), outcome("top", &["c"])];
        let mut tried = Vec::new();
        settle(
            &mut outcomes,
            |_| true,
            |suite, test| {
                tried.push(format!("{suite} {test}"));
                test != "b"
            },
        );
        assert_eq!(tried, ["sync a", "sync b", "top c"], "each once");
        let [sync, modes, top] = &outcomes;
        assert_eq!((names(&sync.failed), names(&sync.unsteady), sync.passed), (vec!["b"], vec!["a"], 6));
        assert_eq!((modes.passed, modes.unsteady.len()), (5, 0));
        assert_eq!((top.failed.len(), names(&top.unsteady), top.passed), (0, vec!["c"], 6));
    }

    #[test]
    fn what_does_not_depend_on_time_gets_no_second_try() {
        let mut outcomes = [outcome("dataplane_properties", &["a"])];
        settle(&mut outcomes, |suite| suite != "dataplane_properties", |_, _| true);
        assert_eq!((outcomes[0].failed.len(), outcomes[0].passed), (1, 5));
    }

    #[test]
    fn a_crash_a_hang_and_a_false_skip_get_none_either() {
        let mut outcomes = [Outcome::broken("sync", "ended after 900 s during a".to_owned())];
        settle(&mut outcomes, |_| true, |_, _| true);
        assert_eq!((outcomes[0].failed.len(), outcomes[0].unsteady.len()), (1, 0));
    }

    #[test]
    fn more_than_a_few_are_no_accident() {
        let cases = ["a", "b", "c", "d"];
        assert_eq!(cases.len(), MOST + 1);
        let mut outcomes = [outcome("sync", &cases[..2]), outcome("top", &cases[2..])];
        settle(&mut outcomes, |_| true, |_, _| panic!("nothing is run again"));
        assert_eq!((outcomes[0].failed.len(), outcomes[1].failed.len()), (2, 2));
        // Those of the other suites count for themselves.
        let mut outcomes = [outcome("sync", &cases[..3]), outcome("lb-common", &cases)];
        settle(&mut outcomes, |suite| suite == "sync", |_, _| true);
        assert_eq!((outcomes[0].unsteady.len(), outcomes[1].failed.len()), (3, 4));
    }
}
