//! Where the daemon's log goes: the journal in its own protocol, or stderr as text or JSON.
//!
//! In the journal an event has its fields: `journalctl -u xvip XVIP_EVENT=vrrp XVIP_TO=active`. On stderr as text it is a
//! sentence alone, which has all of them.

use std::{
    fmt,
    io::{self, IsTerminal as _},
};

use nix::sys::stat::fstat;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    warn,
};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, Full, Writer},
        time::{FormatTime as _, SystemTime},
    },
    layer::SubscriberExt as _,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt as _,
};

use crate::{
    config::model::{Log, LogFormat, LogLevel, LogTarget},
    history::teller::TARGET,
};

/// Which log lines are written: a level, or a filter as `tracing_subscriber::EnvFilter` reads it. Overrides `log.level`.
const VARIABLE: &str = "XVIP_LOG";
/// What fields are called in the journal: `XVIP_FROM`.
const PREFIX: &str = "XVIP";
/// By which systemd tells what stderr is (systemd.exec(5)).
const STREAM_VARIABLE: &str = "JOURNAL_STREAM";

/// Changes the level of the log. The default one changes nothing.
#[derive(Clone, Debug, Default)]
pub struct LevelSwitch(Option<reload::Handle<EnvFilter, Registry>>);

impl LevelSwitch {
    /// From now on only lines of at least this level are written. `XVIP_LOG` stays in force where it is set.
    pub fn set(&self, level: LogLevel) {
        if let Some(switch) = &self.0
            && forced().is_none()
            && let Err(error) = switch.reload(EnvFilter::new(level.as_str()))
        {
            warn!("the level of the log could not be changed: {error}");
        }
    }
}

/// What the environment says of the level.
fn forced() -> Option<EnvFilter> {
    std::env::var_os(VARIABLE)?;
    EnvFilter::try_from_env(VARIABLE).ok()
}

/// Opens the log of this process. Once.
pub fn begin(settings: &Log) -> LevelSwitch {
    let stderr_is_journal = is_journal(&std::env::var(STREAM_VARIABLE).unwrap_or_default());
    let wants_journal = match settings.target {
        LogTarget::Journal => true,
        LogTarget::Auto => stderr_is_journal,
        LogTarget::Stderr => false,
    };
    let (journal, problem) = match wants_journal.then(tracing_journald::layer) {
        Some(Ok(journal)) => {
            let journal =
                journal.with_syslog_identifier("xvip".to_owned()).with_priority_mappings(priorities());
            (Some(journal.with_field_prefix(Some(PREFIX.to_owned()))), None)
        }
        Some(Err(error)) => (None, Some(error)),
        None => (None, None),
    };
    let (filter, switch) =
        reload::Layer::new(forced().unwrap_or_else(|| EnvFilter::new(settings.level.as_str())));
    let stderr = journal.is_none().then(|| to_stderr(settings.format, !stderr_is_journal));
    let log = tracing_subscriber::registry().with(filter).with(journal).with(stderr);
    if log.try_init().is_err() {
        // Somebody else has one: a test.
        return LevelSwitch::default();
    }
    if let Some(error) = problem {
        warn!("the journal cannot be reached, so the log goes to stderr: {error}");
    }
    LevelSwitch(Some(switch))
}

/// What is as it should be is no notice, which `journalctl` makes bold.
const fn priorities() -> PriorityMappings {
    PriorityMappings {
        error: Priority::Error,
        warn: Priority::Warning,
        info: Priority::Informational,
        debug: Priority::Debug,
        trace: Priority::Debug,
    }
}

/// Whether stderr is what systemd said it is: a device and an inode. Whoever inherits the variable may have another one.
fn is_journal(stream: &str) -> bool {
    let Ok(data) = fstat(io::stderr()) else { return false };
    stream == format!("{}:{}", data.st_dev, data.st_ino)
}

fn to_stderr<S>(format: LogFormat, with_time: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    match format {
        LogFormat::Json => Box::new(lines.json().flatten_event(true).with_timer(SystemTime)),
        LogFormat::Text => {
            let ansi = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            Box::new(lines.with_ansi(ansi).event_format(Sentences { with_time }))
        }
    }
}

/// Lines for people: those of events are the sentence alone.
struct Sentences {
    /// The journal has its own clock.
    with_time: bool,
}

impl<S, N> FormatEvent<S, N> for Sentences
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.with_time {
            SystemTime.format_time(&mut writer)?;
            writer.write_char(' ')?;
        }
        if event.metadata().target() != TARGET {
            let others: Format<Full, ()> = Format::default().with_target(false).without_time();
            return others.format_event(context, writer, event);
        }
        write_level(&mut writer, *event.metadata().level())?;
        let mut sentence = Sentence::default();
        event.record(&mut sentence);
        writeln!(writer, " {}", sentence.0)
    }
}

/// As wide as the others' lines have it.
fn write_level(writer: &mut Writer<'_>, level: Level) -> fmt::Result {
    let colour = match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        _ => 32,
    };
    if writer.has_ansi_escapes() {
        write!(writer, "\u{1b}[{colour}m{level:>5}\u{1b}[0m")
    } else {
        write!(writer, "{level:>5}")
    }
}

/// What an event says of itself.
#[derive(Default)]
struct Sentence(String);

impl Visit for Sentence {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
