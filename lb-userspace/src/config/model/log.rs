//! `[log]`: where the daemon's log goes, and how much of it.

use schemars::JsonSchema;
use serde::Serialize;

/// `[log]`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Log {
    /// Where it goes.
    pub target: LogTarget,
    /// How a line on stderr looks.
    pub format: LogFormat,
    /// The least important lines that are written. `XVIP_LOG` in the environment overrides it.
    pub level: LogLevel,
}

/// Where the log goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LogTarget {
    /// To the journal where stderr is the journal's (`JOURNAL_STREAM`, systemd.exec(5)), else to stderr.
    #[default]
    Auto,
    /// To the journal in its own protocol, so that each field can be searched for.
    Journal,
    /// To stderr.
    Stderr,
}

/// How a line on stderr looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// An object on each line.
    Json,
}

/// How important a line must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// What does not work.
    Error,
    /// And what somebody should look at.
    Warn,
    /// And what has changed.
    #[default]
    Info,
    /// And each check and each write to a map.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// As the file writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}
