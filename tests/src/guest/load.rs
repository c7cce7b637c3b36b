//! Does the verifier of this kernel take the programs, and how much do they cost it?

use super::{CaseResult, note};
use crate::kernel_tables::KernelPlane;
use crate::plane::MAX_FLOWS;

/// Every XDP program of the object loads.
pub(super) fn programs_load() -> CaseResult {
    // The chain of causes of an `anyhow::Error` ends where it is boxed, and the verifier's log is in it.
    let mut plane = KernelPlane::load(MAX_FLOWS).map_err(|error| format!("{error:#}"))?;
    let costs = plane.dataplane().program_costs()?;
    assert!(!costs.is_empty(), "the object has no program");
    for cost in &costs {
        let number = |count: Option<u32>| count.map_or_else(|| "?".to_owned(), |count| count.to_string());
        note(format!(
            "{}: {} instructions, {} steps of the verifier's million",
            cost.name,
            number(cost.instructions),
            number(cost.steps)
        ));
    }
    note(format!("{} steps in all", costs.iter().filter_map(|cost| cost.steps).sum::<u32>()));
    Ok(())
}
