//! What the XDP program and user space share: the layout of the maps, and the packet functions.
//!
//! `no_std`, no allocation, no dependency (but for `aya::Pod` in user space), no clock, no map and no helper: what
//! the packet functions need from the kernel they ask of a [`frame::Frame`] and of [`tables::Tables`]. So the same
//! code runs in the kernel and in ordinary tests.
#![no_std]

pub mod checksum;
pub mod family;
pub mod forward;
pub mod frame;
pub mod hash;
pub mod layout;
pub mod link;
pub mod local;
pub mod reason;
pub mod segment;
pub mod tables;
pub mod trace;
pub mod wire;
