//! `xvip doctor`: what on this node and its network keeps xvip from working, and how to mend it.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use super::{
    colour::{Colours, Tone},
    command::{EXIT_USAGE, SocketArgs, block_on, failed},
    schema,
};
use crate::{
    config::{self, model::DEFAULT_CONFIG},
    doctor::{
        Finding, Report, Severity,
        gather::{self, Options},
        report,
    },
};

/// The longest that anybody listens.
const LONGEST: Duration = Duration::from_secs(600);
/// Lines are not longer than that, however wide the terminal: they are sentences.
const WIDEST: usize = 120;
/// And not shorter.
const NARROWEST: usize = 60;
const WITHOUT_A_TERMINAL: usize = 100;

/// The arguments of `xvip doctor`.
#[derive(Clone, Debug, clap::Args)]
pub struct DoctorArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// How long to listen to the network; others with a longer advertisement interval are not heard
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = listening_time)]
    pub listen: Duration,
    /// Try to attach a program natively on a real network card, too: its driver may restart its queues
    #[arg(long)]
    pub try_attach: bool,
    /// Print one JSON object, whose form is stable
    #[arg(long)]
    pub json: bool,
    /// Print the JSON Schema of what --json prints
    #[arg(long, value_parser = schema::asked::<Report>)]
    pub json_schema: bool,
    /// Where the daemon listens
    #[command(flatten)]
    pub socket: SocketArgs,
}

fn listening_time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time > LONGEST { Err(format!("at most {}", humantime::format_duration(LONGEST))) } else { Ok(time) }
}

/// Prints the report. Exits with 0 if there is no problem, 1 if there is one, and 2 if the configuration is refused.
pub fn run(args: &DoctorArgs) -> ExitCode {
    match look(args) {
        Ok(code) => code,
        Err(error) => failed(&error),
    }
}

fn look(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout();
    let checked = match config::load(&args.config) {
        Ok(checked) => checked,
        Err(problems) => {
            eprintln!("{problems}");
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    let options = Options {
        file: args.config.clone(),
        socket: args.socket.socket.clone(),
        listen: args.listen,
        try_attach: args.try_attach,
    };
    let facts = block_on(async { Ok(gather::gather(checked, &options).await) })?;
    let report = report(&facts);
    let text = if args.json {
        format!("{}\n", serde_json::to_string_pretty(&report)?)
    } else {
        let width = if out.is_terminal() { terminal_width() } else { WITHOUT_A_TERMINAL };
        render(&report, width, Colours::of_stdout())
    };
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(if report.problems == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn terminal_width() -> usize {
    comfy_table::Table::new().width().map_or(WITHOUT_A_TERMINAL, usize::from)
}

/// The report for people: what is wrong with cause and remedy, then what is well, a line each.
fn render(report: &Report, width: usize, colours: Colours) -> String {
    let width = width.clamp(NARROWEST, WIDEST);
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut out, report, width, colours);
    out
}

fn write(out: &mut String, report: &Report, width: usize, colours: Colours) -> std::fmt::Result {
    let daemon = if report.daemon_runs { "the daemon runs" } else { "no daemon runs" };
    let listened = humantime::format_duration(Duration::from_millis(report.listened_ms / 100 * 100));
    writeln!(out, "{}, {}: {daemon}, listened for {listened}\n", report.node, report.config.display())?;
    let ids = report.findings.iter().map(|finding| finding.id.len()).max().unwrap_or(0);
    for finding in &report.findings {
        write_finding(out, finding, ids, width, colours)?;
    }
    let fine = report.findings.len() - report.problems - report.advice;
    writeln!(out, "\nproblems: {}, advice: {}, fine: {fine}", report.problems, report.advice)
}

fn write_finding(
    out: &mut String,
    finding: &Finding,
    ids: usize,
    width: usize,
    colours: Colours,
) -> std::fmt::Result {
    let indent = 9 + ids + 2;
    let tone = match finding.severity {
        Severity::Problem => Tone::Bad,
        Severity::Advice => Tone::Warn,
        Severity::Fine => Tone::Good,
    };
    let word = format!("{:<7}", finding.severity.name());
    write!(out, "{}  {:<ids$}  ", colours.paint(&word, tone), finding.id)?;
    let subject = finding.subject.as_ref().map(|subject| format!("{subject}: ")).unwrap_or_default();
    wrapped(out, &format!("{subject}{}", finding.seen), indent, width)?;
    if let Some(cause) = &finding.cause {
        write!(out, "{:indent$}", "")?;
        wrapped(out, cause, indent, width)?;
    }
    for remedy in &finding.remedy {
        // To be copied: never broken.
        writeln!(out, "{:indent$}> {remedy}", "")?;
    }
    Ok(())
}

/// Words in lines of at most `width` characters, of which the first `indent` are taken.
fn wrapped(out: &mut String, text: &str, indent: usize, width: usize) -> std::fmt::Result {
    let mut column = indent;
    for (at, word) in text.split_whitespace().enumerate() {
        let len = word.chars().count();
        if at > 0 && column + 1 + len > width {
            write!(out, "\n{:indent$}", "")?;
            column = indent;
        } else if at > 0 {
            out.write_char(' ')?;
            column += 1;
        }
        out.write_str(word)?;
        column += len;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            node: "lb1".to_owned(),
            config: PathBuf::from("/etc/xvip/xvip.toml"),
            daemon_runs: false,
            listened_ms: 3001,
            problems: 1,
            advice: 0,
            findings: vec![
                Finding::problem(
                    "rp-filter",
                    "drops what comes from 172.16.0.3, whose way back is eth1",
                    "this node hears nobody and takes the VIP, too",
                )
                .about("eth0")
                .remedy("sysctl -w net.ipv4.conf.eth0.rp_filter=2"),
                Finding::fine("kernel", "Linux 6.1.0"),
            ],
        }
    }

    #[test]
    fn what_is_wrong_has_cause_and_command_and_what_is_well_one_line() {
        let expected = "\
lb1, /etc/xvip/xvip.toml: no daemon runs, listened for 3s

problem  rp-filter  eth0: drops what comes from 172.16.0.3,
                    whose way back is eth1
                    this node hears nobody and takes the
                    VIP, too
                    > sysctl -w net.ipv4.conf.eth0.rp_filter=2
fine     kernel     Linux 6.1.0

problems: 1, advice: 0, fine: 1
";
        assert_eq!(render(&report(), 60, Colours::Off), expected);
        let coloured = render(&report(), 60, Colours::On);
        assert!(coloured.contains("\x1b[1;31mproblem\x1b[0m  rp-filter"), "{coloured}");
        assert!(coloured.contains("\x1b[32mfine   \x1b[0m"), "{coloured}");
    }

    #[test]
    fn how_long_to_listen() {
        assert_eq!(listening_time("500ms"), Ok(Duration::from_millis(500)));
        assert!(listening_time("soon").is_err());
        assert!(listening_time("1h").is_err());
    }

    #[test]
    fn the_schema_names_every_field_of_a_report() {
        let schema: serde_json::Value = serde_json::from_str(&schema::text::<Report>()).expect("JSON");
        let json = serde_json::to_value(report()).expect("JSON");
        for (name, _) in json.as_object().expect("an object") {
            assert!(schema["properties"][name].is_object(), "{name}: {schema:#}");
        }
        let finding = &schema["$defs"]["Finding"];
        assert_eq!(finding["required"], serde_json::json!(["id", "severity", "seen", "remedy"]));
    }
}
