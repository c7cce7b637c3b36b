//! What HAProxy, keepalived and Pacemaker do together, whatever their files look like. The parsers fill it in, with the
//! defaults of the program that they read for; what xvip makes of it is decided elsewhere.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::source::{At, FileId, Place};
use crate::config::model::{Prefix, StatsLevel, VrrpVersion};

/// All that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Incumbent {
    /// Listeners with their pools, in the order of the file.
    pub proxies: Vec<Proxy>,
    /// HAProxy's statistics pages.
    pub stats: Vec<StatsPage>,
    /// HAProxy's runtime socket: the first one at a path.
    pub stats_socket: Option<StatsSocket>,
    /// `stats timeout`.
    pub stats_timeout: Option<At<Duration>>,
    /// HAProxy's limit of connections of the whole process.
    pub max_connections: Option<At<u64>>,
    /// keepalived's nodes: one for each file that was given.
    pub routers: Vec<RouterNode>,
    /// What Pacemaker and Corosync do.
    pub cluster: Option<Cluster>,
}

/// A TCP listener and what is behind it. One for each `frontend` with the `backend` that it uses, and each `listen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// The frontend's name.
    pub name: At<String>,
    /// Where it listens.
    pub binds: Vec<At<Bind>>,
    /// `mode http` (given or inherited) of the frontend.
    pub http: bool,
    /// Who may connect, where `tcp-request connection` with `acl ... src` says so; empty: everybody.
    pub allow: Vec<At<Prefix>>,
    /// Connections at the same time, if limited.
    pub max_connections: Option<At<u64>>,
    /// `timeout client`.
    pub client_timeout: Option<At<Duration>>,
    /// Where connections are logged at all.
    pub logs_connections: Option<Place>,
    /// `option dontlognull`.
    pub skips_empty: Option<Place>,
    /// The backend's part.
    pub pool: Pool,
}

/// An address of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind {
    /// `None` is every address (`*`, `0.0.0.0`, `::`).
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
}

/// Servers, and how one is chosen and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The backend's name.
    pub name: At<String>,
    /// `mode http` (given or inherited) of the backend.
    pub http: bool,
    /// How a server is chosen.
    pub balance: At<Choice>,
    /// What a check does, after all `option`s have overridden each other.
    pub check: At<ServerCheck>,
    /// `timeout connect`.
    pub connect_timeout: Option<At<Duration>>,
    /// `timeout server`.
    pub server_timeout: Option<At<Duration>>,
    /// `timeout tunnel`: where there is one it counts instead of the other two.
    pub tunnel_timeout: Option<At<Duration>>,
    /// `timeout check`.
    pub check_timeout: Option<At<Duration>>,
    /// `on-marked-down shutdown-sessions`.
    pub resets_when_down: bool,
    /// In the order of the file.
    pub servers: Vec<PoolServer>,
}

/// How a server is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// `roundrobin`, `static-rr`, and what is like it.
    RoundRobin,
    /// `leastconn`.
    LeastConnections,
    /// `source`, or any other hash.
    Hash(String),
    /// `first`, `random`, and others.
    Other(String),
}

/// What a check does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerCheck {
    /// No server has `check`.
    None,
    /// Connects.
    Tcp,
    /// `option ssl-hello-chk`: any record of TLS will do, also an alert.
    SslHello,
    /// A TLS handshake (`check-ssl` without a request).
    Tls {
        /// Whether the certificate is verified, and by which file.
        ca_file: Option<String>,
    },
    /// A request.
    Http {
        /// Whether it goes through TLS.
        tls: bool,
        /// The path.
        path: String,
        /// Statuses that are well; empty: 200 to 399.
        expect: Vec<u16>,
        /// Whether the certificate is verified, and by which file.
        ca_file: Option<String>,
    },
}

/// A server. Intervals and counts are HAProxy's defaults where nothing is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolServer {
    /// Its name.
    pub name: At<String>,
    /// Its address.
    pub address: ServerAddress,
    /// `weight`, 0 to 256.
    pub weight: u16,
    /// `maxconn`; 0 is no limit.
    pub max_connections: u32,
    /// Whether it has `check`.
    pub checked: bool,
    /// `backup`.
    pub backup: bool,
    /// `disabled`.
    pub disabled: bool,
    /// `inter`.
    pub interval: Duration,
    /// `fastinter`; without it, `inter`.
    pub fast_interval: Option<Duration>,
    /// `downinter`; without it, `inter`.
    pub down_interval: Option<Duration>,
    /// `rise`.
    pub rise: u32,
    /// `fall`.
    pub fall: u32,
    /// `slowstart`.
    pub slow_start: Duration,
}

/// A server's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerAddress {
    /// An address and port.
    Ip(SocketAddr),
    /// A name to be looked up, and a port.
    Name(String, u16),
}

/// A page for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatsPage {
    /// Its section.
    pub name: At<String>,
    /// Where it listens.
    pub binds: Vec<At<Bind>>,
    /// `ssl crt FILE` of listeners, with where those stand: the certificate with its key, as an absolute path.
    pub certificates: Vec<(Place, At<String>)>,
    /// `stats uri`, without what follows a `?`.
    pub path: Option<At<String>>,
    /// `stats auth`: names and passwords in clear text.
    pub users: Vec<At<(String, String)>>,
    /// `stats admin if TRUE`: whoever has logged in may disable servers.
    pub admin: Option<Place>,
    /// `stats refresh`.
    pub refresh: Option<At<Duration>>,
    /// `stats hide-version`.
    pub hides_version: Option<Place>,
}

/// A socket for programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsSocket {
    /// An absolute path.
    pub path: At<String>,
    /// `mode`, below 0o1000.
    pub mode: Option<u32>,
    /// `group`.
    pub group: Option<String>,
    /// `level`.
    pub level: Option<StatsLevel>,
}

/// A node of keepalived: one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterNode {
    /// Its file.
    pub file: FileId,
    /// `router_id`.
    pub name: Option<At<String>>,
    /// `[[vrrp]]` in its words.
    pub instances: Vec<RouterInstance>,
    /// `vrrp_sync_group`: names, and the instances' names.
    pub sync_groups: Vec<(At<String>, Vec<String>)>,
}

/// A virtual router of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterInstance {
    /// Its name.
    pub name: At<String>,
    /// `state MASTER`.
    pub begins_as_master: bool,
    /// `interface`.
    pub interface: At<String>,
    /// `virtual_router_id`.
    pub virtual_router_id: At<u8>,
    /// `priority`, 1 to 255.
    pub priority: At<u8>,
    /// `version`, `vrrp_version`.
    pub version: VrrpVersion,
    /// `advert_int`.
    pub advert_interval: Duration,
    /// `authentication`.
    pub authentication: Authentication,
    /// `unicast_src_ip`.
    pub unicast_source: Option<At<IpAddr>>,
    /// `unicast_peer`; empty is multicast.
    pub unicast_peers: Vec<At<IpAddr>>,
    /// `virtual_ipaddress`, and then `virtual_ipaddress_excluded`.
    pub vips: Vec<At<RouterVip>>,
    /// `nopreempt`.
    pub no_preempt: Option<Place>,
    /// `preempt_delay`.
    pub preempt_delay: Duration,
    /// `use_vmac`.
    pub virtual_mac: Option<Place>,
    /// `v3_checksum_as_v2` (keepalived's `vrrp_version 3` only).
    pub checksum_as_v2: bool,
    /// What it depends on.
    pub tracks: Vec<RouterTrack>,
    /// `notify_master` and the others.
    pub hooks: Vec<RouterHook>,
}

/// A virtual address of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterVip {
    /// The address.
    pub address: IpAddr,
    /// Prefix length; 32 or 128 where none is given.
    pub prefix_len: u8,
    /// `dev`, where it is not the instance's interface.
    pub interface: Option<String>,
    /// Whether it is advertised (`virtual_ipaddress`) or only follows (`virtual_ipaddress_excluded`).
    pub advertised: bool,
}

/// How an instance's advertisements are authenticated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Authentication {
    /// Not at all.
    #[default]
    None,
    /// `auth_type PASS`: at most eight bytes count.
    Password(At<String>),
    /// `auth_type AH`, which xvip does not speak.
    Header(Place),
    /// `auth_hmac`.
    Hmac(HmacAuthentication),
}

/// `auth_hmac` of keepalived 2.4.2 and later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HmacAuthentication {
    /// Where the block begins.
    pub place: Place,
    /// Ids and values, as written: `hex:...`, `file:...`.
    pub keys: Vec<(u8, String)>,
    /// `active_key`.
    pub active_key: Option<u8>,
    /// `mode`.
    pub mode: Option<String>,
    /// `anti_replay`.
    pub anti_replay: Option<String>,
    /// `time_window`.
    pub time_window: Option<Duration>,
}

/// Something that an instance depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterTrack {
    /// Where the instance names it.
    pub place: Place,
    /// What is looked at.
    pub what: RouterTracked,
    /// keepalived's sign rule; 0: a failure is a fault.
    pub weight: i16,
}

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouterTracked {
    /// `track_interface`.
    Interface(String),
    /// `track_script`.
    Script(RouterScript),
    /// `track_process`: the process's name or command line.
    Process(String),
    /// Anything else, by the name of its directive.
    Other(String),
}

/// A `vrrp_script`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterScript {
    /// Its name.
    pub name: At<String>,
    /// The command, split into words as keepalived does.
    pub command: Vec<String>,
    /// Whether it only asks what xvip knows by itself: whether the balancer's process or port is there.
    pub asks_for_balancer: bool,
    /// From start to start.
    pub interval: Duration,
    /// `timeout`; keepalived: the interval.
    pub timeout: Option<Duration>,
    /// Successes in a row.
    pub rise: u32,
    /// Failures in a row.
    pub fall: u32,
    /// `user`.
    pub user: Option<String>,
}

/// A program that is run when the state changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterHook {
    /// Where it is named.
    pub place: Place,
    /// `notify_master`, `notify_backup`, `notify_fault`, `notify_stop` or `notify`.
    pub directive: String,
    /// The command, split into words.
    pub command: Vec<String>,
}

/// What Pacemaker and Corosync do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// `IPaddr2` resources.
    pub vips: Vec<At<ClusterVip>>,
    /// `resource-stickiness` above 0: no fail-back.
    pub sticky: Option<Place>,
    /// The longest `op monitor` interval of what the VIP depends on, and its time-out.
    pub monitor: Option<At<(Duration, Duration)>>,
    /// `migration-threshold`.
    pub migration_threshold: Option<At<u32>>,
    /// Corosync's nodes.
    pub nodes: Vec<At<ClusterNode>>,
    /// Corosync's `token`.
    pub token: Option<At<Duration>>,
}

/// A floating address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterVip {
    /// The resource's name.
    pub name: String,
    /// `ip`.
    pub address: IpAddr,
    /// `cidr_netmask`.
    pub prefix_len: Option<u8>,
    /// `nic`.
    pub interface: Option<String>,
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterNode {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// `ring0_addr`, where it is an address.
    pub address: Option<IpAddr>,
}
