//! `xvip status`: what the daemon tells about itself and, while it is down, what there is without it.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use super::{
    command::{SocketArgs, block_on, failed},
    schema,
};
use crate::{
    config::model::DEFAULT_CONFIG,
    status::{
        Status,
        gather::{self, Places},
        table::Screen,
        text::render,
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
    /// The configuration file, for the pin path and the backends' names while the daemon is down
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Where the daemon listens
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// Prints the status. Exits with 0 also where the daemon is down and its maps tell something, with 1 where there is nothing to
/// show.
pub fn run(args: &StatusArgs) -> ExitCode {
    match print(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn print(args: &StatusArgs) -> anyhow::Result<()> {
    let places = Places { socket: args.socket.socket.clone(), config: args.config.clone() };
    let status = block_on(async { Ok(gather::status(&places).await?) })?;
    let text = if args.json {
        format!("{}\n", serde_json::to_string_pretty(&status)?)
    } else {
        render(&status, &Screen::of_stdout())
    };
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // `xvip status | head`
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}
