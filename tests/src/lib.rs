//! The lab, and what the tests share.
//!
//! [`topology::Lab`] is the entry point: it builds network namespaces joined by a bridge, starts fake API
//! servers and real `xvip` nodes in them, and takes everything down when it is dropped.

pub mod addresses;
pub mod apiserver;
pub mod asker;
pub mod bench;
mod bpf;
pub mod browser;
pub mod capture;
pub mod cases;
pub mod certificates;
pub mod client;
pub mod client_host;
pub mod daemon;
pub mod decapsulator;
pub mod former;
pub mod frames;
pub mod freezer;
pub mod guest;
pub mod host_tables;
pub mod incumbent;
pub mod interrupt;
pub mod json_schema;
pub mod keepalived;
pub mod kernel_tables;
pub mod live;
pub mod mass;
pub mod master;
pub mod measure;
pub mod netns;
pub mod network;
pub mod node;
pub mod other_user;
pub mod outage;
pub mod packages;
pub mod ping;
pub mod plain;
pub mod plane;
pub mod probe;
pub mod pty;
pub mod rig;
pub mod run_dir;
pub mod sampler;
pub mod screen;
pub mod shared_flows;
pub mod streams;
pub mod syn;
pub mod system;
pub mod topology;
pub mod tour;
pub mod traffic;
pub mod vm;
pub mod wait;
pub mod xdp_stub;
