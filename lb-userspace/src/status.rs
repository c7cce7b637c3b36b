//! What `xvip status` shows: the types are the contract of `--json`, [`table`] is for people.
//!
//! Times are RFC 3339 in UTC with milliseconds (`2026-01-02T03:04:05.678Z`), durations have their unit in the field's
//! name. Fields are only ever added.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
};

use lb_common::layout::virtual_mac;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    config::model::{Family, VrrpInstance, family_of},
    connections::status::ConnectionLogStatus,
    health::tally::CheckTally,
    hooks::HookStatus,
    reconcile::MacText,
    steering::{Said, Standing, rfc3339},
    sync::status::SyncStatus,
    vrrp::lateness::Lateness,
};

pub mod gather;
pub mod table;
pub mod text;
pub mod without_daemon;

/// Everything that is known of this node: what its daemon tells or, while that is down, what its configuration, its pinned
/// maps and its interfaces tell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Who tells this.
    #[serde(default)]
    pub daemon: DaemonState,
    /// What is so because the daemon is down; absent while it is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub without_daemon: Option<WithoutDaemon>,
    /// `node.name`
    pub node: String,
    /// Version of the running daemon; while it is down, of the program that asked.
    pub version: String,
    /// Process id of the daemon; 0 while it is down.
    pub pid: u32,
    /// How long it has been running; 0 while it is down.
    pub uptime_seconds: u64,
    /// What its process takes of the system; absent while it is down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessStatus>,
    /// What is wrong right now, in words; empty when all is well.
    pub problems: Vec<String>,
    /// Who else claims a VIP or uses a VRID, in words, by VIP or name of the VRRP instance; among the problems, too.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rivals: BTreeMap<String, String>,
    /// The configuration in force.
    pub config: ConfigStatus,
    /// The first interface, where the VIPs are.
    pub interface: InterfaceStatus,
    /// All of them, in the configured order.
    #[serde(default)]
    pub interfaces: Vec<InterfaceStatus>,
    /// `[[vrrp]]`, in the file's order.
    pub vrrp: Vec<VrrpStatus>,
    /// `[[service]]`, in the file's order.
    pub services: Vec<ServiceStatus>,
    /// What became of the packets, since the maps were made.
    pub packets: Packets,
    /// The flow table.
    pub flows: FlowsStatus,
    /// New connections to all services.
    #[serde(default)]
    pub pace: PaceStatus,
    /// The web page; absent without `[http]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpStatus>,
    /// The exchange of flows with the other nodes; absent without `[sync]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync: Option<SyncStatus>,
    /// `[[notify]]`, in the file's order: who is told of events.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<HookStatus>,
    /// The connection log; absent where no service has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_log: Option<ConnectionLogStatus>,
    /// What this node would do; absent where it does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observing: Option<ObservingStatus>,
}

/// Who tells a status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DaemonState {
    /// The daemon.
    #[default]
    Up,
    /// Nobody: no daemon answers. Its configuration, its pinned maps and the interfaces were read. What only a daemon knows
    /// is `unknown` then: the states of virtual routers and backends.
    Down,
}

/// What a process takes of the system.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProcessStatus {
    /// When it began.
    pub began_at: String,
    /// Time on processors since then, its own and the kernel's for it.
    pub cpu_seconds: f64,
    /// Memory that it has in RAM. Maps of the data plane are the kernel's and not in it.
    pub resident_bytes: u64,
    /// Memory that it has addresses for.
    pub virtual_bytes: u64,
    /// Open file descriptors.
    pub open_files: u64,
    /// How many it may have (`RLIMIT_NOFILE`).
    pub max_files: u64,
}

/// The web page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HttpStatus {
    /// `http.listen`
    pub listen: String,
    /// `http.path`
    pub path: String,
    /// Until when its certificate is valid; absent without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_not_after: Option<String>,
}

/// How many connections come. The counters are looked at once a second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PaceStatus {
    /// New connections in the last second.
    pub rate: u64,
    /// The most in a second since the daemon was started.
    pub rate_max: u64,
    /// The most established connections at one time since then, as of the counts of flows.
    pub active_max: u64,
    /// When the last new one came; absent where none has come since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_opened: Option<String>,
}

/// What is so because the daemon is down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WithoutDaemon {
    /// Why it is thought to be down.
    pub why: String,
    /// When it last gave a sign of life; null where it has not since the maps were made.
    pub since: Option<String>,
    /// Whether XDP is attached to every interface that the configuration names: packets are forwarded then, by what the maps
    /// said when the daemon was last there.
    pub forwarding: bool,
    /// The VIPs in the maps.
    pub vips: Vec<VipWithoutDaemon>,
}

/// A VIP while the daemon is down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VipWithoutDaemon {
    /// Without its prefix length.
    pub vip: String,
    /// The VRRP instance that owns it; null where none does, or the configuration cannot be read.
    pub vrrp: Option<String>,
    /// Whether an interface of this node has it.
    pub present: bool,
    /// Whether ARP requests and neighbour solicitations for it get no answer from this node: always where it has been
    /// without a daemon for longer than another node waits before it takes over.
    pub silenced: bool,
}

/// While `node.observe` is set. Which backend a new connection would have gone to is counted in
/// [`BackendFlowsStatus::opened`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ObservingStatus {
    /// The interface that would have the VIPs.
    pub interface: String,
    /// The VIPs that this node would take part in VRRP for.
    pub vips: Vec<ObservedVipStatus>,
}

/// A VIP that is left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ObservedVipStatus {
    /// With its prefix length.
    pub vip: String,
    /// Its VRRP instance.
    pub vrrp: String,
    /// `virtual_router_id`
    pub virtual_router_id: u8,
    /// What would be advertised.
    pub priority: u8,
    /// The strongest router that is heard to advertise it. What runs on this very node is not heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard: Option<ActiveRouterStatus>,
}

/// The configuration in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigStatus {
    /// Its file.
    pub path: PathBuf,
    /// When it was read.
    pub loaded_at: String,
    /// Why the last attempt to read it again changed nothing; absent after a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reload_error: Option<String>,
    /// When the last attempt to read it again was, successful or not; absent where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reload_at: Option<String>,
    /// 16 hexadecimal digits that change with what the file says, defaults included; of passwords and secrets only with whether
    /// they are there. Each node has its own, since its name is part of it.
    #[serde(default)]
    pub fingerprint: String,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// `native`, `generic`, or `none` while XDP is not attached.
    pub xdp_mode: String,
    /// Its Ethernet address.
    pub mac: String,
    /// The interface that XDP is attached to: this one or, for a VLAN sub-interface, the one at the bottom.
    #[serde(default)]
    pub attached_to: String,
    /// The VLANs of its frames there, from the outside in.
    #[serde(default)]
    pub vlans: Vec<u16>,
    /// Largest IP packet in bytes.
    #[serde(default)]
    pub mtu: u32,
}

/// A virtual router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VrrpStatus {
    /// Its name.
    pub name: String,
    /// `initialize`, `backup`, `active` or `fault`; `unknown` while the daemon is down.
    pub state: String,
    /// When it was entered.
    pub since: String,
    /// Why it was entered.
    pub reason: String,
    /// What we advertise.
    pub priority: u8,
    /// `virtual_router_id`
    pub virtual_router_id: u8,
    /// 2 or 3.
    pub version: u8,
    /// The VIPs with their prefix lengths.
    pub vips: Vec<String>,
    /// Who owns them, as far as we have heard; ourselves while active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_router: Option<ActiveRouterStatus>,
    /// Advertisements sent.
    pub adverts_sent: u64,
    /// Advertisements received and accepted as well-formed.
    pub adverts_received: u64,
    /// Packets that were not used, by reason.
    pub discarded: BTreeMap<String, u64>,
    /// Whether the VIPs are this node's: while active, and while a hand-over has not reached anybody yet.
    #[serde(default)]
    pub holds_addresses: bool,
    /// The instances that it is active together with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_group: Option<String>,
    /// What keeps it from taking over although it hears nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<String>,
    /// `none`, `password` or `hmac-sha256`
    #[serde(default)]
    pub authentication: String,
    /// The Ethernet address that the VIPs have, where it is the virtual router's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_mac: Option<String>,
    /// How often the state changed.
    #[serde(default)]
    pub transitions: u64,
    /// Advertisements that could not be sent to somebody.
    #[serde(default)]
    pub send_errors: u64,
    /// Why the last one could not; absent after a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_error: Option<String>,
    /// Advertisements used although their VIPs are not quite ours.
    #[serde(default)]
    pub address_mismatches: u64,
    /// Advertisements (version 3) used although their interval is not ours.
    #[serde(default)]
    pub interval_mismatches: u64,
    /// How late advertisements left.
    #[serde(default)]
    pub lateness: Lateness,
    /// Whether the virtual router runs before every ordinary thread (`SCHED_FIFO`).
    #[serde(default)]
    pub realtime: bool,
    /// Whether it was released: it leaves its VIPs to anybody else, until `xvip vip acquire`.
    #[serde(default)]
    pub released: bool,
    /// What it tracks beside the data plane; with those of the other members of its sync group.
    #[serde(default)]
    pub tracks: Vec<TrackStatus>,
    /// Who has to answer before it takes over from a silent router; absent where nobody has to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<WitnessStatus>,
}

impl VrrpStatus {
    /// What the configuration says of an instance with these VIPs; nothing is known of what it does.
    pub(crate) fn configured(instance: &VrrpInstance, vips: &BTreeSet<(IpAddr, u8)>) -> Self {
        let addresses: Vec<IpAddr> = vips.iter().map(|(vip, _)| *vip).collect();
        let is_ipv6 = family_of(&addresses) == Family::Ipv6;
        let router_id = instance.virtual_router_id.get();
        Self {
            name: instance.name.clone(),
            state: "unknown".to_owned(),
            since: String::new(),
            reason: String::new(),
            priority: instance.priority.get(),
            virtual_router_id: router_id,
            version: instance.version.into(),
            vips: vips.iter().map(|(vip, prefix)| format!("{vip}/{prefix}")).collect(),
            active_router: None,
            adverts_sent: 0,
            adverts_received: 0,
            discarded: BTreeMap::new(),
            holds_addresses: false,
            sync_group: instance.sync_group.clone(),
            blocked: None,
            authentication: match (&instance.auth_hmac, &instance.auth_pass) {
                (Some(_), _) => "hmac-sha256",
                (None, Some(_)) => "password",
                (None, None) => "none",
            }
            .to_owned(),
            virtual_mac: (instance.virtual_mac).then(|| MacText(virtual_mac(is_ipv6, router_id)).to_string()),
            transitions: 0,
            send_errors: 0,
            send_error: None,
            address_mismatches: 0,
            interval_mismatches: 0,
            lateness: Lateness::default(),
            realtime: false,
            released: false,
            tracks: Vec::new(),
            witness: None,
        }
    }
}

/// Something that a virtual router depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrackStatus {
    /// `interface NAME`, or `script PROGRAM ARGUMENTS`.
    pub name: String,
    /// What it adds to the priority, or takes from it; with 0, a failure is a fault.
    pub weight: i16,
    /// `unknown`, `up` or `down`.
    pub state: String,
    /// Since when.
    pub since: String,
    /// Why.
    pub reason: String,
}

/// The witnesses of a virtual router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WitnessStatus {
    /// Their addresses; one answer is enough.
    pub addresses: Vec<String>,
    /// Whether one of them has answered lately.
    pub answers: bool,
    /// If not, for how long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The router whose advertisements count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ActiveRouterStatus {
    /// Its address.
    pub address: String,
    /// Its priority.
    pub priority: u8,
}

/// A virtual service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Its VIP, without prefix length.
    pub vip: String,
    /// Its port.
    pub port: u16,
    /// `nat`, `dsr-l2` or `dsr-ipip`
    pub mode: String,
    /// `maglev`, `round-robin` or `least-connections`
    pub balance: String,
    /// How many backends get new flows. 0: new connections get a RST.
    pub usable: u32,
    /// Connects of clients on this node.
    #[serde(default)]
    pub local_clients: LocalClientsStatus,
    /// Of its rebalances; absent where none may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebalance: Option<RebalanceStatus>,
    /// Connections that a process on this node has at VIP and port, such as a proxy that xvip takes the place of; at most
    /// some seconds old. 0 where a backend is this very node, whose connections these are then.
    #[serde(default)]
    pub host_connections: u64,
    /// New connections to all its backends.
    #[serde(default)]
    pub pace: PaceStatus,
    /// In the file's order.
    pub backends: Vec<BackendStatus>,
}

/// The rebalances of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RebalanceStatus {
    /// `off`, `manual` or `auto`
    pub mode: String,
    /// Whether one goes on.
    pub running: bool,
    /// How many connections that one still has to reset.
    pub left: u64,
    /// How many it has reset.
    pub done: u64,
    /// How many all of them have reset since the daemon was started.
    pub resets: u64,
    /// The last one that has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastRebalanceStatus>,
}

/// A rebalance that has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LastRebalanceStatus {
    /// When it began.
    pub began: String,
    /// How long it took.
    pub took_ms: u64,
    /// Whether it was asked for, or began by itself.
    pub asked_for: bool,
    /// `balanced`, `nearly-balanced`, `stuck` or `interrupted`
    pub outcome: String,
    /// How many connections it has reset.
    pub resets: u64,
    /// And of whom.
    pub resets_by_backend: BTreeMap<String, u64>,
}

/// Why a backend is out, by an operator's word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AdminStatus {
    /// `drain`: no new connections; `disabled`: its connections are reset, too.
    pub state: String,
    /// The drain was ordered as HAProxy's `maint`, and HAProxy's socket shows it as that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub maintenance: bool,
    /// When the connections that are left are reset; absent where they stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
    /// Who said so.
    pub by: String,
    /// When.
    pub at: String,
}

impl AdminStatus {
    /// What somebody has said of a backend.
    pub fn of(standing: Standing, said: &Said) -> Self {
        let state = match standing {
            Standing::Drain { .. } | Standing::Maintenance => "drain",
            Standing::Disabled => "disabled",
        };
        Self {
            state: state.to_owned(),
            maintenance: standing == Standing::Maintenance,
            deadline: standing.deadline().map(rfc3339),
            by: said.by.clone(),
            at: rfc3339(said.at),
        }
    }
}

/// A weight by an operator's word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WeightOverrideStatus {
    /// The weight instead of the file's.
    pub weight: u16,
    /// Who said so.
    pub by: String,
    /// When.
    pub at: String,
}

/// What became of connects to a service by processes of this node, since its entry was made. Those that were not redirected
/// went on to the VIP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LocalClientsStatus {
    /// Sent straight to a backend.
    pub redirected: u64,
    /// Not redirected: no backend was usable, or none was of the socket's family.
    pub no_backend: u64,
    /// Not redirected: no controller had been running for long.
    pub stale: u64,
    /// Not redirected: from another network namespace.
    pub other_namespace: u64,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackendStatus {
    /// Its name.
    pub name: String,
    /// Address and port.
    pub address: String,
    /// Its weight.
    pub weight: u16,
    /// What counts at the moment: 0 while it is out; less than its weight for a while after a recovery (`slow_start`).
    #[serde(default)]
    pub effective_weight: u16,
    /// Why it is out; absent while it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<AdminStatus>,
    /// Its weight, if an operator has said another than the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_override: Option<WeightOverrideStatus>,
    /// Connections above which new ones are led elsewhere by a rebalance; absent while none goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_limit: Option<u32>,
    /// How many connections it may have from this node; 0: no limit.
    #[serde(default)]
    pub max_connections: u32,
    /// Whether it is this very node.
    #[serde(default)]
    pub local: bool,
    /// `unknown`, `up` or `down`.
    pub state: String,
    /// While it is down: `dead` or `shutting-down`; absent as long as that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<String>,
    /// Since when.
    pub since: String,
    /// Why: the check that decided.
    pub reason: String,
    /// Its part of the Maglev table or of the turns, 0 to 1: what part of new flows it gets.
    pub share: f64,
    /// Ethernet address that its packets are sent to; null while it is not known, or XDP cannot reach it.
    pub next_hop: Option<String>,
    /// Its flows.
    pub flows: BackendFlowsStatus,
    /// Its new connections.
    #[serde(default)]
    pub pace: PaceStatus,
    /// Until when the certificate is valid that it showed a check last; absent where checks do not speak TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_not_after: Option<String>,
    /// How many of them this process has reset, by reason: `backend-dead`, `disabled`, `drain-deadline`, `rebalance`. Reasons
    /// that there were none for are absent.
    #[serde(default)]
    pub resets: BTreeMap<String, u64>,
    /// Its checks.
    #[serde(default)]
    pub checks: CheckTally,
}

/// Flows of a backend. Each number begins with zero when the backend is first configured, and goes on when the daemon is
/// restarted. What is not said to be as of now is as of the last count, at most some seconds ago.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BackendFlowsStatus {
    /// SYNs that chose it, until now.
    pub opened: u64,
    /// Handshakes that were completed, until now.
    #[serde(default)]
    pub established: u64,
    /// Established, and neither closed nor reset.
    pub active: u64,
    /// Waiting for the end of the handshake.
    #[serde(default)]
    pub half_open: u64,
    /// Closed by one side at least, or reset, and still remembered.
    #[serde(default)]
    pub closing: u64,
    /// How many both sides have closed; with direct server return, the client.
    #[serde(default)]
    pub closed: u64,
    /// How many a RST has ended.
    #[serde(default)]
    pub reset: u64,
    /// How many were forgotten since they were silent for too long.
    #[serde(default)]
    pub expired: u64,
    /// How many went elsewhere, since it had all the connections that it may have; until now.
    #[serde(default)]
    pub full: u64,
    /// SYNs that it answered with a RST, until now.
    #[serde(default)]
    pub refused: u64,
    /// SYNs that it had not answered when they were sent again, until now.
    #[serde(default)]
    pub unanswered: u64,
    /// Packets from clients in established flows.
    #[serde(default)]
    pub packets_in: u64,
    /// Their bytes, IP headers included.
    #[serde(default)]
    pub bytes_in: u64,
    /// Packets to clients; none with direct server return, where they do not come through.
    #[serde(default)]
    pub packets_out: u64,
    /// Their bytes.
    #[serde(default)]
    pub bytes_out: u64,
}

/// Packets by what became of them and why; every reason is there, also with 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Packets {
    /// Left to the host.
    pub passed: BTreeMap<String, u64>,
    /// Dropped.
    pub dropped: BTreeMap<String, u64>,
    /// Sent by XDP.
    pub transmitted: BTreeMap<String, u64>,
}

/// The flow table, as of the last count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowsStatus {
    /// `flows.max`
    pub max: u32,
    /// `flows.half_open_max`
    #[serde(default)]
    pub half_open_max: u32,
    /// Flows whose handshake has completed.
    pub established: u64,
    /// Flows that wait for it.
    pub half_open: u64,
    /// Flows that have ended, or nearly, and are still remembered.
    #[serde(default)]
    pub closing: u64,
}

impl Status {
    /// Whether this node is active for the instance that owns a VIP.
    pub fn owns(&self, vip: impl Into<IpAddr>) -> bool {
        let vip: IpAddr = vip.into();
        let address = vip.to_string();
        self.vrrp.iter().any(|vrrp| {
            vrrp.state == "active"
                && vrrp.vips.iter().any(|owned| owned.split('/').next() == Some(address.as_str()))
        })
    }
}

/// The word that a value without fields has in JSON.
pub(crate) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}
