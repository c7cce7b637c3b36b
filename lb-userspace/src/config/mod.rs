//! The configuration: what a file says, and what it means.
pub mod model;
