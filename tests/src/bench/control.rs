//! What the control plane costs: everything but the packets.
//!
//! Tables and sweeps are measured in this process, on the real maps ([`tables`], [`sweep`]); the rest with real daemons in
//! the lab, and with HAProxy where it does the same work: a reload of many services and what asking for the state costs
//! ([`reload`]), health checks of many backends ([`checks`]), and nodes that restart, or join, with many flows
//! ([`joining`]). One API server answers at every backend's address ([`crowd`]).

mod checks;
mod crowd;
mod haproxy;
mod joining;
mod process;
mod reload;
mod sweep;
mod tables;

use std::time::Duration;

use anyhow::{Context, ensure};
use clap::ValueEnum;

use super::facts::Facts;
use super::report::{Report, Wanted};
use super::table::Progress;
use crate::interrupt::Interrupt;
use crate::topology::find_program;

/// Loading the programs and making large tables takes a busy machine long.
const START_LIMIT: Duration = Duration::from_secs(200);

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Making a Maglev table
    Tables,
    /// Counting flows and removing those that are over
    Sweep,
    /// Reload, status and memory with many services
    Reload,
    /// Health checks of many backends
    Checks,
    /// Restart of a node with many flows, and a node that joins it
    Joining,
}

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Rounds and files
    #[command(flatten)]
    pub wanted: Wanted,
    /// Only these parts
    #[arg(long, value_delimiter = ',', value_name = "PART,...")]
    pub part: Vec<Part>,
    /// How many services are reloaded
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=250))]
    pub services: u16,
    /// And how many backends each has
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(2..=250))]
    pub backends: u16,
    /// How many backends are checked
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(10..=10_000))]
    pub checked: u16,
    /// How many flows there are
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(10..=4_000_000))]
    pub flows: u32,
    /// For how many seconds health checks are watched in each round
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub window: u64,
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        self.part.is_empty() || self.part.contains(&part)
    }
}

/// Measures a part.
type Measure = fn(&mut Bench<'_>) -> anyhow::Result<()>;

/// What all parts use.
struct Bench<'a> {
    options: &'a Options,
    report: Report,
    progress: Progress,
    interrupt: Interrupt,
}

impl Bench<'_> {
    /// The rounds, counted from 0; ends early when interrupted.
    ///
    /// # Errors
    /// What a round says, or that it was interrupted.
    fn rounds(
        &mut self,
        what: &str,
        mut round: impl FnMut(&mut Report, usize) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for n in 0..self.options.wanted.rounds() {
            ensure!(!self.interrupt.asked(), "interrupted");
            self.progress.say(&format!("{what}: round {}", n + 1));
            round(&mut self.report, n)?;
        }
        Ok(())
    }
}

/// Measures and prints.
///
/// # Errors
/// When something could not be measured, after printing what could, or when interrupted.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let interrupt = Interrupt::install().context("installing signal handlers")?;
    let facts = Facts::find(&find_program("xvip", "XVIP_BIN")?)?.and("haproxy", "-v")?;
    let about =
        "What the control plane costs: time until it is done, and processor time (CPU) of all threads.";
    let mut report = Report::new("control", about, facts);
    report.parameter("services", options.services);
    report.parameter("backends", options.backends);
    report.parameter("checked", options.checked);
    report.parameter("flows", options.flows);
    report.parameter("window_s", options.window);
    let mut bench = Bench { options, report, progress: Progress::new(), interrupt };
    let parts: [(Part, &str, Measure); 5] = [
        (Part::Tables, "tables", tables::measure),
        (Part::Sweep, "sweep", sweep::measure),
        (Part::Reload, "reload", reload::measure),
        (Part::Checks, "checks", checks::measure),
        (Part::Joining, "joining", joining::measure),
    ];
    for (part, name, measure) in parts {
        if options.wants(part)
            && let Err(error) = measure(&mut bench)
        {
            ensure!(!bench.interrupt.asked(), "interrupted");
            bench.report.fail(&format!("{name}: {error:#}"));
        }
    }
    let Bench { report, progress, .. } = bench;
    report.finish(&options.wanted, &progress)
}
