//! `xvip status`: what the daemon tells about itself.

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use super::{
    command::{SocketArgs, block_on, failed},
    schema,
};
use crate::{
    control::client,
    status::{
        Status,
        table::{Look, render},
    },
};

/// The arguments of `xvip status`.
#[derive(Clone, Debug, clap::Args)]
pub struct StatusArgs {
    /// Print one JSON object, whose form is stable
    #[arg(long)]
    pub json: bool,
    /// Print the JSON Schema of what --json prints
    #[arg(long, value_parser = schema::asked::<Status>)]
    pub json_schema: bool,
    /// Where the daemon listens
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// Prints the status. Exits with 1 if there is no daemon to ask.
pub fn run(args: &StatusArgs) -> ExitCode {
    match print(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn print(args: &StatusArgs) -> anyhow::Result<()> {
    let status = block_on(async { Ok(client::status(&args.socket.socket).await?) })?;
    let mut out = io::stdout();
    let text = if args.json {
        format!("{}\n", serde_json::to_string_pretty(&status)?)
    } else {
        render(&status, if out.is_terminal() { Look::Terminal } else { Look::Plain })
    };
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
