//! The ABI of the maps: keys and values as they lie in kernel memory.
//!
//! Integers and byte arrays only, padding spelled out and zero, sizes asserted. Addresses and ports are in network
//! byte order ([`Be32`], [`Be16`]), everything else in the machine's own. [`LAYOUT_VERSION`] changes with any change
//! here: objects pinned under another version are not adopted.

use crate::{
    checksum::Delta,
    hash::MAGLEV_SLOTS,
    wire::{Be16, Be32, Mac},
};

/// Part of the path that maps are pinned under.
pub const LAYOUT_VERSION: u32 = 2;

/// How many services a node can have; the size of the outer array of Maglev tables.
pub const MAX_SERVICES: u32 = 256;
/// How many backends a node can have, those that are draining included.
pub const MAX_BACKENDS: u32 = 4096;
/// Words of [`NodeEntry::vip_filter`].
pub const VIP_FILTER_WORDS: usize = 64;

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
        let [a, b, c, d, e, f] = mac;
        Self(u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]))
    }

    /// The bytes on the wire.
    #[inline(always)]
    pub const fn octets(self) -> Mac {
        let [a, b, c, d, e, f, ..] = self.0.to_ne_bytes();
        [a, b, c, d, e, f]
    }
}

/// Value of `NODE`, one entry: what does not change from packet to packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeEntry {
    /// One bit per hash of a VIP: most packets that are not for a VIP are recognised by a bit that is not set.
    pub vip_filter: [u64; VIP_FILTER_WORDS],
    /// How old the heartbeat may be before ARP for a fenced VIP is silenced, in nanoseconds.
    pub lease_ns: u64,
    /// An established flow is forgotten after that many ticks of the flow clock without a packet.
    pub idle_timeout: u32,
    /// A half-open flow likewise.
    pub half_open_timeout: u32,
    /// The interface's own address: frames to any other are not for us.
    pub mac: MacWord,
}

impl NodeEntry {
    /// Nothing is a VIP, nothing expires, nothing is fenced.
    pub const EMPTY: Self = Self {
        vip_filter: [0; VIP_FILTER_WORDS],
        lease_ns: u64::MAX,
        idle_timeout: u32::MAX,
        half_open_timeout: u32::MAX,
        mac: MacWord::ZERO,
    };

    /// Whether `address` may be a VIP. No false negative.
    #[inline(always)]
    pub const fn may_be_vip(&self, address: Be32) -> bool {
        let bit = vip_bit(address);
        self.vip_filter[(bit >> 6) as usize] & (1 << (bit & 63)) != 0
    }

    /// Sets the bit of a VIP.
    pub const fn add_vip(&mut self, address: Be32) {
        let bit = vip_bit(address);
        self.vip_filter[(bit >> 6) as usize] |= 1 << (bit & 63);
    }
}

/// Which bit of the filter an address has: the top 12 bits of a multiplicative hash (Knuth, TAOCP 3, §6.4).
#[inline(always)]
const fn vip_bit(address: Be32) -> u32 {
    address.get().wrapping_mul(0x9e37_79b1) >> 20
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

/// Value of `VIPS`, keyed by the address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VipEntry {
    /// 1: ARP for it is silenced when the heartbeat is stale, since another node may own it by then.
    pub fenced: u32,
}

/// Key of `SERVICES`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// The VIP.
    pub vip: Be32,
    /// The service port.
    pub port: Be16,
    /// Zero.
    pub _pad: [u8; 2],
}

impl ServiceKey {
    /// The key of a TCP service.
    #[inline(always)]
    pub const fn new(vip: Be32, port: Be16) -> Self {
        Self { vip, port, _pad: [0; 2] }
    }
}

/// Value of `SERVICES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceEntry {
    /// Index of its Maglev table in `RINGS`.
    pub ring: u32,
    /// Backends in that table. 0: there is none to choose, and new connections get a RST.
    pub usable: u32,
}

/// Value of `BACKENDS`, indexed by [`BackendId`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendEntry {
    /// Its address; 0.0.0.0 marks an unused index.
    pub address: Be32,
    /// Its port.
    pub port: Be16,
    /// Zero.
    pub _pad: [u8; 2],
    /// Where frames for it go: its own address, or its router's. Zero while unresolved.
    pub mac: MacWord,
}

impl BackendEntry {
    /// Whether the next hop is known.
    #[inline(always)]
    pub fn is_resolved(&self) -> bool {
        self.mac != MacWord::ZERO
    }
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
}

/// Key of `HALF_OPEN` and `ESTABLISHED`: the packet's own addresses and ports. A flow has two: as the client's
/// packets have it, and as the backend's have it.
///
/// Aligned for the widest store: on the stack the verifier takes no unaligned ones. TCP is the only protocol; what
/// would hold another is padding today.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey {
    /// Source address.
    pub src: Be32,
    /// Destination address.
    pub dst: Be32,
    /// Source port.
    pub src_port: Be16,
    /// Destination port.
    pub dst_port: Be16,
    /// Zero.
    pub _pad: [u8; 4],
}

impl FlowKey {
    /// The key of a packet.
    #[inline(always)]
    pub const fn new(src: Be32, src_port: Be16, dst: Be32, dst_port: Be16) -> Self {
        Self { src, dst, src_port, dst_port, _pad: [0; 4] }
    }

    /// The same addresses and ports from the other end.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self::new(self.dst, self.dst_port, self.src, self.src_port)
    }
}

/// Value of `HALF_OPEN` and `ESTABLISHED`: one direction of a flow, all that a packet needs in one look-up.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEntry {
    /// What the packet's addresses and ports become. Reversed, it is the key of the other direction.
    pub rewritten: FlowKey,
    /// What that adds to the sum of the IPv4 header, one hop less included.
    pub ip_delta: Delta,
    /// What that adds to the sum of the TCP segment.
    pub tcp_delta: Delta,
    /// The Ethernet address that the client's packets come from, and that replies go to.
    pub client_mac: MacWord,
    /// The flow's backend.
    pub backend: BackendId,
    /// [`TO_BACKEND`] or [`TO_CLIENT`].
    pub direction: u8,
    /// How many backends did not answer this flow's SYN, modulo 256. Kept in the client's direction.
    pub attempt: u8,
    /// When the flow was opened, on the flow clock.
    pub opened: u32,
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
}

/// [`Seen::flags`]: a SYN, or a SYN-ACK.
pub const SEEN_SYN: u32 = 1;
/// [`Seen::flags`]: a FIN.
pub const SEEN_FIN: u32 = 2;
/// [`Seen::flags`]: a RST, and nothing after it.
pub const SEEN_RST: u32 = 4;

const _: () = {
    assert!(size_of::<NodeEntry>() == 8 * VIP_FILTER_WORDS + 24);
    assert!(size_of::<PulseEntry>() == 16);
    assert!(size_of::<VipEntry>() == 4);
    assert!(size_of::<ServiceKey>() == 8);
    assert!(size_of::<ServiceEntry>() == 8);
    assert!(size_of::<BackendEntry>() == 16);
    assert!(size_of::<BackendCounters>() == 48);
    assert!(size_of::<FlowKey>() == 16);
    assert!(size_of::<Seen>() == 32);
    assert!(size_of::<FlowEntry>() == 72 && align_of::<FlowEntry>() == 8);
    assert!(VIP_FILTER_WORDS * 64 == 1 << 12);
};

#[cfg(feature = "user")]
mod pod {
    use super::{
        BackendCounters, BackendEntry, FlowEntry, FlowKey, NodeEntry, PulseEntry, ServiceEntry, ServiceKey,
        VipEntry,
    };

    // SAFETY: `repr(C)`, integers and byte arrays only, every padding byte is a named field (asserted by the sizes).
    unsafe impl aya::Pod for NodeEntry {}
    // SAFETY: as above.
    unsafe impl aya::Pod for PulseEntry {}
    // SAFETY: as above.
    unsafe impl aya::Pod for VipEntry {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ServiceKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ServiceEntry {}
    // SAFETY: as above.
    unsafe impl aya::Pod for BackendEntry {}
    // SAFETY: as above.
    unsafe impl aya::Pod for BackendCounters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for FlowKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for FlowEntry {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_knows_every_vip_and_few_others() {
        let mut node = NodeEntry::EMPTY;
        let vips = [0xac10_000a, 0xac10_000b, 0x0a00_0001].map(Be32::new);
        vips.iter().for_each(|&vip| node.add_vip(vip));
        assert!(vips.iter().all(|&vip| node.may_be_vip(vip)));
        // The neighbours of a VIP in its /24 are the traffic that the filter is for.
        let false_hits = (0xac10_0000..0xac10_0100).filter(|&a| node.may_be_vip(Be32::new(a))).count();
        assert!(false_hits <= 4, "{false_hits}");
    }

    #[test]
    fn silence_is_never_negative_and_survives_the_clocks_wrap() {
        for (at, clock, silence) in
            [(100, 100, 0), (100, 160, 60), (u32::MAX - 1, 5, 7), (100, 99, 0), (5, u32::MAX, 0)]
        {
            assert_eq!(Seen { at, ..Seen::default() }.silence(clock), silence, "{at} {clock}");
        }
    }

    #[test]
    fn reversing_twice_changes_nothing() {
        let key = FlowKey::new(Be32::new(1), Be16::new(2), Be32::new(3), Be16::new(4));
        assert_eq!(key.reversed().reversed(), key);
        assert_ne!(key.reversed(), key);
    }
}
