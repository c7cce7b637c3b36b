//! keepalived's two ways to split a line into words.

use super::lines::Spot;
use crate::import::source::{FileId, Place};

/// A word of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// Without its quotes.
    pub text: String,
    /// Where it begins.
    pub place: Place,
}

/// A quote that has no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmatched {
    /// Index of the quote in the line.
    pub at: usize,
}

/// The words of a statement: white space separates them, `"` quotes, and there are no escapes. A quote that does not end takes
/// the rest of the line with it, as keepalived has it.
pub fn plain(line: &[Spot], file: FileId, number: usize) -> (Vec<Word>, Option<Unmatched>) {
    let mut words = Vec::new();
    let mut at = 0;
    while let Some(first) = line.get(at) {
        if is_space(first.ch) {
            at += 1;
            continue;
        }
        let place = Place { file, line: number, column: first.column };
        let end = if first.ch == '"' {
            let Some(length) = line[at + 1..].iter().position(|spot| spot.ch == '"') else {
                return (words, Some(Unmatched { at }));
            };
            words.push(Word { text: text(&line[at + 1..at + 1 + length]), place });
            at + length + 2
        } else {
            let rest = &line[at..];
            let length =
                rest.iter().position(|spot| is_space(spot.ch) || spot.ch == '"').unwrap_or(rest.len());
            words.push(Word { text: text(&rest[..length]), place });
            at + length
        };
        at = end;
    }
    (words, None)
}

/// The words of a line or a command: white space separates them, `"` and `'` quote also in the middle of a word, and `\` escapes
/// like in a shell's `$'...'`.
///
/// # Errors
/// A quote that has no end.
pub fn escaped(line: &str) -> Result<Vec<String>, Unmatched> {
    let chars: Vec<char> = line.chars().collect();
    let mut words = Vec::new();
    let mut at = 0;
    loop {
        while chars.get(at).is_some_and(|ch| is_space(*ch)) {
            at += 1;
        }
        if at == chars.len() {
            return Ok(words);
        }
        let mut word = String::new();
        let mut quote: Option<(char, usize)> = None;
        while let Some(&ch) = chars.get(at) {
            match (quote, ch) {
                (_, '\\') => at = escape(&chars, at + 1, &mut word),
                (Some((open, _)), ch) if ch == open => {
                    quote = None;
                    at += 1;
                }
                (None, '"' | '\'') => {
                    quote = Some((ch, at));
                    at += 1;
                }
                (None, ch) if is_space(ch) => break,
                (_, ch) => {
                    word.push(ch);
                    at += 1;
                }
            }
        }
        if let Some((_, at)) = quote {
            return Err(Unmatched { at });
        }
        words.push(word);
    }
}

/// What stands behind a backslash, from `at` on; gives where it ends.
fn escape(chars: &[char], at: usize, word: &mut String) -> usize {
    let digits = |from: usize, radix, most: usize| {
        chars[from.min(chars.len())..].iter().take(most).take_while(|ch| ch.is_digit(radix)).count()
    };
    let number = |from: usize, count: usize, radix| {
        // The last byte counts, as in keepalived.
        let value = chars[from..from + count]
            .iter()
            .fold(0_u32, |value, ch| (value * radix + ch.to_digit(radix).unwrap_or(0)) & 0xff);
        char::from_u32(value).unwrap_or(' ')
    };
    match chars.get(at) {
        None => at,
        Some('x') if digits(at + 1, 16, 1) == 1 => {
            let count = digits(at + 1, 16, usize::MAX);
            word.push(number(at + 1, count, 16));
            at + 1 + count
        }
        Some('c') if at + 1 < chars.len() => {
            word.push(char::from_u32(u32::from(chars[at + 1]) & 0x1f).unwrap_or(' '));
            at + 2
        }
        Some('0'..='7') => {
            let count = digits(at, 8, 3);
            word.push(number(at, count, 8));
            at + count
        }
        Some(other) => {
            word.push(match other {
                'a' => '\u{7}',
                'b' => '\u{8}',
                'E' => '\u{1b}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'v' => '\u{b}',
                other => *other,
            });
            at + 1
        }
    }
}

/// The characters of a piece of a line.
pub fn text(line: &[Spot]) -> String {
    line.iter().map(|spot| spot.ch).collect()
}

/// C's `isspace`.
pub const fn is_space(ch: char) -> bool {
    matches!(ch, ' ' | '\t' | '\n' | '\r' | '\u{b}' | '\u{c}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::keepalived::lines::spots;

    fn split(line: &str) -> Vec<(String, usize)> {
        let (words, unmatched) = plain(&spots(line), FileId(0), 7);
        assert_eq!(unmatched, None);
        words.into_iter().map(|word| (word.text, word.place.column)).collect()
    }

    #[test]
    fn plain_words_have_no_escapes_and_a_quote_ends_a_word() {
        assert_eq!(
            split("  auth_pass  \"a b\"c"),
            [("auth_pass".into(), 3), ("a b".into(), 14), ("c".into(), 19)]
        );
        assert_eq!(
            split(r"a\ b 'c d'"),
            [(r"a\".into(), 1), ("b".into(), 4), ("'c".into(), 6), ("d'".into(), 9)]
        );
        assert_eq!(plain(&spots("a \"b c"), FileId(0), 1).1, Some(Unmatched { at: 2 }));
    }

    /// The examples of keepalived.conf(5), "Quoted strings".
    #[test]
    fn escaped_words_are_those_of_the_manual() {
        assert_eq!(escaped("abcd\" efg h jkl \"mnop").unwrap(), ["abcd efg h jkl mnop"]);
        assert_eq!(escaped("abcd \"efg h jkl\" mnop").unwrap(), ["abcd", "efg h jkl", "mnop"]);
        assert_eq!(
            escaped(r"/etc/notify.sh ' spaces\\x20f\x69le ' '\x22s p a c e \x22' master").unwrap(),
            ["/etc/notify.sh", r" spaces\x20file ", "\"s p a c e \"", "master"]
        );
        assert_eq!(escaped(r"\101\cA\n\q\").unwrap(), ["A\u{1}\nq"]);
        assert_eq!(escaped("a 'b").unwrap_err(), Unmatched { at: 2 });
    }
}
