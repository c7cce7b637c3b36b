//! Fragments: only the first has ports; the others follow it.

use super::Family;
use crate::{
    layout::{FlowKey, FragmentEntry, FragmentKey, SCRATCH_LATER_FRAGMENT, Scratch},
    tables::{Slot, Tables},
    wire::TCP_ACK,
};

/// What came first is forgotten after so many seconds of the flow clock: what Linux waits for the rest of a packet
/// (`net.ipv4.ipfrag_time`).
const FORGET_AFTER: u32 = 30;

/// Which part of a packet this is.
#[derive(Clone, Copy, Debug)]
pub struct Fragment {
    /// Where it begins, in units of 8 bytes.
    pub offset: u16,
    /// Whether others follow.
    pub more: bool,
    /// What all of them have in common.
    pub id: u32,
}

impl Fragment {
    /// Whether it is not the whole packet.
    #[inline(always)]
    pub const fn is_part(&self) -> bool {
        self.offset != 0 || self.more
    }

    /// The key that its first fragment is remembered by.
    #[inline(always)]
    pub fn key<A: Family>(&self, source: A, destination: A) -> FragmentKey {
        FragmentKey { src: source.wide(), dst: destination.wide(), id: self.id, _pad: 0 }
    }
}

/// Remembers the ports of a first fragment.
#[inline(always)]
pub fn remember<A: Family, T: Tables>(tables: &T, key: &FragmentKey, flow: &FlowKey<A>, clock: u32) {
    let entry = FragmentEntry { src_port: flow.src_port, dst_port: flow.dst_port, at: clock };
    tables.remember_fragment(key, &entry);
}

/// The ports of the first fragment, if it has come.
#[inline(always)]
pub fn recall<T: Tables>(tables: &T, key: &FragmentKey, clock: u32) -> Option<FragmentEntry> {
    tables.fragment(key).filter(|first| clock.wrapping_sub(first.at) <= FORGET_AFTER)
}

/// Leaves a fragment other than the first to the next stage, as if it were plain data.
#[inline(always)]
pub fn leave_later(scratch: Slot<Scratch>, l3: usize, l4: usize, total_len: usize, ports: FragmentEntry) {
    scratch.update(|scratch| {
        scratch.l3 = l3 as u32;
        scratch.l4 = l4 as u32;
        scratch.payload = (total_len + l3).saturating_sub(l4) as u32;
        scratch.flags = u32::from(TCP_ACK) | SCRATCH_LATER_FRAGMENT;
        scratch.ports = ports;
    });
}
