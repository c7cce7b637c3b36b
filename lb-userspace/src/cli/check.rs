//! `xvip check`: validates a file and prints what it means.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use serde_json::json;

use crate::config::{self, Checked, LoadError, effective::effective, model::DEFAULT_CONFIG};

/// The arguments of `xvip check`.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Print one JSON object: {"config", "warnings"}, or {"errors", "warnings"} if the file is refused
    #[arg(long)]
    pub json: bool,
}

/// Prints the effective configuration to standard output, and warnings or errors to standard error. Exits with 0 if the
/// file is accepted, 2 if it is not (design 2.2), and 1 if the answer could not be written.
pub fn run(args: &CheckArgs) -> ExitCode {
    let outcome = config::load(&args.config);
    let code = if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(2) };
    match print(&outcome, args.json, &mut io::stdout().lock(), &mut io::stderr().lock()) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

fn print(
    outcome: &Result<Checked, LoadError>,
    as_json: bool,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<()> {
    if as_json {
        let answer = match outcome {
            Ok(Checked { config, warnings }) => json!({ "config": config, "warnings": warnings }),
            Err(LoadError::Refused(problems)) => json!({
                "errors": problems.errors().collect::<Vec<_>>(),
                "warnings": problems.warnings().collect::<Vec<_>>(),
            }),
            Err(LoadError::Unreadable { file, error }) => json!({
                "errors": [{
                    "severity": "error", "file": file, "line": null, "column": null, "key": "", "table": "",
                    "message": format!("cannot be read: {error}"),
                    "remedy": "write: --config FILE with the path of a file that can be read",
                }],
                "warnings": [],
            }),
        };
        return writeln!(out, "{answer:#}");
    }
    match outcome {
        Ok(Checked { config, warnings }) => {
            for warning in warnings {
                writeln!(err, "{warning}")?;
            }
            write!(out, "{}", effective(config))
        }
        Err(LoadError::Refused(problems)) => writeln!(err, "{problems}"),
        Err(error) => writeln!(err, "error: {error}"),
    }
}
