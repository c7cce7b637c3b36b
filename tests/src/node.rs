//! An LB node of the lab: a machine with a real `xvip` on it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::Deserialize;

use crate::daemon::{Daemon, DaemonError, last_lines};
use crate::netns::Netns;
use crate::wait;

const ANSWERS: &str = "`xvip status` to answer";
const START_LIMIT: Duration = Duration::from_secs(20);

/// What the configuration of a node says. Keys that are `None` are not written: xvip's own defaults apply.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// `[node] name`.
    pub name: String,
    /// `[node] interface`.
    pub interface: String,
    /// `[node] xdp_mode`.
    pub xdp_mode: Option<String>,
    /// `[[service]] vip`, with its prefix length.
    pub vip: String,
    /// `[[service]] port`.
    pub port: u16,
    /// `[[service]] balance`.
    pub balance: Option<String>,
    /// `[service.health]`, except for `check`, `path` and `verify`: lines of TOML.
    pub health: Vec<String>,
    /// `[[service.backend]]`: name, address, weight.
    pub backends: Vec<(String, SocketAddr, Option<u32>)>,
    /// `[[vrrp]]` of this node; without it the VIP is always on it.
    pub vrrp: Option<VrrpConfig>,
    /// More lines of TOML at the end, whole tables (`[flows]`, `[sync]`).
    pub extra: String,
}

/// The `[[vrrp]]` of a node.
#[derive(Debug, Clone)]
pub struct VrrpConfig {
    /// `version`.
    pub version: u8,
    /// `virtual_router_id`.
    pub virtual_router_id: u8,
    /// `priority`.
    pub priority: u8,
    /// `advert_interval`, for instance `200ms`.
    pub advert_interval: Option<String>,
    /// `preempt`.
    pub preempt: Option<bool>,
    /// `unicast_source` and `unicast_peers`; without them multicast is used.
    pub unicast: Option<(IpAddr, Vec<IpAddr>)>,
    /// More keys of the table: lines of TOML.
    pub extra: Vec<String>,
}

impl NodeConfig {
    /// The configuration file.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut line = |line: String| {
            text.push_str(&line);
            text.push('\n');
        };
        line("[node]".to_owned());
        line(format!("name = {:?}", self.name));
        line(format!("interface = {:?}", self.interface));
        // The default, `/sys/fs/bpf/xvip`: the machine has a BPF file system of its own.
        if let Some(mode) = &self.xdp_mode {
            line(format!("xdp_mode = {mode:?}"));
        }
        line("\n[[service]]\nname = \"kube-apiserver\"".to_owned());
        line(format!("vip = {:?}\nport = {}\nmode = \"nat\"", self.vip, self.port));
        if let Some(balance) = &self.balance {
            line(format!("balance = {balance:?}"));
        }
        if self.vrrp.is_some() {
            line("vrrp = \"main\"".to_owned());
        }
        line("\n[service.health]\ncheck = \"https\"\npath = \"/readyz\"\nverify = \"none\"".to_owned());
        self.health.iter().cloned().for_each(&mut line);
        for (name, address, weight) in &self.backends {
            line(format!("\n[[service.backend]]\nname = {name:?}\naddress = \"{address}\""));
            if let Some(weight) = weight {
                line(format!("weight = {weight}"));
            }
        }
        if let Some(vrrp) = &self.vrrp {
            line("\n[[vrrp]]\nname = \"main\"".to_owned());
            line(format!("version = {}\nvirtual_router_id = {}", vrrp.version, vrrp.virtual_router_id));
            line(format!("priority = {}", vrrp.priority));
            if let Some(interval) = &vrrp.advert_interval {
                line(format!("advert_interval = {interval:?}"));
            }
            if let Some(preempt) = vrrp.preempt {
                line(format!("preempt = {preempt}"));
            }
            if let Some((source, peers)) = &vrrp.unicast {
                let peers: Vec<String> = peers.iter().map(|peer| format!("\"{peer}\"")).collect();
                line(format!("unicast_source = \"{source}\"\nunicast_peers = [{}]", peers.join(", ")));
            }
            vrrp.extra.iter().cloned().for_each(&mut line);
        }
        if !self.extra.is_empty() {
            let _ = write!(text, "\n{}\n", self.extra.trim_end());
        }
        text
    }
}

/// `xvip status --json`, as much of it as the lab looks at; what is missing takes its default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The node's name.
    pub node: String,
    /// Where XDP is attached.
    pub interface: InterfaceStatus,
    /// Each VRRP instance.
    pub vrrp: Vec<VrrpStatus>,
    /// Each service.
    pub services: Vec<ServiceStatus>,
    /// What became of the packets.
    pub packets: PacketStatus,
    /// The flow tables.
    pub flows: FlowStatus,
    /// Everything, as it was printed.
    #[serde(skip)]
    pub raw: serde_json::Value,
}

/// Where XDP is attached.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct InterfaceStatus {
    /// The interface.
    pub name: String,
    /// `native` or `generic`.
    pub xdp_mode: String,
}

/// One VRRP instance.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct VrrpStatus {
    /// Its name.
    pub name: String,
    /// `initialize`, `backup`, `active` or `fault`.
    pub state: String,
    /// Why it is in that state.
    pub reason: String,
    /// The priority that counts now.
    pub priority: u32,
}

/// One service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Its VIP.
    pub vip: String,
    /// Its port.
    pub port: u16,
    /// Its backends.
    pub backends: Vec<BackendStatus>,
}

/// One backend.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct BackendStatus {
    /// Its name.
    pub name: String,
    /// Its address and port.
    pub address: String,
    /// Its weight.
    pub weight: u32,
    /// `unknown`, `up` or `down`.
    pub state: String,
    /// What the last check said.
    pub reason: String,
    /// Its part of the Maglev table, 0 to 1.
    pub share: f64,
    /// Its flows.
    pub flows: BackendFlows,
}

/// The flows of one backend.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct BackendFlows {
    /// Ever.
    pub opened: u64,
    /// Now.
    pub active: u64,
}

/// What became of the packets: how many, by reason.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PacketStatus {
    /// Given to the host's own stack.
    pub passed: BTreeMap<String, u64>,
    /// Dropped.
    pub dropped: BTreeMap<String, u64>,
    /// Sent on by XDP.
    pub transmitted: BTreeMap<String, u64>,
}

/// The flow tables.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct FlowStatus {
    /// Places.
    pub max: u64,
    /// Flows whose handshake is complete.
    pub established: u64,
    /// Flows whose handshake is not.
    pub half_open: u64,
}

impl Status {
    /// The state of the first VRRP instance; empty without one.
    #[must_use]
    pub fn vrrp_state(&self) -> &str {
        self.vrrp.first().map_or("", |vrrp| vrrp.state.as_str())
    }

    /// The backends of the first service.
    #[must_use]
    pub fn backends(&self) -> &[BackendStatus] {
        self.services.first().map_or(&[], |service| &service.backends)
    }

    /// A backend of the first service.
    #[must_use]
    pub fn backend(&self, name: &str) -> Option<&BackendStatus> {
        self.backends().iter().find(|backend| backend.name == name)
    }

    /// How many backends of the first service are up.
    #[must_use]
    pub fn backends_up(&self) -> usize {
        self.backends().iter().filter(|backend| backend.state == "up").count()
    }

    /// How many packets XDP sent on, for whatever reason.
    #[must_use]
    pub fn transmitted(&self) -> u64 {
        self.packets.transmitted.values().sum()
    }
}

/// Why a node's status could not be had.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The command could not be run.
    #[error(transparent)]
    Machine(#[from] crate::netns::NetnsError),
    /// `xvip status` failed, for instance because the daemon does not run.
    #[error("{node}: xvip status: {message}")]
    Failed {
        /// The node.
        node: String,
        /// What it said.
        message: String,
    },
    /// It printed something else than we expect.
    #[error("{node}: xvip status --json: {source}")]
    Json {
        /// The node.
        node: String,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// A machine with a real `xvip`.
#[derive(Debug)]
pub struct LbNode {
    // Before its machine, which waits for its processes when it is dropped.
    daemon: Mutex<Option<Daemon>>,
    machine: Netns,
    address: IpAddr,
    vip: IpAddr,
    run_dir: PathBuf,
    program: PathBuf,
    config: Mutex<NodeConfig>,
}

impl LbNode {
    pub(crate) fn new(
        machine: Netns,
        address: IpAddr,
        vip: IpAddr,
        run_dir: &Path,
        program: &Path,
        config: NodeConfig,
    ) -> Self {
        Self {
            machine,
            address,
            vip,
            run_dir: run_dir.to_owned(),
            program: program.to_owned(),
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

    /// Its own address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
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

    /// The same, with another limit than 20 seconds.
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
            let mut command = Command::new(&self.program);
            command
                .arg("run")
                .arg("--config")
                .arg(self.config_path())
                .arg("--socket")
                .arg(self.socket_path());
            *slot = Some(Daemon::start(&self.machine, self.name(), &mut command, &self.log())?);
        }
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
    /// When it does not run, or does not end within 10 seconds (it is killed then).
    pub fn stop(&self) -> Result<(ExitStatus, Duration), DaemonError> {
        match self.daemon_mutex().take() {
            Some(daemon) => daemon.terminate(Duration::from_secs(10)),
            None => Err(self.not_running()),
        }
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
        let mut command = Command::new(&self.program);
        command.args(words).arg("--socket").arg(self.socket_path());
        self.machine.output(&mut command)
    }

    /// What `xvip status --json` says.
    ///
    /// # Errors
    /// When the daemon does not run or does not answer.
    pub fn status(&self) -> Result<Status, StatusError> {
        let output = self.xvip(&["status", "--json"])?;
        let node = || self.name().to_owned();
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(StatusError::Failed { node: node(), message });
        }
        parse_status(&output.stdout).map_err(|source| StatusError::Json { node: node(), source })
    }

    /// Whether the VIP is on an interface of this machine, whoever put it there.
    #[must_use]
    pub fn holds_vip(&self) -> bool {
        self.machine.addresses().is_ok_and(|addresses| addresses.contains(&self.vip))
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

fn parse_status(text: &[u8]) -> Result<Status, serde_json::Error> {
    let raw: serde_json::Value = serde_json::from_slice(text)?;
    let mut status: Status = serde_json::from_value(raw.clone())?;
    status.raw = raw;
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_the_keys_of_the_design_and_nothing_that_was_not_asked_for() {
        let mut config = NodeConfig {
            name: "lb1".to_owned(),
            interface: "eth0".to_owned(),
            xdp_mode: None,
            vip: "172.16.0.10/24".to_owned(),
            port: 6443,
            balance: None,
            health: vec![],
            backends: vec![("master1".to_owned(), ([172, 16, 0, 4], 6443).into(), None)],
            vrrp: Some(VrrpConfig {
                version: 3,
                virtual_router_id: 60,
                priority: 100,
                advert_interval: None,
                preempt: None,
                unicast: Some(([172, 16, 0, 2].into(), vec![[172, 16, 0, 3].into()])),
                extra: vec![],
            }),
            extra: String::new(),
        };
        let expected = r#"[node]
name = "lb1"
interface = "eth0"

[[service]]
name = "kube-apiserver"
vip = "172.16.0.10/24"
port = 6443
mode = "nat"
vrrp = "main"

[service.health]
check = "https"
path = "/readyz"
verify = "none"

[[service.backend]]
name = "master1"
address = "172.16.0.4:6443"

[[vrrp]]
name = "main"
version = 3
virtual_router_id = 60
priority = 100
unicast_source = "172.16.0.2"
unicast_peers = ["172.16.0.3"]
"#;
        assert_eq!(config.to_toml(), expected);
        config.health = vec!["fall = 3".to_owned()];
        config.extra = "[flows]\nmax = 64".to_owned();
        let text = config.to_toml();
        assert!(text.contains("verify = \"none\"\nfall = 3\n\n[[service.backend]]"), "{text}");
        assert!(text.ends_with("\n\n[flows]\nmax = 64\n"), "{text}");
    }

    #[test]
    fn status_reads_what_it_knows_and_keeps_the_rest() {
        let text = br#"{"node":"lb1","interface":{"name":"eth0","xdp_mode":"native","mtu":1500},
            "vrrp":[{"name":"main","state":"active","since":"x","reason":"no advert","priority":100}],
            "services":[{"name":"s","vip":"172.16.0.10","port":6443,"backends":[
                {"name":"master1","state":"up","share":0.5,"flows":{"opened":7,"active":2}},
                {"name":"master2","state":"down","share":0.0}]}],
            "packets":{"transmitted":{"to-backend":3,"to-client":4}}}"#;
        let status = parse_status(text).unwrap();
        assert_eq!((status.vrrp_state(), status.backends_up(), status.transmitted()), ("active", 1, 7));
        assert_eq!(status.backend("master1").map(|b| (b.flows.opened, b.share)), Some((7, 0.5)));
        assert_eq!(status.raw["interface"]["mtu"], 1500);
        assert!(parse_status(b"not json").is_err());
    }
}
