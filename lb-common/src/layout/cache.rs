//! The cache of flows: a copy of what the packets of a busy flow need, in as few cache lines of memory as it takes.

use super::{BackendId, FlowKey, MacWord};
use crate::{checksum::Delta, family::Address, wire::Be16};

/// Lines of a [`CacheSet`].
pub const CACHE_WAYS: usize = 4;
/// Entries of the `STAMPS` map: a power of two.
pub const STAMPS: u32 = 65_536;

/// One direction of an established flow, as its packets need it, and what they have left to be written down in the flow's
/// entry. Only the CPU that it belongs to writes here.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLine<A> {
    /// Of the packets.
    pub key: FlowKey<A>,
    /// As in the flow's entry.
    pub rewritten: FlowKey<A>,
    /// As in the flow's entry.
    pub ip_delta: Delta,
    /// As in the flow's entry.
    pub tcp_delta: Delta,
    /// The flow's stamp, from before the entry was read. Another one there: the entry has changed since.
    pub stamp: u32,
    /// The client's Ethernet address, or its router's.
    pub client: MacWord,
    /// Bytes that the entry has not been told of, IP headers included.
    pub bytes: u64,
    /// Packets likewise.
    pub packets: u32,
    /// The sequence number that follows the last of these (host byte order).
    pub next_seq: u32,
    /// The last acknowledgement number of these (host byte order).
    pub ack: u32,
    /// The flow's backend.
    pub backend: BackendId,
    /// One of the `MODE_` constants; [`CACHE_TO_CLIENT`] besides.
    pub how: u8,
    /// Which of the node's interfaces the client is reached by: a place in `NodeEntry::if_indices`.
    pub link: u8,
}

/// [`CacheLine::how`]: packets of the backend.
pub const CACHE_TO_CLIENT: u8 = 0x80;

impl<A: Address> CacheLine<A> {
    /// Nobody's.
    pub const EMPTY: Self = {
        let nobody = FlowKey::new(A::ZERO, Be16::new(0), A::ZERO, Be16::new(0));
        Self {
            key: nobody,
            rewritten: nobody,
            ip_delta: Delta::NONE,
            tcp_delta: Delta::NONE,
            stamp: 0,
            client: MacWord::ZERO,
            bytes: 0,
            packets: 0,
            next_seq: 0,
            ack: 0,
            backend: 0,
            how: 0,
            link: 0,
        }
    };
}

/// Value of `CACHE4/6`: the lines that flows of one hash can have.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSet<A> {
    /// In no order.
    pub ways: [CacheLine<A>; CACHE_WAYS],
}

impl<A: Address> CacheSet<A> {
    /// Of nobody.
    pub const EMPTY: Self = Self { ways: [CacheLine::EMPTY; CACHE_WAYS] };
}
