//! A new flow: choosing a backend, claiming a NAT port, remembering both directions.

use crate::{
    checksum::{Delta, Sum},
    frame::Frame,
    hash,
    layout::{
        BackendEntry, BackendId, FlowEntry, FlowKey, MacWord, NodeEntry, SEEN_FIN, SEEN_RST, ServiceEntry,
        TO_BACKEND, TO_CLIENT,
    },
    parse::Segment,
    reason::{DropReason, TransmitReason, Verdict},
    reset,
    rewrite::{address_sum, flow_entry, port_sum, send},
    tables::{BackendCounter, Inserted, Level, Tables},
    wire::{Be16, ETHERNET_LEN, Ethernet, Ipv4},
};

/// How many NAT ports a new flow tries before it takes over a closed flow's, or gives up.
pub const NAT_PORT_TRIES: u32 = 16;
/// NAT ports are not taken from the well-known ones (RFC 6335 §6).
const FIRST_NAT_PORT: u16 = 1024;

/// A SYN of no flow. `attempt` is how many backends have left the same SYN unanswered.
#[inline(always)]
pub fn open<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    node: &NodeEntry,
    segment: &Segment,
    service: &ServiceEntry,
    attempt: u32,
    clock: u32,
) -> Verdict {
    if service.usable == 0 {
        return answer_with_reset(frame, segment, TransmitReason::ResetNoBackend);
    }
    let Some(ip) = frame.header::<Ipv4>(ETHERNET_LEN) else { return Verdict::Drop(DropReason::Internal) };
    if ip.ttl <= 1 {
        return Verdict::Drop(DropReason::TtlExpired);
    }
    let Some(client_mac) = frame.header::<Ethernet>(0).map(|ethernet| MacWord::new(ethernet.src)) else {
        return Verdict::Drop(DropReason::Internal);
    };
    let hash = hash::flow(&segment.key);
    let Some(id) = tables.ring(service.ring, hash::slot(hash::attempt(hash, attempt))) else {
        return Verdict::Drop(DropReason::Internal);
    };
    let Some(backend) = tables.backend(id) else { return Verdict::Drop(DropReason::Internal) };
    if !backend.is_resolved() {
        tables.count(id, BackendCounter::Unresolved);
        return Verdict::Drop(DropReason::NextHopUnknown);
    }
    let Some(nat_port) = claim_nat_port(tables, &segment.key, id, &backend, client_mac, hash, clock) else {
        tables.count(id, BackendCounter::PortsExhausted);
        return Verdict::Drop(DropReason::NatPortsExhausted);
    };

    let rewritten = FlowKey::new(segment.key.dst, nat_port, backend.address, backend.port);
    let mut entry = flow_entry(&segment.key, &rewritten, TO_BACKEND, id, client_mac, clock);
    entry.attempt = attempt as u8;
    // A flow that another CPU has just opened for the same SYN is as good as this one.
    let _ = tables.insert_flow(Level::HalfOpen, &segment.key, &entry);
    let Some(slot) = tables.flow(Level::HalfOpen, &segment.key) else {
        return Verdict::Drop(DropReason::FlowTableFull);
    };
    tables.count(id, BackendCounter::Opened);
    send(frame, tables, node, segment, slot, clock)
}

/// Sends the RST that answers a segment. The segment is no RST itself.
#[inline(always)]
pub fn answer_with_reset<F: Frame>(frame: &mut F, segment: &Segment, reason: TransmitReason) -> Verdict {
    if reset::answer(frame, segment.tcp_offset, segment.payload) {
        Verdict::Transmit(reason)
    } else {
        Verdict::Drop(DropReason::Internal)
    }
}

/// Finds a free NAT port towards a backend and takes it by inserting the reply direction: the client's own port if it
/// is free, else one of a few that the hash of the flow names. Where none is free, the port of a closed flow goes,
/// the one that has been closed for longest.
#[inline(always)]
fn claim_nat_port<T: Tables>(
    tables: &T,
    key: &FlowKey,
    id: BackendId,
    backend: &BackendEntry,
    client_mac: MacWord,
    hash: u32,
    clock: u32,
) -> Option<Be16> {
    let mut reply_key = FlowKey::new(backend.address, backend.port, key.dst, Be16::new(0));
    let mut reply = flow_entry(&reply_key, &key.reversed(), TO_CLIENT, id, client_mac, clock);
    let without_nat_port =
        address_sum(&reply_key, &reply.rewritten).plus(port_sum(&reply_key, &reply.rewritten));

    let mut closed = Be16::new(0);
    let mut closed_for = 0;
    for attempt in 0..NAT_PORT_TRIES {
        let port = nat_port_candidate(key, hash, attempt);
        if tables.port_reserved(port) {
            continue;
        }
        set_nat_port(&mut reply_key, &mut reply, without_nat_port, port);
        if tables.insert_flow(Level::HalfOpen, &reply_key, &reply) != Inserted::Yes {
            continue;
        }
        let Some(taken) = tables.flow(Level::Established, &reply_key) else { return Some(port) };
        tables.remove_flow(Level::HalfOpen, &reply_key);
        let taken = taken.read();
        let silent_for = taken.seen.silence(clock);
        if silent_for >= closed_for && is_closed(tables, &taken) {
            (closed, closed_for) = (port, silent_for);
        }
    }

    set_nat_port(&mut reply_key, &mut reply, without_nat_port, closed);
    let taken = tables.flow(Level::Established, &reply_key)?.read();
    forget(tables, Level::Established, &reply_key, &taken.rewritten);
    (tables.insert_flow(Level::HalfOpen, &reply_key, &reply) == Inserted::Yes).then_some(closed)
}

#[inline(always)]
fn set_nat_port(reply_key: &mut FlowKey, reply: &mut FlowEntry, without_nat_port: Sum, port: Be16) {
    reply_key.dst_port = port;
    // The sum was taken with port 0, whose complement is all ones: nothing, in one's complement.
    reply.tcp_delta = Delta::new(without_nat_port.minus_be16(port));
}

#[inline(always)]
fn nat_port_candidate(key: &FlowKey, hash: u32, attempt: u32) -> Be16 {
    if attempt == 0 && key.src_port.get() >= FIRST_NAT_PORT {
        return key.src_port;
    }
    // The golden ratio visits the range evenly (Knuth, TAOCP 3, §6.4); the top half of the product chooses within it.
    let mixed = hash::again(hash).wrapping_add(attempt.wrapping_mul(0x9e37_79b1));
    let span = u32::from(u16::MAX - FIRST_NAT_PORT) + 1;
    Be16::new(FIRST_NAT_PORT + (((mixed >> 16) * span) >> 16) as u16)
}

/// Whether the established flow that `entry` is one direction of has ended: a RST from either side, or a FIN from
/// both.
#[inline(always)]
pub fn is_closed<T: Tables>(tables: &T, entry: &FlowEntry) -> bool {
    let own = entry.seen.flags;
    let other = tables
        .flow(Level::Established, &entry.rewritten.reversed())
        .map_or(SEEN_RST, |slot| slot.read().seen.flags);
    (own | other) & SEEN_RST != 0 || own & other & SEEN_FIN != 0
}

/// Removes both directions of a flow.
#[inline(always)]
pub fn forget<T: Tables>(tables: &T, level: Level, key: &FlowKey, rewritten: &FlowKey) {
    tables.remove_flow(level, &rewritten.reversed());
    tables.remove_flow(level, key);
}
