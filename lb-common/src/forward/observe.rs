//! The stage for TCP of no known flow while the node only observes (`NODE_OBSERVES`): the host gets it, and what xvip would
//! have done is counted.

use super::{Family, INTERNAL, Stage, Step, balance, flow_clock, limit, pass};
use crate::{
    frame::Frame,
    hash,
    layout::{BackendId, ServiceKey},
    reason::PassReason,
    segment::Segment,
    tables::{BackendCounter, FlowTables, Tables},
};

/// Chooses a backend for a SYN, counts it there, and remembers nothing.
#[inline(always)]
pub fn observe<A: Family, F: Frame, T: Tables + FlowTables<A>>(frame: &mut F, tables: &T) -> Step {
    let Some(scratch) = tables.scratch() else { return INTERNAL };
    let Some(segment) = Segment::<A>::recall(frame, scratch) else { return INTERNAL };
    let key = ServiceKey::new(segment.key.dst.wide(), segment.key.dst_port);
    let Some(service) = tables.service(&key) else { return pass(PassReason::NoService) };
    if segment.opens() && service.usable != 0 && limit::is_allowed(tables, &service, segment.key.src.wide()) {
        let clock = flow_clock(tables);
        scratch.update(|scratch| scratch.attempt = 0);
        let hash = hash::flow(&segment.key);
        let Some(id) = balance::first::<A, T>(tables, scratch, &service, hash, 0, clock) else {
            return Step::Next(Stage::Choose);
        };
        would_open(tables, id, clock);
    }
    pass(PassReason::Observed)
}

/// Counts the backend that a SYN would go to.
#[inline(always)]
pub fn would_open<T: Tables>(tables: &T, id: BackendId, clock: u32) {
    tables.count(id, BackendCounter::Opened);
    balance::give_back(tables, id, clock);
}
