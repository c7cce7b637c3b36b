//! The file as sections with lines of words (HAProxy 2.6's manual, §2.1, §2.4 and §4), each line noted that cannot be read.

use super::{
    keywords::sections,
    words::{self, Variables, Word},
};
use crate::import::{
    ledger::{Fate, Ledger},
    source::{FileId, Place, Source},
};

/// A line with at least one word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Where its first word stands.
    pub place: Place,
    /// Its words; never empty.
    pub words: Vec<Word>,
}

impl Line {
    /// A word; empty where there is none.
    pub fn word(&self, index: usize) -> &str {
        self.words.get(index).map_or("", |word| word.text.as_str())
    }

    /// Where a word stands, or the line.
    pub fn place_of(&self, index: usize) -> Place {
        let column = self.words.get(index).map_or(self.place.column, |word| word.column);
        Place { column, ..self.place }
    }

    /// The words from one on.
    pub fn from(&self, index: usize) -> &[Word] {
        self.words.get(index..).unwrap_or_default()
    }
}

/// What a section is.
#[derive(Clone, Copy)]
pub enum Kind {
    /// `global`
    Global,
    /// `defaults`
    Defaults,
    /// `frontend`, `backend` or `listen`.
    Proxy(Sides),
    /// One that no proxy is made of.
    Other(&'static sections::Kind),
}

/// Which sides of a proxy a section has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sides {
    /// It listens.
    pub front: bool,
    /// It has servers.
    pub back: bool,
}

/// A section.
pub struct Section {
    /// What it is.
    pub kind: Kind,
    /// Its first line.
    pub head: Line,
    /// The others.
    pub lines: Vec<Line>,
}

/// What the file says besides its sections.
pub struct Layout {
    /// The sections in order.
    pub sections: Vec<Section>,
    /// The variables that it sets.
    pub variables: Variables,
}

/// Reads the sections of a file.
pub fn layout(source: &Source, file: FileId, ledger: &mut Ledger) -> Layout {
    let mut layout = Layout { sections: Vec::new(), variables: Variables::default() };
    let mut conditions = Conditions::default();
    for (index, text) in source.lines().enumerate() {
        let place = Place { file, line: index + 1, column: 1 };
        let words = match words::split(text, &layout.variables) {
            Ok(words) => words,
            Err((column, fault)) => {
                ledger.note(Place { column, ..place }, Fate::SyntaxError, "", fault.to_string());
                continue;
            }
        };
        let Some(first) = words.first() else { continue };
        let place = Place { column: first.column, ..place };
        let line = Line { place, words };
        if line.word(0).starts_with('.') {
            conditions.directive(&line, ledger);
        } else if let Some(why) = conditions.skipped() {
            ledger.note(place, Fate::NotNeeded, "", why);
        } else {
            layout.add(line, ledger);
        }
    }
    conditions.end(ledger);
    layout
}

impl Layout {
    fn add(&mut self, line: Line, ledger: &mut Ledger) {
        if let Some(kind) = kind(line.word(0)) {
            self.sections.push(Section { kind, head: line, lines: Vec::new() });
            return;
        }
        let Some(section) = self.sections.last_mut() else {
            let note = "stands before the first section: is this a file of HAProxy?";
            ledger.note(line.place, Fate::SyntaxError, "", note);
            return;
        };
        if matches!(section.kind, Kind::Global) {
            set_variables(&line, &mut self.variables);
        }
        section.lines.push(line);
    }
}

fn kind(keyword: &str) -> Option<Kind> {
    Some(match keyword {
        "global" => Kind::Global,
        "defaults" => Kind::Defaults,
        "frontend" => Kind::Proxy(Sides { front: true, back: false }),
        "backend" => Kind::Proxy(Sides { front: false, back: true }),
        "listen" => Kind::Proxy(Sides { front: true, back: true }),
        _ => Kind::Other(sections::KINDS.iter().find(|kind| kind.keyword == keyword)?),
    })
}

fn set_variables(line: &Line, variables: &mut Variables) {
    match line.word(0) {
        "setenv" => variables.set(line.word(1), line.word(2)),
        "presetenv" if variables.get(line.word(1)).is_none() => variables.set(line.word(1), line.word(2)),
        "unsetenv" => line.from(1).iter().for_each(|name| variables.unset(&name.text)),
        "resetenv" => *variables = Variables::default(),
        _ => {}
    }
}

/// `.if` and its like. What a condition asks for (HAProxy's version, its features, the environment) is not known here: the
/// first branch that is not surely false is read.
#[derive(Default)]
struct Conditions {
    /// For each open `.if`: where it stands, whether its current branch is read, and whether an earlier one was.
    open: Vec<(Place, bool, bool)>,
    /// How many of `open` are not read: the answer to each line in one step.
    unread: usize,
}

impl Conditions {
    fn skipped(&self) -> Option<&'static str> {
        (self.unread > 0)
            .then_some("in a branch that is not taken: of an .if the first is, unless its condition is 0")
    }

    fn branch(&mut self, read: bool, earlier: bool) {
        if let Some((_, current, taken)) = self.open.last_mut() {
            self.unread -= usize::from(!*current);
            self.unread += usize::from(!read);
            *current = read;
            *taken = earlier;
        }
    }

    fn directive(&mut self, line: &Line, ledger: &mut Ledger) {
        let surely_false = matches!(line.word(1), "" | "0");
        let open = self.open.last().map(|(_, _, taken)| *taken);
        let (fate, note) = match (line.word(0), open) {
            (".if", _) => {
                self.open.push((line.place, true, true));
                self.branch(!surely_false, !surely_false);
                (Fate::Approximate, "the condition is taken for true, unless it is 0")
            }
            (".elif", Some(taken)) => {
                self.branch(!taken && !surely_false, taken || !surely_false);
                (Fate::Approximate, "read if no branch before it was")
            }
            (".else", Some(taken)) => {
                self.branch(!taken, true);
                (Fate::Approximate, "read if no branch before it was")
            }
            (".endif", Some(_)) => {
                self.branch(true, true);
                self.open.pop();
                (Fate::NotNeeded, "the end of an .if")
            }
            (".elif" | ".else" | ".endif", None) => (Fate::SyntaxError, "there is no .if before it"),
            (".notice" | ".warning" | ".alert" | ".diag", _) => {
                (Fate::NotNeeded, "a message of HAProxy's start")
            }
            _ => (Fate::Unknown, "nothing is known of this directive"),
        };
        ledger.note(line.place, fate, "", note);
    }

    fn end(self, ledger: &mut Ledger) {
        for (place, ..) in self.open {
            ledger.note(place, Fate::SyntaxError, "", "this .if has no .endif");
        }
    }
}
