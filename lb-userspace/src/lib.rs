//! The controller of xvip, as a library, so that the tests can link its parts.

pub mod announce;
pub mod apportion;
pub mod cli;
pub mod config;
pub mod control;
pub mod controller;
pub mod dataplane;
pub mod desired;
pub mod drift;
pub mod flows;
pub mod health;
pub mod heartbeat;
pub mod maglev;
pub mod netlink;
pub mod pcapng;
pub mod reconcile;
pub mod replica;
pub mod resets;
pub mod round_robin;
pub mod slow_start;
pub mod status;
pub mod succession;
pub mod sync;
pub mod trace;
pub mod track;
pub mod vrrp;
