//! Rebalance: connections above a backend's fair share are reset, a few at a time, so that they open anew where there is
//! room. All of it is pure; `controller/rebalance.rs` does what is said here.
//!
//! [`plan`] says who loses how many, [`pace`] how fast, [`victims`] which ones; [`course`] is one rebalance from its
//! beginning to its end, and [`trigger`] says when one begins by itself.

pub mod course;
pub mod pace;
pub mod plan;
pub mod trigger;
pub mod victims;
