//! Whether a test may say that this kernel cannot do what it needs.
//!
//! A test that cannot run prints `SKIP NAME: REASON`. If the reason begins with `kernel`, we check it:
//! `kernel 5.18 live frames` claims that the running kernel is older than 5.18, and `kernel ipvs` that it has no
//! IPVS. A false claim is a failure: otherwise a broken test would skip for ever.

use std::path::Path;

/// Features by the name that tests use, and the module that has them.
const MODULES: [(&str, &str); 9] = [
    ("bridge", "bridge"),
    ("dummy", "dummy"),
    ("ipip", "ipip"),
    ("ipvs", "ip_vs"),
    ("macvlan", "macvlan"),
    ("netem", "sch_netem"),
    ("pktgen", "pktgen"),
    ("veth", "veth"),
    ("vlan", "8021q"),
];

/// The running kernel.
#[derive(Debug)]
pub struct Kernel {
    /// Major and minor.
    version: (u32, u32),
    /// Modules that are loaded, loadable or built in.
    modules: Vec<String>,
}

impl Kernel {
    /// Reads `/proc`, `/sys` and the list of modules.
    pub fn running() -> Self {
        let read = |path: String| std::fs::read_to_string(path).unwrap_or_default();
        let release = read("/proc/sys/kernel/osrelease".to_owned());
        let release = release.trim();
        let mut modules = Vec::new();
        for list in ["modules.builtin", "modules.dep"] {
            modules.extend(listed_modules(&read(format!("/lib/modules/{release}/{list}"))));
        }
        let loaded = std::fs::read_dir(Path::new("/sys/module"));
        let loaded = loaded.into_iter().flatten().flatten();
        modules.extend(loaded.map(|entry| entry.file_name().to_string_lossy().into_owned()));
        Self { version: version(release).unwrap_or((0, 0)), modules }
    }

    /// Why the reason of a skip does not hold here; None if it does, or is not about the kernel.
    pub fn refutes(&self, reason: &str) -> Option<String> {
        let claim = reason.strip_prefix("kernel")?.trim_start_matches([' ', ':']);
        let word = claim.split([' ', ':', ',']).next()?;
        if let Some(since) = version(word) {
            let (major, minor) = self.version;
            return (self.version >= since)
                .then(|| format!("this kernel is {major}.{minor}, which should do it"));
        }
        let (_, module) = MODULES.iter().find(|(feature, _)| feature == &word)?;
        let there = self.modules.iter().any(|name| name.replace('-', "_") == *module);
        there.then(|| format!("this kernel has the module {module}, which should do it"))
    }
}

/// `6.18`, `6.18.3-cloud-amd64`.
fn version(text: &str) -> Option<(u32, u32)> {
    let (major, rest) = text.split_once('.')?;
    let digits = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
    Some((major.parse().ok()?, rest[..digits].parse().ok()?))
}

/// Reads `modules.builtin` and `modules.dep`: `kernel/net/ipv4/ipip.ko.xz: ...` is `ipip`.
fn listed_modules(list: &str) -> impl Iterator<Item = String> + '_ {
    list.lines().filter_map(|line| {
        let file = line.split(':').next()?.rsplit('/').next()?;
        Some(file.split(".ko").next()?.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel() -> Kernel {
        Kernel { version: (6, 1), modules: vec!["sch_netem".to_owned(), "8021q".to_owned()] }
    }

    #[test]
    fn a_kernel_that_is_new_enough_refutes_the_skip() {
        assert!(kernel().refutes("kernel 5.18 live frames").is_some());
        assert!(kernel().refutes("kernel 6.1: netkit").is_some());
        assert_eq!(kernel().refutes("kernel 6.7 netkit"), None);
    }

    #[test]
    fn a_module_that_is_there_refutes_the_skip() {
        assert!(kernel().refutes("kernel netem").is_some());
        assert!(kernel().refutes("kernel: vlan, for the tagged case").is_some());
        assert_eq!(kernel().refutes("kernel ipvs"), None);
    }

    #[test]
    fn other_reasons_are_taken_as_they_are() {
        assert_eq!(kernel().refutes("no keepalived here"), None);
        assert_eq!(kernel().refutes("kernel something we do not know"), None);
    }

    #[test]
    fn modules_and_versions_are_read() {
        let list = "kernel/net/sched/sch_netem.ko.xz: kernel/a.ko\nkernel/net/8021q/8021q.ko:\n";
        assert_eq!(listed_modules(list).collect::<Vec<_>>(), ["sch_netem", "8021q"]);
        assert_eq!(version("6.18.3-cloud"), Some((6, 18)));
        assert_eq!(version("6.18-rc1"), Some((6, 18)));
        assert_eq!(version("live"), None);
    }
}
