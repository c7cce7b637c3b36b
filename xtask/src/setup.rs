//! `cargo xtask setup`: finds or installs what the build, the lab and the tests need.
//!
//! Each need is one entry in [`CHECKS`]: a probe that says whether it is met, and a remedy. A probe never changes
//! anything, and all probes together take well under a second, so that `run` and `test` can start with them.
//! What a remedy cannot do, it says: what is missing, and the command that gets it.

mod apt;
mod commands;
mod compiler;
mod linker;
mod progress;
mod version;

use anyhow::{Context as _, bail};

use crate::process::{self, Root};
use progress::Progress;

/// How much is needed; each level includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// To build.
    Build,
    /// To run the lab.
    Lab,
    /// To measure beside what xvip replaces.
    Bench,
    /// To run the tests.
    Tests,
}

/// What to print when nothing is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// A line for each check.
    Each,
    /// One line.
    Brief,
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Probe {
    /// The need is met, by this.
    Ready(String),
    /// It is not, for this reason.
    Missing(String),
}

/// Collects an error as the reason why something is missing.
impl From<anyhow::Result<String>> for Probe {
    fn from(found: anyhow::Result<String>) -> Self {
        found.map_or_else(|error| Self::Missing(format!("{error:#}")), Self::Ready)
    }
}

/// What checks need to know about where they run.
struct Machine {
    level: Level,
    root: Root,
}

/// One need.
struct Check {
    name: &'static str,
    probe: fn(&Machine) -> Probe,
    remedy: fn(&Machine, &Progress) -> anyhow::Result<()>,
}

/// In this order: the linker must fit the compiler.
const CHECKS: [Check; 4] = [
    Check { name: "rustup", probe: compiler::probe_rustup, remedy: compiler::explain_rustup },
    Check { name: "eBPF compiler", probe: compiler::probe, remedy: compiler::install },
    Check { name: "eBPF linker", probe: linker::probe, remedy: linker::install },
    Check { name: "programs", probe: commands::probe, remedy: commands::install },
];

/// Meets every need of `level`, or says what is missing.
///
/// # Errors
/// Something is missing and could not be installed from here.
pub fn run(level: Level, report: Report) -> anyhow::Result<()> {
    process::catch_interrupts();
    let machine = Machine { level, root: Root::probe() };
    let progress = Progress::new();
    let mut brief = Vec::new();
    let mut changed = false;
    for check in &CHECKS {
        let found = match (check.probe)(&machine) {
            Probe::Ready(found) => found,
            Probe::Missing(why) => {
                changed = true;
                progress.step(&format!("{}: {why}", check.name));
                (check.remedy)(&machine, &progress).with_context(|| format!("setup: {}", check.name))?;
                match (check.probe)(&machine) {
                    Probe::Ready(found) => found,
                    Probe::Missing(why) => bail!("setup: {} was installed, but still: {why}", check.name),
                }
            }
        };
        if report == Report::Each || changed {
            progress.done(&format!("{}: {found}", check.name));
        }
        brief.push(found);
    }
    if report == Report::Brief && !changed {
        progress.done(&format!("setup: {}", brief.join(", ")));
    }
    Ok(())
}
