//! From a file's text to a checked [`Config`], or to everything that is wrong with it.

use std::{collections::BTreeSet, io, ops::Range, path::Path};

use toml::de::{DeTable, DeValue};

use super::{
    diagnostic::{Diagnostic, Problems, Severity, Source, may_hold_secret},
    model::Config,
    reader::{Reader, Table, quoted},
    schema,
};

/// What the configuration may ask about this machine. It is given, so that a test needs no disk.
pub struct Facts<'f> {
    /// The host name, the default of `node.name`; empty if there is none.
    pub host_name: String,
    /// Tries to read a file that the configuration names.
    pub read_file: &'f dyn Fn(&Path) -> io::Result<Vec<u8>>,
    /// The permission bits of a regular file that the configuration names, as `chmod` has them; an error for what is none.
    pub file_mode: &'f dyn Fn(&Path) -> io::Result<u32>,
}

/// A configuration that passed every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// What it means.
    pub config: Config,
    /// What someone should know, in the file's order.
    pub warnings: Vec<Diagnostic>,
}

/// Parses and checks a whole file. `file` is only its name in the diagnostics.
///
/// # Errors
/// Everything that is wrong. A file that is not TOML has its syntax errors reported alone: what it would mean without
/// them is a guess.
pub fn parse(source: &str, file: &Path, facts: &Facts<'_>) -> Result<Checked, Problems> {
    let (outcome, _) = parse_with_schema(source, file, facts);
    outcome
}

/// The same for what was read from a disk, which need not be UTF-8.
///
/// # Errors
/// As [`parse`]; also for the first byte that is not UTF-8.
pub fn parse_bytes(bytes: &[u8], file: &Path, facts: &Facts<'_>) -> Result<Checked, Problems> {
    let error = match std::str::from_utf8(bytes) {
        Ok(source) => return parse(source, file, facts),
        Err(error) => error,
    };
    // The place is right in the readable part and its lines are the file's.
    let text = String::from_utf8_lossy(bytes);
    let at = error.valid_up_to();
    let message = format!("byte {at} of the file is not UTF-8 text");
    let remedy = "write: the file again with an editor set to UTF-8".to_owned();
    let source = Source::new(file, &text);
    Err(Problems(vec![source.diagnostic(Severity::Error, at..at, ("", ""), message, remedy)]))
}

/// Also gives every key that was asked for, without positions, so that a test can compare them with the documentation.
pub(super) fn parse_with_schema(
    text: &str,
    file: &Path,
    facts: &Facts<'_>,
) -> (Result<Checked, Problems>, BTreeSet<String>) {
    let source = Source::new(file, text);
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return (Err(syntax_problems(&source, &errors)), BTreeSet::new());
    }
    let reader = Reader::new(source);
    let config = schema::document(Table::root(&reader, document.get_ref()), facts);
    let (found, keys) = reader.into_found();
    let outcome = match config {
        Some(config) if found.iter().all(|found| found.severity == Severity::Warning) => {
            Ok(Checked { config, warnings: found })
        }
        _ => Err(Problems(found)),
    };
    (outcome, keys)
}

/// One problem per line: what follows the first one on a line is mostly its echo.
fn syntax_problems(source: &Source<'_>, errors: &[toml::de::Error]) -> Problems {
    let mut found: Vec<Diagnostic> = errors
        .iter()
        .map(|error| {
            let span: Range<usize> = error.span().unwrap_or(0..0);
            let (line, _) = source.position(span.start);
            let remedy = syntax_remedy(error.message(), source.line(line));
            let message = format!("not TOML: {}", error.message().trim_end_matches(", expected nothing"));
            source.diagnostic(Severity::Error, span, ("", ""), message, remedy)
        })
        .collect();
    found.sort_by_key(|found| (found.line, found.column));
    found.dedup_by_key(|found| found.line);
    Problems(found)
}

/// What to write instead of a line that is not TOML.
fn syntax_remedy(message: &str, line: &str) -> String {
    const GENERAL: &str = "write: key = value on a line of its own, with texts in quotes, below a [table]";
    let line = line.trim();
    if message.contains("duplicate") {
        return "remove one of the two: a key or table can be there only once".to_owned();
    }
    if line.starts_with('[') {
        return "write: [node], [[service]], [service.health], [[service.backend]], [[vrrp]] or [flows]"
            .to_owned();
    }
    let Some((key, value)) = line.split_once('=').map(|(key, value)| (key.trim(), value.trim())) else {
        return GENERAL.to_owned();
    };
    let value = value.split(" #").next().unwrap_or_default().trim();
    let plain_key =
        !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    if !plain_key || may_hold_secret(line) || value.len() > 60 || DeValue::parse(value).is_ok() {
        return GENERAL.to_owned();
    }
    match value.to_ascii_lowercase().as_str() {
        "" => format!("write: a value after {key} ="),
        "true" | "yes" | "on" => format!("write: {key} = true"),
        "false" | "no" | "off" => format!("write: {key} = false"),
        _ if value.starts_with(['[', '{']) => {
            format!("write: {key} = and the list in one pair of brackets, its items with commas between them")
        }
        _ => format!("write: {key} = {}", quoted(value.trim_matches(['"', '\'']))),
    }
}
