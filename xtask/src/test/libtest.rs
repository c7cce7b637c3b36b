//! Reads what a test program of the standard harness prints, and says what became of its tests.
//!
//! The format is for people, and a child process of a test writes into the middle of it, so nothing here relies on a
//! line being whole: the totals in `test result:` are the last word, and a program that ends without them failed.

use std::time::Duration;

use super::{essence, kernel::Kernel};
use crate::process::End;

/// A failed test, or something else about a suite that counts as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its name.
    pub test: String,
    /// Empty where the output says it.
    pub why: String,
}

/// What became of one suite.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Its name.
    pub suite: String,
    /// How many tests did what they should.
    pub passed: usize,
    /// Those that did not.
    pub failed: Vec<Failure>,
    /// Those that did not at first, and did when they were run again; they are among those that passed.
    pub unsteady: Vec<Failure>,
    /// Tests that could not do their work here, with the reason.
    pub skipped: Vec<(String, String)>,
    /// Wall-clock time.
    pub took: Duration,
    /// Everything it printed; for a failed suite it is shown again at the end.
    pub output: Vec<String>,
}

impl Outcome {
    /// Nothing so far.
    pub fn new(suite: &str) -> Self {
        Self { suite: suite.to_owned(), ..Self::default() }
    }

    /// A suite that could not be run at all.
    pub fn broken(suite: &str, why: String) -> Self {
        let failed = vec![Failure { test: suite.to_owned(), why }];
        Self { suite: suite.to_owned(), failed, ..Self::default() }
    }

    /// Tests that ran, or should have.
    pub fn count(&self) -> usize {
        self.passed + self.failed.len() + self.skipped.len()
    }
}

/// How one test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// `ok`
    Passed,
    /// `FAILED`
    Failed,
    /// `ignored`, with the reason if there is one.
    Ignored(String),
}

/// Takes the lines of one test program.
#[derive(Debug, Default)]
pub struct Reader {
    verdicts: Vec<(String, Verdict)>,
    /// A test that was announced and has not ended. With one thread the harness writes the verdict later.
    running: Option<String>,
    /// (test, reason)
    skips: Vec<(String, String)>,
    /// Sums over all `test result:` lines: passed, failed, ignored. Documentation tests print several.
    totals: Option<[usize; 3]>,
    lines: Vec<String>,
}

impl Reader {
    /// Takes a line; returns a test that ended with it.
    pub fn line(&mut self, line: &str) -> Option<(String, Verdict)> {
        self.lines.push(line.to_owned());
        let text = line.trim();
        if let Some((test, reason)) = skip(text) {
            // Shown twice when the test's output goes straight through and is repeated at the end.
            if !self.skips.iter().any(|known| known == &(test.to_owned(), reason.to_owned())) {
                self.skips.push((test.to_owned(), reason.to_owned()));
            }
            return None;
        }
        if let Some(totals) = totals(text) {
            let so_far = self.totals.unwrap_or_default();
            self.totals = Some([0, 1, 2].map(|index| so_far[index] + totals[index]));
            return None;
        }
        let ended = match announced(text) {
            Some((test, rest)) => match verdict(rest) {
                Some(verdict) => (test.to_owned(), verdict),
                None => {
                    self.running = Some(test.to_owned());
                    return None;
                }
            },
            None => (self.running.take_if(|_| verdict(text).is_some())?, verdict(text)?),
        };
        self.running = None;
        self.verdicts.push(ended.clone());
        Some(ended)
    }

    /// The program has ended.
    pub fn finish(self, suite: &str, end: anyhow::Result<End>, took: Duration, kernel: &Kernel) -> Outcome {
        let mut outcome = Outcome { suite: suite.to_owned(), took, ..Outcome::default() };
        let mut passed: Vec<&str> = Vec::new();
        for (test, verdict) in &self.verdicts {
            match verdict {
                Verdict::Passed => passed.push(test),
                Verdict::Failed => outcome.fail(test, ""),
                Verdict::Ignored(reason) => outcome.skipped.push((test.clone(), reason.clone())),
            }
        }
        // Where a child process spoilt a line, the totals know more than the lines.
        let [total_passed, total_failed, _] = self.totals.unwrap_or_default();
        outcome.passed = passed.len().max(total_passed);
        let listed = essence::listed(&self.lines);
        if listed.len() == total_failed {
            for test in listed {
                if !outcome.failed.iter().any(|known| known.test == test) {
                    outcome.fail(test, "");
                }
            }
        }
        for _ in outcome.failed.len()..total_failed {
            outcome.fail("(a test whose name was lost in its output)", "it is in the log");
        }
        // A skip of a test that "passed" takes it out of the passed ones; others are cases within a test.
        for (test, reason) in self.skips {
            if let Some(at) = passed.iter().position(|name| is_called(name, &test)) {
                passed.swap_remove(at);
                outcome.passed -= 1;
            }
            match kernel.refutes(&reason) {
                Some(why) => outcome.fail(&test, &format!("skipped ({reason}), but {why}")),
                None => outcome.skipped.push((test, reason)),
            }
        }
        let during = self.running.map(|test| format!(" during {test}")).unwrap_or_default();
        match end {
            Err(error) => outcome.fail(suite, &format!("{error:#}")),
            Ok(End::TimedOut) => outcome.fail(suite, &format!("ended after {} s{during}", took.as_secs())),
            Ok(End::Interrupted) => outcome.fail(suite, &format!("interrupted{during}")),
            Ok(End::Exited(status)) if self.totals.is_none() => {
                outcome.fail(suite, &format!("ended without a result ({status}){during}"));
            }
            Ok(End::Exited(status)) if !status.success() && outcome.failed.is_empty() => {
                outcome.fail(suite, &format!("all tests passed, and then: {status}"));
            }
            Ok(End::Exited(_)) => {}
        }
        outcome.output = self.lines;
        outcome
    }
}

impl Outcome {
    fn fail(&mut self, test: &str, why: &str) {
        self.failed.push(Failure { test: test.to_owned(), why: why.to_owned() });
    }
}

/// `test NAME ... REST`. Not `test NAME has been running for over 60 seconds`.
fn announced(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = text.strip_prefix("test ")?.split_once(" ...")?;
    Some((name.trim_end_matches(" - should panic"), rest.trim()))
}

fn verdict(text: &str) -> Option<Verdict> {
    match text {
        "ok" => Some(Verdict::Passed),
        "FAILED" | "failed" => Some(Verdict::Failed),
        _ => {
            let reason = text.strip_prefix("ignored")?;
            let reason = if reason.is_empty() { "ignored" } else { reason.strip_prefix(", ")? };
            Some(Verdict::Ignored(reason.to_owned()))
        }
    }
}

/// `SKIP NAME: REASON`
fn skip(text: &str) -> Option<(&str, &str)> {
    let (test, reason) = text.strip_prefix("SKIP ")?.split_once(": ")?;
    (!test.is_empty() && !test.contains(' ')).then_some((test, reason.trim()))
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s`
fn totals(text: &str) -> Option<[usize; 3]> {
    let (_, counts) = text.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |name: &str| {
        let part = counts.split(';').map(str::trim).find_map(|part| part.strip_suffix(name))?;
        part.trim().parse().ok()
    };
    Some([count("passed")?, count("failed")?, count("ignored")?])
}

/// Tests may call themselves by the last part of their name.
fn is_called(full: &str, name: &str) -> bool {
    full == name || full.strip_suffix(name).is_some_and(|path| path.ends_with("::"))
}

#[cfg(test)]
mod tests;
