//! `[stats_socket]`: a socket that speaks as HAProxy's does, for the scripts and monitors that are there already.

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use super::as_text;

/// Default of `stats_socket.mode`: the owner and the group.
pub const DEFAULT_STATS_SOCKET_MODE: u32 = 0o660;
/// Default of `stats_socket.timeout`, as HAProxy's `stats timeout`.
pub const DEFAULT_STATS_SOCKET_TIMEOUT: Duration = Duration::from_secs(10);

/// `[stats_socket]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct StatsSocket {
    /// Where it is; at most 107 bytes (unix(7)).
    pub path: PathBuf,
    /// Who may connect: the bits of chmod(1), 0 to 0o777. To connect takes the right to write.
    #[serde(serialize_with = "as_octal")]
    #[schemars(with = "String")]
    pub mode: u32,
    /// The group that the socket belongs to; without one, the daemon's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// What whoever connects may do.
    pub level: StatsLevel,
    /// Who says nothing for so long, or does not take the answer, is disconnected.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "String")]
    pub timeout: Duration,
}

/// What may be done on the socket, each level with what those before it have; HAProxy's words and HAProxy's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StatsLevel {
    /// To look at what is not sensitive: no addresses.
    User,
    /// To look at everything.
    #[default]
    Operator,
    /// To take backends out and in, and to change weights.
    Admin,
}

impl StatsLevel {
    /// As the file and HAProxy write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// A mode as the file writes it.
pub fn mode_text(mode: u32) -> String {
    format!("{mode:03o}")
}

fn as_octal<S: Serializer>(mode: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&mode_text(*mode))
}
