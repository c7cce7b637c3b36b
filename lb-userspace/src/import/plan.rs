//! What each node's `xvip.toml` will say: from the neutral model, by the rules of what xvip can do.
//!
//! What comes out is accepted by [`crate::config::parse`], whatever went in: a value that the file cannot have is left out
//! or brought into its range, and that is noted at the line that it came from.

mod cluster;
mod health;
mod names;
mod page;
mod routers;
mod services;
mod side;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use lb_common::layout::{MAX_ALLOWED, MAX_BACKENDS, MAX_MEMBERS, MAX_SERVICES};

pub use routers::asks_for_balancer;

use super::{
    incumbent::{HmacAuthentication, Incumbent},
    ledger::{Entry, Fate, Ledger},
    source::{At, Place, Source},
};
use crate::config::{
    kinds,
    model::{Balance, Prefix, StatsLevel, Vip, VrrpVersion},
};

/// What the user wants besides what is in the files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `--interface`: where the VIPs live.
    pub interface: Option<String>,
    /// `--vip`: VIPs that no file tells of.
    pub vips: Vec<Vip>,
    /// `--keep-timeouts`: whether idle connections are to be cut as HAProxy cuts them.
    pub keep_timeouts: bool,
}

/// Why there is nothing to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No VIP.
    #[error(
        "there is no virtual IP in these files; give it: --vip 172.16.0.10/24, or --keepalived FILE, or --crm FILE"
    )]
    NoVip,
    /// No interface.
    #[error(
        "none of these files names the interface that the virtual IP lives on; give it: --interface eth0"
    )]
    NoInterface,
    /// An interface that the kernel would not take.
    #[error("{0:?} cannot be the name of a network interface; give it: --interface eth0")]
    WrongInterface(String),
    /// No service.
    #[error(
        "nothing in these files can be forwarded: no TCP proxy with a server; the report says why. Give haproxy.cfg: --haproxy FILE"
    )]
    NoService,
    /// More than fits.
    #[error("these files have {count} {what}, and xvip has room for {most}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many fit.
        most: usize,
    },
}

/// A value of a key, and what is said of it beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key<T> {
    /// The value.
    pub value: T,
    /// Where it came from.
    pub from: Option<Place>,
    /// What the operator should look at; empty: nothing.
    pub check: String,
}

impl<T> Key<T> {
    /// A value from a line.
    pub const fn new(value: T, from: Option<Place>) -> Self {
        Self { value, from, check: String::new() }
    }

    /// What was read.
    pub fn of(at: &At<T>) -> Self
    where
        T: Clone,
    {
        Self::new(at.value.clone(), Some(at.place))
    }

    /// The same, for the operator's eye.
    #[must_use]
    pub fn check(self, text: impl Into<String>) -> Self {
        Self { check: text.into(), ..self }
    }
}

/// A node's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlan {
    /// How the user may call it (`--node`), the best first: never empty.
    pub names: Vec<String>,
    /// The name of its file in a directory, without `.toml`; unique.
    pub file_name: String,
    /// `node.name`.
    pub name: Option<Key<String>>,
    /// `node.interface`.
    pub interface: Key<String>,
    /// `[[service]]`
    pub services: Vec<ServicePlan>,
    /// `[[vrrp]]`
    pub instances: Vec<InstancePlan>,
    /// `flows.max`.
    pub flows_max: Option<Key<u32>>,
    /// `flows.idle_timeout`.
    pub idle: Idle,
    /// `connection_log.skip_empty`.
    pub skip_empty: Option<Place>,
    /// `[http]`
    pub page: Option<PagePlan>,
    /// `[stats_socket]`
    pub stats_socket: Option<SocketPlan>,
    /// `[[notify]]`
    pub hooks: Vec<HookPlan>,
}

/// What becomes of the time-outs that cut idle connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Idle {
    /// There were none.
    None,
    /// They are not imported: HAProxy's longest, and where it stands.
    Dropped(Duration, Place),
    /// They are.
    Kept(Key<Duration>),
}

/// A `[[service]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePlan {
    /// `name`.
    pub name: Key<String>,
    /// `vip`.
    pub vip: Key<Vip>,
    /// `port`.
    pub port: Key<u16>,
    /// `vrrp`.
    pub vrrp: Option<String>,
    /// `balance`.
    pub balance: Key<Balance>,
    /// `allow`.
    pub allow: Vec<Key<Prefix>>,
    /// `connection_log`.
    pub connection_log: Option<Place>,
    /// `[service.health]`
    pub health: HealthPlan,
    /// `[[service.backend]]`
    pub backends: Vec<BackendPlan>,
}

/// `[service.health]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthPlan {
    /// `check` and what belongs to it.
    pub check: Key<CheckPlan>,
    /// `interval`.
    pub interval: Key<Duration>,
    /// `down_interval`.
    pub down_interval: Key<Duration>,
    /// `fast_interval`.
    pub fast_interval: Key<Duration>,
    /// `timeout`.
    pub timeout: Key<Duration>,
    /// `rise`.
    pub rise: Key<u32>,
    /// `fall`.
    pub fall: Key<u32>,
    /// `slow_start`; none is none.
    pub slow_start: Option<Key<Duration>>,
}

/// `service.health.check` and the keys that belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckPlan {
    /// `tcp`
    Tcp,
    /// `tls`, with the CA's file.
    Tls(Option<String>),
    /// `http`: path, statuses.
    Http(String, Vec<u16>),
    /// `https`: path, statuses, the CA's file.
    Https(String, Vec<u16>, Option<String>),
}

/// A `[[service.backend]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendPlan {
    /// `name`.
    pub name: Key<String>,
    /// `address`.
    pub address: SocketAddr,
    /// `weight`, where it is not the same for all.
    pub weight: Option<Key<u16>>,
    /// `max_connections`, where there is a limit.
    pub max_connections: Option<Key<u32>>,
}

/// A `[[vrrp]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstancePlan {
    /// `name`.
    pub name: Key<String>,
    /// `version`.
    pub version: Key<VrrpVersion>,
    /// `virtual_router_id`, 1 to 255.
    pub virtual_router_id: Key<u8>,
    /// `priority`, 1 to 255.
    pub priority: Key<u8>,
    /// `advert_interval`.
    pub advert_interval: Key<Duration>,
    /// `preempt`.
    pub preempt: Key<bool>,
    /// `preempt_delay`.
    pub preempt_delay: Duration,
    /// `unicast_source`.
    pub unicast_source: Option<Key<IpAddr>>,
    /// `unicast_peers`.
    pub unicast_peers: Vec<Key<IpAddr>>,
    /// `auth_pass`.
    pub auth_pass: Option<Key<String>>,
    /// `[vrrp.auth_hmac]`, with nothing in it that the file cannot have.
    pub auth_hmac: Option<HmacAuthentication>,
    /// `checksum = "rfc9568"`.
    pub checksum_rfc9568: bool,
    /// `sync_group`.
    pub sync_group: Option<Key<String>>,
    /// `virtual_mac`.
    pub virtual_mac: Option<Place>,
    /// `[[vrrp.track]]`
    pub tracks: Vec<TrackPlan>,
}

/// A `[[vrrp.track]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackPlan {
    /// What is looked at.
    pub what: Key<TrackedPlan>,
    /// `weight`.
    pub weight: i16,
}

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrackedPlan {
    /// `interface`.
    Interface(String),
    /// `script`.
    Script {
        /// `command`: an absolute path, and words.
        command: Vec<String>,
        /// `user`.
        user: Option<String>,
        /// `interval`.
        interval: Duration,
        /// `timeout`.
        timeout: Option<Duration>,
        /// `rise`.
        rise: u8,
        /// `fall`.
        fall: u8,
    },
}

/// `[http]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PagePlan {
    /// `listen`.
    pub listen: Key<SocketAddr>,
    /// `path`.
    pub path: Key<String>,
    /// `anonymous = "viewer"`.
    pub is_open: bool,
    /// `cert_file` and `key_file`: HAProxy's file is both.
    pub certificate: Option<Key<String>>,
    /// `hide_version = true`.
    pub hides_version: Option<Place>,
    /// `[[http.user]]`: name, and the password that is to be hashed.
    pub users: Vec<Key<(String, String)>>,
    /// Whether they may change things.
    pub admin: Option<Place>,
}

/// `[stats_socket]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketPlan {
    /// `path`.
    pub path: Key<String>,
    /// `mode`.
    pub mode: Option<u32>,
    /// `group`.
    pub group: Option<String>,
    /// `level`.
    pub level: Option<StatsLevel>,
    /// `timeout`.
    pub timeout: Option<Key<Duration>>,
}

/// A `[[notify]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookPlan {
    /// `command`: an absolute path, and words.
    pub command: Key<Vec<String>>,
    /// The VRRP instance's name.
    pub instance: String,
    /// keepalived's word for when it ran.
    pub directive: String,
}

impl HookPlan {
    /// What a shell looks at before it runs the command: keepalived has one for each state, and tells `notify` of all.
    pub fn condition(&self) -> &'static str {
        match self.directive.as_str() {
            "notify_master" => r#"test "$XVIP_TO" = active || exit 0; exec "$@""#,
            "notify_backup" => r#"test "$XVIP_TO" = backup || exit 0; exec "$@""#,
            "notify_fault" => r#"test "$XVIP_TO" = fault || exit 0; exec "$@""#,
            "notify_stop" => r#"test "$XVIP_TO" = initialize || exit 0; exec "$@""#,
            _ => {
                r#"case "$XVIP_TO" in active) s=MASTER;; backup) s=BACKUP;; fault) s=FAULT;; *) s=STOP;; esac; exec "$@" INSTANCE "$XVIP_NAME" "$s""#
            }
        }
    }
}

/// A VIP of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owned {
    vip: Vip,
    from: Option<Place>,
    /// The name of its `[[vrrp]]`.
    instance: Option<String>,
}

/// The files of all nodes.
///
/// # Errors
/// Why there is nothing to write; what became of each line is noted all the same.
pub fn plan(
    from: &Incumbent,
    sources: &[Source],
    options: &Options,
    ledger: &mut Ledger,
) -> Result<Vec<NodePlan>, Vec<Refusal>> {
    let origins = origins(ledger.entries());
    let mut notes = Notes { ledger, said: BTreeSet::new(), origins };
    let mut nodes: Vec<side::Side> =
        from.routers.iter().map(|node| routers::side(node, from, sources, options, &mut notes)).collect();
    if let Some(cluster) = &from.cluster {
        cluster::sides(cluster, options, &mut nodes, &mut notes);
    }
    if nodes.is_empty() {
        nodes.push(side::Side::nameless());
    }
    let mut refusals = Vec::new();
    let mut plans = Vec::new();
    for side in nodes {
        match node(from, side, options, &mut notes) {
            Ok(plan) => plans.push(plan),
            Err(refusal) => refusals.push(refusal),
        }
    }
    // The same is wrong on each of the nodes mostly.
    let mut said = Vec::new();
    refusals.retain(|refusal| {
        !said.contains(refusal) && {
            said.push(refusal.clone());
            true
        }
    });
    if !refusals.is_empty() {
        return Err(refusals);
    }
    file_names(&mut plans);
    Ok(plans)
}

fn node(
    from: &Incumbent,
    mut side: side::Side,
    options: &Options,
    notes: &mut Notes<'_>,
) -> Result<NodePlan, Refusal> {
    for vip in options.vips.iter().filter(|vip| kinds::is_vip(**vip)) {
        if side.vips.iter().all(|owned| owned.vip.address != vip.address) {
            side.vips.push(Owned { vip: *vip, from: None, instance: None });
        }
    }
    if side.vips.is_empty() {
        return Err(Refusal::NoVip);
    }
    let interface = match (&options.interface, side.interface) {
        (Some(name), _) => Key::new(name.clone(), None),
        (None, Some(interface)) => interface,
        (None, None) => return Err(Refusal::NoInterface),
    };
    if !kinds::is_interface(&interface.value) {
        return Err(Refusal::WrongInterface(interface.value));
    }
    let services = services::services(from, &side.vips, notes);
    if services.is_empty() {
        return Err(Refusal::NoService);
    }
    fits("services", services.len(), MAX_SERVICES as usize)?;
    let backends = || services.iter().map(|service| service.backends.len());
    fits("servers of one backend", backends().max().unwrap_or_default(), MAX_MEMBERS)?;
    fits("servers", backends().sum(), MAX_BACKENDS as usize)?;
    fits(
        "networks in access lists",
        services.iter().map(|service| service.allow.len()).sum(),
        MAX_ALLOWED as usize,
    )?;
    routers::settle(&mut side.instances, &side.vips, &services, notes);
    let hooks = side.hooks;
    Ok(NodePlan {
        names: if side.names.is_empty() { vec!["xvip".to_owned()] } else { side.names },
        file_name: String::new(),
        name: side.name,
        interface,
        flows_max: services::flows_max(from),
        idle: services::idle(from, options.keep_timeouts, notes),
        skip_empty: from.proxies.iter().find_map(|proxy| proxy.skips_empty),
        page: page::page(from, &services, notes),
        stats_socket: page::stats_socket(from, notes),
        services,
        instances: side.instances,
        hooks,
    })
}

fn fits(what: &'static str, count: usize, most: usize) -> Result<(), Refusal> {
    if count > most { Err(Refusal::TooMany { what, count, most }) } else { Ok(()) }
}

/// Each node's file has the best of its names that no other node has, or a number.
fn file_names(plans: &mut [NodePlan]) {
    let all: Vec<Vec<String>> = plans.iter().map(|plan| plan.names.clone()).collect();
    let mut taken = BTreeSet::new();
    for (index, plan) in plans.iter_mut().enumerate() {
        let others = |name: &String| {
            all.iter().enumerate().any(|(other, names)| other != index && names.contains(name))
        };
        let own = plan.names.iter().find(|name| !others(name)).or(plan.names.first());
        let stem: String = own.map_or("xvip", String::as_str).chars().map(in_a_file_name).collect();
        let stem = stem.trim_start_matches('.');
        plan.file_name = names::unique(&mut taken, if stem.is_empty() { "xvip" } else { stem });
    }
}

fn in_a_file_name(c: char) -> char {
    if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' }
}

/// The last part of a file's name, without what follows its last dot.
fn stem(source: &Source) -> Option<String> {
    Path::new(&source.name).file_stem().map(|stem| stem.to_string_lossy().into_owned())
}

/// What the plan says of lines, each thing once: several nodes share a file.
struct Notes<'l> {
    ledger: &'l mut Ledger,
    said: BTreeSet<(Place, String)>,
    /// What the readers have said, by key.
    origins: BTreeMap<String, Vec<Place>>,
}

impl Notes<'_> {
    fn say(&mut self, place: Place, fate: Fate, becomes: &str, note: impl Into<String>) {
        let note = note.into();
        if self.said.insert((place, note.clone())) {
            self.ledger.note(place, fate, becomes, note);
        }
    }

    /// Where a key is said to come from: of the directives that became it, the one closest before `near` in its file, or
    /// else the closest.
    fn origin(&self, key: &str, near: Place) -> Option<Place> {
        let places = self.origins.get(key)?.iter().copied().filter(|place| place.file == near.file);
        places.min_by_key(|place| (place.line > near.line, place.line.abs_diff(near.line)))
    }
}

/// The places of the directives that became each key.
fn origins(entries: &[Entry]) -> BTreeMap<String, Vec<Place>> {
    let mut origins: BTreeMap<String, Vec<Place>> = BTreeMap::new();
    for entry in entries {
        for part in entry.becomes.split(';') {
            let key = part.trim().split([' ', '=']).next().unwrap_or_default();
            origins.entry(key.to_owned()).or_default().push(entry.place);
        }
    }
    origins
}

/// A value in its range; what it was is noted where it was not.
fn within<T: Copy + PartialOrd + Display>(
    value: T,
    least: T,
    most: T,
    key: &str,
    place: Place,
    notes: &mut Notes<'_>,
) -> T {
    let allowed = if value < least {
        least
    } else if value > most {
        most
    } else {
        return value;
    };
    let note = format!("xvip's `{key}` is {least} to {most}: {allowed} instead of {value}");
    notes.say(place, Fate::Approximate, "", note);
    allowed
}

#[cfg(test)]
mod tests;
