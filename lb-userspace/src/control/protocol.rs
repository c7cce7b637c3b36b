//! What is asked and answered on the control socket.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | 200, [`Status`] |
//! | `POST /v1/reload` | 200 or 422, [`ReloadAnswer`] |
//! | `POST /v1/leave` | 200, [`LeaveAnswer`]; then the daemon ends, and all but its process stays for a successor |
//! | `GET /v1/vrrp` | 200, a list of [`VrrpStatus`] |
//! | `POST /v1/vip/release`, `POST /v1/vip/acquire`, each with `?name=NAME` or without | 200 or 422, [`VipAnswer`] |
//!
//! Any other answer has a JSON object with the one field `error`.

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::status::{Status, VrrpStatus};

/// Path of [`Request::Status`].
pub const STATUS: &str = "/v1/status";
/// Path of [`Request::Reload`].
pub const RELOAD: &str = "/v1/reload";
/// Path of [`Request::Leave`].
pub const LEAVE: &str = "/v1/leave";
/// Path of [`Request::Vrrp`].
pub const VRRP: &str = "/v1/vrrp";
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
    /// Hand VIPs over, or take them back.
    Vip {
        /// Which of the two.
        action: VipAction,
        /// An instance, a service or a VIP; `None`: the only instance or sync group.
        name: Option<String>,
        /// Where the answer goes.
        reply: oneshot::Sender<VipAnswer>,
    },
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

#[cfg(test)]
mod tests {
    use super::*;

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
