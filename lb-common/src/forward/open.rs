//! The stage for a new flow: may it, and where to.

use super::{Family, INTERNAL, Stage, Step, ask, balance, flow_clock, limit};
use crate::{
    frame::Frame,
    hash,
    layout::{ANSWER_RESET_NO_BACKEND, ServiceKey},
    reason::{DropReason, PassReason, Verdict},
    segment::Segment,
    tables::Tables,
};

/// A SYN of no flow.
#[inline(always)]
pub fn open<A: Family, F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    let Some(scratch) = tables.scratch() else { return INTERNAL };
    let Some(segment) = Segment::<A>::recall(frame, scratch) else { return INTERNAL };
    let attempt = scratch.read().attempt;
    let clock = flow_clock(tables);
    let key = ServiceKey::new(segment.key.dst.wide(), segment.key.dst_port);
    let Some(service) = tables.service(&key) else {
        return Step::Done(Verdict::Pass(PassReason::NoService));
    };
    let source = segment.key.src.wide();
    if !limit::is_allowed(tables, &service, source) {
        return super::drop(DropReason::SourceNotAllowed);
    }
    if service.usable == 0 {
        return ask(tables, &segment, ANSWER_RESET_NO_BACKEND, 0);
    }
    if attempt == 0 && !limit::admit::<A, T>(tables, &service, source) {
        return super::drop(DropReason::SourceRateLimited);
    }
    let hash = hash::flow(&segment.key);
    let Some(id) = balance::first::<A, T>(tables, scratch, &service, hash, attempt, clock) else {
        return Step::Next(Stage::Choose);
    };
    scratch.update(|scratch| scratch.backend = id.into());
    Step::Next(A::BEGIN)
}
