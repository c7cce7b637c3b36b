//! `[[notify]]`: who is told of an event, and of which ones.

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::Serialize;

use super::as_text;

/// Default of `notify.user`: a program that is told something needs no rights.
pub const DEFAULT_HOOK_USER: &str = "nobody";
/// Default of `notify.timeout`.
pub const DEFAULT_HOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// Default of `notify.on`: all there is.
pub const DEFAULT_HOOK_TOPICS: [Topic; 3] = [Topic::Vrrp, Topic::Backend, Topic::Problem];

/// A `[[notify]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Hook {
    /// How it is told.
    #[serde(flatten)]
    pub action: HookAction,
    /// It is given up then: a program is killed.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// Of what, each once.
    pub on: Vec<Topic>,
    /// Of whom: services, backends, VRRP instances, VIPs. Empty: of everybody.
    pub names: Vec<String>,
}

/// How an event is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum HookAction {
    /// A program is run.
    Command {
        /// The program, by its absolute path, and its arguments.
        command: Vec<String>,
        /// Who runs it.
        user: String,
    },
    /// It is posted.
    Url {
        /// `http://` or `https://`, a host, perhaps a port, and a path.
        url: String,
        /// The certificates that an https server's must chain to; without it the system's.
        #[serde(skip_serializing_if = "Option::is_none")]
        ca_file: Option<PathBuf>,
    },
}

/// What an event is about, as `notify.on` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Topic {
    /// Who has the VIP: states of VRRP instances.
    Vrrp,
    /// Backends: up, down, taken out or in by an operator.
    Backend,
    /// Problems, as `xvip status` lists them: one begins or ends.
    Problem,
}
