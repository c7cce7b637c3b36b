//! Full NAT: the entry of a flow, and a packet rewritten by it.

use crate::{
    checksum::{Delta, Sum, TTL_DECREMENT},
    frame::Frame,
    layout::{
        BackendId, FlowEntry, FlowKey, MacWord, NodeEntry, SEEN_FIN, SEEN_RST, SEEN_SYN, Seen, TO_BACKEND,
    },
    parse::Segment,
    reason::{DropReason, TransmitReason, Verdict},
    reset::next_seq,
    tables::{BackendCounter, Slot, Tables},
    wire::{Be16, ETHERNET_LEN, Ethernet, Ipv4, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, Tcp},
};

/// What a rewrite of `key` to `rewritten` adds to the sums of the IPv4 header and of the TCP segment; the ports left
/// out.
#[inline(always)]
pub const fn address_sum(key: &FlowKey, rewritten: &FlowKey) -> Sum {
    Sum::ZERO.minus_be32(key.src).minus_be32(key.dst).be32(rewritten.src).be32(rewritten.dst)
}

/// What a rewrite of the ports adds to the sum of the TCP segment.
#[inline(always)]
pub const fn port_sum(key: &FlowKey, rewritten: &FlowKey) -> Sum {
    Sum::ZERO
        .minus_be16(key.src_port)
        .minus_be16(key.dst_port)
        .be16(rewritten.src_port)
        .be16(rewritten.dst_port)
}

/// A fresh entry for packets with `key` that leave with `rewritten`.
#[inline(always)]
pub const fn flow_entry(
    key: &FlowKey,
    rewritten: &FlowKey,
    direction: u8,
    backend: BackendId,
    client_mac: MacWord,
    clock: u32,
) -> FlowEntry {
    let addresses = address_sum(key, rewritten);
    FlowEntry {
        rewritten: *rewritten,
        ip_delta: Delta::new(addresses.plus(TTL_DECREMENT)),
        tcp_delta: Delta::new(addresses.plus(port_sum(key, rewritten))),
        client_mac,
        backend,
        direction,
        attempt: 0,
        opened: clock,
        seen: Seen { packets: 0, bytes: 0, at: clock, next_seq: 0, ack: 0, flags: 0 },
    }
}

/// Rewrites a packet of a flow and says where it goes.
#[inline(always)]
pub fn send<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    node: &NodeEntry,
    segment: &Segment,
    slot: Slot<FlowEntry>,
    clock: u32,
) -> Verdict {
    if !segment.flags_are_sane() {
        return Verdict::Drop(DropReason::BadTcpFlags);
    }
    let entry = slot.read();
    let (next_hop, reason) = if entry.direction == TO_BACKEND {
        match tables.backend(entry.backend) {
            Some(backend) if backend.is_resolved() => (backend.mac, TransmitReason::ToBackend),
            _ => {
                tables.count(entry.backend, BackendCounter::Unresolved);
                return Verdict::Drop(DropReason::NextHopUnknown);
            }
        }
    } else {
        (entry.client_mac, TransmitReason::ToClient)
    };

    let Some(ip) = frame.header_mut::<Ipv4>(ETHERNET_LEN) else { return Verdict::Drop(DropReason::Internal) };
    if ip.ttl <= 1 {
        return Verdict::Drop(DropReason::TtlExpired);
    }
    let length = ip.total_length;
    ip.src = entry.rewritten.src;
    ip.dst = entry.rewritten.dst;
    ip.ttl -= 1;
    ip.checksum = entry.ip_delta.apply(ip.checksum);
    let Some(tcp) = frame.header_mut::<Tcp>(segment.tcp_offset) else {
        return Verdict::Drop(DropReason::Internal);
    };
    tcp.src_port = entry.rewritten.src_port;
    tcp.dst_port = entry.rewritten.dst_port;
    tcp.checksum = entry.tcp_delta.apply(tcp.checksum);
    slot.update(|entry| note(&mut entry.seen, tcp, segment, length, clock));
    let Some(ethernet) = frame.header_mut::<Ethernet>(0) else { return Verdict::Drop(DropReason::Internal) };
    ethernet.dst = next_hop.octets();
    ethernet.src = node.mac.octets();
    Verdict::Transmit(reason)
}

/// Writes down what a packet shows about its direction of the flow. `length` is the datagram's.
#[inline(always)]
fn note(seen: &mut Seen, tcp: &Tcp, segment: &Segment, length: Be16, clock: u32) {
    seen.packets += 1;
    seen.bytes += u64::from(length.get());
    seen.at = clock;
    seen.next_seq = next_seq(tcp, segment.payload);
    if segment.has(TCP_ACK) {
        seen.ack = tcp.ack.get();
    }
    if segment.has(TCP_SYN | TCP_FIN | TCP_RST) || seen.flags & SEEN_RST != 0 {
        // Whoever sends on after a RST did not send that RST: it was forged, or out of window and ignored.
        seen.flags &= !SEEN_RST;
        if segment.has(TCP_SYN) {
            seen.flags |= SEEN_SYN;
        }
        if segment.has(TCP_FIN) {
            seen.flags |= SEEN_FIN;
        }
        if segment.has(TCP_RST) {
            seen.flags |= SEEN_RST;
        }
    }
}
