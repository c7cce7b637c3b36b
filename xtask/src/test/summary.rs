//! What is printed at the end: what failed with all that it printed, a table, why each failed in a few lines, and the line
//! that counts. The few lines come late because the rest may be cut off where somebody reads it.

use std::fmt::{self, Write as _};

use super::{essence, libtest::Outcome};

/// Lines of a failed test's output that are shown from its beginning, and from its end; all of it is in its suite's log.
const FIRST: usize = 400;
const LAST: usize = 600;
/// Lines of the output of a suite that crashed or hung.
const CRASHED: usize = 300;

/// The sums.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    passed: usize,
    /// Not only tests: a suite that crashed or hung counts as one.
    pub failed: usize,
    skipped: usize,
}

/// Exactly `N passed, N failed`, or `N passed, N failed, N skipped`: other programs look for it.
impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

/// Adds up.
pub fn totals(outcomes: &[Outcome]) -> Totals {
    outcomes.iter().fold(Totals::default(), |sum, outcome| Totals {
        passed: sum.passed + outcome.passed,
        failed: sum.failed + outcome.failed.len(),
        skipped: sum.skipped + outcome.skipped.len(),
    })
}

/// Everything that failed, at first or for good, with what it printed.
pub fn failures(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        let output = &outcome.output;
        for failure in outcome.failed.iter().chain(&outcome.unsteady) {
            let _ = writeln!(text, "\n---- {} {} ----", outcome.suite, failure.test);
            let section = essence::section(output, &failure.test);
            if section.is_empty() {
                for line in &output[output.len().saturating_sub(CRASHED)..] {
                    let _ = writeln!(text, "{line}");
                }
            } else {
                shown(&mut text, &essence::without_foreign_frames(&section[1..]));
            }
            if !failure.why.is_empty() {
                let _ = writeln!(text, "{}", failure.why);
            }
        }
    }
    text
}

fn shown(text: &mut String, lines: &[&str]) {
    let end = lines.len().saturating_sub(LAST).max(FIRST.min(lines.len()));
    for line in &lines[..FIRST.min(lines.len())] {
        let _ = writeln!(text, "{line}");
    }
    if end > FIRST {
        let _ = writeln!(text, "[... {} lines more are in the log ...]", end - FIRST);
    }
    for line in &lines[end..] {
        let _ = writeln!(text, "{line}");
    }
}

/// What failed, at first or for good, and why, in a few lines each.
pub fn reasons(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        let failed = outcome.failed.iter().map(|failure| ("FAILED", failure));
        for (word, failure) in failed.chain(outcome.unsteady.iter().map(|failure| ("unsteady", failure))) {
            let _ = writeln!(text, "{word}: {} {}", outcome.suite, failure.test);
            let told = essence::of(essence::section(&outcome.output, &failure.test));
            for line in told.iter().chain(Some(&failure.why).filter(|why| !why.is_empty())) {
                let _ = writeln!(text, "    {line}");
            }
        }
    }
    if outcomes.iter().any(|outcome| !outcome.unsteady.is_empty()) {
        text.push_str("unsteady: failed at first, and passed alone at the end; its cause is to be mended\n");
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

/// One line for each suite, and the reason of every skip.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut text = String::from("\n");
    let width = outcomes.iter().map(|outcome| outcome.suite.len()).max().unwrap_or(0).max("suite".len());
    let _ = writeln!(
        text,
        "{:<width$} {:>7} {:>7} {:>7} {:>8}",
        "suite", "passed", "failed", "skipped", "seconds"
    );
    for Outcome { suite, passed, failed, unsteady, skipped, took, .. } in outcomes {
        let (failed, skipped) = (failed.len(), skipped.len());
        let _ =
            write!(text, "{suite:<width$} {passed:>7} {failed:>7} {skipped:>7} {:>8.1}", took.as_secs_f32());
        let _ = match unsteady.len() {
            0 => writeln!(text),
            count => writeln!(text, "   {count} unsteady"),
        };
    }
    for outcome in outcomes {
        for (test, reason) in &outcome.skipped {
            let _ = writeln!(text, "skipped: {} {test}: {reason}", outcome.suite);
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::super::libtest::Failure;
    use super::*;

    fn outcome(passed: usize, skipped: usize) -> Outcome {
        let skipped = vec![("t".to_owned(), "no route".to_owned()); skipped];
        Outcome { passed, skipped, ..Outcome::new("forwarding") }
    }

    #[test]
    fn the_last_line_has_exactly_this_form() {
        let broken = Outcome::broken("failover", "hung".to_owned());
        assert_eq!(totals(&[outcome(3, 0), outcome(4, 0)]).to_string(), "7 passed, 0 failed");
        assert_eq!(totals(&[outcome(3, 2), broken]).to_string(), "3 passed, 1 failed, 2 skipped");
        assert_eq!(totals(&[]).to_string(), "0 passed, 0 failed");
    }

    /// One that failed for good, and one that passed at the second try.
    fn failing() -> Outcome {
        let output = [
            "noise",
            "failures:",
            "",
            "---- a stdout ----",
            "before",
            "thread 'a' panicked at src/a.rs:1:2:",
            "boom",
            "note: run with",
            "---- b stdout ----",
            "Error: late",
            "",
            "failures:",
            "    a",
            "    b",
        ];
        let failure = |test: &str| Failure { test: test.to_owned(), why: String::new() };
        Outcome {
            passed: 2,
            failed: vec![failure("a")],
            unsteady: vec![failure("b")],
            output: output.map(str::to_owned).into(),
            ..Outcome::new("failover")
        }
    }

    #[test]
    fn failures_show_all_that_the_test_printed() {
        let text = failures(&[failing()]);
        assert!(text.contains("---- failover a ----\nbefore\n") && text.contains("boom"), "{text}");
        assert!(text.contains("---- failover b ----\nError: late\n"), "{text}");
        assert!(!text.contains("noise"), "{text}");
        assert_eq!(failures(&[outcome(1, 1)]), "");
    }

    #[test]
    fn at_the_end_stands_in_few_lines_why_each_failed() {
        let text = reasons(&[outcome(1, 0), failing(), Outcome::broken("sync", "hung".to_owned())]);
        let expected = "FAILED: failover a\n    thread 'a' panicked at src/a.rs:1:2:\n    boom\n\
                        unsteady: failover b\n    Error: late\nFAILED: sync sync\n    hung\n";
        assert!(text.starts_with(expected), "{text}");
        assert_eq!(reasons(&[outcome(1, 1)]), "");
    }

    #[test]
    fn an_unsteady_test_counts_as_passed_and_is_in_the_table() {
        assert_eq!(totals(&[failing()]).to_string(), "2 passed, 1 failed");
        let text = table(&[failing()]);
        assert!(text.lines().any(|line| line.ends_with("0.0   1 unsteady")), "{text}");
    }

    #[test]
    fn a_suite_that_crashed_shows_its_last_lines() {
        let output: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
        let outcome = Outcome { output, ..Outcome::broken("sync", "hung".to_owned()) };
        let text = failures(&[outcome]);
        assert!(text.ends_with("999\nhung\n") && !text.contains("\n500\n"), "{text}");
    }

    #[test]
    fn of_a_long_output_both_ends_are_shown() {
        for (count, left_out) in [(10, None), (FIRST + LAST, None), (FIRST + LAST + 7, Some(7))] {
            let lines: Vec<String> = (0..count).map(|number| number.to_string()).collect();
            let mut text = String::new();
            shown(&mut text, &lines.iter().map(String::as_str).collect::<Vec<_>>());
            let note = left_out.map(|left_out| format!("[... {left_out} lines more are in the log ...]"));
            let shown: Vec<&str> = text.lines().filter(|line| !line.starts_with('[')).collect();
            assert_eq!(shown.len(), count - left_out.unwrap_or(0));
            assert_eq!(shown.last().copied(), lines.last().map(String::as_str));
            assert_eq!(text.lines().find(|line| line.starts_with('[')), note.as_deref());
        }
    }

    #[test]
    fn the_table_gives_the_reason_of_a_skip() {
        let text = table(&[outcome(1, 1)]);
        assert!(text.contains("skipped: forwarding t: no route"), "{text}");
        assert!(
            text.lines().any(|line| line.split_whitespace().eq(["forwarding", "1", "0", "1", "0.0"])),
            "{text}"
        );
    }
}
