//! What `xvip status` tells of the connection log.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The connection log; numbers since the daemon was started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectionLogStatus {
    /// The file that is written to.
    pub file: PathBuf,
    /// Connections of logged services that have not ended, through this node.
    pub open: u64,
    /// `start` records written.
    pub starts: u64,
    /// `end` records written.
    pub ends: u64,
    /// Connections that were left out since they carried nothing (`skip_empty`).
    pub skipped: u64,
    /// Ends of which it could not be told how.
    pub unknown: u64,
    /// Changes that found no room in the queue; the flow tables were gone through for what they had to say.
    pub dropped: u64,
    /// Records that could not be written.
    pub lost: u64,
    /// Why records cannot be written; absent while they can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
