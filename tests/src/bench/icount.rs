//! Executed instructions per packet on Debian's kernels: repeatable to about one, whatever else the machine does.

pub mod record;

use std::path::PathBuf;

use crate::vm;

/// What to count.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Debian's kernels of these series
    #[arg(long, value_delimiter = ',', value_name = "SERIES,...", default_value = "6.1,6.12")]
    pub kernel: Vec<String>,
    /// What is counted
    #[arg(long, value_delimiter = ',', value_name = "WHAT,...", default_value = "xvip,peers")]
    pub what: Vec<String>,
    /// Where kernels are kept (they are fetched where they are not there)
    #[arg(long, value_name = "DIR", default_value = "target/xtask")]
    pub scratch: PathBuf,
}

/// Counts.
///
/// # Errors
/// What could not be counted.
pub fn run(options: &Options) -> anyhow::Result<()> {
    for series in &options.kernel {
        for what in &options.what {
            let counted = vm::count(&options.scratch, series, what, &mut |line| eprintln!("{line}"))?;
            println!("Linux {}", counted.kernel);
            for (name, instructions) in &counted.counts {
                println!("{name:<40} {instructions:>8.1}");
            }
        }
    }
    Ok(())
}
