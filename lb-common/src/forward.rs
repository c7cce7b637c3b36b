//! The forwarding decision: what becomes of a frame.
//!
//! ```text
//! fast:  Ethernet -> IPv4 -> for a VIP? -> TCP -> established flow? --yes--> rewrite, send
//!                                                     | no, or a SYN
//! slow:                 half-open flow? --yes--> handshake step, rewrite, send
//!                          | no
//!                       service? -> SYN? -> Maglev slot -> backend -> NAT port -> new flow
//! ```
//!
//! A packet that is not for a VIP leaves untouched after a handful of instructions, and a packet of an established
//! flow needs one hash look-up. In the kernel the two halves are two programs, the slow one reached by a tail call:
//! each has its own stack and is verified on its own. Everything here inlines; it neither allocates nor loops without
//! a constant bound.

use crate::{
    frame::Frame,
    layout::{FlowEntry, MacWord, NodeEntry, SEEN_SYN, ServiceKey, TO_BACKEND, TO_CLIENT},
    open::{answer_with_reset, forget, is_closed, open},
    parse::{self, Segment},
    reason::{DropReason, PassReason, TransmitReason, Verdict},
    rewrite::send,
    tables::{BackendCounter, Inserted, Level, Slot, Tables},
    wire::{Ethernet, TCP_ACK, TCP_RST, TCP_SYN, Tcp},
};

/// Decides about a frame, rewrites it where it is to be sent, and keeps the flow tables: both halves in a row, as the
/// kernel runs them.
#[inline(always)]
pub fn forward<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Verdict {
    match fast(frame, tables) {
        Some(verdict) => verdict,
        None => slow(frame, tables),
    }
}

/// The first half: everything that is not for a VIP, and packets of established flows. `None` leaves the frame
/// untouched to [`slow`].
#[inline(always)]
pub fn fast<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Option<Verdict> {
    let Some(node) = tables.node() else { return Some(Verdict::Pass(PassReason::NotConfigured)) };
    let segment = match parse::segment(frame, tables, node) {
        Ok(segment) => segment,
        Err(verdict) => return Some(verdict),
    };
    if segment.opens() {
        return None;
    }
    let slot = tables.flow(Level::Established, &segment.key)?;
    let entry = slot.read();
    let clock = flow_clock(tables);
    if entry.seen.silence(clock) > node.idle_timeout
        || (entry.direction == TO_BACKEND && source_mac(frame) != Some(entry.client_mac))
    {
        return None;
    }
    Some(send(frame, tables, node, &segment, slot, clock))
}

/// The second half: handshakes, new flows, and packets that belong to none.
#[inline(always)]
pub fn slow<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Verdict {
    let Some(node) = tables.node() else { return Verdict::Pass(PassReason::NotConfigured) };
    let segment = match parse::segment(frame, tables, node) {
        Ok(segment) => segment,
        Err(verdict) => return verdict,
    };
    let clock = flow_clock(tables);
    let mut attempt = 0;

    if let Some(slot) = tables.flow(Level::Established, &segment.key) {
        let entry = slot.read();
        let over = is_idle(tables, node, &entry, clock) || (segment.opens() && is_closed(tables, &entry));
        if over {
            forget(tables, Level::Established, &segment.key, &entry.rewritten);
        } else {
            if entry.direction == TO_BACKEND {
                client_moved(frame, tables, Level::Established, slot);
            }
            return send(frame, tables, node, &segment, slot, clock);
        }
    } else if let Some(slot) = tables.flow(Level::HalfOpen, &segment.key)
        && let Some(verdict) = handshake(frame, tables, node, &segment, slot, clock, &mut attempt)
    {
        return verdict;
    }

    let Some(service) = tables.service(&ServiceKey::new(segment.key.dst, segment.key.dst_port)) else {
        return Verdict::Pass(PassReason::NoService);
    };
    if !segment.flags_are_sane() {
        return Verdict::Drop(DropReason::BadTcpFlags);
    }
    if !source_can_be_answered(tables, &segment) {
        return Verdict::Drop(DropReason::BadSource);
    }
    if segment.opens() {
        open(frame, tables, node, &segment, &service, attempt, clock)
    } else if segment.has(TCP_RST) {
        Verdict::Drop(DropReason::UnknownFlow)
    } else {
        answer_with_reset(frame, &segment, TransmitReason::ResetUnknownFlow)
    }
}

/// A packet of a half-open flow. `None` where the flow is gone, and the packet may open a new one; `attempt` then says
/// how many backends have left this SYN unanswered.
#[inline(always)]
fn handshake<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    node: &NodeEntry,
    segment: &Segment,
    slot: Slot<FlowEntry>,
    clock: u32,
    attempt: &mut u32,
) -> Option<Verdict> {
    let entry = slot.read();
    if entry.seen.silence(clock) > node.half_open_timeout {
        forget(tables, Level::HalfOpen, &segment.key, &entry.rewritten);
        return None;
    }
    if entry.direction == TO_BACKEND {
        let other = tables.flow(Level::HalfOpen, &entry.rewritten.reversed());
        let Some(reply) = other.filter(|reply| reply.read().rewritten == segment.key.reversed()) else {
            // Its other direction was evicted, and perhaps its NAT port taken by another flow.
            tables.remove_flow(Level::HalfOpen, &segment.key);
            return None;
        };
        let answered = reply.read().seen.flags & SEEN_SYN != 0;
        if segment.opens() && !answered {
            // The backend has not answered: a retransmitted SYN tries another one.
            forget(tables, Level::HalfOpen, &segment.key, &entry.rewritten);
            *attempt = u32::from(entry.attempt) + 1;
            tables.count(entry.backend, BackendCounter::Unanswered);
            return None;
        }
        client_moved(frame, tables, Level::HalfOpen, slot);
        let completes = segment.flags & (TCP_SYN | TCP_ACK | TCP_RST) == TCP_ACK
            && answered
            && acknowledges(frame, segment, reply.read().seen.next_seq);
        if completes {
            if promote(tables, segment, slot, reply) != Inserted::Yes {
                return Some(Verdict::Drop(DropReason::FlowTableFull));
            }
            tables.count(entry.backend, BackendCounter::Established);
            let Some(slot) = tables.flow(Level::Established, &segment.key) else {
                return Some(Verdict::Drop(DropReason::Internal));
            };
            return Some(send(frame, tables, node, segment, slot, clock));
        }
    }
    let verdict = send(frame, tables, node, segment, slot, clock);
    if segment.has(TCP_RST) && matches!(verdict, Verdict::Transmit(_)) {
        if entry.direction == TO_CLIENT && entry.seen.flags & SEEN_SYN == 0 {
            tables.count(entry.backend, BackendCounter::Refused);
        }
        forget(tables, Level::HalfOpen, &segment.key, &entry.rewritten);
    }
    Some(verdict)
}

#[inline(always)]
fn acknowledges<F: Frame>(frame: &F, segment: &Segment, seq: u32) -> bool {
    frame.header::<Tcp>(segment.tcp_offset).is_some_and(|tcp| tcp.ack.get() == seq)
}

/// Moves both directions of a flow to the table of established ones. The order matters: a NAT port is in one of the
/// two tables at every moment, and whoever claims one looks in the same order.
#[inline(always)]
fn promote<T: Tables>(
    tables: &T,
    segment: &Segment,
    slot: Slot<FlowEntry>,
    reply: Slot<FlowEntry>,
) -> Inserted {
    let reply_key = slot.read().rewritten.reversed();
    let inserted = reply.with(|reply| tables.insert_flow(Level::Established, &reply_key, reply));
    if inserted != Inserted::Yes {
        return inserted;
    }
    let inserted = slot.with(|entry| tables.insert_flow(Level::Established, &segment.key, entry));
    if inserted != Inserted::Yes {
        tables.remove_flow(Level::Established, &reply_key);
        return inserted;
    }
    tables.remove_flow(Level::HalfOpen, &reply_key);
    tables.remove_flow(Level::HalfOpen, &segment.key);
    Inserted::Yes
}

/// Where the client's packets come from another Ethernet address now (its router failed over), replies follow.
#[inline(always)]
fn client_moved<F: Frame, T: Tables>(frame: &F, tables: &T, level: Level, slot: Slot<FlowEntry>) {
    let Some(mac) = source_mac(frame) else { return };
    if slot.read().client_mac == mac {
        return;
    }
    slot.update(|entry| entry.client_mac = mac);
    if let Some(reply) = tables.flow(level, &slot.read().rewritten.reversed()) {
        reply.update(|reply| reply.client_mac = mac);
    }
}

/// Whether an established flow has had no packet in either direction for longer than its time-out: one side may only
/// listen.
#[inline(always)]
fn is_idle<T: Tables>(tables: &T, node: &NodeEntry, entry: &FlowEntry, clock: u32) -> bool {
    entry.seen.silence(clock) > node.idle_timeout
        && tables
            .flow(Level::Established, &entry.rewritten.reversed())
            .is_none_or(|other| other.read().seen.silence(clock) > node.idle_timeout)
}

/// The Ethernet address that the frame comes from.
#[inline(always)]
fn source_mac<F: Frame>(frame: &F) -> Option<MacWord> {
    frame.header::<Ethernet>(0).map(|ethernet| MacWord::new(ethernet.src))
}

#[inline(always)]
fn flow_clock<T: Tables>(tables: &T) -> u32 {
    tables.pulse().map_or(0, |pulse| pulse.flow_clock)
}

/// Whether an answer to the packet's source can reach somebody else than ourselves.
#[inline(always)]
fn source_can_be_answered<T: Tables>(tables: &T, segment: &Segment) -> bool {
    let source = segment.key.src;
    let first = source.octets()[0];
    // 0/8 "this network", 127/8 loopback, 224/3 multicast, reserved and broadcast (RFC 1122 §3.2.1.3).
    first != 0
        && first != 127
        && first < 224
        && segment.key.src_port.get() != 0
        && tables.vip(source).is_none()
}
