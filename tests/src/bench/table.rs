//! What the printed tables of the benchmarks have in common: their form, what stands below them, and what is said while
//! they come about.

use std::io::{Write, stderr};
use std::ops::Range;
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, Table, presets};

use super::facts::Facts;
use super::series::Unit;

/// What is said while a benchmark runs, where the table does not go, with the time since it began.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    begin: Instant,
}

impl Progress {
    /// It begins now.
    #[must_use]
    pub fn new() -> Self {
        Self { begin: Instant::now() }
    }

    /// For how long it has been running.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Says something.
    pub fn say(&self, what: &str) {
        let _ = writeln!(stderr(), "{:6.1} s  {what}", self.elapsed().as_secs_f64());
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

/// An empty table; the columns of `figures` are aligned to the right.
#[must_use]
pub fn with_header(header: &[&str], figures: Range<usize>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(header);
    for column in table.column_iter_mut().skip(figures.start).take(figures.len()) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// What one needs to know to judge the figures, and to measure them again.
#[must_use]
pub fn footer(facts: &Facts, took: Duration) -> String {
    let Facts { command, kernel, cpu, processors, governor, mitigations, memory, load, xvip, programs } =
        facts;
    let governor = governor.as_ref().map_or_else(String::new, |governor| format!(", governor {governor}"));
    let mitigations = match mitigations.keys().map(String::as_str).collect::<Vec<_>>() {
        none if none.is_empty() => "no mitigations".to_owned(),
        some => format!("mitigations on for {}", some.join(", ")),
    };
    let programs: String = programs.values().map(|version| format!("; {version}")).collect();
    format!(
        "kernel {kernel}, {processors} of {cpu}{governor}, {}, load average {load} before\n\
         {mitigations}\n\
         {xvip}{programs}\n\
         {command} (took {} s)\n",
        Unit::Bytes.text(*memory as f64),
        took.as_secs()
    )
}

/// What was asked for; all where nothing was.
#[must_use]
pub fn chosen<T: Copy + PartialEq>(asked: &[T], all: &[T]) -> Vec<T> {
    all.iter().copied().filter(|one| asked.is_empty() || asked.contains(one)).collect()
}

/// A time in whole milliseconds.
#[must_use]
pub fn ms(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1e3)
}

/// What the tests of the tables have in common.
#[cfg(test)]
pub mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Somebody's.
    pub fn facts(command: &str) -> Facts {
        Facts {
            command: command.to_owned(),
            kernel: "6.1.0".to_owned(),
            cpu: "Some processor".to_owned(),
            processors: 2,
            governor: None,
            mitigations: BTreeMap::from([("retbleed".to_owned(), "untrained return thunk".to_owned())]),
            memory: 8_000_000_000,
            load: 0.5,
            xvip: "xvip 0 (abc)".to_owned(),
            programs: ["HAProxy version 2", "Keepalived v2"].map(|v| (v.to_owned(), v.to_owned())).into(),
        }
    }

    /// The cells, but for empty ones, of the row that has both of these.
    pub fn row(text: &str, one: &str, other: &str) -> Vec<String> {
        let found = text.lines().find(|line| line.contains(one) && line.contains(other));
        let cells = found.unwrap_or_else(|| panic!("no {one} of {other}:\n{text}")).split(['│', '┆']);
        cells.map(|cell| cell.trim().to_owned()).filter(|cell| !cell.is_empty()).collect()
    }

    /// Whether the text says where its figures come from.
    pub fn tells(text: &str, facts: &Facts) -> bool {
        let Facts { command, kernel, cpu, xvip, programs, .. } = facts;
        [command, kernel, cpu, xvip].into_iter().chain(programs.values()).all(|told| text.contains(told))
    }

    #[test]
    fn all_is_measured_where_nothing_was_chosen_and_in_the_order_of_the_table() {
        assert_eq!(chosen(&[], &[1, 2, 3]), [1, 2, 3]);
        assert_eq!(chosen(&[3, 1], &[1, 2, 3]), [1, 3]);
    }

    #[test]
    fn the_footer_says_where_the_figures_come_from() {
        let facts = facts("cargo xtask bench this");
        let text = footer(&facts, Duration::from_millis(9400));
        assert!(tells(&text, &facts), "{text}");
        assert!(text.ends_with("(took 9 s)\n") && text.contains("retbleed"), "{text}");
    }
}
