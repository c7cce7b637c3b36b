//! `xvip explain`: what is so of a backend, VIP, service or VRRP instance, why, and how it came to that; also while the daemon
//! is down.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail};
use comfy_table::Table;

use super::{
    colour::{Colours, Tone},
    command::{EXIT_USAGE, SocketArgs, block_on, failed},
    schema,
};
use crate::{
    config::{
        self,
        model::{Config, DEFAULT_CONFIG},
    },
    control::client::{self, ClientError},
    history::{
        Event, Severity,
        explain::{Explanation, Knowledge, explain, render},
        file,
    },
    state_file,
    status::Status,
};

/// The width of what goes into a pipe or a file.
const PLAIN_WIDTH: usize = 120;

/// The arguments of `xvip explain`.
#[derive(Clone, Debug, clap::Args)]
pub struct ExplainArgs {
    /// A backend (its name or address), a VIP, a service, or a VRRP instance
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The configuration file, for the names, and for where the history is
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Where the daemon listens
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Only what has happened since so long, like 1h or 30m
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub since: Option<Duration>,
    /// Print one JSON object, whose form is stable
    #[arg(long)]
    pub json: bool,
    /// Print the JSON Schema of what --json prints
    #[arg(long, value_parser = schema::asked::<Explanation>)]
    pub json_schema: bool,
}

fn since(text: &str) -> Result<Duration, String> {
    // Longer ones overflow in humantime's sums.
    let parsed = (text.len() <= 16).then(|| humantime::parse_duration(text));
    parsed.and_then(Result::ok).ok_or_else(|| "must be a time with its unit, like 30m or 1h".to_owned())
}

/// Explains. Exits with 1 where nothing is called so, with 2 for a configuration that is refused.
pub fn run(args: &ExplainArgs) -> ExitCode {
    let config = match config::load(&args.config) {
        Ok(checked) => checked.config,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match found(args, &config).and_then(|found| print(&found, args.json)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn found(args: &ExplainArgs, config: &Config) -> anyhow::Result<Explanation> {
    let (status, events) = match block_on(ask(&args.socket.socket))? {
        Some((status, events)) => (Some(status), events),
        None => (None, remembered(config)?),
    };
    let known = Knowledge {
        config,
        status: status.as_ref(),
        events: &events,
        now: SystemTime::now(),
        since: args.since,
    };
    Ok(explain(&args.name, &known)?)
}

/// What the daemon says; `None` where there is none.
async fn ask(socket: &Path) -> anyhow::Result<Option<(Status, Vec<Event>)>> {
    let status = match client::status(socket).await {
        Ok(status) => status,
        Err(ClientError::NotRunning(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let history = client::history(socket, None, None).await?;
    Ok(Some((status, history.events)))
}

/// What the last daemon has left on the disk.
fn remembered(config: &Config) -> anyhow::Result<Vec<Event>> {
    let path = file::path(&state_file::path(&state_file::directory(), &config.node.pin_path));
    match file::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            bail!("the daemon does not run, and its history {} is root's: try sudo", path.display())
        }
        read => {
            read.with_context(|| format!("the daemon does not run, and {} cannot be read", path.display()))
        }
    }
}

fn print(found: &Explanation, json: bool) -> anyhow::Result<()> {
    let mut out = io::stdout();
    let text = if json {
        format!("{}\n", serde_json::to_string_pretty(found)?)
    } else {
        let width = Table::new().width().map_or(PLAIN_WIDTH, usize::from);
        let colours = Colours::of_stdout();
        render(found, width, &|line, severity| match severity {
            Severity::Info => line.to_owned(),
            Severity::Warn => colours.paint(line, Tone::Warn),
            Severity::Error => colours.paint(line, Tone::Bad),
        })
    };
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // `xvip explain m1 | head`
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}
