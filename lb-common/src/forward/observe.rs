//! The stage for TCP of no known flow while the node only observes (`NODE_OBSERVES`): the host gets it, and what xvip would
//! have done is counted.

use super::{Family, INTERNAL, Step, balance, flow_clock, limit, pass};
use crate::{
    frame::Frame,
    hash,
    layout::ServiceKey,
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
        if let Some(id) = balance::choose(tables, scratch, &service, hash::flow(&segment.key), 0, clock) {
            tables.count(id, BackendCounter::Opened);
            balance::give_back(tables, id, clock);
        }
    }
    pass(PassReason::Observed)
}
