//! Config, health, VRRP states and next hops -> what the kernel should have. Pure.
//!
//! What is decided here, and why:
//!
//! - **Not checked yet** (`Unknown`) leaves a backend as it was: in the Maglev table if the maps have it there, out of
//!   it if not. A daemon that adopts a running data plane is so never worse than what it found, and one that starts on
//!   an empty one has no backend until the first results are in (the controller lets VRRP wait for these).
//! - **An unresolved next hop** keeps the one that the maps have for that backend: an old one is more often right than
//!   none. A backend that never had one is not in the Maglev table, so that no SYN is lost while its neighbour is
//!   being resolved.
//! - **All down** with `on_all_down = "last-known"` keeps those of the service's backends that its table has now.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use lb_common::{
    layout::{
        BackendEntry, BackendId, MAX_BACKENDS, MAX_SERVICES, MacWord, MaglevSlots, NodeEntry, ServiceEntry,
        ServiceKey, VipEntry,
    },
    wire::{Be16, Be32, Mac},
};

use crate::{
    config::model::{Config, OnAllDown, Service},
    dataplane::Tables,
    health::rise_fall::HealthState,
    maglev::{self, Member},
};

/// An address with the prefix length that the interface has, or should have, it with.
pub type InterfaceAddress = (IpAddr, u8);

/// What the kernel, and the network, should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The maps that packets are forwarded by. Backends that are draining are among them.
    pub tables: Tables,
    /// The `NODE` entry.
    pub node: NodeEntry,
    /// Our addresses on the interface; everybody else's are none of our business.
    pub addresses: BTreeSet<InterfaceAddress>,
    /// VIP -> which announcement of it is due; a higher number than last time means that it is due again.
    pub announce: BTreeMap<Ipv4Addr, u64>,
}

/// A backend in a service's pool: what a [`BackendId`] stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolEntry {
    /// The service.
    pub service: ServiceKey,
    /// The backend's address and port; its identity, also in the Maglev table.
    pub address: SocketAddrV4,
}

/// Where frames for a backend go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// To this Ethernet address: the backend's own or its router's.
    Mac {
        /// The address.
        mac: Mac,
        /// Out of which of the configured interfaces (`node.interfaces`), counted from 0.
        link: u8,
    },
    /// Not known (yet), or there is no route.
    Unresolved,
    /// The backend is this very node, which XDP cannot send to.
    Local,
    /// It is behind an interface that is none of ours, which XDP cannot send to.
    OtherInterface,
}

impl NextHop {
    /// Whether XDP could never reach the backend, as opposed to not now.
    pub fn is_unusable(self) -> bool {
        match self {
            Self::Mac { .. } | Self::Unresolved => false,
            Self::Local | Self::OtherInterface => true,
        }
    }
}

/// What [`desired`] is computed from.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The configuration in force.
    pub config: &'a Config,
    /// The interface's own address.
    pub mac: Mac,
    /// How old the heartbeat may be before ARP for a fenced VIP is silenced.
    pub lease: Duration,
    /// A half-open flow without a packet for that long is forgotten.
    pub half_open_timeout: Duration,
    /// Health of the pool entries; one that is missing is `Unknown`.
    pub health: &'a BTreeMap<PoolEntry, HealthState>,
    /// The VRRP instances that are active, with the number of their last announcement.
    pub active: &'a BTreeMap<String, u64>,
    /// By backend address; one that is missing is `Unresolved`.
    pub next_hops: &'a BTreeMap<IpAddr, NextHop>,
    /// The ids, already assigned for this configuration.
    pub ids: &'a BackendIds,
    /// What the maps have now.
    pub observed: &'a Tables,
}

/// The services as the data plane knows them: IPv4 only.
pub fn service_key(service: &Service) -> Option<ServiceKey> {
    let vip = ipv4(service.vip.address)?;
    Some(ServiceKey::new(vip.into(), Be16::new(service.port.get())))
}

/// The IPv4 pool entries of a service, in the file's order.
pub fn pool(service: &Service) -> impl Iterator<Item = PoolEntry> {
    let key = service_key(service);
    service.backends.iter().filter_map(move |backend| match backend.address {
        SocketAddr::V4(address) => Some(PoolEntry { service: key?, address }),
        SocketAddr::V6(_) => None,
    })
}

/// Every pool entry of a configuration, in the file's order.
pub fn pool_entries(config: &Config) -> Vec<PoolEntry> {
    config.services.iter().flat_map(pool).collect()
}

/// The VIPs of a VRRP instance, each once, in ascending order.
pub fn vips_of(config: &Config, instance: &str) -> BTreeSet<InterfaceAddress> {
    (config.services.iter())
        .filter(|service| service.vrrp.as_deref() == Some(instance))
        .filter_map(|service| Some((ipv4(service.vip.address)?.into(), service.vip.prefix_len)))
        .collect()
}

fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

/// Maglev tables that were computed before, so that a reconcile which changes no membership costs nothing.
#[derive(Debug, Default)]
pub struct RingMemo(BTreeMap<ServiceKey, (Vec<Member>, Arc<MaglevSlots>)>);

impl RingMemo {
    fn table(&mut self, service: ServiceKey, members: Vec<Member>) -> Option<Arc<MaglevSlots>> {
        if let Some((known, table)) = self.0.get(&service)
            && *known == members
        {
            return Some(Arc::clone(table));
        }
        let table = maglev::table(&members)?;
        self.0.insert(service, (members, Arc::clone(&table)));
        Some(table)
    }
}

/// What the kernel should have.
pub fn desired(inputs: &Inputs, rings: &mut RingMemo) -> Desired {
    let config = inputs.config;
    let mut tables = Tables::default();
    let mut node = NodeEntry {
        lease_ns: u64::try_from(inputs.lease.as_nanos()).unwrap_or(u64::MAX),
        idle_timeout: ticks(config.flows.idle_timeout),
        half_open_timeout: ticks(inputs.half_open_timeout),
        mac: MacWord::new(inputs.mac),
        ..NodeEntry::EMPTY
    };
    let mut addresses = BTreeSet::new();
    let mut announce = BTreeMap::new();

    for (id, address) in inputs.ids.all() {
        tables.backends.insert(id, backend_entry(inputs, id, address));
    }

    let ring_indices = ring_indices(config, inputs.observed);
    for service in &config.services {
        let (Some(key), Some(vip)) = (service_key(service), ipv4(service.vip.address)) else { continue };
        let Some(&ring) = ring_indices.get(&key) else { continue };

        node.add_vip(vip.into());
        let fenced = u32::from(service.vrrp.is_some());
        // Two services on one VIP: if an instance owns it for one of them, it is fenced.
        tables.vips.entry(vip).and_modify(|entry| entry.fenced |= fenced).or_insert(VipEntry { fenced });
        if let Some(&generation) = service.vrrp.as_ref().and_then(|name| inputs.active.get(name)) {
            addresses.insert((vip.into(), service.vip.prefix_len));
            announce.insert(vip, generation);
        }

        let members = members(inputs, service, key, &tables.backends);
        let usable = members.len() as u32;
        let table = rings.table(key, members);
        if let Some(table) = table.or_else(|| inputs.observed.rings.get(&ring).cloned()) {
            tables.rings.insert(ring, table);
        }
        tables.services.insert(key, ServiceEntry { ring, usable });
    }
    Desired { tables, node, addresses, announce }
}

/// Whole seconds of the flow clock, at least one.
fn ticks(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs().max(1)).unwrap_or(u32::MAX)
}

fn backend_entry(inputs: &Inputs, id: BackendId, address: SocketAddrV4) -> BackendEntry {
    let mut entry = BackendEntry {
        address: Be32::from(*address.ip()),
        port: Be16::new(address.port()),
        ..BackendEntry::default()
    };
    entry.mac = match inputs.next_hops.get(&IpAddr::V4(*address.ip())) {
        Some(NextHop::Mac { mac, .. }) => MacWord::new(*mac),
        Some(NextHop::Local | NextHop::OtherInterface) => MacWord::ZERO,
        Some(NextHop::Unresolved) | None => (inputs.observed.backends.get(&id))
            .filter(|known| known.address == entry.address && known.port == entry.port)
            .map_or(MacWord::ZERO, |known| known.mac),
    };
    entry
}

/// The members of a service's Maglev table, all with weight.
fn members(
    inputs: &Inputs,
    service: &Service,
    key: ServiceKey,
    entries: &BTreeMap<BackendId, BackendEntry>,
) -> Vec<Member> {
    let mut in_ring: Option<BTreeSet<BackendId>> = None;
    let mut was_member = |id| in_ring.get_or_insert_with(|| ring_members(inputs.observed, key)).contains(&id);
    let mut members = Vec::new();
    let mut last_known = Vec::new();
    let mut all_down = true;
    for backend in &service.backends {
        let SocketAddr::V4(address) = backend.address else { continue };
        let Some(id) = inputs.ids.id(&PoolEntry { service: key, address }) else { continue };
        let state = inputs.health.get(&PoolEntry { service: key, address }).copied();
        let member = Member { id, address: address.into(), weight: backend.weight };
        let reachable = entries.get(&id).is_some_and(BackendEntry::is_resolved);
        let up = match state.unwrap_or(HealthState::Unknown) {
            HealthState::Up => true,
            HealthState::Unknown => was_member(id),
            HealthState::Down => false,
        };
        all_down &= !up;
        if backend.weight == 0 || !reachable {
            continue;
        }
        if up {
            members.push(member);
        } else if service.on_all_down == OnAllDown::LastKnown && was_member(id) {
            last_known.push(member);
        }
    }
    if all_down { last_known } else { members }
}

/// The backends that a service's Maglev table has now; none if nothing is forwarded by it.
pub fn ring_members(tables: &Tables, service: ServiceKey) -> BTreeSet<BackendId> {
    let entry = tables.services.get(&service).filter(|entry| entry.usable > 0);
    let Some(slots) = entry.and_then(|entry| tables.rings.get(&entry.ring)) else { return BTreeSet::new() };
    let mut seen = vec![false; MAX_BACKENDS as usize];
    for &id in slots.iter() {
        if let Some(seen) = seen.get_mut(usize::from(id)) {
            *seen = true;
        }
    }
    (0..).zip(seen).filter_map(|(id, seen)| seen.then_some(id)).collect()
}

/// Which Maglev table each service uses: the one that it has, else the lowest that no service has.
fn ring_indices(config: &Config, observed: &Tables) -> BTreeMap<ServiceKey, u32> {
    let mut taken: BTreeSet<u32> = observed.services.values().map(|entry| entry.ring).collect();
    let mut indices = BTreeMap::new();
    for key in config.services.iter().filter_map(service_key) {
        let index = match observed.services.get(&key) {
            Some(entry) => Some(entry.ring),
            None => (0..MAX_SERVICES).find(|index| !taken.contains(index)),
        };
        if let Some(index) = index {
            taken.insert(index);
            indices.insert(key, index);
        }
    }
    indices
}

/// Which [`BackendId`] each pool entry has.
///
/// Ids are dense, and stable while anything uses them: flows remember their backend by it. An id whose backend has left
/// the configuration is *draining*: it stays in the maps until no flow is on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendIds {
    assigned: BTreeMap<PoolEntry, BackendId>,
    draining: BTreeMap<BackendId, Draining>,
}

/// Whether a pool entry may have a draining id.
type Fits<'a> = dyn Fn(&PoolEntry, &Draining) -> bool + 'a;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Draining {
    address: SocketAddrV4,
    /// The service that it was of; not known where a predecessor's maps do not tell.
    service: Option<ServiceKey>,
    /// On the flow clock.
    since: u32,
}

impl BackendIds {
    /// The ids that a predecessor left in the maps; all draining until [`Self::assign`] finds an owner for them.
    pub fn adopt(observed: &Tables, now: u32) -> Self {
        let mut owners = BTreeMap::new();
        for &service in observed.services.keys() {
            owners.extend(ring_members(observed, service).into_iter().map(|id| (id, service)));
        }
        let draining = (observed.backends.iter()).map(|(&id, entry)| {
            let address = SocketAddrV4::new(entry.address.into(), entry.port.get());
            (id, Draining { address, service: owners.get(&id).copied(), since: now })
        });
        Self { assigned: BTreeMap::new(), draining: draining.collect() }
    }

    /// Gives every wanted entry an id and lets go of the others. Returns those that got none, since there is none left.
    pub fn assign(&mut self, wanted: &[PoolEntry], now: u32) -> Vec<PoolEntry> {
        let entries: BTreeSet<&PoolEntry> = wanted.iter().collect();
        let services: BTreeSet<ServiceKey> = wanted.iter().map(|entry| entry.service).collect();
        let draining = &mut self.draining;
        self.assigned.retain(|entry, &mut id| {
            let keep = entries.contains(entry);
            if !keep {
                let (address, service) = (entry.address, Some(entry.service));
                draining.insert(id, Draining { address, service, since: now });
            }
            keep
        });

        // In this order, so that of two services with the same backend each finds its own id again.
        let own = |entry: &PoolEntry, old: &Draining| old.service == Some(entry.service);
        let unowned = |_: &PoolEntry, old: &Draining| old.service.is_none();
        let orphaned =
            |_: &PoolEntry, old: &Draining| old.service.is_some_and(|service| !services.contains(&service));
        let rounds: [&Fits; 3] = [&own, &unowned, &orphaned];
        for fits in rounds {
            for entry in wanted.iter().filter(|entry| !self.assigned.contains_key(entry)).collect::<Vec<_>>()
            {
                let found = (self.draining.iter())
                    .find(|(_, old)| old.address == entry.address && fits(entry, old))
                    .map(|(&id, _)| id);
                if let Some(id) = found {
                    self.draining.remove(&id);
                    self.assigned.insert(*entry, id);
                }
            }
        }

        let used: BTreeSet<BackendId> = self.all().map(|(id, _)| id).collect();
        let mut free = (0..MAX_BACKENDS as BackendId).filter(|id| !used.contains(id));
        let mut refused = Vec::new();
        for entry in wanted {
            if self.assigned.contains_key(entry) {
                continue;
            }
            match free.next() {
                Some(id) => drop(self.assigned.insert(*entry, id)),
                None => refused.push(*entry),
            }
        }
        refused
    }

    /// Forgets draining ids that no flow is on. `flows` must have been counted after the last reconcile; `grace` is for
    /// flows that a CPU was opening meanwhile, in ticks of the flow clock. Returns the ids that are free now.
    pub fn release(&mut self, flows: &BTreeMap<BackendId, u64>, now: u32, grace: u32) -> Vec<BackendId> {
        let free = self.draining.iter().filter(|(id, old)| {
            flows.get(id).copied().unwrap_or(0) == 0 && now.wrapping_sub(old.since) >= grace
        });
        let free: Vec<BackendId> = free.map(|(&id, _)| id).collect();
        for id in &free {
            self.draining.remove(id);
        }
        free
    }

    /// The id of a pool entry.
    pub fn id(&self, entry: &PoolEntry) -> Option<BackendId> {
        self.assigned.get(entry).copied()
    }

    /// Every id in use with its backend's address, draining ones included.
    pub fn all(&self) -> impl Iterator<Item = (BackendId, SocketAddrV4)> {
        let assigned = self.assigned.iter().map(|(entry, &id)| (id, entry.address));
        assigned.chain(self.draining.iter().map(|(&id, old)| (id, old.address)))
    }

    /// How many ids are draining.
    pub fn draining(&self) -> usize {
        self.draining.len()
    }
}

#[cfg(test)]
pub(crate) mod tests;
