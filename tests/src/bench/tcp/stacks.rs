//! All stacks side by side in one lab: what has no balancer, xvip, HAProxy and nftables, each on a machine of its own with
//! the same cable to the same switch, in front of the same three servers.
//!
//! ```text
//!   client .100    lb1 .2 (xvip)    lb2 .3 (HAProxy)    nft .20     master1 .4  master2 .5  master3 .6     172.16.0.0/24
//!      +--------------+-----------------+------------------+------------+-----------+-----------+---  br0
//!                                           router .21     |
//!                                           fixed .156 ----+
//!                                           tcx .136 ------+
//! ```
//!
//! Three more machines show what the way costs that a packet takes by way of any balancer: one that only forwards
//! ([`router`]), and two with a program that knows everything beforehand ([`FixedNat`]), in XDP and on tcx.
//!
//! No cable does segmentation or checksums for anybody: each frame is one that a wire would carry. That is what a balancer
//! of packets sees on a real network card, too; what the others would gain from a card that cuts frames for them, they do
//! not have here.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use lb_load::message::request;
use serde::Serialize;

use super::fixed_nat::{FixedNat, Hook};
use super::{masquerade, router};
use crate::addresses::{Family, host};
use crate::bpf::XdpMode;
use crate::daemon::Daemon;
use crate::incumbent::{IncumbentNode, Server};
use crate::master::Master;
use crate::netns::Netns;
use crate::topology::{Lab, PLAIN_PORT, PREFIX_LENGTH, VIP};
use crate::wait;

/// Host numbers: of the VIP of the service with direct server return, of HAProxy's machine, of nftables' machine.
const DIRECT_VIP: u8 = 11;
const HAPROXY: u8 = 3;
const NFT: u8 = 20;
/// And of the router's.
const ROUTER: u8 = 21;
/// Host numbers of the client besides its own: an address has 64,512 ports for each place that it connects to.
const MORE_CLIENTS: std::ops::Range<u8> = 101..104;
/// Each of the kernel's ports but the privileged ones.
const PORTS: &str = "1024 65535";
/// Seconds that conntrack remembers a connection that has ended; the kernel's own 120 fill the table, and the ports of the
/// masqueraded address, in a few seconds at this rate.
const TIME_WAIT: &str = "10";
/// Nothing waits for it unless something is wrong.
const LIMIT: Duration = Duration::from_secs(120);

/// What stands between the clients and the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Stack {
    /// Nothing: the clients know the servers. The best that there can be.
    Direct,
    /// A machine between them whose kernel forwards, and does nothing else.
    Forwarding,
    /// A balancer in XDP that looks nothing up: one client and three servers are in its instructions.
    FixedNat,
    /// The same on tcx: behind XDP, where a frame has an `sk_buff`, and in front of all else.
    FixedNatTcx,
    /// xvip in `nat` mode.
    Nat,
    /// xvip in `dsr-l2` mode.
    DsrL2,
    /// HAProxy as the customers configure it.
    Haproxy,
    /// nftables: DNAT to one server after the other, and masquerade.
    Nftables,
}

impl Stack {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Direct,
        Self::Forwarding,
        Self::FixedNat,
        Self::FixedNatTcx,
        Self::Nat,
        Self::DsrL2,
        Self::Haproxy,
        Self::Nftables,
    ];
    /// Those that hold connections.
    pub const HOLDING: [Self; 5] = [Self::Direct, Self::Nat, Self::DsrL2, Self::Haproxy, Self::Nftables];

    /// In a table.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Forwarding => "IP forwarding",
            Self::FixedNat => "fixed NAT in XDP",
            Self::FixedNatTcx => "fixed NAT on tcx",
            Self::Nat => "xvip, nat",
            Self::DsrL2 => "xvip, dsr-l2",
            Self::Haproxy => "HAProxy",
            Self::Nftables => "nftables",
        }
    }
}

/// What is not every operator's.
#[derive(Debug, Clone, Copy)]
pub struct Cables {
    /// The client, the servers, HAProxy, nftables and the router get what came together as one (GRO), as network cards have
    /// it; where XDP is, it comes before that.
    pub joined: bool,
    /// Frames are cut and checksums made where they leave the machine for a real network, as a veth does it unless it is
    /// told otherwise; between the machines of the lab that is nowhere.
    pub offloads: bool,
    /// xvip and the fixed NAT are attached natively, as on a network card, not in the mode that is the faster one on a veth.
    pub native: bool,
}

/// The lab with all of them in it. Whoever is not asked does nothing but look after its servers.
pub struct Stacks {
    // Processes before their machines, and those before the switch.
    servers: Vec<Daemon>,
    /// HAProxys besides the one of the node: where a process may not have descriptors enough.
    more_haproxys: Vec<Daemon>,
    haproxy: IncumbentNode,
    _fixed: [(FixedNat, Netns); 2],
    _others: [Netns; 2],
    fixed_in_xdp: Hook,
    lab: Lab,
}

impl Stacks {
    /// Builds the lab, starts everything, and waits until each answers.
    ///
    /// # Errors
    /// When it cannot be built, or somebody does not start.
    pub fn start(cables: Cables) -> anyhow::Result<Self> {
        let builder = Lab::builder().lbs(1);
        let lab = if cables.native { builder } else { builder.without_stubs() }.build()?;
        plain_switch(&lab)?;
        let client = lab.client();
        unpaced(client)?;
        client.sysctl("net/ipv4/ip_local_port_range", PORTS)?;
        // A port is free again as soon as its connection has ended: there are more of them than ports in a minute.
        client.sysctl("net/ipv4/tcp_max_tw_buckets", "0")?;
        for number in MORE_CLIENTS {
            client.ip(&format!("address add {}/{PREFIX_LENGTH} dev eth0", host(number)))?;
        }
        let mut servers = Vec::new();
        for master in lab.masters() {
            master.kill();
            master.answer_for(IpAddr::V4(host(DIRECT_VIP)))?;
            unpaced(master.machine())?;
            servers.push(server(&lab, master.name(), master.machine())?);
        }
        let mode = if cables.native { "native" } else { "generic" };
        lab.lb(0).configure(|config| config.xdp_mode = Some(mode.to_owned()))?;
        start_xvip(&lab)?;
        let haproxy = start_haproxy(&lab)?;
        let nft = lab.add_machine("nft", NFT, false)?;
        let backends: Vec<Ipv4Addr> =
            lab.masters().iter().filter_map(|master| v4(master.address())).collect();
        masquerade::configure(&nft, lab.dir(), host(NFT), PLAIN_PORT, &backends)?;
        nft.sysctl("net/netfilter/nf_conntrack_tcp_timeout_time_wait", TIME_WAIT)?;
        let router = lab.add_machine("router", ROUTER, false)?;
        router::configure(&lab, &router, host(ROUTER))?;
        let fixed_in_xdp = Hook::Xdp(if cables.native { XdpMode::Native } else { XdpMode::Generic });
        let fixed = |name, hook: Hook, with_stub| -> anyhow::Result<_> {
            let machine = lab.add_machine(name, hook.machine(), with_stub)?;
            Ok((FixedNat::start(&machine, hook)?, machine))
        };
        let fixed = [fixed("fixed", fixed_in_xdp, cables.native)?, fixed("tcx", Hook::Tcx, false)?];
        let masters = lab.masters().iter().map(Master::machine);
        for machine in masters.chain([lab.client(), haproxy.machine(), &nft, &router]) {
            if cables.joined {
                machine.ethtool("-K eth0 gro on")?;
            }
            if cables.offloads {
                machine.ethtool("-K eth0 tx on tso on gso on")?;
            }
        }
        let stacks = Self {
            servers,
            more_haproxys: vec![],
            haproxy,
            _fixed: fixed,
            _others: [nft, router],
            fixed_in_xdp,
            lab,
        };
        for stack in Stack::ALL {
            for address in stacks.addresses(stack) {
                wait::until(&format!("{} to answer at {address}", stack.title()), LIMIT, || {
                    stacks.lab.client().run(|| answers(address)).unwrap_or(false)
                })?;
            }
        }
        Ok(stacks)
    }

    /// The lab.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Where the clients of a stack connect to.
    #[must_use]
    pub fn addresses(&self, stack: Stack) -> Vec<SocketAddr> {
        let one = |address: Ipv4Addr| vec![SocketAddr::new(address.into(), PLAIN_PORT)];
        match stack {
            Stack::Direct => self
                .lab
                .masters()
                .iter()
                .map(|master| SocketAddr::new(master.address(), PLAIN_PORT))
                .collect(),
            Stack::Forwarding => {
                let behind = router::addresses(&self.lab).into_iter();
                behind.map(|address| SocketAddr::new(address.into(), PLAIN_PORT)).collect()
            }
            Stack::FixedNat => one(self.fixed_in_xdp.address()),
            Stack::FixedNatTcx => one(Hook::Tcx.address()),
            Stack::Nat => one(VIP),
            Stack::DsrL2 => one(host(DIRECT_VIP)),
            Stack::Haproxy => one(host(HAPROXY)),
            Stack::Nftables => one(host(NFT)),
        }
    }

    /// The addresses that the client has.
    #[must_use]
    pub fn client_addresses(&self) -> Vec<IpAddr> {
        let more = MORE_CLIENTS.map(|number| IpAddr::V4(host(number)));
        [self.lab.client_address(Family::V4)].into_iter().chain(more).collect()
    }

    /// The processes of a stack on its machine, as the host sees them.
    ///
    /// # Errors
    /// When they cannot be told.
    pub fn processes(&self, stack: Stack) -> anyhow::Result<Vec<u32>> {
        Ok(match stack {
            Stack::Direct | Stack::Forwarding | Stack::FixedNat | Stack::FixedNatTcx | Stack::Nftables => {
                vec![]
            }
            Stack::Nat | Stack::DsrL2 => self.lab.lb(0).daemon_id().into_iter().collect(),
            Stack::Haproxy => {
                let more = self.more_haproxys.iter().map(Daemon::id);
                self.haproxy.processes()?.into_iter().chain(more).collect()
            }
        })
    }

    /// Starts HAProxy anew: with the customers' limits, or with such that it can hold so many connections. Where a process
    /// may not have as many descriptors, several share the port.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart_haproxy(&mut self, connections: Option<Crowd>) -> anyhow::Result<()> {
        self.more_haproxys.clear();
        let servers: Vec<_> = self.lab.masters().iter().map(Server::of).collect();
        self.haproxy.configure(&servers)?;
        if let Some(crowd) = connections {
            self.haproxy.raise_limits(crowd.per_haproxy())?;
        }
        self.haproxy.restart_haproxy()?;
        for number in 1..connections.map_or(1, Crowd::haproxys) {
            let log = self.lab.dir().join(format!("haproxy-{number}.log"));
            let mut command = Command::new("haproxy");
            command.arg("-db").arg("-f").arg(self.haproxy.configuration());
            self.more_haproxys.push(Daemon::start(self.haproxy.machine(), "haproxy", &mut command, &log)?);
        }
        let address = SocketAddr::new(host(HAPROXY).into(), PLAIN_PORT);
        let (lab, haproxy) = (&self.lab, &mut self.haproxy);
        wait::until("HAProxy to answer", LIMIT, || {
            // It ends where the connections of the one before still have its port.
            let runs = haproxy.is_running() || haproxy.restart_haproxy().is_ok();
            runs && lab.client().run(|| answers(address)).unwrap_or(false)
        })?;
        // The others listen a moment later.
        std::thread::sleep(Duration::from_millis(if self.more_haproxys.is_empty() { 0 } else { 1500 }));
        Ok(())
    }

    /// Starts as many more servers as a crowd needs.
    ///
    /// # Errors
    /// When they do not start.
    pub fn serve(&mut self, crowd: Crowd) -> anyhow::Result<()> {
        let machines = self.lab.masters().len();
        for number in self.servers.len() / machines..crowd.servers() {
            for master in self.lab.masters() {
                let name = format!("{}-{number}", master.name());
                self.servers.push(server(&self.lab, &name, master.machine())?);
            }
        }
        Ok(())
    }

    /// Whether all servers and balancers still run.
    #[must_use]
    pub fn is_whole(&mut self) -> bool {
        self.servers.iter_mut().all(Daemon::is_running)
            && self.lab.lb(0).is_running()
            && self.haproxy.is_running()
            && self.more_haproxys.iter_mut().all(Daemon::is_running)
    }

    /// The ends of the logs.
    #[must_use]
    pub fn last_lines(&self) -> String {
        self.lab.lb(0).last_lines() + &self.haproxy.last_lines()
    }
}

/// Makes the switch a plain one: no packet filter of the machine that plays it has a say, as none has in a real one.
fn plain_switch(lab: &Lab) -> anyhow::Result<()> {
    for family in ["iptables", "ip6tables", "arptables"] {
        let path = format!("net/bridge/bridge-nf-call-{family}");
        let is_there = lab.switch().run(|| Path::new("/proc/sys").join(&path).exists())?;
        // Without br_netfilter nobody would ask a filter.
        if is_there {
            lab.switch().sysctl(&path, "0")?;
        }
    }
    Ok(())
}

/// Without losses each congestion control does the same, but for those that pace what they send (BBR, which some kernels
/// begin with): that would measure its timers. Reno is the one that a namespace may always choose.
fn unpaced(machine: &Netns) -> anyhow::Result<()> {
    Ok(machine.sysctl("net/ipv4/tcp_congestion_control", "reno")?)
}

/// So many connections at once, and how many descriptors a process may have here.
#[derive(Debug, Clone, Copy)]
pub struct Crowd {
    /// How many.
    pub connections: usize,
    /// Descriptors that a process may have.
    pub descriptors: usize,
}

impl Crowd {
    /// Processes of the clients that are needed.
    #[must_use]
    pub fn clients(self) -> usize {
        // Some are for other things.
        self.connections.div_ceil(self.descriptors.saturating_sub(100).max(1))
    }

    /// Processes of each of the three servers: the kernel gives them connections by chance, and not quite evenly.
    fn servers(self) -> usize {
        (self.connections / 3).div_ceil(self.descriptors * 3 / 5 + 1).max(1)
    }

    /// Processes of HAProxy's: two descriptors for each connection, and by chance as well.
    fn haproxys(self) -> usize {
        if self.connections <= self.most_per_haproxy() {
            return 1;
        }
        self.connections.div_ceil(self.most_per_haproxy() * 4 / 5 + 1)
    }

    fn per_haproxy(self) -> usize {
        self.connections.min(self.most_per_haproxy())
    }

    fn most_per_haproxy(self) -> usize {
        // Besides them it has its limit's own margin, its listeners and its threads' pipes.
        self.descriptors.saturating_sub(1000) / 2
    }
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

/// Starts our server where the lab's own would be.
fn server(lab: &Lab, name: &str, machine: &Netns) -> anyhow::Result<Daemon> {
    let log = lab.dir().join(format!("{name}-load.log"));
    let mut command = Command::new(lab.program());
    command.args(["loadserver", "--listen", &format!("0.0.0.0:{PLAIN_PORT}")]);
    let mut daemon = Daemon::start(machine, name, &mut command, &log)?;
    let ready = || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("ready"));
    daemon.wait_ready("its port to be open", LIMIT, ready)?;
    Ok(daemon)
}

/// One daemon with a service for each mode, and nothing else that it would not have without being told.
fn start_xvip(lab: &Lab) -> anyhow::Result<()> {
    let node = lab.lb(0);
    let nat = lab.plain_service(Family::V4);
    let mut direct = nat.clone();
    direct.name = "direct".to_owned();
    direct.vip = format!("{}/{PREFIX_LENGTH}", host(DIRECT_VIP));
    direct.mode = "dsr-l2".to_owned();
    node.configure(|config| config.services = vec![nat, direct])?;
    node.start()?;
    lab.wait_owner(Some(node.name()), LIMIT)?;
    Ok(())
}

fn start_haproxy(lab: &Lab) -> anyhow::Result<IncumbentNode> {
    let mut node = IncumbentNode::create(lab, HAPROXY - 2)?;
    let machine = node.machine();
    unpaced(machine)?;
    machine.sysctl("net/ipv4/ip_local_port_range", PORTS)?;
    machine.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
    node.start_haproxy()?;
    Ok(node)
}

/// Whether a request at this address is answered, from the calling thread's network.
fn answers(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<()> {
        let limit = Duration::from_secs(1);
        let mut socket = TcpStream::connect_timeout(&address, limit)?;
        socket.set_read_timeout(Some(limit))?;
        socket.write_all(&request(16))?;
        socket.read_exact(&mut [0; 16])
    };
    ask().is_ok()
}

/// Runs `xvip-lab client drive WORDS` on the client; its first line is the outcome.
///
/// # Errors
/// When it fails, or prints no outcome.
pub fn drive(stacks: &Stacks, words: &[String]) -> anyhow::Result<lb_load::client::Outcome> {
    let output = stacks.lab().client().output(&mut driver(stacks, words))?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "the clients: {}", String::from_utf8_lossy(&output.stderr).trim());
    serde_json::from_str(text.trim()).with_context(|| format!("the clients said {text:?}"))
}

/// The command for that.
#[must_use]
pub fn driver(stacks: &Stacks, words: &[String]) -> Command {
    let mut command = Command::new(stacks.lab().program());
    command.args(["client", "drive"]).args(words);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_process_needs_more_descriptors_than_it_may_have() {
        for (connections, descriptors) in
            [(1000, 20_000), (10_000, 20_000), (100_000, 20_000), (100_000, 300_000)]
        {
            let crowd = Crowd { connections, descriptors };
            assert!(crowd.connections.div_ceil(crowd.clients()) < descriptors, "{crowd:?}");
            assert!(crowd.connections / 3 / crowd.servers() < descriptors * 4 / 5, "{crowd:?}");
            assert!(2 * crowd.per_haproxy() < descriptors, "{crowd:?}");
            assert!(crowd.haproxys() * crowd.per_haproxy() >= connections, "{crowd:?}");
        }
        let small = Crowd { connections: 1000, descriptors: 20_000 };
        assert_eq!([small.clients(), small.servers(), small.haproxys()], [1; 3], "one of each will do");
        let large = Crowd { connections: 100_000, descriptors: 20_000 };
        assert_eq!([large.clients(), large.servers(), large.haproxys()], [6, 3, 14]);
    }
}
