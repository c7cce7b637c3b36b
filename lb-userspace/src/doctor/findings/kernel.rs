//! `kernel`: old enough to lack something.

use crate::doctor::{Finding, drivers::version, facts::Facts};

const ID: &str = "kernel";
/// `bpf_skc_lookup_tcp`, the helpers for half-open connections and `cgroup` hooks that the programs use are all there.
const NEEDED: (u32, u32) = (5, 18);
/// Drivers say what they can do with XDP.
const XDP_FEATURES: (u32, u32) = (6, 3);

/// By its release.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let release = &facts.host.kernel;
    vec![match version(release) {
        Some(version) if version < NEEDED => Finding::problem(
            ID,
            format!("Linux {release}"),
            "older than 5.18: the verifier refuses the programs, or helpers that they call are missing",
        )
        .remedy("apt-get install linux-image-amd64   # 5.18 or later (Debian 12 has 6.1), then reboot"),
        Some(version) if version < XDP_FEATURES => Finding::fine(
            ID,
            format!("Linux {release}; before 6.3 a driver does not say whether it can run XDP natively"),
        ),
        Some(_) => Finding::fine(ID, format!("Linux {release}")),
        None => Finding::unseen(ID, "the kernel's release", &format!("{release:?} is no version")),
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
    fn an_old_kernel_is_a_problem() {
        for (release, severity) in [
            ("4.19.0-25-amd64", Severity::Problem),
            ("5.17.15", Severity::Problem),
            ("5.18.0", Severity::Fine),
            ("six", Severity::Advice),
        ] {
            let found = one(judge, |facts| facts.host.kernel = release.to_owned());
            assert_eq!(found.severity, severity, "{release}");
        }
        fine(judge, |_| ());
    }
}
