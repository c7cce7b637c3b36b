//! What is asked and answered on the control socket.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | 200, [`Status`] |
//! | `POST /v1/reload` | 200 or 422, [`ReloadAnswer`] |
//! | `POST /v1/leave` | 200, [`LeaveAnswer`]; then the daemon ends, and all but its process stays for a successor |
//! | `GET /v1/vrrp` | 200, a list of [`VrrpStatus`] |
//! | `GET /v1/history`, with `?name=NAME`, `?limit=N`, `?name=NAME&limit=N` or without | 200, [`History`]: the last N events that concern NAME |
//! | `POST /v1/vip/release`, `POST /v1/vip/acquire`, each with `?name=NAME` or without | 200 or 422, [`VipAnswer`] |
//! | `POST /v1/backend` with a [`BackendOrder`] | 200 or 422, [`BackendAnswer`] |
//! | `POST /v1/rebalance` with a [`RebalanceOrder`] | 200 or 422, [`RebalanceAnswer`] |
//!
//! Any other answer has a JSON object with the one field `error`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::{
    history::History,
    status::{Status, VrrpStatus},
};

/// Path of [`Request::Status`].
pub const STATUS: &str = "/v1/status";
/// Path of [`Request::Reload`].
pub const RELOAD: &str = "/v1/reload";
/// Path of [`Request::Leave`].
pub const LEAVE: &str = "/v1/leave";
/// Path of [`Request::Vrrp`].
pub const VRRP: &str = "/v1/vrrp";
/// Path of [`Request::History`].
pub const HISTORY: &str = "/v1/history";
/// Path of [`Request::Backend`].
pub const BACKEND: &str = "/v1/backend";
/// Path of [`Request::Rebalance`].
pub const REBALANCE: &str = "/v1/rebalance";
/// Path of [`Request::Vip`] with [`VipAction::Release`].
pub const VIP_RELEASE: &str = "/v1/vip/release";
/// Path of [`Request::Vip`] with [`VipAction::Acquire`].
pub const VIP_ACQUIRE: &str = "/v1/vip/acquire";

/// What the server asks of the controller.
#[derive(Debug)]
pub enum Request {
    /// Tell what is.
    Status(oneshot::Sender<Box<Status>>),
    /// Read the configuration again.
    Reload(oneshot::Sender<ReloadAnswer>),
    /// Leave to a successor on this node.
    Leave(oneshot::Sender<LeaveAnswer>),
    /// Tell what the VRRP instances do: what [`Request::Status`] says of them, for who asks often.
    Vrrp(oneshot::Sender<Vec<VrrpStatus>>),
    /// Tell what has happened.
    History {
        /// To whom: see [`crate::history::Event::concerns`]; `None`: to all.
        name: Option<String>,
        /// Only the last so many events.
        limit: Option<u32>,
        /// Where the answer goes.
        reply: oneshot::Sender<History>,
    },
    /// Hand VIPs over, or take them back.
    Vip {
        /// Which of the two.
        action: VipAction,
        /// An instance, a service or a VIP; `None`: the only instance or sync group.
        name: Option<String>,
        /// Who says so, if that is not `xvip vip`.
        by: Option<String>,
        /// Where the answer goes.
        reply: oneshot::Sender<VipAnswer>,
    },
    /// Take backends out, or in again, or change their weights.
    Backend {
        /// Which, and how.
        order: BackendOrder,
        /// Who says so.
        by: String,
        /// Where the answer goes.
        reply: oneshot::Sender<BackendAnswer>,
    },
    /// Plan a rebalance, and begin it.
    Rebalance(RebalanceOrder, oneshot::Sender<RebalanceAnswer>),
}

/// What is to become of a backend, until it is taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendOrder {
    /// Its name in the file.
    pub backend: String,
    /// The service whose backend is meant; without it, those of every service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// What to do.
    #[serde(flatten)]
    pub action: BackendAction,
    /// For whom root asks, if that is known; shown beside the user that the socket tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// What to do with a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum BackendAction {
    /// No new connections. Those that it has stay, until the deadline if there is one.
    Drain {
        /// After so many seconds they are reset.
        #[serde(default)]
        deadline_s: Option<u64>,
    },
    /// The same without a deadline, by HAProxy's word for it: its socket calls the backend MAINT, not DRAIN.
    Maintain,
    /// No new connections, and those that it has are reset at once.
    Disable,
    /// What the file says of it holds again.
    Enable,
    /// Another weight than the file's.
    Weight {
        /// 0 to 256; without it the file's again.
        #[serde(default)]
        weight: Option<u32>,
    },
}

/// What became of a [`BackendOrder`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendAnswer {
    /// What is so now, a line for each backend that was meant.
    pub lines: Vec<String>,
    /// What else should be known.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Why nothing was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Asks for a rebalance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebalanceOrder {
    /// Of one service; without it, of every one that may be rebalanced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// Who says so, if that is not `xvip rebalance`.
    #[serde(skip)]
    pub by: Option<String>,
}

/// The plans of a rebalance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RebalanceAnswer {
    /// One for each service.
    pub plans: Vec<RebalancePlan>,
    /// Why there is none; nothing was begun then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Who of a service's backends loses how many connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RebalancePlan {
    /// The service.
    pub service: String,
    /// Tolerated distance from the fair share, in percent of it.
    pub margin: u8,
    /// A backend with no more connections loses none.
    pub floor: u32,
    /// Connections reset per second, at most.
    pub rate: u32,
    /// How many are reset in all.
    pub resets: u64,
    /// Whether it has begun.
    pub begun: bool,
    /// Why it has not, although it was asked for and there is something to do; or why there is nothing to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The backends, in the file's order.
    pub backends: Vec<PlannedBackend>,
}

/// What becomes of a backend in a rebalance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedBackend {
    /// Its name.
    pub name: String,
    /// Its weight.
    pub weight: u16,
    /// Its connections.
    pub active: u64,
    /// Why it takes no part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<String>,
    /// Its fair share.
    pub fair: u64,
    /// How many of its connections are reset.
    pub resets: u64,
    /// How many it has in the end, if each client comes back at once.
    pub after: u64,
}

/// What to do with a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VipAction {
    /// Hand it over, and leave it to any other node.
    Release,
    /// End that, and take it from whom we outrank.
    Acquire,
}

impl std::fmt::Display for VipAction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Release => "release",
            Self::Acquire => "acquire",
        })
    }
}

/// Whose VIPs are about to move. What becomes of that is seen in the status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipAnswer {
    /// The instances that were told: several where they are a sync group.
    pub instances: Vec<String>,
    /// How long it may take.
    pub patience_ms: u64,
    /// What is wrong with the name; nobody was told then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The daemon is about to leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaveAnswer {
    /// So long the other nodes wait for the successor; none where this node has no VIP of theirs.
    pub respite_ms: Option<u64>,
}

/// What became of a reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadAnswer {
    /// Whether the new configuration is in force. If not, nothing has changed.
    pub applied: bool,
    /// Why not, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Errors and warnings, each as `xvip check` would print it.
    pub findings: Vec<String>,
}

/// The query that carries a name (RFC 3986 §2.1 and §3.4).
pub fn name_query(name: &str) -> String {
    let mut query = "name=".to_owned();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            query.push(char::from(byte));
        } else {
            query.push_str(&format!("%{byte:02X}"));
        }
    }
    query
}

/// The name in a query, if there is one.
///
/// # Errors
/// It has another key, or its value cannot be read.
pub fn queried_name(query: Option<&str>) -> Result<Option<String>, String> {
    let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(None) };
    let value = query.strip_prefix("name=").filter(|value| !value.contains('&'));
    let value = value.ok_or_else(|| "the query can only be `name=NAME`".to_owned())?;
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match byte {
            b'%' => match (digit(rest.next()), digit(rest.next())) {
                (Some(high), Some(low)) => bytes.push((high << 4 | low) as u8),
                _ => return Err("a `%` in the name is not followed by two hexadecimal digits".to_owned()),
            },
            b'+' => bytes.push(b' '),
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).map(Some).map_err(|_| "the name is not UTF-8".to_owned())
}

/// The path and the query of [`Request::History`].
pub fn history_path(name: Option<&str>, limit: Option<u32>) -> String {
    let parts = [name.map(name_query), limit.map(|limit| format!("limit={limit}"))];
    let query = parts.into_iter().flatten().collect::<Vec<_>>().join("&");
    if query.is_empty() { HISTORY.to_owned() } else { format!("{HISTORY}?{query}") }
}

/// The name and the limit in a query.
///
/// # Errors
/// It has another key, or one twice, or a value that cannot be read.
pub fn queried_history(query: Option<&str>) -> Result<(Option<String>, Option<u32>), String> {
    let (mut name, mut limit) = (None, None);
    for part in query.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
        match part.strip_prefix("limit=") {
            Some(number) if limit.is_none() => {
                limit = Some(number.parse().map_err(|_| "the limit must be a whole number".to_owned())?);
            }
            None if name.is_none() && part.starts_with("name=") => name = queried_name(Some(part))?,
            _ => return Err("the query can only be `name=NAME` and `limit=N`, each once".to_owned()),
        }
    }
    Ok((name, limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_of_the_history_survives_its_way_through_a_query() {
        for (name, limit) in
            [(None, None), (Some("a&limit=3 b"), None), (None, Some(7)), (Some("fd10::10"), Some(0))]
        {
            let path = history_path(name, limit);
            let query = path.strip_prefix(HISTORY).expect("the path").strip_prefix('?');
            assert_eq!(queried_history(query), Ok((name.map(str::to_owned), limit)), "{path}");
        }
        for query in ["limit=-1", "limit=1&limit=2", "name=a&name=b", "since=1", "limit=", "name=%"] {
            queried_history(Some(query)).expect_err(query);
        }
    }

    #[test]
    fn a_name_survives_its_way_through_a_query() {
        for name in ["main", "fd10::10", "a b+c%d&e=f", "größe", ""] {
            let query = name_query(name);
            assert!(query.is_ascii() && format!("/?{query}").parse::<axum::http::Uri>().is_ok(), "{query}");
            assert_eq!(queried_name(Some(&query)), Ok(Some(name.to_owned())));
        }
        assert_eq!(name_query("fd10::10"), "name=fd10%3A%3A10");
        assert_eq!(queried_name(None), Ok(None));
        assert_eq!(queried_name(Some("")), Ok(None));
        // As `curl` and people write it.
        assert_eq!(queried_name(Some("name=fd10::10")), Ok(Some("fd10::10".into())));
    }

    #[test]
    fn a_strange_query_is_refused() {
        for query in ["nam=main", "name=a&name=b", "name=%", "name=%2", "name=%zz", "name=%ff"] {
            assert!(queried_name(Some(query)).is_err(), "{query}");
        }
    }
}
