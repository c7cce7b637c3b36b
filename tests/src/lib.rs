//! The lab, and what the tests share.

pub mod cases;
pub mod frames;
pub mod host_tables;
pub mod kernel_tables;
pub mod plane;
