//! Executed instructions per packet on Debian's kernels: repeatable to about one, whatever else the machine does. The
//! kernels have IPVS, which many a running one has not.

pub mod record;

use std::path::PathBuf;

use anyhow::Context as _;

use super::facts::Facts;
use super::report::{Report, Role, Wanted};
use super::series::{Series, Unit};
use super::table::Progress;
use crate::vm;

/// The kernel that the goals are of, and the most that they allow over the whole path.
const GOALS: (&str, [(&str, f64); 3]) =
    ("6.1", [("nat IPv4", 1800.0), ("nat reply IPv4", 1800.0), ("dsr-l2 IPv4", 1400.0)]);
/// Who else does the work of each, where both were counted.
const PEERS: [(&str, &str); 4] = [
    ("nat IPv4", "IPVS NAT"),
    ("nat reply IPv4", "IPVS NAT"),
    ("dsr-l2 IPv4", "IPVS DR"),
    ("dsr-ipip IPv4", "IPVS TUN"),
];
const FLOOR: &str = "veth + XDP_DROP";

/// What to count.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Debian's kernels of these series
    #[arg(long, value_delimiter = ',', value_name = "SERIES,...", default_value = "6.1,6.12")]
    pub kernel: Vec<String>,
    /// What is counted
    #[arg(long, value_delimiter = ',', value_name = "WHAT,...", default_value = "xvip,peers",
          value_parser = ["xvip", "peers"])]
    pub what: Vec<String>,
    /// Where kernels are kept, and fetched to [default: beside what cargo builds]
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    /// Also write every count to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Also draw the figures, each into a file of its own in this directory
    #[arg(long, value_name = "DIR")]
    pub svg: Option<PathBuf>,
}

/// Counts.
///
/// # Errors
/// What could not be counted.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let progress = Progress::new();
    let scratch = options.scratch.clone().map_or_else(beside_the_build, Ok)?;
    let about = "Executed instructions per packet, counted by QEMU. alone: xvip's programs and what they call in the \
                 kernel, less a program that\nonly returns XDP_TX. whole path: the generator's, a veth's and the \
                 sink's, too.";
    let mut report = Report::new("icount", about, Facts::of_machine()?);
    for series in &options.kernel {
        let (path, alone) = (format!("whole path, Linux {series}"), format!("alone, Linux {series}"));
        for what in &options.what {
            match vm::count(&scratch, series, what, &mut |line| progress.say(line)) {
                Ok(counted) => {
                    report.parameter(&format!("Linux {series}"), counted.kernel);
                    report.parameter("QEMU", counted.qemu);
                    for (name, count) in counted.counts {
                        let (figure, subject) = match name.split_once(' ') {
                            Some(("path", subject)) => (&path, subject),
                            Some(("alone", subject)) => (&alone, subject),
                            _ => (&alone, name.as_str()),
                        };
                        report.record(0, figure, subject, Unit::Instructions, count);
                    }
                }
                Err(error) => report.fail(&format!("{what} on Linux {series}: {error}")),
            }
        }
        for (ours, theirs) in PEERS {
            report.compare(&path, ours, theirs, Role::Peer, None);
        }
        report.compare_all(&path, FLOOR, Role::Floor);
        if series == GOALS.0 {
            for (subject, most) in GOALS.1 {
                let counted = report.series(&path, subject).and_then(Series::spread);
                if let Some(count) = counted.map(|spread| spread.median) {
                    let word = if count <= most { "met" } else { "missed" };
                    report.note(&format!("{path}, {subject}: {count:.0}, at most {most:.0}: {word}."));
                }
            }
        }
    }
    let wanted = Wanted { repeats: 1, json: options.json.clone(), svg: options.svg.clone() };
    report.finish(&wanted, &progress)
}

/// `target/xtask`, where the tests have their kernels: this program is `target/debug/xvip-lab`.
fn beside_the_build() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("where this program is")?;
    let target = program.ancestors().nth(2).context("it is not below a target directory: --scratch")?;
    Ok(target.join("xtask"))
}
