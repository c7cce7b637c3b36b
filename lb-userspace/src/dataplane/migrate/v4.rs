//! Layout 4, of the first release: what has been changed since, as it was.
//!
//! What is not here is the same today, and read by today's types; the sizes below tell whoever changes one of those to freeze
//! its old form here first. Nothing in this file may ever change.

use lb_common::{
    checksum::Delta,
    layout::{self, Hop, Load, MacWord, Removed, Seen, ServiceEntry, ServiceKey},
    wire::{Be16, Be32, Be128},
};

/// Its number.
pub const VERSION: u32 = 4;
/// Entries of `BACKENDS` and of what is kept of each backend.
pub const MAX_BACKENDS: u32 = 4096;

/// `NODE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeEntry {
    vip_filter: [u64; 64],
    vlans: [u64; 64],
    lease_ns: u64,
    macs: [MacWord; 4],
    if_indices: [u32; 4],
    virtual_routers: [u64; 8],
    v6: Be128,
    v4: Be32,
    untagged: u32,
    idle_timeout: u32,
    half_open_timeout: u32,
}

impl From<NodeEntry> for layout::NodeEntry {
    fn from(node: NodeEntry) -> Self {
        Self {
            vip_filter: node.vip_filter,
            vlans: node.vlans,
            lease_ns: node.lease_ns,
            macs: node.macs,
            if_indices: node.if_indices,
            virtual_routers: node.virtual_routers,
            v6: node.v6,
            v4: node.v4,
            untagged: node.untagged,
            idle_timeout: node.idle_timeout,
            half_open_timeout: node.half_open_timeout,
            ..Self::EMPTY
        }
    }
}

/// Value of `VIPS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VipEntry {
    /// See [`layout::VipEntry`].
    pub fenced: u32,
    if_index: u32,
    virtual_mac: MacWord,
}

impl From<VipEntry> for layout::VipEntry {
    fn from(vip: VipEntry) -> Self {
        Self { if_index: vip.if_index, virtual_mac: vip.virtual_mac, ..Self::new(vip.fenced != 0) }
    }
}

/// Value of `BACKENDS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendEntry {
    address: Be128,
    hop: Hop,
    mtu: u32,
    max_connections: u32,
    weight: u16,
    port: Be16,
    local: u32,
}

impl From<BackendEntry> for layout::BackendEntry {
    fn from(backend: BackendEntry) -> Self {
        Self {
            address: backend.address,
            hop: backend.hop,
            mtu: backend.mtu,
            max_connections: backend.max_connections,
            weight: backend.weight,
            port: backend.port,
            local: backend.local,
            ..Self::default()
        }
    }
}

/// Value of `BACKEND_COUNTERS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendCounters {
    opened: u64,
    established: u64,
    ports_exhausted: u64,
    unresolved: u64,
    refused: u64,
    unanswered: u64,
    full: u64,
    removed: Removed,
}

impl From<BackendCounters> for layout::BackendCounters {
    fn from(counters: BackendCounters) -> Self {
        Self {
            opened: counters.opened,
            established: counters.established,
            ports_exhausted: counters.ports_exhausted,
            unresolved: counters.unresolved,
            refused: counters.refused,
            unanswered: counters.unanswered,
            full: counters.full,
            removed: counters.removed,
            ..Self::default()
        }
    }
}

/// Key of the flow tables, one word longer than it needed to be.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKey<A> {
    src: A,
    dst: A,
    src_port: Be16,
    dst_port: Be16,
    _pad: [u8; 4],
}

impl<A> From<FlowKey<A>> for layout::FlowKey<A> {
    fn from(key: FlowKey<A>) -> Self {
        Self { src: key.src, dst: key.dst, src_port: key.src_port, dst_port: key.dst_port }
    }
}

/// Value of the flow tables.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEntry<A> {
    rewritten: FlowKey<A>,
    client: Hop,
    ip_delta: Delta,
    tcp_delta: Delta,
    backend: layout::BackendId,
    direction: u8,
    mode: u8,
    opened: u32,
    attempt: u32,
    /// See [`layout::FlowEntry`].
    pub seen: Seen,
}

impl<A> From<FlowEntry<A>> for layout::FlowEntry<A> {
    fn from(entry: FlowEntry<A>) -> Self {
        Self {
            rewritten: entry.rewritten.into(),
            ip_delta: entry.ip_delta,
            tcp_delta: entry.tcp_delta,
            client: entry.client,
            backend: entry.backend,
            direction: entry.direction,
            mode: entry.mode,
            opened: entry.opened,
            attempt: entry.attempt,
            _pad: 0,
            seen: entry.seen,
        }
    }
}

const _: () = {
    assert!(size_of::<NodeEntry>() == 8 * 64 + 8 * 64 + 8 + 32 + 16 + 64 + 16 + 16);
    assert!(size_of::<VipEntry>() == 16);
    assert!(size_of::<BackendEntry>() == 64);
    assert!(size_of::<BackendCounters>() == 112);
    assert!(size_of::<FlowKey<Be32>>() == 16 && size_of::<FlowEntry<Be32>>() == 96);
    assert!(size_of::<FlowKey<Be128>>() == 40 && size_of::<FlowEntry<Be128>>() == 120);
    // Unchanged since.
    assert!(size_of::<Hop>() == 32 && size_of::<Seen>() == 32);
    assert!(size_of::<ServiceKey>() == 24 && size_of::<ServiceEntry>() == 40);
    assert!(size_of::<Load>() == 40 && size_of::<Removed>() == 56);
    assert!(size_of::<layout::Members>() == 4 + 2 * 256 && size_of::<layout::PulseEntry>() == 16);
    assert!(size_of::<layout::LocalEntry>() == 16 && size_of::<layout::LocalPeer>() == 40);
    assert!(size_of::<layout::SourceKey>() == 24 && size_of::<layout::SourceEntry>() == 16);
    assert!(size_of::<layout::FragmentKey>() == 40 && size_of::<layout::FragmentEntry>() == 8);
    assert!(size_of::<layout::AllowedKey>() == 20);
    assert!(size_of::<layout::AdvertKey>() == 24 && size_of::<layout::AdvertEntry>() == 24);
    assert!(size_of::<layout::ClaimEntry>() == 24);
};

macro_rules! pod {
    ($($name:ty),+ $(,)?) => {$(
        // SAFETY: `repr(C)`, integers and arrays of them only, no padding (asserted by the sizes above).
        unsafe impl aya::Pod for $name {}
    )+};
}

pod!(
    NodeEntry,
    VipEntry,
    BackendEntry,
    BackendCounters,
    FlowKey<Be32>,
    FlowKey<Be128>,
    FlowEntry<Be32>,
    FlowEntry<Be128>,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_the_same_flow() {
        let key = |n: u8| FlowKey {
            src: Be32::from_octets([10, 0, 0, n]),
            dst: Be32::from_octets([172, 16, 0, n]),
            src_port: Be16::new(40_000 + u16::from(n)),
            dst_port: Be16::new(6443),
            _pad: [0; 4],
        };
        let seen = Seen { packets: 7, bytes: 700, next_seq: 8, ack: 9, flags: 1, at: 10 };
        let hop = Hop { mac: MacWord::new([2, 0, 0, 0, 0, 7]), if_index: 3, ..Hop::NONE };
        let old = FlowEntry {
            rewritten: key(2),
            client: hop,
            ip_delta: Delta::new(lb_common::checksum::Sum::ZERO.word(11)),
            tcp_delta: Delta::new(lb_common::checksum::Sum::ZERO.word(12)),
            backend: 13,
            direction: 1,
            mode: 2,
            opened: 14,
            attempt: 15,
            seen,
        };
        let new = layout::FlowEntry::from(old);
        let own = |key: FlowKey<Be32>| layout::FlowKey::new(key.src, key.src_port, key.dst, key.dst_port);
        assert_eq!((new.rewritten, new.client, new.seen), (own(key(2)), hop, seen));
        assert_eq!((new.ip_delta, new.tcp_delta), (old.ip_delta, old.tcp_delta));
        assert_eq!((new.backend, new.direction, new.mode, new.opened, new.attempt), (13, 1, 2, 14, 15));
    }

    #[test]
    fn nothing_is_lost_and_what_is_new_is_off() {
        let hop = Hop { mac: MacWord::new([2, 0, 0, 0, 0, 7]), if_index: 3, ..Hop::NONE };
        let old = BackendEntry {
            address: Be128::from(std::net::IpAddr::from([172, 16, 0, 4])),
            hop,
            mtu: 1480,
            max_connections: 9,
            weight: 2,
            port: Be16::new(6443),
            local: 1,
        };
        let new = layout::BackendEntry::from(old);
        assert_eq!((new.address, new.hop, new.mtu, new.max_connections), (old.address, hop, 1480, 9));
        assert_eq!((new.weight, new.port.get(), new.local), (2, 6443, 1));
        assert_eq!((new.share, new.new_per_tick), (0, 0));

        let vip = layout::VipEntry::from(VipEntry { fenced: 1, if_index: 3, virtual_mac: hop.mac });
        assert_eq!((vip.fenced, vip.if_index, vip.virtual_mac, vip.inherited), (1, 3, hop.mac, 0));

        let mut node = layout::NodeEntry { lease_ns: 600, idle_timeout: 7, ..layout::NodeEntry::EMPTY };
        node.add_vip(Be32::new(0xac10_000a));
        let old = NodeEntry {
            vip_filter: node.vip_filter,
            vlans: node.vlans,
            lease_ns: node.lease_ns,
            macs: node.macs,
            if_indices: node.if_indices,
            virtual_routers: node.virtual_routers,
            v6: node.v6,
            v4: node.v4,
            untagged: node.untagged,
            idle_timeout: node.idle_timeout,
            half_open_timeout: node.half_open_timeout,
        };
        assert_eq!(layout::NodeEntry::from(old), node);

        let counted = BackendCounters { opened: 5, full: 3, ..BackendCounters::default() };
        let counted = layout::BackendCounters::from(counted);
        assert_eq!((counted.opened, counted.full, counted.answered, counted.broken), (5, 3, 0, 0));
    }
}
