//! A long-running process on a machine of the lab, with its log, that never outlives its handle.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::netns::{Netns, NetnsError};
use crate::wait;

/// Why a process could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The machine refused.
    #[error(transparent)]
    Machine(#[from] NetnsError),
    /// Its log could not be opened, or it could not be signalled or waited for.
    #[error("{name}: {source}")]
    Io {
        /// The process.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// It ended although it should not have.
    #[error("{name} ended early ({status}); the end of its log:\n{log}")]
    Ended {
        /// The process.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines that it logged.
        log: String,
    },
    /// It did not become ready, or did not end, in time.
    #[error("{name}: {timed_out}; the end of its log:\n{log}")]
    TimedOut {
        /// The process.
        name: String,
        /// What was waited for.
        timed_out: wait::TimedOut,
        /// The last lines that it logged.
        log: String,
    },
}

/// A running process. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command` on `machine`; both its outputs are appended to the file `log`.
    ///
    /// # Errors
    /// When the log or the program cannot be opened.
    pub fn start(
        machine: &Netns,
        name: &str,
        command: &mut Command,
        log: &Path,
    ) -> Result<Self, DaemonError> {
        let io = |source| DaemonError::Io { name: name.to_owned(), source };
        let file = OpenOptions::new().create(true).append(true).open(log).map_err(io)?;
        command.stdin(Stdio::null()).stdout(file.try_clone().map_err(io)?).stderr(file);
        let child = machine.spawn(command)?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Its process id, as the host sees it.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it is still there.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until `ready` is true.
    ///
    /// # Errors
    /// When the process ends before that, or the limit passes.
    pub fn wait_ready(
        &mut self,
        what: &str,
        limit: Duration,
        mut ready: impl FnMut() -> bool,
    ) -> Result<(), DaemonError> {
        let ended = wait::value(what, limit, || match self.child.try_wait() {
            Ok(Some(status)) => Some(Some(status)),
            _ => ready().then_some(None),
        });
        match ended {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                Err(DaemonError::Ended { name: self.name.clone(), status, log: last_lines(&self.log, 20) })
            }
            Err(timed_out) => {
                let log = last_lines(&self.log, 20);
                Err(DaemonError::TimedOut { name: self.name.clone(), timed_out, log })
            }
        }
    }

    /// Sends a signal; `SIGSTOP` and `SIGCONT` make a hung process of it.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn signal(&mut self, signal: Signal) -> Result<(), DaemonError> {
        // Once reaped, the id may be somebody else's.
        let sent = if self.is_running() {
            kill(Pid::from_raw(self.child.id().cast_signed()), signal)
        } else {
            Err(Errno::ESRCH)
        };
        sent.map_err(|e| DaemonError::Io { name: self.name.clone(), source: e.into() })
    }

    /// `kill -9`, and reaps it.
    pub fn kill(mut self) {
        self.kill_and_reap();
    }

    /// `SIGTERM`, and waits for the end: how it ended, and how long that took. It is killed when it does not end
    /// within `limit`.
    ///
    /// # Errors
    /// When it had to be killed.
    pub fn terminate(self, limit: Duration) -> Result<(ExitStatus, Duration), DaemonError> {
        self.end_by(Signal::SIGTERM, limit)
    }

    /// The same with another signal.
    ///
    /// # Errors
    /// When it had to be killed.
    pub fn end_by(mut self, signal: Signal, limit: Duration) -> Result<(ExitStatus, Duration), DaemonError> {
        let begin = Instant::now();
        self.signal(signal)?;
        self.ended_within(begin, limit)
    }

    /// Waits for the end of one that was told to end since `begin`; as [`Daemon::terminate`].
    ///
    /// # Errors
    /// When it had to be killed.
    pub fn ended_within(
        mut self,
        begin: Instant,
        limit: Duration,
    ) -> Result<(ExitStatus, Duration), DaemonError> {
        match wait::value("its end", limit, || self.child.try_wait().transpose()) {
            Ok(Ok(status)) => Ok((status, begin.elapsed())),
            Ok(Err(source)) => Err(DaemonError::Io { name: self.name.clone(), source }),
            Err(timed_out) => Err(DaemonError::TimedOut {
                name: self.name.clone(),
                timed_out,
                log: last_lines(&self.log, 20),
            }),
        }
    }

    fn kill_and_reap(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill_and_reap();
    }
}

/// The last `count` lines of a log, each indented; empty when there is none.
#[must_use]
pub fn last_lines(log: &Path, count: usize) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|line| format!("    {line}\n")).collect()
}
