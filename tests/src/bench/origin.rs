//! Where figures come from: the programs, the kernel, the command.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use crate::incumbent;

/// Set by `cargo xtask bench`: what git calls the tree that xvip was built from.
const DESCRIBED: &str = "XVIP_BENCH_DESCRIBED";
/// Set by `cargo xtask bench`: the command as it was typed.
const COMMAND: &str = "XVIP_BENCH_COMMAND";

/// All that one needs to know to measure the same again.
#[derive(Debug, Clone, Serialize)]
pub struct Origin {
    /// The command.
    pub command: String,
    /// The kernel's release.
    pub kernel: String,
    /// Processors.
    pub processors: usize,
    /// How many processes wanted one before the measurement, on average over a minute: what else this machine does.
    pub load: f64,
    /// What `haproxy -v` says.
    pub haproxy: String,
    /// What `keepalived --version` says.
    pub keepalived: String,
    /// What `xvip --version` says, and what git calls its tree.
    pub xvip: String,
}

impl Origin {
    /// Asks everybody.
    ///
    /// # Errors
    /// When a program is missing.
    pub fn find(xvip: &Path) -> anyhow::Result<Self> {
        let program = |name, option| {
            incumbent::version(name, option).with_context(|| format!("apt-get install {name}"))
        };
        let from = |variable, otherwise: &dyn Fn() -> String| {
            std::env::var(variable).unwrap_or_else(|_| otherwise())
        };
        let typed = || std::env::args().collect::<Vec<_>>().join(" ");
        let xvip = incumbent::version(&xvip.display().to_string(), "--version")?;
        Ok(Self {
            command: from(COMMAND, &typed),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .context("the kernel's release")?
                .trim()
                .to_owned(),
            load: load().context("/proc/loadavg")?,
            processors: std::thread::available_parallelism().map_or(1, Into::into),
            // What follows the dash is an address on the web.
            haproxy: program("haproxy", "-v")?.split(" - ").next().unwrap_or_default().to_owned(),
            keepalived: program("keepalived", "--version")?,
            xvip: format!("{xvip} ({})", from(DESCRIBED, &|| "tree unknown".to_owned())),
        })
    }
}

fn load() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split_whitespace().next().context("it is empty")?.parse()?)
}
