//! `xvip who`: whose connection a backend saw from a NAT port, by the connection log and the flow tables.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use jiff::{Timestamp, tz::TimeZone};

use super::{
    command::{EXIT_USAGE, failed},
    schema,
};
use crate::{
    config::{
        self, LoadError,
        model::{Config, ConnectionLog, DEFAULT_CONFIG, DEFAULT_PIN_PATH},
    },
    connections::{
        files::LogFiles,
        moment::{Moment, moment},
        past::each_line,
        record::milliseconds,
        who::{Answer, Found, LiveFlow, Origin, Question, Search},
    },
    dataplane::PinnedFlows,
    flows::FlowState,
    status::table::{Column, Screen, draw, fitting},
};

/// The arguments of `xvip who`.
#[derive(Clone, Debug, clap::Args)]
pub struct WhoArgs {
    /// The port that the backend saw the connection come from
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub nat_port: u16,
    /// When: 2026-01-02T03:04:05Z (without Z: local time), 03:04:05, seconds since 1970, "2m ago" or "now"
    #[arg(long, value_name = "TIME", value_parser = at, default_value = "now", allow_hyphen_values = true)]
    pub at: Moment,
    /// Only connections to this backend: its name, or its address, with or without port
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
    /// How far the backend's clock may be from this node's
    #[arg(long, value_name = "TIME", value_parser = slack, default_value = "1s")]
    pub slack: Duration,
    /// The configuration file, for the log's directory, the pin path and the backends' names
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Print one JSON object, whose form is stable
    #[arg(long)]
    pub json: bool,
    /// Print the JSON Schema of that object
    #[arg(long, value_parser = schema::asked::<Answer>)]
    pub json_schema: bool,
}

fn at(text: &str) -> Result<Moment, String> {
    moment(text, Timestamp::now(), &TimeZone::system()).map_err(|error| error.to_string())
}

fn slack(text: &str) -> Result<Duration, String> {
    let is_sane = text.len() <= 16;
    let slack = is_sane.then(|| humantime::parse_duration(text).ok()).flatten();
    slack
        .filter(|slack| *slack <= Duration::from_secs(3600))
        .ok_or_else(|| "write a time like 2s, at most 1h".to_owned())
}

/// Prints who had the port. Exits with 1 where nobody is found or the log cannot be read, with 2 for a configuration that is
/// refused.
pub fn run(args: &WhoArgs) -> ExitCode {
    let config = match config::load(&args.config) {
        Ok(checked) => Some(checked.config),
        Err(LoadError::Unreadable { .. }) if args.config == Path::new(DEFAULT_CONFIG) => None,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let slack = u64::try_from(args.slack.as_millis()).unwrap_or(u64::MAX);
    let question = Question { nat_port: args.nat_port, at: args.at, slack, backend: args.backend.clone() };
    let answer = match answer(question, config.as_ref()) {
        Ok(answer) => answer,
        Err(error) => return failed(&error),
    };
    let text = if args.json {
        match serde_json::to_string_pretty(&answer) {
            Ok(text) => format!("{text}\n"),
            Err(error) => return failed(&error.into()),
        }
    } else {
        render(&answer, &Screen::of_stdout())
    };
    say(&text, !answer.connections.is_empty())
}

/// Prints, and gives the code for whether that is an answer.
fn say(text: &str, is_answer: bool) -> ExitCode {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // `xvip who | head`
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => failed(&error.into()),
        _ if is_answer => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn answer(question: Question, config: Option<&Config>) -> anyhow::Result<Answer> {
    let pin_path = config.map_or(Path::new(DEFAULT_PIN_PATH), |config| &config.node.pin_path);
    let log = config.map_or_else(ConnectionLog::default, |config| config.connection_log.clone());
    let files = LogFiles::of(&log.directory, pin_path);
    // The flows first: what ends meanwhile has its end in the log then.
    let now = milliseconds(SystemTime::now());
    let flows = live(&question, pin_path, config, now);
    let mut search = Search::new(question);
    let open = files.open().with_context(|| {
        format!("the connection log in {} cannot be read (root only)", log.directory.display())
    })?;
    for file in open {
        each_line(file, &mut |line| search.line(line))
            .with_context(|| format!("reading the connection log in {}", log.directory.display()))?;
    }
    let (flows, problem) = match flows {
        Ok(flows) => (flows, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    let mut answer = search.finish(&flows, now);
    if let Some(error) = problem {
        answer.notes.push(format!("connections that are open now are known by the log alone: {error:#}"));
    }
    Ok(answer)
}

/// The flows that there are with this port.
fn live(
    question: &Question,
    pin_path: &Path,
    config: Option<&Config>,
    now: u64,
) -> anyhow::Result<Vec<LiveFlow>> {
    let read = PinnedFlows::read(pin_path, &|flow| {
        flow.nat_port == Some(question.nat_port)
            && matches!(flow.state, FlowState::Established | FlowState::Closing)
    });
    let read =
        read.with_context(|| format!("the flow tables below {} cannot be read", pin_path.display()))?;
    let services = config.map_or(&[][..], |config| &config.services);
    let names: BTreeMap<SocketAddr, &str> = (services.iter())
        .map(|service| (SocketAddr::new(service.vip.address, service.port.get()), service.name.as_str()))
        .collect();
    let flows = read.flows.iter().filter_map(|flow| {
        let backend_address = flow.translated_to?;
        let service = services.iter().find(|service| {
            (service.vip.address, service.port.get()) == (flow.service.ip(), flow.service.port())
        });
        let backend = service
            .and_then(|service| service.backends.iter().find(|backend| backend.address == backend_address));
        Some(LiveFlow {
            client: flow.client,
            vip: flow.service,
            service: names.get(&flow.service).map_or_else(|| "?".to_owned(), |name| (*name).to_owned()),
            backend: backend.map_or_else(|| backend_address.to_string(), |backend| backend.name.clone()),
            backend_address,
            nat_port: flow.nat_port?,
            opened: now.saturating_sub(u64::from(flow.age) * 1000),
        })
    });
    Ok(flows.collect())
}

fn render(answer: &Answer, screen: &Screen) -> String {
    let mut text = if answer.connections.is_empty() {
        let span = span(&answer.from, &answer.to);
        screen.wrap(&format!("nobody is known to have had NAT port {} at {span}", answer.nat_port), 2)
    } else {
        draw(&fitting(columns(&answer.connections), screen), screen)
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    for note in &answer.notes {
        text += screen.wrap(&format!("note: {note}"), 6).trim_end();
        text.push('\n');
    }
    text
}

fn columns(connections: &[Found]) -> Vec<Column> {
    let mut columns = [
        Column::new("client", 0),
        Column::new("backend", 0),
        Column::new("service", 3),
        Column::new("opened", 1),
        Column::new("closed", 0),
        Column::new("how", 0),
        Column::new("backend's address", 5),
        Column::new("from", 4),
    ];
    for found in connections {
        let source = match found.source {
            Origin::Log => "log",
            Origin::FlowTable => "flow table",
        };
        let cells = [
            found.client.to_string(),
            found.backend.clone(),
            found.service.clone(),
            found.opened.clone(),
            closed(found),
            how(found),
            found.backend_address.map(|address| address.to_string()).unwrap_or_default(),
            source.to_owned(),
        ];
        for (column, cell) in columns.iter_mut().zip(cells) {
            column.push(cell, None);
        }
    }
    columns.into_iter().filter(Column::says_something).collect()
}

fn span(from: &str, to: &str) -> String {
    if from == to { from.to_owned() } else { format!("{from} (until {to})") }
}

fn closed(found: &Found) -> String {
    match &found.closed {
        Some(closed) => closed.clone(),
        None if found.open => "still open".to_owned(),
        None => "not known".to_owned(),
    }
}

fn how(found: &Found) -> String {
    let how = found.ended.map_or("", |ended| ended.name());
    if found.off_by_ms == 0 {
        how.to_owned()
    } else {
        format!("{how} (off by {} ms)", found.off_by_ms).trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{connections::record::Ended, status::table::Look};

    #[test]
    fn the_text_has_a_line_for_each_and_the_notes() {
        let found = Found {
            client: ([10, 0, 0, 7], 50_000).into(),
            service: "api".to_owned(),
            vip: ([172, 16, 0, 10], 6443).into(),
            backend: "m4".to_owned(),
            backend_address: Some(([172, 16, 0, 4], 6443).into()),
            nat_port: 50_000,
            nat_address: None,
            opened: "2026-01-02T03:04:05.678Z".to_owned(),
            closed: None,
            ended: None,
            open: true,
            source: Origin::FlowTable,
            off_by_ms: 0,
        };
        let ended = Found {
            closed: Some("2026-01-02T03:04:06.000Z".to_owned()),
            ended: Some(Ended::ResetByBackend),
            open: false,
            source: Origin::Log,
            off_by_ms: 12,
            ..found.clone()
        };
        let mut answer = Answer {
            nat_port: 50_000,
            from: "2026-01-02T03:04:05.000Z".to_owned(),
            to: "2026-01-02T03:04:06.000Z".to_owned(),
            connections: vec![found, ended],
            log_begins: None,
            unreadable_lines: 0,
            notes: vec!["a note".to_owned()],
        };
        let text = render(&answer, &Screen::PIPE);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        for (line, parts) in [
            (lines[1], ["10.0.0.7:50000", "api", "172.16.0.4:6443", "still open", "flow table"]),
            (
                lines[2],
                [
                    "10.0.0.7:50000",
                    "03:04:05.678Z",
                    "03:04:06.000Z",
                    "reset-by-backend (off by 12 ms)",
                    "log",
                ],
            ),
        ] {
            for part in parts {
                assert!(line.contains(part), "{part} in {line}");
            }
        }
        assert_eq!(lines[3], "note: a note");
        answer.connections.clear();
        assert!(
            render(&answer, &Screen::PIPE)
                .starts_with("nobody is known to have had NAT port 50000 at 2026-01-02")
        );
    }

    #[test]
    fn eighty_columns_are_enough() {
        let found = Found {
            client: "[2001:db8::7]:50000".parse().expect("an address"),
            service: "kube-apiserver".to_owned(),
            vip: "[2001:db8::10]:6443".parse().expect("an address"),
            backend: "master1".to_owned(),
            backend_address: "[2001:db8::4]:6443".parse().ok(),
            nat_port: 50_000,
            nat_address: None,
            opened: "2026-01-02T03:04:05.678Z".to_owned(),
            closed: Some("2026-01-02T03:04:06.000Z".to_owned()),
            ended: Some(Ended::ResetByBackend),
            open: false,
            source: Origin::Log,
            off_by_ms: 0,
        };
        for width in [80, 200] {
            let screen = Screen { width: Some(width), look: Look::Terminal, ..Screen::PIPE };
            let shown = draw(&fitting(columns(std::slice::from_ref(&found)), &screen), &screen);
            assert!(shown.lines().all(|line| line.chars().count() <= width.into()), "{shown}");
            assert_eq!(shown.lines().count(), 3, "a heading, a line, and one between: {shown}");
            assert_eq!(shown.contains("[2001:db8::4]:6443"), width == 200, "{shown}");
        }
    }

    #[test]
    fn a_wrong_slack_is_refused() {
        assert_eq!(slack("1500ms"), Ok(Duration::from_millis(1500)));
        for text in ["", "1", "2h", "18446744073709551615s 1000000000ns"] {
            assert!(slack(text).is_err(), "{text}");
        }
    }
}
