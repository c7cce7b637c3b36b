//! What can be wrong, one file each: `judge(&Facts) -> Vec<Finding>`. Pure: no file, no socket, no clock.

pub mod arp;
pub mod backend;
pub mod bpf_fs;
pub mod btf;
pub mod cgroup2;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod firewall_vrrp;
pub mod foreign_xdp;
pub mod interface;
pub mod ipv6;
pub mod keepalived;
pub mod kernel;
pub mod kube_proxy_vip;
pub mod listener;
pub mod lro;
pub mod memlock;
pub mod memory;
pub mod mtu;
pub mod neighbour;
pub mod permissions;
pub mod queues;
pub mod rp_filter;
pub mod state_directory;
pub mod sync_key;
pub mod unit;
pub mod vip_answered;
pub mod vip_left;
pub mod vlan_offload;
pub mod vrid_in_use;
pub mod xdp_mode;

#[cfg(test)]
pub(super) mod healthy;

use super::{Finding, facts::Facts};

/// One of them.
pub type Judge = fn(&Facts) -> Vec<Finding>;

/// All of them, in the order in which they are told: this machine, its interfaces, its network, its neighbours.
pub const ALL: &[Judge] = &[
    config::judge,
    daemon::judge,
    kernel::judge,
    btf::judge,
    permissions::judge,
    bpf_fs::judge,
    cgroup2::judge,
    memory::judge,
    memlock::judge,
    clock::judge,
    state_directory::judge,
    sync_key::judge,
    unit::judge,
    interface::judge,
    xdp_mode::judge,
    foreign_xdp::judge,
    mtu::judge,
    lro::judge,
    vlan_offload::judge,
    queues::judge,
    rp_filter::judge,
    arp::judge,
    ipv6::judge,
    firewall_vrrp::judge,
    vrid_in_use::judge,
    vip_answered::judge,
    vip_left::judge,
    kube_proxy_vip::judge,
    keepalived::judge,
    listener::judge,
    neighbour::judge,
    backend::judge,
];
