//! `xvip reload`: the daemon reads its configuration again.

use std::process::ExitCode;

use super::command::{EXIT_USAGE, SocketArgs, block_on, failed};
use crate::control::client;

/// The arguments of `xvip reload`.
#[derive(Clone, Debug, clap::Args)]
pub struct ReloadArgs {
    /// Where the daemon listens
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// Asks for a reload and says what became of it. Exits with 2 if the configuration was refused, which changes nothing.
pub fn run(args: &ReloadArgs) -> ExitCode {
    let answer = match block_on(async { Ok(client::reload(&args.socket.socket).await?) }) {
        Ok(answer) => answer,
        Err(error) => return failed(&error),
    };
    for finding in &answer.findings {
        eprintln!("{finding}");
    }
    match answer.error {
        None => {
            println!("reloaded");
            ExitCode::SUCCESS
        }
        Some(error) => {
            eprintln!("error: {error}; the daemon goes on with its old configuration");
            ExitCode::from(EXIT_USAGE)
        }
    }
}
