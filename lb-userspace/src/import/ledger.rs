//! What became of each line. A line that nothing is said of cannot be: [`Ledger::close`] sees to that.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::source::{FileId, Place, Source};

/// What became of a directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// xvip does the same.
    Exact,
    /// xvip does nearly the same; the note says what differs.
    Approximate,
    /// xvip does it better, or it was wrong before; the note says how.
    Improved,
    /// Nothing has to be done for it any more.
    NotNeeded,
    /// xvip cannot do that; the note says why, and what to do.
    NotPossible,
    /// Nobody here knows the directive.
    Unknown,
    /// It could not be read.
    SyntaxError,
    /// A comment, an empty line, or a mere bracket.
    Blank,
}

/// What became of a directive, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Where it begins.
    pub place: Place,
    /// What became of it.
    pub fate: Fate,
    /// What it is in `xvip.toml`: `service.health.interval = "10s"`. Empty where it is nothing.
    pub becomes: String,
    /// Why, in a sentence; empty only for what is exact or blank.
    pub note: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// What is there today does not work, or not as it reads.
    Error,
    /// It works, but not as well as it could.
    Warning,
}

/// A lint: something that was wrong, or weak, before anything was imported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `E1`, `W4`: stable.
    pub id: &'static str,
    /// How bad.
    pub severity: Severity,
    /// The lines that it is about, at least one.
    pub places: Vec<Place>,
    /// What is wrong, and what follows from it.
    pub message: String,
    /// What the imported configuration does about it, or what to do.
    pub remedy: String,
}

/// What became of each line, by file and number.
pub type Lines = BTreeMap<(FileId, usize), Vec<Entry>>;

/// Collects what became of the lines of all files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    entries: Vec<Entry>,
    findings: Vec<Finding>,
}

impl Ledger {
    /// Notes what became of a directive. Several may stand on one line, and one may be noted twice (a `server` line has many words).
    pub fn note(&mut self, place: Place, fate: Fate, becomes: impl Into<String>, note: impl Into<String>) {
        self.entries.push(Entry { place, fate, becomes: becomes.into(), note: note.into() });
    }

    /// Notes a finding.
    pub fn find(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// The findings, as they were noted.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The entries, as they were noted.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entries of each line of each file, in order. A line without any is blank if `is_blank` says so, and else unknown:
    /// an importer that forgot one says so instead of hiding it.
    pub fn close(
        mut self,
        sources: &[Source],
        is_blank: impl Fn(FileId, &str) -> bool,
    ) -> (Lines, Vec<Finding>) {
        let mut lines: BTreeMap<_, Vec<Entry>> = BTreeMap::new();
        self.entries.sort_by_key(|entry| entry.place);
        for entry in self.entries {
            lines.entry((entry.place.file, entry.place.line)).or_default().push(entry);
        }
        for (file, source) in sources.iter().enumerate() {
            for (line, text) in source.lines().enumerate() {
                let place = Place { file: FileId(file), line: line + 1, column: 1 };
                lines.entry((place.file, place.line)).or_insert_with(|| {
                    let (fate, note) = if is_blank(place.file, text) {
                        (Fate::Blank, "")
                    } else {
                        (Fate::Unknown, "nothing is known of this line")
                    };
                    vec![Entry { place, fate, becomes: String::new(), note: note.to_owned() }]
                });
            }
        }
        self.findings.sort_by_key(|finding| (finding.severity, finding.id, finding.places.first().copied()));
        (lines, self.findings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_accounted_for() {
        let source = Source::new("f", b"# one\ntwo\nthree\n\nfive");
        let mut ledger = Ledger::default();
        let at = |line, column| Place { file: FileId(0), line, column };
        ledger.note(at(2, 5), Fate::NotNeeded, "", "later on the line");
        ledger.note(at(2, 1), Fate::Exact, "two = 2", "");
        let (lines, _) = ledger.close(&[source], |_, text| text.is_empty() || text.starts_with('#'));
        let fates: Vec<_> =
            lines.values().map(|of| of.iter().map(|entry| entry.fate).collect::<Vec<_>>()).collect();
        assert_eq!(
            fates,
            [
                vec![Fate::Blank],
                vec![Fate::Exact, Fate::NotNeeded],
                vec![Fate::Unknown],
                vec![Fate::Blank],
                vec![Fate::Unknown]
            ]
        );
    }
}
