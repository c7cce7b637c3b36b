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
use crate::guest::{
    self,
    report::{Report, Tally},
};
use crate::topology::{LabError, find_program};
use debian::{Debian, DebianError, Kernel};
use qemu::Boot;
use root::{Root, RootError};

/// What the guest's lab starts, all found on this machine.
const HOST_PROGRAMS: [&str; 8] = ["sh", "cat", "mount", "ip", "tc", "ss", "ethtool", "curl"];
/// What the guest's lab and cases need, where it is not built in.
const MODULES: [&str; 9] =
    ["veth", "bridge", "8021q", "bonding", "dummy", "sch_netem", "ipip", "ip6_tunnel", "sit"];
/// What [`count`] needs instead.
const COUNTING_PROGRAMS: [&str; 4] = ["sh", "cat", "mount", "ip"];
const COUNTING_MODULES: [&str; 1] = ["veth"];
/// And for all that is not xvip.
const PEERS_PROGRAMS: [&str; 2] = ["nft", "ipvsadm"];
const PEERS_MODULES: [&str; 7] =
    ["dummy", "nf_tables", "nft_chain_nat", "nft_nat", "nft_masq", "ip_vs", "ip_vs_rr"];
/// For a boot that counts. No time passes there without instructions, so this is how long the host takes for them.
const COUNTING_LIMIT: Duration = Duration::from_secs(900);
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
    let limit = guest::cases(only, false).map(|case| case.limit).sum::<Duration>() + BOOT_LIMIT;
    let guest = Guest {
        counting: false,
        own_programs: &[("xvip", "XVIP_BIN"), ("xvip-lab", "XVIP_LAB_BIN")],
        host_programs: &HOST_PROGRAMS,
        modules: &MODULES,
        only,
        log: format!("guest-{series}"),
        limit,
    };
    let mut say = |report: &Report, release: &str, after: Duration| {
        println!("Linux {release} after {:5.1} s: {report}", after.as_secs_f32());
    };
    guest.boot(scratch, series, &mut say).map(drop)
}

/// Instructions per packet, as one boot has counted them.
#[derive(Debug, Clone, PartialEq)]
pub struct Counted {
    /// What `uname -r` says there.
    pub kernel: String,
    /// What QEMU calls its version.
    pub qemu: String,
    /// Of what, and how many, in the order in which they were counted.
    pub counts: Vec<(String, f64)>,
}

/// Counts what one of [`guest::COUNTS`] counts, on Debian's kernel of this series. `say` is told what the guest says, as it
/// comes.
///
/// # Errors
/// As [`run_cases`].
pub fn count(
    scratch: &Path,
    series: &str,
    what: &str,
    say: &mut impl FnMut(&str),
) -> Result<Counted, VmError> {
    let (mut programs, mut modules) = (COUNTING_PROGRAMS.to_vec(), COUNTING_MODULES.to_vec());
    if what != "xvip" {
        programs.extend(PEERS_PROGRAMS);
        modules.extend(PEERS_MODULES);
    }
    let guest = Guest {
        counting: true,
        own_programs: &[("xvip-lab", "XVIP_LAB_BIN")],
        host_programs: &programs,
        modules: &modules,
        only: what,
        log: format!("count-{what}-{series}"),
        limit: COUNTING_LIMIT,
    };
    let mut counts = Vec::new();
    let mut note = |report: &Report, release: &str, after: Duration| {
        if let Report::Count { name, instructions } = report {
            counts.push((name.clone(), *instructions));
        }
        say(&format!("Linux {release} after {:5.1} s: {report}", after.as_secs_f32()));
    };
    let kernel = guest.boot(scratch, series, &mut note)?;
    let qemu = kernel.tools().qemu_version().map_err(VmError::Fetch)?;
    Ok(Counted { kernel: kernel.release, qemu, counts })
}

/// What is booted, whatever the kernel.
struct Guest<'a> {
    counting: bool,
    /// Programs of ours, each with the variable that may say where it is.
    own_programs: &'a [(&'static str, &'static str)],
    host_programs: &'a [&'a str],
    modules: &'a [&'a str],
    only: &'a str,
    /// The name of its log.
    log: String,
    limit: Duration,
}

impl Guest<'_> {
    /// Returns the kernel.
    fn boot(
        &self,
        scratch: &Path,
        series: &str,
        say: &mut impl FnMut(&Report, &str, Duration),
    ) -> Result<Kernel, VmError> {
        let kernel = Debian::open(&scratch.join("kernels"))
            .and_then(|debian| debian.kernel(series))
            .map_err(VmError::Fetch)?;
        let begin = Instant::now();
        let mut root = Root::new();
        for (name, variable) in self.own_programs {
            root.own_program(name, &find_program(name, variable)?)?;
        }
        for name in self.host_programs {
            root.program(name)?;
        }
        root.modules(&kernel, self.modules)?;
        let root = root.finish();
        let made = format!("a root of {} MiB", root.len() >> 20);
        say(&Report::Note(made), &kernel.release, begin.elapsed());

        let cases = guest::cases(self.only, self.counting).map(|case| case.name);
        let log = scratch.join("test").join(format!("{}.log", self.log));
        let mut tally = Tally::new(cases);
        let program = format!("{}/xvip-lab", root::PROGRAMS);
        let mut init = vec![program.as_str(), "guest"];
        init.extend(self.counting.then_some("--counting"));
        init.push(self.only);
        let booted = Boot {
            kernel: &kernel,
            root: &root,
            init: &init,
            counting: self.counting,
            processors: if self.counting { 1 } else { PROCESSORS },
            memory: MEMORY_MIB,
            log: &log,
            limit: self.limit,
        }
        .run(|line| {
            if let Some(report) = tally.line(line) {
                say(&report, &kernel.release, begin.elapsed());
            }
        });
        let why = match (tally.finish(), booted) {
            (Ok(()), Ok(())) => return Ok(kernel),
            (Ok(()), Err(error)) => error.to_string(),
            (Err(why), Ok(())) => why,
            (Err(why), Err(error)) => format!("{error}\n{why}"),
        };
        let tail = last_lines(&log, TAIL);
        Err(VmError::Guest { release: kernel.release, why, log, tail })
    }
}
