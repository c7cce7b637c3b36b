//! `cargo xtask bench NAME`: measures the release build of xvip beside what it replaces.
//!
//! The measuring is done by `xvip-lab bench NAME`, which has the network for it; here are the names, what each needs,
//! and the build.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};

use crate::process::{self, Root};
use crate::run::privileged;
use crate::{setup, workspace};

/// One benchmark: its name, which `xvip-lab bench` has, too, and what it answers.
struct Bench {
    name: &'static str,
    about: &'static str,
    level: setup::Level,
}

const BENCHES: &[Bench] = &[
    Bench {
        name: "failover",
        about: "time without service when a node dies, hands over or loses its balancer; also for HAProxy with keepalived",
        level: setup::Level::Bench,
    },
    Bench {
        name: "icount",
        about: "executed instructions per packet, on Debian's kernels in QEMU; also of IPVS and nftables",
        level: setup::Level::Bench,
    },
    Bench {
        name: "packet",
        about: "time per packet in the XDP programs, above an empty one; in Katran's, too, where you have built it",
        level: setup::Level::Lab,
    },
    Bench {
        name: "survive",
        about: "what becomes of 200 streams and of requests in all that can happen; also for HAProxy with keepalived",
        level: setup::Level::Bench,
    },
    Bench {
        name: "tcp",
        about: "connections, requests, latency, bulk, processor time and memory; also for HAProxy, nftables and no balancer",
        level: setup::Level::Bench,
    },
    Bench {
        name: "wire",
        about: "packets per second of one core over a veth, in each mode; also of nftables, and IPVS where it is",
        level: setup::Level::Bench,
    },
];

/// Sets up, builds the release, and becomes `xvip-lab bench NAME ARGUMENTS`. Without a name it lists them.
///
/// # Errors
/// There is none of that name, or the set-up or the build failed. If all is well this does not return.
pub fn run(name: Option<&str>, arguments: &[String]) -> anyhow::Result<ExitCode> {
    let Some(name) = name else {
        print!("{}", list());
        return Ok(ExitCode::SUCCESS);
    };
    let Some(bench) = BENCHES.iter().find(|bench| bench.name == name) else {
        bail!("no benchmark is called {name}; there are:\n{}", list().trim_end());
    };
    setup::run(bench.level, setup::Report::Brief)?;
    let released = workspace::build(&["build", "--release", "--package=lb-userspace", "--bin=xvip"])?;
    let xvip = workspace::binary(&released, "xvip")?;
    // The lab asks each API server some hundred times a second: an optimized one would change no figure.
    let lab = workspace::build(&["build", "--package=lb-tests", "--bin=xvip-lab"])?;
    let (described, command) = (OsString::from(described()), OsString::from(typed(bench.name, arguments)));
    let variables = [
        ("XVIP_BIN", xvip.as_os_str()),
        ("XVIP_BENCH_DESCRIBED", described.as_os_str()),
        ("XVIP_BENCH_COMMAND", command.as_os_str()),
    ];
    let mut command = privileged(Root::probe(), workspace::binary(&lab, "xvip-lab")?, &variables);
    let error = command.args(["bench", bench.name]).args(arguments).exec();
    Err(error).with_context(|| format!("starting {}", command.get_program().to_string_lossy()))
}

fn list() -> String {
    BENCHES.iter().map(|Bench { name, about, .. }| format!("  {name:<10} {about}\n")).collect()
}

/// What git calls the tree that was built.
fn described() -> String {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--tags", "--dirty"]).current_dir(workspace::root());
    process::output(&mut git).map_or_else(|_| "no git".to_owned(), |name| name.trim().to_owned())
}

fn typed(name: &str, arguments: &[String]) -> String {
    ["cargo", "xtask", "bench", name]
        .into_iter()
        .chain(arguments.iter().map(String::as_str))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_not_there_is_answered_with_those_that_are() {
        let error = run(Some("no-such"), &[]).unwrap_err().to_string();
        assert!(error.contains("no-such") && error.contains("  failover "), "{error}");
    }

    #[test]
    fn the_command_is_told_as_it_was_typed() {
        let arguments = ["--repeats".to_owned(), "3".to_owned()];
        assert_eq!(typed("failover", &arguments), "cargo xtask bench failover --repeats 3");
    }
}
