//! Reads tables key by key and goes on after a mistake.
//!
//! serde stops at the first mistake; here a mistake is noted, the value is taken as absent, and reading goes on. A table
//! is read with one line per key, `table.read("port", PORT).required("6443")`, and closed with [`Table::finish`], which
//! refuses every key that nobody asked for.

use std::{cell::RefCell, collections::BTreeSet, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    diagnostic::{Diagnostic, Severity, Source, may_hold_secret},
    nearest::nearest,
};

/// Collects what is found in one file.
pub(super) struct Reader<'s> {
    source: Source<'s>,
    /// What stands for a table that the file leaves out.
    empty: DeTable<'s>,
    found: RefCell<Vec<Diagnostic>>,
    /// Every key that was asked for, with its table but without positions: `service.health.path`.
    schema: RefCell<BTreeSet<String>>,
}

/// Where something stands in the file, for a later complaint about it.
#[derive(Clone, Debug)]
pub(super) struct Place {
    span: Range<usize>,
    key: String,
    table: String,
}

impl Place {
    /// The same key, but only a part of its value.
    pub(super) fn part(&self, span: Range<usize>) -> Self {
        Self { span, ..self.clone() }
    }
}

/// A value and where it stands; for a default, where its table stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) place: Place,
    /// The file says so, it is not a default.
    pub(super) given: bool,
}

/// What is wrong with a value: `message` follows the key's name, `suggestion` is what to write for it.
pub(super) struct Wrong {
    pub(super) span: Option<Range<usize>>,
    pub(super) message: String,
    pub(super) suggestion: Option<String>,
}

impl Wrong {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { span: None, message: message.into(), suggestion: None }
    }

    pub(super) fn suggest(self, suggestion: impl Into<String>) -> Self {
        Self { suggestion: Some(suggestion.into()), ..self }
    }
}

/// A kind of value: how it is read, and how a default of it would be written.
pub(super) trait Kind {
    type Value;
    /// What the value means, or everything that is wrong with it.
    fn read(&self, value: &Spanned<DeValue<'_>>) -> Result<Self::Value, Vec<Wrong>>;
    /// How the file writes `value`.
    fn show(&self, value: &Self::Value) -> String;
}

impl<'s> Reader<'s> {
    pub(super) fn new(source: Source<'s>) -> Self {
        Self { source, empty: DeTable::new(), found: RefCell::default(), schema: RefCell::default() }
    }

    pub(super) fn error(&self, place: &Place, message: impl Into<String>, remedy: impl Into<String>) {
        self.report(Severity::Error, place, message.into(), remedy.into());
    }

    pub(super) fn warning(&self, place: &Place, message: impl Into<String>, remedy: impl Into<String>) {
        self.report(Severity::Warning, place, message.into(), remedy.into());
    }

    fn report(&self, severity: Severity, place: &Place, message: String, remedy: String) {
        let names = (place.key.as_str(), place.table.as_str());
        let found = self.source.diagnostic(severity, place.span.clone(), names, message, remedy);
        self.found.borrow_mut().push(found);
    }

    /// The line that a place is on.
    pub(super) fn line(&self, place: &Place) -> usize {
        self.source.position(place.span.start).0
    }

    /// Everything found, in the file's order, and every key that was asked for.
    pub(super) fn into_found(self) -> (Vec<Diagnostic>, BTreeSet<String>) {
        let mut found = self.found.into_inner();
        found.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
        (found, self.schema.into_inner())
    }
}

/// A required key that is not there.
struct Missing {
    key: &'static str,
    /// Another key that would do instead.
    alternative: Option<&'static str>,
    example: String,
}

/// A table that is being read.
pub(super) struct Table<'r> {
    pub(super) reader: &'r Reader<'r>,
    entries: &'r DeTable<'r>,
    /// The header, for a complaint about what is missing.
    span: Range<usize>,
    /// `service[0].health`
    path: String,
    /// `service[0] "kube-apiserver", health`
    table: String,
    /// `[service.health]`, as a header in the file.
    header: String,
    known: RefCell<Vec<&'static str>>,
    /// Required keys that are not there; reported at the end, when misspelt ones are known.
    missing: RefCell<Vec<Missing>>,
}

impl<'r> Table<'r> {
    /// The whole document.
    pub(super) fn root(reader: &'r Reader<'r>, entries: &'r DeTable<'r>) -> Self {
        Self::new(reader, entries, 0..0, [String::new(), String::new(), String::new()])
    }

    fn new(
        reader: &'r Reader<'r>,
        entries: &'r DeTable<'r>,
        span: Range<usize>,
        [path, table, header]: [String; 3],
    ) -> Self {
        Self {
            reader,
            entries,
            span,
            path,
            table,
            header,
            known: RefCell::default(),
            missing: RefCell::default(),
        }
    }

    /// The table itself, for a complaint about it.
    pub(super) fn place(&self) -> Place {
        Place { span: self.span.clone(), key: self.path.clone(), table: self.table.clone() }
    }

    /// Where the file gives `key`, if it does: its name, not its value.
    pub(super) fn place_of(&self, key: &'static str) -> Option<Place> {
        let (name, _) = self.entry(key)?;
        Some(Place { span: name, ..self.place_for(key) })
    }

    /// The place of a key that may not be there: its value, or else the table.
    fn place_for(&self, key: &str) -> Place {
        let span = self.entries.get(key).map_or_else(|| self.span.clone(), Spanned::span);
        Place { span, key: join(&self.path, key), table: self.table.clone() }
    }

    fn entry(&self, key: &'static str) -> Option<(Range<usize>, &'r Spanned<DeValue<'r>>)> {
        let mut known = self.known.borrow_mut();
        if !known.contains(&key) {
            known.push(key);
        }
        self.reader.schema.borrow_mut().insert(join(&without_positions(&self.path), key));
        self.entries.get_key_value(key).map(|(name, value)| (name.span(), value))
    }

    /// Reads one key; what happens without it is said by a method of the result.
    pub(super) fn read<K: Kind>(&self, key: &'static str, kind: K) -> Read<'_, 'r, K> {
        let state = match self.entry(key) {
            None => State::Absent,
            Some((_, value)) => match kind.read(value) {
                Ok(value) => State::Good(value),
                Err(wrong) => State::Bad(wrong),
            },
        };
        Read { table: self, key, kind, state }
    }

    /// The table `[key]` in this one.
    pub(super) fn table(&self, key: &'static str) -> Option<Table<'r>> {
        let (_, value) = self.entry(key)?;
        let place = self.place_for(key);
        let header = format!("[{}]", join(&without_positions(&self.path), key));
        match value.get_ref() {
            DeValue::Table(entries) => Some(self.child(key, entries, value.span(), header)),
            DeValue::Array(list) => {
                self.reader.error(
                    &place,
                    format!("`{key}` can be there only once and has single brackets"),
                    format!("write: {header}"),
                );
                let first = list.iter().next()?;
                let DeValue::Table(entries) = first.get_ref() else { return None };
                Some(self.child(key, entries, first.span(), header))
            }
            other => {
                let message = format!("`{key}` must be a table, not {}", a(other));
                self.reader.error(
                    &place,
                    message,
                    format!("write: {header}, and its keys on lines of their own"),
                );
                None
            }
        }
    }

    /// The same, or a table without keys where the file has none: each key is then its default, or missing.
    pub(super) fn table_or_empty(&self, key: &'static str) -> Table<'r> {
        let header = format!("[{}]", join(&without_positions(&self.path), key));
        self.table(key).unwrap_or_else(|| self.child(key, &self.reader.empty, self.span.clone(), header))
    }

    fn child(&self, key: &str, entries: &'r DeTable<'r>, span: Range<usize>, header: String) -> Table<'r> {
        let table = if self.table.is_empty() { key.to_owned() } else { format!("{}, {key}", self.table) };
        Table::new(self.reader, entries, span, [join(&self.path, key), table, header])
    }

    /// The tables `[[key]]` in this one, in the file's order.
    pub(super) fn tables(&self, key: &'static str) -> Vec<Table<'r>> {
        let Some((_, value)) = self.entry(key) else { return Vec::new() };
        let place = self.place_for(key);
        let header = format!("[[{}]]", join(&without_positions(&self.path), key));
        let remedy = format!("write: {header}");
        match value.get_ref() {
            DeValue::Array(list) => (list.iter().enumerate())
                .filter_map(|(index, item)| match item.get_ref() {
                    DeValue::Table(entries) => Some(self.element(key, index, entries, item.span(), &header)),
                    other => {
                        let message = format!("`{key}` must be a list of tables, but this is {}", a(other));
                        self.reader.error(&place.part(item.span()), message, remedy.clone());
                        None
                    }
                })
                .collect(),
            DeValue::Table(entries) => {
                let message = format!("`{key}` can be there more than once and has double brackets");
                self.reader.error(&place, message, remedy);
                vec![self.element(key, 0, entries, value.span(), &header)]
            }
            other => {
                let message = format!("`{key}` must be a list of tables, not {}", a(other));
                self.reader.error(&place, message, remedy);
                Vec::new()
            }
        }
    }

    fn element(
        &self,
        key: &str,
        index: usize,
        entries: &'r DeTable<'r>,
        span: Range<usize>,
        header: &str,
    ) -> Table<'r> {
        let position = format!("{key}[{index}]");
        let name = entries.get("name").and_then(|name| name.get_ref().as_str());
        let label = name.map_or_else(|| position.clone(), |name| format!("{position} {}", quoted(name)));
        let table = if self.table.is_empty() { label } else { format!("{}, {label}", self.table) };
        Table::new(self.reader, entries, span, [join(&self.path, &position), table, header.to_owned()])
    }

    /// Refuses what is left: keys that were never asked for, and required keys that never came.
    pub(super) fn finish(self) {
        let known = self.known.borrow();
        let mut missing = self.missing.take();
        for (name, value) in self.entries {
            let key: &str = name.get_ref();
            if known.contains(&key) {
                continue;
            }
            let place = Place { span: name.span(), key: join(&self.path, key), table: self.table.clone() };
            let remedy = match self.meant(key, value) {
                Some(meant) => {
                    // Misspelt is not missing.
                    missing.retain(|missing| missing.key != meant && missing.alternative != Some(meant));
                    format!("write: {}   (did you mean `{meant}`?)", self.rewritten(key, meant, value))
                }
                None if self.header.is_empty() => {
                    format!("remove it; the tables of the file are {}", known.join(", "))
                }
                None => format!("remove it; the keys of {} are {}", self.header, known.join(", ")),
            };
            self.reader.error(&place, format!("unknown key {}", ticked(key)), remedy);
        }
        for Missing { key, example, .. } in missing {
            let remedy = format!("write: {key} = {example}   (in {})", self.header);
            self.reader.error(&self.place_for(key), format!("`{key}` is missing"), remedy);
        }
    }

    /// The known key that an unknown one was meant to be: one that could be added to the table.
    fn meant(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<&'static str> {
        let known = self.known.borrow();
        let repeatable = is_list_of_tables(value);
        let free = known.iter().copied().filter(|known| match self.entries.get(*known) {
            None => true,
            Some(present) => repeatable && is_list_of_tables(present),
        });
        nearest(key, free)
    }

    /// The entry with its key corrected from `key` to `meant`.
    fn rewritten(&self, key: &str, meant: &str, value: &Spanned<DeValue<'_>>) -> String {
        match value.get_ref() {
            DeValue::Table(_) => format!("[{}]", join(&without_positions(&self.path), meant)),
            DeValue::Array(_) if is_list_of_tables(value) => {
                format!("[[{}]]", join(&without_positions(&self.path), meant))
            }
            _ => {
                let text = self.reader.source.slice(value.span());
                let secret = [key, meant, &self.path].into_iter().any(may_hold_secret);
                let short = text.len() <= 60 && !text.contains(['\n', '\r']) && !secret;
                format!("{meant} = {}", if short { text } else { "..." })
            }
        }
    }
}

enum State<T> {
    Absent,
    Good(T),
    Bad(Vec<Wrong>),
}

/// A key that was looked at; one of its methods says what its absence means.
#[must_use = "what its absence means is not said"]
pub(super) struct Read<'t, 'r, K: Kind> {
    table: &'t Table<'r>,
    key: &'static str,
    kind: K,
    state: State<K::Value>,
}

impl<K: Kind> Read<'_, '_, K> {
    /// The value, or `default`.
    pub(super) fn or(self, default: K::Value) -> At<K::Value> {
        let place = self.table.place_for(self.key);
        let example = self.kind.show(&default);
        self.optional(&example).unwrap_or(At { value: default, place, given: false })
    }

    /// The value, or `default` where the file has none. Nothing where it has a wrong one, so that what follows from the
    /// default is not complained about.
    pub(super) fn or_if_absent(self, default: K::Value) -> Option<At<K::Value>> {
        let example = self.kind.show(&default);
        match self.state {
            State::Absent => Some(At { value: default, place: self.table.place_for(self.key), given: false }),
            State::Good(_) | State::Bad(_) => self.optional(&example),
        }
    }

    /// The value; its absence is an error. `example` is how the file could write it.
    pub(super) fn required(self, example: &str) -> Option<At<K::Value>> {
        self.required_unless(None, example)
    }

    /// The value; the absence of both this key and the alternative is an error.
    pub(super) fn required_unless(
        self,
        alternative: Option<&'static str>,
        example: &str,
    ) -> Option<At<K::Value>> {
        let replaced = alternative.is_some_and(|key| self.table.entry(key).is_some());
        if matches!(self.state, State::Absent) && !replaced {
            let missing = Missing { key: self.key, alternative, example: example.to_owned() };
            self.table.missing.borrow_mut().push(missing);
        }
        self.optional(example)
    }

    /// The value, if there is one. `example` is how the file could write it.
    pub(super) fn optional(self, example: &str) -> Option<At<K::Value>> {
        let Self { table, key, state, .. } = self;
        let place = table.place_for(key);
        match state {
            State::Absent => None,
            State::Good(value) => Some(At { value, place, given: true }),
            State::Bad(wrong) => {
                for Wrong { span, message, suggestion } in wrong {
                    let place = span.map_or_else(|| place.clone(), |span| place.part(span));
                    let remedy = format!("write: {key} = {}", suggestion.as_deref().unwrap_or(example));
                    table.reader.error(&place, format!("`{key}` {message}"), remedy);
                }
                None
            }
        }
    }
}

fn is_list_of_tables(value: &Spanned<DeValue<'_>>) -> bool {
    value.get_ref().as_array().is_some_and(|list| list.iter().any(|item| item.get_ref().is_table()))
}

/// `path.key`, without a leading dot.
fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// `service[0].backend[2]` -> `service.backend`
fn without_positions(path: &str) -> String {
    path.split('.').map(|part| part.split('[').next().unwrap_or(part)).collect::<Vec<_>>().join(".")
}

/// The type of a value with its article.
pub(super) fn a(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// A text from the file in double quotes, escaped, and cut where nobody would read on.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}...", &text[..end]),
    }
}

/// The same in backticks, for keys.
fn ticked(key: &str) -> String {
    let quoted = quoted(key);
    let plain = quoted.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    plain.map_or_else(|| quoted.clone(), |plain| format!("`{plain}`"))
}
