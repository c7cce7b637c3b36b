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
//! With [`LabBuilder::ipv6`] the same machines are also at `fd10::100`, `fd10::2` and so on, and the VIP `fd10::10/64`.
//! [`LabBuilder::narrow_clients`], [`LabBuilder::narrow_masters`] and [`LabBuilder::narrow_last_master`] put routers
//! between; the link between two routers carries 1400 bytes, all others 1500:
//!
//! ```text
//!   client .1.100     c-far .1.1                    c-near .0.1
//!      |                | eth0   172.16.3.0/24         | eth0
//!   +--+-- br1 ---------+  eth1 .2 ---1400--- .1 eth1  +-------- br0 --- LB nodes, VIP
//!
//!              m-near .0.254                    m-far .2.254        master1 .2.4 ...
//!                 | eth0    172.16.4.0/24          | eth0              |
//!   VIP --- br0 --+   eth1 .1 ---1400--- .2 eth1   +------- br2 -------+
//! ```
//!
//! With [`LabBuilder::two_networks`] each LB node has a leg in the API servers' network, and a router joins the two
//! for what does not go through an LB node:
//!
//! ```text
//!   client .0.100   lb1 .0.2   lb2 .0.3   router .0.254
//!      |              |eth0*      |eth0*     |eth0
//!   +--+--------------+--- br0 ---+----------+--+   VIP 172.16.0.10/24
//!                     |eth1*      |eth1*     |eth1
//!   +--+--------------+--- br2 ---+----------+--+
//!      |            .2.2        .2.3       .2.254
//!   master1 .2.4 ...
//! ```
//!
//! Every machine has namespaces of its own ([`Netns`]); interfaces are made inside them, so that no name is ever
//! seen by the host or by another run, and no packet leaves. Transmit checksums and segmentation are done in
//! software before a frame enters a veth: a program that rewrites an address in a frame with a partial checksum
//! would send a wrong one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use crate::addresses::Subnet;
use crate::certificates::{Authority, CertificateError, ServerCertificate};
use crate::daemon::DaemonError;
use crate::master::{Master, Place};
use crate::measure::{ClientProcess, Moved};
use crate::netns::{Netns, NetnsError};
use crate::network::{Layout, Network};
use crate::node::{BackendConfig, LbNode, NodeConfig, ServiceConfig, VrrpConfig};
use crate::run_dir::RunDir;
use crate::streams::{Plan, Streams};
use crate::wait::{self, TimedOut};

pub use crate::addresses::{Family, PREFIX_LENGTH, VIP, VIP6, host, host6};
pub use crate::client_host::{Bulk, ClientHost, Connections, Load};

/// The port of the service and, unless chosen otherwise, of the API servers.
pub const API_PORT: u16 = 6443;
/// The port of the plain service (see [`crate::plain`]) at the API servers.
pub const PLAIN_PORT: u16 = 7000;

/// The VRRP instance that all VIPs belong to.
const VRRP: &str = "main";
const FIRST_LB: u8 = 2;
const FIRST_MASTER: u8 = 4;
const CLIENT: u8 = 100;
/// In [`Lab::start_lbs`] nothing waits for as long unless something is wrong.
const PATIENCE: u32 = 5;

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
    /// There is no machine, or no cable, of that name on the switch.
    #[error("no machine {0:?} in the lab")]
    NoMachine(String),
    /// `dsr-l2` changes nothing but the MAC address, so backends must be on a segment with the LB nodes.
    #[error("dsr-l2 does not reach API servers behind a router")]
    BackendsBehindRouter,
    /// A bulk transfer failed.
    #[error("the transfer failed: {0}")]
    Bulk(String),
    /// A thing can be in one place.
    #[error("the API servers are either behind routers or in the second network")]
    TwoPlaces,
}

/// How a service forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Both addresses are rewritten, and answers come back through the LB.
    Nat,
    /// The destination MAC address is rewritten; answers go straight to the client.
    DsrL2,
    /// IP in IP; answers go straight to the client.
    DsrIpip,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Nat, Self::DsrL2, Self::DsrIpip];

    /// As the configuration says it.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::DsrL2 => "dsr-l2",
            Self::DsrIpip => "dsr-ipip",
        }
    }
}

/// Which API servers are behind the narrow link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behind {
    None,
    Last,
    All,
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
    mode: Mode,
    families: Vec<Family>,
    narrow_clients: bool,
    narrow_masters: Behind,
    two_networks: bool,
    vlans: Option<(u16, u16)>,
    bonds: bool,
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

    /// Multiplies the limits of [`Lab::start_lbs`] (5, for a machine that is busy; no less): for a slow machine.
    #[must_use]
    pub fn patience(mut self, factor: u32) -> Self {
        self.patience = factor.max(PATIENCE);
        self
    }

    /// IPv6 addresses beside the IPv4 ones; without this no neighbour discovery disturbs. What the LB nodes serve is
    /// said by [`LabBuilder::families`].
    #[must_use]
    pub fn ipv6(mut self) -> Self {
        self.ipv6 = true;
        self
    }

    /// The families of the VIPs (IPv4 alone): one service each, with backends of the same family, all VIPs in one VRRP
    /// instance. With IPv6 among them all machines have IPv6 addresses. An IPv6 VIP cannot do without an IPv4 one,
    /// which its instance advertises: where IPv4 is not asked for, its service comes last.
    #[must_use]
    pub fn families(mut self, families: &[Family]) -> Self {
        self.ipv6 |= families.contains(&Family::V6);
        self.families = families.to_vec();
        self
    }

    /// The mode of the services ([`Mode::Nat`]). For the other two the API servers get what these need: the VIPs of
    /// all families that the lab has on `lo`, silent about them, and for [`Mode::DsrIpip`] the ends of the tunnels.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Puts the client behind two routers (`c-near` at the switch, `c-far` at the client), the link between them
    /// carrying [`NARROW_MTU`](crate::network::NARROW_MTU) bytes: what an API server sends to the client has to be
    /// made smaller, which `c-near` asks the VIP for.
    #[must_use]
    pub fn narrow_clients(mut self) -> Self {
        self.narrow_clients = true;
        self
    }

    /// Puts all API servers behind two routers (`m-near` at the switch, `m-far` at the servers) with such a link: what
    /// the LB nodes forward has to be made smaller, which `m-near` asks for, and what the servers send, which `m-far`
    /// asks for. Not for [`Mode::DsrL2`].
    #[must_use]
    pub fn narrow_masters(mut self) -> Self {
        self.narrow_masters = Behind::All;
        self
    }

    /// As [`LabBuilder::narrow_masters`], but with the last API server alone behind the routers.
    #[must_use]
    pub fn narrow_last_master(mut self) -> Self {
        self.narrow_masters = Behind::Last;
        self
    }

    /// Gives each LB node an `eth1` in a network of the API servers' own; `eth0`, with the VIP, stays in the client's.
    /// The configuration names both in `interfaces`. Backends reach an IPv4 VIP by asking for its MAC address there,
    /// an IPv6 one at the `eth1` of `lb1` (a node answers no neighbour solicitation for another interface's address).
    #[must_use]
    pub fn two_networks(mut self) -> Self {
        self.two_networks = true;
        self
    }

    /// Puts the clients, and the VIP, into one VLAN, and the API servers into another: all frames have tags on the
    /// cables, and each machine has `eth0.VLAN`. Where these are two, it is as with [`LabBuilder::two_networks`], except that
    /// the LB nodes have both on `eth0`. Kernels without the module `8021q` cannot.
    #[must_use]
    pub fn vlans(mut self, clients: u16, masters: u16) -> Self {
        self.vlans = Some((clients, masters));
        self.two_networks = clients != masters;
        self
    }

    /// Gives the LB nodes `bond0` of two cables (`lb1` and `lb1-eth1`) in the place of `eth0`, one of them active. Kernels
    /// without the module `bonding` cannot.
    #[must_use]
    pub fn bonds(mut self) -> Self {
        self.bonds = true;
        self
    }

    fn layout(&self) -> Result<Layout, LabError> {
        if self.lbs > FIRST_MASTER - FIRST_LB || self.masters > VIP.octets()[3] - FIRST_MASTER {
            return Err(LabError::NoRoom { lbs: self.lbs, masters: self.masters });
        }
        let masters_routed = self.narrow_masters != Behind::None;
        if masters_routed && self.mode == Mode::DsrL2 {
            return Err(LabError::BackendsBehindRouter);
        }
        if masters_routed && self.two_networks {
            return Err(LabError::TwoPlaces);
        }
        Ok(Layout {
            ipv6: self.ipv6,
            clients_routed: self.narrow_clients,
            masters_routed,
            two_networks: self.two_networks,
            vlans: self.vlans,
            bonds: self.bonds,
        })
    }

    /// Builds the network and starts the API servers. The LB nodes are there and configured, but their daemons do
    /// not run yet: see [`Lab::start_lbs`].
    ///
    /// # Errors
    /// When this process is not root, a program is missing, or the kernel cannot do it.
    pub fn build(self) -> Result<Lab, LabError> {
        let layout = self.layout()?;
        let lab_program = find_program("xvip-lab", "XVIP_LAB_BIN")?;
        // Only labs with LB nodes need it.
        let xvip = if self.lbs == 0 { PathBuf::new() } else { find_program("xvip", "XVIP_BIN")? };
        let run_dir = RunDir::create()?;
        let authority = Authority::create(run_dir.path())?;
        let network = Network::build(layout)?;

        let subnet = if self.narrow_clients { Subnet::Clients } else { Subnet::Main };
        let client_place = Place { subnet, number: CLIENT, ipv6: self.ipv6 };
        let client = network.machine("client", subnet, CLIENT, false)?;
        let mut masters = Vec::new();
        for n in 0..self.masters {
            let mut master = self.master(n, layout, &network, &authority, run_dir.path(), &lab_program)?;
            if self.mode == Mode::DsrIpip {
                master.accept_tunnels()?;
            }
            if self.mode != Mode::Nat {
                for family in layout.families() {
                    master.answer_for(family.vip())?;
                }
            }
            master.start()?;
            masters.push(master);
        }
        let mut lbs = Vec::new();
        for n in 0..self.lbs {
            let name = format!("lb{}", n + 1);
            let place = Place { subnet: Subnet::Main, number: FIRST_LB + n, ipv6: self.ipv6 };
            let machine = network.lb(&name, place.number, self.stubs)?;
            machine.sysctl("net/ipv4/ip_forward", "0")?;
            let config = self.node_config(&name, n, layout, &masters);
            let vip = self.families.first().copied().unwrap_or(Family::V4).vip();
            let node = LbNode::new(Arc::new(machine), place, vip, run_dir.path(), &xvip, config);
            node.configure(|_| ())?;
            lbs.push(node);
        }
        let (families, mode) = (self.families, self.mode);
        Ok(Lab {
            lbs,
            masters,
            client,
            client_place,
            network,
            authority,
            lab_program,
            run_dir,
            families,
            mode,
            patience: self.patience,
        })
    }

    fn master(
        &self,
        n: u8,
        layout: Layout,
        network: &Network,
        authority: &Authority,
        run_dir: &Path,
        lab_program: &Path,
    ) -> Result<Master, LabError> {
        let away = match self.narrow_masters {
            Behind::None => self.two_networks,
            Behind::Last => n + 1 == self.masters,
            Behind::All => true,
        };
        let subnet = if away { Subnet::Masters } else { Subnet::Main };
        let place = Place { subnet, number: FIRST_MASTER + n, ipv6: self.ipv6 };
        let name = format!("master{}", n + 1);
        let machine = network.machine(&name, subnet, place.number, false)?;
        if self.two_networks && self.mode == Mode::Nat {
            machine.ip(&format!("route add {VIP} dev {}", layout.interface("eth0", subnet)))?;
            if self.ipv6 {
                let leg = Subnet::Masters.host(Family::V6, FIRST_LB);
                machine.ip(&format!("-6 route add {VIP6} via {leg}"))?;
            }
        }
        let certificate = sign(authority, &name, place)?;
        Ok(Master::new(Arc::new(machine), place, self.api_port, certificate, run_dir, lab_program))
    }

    fn node_config(&self, name: &str, n: u8, layout: Layout, masters: &[Master]) -> NodeConfig {
        let address = |family, n| Subnet::Main.host(family, FIRST_LB + n);
        let mut families = self.families.clone();
        if !families.contains(&Family::V4) {
            // The one that the instance advertises; the IPv6 VIP goes with it.
            families.push(Family::V4);
        }
        let services = families.iter().map(|family| {
            let backends = masters
                .iter()
                .map(|master| BackendConfig::new(master.name(), master.socket_address_of(*family)))
                .collect();
            service("kube-apiserver", *family, API_PORT, self.mode, backends)
        });
        let vrrp = VrrpConfig {
            priority: 100 - 10 * n,
            unicast: (!self.multicast).then(|| {
                let peers = (0..self.lbs).filter(|peer| *peer != n);
                (address(Family::V4, n), peers.map(|peer| address(Family::V4, peer)).collect())
            }),
            ..VrrpConfig::new(VRRP, 60)
        };
        let [main, second] = [Subnet::Main, Subnet::Masters].map(|subnet| layout.lb_interface(subnet));
        NodeConfig {
            name: name.to_owned(),
            interface: if self.two_networks { String::new() } else { main.clone() },
            interfaces: if self.two_networks { vec![main, second] } else { vec![] },
            xdp_mode: None,
            local_clients: None,
            node: vec![],
            services: services.collect(),
            vrrp: vec![vrrp],
            flows: vec![],
            extra: String::new(),
        }
    }
}

/// A service of the lab: at the VIP of this family, checked as API servers are. The IPv6 one has a `6` in its name.
fn service(name: &str, family: Family, port: u16, mode: Mode, backends: Vec<BackendConfig>) -> ServiceConfig {
    let suffix = if family == Family::V6 { "6" } else { "" };
    let vip = format!("{}/{}", family.vip(), family.prefix_length());
    ServiceConfig {
        mode: mode.key().to_owned(),
        vrrp: Some(VRRP.to_owned()),
        backends,
        ..ServiceConfig::new(&format!("{name}{suffix}"), &vip, port)
    }
}

/// A certificate for an API server at its own addresses and at the VIPs.
fn sign(authority: &Authority, name: &str, place: Place) -> Result<ServerCertificate, LabError> {
    let mut addresses: Vec<IpAddr> =
        vec![VIP.into(), VIP6.into(), Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    addresses.extend(place.addresses());
    Ok(authority.sign_server(name, &addresses)?)
}

/// The lab. Dropping it kills every process and frees every interface; if that happens because a test panicked,
/// the ends of all logs are printed first.
pub struct Lab {
    // In the order of teardown: processes before the switch, everything before its files.
    lbs: Vec<LbNode>,
    masters: Vec<Master>,
    client: Netns,
    client_place: Place,
    network: Network,
    authority: Authority,
    lab_program: PathBuf,
    run_dir: RunDir,
    patience: u32,
    families: Vec<Family>,
    mode: Mode,
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
            patience: PATIENCE,
            mode: Mode::Nat,
            families: vec![Family::V4],
            narrow_clients: false,
            narrow_masters: Behind::None,
            two_networks: false,
            vlans: None,
            bonds: false,
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

    /// The client's address.
    #[must_use]
    pub fn client_address(&self, family: Family) -> IpAddr {
        self.client_place.address(family)
    }

    /// A router by its name in the drawings above.
    ///
    /// # Errors
    /// When this lab has none of that name.
    pub fn router(&self, name: &str) -> Result<&Netns, LabError> {
        self.network.router(name).ok_or_else(|| LabError::NoMachine(name.to_owned()))
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

    /// The program whose subcommands are the API servers and the clients.
    pub(crate) fn program(&self) -> &Path {
        &self.lab_program
    }

    /// The URL of a path at the VIP (of the lab's first family).
    #[must_use]
    pub fn vip_url(&self, path: &str) -> String {
        self.vip_url_of(self.families.first().copied().unwrap_or(Family::V4), path)
    }

    /// The URL of a path at the VIP of this family.
    #[must_use]
    pub fn vip_url_of(&self, family: Family, path: &str) -> String {
        format!("https://{}{path}", SocketAddr::new(family.vip(), API_PORT))
    }

    /// The API servers as backends of a service with this port at them.
    #[must_use]
    pub fn backends(&self, family: Family, port: u16) -> Vec<BackendConfig> {
        let backend = |master: &Master| {
            BackendConfig::new(master.name(), SocketAddr::new(master.address_of(family), port))
        };
        self.masters.iter().map(backend).collect()
    }

    /// A service for the plain port of the API servers at the VIP of this family and the same port, in the lab's
    /// mode: what [`crate::plain`]'s clients ask. To be pushed into a node's configuration.
    #[must_use]
    pub fn plain_service(&self, family: Family) -> ServiceConfig {
        ServiceConfig {
            health: vec!["check = \"tcp\"".to_owned()],
            ..service("plain", family, PLAIN_PORT, self.mode, self.backends(family, PLAIN_PORT))
        }
    }

    /// The URL of a path at one API server, past the LBs.
    #[must_use]
    pub fn master_url(&self, index: usize, path: &str) -> String {
        format!("https://{}{path}", self.masters[index].socket_address())
    }

    /// Starts all LB daemons and waits until one of them owns the VIP, all running backends are up on all nodes,
    /// and the VIPs answer.
    ///
    /// # Errors
    /// When a daemon does not start, or that state is not reached within 20 seconds times
    /// [`LabBuilder::patience`].
    pub fn start_lbs(&self) -> Result<(), LabError> {
        let limit = Duration::from_secs(20) * self.patience;
        for lb in &self.lbs {
            lb.start_within(limit)?;
        }
        for lb in &self.lbs {
            for service in lb.config().services {
                let expected = service.backends.iter().filter(|backend| self.is_ready(backend)).count();
                let what = format!("{expected} backends of {} up on {}", service.name, lb.name());
                wait::until(&what, limit, || {
                    lb.status().is_ok_and(|status| status.service_up(&service.name) == expected)
                })?;
            }
        }
        self.wait_owner(None, limit)?;
        for family in &self.families {
            let url = self.vip_url_of(*family, "/version");
            wait::until(&format!("{url} to answer"), limit, || {
                self.curl(&["--max-time", &self.patience.to_string(), &url])
                    .is_ok_and(|output| output.status.success())
            })?;
        }
        Ok(())
    }

    /// Whether this backend is one of our API servers and runs.
    fn is_ready(&self, backend: &BackendConfig) -> bool {
        self.masters.iter().any(|master| {
            master.address_of(Family::of(backend.address.ip())) == backend.address.ip()
                && master.is_running()
                && master.is_ready()
        })
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

    /// A machine as a place to ask from, for instance an LB node for clients on the node itself.
    #[must_use]
    pub fn on<'a>(&'a self, machine: &'a Netns) -> ClientHost<'a> {
        ClientHost { lab: self, machine }
    }

    /// [`ClientHost::load`] on the client.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn load(&self, load: &Load) -> Result<ClientProcess, LabError> {
        self.on(&self.client).load(load)
    }

    /// A new connection every 10 ms on the client, each answered when this returns; waits for that for `limit` at most.
    ///
    /// # Errors
    /// When it cannot be started, or is not answered.
    pub fn steady_load(&self, limit: Duration) -> Result<ClientProcess, LabError> {
        // More than hang in an outage: a client that has to wait for a place would see a longer one.
        let load = Load { interval: Duration::from_millis(10), in_flight: 300, ..Load::default() };
        let load = self.load(&load)?;
        load.wait_steady(load.mark(), 30, limit)?;
        Ok(load)
    }

    /// [`ClientHost::watch`] on the client.
    ///
    /// # Errors
    /// When they cannot be started.
    pub fn watch(
        &self,
        url: Option<&str>,
        streams: u32,
        silence: Duration,
    ) -> Result<ClientProcess, LabError> {
        self.on(&self.client).watch(url, streams, silence)
    }

    /// [`ClientHost::streams`] on the client.
    ///
    /// # Errors
    /// When they cannot be started, or are not all open in time.
    pub fn streams(&self, plan: &Plan, limit: Duration) -> Result<Streams, LabError> {
        self.on(&self.client).streams(plan, limit)
    }

    /// [`ClientHost::bulk`] on the client.
    ///
    /// # Errors
    /// When the connection failed; the error says how.
    pub fn bulk(&self, bulk: &Bulk) -> Result<Moved, LabError> {
        self.on(&self.client).bulk(bulk)
    }

    /// [`ClientHost::short`] on the client.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn short(&self, connections: &Connections) -> Result<ClientProcess, LabError> {
        self.on(&self.client).short(connections)
    }

    /// [`ClientHost::hold`] on the client.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn hold(&self, connections: &Connections) -> Result<ClientProcess, LabError> {
        self.on(&self.client).hold(connections)
    }

    /// [`ClientHost::curl`] on the client.
    ///
    /// # Errors
    /// When it cannot be started; a failure status is not an error here.
    pub fn curl(&self, words: &[&str]) -> Result<Output, NetnsError> {
        self.on(&self.client).curl(words)
    }

    /// Adds one more machine, `eth0` at 172.16.0.`host_number` (and `fd10::host_number`), which the caller owns. With `xdp` its programs may
    /// transmit (`XDP_TX`) in native mode.
    ///
    /// # Errors
    /// When it cannot be made or plugged in.
    pub fn add_machine(&self, name: &str, host_number: u8, xdp: bool) -> Result<Netns, LabError> {
        self.network.machine(name, Subnet::Main, host_number, xdp)
    }

    /// Starts an API server on an LB node's machine, as on a control-plane node: its port there is the same as the
    /// VIP's. It ends when it is dropped.
    ///
    /// # Errors
    /// When there is no such node, or the server does not come up.
    pub fn apiserver_on(&self, lb: usize) -> Result<Master, LabError> {
        let node = self.lbs.get(lb).ok_or_else(|| LabError::NoMachine(format!("lb{}", lb + 1)))?;
        let (machine, place) = node.shared_machine();
        let certificate = sign(&self.authority, node.name(), place)?;
        let log = self.run_dir.file(&format!("{}-apiserver.log", node.name()));
        let master =
            Master::new(machine, place, API_PORT, certificate, self.run_dir.path(), &self.lab_program)
                .logging_to(log);
        master.start()?;
        Ok(master)
    }

    /// Unplugs a machine's cable: its carrier is gone, and no frame passes. No RST, no ICMP error: a black hole. The
    /// cable of another interface than `eth0` is `lb1-eth1`.
    ///
    /// # Errors
    /// When there is no such machine.
    pub fn cut(&self, machine: &str) -> Result<(), LabError> {
        self.network.cut(machine)
    }

    /// Keeps a machine's carrier, but takes its port out of the bridge: a switch that has lost its mind.
    ///
    /// # Errors
    /// When there is no such machine.
    pub fn isolate(&self, machine: &str) -> Result<(), LabError> {
        self.network.isolate(machine)
    }

    /// Undoes [`Lab::cut`] and [`Lab::isolate`].
    ///
    /// # Errors
    /// When there is no such machine.
    pub fn heal(&self, machine: &str) -> Result<(), LabError> {
        self.network.heal(machine)
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
