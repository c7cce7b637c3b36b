//! What is wrong with a file, as data; `Display` is the form for people.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is accepted; someone should know.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One finding in a file. Its JSON form is part of `xvip check --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// The file.
    pub file: PathBuf,
    /// Line in the file, from 1; always one that exists (line 1 of an empty file apart).
    pub line: usize,
    /// Column in that line, in characters, from 1.
    pub column: usize,
    /// The key with its table, `service[0].health.interval`; empty when it is about the whole file.
    pub key: String,
    /// The table as people call it, `service[0] "kube-apiserver", health`; empty for the whole file.
    pub table: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it, mostly `write: ...`.
    pub remedy: String,
    /// The line's text and how many characters of it are marked. None where it may hold a secret.
    #[serde(skip)]
    pub excerpt: Option<Excerpt>,
}

/// The line that a diagnostic is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// The line, without control characters.
    pub text: String,
    /// How many characters are marked, from the diagnostic's column on; at least 1.
    pub width: usize,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}:{}:{}: ", self.severity, self.file.display(), self.line, self.column)?;
        if !self.table.is_empty() {
            write!(f, "{}: ", self.table)?;
        }
        writeln!(f, "{}", self.message)?;
        if let Some(excerpt) = &self.excerpt {
            let number = self.line.to_string();
            let margin = " ".repeat(number.len());
            // A tab stays a tab, so that the mark stands below what it marks.
            let before: String = (excerpt.text.chars().take(self.column.saturating_sub(1)))
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            writeln!(f, "  {number} | {}", excerpt.text)?;
            writeln!(f, "  {margin} | {before}{}", "^".repeat(excerpt.width))?;
        }
        write!(f, "    {}", self.remedy)
    }
}

/// Why a file was refused: at least one error, and the warnings besides; in the file's order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Diagnostic>);

impl Problems {
    /// The errors; never empty.
    pub fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.0.iter().filter(|found| found.severity == Severity::Error)
    }

    /// The warnings.
    pub fn warnings(&self) -> impl Iterator<Item = &Diagnostic> {
        self.0.iter().filter(|found| found.severity == Severity::Warning)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for found in &self.0 {
            writeln!(f, "{found}")?;
        }
        let (errors, file) =
            (self.errors().count(), self.0.first().map_or(Path::new(""), |found| &found.file));
        write!(f, "{}: {errors} error{}", file.display(), if errors == 1 { "" } else { "s" })
    }
}

/// A file's text with its lines found once, so that an offset becomes a line in logarithmic time.
pub(super) struct Source<'s> {
    file: &'s Path,
    text: &'s str,
    /// The offset at which each line starts.
    lines: Vec<usize>,
}

/// Whether a line of the file, or the value of a key with this path, may hold a password or a secret: also where the key
/// is misspelt or stands in the wrong table.
pub(super) fn may_hold_secret(text: &str) -> bool {
    let key = text.split('=').next().unwrap_or_default().trim();
    matches!(key, "key" | "value" | "url")
        || ["auth", "pass", "secret", "hex:", "value =", "value="].iter().any(|word| text.contains(word))
}

/// Lines longer than this are not shown: the mark would be far off the screen.
const LONGEST_EXCERPT: usize = 200;

impl<'s> Source<'s> {
    pub(super) fn new(file: &'s Path, text: &'s str) -> Self {
        let after_newlines =
            text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        // What follows the last newline is a line only if there is something.
        let lines = std::iter::once(0).chain(after_newlines.filter(|start| *start < text.len())).collect();
        Self { file, text, lines }
    }

    /// The text of a span; empty when the span is not one of this text.
    pub(super) fn slice(&self, span: std::ops::Range<usize>) -> &'s str {
        self.text.get(span).unwrap_or_default()
    }

    /// The text of line number `line`, from 1, without its end.
    pub(super) fn line(&self, line: usize) -> &'s str {
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(self.text.len());
        let end = self.lines.get(line).copied().unwrap_or(self.text.len());
        self.slice(start..end).trim_end_matches(['\n', '\r'])
    }

    /// Line and column, both from 1, of an offset; an offset past the end is the end of the last line.
    pub(super) fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|start| *start <= offset).max(1);
        let start = self.lines.get(line - 1).copied().unwrap_or_default();
        let text = self.line(line);
        let column = text.char_indices().take_while(|(at, _)| start + at < offset).count();
        (line, column + 1)
    }

    /// A diagnostic about `span`.
    pub(super) fn diagnostic(
        &self,
        severity: Severity,
        span: std::ops::Range<usize>,
        (key, table): (&str, &str),
        message: String,
        remedy: String,
    ) -> Diagnostic {
        let (line, column) = self.position(span.start);
        let text = self.line(line);
        let secret = may_hold_secret(text) || may_hold_secret(key);
        let marked = self.slice(span).lines().next().unwrap_or_default().chars().count();
        let shown: String =
            text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
        let room = (shown.chars().count() + 1).saturating_sub(column);
        let excerpt = (!secret && shown.len() <= LONGEST_EXCERPT && !shown.trim().is_empty())
            .then(|| Excerpt { text: shown, width: marked.min(room).max(1) });
        Diagnostic {
            severity,
            file: self.file.to_owned(),
            line,
            column,
            key: key.to_owned(),
            table: table.to_owned(),
            message,
            remedy,
            excerpt,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_become_lines_that_exist() {
        let source = Source::new(Path::new("f"), "a = 1\r\n\nµb = 2\n");
        for (offset, position) in
            [(0, (1, 1)), (4, (1, 5)), (7, (2, 1)), (8, (3, 1)), (10, (3, 2)), (15, (3, 7)), (99, (3, 7))]
        {
            assert_eq!(source.position(offset), position, "offset {offset}");
        }
        assert_eq!(Source::new(Path::new("f"), "").position(3), (1, 1));
        assert_eq!(source.line(1), "a = 1");
        assert_eq!(source.line(3), "µb = 2");
        assert_eq!(source.line(4), "");
    }

    #[test]
    fn the_form_for_people_marks_the_place() {
        let text = "[[service]]\nname = \"kube-apiserver\"\nprot = 6443\n";
        let found = Source::new(Path::new("/etc/xvip/xvip.toml"), text).diagnostic(
            Severity::Error,
            36..40,
            ("service[0].prot", "service[0] \"kube-apiserver\""),
            "unknown key `prot`".to_owned(),
            "write: port = 6443   (did you mean `port`?)".to_owned(),
        );
        assert_eq!(
            found.to_string(),
            "error: /etc/xvip/xvip.toml:3:1: service[0] \"kube-apiserver\": unknown key `prot`\n  \
             3 | prot = 6443\n    | ^^^^\n    write: port = 6443   (did you mean `port`?)"
        );
    }

    #[test]
    fn a_line_with_a_secret_is_not_shown() {
        let text = "auth_pass = \"far too long\"\n";
        let found = Source::new(Path::new("f"), text).diagnostic(
            Severity::Error,
            12..26,
            ("vrrp[0].auth_pass", ""),
            String::new(),
            String::new(),
        );
        assert_eq!(found.excerpt, None);
    }
}
