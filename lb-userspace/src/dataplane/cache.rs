//! The cache of flows ([`lb_common::forward::cache`]) from the controller's side: its size, and settling it.

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd},
    panic::resume_unwind,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
};

use aya::{Ebpf, programs::SchedClassifier};
use lb_common::{
    forward::cache::SETTLED_AT_ONCE,
    layout::{CACHE_WAYS, CacheSet, STAMPS},
    wire::{Be32, Be128},
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use super::{DataplaneError, flow_tables::pinned, in_map, refused, stamps::Stamps};
use crate::vrrp::socket::run_before_others;

/// Lines for all CPUs together, of each family: 32 MB for IPv4, 56 MB for IPv6.
const LINES: u32 = 512 * 1024;
/// Lines that one CPU has at most.
const LINES_OF_CPU: u32 = 128 * 1024;
/// The programs that settle, and the maps that they settle, with those of what is in use.
pub(super) const PROGRAMS: [&str; 2] = ["xvip_settle4", "xvip_settle6"];
pub(super) const CACHES: [(&str, &str); 2] = [("CACHE4", "TAGS4"), ("CACHE6", "TAGS6")];
/// The CPUs that run, as a list of ranges.
const ONLINE: &str = "/sys/devices/system/cpu/online";
/// `enum bpf_cmd` of the kernel's `include/uapi/linux/bpf.h`.
const BPF_PROG_TEST_RUN: libc::c_int = 10;

/// How many sets each of so many CPUs has, where there may be so many flows: no more than the flows could use.
pub(super) fn sets(cpus: u32, flows: u32) -> u32 {
    let lines = (LINES / cpus.max(1)).min(LINES_OF_CPU).min(flows.saturating_mul(2));
    let sets = (lines / CACHE_WAYS as u32).max(SETTLED_AT_ONCE);
    1 << sets.ilog2()
}

/// Bytes that the caches of both families take, their tags and the stamps included: of so many CPUs, where there may be so many flows.
#[must_use]
pub fn cache_bytes(cpus: u32, flows: u32) -> u64 {
    let set = size_of::<CacheSet<Be32>>() + size_of::<CacheSet<Be128>>() + 2 * size_of::<u64>();
    u64::from(cpus) * u64::from(sets(cpus, flows)) * set as u64 + u64::from(STAMPS) * size_of::<u64>() as u64
}

/// Has every CPU settle its lines.
#[derive(Debug)]
pub struct Settler {
    programs: Vec<OwnedFd>,
    stamps: Arc<Stamps>,
    /// One at a time: who waits for the second finds all lines settled.
    turn: Mutex<()>,
    /// Sets that each CPU has room for; 0: there is no cache.
    sets: u32,
    /// How many of these it uses.
    used: AtomicU32,
    /// Whether some CPU could not be reached the last time.
    is_short: AtomicBool,
}

impl Settler {
    /// Of the programs that were loaded; the maps may be a predecessor's, and of another size.
    pub(super) fn open(ebpf: &mut Ebpf, maps: &Path, cpus: u32) -> Result<Self, DataplaneError> {
        let mut sets = u32::MAX;
        for (name, _) in CACHES {
            let info = pinned(maps, name)?.info().map_err(in_map(name))?;
            sets = sets.min(info.max_entries() / cpus.max(1));
        }
        let mut programs = Vec::new();
        for name in PROGRAMS {
            let program = ebpf.program_mut(name).ok_or(DataplaneError::NotInObject(name))?;
            let program: &mut SchedClassifier = program.try_into().map_err(refused)?;
            program.load().map_err(refused)?;
            let descriptor = program.fd().map_err(refused)?;
            programs.push(descriptor.as_fd().try_clone_to_owned().map_err(DataplaneError::Cache)?);
        }
        // Rounded down, should a machine have more CPUs than the one that they were made on.
        let sets = sets.checked_ilog2().map_or(0, |bits| 1 << bits);
        let mut settler = Self {
            programs,
            stamps: Stamps::open(maps)?,
            turn: Mutex::new(()),
            sets,
            used: AtomicU32::new(sets),
            is_short: AtomicBool::new(false),
        };
        // What cannot be settled is better not filled.
        if let Err(error) = settler.reach_all() {
            tracing::warn!(
                "there is no cache of flows, so packets cost more: {error}; may xvip run on every CPU?"
            );
            settler.sets = 0;
            settler.use_sets(0);
        }
        Ok(settler)
    }

    /// As many of so many sets, a power of two, as each CPU has room for: these are used from now on.
    pub(super) fn use_sets(&self, wanted: u32) -> u32 {
        let used = wanted.min(self.sets);
        self.used.store(used, Ordering::Relaxed);
        used
    }

    /// No line is good any more: they name interfaces by their place in the node's entry, and that has changed.
    pub(super) fn invalidate(&self) {
        self.stamps.renew_all();
    }

    /// Settles all lines, but for what packets do meanwhile. Where a CPU cannot be reached any more, its lines are no longer good: they
    /// are settled as their flows' next packets come.
    pub fn settle(&self) {
        if self.used.load(Ordering::Relaxed) == 0 {
            return;
        }
        let reached = self.reach_all();
        if let Err(error) = &reached
            && !self.is_short.load(Ordering::Relaxed)
        {
            tracing::warn!("what some CPUs know of flows comes late: {error}; may xvip run on every CPU?");
        }
        if reached.is_err() {
            self.stamps.renew_all();
        }
        self.is_short.store(reached.is_err(), Ordering::Relaxed);
    }

    fn reach_all(&self) -> io::Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // Of its own: no caller finds itself on another CPU afterwards.
        thread::scope(|scope| {
            let thread = thread::Builder::new().name("xvip-settle".to_owned());
            match thread.spawn_scoped(scope, || self.settle_here())?.join() {
                Ok(result) => result,
                Err(panic) => resume_unwind(panic),
            }
        })
    }

    /// On every CPU that there is, whatever the one before said.
    fn settle_here(&self) -> io::Result<()> {
        // Whoever resets the connections of a dead backend waits for this. Without the right to it, it takes its turn.
        let _ = run_before_others();
        let times = (self.used.load(Ordering::Relaxed) / SETTLED_AT_ONCE).max(1);
        online(&fs::read_to_string(ONLINE)?)
            .into_iter()
            .map(|cpu| {
                let mut only = CpuSet::new();
                only.set(cpu)?;
                sched_setaffinity(Pid::from_raw(0), &only)?;
                self.programs.iter().try_for_each(|program| run(program.as_raw_fd(), times))
            })
            .fold(Ok(()), io::Result::and)
    }
}

/// The numbers in a list of ranges such as `0-3,7`; what is no number is left out.
fn online(list: &str) -> Vec<usize> {
    list.trim()
        .split(',')
        .filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some(first.parse().ok()?..=last.parse().ok()?)
        })
        .flatten()
        .collect()
}

/// The part of `union bpf_attr` that is for test runs, as the kernel's `include/uapi/linux/bpf.h` has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct RunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    _pad: u32,
}

/// Runs a program that often on the CPU of the calling thread, on a frame that it does not look at.
fn run(program: RawFd, times: u32) -> io::Result<()> {
    // The kernel wants an Ethernet header at least.
    let frame = [0u8; 64];
    loop {
        let mut attr = RunAttr {
            prog_fd: program.cast_unsigned(),
            data_size_in: frame.len() as u32,
            data_in: frame.as_ptr().expose_provenance() as u64,
            repeat: times,
            ..RunAttr::default()
        };
        // SAFETY: the attributes are laid out as the kernel's; it reads `data_size_in` bytes of the frame, which lives through
        // the call, and writes into the attributes alone.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attr, size_of::<RunAttr>()) };
        match io::Error::last_os_error() {
            _ if result == 0 => return Ok(()),
            error if error.kind() == io::ErrorKind::Interrupted => {}
            error => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_a_power_of_two_and_no_more_than_the_flows_could_use() {
        assert_eq!(sets(2, 1 << 20), LINES_OF_CPU / 4);
        assert_eq!(sets(64, 1 << 20), LINES / 64 / 4);
        assert_eq!(sets(2, 1000), 256, "two lines a flow, rounded down");
        assert_eq!(sets(2, 1), SETTLED_AT_ONCE);
        assert_eq!(sets(100_000, 1 << 20), SETTLED_AT_ONCE);
        assert!(sets(12, 1 << 20).is_power_of_two());
    }

    #[test]
    fn the_cache_takes_as_much_as_the_documentation_says() {
        let megabytes = |cpus| cache_bytes(cpus, 1 << 20).div_ceil(1 << 20);
        assert_eq!([1, 2, 4, 64].map(megabytes), [23, 46, 91, 91]);
    }

    #[test]
    fn cpus_that_run_are_read_from_ranges() {
        assert_eq!(online("0-2,5,8-9\n"), [0, 1, 2, 5, 8, 9]);
        assert_eq!(online("0\n"), [0]);
        assert_eq!(online(""), [0usize; 0]);
    }
}
