//! `xvip backend`: takes backends out, and in again, and changes their weights.

use std::{env, path::Path, process::ExitCode, time::Duration};

use super::command::{SocketArgs, block_on, failed};
use crate::{
    config::model::MAX_WEIGHT,
    control::{
        client,
        protocol::{BackendAction, BackendAnswer, BackendOrder},
    },
};

/// Who is root by sudo(8).
const SUDO_USER: &str = "SUDO_USER";

/// The arguments of `xvip backend`.
#[derive(Clone, Debug, clap::Args)]
pub struct BackendArgs {
    #[command(subcommand)]
    command: BackendCommand,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum BackendCommand {
    /// No new connections for a backend; those that it has stay, until the deadline if there is one
    Drain {
        #[command(flatten)]
        which: WhichArgs,
        /// After that, the connections that are left are reset: 90s, 5m, 2h
        #[arg(long, value_name = "DURATION", value_parser = deadline)]
        deadline: Option<Duration>,
    },
    /// No new connections for a backend, and those that it has are reset at once
    Disable {
        #[command(flatten)]
        which: WhichArgs,
    },
    /// End a drain, or a disable
    Enable {
        #[command(flatten)]
        which: WhichArgs,
    },
    /// Give a backend another weight than the file's
    Weight {
        #[command(flatten)]
        which: WhichArgs,
        /// 0 to 256, or `default`: the file's again
        #[arg(value_parser = weight)]
        weight: Weight,
    },
}

#[derive(Clone, Debug, clap::Args)]
struct WhichArgs {
    /// Its name in the file; every backend of that name
    name: String,
    /// Only that of this service
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// Where the daemon listens
    #[command(flatten)]
    socket: SocketArgs,
}

/// A weight; `None` is the file's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Weight(Option<u16>);

fn weight(text: &str) -> Result<Weight, String> {
    if text == "default" {
        return Ok(Weight(None));
    }
    let weight = text.parse().ok().filter(|weight| *weight <= MAX_WEIGHT);
    weight.map(|weight| Weight(Some(weight))).ok_or_else(|| format!("write 0 to {MAX_WEIGHT}, or default"))
}

fn deadline(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write 90s, 5m, 2h"))
}

/// Asks for it and says what is so now. Exits with 1 if nothing was changed.
pub fn run(args: &BackendArgs) -> ExitCode {
    let (which, action) = match &args.command {
        BackendCommand::Drain { which, deadline } => {
            // Rounded up: a deadline is never earlier than asked for.
            let deadline_s = deadline
                .map(|deadline| deadline.as_secs().saturating_add((deadline.subsec_nanos() > 0).into()));
            (which, BackendAction::Drain { deadline_s })
        }
        BackendCommand::Disable { which } => (which, BackendAction::Disable),
        BackendCommand::Enable { which } => (which, BackendAction::Enable),
        BackendCommand::Weight { which, weight } => {
            (which, BackendAction::Weight { weight: weight.0.map(u32::from) })
        }
    };
    let order = BackendOrder {
        backend: which.name.clone(),
        service: which.service.clone(),
        action,
        by: env::var(SUDO_USER).ok().filter(|user| !user.is_empty()),
    };
    match carry_out(&which.socket.socket, &order) {
        Ok(BackendAnswer { error: Some(error), .. }) => failed(&anyhow::anyhow!(error)),
        Ok(BackendAnswer { lines, warnings, error: None }) => {
            lines.iter().for_each(|line| println!("{line}"));
            warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error),
    }
}

fn carry_out(socket: &Path, order: &BackendOrder) -> anyhow::Result<BackendAnswer> {
    block_on(async { Ok(client::backend(socket, order).await?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_a_number_or_the_files() {
        for (text, expected) in [("0", Some(0)), ("256", Some(256)), ("default", None)] {
            assert_eq!(weight(text), Ok(Weight(expected)));
        }
        for text in ["257", "-1", "70000", "much", ""] {
            assert!(weight(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_deadline_has_a_unit() {
        assert_eq!(deadline("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(deadline("1h 30m"), Ok(Duration::from_secs(5400)));
        assert!(deadline("5").is_err() && deadline("soon").is_err());
    }
}
