//! What the two runners of the data plane have in common: the state of the maps before a frame, and what comes out.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    sync::{Arc, LazyLock},
};

use lb_common::{
    hash::MAGLEV_SLOTS,
    layout::{
        ALLOWED_SERVICE_BITS, AdvertEntry, AdvertKey, AllowedKey, BackendCounters, BackendEntry, BackendId,
        ClaimEntry, FlowEntry, FlowEvent, FlowKey, FragmentEntry, FragmentKey, Hop, Load, MAX_MEMBERS,
        MODE_DSR_IPIP, MacWord, MaglevSlots, Members, NodeEntry, RESERVED_PORT_WORDS, SERVICE_SNAT_NODE,
        ServiceEntry, ServiceKey, SourceKey, TagWord, VipEntry,
    },
    reason::Verdict,
    tables::Level,
    wire::{Be16, Be32, Be128},
};
use lb_userspace::{
    dataplane::Tables,
    maglev::{self, Member},
};

use crate::frames::{Mac, Tag};

/// The balancer's own Ethernet address.
pub const NODE_MAC: Mac = [0x02, 0, 0, 0, 0, 0x01];
/// That of its second interface.
pub const SECOND_MAC: Mac = [0x02, 0, 0, 0, 0, 0x02];
/// Where clients' packets come from: their router.
pub const ROUTER_MAC: Mac = [0x02, 0, 0, 0, 0, 0xfe];
/// The router that takes over from the first.
pub const OTHER_ROUTER_MAC: Mac = [0x02, 0, 0, 0, 0, 0xfd];
/// The interface that frames come in by: the kernel's test runs are on the loopback interface.
pub const LINK: u32 = 1;
/// Another interface, which need not exist.
pub const SECOND_LINK: u32 = 0x7000_0000;
/// The VIP; ARP for it is fenced.
pub const VIP: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 10);
/// A second VIP, without fencing.
pub const OTHER_VIP: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 11);
/// The IPv6 VIP; neighbour solicitations for it are fenced.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, 0x10);
/// A second one, without fencing.
pub const OTHER_VIP6: Ipv6Addr = Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, 0x11);
/// The node's own address.
pub const NODE: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);
/// The node's own IPv6 address.
pub const NODE6: Ipv6Addr = Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, 2);
/// The service, on the backends' own port.
pub const SERVICE: SocketAddrV4 = SocketAddrV4::new(VIP, 6443);
/// The service of the IPv6 VIP.
pub const SERVICE6: SocketAddrV6 = SocketAddrV6::new(VIP6, 6443, 0, 0);
/// A service with port translation, to the same backends.
pub const TRANSLATED: SocketAddrV4 = SocketAddrV4::new(VIP, 9443);
/// The same of the IPv6 VIP.
pub const TRANSLATED6: SocketAddrV6 = SocketAddrV6::new(VIP6, 9443, 0, 0);
/// How many backends there are in [`World::three_backends`].
pub const BACKENDS: BackendId = 3;
/// `NodeEntry::idle_timeout`, in seconds of the flow clock.
pub const IDLE_TIMEOUT: u32 = 86_400;
/// `NodeEntry::half_open_timeout`, in seconds of the flow clock.
pub const HALF_OPEN_TIMEOUT: u32 = 60;
/// `NodeEntry::lease_ns`: long enough for a slow machine to look at a fresh heartbeat.
pub const LEASE_NS: u64 = 10_000_000_000;
/// What the flow clock says unless a case moves it.
pub const START: u32 = 1_000;
/// What `CLOCK_MONOTONIC` says on the host unless a case moves it, in nanoseconds.
pub const START_NS: u64 = 1_000_000_000_000;
/// `flows.max` unless a case needs a small table.
pub const MAX_FLOWS: u32 = 4_096;

/// The address of a backend.
pub const fn backend(id: BackendId) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(172, 16, 0, 4 + id as u8), 6443)
}

/// The address of a backend of the IPv6 service.
pub const fn backend6(id: BackendId) -> SocketAddrV6 {
    SocketAddrV6::new(Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, 0x100 + id), 6443, 0, 0)
}

/// The address of a backend in one of the families.
pub const fn backend_of(v6: bool, id: BackendId) -> SocketAddr {
    if v6 { SocketAddr::V6(backend6(id)) } else { SocketAddr::V4(backend(id)) }
}

/// The Ethernet address of a backend.
pub const fn backend_mac(id: BackendId) -> Mac {
    [0x02, 0, 0, 0, 1, id as u8]
}

/// The node's own address in one of the families.
pub const fn node_of(v6: bool) -> IpAddr {
    if v6 { IpAddr::V6(NODE6) } else { IpAddr::V4(NODE) }
}

/// How fresh the controller's heartbeat is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heartbeat {
    /// Of this moment.
    Fresh,
    /// Two leases old.
    Stale,
}

/// Everything in the maps that the controller writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// `NODE`.
    pub node: NodeEntry,
    /// `VIPS`, `SERVICES`, `BACKENDS`, `RINGS`, `MEMBERS` and `ALLOWED`.
    pub tables: Tables,
    /// `RESERVED_PORTS`.
    pub reserved_ports: [u64; RESERVED_PORT_WORDS],
    /// The flow clock in `PULSE`, in seconds.
    pub clock: u32,
    /// The heartbeat in `PULSE`.
    pub heartbeat: Heartbeat,
    /// `CLOCK_MONOTONIC` in nanoseconds; of the host alone, since the kernel has its own.
    pub now_ns: u64,
    /// `flows.max`: flows, each with two entries in `ESTABLISHED`.
    pub max_flows: u32,
}

impl World {
    /// Two services on one VIP, both with the one backend 0.
    pub fn one_backend() -> Self {
        Self::of(false, 1)
    }

    /// Two services on one VIP, both with three backends of equal weight.
    pub fn three_backends() -> Self {
        Self::of(false, BACKENDS)
    }

    /// The same in either family, with one backend or three.
    ///
    /// # Panics
    ///
    /// Never: three backends have a Maglev table.
    pub fn of(v6: bool, backends: BackendId) -> Self {
        static ONE: LazyLock<Arc<MaglevSlots>> = LazyLock::new(|| Arc::new([0; MAGLEV_SLOTS]));
        static THREE: LazyLock<[Arc<MaglevSlots>; 2]> = LazyLock::new(|| {
            [false, true].map(|v6| {
                let members: Vec<Member> =
                    (0..BACKENDS).map(|id| Member { id, address: backend_of(v6, id), weight: 100 }).collect();
                maglev::table(&members).expect("three backends have a table")
            })
        });
        let ring = if backends == 1 { &ONE } else { &THREE[usize::from(v6)] };
        let mut node = NodeEntry {
            lease_ns: LEASE_NS,
            idle_timeout: IDLE_TIMEOUT,
            half_open_timeout: HALF_OPEN_TIMEOUT,
            macs: [MacWord::new(NODE_MAC), MacWord::new(SECOND_MAC), MacWord::ZERO, MacWord::ZERO],
            if_indices: [LINK, SECOND_LINK, 0, 0],
            v4: NODE.into(),
            v6: NODE6.into(),
            // Few, so that flows compete for them. The kernel has as many as it was loaded with.
            cache_sets: 2,
            ..NodeEntry::EMPTY
        };
        let vips: [IpAddr; 2] =
            if v6 { [VIP6.into(), OTHER_VIP6.into()] } else { [VIP.into(), OTHER_VIP.into()] };
        vips.iter().for_each(|&vip| add_vip(&mut node, vip));
        let entry =
            ServiceEntry { snat: vips[0].into(), usable: u32::from(backends), ..ServiceEntry::default() };
        let services: [SocketAddr; 2] =
            if v6 { [SERVICE6.into(), TRANSLATED6.into()] } else { [SERVICE.into(), TRANSLATED.into()] };
        let mut world = Self {
            node,
            tables: Tables {
                vips: BTreeMap::from([(vips[0], VipEntry::new(true)), (vips[1], VipEntry::new(false))]),
                services: services.iter().map(|&service| (service_key(service), entry)).collect(),
                backends: (0..backends).map(|id| (id, backend_entry(v6, id))).collect(),
                rings: BTreeMap::from([(0, Arc::clone(ring))]),
                members: BTreeMap::from([(0, members(backends))]),
                allowed: BTreeSet::new(),
            },
            reserved_ports: [0; RESERVED_PORT_WORDS],
            clock: START,
            heartbeat: Heartbeat::Fresh,
            now_ns: START_NS,
            max_flows: MAX_FLOWS,
        };
        world.reserve_port(SERVICE.port());
        world.reserve_port(TRANSLATED.port());
        world
    }

    /// The same with another mode of every service. Tunnels make the node listen to errors for its own addresses.
    #[must_use]
    pub fn in_mode(mut self, mode: u8) -> Self {
        self.tables.services.values_mut().for_each(|service| service.mode = mode);
        if mode == MODE_DSR_IPIP {
            self.node.add_vip(Be32::from(NODE));
            self.node.add_vip(Be128::from(NODE6));
        }
        self
    }

    /// The same with another balance of every service.
    #[must_use]
    pub fn with_balance(mut self, balance: u8) -> Self {
        self.tables.services.values_mut().for_each(|service| service.balance = balance);
        self
    }

    /// The same with more bits for every service.
    #[must_use]
    pub fn with_flags(mut self, flags: u16) -> Self {
        self.tables.services.values_mut().for_each(|service| service.flags |= flags);
        self
    }

    /// The same with NAT from the node's own address.
    #[must_use]
    pub fn with_snat_node(self) -> Self {
        let mut world = self.with_flags(SERVICE_SNAT_NODE);
        for (key, service) in &mut world.tables.services {
            service.snat = if key.vip.is_mapped() { Be128::mapped(NODE.into()) } else { NODE6.into() };
        }
        world.node.add_vip(Be32::from(NODE));
        world.node.add_vip(Be128::from(NODE6));
        world
    }

    /// The same with frames to that backend behind these tags.
    #[must_use]
    pub fn with_backend_tags(mut self, id: BackendId, tags: &[Tag]) -> Self {
        let hop = &mut self.backend_mut(id).hop;
        (hop.outer, hop.inner) = tag_words(tags);
        self
    }

    /// The same on VLAN sub-interfaces: frames with these ids are for us, untagged ones if that is said.
    #[must_use]
    pub fn on_vlans(mut self, vlans: &[u16], untagged: bool) -> Self {
        vlans.iter().for_each(|&vlan| self.node.add_vlan(vlan));
        self.node.untagged = untagged.into();
        self
    }

    /// The same with a backend that is this very node.
    #[must_use]
    pub fn with_local(mut self, id: BackendId) -> Self {
        let entry = self.backend_mut(id);
        entry.local = 1;
        entry.hop = Hop::NONE;
        self
    }

    /// Lets a network connect to every service, and nobody whom none lets.
    #[must_use]
    pub fn allowing(self, network: IpAddr, prefix: u32) -> Self {
        let mut world = self.with_flags(lb_common::layout::SERVICE_HAS_ALLOW_LIST);
        let family = if network.is_ipv4() { 96 } else { 0 };
        let key = AllowedKey { service: Be32::new(0), source: network.into() };
        world.tables.allowed.insert((key, ALLOWED_SERVICE_BITS + family + prefix));
        world
    }

    /// Makes a port one that may not be a NAT port, at the VIPs and at the node's own addresses.
    pub fn reserve_port(&mut self, port: u16) {
        for space in [0, RESERVED_PORT_WORDS / 2] {
            self.reserved_ports[space + usize::from(port / 64)] |= 1 << (port % 64);
        }
    }

    /// Whether a port may not be a NAT port; at the VIPs or at the node's own addresses.
    pub fn port_is_reserved(&self, node: bool, port: u16) -> bool {
        let space = if node { RESERVED_PORT_WORDS / 2 } else { 0 };
        self.reserved_ports[space + usize::from(port / 64)] & (1 << (port % 64)) != 0
    }

    /// The service's entry, to be changed.
    ///
    /// # Panics
    ///
    /// Where there is no such service.
    pub fn service_mut(&mut self, service: impl Into<SocketAddr>) -> &mut ServiceEntry {
        self.tables.services.get_mut(&service_key(service)).expect("a service of this world")
    }

    /// The service of an address, if there is one.
    pub fn service(&self, service: SocketAddr) -> Option<&ServiceEntry> {
        self.tables.services.get(&service_key(service))
    }

    /// The backend's entry, to be changed.
    ///
    /// # Panics
    ///
    /// Where there is no such backend.
    pub fn backend_mut(&mut self, id: BackendId) -> &mut BackendEntry {
        self.tables.backends.get_mut(&id).expect("a backend of this world")
    }
}

fn add_vip(node: &mut NodeEntry, vip: IpAddr) {
    match vip {
        IpAddr::V4(vip) => node.add_vip(Be32::from(vip)),
        IpAddr::V6(vip) => node.add_vip(Be128::from(vip)),
    }
}

/// A backend behind its own Ethernet address. Tags stay as they are where frames have some.
pub fn backend_entry(v6: bool, id: BackendId) -> BackendEntry {
    BackendEntry {
        address: backend_of(v6, id).ip().into(),
        port: Be16::new(backend_of(v6, id).port()),
        hop: Hop {
            mac: MacWord::new(backend_mac(id)),
            source: MacWord::new(NODE_MAC),
            if_index: LINK,
            ..Hop::NONE
        },
        weight: 100,
        ..BackendEntry::default()
    }
}

/// The first so many backends.
pub fn members(backends: BackendId) -> Members {
    let mut ids = [0; MAX_MEMBERS];
    ids.iter_mut().zip(0..backends).for_each(|(slot, id)| *slot = id);
    Members { count: backends.into(), ids }
}

/// Tags as a hop has them.
///
/// # Panics
///
/// Where there are more than two.
pub fn tag_words(tags: &[Tag]) -> (TagWord, TagWord) {
    match tags {
        [] => (TagWord::NONE, TagWord::NONE),
        &[outer] => (TagWord::from_octets(outer), TagWord::NONE),
        &[outer, inner] => (TagWord::from_octets(outer), TagWord::from_octets(inner)),
        _ => panic!("{} tags", tags.len()),
    }
}

/// The key of a service.
pub fn service_key(service: impl Into<SocketAddr>) -> ServiceKey {
    let service = service.into();
    ServiceKey::new(service.ip().into(), Be16::new(service.port()))
}

/// The key of a flow of either family.
pub type Key = FlowKey<Be128>;
/// The entry of a flow of either family, IPv4 addresses in their mapped form.
pub type Entry = FlowEntry<Be128>;

/// The key of a packet from `src` to `dst`.
pub fn flow_key(src: impl Into<SocketAddr>, dst: impl Into<SocketAddr>) -> Key {
    let (src, dst) = (src.into(), dst.into());
    FlowKey::new(src.ip().into(), Be16::new(src.port()), dst.ip().into(), Be16::new(dst.port()))
}

/// An IPv4 key in the form of either family.
pub fn wide_key(key: &FlowKey<Be32>) -> Key {
    FlowKey::new(Be128::mapped(key.src), key.src_port, Be128::mapped(key.dst), key.dst_port)
}

/// An IPv4 flow's entry in the form of either family.
pub fn wide_entry(entry: &FlowEntry<Be32>) -> Entry {
    let FlowEntry {
        rewritten,
        client,
        ip_delta,
        tcp_delta,
        backend,
        direction,
        mode,
        opened,
        attempt,
        _pad,
        seen,
    } = *entry;
    FlowEntry {
        rewritten: wide_key(&rewritten),
        client,
        ip_delta,
        tcp_delta,
        backend,
        direction,
        mode,
        opened,
        attempt,
        _pad,
        seen,
    }
}

/// The flow tables after a frame, of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowState {
    /// `HALF_OPEN4` and `HALF_OPEN6`.
    pub half_open: BTreeMap<Key, Entry>,
    /// `ESTABLISHED4` and `ESTABLISHED6`.
    pub established: BTreeMap<Key, Entry>,
}

impl FlowState {
    /// One of the two levels.
    pub fn level(&self, level: Level) -> &BTreeMap<Key, Entry> {
        match level {
            Level::HalfOpen => &self.half_open,
            Level::Established => &self.established,
        }
    }
}

/// What else the data plane has written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// `FRAGMENTS`.
    pub fragments: BTreeMap<FragmentKey, FragmentEntry>,
    /// `SOURCES`; what is in the buckets depends on the clock.
    pub sources: BTreeSet<SourceKey>,
    /// `ADVERTS`, but for when.
    pub adverts: BTreeMap<AdvertKey, Advert>,
    /// `CLAIMS`, but for when.
    pub claims: BTreeMap<Be128, Claim>,
    /// `LOADS`, of the first few backends.
    pub loads: Vec<Load>,
    /// `BACKEND_COUNTERS`, likewise, since the last reset.
    pub counters: Vec<BackendCounters>,
    /// What was told in `FLOW_EVENTS` since this was read last.
    pub events: Vec<FlowEvent>,
}

/// What is known of a sender of advertisements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advert {
    /// Where it came from.
    pub mac: Mac,
    /// Its priority.
    pub priority: u32,
    /// The protocol's version.
    pub version: u32,
}

impl From<&AdvertEntry> for Advert {
    fn from(entry: &AdvertEntry) -> Self {
        Self { mac: entry.mac.octets(), priority: entry.priority, version: entry.version }
    }
}

/// What somebody else has said about a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Where it is.
    pub mac: Mac,
    /// How often.
    pub count: u64,
}

impl From<&ClaimEntry> for Claim {
    fn from(entry: &ClaimEntry) -> Self {
        Self { mac: entry.mac.octets(), count: entry.count }
    }
}

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The decision, with its reason.
    pub verdict: Verdict,
    /// The frame as it lies there afterwards.
    pub frame: Vec<u8>,
    /// Whether it leaves by another interface than it came in by.
    pub redirected: bool,
}

/// Something that decides about frames: the shared code on plain collections, or the programs in the kernel.
pub trait Plane {
    /// Forgets all flows and counts, and makes the maps say what `world` says.
    fn reset(&mut self, world: &World);
    /// Makes the maps say what `world` says; flows stay.
    fn apply(&mut self, world: &World);
    /// Gives it a frame that came in by [`LINK`].
    fn run(&mut self, frame: &[u8]) -> Outcome;
    /// The flow tables.
    fn flows(&mut self) -> FlowState;
    /// What else there is to see.
    fn notes(&mut self) -> Notes;
    /// Ends one direction of an established flow as the controller does it, by its mark. Not its load.
    fn sever(&mut self, key: &Key);
    /// The interface that the last frame was said to leave by, where that can be told.
    fn left_by(&self) -> Option<u32>;
}
