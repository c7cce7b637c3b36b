//! A line of haproxy.cfg as words (HAProxy 2.6's configuration manual, §2.2 and §2.3): quotes, escapes, comments, and the
//! environment variables that the file sets itself. HAProxy has no way to continue a line.

use std::collections::BTreeMap;

use thiserror::Error;

/// What the words of a line may grow to by variables. HAProxy refuses lines of more than 2048 bytes.
const MAX_LINE: usize = 16 * 1024;
/// The longest value of a variable that is remembered.
const MAX_VALUE: usize = 1024;

/// A word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// Without its quotes and escapes.
    pub text: String,
    /// Where it begins: in characters, from 1.
    pub column: usize,
    /// The first variable in it whose value is not in the file; the word then has its name as written.
    pub unset: Option<String>,
}

/// Why a line has no words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// A quote without its end.
    #[error("the quote has no end")]
    OpenQuote,
    /// `${` without `}`.
    #[error("the variable has no closing brace")]
    OpenBrace,
    /// `\x` without two hexadecimal digits.
    #[error("\\x is followed by two hexadecimal digits")]
    Hex,
    /// A NUL.
    #[error("there is a NUL byte in the line")]
    Nul,
    /// More than [`MAX_LINE`] bytes.
    #[error("the line is too long")]
    TooLong,
    /// A backslash as the last character.
    #[error("HAProxy does not continue lines")]
    Continued,
}

/// The environment as far as the file sets it: `setenv`, `presetenv`, `unsetenv`, `resetenv`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variables(BTreeMap<String, String>);

impl Variables {
    /// Sets one; a value that is too long is as good as none.
    pub fn set(&mut self, name: &str, value: &str) {
        if value.len() <= MAX_VALUE {
            self.0.insert(name.to_owned(), value.to_owned());
        } else {
            self.0.remove(name);
        }
    }

    /// Forgets one.
    pub fn unset(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Its value, if the file has set it.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// The words of a line, up to its comment.
///
/// # Errors
/// It cannot be read; the number is the column.
pub fn split(line: &str, variables: &Variables) -> Result<Vec<Word>, (usize, Fault)> {
    let chars: Vec<char> = line.chars().collect();
    let mut lexer = Lexer { chars: &chars, at: 0, grown: 0, variables };
    let mut words = Vec::new();
    while let Some(word) = lexer.word()? {
        words.push(word);
    }
    Ok(words)
}

struct Lexer<'a> {
    chars: &'a [char],
    at: usize,
    grown: usize,
    variables: &'a Variables,
}

impl Lexer<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn word(&mut self) -> Result<Option<Word>, (usize, Fault)> {
        while self.peek().is_some_and(blank) {
            self.at += 1;
        }
        if self.peek().is_none_or(ends_line) {
            return Ok(None);
        }
        let mut word = Word { column: self.at + 1, ..Word::default() };
        let mut quote: Option<(char, usize)> = None;
        while let Some(next) = self.peek() {
            let column = self.at + 1;
            match (next, quote) {
                ('\0', _) => return Err((column, Fault::Nul)),
                ('\'' | '"', None) => quote = Some((next, column)),
                (_, Some((open, _))) if open == next => quote = None,
                (_, None) if blank(next) || ends_line(next) => break,
                (_, Some(('\'', _))) => word.text.push(next),
                ('\\', _) => {
                    self.escape(&mut word)?;
                    continue;
                }
                ('$', Some(_)) => {
                    self.variable(&mut word)?;
                    continue;
                }
                _ => word.text.push(next),
            }
            self.at += 1;
        }
        if let Some((_, column)) = quote {
            return Err((column, Fault::OpenQuote));
        }
        self.grown += word.text.len();
        if self.grown > MAX_LINE {
            return Err((word.column, Fault::TooLong));
        }
        Ok(Some(word))
    }

    /// At a backslash that is not within single quotes.
    fn escape(&mut self, word: &mut Word) -> Result<(), (usize, Fault)> {
        let column = self.at + 1;
        let Some(next) = self.chars.get(self.at + 1).copied() else {
            return Err((column, Fault::Continued));
        };
        self.at += 2;
        match next {
            ' ' | '\\' | '#' | '\'' | '"' | '\t' | '$' => word.text.push(next),
            'n' => word.text.push('\n'),
            'r' => word.text.push('\r'),
            't' => word.text.push('\t'),
            'x' => {
                let digit = |at: usize| self.chars.get(at).and_then(|digit| digit.to_digit(16));
                let (Some(high), Some(low)) = (digit(self.at), digit(self.at + 1)) else {
                    return Err((column, Fault::Hex));
                };
                word.text.push(char::from_u32(high * 16 + low).unwrap_or(char::REPLACEMENT_CHARACTER));
                self.at += 2;
            }
            // Anything else is no escape: the backslash stays, and what follows is read as it is.
            _ => {
                word.text.push('\\');
                self.at -= 1;
            }
        }
        Ok(())
    }

    /// At a `$` within double quotes.
    fn variable(&mut self, word: &mut Word) -> Result<(), (usize, Fault)> {
        let start = self.at;
        let braced = self.chars.get(self.at + 1) == Some(&'{');
        let (name, default, end) =
            variable_at(self.chars, start, braced).map_err(|fault| (start + 1, fault))?;
        self.at = end;
        if name.is_empty() {
            word.text.extend(&self.chars[start..end]);
            return Ok(());
        }
        match self.variables.get(&name).map(str::to_owned).or(default) {
            Some(value) => word.text.push_str(&value),
            None => {
                word.text.extend(&self.chars[start..end]);
                word.unset.get_or_insert(name);
            }
        }
        if word.text.len() > MAX_LINE {
            return Err((start + 1, Fault::TooLong));
        }
        Ok(())
    }
}

/// The variable that begins with the `$` at `start`: its name, its default, and where it ends.
fn variable_at(chars: &[char], start: usize, braced: bool) -> Result<(String, Option<String>, usize), Fault> {
    let first = start + 1 + usize::from(braced);
    let named =
        |at: &usize| chars.get(*at).is_some_and(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
    let last = (first..).find(|at| !named(at)).unwrap_or(chars.len());
    let name: String = chars[first.min(last)..last].iter().collect();
    if !braced {
        return Ok((name, None, last));
    }
    let close = chars[last..].iter().position(|c| *c == '}').map(|at| last + at).ok_or(Fault::OpenBrace)?;
    let default = (chars.get(last) == Some(&'-')).then(|| chars[last + 1..close].iter().collect());
    Ok((name, default, close + 1))
}

/// Expands the variables of an address that stands outside quotes, as HAProxy does for addresses alone.
pub fn expand_address(word: &Word, variables: &Variables) -> Word {
    if !word.text.contains('$') || word.unset.is_some() {
        return word.clone();
    }
    let chars: Vec<char> = word.text.chars().collect();
    let mut expanded = Word { text: String::new(), column: word.column, unset: None };
    let mut at = 0;
    while let Some(next) = chars.get(at).copied() {
        let braced = chars.get(at + 1) == Some(&'{');
        match (next == '$').then(|| variable_at(&chars, at, braced)) {
            Some(Ok((name, default, end))) if !name.is_empty() => {
                match variables.get(&name).map(str::to_owned).or(default) {
                    Some(value) if expanded.text.len() < MAX_LINE => expanded.text.push_str(&value),
                    _ => {
                        expanded.text.extend(&chars[at..end]);
                        expanded.unset.get_or_insert(name);
                    }
                }
                at = end;
            }
            Some(Err(_)) => {
                expanded.text.extend(&chars[at..]);
                at = chars.len();
            }
            _ => {
                expanded.text.push(next);
                at += 1;
            }
        }
    }
    expanded
}

fn blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{b}' | '\u{c}')
}

/// HAProxy takes a carriage return for the end of a line, wherever it stands.
fn ends_line(c: char) -> bool {
    matches!(c, '#' | '\r' | '\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(line: &str) -> Vec<String> {
        split(line, &Variables::default()).unwrap().into_iter().map(|word| word.text).collect()
    }

    fn fault(line: &str) -> (usize, Fault) {
        split(line, &Variables::default()).unwrap_err()
    }

    #[test]
    fn words_end_at_blanks_and_comments() {
        assert_eq!(
            texts("\tserver  m1 10.0.0.1:6443 check # the first\r"),
            ["server", "m1", "10.0.0.1:6443", "check"]
        );
        assert_eq!(texts("a#b"), ["a"]);
        assert!(texts("  # nothing").is_empty());
        assert!(texts("").is_empty());
    }

    #[test]
    fn columns_are_those_of_characters() {
        let words = split("  é  \"x y\" z", &Variables::default()).unwrap();
        assert_eq!(words.iter().map(|word| word.column).collect::<Vec<_>>(), [3, 6, 12]);
        assert_eq!(words[1].text, "x y");
    }

    #[test]
    fn quotes_and_escapes_are_those_of_the_manual() {
        // The five strictly equivalent ways of the manual's example.
        for line in [
            r"log-format %{+Q}o\ %t\ %s\ %{-Q}r",
            r#"log-format "%{+Q}o %t %s %{-Q}r""#,
            r"log-format '%{+Q}o %t %s %{-Q}r'",
            r#"log-format "%{+Q}o %t"' %s %{-Q}r'"#,
            r#"log-format "%{+Q}o %t"' %s'\ %{-Q}r"#,
        ] {
            assert_eq!(texts(line), ["log-format", "%{+Q}o %t %s %{-Q}r"], "{line}");
        }
        assert_eq!(texts(r"\x41\#\t\\ '\x41' \q"), ["A#\t\\", r"\x41", r"\q"]);
        assert_eq!(texts(r#""" a"#), ["", "a"]);
    }

    #[test]
    fn what_has_no_end_is_a_fault_at_its_column() {
        assert_eq!(fault("a 'b c"), (3, Fault::OpenQuote));
        assert_eq!(fault(r#"a "${B"#), (4, Fault::OpenBrace));
        assert_eq!(fault(r"a \x4"), (3, Fault::Hex));
        assert_eq!(fault(r"server a 10.0.0.1:1 \"), (21, Fault::Continued));
        assert_eq!(fault("a\0b"), (2, Fault::Nul));
    }

    #[test]
    fn variables_count_within_double_quotes() {
        let mut variables = Variables::default();
        variables.set("VIP", "10.0.0.9");
        let words = split(r#""${VIP}:1" "$VIP" "${NO-x}" "${NO}:2" $VIP '$VIP'"#, &variables).unwrap();
        let texts: Vec<_> = words.iter().map(|word| word.text.as_str()).collect();
        assert_eq!(texts, ["10.0.0.9:1", "10.0.0.9", "x", "${NO}:2", "$VIP", "$VIP"]);
        assert_eq!(words[3].unset.as_deref(), Some("NO"));
        assert_eq!(expand_address(&words[4], &variables).text, "10.0.0.9");
        assert_eq!(expand_address(&words[3], &variables).unset.as_deref(), Some("NO"));
    }

    #[test]
    fn variables_cannot_make_a_line_grow_without_end() {
        let mut variables = Variables::default();
        variables.set("A", &"x".repeat(MAX_VALUE));
        let line = format!("\"{}\"", "$A".repeat(100));
        assert_eq!(split(&line, &variables).unwrap_err().1, Fault::TooLong);
        variables.set("A", &"x".repeat(MAX_VALUE + 1));
        assert_eq!(variables.get("A"), None);
    }
}
