//! VIPs with a virtual router's Ethernet address (RFC 9568 §7.3): who asks is answered with it, and frames for it are ours.

use std::net::{Ipv4Addr, Ipv6Addr};

use lb_common::{
    layout::{MacWord, NodeEntry, VIRTUAL_ROUTER_WORDS, VipEntry, virtual_mac},
    reason::{DropReason, PassReason, TransmitReason},
};

use super::{Case, Script, Setting, settings::one};
use crate::{
    frames::{
        ACK, Arp, FIN, IcmpMessage, Mac, RST, SYN, Tag, echo_request, neighbour_advertisement,
        neighbour_solicitation, service_vlan, tagged, vlan,
    },
    plane::{
        Claim, Heartbeat, LINK, NODE, NODE_MAC, NODE6, OTHER_VIP, OTHER_VIP6, ROUTER_MAC, SECOND_LINK,
        SECOND_MAC, VIP, VIP6, World,
    },
};

const V6: &[Setting] = &[Setting::NAT6];
const BOTH: &[Setting] = &[Setting::NAT, Setting::NAT6];
const ASKER: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
const ASKER6: Ipv6Addr = Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, 1);
const OTHER_MAC: Mac = [0x02, 0, 0, 0, 0, 0x03];
const VRID: u8 = 51;

const fn mac(v6: bool) -> Mac {
    virtual_mac(v6, VRID)
}

/// The world of a node that holds its first VIP, with a virtual router's Ethernet address.
fn held(setting: Setting) -> World {
    let mut world = one(setting);
    hold(&mut world, setting);
    world
}

fn hold(world: &mut World, setting: Setting) {
    let vip = setting.service().ip();
    let entry =
        VipEntry { if_index: LINK, virtual_mac: MacWord::new(mac(setting.v6)), ..VipEntry::new(true) };
    world.tables.vips.insert(vip, entry);
    world.node.add_virtual_router(setting.v6, VRID);
}

/// The node gives up.
fn release(world: &mut World, setting: Setting) {
    world.tables.vips.insert(setting.service().ip(), VipEntry::new(true));
    world.node = NodeEntry { virtual_routers: [0; VIRTUAL_ROUTER_WORDS], ..world.node };
}

/// The request is answered with the virtual address, in a frame from our own.
fn answers(script: &mut Script<'_>, request: &Arp) {
    let expected = request.answered(NODE_MAC, mac(false)).bytes();
    script.answers(&request.bytes(), TransmitReason::ArpReply, &expected);
}

/// The solicitation is answered: to who asks, or to everybody.
fn informs(script: &mut Script<'_>, message: &IcmpMessage, to: Option<(Mac, Ipv6Addr)>) {
    let mut expected = neighbour_advertisement(mac(true), VIP6, VIP6, to);
    (expected.link.source, expected.link.tags) = (NODE_MAC, message.link.tags.clone());
    script.answers(&message.bytes(), TransmitReason::NeighbourReply, &expected.bytes());
}

fn request() -> Arp {
    Arp::request(ROUTER_MAC, ASKER, VIP)
}

fn solicitation() -> IcmpMessage {
    neighbour_solicitation(ROUTER_MAC, ASKER6, VIP6)
}

/// A neighbour asks the VIP itself whether it is still there.
fn confirmation(to: Mac) -> IcmpMessage {
    let mut message = solicitation();
    (message.link.destination, message.dst) = (to, VIP6.into());
    message.body.truncate(16);
    message
}

const TAGS: [&[Tag]; 3] = [&[vlan(7)], &[[0x81, 0x00, 0xa0, 7]], &[service_vlan(7), vlan(9)]];

fn in_vlan(setting: Setting) -> World {
    held(setting).on_vlans(&[7], false)
}

pub(super) const CASES: &[Case] = &[
    Case::v4(
        "arp request",
        "Who asks for the VIP is told the virtual address, whether it asks everybody, us, or the virtual address",
        held,
        |script| {
            for destination in [[0xff; 6], NODE_MAC, SECOND_MAC, mac(false)] {
                let mut request = request();
                request.link.destination = destination;
                answers(script, &request);
            }
            // Without padding, and with more than there should be.
            let expected = request().answered(NODE_MAC, mac(false)).bytes();
            script.answers(&request().bytes()[..42], TransmitReason::ArpReply, &expected[..42]);
            let longer = |mut frame: Vec<u8>| {
                frame.extend([0xa5; 40]);
                frame
            };
            script.answers(&longer(request().bytes()), TransmitReason::ArpReply, &longer(expected));
            assert_eq!(script.notes.claims, [].into());
        },
    ),
    Case::v4(
        "arp probe",
        "Who asks before it takes the VIP (RFC 5227 §2.1.1) hears that it is taken",
        held,
        |script| answers(script, &Arp::request(OTHER_MAC, Ipv4Addr::UNSPECIFIED, VIP)),
    ),
    Case::v4(
        "arp for the sender's address",
        "The reply goes to the Ethernet address that the request says, not to the frame's",
        held,
        |script| {
            let mut request = request();
            request.link.source = OTHER_MAC;
            answers(script, &request);
        },
    ),
    Case::v4("arp in a VLAN", "A reply has the tags of its request, priority included", in_vlan, |script| {
        for tags in TAGS {
            let mut request = request();
            request.link.tags = tags.to_vec();
            answers(script, &request);
        }
        script.passes(&tagged(&request().bytes(), &[vlan(8)]), PassReason::OtherVlan);
        script.passes(&request().bytes(), PassReason::OtherVlan);
    }),
    Case::v4("arp fenced", "While the controller is not running, nobody answers", held, |script| {
        script.change(|world| world.heartbeat = Heartbeat::Stale);
        script.drops(&request().bytes(), DropReason::Fenced);
        let mut to_us = request();
        to_us.link.destination = mac(false);
        script.drops(&to_us.bytes(), DropReason::Fenced);
        script.change(|world| world.heartbeat = Heartbeat::Fresh);
        answers(script, &request());
    }),
    Case::v4("arp released", "A node that has given up leaves ARP to its host", held, |script| {
        answers(script, &request());
        script.change(|world| release(world, Setting::NAT));
        script.passes(&request().bytes(), PassReason::Arp);
        script.change(|world| hold(world, Setting::NAT));
        answers(script, &request());
    }),
    Case::v4("arp not answered", "Only requests for that VIP, at its interface, to us", held, |script| {
        script.passes(&Arp::request(ROUTER_MAC, ASKER, OTHER_VIP).bytes(), PassReason::Arp);
        script.passes(&Arp::request(ROUTER_MAC, ASKER, NODE).bytes(), PassReason::Arp);
        script.passes(&Arp { operation: 2, ..request() }.bytes(), PassReason::Arp);
        let mut elsewhere = request();
        elsewhere.link.destination = [0x02, 0, 0, 0, 0, 0x77];
        script.passes(&elsewhere.bytes(), PassReason::OtherHost);
        elsewhere.link.destination = virtual_mac(false, VRID + 1);
        script.passes(&elsewhere.bytes(), PassReason::OtherHost);
        script.change(|world| {
            let vip = world.tables.vips.get_mut(&VIP.into()).expect("the VIP");
            vip.if_index = SECOND_LINK;
        });
        script.passes(&request().bytes(), PassReason::Arp);
    }),
    Case::v4(
        "arp claims",
        "Another node's gratuitous ARP is no request; our own with the virtual address is no claim",
        held,
        |script| {
            script.passes(&Arp::request(mac(false), VIP, VIP).bytes(), PassReason::Arp);
            let mut from_us = Arp::request(mac(false), VIP, VIP);
            from_us.link.source = NODE_MAC;
            script.passes(&from_us.bytes(), PassReason::Arp);
            assert_eq!(script.notes.claims, [].into());
            script.passes(&Arp::request(OTHER_MAC, VIP, VIP).bytes(), PassReason::ForeignClaim);
            let claim = Claim { mac: OTHER_MAC, count: 1 };
            assert_eq!(script.notes.claims, [(std::net::IpAddr::V4(VIP).into(), claim)].into());
            // The virtual address of another router, or of the other family, is another node's.
            for mac in [virtual_mac(false, VRID + 1), virtual_mac(true, VRID)] {
                script.passes(&Arp::request(mac, VIP, VIP).bytes(), PassReason::ForeignClaim);
            }
        },
    ),
    Case::v4("malformed arp", "What is no request of IPv4 over Ethernet is not answered", held, |script| {
        let good = request().bytes();
        for (at, value) in [(14, 1), (15, 6), (16, 0), (17, 1), (18, 5), (19, 6), (20, 1), (21, 0), (21, 8), (22, 3)] {
            let mut bad = good.clone();
            bad[at] = value;
            script.passes(&bad, PassReason::BadArp);
        }
        for length in 14..42 {
            script.passes(&good[..length], PassReason::Arp);
        }
    }),
    Case::new(
        "solicitation",
        "Who solicits the VIP is told the virtual address, with or without the option that says where it is itself",
        held,
        |script| {
            informs(script, &solicitation(), Some((ROUTER_MAC, ASKER6)));
            let mut bare = solicitation();
            bare.body.truncate(16);
            informs(script, &bare, Some((ROUTER_MAC, ASKER6)));
            let mut elsewhere = solicitation();
            elsewhere.body[18..].copy_from_slice(&OTHER_MAC);
            informs(script, &elsewhere, Some((OTHER_MAC, ASKER6)));
            let mut with_nonce = solicitation();
            with_nonce.body.splice(16..16, [14, 1, 1, 2, 3, 4, 5, 6]);
            informs(script, &with_nonce, Some((ROUTER_MAC, ASKER6)));
            let mut longest = solicitation();
            longest.body.extend([14, 1, 1, 2, 3, 4, 5, 6].repeat(7));
            informs(script, &longest, Some((ROUTER_MAC, ASKER6)));
            let padded = IcmpMessage { padding: vec![0xa5; 30], ..solicitation() };
            informs(script, &padded, Some((ROUTER_MAC, ASKER6)));
            assert_eq!(script.notes.claims, [].into());
        },
    )
    .on(V6),
    Case::new(
        "solicitation of the VIP itself",
        "A neighbour that asks the VIP whether it is still there is answered, at our address or at the virtual one",
        held,
        |script| {
            for to in [NODE_MAC, SECOND_MAC, mac(true)] {
                informs(script, &confirmation(to), Some((ROUTER_MAC, ASKER6)));
            }
            script.passes(&confirmation([0x02, 0, 0, 0, 0, 0x77]).bytes(), PassReason::OtherHost);
        },
    )
    .on(V6),
    Case::new(
        "duplicate address detection",
        "Who asks without an address hears it together with everybody, unsolicited (RFC 4861 §7.2.4)",
        held,
        |script| {
            let mut probe = neighbour_solicitation(OTHER_MAC, Ipv6Addr::UNSPECIFIED, VIP6);
            probe.body.truncate(16);
            informs(script, &probe, None);
            probe.body.extend([14, 1, 1, 2, 3, 4, 5, 6]);
            informs(script, &probe, None);
        },
    )
    .on(V6),
    Case::new("solicitation in a VLAN", "An answer has the tags of its question", in_vlan, |script| {
        for tags in TAGS {
            let mut message = solicitation();
            message.link.tags = tags.to_vec();
            informs(script, &message, Some((ROUTER_MAC, ASKER6)));
            let mut bare = confirmation(mac(true));
            bare.link.tags = tags.to_vec();
            informs(script, &bare, Some((ROUTER_MAC, ASKER6)));
        }
        script.passes(&tagged(&solicitation().bytes(), &[vlan(8)]), PassReason::OtherVlan);
    })
    .on(V6),
    Case::new("solicitation fenced", "While the controller is not running, nobody answers", held, |script| {
        script.change(|world| world.heartbeat = Heartbeat::Stale);
        for message in [solicitation(), confirmation(mac(true)), confirmation(NODE_MAC)] {
            script.drops(&message.bytes(), DropReason::Fenced);
        }
        script.change(|world| world.heartbeat = Heartbeat::Fresh);
        informs(script, &solicitation(), Some((ROUTER_MAC, ASKER6)));
    })
    .on(V6),
    Case::new("solicitation released", "A node that has given up leaves them to its host", held, |script| {
        script.change(|world| release(world, Setting::NAT6));
        script.passes(&solicitation().bytes(), PassReason::NeighbourSolicitation);
        script.passes(&confirmation(mac(true)).bytes(), PassReason::OtherHost);
    })
    .on(V6),
    Case::new("solicitation not answered", "Only sound ones for that VIP, at its interface", held, |script| {
        for target in [OTHER_VIP6, NODE6] {
            let message = neighbour_solicitation(ROUTER_MAC, ASKER6, target);
            script.passes(&message.bytes(), PassReason::NeighbourSolicitation);
        }
        let of_vip = neighbour_solicitation(mac(true), VIP6, VIP6);
        script.passes(&of_vip.bytes(), PassReason::NeighbourSolicitation);
        for bad in [
            IcmpMessage { ttl: 254, ..solicitation() },
            IcmpMessage { code: 1, ..solicitation() },
            IcmpMessage { body: solicitation().body[..20].to_vec(), ..solicitation() },
        ] {
            script.passes(&bad.bytes(), PassReason::BadNeighbour);
        }
        let mut bad = solicitation().bytes();
        bad[56] ^= 1;
        script.passes(&bad, PassReason::BadNeighbour);
        script.change(|world| {
            let vip = world.tables.vips.get_mut(&VIP6.into()).expect("the VIP");
            vip.if_index = SECOND_LINK;
        });
        script.passes(&solicitation().bytes(), PassReason::NeighbourSolicitation);
    })
    .on(V6),
    Case::new(
        "a connection",
        "Frames for the virtual address are as good as those for our own, from the SYN to the last ACK",
        held,
        |script| {
            let v6 = script.setting.v6;
            let mut connection = script.connection(40_000);
            let mut syn = connection.from_client(SYN, b"");
            syn.dst_mac = mac(v6);
            script.open(&mut connection, &syn.bytes());
            connection.client_seq = connection.client_seq.wrapping_add(1);
            script.server(&mut connection, SYN | ACK, b"");
            for (flags, payload) in [(ACK, &b""[..]), (ACK, b"hello"), (ACK, b"again"), (FIN | ACK, b"")] {
                let mut segment = connection.from_client(flags, payload);
                segment.dst_mac = mac(v6);
                script.up(&connection, &segment.bytes());
                connection.client_seq = super::script::after(&segment);
                script.server(&mut connection, ACK, b"data");
            }
        },
    )
    .on(super::settings::FORWARDING),
    Case::new(
        "what the host gets",
        "What is for the VIP but not ours to forward is readdressed, since the host takes nothing else",
        |setting| held(setting).on_vlans(&[7], true),
        |script| {
            let v6 = script.setting.v6;
            let client = script.setting.client(100);
            let ping = |to| echo_request(ROUTER_MAC, to, client, script.setting.service().ip());
            let (frame, seen) = (ping(mac(v6)), ping(NODE_MAC));
            script.readdresses(&frame, PassReason::NotTcp, &seen);
            script.readdresses(&tagged(&frame, &[vlan(7)]), PassReason::NotTcp, &tagged(&seen, &[vlan(7)]));
        },
    )
    .on(BOTH),
    Case::new("a RST", "What we send ourselves comes from our own address", held, |script| {
        let mut segment = script.connection(40_000).from_client(ACK, b"");
        segment.dst_mac = mac(script.setting.v6);
        let outcome = script.frame(&segment.bytes());
        assert_eq!(outcome.frame[6..12], NODE_MAC);
        segment.flags = RST;
        script.drops(&segment.bytes(), DropReason::UnknownFlow);
    })
    .on(BOTH),
    Case::new(
        "others' virtual addresses",
        "Only the address of a virtual router that we hold, of its family, is ours",
        held,
        |script| {
            let v6 = script.setting.v6;
            let mut segment = script.connection(40_000).from_client(SYN, b"");
            let mut others = vec![virtual_mac(v6, VRID + 1), virtual_mac(v6, VRID - 1), virtual_mac(!v6, VRID)];
            others.extend([[0x00, 0x00, 0x5e, 0x00, 0x03, VRID], [0x00, 0x00, 0x5e, 0x01, 0x01, VRID]]);
            others.extend([[0x00, 0x01, 0x5e, 0x00, 0x01, VRID], [0x01, 0x00, 0x5e, 0x00, 0x01, VRID]]);
            for other in others {
                segment.dst_mac = other;
                script.passes(&segment.bytes(), PassReason::OtherHost);
            }
            let setting = script.setting;
            segment.dst_mac = mac(v6);
            script.change(|world| release(world, setting));
            script.passes(&segment.bytes(), PassReason::OtherHost);
            script.passes(&tagged(&segment.bytes(), &[vlan(0)]), PassReason::OtherVlan);
        },
    )
    .on(BOTH),
    Case::new("not for a VIP", "What is for the virtual address, but for no VIP, is untouched", held, |script| {
        let v6 = script.setting.v6;
        let mut connection = script.connection(40_000);
        connection.service.set_ip(script.setting.client(0x0c00));
        let mut segment = connection.from_client(SYN, b"");
        segment.dst_mac = mac(v6);
        script.passes(&segment.bytes(), PassReason::NotVip);
    })
    .on(BOTH),
];
