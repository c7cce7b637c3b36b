//! Does the verifier of this kernel take the programs, and how much do they cost it?

use aya::programs::loaded_programs;

use super::{CaseResult, note};
use crate::kernel_tables::KernelPlane;
use crate::plane::MAX_FLOWS;

/// How long a program name is in the kernel, without its zero byte (`BPF_OBJ_NAME_LEN` of `include/uapi/linux/bpf.h`).
const NAME_LENGTH: usize = 15;

/// Every XDP program of the object loads.
pub(super) fn programs_load() -> CaseResult {
    // The chain of causes of an `anyhow::Error` ends where it is boxed, and the verifier's log is in it.
    let mut plane = KernelPlane::load(MAX_FLOWS).map_err(|error| format!("{error:#}"))?;
    let sizes = plane.dataplane().instructions()?;
    assert!(!sizes.is_empty(), "the object has no program");
    for (name, size) in sizes {
        let kernel_name = &name[..name.len().min(NAME_LENGTH)];
        let loaded = loaded_programs().flatten().find(|program| program.name_as_str() == Some(kernel_name));
        let steps = loaded.and_then(|program| program.verified_instruction_count());
        let number = |count: Option<u32>| count.map_or_else(|| "?".to_owned(), |count| count.to_string());
        note(format!(
            "{name}: {} instructions, {} steps of the verifier's million",
            number(size),
            number(steps)
        ));
    }
    Ok(())
}
