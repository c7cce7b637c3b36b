//! The status while no daemon answers: made of the configuration, the pinned maps and what the interfaces have. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use lb_common::{
    layout::{
        BALANCE_LEAST_CONNECTIONS, BALANCE_ROUND_ROBIN, BackendCounters, BackendId, MODE_DSR_IPIP,
        MODE_DSR_L2, ServiceEntry, ServiceKey,
    },
    reason::{DropReason, PassReason, TransmitReason},
};

use super::{
    AdminStatus, BackendFlowsStatus, BackendStatus, ConfigStatus, DaemonState, FlowsStatus, InterfaceStatus,
    LocalClientsStatus, PaceStatus, Packets, ServiceStatus, Status, VipWithoutDaemon, VrrpStatus,
    WeightOverrideStatus, WithoutDaemon,
};
use crate::{
    config::{
        effective::fingerprint,
        model::{Config, Service, VrrpInstance},
    },
    dataplane::PinnedTables,
    desired::{BackendIds, PoolEntry, pool_entries, service_key, vips_of},
    flows::{Carried, FlowState},
    health::tally::CheckTally,
    reconcile::MacText,
    steering::{Overrides, rfc3339},
};

#[cfg(test)]
mod tests;

/// What was found on this node.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Why the daemon is thought to be down.
    pub why: String,
    /// The configuration; `None` where there is none to be read.
    pub config: Option<Config>,
    /// Why there is none.
    pub config_problem: Option<String>,
    /// Its file.
    pub config_path: PathBuf,
    /// The name of this machine.
    pub host_name: String,
    /// The wall clock.
    pub now: SystemTime,
    /// `CLOCK_MONOTONIC` in nanoseconds at the same moment.
    pub now_ns: u64,
    /// The pinned maps.
    pub pinned: PinnedTables,
    /// What flows there are, by backend.
    pub flows: BTreeMap<BackendId, CountedFlows>,
    /// The interfaces, by index.
    pub interfaces: BTreeMap<u32, InterfaceFacts>,
    /// What operators have said, as the state file has it.
    pub overrides: Overrides,
}

/// An interface of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceFacts {
    /// Its name.
    pub name: String,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
}

/// A backend's flows, counted one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CountedFlows {
    /// Established, and neither closed nor reset.
    pub active: u64,
    /// Before their handshake has completed.
    pub half_open: u64,
    /// Closed by one side at least, or reset, and still remembered.
    pub closing: u64,
    /// What all of them have carried.
    pub carried: Carried,
}

impl CountedFlows {
    /// One more.
    pub fn add(&mut self, state: FlowState, carried: &Carried) {
        *match state {
            FlowState::HalfOpen => return self.half_open += 1,
            FlowState::Established => &mut self.active,
            FlowState::Closing | FlowState::Reset => &mut self.closing,
        } += 1;
        self.carried.packets_in += carried.packets_in;
        self.carried.bytes_in += carried.bytes_in;
        self.carried.packets_out += carried.packets_out;
        self.carried.bytes_out += carried.bytes_out;
    }
}

/// The status that these facts make.
pub fn status(facts: &Facts) -> Status {
    let since = last_heartbeat(facts);
    let since_text = since.map_or_else(String::new, rfc3339);
    let interfaces = interfaces(facts);
    let forwarding = !interfaces.is_empty() && interfaces.iter().all(|one| one.xdp_mode != "none");
    let config = facts.config.as_ref();
    let vrrp = config.map_or(&[][..], |config| &config.vrrp).iter();
    Status {
        daemon: DaemonState::Down,
        without_daemon: Some(WithoutDaemon {
            why: facts.why.clone(),
            since: since.map(rfc3339),
            forwarding,
            vips: vips(facts),
        }),
        node: config.map_or_else(|| facts.host_name.clone(), |config| config.node.name.clone()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: 0,
        uptime_seconds: 0,
        process: None,
        problems: std::iter::once(format!("the daemon is down: {}", facts.why))
            .chain(facts.config_problem.clone())
            .collect(),
        rivals: BTreeMap::new(),
        config: ConfigStatus {
            path: facts.config_path.clone(),
            loaded_at: rfc3339(facts.now),
            last_reload_error: None,
            last_reload_at: None,
            fingerprint: config.map(fingerprint).unwrap_or_default(),
        },
        interface: interfaces.first().cloned().unwrap_or_default(),
        interfaces,
        vrrp: vrrp.map(|instance| router(facts, instance, &since_text)).collect(),
        services: services(facts, &since_text),
        packets: packets(&facts.pinned.counters),
        flows: FlowsStatus {
            max: config.map_or(0, |config| config.flows.max),
            half_open_max: config.map_or(0, |config| config.flows.half_open_max),
            established: facts.flows.values().map(|flows| flows.active).sum(),
            half_open: facts.flows.values().map(|flows| flows.half_open).sum(),
            closing: facts.flows.values().map(|flows| flows.closing).sum(),
        },
        pace: PaceStatus::default(),
        http: None,
        sync: None,
        connection_log: None,
        hooks: Vec::new(),
        observing: None,
    }
}

/// Packets by reason, from the counters of `Verdict::counter`.
pub fn packets(counters: &[u64]) -> Packets {
    let count = |index: u32| counters.get(index as usize).copied().unwrap_or(0);
    Packets {
        passed: (PassReason::ALL.iter())
            .map(|reason| (reason.name().to_owned(), count(reason.counter())))
            .collect(),
        dropped: (DropReason::ALL.iter())
            .map(|reason| (reason.name().to_owned(), count(reason.counter())))
            .collect(),
        transmitted: (TransmitReason::ALL.iter())
            .map(|reason| (reason.name().to_owned(), count(reason.counter())))
            .collect(),
    }
}

/// By the wall clock. `None` where there was none.
fn last_heartbeat(facts: &Facts) -> Option<SystemTime> {
    let beat = Some(facts.pinned.pulse.heartbeat_ns).filter(|beat| *beat > 0)?;
    facts.now.checked_sub(Duration::from_nanos(facts.now_ns.saturating_sub(beat)))
}

/// Those of the configuration; without one, those that the program is attached to.
fn interfaces(facts: &Facts) -> Vec<InterfaceStatus> {
    let attached: BTreeMap<u32, &str> =
        facts.pinned.attached.iter().map(|(index, mode)| (*index, mode.name())).collect();
    let one = |name: &str, index: Option<u32>| {
        let known = index.and_then(|index| facts.interfaces.get(&index));
        let mode = index.and_then(|index| attached.get(&index)).copied();
        InterfaceStatus {
            name: name.to_owned(),
            xdp_mode: mode.unwrap_or("none").to_owned(),
            mac: MacText(known.map(|known| known.mac).unwrap_or_default()).to_string(),
            attached_to: if mode.is_some() { name.to_owned() } else { String::new() },
            ..InterfaceStatus::default()
        }
    };
    let Some(config) = &facts.config else {
        let name = |index: &u32| facts.interfaces.get(index).map_or("?", |known| &known.name);
        return attached.keys().map(|index| one(name(index), Some(*index))).collect();
    };
    let index_of = |name: &String| {
        facts.interfaces.iter().find(|(_, known)| known.name == *name).map(|(index, _)| *index)
    };
    let mut free: Vec<(u32, &str)> = attached.iter().map(|(index, mode)| (*index, *mode)).collect();
    let mut shown: Vec<InterfaceStatus> = Vec::new();
    for name in &config.node.interfaces {
        let index = index_of(name);
        free.retain(|(attached, _)| Some(*attached) != index);
        shown.push(one(name, index));
    }
    // A VLAN sub-interface has its program at the interface below, whose name is not in the configuration.
    for (index, mode) in free {
        let below = facts.interfaces.get(&index).map_or("?", |known| &known.name);
        for interface in shown.iter_mut().filter(|interface| interface.xdp_mode == "none") {
            interface.xdp_mode = mode.to_owned();
            interface.attached_to = below.to_owned();
        }
    }
    shown
}

fn vips(facts: &Facts) -> Vec<VipWithoutDaemon> {
    let present: BTreeSet<IpAddr> =
        facts.interfaces.values().flat_map(|known| known.addresses.iter().copied()).collect();
    let is_stale = is_stale(facts);
    let owner = |vip: IpAddr| {
        let services = facts.config.as_ref().map_or(&[][..], |config| &config.services);
        services.iter().find(|service| service.vip.address == vip)?.vrrp.clone()
    };
    let vips = facts.pinned.tables.vips.iter();
    vips.map(|(vip, entry)| VipWithoutDaemon {
        vip: vip.to_string(),
        vrrp: owner(*vip),
        present: present.contains(vip),
        silenced: is_stale && entry.fenced == 1,
    })
    .collect()
}

/// As the data plane sees it.
fn is_stale(facts: &Facts) -> bool {
    let PinnedTables { node, pulse, .. } = &facts.pinned;
    facts.now_ns.saturating_sub(pulse.heartbeat_ns) > node.lease_ns
}

/// What the configuration says of it; what it does is not known.
fn router(facts: &Facts, instance: &VrrpInstance, since: &str) -> VrrpStatus {
    let vips = facts.config.as_ref().map(|config| vips_of(config, &instance.name)).unwrap_or_default();
    VrrpStatus {
        since: since.to_owned(),
        reason: "the daemon is down".to_owned(),
        ..VrrpStatus::configured(instance, &vips)
    }
}

/// Those of the configuration; without one, those of the maps, with addresses for names.
fn services(facts: &Facts, since: &str) -> Vec<ServiceStatus> {
    let tables = &facts.pinned.tables;
    let mut ids = BackendIds::adopt(tables, facts.pinned.pulse.flow_clock);
    let Some(config) = &facts.config else {
        return tables.services.iter().map(|(key, entry)| unnamed(facts, *key, entry, &ids, since)).collect();
    };
    ids.assign(&pool_entries(config), facts.pinned.pulse.flow_clock);
    config.services.iter().map(|service| named(facts, service, &ids, since)).collect()
}

fn named(facts: &Facts, service: &Service, ids: &BackendIds, since: &str) -> ServiceStatus {
    let key = service_key(service);
    let entry = facts.pinned.tables.services.get(&key);
    let shares = entry.map(|entry| shares(facts, entry)).unwrap_or_default();
    let backends = service.backends.iter().map(|backend| {
        let id = ids.id(&PoolEntry { service: key, address: backend.address });
        let mut status = backend_status(facts, id, &shares, backend.name.clone(), backend.address, since);
        status.weight = backend.weight;
        status.max_connections = backend.max_connections;
        if let Some(said) = facts.overrides.of(service, backend) {
            status.admin = said.standing.as_ref().map(|(standing, said)| AdminStatus::of(*standing, said));
            status.weight_override = said.weight.as_ref().map(|(weight, said)| WeightOverrideStatus {
                weight: *weight,
                by: said.by.clone(),
                at: rfc3339(said.at),
            });
        }
        status
    });
    ServiceStatus {
        name: service.name.clone(),
        vip: service.vip.address.to_string(),
        port: service.port.get(),
        mode: super::word(&service.mode),
        balance: super::word(&service.balance),
        usable: entry.map_or(0, |entry| entry.usable),
        local_clients: local_clients(facts, entry),
        rebalance: None,
        host_connections: 0,
        pace: PaceStatus::default(),
        backends: backends.collect(),
    }
}

fn unnamed(
    facts: &Facts,
    key: ServiceKey,
    entry: &ServiceEntry,
    ids: &BackendIds,
    since: &str,
) -> ServiceStatus {
    let vip = IpAddr::from(key.vip);
    let shares = shares(facts, entry);
    let of_service = ids.all().filter(|(_, identity)| identity.service == Some(key));
    let backends = of_service.map(|(id, identity)| {
        let address = identity.address;
        let mut status = backend_status(facts, Some(id), &shares, address.to_string(), address, since);
        status.weight = status.effective_weight;
        status
    });
    ServiceStatus {
        name: SocketAddr::new(vip, key.port()).to_string(),
        vip: vip.to_string(),
        port: key.port(),
        mode: match entry.mode {
            MODE_DSR_L2 => "dsr-l2",
            MODE_DSR_IPIP => "dsr-ipip",
            _ => "nat",
        }
        .to_owned(),
        balance: match entry.balance {
            BALANCE_ROUND_ROBIN => "round-robin",
            BALANCE_LEAST_CONNECTIONS => "least-connections",
            _ => "maglev",
        }
        .to_owned(),
        usable: entry.usable,
        local_clients: local_clients(facts, Some(entry)),
        rebalance: None,
        host_connections: 0,
        pace: PaceStatus::default(),
        backends: backends.collect(),
    }
}

/// What part of new flows each backend gets.
fn shares(facts: &Facts, entry: &ServiceEntry) -> BTreeMap<BackendId, f64> {
    let ring = facts.pinned.tables.rings.get(&entry.index).filter(|_| entry.usable > 0);
    let Some(ring) = ring else { return BTreeMap::new() };
    let slots = match entry.turns as usize {
        0 => &ring[..],
        turns => ring.get(..turns).unwrap_or(&ring[..]),
    };
    let mut counts: BTreeMap<BackendId, usize> = BTreeMap::new();
    for id in slots {
        *counts.entry(*id).or_default() += 1;
    }
    // Divided once, as the daemon does it: the same slots make the same number.
    counts.into_iter().map(|(id, count)| (id, count as f64 / slots.len() as f64)).collect()
}

fn backend_status(
    facts: &Facts,
    id: Option<BackendId>,
    shares: &BTreeMap<BackendId, f64>,
    name: String,
    address: SocketAddr,
    since: &str,
) -> BackendStatus {
    let share = id.and_then(|id| shares.get(&id)).copied().unwrap_or(0.0);
    let mut status = BackendStatus {
        name,
        address: address.to_string(),
        weight: 0,
        effective_weight: 0,
        admin: None,
        weight_override: None,
        share_limit: None,
        max_connections: 0,
        local: false,
        state: "unknown".to_owned(),
        down: None,
        since: since.to_owned(),
        reason: if share > 0.0 {
            "not checked: the daemon is down; gets new connections"
        } else {
            "not checked: the daemon is down; gets no new connections"
        }
        .to_owned(),
        share,
        next_hop: None,
        flows: BackendFlowsStatus::default(),
        pace: PaceStatus::default(),
        certificate_not_after: None,
        resets: BTreeMap::new(),
        checks: CheckTally::default(),
    };
    let Some((id, entry)) = id.and_then(|id| Some((id, facts.pinned.tables.backends.get(&id)?))) else {
        return status;
    };
    status.next_hop = entry.hop.is_resolved().then(|| MacText(entry.hop.mac.octets()).to_string());
    status.effective_weight = entry.weight;
    status.share_limit = Some(entry.share).filter(|share| *share > 0);
    status.max_connections = entry.max_connections;
    status.local = entry.local != 0;
    let counted = facts.flows.get(&id).copied().unwrap_or_default();
    status.flows = flows(facts.pinned.backend_counters.get(&id), &counted);
    status
}

/// Those that have ended and are still remembered count as closing alone: which of them were closed and which reset is
/// counted when they are forgotten.
fn flows(counters: Option<&BackendCounters>, counted: &CountedFlows) -> BackendFlowsStatus {
    let counters = counters.copied().unwrap_or_default();
    let (removed, carried) = (counters.removed, counted.carried);
    BackendFlowsStatus {
        opened: counters.opened,
        established: counters.established,
        active: counted.active,
        half_open: counted.half_open,
        closing: counted.closing,
        closed: removed.closed,
        reset: removed.reset,
        expired: removed.expired,
        full: counters.full,
        refused: counters.refused,
        unanswered: counters.unanswered,
        packets_in: removed.packets_in.wrapping_add(carried.packets_in),
        bytes_in: removed.bytes_in.wrapping_add(carried.bytes_in),
        packets_out: removed.packets_out.wrapping_add(carried.packets_out),
        bytes_out: removed.bytes_out.wrapping_add(carried.bytes_out),
    }
}

fn local_clients(facts: &Facts, entry: Option<&ServiceEntry>) -> LocalClientsStatus {
    let counted = entry.and_then(|entry| facts.pinned.local_counters.get(&entry.index));
    let counted = counted.copied().unwrap_or_default();
    LocalClientsStatus {
        redirected: counted.redirected,
        no_backend: counted.no_backend,
        stale: counted.stale,
        other_namespace: counted.other_namespace,
    }
}
