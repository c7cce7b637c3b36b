//! ARP for the VIP while the controller is not running.

use std::net::{Ipv4Addr, Ipv6Addr};

use lb_common::reason::{DropReason, PassReason};

use super::{Case, Setting, settings::one};
use crate::{
    frames::{ACK, Arp, IcmpMessage, neighbour_advertisement, neighbour_solicitation},
    plane::{Heartbeat, NODE_MAC, NODE6, OTHER_VIP, OTHER_VIP6, ROUTER_MAC, VIP, VIP6, World},
};

const V6: &[Setting] = &[Setting::NAT6];
const ASKER6: Ipv6Addr = Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, 1);
const ASKER: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);

fn stale(setting: Setting) -> World {
    World { heartbeat: Heartbeat::Stale, ..one(setting) }
}

pub(super) const CASES: &[Case] = &[
    Case::v4("fresh", "While the controller runs, the host answers for the VIP", one, |script| {
        script.passes(&Arp::request(ROUTER_MAC, ASKER, VIP).bytes(), PassReason::Arp);
    }),
    Case::v4(
        "stale",
        "When it does not, another node may own the VIP: nobody answers here",
        stale,
        |script| {
            script.drops(&Arp::request(ROUTER_MAC, ASKER, VIP).bytes(), DropReason::Fenced);
            script.change(|world| world.heartbeat = Heartbeat::Fresh);
            script.passes(&Arp::request(ROUTER_MAC, ASKER, VIP).bytes(), PassReason::Arp);
        },
    ),
    Case::v4("not fenced", "A VIP without fencing answers all the same", stale, |script| {
        script.passes(&Arp::request(ROUTER_MAC, ASKER, OTHER_VIP).bytes(), PassReason::Arp);
    }),
    Case::v4("other address", "The host's own address is never silenced", stale, |script| {
        script.passes(&Arp::request(ROUTER_MAC, ASKER, Ipv4Addr::new(172, 16, 0, 2)).bytes(), PassReason::Arp);
    }),
    Case::v4("short arp", "ARP that is cut short is the host's to judge", stale, |script| {
        let frame = Arp::request(ROUTER_MAC, ASKER, VIP).bytes();
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
    Case::new(
        "solicitation, fresh",
        "While the controller runs, the host answers neighbour solicitations for the VIP",
        one,
        |script| {
            let frame = neighbour_solicitation(ROUTER_MAC, ASKER6, VIP6).bytes();
            script.passes(&frame, PassReason::NeighbourSolicitation);
        },
    )
    .on(V6),
    Case::new(
        "solicitation, stale",
        "When it does not, nobody answers here; not even a neighbour that asks the VIP itself whether it is still there",
        stale,
        |script| {
            let to_group = neighbour_solicitation(ROUTER_MAC, ASKER6, VIP6);
            let mut to_vip = to_group.clone();
            (to_vip.dst, to_vip.link.destination) = (VIP6.into(), NODE_MAC);
            script.drops(&to_group.bytes(), DropReason::Fenced);
            script.drops(&to_vip.bytes(), DropReason::Fenced);
            script.change(|world| world.heartbeat = Heartbeat::Fresh);
            script.passes(&to_group.bytes(), PassReason::NeighbourSolicitation);
            script.passes(&to_vip.bytes(), PassReason::NeighbourSolicitation);
        },
    )
    .on(V6),
    Case::new(
        "solicitation of others",
        "A VIP without fencing, and any other address, is never silenced",
        stale,
        |script| {
            for target in [OTHER_VIP6, NODE6, Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, 0x99)] {
                let frame = neighbour_solicitation(ROUTER_MAC, ASKER6, target).bytes();
                script.passes(&frame, PassReason::NeighbourSolicitation);
            }
            // The group of the VIP, for an address that shares its last three bytes.
            let twin = Ipv6Addr::new(0xfd11, 0, 0, 0, 0, 0, 0, 0x10);
            let frame = neighbour_solicitation(ROUTER_MAC, ASKER6, twin).bytes();
            script.passes(&frame, PassReason::NeighbourSolicitation);
        },
    )
    .on(V6),
    Case::new(
        "short solicitation",
        "One that is cut short is the host's to judge",
        stale,
        |script| {
            let mut told = neighbour_solicitation(ROUTER_MAC, ASKER6, VIP6);
            for length in 0..16 {
                told.body.truncate(16);
                let body = told.body[..length].to_vec();
                let frame = IcmpMessage { body, ..told.clone() }.bytes();
                script.passes(&frame, PassReason::NeighbourSolicitation);
            }
            script.drops(&told.bytes(), DropReason::Fenced);
        },
    )
    .on(V6),
    Case::new(
        "other messages to groups",
        "What else is sent to a group is the host's: advertisements, queries",
        stale,
        |script| {
            let told = neighbour_solicitation(ROUTER_MAC, ASKER6, VIP6);
            for kind in [128, 130, 133, 134, 137, 143] {
                script.passes(&IcmpMessage { kind, ..told.clone() }.bytes(), PassReason::NotVip);
            }
            let advertisement = neighbour_advertisement(ROUTER_MAC, ASKER6, ASKER6, None);
            script.passes(&advertisement.bytes(), PassReason::NeighbourAdvertisement);
        },
    )
    .on(V6),
];
