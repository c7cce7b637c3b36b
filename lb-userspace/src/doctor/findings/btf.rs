//! `btf`: whether the kernel describes its types.

use crate::doctor::{Finding, facts::Facts};

/// The programs carry their own types; only tools that look at them want the kernel's.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    vec![if facts.host.btf {
        Finding::fine("btf", "/sys/kernel/btf/vmlinux is there")
    } else {
        Finding::advice(
            "btf",
            "/sys/kernel/btf/vmlinux is not there",
            "xvip runs without; bpftool and bpftrace say less about it",
        )
        .remedy("use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as all distributions' are since 2021")
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
    fn none_is_worth_a_word() {
        assert_eq!(one(judge, |facts| facts.host.btf = false).severity, Severity::Advice);
        fine(judge, |_| ());
    }
}
