//! Every key of the configuration, as `packaging/xvip.toml` documents it; that it has each key of the schema and no other is
//! tested beside the schema (`config/tests/drift.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::io;
use std::path::Path;

use lb_userspace::config::{self, Facts};

use super::page;

/// A table of the file.
#[derive(Debug)]
pub struct TableOfKeys {
    /// `service.health`
    pub path: String,
    /// `[service.health]`
    pub header: String,
    /// What is said above it.
    pub about: String,
    /// In the file's order.
    pub keys: Vec<Key>,
}

/// A key.
#[derive(Debug)]
pub struct Key {
    /// Its name alone.
    pub name: String,
    /// As the file shows it.
    pub value: String,
    /// Whether that is what it is where the file says nothing.
    pub is_default: bool,
    /// Whether the file must have it.
    pub is_required: bool,
    /// The comment.
    pub meaning: String,
}

const NO_DEFAULT: &str = "(no default)";

/// Reads `packaging/xvip.toml`. A table that is there twice is one, with the keys of both.
pub fn tables() -> Result<Vec<TableOfKeys>, Box<dyn Error>> {
    let text = fs::read_to_string(page::root().join("packaging/xvip.toml"))?;
    let mut tables = read(&text)?;
    let required = required(&tables);
    for table in &mut tables {
        for key in &mut table.keys {
            key.is_required = required.contains(&format!("{}.{}", table.path, key.name));
        }
    }
    Ok(tables)
}

fn read(text: &str) -> Result<Vec<TableOfKeys>, Box<dyn Error>> {
    let mut tables: Vec<TableOfKeys> = Vec::new();
    let mut current: Option<usize> = None;
    let mut about = String::new();
    for line in text.lines() {
        let bare = line
            .strip_prefix('#')
            .filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '['));
        let (line, is_commented) = (bare.unwrap_or(line), bare.is_some());
        if let Some(prose) = line.strip_prefix("# ") {
            join(&mut about, prose);
        } else if matches!(line.trim(), "" | "#") {
            about.clear();
        } else if let Some(more) = line.trim_start().strip_prefix('#') {
            let last = current.and_then(|index| tables[index].keys.last_mut());
            join(&mut last.ok_or("a comment is beside no key")?.meaning, more.trim());
        } else if line.starts_with('[') {
            let header = line.split('#').next().unwrap_or_default().trim().to_owned();
            let path = header.trim_matches(['[', ']']).to_owned();
            let about = std::mem::take(&mut about);
            current = Some(match tables.iter().position(|table| table.path == path) {
                Some(known) => known,
                None => {
                    tables.push(TableOfKeys { path, header, about, keys: Vec::new() });
                    tables.len() - 1
                }
            });
        } else {
            let (name, rest) = line.split_once(" = ").ok_or_else(|| format!("not a key: {line}"))?;
            let (value, comment) = value_and_comment(rest);
            let meaning = match (std::mem::take(&mut about), comment.trim_end_matches(NO_DEFAULT).trim()) {
                (above, "") => above,
                (above, beside) if above.is_empty() => beside.to_owned(),
                (above, beside) => format!("{above} {beside}"),
            };
            let is_default = is_commented && !comment.ends_with(NO_DEFAULT);
            let table = &mut tables[current.ok_or_else(|| format!("a key of no table: {line}"))?];
            let (name, value) = (name.to_owned(), value.to_owned());
            let known = table.keys.iter_mut().find(|key| key.name == name);
            match known {
                // Another of several backends, or another kind of the same.
                Some(known) if known.value != value && !meaning.is_empty() && !is_default => {
                    known.meaning = format!("`{}`: {}; `{value}`: {meaning}", known.value, known.meaning);
                }
                Some(_) => {}
                None => table.keys.push(Key { name, value, is_default, is_required: false, meaning }),
            }
        }
    }
    Ok(tables)
}

fn join(text: &mut String, more: &str) {
    if !text.is_empty() {
        text.push(' ');
    }
    text.push_str(more);
}

/// Splits a line at the first `#` that is not within quotes.
fn value_and_comment(rest: &str) -> (&str, &str) {
    let mut is_quoted = false;
    for (at, c) in rest.char_indices() {
        match c {
            '"' => is_quoted = !is_quoted,
            '#' if !is_quoted => return (rest[..at].trim_end(), rest[at + 1..].trim()),
            _ => {}
        }
    }
    (rest.trim_end(), "")
}

/// What the reader misses in tables that are there and have nothing in them.
fn required(tables: &[TableOfKeys]) -> BTreeSet<String> {
    let headers: Vec<&str> = tables.iter().map(|table| table.header.as_str()).collect();
    let nothing = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
    let mode = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
    let facts = Facts { host_name: "lb1".to_owned(), read_file: &nothing, file_mode: &mode };
    let Err(problems) = config::parse(&headers.join("\n"), Path::new("empty"), &facts) else {
        return BTreeSet::new();
    };
    let missing = problems.errors().filter(|found| found.message.ends_with("is missing"));
    missing.map(|found| without_positions(&found.key)).collect()
}

/// `service[0].backend[2].name` -> `service.backend.name`
fn without_positions(path: &str) -> String {
    path.split('.').map(|part| part.split('[').next().unwrap_or(part)).collect::<Vec<_>>().join(".")
}

/// Every key and table by its full name, and every key by its last name alone.
pub struct Names {
    /// `service.health`, `service.health.path`
    pub full: BTreeSet<String>,
    /// `path` -> the tables that have it
    pub last: BTreeMap<String, Vec<String>>,
}

/// The names.
pub fn names() -> Result<Names, Box<dyn Error>> {
    let mut names = Names { full: BTreeSet::new(), last: BTreeMap::new() };
    for table in tables()? {
        for key in table.keys {
            names.full.insert(format!("{}.{}", table.path, key.name));
            names.last.entry(key.name).or_default().push(table.path.clone());
        }
        names.full.insert(table.path);
    }
    Ok(names)
}

#[test]
fn the_file_is_read_as_people_read_it() -> Result<(), Box<dyn Error>> {
    let tables = tables()?;
    let find = |table: &str, key: &str| {
        let table = tables.iter().find(|known| known.path == table).unwrap_or_else(|| panic!("no {table}"));
        table
            .keys
            .iter()
            .find(|known| known.name == key)
            .unwrap_or_else(|| panic!("no {key} in {}", table.path))
    };
    let interval = find("service.health", "interval");
    assert_eq!((interval.value.as_str(), interval.is_default, interval.is_required), ("\"2s\"", true, false));
    assert_eq!(interval.meaning, "between checks while the backend is up");
    let vip = find("service", "vip");
    assert!(!vip.is_default && vip.is_required, "{vip:?}");
    let ca_file = find("service.health", "ca_file");
    assert!(!ca_file.is_default && !ca_file.is_required, "{ca_file:?}");
    assert_eq!(ca_file.meaning, "with verify = \"ca\"");
    let mode = find("service", "mode");
    assert!(mode.meaning.contains("with dsr the backends have the VIP"), "the second line: {mode:?}");
    let key_file = find("sync", "key_file");
    assert!(key_file.meaning.starts_with("The same on all nodes: "), "the lines above: {key_file:?}");
    let kind = find("vrrp.track", "kind");
    assert!(kind.meaning.contains("`\"script\"`: whether it ends with 0"), "both tables: {kind:?}");
    Ok(())
}
