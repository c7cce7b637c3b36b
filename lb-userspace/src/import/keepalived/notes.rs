//! What became of the lines of one file, each thing said once however often the file is read.

use std::collections::BTreeSet;

use crate::import::{
    ledger::{Fate, Ledger},
    source::{FileId, Place},
};

/// The ledger, for one file.
pub struct Notes<'l> {
    file: FileId,
    ledger: &'l mut Ledger,
    said: BTreeSet<(Place, Fate, String, String)>,
}

impl<'l> Notes<'l> {
    /// Nothing said yet.
    pub fn new(file: FileId, ledger: &'l mut Ledger) -> Self {
        Self { file, ledger, said: BTreeSet::new() }
    }

    /// A place in the file; line and column from 1.
    pub const fn place(&self, line: usize, column: usize) -> Place {
        Place { file: self.file, line, column }
    }

    /// Says what became of something.
    pub fn say(&mut self, place: Place, fate: Fate, becomes: impl Into<String>, note: impl Into<String>) {
        let said = (place, fate, becomes.into(), note.into());
        if !self.said.contains(&said) {
            self.ledger.note(place, fate, said.2.clone(), said.3.clone());
            self.said.insert(said);
        }
    }

    /// xvip does the same.
    pub fn exact(&mut self, place: Place, becomes: impl Into<String>) {
        self.say(place, Fate::Exact, becomes, "");
    }

    /// Nothing has to be done for it.
    pub fn not_needed(&mut self, place: Place, note: impl Into<String>) {
        self.say(place, Fate::NotNeeded, "", note);
    }

    /// xvip cannot do that.
    pub fn not_possible(&mut self, place: Place, note: impl Into<String>) {
        self.say(place, Fate::NotPossible, "", note);
    }

    /// It could not be read.
    pub fn syntax(&mut self, place: Place, note: impl Into<String>) {
        self.say(place, Fate::SyntaxError, "", note);
    }
}
