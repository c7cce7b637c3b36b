//! Config, health, VRRP states and next hops -> what the kernel should have. Pure.
//!
//! What is decided here, and why:
//!
//! - **Not checked yet** (`Unknown`) leaves a backend as it was: among those that can be chosen if the maps have it there,
//!   and not if not. A daemon that adopts a running data plane is so never worse than what it found, and one that starts on
//!   an empty one has no backend until the first results are in (the controller lets VRRP wait for these).
//! - **A service without VRRP** that the maps do not have yet comes into them when all its backends have been checked: until then
//!   the host gets its packets, which may be for a proxy there that xvip takes the place of. (Where VRRP moves the VIP, it waits
//!   for the checks itself.)
//! - **An unresolved next hop** keeps the one that the maps have for that backend: an old one is more often right than
//!   none. A backend that never had one is not in the Maglev table, so that no SYN is lost while its neighbour is
//!   being resolved.
//! - **All down** with `on_all_down = "last-known"` keeps those of the service's backends that can be chosen now.
//! - **A node that only observes** owns no address and answers for none: the data plane is told, and nothing else differs.
//! - **This very node as a backend** is a backend like any other, so that every node has the same Maglev table; only its
//!   entry says that packets for it stay here.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use lb_common::{
    layout::{
        ALL_SETS, ALLOWED_SERVICE_BITS, AllowedKey, BALANCE_LEAST_CONNECTIONS, BALANCE_MAGLEV,
        BALANCE_ROUND_ROBIN, BackendEntry, BackendId, HOP_KEEPS_TAGS, Hop, MAX_BACKENDS, MAX_MEMBERS,
        MAX_SERVICES, MODE_DSR_IPIP, MODE_DSR_L2, MODE_NAT, MacWord, Members, NODE_OBSERVES,
        NODE_TELLS_FLOWS, NodeEntry, SERVICE_DROPS_WHEN_FULL, SERVICE_HAS_ALLOW_LIST, SERVICE_HAS_LIMITS,
        SERVICE_HAS_SHARES, SERVICE_REBUILDS, SERVICE_SNAT_NODE, ServiceEntry, ServiceKey, TagWord,
        VLAN_WORDS, VipEntry, virtual_mac,
    },
    wire::{Be16, Be32, Be128, Mac},
};

use crate::{
    config::model::{Backend, Balance, Config, Mode, OnAllDown, OnAllFull, Prefix, Service, Snat},
    dataplane::{AllowedPrefix, Tables},
    health::rise_fall::HealthState,
    maglev::{self, Member},
    netlink::{Link, VlanTag},
    round_robin::{self, Turns},
    slow_start::SlowStart,
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
    pub announce: BTreeMap<IpAddr, u64>,
    /// What of the configuration cannot be had here, in words for the operator.
    pub problems: Vec<String>,
}

/// A backend in a service's pool: what a [`BackendId`] stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolEntry {
    /// The service.
    pub service: ServiceKey,
    /// The backend's address and port; its identity, also in the Maglev table.
    pub address: SocketAddr,
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
        /// Whether the address is a router's, and the backend behind it.
        routed: bool,
    },
    /// Not known (yet), or there is no route.
    Unresolved,
    /// The backend is this very node: its host gets the packets as they are, and must listen on the port that they are
    /// for.
    Local,
    /// It is behind an interface that is none of ours, which XDP cannot send to.
    OtherInterface,
}

/// What of a backend is not as the file has it, by an operator's word or for a rebalance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steer {
    /// It gets no new flows, whatever its health.
    pub is_out: bool,
    /// Its weight instead of the file's.
    pub weight: Option<u16>,
    /// While a rebalance leads new flows: above how many connections they go elsewhere if they can; 0 while none does.
    pub share: u32,
}

/// What [`desired`] is computed from.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The configuration in force.
    pub config: &'a Config,
    /// The interfaces, in the configured order.
    pub links: &'a [Link],
    /// How old the heartbeat may be before ARP for a fenced VIP is silenced.
    pub lease: Duration,
    /// A half-open flow without a packet for that long is forgotten.
    pub half_open_timeout: Duration,
    /// Health of the pool entries; one that is missing is `Unknown`.
    pub health: &'a BTreeMap<PoolEntry, HealthState>,
    /// Who has recovered lately; one that is missing has its whole weight.
    ///
    /// Each node sees a backend recover at a moment of its own, so with direct server return the nodes' tables differ for
    /// the length of a step or so. A flow that changes nodes just then may change its backend.
    pub slow_starts: &'a BTreeMap<PoolEntry, SlowStart>,
    /// Now, for these.
    pub now: Instant,
    /// Who is steered; one that is missing is as the file says.
    pub steers: &'a BTreeMap<PoolEntry, Steer>,
    /// The VRRP instances that are active, with the number of their last announcement.
    pub active: &'a BTreeMap<String, u64>,
    /// Those of them that have become so of late, and where the former owner of their VIPs is, if that is known: what
    /// happened to them before is not.
    pub heirs: &'a BTreeMap<String, Option<Mac>>,
    /// By backend address; one that is missing is `Unresolved`.
    pub next_hops: &'a BTreeMap<IpAddr, NextHop>,
    /// The ids, already assigned for this configuration.
    pub ids: &'a BackendIds,
    /// What the maps have now.
    pub observed: &'a Tables,
}

/// A service as the data plane knows it.
pub fn service_key(service: &Service) -> ServiceKey {
    ServiceKey::new(service.vip.address.into(), Be16::new(service.port.get()))
}

/// The pool entries of a service, in the file's order.
pub fn pool(service: &Service) -> impl Iterator<Item = PoolEntry> {
    let key = service_key(service);
    service.backends.iter().map(move |backend| PoolEntry { service: key, address: backend.address })
}

/// Every pool entry of a configuration, in the file's order.
pub fn pool_entries(config: &Config) -> Vec<PoolEntry> {
    config.services.iter().flat_map(pool).collect()
}

/// The VIPs of a VRRP instance, each once, in ascending order.
pub fn vips_of(config: &Config, instance: &str) -> BTreeSet<InterfaceAddress> {
    (config.services.iter())
        .filter(|service| service.vrrp.as_deref() == Some(instance))
        .map(|service| (service.vip.address, service.vip.prefix_len))
        .collect()
}

/// The addresses that are no node's own: the VIPs of the configuration, and those that the maps still have.
pub fn all_vips(config: &Config, tables: &Tables) -> BTreeSet<IpAddr> {
    config.services.iter().map(|service| service.vip.address).chain(tables.vips.keys().copied()).collect()
}

/// Tables that were computed before, so that a reconcile which changes no membership costs nothing.
#[derive(Debug, Default)]
pub struct RingMemo(BTreeMap<ServiceKey, (bool, Vec<Member>, Turns)>);

impl RingMemo {
    fn table(&mut self, service: ServiceKey, balance: Balance, members: &[Member]) -> Option<Turns> {
        let takes_turns = balance == Balance::RoundRobin;
        if let Some((known_turns, known, table)) = self.0.get(&service)
            && (*known_turns, known.as_slice()) == (takes_turns, members)
        {
            return Some(table.clone());
        }
        let table = if takes_turns {
            round_robin::turns(members)?
        } else {
            Turns { slots: maglev::table(members)?, length: 0 }
        };
        self.0.insert(service, (takes_turns, members.to_vec(), table.clone()));
        Some(table)
    }
}

/// What the kernel should have.
pub fn desired(inputs: &Inputs, rings: &mut RingMemo) -> Desired {
    let config = inputs.config;
    let own = OwnAddresses::of(inputs);
    let mut desired = Desired {
        tables: Tables::default(),
        node: node_entry(inputs, &own),
        addresses: BTreeSet::new(),
        announce: BTreeMap::new(),
        problems: Vec::new(),
    };
    let Desired { tables, node, addresses, announce, problems } = &mut desired;

    let configured: BTreeMap<PoolEntry, (&Service, &Backend)> = (config.services.iter())
        .flat_map(|service| pool(service).zip(service.backends.iter().map(move |backend| (service, backend))))
        .collect();
    for (id, identity) in inputs.ids.all() {
        let backend = identity
            .service
            .and_then(|service| configured.get(&PoolEntry { service, address: identity.address }).copied());
        tables.backends.insert(id, backend_entry(inputs, id, identity, backend));
    }

    let indices = service_indices(config, inputs.observed);
    for service in &config.services {
        let (key, vip) = (service_key(service), service.vip.address);
        let Some(&index) = indices.get(&key) else {
            problems.push(format!("service {:?}: a node has at most {MAX_SERVICES} services", service.name));
            continue;
        };
        if waits_for_checks(inputs, service) {
            continue;
        }

        add_to_filter(node, vip);
        let fenced = u32::from(service.vrrp.is_some() && !config.node.observe);
        let inherits = inherits(inputs, service);
        // Two services on one VIP: if an instance owns it for one of them, it is fenced.
        let entry = tables.vips.entry(vip).or_insert(VipEntry::new(false));
        entry.fenced |= fenced;
        entry.inherited |= u32::from(inherits);
        if let Some((name, &generation)) =
            service.vrrp.as_ref().and_then(|name| inputs.active.get_key_value(name))
        {
            if inherits && let Some(&Some(former)) = inputs.heirs.get(name) {
                entry.former = MacWord::new(former);
            }
            addresses.insert((vip, service.vip.prefix_len));
            announce.insert(vip, generation);
            if let Some((mac, if_index)) = virtual_mac_of(inputs, name, vip) {
                (entry.virtual_mac, entry.if_index) = (MacWord::new(mac), if_index);
                let [.., vrid] = mac;
                node.add_virtual_router(vip.is_ipv6(), vrid);
            }
        }
        for address in own.needed_by(service) {
            add_to_filter(node, address);
        }

        let snat = match snat_address(inputs, service, &own) {
            Ok(snat) => Some(snat),
            Err(problem) => {
                problems.push(problem);
                None
            }
        };
        let mut members = members(inputs, service, &tables.backends);
        if members.len() > MAX_MEMBERS {
            problems.push(format!(
                "service {:?}: of {} backends that are up only {MAX_MEMBERS} are used",
                service.name,
                members.len()
            ));
            members.truncate(MAX_MEMBERS);
        }
        let usable = if snat.is_some() { members.len() as u32 } else { 0 };
        let table = rings.table(key, service.balance, &members);
        let turns = table.as_ref().map_or(0, |table| table.length);
        let slots = table.map(|table| table.slots).or_else(|| inputs.observed.rings.get(&index).cloned());
        if let Some(slots) = slots {
            tables.rings.insert(index, slots);
        }
        // While there is none, no packet looks at table or list: they stay as they are.
        let members = if members.is_empty() {
            inputs.observed.members.get(&index).copied()
        } else {
            Some(member_list(&members))
        };
        if let Some(members) = members {
            tables.members.insert(index, members);
        }
        tables.allowed.extend(service.allow.iter().map(|&prefix| allowed_prefix(index, prefix)));
        let mut entry = service_entry(service, index);
        let ids = pool(service).filter_map(|entry| inputs.ids.id(&entry));
        let mut backends = ids.filter_map(|id| tables.backends.get(&id));
        if backends.any(|backend| backend.share != 0 || backend.new_per_tick != 0) {
            entry.flags |= SERVICE_HAS_SHARES;
        }
        if inherits {
            entry.flags |= SERVICE_REBUILDS;
        }
        let snat = snat.unwrap_or_default();
        tables.services.insert(key, ServiceEntry { snat, usable, turns, ..entry });
    }
    desired
}

/// The Ethernet address that an instance gives a VIP, if it does, and the interface where; VIPs are the first one's.
fn virtual_mac_of(inputs: &Inputs, instance: &str, vip: IpAddr) -> Option<(Mac, u32)> {
    let instance = inputs.config.vrrp.iter().find(|other| other.name == instance)?;
    let link = inputs.links.first()?;
    let is_wanted = instance.virtual_mac && link.mac.is_some();
    is_wanted.then(|| (virtual_mac(vip.is_ipv6(), instance.virtual_router_id.get()), link.parent))
}

/// What packets that are for the node itself are addressed to.
#[derive(Clone, Debug, Default)]
struct OwnAddresses {
    /// Those of each interface, in the configured order.
    links: Vec<(Option<Ipv4Addr>, Option<Ipv6Addr>)>,
}

impl OwnAddresses {
    fn of(inputs: &Inputs) -> Self {
        let vips = all_vips(inputs.config, inputs.observed);
        Self { links: inputs.links.iter().map(|link| (link.v4(&vips), link.v6(&vips))).collect() }
    }

    /// What the node is known by: the first interface's.
    fn first(&self) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
        self.links.first().copied().unwrap_or_default()
    }

    fn on_link(&self, link: usize, is_ipv4: bool) -> Option<IpAddr> {
        let (v4, v6) = self.links.get(link).copied().unwrap_or_default();
        if is_ipv4 { v4.map(IpAddr::V4) } else { v6.map(IpAddr::V6) }
    }

    /// Those at which the data plane waits for packets of a service: replies, or errors about tunnelled packets.
    fn needed_by(&self, service: &Service) -> BTreeSet<IpAddr> {
        match (service.mode, service.snat) {
            // Flows keep the address that they began with, also when the backends are found on another interface.
            (Mode::Nat, Snat::Node) => {
                let of_link = |link| self.on_link(link, service.vip.address.is_ipv4());
                (0..self.links.len()).filter_map(of_link).collect()
            }
            (Mode::DsrIpip, _) => {
                let outer = service.backends.iter().map(|backend| backend.address.is_ipv4());
                outer.filter_map(|is_ipv4| self.on_link(0, is_ipv4)).collect()
            }
            (Mode::Nat, Snat::Vip) | (Mode::DsrL2, _) => BTreeSet::new(),
        }
    }
}

fn add_to_filter(node: &mut NodeEntry, address: IpAddr) {
    match address {
        IpAddr::V4(address) => node.add_vip(Be32::from(address)),
        IpAddr::V6(address) => node.add_vip(Be128::from(address)),
    }
}

fn node_entry(inputs: &Inputs, own: &OwnAddresses) -> NodeEntry {
    let mut node = NodeEntry {
        lease_ns: u64::try_from(inputs.lease.as_nanos()).unwrap_or(u64::MAX),
        idle_timeout: ticks(inputs.config.flows.idle_timeout),
        half_open_timeout: ticks(inputs.half_open_timeout),
        v4: own.first().0.map(Be32::from).unwrap_or_default(),
        v6: own.first().1.map(Be128::from).unwrap_or_default(),
        untagged: 0,
        flags: node_flags(inputs.config),
        cache_sets: ALL_SETS,
        ..NodeEntry::EMPTY
    };
    let macs = inputs.links.iter().filter_map(|link| Some((link.mac?, link.parent)));
    for ((place, if_index), (mac, parent)) in node.macs.iter_mut().zip(&mut node.if_indices).zip(macs) {
        (*place, *if_index) = (MacWord::new(mac), parent);
    }
    for link in inputs.links {
        match link.tags.first() {
            Some(outer) => node.add_vlan(outer.id),
            None => {
                node.untagged = 1;
                // A tag without a VLAN has only a priority (IEEE 802.1Q §9.6), and such a frame is as good as untagged.
                node.add_vlan(0);
                if takes_every_vlan(link, inputs.links) {
                    node.vlans = [u64::MAX; VLAN_WORDS];
                }
            }
        }
    }
    node
}

fn node_flags(config: &Config) -> u32 {
    let is_told = config.sync.is_some() || config.services.iter().any(|service| service.connection_log);
    let flags = [(NODE_OBSERVES, config.node.observe), (NODE_TELLS_FLOWS, is_told)];
    flags.into_iter().filter(|(_, is_set)| *is_set).fold(0, |flags, (flag, _)| flags | flag)
}

/// Whether frames with any tags that arrive by a link are its own: it has none itself, and none of the others says
/// which ones are whose.
fn takes_every_vlan(link: &Link, links: &[Link]) -> bool {
    link.tags.is_empty() && links.iter().all(|other| other.tags.is_empty() || other.parent != link.parent)
}

/// Whole seconds of the flow clock, at least one.
fn ticks(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs().max(1)).unwrap_or(u32::MAX)
}

/// The address that a backend sees as its client's; zero where it sees the client's own.
fn snat_address(inputs: &Inputs, service: &Service, own: &OwnAddresses) -> Result<Be128, String> {
    let vip = service.vip.address;
    match (service.mode, service.snat) {
        (Mode::Nat, Snat::Vip) => Ok(vip.into()),
        (Mode::Nat, Snat::Node) => {
            let link = link_to_backends(inputs, service, own);
            own.on_link(link, vip.is_ipv4()).map(Be128::from).ok_or_else(|| {
                format!(
                    "service {:?}: with snat = \"node\" {} needs an {} address of its own; until it has one, new \
                     connections get a RST",
                    service.name,
                    inputs.links.get(link).map_or("the first interface", |link| link.name.as_str()),
                    if vip.is_ipv4() { "IPv4" } else { "IPv6" }
                )
            })
        }
        (Mode::DsrL2 | Mode::DsrIpip, _) => Ok(Be128::default()),
    }
}

/// Which interface leads to the backends of a service, which has one source address towards all of them: the first one's
/// of which that is known; while it is of none, the one whose address is in use, or the first.
fn link_to_backends(inputs: &Inputs, service: &Service, own: &OwnAddresses) -> usize {
    let resolved =
        service.backends.iter().find_map(|backend| match inputs.next_hops.get(&backend.address.ip()) {
            Some(NextHop::Mac { link, .. }) => Some(usize::from(*link)),
            _ => None,
        });
    let in_use = || {
        let known = inputs.observed.services.get(&service_key(service))?.snat;
        let is_ipv4 = service.vip.address.is_ipv4();
        (0..own.links.len()).find(|&link| own.on_link(link, is_ipv4).map(Be128::from) == Some(known))
    };
    resolved.or_else(in_use).unwrap_or(0)
}

/// Whether a service is left to the host for the time being: its packets may be arriving already, and whoever has served them
/// until now is better than a RST, as long as it is not known which backends are up.
fn waits_for_checks(inputs: &Inputs, service: &Service) -> bool {
    let is_unknown = |entry| matches!(inputs.health.get(&entry), None | Some(HealthState::Unknown));
    service.vrrp.is_none()
        && !inputs.observed.services.contains_key(&service_key(service))
        && pool(service).any(is_unknown)
}

/// Whether packets of flows that are not known may be of flows that another node had. Without VRRP that is so at any time:
/// whoever moves the VIP does not tell.
fn inherits(inputs: &Inputs, service: &Service) -> bool {
    let lately = || service.vrrp.as_ref().is_none_or(|instance| inputs.heirs.contains_key(instance));
    !inputs.config.flows.rebuild.is_zero() && lately()
}

/// What follows from the service's configuration alone.
fn service_entry(service: &Service, index: u32) -> ServiceEntry {
    let flags = [
        (SERVICE_DROPS_WHEN_FULL, service.on_all_full == OnAllFull::Drop),
        (SERVICE_HAS_ALLOW_LIST, !service.allow.is_empty()),
        (SERVICE_HAS_LIMITS, service.backends.iter().any(|backend| backend.max_connections > 0)),
        (SERVICE_SNAT_NODE, service.mode == Mode::Nat && service.snat == Snat::Node),
    ];
    ServiceEntry {
        index,
        source_rate: service.new_connections_per_source,
        source_burst: service.new_connections_burst,
        mode: match service.mode {
            Mode::Nat => MODE_NAT,
            Mode::DsrL2 => MODE_DSR_L2,
            Mode::DsrIpip => MODE_DSR_IPIP,
        },
        balance: match service.balance {
            Balance::Maglev => BALANCE_MAGLEV,
            Balance::RoundRobin => BALANCE_ROUND_ROBIN,
            Balance::LeastConnections => BALANCE_LEAST_CONNECTIONS,
        },
        flags: flags.into_iter().filter(|(_, is_set)| *is_set).fold(0, |flags, (flag, _)| flags | flag),
        ..ServiceEntry::default()
    }
}

fn allowed_prefix(index: u32, prefix: Prefix) -> AllowedPrefix {
    let wide = if prefix.address.is_ipv4() { 96 + u32::from(prefix.len) } else { u32::from(prefix.len) };
    let key = AllowedKey { service: Be32::new(index), source: prefix.address.into() };
    (key, ALLOWED_SERVICE_BITS + wide)
}

fn backend_entry(
    inputs: &Inputs,
    id: BackendId,
    identity: BackendIdentity,
    configured: Option<(&Service, &Backend)>,
) -> BackendEntry {
    let BackendIdentity { address, service } = identity;
    let mut entry = BackendEntry {
        address: address.ip().into(),
        port: Be16::new(address.port()),
        // One that is draining gets no new flows, whatever it has here.
        max_connections: configured.map_or(0, |(_, backend)| backend.max_connections),
        weight: configured.map_or(0, |(_, backend)| effective_weight(inputs, service, backend)),
        ..BackendEntry::default()
    };
    if let Some((service, backend)) = configured {
        let pool_entry = PoolEntry { service: service_key(service), address: backend.address };
        let is_rising =
            inputs.slow_starts.get(&pool_entry).is_some_and(|start| start.next_step(inputs.now).is_some());
        let steer = steer_of(inputs, &pool_entry);
        if !steer.is_out {
            entry.share = steer.share;
            entry.new_per_tick =
                if is_rising || steer.share != 0 { service.health.slow_start_rate } else { 0 };
        }
    }
    let known = (inputs.observed.backends.get(&id))
        .filter(|known| (known.address, known.port) == (entry.address, entry.port));
    match inputs.next_hops.get(&address.ip()) {
        Some(NextHop::Local) => entry.local = u32::from(is_reached_as_it_is(service, address)),
        Some(NextHop::OtherInterface) => {}
        Some(&NextHop::Mac { mac, link, routed }) => {
            let mode = configured.map(|(service, _)| service.mode);
            if !(routed && mode == Some(Mode::DsrL2))
                && let Some((hop, link)) = hop(inputs.links, mac, link)
            {
                let is_tunnelled = match mode {
                    Some(mode) => mode == Mode::DsrIpip,
                    None => known.is_some_and(|known| known.mtu != 0),
                };
                let is_narrow = inputs.links.iter().any(|other| other.mtu > link.mtu);
                entry.hop = hop;
                entry.mtu = if is_tunnelled || is_narrow { link.mtu } else { 0 };
            }
        }
        Some(NextHop::Unresolved) | None => {
            // An interface that was made anew has another index.
            let is_there =
                |known: &&BackendEntry| inputs.links.iter().any(|link| link.parent == known.hop.if_index);
            if let Some(known) = known.filter(is_there) {
                (entry.hop, entry.mtu) = (known.hop, known.mtu);
            }
        }
    }
    entry
}

/// Whether packets can be left to the host where a backend is this very node: it must listen on the port that they are
/// for. Of what is draining the service may not be known, and its flows tell.
fn is_reached_as_it_is(service: Option<ServiceKey>, address: SocketAddr) -> bool {
    service.is_none_or(|service| service.port() == address.port())
}

/// Whether packets for a backend can never be brought there, as opposed to not now: why, and what to do about it.
pub fn unreachable_because(next_hop: NextHop, entry: &PoolEntry, mode: Mode) -> Option<&'static str> {
    match next_hop {
        NextHop::Mac { routed: true, .. } if mode == Mode::DsrL2 => Some(
            "it is behind a router, which would not know what to do with a packet for the VIP: use mode = \"dsr-ipip\"",
        ),
        NextHop::Mac { .. } | NextHop::Unresolved => None,
        NextHop::Local if is_reached_as_it_is(Some(entry.service), entry.address) => None,
        NextHop::Local => {
            Some("it is this very node, on another port than the service's: give both the same port")
        }
        NextHop::OtherInterface => {
            Some("it is behind an interface that is not in node.interfaces: add that one there")
        }
    }
}

fn hop(links: &[Link], mac: Mac, link: u8) -> Option<(Hop, &Link)> {
    let link = links.get(usize::from(link))?;
    let mut tags =
        link.tags.iter().map(|&VlanTag { protocol, id }| TagWord::new(Be16::new(protocol), Be16::new(id)));
    let hop = Hop {
        mac: MacWord::new(mac),
        source: MacWord::new(link.mac?),
        if_index: link.parent,
        outer: tags.next().unwrap_or(TagWord::NONE),
        inner: tags.next().unwrap_or(TagWord::NONE),
        flags: if takes_every_vlan(link, links) { HOP_KEEPS_TAGS } else { 0 },
    };
    Some((hop, link))
}

fn steer_of(inputs: &Inputs, entry: &PoolEntry) -> Steer {
    inputs.steers.get(entry).copied().unwrap_or_default()
}

/// The weight that counts now; of one that is out, 0.
fn effective_weight(inputs: &Inputs, service: Option<ServiceKey>, backend: &Backend) -> u16 {
    let Some(service) = service else { return backend.weight };
    let entry = PoolEntry { service, address: backend.address };
    let steer = steer_of(inputs, &entry);
    if steer.is_out {
        return 0;
    }
    let weight = steer.weight.unwrap_or(backend.weight);
    inputs.slow_starts.get(&entry).map_or(weight, |start| start.effective_weight(weight, inputs.now))
}

/// The backends of a service that can be chosen, all with weight, in ascending order of their addresses: the same order
/// on every node.
fn members(inputs: &Inputs, service: &Service, entries: &BTreeMap<BackendId, BackendEntry>) -> Vec<Member> {
    let key = service_key(service);
    let were_members = members_of(inputs.observed, key);
    let mut members = Vec::new();
    let mut last_known = Vec::new();
    let mut all_down = true;
    for backend in &service.backends {
        let address = backend.address;
        let Some(id) = inputs.ids.id(&PoolEntry { service: key, address }) else { continue };
        // For whether all are down it does not count, either: the others are all that there are.
        if steer_of(inputs, &PoolEntry { service: key, address }).is_out {
            continue;
        }
        let state = inputs.health.get(&PoolEntry { service: key, address }).copied();
        let member = Member { id, address, weight: effective_weight(inputs, Some(key), backend) };
        let reachable = entries.get(&id).is_some_and(BackendEntry::is_reachable);
        let was_member = were_members.contains(&id);
        let up = match state.unwrap_or(HealthState::Unknown) {
            HealthState::Up => true,
            HealthState::Unknown => was_member,
            HealthState::Down => false,
        };
        all_down &= !up;
        if member.weight == 0 || !reachable {
            continue;
        }
        if up {
            members.push(member);
        } else if service.on_all_down == OnAllDown::LastKnown && was_member {
            last_known.push(member);
        }
    }
    let mut members = if all_down { last_known } else { members };
    members.sort_by_key(|member| (member.address.ip(), member.address.port()));
    members
}

fn member_list(members: &[Member]) -> Members {
    let mut list = Members { count: members.len().min(MAX_MEMBERS) as u32, ..Members::EMPTY };
    for (place, member) in list.ids.iter_mut().zip(members) {
        *place = member.id;
    }
    list
}

/// The backends that a service chooses from now; none if nothing is forwarded by it.
pub fn members_of(tables: &Tables, service: ServiceKey) -> BTreeSet<BackendId> {
    let entry = tables.services.get(&service).filter(|entry| entry.usable > 0);
    let Some(members) = entry.and_then(|entry| tables.members.get(&entry.index)) else {
        return BTreeSet::new();
    };
    members.ids.iter().take(members.count as usize).copied().collect()
}

/// A backend that new connections go to stays as it was (`Unknown`) while it is in `doubted`: down by a first check that got no
/// answer. A controller that has just begun, after a restart or with other settings of a check, knows less than the one before
/// it: an answer that is late once must not turn that into an outage.
pub fn keep_until_sure(
    health: &mut BTreeMap<PoolEntry, HealthState>,
    doubted: &BTreeSet<PoolEntry>,
    ids: &BackendIds,
    observed: &Tables,
) {
    for entry in doubted {
        let is_member = ids.id(entry).is_some_and(|id| members_of(observed, entry.service).contains(&id));
        if let Some(state) = health.get_mut(entry).filter(|_| is_member) {
            *state = HealthState::Unknown;
        }
    }
}

/// Which index each service has: the one that it had, else the lowest that no service has.
fn service_indices(config: &Config, observed: &Tables) -> BTreeMap<ServiceKey, u32> {
    let mut taken: BTreeSet<u32> = observed.services.values().map(|entry| entry.index).collect();
    let mut indices = BTreeMap::new();
    for key in config.services.iter().map(service_key) {
        let index = match observed.services.get(&key) {
            Some(entry) => Some(entry.index),
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

/// What an id stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendIdentity {
    /// Address and port.
    pub address: SocketAddr,
    /// The service; not known of a draining one where a predecessor's maps do not tell.
    pub service: Option<ServiceKey>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Draining {
    address: SocketAddr,
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
            owners.extend(members_of(observed, service).into_iter().map(|id| (id, service)));
        }
        let draining = (observed.backends.iter()).map(|(&id, entry)| {
            let address = SocketAddr::new(entry.address.into(), entry.port.get());
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
        let mut by_address: HashMap<SocketAddr, BTreeSet<BackendId>> = HashMap::new();
        for (&id, old) in &*draining {
            by_address.entry(old.address).or_default().insert(id);
        }
        let rounds: [&Fits; 3] = [&own, &unowned, &orphaned];
        for fits in rounds {
            for entry in wanted {
                if self.assigned.contains_key(entry) {
                    continue;
                }
                let Some(candidates) = by_address.get_mut(&entry.address) else { continue };
                let is_fit = |id: &&BackendId| draining.get(*id).is_some_and(|old| fits(entry, old));
                let found = candidates.iter().find(is_fit).copied();
                if let Some(id) = found {
                    candidates.remove(&id);
                    draining.remove(&id);
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

    /// Every id in use with what it stands for, draining ones included.
    pub fn all(&self) -> impl Iterator<Item = (BackendId, BackendIdentity)> {
        let assigned = self.assigned.iter().map(|(entry, &id)| {
            (id, BackendIdentity { address: entry.address, service: Some(entry.service) })
        });
        let draining = self.draining.iter();
        assigned.chain(
            draining.map(|(&id, old)| (id, BackendIdentity { address: old.address, service: old.service })),
        )
    }

    /// One more than the highest id in use, draining ones included: all are below.
    pub fn end(&self) -> u32 {
        let highest = self.assigned.values().chain(self.draining.keys()).max();
        highest.map_or(0, |&id| u32::from(id) + 1)
    }

    /// How many ids are draining.
    pub fn draining(&self) -> usize {
        self.draining.len()
    }
}

#[cfg(test)]
pub(crate) mod tests;
