//! What is said of an import: as data, and for people.

use std::{collections::BTreeMap, fmt::Write as _};

use comfy_table::{Cell, ColumnConstraint, ContentArrangement, Table, Width};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    election::{Failure, Row},
    ledger::{Entry, Fate, Finding, Severity},
    outcome::{Format, Outcome},
    races::{Race, describe, owners},
    source::{FileId, Place},
    timing::TimingRow,
};
use crate::{
    cli::colour::{Colours, Tone},
    status::table::{Look, new_table, trimmed},
};

/// What `xvip import --json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Report {
    /// The version of xvip.
    pub version: String,
    /// Each file that was read, with each of its lines.
    pub files: Vec<FileReport>,
    /// How many lines of all files have which fate; a line counts as the worst of its words.
    pub summary: BTreeMap<Fate, usize>,
    /// What was wrong or weak before.
    pub findings: Vec<FindingReport>,
    /// The elections, with who owns the VIP after each set of failures.
    pub elections: Vec<ElectionReport>,
    /// The configuration of each node; empty where nothing can be written.
    pub nodes: Vec<NodeReport>,
    /// Why nothing can be written; empty where something can.
    pub refused: Vec<String>,
}

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct FileReport {
    /// Its name.
    pub name: String,
    /// What it is.
    pub format: Format,
    /// Each line, in order.
    pub lines: Vec<LineReport>,
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LineReport {
    /// Its number, from 1.
    pub line: usize,
    /// Its text without the blanks around it; passwords are not shown.
    pub text: String,
    /// The worst of `words`.
    pub fate: Fate,
    /// What became of it, and of its words where they differ.
    pub words: Vec<WordReport>,
}

/// A directive, or a word of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct WordReport {
    /// Where it begins, in characters, from 1.
    pub column: usize,
    /// What became of it.
    pub fate: Fate,
    /// What it is in `xvip.toml`; empty where it is nothing.
    pub becomes: String,
    /// Why.
    pub note: String,
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct FindingReport {
    /// `E1`, `W4`: stable.
    pub id: String,
    /// How bad.
    pub severity: Severity,
    /// The lines that it is about.
    pub places: Vec<PlaceReport>,
    /// What is wrong, and what follows from it.
    pub message: String,
    /// What the imported configuration does about it, or what to do.
    pub remedy: String,
}

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PlaceReport {
    /// The file's name.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

/// An election.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ElectionReport {
    /// The VRRP instance's name, or the resource's.
    pub name: String,
    /// What is at stake.
    pub vips: Vec<String>,
    /// Who decides before: keepalived or Pacemaker.
    pub before: String,
    /// What had to be assumed; empty: nothing.
    pub assumed: String,
    /// The nodes: name, priority before, priority with xvip.
    pub nodes: Vec<CandidateReport>,
    /// Whether `rows` has every set of failures.
    pub complete: bool,
    /// The sets of failures, the smaller ones first.
    pub rows: Vec<ElectionRow>,
    /// How long a take-over takes.
    pub take_over: Vec<TimingRow>,
}

/// A node of an election.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CandidateReport {
    /// Its name.
    pub name: String,
    /// In the file.
    pub priority: u8,
    /// Of xvip.
    pub xvip_priority: u8,
}

/// A set of failures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ElectionRow {
    /// In words.
    pub failures: String,
    /// How many they are.
    pub count: usize,
    /// Who owns the VIP before; several where the order of the failures decides.
    pub before: String,
    /// Whether that may be nobody, or a node without a working balancer, although another node has one.
    pub before_is_bad: bool,
    /// Who owns it with xvip.
    pub after: String,
    /// As `before_is_bad`.
    pub after_is_bad: bool,
}

/// A node's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct NodeReport {
    /// How `--node` may name it.
    pub names: Vec<String>,
    /// Where it was written; absent where it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub written_to: Option<String>,
    /// The file's text.
    pub toml: String,
    /// What `xvip check` warns of.
    pub warnings: Vec<String>,
}

/// A table of elections with more rows is not shown whole.
const SMALL: usize = 16;

/// How much of a line is bad: the larger, the more somebody should look at it.
const fn concern(fate: Fate) -> u8 {
    match fate {
        Fate::Blank => 0,
        Fate::NotNeeded => 1,
        Fate::Exact => 2,
        Fate::Improved => 3,
        Fate::Approximate => 4,
        Fate::NotPossible => 5,
        Fate::Unknown => 6,
        Fate::SyntaxError => 7,
    }
}

/// How a fate is coloured.
const fn fate_tone(fate: Fate) -> Tone {
    match fate {
        Fate::Blank | Fate::NotNeeded => Tone::Dim,
        Fate::Exact | Fate::Improved => Tone::Good,
        Fate::Approximate => Tone::Warn,
        Fate::NotPossible | Fate::Unknown | Fate::SyntaxError => Tone::Bad,
    }
}

/// For people.
const fn fate_text(fate: Fate) -> &'static str {
    match fate {
        Fate::Blank => "blank",
        Fate::NotNeeded => "not needed",
        Fate::Exact => "exact",
        Fate::Improved => "improved",
        Fate::Approximate => "approximate",
        Fate::NotPossible => "not possible",
        Fate::Unknown => "unknown",
        Fate::SyntaxError => "syntax error",
    }
}

impl Report {
    /// What there is to say.
    pub fn new(outcome: &Outcome) -> Self {
        let mut files: Vec<FileReport> = Vec::new();
        let mut summary = BTreeMap::new();
        for (index, (source, format)) in outcome.sources.iter().zip(&outcome.formats).enumerate() {
            let texts: Vec<&str> = source.lines().collect();
            let of_file = outcome.lines.range((FileId(index), 0)..(FileId(index + 1), 0));
            let lines: Vec<LineReport> = of_file
                .map(|((_, line), entries)| {
                    let text =
                        line.checked_sub(1).and_then(|index| texts.get(index)).copied().unwrap_or_default();
                    line_report(*line, text, entries)
                })
                .collect();
            for line in &lines {
                *summary.entry(line.fate).or_insert(0) += 1;
            }
            files.push(FileReport { name: source.name.clone(), format: *format, lines });
        }
        let (nodes, refused) = match &outcome.nodes {
            Ok(nodes) => (nodes.as_slice(), Vec::new()),
            Err(refused) => ([].as_slice(), refused.clone()),
        };
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            files,
            summary,
            findings: outcome.findings.iter().map(|finding| finding_report(finding, outcome)).collect(),
            elections: outcome.races.iter().map(election_report).collect(),
            nodes: nodes
                .iter()
                .map(|node| NodeReport {
                    names: node.plan.names.clone(),
                    written_to: None,
                    toml: node.text.clone(),
                    warnings: node.warnings.clone(),
                })
                .collect(),
            refused,
        }
    }
}

fn line_report(line: usize, text: &str, entries: &[Entry]) -> LineReport {
    let fate =
        entries.iter().map(|entry| entry.fate).max_by_key(|fate| concern(*fate)).unwrap_or(Fate::Unknown);
    let words = entries.iter().map(|entry| WordReport {
        column: entry.place.column,
        fate: entry.fate,
        becomes: without_secret(&entry.becomes),
        note: entry.note.clone(),
    });
    LineReport { line, text: without_secret(text.trim()), fate, words: words.collect() }
}

/// A directive without the password that may be in it.
fn without_secret(text: &str) -> String {
    const SECRET: [&str; 6] = ["auth_pass", "stats auth", "password", "insecure-password", "key", "value"];
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let last_word = |word: &str| word.rsplit('.').next().unwrap_or(word).to_owned();
    for secret in SECRET {
        let directive: Vec<&str> = words.splitn(secret.split(' ').count() + 1, ' ').collect();
        let (Some((rest, name)), true) =
            (directive.split_last(), directive.len() > secret.split(' ').count())
        else {
            continue;
        };
        if last_word(&name.join(" ")) == secret && !rest.is_empty() {
            return format!("{} ...", name.join(" "));
        }
    }
    if let Some((user, _)) = words.split_once(" password ").or(words.split_once(" insecure-password ")) {
        return format!("{user} password ...");
    }
    text.to_owned()
}

fn place_report(place: Place, outcome: &Outcome) -> PlaceReport {
    let file = outcome.sources.get(place.file.0).map_or_else(String::new, |source| source.name.clone());
    PlaceReport { file, line: place.line, column: place.column }
}

fn finding_report(finding: &Finding, outcome: &Outcome) -> FindingReport {
    FindingReport {
        id: finding.id.to_owned(),
        severity: finding.severity,
        places: finding.places.iter().map(|place| place_report(*place, outcome)).collect(),
        message: finding.message.clone(),
        remedy: finding.remedy.clone(),
    }
}

fn election_report(race: &Race) -> ElectionReport {
    let new_rows: BTreeMap<&[Failure], &Row> =
        race.new_rows.iter().map(|row| (row.failures.as_slice(), row)).collect();
    let rows = race.old_rows.iter().map(|old| {
        let new = new_rows.get(same_failures(race, old).as_slice()).copied();
        ElectionRow {
            failures: describe(&race.old, &old.failures),
            count: old.failures.len(),
            before: owners(&race.old, old),
            before_is_bad: old.bad,
            after: new.map_or_else(String::new, |new| owners(&race.new, new)),
            after_is_bad: new.is_some_and(|new| new.bad),
        }
    });
    ElectionReport {
        name: race.name.clone(),
        vips: race.vips.iter().map(ToString::to_string).collect(),
        before: race.decider().to_owned(),
        assumed: race.assumed.clone(),
        nodes: race
            .old
            .iter()
            .zip(&race.new)
            .map(|(old, new)| CandidateReport {
                name: old.name.clone(),
                priority: old.priority,
                xvip_priority: new.priority,
            })
            .collect(),
        complete: race.complete,
        rows: rows.collect(),
        take_over: race.timing.clone(),
    }
}

/// The same failures with xvip, as far as they are there: something that is not imported does not fail there.
fn same_failures(race: &Race, old: &Row) -> Vec<Failure> {
    let same = |failure: &Failure| match failure {
        Failure::Other(node, other) => {
            let (name, _) = race.old.get(*node)?.others.get(*other)?;
            let there = race
                .new
                .get(*node)?
                .others
                .iter()
                .position(|(new, _)| new == name || new.contains(name.as_str()));
            there.map(|other| Failure::Other(*node, other))
        }
        known => Some(known.clone()),
    };
    let mut failures: Vec<Failure> = old.failures.iter().filter_map(same).collect();
    failures.sort();
    failures
}

/// How the report is laid out.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Lines around cells, or not.
    pub look: Look,
    /// Columns of the terminal.
    pub width: u16,
    /// Whether words have colours.
    pub colours: Colours,
}

/// The report as text.
pub fn render(report: &Report, page: Page) -> String {
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = write_report(&mut out, report, page);
    out
}

fn write_report(out: &mut String, report: &Report, page: Page) -> std::fmt::Result {
    for file in &report.files {
        write_file(out, file, page)?;
    }
    if !report.findings.is_empty() {
        heading(out, "What was wrong or weak before", page)?;
    }
    for finding in &report.findings {
        write_finding(out, finding, page)?;
    }
    for election in &report.elections {
        write_election(out, election, page)?;
    }
    write_summary(out, report, page)
}

fn heading(out: &mut String, text: &str, page: Page) -> std::fmt::Result {
    let blank = if out.is_empty() { "" } else { "\n" };
    writeln!(out, "{blank}{}", page.colours.paint(text, Tone::Strong))
}

fn write_file(out: &mut String, file: &FileReport, page: Page) -> std::fmt::Result {
    heading(out, &file.name, page)?;
    let mut table = table(page, &[6, 14, 0, 0]);
    table.set_header(["line", "fate", "directive", "becomes"]);
    for line in file.lines.iter().filter(|line| line.fate != Fate::Blank) {
        let mut said: Vec<String> = Vec::new();
        let more = line.words.len() > 1;
        let points = |word: &WordReport| more && word.becomes.is_empty() && word.note.starts_with("see ");
        for word in line.words.iter().filter(|word| word.fate != Fate::Blank && !points(word)) {
            let parts = [word.becomes.as_str(), word.note.as_str()];
            let text = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
            let text = if line.words.len() > 1 && word.fate != line.fate && !text.is_empty() {
                format!("{} ({})", text, fate_text(word.fate))
            } else {
                text
            };
            if !text.is_empty() && !said.contains(&text) {
                said.push(text);
            }
        }
        let place = match (line.fate, line.words.first()) {
            (Fate::SyntaxError, Some(word)) => format!("{}:{}", line.line, word.column),
            _ => line.line.to_string(),
        };
        table.add_row([
            Cell::new(place),
            page.colours.cell(fate_text(line.fate), fate_tone(line.fate)),
            Cell::new(shown(&line.text)),
            Cell::new(said.join("\n")),
        ]);
    }
    writeln!(out, "{}", trimmed(&table))
}

/// A directive as it is shown: without its comment, and with single blanks.
fn shown(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let end =
        words.iter().skip(1).position(|word| word.starts_with(['#', '!'])).map_or(words.len(), |at| at + 1);
    words.get(..end).unwrap_or_default().join(" ")
}

fn write_finding(out: &mut String, finding: &FindingReport, page: Page) -> std::fmt::Result {
    let tone = if finding.severity == Severity::Error { Tone::Bad } else { Tone::Warn };
    let places: Vec<String> =
        finding.places.iter().map(|place| format!("{}:{}", place.file, place.line)).collect();
    let places = places.join(", ");
    let text = format!("{places}: {}", finding.message);
    let lines = wrapped(&text, usize::from(page.width).saturating_sub(4));
    for (index, line) in lines.iter().enumerate() {
        if index == 0 {
            writeln!(out, "{} {line}", page.colours.paint(&format!("{:3}", finding.id), tone))?;
        } else {
            writeln!(out, "    {line}")?;
        }
    }
    for line in wrapped(&format!("-> {}", finding.remedy), usize::from(page.width).saturating_sub(4)) {
        writeln!(out, "    {line}")?;
    }
    Ok(())
}

fn write_election(out: &mut String, election: &ElectionReport, page: Page) -> std::fmt::Result {
    heading(out, &format!("Who owns {} ({})", election.vips.join(", "), election.name), page)?;
    let width = usize::from(page.width);
    for line in wrapped(&election.assumed, width) {
        writeln!(out, "{line}")?;
    }
    let nodes: Vec<String> = election
        .nodes
        .iter()
        .map(|node| match node.priority == node.xvip_priority {
            true => format!("{} {}", node.name, node.priority),
            false => format!("{} {} (xvip: {})", node.name, node.priority, node.xvip_priority),
        })
        .collect();
    for line in wrapped(&format!("priorities: {}", nodes.join(", ")), width) {
        writeln!(out, "{line}")?;
    }
    let mut table = table(page, &[0, 0, 0]);
    table.set_header(["what has failed", &format!("{} + balancer", election.before), "xvip"]);
    // All of a small table; of a large one the first failures, and whatever is bad.
    let small = election.rows.len() <= SMALL;
    let mut left_out = 0;
    for row in &election.rows {
        if !small && row.count > 2 && !row.before_is_bad && !row.after_is_bad {
            left_out += 1;
            continue;
        }
        let owner = |owner: &str, bad: bool| match bad {
            true => page.colours.cell(format!("{owner}: not served"), Tone::Bad),
            false => Cell::new(owner),
        };
        table.add_row([
            Cell::new(&row.failures),
            owner(&row.before, row.before_is_bad),
            owner(&row.after, row.after_is_bad),
        ]);
    }
    writeln!(out, "{}", trimmed(&table))?;
    if left_out > 0 {
        let text = format!(
            "{left_out} rows with three failures or more, all of them served, are not shown (--json has them)"
        );
        for line in wrapped(&text, width) {
            writeln!(out, "{line}")?;
        }
    }
    if !election.complete {
        writeln!(out, "sets with more failures are left out: there are too many")?;
    }
    writeln!(out)?;
    let mut table = self::table(page, &[0, 0, 0, 0]);
    let before = format!("{} now", election.before);
    table.set_header(["not served for", &before, "xvip as imported", "xvip, v3 200ms"]);
    for row in &election.take_over {
        table.add_row([
            format!("when {}", row.event.text()),
            row.old.text(),
            row.new.text(),
            row.fast.text(),
        ]);
    }
    writeln!(out, "{}", trimmed(&table))
}

fn write_summary(out: &mut String, report: &Report, page: Page) -> std::fmt::Result {
    heading(out, "Summary", page)?;
    let total: usize = report.summary.values().sum();
    let mut fates: Vec<(&Fate, &usize)> = report.summary.iter().collect();
    fates.sort_by_key(|(fate, _)| std::cmp::Reverse(concern(**fate)));
    let counts: Vec<String> =
        fates.iter().map(|(fate, count)| format!("{count} {}", fate_text(**fate))).collect();
    for line in wrapped(&format!("{total} lines: {}", counts.join(", ")), usize::from(page.width)) {
        writeln!(out, "{line}")?;
    }
    for node in &report.nodes {
        if let Some(file) = &node.written_to {
            let text = format!("written: {file} ({})", node.names.join(", "));
            for line in wrapped(&text, usize::from(page.width)) {
                writeln!(out, "{line}")?;
            }
        }
    }
    for refusal in &report.refused {
        for line in wrapped(&format!("nothing is written: {refusal}"), usize::from(page.width)) {
            writeln!(out, "{}", page.colours.paint(&line, Tone::Bad))?;
        }
    }
    Ok(())
}

/// A table of that width; a column of 0 takes what it needs of the rest.
fn table(page: Page, widths: &[u16]) -> Table {
    let mut table = new_table(page.look);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(page.width);
    let constraints = widths.iter().map(|width| match width {
        0 => ColumnConstraint::LowerBoundary(Width::Fixed(12)),
        width => ColumnConstraint::UpperBoundary(Width::Fixed(*width)),
    });
    table.set_constraints(constraints);
    table
}

/// Lines of at most `width` characters; a longer word stays whole.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests;
