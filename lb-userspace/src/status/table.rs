//! Texts for a terminal of some width, or for a pipe: tables whose least important columns go first, and lines that are
//! broken between words. Pure but for [`Screen::of_stdout`].

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, SystemTime},
};

use comfy_table::{Cell, CellAlignment, ContentArrangement, LineStyle, Table, TableStyle, presets};

use crate::cli::colour::{Colours, Tone};

/// Narrower than that, nothing useful fits.
const NARROWEST: u16 = 40;

/// How the tables look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// A line below the header.
    Terminal,
    /// Columns only, for pipes.
    Plain,
}

/// What a text is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Screen {
    /// How its tables look.
    pub look: Look,
    /// In columns; `None`: whoever reads it has no edge.
    pub width: Option<u16>,
    /// Whether it is coloured.
    pub colours: Colours,
    /// Where there is a reader, it is told how long ago things were, not when.
    pub now: Option<SystemTime>,
}

impl Screen {
    /// For a pipe, or a file: nothing is left out and nothing is broken.
    pub const PIPE: Self = Self { look: Look::Plain, width: None, colours: Colours::Off, now: None };

    /// This process's standard output.
    pub fn of_stdout() -> Self {
        if !io::stdout().is_terminal() {
            return Self::PIPE;
        }
        let width = crossterm::terminal::size().ok().map(|(width, _)| width).filter(|width| *width > 0);
        Self {
            look: Look::Terminal,
            width: width.map(|width| width.max(NARROWEST)),
            colours: Colours::of_stdout(),
            now: Some(SystemTime::now()),
        }
    }

    /// A text in a tone.
    pub fn paint(&self, text: &str, tone: Tone) -> String {
        self.colours.paint(text, tone)
    }

    /// When something was, of RFC 3339: as it is, or how long ago. What is no time stays as it is.
    pub fn when(&self, time: &str) -> String {
        match self.ago(time) {
            Some(ago) => format!("{ago} ago"),
            None => time.to_owned(),
        }
    }

    /// Since when something is so, with the word before it.
    pub fn since(&self, time: &str) -> String {
        match self.ago(time) {
            Some(ago) => format!("for {ago}"),
            None => format!("since {time}"),
        }
    }

    fn ago(&self, time: &str) -> Option<String> {
        let then = humantime::parse_rfc3339(time).ok()?;
        Some(short(self.now?.duration_since(then).unwrap_or_default()))
    }

    /// Lines, broken between words where they are wider than the screen; what follows the first line of each begins with
    /// `indent` spaces. What is painted has no width.
    pub fn wrap(&self, text: &str, indent: usize) -> String {
        let Some(width) = self.width else { return text.to_owned() };
        let mut out = String::new();
        for line in text.lines() {
            wrap_line(&mut out, line, width.into(), indent);
        }
        out
    }
}

fn wrap_line(out: &mut String, line: &str, width: usize, indent: usize) {
    if visible(line) <= width {
        out.push_str(line);
        out.push('\n');
        return;
    }
    let lead: String = line.chars().take_while(|c| *c == ' ').collect();
    let mut used = lead.len();
    out.push_str(&lead);
    let mut first = true;
    for word in line.split(' ').filter(|word| !word.is_empty()) {
        let length = visible(word);
        if !first && used + 1 + length > width {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            used = indent;
        } else if !first {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += length;
        first = false;
    }
    out.push('\n');
}

/// How many columns a text takes, without what only colours it (`ESC [ … m`).
fn visible(text: &str) -> usize {
    let mut count = 0;
    let mut in_escape = false;
    for c in text.chars() {
        match (in_escape, c) {
            (false, '\x1b') => in_escape = true,
            (false, _) => count += 1,
            (true, 'm') => in_escape = false,
            (true, _) => {}
        }
    }
    count
}

/// A duration in its two largest units: `3d 4h`, `5m 3s`, `12s`; below a second, `0s`.
pub fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let largest = units.iter().position(|(_, length)| seconds >= *length).unwrap_or(units.len() - 1);
    let mut left = seconds;
    let mut parts = Vec::new();
    for (unit, length) in units.iter().skip(largest).take(2) {
        let count = left / length;
        left %= length;
        if count > 0 || parts.is_empty() {
            parts.push(format!("{count}{unit}"));
        }
    }
    parts.join(" ")
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    title: &'static str,
    /// 0 is always there; of the others the largest goes first where there is no room.
    rank: u8,
    is_number: bool,
    cells: Vec<(String, Option<Tone>)>,
}

impl Column {
    /// An empty one. `rank` 0 is always shown; of the others, the largest is left out first.
    pub fn new(title: &'static str, rank: u8) -> Self {
        Self { title, rank, is_number: false, cells: Vec::new() }
    }

    /// One of numbers, which are aligned at their ends.
    pub fn of_numbers(title: &'static str, rank: u8) -> Self {
        Self { is_number: true, ..Self::new(title, rank) }
    }

    /// One more cell.
    pub fn push(&mut self, text: impl Into<String>, tone: Option<Tone>) {
        self.cells.push((text.into(), tone));
    }

    /// Its heading.
    pub fn title(&self) -> &'static str {
        self.title
    }

    /// Whether it says anything: a cell that is neither empty, nor 0, nor `-`.
    pub fn says_something(&self) -> bool {
        self.cells.iter().any(|(text, _)| !matches!(text.as_str(), "" | "0" | "-" | "0 B"))
    }

    fn width(&self) -> usize {
        let cells = self.cells.iter().map(|(text, _)| text.chars().count());
        cells.chain([self.title.chars().count()]).max().unwrap_or(0)
    }
}

/// The columns that have room on the screen, in their order. Without an edge, all have.
pub fn fitting(mut columns: Vec<Column>, screen: &Screen) -> Vec<Column> {
    let Some(width) = screen.width else { return columns };
    // Each column has a blank at both sides.
    let needed = |columns: &[Column]| columns.iter().map(|column| column.width() + 2).sum::<usize>();
    while needed(&columns) > width.into() {
        let Some(least) = columns.iter().map(|column| column.rank).max().filter(|rank| *rank > 0) else {
            break;
        };
        let Some(last) = columns.iter().rposition(|column| column.rank == least) else { break };
        columns.remove(last);
    }
    columns
}

/// A table of columns; those that there is no room for should be gone already. What is too wide even so is broken within
/// its cells.
pub fn draw(columns: &[Column], screen: &Screen) -> String {
    let mut table = new_table(screen.look);
    table.set_header(columns.iter().map(|column| screen.colours.cell(column.title, Tone::Strong)));
    let rows = columns.iter().map(|column| column.cells.len()).max().unwrap_or(0);
    for row in 0..rows {
        table.add_row(columns.iter().map(|column| match column.cells.get(row) {
            Some((text, Some(tone))) => screen.colours.cell(text, *tone),
            Some((text, None)) => Cell::new(text),
            None => Cell::new(""),
        }));
    }
    for (column, drawn) in columns.iter().zip(table.column_iter_mut()) {
        if column.is_number {
            drawn.set_cell_alignment(CellAlignment::Right);
        }
    }
    if let Some(width) = screen.width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    match screen.colours {
        Colours::On => table.enforce_styling(),
        Colours::Off => table.force_no_tty(),
    };
    trimmed(&table)
}

/// A number of bytes as people read it; `--json` has it exactly.
pub fn amount(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    let mut left = bytes as f64 / 1024.0;
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    while left >= 1023.95 && unit + 1 < UNITS.len() {
        left /= 1024.0;
        unit += 1;
    }
    format!("{left:.1} {}", UNITS[unit])
}

/// A table without rows.
pub fn new_table(look: Look) -> Table {
    let mut table = Table::new();
    table.load_style(match look {
        Look::Terminal => TableStyle::new().header_separator(LineStyle::none().fill('─')),
        Look::Plain => presets::NOTHING,
    });
    table
}

/// The table without blanks at the ends of its lines.
pub fn trimmed(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terminal(width: u16) -> Screen {
        Screen { look: Look::Terminal, width: Some(width), colours: Colours::Off, now: None }
    }

    fn columns() -> Vec<Column> {
        let column = |title, rank, texts: [&str; 2]| {
            let mut column = Column::new(title, rank);
            texts.into_iter().for_each(|text| column.push(text, None));
            column
        };
        vec![
            column("name", 0, ["master1", "m2"]),
            column("reason", 9, ["status 200", "connection refused"]),
            column("state", 0, ["up", "down"]),
            column("bytes", 5, ["1.0 KiB", "0 B"]),
        ]
    }

    #[test]
    fn the_least_important_column_goes_first() {
        let titles =
            |width: u16| fitting(columns(), &terminal(width)).iter().map(Column::title).collect::<Vec<_>>();
        // 7 + 18 + 5 + 7 characters, and two blanks each.
        assert_eq!(titles(45), ["name", "reason", "state", "bytes"]);
        assert_eq!(titles(44), ["name", "state", "bytes"]);
        assert_eq!(titles(25), ["name", "state", "bytes"]);
        assert_eq!(titles(24), ["name", "state"]);
        assert_eq!(titles(1), ["name", "state"], "these are always there");
        assert_eq!(fitting(columns(), &Screen::PIPE).len(), 4, "a pipe has no edge");
        // Of two that matter as little, the one further on.
        let alike = ["one", "two"].map(|title| Column::new(title, 5)).to_vec();
        assert_eq!(fitting(alike, &terminal(5)).iter().map(Column::title).collect::<Vec<_>>(), ["one"]);
    }

    #[test]
    fn a_column_of_nothing_says_nothing() {
        for (text, says) in
            [("", false), ("0", false), ("-", false), ("0 B", false), ("00", true), ("m1", true)]
        {
            let mut column = Column::new("x", 1);
            column.push(text, None);
            assert_eq!(column.says_something(), says, "{text:?}");
        }
    }

    #[test]
    fn what_fits_by_the_count_fits_when_it_is_drawn() {
        for width in 25..60 {
            let screen = terminal(width);
            let drawn = draw(&fitting(columns(), &screen), &screen);
            assert_eq!(drawn.lines().count(), 4, "two rows, a header and a line:\n{drawn}");
            assert!(drawn.lines().all(|line| line.chars().count() <= width.into()), "{width}:\n{drawn}");
        }
    }

    #[test]
    fn colour_changes_no_width() {
        let mut columns = columns();
        columns[2].cells[1].1 = Some(Tone::Bad);
        let screen = Screen { colours: Colours::On, ..terminal(60) };
        let drawn = draw(&columns, &screen);
        assert!(drawn.contains("\x1b["), "{drawn:?}");
        let mut bare = String::new();
        for part in drawn.split('\x1b') {
            bare.push_str(
                part.strip_prefix('[').and_then(|rest| rest.split_once('m')).map_or(part, |(_, text)| text),
            );
        }
        let ends = |text: &str| text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
        assert_eq!(ends(&bare), ends(&draw(&columns, &terminal(60))));
    }

    #[test]
    fn lines_are_broken_between_words() {
        let screen = terminal(20);
        assert_eq!(screen.wrap("short", 4), "short\n");
        assert_eq!(screen.wrap("one two three four five", 4), "one two three four\n    five\n");
        assert_eq!(screen.wrap("  one two three four five", 4), "  one two three four\n    five\n");
        assert_eq!(screen.wrap("averyveryverylongwordindeed x", 2), "averyveryverylongwordindeed\n  x\n");
        let painted = Colours::On.paint("three", Tone::Bad);
        assert_eq!(
            screen.wrap(&format!("one two {painted} four five"), 0),
            format!("one two {painted} four\nfive\n")
        );
        assert_eq!(Screen::PIPE.wrap("one two three four five", 4), "one two three four five");
    }

    #[test]
    fn a_reader_is_told_how_long_ago() {
        let time = "2026-01-02T03:04:05.678Z";
        assert_eq!(Screen::PIPE.when(time), time);
        assert_eq!(Screen::PIPE.since(time), format!("since {time}"));
        let now = humantime::parse_rfc3339(time).expect("a time") + Duration::from_secs(3661);
        let screen = Screen { now: Some(now), ..terminal(80) };
        assert_eq!((screen.when(time), screen.since(time)), ("1h 1m ago".into(), "for 1h 1m".into()));
        assert_eq!(screen.when("never"), "never");
    }

    #[test]
    fn durations_are_short() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (61, "1m 1s"),
            (3600, "1h"),
            (90_000, "1d 1h"),
            (86_405, "1d"),
        ] {
            assert_eq!(short(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn amounts_are_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (3 << 30, "3.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(amount(bytes), text);
        }
    }
}
