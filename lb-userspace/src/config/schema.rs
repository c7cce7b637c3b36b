//! Every table of the file and every key, one function per table and one line per key; `[[vrrp]]`, `[http]`, `[log]`, `[[notify]]` and
//! `[stats_socket]` are in files below `schema/`.
//!
//! A new key is one line here, a field in the model, a line in `effective.rs` and one in `packaging/xvip.toml`; the tests
//! notice what was forgotten. What tables say about each other is `agreement`'s.

mod hook;
mod http;
mod log;
mod stats_socket;
mod vrrp;

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    num::NonZeroU16,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::Spanned;

use super::{
    agreement,
    kinds::{
        BACKEND_ADDRESS, Flag, INTERFACE, LISTEN, List, NAME, OneOf, PATH, PERCENT, PIN_PATH, PREFIX, Size,
        Time, URL_PATH, VIP, Whole,
    },
    model::{
        Backend, Balance, CONNECTION_LOG_SIZES, Check, CheckKind, Config, ConnectionLog,
        DEFAULT_CONNECTION_LOG, DEFAULT_DOWN_INTERVAL, DEFAULT_EXPECT_STATUS, DEFAULT_FALL,
        DEFAULT_FAST_INTERVAL, DEFAULT_FLOWS_MAX, DEFAULT_HEALTH_PATH, DEFAULT_IDLE_TIMEOUT,
        DEFAULT_INTERVAL, DEFAULT_MAX_CONNECTIONS, DEFAULT_NEW_CONNECTIONS_PER_SOURCE, DEFAULT_OBSERVE,
        DEFAULT_PIN_PATH, DEFAULT_REBALANCE_FLOOR, DEFAULT_REBALANCE_MARGIN, DEFAULT_REBALANCE_RATE,
        DEFAULT_REBUILD, DEFAULT_RESET_RATE, DEFAULT_RISE, DEFAULT_SLOW_START, DEFAULT_SLOW_START_RATE,
        DEFAULT_SOURCES_MAX, DEFAULT_SYNC_BANDWIDTH, DEFAULT_TIMEOUT, DEFAULT_WEIGHT, Flows, Health,
        LocalClients, MAX_CONNECTION_LOG_FILES, MAX_ENTRIES, MAX_NEW_CONNECTIONS, MAX_RESET_RATE,
        MAX_SYNC_BANDWIDTH, MAX_WEIGHT, MIN_ENTRIES, Mode, Node, OnAllDown, OnAllFull, OnDown, Prefix,
        Rebalance, RebalanceMode, Service, Snat, Sync, SyncKeys, TlsVerify, Verify, Vip, XdpMode,
        default_half_open_max, default_new_connections_burst,
    },
    parse::Facts,
    pem,
    reader::{At, Place, Table},
    sync_key::sync_keys,
};
use crate::privileges::DAEMON_USER;

use self::hook::HookDraft;
pub(super) use self::{
    http::HttpDraft,
    vrrp::{HMAC_MASK, PASS_MASK, VrrpDraft},
};

const HOUR: Duration = Duration::from_secs(3600);
/// A pause or time-out of a health check: shorter ones would be a busy loop.
const CHECK_TIME: Time = Time::between(Duration::from_millis(10), HOUR);
/// Below a minute an idle `kubectl exec` or watch is cut: kubelets and clients ping every 30 s at best.
const IDLE_TIME: Time = Time::between(Duration::from_secs(60), Duration::from_secs(365 * 24 * 3600));
const SLOW_START: Time = Time::between(Duration::ZERO, HOUR);
const REBUILD: Time = Time::between(Duration::ZERO, HOUR);

const XDP_MODE: OneOf<XdpMode> =
    OneOf(&[("auto", XdpMode::Auto), ("native", XdpMode::Native), ("generic", XdpMode::Generic)]);
const LOCAL_CLIENTS: OneOf<LocalClients> =
    OneOf(&[("host", LocalClients::Host), ("all", LocalClients::All), ("off", LocalClients::Off)]);
const MODE: OneOf<Mode> = OneOf(&[("nat", Mode::Nat), ("dsr-l2", Mode::DsrL2), ("dsr-ipip", Mode::DsrIpip)]);
const SNAT: OneOf<Snat> = OneOf(&[("vip", Snat::Vip), ("node", Snat::Node)]);
const BALANCE: OneOf<Balance> = OneOf(&[
    ("maglev", Balance::Maglev),
    ("round-robin", Balance::RoundRobin),
    ("least-connections", Balance::LeastConnections),
]);
const ON_DOWN: OneOf<OnDown> = OneOf(&[("reset", OnDown::Reset), ("drain", OnDown::Drain)]);
const REBALANCE: OneOf<RebalanceMode> =
    OneOf(&[("off", RebalanceMode::Off), ("manual", RebalanceMode::Manual), ("auto", RebalanceMode::Auto)]);
const ON_ALL_FULL: OneOf<OnAllFull> = OneOf(&[("reset", OnAllFull::Reset), ("drop", OnAllFull::Drop)]);
/// How many entries a table of the program has.
const ENTRIES: Whole<u32> = Whole(MIN_ENTRIES..=MAX_ENTRIES);
/// Clients on one side, backends on the other, and a spare link for each.
const MAX_INTERFACES: usize = 4;
const ON_ALL_DOWN: OneOf<OnAllDown> =
    OneOf(&[("reset", OnAllDown::Reset), ("last-known", OnAllDown::LastKnown)]);
const CHECK: OneOf<CheckKind> = OneOf(&[
    ("tcp", CheckKind::Tcp),
    ("tls", CheckKind::Tls),
    ("http", CheckKind::Http),
    ("https", CheckKind::Https),
]);
const VERIFY: OneOf<Verify> = OneOf(&[("none", Verify::None), ("ca", Verify::Ca)]);

/// Where kubeadm keeps the CA of the API servers.
const CA_FILE: &str = "\"/etc/kubernetes/pki/ca.crt\"";

/// A `[[service]]` as read; None where the file is wrong, which was said.
pub(super) struct ServiceDraft {
    pub(super) name: Option<At<String>>,
    pub(super) vip: Option<At<Vip>>,
    pub(super) port: Option<At<u16>>,
    pub(super) mode: Option<At<Mode>>,
    snat: Snat,
    balance: Balance,
    pub(super) vrrp: Option<At<String>>,
    on_all_down: OnAllDown,
    on_all_full: OnAllFull,
    pub(super) allow: Vec<Prefix>,
    new_connections_per_source: u32,
    new_connections_burst: u32,
    on_down: OnDown,
    reset_rate: u32,
    connection_log: bool,
    rebalance: Rebalance,
    health: Health,
    pub(super) backends: Vec<BackendDraft>,
}

/// A `[[service.backend]]` as read.
pub(super) struct BackendDraft {
    pub(super) name: Option<At<String>>,
    pub(super) address: Option<At<SocketAddr>>,
    pub(super) weight: At<u16>,
    max_connections: u32,
}

/// `[sync]` as read.
pub(super) struct SyncDraft {
    pub(super) place: Place,
    pub(super) listen: Option<At<SocketAddr>>,
    pub(super) peers: Option<At<Vec<Spanned<SocketAddr>>>>,
    key_file: Option<At<PathBuf>>,
    keys: Option<SyncKeys>,
    bandwidth: u32,
}

impl SyncDraft {
    /// None where something of it is wrong, which was said.
    fn finished(self) -> Option<Sync> {
        Some(Sync {
            listen: self.listen?.value,
            peers: self.peers?.value.into_iter().map(Spanned::into_inner).collect(),
            key_file: self.key_file?.value,
            keys: self.keys?,
            bandwidth: self.bandwidth,
        })
    }
}

/// The whole file. None only when something was reported.
pub(super) fn document(root: Table<'_>, facts: &Facts<'_>) -> Option<Config> {
    let node = node(root.table_or_empty("node"), facts);
    let services: Vec<ServiceDraft> =
        root.tables("service").into_iter().map(|table| service(table, facts)).collect();
    let instances: Vec<VrrpDraft> =
        root.tables("vrrp").into_iter().map(|table| vrrp::instance(table, facts)).collect();
    let flows = flows(root.table_or_empty("flows"));
    let connection_log = connection_log(root.table_or_empty("connection_log"));
    let sync = root.table("sync").map(|table| sync(table, facts));
    let http = root.table("http").map(|table| http::http(table, facts));
    let log = log::log(root.table_or_empty("log"));
    let hooks: Vec<HookDraft> =
        root.tables("notify").into_iter().map(|table| hook::hook(table, facts)).collect();
    let stats_socket = root.table("stats_socket").map(stats_socket::stats_socket);
    if root.place_of("service").is_none() {
        let message = "there is no service, so there is nothing to do";
        root.reader.error(
            &root.place(),
            message,
            "write: [[service]] with name, vip, port and [[service.backend]]",
        );
    }
    agreement::check(root.reader, &services, &instances, sync.as_ref(), http.as_ref());
    hook::check_names(&root, &hooks, &services, &instances);
    root.finish();
    Some(Config {
        node: node?,
        services: services.into_iter().map(ServiceDraft::finished).collect::<Option<_>>()?,
        vrrp: instances.into_iter().map(VrrpDraft::finished).collect::<Option<_>>()?,
        flows,
        connection_log,
        sync: match sync {
            Some(sync) => Some(sync.finished()?),
            None => None,
        },
        http: match http {
            Some(http) => Some(http.finished()?),
            None => None,
        },
        log,
        hooks: hooks.into_iter().map(HookDraft::finished).collect::<Option<_>>()?,
        stats_socket: match stats_socket {
            Some(socket) => Some(socket?),
            None => None,
        },
    })
}

fn node(t: Table<'_>, facts: &Facts<'_>) -> Option<Node> {
    let name = match facts.host_name.as_str() {
        "" => t.read("name", NAME).required("\"lb1\""),
        host_name => Some(t.read("name", NAME).or(host_name.to_owned())),
    };
    let interfaces = interfaces(&t);
    let xdp_mode = t.read("xdp_mode", XDP_MODE).or(XdpMode::default()).value;
    let local_clients = t.read("local_clients", LOCAL_CLIENTS).or(LocalClients::default()).value;
    let pin_path = t.read("pin_path", PIN_PATH).or(PathBuf::from(DEFAULT_PIN_PATH)).value;
    let observe = observe(&t);
    t.finish();
    Some(Node { name: name?.value, interfaces: interfaces?, xdp_mode, local_clients, pin_path, observe })
}

fn observe(t: &Table<'_>) -> bool {
    let observe = t.read("observe", Flag).or(DEFAULT_OBSERVE);
    if observe.value {
        let message = "with `observe` this node changes nothing: it forwards no new connection, takes no part in VRRP, and has no \
                       address; `xvip status` shows what it would do";
        t.reader.warning(&observe.place, message, "when it shall do that, write: observe = false");
    }
    observe.value
}

/// `interface`, or `interfaces`.
fn interfaces(t: &Table<'_>) -> Option<Vec<String>> {
    let single = t.read("interface", INTERFACE).required_unless(Some("interfaces"), "\"eth0\"");
    let Some(place) = t.place_of("interfaces") else { return Some(vec![single?.value]) };
    if t.place_of("interface").is_some() {
        let message = "`interfaces` and `interface` exclude each other";
        let remedy = "remove `interface`; the first of `interfaces` is where the VIPs live";
        t.reader.error(&place, message, remedy);
    }
    let list = t.read("interfaces", List(INTERFACE)).optional("[\"eth0\", \"eth1\"]")?;
    let mut known = BTreeSet::new();
    for name in &list.value {
        if !known.insert(name.get_ref()) {
            let message = format!("`interfaces` has {:?} twice", name.get_ref());
            t.reader.error(&list.place.part(name.span()), message, "remove one of the two");
        }
    }
    let count = list.value.len();
    if !(1..=MAX_INTERFACES).contains(&count) {
        let message = format!("`interfaces` must have 1 to {MAX_INTERFACES} names, not {count}");
        t.reader.error(&list.place, message, "write: interfaces = [\"eth0\", \"eth1\"]");
    }
    Some(list.value.into_iter().map(Spanned::into_inner).collect())
}

fn flows(t: Table<'_>) -> Flows {
    let max = t.read("max", ENTRIES).or(DEFAULT_FLOWS_MAX).value;
    let half_open_max = t.read("half_open_max", ENTRIES).or(default_half_open_max(max)).value;
    let sources_max = t.read("sources_max", ENTRIES).or(DEFAULT_SOURCES_MAX).value;
    let idle_timeout = t.read("idle_timeout", IDLE_TIME).or(DEFAULT_IDLE_TIMEOUT).value;
    let rebuild = t.read("rebuild", REBUILD).or(DEFAULT_REBUILD).value;
    t.finish();
    Flows { max, half_open_max, sources_max, idle_timeout, rebuild }
}

fn connection_log(t: Table<'_>) -> ConnectionLog {
    let default = ConnectionLog::default();
    let (smallest, largest) = CONNECTION_LOG_SIZES;
    let directory = t.read("directory", PATH).or(default.directory).value;
    let skip_empty = t.read("skip_empty", Flag).or(default.skip_empty).value;
    let max_size = t.read("max_size", Size(smallest..=largest)).or(default.max_size).value;
    let files = t.read("files", Whole(1..=MAX_CONNECTION_LOG_FILES)).or(default.files).value;
    let journal = t.read("journal", Flag).or(default.journal).value;
    t.finish();
    ConnectionLog { directory, skip_empty, max_size, files, journal }
}

fn service(t: Table<'_>, facts: &Facts<'_>) -> ServiceDraft {
    let name = t.read("name", NAME).required("\"kube-apiserver\"");
    let vip = t.read("vip", VIP).required("\"172.16.0.10/24\"");
    let port = t.read("port", Whole(1..=65_535)).required("6443");
    let mode = t.read("mode", MODE).or_if_absent(Mode::default());
    let snat = snat(&t, mode.as_ref());
    let balance = balance(&t, mode.as_ref());
    let allow = allow(&t, vip.as_ref());
    let (new_connections_per_source, new_connections_burst) = new_connections(&t);
    let draft = ServiceDraft {
        name,
        vip,
        port,
        mode,
        snat,
        balance,
        vrrp: t.read("vrrp", NAME).optional("\"main\""),
        on_all_down: t.read("on_all_down", ON_ALL_DOWN).or(OnAllDown::default()).value,
        on_all_full: t.read("on_all_full", ON_ALL_FULL).or(OnAllFull::default()).value,
        allow,
        new_connections_per_source,
        new_connections_burst,
        on_down: t.read("on_down", ON_DOWN).or(OnDown::default()).value,
        reset_rate: t.read("reset_rate", Whole(0..=MAX_RESET_RATE)).or(DEFAULT_RESET_RATE).value,
        connection_log: t.read("connection_log", Flag).or(DEFAULT_CONNECTION_LOG).value,
        rebalance: t.table("rebalance").map(rebalance).unwrap_or_default(),
        health: health(t.table_or_empty("health"), facts),
        backends: t.tables("backend").into_iter().map(backend).collect(),
    };
    if t.place_of("backend").is_none() {
        let message = "there is no backend to forward to";
        let remedy = "write: [[service.backend]] with name = \"master1\" and address = \"172.16.0.4:6443\"";
        t.reader.error(&t.place(), message, remedy);
    }
    t.finish();
    draft
}

impl ServiceDraft {
    fn finished(self) -> Option<Service> {
        Some(Service {
            name: self.name?.value,
            vip: self.vip?.value,
            port: NonZeroU16::new(self.port?.value)?,
            mode: self.mode?.value,
            snat: self.snat,
            balance: self.balance,
            vrrp: self.vrrp.map(|name| name.value),
            on_all_down: self.on_all_down,
            on_all_full: self.on_all_full,
            allow: self.allow,
            new_connections_per_source: self.new_connections_per_source,
            new_connections_burst: self.new_connections_burst,
            on_down: self.on_down,
            reset_rate: self.reset_rate,
            connection_log: self.connection_log,
            rebalance: self.rebalance,
            health: self.health,
            backends: self.backends.into_iter().map(BackendDraft::finished).collect::<Option<_>>()?,
        })
    }
}

/// Answers of a backend that go straight to the client have no address to be sent back to.
fn snat(t: &Table<'_>, mode: Option<&At<Mode>>) -> Snat {
    let snat = t.read("snat", SNAT).or(Snat::default());
    if snat.given
        && let Some(mode) = mode.filter(|mode| mode.value != Mode::Nat)
    {
        let mode = mode.value.as_str();
        let message = format!(
            "`snat` is for mode \"nat\" only: with \"{mode}\" the backends see the client's own address"
        );
        t.reader.error(&snat.place, message, "remove it, or write: mode = \"nat\"");
        return Snat::default();
    }
    snat.value
}

/// With NAT a connection needs its flow on this node in any case; without it, only where the balance does.
fn balance(t: &Table<'_>, mode: Option<&At<Mode>>) -> Balance {
    let balance = t.read("balance", BALANCE).or(Balance::default());
    if balance.value != Balance::Maglev
        && let Some(mode) = mode.filter(|mode| mode.value != Mode::Nat)
    {
        let message = format!(
            "with mode \"{}\" and this `balance`, connections do not survive a move of the VIP to another node, nor a \
             full flow table: only the flow table of one node knows their backends",
            mode.value.as_str()
        );
        t.reader.warning(&balance.place, message, "write: balance = \"maglev\"");
    }
    balance.value
}

/// Who may connect; empty is everybody.
fn allow(t: &Table<'_>, vip: Option<&At<Vip>>) -> Vec<Prefix> {
    let Some(allow) = t.read("allow", List(PREFIX)).optional("[\"10.0.0.0/8\"]") else { return Vec::new() };
    if allow.value.is_empty() {
        let message = "`allow` must have at least one network, or nobody can connect";
        t.reader.error(&allow.place, message, "remove it: without `allow` everybody may connect");
    }
    let mut known = BTreeSet::new();
    for prefix in &allow.value {
        let place = allow.place.part(prefix.span());
        let prefix = prefix.get_ref();
        if !known.insert(prefix) {
            t.reader.error(&place, format!("`allow` has {prefix} twice"), "remove one of the two");
        }
        let Some(vip) = vip.filter(|vip| vip.value.address.is_ipv4() != prefix.address.is_ipv4()) else {
            continue;
        };
        let (family, example) =
            if vip.value.address.is_ipv4() { ("IPv4", "10.0.0.0/8") } else { ("IPv6", "2001:db8::/32") };
        let message = format!("`allow` has {prefix}, from which nobody can reach an {family} VIP");
        t.reader.error(
            &place,
            message,
            format!("write: allow = [{example:?}], or a service of its own for the other family"),
        );
    }
    allow.value.into_iter().map(Spanned::into_inner).collect()
}

/// `new_connections_per_source` and `new_connections_burst`.
fn new_connections(t: &Table<'_>) -> (u32, u32) {
    let rate = t
        .read("new_connections_per_source", Whole(0..=MAX_NEW_CONNECTIONS))
        .or_if_absent(DEFAULT_NEW_CONNECTIONS_PER_SOURCE);
    let default = default_new_connections_burst(rate.as_ref().map_or(0, |rate| rate.value));
    let burst = t.read("new_connections_burst", Whole(1..=MAX_NEW_CONNECTIONS)).or(default);
    let Some(rate) = rate else { return (DEFAULT_NEW_CONNECTIONS_PER_SOURCE, burst.value) };
    if burst.given && rate.value == 0 {
        let message =
            "`new_connections_burst` needs `new_connections_per_source`: without it there is no limit";
        let remedy = format!("write: new_connections_per_source = {}, or remove it", burst.value);
        t.reader.error(&burst.place, message, remedy);
    }
    (rate.value, burst.value)
}

fn backend(t: Table<'_>) -> BackendDraft {
    let draft = BackendDraft {
        name: t.read("name", NAME).required("\"master1\""),
        address: t.read("address", BACKEND_ADDRESS).required("\"172.16.0.4:6443\""),
        weight: t.read("weight", Whole(0..=MAX_WEIGHT)).or(DEFAULT_WEIGHT),
        max_connections: t.read("max_connections", Whole(0..=u32::MAX)).or(DEFAULT_MAX_CONNECTIONS).value,
    };
    t.finish();
    draft
}

impl BackendDraft {
    fn finished(self) -> Option<Backend> {
        Some(Backend {
            name: self.name?.value,
            address: self.address?.value,
            weight: self.weight.value,
            max_connections: self.max_connections,
        })
    }
}

fn health(t: Table<'_>, facts: &Facts<'_>) -> Health {
    let kind = t.read("check", CHECK).or(CheckKind::default());
    let path = t.read("path", URL_PATH).or(DEFAULT_HEALTH_PATH.to_owned());
    let expect_status =
        t.read("expect_status", List(Whole(200..=599))).or(vec![Spanned::new(0..0, DEFAULT_EXPECT_STATUS)]);
    if expect_status.value.is_empty() {
        let message = "`expect_status` must have at least one status, or no backend is ever healthy";
        t.reader.error(
            &expect_status.place,
            message,
            format!("write: expect_status = [{DEFAULT_EXPECT_STATUS}]"),
        );
    }
    if matches!(kind.value, CheckKind::Tcp | CheckKind::Tls) {
        only_with(&t, &path, "`path` is for http and https checks only", "https");
        only_with(&t, &expect_status, "`expect_status` is for http and https checks only", "https");
    }
    let (tls, token_file) = tls(&t, &kind, facts);
    let (path, expect_status) =
        (path.value, expect_status.value.into_iter().map(Spanned::into_inner).collect());
    let health = Health {
        check: match kind.value {
            CheckKind::Tcp => Check::Tcp,
            CheckKind::Tls => Check::Tls { tls },
            CheckKind::Http => Check::Http { path, expect_status },
            CheckKind::Https => Check::Https { path, expect_status, tls, token_file },
        },
        interval: t.read("interval", CHECK_TIME).or(DEFAULT_INTERVAL).value,
        down_interval: t.read("down_interval", CHECK_TIME).or(DEFAULT_DOWN_INTERVAL).value,
        fast_interval: t.read("fast_interval", CHECK_TIME).or(DEFAULT_FAST_INTERVAL).value,
        timeout: t.read("timeout", CHECK_TIME).or(DEFAULT_TIMEOUT).value,
        rise: t.read("rise", Whole(1..=1000)).or(DEFAULT_RISE).value,
        fall: t.read("fall", Whole(1..=1000)).or(DEFAULT_FALL).value,
        slow_start: t.read("slow_start", SLOW_START).or(DEFAULT_SLOW_START).value,
        slow_start_rate: t
            .read("slow_start_rate", Whole(0..=MAX_RESET_RATE))
            .or(DEFAULT_SLOW_START_RATE)
            .value,
    };
    t.finish();
    health
}

/// Refuses a key that `check` has no use for.
fn only_with<T>(t: &Table<'_>, key: &At<T>, message: &str, check: &str) {
    if key.given {
        t.reader.error(&key.place, message, format!("remove it, or write: check = \"{check}\""));
    }
}

/// The keys of `[service.health]` about TLS: how a certificate is verified, and a token's file.
fn tls(t: &Table<'_>, kind: &At<CheckKind>, facts: &Facts<'_>) -> (TlsVerify, Option<PathBuf>) {
    let verify = t.read("verify", VERIFY).or(Verify::default());
    let ca_file = t.read("ca_file", PATH).optional(CA_FILE);
    let client_cert = t.read("client_cert", PATH).optional("\"/etc/xvip/client.crt\"");
    let client_key = t.read("client_key", PATH).optional("\"/etc/xvip/client.key\"");
    let token_file = t.read("token_file", PATH).optional("\"/etc/xvip/token\"");

    if matches!(kind.value, CheckKind::Tcp | CheckKind::Http) {
        only_with(t, &verify, "`verify` is for tls and https checks only", "https");
        let files = [("ca_file", &ca_file), ("client_cert", &client_cert), ("client_key", &client_key)];
        for (key, file) in files.into_iter().filter_map(|(key, file)| Some((key, file.as_ref()?))) {
            only_with(t, file, &format!("`{key}` is for tls and https checks only"), "https");
        }
    } else if verify.value == Verify::None {
        let place = if verify.given { &verify.place } else { &kind.place };
        let message =
            "the backends' certificates are not verified: whoever answers at their address counts as healthy";
        t.reader.warning(place, message, format!("write: verify = \"ca\" and ca_file = {CA_FILE}"));
    }
    match (verify.value, &ca_file) {
        (Verify::None, Some(file)) => {
            t.reader.error(&file.place, "`ca_file` needs verify = \"ca\"", "write: verify = \"ca\"");
        }
        (Verify::Ca, None) if t.place_of("ca_file").is_none() => {
            let message = "`verify = \"ca\"` needs `ca_file`";
            t.reader.error(&verify.place, message, format!("write: ca_file = {CA_FILE}"));
        }
        _ => {}
    }
    if let Some(file) = &ca_file {
        contents(t, "ca_file", file, facts, pem::ca_bundle);
    }
    client_identity(t, client_cert.as_ref(), client_key.as_ref(), facts);
    if let Some(file) = &token_file {
        contents(t, "token_file", file, facts, pem::token);
        if kind.value != CheckKind::Https {
            only_with(t, file, "`token_file` is for https checks only", "https");
        } else if verify.value == Verify::None {
            let message =
                "the token goes to whoever answers at a backend's address: its certificate is not verified";
            t.reader.warning(&file.place, message, format!("write: verify = \"ca\" and ca_file = {CA_FILE}"));
        }
    }
    let path = |file: Option<At<PathBuf>>| file.map(|file| file.value);
    let tls = TlsVerify {
        verify: verify.value,
        ca_file: path(ca_file),
        client_cert: path(client_cert),
        client_key: path(client_key),
    };
    (tls, path(token_file))
}

/// `client_cert` and `client_key`: both or neither, and one belongs to the other.
fn client_identity(
    t: &Table<'_>,
    certificate: Option<&At<PathBuf>>,
    key: Option<&At<PathBuf>>,
    facts: &Facts<'_>,
) {
    let chain = certificate.and_then(|file| contents(t, "client_cert", file, facts, pem::certificates));
    let private = key.and_then(|file| contents(t, "client_key", file, facts, pem::private_key));
    match (certificate, key) {
        (Some(certificate), None) if t.place_of("client_key").is_none() => {
            let message = "`client_cert` needs `client_key`";
            t.reader.error(&certificate.place, message, "write: client_key = \"/etc/xvip/client.key\"");
        }
        (None, Some(key)) if t.place_of("client_cert").is_none() => {
            let message = "`client_key` needs `client_cert`";
            t.reader.error(&key.place, message, "write: client_cert = \"/etc/xvip/client.crt\"");
        }
        (Some(_), Some(key)) => {
            if let (Some(chain), Some(private)) = (chain, private)
                && let Err(wrong) = pem::identity(chain, private, "client_cert")
            {
                let message = format!("`client_key` {} {wrong}", key.value.display());
                t.reader.error(
                    &key.place,
                    message,
                    "write: client_key = the path of the certificate's own key",
                );
            }
        }
        _ => {}
    }
}

/// What a file that the configuration names holds; None if that was complained about.
fn contents<T>(
    t: &Table<'_>,
    key: &str,
    file: &At<PathBuf>,
    facts: &Facts<'_>,
    meaning: fn(&[u8]) -> Result<T, String>,
) -> Option<T> {
    let what = match key {
        "token_file" => "a file with one bearer token",
        "file" | "key_file" => "a file with \"hex:\" and the output of `openssl rand -hex 32`",
        _ => "a PEM file",
    };
    contents_of(t, key, what, file, facts, meaning)
}

/// The same, where the complaint says that it should be `what`.
fn contents_of<T>(
    t: &Table<'_>,
    key: &str,
    what: &str,
    file: &At<PathBuf>,
    facts: &Facts<'_>,
    meaning: fn(&[u8]) -> Result<T, String>,
) -> Option<T> {
    let path: &Path = &file.value;
    let read = (facts.read_file)(path);
    let denied = read.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    let read = read.map_err(|error| format!("cannot be read: {error}"));
    match read.and_then(|bytes| meaning(&bytes)) {
        Ok(meaning) => Some(meaning),
        Err(wrong) => {
            let message = format!("`{key}` {} {wrong}", path.display());
            let remedy = if denied {
                format!("run: chgrp {DAEMON_USER} {0} && chmod 640 {0}", path.display())
            } else {
                format!("write: {key} = the path of {what}, readable for xvip")
            };
            t.reader.error(&file.place, message, remedy);
            None
        }
    }
}

/// Whoever can read a file with a key can use it. Its group may: it is the daemon's own where that is not root.
fn private(t: &Table<'_>, key: &str, file: &At<PathBuf>, facts: &Facts<'_>) {
    let path = file.value.display();
    if let Ok(mode) = (facts.file_mode)(&file.value)
        && mode & 0o037 != 0
    {
        let message = format!(
            "`{key}` {path} is not for its owner, and the group of xvip, alone: its mode is {mode:04o}"
        );
        t.reader.warning(&file.place, message, format!("run: chmod 640 {path}"));
    }
}

/// `[service.rebalance]`
fn rebalance(t: Table<'_>) -> Rebalance {
    let mode = t.read("mode", REBALANCE).or(RebalanceMode::default()).value;
    let rate = t.read("rate", Whole(1..=MAX_RESET_RATE)).or(DEFAULT_REBALANCE_RATE).value;
    let margin = t.read("margin", PERCENT).or(DEFAULT_REBALANCE_MARGIN).value;
    let floor = t.read("floor", Whole(0..=u32::MAX)).or(DEFAULT_REBALANCE_FLOOR).value;
    t.finish();
    Rebalance { mode, rate, margin, floor }
}

fn sync(t: Table<'_>, facts: &Facts<'_>) -> SyncDraft {
    let listen = t.read("listen", LISTEN).required("\"172.16.0.2:7946\"");
    let peers = t.read("peers", List(LISTEN)).required("[\"172.16.0.3:7946\"]");
    let key_file = t.read("key_file", PATH).required("\"/etc/xvip/sync.key\"");
    let bandwidth = t.read("bandwidth", Whole(1..=MAX_SYNC_BANDWIDTH)).or(DEFAULT_SYNC_BANDWIDTH).value;
    let keys = key_file.as_ref().and_then(|file| contents(&t, "key_file", file, facts, sync_keys));
    if keys.is_some()
        && let Some(file) = &key_file
    {
        private(&t, "key_file", file, facts);
    }
    let place = t.place();
    t.finish();
    SyncDraft { place, listen, peers, key_file, keys, bandwidth }
}
