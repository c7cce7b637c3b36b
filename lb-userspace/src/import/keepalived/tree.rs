//! From statements and brackets to directives and their blocks.

use super::{
    lines::{Piece, Statement},
    notes::Notes,
    words::Word,
};
use crate::import::source::Place;

/// A statement, and the block behind it if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// Where it begins.
    pub place: Place,
    /// At least one.
    pub words: Vec<Word>,
    /// The line that they were split from.
    pub text: String,
    /// What stands in its brackets.
    pub block: Option<Block>,
}

impl Directive {
    /// The first word.
    pub fn name(&self) -> &str {
        self.words.first().map_or("", |word| &word.text)
    }

    /// A word behind the first; the first of them is 1.
    pub fn word(&self, index: usize) -> Option<&str> {
        self.words.get(index).map(|word| word.text.as_str())
    }

    /// What stands in its block, nothing if there is none.
    pub fn items(&self) -> &[Self] {
        self.block.as_ref().map_or(&[], |block| &block.items)
    }
}

/// What stands in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The opening bracket.
    pub open: Place,
    /// In order.
    pub items: Vec<Directive>,
}

/// Blocks in blocks; keepalived has at most five.
const MAX_DEPTH: usize = 16;

/// The directives of a file. Brackets that do not match are said and left out.
pub fn build(pieces: Vec<Piece>, notes: &mut Notes<'_>) -> Vec<Directive> {
    // One for each open block, outermost first: its directive, what it holds so far, brackets in it that were left out.
    struct Level {
        directive: Option<(Directive, Place)>,
        items: Vec<Directive>,
        left_out: usize,
    }
    let level = |directive| Level { directive, items: Vec::new(), left_out: 0 };
    let mut levels = vec![level(None)];
    let mut may_open = false;
    for piece in pieces {
        let depth = levels.len();
        let Some(top) = levels.last_mut() else { break };
        match piece {
            Piece::Statement(Statement { place, words, text }) => {
                top.items.push(Directive { place, words, text, block: None });
                may_open = true;
            }
            Piece::Open(place) => {
                let owner = if may_open && depth <= MAX_DEPTH { top.items.pop() } else { None };
                may_open = false;
                if let Some(owner) = owner {
                    levels.push(level(Some((owner, place))));
                } else {
                    notes.syntax(place, "a block begins here that belongs to no directive");
                    top.left_out += 1;
                }
            }
            Piece::Close(place) => {
                may_open = false;
                if top.left_out > 0 {
                    top.left_out -= 1;
                } else if let Some((mut directive, open)) = top.directive.take() {
                    let items = std::mem::take(&mut top.items);
                    directive.block = Some(Block { open, items });
                    levels.pop();
                    if let Some(outer) = levels.last_mut() {
                        outer.items.push(directive);
                    }
                } else {
                    notes.syntax(place, "no block is open that this bracket could close");
                }
            }
        }
    }
    while let Some(Level { directive, items, .. }) = levels.pop() {
        let Some((mut directive, open)) = directive else { return items };
        notes.syntax(open, "this block has no end");
        directive.block = Some(Block { open, items });
        if let Some(outer) = levels.last_mut() {
            outer.items.push(directive);
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::{
        keepalived::lines,
        ledger::{Fate, Ledger},
        source::{FileId, Source},
    };

    /// Directives with their blocks, and the places of errors.
    fn shape(text: &str) -> (String, Vec<(usize, usize)>) {
        fn show(directives: &[Directive]) -> String {
            let one = |directive: &Directive| match &directive.block {
                Some(block) => format!("{}({})", directive.name(), show(&block.items)),
                None => directive.name().to_owned(),
            };
            directives.iter().map(one).collect::<Vec<_>>().join(" ")
        }
        let mut ledger = Ledger::default();
        let mut notes = Notes::new(FileId(0), &mut ledger);
        let pieces = lines::pieces(&Source::new("f", text.as_bytes()), None, &mut notes);
        let shown = show(&build(pieces, &mut notes));
        let errors = ledger.entries().iter().filter(|entry| entry.fate == Fate::SyntaxError);
        (shown, errors.map(|entry| (entry.place.line, entry.place.column)).collect())
    }

    #[test]
    fn blocks_hold_their_directives() {
        assert_eq!(shape("a {\nb\nc { d }\n}\ne\n"), ("a(b c(d)) e".into(), vec![]));
        assert_eq!(shape("a\n{\n}\nb { }\n"), ("a() b()".into(), vec![]));
    }

    #[test]
    fn brackets_that_do_not_match_are_left_out_in_pairs() {
        assert_eq!(shape("{\na\n}\nb {\nc\n}\nd\n"), ("a b(c) d".into(), vec![(1, 1)]));
        assert_eq!(shape("a {\n{\nb\n}\nc\n}\nd\n"), ("a(b c) d".into(), vec![(2, 1)]));
        assert_eq!(shape("a\n}\nb\n"), ("a b".into(), vec![(2, 1)]));
        assert_eq!(shape("a {\nb {\nc\n"), ("a(b(c))".into(), vec![(2, 3), (1, 3)]));
    }

    #[test]
    fn nesting_has_an_end() {
        let (shown, errors) = shape(&format!("{}{}b", "a {\n".repeat(1000), "}\n".repeat(1000)));
        assert_eq!(shown.matches('(').count(), MAX_DEPTH);
        assert_eq!(errors.len(), 1000 - MAX_DEPTH);
        assert!(shown.ends_with(" b"), "{shown}");
    }
}
