//! The files that are read, and places in them.

use std::fmt;

use serde::Serialize;

/// A file of the incumbent, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// As the user named it.
    pub name: String,
    /// Its text; what was not UTF-8 has become U+FFFD.
    pub text: String,
}

impl Source {
    /// A file's bytes. A byte order mark is no part of the text.
    pub fn new(name: impl Into<String>, bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned();
        Self { name: name.into(), text }
    }

    /// The lines, without their ends. What follows the last newline is a line only if there is something.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.lines()
    }
}

/// Which of the files that are imported together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct FileId(pub usize);

/// A place in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Place {
    /// The file.
    pub file: FileId,
    /// Line, from 1.
    pub line: usize,
    /// Column in that line, in characters, from 1.
    pub column: usize,
}

/// Something that was read, and where it stood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct At<T> {
    /// What was read.
    pub value: T,
    /// Where its directive begins.
    pub place: Place,
}

impl<T> At<T> {
    /// Something at a place.
    pub const fn new(value: T, place: Place) -> Self {
        Self { value, place }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}
