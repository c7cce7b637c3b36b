//! IP in IP: IPv4 or IPv6 in either (RFC 2003, RFC 2473, RFC 4213).

use super::Family;
use crate::{
    family::Address,
    frame::Frame,
    layout::{Hop, NodeEntry},
    link,
    wire::{Be32, Be128, IPV4_MIN_LEN, IPV6_LEN, PROTOCOL_IPV4, PROTOCOL_IPV6},
};

/// Hops of the outer header (RFC 2003 §3.1: independent of the inner one's).
const OUTER_HOPS: u8 = 64;

/// What a tunnel to this backend adds to a packet, in bytes.
#[inline(always)]
pub fn overhead(backend: Be128) -> usize {
    if backend.is_mapped() { IPV4_MIN_LEN } else { IPV6_LEN }
}

/// Puts a packet, already rewritten, into a tunnel to its backend. False where that cannot be: the frame has no room, or
/// the node no address of the backend's family.
#[inline(always)]
pub fn encapsulate<A: Family, F: Frame>(
    frame: &mut F,
    node: &NodeEntry,
    l3: usize,
    hop: &Hop,
    backend: Be128,
) -> bool {
    if backend.is_mapped() {
        outer::<A, Be32, F>(frame, l3, hop, node.v4, backend.low())
    } else {
        outer::<A, Be128, F>(frame, l3, hop, node.v6, backend)
    }
}

#[inline(always)]
fn outer<A: Family, O: Family, F: Frame>(
    frame: &mut F,
    l3: usize,
    hop: &Hop,
    source: O,
    destination: O,
) -> bool {
    if source == O::ZERO {
        return false;
    }
    let Some(inner) = frame.header::<A::Header>(l3) else { return false };
    let protocol = if A::IS_V6 { PROTOCOL_IPV6 } else { PROTOCOL_IPV4 };
    // The outer header has the inner one's DSCP and ECN, so that neither is lost on the way (RFC 6040 §4.1), and never
    // allows fragmentation: whoever cannot forward it says so, and that is passed on to the client.
    let header = <O as Address>::header(
        source,
        destination,
        protocol,
        A::packet_len(inner) as u16,
        OUTER_HOPS,
        A::traffic_class(inner),
    );
    let Some(begin) = link::leave(frame, l3, hop, O::ETHERTYPE, O::HEADER_LEN) else { return false };
    let Some(place) = frame.header_mut::<O::Header>(begin) else { return false };
    *place = header;
    true
}
