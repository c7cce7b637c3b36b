//! The programs that the lab and the tests start.

use std::path::Path;

use super::{Level, Machine, Probe, Progress, apt};
use crate::process;

/// One program, who needs it, and the Debian package that has it.
struct Program {
    command: &'static str,
    package: &'static str,
    level: Level,
}

/// A package is installed only where its command is missing: the command may come from somewhere else, and then the
/// package could conflict with that (as `kubernetes-client` does with the `kubectl` of another repository).
const PROGRAMS: [Program; 17] = [
    Program { command: "ip", package: "iproute2", level: Level::Lab },
    Program { command: "ethtool", package: "ethtool", level: Level::Lab },
    Program { command: "curl", package: "curl", level: Level::Lab },
    Program { command: "keepalived", package: "keepalived", level: Level::Bench },
    Program { command: "haproxy", package: "haproxy", level: Level::Bench },
    Program { command: "killall", package: "psmisc", level: Level::Bench },
    Program { command: "nft", package: "nftables", level: Level::Bench },
    Program { command: "ipvsadm", package: "ipvsadm", level: Level::Bench },
    Program { command: "tcpdump", package: "tcpdump", level: Level::Tests },
    Program { command: "tshark", package: "tshark", level: Level::Tests },
    Program { command: "cpio", package: "cpio", level: Level::Tests },
    Program { command: "kubectl", package: "kubernetes-client", level: Level::Tests },
    Program { command: "promtool", package: "prometheus", level: Level::Tests },
    Program { command: "debootstrap", package: "debootstrap", level: Level::Tests },
    Program { command: "rpm", package: "rpm", level: Level::Tests },
    Program { command: "lintian", package: "lintian", level: Level::Tests },
    Program { command: "chromium", package: "chromium", level: Level::Tests },
];

/// Packages that also bring a service of the same name.
const DAEMONS: [&str; 5] = ["keepalived", "haproxy", "nftables", "ipvsadm", "prometheus"];

/// Are all programs of this level there?
pub fn probe(machine: &Machine) -> Probe {
    let needed = needed(machine.level);
    let missing: Vec<_> = missing(&needed).iter().map(|program| program.command).collect();
    if !missing.is_empty() {
        return Probe::Missing(format!("{} not found", missing.join(", ")));
    }
    let needed: Vec<_> = needed.iter().map(|program| program.command).collect();
    Probe::Ready(if needed.is_empty() { "none needed to build".to_owned() } else { needed.join(" ") })
}

/// Installs the packages of the missing ones.
///
/// # Errors
/// As [`apt::install`].
pub fn install(machine: &Machine, progress: &Progress) -> anyhow::Result<()> {
    let needed = needed(machine.level);
    let packages: Vec<String> = missing(&needed).iter().map(|program| program.package.to_owned()).collect();
    apt::install(machine, progress, &packages)?;
    for package in packages.iter().filter(|package| DAEMONS.contains(&package.as_str())) {
        disable(machine, package)?;
    }
    Ok(())
}

/// We want the program, not the service. It was not started, but its package has it start with the machine.
fn disable(machine: &Machine, service: &str) -> anyhow::Result<()> {
    if !Path::new("/run/systemd/system").is_dir() {
        return Ok(());
    }
    let mut command = machine.root.command("systemctl", &[])?;
    process::output(command.args(["disable", "--now", service])).map(drop)
}

fn needed(level: Level) -> Vec<&'static Program> {
    PROGRAMS.iter().filter(|program| program.level <= level).collect()
}

fn missing(needed: &[&'static Program]) -> Vec<&'static Program> {
    needed.iter().filter(|program| process::find(program.command).is_none()).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(level: Level) -> Vec<&'static str> {
        needed(level).iter().map(|program| program.command).collect()
    }

    #[test]
    fn a_build_needs_no_programs_and_tests_need_what_the_lab_needs() {
        assert!(commands(Level::Build).is_empty());
        let lab = commands(Level::Lab);
        assert_eq!(lab, ["ip", "ethtool", "curl"]);
        let bench = commands(Level::Bench);
        assert_eq!(bench, ["ip", "ethtool", "curl", "keepalived", "haproxy", "killall", "nft", "ipvsadm"]);
        assert_eq!(commands(Level::Tests)[..bench.len()], bench);
        assert!(commands(Level::Tests).contains(&"kubectl"));
    }
}
