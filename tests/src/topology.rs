//! The network of the lab, addressed like the customers' networks.
//!
//! ```text
//!   client .100     lb1 .2     lb2 .3     master1 .4   master2 .5   master3 .6        172.16.0.0/24
//!      eth0          eth0       eth0         eth0         eth0         eth0           VIP 172.16.0.10/24
//!       |             |          |            |            |            |
//!    p-client       p-lb1*     p-lb2*     p-master1    p-master2    p-master3         * XDP_PASS stub
//!   +---+-------------+----------+------------+------------+------------+---+
//!   |                        br0 (machine "switch")                         |
//!   +-----------------------------------------------------------------------+
//! ```
//!
//! Every machine has namespaces of its own ([`Netns`]); interfaces are made inside them, so that no name is ever
//! seen by the host or by another run, and no packet leaves. Transmit checksums and segmentation are done in
//! software before a frame enters a veth: a program that rewrites an address in a frame with a partial checksum
//! would send a wrong one.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::certificates::{Authority, CertificateError};
use crate::daemon::DaemonError;
use crate::master::Master;
use crate::measure::ClientProcess;
use crate::netns::{Netns, NetnsError};
use crate::node::{LbNode, NodeConfig, VrrpConfig};
use crate::run_dir::RunDir;
use crate::wait::{self, TimedOut};
use crate::xdp_stub::{Action, XdpStub};

/// The virtual address.
pub const VIP: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 10);
/// The port of the service and, unless chosen otherwise, of the API servers.
pub const API_PORT: u16 = 6443;
/// The prefix length of the network.
pub const PREFIX_LENGTH: u8 = 24;

const FIRST_LB: u8 = 2;
const FIRST_MASTER: u8 = 4;
const CLIENT: u8 = 100;

/// Why the lab could not be built or changed.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A machine refused.
    #[error(transparent)]
    Machine(#[from] NetnsError),
    /// A process on a machine failed.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// The certificates could not be made.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Something did not happen in time.
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
    /// The run's files could not be written.
    #[error("files of the lab: {0}")]
    Files(#[from] io::Error),
    /// The stub that lets a veth transmit from XDP could not be attached.
    #[error("attaching the XDP stub at {machine}'s cable: {source}")]
    Stub {
        /// The machine.
        machine: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A program of ours is not where it should be.
    #[error("{program} not found ({looked_at}); build it with `cargo build`, or set {variable}")]
    NoProgram {
        /// Its name.
        program: &'static str,
        /// The place.
        looked_at: String,
        /// The environment variable that names another place.
        variable: &'static str,
    },
    /// The network has room for two LBs and six masters.
    #[error("no room for {lbs} LBs and {masters} masters: at most 2 and 6")]
    NoRoom {
        /// LBs asked for.
        lbs: u8,
        /// Masters asked for.
        masters: u8,
    },
    /// There is no machine of that name on the switch.
    #[error("no machine {0:?} in the lab")]
    NoMachine(String),
}

/// What kind of lab to build.
#[derive(Debug, Clone)]
pub struct LabBuilder {
    lbs: u8,
    masters: u8,
    api_port: u16,
    multicast: bool,
    ipv6: bool,
    stubs: bool,
    patience: u32,
}

impl LabBuilder {
    /// How many LB nodes (2).
    #[must_use]
    pub fn lbs(mut self, count: u8) -> Self {
        self.lbs = count;
        self
    }

    /// How many API servers (3).
    #[must_use]
    pub fn masters(mut self, count: u8) -> Self {
        self.masters = count;
        self
    }

    /// The port that the API servers listen on ([`API_PORT`]); the service's stays [`API_PORT`].
    #[must_use]
    pub fn api_port(mut self, port: u16) -> Self {
        self.api_port = port;
        self
    }

    /// VRRP by multicast instead of unicast.
    #[must_use]
    pub fn multicast(mut self) -> Self {
        self.multicast = true;
        self
    }

    /// No XDP stub at the switch's end of the LB nodes' cables: what they transmit in native mode is lost.
    #[must_use]
    pub fn without_stubs(mut self) -> Self {
        self.stubs = false;
        self
    }

    /// Multiplies the limits of [`Lab::start_lbs`]: for a slow machine.
    #[must_use]
    pub fn patience(mut self, factor: u32) -> Self {
        self.patience = factor;
        self
    }

    /// Leaves IPv6 on; without this no neighbour discovery disturbs.
    #[must_use]
    pub fn ipv6(mut self) -> Self {
        self.ipv6 = true;
        self
    }

    /// Builds the network and starts the API servers. The LB nodes are there and configured, but their daemons do
    /// not run yet: see [`Lab::start_lbs`].
    ///
    /// # Errors
    /// When this process is not root, a program is missing, or the kernel cannot do it.
    pub fn build(self) -> Result<Lab, LabError> {
        if self.lbs > FIRST_MASTER - FIRST_LB || self.masters > VIP.octets()[3] - FIRST_MASTER {
            return Err(LabError::NoRoom { lbs: self.lbs, masters: self.masters });
        }
        let lab_program = find_program("xvip-lab", "XVIP_LAB_BIN")?;
        // Only labs with LB nodes need it.
        let xvip = if self.lbs == 0 { PathBuf::new() } else { find_program("xvip", "XVIP_BIN")? };
        let run_dir = RunDir::create()?;
        let authority = Authority::create(run_dir.path())?;
        let switch = Netns::create("switch", self.ipv6)?;
        switch.ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0")?;
        switch.ip("link set br0 up")?;
        let network = Network { switch, ports: Mutex::new(BTreeMap::new()), ipv6: self.ipv6 };

        let client = network.machine("client", host(CLIENT), false)?;
        let mut masters = Vec::new();
        for n in 0..self.masters {
            let name = format!("master{}", n + 1);
            let address = host(FIRST_MASTER + n);
            let machine = network.machine(&name, address, false)?;
            let certificate =
                authority.sign_server(&name, &[VIP.into(), address.into(), Ipv4Addr::LOCALHOST.into()])?;
            let socket = SocketAddr::new(address.into(), self.api_port);
            let master = Master::new(machine, socket, certificate, run_dir.path(), &lab_program);
            master.start()?;
            masters.push(master);
        }
        let mut lbs = Vec::new();
        for n in 0..self.lbs {
            let name = format!("lb{}", n + 1);
            let address = host(FIRST_LB + n);
            let machine = network.machine(&name, address, self.stubs)?;
            machine.sysctl("net/ipv4/ip_forward", "0")?;
            let config = self.node_config(&name, n, &masters);
            let node = LbNode::new(machine, address.into(), VIP.into(), run_dir.path(), &xvip, config);
            node.configure(|_| ())?;
            lbs.push(node);
        }
        Ok(Lab { lbs, masters, client, network, authority, lab_program, run_dir, patience: self.patience })
    }

    fn node_config(&self, name: &str, n: u8, masters: &[Master]) -> NodeConfig {
        let peers =
            (0..self.lbs).filter(|peer| *peer != n).map(|peer| host(FIRST_LB + peer).into()).collect();
        NodeConfig {
            name: name.to_owned(),
            interface: "eth0".to_owned(),
            xdp_mode: None,
            vip: format!("{VIP}/{PREFIX_LENGTH}"),
            port: API_PORT,
            balance: None,
            health: vec![],
            backends: masters.iter().map(|m| (m.name().to_owned(), m.socket_address(), None)).collect(),
            vrrp: Some(VrrpConfig {
                version: 3,
                virtual_router_id: 60,
                priority: 100 - 10 * n,
                advert_interval: None,
                preempt: None,
                unicast: (!self.multicast).then(|| (host(FIRST_LB + n).into(), peers)),
                extra: vec![],
            }),
            extra: String::new(),
        }
    }
}

/// The lab. Dropping it kills every process and frees every interface; if that happens because a test panicked,
/// the ends of all logs are printed first.
pub struct Lab {
    // In the order of teardown: processes before the switch, everything before its files.
    lbs: Vec<LbNode>,
    masters: Vec<Master>,
    client: Netns,
    network: Network,
    authority: Authority,
    lab_program: PathBuf,
    run_dir: RunDir,
    patience: u32,
}

/// How the request loop of [`Lab::load`] asks.
#[derive(Debug, Clone)]
pub struct Load {
    /// What to ask for; `None`: `/version` at the VIP.
    pub url: Option<String>,
    /// From one request to the next (20 ms).
    pub interval: Duration,
    /// After which a request has failed (1 s).
    pub timeout: Duration,
    /// Requests that may be open at once (100).
    pub in_flight: usize,
    /// Stop after so many; `None`: never.
    pub count: Option<u64>,
    /// Speak HTTP/2.
    pub http2: bool,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            url: None,
            interval: Duration::from_millis(20),
            timeout: Duration::from_secs(1),
            in_flight: 100,
            count: None,
            http2: false,
        }
    }
}

impl Lab {
    /// Two LB nodes, three API servers, unicast VRRP, IPv4.
    #[must_use]
    pub fn builder() -> LabBuilder {
        LabBuilder {
            lbs: 2,
            masters: 3,
            api_port: API_PORT,
            multicast: false,
            ipv6: false,
            stubs: true,
            patience: 1,
        }
    }

    /// The LB nodes; `lb1` has the higher priority.
    #[must_use]
    pub fn lbs(&self) -> &[LbNode] {
        &self.lbs
    }

    /// LB node number `index`, from 0. Panics when there is none.
    #[must_use]
    pub fn lb(&self, index: usize) -> &LbNode {
        &self.lbs[index]
    }

    /// The API servers.
    #[must_use]
    pub fn masters(&self) -> &[Master] {
        &self.masters
    }

    /// API server number `index`, from 0. Panics when there is none.
    #[must_use]
    pub fn master(&self, index: usize) -> &Master {
        &self.masters[index]
    }

    /// The client's machine.
    #[must_use]
    pub fn client(&self) -> &Netns {
        &self.client
    }

    /// The switch's machine, where the other ends of all cables are (`p-NAME`).
    #[must_use]
    pub fn switch(&self) -> &Netns {
        &self.network.switch
    }

    /// The directory with the run's files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.run_dir.path()
    }

    /// The certificate of the authority that signed the API servers' certificates (PEM).
    #[must_use]
    pub fn ca(&self) -> &Path {
        self.authority.path()
    }

    /// The URL of a path at the VIP.
    #[must_use]
    pub fn vip_url(&self, path: &str) -> String {
        format!("https://{VIP}:{API_PORT}{path}")
    }

    /// The URL of a path at one API server, past the LBs.
    #[must_use]
    pub fn master_url(&self, index: usize, path: &str) -> String {
        format!("https://{}{path}", self.masters[index].socket_address())
    }

    /// Starts all LB daemons and waits until one of them owns the VIP, all running backends are up on all nodes,
    /// and the VIP answers.
    ///
    /// # Errors
    /// When a daemon does not start, or that state is not reached within 20 seconds (times
    /// [`LabBuilder::patience`]).
    pub fn start_lbs(&self) -> Result<(), LabError> {
        let limit = Duration::from_secs(20) * self.patience;
        for lb in &self.lbs {
            lb.start_within(limit)?;
        }
        let ready = self.masters.iter().filter(|master| master.is_running() && master.is_ready()).count();
        for lb in &self.lbs {
            wait::until(&format!("{ready} backends up on {}", lb.name()), limit, || {
                lb.status().is_ok_and(|status| status.backends_up() == ready)
            })?;
        }
        self.wait_owner(None, limit)?;
        wait::until("the VIP to answer", limit, || {
            self.curl(&["--max-time", &self.patience.to_string(), &self.vip_url("/version")])
                .is_ok_and(|output| output.status.success())
        })?;
        Ok(())
    }

    /// The LB node whose running daemon says that it is active and that has the VIP on its interface.
    #[must_use]
    pub fn owner(&self) -> Option<&LbNode> {
        let mut owners = self.lbs.iter().filter(|lb| {
            lb.is_running()
                && lb.holds_vip()
                && lb.status().is_ok_and(|status| status.vrrp_state() == "active")
        });
        // Two of them at the same moment own nothing.
        owners.next().filter(|_| owners.next().is_none())
    }

    /// Waits until exactly one node owns the VIP, the given one if there is one given, and returns it.
    ///
    /// # Errors
    /// When that takes longer than `limit`.
    pub fn wait_owner(&self, name: Option<&str>, limit: Duration) -> Result<&LbNode, TimedOut> {
        let what = format!("{} to own the VIP alone", name.unwrap_or("one LB"));
        wait::value(&what, limit, || self.owner().filter(|lb| name.is_none_or(|name| lb.name() == name)))
    }

    /// Starts a request loop on the client.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn load(&self, load: &Load) -> Result<ClientProcess, LabError> {
        let mut command = self.client_command("load", load.url.as_deref(), "/version", load.http2);
        command
            .args(["--interval-ms", &load.interval.as_millis().to_string()])
            .args(["--timeout-ms", &load.timeout.as_millis().to_string()])
            .args(["--in-flight", &load.in_flight.to_string()])
            .args(["--count", &load.count.unwrap_or(0).to_string()]);
        self.start_client(&mut command)
    }

    /// Starts watch streams on the client: at `url`, or at the VIP.
    ///
    /// # Errors
    /// When they cannot be started.
    pub fn watch(
        &self,
        url: Option<&str>,
        streams: u32,
        silence: Duration,
    ) -> Result<ClientProcess, LabError> {
        let mut command = self.client_command("watch", url, "/api/v1/watch", false);
        command
            .args(["--streams", &streams.to_string()])
            .args(["--silence-ms", &silence.as_millis().to_string()]);
        self.start_client(&mut command)
    }

    fn client_command(&self, kind: &str, url: Option<&str>, path: &str, http2: bool) -> Command {
        let mut command = Command::new(&self.lab_program);
        command.args(["client", kind, "--url"]);
        command.arg(url.map_or_else(|| self.vip_url(path), str::to_owned));
        command.arg("--ca").arg(self.ca());
        if http2 {
            command.arg("--http2");
        }
        command
    }

    fn start_client(&self, command: &mut Command) -> Result<ClientProcess, LabError> {
        Ok(ClientProcess::start(&self.client, command, &self.run_dir.file("client.log"))?)
    }

    /// Runs `curl --silent --show-error --cacert CA WORDS` on the client.
    ///
    /// # Errors
    /// When it cannot be started; a failure status is not an error here.
    pub fn curl(&self, words: &[&str]) -> Result<Output, NetnsError> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--cacert"]).arg(self.ca()).args(words);
        self.client.output(&mut command)
    }

    /// Adds one more machine, `eth0` at 172.16.0.`host_number`, which the caller owns. With `xdp` its programs may
    /// transmit (`XDP_TX`) in native mode.
    ///
    /// # Errors
    /// When it cannot be made or plugged in.
    pub fn add_machine(&self, name: &str, host_number: u8, xdp: bool) -> Result<Netns, LabError> {
        self.network.machine(name, host(host_number), xdp)
    }

    /// Unplugs a machine's cable: its carrier is gone, and no frame passes. No RST, no ICMP error: a black hole.
    ///
    /// # Errors
    /// When there is no such machine.
    pub fn cut(&self, machine: &str) -> Result<(), LabError> {
        self.network.port_do(machine, "down")
    }

    /// Keeps a machine's carrier, but takes its port out of the bridge: a switch that has lost its mind.
    ///
    /// # Errors
    /// When there is no such machine.
    pub fn isolate(&self, machine: &str) -> Result<(), LabError> {
        self.network.port_do(machine, "nomaster")
    }

    /// Undoes [`Lab::cut`] and [`Lab::isolate`].
    ///
    /// # Errors
    /// When there is no such machine.
    pub fn heal(&self, machine: &str) -> Result<(), LabError> {
        self.network.port_do(machine, "master br0 up")
    }

    /// The ends of all logs.
    #[must_use]
    pub fn last_lines(&self) -> String {
        let of =
            |name: &str, lines: String| if lines.is_empty() { lines } else { format!("{name}:\n{lines}") };
        let lbs = self.lbs.iter().map(|lb| of(lb.name(), lb.last_lines()));
        let masters = self.masters.iter().map(|master| of(master.name(), master.last_lines()));
        lbs.chain(masters).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the ends of the lab's logs:\n{}", self.last_lines());
        }
    }
}

/// The switch and what is plugged into it.
struct Network {
    switch: Netns,
    ports: Mutex<BTreeMap<String, Option<XdpStub>>>,
    ipv6: bool,
}

impl Network {
    /// Makes a machine and plugs it in.
    fn machine(&self, name: &str, address: Ipv4Addr, xdp: bool) -> Result<Netns, LabError> {
        let machine = Netns::create(name, self.ipv6)?;
        let port = port(name);
        let [a, b, c, d] = address.octets();
        self.switch.ip(&format!(
            "link add {port} type veth peer name eth0 address 02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x} netns {}",
            machine.init_id()
        ))?;
        self.switch.ip(&format!("link set {port} master br0 up"))?;
        machine.ethtool("-K eth0 tx off tso off gso off gro off")?;
        machine.ip(&format!("address add {address}/{PREFIX_LENGTH} broadcast + dev eth0"))?;
        machine.ip("link set eth0 up")?;
        let stub = if xdp { Some(self.stub(name, &port)?) } else { None };
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), stub);
        Ok(machine)
    }

    fn stub(&self, name: &str, port: &str) -> Result<XdpStub, LabError> {
        self.switch
            .run(|| XdpStub::attach(nix::net::if_::if_nametoindex(port)?, Action::Pass))?
            .map_err(|source| LabError::Stub { machine: name.to_owned(), source })
    }

    fn port_do(&self, machine: &str, words: &str) -> Result<(), LabError> {
        if !self.ports.lock().unwrap_or_else(PoisonError::into_inner).contains_key(machine) {
            return Err(LabError::NoMachine(machine.to_owned()));
        }
        Ok(self.switch.ip(&format!("link set {} {words}", port(machine)))?)
    }
}

/// The switch's end of a machine's cable.
fn port(machine: &str) -> String {
    format!("p-{machine}")
}

/// The host of this number in the lab's network.
#[must_use]
pub fn host(number: u8) -> Ipv4Addr {
    let [a, b, c, _] = VIP.octets();
    Ipv4Addr::new(a, b, c, number)
}

/// One of our programs: where the environment says, or beside this program (a test is one directory deeper).
pub(crate) fn find_program(program: &'static str, variable: &'static str) -> Result<PathBuf, LabError> {
    let missing = |at: &Path| LabError::NoProgram { program, looked_at: at.display().to_string(), variable };
    if let Some(path) = std::env::var_os(variable) {
        // Absolute: a process on a machine starts in another directory.
        return std::fs::canonicalize(&path).map_err(|_| missing(Path::new(&path)));
    }
    let this = std::env::current_exe()?;
    let dir = this.parent().unwrap_or(Path::new("/"));
    let dir = if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir };
    let path = dir.join(program);
    if path.is_file() { Ok(path) } else { Err(missing(&path)) }
}
