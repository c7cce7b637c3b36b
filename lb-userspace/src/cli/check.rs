//! `xvip check`: validates a file and prints what it means.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use schemars::JsonSchema;
use serde::Serialize;

use super::schema;
use crate::config::{
    self, Checked, Diagnostic, LoadError, Severity,
    effective::effective,
    model::{Config, DEFAULT_CONFIG},
};

/// The arguments of `xvip check`.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Print one JSON object: {"config", "warnings"}, or {"errors", "warnings"} if the file is refused
    #[arg(long)]
    pub json: bool,
    /// Print the JSON Schema of what --json prints
    #[arg(long, value_parser = schema::asked::<Answer>)]
    pub json_schema: bool,
}

/// What `xvip check --json` prints.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
enum Answer {
    /// The file is accepted.
    Accepted {
        /// What it means, every default filled in. Secrets are left out.
        config: Box<Config>,
        /// What someone should know.
        warnings: Vec<Diagnostic>,
    },
    /// The file is refused.
    Refused {
        /// What is wrong; at least one.
        errors: Vec<Diagnostic>,
        /// What else someone should know.
        warnings: Vec<Diagnostic>,
    },
    /// The file cannot be read.
    Unreadable {
        /// One, about the whole file.
        errors: [WholeFile; 1],
        /// None.
        warnings: [WholeFile; 0],
    },
}

/// A finding that has no line.
#[derive(Serialize, JsonSchema)]
struct WholeFile {
    /// `error`
    severity: Severity,
    /// The file.
    file: PathBuf,
    /// None.
    line: (),
    /// None.
    column: (),
    /// Empty.
    key: &'static str,
    /// Empty.
    table: &'static str,
    /// What is wrong.
    message: String,
    /// What to do about it.
    remedy: &'static str,
}

/// Prints the effective configuration to standard output, and warnings or errors to standard error. Exits with 0 if the
/// file is accepted, 2 if it is not (design 2.2), and 1 if the answer could not be written.
pub fn run(args: CheckArgs) -> ExitCode {
    answer(&args, &mut io::stdout().lock(), &mut io::stderr().lock())
}

fn answer(args: &CheckArgs, out: &mut impl Write, err: &mut impl Write) -> ExitCode {
    let outcome = config::load(&args.config);
    let code = if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(2) };
    match print(&outcome, args.json, out, err) {
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
            Ok(Checked { config, warnings }) => {
                Answer::Accepted { config: Box::new(config.clone()), warnings: warnings.clone() }
            }
            Err(LoadError::Refused(problems)) => Answer::Refused {
                errors: problems.errors().cloned().collect(),
                warnings: problems.warnings().cloned().collect(),
            },
            Err(LoadError::Unreadable { file, error }) => Answer::Unreadable {
                errors: [WholeFile {
                    severity: Severity::Error,
                    file: file.clone(),
                    line: (),
                    column: (),
                    key: "",
                    table: "",
                    message: format!("cannot be read: {error}"),
                    remedy: "write: --config FILE with the path of a file that can be read",
                }],
                warnings: [],
            },
        };
        return writeln!(out, "{}", serde_json::to_string_pretty(&answer)?);
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;
    use serde_json::Value;

    use super::*;
    use crate::config::Facts;

    const GOOD: &str = "[node]\ninterface = \"eth0\"\n[[service]]\nname = \"api\"\nvip = \"172.16.0.10\"\nport = 6443\n\
        [[service.backend]]\nname = \"m1\"\naddress = \"172.16.0.4:6443\"\n";

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: CheckArgs,
    }

    fn printed(outcome: &Result<Checked, LoadError>, as_json: bool) -> (String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        print(outcome, as_json, &mut out, &mut err).expect("written to memory");
        (String::from_utf8(out).expect("UTF-8"), String::from_utf8(err).expect("UTF-8"))
    }

    fn checked(text: &str) -> Result<Checked, LoadError> {
        let read_file = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
        let file_mode = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
        let facts = Facts { host_name: "lb1".to_owned(), read_file: &read_file, file_mode: &file_mode };
        Ok(config::parse(text, Path::new("xvip.toml"), &facts)?)
    }

    fn keys(list: &Value) -> Vec<&str> {
        list.as_array().expect("a list").iter().filter_map(|found| found["key"].as_str()).collect()
    }

    #[test]
    fn warnings_go_to_one_stream_and_the_configuration_to_the_other() {
        let (out, err) = printed(&checked(GOOD), false);
        assert!(err.starts_with("warning: xvip.toml:3:1: service[0] \"api\", health: "), "{err}");
        assert_eq!(checked(&out).expect("accepted").config, checked(GOOD).expect("accepted").config);
    }

    #[test]
    fn errors_leave_the_output_empty() {
        let (out, err) = printed(&checked(&GOOD.replace("port = 6443\n", "prot = 6443\n")), false);
        assert_eq!(out, "");
        assert!(
            err.contains("error: xvip.toml:6:1: service[0] \"api\": unknown key `prot`\n  6 | prot = 6443\n"),
            "{err}"
        );
        assert!(err.ends_with("xvip.toml: 1 error\n"), "{err}");
    }

    #[test]
    fn the_json_forms() {
        let json = |outcome| serde_json::from_str::<Value>(&printed(&outcome, true).0).expect("JSON");
        let accepted = json(checked(GOOD));
        assert_eq!(accepted["config"]["service"][0]["health"]["interval"], "2s");
        assert_eq!(accepted["config"]["service"][0]["vip"], "172.16.0.10/32");
        assert_eq!(keys(&accepted["warnings"]), ["service[0].health.check"]);

        let refused = json(checked(&GOOD.replace("6443\n", "0\n")));
        assert_eq!(keys(&refused["errors"]), ["service[0].port"]);
        assert_eq!(refused["errors"][0]["line"], 6);
        assert_eq!(refused["errors"][0]["remedy"], "write: port = 6443");
        assert_eq!(keys(&refused["warnings"]), ["service[0].health.check"]);

        let unreadable = json(config::load(Path::new("/nowhere/xvip.toml")));
        assert_eq!(unreadable["errors"][0]["line"], Value::Null);
        assert_eq!(unreadable["errors"][0]["file"], "/nowhere/xvip.toml");
    }

    #[test]
    fn the_exit_codes() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let code = |path: &Path| {
            let words = ["check".as_ref(), "--config".as_ref(), path.as_os_str(), "--json".as_ref()];
            let args = Line::try_parse_from(words).expect("arguments").args;
            answer(&args, &mut io::sink(), &mut io::sink())
        };
        assert_eq!(code(file.path()), ExitCode::from(2));
        std::fs::write(file.path(), GOOD).expect("written");
        assert_eq!(code(file.path()), ExitCode::SUCCESS);
        assert_eq!(code(Path::new("/nowhere/xvip.toml")), ExitCode::from(2));
        let default = Line::try_parse_from(["check"]).expect("arguments").args;
        assert_eq!((default.config.as_path(), default.json), (Path::new(DEFAULT_CONFIG), false));
    }
}
