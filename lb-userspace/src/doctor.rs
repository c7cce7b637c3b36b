//! `xvip doctor`: what on this node, its network interface and its network will keep xvip from working, with the cause and
//! the command that mends it.
//!
//! ```text
//! gather (files, netlink, sockets, processes) --> Facts --> findings::* (pure, one file each) --> Report
//! ```
//!
//! Only [`gather`] asks the system, and it changes nothing: it may run beside a live daemon. Two things can be seen by
//! others: questions for the VIPs' owner (ARP, neighbour discovery), and one check of each backend.

pub mod adverts;
pub mod drivers;
pub mod facts;
pub mod findings;
pub mod firewall;
pub mod gather;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Serialize;

use self::facts::Facts;

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Something does not work, or will not when it is needed.
    Problem,
    /// It works, and could be better or safer; or it could not be looked at.
    Advice,
    /// All is well.
    Fine,
}

impl Severity {
    /// The word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Problem => "problem",
            Self::Advice => "advice",
            Self::Fine => "fine",
        }
    }
}

/// Something that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Finding {
    /// What was looked at; a name that stays the same from release to release.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: an interface, an instance, a backend, a VIP; absent where it is about the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What was seen.
    pub seen: String,
    /// What comes of it, and why; absent where all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The commands, or the lines of a file, that mend it; empty where all is well.
    pub remedy: Vec<String>,
}

impl Finding {
    /// All is well.
    pub fn fine(id: &'static str, seen: impl Into<String>) -> Self {
        Self {
            id,
            severity: Severity::Fine,
            subject: None,
            seen: seen.into(),
            cause: None,
            remedy: Vec::new(),
        }
    }

    /// Something does not work.
    pub fn problem(id: &'static str, seen: impl Into<String>, cause: impl Into<String>) -> Self {
        Self { severity: Severity::Problem, cause: Some(cause.into()), ..Self::fine(id, seen) }
    }

    /// Something could be better.
    pub fn advice(id: &'static str, seen: impl Into<String>, cause: impl Into<String>) -> Self {
        Self { severity: Severity::Advice, ..Self::problem(id, seen, cause) }
    }

    /// Something could not be looked at.
    pub fn unseen(id: &'static str, what: &str, why: &str) -> Self {
        Self::advice(id, format!("{what} could not be looked at"), why)
    }

    /// What it is about.
    #[must_use]
    pub fn about(self, subject: impl Into<String>) -> Self {
        Self { subject: Some(subject.into()), ..self }
    }

    /// A command that mends it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy.push(remedy.into());
        self
    }
}

/// What the doctor found, the worst first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Report {
    /// `node.name`
    pub node: String,
    /// The configuration file.
    pub config: PathBuf,
    /// Whether a daemon runs with the control socket that was named.
    pub daemon_runs: bool,
    /// For how long the network was listened to, in milliseconds.
    pub listened_ms: u64,
    /// How many problems there are.
    pub problems: usize,
    /// How many pieces of advice.
    pub advice: usize,
    /// Everything that was looked at, the worst first.
    pub findings: Vec<Finding>,
}

/// Judges what was gathered.
pub fn report(facts: &Facts) -> Report {
    let mut findings: Vec<Finding> = findings::ALL.iter().flat_map(|judge| judge(facts)).collect();
    // Stable: the order of the list stays within each.
    findings.sort_by_key(|finding| finding.severity);
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let listened = facts.wire.listened.as_ref().and_then(|listened| listened.as_ref().ok());
    Report {
        node: facts.config.node.name.clone(),
        config: facts.file.clone(),
        daemon_runs: facts.running().is_some(),
        listened_ms: listened.map_or(0, |listened| u64::try_from(listened.as_millis()).unwrap_or(u64::MAX)),
        problems: count(Severity::Problem),
        advice: count(Severity::Advice),
        findings,
    }
}
