//! One machine of the lab: its own network, mount, process and host-name namespaces.
//!
//! Nothing is given a name in the host's `/run/netns`, so nothing can be left behind there. The namespaces live
//! as long as their process 1 does, and that process is a `cat` whose standard input is a pipe that only we
//! hold: when this process ends, however it ends (`kill -9` included), `cat` reads the end of the file, exits,
//! and the kernel kills what still runs in its process namespace and frees the interfaces with the network.
//!
//! ```text
//!   this process --- pipe ---> cat (process 1 of the machine)
//!        |                       keeps  net  mnt  pid  uts
//!        +-- a thread enters these, then runs a closure or spawns a command
//! ```
//!
//! The namespaces belong to a *thread*, so each entry happens on a thread of its own that ends afterwards. No
//! code ever has to restore anything. A command spawned from such a thread is a plain child: `Child::id` is the
//! process itself (there is no `nsenter` in between), so it can be killed by its own id.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::sethostname;

/// Why a machine could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// A step of making or entering the namespaces failed; `EPERM` means that this process is not root.
    #[error("{machine}: {step}: {source}{}", if source.kind() == io::ErrorKind::PermissionDenied { " (the lab needs root)" } else { "" })]
    Step {
        /// The machine's name.
        machine: String,
        /// What was being done.
        step: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A configuration command ended with a failure.
    #[error("{machine}: `{command}` failed: {stderr}")]
    Command {
        /// The machine's name.
        machine: String,
        /// The command line.
        command: String,
        /// What it printed on its standard error.
        stderr: String,
    },
}

/// A machine of the lab. Dropping it kills what runs in it and frees its interfaces.
#[derive(Debug)]
pub struct Netns {
    name: String,
    init: Mutex<Init>,
    init_id: u32,
    net: OwnedFd,
    mnt: OwnedFd,
    pid: OwnedFd,
    uts: OwnedFd,
}

#[derive(Debug)]
struct Init {
    process: Child,
    /// The only write end; closing it ends process 1.
    lifeline: Option<ChildStdin>,
}

impl Netns {
    /// Makes a machine with a fresh network (loopback up, IPv6 as `ipv6` says), private mounts (`/proc`, `/sys`
    /// of its own network, an own BPF file system at `/sys/fs/bpf`, everybody's cgroups, an empty `/run`), and an own process
    /// namespace.
    ///
    /// # Errors
    /// When the kernel refuses a namespace or a mount; usually because this process is not root.
    pub fn create(name: &str, ipv6: bool) -> Result<Self, NetnsError> {
        let machine = on_own_thread(|| Self::create_here(name))?;
        // `all` is for interfaces that exist already, `default` for those to come.
        for scope in ["all", "default"] {
            machine.sysctl_if_present(
                &format!("net/ipv6/conf/{scope}/disable_ipv6"),
                if ipv6 { "0" } else { "1" },
            )?;
            machine.sysctl_if_present(&format!("net/ipv4/conf/{scope}/rp_filter"), "0")?;
        }
        machine.ip("link set lo up")?;
        Ok(machine)
    }

    fn create_here(name: &str) -> Result<Self, NetnsError> {
        let step = |step: &str, source: io::Error| NetnsError::Step {
            machine: name.to_owned(),
            step: step.to_owned(),
            source,
        };
        let new = CloneFlags::CLONE_FS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWUTS;
        unshare(new).map_err(|e| step("unshare", e.into()))?;
        sethostname(name).map_err(|e| step("sethostname", e.into()))?;
        // Before the first mount of our own: systemd makes `/` shared, and ours must not spread to the host.
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .map_err(|e| step("making mounts private", e.into()))?;

        // procfs shows the process namespace of whoever mounts it, so process 1 has to do that itself; it waits
        // for a line because until then this thread needs the host's `/proc`, which it shares mounts with.
        let mut process = Command::new("sh")
            .args(["-c", "read -r _ && mount -n -t proc proc /proc && echo mounted && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .process_group(0)
            .current_dir("/")
            .spawn()
            .map_err(|e| step("starting process 1", e))?;
        let init_id = process.id();
        let stdout = process.stdout.take();
        let init = Mutex::new(Init { lifeline: process.stdin.take(), process });
        let open = |kind: &str| {
            File::open(format!("/proc/{init_id}/ns/{kind}"))
                .map(OwnedFd::from)
                .map_err(|e| step(&format!("opening its {kind} namespace"), e))
        };
        // A failure before this is complete closes the pipe, which ends process 1; after it, dropping it does.
        let mut machine = Self {
            name: name.to_owned(),
            init_id,
            net: open("net")?,
            mnt: open("mnt")?,
            pid: open("pid")?,
            uts: open("uts")?,
            init,
        };
        // Before `/run` is replaced: mount(8) keeps notes there.
        machine.mount_proc(stdout).map_err(|e| step("mounting proc on /proc", e))?;
        // The new `/sys` hides the mount of the cgroups, which all machines share.
        let mounts =
            [("sysfs", "/sys"), ("bpf", "/sys/fs/bpf"), ("cgroup2", "/sys/fs/cgroup"), ("tmpfs", "/run")];
        for (kind, target) in mounts {
            mount(Some(kind), target, Some(kind), MsFlags::empty(), None::<&str>)
                .map_err(|e| step(&format!("mounting {kind} on {target}"), e.into()))?;
        }
        Ok(machine)
    }

    fn mount_proc(&mut self, stdout: Option<ChildStdout>) -> io::Result<()> {
        let init = self.init.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(lifeline) = &mut init.lifeline {
            lifeline.write_all(b"go\n")?;
        }
        let mut answer = String::new();
        if let Some(stdout) = stdout {
            BufReader::new(stdout).read_line(&mut answer)?;
        }
        if answer == "mounted\n" { Ok(()) } else { Err(io::Error::other("mount(8) failed in process 1")) }
    }

    /// The name it was made with, which is also its host name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id of its process 1 as the host sees it: `nsenter -a -t ID` enters the machine by hand, and
    /// `/proc/ID/root` is its file system.
    #[must_use]
    pub fn init_id(&self) -> u32 {
        self.init_id
    }

    /// Runs `work` on a thread inside the network and mount namespaces and returns what it returns. Sockets that
    /// it opens stay in this network wherever they are used later.
    ///
    /// The working directory is `/` there, and `/proc/self` does not resolve (the thread's own process is not
    /// in the machine's process namespace).
    ///
    /// # Errors
    /// When the namespaces cannot be entered. A panic of `work` is passed on.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        on_own_thread(|| {
            self.enter(true)?;
            Ok(work())
        })
    }

    /// Spawns `command` as a process of this machine, in a process group of its own (so that a Ctrl-C on the
    /// terminal does not reach it). The child must be waited for before the machine is dropped; [`Daemon`] does.
    ///
    /// [`Daemon`]: crate::daemon::Daemon
    ///
    /// # Errors
    /// When the namespaces cannot be entered or the program cannot be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Child, NetnsError> {
        on_own_thread(|| {
            self.enter(true)?;
            command
                .process_group(0)
                .spawn()
                .map_err(|e| self.step(&format!("starting {}", command.get_program().display()), e))
        })
    }

    /// Runs `command` in this machine to its end and collects what it printed.
    ///
    /// # Errors
    /// As [`Netns::spawn`]; a failure status is not an error here.
    pub fn output(&self, command: &mut Command) -> Result<Output, NetnsError> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.spawn(command)?;
        child.wait_with_output().map_err(|e| self.step("waiting for a command", e))
    }

    /// Runs `ip` with these words in this network, in the host's process namespace: `netns ID` means the
    /// machine whose [`Netns::init_id`] is ID.
    ///
    /// # Errors
    /// When `ip` (package iproute2) is missing or fails; the error has its message.
    pub fn ip(&self, words: &str) -> Result<(), NetnsError> {
        self.configure("ip", words)
    }

    /// Runs `ethtool` with these words in this network.
    ///
    /// # Errors
    /// When `ethtool` is missing or fails; the error has its message.
    pub fn ethtool(&self, words: &str) -> Result<(), NetnsError> {
        self.configure("ethtool", words)
    }

    fn configure(&self, program: &str, words: &str) -> Result<(), NetnsError> {
        let output = on_own_thread(|| {
            self.enter(false)?;
            Command::new(program)
                .args(words.split_whitespace())
                .stdin(Stdio::null())
                .output()
                .map_err(|e| self.step(&format!("starting {program}"), e))
        })?;
        if output.status.success() {
            return Ok(());
        }
        Err(NetnsError::Command {
            machine: self.name.clone(),
            command: format!("{program} {words}"),
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    /// Writes a kernel parameter, named as its path below `/proc/sys`.
    ///
    /// # Errors
    /// When it does not exist or refuses the value.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<(), NetnsError> {
        self.run(|| std::fs::write(format!("/proc/sys/{path}"), value))?
            .map_err(|e| self.step(&format!("writing {value} to /proc/sys/{path}"), e))
    }

    /// A kernel without IPv6 has no `disable_ipv6` to write.
    fn sysctl_if_present(&self, path: &str, value: &str) -> Result<(), NetnsError> {
        match self.sysctl(path, value) {
            Err(NetnsError::Step { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// The addresses on its interfaces, as the kernel has them now.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn addresses(&self) -> Result<Vec<IpAddr>, NetnsError> {
        let read = || {
            let all = nix::ifaddrs::getifaddrs()?.filter_map(|entry| entry.address);
            Ok(all
                .filter_map(|address| {
                    let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
                    v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
                })
                .collect())
        };
        self.run(read)?.map_err(|e: nix::errno::Errno| self.step("getifaddrs", e.into()))
    }

    fn enter(&self, completely: bool) -> Result<(), NetnsError> {
        setns(&self.net, CloneFlags::CLONE_NEWNET)
            .map_err(|e| self.step("entering its network", e.into()))?;
        if completely {
            setns(&self.pid, CloneFlags::CLONE_NEWPID)
                .map_err(|e| self.step("entering its process namespace", e.into()))?;
            setns(&self.uts, CloneFlags::CLONE_NEWUTS)
                .map_err(|e| self.step("entering its host name", e.into()))?;
            // A thread shares root and working directory with its process, and setns refuses that.
            unshare(CloneFlags::CLONE_FS).map_err(|e| self.step("unsharing the root directory", e.into()))?;
            setns(&self.mnt, CloneFlags::CLONE_NEWNS)
                .map_err(|e| self.step("entering its mounts", e.into()))?;
        }
        Ok(())
    }

    /// The error of a step that failed on this machine.
    pub(crate) fn step(&self, step: &str, source: io::Error) -> NetnsError {
        NetnsError::Step { machine: self.name.clone(), step: step.to_owned(), source }
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let init = self.init.get_mut().unwrap_or_else(PoisonError::into_inner);
        drop(init.lifeline.take());
        let _ = init.process.kill();
        // Process 1 is only gone when everything in its namespace has been reaped. A child that somebody spawned
        // and never waited for would keep us here for ever, hence the limit.
        let limit = Instant::now() + Duration::from_secs(5);
        while matches!(init.process.try_wait(), Ok(None)) {
            if Instant::now() > limit {
                eprintln!("lab: {} still has unreaped processes; leaving it to the kernel", self.name);
                break;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Namespaces are a property of the thread; this one ends with its changes.
fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T, NetnsError> + Send) -> Result<T, NetnsError> {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
