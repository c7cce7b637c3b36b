//! VLAN tags, and more than one interface.

use lb_common::{
    layout::{HOP_KEEPS_TAGS, MODE_NAT, MacWord},
    reason::{DropReason, PassReason, TransmitReason},
};

use super::{
    Case, Script, Setting,
    settings::{ALL, FORWARDING, NAT, one},
};
use crate::{
    frames::{ACK, Arp, PSH, RST, SYN, Tag, error_about, neighbour_solicitation, service_vlan, tagged, vlan},
    plane::{
        Heartbeat, NODE_MAC, NODE6, ROUTER_MAC, SECOND_LINK, SECOND_MAC, VIP, VIP6, World, backend_mac,
        node_of,
    },
};

/// Backends on the interface that XDP is attached to, in whatever VLAN their clients are.
fn trunk(setting: Setting) -> World {
    let mut world = one(setting).on_vlans(&[7, 8, 100], true);
    world.backend_mut(0).hop.flags = HOP_KEEPS_TAGS;
    world
}

/// The interface is the sub-interface of VLAN 7: its tag is on every frame, as its driver has not stripped it.
fn sub_interface(setting: Setting) -> World {
    one(setting).on_vlans(&[7], false).with_backend_tags(0, &[vlan(7)])
}

/// With a backend in another VLAN, or in none.
fn towards(setting: Setting, tags: &[Tag]) -> World {
    one(setting).on_vlans(&[7, 9, 100], true).with_backend_tags(0, tags)
}

/// A connection with these tags at its two ends: all of it arrives.
fn talk(script: &mut Script<'_>, client: &[Tag], backend: &[Tag]) {
    let mut connection = script.connection(40_000);
    connection.client_tags = client.to_vec();
    connection.backend_tags = backend.to_vec();
    script.handshake(&mut connection);
    script.client(&mut connection, ACK | PSH, b"up");
    script.server(&mut connection, ACK | PSH, b"down");
    script.close(&mut connection);
}

const PRIORITY: Tag = [0x81, 0x00, 0xa0, 7];

pub(super) const CASES: &[Case] = &[
    Case::new("one tag", "A tagged frame is forwarded, and keeps its tag", trunk, |script| {
        talk(script, &[vlan(7)], &[vlan(7)]);
    })
    .on(ALL),
    Case::new("two tags", "So is one with two", trunk, |script| {
        talk(script, &[service_vlan(100), vlan(7)], &[service_vlan(100), vlan(7)]);
    })
    .on(ALL),
    Case::new("priority", "A frame keeps its priority", sub_interface, |script| {
        talk(script, &[PRIORITY], &[[0x81, 0x00, 0x60, 7]]);
    })
    .on(ALL),
    Case::new("sub-interface", "Frames of the interface's own VLAN are for us", sub_interface, |script| {
        talk(script, &[vlan(7)], &[vlan(7)]);
    })
    .on(FORWARDING),
    Case::new("other vlan", "Frames of other VLANs, or of none, are the host's", sub_interface, |script| {
        let frame = script.connection(40_000).from_client(SYN, b"").bytes();
        script.passes(&frame, PassReason::OtherVlan);
        for tags in [&[vlan(8)][..], &[service_vlan(9)], &[vlan(8), vlan(7)], &[vlan(0)], &[vlan(4095)]] {
            script.passes(&tagged(&frame, tags), PassReason::OtherVlan);
        }
    })
    .on(NAT),
    Case::new(
        "other vlan, known flow",
        "Not even of a flow that is known",
        sub_interface,
        |script| {
            let mut connection = script.connection(40_000);
            (connection.client_tags, connection.backend_tags) = (vec![vlan(7)], vec![vlan(7)]);
            script.handshake(&mut connection);
            connection.client_tags.clear();
            let frame = connection.from_client(ACK, b"data").bytes();
            script.passes(&frame, PassReason::OtherVlan);
            script.passes(&tagged(&frame, &[vlan(8)]), PassReason::OtherVlan);
        },
    )
    .on(FORWARDING),
    Case::new("three tags", "More than two tags are the host's", trunk, |script| {
        let frame = script.connection(40_000).from_client(SYN, b"").bytes();
        for tags in [[service_vlan(100), vlan(7), vlan(8)], [vlan(7), vlan(7), service_vlan(7)]] {
            script.passes(&tagged(&frame, &tags), PassReason::OtherVlan);
        }
    })
    .on(NAT),
    Case::new("cut in a tag", "A frame that ends within its tags is too short to judge", trunk, |script| {
        let frame = script.connection(40_000).from_client(SYN, b"").bytes();
        let frame = tagged(&frame, &[service_vlan(100), vlan(7)]);
        let header = if script.setting.v6 { 40 } else { 20 };
        for length in 14..22 + header {
            script.passes(&frame[..length], PassReason::TooShort);
        }
        for length in 22 + header..frame.len() {
            script.drops(&frame[..length], DropReason::BadIpHeader);
        }
    })
    .on(NAT),
    Case::new("tagged something", "What is tagged and not IP is the host's", trunk, |script| {
        let mut frame = tagged(&script.connection(40_000).from_client(SYN, b"").bytes(), &[vlan(7)]);
        for ethertype in [0x0000u16, 0x8847, 0x88cc, 0x9100] {
            frame[16..18].copy_from_slice(&ethertype.to_be_bytes());
            script.passes(&frame, PassReason::NotIp);
        }
    })
    .on(NAT),
    Case::new(
        "between vlans",
        "A backend in another VLAN than its clients: each side gets its own tag",
        |setting| towards(setting, &[vlan(9)]),
        |script| talk(script, &[vlan(7)], &[vlan(9)]),
    )
    .on(FORWARDING),
    Case::new(
        "into a vlan",
        "A tag is put on where only the backend's side has one",
        |setting| towards(setting, &[vlan(9)]),
        |script| talk(script, &[], &[vlan(9)]),
    )
    .on(FORWARDING),
    Case::new(
        "out of a vlan",
        "And taken off where only the client's side has one",
        |setting| towards(setting, &[]),
        |script| talk(script, &[vlan(7)], &[]),
    )
    .on(FORWARDING),
    Case::new(
        "one tag becomes two",
        "Any number of tags becomes any other",
        |setting| towards(setting, &[service_vlan(100), vlan(9)]),
        |script| talk(script, &[vlan(7)], &[service_vlan(100), vlan(9)]),
    )
    .on(FORWARDING),
    Case::new(
        "two tags become none",
        "Any number of tags becomes any other",
        |setting| towards(setting, &[]),
        |script| talk(script, &[service_vlan(100), vlan(9)], &[]),
    )
    .on(FORWARDING),
    Case::new(
        "no tags become two",
        "Any number of tags becomes any other",
        |setting| towards(setting, &[service_vlan(100), vlan(9)]),
        |script| talk(script, &[], &[service_vlan(100), vlan(9)]),
    )
    .on(FORWARDING),
    Case::new(
        "inner vlan differs",
        "Two tags of which only the inner one leads elsewhere",
        |setting| towards(setting, &[service_vlan(100), vlan(9)]),
        |script| talk(script, &[service_vlan(100), vlan(7)], &[service_vlan(100), vlan(9)]),
    )
    .on(FORWARDING),
    Case::new(
        "client changes vlan",
        "Replies follow a client whose packets come by another VLAN, or by none, now",
        trunk,
        |script| {
            let mut connection = script.connection(40_000);
            connection.client_tags = vec![vlan(7)];
            script.handshake(&mut connection);
            for tags in [&[vlan(8)][..], &[], &[service_vlan(100), vlan(7)], &[vlan(7)]] {
                connection.client_tags = tags.to_vec();
                script.client(&mut connection, ACK, b"data");
                script.server(&mut connection, ACK, b"data");
            }
        },
    )
    .on(FORWARDING),
    Case::new("tagged reset", "A RST has the tags of what it answers", trunk, |script| {
        for tags in [&[PRIORITY][..], &[service_vlan(100), vlan(7)]] {
            let mut segment = script.connection(40_000).from_client(ACK, b"data");
            segment.tags = tags.to_vec();
            script.resets(&segment.bytes(), TransmitReason::ResetUnknownFlow);
            segment.padding = vec![0xa5; 20];
            segment.payload.clear();
            script.resets(&segment.bytes(), TransmitReason::ResetUnknownFlow);
        }
    })
    .on(NAT),
    Case::new("tagged error", "An ICMP error has the tags of what it is about", trunk, |script| {
        for tags in [&[PRIORITY][..], &[service_vlan(100), vlan(7)]] {
            let mut segment = script.connection(40_000).from_client(SYN, b"");
            segment.tags = tags.to_vec();
            segment.ttl = 1;
            let frame = segment.bytes();
            let kind = if script.setting.v6 { 3 } else { 11 };
            let expected = error_about(&frame, node_of(script.setting.v6), kind, 0, 0).bytes();
            script.answers(&frame, TransmitReason::TimeExceeded, &expected);
        }
    })
    .on(FORWARDING),
    Case::v4(
        "tagged arp",
        "Tagged ARP is fenced as well, in our VLAN",
        |setting| World { heartbeat: Heartbeat::Stale, ..sub_interface(setting) },
        |script| {
            let frame = Arp::request(ROUTER_MAC, [172, 16, 0, 1].into(), VIP).bytes();
            script.drops(&tagged(&frame, &[vlan(7)]), DropReason::Fenced);
            script.passes(&tagged(&frame, &[vlan(8)]), PassReason::OtherVlan);
            script.passes(&frame, PassReason::OtherVlan);
            script.change(|world| world.heartbeat = Heartbeat::Fresh);
            script.passes(&tagged(&frame, &[vlan(7)]), PassReason::Arp);
        },
    ),
    Case::new(
        "tagged solicitation",
        "So are neighbour solicitations",
        |setting| World { heartbeat: Heartbeat::Stale, ..sub_interface(setting) },
        |script| {
            let frame = neighbour_solicitation(ROUTER_MAC, NODE6, VIP6).bytes();
            script.drops(&tagged(&frame, &[vlan(7)]), DropReason::Fenced);
            script.passes(&tagged(&frame, &[vlan(8)]), PassReason::OtherVlan);
            script.change(|world| world.heartbeat = Heartbeat::Fresh);
            script.passes(&tagged(&frame, &[vlan(7)]), PassReason::NeighbourSolicitation);
        },
    )
    .on(&[Setting::NAT6]),
    Case::new(
        "another interface",
        "A backend behind another interface: its frames leave there, replies leave where the client is",
        |setting| {
            let mut world = one(setting);
            let hop = &mut world.backend_mut(0).hop;
            (hop.if_index, hop.source) = (SECOND_LINK, MacWord::new(SECOND_MAC));
            world
        },
        |script| talk(script, &[], &[]),
    )
    .on(FORWARDING),
    Case::new(
        "another interface, other tags",
        "Tags and priorities of the one interface do not go to the other, whatever the hop says of keeping them",
        |setting| {
            let mut world = towards(setting, &[vlan(7)]);
            let hop = &mut world.backend_mut(0).hop;
            (hop.if_index, hop.source) = (SECOND_LINK, MacWord::new(SECOND_MAC));
            hop.flags = HOP_KEEPS_TAGS;
            world
        },
        |script| talk(script, &[PRIORITY], &[vlan(7)]),
    )
    .on(FORWARDING),
    Case::new(
        "second address",
        "A frame to the second interface's Ethernet address is for us, and answered from there",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            let mut segment = connection.from_client(ACK, b"data");
            segment.dst_mac = SECOND_MAC;
            script.up(&connection, &segment.bytes());
            let hop = script.flows.established[&connection.client_key()].client;
            // In the kernel a packet of a known flow is not looked at so closely: its way is that of the interface.
            assert!([NODE_MAC, SECOND_MAC].contains(&hop.source.octets()));
            let mut stray = script.connection(40_001).from_client(RST | ACK, b"");
            stray.dst_mac = backend_mac(0);
            script.passes(&stray.bytes(), PassReason::OtherHost);
            if script.setting.mode == MODE_NAT {
                let mut unknown = script.connection(40_001).from_client(ACK, b"");
                unknown.dst_mac = SECOND_MAC;
                script.resets(&unknown.bytes(), TransmitReason::ResetUnknownFlow);
            }
        },
    )
    .on(FORWARDING),
];
