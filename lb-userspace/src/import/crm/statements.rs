//! From text to statements: lines that go on behind `\`, prompts, `crm configure` in front, quotation marks.

use crate::import::{
    ledger::{Fate, Ledger},
    source::{FileId, Place, Source},
};

/// A word of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// Without quotation marks.
    pub text: String,
    /// Where it begins.
    pub place: Place,
}

impl Word {
    /// `key=value`; the key in lower case, with `-` for `_`, as Pacemaker's options are written both ways.
    pub fn assignment(&self) -> Option<(String, &str)> {
        let (key, value) = self.text.split_once('=')?;
        Some((key.to_ascii_lowercase().replace('_', "-"), value))
    }
}

/// What one logical line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Without prompt, `crm` and `configure`; at least one.
    pub words: Vec<Word>,
    /// Typed as a command of `pcs`.
    pub pcs: bool,
}

impl Statement {
    /// The first word.
    pub fn name(&self) -> &str {
        self.words.first().map_or("", |word| &word.text)
    }

    /// Where it begins.
    pub fn place(&self) -> Place {
        self.words.first().map_or_else(Place::default, |word| word.place)
    }

    /// A word by its place in the statement; the name is 0.
    pub fn word(&self, index: usize) -> Option<&str> {
        self.words.get(index).map(|word| word.text.as_str())
    }
}

/// The statements of a text. Lines that only open a shell or leave it are noted here.
pub fn split(source: &Source, file: FileId, ledger: &mut Ledger) -> Vec<Statement> {
    let mut statements = Vec::new();
    let mut words: Vec<Word> = Vec::new();
    for (index, line) in source.lines().enumerate() {
        let line = line.trim_end();
        if line.trim_start().starts_with('#') {
            continue;
        }
        let (line, continues) = line.strip_suffix('\\').map_or((line, false), |line| (line, true));
        words.extend(split_words(line, file, index + 1, ledger));
        if !continues {
            statements.extend(statement(std::mem::take(&mut words), ledger));
        }
    }
    statements.extend(statement(words, ledger));
    statements
}

fn split_words(line: &str, file: FileId, number: usize, ledger: &mut Ledger) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    let mut within = false;
    let mut quote: Option<(char, Place)> = None;
    for (index, ch) in line.chars().enumerate() {
        let place = Place { file, line: number, column: index + 1 };
        match quote {
            Some((open, _)) if ch == open => quote = None,
            None if ch.is_whitespace() => within = false,
            _ => {
                if !within {
                    words.push(Word { text: String::new(), place });
                    within = true;
                }
                if quote.is_none() && matches!(ch, '"' | '\'') {
                    quote = Some((ch, place));
                } else if let Some(word) = words.last_mut() {
                    word.text.push(ch);
                }
            }
        }
    }
    if let Some((_, place)) = quote {
        ledger.note(place, Fate::SyntaxError, "", "this quotation mark has no second one on the line");
    }
    words
}

fn statement(mut words: Vec<Word>, ledger: &mut Ledger) -> Option<Statement> {
    let begin = words.first()?.place;
    let mut front = words
        .iter()
        .take_while(|word| {
            let text = word.text.as_str();
            // crm(live)configure#, crm(live/lb1)#
            matches!(text, "sudo" | "$" | "-F" | "--force" | "-w" | "--wait")
                || (text.starts_with("crm(") && text.ends_with(['#', '>']))
        })
        .count();
    let pcs = words.get(front).is_some_and(|word| word.text == "pcs");
    let crm = words.get(front).is_some_and(|word| word.text == "crm");
    if pcs || crm {
        front += 1;
        front += words[front..].iter().take_while(|word| word.text.starts_with('-')).count();
    }
    if words.get(front).is_some_and(|word| word.text == "configure") {
        front += 1;
        front += words[front..].iter().take_while(|word| word.text.starts_with('-')).count();
    }
    let rest = words.split_off(front.min(words.len()));
    if rest.is_empty() {
        ledger.note(begin, Fate::NotNeeded, "", "it only opens the shell of Pacemaker");
        return None;
    }
    Some(Statement { words: rest, pcs })
}
