//! `memlock`: the limit of locked memory, which old kernels charge maps to.

use crate::doctor::{Finding, drivers::version, facts::Facts};

const ID: &str = "memlock";
/// Since then maps are charged to the memory cgroup (kernel commit 0b24a4bfdc62).
const NOT_CHARGED_SINCE: (u32, u32) = (5, 11);

/// Only for kernels before 5.11.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let old = version(&facts.host.kernel).is_some_and(|version| version < NOT_CHARGED_SINCE);
    vec![match facts.host.memlock {
        Some(limit) if old => Finding::problem(
            ID,
            format!("at most {} kB may be locked", limit / 1024),
            "kernels before 5.11 charge BPF maps to that: they cannot be made",
        )
        .remedy("ulimit -l unlimited   # systemd: LimitMEMLOCK=infinity, as in packaging/xvip.service"),
        _ if old => Finding::fine(ID, "no limit"),
        _ => Finding::fine(ID, "this kernel does not charge maps to it"),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Severity,
        findings::healthy::{fine, one},
    };

    #[test]
    fn old_kernels_need_it() {
        let found = one(judge, |facts| facts.host.kernel = "5.10.0".to_owned());
        assert_eq!(found.severity, Severity::Problem);
        fine(judge, |_| ());
        fine(judge, |facts| {
            facts.host.kernel = "5.10.0".to_owned();
            facts.host.memlock = None;
        });
    }
}
