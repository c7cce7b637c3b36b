//! The stage for a packet in the middle of a flow that is not known: another node may have had it, and the tables say where
//! that will have sent it. Where replies are seen that is a guess until the backend has answered.

use super::{
    Family, INTERNAL, Step, ask, flow, flow_clock, limit,
    nat::{self, OwnPort},
};
use crate::{
    frame::Frame,
    hash,
    layout::{
        ANSWER_RESET_NO_BACKEND, ANSWER_RESET_UNKNOWN_FLOW, ANSWER_TIME_EXCEEDED, FlowKey, MODE_NAT,
        SEEN_REBUILT, Seen, ServiceEntry, ServiceKey, TO_BACKEND,
    },
    link,
    reason::{DropReason, PassReason, Verdict},
    segment::Segment,
    tables::{BackendCounter, FlowTables, Level, Tables},
    wire::{TCP_RST, TCP_SYN, Tcp},
};

/// How far the numbers of two ends of a connection can be apart, in bytes of the sequence: no less than is on its way on
/// any network that one would put a balancer in, and so little that somebody else's connection hardly ever fits.
const IN_FLIGHT: u32 = 1 << 24;

/// Whether a packet of no known flow can be made one of a flow.
#[inline(always)]
pub fn is_possible<A: Family>(service: &ServiceEntry, segment: &Segment<A>) -> bool {
    // What has neither SYN nor RST has an ACK, or is not sane. A RST is not worth a guess.
    service.rebuilds_flows() && (service.mode != MODE_NAT || !segment.has(TCP_SYN | TCP_RST))
}

/// Makes the flow anew, half-open. Whoever the table names has it, full or not; neither that nor the source's rate is asked:
/// this connection exists already, if it exists.
#[inline(always)]
pub fn rebuild<A: Family, F: Frame, T: Tables + FlowTables<A>>(frame: &mut F, tables: &T) -> Step {
    let Some(scratch) = tables.scratch() else { return INTERNAL };
    let Some(segment) = Segment::<A>::recall(frame, scratch) else { return INTERNAL };
    let clock = flow_clock(tables);
    let key = ServiceKey::new(segment.key.dst.wide(), segment.key.dst_port);
    let Some(service) = tables.service(&key) else {
        return Step::Done(Verdict::Pass(PassReason::NoService));
    };
    if !limit::is_allowed(tables, &service, segment.key.src.wide()) {
        return super::drop(DropReason::SourceNotAllowed);
    }
    if service.usable == 0 {
        return ask(tables, &segment, ANSWER_RESET_NO_BACKEND, 0);
    }
    let Some(id) = tables.ring(service.index, hash::slot(hash::flow(&segment.key))) else { return INTERNAL };
    let Some(backend) = tables.backend(id) else { return INTERNAL };
    if !backend.is_reachable() {
        tables.count(id, BackendCounter::Unresolved);
        return super::drop(DropReason::NextHopUnknown);
    }
    let mode = backend.mode_of_flows(&service);
    if service.mode == MODE_NAT && mode != MODE_NAT {
        // Another node has translated what our own host knows under its VIP and port.
        return ask(tables, &segment, ANSWER_RESET_UNKNOWN_FLOW, 0);
    }
    let client = link::way_back(frame, segment.l3);
    let Some(ip) = frame.header::<A::Header>(segment.l3) else { return INTERNAL };
    if backend.local == 0 && A::hops(ip) <= 1 {
        return ask(tables, &segment, ANSWER_TIME_EXCEEDED, 0);
    }
    let mut rewritten = segment.key;
    if mode == MODE_NAT {
        match nat::claim_own(tables, &segment.key, &service, id, &backend, &client, clock) {
            OwnPort::Claimed => {}
            // Another CPU has just done all this.
            OwnPort::Established => return Step::Next(A::SEND),
            OwnPort::Taken => return ask(tables, &segment, ANSWER_RESET_UNKNOWN_FLOW, 0),
        }
        rewritten = FlowKey::new(
            A::narrow(service.snat),
            segment.key.src_port,
            A::narrow(backend.address),
            backend.port,
        );
    }
    let Some(draft) = FlowTables::<A>::draft(tables) else { return INTERNAL };
    draft.update(|draft| {
        *draft = flow::entry(&segment.key, &rewritten, (TO_BACKEND, mode), id, &client, clock);
        draft.seen.flags = SEEN_REBUILT;
    });
    let _ = draft.with(|draft| tables.insert_flow(Level::HalfOpen, &segment.key, draft));
    Step::Next(A::SEND)
}

/// Whether a segment can be of the same connection as what its other end has sent.
#[inline(always)]
pub fn is_answer_to(tcp: &Tcp, other: &Seen) -> bool {
    is_near(tcp.seq.get(), other.ack) && is_near(tcp.ack.get(), other.next_seq)
}

/// Whether a segment can come from the same sender as what was seen before.
#[inline(always)]
pub fn is_sequel_of(tcp: &Tcp, seen: &Seen) -> bool {
    is_near(tcp.seq.get(), seen.next_seq) && is_near(tcp.ack.get(), seen.ack)
}

#[inline(always)]
const fn is_near(one: u32, other: u32) -> bool {
    one.wrapping_sub(other).wrapping_add(IN_FLIGHT) <= 2 * IN_FLIGHT
}

#[cfg(test)]
mod tests {
    use super::{IN_FLIGHT, is_near};

    #[test]
    fn numbers_are_near_across_the_wrap_and_no_further_than_what_can_be_on_its_way() {
        for (one, other, near) in [
            (0, 0, true),
            (5, u32::MAX - 5, true),
            (u32::MAX - 5, 5, true),
            (IN_FLIGHT, 0, true),
            (IN_FLIGHT + 1, 0, false),
            (0, IN_FLIGHT, true),
            (0, IN_FLIGHT + 1, false),
            (0x8000_0000, 0, false),
            (0x7fff_ffff, 0x7000_0000, false),
        ] {
            assert_eq!(is_near(one, other), near, "{one:#x} {other:#x}");
        }
    }
}
