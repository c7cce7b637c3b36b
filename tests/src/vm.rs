//! Other kernels: the guest program of [`crate::guest`] on Debian's stock kernels, booted in QEMU.
//!
//! ```text
//! debian::Debian -- kernel, tools --> root::Root (xvip, xvip-lab, ip, modules, ...) --> qemu::Boot
//!                                                                                         |
//!      the test <-- Tally: has every case ended well? <-- report::Report, line by line <--+ serial port
//! ```

pub mod cpio;
pub mod debian;
pub mod image;
pub mod modules;
pub mod qemu;
pub mod root;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::daemon::last_lines;
use crate::guest::{self, report::Tally};
use crate::topology::{LabError, find_program};
use debian::{Debian, DebianError};
use qemu::Boot;
use root::{Root, RootError};

/// What the guest's lab starts, all found on this machine.
const HOST_PROGRAMS: [&str; 8] = ["sh", "cat", "mount", "ip", "tc", "ss", "ethtool", "curl"];
/// What the guest's lab and cases need, where it is not built in.
const MODULES: [&str; 9] =
    ["veth", "bridge", "8021q", "bonding", "dummy", "sch_netem", "ipip", "ip6_tunnel", "sit"];
const PROCESSORS: u32 = 2;
const MEMORY_MIB: u32 = 2048;
/// For everything up to the first case, and after the last.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// Lines of the serial port that a failure shows.
const TAIL: usize = 60;

/// Why the cases have not all ended well on a kernel.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// The kernel, or QEMU, could not be had.
    #[error(
        "{0}\nwithout Debian's kernels nothing can be said about them: check the network, then try again"
    )]
    Fetch(#[source] DebianError),
    /// A program of ours was not built.
    #[error(transparent)]
    Program(#[from] LabError),
    /// The guest's root could not be made.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The guest did not run to its end, or a case failed.
    #[error("Linux {release}: {why}\nthe end of {log}:\n{tail}", log = log.display())]
    Guest {
        /// The kernel.
        release: String,
        /// What went wrong.
        why: String,
        /// All that the guest printed.
        log: PathBuf,
        /// The end of that.
        tail: String,
    },
}

/// Runs the guest's cases on Debian's kernel of this series (`6.1`). Kernels and tools are kept below
/// `scratch/kernels`, and what the guest printed in `scratch/test/guest-SERIES.log`. Cases whose names do not contain
/// `only` are left out.
///
/// # Errors
/// When something is missing, the guest does not run to its end, or a case does not end well.
pub fn run_cases(scratch: &Path, series: &str, only: &str) -> Result<(), VmError> {
    let kernel = Debian::open(&scratch.join("kernels"))
        .and_then(|debian| debian.kernel(series))
        .map_err(VmError::Fetch)?;
    let begin = Instant::now();
    let mut root = Root::new();
    for (name, variable) in [("xvip", "XVIP_BIN"), ("xvip-lab", "XVIP_LAB_BIN")] {
        root.own_program(name, &find_program(name, variable)?)?;
    }
    for name in HOST_PROGRAMS {
        root.program(name)?;
    }
    root.modules(&kernel, &MODULES)?;
    let root = root.finish();
    println!(
        "Linux {}: a root of {} MiB, made in {:.1} s",
        kernel.release,
        root.len() >> 20,
        begin.elapsed().as_secs_f32()
    );

    let cases: Vec<_> = guest::cases(only).collect();
    let log = scratch.join("test").join(format!("guest-{series}.log"));
    let mut tally = Tally::new(cases.iter().map(|case| case.name));
    let init = [&format!("{}/xvip-lab", root::PROGRAMS), "guest", only];
    let booted = Boot {
        kernel: &kernel,
        root: &root,
        init: &init,
        processors: PROCESSORS,
        memory: MEMORY_MIB,
        log: &log,
        limit: cases.iter().map(|case| case.limit).sum::<Duration>() + BOOT_LIMIT,
    }
    .run(|line| {
        if let Some(report) = tally.line(line) {
            println!("Linux {} after {:5.1} s: {report}", kernel.release, begin.elapsed().as_secs_f32());
        }
    });
    let why = match (tally.finish(), booted) {
        (Ok(()), Ok(())) => return Ok(()),
        (Ok(()), Err(error)) => error.to_string(),
        (Err(why), Ok(())) => why,
        (Err(why), Err(error)) => format!("{error}\n{why}"),
    };
    let tail = last_lines(&log, TAIL);
    Err(VmError::Guest { release: kernel.release, why, log, tail })
}
