//! The stage for TCP that the entry does not do: handshakes, flows that moved or went idle, packets of no flow.

use super::{
    Family, INTERNAL, Stage, Step, ask, flow,
    flow::{client_moved, forget_established, forget_half_open, has_reply, promote},
    flow_clock, rebuild,
    send::send,
};
use crate::{
    frame::{Frame, HostSocket},
    layout::{
        ANSWER_BY_OTHER_NODE, ANSWER_RESET_SEVERED, ANSWER_RESET_UNKNOWN_FLOW, FlowEntry, MODE_LOCAL,
        MacWord, NODE_HAS_FORMER, NODE_OBSERVES, NodeEntry, SEEN_REBUILT, SEEN_SEVERED, SEEN_SYN,
        SERVICE_REBUILDS, Scratch, ServiceEntry, ServiceKey, TO_BACKEND, TO_CLIENT,
    },
    reason::{DropReason, PassReason, Verdict},
    segment::Segment,
    tables::{BackendCounter, FlowTables, Inserted, Level, Slot, Tables},
    wire::{Ethernet, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, Tcp},
};

/// For so long after somebody else's claim to a VIP it counts as moving: those on the link learn of it one after the other, and
/// who has missed the claim asks anew within 45 s (RFC 4861 §10; Linux does the same for ARP).
const MOVING_NS: u64 = 60_000_000_000;

/// Goes on with a segment for a VIP.
#[inline(always)]
pub fn slow<A: Family, F: Frame, T: Tables + FlowTables<A>>(frame: &mut F, tables: &T) -> Step {
    let (Some(node), Some(scratch)) = (tables.node(), tables.scratch()) else { return INTERNAL };
    let Some(segment) = Segment::<A>::recall(frame, scratch) else { return INTERNAL };
    let clock = flow_clock(tables);
    let mut attempt = 0;

    if let Some(slot) = tables.flow(Level::Established, &segment.key) {
        let entry = slot.read();
        let over = flow::is_idle(tables, node, &entry, clock)
            || (segment.opens() && flow::is_closed(tables, &entry));
        if over {
            forget_established(tables, node, &segment.key, slot, clock);
        } else if entry.seen.flags & SEEN_SEVERED != 0 {
            return end(tables, &segment, ANSWER_RESET_SEVERED);
        } else {
            if entry.direction == TO_BACKEND {
                client_moved(frame, tables, node, Level::Established, &segment, slot);
            }
            return go_on(scratch, &segment);
        }
    } else if let Some(slot) = tables.flow(Level::HalfOpen, &segment.key) {
        let entry = slot.read();
        if flow::is_given_up(tables, node, &segment.key, &entry, clock) {
            forget_half_open(tables, &segment.key, &entry, clock);
        } else if entry.seen.flags & SEEN_SEVERED != 0 {
            if is_refuted(frame, &segment, &entry) {
                return end(tables, &segment, ANSWER_RESET_UNKNOWN_FLOW);
            }
            tables.remove_flow(Level::HalfOpen, &segment.key);
        } else if entry.direction == TO_CLIENT && entry.seen.flags & SEEN_REBUILT != 0 {
            if let Some(step) = prove(frame, tables, node, scratch, &segment, slot, clock) {
                return step;
            }
        } else if let Some(step) =
            handshake(frame, tables, node, scratch, &segment, slot, clock, &mut attempt)
        {
            return step;
        }
    } else if !segment.opens() && tables.flow(Level::Established, &segment.key).is_some() {
        // Another CPU has moved it between the two look-ups.
        return go_on(scratch, &segment);
    } else if !segment.opens() && node.flags & NODE_HAS_FORMER != 0 {
        // The former release's tables may know it; the frame is untouched.
        return Step::Next(Stage::Former);
    }

    if node.flags & NODE_OBSERVES != 0 {
        segment.leave(scratch);
        return Step::Next(A::OBSERVE);
    }
    let key = ServiceKey::new(segment.key.dst.wide(), segment.key.dst_port);
    let Some(service) = tables.service(&key) else {
        return without_service(frame, tables, node, scratch, &segment);
    };
    if is_the_hosts(frame, &segment, &service) {
        return Step::Done(Verdict::Pass(PassReason::HostSocket));
    }
    if segment.later_fragment {
        // Its first fragment was answered, or went to the host.
        return super::drop(DropReason::FragmentUnknown);
    }
    if !segment.flags_are_sane() {
        return super::drop(DropReason::BadTcpFlags);
    }
    if !source_can_be_answered(tables, &segment) {
        return super::drop(DropReason::BadSource);
    }
    if segment.opens() {
        segment.leave(scratch);
        scratch.update(|scratch| scratch.attempt = attempt);
        return Step::Next(A::OPEN);
    }
    if rebuild::is_possible(&service, &segment) {
        segment.leave(scratch);
        return Step::Next(A::REBUILD);
    }
    end(tables, &segment, ANSWER_RESET_UNKNOWN_FLOW)
}

/// Tells whoever has sent a segment that there is no such flow, or none any more.
#[inline(always)]
fn end<A: Family, T: Tables>(tables: &T, segment: &Segment<A>, answer: u32) -> Step {
    if segment.later_fragment {
        return super::drop(DropReason::FragmentUnknown);
    }
    if !segment.flags_are_sane() {
        return super::drop(DropReason::BadTcpFlags);
    }
    if segment.has(TCP_RST) {
        return super::drop(DropReason::UnknownFlow);
    }
    ask(tables, segment, answer, 0)
}

/// A segment for a port of a VIP that is no service's, of no known flow. While the VIP moves it may be a backend's, of a flow
/// that the other node knows: one that had it until now, or one that has it already. That one gets it, if we know where it
/// is. Where it does not know the flow either, or is no more, the client's next packet rebuilds the flow: the host would
/// end it.
#[inline(always)]
fn without_service<A: Family, F: Frame, T: Tables>(
    frame: &F,
    tables: &T,
    node: &NodeEntry,
    scratch: Slot<Scratch>,
    segment: &Segment<A>,
) -> Step {
    const TO_HOST: Step = Step::Done(Verdict::Pass(PassReason::NoService));
    let address = segment.key.dst.wide();
    if segment.opens() {
        return TO_HOST;
    }
    let Some(vip) = tables.vip(address) else { return TO_HOST };
    let mut other = vip.former;
    if let Some(claim) = tables.claim(&address) {
        let claim = claim.read();
        let is_recent = tables.monotonic_ns().saturating_sub(claim.at_ns) < MOVING_NS;
        // The virtual router's Ethernet address is ours by now.
        if is_recent && claim.mac != vip.virtual_mac {
            other = claim.mac;
        }
    }
    if (vip.inherited == 0 && other == MacWord::ZERO) || frame.host_socket(&segment.key) != HostSocket::None {
        return TO_HOST;
    }
    let Some(ethernet) = frame.header::<Ethernet>(0) else { return INTERNAL };
    let Some(ip) = frame.header::<A::Header>(segment.l3) else { return INTERNAL };
    // Not back to where it comes from: that node knows no more than we do.
    let is_elsewhere =
        other != MacWord::ZERO && other != MacWord::new(ethernet.src) && !node.is_own_mac(other);
    if is_elsewhere && A::hops(ip) > 1 {
        scratch.update(|scratch| scratch.other_node = other);
        return ask(tables, segment, ANSWER_BY_OTHER_NODE, 0);
    }
    if vip.inherited != 0 {
        return super::drop(DropReason::UnknownReply);
    }
    TO_HOST
}

/// The backend's answer to a flow that was rebuilt: where it fits, the guess was right. `None` where there is no such flow.
#[inline(always)]
fn prove<A: Family, F: Frame, T: Tables + FlowTables<A>>(
    frame: &F,
    tables: &T,
    node: &NodeEntry,
    scratch: Slot<Scratch>,
    segment: &Segment<A>,
    slot: Slot<FlowEntry<A>>,
    clock: u32,
) -> Option<Step> {
    let key = slot.with(|entry| entry.rewritten.reversed());
    let client = tables.flow(Level::HalfOpen, &key);
    let Some(client) =
        client.filter(|client| client.with(|client| client.rewritten == segment.key.reversed()))
    else {
        if tables.flow(Level::Established, &segment.key).is_some() {
            return Some(go_on(scratch, segment));
        }
        tables.remove_flow(Level::HalfOpen, &segment.key);
        return None;
    };
    if segment.later_fragment {
        return Some(super::drop(DropReason::FragmentUnknown));
    }
    if segment.has(TCP_RST) || !segment.has(TCP_ACK) || !segment.flags_are_sane() {
        // A RST: there is nothing. Its client is told, and both directions are forgotten.
        return Some(go_on(scratch, segment));
    }
    let seen = client.with(|client| client.seen);
    let Some(tcp) = frame.header::<Tcp>(segment.l4) else { return Some(INTERNAL) };
    if !rebuild::is_answer_to(tcp, &seen) {
        // The NAT port is another connection's. Its client gets nothing of that, and a RST if it goes on; a forged packet
        // may have been the first one, and its sender is told nothing.
        tables.remove_flow(Level::HalfOpen, &segment.key);
        client.update(|client| {
            client.rewritten = key;
            client.mode = MODE_LOCAL;
            client.seen.flags = SEEN_SEVERED | SEEN_REBUILT;
        });
        return Some(super::drop(DropReason::UnknownReply));
    }
    // Where the table is full it stays half-open, for as long as it can.
    let _ = promote(tables, node, &key, client, Some(slot), clock);
    Some(go_on(scratch, segment))
}

/// Whether a segment is of the connection for which there was no telling its NAT port. Any other one opens a flow, or is
/// another guess.
#[inline(always)]
fn is_refuted<A: Family, F: Frame>(frame: &F, segment: &Segment<A>, entry: &FlowEntry<A>) -> bool {
    !segment.opens()
        && (segment.later_fragment
            || frame.header::<Tcp>(segment.l4).is_some_and(|tcp| rebuild::is_sequel_of(tcp, &entry.seen)))
}

/// Whether a segment is of a connection that a process on this node has or is about to have, such as a proxy that xvip has
/// taken the place of. New ones are ours; but a SYN that the host has answered already, before this node forwarded, is not
/// new when it comes again: the client may have either answer by then, and only one of them can come about.
#[inline(always)]
fn is_the_hosts<A: Family, F: Frame>(frame: &F, segment: &Segment<A>, service: &ServiceEntry) -> bool {
    if segment.opens() {
        service.flags & SERVICE_REBUILDS != 0 && frame.host_is_opening(&segment.key)
    } else {
        frame.host_socket(&segment.key) == HostSocket::Connected
    }
}

/// A packet of a half-open flow. `None` where the flow is gone, and the packet may open a new one; `attempt` then says
/// how many backends have left this SYN unanswered.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "a packet is that much")]
fn handshake<A: Family, F: Frame, T: Tables + FlowTables<A>>(
    frame: &mut F,
    tables: &T,
    node: &NodeEntry,
    scratch: Slot<Scratch>,
    segment: &Segment<A>,
    slot: Slot<FlowEntry<A>>,
    clock: u32,
    attempt: &mut u32,
) -> Option<Step> {
    let entry = slot.read();
    if entry.direction == TO_BACKEND {
        if segment.opens() && entry.seen.flags & SEEN_REBUILT != 0 {
            // A new connection, which no backend has left unanswered yet.
            forget_half_open(tables, &segment.key, &entry, clock);
            return None;
        }
        let mut reply = None;
        let mut answered = entry.seen.packets > 0 && !segment.opens();
        if has_reply(&entry) {
            let other = tables.flow(Level::HalfOpen, &entry.rewritten.reversed());
            let Some(other) =
                other.filter(|reply| reply.with(|reply| reply.rewritten == segment.key.reversed()))
            else {
                if tables.flow(Level::Established, &segment.key).is_some() {
                    // Another CPU is just moving it there.
                    return Some(go_on(scratch, segment));
                }
                // Its other direction was evicted, and perhaps its NAT port taken by another flow.
                tables.remove_flow(Level::HalfOpen, &segment.key);
                return None;
            };
            answered = other.with(|reply| reply.seen.flags) & SEEN_SYN != 0;
            reply = Some(other);
            if segment.opens() && !answered {
                // The backend has not answered: a retransmitted SYN tries another one.
                forget_half_open(tables, &segment.key, &entry, clock);
                *attempt = entry.attempt + 1;
                tables.count(entry.backend, BackendCounter::Unanswered);
                return None;
            }
        } else if segment.opens() {
            // Whether the backend has answered is not seen here. The flow stays where every node would send it.
            tables.count(entry.backend, BackendCounter::Unanswered);
        }
        client_moved(frame, tables, node, Level::HalfOpen, segment, slot);
        let completes = segment.flags & (TCP_SYN | TCP_ACK | TCP_RST) == TCP_ACK
            && answered
            && !segment.later_fragment
            && reply
                .is_none_or(|reply| acknowledges(frame, segment, reply.with(|reply| reply.seen.next_seq)));
        if completes {
            match promote(tables, node, &segment.key, slot, reply, clock) {
                // Or another CPU was faster.
                Inserted::Yes | Inserted::Exists => {}
                // It can do without an entry: the Maglev table says the same.
                Inserted::Full if reply.is_none() => {}
                Inserted::Full => return Some(super::drop(DropReason::FlowTableFull)),
            }
        }
    } else if entry.seen.flags & SEEN_SYN == 0
        && segment.flags & (TCP_SYN | TCP_ACK | TCP_FIN | TCP_RST) == TCP_SYN | TCP_ACK
    {
        tables.count(entry.backend, BackendCounter::Answered);
    }
    Some(go_on(scratch, segment))
}

/// Has the segment sent.
#[inline(always)]
fn go_on<A: Family>(scratch: Slot<Scratch>, segment: &Segment<A>) -> Step {
    segment.leave(scratch);
    Step::Next(A::SEND)
}

/// The stage that sends a packet of a known flow. A RST ends a half-open one: nothing of it is worth keeping.
#[inline(always)]
pub fn send_known<A: Family, F: Frame, T: Tables + FlowTables<A>>(frame: &mut F, tables: &T) -> Step {
    let (Some(node), Some(scratch)) = (tables.node(), tables.scratch()) else { return INTERNAL };
    let Some(segment) = Segment::<A>::recall(frame, scratch) else { return INTERNAL };
    let clock = flow_clock(tables);
    let mut is_half_open = false;
    let mut found = tables.flow(Level::Established, &segment.key);
    if found.is_none() {
        found = tables.flow(Level::HalfOpen, &segment.key);
        is_half_open = found.is_some();
        if found.is_none() {
            // Another CPU may have moved it between the two look-ups.
            found = tables.flow(Level::Established, &segment.key);
        }
    }
    let Some(slot) = found else { return super::drop(DropReason::FlowTableFull) };
    let step = send::<A, F, T>(frame, tables, node, &segment, slot, clock);
    let went_on = matches!(step, Step::Done(Verdict::Transmit(_) | Verdict::Pass(_)));
    if is_half_open && segment.has(TCP_RST) && went_on {
        let entry = slot.read();
        if entry.direction == TO_CLIENT && entry.seen.flags & (SEEN_SYN | SEEN_REBUILT) == 0 {
            tables.count(entry.backend, BackendCounter::Refused);
        }
        forget_half_open(tables, &segment.key, &entry, clock);
    }
    step
}

#[inline(always)]
fn acknowledges<A: Family, F: Frame>(frame: &F, segment: &Segment<A>, seq: u32) -> bool {
    frame.header::<Tcp>(segment.l4).is_some_and(|tcp| tcp.ack.get() == seq)
}

/// Whether an answer to the packet's source can reach somebody else than ourselves.
#[inline(always)]
fn source_can_be_answered<A: Family, T: Tables>(tables: &T, segment: &Segment<A>) -> bool {
    let source = segment.key.src.wide();
    let [a, b, c, d] = source.words();
    let is_unicast = if A::IS_V6 {
        // Neither the unspecified address nor loopback, v4-mapped, or multicast (RFC 4291 §2.5, §2.7).
        a.get() >> 24 != 0xff
            && (a.word() | b.word() != 0
                || (c.word() != 0 && c.get() != 0xffff)
                || (c.word() == 0 && d.get() > 1))
    } else {
        // 0/8 "this network", 127/8 loopback, 224/3 multicast, reserved and broadcast (RFC 1122 §3.2.1.3).
        let first = d.get() >> 24;
        first != 0 && first != 127 && first < 224
    };
    is_unicast && segment.key.src_port.get() != 0 && tables.vip(source).is_none()
}
