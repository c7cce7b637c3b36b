//! From text to statements and brackets: comments, conditions (`@host`), definitions (`$NAME=value`) and where they are used.

use std::collections::BTreeMap;

use super::{
    notes::Notes,
    words::{self, Word},
};
use crate::import::{
    ledger::Fate,
    source::{At, FileId, Place, Source},
};

/// A character, and the column that it stands in or was put in for, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The character.
    pub ch: char,
    /// The column.
    pub column: usize,
}

/// A piece of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A statement, or the words before a bracket.
    Statement(Statement),
    /// `{`
    Open(Place),
    /// `}`
    Close(Place),
}

/// Words on a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Where the first one begins.
    pub place: Place,
    /// At least one.
    pub words: Vec<Word>,
    /// The line that they were split from.
    pub text: String,
}

/// A host that a file has lines for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host(Option<(String, Place)>);

impl Host {
    /// What stands behind the `@`; none for a file without conditions, and for a host that none of them names.
    pub fn name(&self) -> Option<&str> {
        self.0.as_ref().map(|(name, _)| name.as_str())
    }

    /// The name as a node's name.
    pub fn place(&self, file: FileId) -> Option<At<String>> {
        self.0.as_ref().map(|(name, place)| At::new(name.clone(), Place { file, ..*place }))
    }
}

/// Longer lines are not expanded; keepalived itself stops at 1,024 bytes.
const MAX_EXPANDED: usize = 2048;
/// Definitions put into one line.
const MAX_SUBSTITUTIONS: usize = 64;
/// Lines that definitions of several lines make of a file.
const MAX_LINES: usize = 10_000;

const CONDITION: &str = "only on the host of this name; each host's file is written for itself";
const SEQUENCE: &str =
    "xvip has no such repetition: write out the lines that it stands for, and import again";

/// Characters with their columns.
pub fn spots(line: &str) -> Vec<Spot> {
    line.chars().enumerate().map(|(index, ch)| Spot { ch, column: index + 1 }).collect()
}

/// A line without comment and without white space around it. `!` and `#` begin a comment anywhere, also in the middle of a
/// word, unless in `"` or behind `\`.
pub fn without_comment(line: &str) -> Vec<Spot> {
    let mut kept = Vec::with_capacity(line.len().min(256));
    let mut quoted = false;
    let mut chars = spots(line).into_iter().skip_while(|spot| matches!(spot.ch, ' ' | '\t')).peekable();
    while let Some(spot) = chars.next() {
        match spot.ch {
            '"' => quoted = !quoted,
            '!' | '#' if !quoted => break,
            '\\' => {
                let next = chars.next();
                let comment = next.is_some_and(|next| matches!(next.ch, '!' | '#'));
                if quoted || !comment {
                    kept.push(spot);
                }
                kept.extend(next);
                continue;
            }
            _ => {}
        }
        kept.push(spot);
    }
    while kept.last().is_some_and(|spot| matches!(spot.ch, ' ' | '\t' | '\r')) {
        kept.pop();
    }
    kept
}

/// The hosts that lines of a file are for, in order, and one that is none of them where lines exclude one (`@^main`). Without
/// any, the one host that the file is for.
pub fn hosts(source: &Source) -> Vec<Host> {
    let mut hosts: Vec<Host> = Vec::new();
    let mut known = std::collections::BTreeSet::new();
    let mut excludes = false;
    for (index, line) in source.lines().enumerate() {
        let line = without_comment(line);
        let mut rest = line.as_slice();
        // Behind a definition's value there may be a condition as well: `$IF_MAIN=@main`.
        if rest.first().is_some_and(|spot| spot.ch == '$')
            && let Some(at) = rest.iter().position(|spot| spot.ch == '=')
        {
            rest = &rest[at + 1..];
        }
        if let Some(condition) = Condition::of(rest) {
            excludes |= condition.excludes;
            let place = Place { file: FileId(0), line: index + 1, column: condition.column };
            if known.insert(condition.host.clone()) {
                hosts.push(Host(Some((condition.host, place))));
            }
        }
    }
    if hosts.is_empty() || (excludes && hosts.len() == 1) {
        hosts.push(Host(None));
    }
    hosts
}

/// Says which hosts were left out.
pub fn complain_of_hosts(hosts: &[Host], most: usize, notes: &mut Notes<'_>) {
    for host in hosts.iter().skip(most) {
        if let Some((name, place)) = &host.0 {
            let place = notes.place(place.line, place.column);
            let note = format!(
                "no file is written for {name}: the import tells at most {most} hosts of a file apart"
            );
            notes.not_possible(place, note);
        }
    }
}

/// `@host` or `@^host`, with something behind it.
struct Condition {
    host: String,
    excludes: bool,
    column: usize,
    /// Characters up to what it is a condition of.
    length: usize,
}

impl Condition {
    fn of(line: &[Spot]) -> Option<Self> {
        let first = line.first().filter(|spot| spot.ch == '@')?;
        let excludes = line.get(1).is_some_and(|spot| spot.ch == '^');
        let start = 1 + usize::from(excludes);
        let end = start
            + line[start..]
                .iter()
                .position(|spot| matches!(spot.ch, ' ' | '\t'))
                .unwrap_or(line.len() - start);
        let length = end + line[end..].iter().take_while(|spot| matches!(spot.ch, ' ' | '\t')).count();
        let host = words::text(&line[start..end]);
        Some(Self { host, excludes, column: first.column, length })
    }

    fn holds(&self, host: Option<&str>) -> bool {
        (host == Some(self.host.as_str())) != self.excludes
    }
}

/// The pieces of a file, as the host of that name reads it.
pub fn pieces(source: &Source, host: Option<&str>, notes: &mut Notes<'_>) -> Vec<Piece> {
    let mut splitter = Splitter { host, notes, definitions: BTreeMap::new(), pieces: Vec::new(), lines: 0 };
    let mut open: Option<(String, Vec<Vec<Spot>>)> = None;
    for (index, raw) in source.lines().enumerate() {
        let number = index + 1;
        let line = without_comment(raw);
        if let Some((name, mut values)) = open.take() {
            // Up to the first line without a backslash at its end, a comment's or an empty one's included.
            let continues = ends_in_backslash(&line);
            if let Some(first) = line.first() {
                let place = splitter.notes.place(number, first.column);
                splitter.notes.say(place, Fate::Exact, "", "part of the definition above");
            }
            values.push(if continues { line[..line.len() - 1].to_vec() } else { line });
            if continues {
                open = Some((name, values));
            } else {
                splitter.define(name, values);
            }
            continue;
        }
        open = splitter.line(line, number);
    }
    if let Some((name, values)) = open {
        splitter.define(name, values);
    }
    splitter.pieces
}

fn ends_in_backslash(line: &[Spot]) -> bool {
    line.last().is_some_and(|spot| spot.ch == '\\')
}

struct Splitter<'n, 'l> {
    host: Option<&'n str>,
    notes: &'n mut Notes<'l>,
    /// One line or several.
    definitions: BTreeMap<String, Vec<Vec<char>>>,
    pieces: Vec<Piece>,
    /// That definitions were expanded to.
    lines: usize,
}

impl Splitter<'_, '_> {
    fn define(&mut self, name: String, values: Vec<Vec<Spot>>) {
        let value = |line: Vec<Spot>| line.into_iter().map(|spot| spot.ch).collect();
        let mut values: Vec<Vec<char>> = values.into_iter().map(value).collect();
        if values.len() > 1 {
            values.retain(|line| line.iter().any(|ch| !ch.is_whitespace()));
        }
        self.definitions.insert(name, values);
    }

    /// Takes a line in, and the lines that it stands for. Gives a definition that the next lines go on with.
    fn line(&mut self, line: Vec<Spot>, number: usize) -> Option<(String, Vec<Vec<Spot>>)> {
        let mut pending = vec![line];
        while let Some(line) = pending.pop() {
            let open = self.logical_line(line, number, &mut pending);
            if open.is_some() {
                return open;
            }
        }
        None
    }

    fn logical_line(
        &mut self,
        mut line: Vec<Spot>,
        number: usize,
        pending: &mut Vec<Vec<Spot>>,
    ) -> Option<(String, Vec<Vec<Spot>>)> {
        let mut start = 0;
        let mut expanded = false;
        loop {
            start += line[start..].iter().take_while(|spot| words::is_space(spot.ch)).count();
            let rest = &line[start..];
            let first = *rest.first()?;
            let place = self.notes.place(number, first.column);
            if let Some(condition) = Condition::of(rest) {
                self.notes.say(place, Fate::Exact, "", CONDITION);
                if condition.length == rest.len() || !condition.holds(self.host) {
                    return None;
                }
                start += condition.length;
                continue;
            }
            if let Some((name, value)) = definition(rest) {
                self.notes.say(place, Fate::Exact, "", "put in where it is used");
                let mut value = value.to_vec();
                if ends_in_backslash(&value) {
                    value.pop();
                    return Some((name, vec![value]));
                }
                self.define(name, vec![value]);
                return None;
            }
            if first.ch == '~' && (starts_with(rest, "~SEQ") || starts_with(rest, "~LST")) {
                self.notes.not_possible(place, SEQUENCE);
                return None;
            }
            if !expanded {
                expanded = true;
                if let Some(longer) = self.expand(rest, place, pending) {
                    // Brackets have no entry, and here the text does not show that there is nothing else.
                    if longer.iter().all(|spot| matches!(spot.ch, '{' | '}') || words::is_space(spot.ch)) {
                        self.notes.not_needed(
                            place,
                            "with its definitions put in, there is no directive on the line",
                        );
                    }
                    line = longer;
                    start = 0;
                    continue;
                }
            }
            start += self.piece(&line[start..], number);
        }
    }

    /// Puts definitions in, if there are any to put in. What a definition of several lines stands for goes to `pending`.
    fn expand(&mut self, line: &[Spot], place: Place, pending: &mut Vec<Vec<Spot>>) -> Option<Vec<Spot>> {
        if self.definitions.is_empty() {
            return None;
        }
        self.reference(line, 0)?;
        let too_long = "its definitions make it longer than keepalived's lines can be";
        if line.len() > MAX_EXPANDED {
            self.notes.syntax(place, too_long);
            return None;
        }
        let mut line = line.to_vec();
        let mut from = 0;
        for _ in 0..MAX_SUBSTITUTIONS {
            let Some((at, length, name)) = self.reference(&line, from) else { return Some(line) };
            let column = line[at].column;
            let values = self.definitions.get(&name)?;
            let value = |line: &Vec<char>| line.iter().map(|ch| Spot { ch: *ch, column }).collect::<Vec<_>>();
            let first = values.first().map(value).unwrap_or_default();
            if values.len() > 1 {
                self.notes.say(place, Fate::Exact, "", "the lines of its definition are put in");
                self.lines += values.len();
                if self.lines > MAX_LINES {
                    self.notes.syntax(
                        place,
                        format!("its definitions make more than {MAX_LINES} lines of the file"),
                    );
                    return None;
                }
                pending.extend(values.iter().skip(1).rev().map(value));
            }
            line.splice(at..at + length, first);
            if line.len() > MAX_EXPANDED {
                break;
            }
            from = at;
        }
        self.notes.syntax(place, too_long);
        None
    }

    /// The first use of a known definition from `from` on: where, how long, which.
    fn reference(&self, line: &[Spot], from: usize) -> Option<(usize, usize, String)> {
        let mut at = from;
        loop {
            at += line.get(at..)?.iter().position(|spot| spot.ch == '$')?;
            let braced = line.get(at + 1).is_some_and(|spot| spot.ch == '{');
            let start = at + 1 + usize::from(braced);
            let length = line[start.min(line.len())..].iter().take_while(|spot| is_name(spot.ch)).count();
            let end = start + length;
            let next = line.get(end).map(|spot| spot.ch);
            let ends =
                if braced { next == Some('}') } else { matches!(next, None | Some(' ' | '\t' | ',' | ')')) };
            if length > 0 && ends {
                let end = end + usize::from(braced);
                let name = words::text(&line[start..start + length]);
                // A definition of several lines counts only at the end of a line.
                if self.definitions.get(&name).is_some_and(|values| values.len() < 2 || end == line.len()) {
                    return Some((at, end - at, name));
                }
            }
            at += 1;
        }
    }

    /// The first piece of a line that is not empty; gives its length.
    fn piece(&mut self, line: &[Spot], number: usize) -> usize {
        let first = line[0];
        let place = self.notes.place(number, first.column);
        match first.ch {
            '{' => {
                self.pieces.push(Piece::Open(place));
                return 1;
            }
            '}' => {
                self.pieces.push(Piece::Close(place));
                return 1;
            }
            _ => {}
        }
        let length = bracket(line).unwrap_or(line.len());
        let (words, unmatched) = words::plain(&line[..length], place.file, number);
        if let Some(unmatched) = unmatched {
            let place = self.notes.place(number, line[unmatched.at].column);
            self.notes.syntax(place, "this quotation mark has no second one on the line");
        }
        if !words.is_empty() {
            let text = words::text(&line[..length]);
            self.pieces.push(Piece::Statement(Statement { place, words, text }));
        }
        length
    }
}

/// Where the first bracket outside of quotation marks is; none behind a mark without a second one.
fn bracket(line: &[Spot]) -> Option<usize> {
    let mut at = 0;
    loop {
        let offset = line[at..].iter().position(|spot| matches!(spot.ch, '{' | '}' | '"'))?;
        at += offset;
        if line[at].ch != '"' {
            return Some(at);
        }
        at += 2 + line[at + 1..].iter().position(|spot| spot.ch == '"')?;
    }
}

/// `$NAME=value`, without white space around the value.
fn definition(line: &[Spot]) -> Option<(String, &[Spot])> {
    line.first().filter(|spot| spot.ch == '$')?;
    let end = 1 + line[1..].iter().take_while(|spot| is_name(spot.ch)).count();
    if line.get(1).is_none_or(|spot| spot.ch.is_ascii_digit())
        || line.get(end).is_none_or(|spot| spot.ch != '=')
    {
        return None;
    }
    let value = &line[end + 1..];
    let blank = value.iter().take_while(|spot| matches!(spot.ch, ' ' | '\t')).count();
    (end > 1).then(|| (words::text(&line[1..end]), &value[blank..]))
}

const fn is_name(ch: char) -> bool {
    ch.is_ascii_alphanumeric() || ch == '_'
}

fn starts_with(line: &[Spot], prefix: &str) -> bool {
    prefix.chars().enumerate().all(|(index, ch)| line.get(index).is_some_and(|spot| spot.ch == ch))
}

#[cfg(test)]
mod tests;
