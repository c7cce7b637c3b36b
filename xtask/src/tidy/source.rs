//! Just enough Rust to look at code without its comments and strings.

/// The source with comments and the content of string and character literals blanked out. Lines stay where they are.
pub fn code_only(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    let mut before = ' ';
    while let Some(first) = rest.chars().next() {
        let skipped = comment(rest).or_else(|| literal(rest, before));
        let length = skipped.unwrap_or(first.len_utf8());
        let (piece, after) = rest.split_at(length);
        if skipped.is_some() {
            code.extend(piece.chars().map(|character| if character == '\n' { '\n' } else { ' ' }));
        } else {
            code.push_str(piece);
        }
        before = piece.chars().next_back().unwrap_or(' ');
        rest = after;
    }
    code
}

/// The part before the unit tests, which stand last in a file: `#[cfg(test)]` with a module's body after it.
pub fn before_tests(code: &str) -> &str {
    let body = test_modules(code).find(|(_, module)| module.contains('{'));
    body.map_or(code, |(at, _)| &code[..at])
}

/// The modules that only exist for the tests and have a file of their own: `#[cfg(test)] mod NAME;`.
pub fn test_module_names(code: &str) -> Vec<&str> {
    test_modules(code).filter_map(|(_, module)| module.strip_suffix(';')).map(str::trim).collect()
}

/// Where `#[cfg(test)]` stands before a module, and what follows `mod` up to and with the next `;` or `{`.
fn test_modules(code: &str) -> impl Iterator<Item = (usize, &str)> {
    const ATTRIBUTE: &str = "#[cfg(test)]";
    code.match_indices(ATTRIBUTE).filter_map(|(at, _)| {
        let item = code[at + ATTRIBUTE.len()..].trim_start();
        let item = item.strip_prefix("pub(crate)").or_else(|| item.strip_prefix("pub")).unwrap_or(item);
        let module = item.trim_start().strip_prefix("mod ")?;
        let end = module.find([';', '{'])?;
        Some((at, &module[..=end]))
    })
}

/// The length of the comment that `text` begins with. Block comments nest.
fn comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if !text.starts_with("/*") {
        return None;
    }
    let mut depth = 0_u32;
    let mut at = 0;
    while at < text.len() {
        let here = &text.as_bytes()[at..];
        if here.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += 1;
        }
    }
    Some(text.len())
}

/// The length of the string or character literal that `text` begins with. A lifetime is not one, and a prefix (`b`,
/// `c`, `r`) is only one where no word goes on.
fn literal(text: &str, before: char) -> Option<usize> {
    let in_word = before.is_alphanumeric() || before == '_';
    let unprefixed = if in_word { text } else { text.strip_prefix(['b', 'c']).unwrap_or(text) };
    let prefix = text.len() - unprefixed.len();
    if let Some(raw) = unprefixed.strip_prefix('r').filter(|_| !in_word) {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if let Some(body) = raw[hashes..].strip_prefix('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let length = body.find(&end).map_or(body.len(), |at| at + end.len());
            return Some(prefix + 1 + hashes + 1 + length);
        }
    }
    if let Some(body) = unprefixed.strip_prefix('"') {
        return Some(prefix + 1 + closing(body, '"').unwrap_or(body.len()));
    }
    let body = unprefixed.strip_prefix('\'')?;
    let mut characters = body.chars();
    let is_character = matches!((characters.next()?, characters.next()?), ('\\', _) | (_, '\''));
    is_character.then(|| prefix + 1 + closing(body, '\'').unwrap_or(body.len()))
}

/// The length up to and with the closing quote, which a backslash may hide.
fn closing(body: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, character) in body.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return Some(at + quote.len_utf8()),
            _ => {}
        }
    }
    None
}

/// Every path in `use` declarations, written out: `use a::{b, c::{d as e, *}};` is `a::b`, `a::c::d`, `a::c::*`. With
/// the line (from 1) on which its declaration begins.
pub fn imports(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let before = code[..at].chars().next_back().unwrap_or('\n');
        let Some(end) = code[at..].find(';') else { continue };
        if before.is_whitespace() || before == ')' {
            let tree = &code[at + "use ".len()..at + end];
            let mut paths = Vec::new();
            write_out("", tree, &mut paths);
            let line = line_of(code, at);
            found.extend(paths.into_iter().map(|path| (line, path)));
        }
    }
    found
}

fn write_out(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    for branch in split_top_level(tree) {
        let branch = branch.trim();
        if let Some((head, group)) = branch.split_once('{') {
            let group = group.trim_end().strip_suffix('}').unwrap_or(group);
            write_out(&format!("{prefix}{}", head.trim()), group, paths);
        } else if !branch.is_empty() {
            let path = branch.split(" as ").next().unwrap_or(branch).trim();
            paths.push(format!("{prefix}{path}").trim_start_matches("::").to_owned());
        }
    }
}

/// At the commas that no brace encloses.
fn split_top_level(tree: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0_u32, 0);
    for (at, character) in tree.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&tree[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&tree[start..]);
    parts
}

/// Where `word` stands in the code with nothing that would make it a longer word: lines from 1.
pub fn lines_with(code: &str, word: &str) -> Vec<usize> {
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    let edge = |inside: Option<char>, outside: Option<char>| {
        !(inside.is_some_and(is_word) && outside.is_some_and(is_word))
    };
    code.match_indices(word)
        .filter(|(at, _)| {
            edge(word.chars().next(), code[..*at].chars().next_back())
                && edge(word.chars().next_back(), code[at + word.len()..].chars().next())
        })
        .map(|(at, _)| line_of(code, at))
        .collect()
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_are_blank() {
        let cases = [
            ("a // unsafe", "a          "),
            ("a /* x /* y */ z */ b", "a                   b"),
            (r#"f("unsafe \" //", 1)"#, "f(              , 1)"),
            (r##"f(r#"a " b"#, 1)"##, "f(          , 1)"),
            ("b\"x\" c'", "     c'"),
            ("'\\'' 'x' &'a str", "         &'a str"),
            ("number\"\"", "number  "),
        ];
        for (source, expected) in cases {
            assert_eq!(code_only(source), expected, "{source}");
        }
        assert_eq!(code_only("\"a\nb\"\n/*\n*/x").matches('\n').count(), 3);
        assert_eq!(code_only("\"never closed"), "             ");
    }

    #[test]
    fn imports_are_written_out() {
        let code = "use std::{fs, net::{IpAddr, TcpStream as S}, io::*};\npub(crate) use ::tokio;\n\
            pub use a::b;\nlet because = 1;\n";
        let expected: Vec<(usize, String)> = [
            (1, "std::fs"),
            (1, "std::net::IpAddr"),
            (1, "std::net::TcpStream"),
            (1, "std::io::*"),
            (2, "tokio"),
            (3, "a::b"),
        ]
        .map(|(line, path)| (line, path.to_owned()))
        .into();
        assert_eq!(imports(code), expected);
    }

    #[test]
    fn the_unit_tests_are_left_out() {
        assert_eq!(before_tests("a\n#[cfg(test)]\nmod tests {\n use std::fs;\n}\n"), "a\n");
        let own_file = "a\n#[cfg(test)]\nmod tests;\nfn b() {}\n";
        assert_eq!(before_tests(own_file), own_file);
        assert_eq!(
            test_module_names("#[cfg(test)]\npub(crate) mod fake;\nmod real;\n#[cfg(test)]\nmod tests {"),
            ["fake"]
        );
        let not_a_module = "#[cfg(test)]\nfn a() {}\nfn b() {}";
        assert_eq!(before_tests(not_a_module), not_a_module);
    }

    #[test]
    fn a_word_is_not_part_of_a_longer_one() {
        assert_eq!(lines_with("unsafe {}\nunsafe_op\nnot_unsafe", "unsafe"), [1]);
        assert_eq!(lines_with("x\nstd::fs::read()", "std::fs"), [2]);
        assert!(lines_with("std::fsync", "std::fs").is_empty());
    }
}
