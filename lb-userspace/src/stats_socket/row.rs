//! A row of figures, and the forms in which HAProxy prints rows: a table with commas, a typed line each, JSON. Pure.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Value as Json, json};

use super::columns::Column;

/// What a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Where clients connect.
    Frontend,
    /// A backend of ours.
    Server,
    /// All of them.
    Backend,
}

impl Kind {
    /// The column `type`.
    pub(super) const fn number(self) -> u32 {
        match self {
            Self::Frontend => 0,
            Self::Backend => 1,
            Self::Server => 2,
        }
    }

    const fn letter(self) -> char {
        match self {
            Self::Frontend => 'F',
            Self::Server => 'S',
            Self::Backend => 'B',
        }
    }

    /// A column's letters in such a row: how many servers there are is a state of one, and a figure of all, as are rates.
    fn letters(self, column: &Column) -> &'static str {
        if self == Self::Backend && matches!(column.name, "act" | "bck" | "rate" | "rate_max") {
            "MGP"
        } else {
            column.tags
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Frontend => "Frontend",
            Self::Server => "Server",
            Self::Backend => "Backend",
        }
    }
}

/// A figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// A text.
    Text(String),
    /// A number that fits into 32 bits.
    Number(u32),
    /// One that may be less than 0.
    Signed(i32),
    /// Any.
    Long(u64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(number)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Long(number)
    }
}

impl Value {
    /// The same as far as it fits into 32 bits.
    pub(super) fn narrow(number: u64) -> Self {
        Self::Number(u32::try_from(number).unwrap_or(u32::MAX))
    }

    const fn word(&self) -> &'static str {
        match self {
            Self::Text(_) => "str",
            Self::Number(_) => "u32",
            Self::Signed(_) => "s32",
            Self::Long(_) => "u64",
        }
    }

    fn plain(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => number.to_string(),
            Self::Signed(number) => number.to_string(),
            Self::Long(number) => number.to_string(),
        }
    }

    fn json(&self) -> Json {
        match self {
            Self::Text(text) => json!(text),
            Self::Number(number) => json!(number),
            Self::Signed(number) => json!(number),
            Self::Long(number) => json!(number),
        }
    }
}

/// Figures by the names of their columns; what is not known is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures(BTreeMap<&'static str, Value>);

impl Figures {
    /// Adds one.
    pub(super) fn set(&mut self, column: &'static str, value: impl Into<Value>) {
        self.0.insert(column, value.into());
    }

    /// One of them.
    pub(super) fn get(&self, column: &str) -> Option<&Value> {
        self.0.get(column)
    }

    /// Those of these columns that are known, with their positions.
    fn known<'a>(
        &'a self,
        columns: &'static [Column],
    ) -> impl Iterator<Item = (usize, &'static Column, &'a Value)> {
        let known =
            columns.iter().enumerate().map(|(position, column)| (position, column, self.get(column.name)));
        known.filter_map(|(position, column, value)| Some((position, column, value?)))
    }

    #[cfg(test)]
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.keys().copied()
    }
}

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// What it is about.
    pub(super) kind: Kind,
    /// The number of the proxy.
    pub(super) proxy: u32,
    /// The number of the server there; 0 where it is none.
    pub(super) server: u32,
    /// The figures.
    pub(super) figures: Figures,
}

/// A table with commas, each line with one at its end, too.
pub(super) fn csv(header: &str, columns: &[Column], rows: &[Row]) -> String {
    let mut text = format!("{header}\n");
    for row in rows {
        for column in columns {
            if let Some(value) = row.figures.get(column.name) {
                text.push_str(&field(&value.plain()));
            }
            text.push(',');
        }
        // What HAProxy's modules count stands behind a column of its own.
        text.push_str("-,");
        text.extend(std::iter::repeat_n(',', header.matches(',').count() - columns.len() - 1));
        text.push('\n');
    }
    text
}

/// In quotes where it has to be (RFC 4180).
fn field(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// A line for each figure of each row.
pub(super) fn typed(columns: &'static [Column], rows: &[Row]) -> String {
    let mut text = String::new();
    for Row { kind, proxy, server, figures } in rows {
        for (position, column, value) in figures.known(columns) {
            let (name, tags) = (column.name, kind.letters(column));
            let (letter, word, value) = (kind.letter(), value.word(), value.plain());
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{letter}.{proxy}.{server}.{position}.{name}.1:{tags}:{word}:{value}");
        }
    }
    text
}

/// An array of rows, each an array of objects.
pub(super) fn json(columns: &'static [Column], rows: &[Row]) -> String {
    let row = |row: &Row| -> Json {
        let figures = row.figures.known(columns).map(|(position, column, value)| {
            json!({
                "objType": row.kind.word(),
                "proxyId": row.proxy,
                "id": row.server,
                "field": { "pos": position, "name": column.name },
                "processNum": 1,
                "tags": tags(row.kind.letters(column)),
                "value": { "type": value.word(), "value": value.json() },
            })
        });
        figures.collect()
    };
    Json::Array(rows.iter().map(row).collect()).to_string() + "\n"
}

/// Figures of the whole process: a line each.
pub(super) fn lines(columns: &'static [Column], figures: &Figures) -> String {
    figures.known(columns).map(|(_, column, value)| format!("{}: {}\n", column.name, value.plain())).collect()
}

/// The same with types.
pub(super) fn typed_lines(columns: &'static [Column], figures: &Figures) -> String {
    let line = |(position, column, value): (usize, &Column, &Value)| {
        format!("{position}.{}.1:{}:{}:{}\n", column.name, column.tags, value.word(), value.plain())
    };
    figures.known(columns).map(line).collect()
}

/// The same as an array.
pub(super) fn json_lines(columns: &'static [Column], figures: &Figures) -> String {
    let line = |(position, column, value): (usize, &Column, &Value)| {
        json!({
            "field": { "pos": position, "name": column.name },
            "processNum": 1,
            "tags": tags(column.tags),
            "value": { "type": value.word(), "value": value.json() },
        })
    };
    figures.known(columns).map(line).collect::<Json>().to_string() + "\n"
}

/// What the three letters of a column stand for (management.txt 9.2).
fn tags(letters: &str) -> Json {
    let letter = |index: usize| letters.as_bytes().get(index).copied().unwrap_or_default();
    let origin = match letter(0) {
        b'M' => "Metric",
        b'S' => "Status",
        b'K' => "Key",
        b'C' => "Config",
        b'P' => "Product",
        _ => "Unknown",
    };
    let nature = match letter(1) {
        b'G' => "Gauge",
        b'L' => "Limit",
        b'm' => "Min",
        b'M' => "Max",
        b'R' => "Rate",
        b'C' => "Counter",
        b'D' => "Duration",
        b'A' => "Age",
        b'T' => "Time",
        b'N' => "Name",
        b'O' => "Output",
        b'a' => "Avg",
        _ => "Unknown",
    };
    let scope = match letter(2) {
        b'P' => "Process",
        b'S' => "Service",
        b's' => "System",
        b'C' => "Cluster",
        _ => "Unknown",
    };
    json!({ "origin": origin, "nature": nature, "scope": scope })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_read_as_two_columns_is_quoted() {
        assert_eq!(field("api"), "api");
        assert_eq!(field("a,b"), "\"a,b\"");
        assert_eq!(field("a\"b"), "\"a\"\"b\"");
    }
}
