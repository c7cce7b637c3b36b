//! `permissions`: what this process may not do, and so could not look at.

use crate::{
    doctor::{Finding, facts::Facts},
    privileges::{self, Need},
};

const ID: &str = "permissions";

/// By its effective capabilities; `CAP_SYS_ADMIN` stands for the two of BPF.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let missing = privileges::missing(facts.host.capabilities);
    let missing: Vec<String> = missing.iter().map(Need::name).collect();
    vec![if missing.is_empty() {
        Finding::fine(ID, "this process may look at everything")
    } else {
        Finding::advice(
            ID,
            format!("this process lacks {}", missing.join(", ")),
            "what needs these could not be looked at; the daemon needs them, too",
        )
        .remedy("sudo xvip doctor")
    }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Severity,
        findings::healthy::{fine, one},
    };

    /// linux/capability.h
    const SYS_ADMIN: u32 = 21;

    #[test]
    fn what_is_missing_is_named() {
        let found = one(judge, |facts| facts.host.capabilities = 0);
        assert_eq!(found.severity, Severity::Advice);
        assert!(found.seen.contains("CAP_BPF") && found.seen.contains("CAP_NET_RAW"), "{found:?}");
        fine(judge, |facts| facts.host.capabilities = 1 << SYS_ADMIN | 1 << 12 | 1 << 13);
    }
}
