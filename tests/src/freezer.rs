//! A control group that processes are in alone, so that they can be frozen: unlike at `SIGSTOP` nothing in the process,
//! no parent and no debugger is told, as when a virtual machine is paused or a host has no time for it.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::wait;

const LIMIT: Duration = Duration::from_secs(30);

/// The group. Dropping it thaws the processes and puts them back where they were.
#[derive(Debug)]
pub struct Freezer {
    group: PathBuf,
}

impl Freezer {
    /// Puts the process of this id (as the host sees it) into a new group. Kernel 5.2 or later, and cgroup v2 mounted
    /// somewhere, be it beside v1.
    ///
    /// # Errors
    /// When there is no cgroup v2, or this process is not root.
    pub fn of(process: u32) -> io::Result<Self> {
        Self::of_all(&[process])
    }

    /// As [`Freezer::of`], for several. Children that they have already stay where they are.
    ///
    /// # Errors
    /// As [`Freezer::of`].
    pub fn of_all(processes: &[u32]) -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let words = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let root =
            words.filter(|words| words.get(2) == Some(&"cgroup2")).find_map(|words| words.get(1).copied());
        let root = root.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup v2 is mounted"))?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let group = PathBuf::from(root).join(format!("xvip-lab-{}-{number}", std::process::id()));
        fs::create_dir(&group)?;
        let freezer = Self { group };
        for process in processes {
            fs::write(freezer.group.join("cgroup.procs"), process.to_string())?;
        }
        Ok(freezer)
    }

    /// Stops all its threads where they are; they have stopped when this returns.
    ///
    /// # Errors
    /// When the kernel does not do it in 30 seconds.
    pub fn freeze(&self) -> io::Result<()> {
        self.set(true)
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// As [`Freezer::freeze`].
    pub fn thaw(&self) -> io::Result<()> {
        self.set(false)
    }

    fn set(&self, frozen: bool) -> io::Result<()> {
        let digit = u8::from(frozen);
        fs::write(self.group.join("cgroup.freeze"), digit.to_string())?;
        let expected = format!("frozen {digit}");
        let is_so = || {
            fs::read_to_string(self.group.join("cgroup.events"))
                .is_ok_and(|events| events.contains(&expected))
        };
        wait::until(&expected, LIMIT, is_so).map_err(io::Error::other)
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = self.thaw();
        let members = fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default();
        for member in members.lines() {
            let _ = fs::write(self.group.join("../cgroup.procs"), member);
        }
        // A killed process is in it until it has been reaped.
        let _ = wait::until("an empty group", LIMIT, || fs::remove_dir(&self.group).is_ok());
    }
}
