//! What one has to know to judge figures, and to measure the same again: the machine, the kernel, the programs, the
//! command. Nothing that names this machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use crate::incumbent;

/// Set by `cargo xtask bench`: what git calls the tree that xvip was built from.
const DESCRIBED: &str = "XVIP_BENCH_DESCRIBED";
/// Set by `cargo xtask bench`: the command as it was typed.
const COMMAND: &str = "XVIP_BENCH_COMMAND";

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct Facts {
    /// The command.
    pub command: String,
    /// The kernel's release.
    pub kernel: String,
    /// The processor's name, as the kernel has it.
    pub cpu: String,
    /// How many of them this process may use.
    pub processors: usize,
    /// What keeps the clock down or up; none where the kernel does not say (as in a virtual machine).
    pub governor: Option<String>,
    /// What the kernel does against each flaw of the processor that it has, and costs time.
    pub mitigations: BTreeMap<String, String>,
    /// Memory in bytes.
    pub memory: u64,
    /// How many processes wanted a processor before the measurement, on average over a minute: what else this machine
    /// does.
    pub load: f64,
    /// What `xvip --version` says, and what git calls its tree.
    pub xvip: String,
    /// What other programs that took part say of their version, by their name.
    pub programs: BTreeMap<String, String>,
}

impl Facts {
    /// Asks the machine, and xvip for its version.
    ///
    /// # Errors
    /// When xvip does not run, or the kernel does not say its release or the load.
    pub fn find(xvip: &Path) -> anyhow::Result<Self> {
        let version = incumbent::version(&xvip.display().to_string(), "--version")?;
        let tree = std::env::var(DESCRIBED).unwrap_or_else(|_| "tree unknown".to_owned());
        Ok(Self { xvip: format!("{version} ({tree})"), ..Self::of_machine()? })
    }

    /// Asks the machine; for a benchmark that runs parts of xvip in this process.
    ///
    /// # Errors
    /// When the kernel does not say its release or the load.
    pub fn of_machine() -> anyhow::Result<Self> {
        let typed = || std::env::args().collect::<Vec<_>>().join(" ");
        let tree = std::env::var(DESCRIBED).unwrap_or_else(|_| "tree unknown".to_owned());
        let load = fs::read_to_string("/proc/loadavg").context("/proc/loadavg")?;
        Ok(Self {
            command: std::env::var(COMMAND).unwrap_or_else(|_| typed()),
            kernel: line("/proc/sys/kernel/osrelease").context("the kernel's release")?,
            cpu: value("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".to_owned()),
            processors: std::thread::available_parallelism().map_or(1, Into::into),
            governor: line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            mitigations: mitigations(),
            memory: value("/proc/meminfo", "MemTotal").and_then(|text| kibibytes(&text)).unwrap_or(0),
            load: load
                .split_whitespace()
                .next()
                .and_then(|word| word.parse().ok())
                .context("no number in /proc/loadavg")?,
            xvip: format!("xvip {} ({tree})", env!("CARGO_PKG_VERSION")),
            programs: BTreeMap::new(),
        })
    }

    /// Asks another program that takes part for its version, too.
    ///
    /// # Errors
    /// When it is missing.
    pub fn and(mut self, program: &str, option: &str) -> anyhow::Result<Self> {
        let version =
            incumbent::version(program, option).with_context(|| format!("apt-get install {program}"))?;
        // What follows the dash in HAProxy's is an address on the web.
        let version = version.split(" - ").next().unwrap_or_default().to_owned();
        self.programs.insert(program.to_owned(), version);
        Ok(self)
    }
}

/// The only line of a file; none where there is no such file or it is empty.
fn line(file: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// What follows the first `KEY ... :` in a file.
fn value(file: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let (_, value) = text.lines().find_map(|line| line.split_once(':').filter(|(k, _)| k.trim() == key))?;
    Some(value.trim().to_owned())
}

/// `16384 kB`, in bytes.
fn kibibytes(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

fn mitigations() -> BTreeMap<String, String> {
    let Ok(files) = fs::read_dir("/sys/devices/system/cpu/vulnerabilities") else { return BTreeMap::new() };
    let each = files.flatten().filter_map(|file| {
        let name = file.file_name().into_string().ok()?;
        let text = line(file.path().to_str()?)?;
        let mitigation = text.strip_prefix("Mitigation: ")?.to_owned();
        Some((name, mitigation))
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_kernel_a_processor_and_memory() {
        let facts = Facts::of_machine().unwrap();
        assert!(!facts.kernel.is_empty() && facts.processors > 0, "{facts:?}");
        assert!(facts.memory > 1 << 26 && facts.memory.is_multiple_of(1024), "{facts:?}");
        assert!(facts.xvip.starts_with("xvip "), "{facts:?}");
    }

    #[test]
    fn a_program_that_is_not_there_is_told_how_to_get() {
        let error = Facts::of_machine().unwrap().and("no-such-program", "-v").unwrap_err();
        assert!(format!("{error:#}").contains("apt-get install no-such-program"), "{error:#}");
    }
}
