//! The stage for a new flow whose backend has been chosen: its NAT port, and what is remembered of it.

use super::{Family, INTERNAL, Step, ask, balance, flow, flow_clock, nat};
use crate::{
    frame::Frame,
    hash,
    layout::{ANSWER_TIME_EXCEEDED, BackendId, MODE_LOCAL, MODE_NAT, ServiceKey, TO_BACKEND},
    link,
    reason::{DropReason, PassReason, Verdict},
    segment::Segment,
    tables::{BackendCounter, FlowTables, Level, Tables},
};

/// A SYN for the backend that [`super::open`] has left; it has a place there.
#[inline(always)]
pub fn begin<A: Family, F: Frame, T: Tables + FlowTables<A>>(frame: &mut F, tables: &T) -> Step {
    let Some(scratch) = tables.scratch() else { return INTERNAL };
    let Some(segment) = Segment::<A>::recall(frame, scratch) else { return INTERNAL };
    let (id, attempt) = scratch.with(|scratch| (scratch.backend as BackendId, scratch.attempt));
    let clock = flow_clock(tables);
    let key = ServiceKey::new(segment.key.dst.wide(), segment.key.dst_port);
    let Some(service) = tables.service(&key) else {
        return Step::Done(Verdict::Pass(PassReason::NoService));
    };
    let Some(backend) = tables.backend(id) else { return INTERNAL };
    if !backend.is_reachable() {
        tables.count(id, BackendCounter::Unresolved);
        balance::give_back(tables, id, clock);
        return super::drop(DropReason::NextHopUnknown);
    }
    let client = link::way_back(frame, segment.l3);
    let mode = backend.mode_of_flows(&service);
    let Some(ip) = frame.header::<A::Header>(segment.l3) else { return INTERNAL };
    if mode != MODE_LOCAL && A::hops(ip) <= 1 {
        balance::give_back(tables, id, clock);
        return ask(tables, &segment, ANSWER_TIME_EXCEEDED, 0);
    }
    let mut rewritten = segment.key;
    if mode == MODE_NAT {
        let hash = hash::flow(&segment.key);
        let Some(claimed) =
            nat::claim(tables, scratch, &segment.key, &service, id, &backend, &client, hash, clock)
        else {
            tables.count(id, BackendCounter::PortsExhausted);
            balance::give_back(tables, id, clock);
            return super::drop(DropReason::NatPortsExhausted);
        };
        rewritten = claimed;
    }
    let Some(draft) = FlowTables::<A>::draft(tables) else { return INTERNAL };
    draft.update(|draft| {
        *draft = flow::entry(&segment.key, &rewritten, (TO_BACKEND, mode), id, &client, clock);
        draft.attempt = attempt;
    });
    // A flow that another CPU has just opened for the same SYN is as good as this one.
    let _ = draft.with(|draft| tables.insert_flow(Level::HalfOpen, &segment.key, draft));
    tables.count(id, BackendCounter::Opened);
    Step::Next(A::SEND)
}
