//! The ABI of the maps: keys and values as they lie in kernel memory.
//!
//! Integers and byte arrays only, padding spelled out and zero, sizes asserted. Addresses and ports are in network
//! byte order ([`Be32`], [`Be128`], [`Be16`]), everything else in the machine's own. [`LAYOUT_VERSION`] changes with
//! any change here: objects pinned under another version are not adopted.
//!
//! What every packet touches has a form for each family ([`FlowKey`], [`FlowEntry`]); what only new flows touch holds
//! either family in one ([`ServiceKey`], [`BackendEntry`]), IPv4 addresses in their mapped form.

mod cache;
mod node;

use crate::{
    checksum::Delta,
    hash::MAGLEV_SLOTS,
    wire::{Be16, Be32, Be128, Mac},
};

pub use cache::{CACHE_TO_CLIENT, CACHE_WAYS, CacheLine, CacheSet, STAMPS};
pub use node::{ALL_SETS, NODE_HAS_FORMER, NODE_OBSERVES, NODE_TELLS_FLOWS, NodeEntry, virtual_mac};

/// Part of the path that maps are pinned under.
pub const LAYOUT_VERSION: u32 = 5;

/// How many services a node can have; the size of the outer array of Maglev tables.
pub const MAX_SERVICES: u32 = 256;
/// How many backends a node can have, those that are draining included.
pub const MAX_BACKENDS: u32 = 16_384;
/// How many backends a service can have.
pub const MAX_MEMBERS: usize = 256;
/// Source prefixes that all services together can allow.
pub const MAX_ALLOWED: u32 = 65_536;
/// Interfaces that a node can have.
pub const MAX_LINKS: usize = 4;
/// Words of [`NodeEntry::vip_filter`].
pub const VIP_FILTER_WORDS: usize = 64;
/// Words of [`NodeEntry::vlans`]: one bit for each VLAN id.
pub const VLAN_WORDS: usize = 64;
/// Words of the `RESERVED_PORTS` map: one bit for each port, first for the VIPs, then for the node's own addresses.
pub const RESERVED_PORT_WORDS: usize = 2 * 1024;

/// Words of [`NodeEntry::virtual_routers`]: one bit for each VRID, first those of IPv4, then those of IPv6.
pub const VIRTUAL_ROUTER_WORDS: usize = 2 * 256 / 64;
/// Senders of advertisements that are remembered.
pub const MAX_ADVERTS: u32 = 1024;

/// A backend's index in the `BACKENDS` map: dense, and stable for as long as a flow uses it.
pub type BackendId = u16;

/// Slots of a Maglev table, in one map value, so that one update replaces all of it.
pub type MaglevSlots = [BackendId; MAGLEV_SLOTS];

/// An Ethernet address in one machine word: six bytes as on the wire, then two of zero. One comparison, one copy; and
/// never the unaligned halves on the stack that the verifier refuses.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MacWord(u64);

impl MacWord {
    /// No address.
    pub const ZERO: Self = Self(0);

    /// From the bytes on the wire.
    #[inline(always)]
    pub const fn new(mac: Mac) -> Self {
        Self::read(&mac)
    }

    /// From the bytes on the wire where they lie: two loads, rather than one for each byte.
    #[inline(always)]
    pub const fn read(mac: &Mac) -> Self {
        // SAFETY: the first four bytes of six, and the other two, at whatever address.
        let (first, last) = unsafe {
            (mac.as_ptr().cast::<u32>().read_unaligned(), mac.as_ptr().add(4).cast::<u16>().read_unaligned())
        };
        if cfg!(target_endian = "little") {
            Self(first as u64 | (last as u64) << 32)
        } else {
            Self((first as u64) << 32 | (last as u64) << 16)
        }
    }

    /// Writes the bytes on the wire to where they belong: two stores.
    #[inline(always)]
    pub const fn write(self, mac: &mut Mac) {
        let (first, last) = if cfg!(target_endian = "little") {
            (self.0 as u32, (self.0 >> 32) as u16)
        } else {
            ((self.0 >> 32) as u32, (self.0 >> 16) as u16)
        };
        // SAFETY: as in `read`.
        unsafe {
            mac.as_mut_ptr().cast::<u32>().write_unaligned(first);
            mac.as_mut_ptr().add(4).cast::<u16>().write_unaligned(last);
        }
    }

    /// The last two bytes, where the first four are these. A comparison of words: one of bytes anywhere has LLVM read bytes everywhere.
    #[inline(always)]
    pub const fn behind(self, first: [u8; 4]) -> Option<(u8, u8)> {
        let [a, b, c, d] = first;
        if self.0 & u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0])
            != u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0])
        {
            return None;
        }
        let [_, _, _, _, fifth, sixth, ..] = self.0.to_ne_bytes();
        Some((fifth, sixth))
    }

    /// The bytes on the wire.
    #[inline(always)]
    pub const fn octets(self) -> Mac {
        let [a, b, c, d, e, f, ..] = self.0.to_ne_bytes();
        [a, b, c, d, e, f]
    }
}

/// A VLAN tag in one word: its four bytes as on the wire, EtherType first. Zero: no tag.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TagWord(Be32);

impl TagWord {
    /// No tag.
    pub const NONE: Self = Self(Be32::new(0));

    /// From EtherType and tag control information.
    #[inline(always)]
    pub const fn new(ethertype: Be16, control: Be16) -> Self {
        Self(Be32::new((ethertype.get() as u32) << 16 | control.get() as u32))
    }

    /// From the four bytes on the wire.
    #[inline(always)]
    pub const fn from_octets(octets: [u8; 4]) -> Self {
        Self(Be32::from_octets(octets))
    }

    /// The four bytes on the wire.
    #[inline(always)]
    pub const fn octets(self) -> [u8; 4] {
        self.0.octets()
    }

    /// Whether there is a tag.
    #[inline(always)]
    pub const fn is_some(self) -> bool {
        self.0.word() != 0
    }

    /// The VLAN id, 0 where there is no tag.
    #[inline(always)]
    pub const fn vlan(self) -> u16 {
        (self.0.get() & 0x0fff) as u16
    }
}

/// Where a frame goes next: everything of it that is not IP.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    /// Destination. Zero while unresolved.
    pub mac: MacWord,
    /// Source: the Ethernet address of the interface that it leaves by.
    pub source: MacWord,
    /// Index of that interface, the one that XDP is attached to.
    pub if_index: u32,
    /// Outer tag.
    pub outer: TagWord,
    /// Inner tag; only where there is an outer one.
    pub inner: TagWord,
    /// `HOP_` bits.
    pub flags: u32,
}

/// [`Hop::flags`]: a frame that came in by the same interface keeps the tags that it has.
pub const HOP_KEEPS_TAGS: u32 = 1;

impl Hop {
    /// Nowhere.
    pub const NONE: Self = Self {
        mac: MacWord::ZERO,
        source: MacWord::ZERO,
        if_index: 0,
        outer: TagWord::NONE,
        inner: TagWord::NONE,
        flags: 0,
    };

    /// Whether it leads anywhere.
    #[inline(always)]
    pub fn is_resolved(&self) -> bool {
        self.mac != MacWord::ZERO
    }
}

/// Value of `PULSE`, one entry: what the controller writes several times a second.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PulseEntry {
    /// `CLOCK_MONOTONIC` in nanoseconds at the last write; 0 before the first.
    pub heartbeat_ns: u64,
    /// The flow clock, in seconds: it runs only while a controller runs, so that flows do not expire unseen.
    pub flow_clock: u32,
    /// Zero.
    pub _pad: u32,
}

/// Value of `VIPS`, keyed by the address in its wide form.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VipEntry {
    /// 1: ARP or neighbour solicitations for it are silenced when the heartbeat is stale, since another node may own it
    /// by then.
    pub fenced: u32,
    /// The interface that ARP and neighbour solicitations for it are answered at, the one that XDP is attached to; only
    /// with `virtual_mac`.
    pub if_index: u32,
    /// What they are answered with while this node holds it: the virtual router's Ethernet address. Zero: the host answers.
    pub virtual_mac: MacWord,
    /// 1: this node may have it of late from another one, and packets of flows that are not known may be of those that the
    /// other one had.
    pub inherited: u32,
    /// Zero.
    pub _pad: u32,
    /// The Ethernet address of the node that it has it from; zero: not known, or long ago. That one still knows the
    /// handshakes that were under way.
    pub former: MacWord,
}

impl VipEntry {
    /// One that the host answers for.
    pub const fn new(fenced: bool) -> Self {
        Self {
            fenced: fenced as u32,
            if_index: 0,
            virtual_mac: MacWord::ZERO,
            inherited: 0,
            _pad: 0,
            former: MacWord::ZERO,
        }
    }
}

/// Key of `ADVERTS`: a sender of advertisements.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdvertKey {
    /// Its primary address in its wide form.
    pub source: Be128,
    vrid: u64,
}

impl AdvertKey {
    /// The key of a sender and a virtual router.
    #[inline(always)]
    pub const fn new(source: Be128, vrid: u8) -> Self {
        Self { source, vrid: vrid as u64 }
    }

    /// The virtual router.
    pub const fn vrid(&self) -> u8 {
        self.vrid as u8
    }
}

/// Value of `ADVERTS`: the last advertisement of a sender that is up, as it arrived. Nothing in it is authenticated.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdvertEntry {
    /// `CLOCK_MONOTONIC` in nanoseconds when it arrived.
    pub at_ns: u64,
    /// The Ethernet address that it came from.
    pub mac: MacWord,
    /// The sender's priority, 1 to 255.
    pub priority: u32,
    /// 2 or 3.
    pub version: u32,
}

/// Value of `CLAIMS`, keyed by a VIP in its wide form: somebody else has said that it is its own.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClaimEntry {
    /// `CLOCK_MONOTONIC` in nanoseconds at the last time.
    pub at_ns: u64,
    /// Where the VIP was said to be then.
    pub mac: MacWord,
    /// How often it was said; two CPUs at once may count one.
    pub count: u64,
}

/// Key of `SERVICES`. Whole words only: on the stack, where a packet's is made, the verifier takes no unaligned stores.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// The VIP, in its wide form.
    pub vip: Be128,
    port: u64,
}

impl ServiceKey {
    /// The key of a TCP service.
    #[inline(always)]
    pub const fn new(vip: Be128, port: Be16) -> Self {
        Self { vip, port: port.get() as u64 }
    }

    /// The service port.
    #[inline(always)]
    pub const fn port(&self) -> u16 {
        self.port as u16
    }
}

/// Value of `SERVICES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceEntry {
    /// Source address of packets to the backends in [`MODE_NAT`]: the VIP or the node's own, in its wide form.
    pub snat: Be128,
    /// Its index: that of its table in `RINGS`, of its members in `MEMBERS`, of its turn in `TURNS`.
    pub index: u32,
    /// Backends that can be chosen. 0: there is none, and new connections get a RST.
    pub usable: u32,
    /// Slots of the table that take turns, with [`BALANCE_ROUND_ROBIN`].
    pub turns: u32,
    /// New connections per second that one source may open; 0: no limit.
    pub source_rate: u32,
    /// How many it may open at once.
    pub source_burst: u32,
    /// One of the `MODE_` constants.
    pub mode: u8,
    /// One of the `BALANCE_` constants.
    pub balance: u8,
    /// `SERVICE_` bits.
    pub flags: u16,
}

impl ServiceEntry {
    /// Whether the Maglev table knows all there is to know about a flow of which nothing is remembered: where replies are not
    /// seen.
    #[inline(always)]
    pub const fn is_stateless(&self) -> bool {
        self.mode != MODE_NAT && self.balance == BALANCE_MAGLEV && self.usable != 0
    }

    /// Whether a flow of which nothing is remembered can be rebuilt from a packet in its middle; with NAT that is a guess,
    /// which its backend proves.
    #[inline(always)]
    pub const fn rebuilds_flows(&self) -> bool {
        if self.mode == MODE_NAT {
            self.flags & SERVICE_REBUILDS != 0 && self.usable != 0
        } else {
            self.is_stateless()
        }
    }
}

/// Full NAT: both addresses are rewritten, and packets of both directions come through.
pub const MODE_NAT: u8 = 0;
/// Direct server return: the Ethernet addresses are rewritten; replies go straight to the client.
pub const MODE_DSR_L2: u8 = 1;
/// Direct server return through a tunnel: IP in IP (RFC 2003, RFC 2473).
pub const MODE_DSR_IPIP: u8 = 2;
/// The backend is this very node: the host gets its packets, untouched. Of flows only; a service has one of the others.
pub const MODE_LOCAL: u8 = 3;

/// Consistent hashing of the 5-tuple.
pub const BALANCE_MAGLEV: u8 = 0;
/// Backends take turns.
pub const BALANCE_ROUND_ROBIN: u8 = 1;
/// The backend with the fewest connections for its weight.
pub const BALANCE_LEAST_CONNECTIONS: u8 = 2;

/// [`ServiceEntry::flags`]: while every backend is full, a new connection is dropped rather than answered with a RST.
pub const SERVICE_DROPS_WHEN_FULL: u16 = 1;
/// [`ServiceEntry::flags`]: only sources in `ALLOWED` may connect.
pub const SERVICE_HAS_ALLOW_LIST: u16 = 2;
/// [`ServiceEntry::flags`]: some backend has a limit of connections.
pub const SERVICE_HAS_LIMITS: u16 = 4;
/// [`ServiceEntry::flags`]: NAT ports are those of the node's own address, not of the VIP.
pub const SERVICE_SNAT_NODE: u16 = 8;

/// [`ServiceEntry::flags`]: a packet of a flow that is not known may be of one that another node had: with NAT it is made anew
/// by what the tables say, and stays only if its backend knows it.
pub const SERVICE_REBUILDS: u16 = 16;
/// [`ServiceEntry::flags`]: some backend has a share or a rate that new flows heed while others have room.
pub const SERVICE_HAS_SHARES: u16 = 32;

/// Value of `MEMBERS`, by `ServiceEntry::index`: the backends that can be chosen, in an order that is the same on every
/// node. Only those who cannot go by the Maglev table read it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Members {
    /// How many there are.
    pub count: u32,
    /// Their ids; what follows the last is zero.
    pub ids: [BackendId; MAX_MEMBERS],
}

impl Members {
    /// Nobody.
    pub const EMPTY: Self = Self { count: 0, ids: [0; MAX_MEMBERS] };
}

/// Value of `BACKENDS`, indexed by [`BackendId`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendEntry {
    /// Its address in its wide form; zero marks an unused index.
    pub address: Be128,
    /// Where frames for it go: its own Ethernet address, or its router's.
    pub hop: Hop,
    /// Largest IP packet on the way there, in bytes; 0: whatever came in fits. Set where a tunnel's header is added, or
    /// where it leaves by an interface with a smaller MTU than another.
    pub mtu: u32,
    /// Connections that it may have; 0: no limit.
    pub max_connections: u32,
    /// Connections above which a new flow goes to another backend that is below its own share; 0: none. Unlike
    /// `max_connections` it never turns anybody away.
    pub share: u32,
    /// New flows in a tick of the flow clock after which others go to another backend that can take them; 0: no limit.
    pub new_per_tick: u32,
    /// Its share of new connections, relative to the others'.
    pub weight: u16,
    /// Its port.
    pub port: Be16,
    /// 1: it is this very node.
    pub local: u32,
}

impl BackendEntry {
    /// How packets of a service's flows reach it: one of the `MODE_` constants.
    #[inline(always)]
    pub const fn mode_of_flows(&self, service: &ServiceEntry) -> u8 {
        if self.local != 0 { MODE_LOCAL } else { service.mode }
    }

    /// Whether a packet can be sent to it.
    #[inline(always)]
    pub fn is_reachable(&self) -> bool {
        self.local != 0 || self.hop.is_resolved()
    }
}

/// Value of `LOADS`, indexed by [`BackendId`]: how busy a backend is. Kept by the data plane, set right by the sweep.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Established flows that have not ended. Two CPUs at the same moment can lose a count, so that it may even be negative
    /// until a sweep sets it right; that counts as none.
    pub active: i64,
    /// Handshakes that began in this tick and are not completed; likewise.
    pub pending: i64,
    /// Handshakes that began in the tick before.
    pub pending_before: i64,
    /// The tick of the flow clock that `pending` is of.
    pub tick: u32,
    /// New flows that asked for this backend in this tick, whether they got it or not; where there are shares, also those that
    /// it got because others were asked in vain.
    pub asked: u32,
    /// And in the tick before.
    pub asked_before: u32,
    /// Zero.
    pub _pad: u32,
}

/// Value of `BACKEND_COUNTERS`, per CPU, indexed by [`BackendId`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendCounters {
    /// Flows that were opened to it (SYNs that chose it).
    pub opened: u64,
    /// Flows whose handshake completed.
    pub established: u64,
    /// New flows that found no free NAT port.
    pub ports_exhausted: u64,
    /// Packets that were dropped because its next hop was not known.
    pub unresolved: u64,
    /// SYNs that it answered with a RST: nobody listens.
    pub refused: u64,
    /// SYNs that it had not answered when the client sent them again.
    pub unanswered: u64,
    /// New flows that would have been its own and went elsewhere, since it had all the connections that it may have.
    pub full: u64,
    /// SYNs that it answered with a SYN-ACK; only where replies are seen.
    pub answered: u64,
    /// RSTs that it sent for established flows.
    pub broken: u64,
    /// Established flows that were removed by the data plane itself.
    pub removed: Removed,
}

/// What removed flows had carried. The sum of this and of what the table holds never goes backwards.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Flows that both sides had closed.
    pub closed: u64,
    /// Flows that a RST had ended.
    pub reset: u64,
    /// Flows that were forgotten for silence, or half-closed.
    pub expired: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Their bytes, IP headers included.
    pub bytes_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
}

/// Key of `HALF_OPEN4/6` and `ESTABLISHED4/6`: the packet's own addresses and ports. A flow has two: as the client's
/// packets have it, and as the backend's have it; with direct server return only the first.
///
/// Without a field for the protocol: TCP is the only one. The kernel's hash takes three words at a time, so the three of IPv4
/// and the nine of IPv6 cost it a round less than one word more would. Aligned for the stores that make it: on the stack the
/// verifier takes no unaligned ones.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port.
    pub src_port: Be16,
    /// Destination port.
    pub dst_port: Be16,
}

impl<A: Copy> FlowKey<A> {
    /// The key of a packet.
    #[inline(always)]
    pub const fn new(src: A, src_port: Be16, dst: A, dst_port: Be16) -> Self {
        Self { src, dst, src_port, dst_port }
    }

    /// The same addresses and ports from the other end.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self::new(self.dst, self.dst_port, self.src, self.src_port)
    }
}

/// Value of `HALF_OPEN4/6` and `ESTABLISHED4/6`: one direction of a flow, all that a packet needs in one look-up.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEntry<A> {
    /// What the packet's addresses and ports become; with direct server return what they are. Reversed, it is the key of
    /// the other direction.
    pub rewritten: FlowKey<A>,
    /// What the rewrite adds to the sum of the IPv4 header, one hop less included.
    pub ip_delta: Delta,
    /// What it adds to the sum of the TCP segment.
    pub tcp_delta: Delta,
    /// Where the client's frames come from, and replies go to.
    pub client: Hop,
    /// The flow's backend.
    pub backend: BackendId,
    /// [`TO_BACKEND`] or [`TO_CLIENT`].
    pub direction: u8,
    /// One of the `MODE_` constants.
    pub mode: u8,
    /// When the flow was opened, on the flow clock.
    pub opened: u32,
    /// How many backends did not answer this flow's SYN. Kept in the client's direction.
    pub attempt: u32,
    /// Zero.
    pub _pad: u32,
    /// What this direction has seen. Only packets of this direction write here.
    pub seen: Seen,
}

/// [`FlowEntry::direction`]: packets of the client.
pub const TO_BACKEND: u8 = 0;
/// [`FlowEntry::direction`]: packets of the backend.
pub const TO_CLIENT: u8 = 1;

/// What one direction of a flow has seen.
///
/// All that begins as zero comes first: LLVM joins neighbouring stores, and on the stack the verifier takes only
/// aligned ones.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Packets forwarded.
    pub packets: u64,
    /// Their bytes, IPv4 header included.
    pub bytes: u64,
    /// The sequence number that follows the last segment (host byte order).
    pub next_seq: u32,
    /// The last acknowledgement number (host byte order).
    pub ack: u32,
    /// `SEEN_` bits.
    pub flags: u32,
    /// When the last packet came, on the flow clock.
    pub at: u32,
}

impl Seen {
    /// Seconds without a packet, at `clock` of the flow clock. None where the last packet seems to come later: another
    /// CPU, or whoever reads the table while packets go on, has read the clock a moment before or after.
    #[inline(always)]
    pub const fn silence(&self, clock: u32) -> u32 {
        let silence = clock.wrapping_sub(self.at);
        if silence > i32::MAX as u32 { 0 } else { silence }
    }

    /// Whether [`Seen::silence`] is at most `limit`.
    #[inline(always)]
    pub const fn is_heard_within(&self, limit: u32, clock: u32) -> bool {
        let silence = clock.wrapping_sub(self.at);
        silence <= limit || silence > i32::MAX as u32
    }
}

/// [`Seen::flags`]: a SYN, or a SYN-ACK.
pub const SEEN_SYN: u32 = 1;
/// [`Seen::flags`]: a FIN.
pub const SEEN_FIN: u32 = 2;
/// [`Seen::flags`]: a RST, and nothing after it.
pub const SEEN_RST: u32 = 4;
/// [`Seen::flags`]: the controller has ended the flow, in both of its directions: whoever still sends is told by a RST.
pub const SEEN_SEVERED: u32 = 8;
/// [`Seen::flags`]: a flow that was made anew from a packet in its middle; while it is half-open no handshake is pending for
/// it. With NAT the first answer of its backend that fits proves it; else its client's second packet. It stays then, and
/// means nothing.
pub const SEEN_REBUILT: u32 = 16;

/// What `FLOW_EVENTS` carries: something about an established flow has changed that other nodes should know. The flow itself
/// is in the tables.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEvent {
    /// The client's address in its wide form.
    pub client: Be128,
    /// The VIP in its wide form.
    pub vip: Be128,
    /// The client's port.
    pub client_port: Be16,
    /// The service's port.
    pub port: Be16,
    /// One of the `FLOW_` constants.
    pub kind: u32,
}

/// [`FlowEvent::kind`]: its handshake has completed, or its backend has proved one that was rebuilt.
pub const FLOW_ESTABLISHED: u32 = 1;
/// [`FlowEvent::kind`]: one of its directions has seen a FIN or a RST, or one more packet after a RST.
pub const FLOW_ENDING: u32 = 2;
/// [`FlowEvent::kind`]: its client's packets come another way now.
pub const FLOW_MOVED: u32 = 3;

/// Key of `FRAGMENTS`: what all fragments of a packet have in common (RFC 791 §3.2, RFC 8200 §4.5).
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FragmentKey {
    /// Source address in its wide form.
    pub src: Be128,
    /// Destination address in its wide form.
    pub dst: Be128,
    /// Identification; IPv4 has 16 bits of it.
    pub id: u32,
    /// Zero.
    pub _pad: u32,
}

/// Value of `FRAGMENTS`: what only the first fragment has.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentEntry {
    /// Source port.
    pub src_port: Be16,
    /// Destination port.
    pub dst_port: Be16,
    /// When it came, on the flow clock.
    pub at: u32,
}

/// Key of `SOURCES`: a service and whoever connects to it.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceKey {
    /// An IPv4 address in its wide form, or an IPv6 /64.
    pub source: Be128,
    /// `ServiceEntry::index`.
    pub service: u32,
    /// Zero.
    pub _pad: u32,
}

/// Value of `SOURCES`: a token bucket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceEntry {
    /// `CLOCK_MONOTONIC` in nanoseconds up to which tokens have been put in.
    pub filled_ns: u64,
    /// What is in it, in millionths of a connection.
    pub tokens: u64,
}

/// Key data of `ALLOWED`, a longest-prefix-match trie: the service (network byte order, always matched whole), then the
/// source in its wide form.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AllowedKey {
    /// `ServiceEntry::index`.
    pub service: Be32,
    /// The source.
    pub source: Be128,
}

/// Bits of an [`AllowedKey`] before the address.
pub const ALLOWED_SERVICE_BITS: u32 = 32;

/// Value of `SCRATCH`, per CPU: what one program leaves for the next one that looks at the same frame.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scratch {
    /// Where the IP header begins.
    pub l3: u32,
    /// Where the TCP or ICMP header begins, or what follows the header of a fragment.
    pub l4: u32,
    /// Bytes of TCP payload.
    pub payload: u32,
    /// TCP flags; `SCRATCH_` bits above them.
    pub flags: u32,
    /// The ports of a fragment that is not the first, from the one that was.
    pub ports: FragmentEntry,
    /// How many backends have left this SYN unanswered.
    pub attempt: u32,
    /// What to answer with: one of the `ANSWER_` constants.
    pub answer: u32,
    /// The MTU to tell.
    pub mtu: u32,
    /// The interface that the answer leaves by; 0: the one that the frame came in by.
    pub if_index: u32,
    /// The backend of a new flow. While it is chosen: one that has room but more than its share already, plus one; 0: none.
    pub backend: u32,
    /// ICMP errors sent in the second that began at `errors_since_ns`.
    pub errors: u32,
    /// See `errors`.
    pub errors_since_ns: u64,
    /// With [`ANSWER_BY_OTHER_NODE`]: that node's Ethernet address. In neighbour discovery: the address that is told.
    pub other_node: MacWord,
    /// Room for the search for a new flow's backend.
    pub search: Search,
    /// The service of a new flow whose backend is still to be chosen.
    pub service: ServiceEntry,
    /// The hash of such a flow.
    pub hash: u32,
    /// Whose turn it is, with [`BALANCE_ROUND_ROBIN`].
    pub turn: u32,
    /// 1: such a flow is one over IPv6.
    pub is_v6: u32,
    /// In neighbour discovery: units of eight bytes until the next option begins.
    pub rest: u32,
    /// A closed flow's NAT port that a new flow may have; 0: none yet.
    pub closed_port: u32,
    /// How many seconds that one has been silent for.
    pub closed_for: u32,
}

/// Where the search for the backend with the fewest connections stands. In a map rather than in registers: the verifier would
/// follow the rest of the search once for each way to a number.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// Connections of the backend that is looked at, handshakes included.
    pub connections: u64,
    /// The places that are taken there.
    pub taken: u64,
    /// The connections of the best one so far.
    pub best_connections: u64,
    /// Its weight.
    pub best_weight: u64,
    /// Its id and one; 0: none yet.
    pub best: u32,
    /// 1: that has its share.
    pub best_is_beyond: u32,
    /// 1: the one that is looked at has its share.
    pub is_beyond: u32,
    /// Which of the service's members is looked at next.
    pub place: u32,
    /// How many members there are.
    pub count: u32,
    /// Zero.
    pub _pad: u32,
}

/// [`Scratch::flags`]: a fragment other than the first: there is no TCP header.
pub const SCRATCH_LATER_FRAGMENT: u32 = 0x100;

/// [`Scratch::answer`]: a RST, since no backend is up.
pub const ANSWER_RESET_NO_BACKEND: u32 = 1;
/// [`Scratch::answer`]: a RST, since the flow is not known.
pub const ANSWER_RESET_UNKNOWN_FLOW: u32 = 2;
/// [`Scratch::answer`]: a RST, since every backend has all the connections that it may have.
pub const ANSWER_RESET_ALL_FULL: u32 = 3;
/// [`Scratch::answer`]: an ICMP error: time exceeded.
pub const ANSWER_TIME_EXCEEDED: u32 = 4;
/// [`Scratch::answer`]: an ICMP error: fragmentation needed, packet too big.
pub const ANSWER_TOO_BIG: u32 = 5;
/// [`Scratch::answer`]: a RST, since the controller has ended the flow.
pub const ANSWER_RESET_SEVERED: u32 = 6;
/// [`Scratch::answer`]: nothing; another node knows what to do with it.
pub const ANSWER_BY_OTHER_NODE: u32 = 7;

/// Value of `LOCAL`, one entry: what the hooks for clients on this node go by.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalEntry {
    /// The kernel's number (`SO_NETNS_COOKIE`) of the daemon's network namespace.
    pub namespace: u64,
    /// One of [`LOCAL_HOST`], [`LOCAL_ALL`]; 0: nobody's connects are redirected.
    pub scope: u32,
    /// `LOCAL_` bits.
    pub flags: u32,
}

/// [`LocalEntry::scope`]: sockets of the daemon's own network namespace are redirected.
pub const LOCAL_HOST: u32 = 1;
/// [`LocalEntry::scope`]: sockets of every network namespace are.
pub const LOCAL_ALL: u32 = 2;
/// [`LocalEntry::flags`]: a VIP of ours is an address of this host: whoever connects to it meets the host.
pub const LOCAL_HOLDS_VIP: u32 = 1;

/// Value of `LOCAL_PEERS`, keyed by the socket's cookie: what a redirected socket asked for, and what it got.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalPeer {
    /// The VIP, in its wide form.
    pub vip: Be128,
    /// The backend's address, in its wide form.
    pub backend: Be128,
    /// The port that it connected to.
    pub vip_port: Be16,
    /// The backend's port.
    pub backend_port: Be16,
    /// Zero.
    pub _pad: [u8; 4],
}

/// Value of `LOCAL_COUNTERS`, by `ServiceEntry::index`: what became of the connects of clients on this node.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalCounters {
    /// Sent to a backend.
    pub redirected: u64,
    /// Left as they were: no backend could be chosen.
    pub no_backend: u64,
    /// Left as they were: the controller has been dead for long, and another node has the VIP.
    pub stale: u64,
    /// Left as they were: the client is in another network namespace.
    pub other_namespace: u64,
}

const _: () = {
    assert!(size_of::<Hop>() == 32 && align_of::<Hop>() == 8);
    assert!(size_of::<NodeEntry>() == 8 * VIP_FILTER_WORDS + 8 * VLAN_WORDS + 8 + 32 + 16 + 64 + 16 + 24);
    assert!(size_of::<PulseEntry>() == 16);
    assert!(size_of::<VipEntry>() == 32);
    assert!(size_of::<AdvertKey>() == 24);
    assert!(size_of::<AdvertEntry>() == 24);
    assert!(size_of::<ClaimEntry>() == 24);
    assert!(size_of::<ServiceKey>() == 24);
    assert!(size_of::<ServiceEntry>() == 40);
    assert!(size_of::<Members>() == 4 + 2 * MAX_MEMBERS);
    assert!(size_of::<BackendEntry>() == 72);
    assert!(size_of::<Load>() == 40);
    assert!(size_of::<BackendCounters>() == 128);
    assert!(size_of::<FlowKey<Be32>>() == 12);
    assert!(size_of::<FlowKey<Be128>>() == 36);
    assert!(size_of::<Seen>() == 32);
    // Nothing but what is named.
    assert!(size_of::<FlowEntry<Be32>>() == 12 + 2 * 2 + 32 + 2 + 2 + 3 * 4 + 32);
    assert!(size_of::<FlowEntry<Be128>>() == 36 + 2 * 2 + 32 + 2 + 2 + 3 * 4 + 32);
    assert!(size_of::<FlowEntry<Be32>>() == 96 && align_of::<FlowEntry<Be32>>() == 8);
    assert!(size_of::<FlowEntry<Be128>>() == 120 && align_of::<FlowEntry<Be128>>() == 8);
    assert!(size_of::<CacheLine<Be32>>() == 64 && align_of::<CacheLine<Be32>>() == 8);
    assert!(
        size_of::<CacheLine<Be128>>() == 2 * (36 + 2) + 4 + 8 + 8 + 4 * 4
            && align_of::<CacheLine<Be128>>() == 8
    );
    assert!(size_of::<FlowEvent>() == 40);
    assert!(size_of::<FragmentKey>() == 40);
    assert!(size_of::<FragmentEntry>() == 8);
    assert!(size_of::<SourceKey>() == 24);
    assert!(size_of::<SourceEntry>() == 16);
    assert!(size_of::<AllowedKey>() == 20);
    assert!(size_of::<Search>() == 56);
    assert!(size_of::<Scratch>() == 184);
    assert!(size_of::<LocalEntry>() == 16);
    assert!(size_of::<LocalPeer>() == 40);
    assert!(size_of::<LocalCounters>() == 32);
    assert!(VIP_FILTER_WORDS * 64 == 1 << 12);
    assert!(VLAN_WORDS * 64 == 1 << 12);
};

#[cfg(feature = "user")]
mod pod {
    use super::{
        AdvertEntry, AdvertKey, AllowedKey, BackendCounters, BackendEntry, ClaimEntry, FlowEntry, FlowEvent,
        FlowKey, FragmentEntry, FragmentKey, Load, LocalCounters, LocalEntry, LocalPeer, Members, NodeEntry,
        PulseEntry, Removed, Scratch, ServiceEntry, ServiceKey, SourceEntry, SourceKey, VipEntry,
    };
    use crate::wire::{Be32, Be128};

    macro_rules! pod {
        ($($name:ty),+ $(,)?) => {$(
            // SAFETY: `repr(C)`, integers and byte arrays only, every padding byte is a named field (asserted by the
            // sizes above).
            unsafe impl aya::Pod for $name {}
        )+};
    }

    pod!(
        AdvertEntry,
        AdvertKey,
        AllowedKey,
        BackendCounters,
        BackendEntry,
        ClaimEntry,
        FlowEntry<Be32>,
        FlowEntry<Be128>,
        FlowEvent,
        FlowKey<Be32>,
        FlowKey<Be128>,
        FragmentEntry,
        FragmentKey,
        Load,
        LocalCounters,
        LocalEntry,
        LocalPeer,
        Members,
        NodeEntry,
        PulseEntry,
        Removed,
        Scratch,
        ServiceEntry,
        ServiceKey,
        SourceEntry,
        SourceKey,
        VipEntry,
    );
}

#[cfg(test)]
mod tests;
