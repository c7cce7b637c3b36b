//! A packet of a known flow, whatever it is: rewritten, written down, and sent on.

use super::{Family, INTERNAL, Step, ask, cache, flow, tunnel};
use crate::{
    frame::Frame,
    layout::{
        ANSWER_TIME_EXCEEDED, ANSWER_TOO_BIG, FlowEntry, MODE_DSR_IPIP, MODE_LOCAL, NodeEntry, SEEN_FIN,
        SEEN_RST, SEEN_SYN, Seen, TO_BACKEND,
    },
    link,
    reason::{DropReason, PassReason, TransmitReason, Verdict},
    segment::{Segment, next_seq},
    tables::{BackendCounter, FlowTables, Slot, Tables},
    wire::{TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, Tcp},
};

/// Rewrites a packet of a flow and says where it goes.
#[inline(always)]
pub fn send<A: Family, F: Frame, T: Tables + FlowTables<A>>(
    frame: &mut F,
    tables: &T,
    node: &NodeEntry,
    segment: &Segment<A>,
    slot: Slot<FlowEntry<A>>,
    clock: u32,
) -> Step {
    if !segment.flags_are_sane() {
        return super::drop(DropReason::BadTcpFlags);
    }
    let entry = slot.read();
    let Some(ip) = frame.header::<A::Header>(segment.l3) else { return INTERNAL };
    let packet_len = A::packet_len(ip);
    let is_local = entry.direction == TO_BACKEND && entry.mode == MODE_LOCAL;
    let mut hop = entry.client;
    let mut reason = TransmitReason::ToClient;
    let mut tunnel = None;
    if entry.direction == TO_BACKEND && !is_local {
        let Some(backend) = tables.backend(entry.backend) else { return INTERNAL };
        if !backend.hop.is_resolved() {
            tables.count(entry.backend, BackendCounter::Unresolved);
            return super::drop(DropReason::NextHopUnknown);
        }
        let mut overhead = 0;
        if entry.mode == MODE_DSR_IPIP {
            overhead = tunnel::overhead(backend.address);
            tunnel = Some(backend.address);
        }
        if backend.mtu != 0 && packet_len + overhead > backend.mtu as usize {
            return ask(tables, segment, ANSWER_TOO_BIG, backend.mtu.saturating_sub(overhead as u32));
        }
        hop = backend.hop;
        reason = TransmitReason::ToBackend;
    }
    let mut numbers = None;
    if !is_local {
        if A::hops(ip) <= 1 {
            return ask(tables, segment, ANSWER_TIME_EXCEEDED, 0);
        }
        let Some(ip) = frame.header_mut::<A::Header>(segment.l3) else { return INTERNAL };
        A::rewrite(ip, entry.rewritten.src, entry.rewritten.dst, entry.ip_delta);
        if !segment.later_fragment {
            let Some(tcp) = frame.header_mut::<Tcp>(segment.l4) else { return INTERNAL };
            tcp.src_port = entry.rewritten.src_port;
            tcp.dst_port = entry.rewritten.dst_port;
            tcp.checksum = entry.tcp_delta.apply(tcp.checksum);
            numbers = Some((next_seq(tcp, segment.payload), tcp.ack.get()));
        }
    }
    // In one place: the verifier looks at all that follows once for each.
    note::<A, T>(tables, node, slot, numbers, segment, packet_len, clock);
    if is_local {
        return Step::Done(Verdict::Pass(PassReason::LocalBackend));
    }
    let sent = match tunnel {
        None => link::leave(frame, segment.l3, &hop, A::ETHERTYPE, 0).is_some(),
        Some(backend) => tunnel::encapsulate::<A, F>(frame, node, segment.l3, &hop, backend),
    };
    if sent { Step::Done(Verdict::Transmit(reason)) } else { INTERNAL }
}

/// Writes down what a packet shows about its direction of the flow, and whether the flow has ended by it. `numbers`: the
/// sequence number after it, and what it acknowledges, where it has a TCP header that was looked at.
#[inline(always)]
fn note<A: Family, T: Tables + FlowTables<A>>(
    tables: &T,
    node: &NodeEntry,
    slot: Slot<FlowEntry<A>>,
    numbers: Option<(u32, u32)>,
    segment: &Segment<A>,
    packet_len: usize,
    clock: u32,
) {
    let flags = slot.with(|entry| entry.seen.flags);
    slot.update(|entry| {
        let seen = &mut entry.seen;
        seen.packets += 1;
        seen.bytes += packet_len as u64;
        seen.at = clock;
        if let Some((next_seq, ack)) = numbers {
            seen.next_seq = next_seq;
            if segment.has(TCP_ACK) {
                seen.ack = ack;
            }
        }
    });
    if segment.has(TCP_SYN | TCP_FIN | TCP_RST) || flags & SEEN_RST != 0 {
        // Whoever sends on after a RST did not send that RST: it was forged, or out of window and ignored.
        let mut now = flags & !SEEN_RST;
        if segment.has(TCP_SYN) {
            now |= SEEN_SYN;
        }
        if segment.has(TCP_FIN) {
            now |= SEEN_FIN;
        }
        if segment.has(TCP_RST) {
            now |= SEEN_RST;
        }
        if now != flags {
            slot.update(|entry| entry.seen.flags = now);
            cache::changed(tables, &segment.key);
            flow::ending_changed(tables, node, &segment.key, slot, flags, now);
        }
    }
}

/// Nothing seen yet.
pub const fn unseen(clock: u32) -> Seen {
    Seen { packets: 0, bytes: 0, next_seq: 0, ack: 0, flags: 0, at: clock }
}
