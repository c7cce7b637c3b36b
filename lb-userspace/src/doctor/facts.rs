//! What was gathered about a node, as plain values. Nothing here asks the system.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use lb_common::wire::Mac;

use super::{adverts::Heard, firewall::Rules};
use crate::{
    config::model::{Config, VrrpInstance},
    status::Status,
};

/// Something that was looked at, or why it could not be.
pub type Looked<T> = Result<T, String>;

/// Everything.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The configuration, which was accepted.
    pub config: Config,
    /// Its file.
    pub file: PathBuf,
    /// Its warnings.
    pub warnings: Vec<Warning>,
    /// What a running daemon says of itself; `None` where none runs.
    pub daemon: Looked<Option<Status>>,
    /// The machine and its kernel.
    pub host: Host,
    /// `node.interfaces`, in the configured order.
    pub interfaces: Vec<Interface>,
    /// Every address of this network namespace.
    pub addresses: Vec<OwnAddress>,
    /// The Ethernet addresses of this node's interfaces, by name.
    pub macs: BTreeMap<String, Mac>,
    /// What the network said while we listened on the first interface.
    pub wire: Wire,
    /// The distinct addresses of all backends.
    pub backends: Vec<Backend>,
    /// The ways to the VRRP peers: those of the configuration, and those who were heard.
    pub peers: BTreeMap<IpAddr, Way>,
    /// The packet filter.
    pub firewall: Looked<Rules>,
    /// TCP sockets that listen at a service's port, on the VIP or on every address.
    pub listeners: Vec<Listener>,
    /// Running keepalived daemons of this network namespace.
    pub keepalived: Vec<Keepalived>,
}

impl Facts {
    /// The running daemon.
    pub fn running(&self) -> Option<&Status> {
        self.daemon.as_ref().ok()?.as_ref()
    }

    /// Whether the running daemon says that this VIP is its node's at the moment.
    pub fn holds(&self, vip: IpAddr) -> bool {
        let text = format!("{vip}/");
        self.running().is_some_and(|status| {
            status
                .vrrp
                .iter()
                .any(|vrrp| vrrp.holds_addresses && vrrp.vips.iter().any(|known| known.starts_with(&text)))
        })
    }

    /// The interfaces that are there.
    pub fn links(&self) -> impl Iterator<Item = (&str, &Link)> {
        self.interfaces
            .iter()
            .filter_map(|interface| Some((interface.name.as_str(), interface.link.as_ref().ok()?)))
    }

    /// Those that XDP is attached to, each once: the interfaces, or what VLAN sub-interfaces are on.
    pub fn attach_points(&self) -> impl Iterator<Item = &Link> {
        let mut seen = BTreeSet::new();
        self.links().map(|(_, link)| link).filter(move |link| seen.insert(link.parent.clone()))
    }

    /// The virtual routers that have a VIP. One that no service names owns nothing, and speaks for nothing.
    pub fn routers(&self) -> impl Iterator<Item = &VrrpInstance> {
        let is_named =
            |name: &str| self.config.services.iter().any(|service| service.vrrp.as_deref() == Some(name));
        self.config.vrrp.iter().filter(move |instance| is_named(&instance.name))
    }

    /// The VIPs of all services, each once.
    pub fn vips(&self) -> BTreeSet<IpAddr> {
        self.config.services.iter().map(|service| service.vip.address).collect()
    }

    /// The interfaces that have this address.
    pub fn has(&self, address: IpAddr) -> impl Iterator<Item = &OwnAddress> {
        self.addresses.iter().filter(move |own| own.address == address)
    }
}

/// What somebody should know of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The key.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to write.
    pub remedy: String,
}

/// The machine and its kernel.
#[derive(Clone, Debug)]
pub struct Host {
    /// `uname -r`
    pub kernel: String,
    /// Whether `/sys/kernel/btf/vmlinux` is there.
    pub btf: bool,
    /// Processors that are online.
    pub processors: u32,
    /// Those that there may ever be: maps have room for each.
    pub possible_processors: Looked<u32>,
    /// The effective capabilities of this process, by their numbers (linux/capability.h).
    pub capabilities: u64,
    /// Where pins are made.
    pub bpf_fs: BpfFs,
    /// Where cgroup2 is mounted; an error where it is not.
    pub cgroup2: Looked<PathBuf>,
    /// Memory that can be had without swapping, in bytes.
    pub memory_available: Looked<u64>,
    /// The limit of locked memory in bytes; `None` is no limit.
    pub memlock: Option<u64>,
    /// The clock.
    pub clock: Looked<Clock>,
    /// Where the daemon keeps its state.
    pub state_directory: Directory,
    /// The mode and owner of `sync.key_file`.
    pub sync_key: Option<Looked<FileMode>>,
    /// Whether systemd runs this machine.
    pub systemd: bool,
    /// The unit file of xvip, where there is one.
    pub unit: Option<PathBuf>,
}

/// What is at `node.pin_path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BpfFs {
    /// A BPF file system.
    Mounted,
    /// None yet, and the kernel knows how to: the daemon mounts it.
    Mountable,
    /// The kernel has no BPF file system.
    Unknown,
    /// The nearest directory that is there is on another kind of file system, and not below `/sys/fs/bpf`.
    Elsewhere(PathBuf),
}

/// What `adjtimex(2)` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Whether somebody keeps it right.
    pub synchronised: bool,
    /// How wrong it may be, in microseconds.
    pub error_us: i64,
}

/// A directory that somebody wants to write to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// Which.
    pub path: PathBuf,
    /// Whether it is there.
    pub exists: bool,
    /// Whether this process may write there, or make it.
    pub writable: bool,
}

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode {
    /// Permission bits.
    pub mode: u32,
    /// The owner's user id.
    pub owner: u32,
}

/// One of `node.interfaces`.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// What is there; an error where it is not there, or cannot be used.
    pub link: Looked<Link>,
}

/// An interface that is there.
#[derive(Clone, Debug, Default)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Whether it, and what it is on, is switched on.
    pub up: bool,
    /// Whether it, and what it is on, has a carrier.
    pub carrier: bool,
    /// Its Ethernet address.
    pub mac: Option<Mac>,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Its VLANs.
    pub vlans: Vec<u16>,
    /// The interface that XDP is attached to: this one or, for a VLAN sub-interface, the one at the bottom.
    pub parent: String,
    /// That one's largest IP packet.
    pub parent_mtu: u32,
    /// That one's driver.
    pub driver: Option<String>,
    /// What that one's driver can do with XDP (`NETDEV_XDP_ACT_*`); `None` before Linux 6.3.
    pub xdp_features: Option<u64>,
    /// Its offloads by `ethtool`'s name: whether it is on.
    pub offloads: BTreeMap<String, Offload>,
    /// Its queues.
    pub channels: Option<Channels>,
    /// The XDP programs on it.
    pub programs: Vec<Program>,
    /// What came of attaching a program of two instructions, where that was tried.
    pub trial: Option<Trial>,
    /// Its settings below `/proc/sys/net`, by name (`rp_filter`), in effect: what `all` says is counted in.
    pub sysctls: BTreeMap<String, i64>,
}

impl Link {
    /// The XDP programs that are not xvip's with this pin path.
    pub fn foreign<'a>(&'a self, pin_path: &'a std::path::Path) -> impl Iterator<Item = &'a Program> {
        self.programs.iter().filter(move |program| !program.pins.iter().any(|pin| pin.starts_with(pin_path)))
    }

    /// The offload of this name is on.
    pub fn has_on(&self, offload: &str) -> bool {
        self.offloads.get(offload).is_some_and(|offload| offload.on)
    }
}

/// An offload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// Whether it is on.
    pub on: bool,
    /// Whether it cannot be changed.
    pub fixed: bool,
}

/// The queues of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    /// How many receive.
    pub receive: u32,
    /// How many could.
    pub receive_max: u32,
}

/// An XDP program on an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// Its kernel-wide id.
    pub id: u32,
    /// How it is attached.
    pub mode: Attached,
    /// Its name; empty where it has none.
    pub name: String,
    /// Its tag.
    pub tag: String,
    /// Where it, or its link, is pinned.
    pub pins: Vec<PathBuf>,
    /// The processes that hold it, or its link.
    pub holders: Vec<Process>,
}

/// How a program is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attached {
    /// In the driver.
    #[default]
    Native,
    /// In the stack.
    Generic,
    /// On the card.
    Offloaded,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its id.
    pub id: u32,
    /// The name of its program.
    pub name: String,
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (pid {})", self.name, self.id)
    }
}

/// What came of attaching a program in native mode. It is gone again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// It could be attached.
    Accepted,
    /// It could not.
    Refused {
        /// The kernel's error.
        error: String,
        /// What the kernel said besides (extended acknowledgement), word for word.
        message: Option<String>,
    },
}

/// An address of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnAddress {
    /// Its interface.
    pub interface: String,
    /// The address.
    pub address: IpAddr,
    /// Its prefix length.
    pub prefix_len: u8,
}

/// What the network said.
#[derive(Clone, Debug, Default)]
pub struct Wire {
    /// For how long we listened; an error where that was not possible.
    pub listened: Option<Looked<Duration>>,
    /// The instances with a socket like the daemon's.
    pub sockets: BTreeSet<String>,
    /// Advertisements, the last one of each sender and VRID.
    pub adverts: Vec<Heard>,
    /// Who says that a VIP is its own, asked by us.
    pub answers: Vec<VipAnswer>,
}

/// Who says that a VIP is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VipAnswer {
    /// The VIP.
    pub vip: IpAddr,
    /// Whose Ethernet address it is at.
    pub mac: Mac,
}

/// The way to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// There is none.
    None,
    /// It is this node's own.
    Local,
    /// By an interface.
    Out {
        /// The interface.
        interface: String,
        /// The neighbour that frames go to: the address itself, or a router.
        neighbour: IpAddr,
    },
}

/// An address of backends.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Which services and names have it, `service/name`.
    pub names: Vec<String>,
    /// Where it listens.
    pub address: SocketAddr,
    /// The way there.
    pub way: Looked<Way>,
    /// Whether the neighbour on that way has answered; `None` where there is nobody to ask.
    pub neighbour: Option<bool>,
    /// What one check said; an error where it failed. The first service's check.
    pub check: Looked<String>,
}

/// A socket that listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where; unspecified is every address.
    pub address: SocketAddr,
    /// Whose, where that can be told.
    pub process: Option<Process>,
}

/// A running keepalived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keepalived {
    /// Its process.
    pub process: Process,
    /// Its configuration file, as far as that can be told.
    pub file: PathBuf,
    /// The `virtual_router_id`s in there, and whether the file could be read at all.
    pub virtual_router_ids: Looked<BTreeSet<u8>>,
}
