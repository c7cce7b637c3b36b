//! A Debian 12 of its own on a machine of the lab, with systemd as its process 1: what a package does, and what a unit allows,
//! is seen there as on a real node.
//!
//! ```text
//!   base (debootstrap, once) -- overlay --> root --> systemd: process 1 of a further process namespace
//!   machine's network -----------------------------^        its own mounts, cgroups, /run, BPF file system
//! ```
//!
//! What is written there is in memory, and gone with the [`System`].

pub mod base;
pub mod service;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::netns::{Netns, NetnsError};
use crate::wait::{self, TimedOut};

/// Until systemd is up; generous, since the machine may be busy.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// Until all that it started is gone.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Makes the root and becomes systemd. Arguments: the base, a directory to mount on.
const START: &str = r#"set -e
base=$1 at=$2
mount --make-rprivate /
mount -t tmpfs -o size=2g,mode=755 system "$at"
mkdir "$at/upper" "$at/work" "$at/root"
mount -t overlay -o "lowerdir=$base,upperdir=$at/upper,workdir=$at/work" root "$at/root"
cd "$at/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t bpf -o nosuid,nodev,noexec,mode=700 bpf sys/fs/bpf
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 dev dev
mknod -m 666 dev/null c 1 3; mknod -m 666 dev/zero c 1 5; mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8; mknod -m 666 dev/urandom c 1 9; mknod -m 666 dev/tty c 5 0
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
mkdir -p old
pivot_root . old
umount -l /old
exec env -i container=xvip-lab PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=basic.target
"#;

/// Why there is no such system, or why it did not do as told.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    /// The machine refused.
    #[error(transparent)]
    Machine(#[from] NetnsError),
    /// Its base could not be made.
    #[error(transparent)]
    Base(#[from] base::BaseError),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// systemd has not come up.
    #[error("systemd did not start: {0}")]
    Boot(String),
    /// A command failed.
    #[error("`{command}`: {output}")]
    Command {
        /// What was run.
        command: String,
        /// What it printed.
        output: String,
    },
    /// Something did not happen in time.
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
}

/// A running system; ends when dropped.
#[derive(Debug)]
pub struct System {
    /// `unshare`, which waits for systemd.
    parent: Child,
    /// systemd, as the host sees it.
    init: u32,
    cgroup: PathBuf,
}

impl System {
    /// Starts systemd on a machine and waits until it is up. `directory` is an empty one, on the host's disk.
    ///
    /// # Errors
    /// Something of it is refused.
    pub fn boot(machine: &Netns, base: &Path, directory: &Path) -> Result<Self, SystemError> {
        fs::create_dir_all(directory).map_err(at(directory))?;
        let log = directory.with_extension("log");
        let output = fs::File::create(&log).map_err(at(&log))?;
        let errors = output.try_clone().map_err(at(&log))?;
        // Before the name space of cgroups is made: its root is where its first process is then.
        let name = format!("xvip-system-{}-{}", std::process::id(), machine.init_id());
        let script = format!(
            "mkdir -p /sys/fs/cgroup/{name} && echo $$ > /sys/fs/cgroup/{name}/cgroup.procs && \
             exec unshare --mount --pid --fork --kill-child --cgroup --uts --ipc sh -c \"$3\" sh \"$1\" \"$2\""
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).arg(base).arg(directory).arg(START);
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let parent = machine.spawn(&mut command)?;
        let cgroup = PathBuf::from(format!("/proc/{}/root/sys/fs/cgroup/{name}", machine.init_id()));
        let mut system = Self { parent, init: 0, cgroup };
        let why = || fs::read_to_string(&log).unwrap_or_default();
        let children = format!("/proc/{0}/task/{0}/children", system.parent.id());
        system.init = wait::value("systemd to be started", BOOT_LIMIT, || {
            let child = fs::read_to_string(&children).ok()?.split_whitespace().next()?.parse().ok()?;
            // Until then it is a shell, or what that has run before.
            let name = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
            (name.trim_end() == "systemd").then_some(child)
        })
        .map_err(|_| SystemError::Boot(why()))?;
        wait::until("systemd to be up", BOOT_LIMIT, || {
            let state = system.output(&["systemctl", "is-system-running"]);
            state.is_ok_and(|state| {
                let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
                // A unit that does not work in a name space is none of ours.
                state == "running" || state == "degraded"
            })
        })
        .map_err(|_| {
            let asked = ["is-system-running", "list-jobs", "--failed"].map(|what| {
                let said = system.output(&["systemctl", "--no-pager", what]);
                said.map(|said| String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned())
                    .unwrap_or_else(|error| error.to_string())
            });
            SystemError::Boot(format!("{}\n{}", why(), asked.join("\n")))
        })?;
        Ok(system)
    }

    /// Where a file of it is, as the host sees it.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// Writes a file, as root's.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> Result<(), SystemError> {
        let path = self.path(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(at(parent))?;
        }
        fs::write(&path, content).map_err(at(&path))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self, path: &str) -> Result<String, SystemError> {
        let path = self.path(path);
        fs::read_to_string(&path).map_err(at(&path))
    }

    /// Runs a command as root and collects what it prints; a failure status is not an error here.
    ///
    /// # Errors
    /// It could not be started.
    pub fn output(&self, words: &[&str]) -> Result<Output, SystemError> {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.init.to_string());
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--", "env", "-i"]);
        command.args([
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "DEBIAN_FRONTEND=noninteractive",
            "LC_ALL=C.UTF-8",
        ]);
        command.args(words).stdin(Stdio::null());
        command.output().map_err(at(Path::new("nsenter")))
    }

    /// Runs a command that is expected to succeed: what it printed, errors included.
    ///
    /// # Errors
    /// It failed.
    pub fn run(&self, words: &[&str]) -> Result<String, SystemError> {
        let output = self.output(words)?;
        let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
        said += &String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            Ok(said)
        } else {
            Err(SystemError::Command { command: words.join(" "), output: said })
        }
    }

    /// A property of a unit, as `systemctl show` has it.
    ///
    /// # Errors
    /// systemd does not answer.
    pub fn property(&self, unit: &str, property: &str) -> Result<String, SystemError> {
        let option = format!("--property={property}");
        self.run(&["systemctl", "show", "--value", &option, unit]).map(|value| value.trim().to_owned())
    }

    /// The end of what a unit logged.
    #[must_use]
    pub fn journal(&self, unit: &str) -> String {
        let words = ["journalctl", "--no-pager", "--output=cat", "--lines=60", "--unit", unit];
        self.run(&words).unwrap_or_else(|error| error.to_string())
    }
}

impl Drop for System {
    fn drop(&mut self) {
        // `unshare` takes systemd with it (--kill-child), and process 1 all others.
        let _ = self.parent.kill();
        let _ = self.parent.wait();
        let limit = Instant::now() + END_LIMIT;
        while !remove_cgroups(&self.cgroup) && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Removes a cgroup with those below it, once they are empty.
fn remove_cgroups(path: &Path) -> bool {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&entry.path());
        }
    }
    match fs::remove_dir(path) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> SystemError + '_ {
    move |source| SystemError::File { path: path.to_owned(), source }
}
