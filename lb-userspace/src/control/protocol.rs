//! What is asked and answered on the control socket.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | 200, [`Status`] |
//! | `POST /v1/reload` | 200 or 422, [`ReloadAnswer`] |
//!
//! Any other answer has a JSON object with the one field `error`.

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::status::Status;

/// Path of [`Request::Status`].
pub const STATUS: &str = "/v1/status";
/// Path of [`Request::Reload`].
pub const RELOAD: &str = "/v1/reload";

/// What the server asks of the controller.
#[derive(Debug)]
pub enum Request {
    /// Tell what is.
    Status(oneshot::Sender<Box<Status>>),
    /// Read the configuration again.
    Reload(oneshot::Sender<ReloadAnswer>),
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
