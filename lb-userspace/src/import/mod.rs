//! From HAProxy, keepalived and Pacemaker to xvip: reads what they are configured by, writes an `xvip.toml`, and says what
//! became of each line. Pure.
//!
//! ```text
//! haproxy.cfg ----> haproxy ----+
//! keepalived.conf > keepalived -+-> Incumbent -> plan -> xvip.toml of each node
//! crm, corosync --> crm --------+       |                       |
//!        |                              +-> lints, elections, take-over times, of the old side and the new one
//!        +-> Ledger: what became of each line <-----------------+--> report
//! ```

pub mod corosync;
pub mod crm;
pub mod election;
#[cfg(test)]
mod fuzz;
pub mod haproxy;
pub mod incumbent;
pub mod keepalived;
pub mod ledger;
pub mod outcome;
pub mod plan;
pub mod races;
pub mod report;
pub mod source;
pub mod timing;
pub mod write;
