//! What the two runners of the data plane have in common: the state of the maps before a frame, and what comes out.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
    sync::{Arc, LazyLock},
};

use lb_common::{
    hash::MAGLEV_SLOTS,
    layout::{
        BackendCounters, BackendEntry, BackendId, FlowEntry, FlowKey, MacWord, MaglevSlots, NodeEntry,
        ServiceEntry, ServiceKey, VipEntry,
    },
    reason::Verdict,
    tables::Level,
    wire::Be16,
};
use lb_userspace::{
    dataplane::{RESERVED_PORT_WORDS, Tables},
    maglev::{self, Member},
};

use crate::frames::Mac;

/// The balancer's own Ethernet address.
pub const NODE_MAC: Mac = [0x02, 0, 0, 0, 0, 0x01];
/// Where clients' packets come from: their router.
pub const ROUTER_MAC: Mac = [0x02, 0, 0, 0, 0, 0xfe];
/// The router that takes over from the first.
pub const OTHER_ROUTER_MAC: Mac = [0x02, 0, 0, 0, 0, 0xfd];
/// The VIP; ARP for it is fenced.
pub const VIP: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 10);
/// A second VIP, without fencing.
pub const OTHER_VIP: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 11);
/// The service, on the backends' own port.
pub const SERVICE: SocketAddrV4 = SocketAddrV4::new(VIP, 6443);
/// A service with port translation, to the same backends.
pub const TRANSLATED: SocketAddrV4 = SocketAddrV4::new(VIP, 9443);
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
/// `flows.max` unless a case needs a small table.
pub const MAX_FLOWS: u32 = 4_096;

/// The address of a backend.
pub const fn backend(id: BackendId) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(172, 16, 0, 4 + id as u8), 6443)
}

/// The Ethernet address of a backend.
pub const fn backend_mac(id: BackendId) -> Mac {
    [0x02, 0, 0, 0, 1, id as u8]
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
    /// `VIPS`, `SERVICES`, `BACKENDS` and `RINGS`.
    pub tables: Tables,
    /// `RESERVED_PORTS`.
    pub reserved_ports: [u64; RESERVED_PORT_WORDS],
    /// The flow clock in `PULSE`, in seconds.
    pub clock: u32,
    /// The heartbeat in `PULSE`.
    pub heartbeat: Heartbeat,
    /// `flows.max`: flows, each with two entries in `ESTABLISHED`.
    pub max_flows: u32,
}

impl World {
    /// Two services on one VIP, both with the one backend 0.
    pub fn one_backend() -> Self {
        static RING: LazyLock<Arc<MaglevSlots>> = LazyLock::new(|| Arc::new([0; MAGLEV_SLOTS]));
        Self::new(1, Arc::clone(&RING))
    }

    /// Two services on one VIP, both with three backends of equal weight.
    ///
    /// # Panics
    ///
    /// Never: three backends have a Maglev table.
    pub fn three_backends() -> Self {
        static RING: LazyLock<Arc<MaglevSlots>> = LazyLock::new(|| {
            let members: Vec<Member> =
                (0..BACKENDS).map(|id| Member { id, address: backend(id).into(), weight: 100 }).collect();
            maglev::table(&members).expect("three backends have a table")
        });
        Self::new(BACKENDS, Arc::clone(&RING))
    }

    fn new(backends: BackendId, ring: Arc<MaglevSlots>) -> Self {
        let mut node = NodeEntry {
            lease_ns: LEASE_NS,
            idle_timeout: IDLE_TIMEOUT,
            half_open_timeout: HALF_OPEN_TIMEOUT,
            mac: MacWord::new(NODE_MAC),
            ..NodeEntry::EMPTY
        };
        node.add_vip(VIP.into());
        node.add_vip(OTHER_VIP.into());
        let entry = ServiceEntry { ring: 0, usable: u32::from(backends) };
        let mut world = Self {
            node,
            tables: Tables {
                vips: BTreeMap::from([(VIP, VipEntry { fenced: 1 }), (OTHER_VIP, VipEntry { fenced: 0 })]),
                services: BTreeMap::from([(service_key(SERVICE), entry), (service_key(TRANSLATED), entry)]),
                backends: (0..backends)
                    .map(|id| {
                        let entry = BackendEntry {
                            address: (*backend(id).ip()).into(),
                            port: Be16::new(backend(id).port()),
                            mac: MacWord::new(backend_mac(id)),
                            ..BackendEntry::default()
                        };
                        (id, entry)
                    })
                    .collect(),
                rings: BTreeMap::from([(0, ring)]),
            },
            reserved_ports: [0; RESERVED_PORT_WORDS],
            clock: START,
            heartbeat: Heartbeat::Fresh,
            max_flows: MAX_FLOWS,
        };
        world.reserve_port(SERVICE.port());
        world.reserve_port(TRANSLATED.port());
        world
    }

    /// Makes a port one that may not be a NAT port.
    pub fn reserve_port(&mut self, port: u16) {
        self.reserved_ports[usize::from(port / 64)] |= 1 << (port % 64);
    }

    /// Whether a port may not be a NAT port.
    pub fn port_is_reserved(&self, port: u16) -> bool {
        self.reserved_ports[usize::from(port / 64)] & (1 << (port % 64)) != 0
    }

    /// The service's entry, to be changed.
    ///
    /// # Panics
    ///
    /// Where there is no such service.
    pub fn service_mut(&mut self, service: SocketAddrV4) -> &mut ServiceEntry {
        self.tables.services.get_mut(&service_key(service)).expect("a service of this world")
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

/// The key of a service.
pub fn service_key(service: SocketAddrV4) -> ServiceKey {
    ServiceKey::new((*service.ip()).into(), Be16::new(service.port()))
}

/// The key of a packet from `src` to `dst`.
pub fn flow_key(src: SocketAddrV4, dst: SocketAddrV4) -> FlowKey {
    FlowKey::new((*src.ip()).into(), Be16::new(src.port()), (*dst.ip()).into(), Be16::new(dst.port()))
}

/// The flow tables after a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowState {
    /// `HALF_OPEN`.
    pub half_open: BTreeMap<FlowKey, FlowEntry>,
    /// `ESTABLISHED`.
    pub established: BTreeMap<FlowKey, FlowEntry>,
}

impl FlowState {
    /// One of the two tables.
    pub fn level(&self, level: Level) -> &BTreeMap<FlowKey, FlowEntry> {
        match level {
            Level::HalfOpen => &self.half_open,
            Level::Established => &self.established,
        }
    }
}

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The decision, with its reason.
    pub verdict: Verdict,
    /// The frame as it lies there afterwards.
    pub frame: Vec<u8>,
}

/// Something that decides about frames: the shared code on plain collections, or the programs in the kernel.
pub trait Plane {
    /// Forgets all flows and counts, and makes the maps say what `world` says.
    fn reset(&mut self, world: &World);
    /// Makes the maps say what `world` says; flows stay.
    fn apply(&mut self, world: &World);
    /// Gives it a frame.
    fn run(&mut self, frame: &[u8]) -> Outcome;
    /// The flow tables.
    fn flows(&mut self) -> FlowState;
    /// A backend's counters since the last reset.
    fn backend_counters(&mut self, id: BackendId) -> BackendCounters;
}
