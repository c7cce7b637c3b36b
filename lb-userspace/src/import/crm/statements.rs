//! From text to statements: lines that go on behind `\`, prompts, `crm configure` in front, quotation marks.

use std::collections::BTreeSet;

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
    words.first()?;
    let mut front = prompt(&words);
    let pcs = words.get(front).is_some_and(|word| word.text == "pcs");
    let crm = words.get(front).is_some_and(|word| word.text == "crm");
    let options = |from: usize| words[from..].iter().take_while(|word| word.text.starts_with('-')).count();
    if pcs || crm {
        front += 1;
        front += options(front);
    }
    if words.get(front).is_some_and(|word| word.text == "configure") {
        front += 1;
        front += options(front);
    }
    let mut rest = words.split_off(front);
    let mut shell = Vec::new();
    if pcs || crm {
        // What the shell does with it: `|| true`, `>/dev/null 2>&1`.
        let begins = |word: &Word| {
            matches!(word.text.as_str(), "||" | "&&" | ";" | "|" | "2>&1") || word.text.starts_with('>')
        };
        shell = rest.split_off(rest.iter().position(begins).unwrap_or(rest.len()));
    }
    let mut said: BTreeSet<usize> = rest.iter().map(|word| word.place.line).collect();
    for word in words.iter().chain(&shell) {
        if said.insert(word.place.line) {
            ledger.note(word.place, Fate::NotNeeded, "", "a command of the shell");
        }
    }
    (!rest.is_empty()).then_some(Statement { words: rest, pcs })
}

/// How many words are a prompt or what runs the command: `crm(live)configure#`, `crm(live/lb1)#`, `[root@lb1 ~]#`, `$`, `sudo`.
fn prompt(words: &[Word]) -> usize {
    let own = |word: &Word| word.text.starts_with("crm(") && word.text.ends_with(['#', '>']);
    let of_crm = words.iter().take_while(|word| own(word)).count();
    if of_crm > 0 {
        return of_crm;
    }
    let command =
        words.iter().take(5).position(|word| matches!(word.text.as_str(), "crm" | "pcs")).unwrap_or(0);
    let only_prompt = words[..command].iter().all(|word| {
        matches!(word.text.as_str(), "sudo" | "$" | "-n")
            || word.text.contains('@')
            || word.text.ends_with(['#', '$', '>'])
    });
    if only_prompt { command } else { 0 }
}
