//! The node itself: what does not change from packet to packet.

use super::{MAX_LINKS, MacWord, VIP_FILTER_WORDS, VIRTUAL_ROUTER_WORDS, VLAN_WORDS};
use crate::{
    family::Address,
    wire::{Be32, Be128, Mac},
};

/// Value of `NODE`, one entry: what does not change from packet to packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeEntry {
    /// One bit per hash of a VIP, or of an address of the node's own that the data plane gets packets for (tunnel errors,
    /// replies with `snat = "node"`): most packets that are neither are recognised by a bit that is not set.
    pub vip_filter: [u64; VIP_FILTER_WORDS],
    /// One bit per VLAN id whose frames may be for us: all of them, unless the interface is a VLAN sub-interface.
    pub vlans: [u64; VLAN_WORDS],
    /// How old the heartbeat may be before ARP for a fenced VIP is silenced, in nanoseconds.
    pub lease_ns: u64,
    /// The interfaces' own addresses, unused ones zero: frames to any other are not for us, but for those of
    /// [`NodeEntry::virtual_routers`].
    pub macs: [MacWord; MAX_LINKS],
    /// Which interface each of `macs` is of: the index of the one that XDP is attached to.
    pub if_indices: [u32; MAX_LINKS],
    /// One bit per virtual router whose addresses we hold and whose Ethernet address (RFC 9568 §7.3) we have taken.
    pub virtual_routers: [u64; VIRTUAL_ROUTER_WORDS],
    /// The node's own IPv6 address, zero if it has none: outer source of tunnelled packets, source of ICMPv6 errors.
    pub v6: Be128,
    /// The node's own IPv4 address, likewise.
    pub v4: Be32,
    /// 1: untagged frames may be for us.
    pub untagged: u32,
    /// An established flow is forgotten after that many ticks of the flow clock without a packet.
    pub idle_timeout: u32,
    /// A half-open flow likewise.
    pub half_open_timeout: u32,
    /// `NODE_` bits.
    pub flags: u32,
    /// Sets of the cache of flows that each CPU uses: a power of two; 0: there is no cache.
    pub cache_sets: u32,
}

/// [`NodeEntry::flags`]: what begins and ends is told ([`FlowEvent`]).
pub const NODE_TELLS_FLOWS: u32 = 1;
/// [`NodeEntry::flags`]: everything passes; what would have become of it is counted.
pub const NODE_OBSERVES: u32 = 2;
/// [`NodeEntry::flags`]: the programs of a former layout are still there, and know flows that these maps do not.
pub const NODE_HAS_FORMER: u32 = 4;

/// [`NodeEntry::cache_sets`], before it is written: as many as there are.
pub const ALL_SETS: u32 = u32::MAX;

impl NodeEntry {
    /// Nothing is a VIP, nothing expires, nothing is fenced.
    pub const EMPTY: Self = Self {
        vip_filter: [0; VIP_FILTER_WORDS],
        vlans: [0; VLAN_WORDS],
        lease_ns: u64::MAX,
        macs: [MacWord::ZERO; MAX_LINKS],
        if_indices: [0; MAX_LINKS],
        virtual_routers: [0; VIRTUAL_ROUTER_WORDS],
        v6: Be128::from_octets([0; 16]),
        v4: Be32::new(0),
        untagged: 1,
        idle_timeout: u32::MAX,
        half_open_timeout: u32::MAX,
        flags: 0,
        cache_sets: 0,
    };

    /// Whether `address` may be a VIP. No false negative.
    #[inline(always)]
    pub fn may_be_vip<A: Address>(&self, address: A) -> bool {
        let bit = vip_bit(address);
        self.vip_filter[(bit >> 6) as usize] & (1 << (bit & 63)) != 0
    }

    /// Sets the bit of a VIP, or of an own address.
    pub fn add_vip<A: Address>(&mut self, address: A) {
        let bit = vip_bit(address);
        self.vip_filter[(bit >> 6) as usize] |= 1 << (bit & 63);
    }

    /// Whether frames with this VLAN id may be for us.
    #[inline(always)]
    pub const fn takes_vlan(&self, vlan: u16) -> bool {
        self.vlans[(vlan >> 6) as usize & (VLAN_WORDS - 1)] & (1 << (vlan & 63)) != 0
    }

    /// Lets frames with this VLAN id in.
    pub const fn add_vlan(&mut self, vlan: u16) {
        self.vlans[(vlan >> 6) as usize & (VLAN_WORDS - 1)] |= 1 << (vlan & 63);
    }

    /// Whether a frame to this Ethernet address is for one of our interfaces.
    #[inline(always)]
    pub fn is_own_mac(&self, mac: MacWord) -> bool {
        let [first, second, third, fourth] = self.macs;
        // Unused ones are zero, and no interface's.
        mac != MacWord::ZERO && (mac == first || mac == second || mac == third || mac == fourth)
    }

    /// The own Ethernet address of the interface that XDP is attached to under this index.
    #[inline(always)]
    pub fn mac_of(&self, if_index: u32) -> Option<MacWord> {
        let place = self.place_of(if_index)?;
        Some(self.macs[place]).filter(|&mac| mac != MacWord::ZERO)
    }

    /// The place of an interface in [`NodeEntry::if_indices`], and in [`NodeEntry::macs`].
    #[inline(always)]
    pub fn place_of(&self, if_index: u32) -> Option<usize> {
        let [first, second, third, fourth] = self.if_indices;
        match if_index {
            0 => None,
            index if index == first => Some(0),
            index if index == second => Some(1),
            index if index == third => Some(2),
            index if index == fourth => Some(3),
            _ => None,
        }
    }

    /// Whether it is the Ethernet address of a virtual router whose addresses we hold.
    #[inline(always)]
    pub fn is_virtual_mac(&self, mac: MacWord) -> bool {
        let Some((family @ (1 | 2), vrid)) = mac.behind([0x00, 0x00, 0x5e, 0x00]) else { return false };
        let bit = virtual_router_bit(family == 2, vrid);
        self.virtual_routers[bit >> 6] & (1 << (bit & 63)) != 0
    }

    /// Takes a virtual router's Ethernet address.
    pub const fn add_virtual_router(&mut self, is_v6: bool, vrid: u8) {
        let bit = virtual_router_bit(is_v6, vrid);
        self.virtual_routers[bit >> 6] |= 1 << (bit & 63);
    }
}

/// Which bit of [`NodeEntry::virtual_routers`] a virtual router has.
#[inline(always)]
const fn virtual_router_bit(is_v6: bool, vrid: u8) -> usize {
    (is_v6 as usize) << 8 | vrid as usize
}

/// The Ethernet address of a virtual router, 00:00:5e:00:01:VRID or, for IPv6, 00:00:5e:00:02:VRID (RFC 9568 §7.3).
#[inline(always)]
pub const fn virtual_mac(is_v6: bool, vrid: u8) -> Mac {
    [0x00, 0x00, 0x5e, 0x00, if is_v6 { 2 } else { 1 }, vrid]
}

/// Which bit of the filter an address has: the top 12 bits of a multiplicative hash (Knuth, TAOCP 3, §6.4).
#[inline(always)]
fn vip_bit<A: Address>(address: A) -> u32 {
    let word = if A::IS_V6 {
        let [a, b, c, d] = address.wide().words();
        a.get() ^ b.get().rotate_left(8) ^ c.get().rotate_left(16) ^ d.get()
    } else {
        address.wide().low().get()
    };
    word.wrapping_mul(0x9e37_79b1) >> 20
}
