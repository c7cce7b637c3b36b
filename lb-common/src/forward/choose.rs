//! The stage that searches for a new flow's backend, where that of its own choice has no room. The same for both families,
//! and a program of its own: what loops costs the verifier most, and is to be verified once.

use super::{INTERNAL, Stage, Step, balance, flow_clock, observe::would_open, pass, wish};
use crate::{
    layout::{ANSWER_RESET_ALL_FULL, NODE_OBSERVES, SERVICE_DROPS_WHEN_FULL},
    reason::{DropReason, PassReason},
    tables::Tables,
};

/// Goes on with a SYN that [`balance::first`] has found no place for.
#[inline(always)]
pub fn choose<T: Tables>(tables: &T) -> Step {
    let (Some(node), Some(scratch)) = (tables.node(), tables.scratch()) else { return INTERNAL };
    let clock = flow_clock(tables);
    let chosen = balance::search(tables, scratch, clock);
    if node.flags & NODE_OBSERVES != 0 {
        if let Some(id) = chosen {
            would_open(tables, id, clock);
        }
        return pass(PassReason::Observed);
    }
    let (flags, is_v6) = scratch.with(|scratch| (scratch.service.flags, scratch.is_v6 != 0));
    let Some(id) = chosen else {
        if flags & SERVICE_DROPS_WHEN_FULL != 0 {
            return super::drop(DropReason::AllBackendsFull);
        }
        wish(scratch, ANSWER_RESET_ALL_FULL, 0);
        return Step::Next(if is_v6 { Stage::Answer6 } else { Stage::Answer4 });
    };
    scratch.update(|scratch| scratch.backend = id.into());
    Step::Next(if is_v6 { Stage::Begin6 } else { Stage::Begin4 })
}
