//! `bpf-fs`: where programs and maps are pinned.

use crate::doctor::{
    Finding,
    facts::{BpfFs, Facts},
};

const ID: &str = "bpf-fs";

/// By what is at `node.pin_path`.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let path = facts.config.node.pin_path.display();
    vec![match &facts.host.bpf_fs {
        BpfFs::Mounted => Finding::fine(ID, format!("{path} is on a BPF file system")),
        BpfFs::Mountable => Finding::fine(ID, format!("{path}: xvip mounts the BPF file system")),
        BpfFs::Unknown => Finding::problem(
            ID,
            "the kernel has no BPF file system",
            "nothing can be pinned: a restart would drop every connection, so xvip does not start",
        )
        .remedy("use a kernel built with CONFIG_BPF_SYSCALL=y"),
        BpfFs::Elsewhere(nearest) => Finding::problem(
            ID,
            format!("{path} is not on a BPF file system: {} is another kind", nearest.display()),
            "programs and maps cannot be pinned there",
        )
        .remedy(format!("mkdir -p {path} && mount -t bpf bpf {path}"))
        .remedy("or write: pin_path = \"/sys/fs/bpf/xvip\""),
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
    fn another_file_system_is_a_problem_and_one_to_be_mounted_is_not() {
        let found = one(judge, |facts| facts.host.bpf_fs = BpfFs::Elsewhere("/tmp".into()));
        assert_eq!(found.severity, Severity::Problem);
        assert_eq!(one(judge, |facts| facts.host.bpf_fs = BpfFs::Unknown).severity, Severity::Problem);
        fine(judge, |facts| facts.host.bpf_fs = BpfFs::Mountable);
    }
}
