//! ARP for the VIP while the controller is not running.

use std::net::Ipv4Addr;

use lb_common::reason::{DropReason, PassReason};

use super::{Case, Setting, settings::one};
use crate::{
    frames::{ACK, arp_request},
    plane::{Heartbeat, OTHER_VIP, ROUTER_MAC, VIP, World},
};

const ASKER: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);

fn stale(setting: Setting) -> World {
    World { heartbeat: Heartbeat::Stale, ..one(setting) }
}

pub(super) const CASES: &[Case] = &[
    Case::v4("fresh", "While the controller runs, the host answers for the VIP", one, |script| {
        script.passes(&arp_request(ROUTER_MAC, ASKER, VIP), PassReason::Arp);
    }),
    Case::v4(
        "stale",
        "When it does not, another node may own the VIP: nobody answers here",
        stale,
        |script| {
            script.drops(&arp_request(ROUTER_MAC, ASKER, VIP), DropReason::Fenced);
            script.change(|world| world.heartbeat = Heartbeat::Fresh);
            script.passes(&arp_request(ROUTER_MAC, ASKER, VIP), PassReason::Arp);
        },
    ),
    Case::v4("not fenced", "A VIP without fencing answers all the same", stale, |script| {
        script.passes(&arp_request(ROUTER_MAC, ASKER, OTHER_VIP), PassReason::Arp);
    }),
    Case::v4("other address", "The host's own address is never silenced", stale, |script| {
        script.passes(&arp_request(ROUTER_MAC, ASKER, Ipv4Addr::new(172, 16, 0, 2)), PassReason::Arp);
    }),
    Case::v4("short arp", "ARP that is cut short is the host's to judge", stale, |script| {
        let frame = arp_request(ROUTER_MAC, ASKER, VIP);
        for length in 14..42 {
            script.passes(&frame[..length], PassReason::Arp);
        }
        script.drops(&frame[..42], DropReason::Fenced);
    }),
    Case::v4("flows go on", "Fencing silences ARP, not connections", stale, |script| {
        let mut connection = script.connection(40_000);
        script.handshake(&mut connection);
        script.client(&mut connection, ACK, b"data");
        script.server(&mut connection, ACK, b"data");
    }),
];
