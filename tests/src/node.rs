//! An LB node of the lab: a machine with a real `xvip` on it.

mod config;
mod status;

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::addresses::Family;
use crate::daemon::{Daemon, DaemonError, last_lines};
use crate::master::Place;
use crate::netns::Netns;
use crate::wait;

use status::parse_status;

pub use config::{BackendConfig, NodeConfig, ServiceConfig, VrrpConfig};
pub use status::{
    AdminStatus, BackendFlows, BackendStatus, FlowStatus, InterfaceStatus, LastRebalance, PacketStatus,
    RebalanceStatus, ServiceStatus, Status, StatusError, VrrpStatus,
};

const ANSWERS: &str = "`xvip status` to answer";
/// Generous: on a busy machine the kernel takes its time to verify the programs.
const START_LIMIT: Duration = Duration::from_secs(180);
/// As generous: a test that promises more measures how long it took.
const END_LIMIT: Duration = Duration::from_secs(60);

/// A machine with a real `xvip`.
#[derive(Debug)]
pub struct LbNode {
    // Before its machine, which waits for its processes when it is dropped.
    daemon: Mutex<Option<Daemon>>,
    machine: Arc<Netns>,
    place: Place,
    vip: IpAddr,
    run_dir: PathBuf,
    program: Mutex<PathBuf>,
    config: Mutex<NodeConfig>,
}

impl LbNode {
    pub(crate) fn new(
        machine: Arc<Netns>,
        place: Place,
        vip: IpAddr,
        run_dir: &Path,
        program: &Path,
        config: NodeConfig,
    ) -> Self {
        Self {
            machine,
            place,
            vip,
            run_dir: run_dir.to_owned(),
            program: Mutex::new(program.to_owned()),
            config: Mutex::new(config),
            daemon: Mutex::new(None),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.machine.name()
    }

    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &Netns {
        &self.machine
    }

    /// Its own address (IPv4) in the network that the VIP is in.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address_of(Family::V4)
    }

    /// Its own address of this family in the network that the VIP is in.
    #[must_use]
    pub fn address_of(&self, family: Family) -> IpAddr {
        self.place.address(family)
    }

    pub(crate) fn shared_machine(&self) -> (Arc<Netns>, Place) {
        (self.machine.clone(), self.place)
    }

    /// Its configuration file.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.run_dir.join(format!("{}.toml", self.name()))
    }

    /// Its control socket; it can be used from outside of the machine, too.
    #[must_use]
    pub fn socket_path(&self) -> PathBuf {
        self.run_dir.join(format!("{}.sock", self.name()))
    }

    /// The daemon's log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.run_dir.join(format!("{}.log", self.name()))
    }

    /// What the next [`LbNode::start`] will write to the configuration file.
    #[must_use]
    pub fn config(&self) -> NodeConfig {
        self.config_mutex().clone()
    }

    /// Changes the configuration and writes the file; a running daemon learns of it by [`LbNode::xvip`]
    /// `(&["reload"])`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn configure(&self, change: impl FnOnce(&mut NodeConfig)) -> io::Result<()> {
        let mut config = self.config_mutex();
        change(&mut config);
        fs::write(self.config_path(), config.to_toml())
    }

    /// Starts the daemon, unless it runs, and waits until it answers on its control socket.
    ///
    /// # Errors
    /// When it does not come up; the error has the end of its log.
    pub fn start(&self) -> Result<(), DaemonError> {
        self.start_within(START_LIMIT)
    }

    /// The same, with another limit than three minutes.
    ///
    /// # Errors
    /// As [`LbNode::start`].
    pub fn start_within(&self, limit: Duration) -> Result<(), DaemonError> {
        {
            let mut slot = self.daemon_mutex();
            if slot.as_mut().is_some_and(Daemon::is_running) {
                return Ok(());
            }
            self.configure(|_| ())
                .map_err(|source| DaemonError::Io { name: self.name().to_owned(), source })?;
            *slot = Some(Daemon::start(&self.machine, self.name(), &mut self.run_command(), &self.log())?);
        }
        self.wait_answers(limit)
    }

    fn run_command(&self) -> Command {
        let mut command = Command::new(self.program());
        command.arg("run").arg("--config").arg(self.config_path()).arg("--socket").arg(self.socket_path());
        command.env("STATE_DIRECTORY", self.state_dir());
        command
    }

    fn wait_answers(&self, limit: Duration) -> Result<(), DaemonError> {
        // Without the lock: others may want to know meanwhile whether it runs.
        let answers = wait::value(ANSWERS, limit, || {
            if self.is_running() { self.status().is_ok().then_some(true) } else { Some(false) }
        });
        match (answers, self.daemon_mutex().as_mut()) {
            (Ok(true), _) => Ok(()),
            (_, Some(daemon)) => daemon.wait_ready(ANSWERS, Duration::ZERO, || false),
            (_, None) => Err(self.not_running()),
        }
    }

    /// Kills the daemon with `kill -9`. What it attached, pinned and configured stays, as on a real node.
    pub fn kill(&self) {
        if let Some(daemon) = self.daemon_mutex().take() {
            daemon.kill();
        }
    }

    /// Stops the daemon with `SIGTERM`: how it ended, and how long that took.
    ///
    /// # Errors
    /// When it does not run, or does not end within a minute (it is killed then).
    pub fn stop(&self) -> Result<(ExitStatus, Duration), DaemonError> {
        match self.daemon_mutex().take() {
            Some(daemon) => daemon.terminate(END_LIMIT),
            None => Err(self.not_running()),
        }
    }

    /// Lets the daemon leave to a successor (`SIGUSR2`): how it ended, and how long that took.
    ///
    /// # Errors
    /// As [`LbNode::stop`].
    pub fn leave(&self) -> Result<(ExitStatus, Duration), DaemonError> {
        match self.daemon_mutex().take() {
            Some(daemon) => daemon.end_by(Signal::SIGUSR2, END_LIMIT),
            None => Err(self.not_running()),
        }
    }

    /// Starts a daemon that replaces the one that runs (`xvip run --replace`), and waits until it answers.
    ///
    /// # Errors
    /// As [`LbNode::start`], or when the one that runs does not end.
    pub fn replace(&self) -> Result<(), DaemonError> {
        let begin = Instant::now();
        let mut command = self.run_command();
        command.arg("--replace");
        let successor = Daemon::start(&self.machine, self.name(), &mut command, &self.log())?;
        let former = self.daemon_mutex().replace(successor);
        if let Some(former) = former {
            former.ended_within(begin, START_LIMIT)?;
        }
        self.wait_answers(START_LIMIT)
    }

    /// Has another `xvip` run from the next start on.
    pub fn use_program(&self, program: &Path) {
        *self.program.lock().unwrap_or_else(PoisonError::into_inner) = program.to_owned();
    }

    /// The `xvip` that runs, or will.
    #[must_use]
    pub fn program(&self) -> PathBuf {
        self.program.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends the daemon a signal; `SIGSTOP` and `SIGCONT` make a hung node of it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<(), DaemonError> {
        match self.daemon_mutex().as_mut() {
            Some(daemon) => daemon.signal(signal),
            None => Err(self.not_running()),
        }
    }

    fn not_running(&self) -> DaemonError {
        DaemonError::Io { name: self.name().to_owned(), source: io::ErrorKind::NotFound.into() }
    }

    /// Whether the daemon runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.daemon_mutex().as_mut().is_some_and(Daemon::is_running)
    }

    /// The daemon's process id, as the host sees it.
    #[must_use]
    pub fn daemon_id(&self) -> Option<u32> {
        self.daemon_mutex().as_ref().map(Daemon::id)
    }

    /// Runs `xvip WORDS --socket SOCKET` on the machine and collects what it prints.
    ///
    /// # Errors
    /// When it cannot be started; a failure status is not an error here.
    pub fn xvip(&self, words: &[&str]) -> Result<Output, crate::netns::NetnsError> {
        let mut command = Command::new(self.program());
        command.args(words).arg("--socket").arg(self.socket_path());
        command.env("STATE_DIRECTORY", self.state_dir());
        self.machine.output(&mut command)
    }

    /// Where the daemon keeps what outlives it.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.run_dir.join(format!("{}.state", self.name()))
    }

    /// The same with `--config FILE`, too.
    ///
    /// # Errors
    /// As [`LbNode::xvip`].
    pub fn xvip_with_config(&self, words: &[&str]) -> Result<Output, crate::netns::NetnsError> {
        self.machine.output(self.tool(words).arg("--socket").arg(self.socket_path()))
    }

    /// The command `xvip WORDS --config FILE`, to be run on the machine: for the tools that need no daemon.
    #[must_use]
    pub fn tool(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.program());
        command.args(words).arg("--config").arg(self.config_path());
        command.env("STATE_DIRECTORY", self.state_dir());
        command
    }

    /// What `xvip status --json` says.
    ///
    /// # Errors
    /// When the daemon does not run or does not answer.
    pub fn status(&self) -> Result<Status, StatusError> {
        let node = || self.name().to_owned();
        // Where nobody can answer, the maps need not be read for it.
        if !self.socket_path().exists() {
            return Err(StatusError::Failed { node: node(), message: "nobody listens".to_owned() });
        }
        let output = self.xvip(&["status", "--json"])?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(StatusError::Failed { node: node(), message });
        }
        let status =
            parse_status(&output.stdout).map_err(|source| StatusError::Json { node: node(), source })?;
        if status.raw["daemon"] == "down" {
            let message = "the daemon is down; its maps tell something".to_owned();
            return Err(StatusError::Failed { node: node(), message });
        }
        Ok(status)
    }

    /// Whether the VIP (of the lab's first family) is on an interface of this machine, whoever put it there.
    #[must_use]
    pub fn holds_vip(&self) -> bool {
        self.holds(self.vip)
    }

    /// Whether this address is on an interface of this machine, whoever put it there.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        self.machine.addresses().is_ok_and(|addresses| addresses.contains(&address))
    }

    /// The end of the daemon's log.
    #[must_use]
    pub fn last_lines(&self) -> String {
        last_lines(&self.log(), 20)
    }

    fn config_mutex(&self) -> MutexGuard<'_, NodeConfig> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn daemon_mutex(&self) -> MutexGuard<'_, Option<Daemon>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
