//! What is printed at the end: what failed and why, a table, and the line that counts.

use std::fmt::{self, Write as _};

use super::libtest::Outcome;

/// How much of a failed suite's output to show again; all of it is in its log.
const SHOWN: usize = 300;

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

/// Everything that failed, with the output of its suite.
pub fn failures(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for outcome in outcomes.iter().filter(|outcome| !outcome.failed.is_empty()) {
        let _ = writeln!(text, "\n---- {} ----", outcome.suite);
        for line in relevant(&outcome.output) {
            let _ = writeln!(text, "{line}");
        }
        for failure in &outcome.failed {
            let why = if failure.why.is_empty() { String::new() } else { format!(": {}", failure.why) };
            let _ = writeln!(text, "FAILED {}{why}", failure.test);
        }
    }
    text
}

/// What the harness repeats under `failures:`, or the last lines where it did not come to that.
fn relevant(output: &[String]) -> &[String] {
    let repeated = output.iter().position(|line| line == "failures:");
    let from = repeated.unwrap_or_else(|| output.len().saturating_sub(SHOWN));
    let shown = &output[from..];
    &shown[..shown.len().min(SHOWN)]
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
    for Outcome { suite, passed, failed, skipped, took, .. } in outcomes {
        let (failed, skipped) = (failed.len(), skipped.len());
        let _ = writeln!(
            text,
            "{suite:<width$} {passed:>7} {failed:>7} {skipped:>7} {:>8.1}",
            took.as_secs_f32()
        );
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

    #[test]
    fn failures_show_what_the_harness_repeats_and_why() {
        let mut outcome = Outcome::broken("failover", "hung".to_owned());
        outcome.output = ["noise", "failures:", "---- a stdout ----", "boom"].map(str::to_owned).into();
        let text = failures(&[outcome]);
        assert!(text.contains("boom") && text.contains("FAILED failover: hung"), "{text}");
        assert!(!text.contains("noise"), "{text}");
        assert_eq!(failures(&[self::outcome(1, 1)]), "");
    }

    #[test]
    fn a_suite_that_crashed_shows_its_last_lines() {
        let output: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
        assert_eq!(relevant(&output).len(), SHOWN);
        assert_eq!(relevant(&output).last().map(String::as_str), Some("999"));
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
