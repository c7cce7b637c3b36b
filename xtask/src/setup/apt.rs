//! Debian packages: which are missing, whether they can be had without removing others, and their installation.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use anyhow::{anyhow, bail, ensure};

use super::{Machine, Progress};
use crate::process;

const POLICY_FILE: &str = "/usr/sbin/policy-rc.d";
/// How we know our own policy file again, should a kill have left it behind.
const POLICY_MARK: &str = "written by cargo xtask setup";

/// Installs those of `packages` that are missing. Never removes a package, and starts no service.
///
/// # Errors
/// apt cannot be used here, does not know a package, would have to remove another one for it, or failed. The message
/// has the command that a person can type instead.
pub fn install(machine: &Machine, progress: &Progress, packages: &[String]) -> anyhow::Result<()> {
    let missing = missing(packages);
    if missing.is_empty() {
        return Ok(());
    }
    install_missing(machine, progress, &missing).map_err(|error| {
        let packages = missing.join(" ");
        anyhow!("{error:#}\nto get it, as root: apt-get install --no-install-recommends {packages}")
    })
}

fn install_missing(machine: &Machine, progress: &Progress, packages: &[String]) -> anyhow::Result<()> {
    usable(machine)?;
    let mut updated = false;
    if !unknown(packages)?.is_empty() {
        update(machine, progress)?;
        updated = true;
        let unknown = unknown(packages)?.join(", ");
        ensure!(
            unknown.is_empty(),
            "apt knows no package {unknown} (Debian 12 with its security updates has them)"
        );
    }
    let removals = removals(&simulate(packages)?).join(", ");
    ensure!(removals.is_empty(), "apt would have to remove {removals}; that is for you to decide");
    let _quiet = NoServices::begin(machine);
    let first = get_install(machine, progress, packages);
    if first.is_err() && !updated && !process::interrupted() {
        // An old index names files that the mirror has replaced since.
        update(machine, progress)?;
        return get_install(machine, progress, packages);
    }
    first
}

/// Whether apt could be asked to install all of these.
pub fn offers(machine: &Machine, packages: &[String]) -> bool {
    let missing = missing(packages);
    missing.is_empty() || usable(machine).is_ok() && unknown(&missing).is_ok_and(|unknown| unknown.is_empty())
}

/// Which of `packages` are not installed.
fn missing(packages: &[String]) -> Vec<String> {
    let format = "-f=${Package} ${db:Status-Status}\\n";
    // Fails when one of them is unknown, and still prints the others.
    let output = Command::new("dpkg-query").args(["-W", format]).args(packages).output();
    let listed =
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    not_installed(packages, &listed)
}

fn not_installed(packages: &[String], listed: &str) -> Vec<String> {
    let installed =
        |package: &&String| !listed.lines().any(|line| line.split_once(' ') == Some((package, "installed")));
    packages.iter().filter(installed).cloned().collect()
}

fn usable(machine: &Machine) -> anyhow::Result<()> {
    if process::find("apt-get").is_none() {
        bail!("this is not Debian: there is no apt-get");
    }
    machine.root.command("true", &[]).map(drop)
}

/// Which of `packages` apt has no version of.
fn unknown(packages: &[String]) -> anyhow::Result<Vec<String>> {
    let mut command = Command::new("apt-cache");
    let policy = process::output(command.arg("policy").args(packages).env("LC_ALL", "C"))?;
    Ok(without_candidate(packages, &policy))
}

/// Reads `apt-cache policy`: a package is known if its paragraph has a candidate.
fn without_candidate(packages: &[String], policy: &str) -> Vec<String> {
    let mut paragraph = "";
    let mut known = Vec::new();
    for line in policy.lines() {
        if !line.starts_with(' ') {
            paragraph = line.trim_end_matches(':');
        } else if let Some(candidate) = line.trim().strip_prefix("Candidate:")
            && candidate.trim() != "(none)"
        {
            known.push(paragraph);
        }
    }
    packages.iter().filter(|package| !known.contains(&package.as_str())).cloned().collect()
}

fn simulate(packages: &[String]) -> anyhow::Result<String> {
    let mut command = Command::new("apt-get");
    command.args(["install", "--simulate", "--yes", "--no-install-recommends"]).args(packages);
    process::output(command.env("LC_ALL", "C"))
}

/// Reads `apt-get --simulate`: the packages it would remove.
fn removals(simulation: &str) -> Vec<String> {
    let removed = simulation.lines().filter_map(|line| line.strip_prefix("Remv "));
    removed.filter_map(|rest| rest.split_whitespace().next()).map(str::to_owned).collect()
}

fn update(machine: &Machine, progress: &Progress) -> anyhow::Result<()> {
    progress.follow(apt_get(machine)?.arg("update"))
}

fn get_install(machine: &Machine, progress: &Progress, packages: &[String]) -> anyhow::Result<()> {
    let mut command = apt_get(machine)?;
    // `--no-remove` once more: between the simulation and now somebody else may have installed something.
    command.args(["install", "--yes", "--no-install-recommends", "--no-remove"]).args(packages);
    progress.follow(&mut command)
}

fn apt_get(machine: &Machine) -> anyhow::Result<Command> {
    let variables = [("DEBIAN_FRONTEND", OsStr::new("noninteractive")), ("LC_ALL", OsStr::new("C"))];
    let mut command = machine.root.command("apt-get", &variables)?;
    // Another apt may be at work (an automatic upgrade): wait for it, in seconds.
    command.args(["-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"]);
    Ok(command)
}

/// While this lives, installing a package starts no service (Debian policy 9.3.3.3): keepalived is wanted as a
/// program for the lab, not as a daemon on this machine.
struct NoServices<'a> {
    machine: &'a Machine,
    ours: bool,
}

impl<'a> NoServices<'a> {
    /// Leaves a policy that somebody else has made alone: it is there to forbid services as well.
    fn begin(machine: &'a Machine) -> Self {
        let ours = std::fs::read_to_string(POLICY_FILE).map_or(true, |policy| policy.contains(POLICY_MARK));
        if ours && Path::new("/usr/sbin").is_dir() {
            let script = format!(
                "printf '#!/bin/sh\\n# {POLICY_MARK}\\nexit 101\\n' > {POLICY_FILE}; chmod 755 {POLICY_FILE}"
            );
            Self::shell(machine, &script);
        }
        Self { machine, ours }
    }

    fn shell(machine: &Machine, script: &str) {
        let done = machine
            .root
            .command("sh", &[])
            .and_then(|mut shell| process::output(shell.arg("-c").arg(script)));
        if let Err(error) = done {
            eprintln!("     | warning: {POLICY_FILE}: {error:#}");
        }
    }
}

impl Drop for NoServices<'_> {
    fn drop(&mut self) {
        if self.ours {
            Self::shell(self.machine, &format!("rm -f {POLICY_FILE}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_configured_packages_count_as_installed() {
        let listed = "g++ installed\nkeepalived unpacked\ncurl config-files\n";
        let wanted = names(&["g++", "keepalived", "curl", "tshark"]);
        assert_eq!(not_installed(&wanted, listed), names(&["keepalived", "curl", "tshark"]));
    }

    #[test]
    fn a_package_without_candidate_is_unknown() {
        let policy = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n  Version table:\n     \
            1.96.0+dfsg1-1~deb12u2 500\n        500 http://mirror.example/debian-security bookworm-security/main\n\
            kubectl:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n";
        let wanted = names(&["rustc-web", "kubectl", "never-heard-of"]);
        assert_eq!(without_candidate(&wanted, policy), names(&["kubectl", "never-heard-of"]));
    }

    #[test]
    fn a_simulation_names_what_would_go() {
        let simulation = "The following packages will be REMOVED:\n  cargo rustc\n\
            Remv cargo [0.66.0+ds1-1]\nRemv rustc [1.63.0+dfsg1-2]\nInst rustc-web (1.96.0 Debian-Security:12)\n";
        assert_eq!(removals(simulation), ["cargo", "rustc"]);
        assert!(removals("Inst rustc-web (1.96.0)\nConf rustc-web (1.96.0)\n").is_empty());
    }
}
