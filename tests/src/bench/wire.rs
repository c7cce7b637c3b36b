//! Packets per second of one core, and instructions per packet: live frames over a veth through what is measured.

pub(crate) mod course;
pub(crate) mod peers;
pub(crate) mod programs;
pub mod routes;
pub mod strangers;
pub mod walk;
