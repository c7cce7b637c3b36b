//! What a benchmark has to show, in one form for all: a table for people, a JSON document, and plots.
//!
//! A benchmark measures in rounds. In each it measures everything once, one after the other, and records it under a
//! *figure* (what was measured) and a *subject* (of what); at the end it says what is to be compared with what, and
//! finishes:
//!
//! ```ignore
//! let mut report = Report::new("tcp", "What the balancer costs a client.", Facts::find(&xvip)?);
//! for round in 0..wanted.rounds() {
//!     for stack in stacks {
//!         match stack.connections() {
//!             Ok(rate) => report.record(round, "new connections", stack.name(), Unit::PerSecond, rate),
//!             Err(error) => report.fail(&format!("{}: {error:#}", stack.name())),
//!         }
//!     }
//! }
//! report.compare("new connections", "xvip, nat", "direct", Role::Floor, Some(Goal::AtLeast(0.88)));
//! report.compare_all("new connections", "HAProxy", Role::Peer);
//! report.finish(&wanted, &progress)
//! ```
//!
//! A goal that is missed is shown and fails nothing; what could not be measured fails the benchmark after everything else
//! is printed and written.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::Value;

use super::facts::Facts;
use super::plot::{self, Curves};
use super::series::{Series, Spread, Unit};
use super::table::{self, Progress};

/// The form of the document; it grows when a reader of the old one would misread the new one.
const SCHEMA_VERSION: u32 = 1;

/// What all benchmarks are asked.
#[derive(Debug, Clone, clap::Args)]
pub struct Wanted {
    /// Rounds; in each everything is measured once, one after the other
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeats: u32,
    /// Also write every sample to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Also draw the figures, each into a file of its own in this directory
    #[arg(long, value_name = "DIR")]
    pub svg: Option<PathBuf>,
}

impl Wanted {
    /// The rounds' number, for counting from 0.
    #[must_use]
    pub fn rounds(&self) -> usize {
        self.repeats as usize
    }
}

/// What something is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The best that there can be: an empty program, no balancer at all.
    Floor,
    /// Somebody else who does the same work.
    Peer,
}

/// What a figure ought to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Not more.
    AtMost(f64),
    /// Not less.
    AtLeast(f64),
}

impl Goal {
    /// Whether a value meets it.
    #[must_use]
    pub fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(limit) => ratio <= limit,
            Self::AtLeast(limit) => ratio >= limit,
        }
    }

    /// `met (<= 0.8)`, or `missed`.
    #[must_use]
    pub fn text(self, value: f64) -> String {
        let (sign, limit) = match self {
            Self::AtMost(limit) => ("<=", limit),
            Self::AtLeast(limit) => (">=", limit),
        };
        format!("{} ({sign} {limit})", if self.is_met(value) { "met" } else { "missed" })
    }
}

/// A subject as a multiple of another, round by round.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The figure of both.
    pub figure: String,
    /// Whose is divided.
    pub subject: String,
    /// By whose.
    pub base: String,
    /// What that is.
    pub role: Role,
    /// What the rounds' ratios come to.
    pub ratio: Spread,
    /// What the median ought to be.
    pub goal: Option<Goal>,
}

/// What was measured.
#[derive(Debug, Clone)]
pub struct Report {
    benchmark: &'static str,
    about: String,
    facts: Facts,
    parameters: BTreeMap<String, Value>,
    series: Vec<Series>,
    comparisons: Vec<Comparison>,
    goals: Vec<Expectation>,
    drawn: Vec<String>,
    curves: Vec<Curves>,
    notes: Vec<String>,
    not_measured: Vec<String>,
}

/// What the median of a series itself ought to be.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Expectation {
    figure: String,
    subject: String,
    goal: Goal,
}

/// The document that `--json` writes.
///
/// ```json
/// { "schema_version": 1, "benchmark": "tcp", "about": "...", "took_s": 31.2,
///   "facts": { "command": "...", "kernel": "...", ... }, "parameters": { "clients": 8 },
///   "series": [ { "figure": "new connections", "subject": "xvip, nat", "unit": "per_second",
///                 "spread": { "count": 9, "min": ..., "p25": ..., "median": ..., "p75": ..., "max": ... },
///                 "samples": [ 41000.0, null, ... ] } ],
///   "comparisons": [ { "figure": "new connections", "subject": "xvip, nat", "base": "direct", "role": "floor",
///                      "ratio": { as a spread }, "goal": { "at_least": 0.88 } } ],
///   "goals": [ { "figure": "idle memory", "subject": "xvip, nat", "goal": { "at_most": 400.0 } } ],
///   "notes": [ "..." ], "not_measured": [ "..." ] }
/// ```
///
/// Units are those of [`Unit`] in small letters; seconds and bytes are not scaled. `samples` has one place per round, null
/// where that round has none.
#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    benchmark: &'a str,
    about: &'a str,
    took_s: f64,
    facts: &'a Facts,
    parameters: &'a BTreeMap<String, Value>,
    series: Vec<SeriesDocument<'a>>,
    comparisons: &'a [Comparison],
    goals: &'a [Expectation],
    notes: &'a [String],
    not_measured: &'a [String],
}

#[derive(Serialize)]
struct SeriesDocument<'a> {
    figure: &'a str,
    subject: &'a str,
    unit: Unit,
    spread: Option<Spread>,
    samples: &'a [Option<f64>],
}

impl Report {
    /// Nothing was measured yet. `about`: what this measures, in a sentence or two; it stands above the table.
    #[must_use]
    pub fn new(benchmark: &'static str, about: &str, facts: Facts) -> Self {
        Self {
            benchmark,
            about: about.to_owned(),
            facts,
            parameters: BTreeMap::new(),
            series: vec![],
            comparisons: vec![],
            goals: vec![],
            drawn: vec![],
            curves: vec![],
            notes: vec![],
            not_measured: vec![],
        }
    }

    /// What the measurement was made with: goes into the document.
    pub fn parameter(&mut self, name: &str, value: impl Into<Value>) {
        self.parameters.insert(name.to_owned(), value.into());
    }

    /// One sample. The order in which figures and subjects first appear is that of the table.
    pub fn record(&mut self, round: usize, figure: &str, subject: &str, unit: Unit, value: f64) {
        let of = |series: &Series| series.figure == figure && series.subject == subject;
        if let Some(series) = self.series.iter_mut().find(|series| of(series)) {
            series.set(round, value);
            return;
        }
        let mut series = Series::new(figure, subject, unit);
        series.set(round, value);
        self.series.push(series);
    }

    /// Something could not be measured: said at the end, and the benchmark fails.
    pub fn fail(&mut self, what: &str) {
        if !self.not_measured.iter().any(|said| said == what) {
            self.not_measured.push(what.to_owned());
        }
    }

    /// A sentence below the table.
    pub fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }

    /// Says that a figure is worth a plot of its medians. Without any all are.
    pub fn draw(&mut self, figure: &str) {
        if !self.drawn.iter().any(|drawn| drawn == figure) {
            self.drawn.push(figure.to_owned());
        }
    }

    /// A plot besides those of figures' medians.
    pub fn plot(&mut self, curves: Curves) {
        self.curves.push(curves);
    }

    /// The series of a figure, in the order in which they came.
    pub fn of_figure(&self, figure: &str) -> impl Iterator<Item = &Series> {
        self.series.iter().filter(move |series| series.figure == figure)
    }

    /// The series of a unit.
    pub fn of_unit(&self, unit: Unit) -> impl Iterator<Item = &Series> {
        self.series.iter().filter(move |series| series.unit == unit)
    }

    /// What the median of a series ought to be.
    pub fn expect(&mut self, figure: &str, subject: &str, goal: Goal) {
        let [figure, subject] = [figure, subject].map(str::to_owned);
        self.goals.push(Expectation { figure, subject, goal });
    }

    /// What [`Self::expect`] was told.
    #[must_use]
    pub fn goal(&self, figure: &str, subject: &str) -> Option<Goal> {
        let of = |goal: &&Expectation| goal.figure == figure && goal.subject == subject;
        self.goals.iter().find(of).map(|expected| expected.goal)
    }

    /// A series that was recorded.
    #[must_use]
    pub fn series(&self, figure: &str, subject: &str) -> Option<&Series> {
        self.series.iter().find(|series| series.figure == figure && series.subject == subject)
    }

    /// Compares one subject with another that was measured in the same rounds. Nothing where one has no samples.
    pub fn compare(&mut self, figure: &str, subject: &str, base: &str, role: Role, goal: Option<Goal>) {
        let (Some(this), Some(that)) = (self.series(figure, subject), self.series(figure, base)) else {
            return;
        };
        if let Some(ratio) = this.ratio(that) {
            let [figure, subject, base] = [figure, subject, base].map(str::to_owned);
            self.comparisons.push(Comparison { figure, subject, base, role, ratio, goal });
        }
    }

    /// Compares all other subjects of a figure with one, without goals; not those that are compared with one of that
    /// role already.
    pub fn compare_all(&mut self, figure: &str, base: &str, role: Role) {
        let subjects: Vec<_> = self.series.iter().filter(|series| series.figure == figure).collect();
        let subjects: Vec<_> = subjects.iter().map(|series| series.subject.clone()).collect();
        for subject in subjects.iter().filter(|subject| *subject != base) {
            if self.comparison(figure, subject, role).is_none() {
                self.compare(figure, subject, base, role, None);
            }
        }
    }

    /// What [`Self::compare`] found.
    #[must_use]
    pub fn comparison(&self, figure: &str, subject: &str, role: Role) -> Option<&Comparison> {
        let of = |c: &&Comparison| c.figure == figure && c.subject == subject && c.role == role;
        self.comparisons.iter().find(of)
    }

    /// Prints the table, writes what else was asked for.
    ///
    /// # Errors
    /// When something could not be measured, or written.
    pub fn finish(&self, wanted: &Wanted, progress: &Progress) -> anyhow::Result<()> {
        self.finish_with(&self.table(), wanted, progress)
    }

    /// Likewise, with another table than that of all series: lines, each with its end.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub fn finish_with(&self, table: &str, wanted: &Wanted, progress: &Progress) -> anyhow::Result<()> {
        let took = progress.elapsed();
        // A reader that has gone away is no failure to measure.
        let _ = stdout().write_all(self.text(table, took).as_bytes());
        if let Some(file) = &wanted.json {
            fs::write(file, self.json(took)?).with_context(|| format!("writing {}", file.display()))?;
        }
        if let Some(dir) = &wanted.svg {
            fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
            let is_drawn = |series: &&Series| self.drawn.is_empty() || self.drawn.contains(&series.figure);
            let drawn: Vec<_> = self.series.iter().filter(is_drawn).cloned().collect();
            for (name, svg) in plot::all(self.benchmark, &drawn, &self.curves)? {
                let file = dir.join(name);
                fs::write(&file, svg).with_context(|| format!("writing {}", file.display()))?;
            }
        }
        let failed = self.not_measured.join("; ");
        ensure!(failed.is_empty(), "not everything could be measured: {failed}");
        Ok(())
    }

    /// The document, see [`Document`].
    fn json(&self, took: Duration) -> serde_json::Result<String> {
        let series = self.series.iter().map(|series| SeriesDocument {
            figure: &series.figure,
            subject: &series.subject,
            unit: series.unit,
            spread: series.spread(),
            samples: &series.samples,
        });
        let document = Document {
            schema_version: SCHEMA_VERSION,
            benchmark: self.benchmark,
            about: &self.about,
            took_s: took.as_secs_f64(),
            facts: &self.facts,
            parameters: &self.parameters,
            series: series.collect(),
            comparisons: &self.comparisons,
            goals: &self.goals,
            notes: &self.notes,
            not_measured: &self.not_measured,
        };
        Ok(serde_json::to_string_pretty(&document)? + "\n")
    }

    /// The table, and what belongs to it.
    fn text(&self, table: &str, took: Duration) -> String {
        let notes: String = self.notes.iter().map(|note| format!("{note}\n")).collect();
        let failed: String = self.not_measured.iter().map(|what| format!("not measured: {what}\n")).collect();
        format!("{}\n{table}{notes}{failed}{}", self.about, table::footer(&self.facts, took))
    }

    /// All series with what they are compared with.
    fn table(&self) -> String {
        let header = ["figure", "subject", "n", "median", "middle half", "x floor", "x peer", "goal"];
        let mut table = table::with_header(&header, 2..7);
        let mut last = "";
        for series in self.by_figure() {
            let Some(spread) = series.spread() else { continue };
            let figure = if series.figure == last { "" } else { &series.figure };
            last = &series.figure;
            let [floor, peer] =
                [Role::Floor, Role::Peer].map(|role| self.comparison(&series.figure, &series.subject, role));
            let ratio = |comparison: Option<&Comparison>| {
                comparison.map_or_else(String::new, |c| Unit::Ratio.text(c.ratio.median))
            };
            let goals = [floor, peer].into_iter().flatten();
            let goals = goals.filter_map(|c| c.goal.map(|goal| goal.text(c.ratio.median)));
            let own = self.goal(&series.figure, &series.subject).map(|goal| goal.text(spread.median));
            table.add_row([
                figure.to_owned(),
                series.subject.clone(),
                spread.count.to_string(),
                series.unit.text(spread.median),
                spread.middle(series.unit),
                ratio(floor),
                ratio(peer),
                goals.chain(own).collect::<Vec<_>>().join(", "),
            ]);
        }
        let bases = |role| {
            let mut bases: Vec<&str> = vec![];
            for comparison in self.comparisons.iter().filter(|c| c.role == role) {
                if !bases.contains(&comparison.base.as_str()) {
                    bases.push(&comparison.base);
                }
            }
            bases.join(", ")
        };
        let compared = [("floor", bases(Role::Floor)), ("peer", bases(Role::Peer))];
        let compared = compared.iter().filter(|(_, bases)| !bases.is_empty());
        let compared = compared.map(|(role, bases)| format!(" {role}: {bases}.")).collect::<String>();
        format!("{table}\nRatios are medians of the rounds' own.{compared}\n")
    }

    /// The series of a figure together, in the order in which they came.
    fn by_figure(&self) -> Vec<&Series> {
        let mut figures: Vec<&str> = vec![];
        for series in &self.series {
            if !figures.contains(&series.figure.as_str()) {
                figures.push(&series.figure);
            }
        }
        let of = |figure| self.series.iter().filter(move |series| series.figure == figure);
        figures.into_iter().flat_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::{facts, row, tells};
    use super::*;

    const NEW: &str = "new connections";

    fn report() -> Report {
        let mut report = Report::new("tcp", "What it costs.", facts("cargo xtask bench tcp"));
        report.parameter("clients", 8);
        for round in 0..3 {
            let speed = (round + 1) as f64;
            report.record(round, NEW, "direct", Unit::PerSecond, 10_000.0 * speed);
            report.record(round, "latency", "direct", Unit::Seconds, 0.001);
            report.record(round, NEW, "HAProxy", Unit::PerSecond, 5_000.0 * speed);
            if round != 1 {
                report.record(round, NEW, "xvip", Unit::PerSecond, 9_000.0 * speed);
            }
        }
        report.compare(NEW, "xvip", "direct", Role::Floor, Some(Goal::AtLeast(0.88)));
        report.compare(NEW, "xvip", "HAProxy", Role::Peer, Some(Goal::AtLeast(2.0)));
        report.compare_all(NEW, "direct", Role::Floor);
        report.compare(NEW, "xvip", "nobody", Role::Peer, None);
        report
    }

    #[test]
    fn the_table_has_medians_ratios_and_goals() {
        let report = report();
        let text = report.text(&report.table(), Duration::from_secs(3));
        assert!(tells(&text, &report.facts), "{text}");
        let xvip = row(&text, "xvip", "18,000");
        assert_eq!(xvip[..3], ["xvip", "2", "18,000/s"], "{text}");
        assert_eq!(xvip[4..], ["0.90", "1.80", "met (>= 0.88), missed (>= 2)"], "{text}");
        assert_eq!(row(&text, "HAProxy", "10,000/s")[4..], ["0.50"], "{text}");
        assert!(text.contains("floor: direct. peer: HAProxy.\n"), "{text}");
    }

    #[test]
    fn the_document_has_every_sample_and_says_which_are_missing() {
        let mut report = report();
        report.fail("bulk: no iperf3");
        report.fail("bulk: no iperf3");
        let json: Value = serde_json::from_str(&report.json(Duration::from_secs(3)).unwrap()).unwrap();
        assert_eq!((&json["schema_version"], &json["benchmark"]), (&1.into(), &"tcp".into()));
        assert_eq!(json["parameters"]["clients"], 8);
        let xvip = json["series"].as_array().unwrap().iter().find(|s| s["subject"] == "xvip").unwrap();
        assert_eq!(xvip["samples"], serde_json::json!([9000.0, null, 27000.0]));
        assert_eq!((&xvip["unit"], &xvip["spread"]["median"]), (&"per_second".into(), &18000.0.into()));
        // One of each kind for each that has one.
        assert_eq!(json["comparisons"].as_array().unwrap().len(), 3, "{json:#}");
        let comparison = &json["comparisons"][0];
        assert_eq!((&comparison["role"], &comparison["goal"]["at_least"]), (&"floor".into(), &0.88.into()));
        assert_eq!(comparison["ratio"]["median"], 0.9);
        assert_eq!(json["not_measured"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn what_could_not_be_measured_fails_it() {
        let wanted = Wanted { repeats: 1, json: None, svg: None };
        let mut report = report();
        report.finish(&wanted, &Progress::new()).unwrap();
        report.fail("bulk: no iperf3");
        let error = report.finish(&wanted, &Progress::new()).unwrap_err();
        assert!(error.to_string().contains("bulk: no iperf3"), "{error}");
    }

    #[test]
    fn a_goal_is_met_at_its_limit() {
        assert!(Goal::AtMost(0.8).is_met(0.8) && !Goal::AtMost(0.8).is_met(0.81));
        assert!(Goal::AtLeast(0.8).is_met(0.8) && !Goal::AtLeast(0.8).is_met(0.79));
    }
}
