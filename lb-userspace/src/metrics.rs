//! The status as metrics, for Prometheus and whatever else reads its formats. Pure: a status in, a text out.
//!
//! Each metric is one row of a table ([`family::Family`]): its name, what it means, its labels, and how it is read from a
//! [`Status`]. The exposition, [`catalogue`] and the page `docs/metrics.md` are made of that table, so that they cannot differ.
//!
//! Names follow the conventions of Prometheus: base units, `_total` for what is counted, `_info` for what has only labels, one
//! series of 0 or 1 for each state. No label has a value that a client could choose: how many series there are follows from
//! the configuration alone.

pub mod catalogue;
mod exposition;
mod family;

mod backends;
mod dataplane;
mod node;
mod process;
mod services;
mod sync;
mod telling;
mod vrrp;

pub use catalogue::{Kind, Metric, catalogue};
pub use exposition::Format;

use crate::status::Status;
use family::Family;

#[cfg(test)]
mod tests;

/// The name of every metric of ours begins with this and `_`; those of the process begin with `process_`.
pub const PREFIX: &str = "xvip";

/// The parts of the table, in the order of the page.
const PARTS: [(&str, &[Family]); 8] = [
    ("The node", node::FAMILIES),
    ("VRRP", vrrp::FAMILIES),
    ("Services", services::FAMILIES),
    ("Backends", backends::FAMILIES),
    ("The data plane", dataplane::FAMILIES),
    ("Sync", sync::FAMILIES),
    ("Hooks and the connection log", telling::FAMILIES),
    ("The process", process::FAMILIES),
];

/// The OpenMetrics text of a status.
pub fn text(status: &Status) -> String {
    encode(status, Format::OpenMetrics)
}

/// The text of a status in a format.
pub fn encode(status: &Status, format: Format) -> String {
    let read = families().filter_map(|family| family.read(status)).collect();
    exposition::encode(read, format)
}

fn families() -> impl Iterator<Item = &'static Family> {
    PARTS.iter().flat_map(|(_, families)| families.iter())
}
