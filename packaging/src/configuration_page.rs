//! `xvip.toml(5)`, made of `packaging/xvip.toml`, which has every key with its default and its meaning.
//!
//! That file is written for this: a comment on a line of its own is a paragraph about what follows; behind a key, and on the
//! lines below that begin with blanks, stands what the key means. A key behind `#` has its default, unless its comment
//! ends with "(no default)".

use roff::{Inline, Roff, bold, italic, roman};

/// What a line of the file is.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Empty,
    /// A comment on a line of its own, without the `#`.
    Paragraph(&'a str),
    /// `[table]` or `[[table]]`, and its comment.
    Table(&'a str, &'a str),
    /// `key = value`, and its comment.
    Key {
        key: &'a str,
        value: &'a str,
        comment: &'a str,
        commented_out: bool,
    },
    /// More of the comment of the key before.
    More(&'a str),
}

/// What stands behind a comment where the value is only an example.
const NO_DEFAULT: &str = "(no default)";

fn line(text: &str) -> Line<'_> {
    if text.trim().is_empty() {
        return Line::Empty;
    }
    if text.starts_with(' ') {
        return Line::More(text.trim().trim_start_matches('#').trim());
    }
    let (commented_out, code) = match text.strip_prefix('#') {
        Some(code) => (true, code),
        None => (false, text),
    };
    if commented_out && (code.is_empty() || code.starts_with(' ')) {
        return Line::Paragraph(code.trim());
    }
    let (code, comment) = without_comment(code);
    match code.split_once(" = ") {
        Some((key, value)) => Line::Key { key: key.trim(), value: value.trim(), comment, commented_out },
        None => Line::Table(code.trim(), comment),
    }
}

/// A line of TOML and its comment; a `#` within a string begins none.
fn without_comment(text: &str) -> (&str, &str) {
    let mut quoted = false;
    for (at, character) in text.char_indices() {
        match character {
            '"' => quoted = !quoted,
            '#' if !quoted => return (&text[..at], text[at + 1..].trim()),
            _ => {}
        }
    }
    (text, "")
}

/// The page, as man(7) reads it.
#[must_use]
pub fn page(example: &str) -> String {
    let mut roff = Roff::default();
    roff.control("TH", ["xvip.toml", "5", "", &format!("xvip {}", crate::VERSION)]);
    roff.control("SH", ["NAME"]);
    roff.text([roman("xvip.toml - configuration of the load balancer xvip")]);
    roff.control("SH", ["DESCRIPTION"]);
    let mut lines = example.lines().map(line).peekable();
    // The first line is the file's title.
    lines.next();
    while let Some(line) = lines.next() {
        match line {
            Line::Empty => {}
            Line::Paragraph(first) => {
                let mut paragraph = vec![first];
                while let Some(Line::Paragraph(more)) = lines.peek() {
                    paragraph.push(more);
                    lines.next();
                }
                for part in paragraph.split(|line| line.is_empty()).filter(|part| !part.is_empty()) {
                    roff.control("PP", []);
                    roff.text([roman(part.join(" "))]);
                }
            }
            Line::Table(name, comment) => {
                roff.control("SH", [name]);
                let comment = comment.trim_end_matches(NO_DEFAULT).trim();
                if !comment.is_empty() {
                    roff.text([roman(comment)]);
                }
            }
            Line::Key { key, value, comment, commented_out } => {
                let mut comments = vec![comment];
                while let Some(Line::More(more)) = lines.peek() {
                    comments.push(more);
                    lines.next();
                }
                let comment = comments.join(" ");
                let only_an_example = !commented_out || comment.trim_end().ends_with(NO_DEFAULT);
                let comment = comment.trim().trim_end_matches(NO_DEFAULT).trim().to_owned();
                roff.control("TP", []);
                roff.text([bold(key), roman(" = "), italic(value)]);
                roff.text(meaning(&comment, only_an_example));
            }
            Line::More(_) => {}
        }
    }
    roff.control("SH", ["FILES"]);
    roff.text([italic("/etc/xvip/xvip.toml"), roman(", "), italic("/usr/share/doc/xvip/xvip.toml"), roman(" (this page as a file)")]);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([bold("xvip-check"), roman("(1), "), bold("xvip-import"), roman("(1), "), bold("xvip-reload"), roman("(1)")]);
    roff.to_roff()
}

fn meaning(comment: &str, only_an_example: bool) -> Vec<Inline> {
    let kind = if only_an_example { "An example." } else { "The default." };
    if comment.is_empty() {
        return vec![roman(kind)];
    }
    let mut characters = comment.chars();
    let first: String = characters.next().into_iter().flat_map(char::to_uppercase).collect();
    vec![roman(format!("{first}{}. ", characters.as_str().trim_end_matches('.'))), roman(kind)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart() {
        assert_eq!(line(""), Line::Empty);
        assert_eq!(line("# Of all nodes."), Line::Paragraph("Of all nodes."));
        assert_eq!(line("#"), Line::Paragraph(""));
        assert_eq!(line("[[service]]"), Line::Table("[[service]]", ""));
        assert_eq!(line("#[sync]      # (no default)"), Line::Table("[sync]", "(no default)"));
        assert_eq!(line("     # and more"), Line::More("and more"));
        let key = Line::Key { key: "a", value: "\"#1\"", comment: "what # it is", commented_out: true };
        assert_eq!(line("#a = \"#1\"  # what # it is"), key);
    }

    #[test]
    fn keys_have_their_default_and_their_meaning() {
        let page = page("# title\n# About it.\n\n[node]\ninterface = \"eth0\"  # where\n#max = 5  # how many,\n          # at most\n#x = 1  # one (no default)\n");
        let flat = page.replace("\\-", "-");
        for expected in ["About it.", ".SH [node]", "Where. An example.", "How many, at most. The default.", "One. An example."] {
            assert!(flat.contains(expected), "{expected}: {flat}");
        }
    }

    #[test]
    fn every_key_of_the_example_is_on_the_page() {
        let example = include_str!("../xvip.toml");
        let page = page(example);
        let mut keys = 0;
        for text in example.lines() {
            if let Line::Key { key, .. } = line(text) {
                assert!(page.contains(&format!("\\fB{key}\\fR")), "{key}");
                keys += 1;
            }
        }
        assert!(keys > 80, "{keys}");
    }
}
