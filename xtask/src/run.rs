//! `cargo xtask run`: the lab, or with a configuration the real thing on this machine.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Context as _;

use crate::process::{Root, assignment};
use crate::{setup, workspace};

/// Sets up, builds, and becomes `xvip-lab run`, or `xvip run --config FILE`.
///
/// Becomes, not starts: signals, the terminal and the exit code are the program's own, with nobody in between.
/// The lab is built with the development profile, because a first look should not wait for the optimizer (the XDP
/// program is optimized in any case); a real node gets the release profile.
///
/// # Errors
/// The set-up or the build failed, or the program cannot be started. If all is well this does not return.
pub fn run(config: Option<&Path>, extra: &[String]) -> anyhow::Result<ExitCode> {
    let level = if config.is_none() { setup::Level::Lab } else { setup::Level::Build };
    setup::run(level, setup::Report::Brief)?;
    let mut command = match config {
        None => lab(extra)?,
        Some(config) => node(config, extra)?,
    };
    let error = command.exec();
    Err(error).with_context(|| format!("starting {}", command.get_program().to_string_lossy()))
}

fn lab(extra: &[String]) -> anyhow::Result<Command> {
    let built = workspace::build(&["build", "--package=lb-userspace", "--package=lb-tests", "--bins"])?;
    let xvip = workspace::binary(&built, "xvip")?;
    let mut command =
        privileged(Root::probe(), workspace::binary(&built, "xvip-lab")?, &[("XVIP_BIN", xvip.as_os_str())]);
    command.arg("run").args(extra);
    Ok(command)
}

fn node(config: &Path, extra: &[String]) -> anyhow::Result<Command> {
    let built = workspace::build(&["build", "--release", "--package=lb-userspace", "--bin=xvip"])?;
    let mut command = privileged(Root::probe(), workspace::binary(&built, "xvip")?, &[]);
    command.arg("run").arg("--config").arg(config).args(extra);
    Ok(command)
}

/// As root. Where `sudo` would ask for a password, it asks: somebody may be there to type it.
pub fn privileged(root: Root, program: &Path, variables: &[(&str, &OsStr)]) -> Command {
    if root == Root::Already {
        let mut command = Command::new(program);
        command.envs(variables.iter().copied());
        return command;
    }
    let mut command = Command::new("sudo");
    command.arg("-E").arg("env");
    for name in ["PATH", "RUST_LOG", "RUST_BACKTRACE"] {
        if let Some(value) = std::env::var_os(name) {
            command.arg(assignment(name, &value));
        }
    }
    command.args(variables.iter().map(|(name, value)| assignment(name, value))).arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_starts_the_program_itself() {
        let command =
            privileged(Root::Already, Path::new("/x/xvip-lab"), &[("XVIP_BIN", OsStr::new("/x/xvip"))]);
        assert_eq!(command.get_program(), "/x/xvip-lab");
        assert_eq!(command.get_args().count(), 0);
        let set: Vec<_> = command.get_envs().collect();
        assert_eq!(set, [(OsStr::new("XVIP_BIN"), Some(OsStr::new("/x/xvip")))]);
    }

    #[test]
    fn anybody_else_goes_through_sudo_with_the_variables_kept() {
        for root in [Root::Sudo, Root::No] {
            let command = privileged(root, Path::new("/x/xvip-lab"), &[("XVIP_BIN", OsStr::new("/x/xvip"))]);
            let arguments: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
            assert_eq!(command.get_program(), "sudo");
            assert_eq!(arguments[..2], ["-E", "env"]);
            assert_eq!(arguments[arguments.len() - 2..], ["XVIP_BIN=/x/xvip", "/x/xvip-lab"]);
        }
    }
}
