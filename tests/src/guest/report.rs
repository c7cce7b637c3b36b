//! What a guest says on its serial port, one line for each thing; between them the kernel and the lab print what they
//! like.
//!
//! ```text
//! XVIP note TEXT
//! XVIP count INSTRUCTIONS NAME
//! XVIP ok NAME MILLISECONDS
//! XVIP fail NAME REASON
//! XVIP done
//! ```

use std::collections::BTreeMap;
use std::fmt;

const MARK: &str = "XVIP ";
/// Stands for the end of a line in a text.
const NEW_LINE: &str = " | ";

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// Something worth to be shown, whatever comes of it.
    Note(String),
    /// What a packet takes.
    Count {
        /// Of what; may have spaces.
        name: String,
        /// Executed instructions.
        instructions: f64,
    },
    /// A case has ended well.
    Ok {
        /// The case.
        name: String,
        /// How long it took.
        milliseconds: u128,
    },
    /// A case has failed.
    Fail {
        /// The case.
        name: String,
        /// Why.
        reason: String,
    },
    /// No more cases.
    Done,
}

impl Report {
    /// Reads a line, if it is one of ours. It may begin with something that the kernel printed.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (_, report) = line.split_once(MARK)?;
        let (word, rest) = report.split_once(' ').unwrap_or((report, ""));
        let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
        match word {
            "note" => Some(Self::Note(rest.to_owned())),
            "count" => Some(Self::Count { name: text.to_owned(), instructions: name.parse().ok()? }),
            "ok" => Some(Self::Ok { name: name.to_owned(), milliseconds: text.parse().ok()? }),
            "fail" => Some(Self::Fail { name: name.to_owned(), reason: text.replace(NEW_LINE, "\n") }),
            "done" => Some(Self::Done),
            _ => None,
        }
    }

    /// The line, without its end.
    #[must_use]
    pub fn to_line(&self) -> String {
        let line = match self {
            Self::Note(text) => format!("{MARK}note {text}"),
            Self::Count { name, instructions } => format!("{MARK}count {instructions:.1} {name}"),
            Self::Ok { name, milliseconds } => format!("{MARK}ok {name} {milliseconds}"),
            Self::Fail { name, reason } => format!("{MARK}fail {name} {reason}"),
            Self::Done => format!("{MARK}done"),
        };
        line.lines().collect::<Vec<_>>().join(NEW_LINE)
    }
}

/// As people read it.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Note(text) => write!(f, "{text}"),
            Self::Count { name, instructions } => write!(f, "{name}: {instructions:.1} instructions"),
            Self::Ok { name, milliseconds } => write!(f, "{name} ... ok ({milliseconds} ms)"),
            Self::Fail { name, reason } => write!(f, "{name} ... FAILED: {reason}"),
            Self::Done => write!(f, "done"),
        }
    }
}

/// What has become of each case. No news is bad news.
#[derive(Debug)]
pub struct Tally {
    /// `None`: not a word so far.
    cases: BTreeMap<String, Option<Result<(), String>>>,
    done: bool,
}

impl Tally {
    /// Of cases that have not run yet.
    pub fn new(names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { cases: names.into_iter().map(|name| (name.into(), None)).collect(), done: false }
    }

    /// Takes in a line; returns what it says, if it is one of ours.
    pub fn line(&mut self, line: &str) -> Option<Report> {
        let report = Report::parse(line)?;
        match &report {
            Report::Note(_) | Report::Count { .. } => {}
            Report::Ok { name, .. } => drop(self.cases.insert(name.clone(), Some(Ok(())))),
            Report::Fail { name, reason } => {
                drop(self.cases.insert(name.clone(), Some(Err(reason.clone()))));
            }
            Report::Done => self.done = true,
        }
        Some(report)
    }

    /// Whether all is well.
    ///
    /// # Errors
    /// What is not: which cases failed and why, which said nothing, or that there was none.
    pub fn finish(self) -> Result<(), String> {
        let mut wrong = Vec::new();
        for (name, result) in &self.cases {
            match result {
                Some(Ok(())) => {}
                Some(Err(reason)) => wrong.push(format!("{name} failed: {reason}")),
                None => wrong.push(format!("{name} did not end")),
            }
        }
        if self.cases.is_empty() {
            wrong.push("there is no such case".to_owned());
        }
        if !self.done {
            wrong.push("the guest did not come to its end".to_owned());
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_were_written() {
        let reports = [
            Report::Note("xvip: 1187 instructions".to_owned()),
            Report::Count { name: "path nat IPv4".to_owned(), instructions: 1393.5 },
            Report::Ok { name: "programs-load".to_owned(), milliseconds: 1234 },
            Report::Fail { name: "lossy".to_owned(), reason: "lost\nthe log:\n  x".to_owned() },
            Report::Done,
        ];
        for report in reports {
            let line = report.to_line();
            assert!(!line.contains('\n'), "{line}");
            assert_eq!(Report::parse(&line).as_ref(), Some(&report));
            assert_eq!(Report::parse(&format!("[    1.5] br0: up {line}")), Some(report));
        }
        assert_eq!(Report::parse("XVIP what"), None);
        assert_eq!(Report::parse("[    0.0] Linux version 6.1"), None);
    }

    fn verdict(lines: &[&str]) -> Result<(), String> {
        let mut tally = Tally::new(["one", "two"]);
        for line in lines {
            tally.line(line);
        }
        tally.finish()
    }

    #[test]
    fn all_is_well_only_if_every_case_says_so_and_the_guest_ends() {
        assert_eq!(verdict(&["XVIP ok one 1", "noise", "XVIP ok two 2", "XVIP done"]), Ok(()));
        let silent = verdict(&["XVIP ok one 1", "XVIP done"]).unwrap_err();
        assert_eq!(silent, "two did not end");
        let failed = verdict(&["XVIP ok one 1", "XVIP fail two it broke", "XVIP done"]).unwrap_err();
        assert_eq!(failed, "two failed: it broke");
        let hung = verdict(&["XVIP ok one 1", "XVIP ok two 1"]).unwrap_err();
        assert_eq!(hung, "the guest did not come to its end");
        assert!(verdict(&["XVIP ok three 1", "XVIP fail three again", "XVIP done"]).is_err());
        assert!(Tally::new(Vec::<String>::new()).finish().is_err());
    }
}
