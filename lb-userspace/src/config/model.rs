//! What a configuration means, after every check has passed.
//!
//! The types here cannot hold a wrong value: a port is not 0, a VRID is 1 to 255, a reference to a VRRP instance
//! exists. Every default of the file is a constant of this module and is written nowhere else.

mod hook;
mod http;
mod log;
mod stats_socket;
mod vrrp;

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    path::PathBuf,
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

pub use self::{
    hook::{DEFAULT_HOOK_TIMEOUT, DEFAULT_HOOK_TOPICS, DEFAULT_HOOK_USER, Hook, HookAction, Topic},
    http::{
        Anonymous, DEFAULT_HIDE_VERSION, DEFAULT_HTTP_PATH, DEFAULT_SESSION_LIFETIME, Http, HttpTls,
        HttpUser, MAX_HTTP_USERS, Role, TlsIdentity,
    },
    log::{Log, LogFormat, LogLevel, LogTarget},
    stats_socket::{
        DEFAULT_STATS_SOCKET_MODE, DEFAULT_STATS_SOCKET_TIMEOUT, StatsLevel, StatsSocket, mode_text,
    },
    vrrp::{
        AntiReplay, AuthHmac, AuthMode, DEFAULT_ADVERT_INTERVAL_V2, DEFAULT_ADVERT_INTERVAL_V3,
        DEFAULT_PREEMPT, DEFAULT_PREEMPT_DELAY, DEFAULT_PRIORITY, DEFAULT_TRACK_COUNT,
        DEFAULT_TRACK_INTERVAL, DEFAULT_TRACK_USER, DEFAULT_TRACK_WEIGHT, DEFAULT_VIRTUAL_MAC,
        DEFAULT_VRRP_VERSION, HmacKey, HmacSecret, MAX_TIME_WINDOW, MAX_TRACK_WEIGHT, MIN_TIME_WINDOW, Track,
        Tracked, VrrpChecksum, VrrpInstance, VrrpVersion, default_time_window,
    },
};

/// Where `xvip` looks for its configuration without `--config`.
pub const DEFAULT_CONFIG: &str = "/etc/xvip/xvip.toml";
/// Where the daemon listens for `xvip status` without `--socket`.
pub const DEFAULT_SOCKET: &str = "/run/xvip/control.sock";
/// Default of `node.pin_path`.
pub const DEFAULT_PIN_PATH: &str = "/sys/fs/bpf/xvip";
/// Default of `service.health.path`.
pub const DEFAULT_HEALTH_PATH: &str = "/readyz";
/// Default of `service.health.expect_status`.
pub const DEFAULT_EXPECT_STATUS: u16 = 200;
/// Default of `service.health.interval`.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(2);
/// Default of `service.health.down_interval`.
pub const DEFAULT_DOWN_INTERVAL: Duration = Duration::from_secs(1);
/// Default of `service.health.fast_interval`.
pub const DEFAULT_FAST_INTERVAL: Duration = Duration::from_millis(200);
/// Default of `service.health.timeout`.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
/// Default of `service.health.rise`.
pub const DEFAULT_RISE: u32 = 2;
/// Default of `service.health.fall`.
pub const DEFAULT_FALL: u32 = 2;
/// Default of `service.health.slow_start`: a backend that is back gets its whole share at once.
pub const DEFAULT_SLOW_START: Duration = Duration::ZERO;
/// Default of `service.backend.max_connections`: no limit.
pub const DEFAULT_MAX_CONNECTIONS: u32 = 0;
/// Default of `service.new_connections_per_source`: no limit.
pub const DEFAULT_NEW_CONNECTIONS_PER_SOURCE: u32 = 0;
/// The largest `service.new_connections_per_source` and `service.new_connections_burst`.
pub const MAX_NEW_CONNECTIONS: u32 = 1_000_000;
/// Default of `service.rebalance.rate`, in connections per second.
pub const DEFAULT_REBALANCE_RATE: u32 = 10;
/// Default of `service.rebalance.margin`, in percent of the fair share.
pub const DEFAULT_REBALANCE_MARGIN: u8 = 10;
/// Default of `service.rebalance.floor`: what a backend has by chance is no skew.
pub const DEFAULT_REBALANCE_FLOOR: u32 = 10;
/// Default of `service.reset_rate`: no limit.
pub const DEFAULT_RESET_RATE: u32 = 0;
/// The largest `service.reset_rate` and `service.rebalance.rate`.
pub const MAX_RESET_RATE: u32 = 1_000_000;
/// Default of `service.health.slow_start_rate`, in new connections per second.
pub const DEFAULT_SLOW_START_RATE: u32 = 100;
/// Default of `node.observe`.
pub const DEFAULT_OBSERVE: bool = false;
/// Default of `flows.rebuild`: longer than the pings of those who hold connections open.
pub const DEFAULT_REBUILD: Duration = Duration::from_secs(5 * 60);
/// Default of `service.connection_log`.
pub const DEFAULT_CONNECTION_LOG: bool = false;
/// Default of `connection_log.directory`.
pub const DEFAULT_CONNECTION_LOG_DIRECTORY: &str = "/var/log/xvip";
/// Default of `connection_log.skip_empty`.
pub const DEFAULT_SKIP_EMPTY: bool = false;
/// Default of `connection_log.max_size`, in bytes.
pub const DEFAULT_CONNECTION_LOG_SIZE: u64 = 100_000_000;
/// The smallest and the largest `connection_log.max_size`, in bytes.
pub const CONNECTION_LOG_SIZES: (u64, u64) = (100_000, 10_000_000_000);
/// Default of `connection_log.files`.
pub const DEFAULT_CONNECTION_LOG_FILES: u32 = 10;
/// The largest.
pub const MAX_CONNECTION_LOG_FILES: u32 = 1000;
/// Default of `connection_log.journal`.
pub const DEFAULT_CONNECTION_LOG_JOURNAL: bool = false;
/// Default of `sync.bandwidth`, in Mbit/s.
pub const DEFAULT_SYNC_BANDWIDTH: u32 = 200;
/// The largest.
pub const MAX_SYNC_BANDWIDTH: u32 = 100_000;
/// The most `sync.peers`.
pub const MAX_SYNC_PEERS: usize = 7;
/// Default of `service.backend.weight`.
pub const DEFAULT_WEIGHT: u16 = 100;
/// The largest weight, as HAProxy has it.
pub const MAX_WEIGHT: u16 = 256;
/// Default of `flows.max`.
pub const DEFAULT_FLOWS_MAX: u32 = 1 << 20;
/// The smallest `flows.max`, `flows.half_open_max` and `flows.sources_max`.
pub const MIN_ENTRIES: u32 = 1024;
/// The largest of these.
pub const MAX_ENTRIES: u32 = 1 << 24;
/// Default of `flows.sources_max`.
pub const DEFAULT_SOURCES_MAX: u32 = 1 << 16;
/// Default of `flows.idle_timeout`; never the 20 to 60 s that break `kubectl exec`.
pub const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Default of `service.new_connections_burst`: the connections of one second, at least one.
pub const fn default_new_connections_burst(per_source: u32) -> u32 {
    if per_source == 0 { 1 } else { per_source }
}

/// Default of `flows.half_open_max`: a quarter of `flows.max`, within what a flood can do little with and what memory is
/// worth (the table is allocated as a whole).
pub const fn default_half_open_max(max: u32) -> u32 {
    let quarter = max / 4;
    if quarter < 8192 {
        8192
    } else if quarter > 262_144 {
        262_144
    } else {
        quarter
    }
}

/// A whole, checked configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Config {
    /// `[node]`
    pub node: Node,
    /// `[[service]]`, in the file's order.
    #[serde(rename = "service")]
    pub services: Vec<Service>,
    /// `[[vrrp]]`, in the file's order.
    pub vrrp: Vec<VrrpInstance>,
    /// `[flows]`
    pub flows: Flows,
    /// `[connection_log]`
    pub connection_log: ConnectionLog,
    /// `[sync]`; without it every node keeps its flows to itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync: Option<Sync>,
    /// `[http]`; without it nothing listens for a browser or for Prometheus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
    /// `[log]`
    pub log: Log,
    /// `[[notify]]`, in the file's order.
    #[serde(rename = "notify")]
    pub hooks: Vec<Hook>,
    /// `[stats_socket]`; without it nobody listens there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats_socket: Option<StatsSocket>,
}

/// `[node]`: this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Node {
    /// Name in logs and in `status`; the host name by default.
    pub name: String,
    /// The interfaces that XDP attaches to: one to four, each once. `interface` or `interfaces` in the file.
    pub interfaces: Vec<String>,
    /// How XDP attaches.
    pub xdp_mode: XdpMode,
    /// Whose connections to a VIP never leave this node on their way to a backend's address.
    pub local_clients: LocalClients,
    /// The directory on a BPF file system for this instance's pinned objects.
    pub pin_path: PathBuf,
    /// Whether xvip changes nothing and only shows what it would do.
    pub observe: bool,
}

impl Node {
    /// The interface where VIPs, VRRP and announcements live: the first.
    pub fn interface(&self) -> &str {
        self.interfaces.first().map_or("", String::as_str)
    }
}

/// Which processes of this node have their connections to a VIP sent straight to a backend, by hooks on their cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LocalClients {
    /// Those in the daemon's own network namespace.
    #[default]
    Host,
    /// Those in every network namespace of the node, pods too.
    All,
    /// None: no hook is attached.
    Off,
}

/// How XDP attaches to the interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum XdpMode {
    /// Native where the driver can do it, else generic.
    #[default]
    Auto,
    /// In the driver, or fail.
    Native,
    /// In the stack, after the driver has made an `sk_buff`.
    Generic,
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// That of an address.
    pub const fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

/// The family that a VRRP instance with these VIPs speaks: IPv4 where one of them is IPv4 (or there is none), else IPv6.
/// The VIPs of that family are advertised; those of the other follow, as keepalived's `virtual_ipaddress_excluded` do.
pub fn family_of(vips: &[IpAddr]) -> Family {
    if vips.is_empty() || vips.iter().any(IpAddr::is_ipv4) { Family::Ipv4 } else { Family::Ipv6 }
}

/// An address with the prefix length that `ip addr` will show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vip {
    /// The virtual address.
    pub address: IpAddr,
    /// Prefix length, 1 to 32 or 128.
    pub prefix_len: u8,
}

/// A network, as `service.allow` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// Its first address: every bit behind the first `len` is 0.
    pub address: IpAddr,
    /// How many bits are given, 0 to 32 or 128.
    pub len: u8,
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl std::fmt::Display for Vip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl Serialize for Vip {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// `[[service]]`: a virtual service and its backends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Service {
    /// Unique name.
    pub name: String,
    /// The address that clients connect to.
    #[schemars(with = "String")]
    pub vip: Vip,
    /// The port that clients connect to.
    pub port: NonZeroU16,
    /// How packets reach the backends.
    pub mode: Mode,
    /// Whom the backends see as the client; only [`Mode::Nat`] has a choice, the others have [`Snat::Vip`] here and
    /// leave the client's address as it is.
    pub snat: Snat,
    /// How a new flow's backend is chosen.
    pub balance: Balance,
    /// The VRRP instance that owns the VIP; the name of one in `Config::vrrp`. Without one, something else (a routing
    /// daemon, an address on every node) brings the packets here, and xvip never touches the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vrrp: Option<String>,
    /// What a new connection gets while no backend is up.
    pub on_all_down: OnAllDown,
    /// What a new connection gets while each backend that is up has its `max_connections`.
    pub on_all_full: OnAllFull,
    /// Who may connect: sources in any of these, all of the VIP's family and each once. Empty: everybody.
    #[schemars(with = "Vec<String>")]
    pub allow: Vec<Prefix>,
    /// New connections per second that one source (an IPv4 address, an IPv6 /64) may open in the long run, at most
    /// [`MAX_NEW_CONNECTIONS`]; 0 is no limit.
    pub new_connections_per_source: u32,
    /// How many of them it may open at once, 1 to [`MAX_NEW_CONNECTIONS`]; nothing where there is no limit.
    pub new_connections_burst: u32,
    /// What becomes of the flows of a backend that is dead.
    pub on_down: OnDown,
    /// How many of them are reset in a second, at most [`MAX_RESET_RATE`]; 0 is no limit.
    pub reset_rate: u32,
    /// Whether the connection log has its connections.
    pub connection_log: bool,
    /// Whether skew among the backends is healed.
    pub rebalance: Rebalance,
    /// How backends are checked.
    pub health: Health,
    /// At least one, with unique names and unique addresses.
    #[serde(rename = "backend")]
    pub backends: Vec<Backend>,
}

/// How packets reach the backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Both ends are rewritten; the backends need nothing. They are of the VIP's family, on any port.
    #[default]
    Nat,
    /// Only the Ethernet addresses are rewritten; a backend answers the client itself, from the VIP on its loopback. On
    /// the service's port, and either family: its address only says where frames go.
    DsrL2,
    /// The packet travels in another IP header (IPIP, IP6IP6 and the mixed ones); a backend unpacks it and answers the
    /// client itself. On the service's port; its family is that of the outer header.
    DsrIpip,
}

impl Mode {
    /// The word in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::DsrL2 => "dsr-l2",
            Self::DsrIpip => "dsr-ipip",
        }
    }
}

/// Whom the backends see as the client, with [`Mode::Nat`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Snat {
    /// The VIP: an answer finds its way to whichever node owns it.
    #[default]
    Vip,
    /// This node's own address towards the backend.
    Node,
}

/// How a new flow's backend is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// Consistent hashing of the 5-tuple (Eisenbud et al., NSDI 2016): the same backend on every node.
    #[default]
    Maglev,
    /// The backends in turn, by weight.
    RoundRobin,
    /// The backend with the fewest connections for its weight, of those of this node.
    LeastConnections,
}

/// What a new connection gets while no backend is up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnAllDown {
    /// A RST, so that the client retries at once.
    #[default]
    Reset,
    /// The backends that were up last: fail open.
    LastKnown,
}

/// What a new connection gets while each backend that is up has its `max_connections`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnAllFull {
    /// A RST, so that the client knows at once.
    #[default]
    Reset,
    /// Nothing, so that the client's kernel tries again after a second.
    Drop,
}

/// What becomes of the flows of a backend that is dead: no TCP, or TLS that breaks. Those of one that only says that it is
/// not ready always stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnDown {
    /// They are reset at once, idle ones too, so that the clients connect elsewhere now and not after minutes.
    #[default]
    Reset,
    /// They stay.
    Drain,
}

/// `[service.rebalance]`: connections above a backend's fair share are reset, a few at a time, so that they open anew
/// where there is room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Rebalance {
    /// Who asks for it.
    pub mode: RebalanceMode,
    /// Connections that are reset in a second, 1 to [`MAX_RESET_RATE`].
    pub rate: u32,
    /// Tolerated distance from the fair share, in percent of it.
    pub margin: u8,
    /// A backend with no more connections than that loses none.
    pub floor: u32,
}

impl Default for Rebalance {
    fn default() -> Self {
        Self {
            mode: RebalanceMode::default(),
            rate: DEFAULT_REBALANCE_RATE,
            margin: DEFAULT_REBALANCE_MARGIN,
            floor: DEFAULT_REBALANCE_FLOOR,
        }
    }
}

/// Who asks for a rebalance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RebalanceMode {
    /// Nobody: `xvip rebalance` is refused.
    #[default]
    Off,
    /// An operator, by `xvip rebalance`.
    Manual,
    /// The skew itself.
    Auto,
}

/// `[service.health]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Health {
    /// What a check does.
    #[serde(flatten)]
    pub check: Check,
    /// Pause between checks while the backend is up.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "String")]
    pub interval: Duration,
    /// Pause between checks while it is down.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "String")]
    pub down_interval: Duration,
    /// Pause between checks while the last result disagrees with the state.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "String")]
    pub fast_interval: Duration,
    /// A check that has no answer by then has failed.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// Successes in a row that bring a backend up.
    pub rise: u32,
    /// Failures in a row that bring it down.
    pub fall: u32,
    /// How long a backend that is back takes to get its whole share; at most an hour, and 0 is at once.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "String")]
    pub slow_start: Duration,
    /// New flows in a second that a backend gets while it is slowly started, or while a rebalance leads them there, as long
    /// as another one can take them; 0 is no limit.
    pub slow_start_rate: u32,
}

/// `service.health.check`, the name of what a check does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CheckKind {
    /// [`Check::Tcp`]
    Tcp,
    /// [`Check::Tls`]
    Tls,
    /// [`Check::Http`]
    Http,
    /// [`Check::Https`]: what an API server answers.
    #[default]
    Https,
}

/// What a check does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "check", rename_all = "kebab-case")]
pub enum Check {
    /// A TCP handshake.
    Tcp,
    /// A TLS handshake.
    Tls {
        /// How the certificate is verified.
        #[serde(flatten)]
        tls: TlsVerify,
    },
    /// `GET path` in clear text.
    Http {
        /// Absolute path, with query if any.
        path: String,
        /// The statuses that count as healthy.
        expect_status: Vec<u16>,
    },
    /// `GET path` over TLS.
    Https {
        /// Absolute path, with query if any.
        path: String,
        /// The statuses that count as healthy.
        expect_status: Vec<u16>,
        /// How the certificate is verified.
        #[serde(flatten)]
        tls: TlsVerify,
        /// A file with a bearer token, read again before each new connection.
        #[serde(skip_serializing_if = "Option::is_none")]
        token_file: Option<PathBuf>,
    },
}

/// How a backend's certificate is verified, and ours if it asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct TlsVerify {
    /// `none` or `ca`.
    pub verify: Verify,
    /// The CA bundle (PEM); present exactly when `verify` is `ca`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Our certificate (PEM), together with `client_key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<PathBuf>,
    /// Our key (PEM), together with `client_cert`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<PathBuf>,
}

/// Whether a backend's certificate is verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verify {
    /// Any certificate will do. Said loudly at start.
    #[default]
    None,
    /// It must chain to `ca_file` and name the backend's address.
    Ca,
}

/// `[[service.backend]]`: what LVS calls a real server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Backend {
    /// Unique within the service.
    pub name: String,
    /// Where it listens. This, not the name or the position, is its identity for consistent hashing.
    pub address: SocketAddr,
    /// Share of new flows relative to the others, 0 to [`MAX_WEIGHT`]; 0 gets none.
    pub weight: u16,
    /// Connections that it may have from this node at the same time; 0 is no limit.
    pub max_connections: u32,
}

/// `[flows]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Flows {
    /// How many established flows the table holds.
    pub max: u32,
    /// How many half-open flows; a flood evicts these and no other.
    pub half_open_max: u32,
    /// How many sources the limit of new connections remembers.
    pub sources_max: u32,
    /// An established flow without a packet for that long is forgotten.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "String")]
    pub idle_timeout: Duration,
    /// For that long after this node has taken a VIP over, a packet of a flow that it does not know may be one of the former
    /// owner's: the flow is made anew by what the tables say, and stays if its backend knows it. 0 never.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "String")]
    pub rebuild: Duration,
}

/// `[connection_log]`: where the connections of services with `connection_log = true` are written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ConnectionLog {
    /// Where the files are; they are named after the instance.
    pub directory: PathBuf,
    /// Whether a connection that never carries a byte of payload is left out, as HAProxy's `dontlognull` does.
    pub skip_empty: bool,
    /// How large a file gets before the next one is begun, in bytes; within [`CONNECTION_LOG_SIZES`].
    #[serde(serialize_with = "as_size")]
    #[schemars(with = "String")]
    pub max_size: u64,
    /// How many files there are at most, the one that is written to included; 1 to [`MAX_CONNECTION_LOG_FILES`].
    pub files: u32,
    /// Whether each record is a line of the daemon's own log, too.
    pub journal: bool,
}

impl Default for ConnectionLog {
    fn default() -> Self {
        Self {
            directory: PathBuf::from(DEFAULT_CONNECTION_LOG_DIRECTORY),
            skip_empty: DEFAULT_SKIP_EMPTY,
            max_size: DEFAULT_CONNECTION_LOG_SIZE,
            files: DEFAULT_CONNECTION_LOG_FILES,
            journal: DEFAULT_CONNECTION_LOG_JOURNAL,
        }
    }
}

/// `[sync]`: the nodes tell each other their flows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Sync {
    /// Where this node listens for its peers.
    pub listen: SocketAddr,
    /// Where the others do.
    pub peers: Vec<SocketAddr>,
    /// The file with the keys that all nodes share.
    pub key_file: PathBuf,
    /// What it holds.
    #[serde(skip_serializing)]
    #[schemars(skip)]
    pub keys: SyncKeys,
    /// What this node sends at most, in Mbit/s.
    pub bandwidth: u32,
}

/// What is in `sync.key_file`: one to [`Self::MOST`] secrets. The first is the one that this node calls its peers with; it
/// answers to each of them, so that keys can be changed one node after the other. Not for logs.
#[derive(Clone, PartialEq, Eq)]
pub struct SyncKeys(Vec<Vec<u8>>);

impl SyncKeys {
    /// The fewest bytes of a secret.
    pub const MIN: usize = 32;
    /// The most bytes.
    pub const MAX: usize = 256;
    /// The most secrets in a file.
    pub const MOST: usize = 4;

    /// `None` if there is none, or too many, or one is too short or too long.
    pub fn new(secrets: Vec<Vec<u8>>) -> Option<Self> {
        let sound = (1..=Self::MOST).contains(&secrets.len())
            && secrets.iter().all(|secret| (Self::MIN..=Self::MAX).contains(&secret.len()));
        sound.then_some(Self(secrets))
    }

    /// The secrets, in the file's order.
    pub fn secrets(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(Vec::as_slice)
    }
}

impl std::fmt::Debug for SyncKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SyncKeys(..)")
    }
}

/// A duration as the file writes it: a whole number of the largest unit that fits, `24h` and `1500ms`.
pub fn duration_text(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let units = [("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000)];
    match units.into_iter().find(|(_, length)| nanos != 0 && nanos.is_multiple_of(*length)) {
        Some((unit, length)) => format!("{}{unit}", nanos / length),
        None if nanos == 0 => "0s".to_owned(),
        None => format!("{nanos}ns"),
    }
}

fn as_text<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&duration_text(*duration))
}

/// The units of sizes, the largest first, those of a thousand before those of 1024.
pub(super) const SIZE_UNITS: [(&str, u64); 7] = [
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// A number of bytes as the file writes it: a whole number of the largest unit that fits, `100MB` and `64MiB`.
pub fn size_text(bytes: u64) -> String {
    let unit = SIZE_UNITS.into_iter().find(|(_, size)| bytes != 0 && bytes.is_multiple_of(*size));
    match unit {
        Some((unit, size)) => format!("{}{unit}", bytes / size),
        None => "0B".to_owned(),
    }
}

fn as_size<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&size_text(*bytes))
}
