//! `xvip run`: the daemon.

use std::{path::PathBuf, process::ExitCode};

use nix::sys::mman::{MlockAllFlags, mlockall};
use tracing::{error, warn};

use super::command::{EXIT_USAGE, SocketArgs, block_on};
use crate::{
    config::{self, Checked, model::DEFAULT_CONFIG},
    controller::{self, Options},
    log, privileges, state_file,
};

/// The arguments of `xvip run`.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Where to listen for `xvip status` and the like
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Replace the daemon that listens there, if one does: it leaves, and this one goes on where it was
    #[arg(long)]
    pub replace: bool,
}

/// Runs until it is told to stop.
pub fn run(args: RunArgs) -> ExitCode {
    // First of all, since threads inherit it.
    let kept = privileges::keep_from_children();
    let Checked { config, warnings } = match config::load(&args.config) {
        Ok(checked) => checked,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let log = log::begin(&config.log);
    warnings.iter().for_each(|warning| warn!("{warning}"));
    if let Err(error) = kept {
        warn!(%error, "what xvip starts inherits its capabilities");
    }
    if let Err(error) = privileges::check() {
        error!("{error}");
        return ExitCode::FAILURE;
    }
    lock_memory();
    // What a check or the control socket needs is little; VRRP and announcements have threads of their own.
    let options = Options {
        config_path: args.config,
        socket: args.socket.socket,
        state_directory: state_file::directory(),
        replace: args.replace,
        log,
    };
    match block_on(controller::run(config, options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Keeps what this process has touched out of the swap: an advertisement must not wait for a disk. Pages are locked as
/// they are used (`MCL_ONFAULT`, Linux 4.4), so that what is only reserved costs nothing.
fn lock_memory() {
    let flags = MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE;
    let flags = flags | MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    if let Err(error) = mlockall(flags) {
        warn!(%error, "memory is not locked: advertisements may be late while this machine swaps");
    }
}
