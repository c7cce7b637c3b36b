//! Who else says in ARP or neighbour discovery that a VIP is its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::reason::{DropReason, PassReason};

use super::{Case, Script, Setting, settings::one};
use crate::{
    frames::{Arp, IcmpMessage, Mac, neighbour_advertisement, neighbour_solicitation, tagged, vlan},
    plane::{
        Claim, Heartbeat, NODE, NODE_MAC, NODE6, OTHER_VIP, OTHER_VIP6, ROUTER_MAC, SECOND_MAC, VIP, VIP6,
        World,
    },
};

const V6: &[Setting] = &[Setting::NAT6];
const OTHER_MAC: Mac = [0x02, 0, 0, 0, 0, 0x03];
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
const NEIGHBOUR6: Ipv6Addr = Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, 1);
const GROUP_MAC: Mac = [0x01, 0, 0x5e, 0, 0, 1];

fn stale(setting: Setting) -> World {
    World { heartbeat: Heartbeat::Stale, ..one(setting) }
}

fn in_vlan(setting: Setting) -> World {
    one(setting).on_vlans(&[7], false)
}

/// Another node's gratuitous ARP.
fn gratuitous(mac: Mac) -> Arp {
    Arp::request(mac, VIP, VIP)
}

/// A reply from that node to us.
fn reply(mac: Mac) -> Arp {
    Arp::request(NODE_MAC, NODE, VIP).answered(mac, mac)
}

/// Another node's unsolicited advertisement.
fn advertised(mac: Mac) -> IcmpMessage {
    neighbour_advertisement(mac, VIP6, VIP6, None)
}

fn expect(script: &Script<'_>, claims: &[(IpAddr, Mac, u64)]) {
    let claims = claims.iter().map(|&(vip, mac, count)| (vip.into(), Claim { mac, count })).collect();
    assert_eq!(script.notes.claims, claims);
}

pub(super) const CASES: &[Case] = &[
    Case::v4(
        "arp",
        "ARP of whatever kind that comes from a VIP with another node's Ethernet address is a claim; the host gets it",
        one,
        |script| {
            let to_somebody = Arp::request(OTHER_MAC, VIP, NEIGHBOUR);
            let mut gratuitous_reply = Arp { operation: 2, ..gratuitous(OTHER_MAC) };
            gratuitous_reply.target_mac = OTHER_MAC;
            for (n, arp) in
                (1..).zip([gratuitous(OTHER_MAC), gratuitous_reply, reply(OTHER_MAC), to_somebody])
            {
                script.passes(&arp.bytes(), PassReason::ForeignClaim);
                expect(script, &[(VIP.into(), OTHER_MAC, n)]);
            }
            script.passes(&gratuitous(ROUTER_MAC).bytes(), PassReason::ForeignClaim);
            expect(script, &[(VIP.into(), ROUTER_MAC, 5)]);
        },
    ),
    Case::v4("each VIP", "Each VIP has a claim of its own, the fenced one and the other", one, |script| {
        script.passes(&gratuitous(OTHER_MAC).bytes(), PassReason::ForeignClaim);
        let other = Arp::request(ROUTER_MAC, OTHER_VIP, VIP);
        script.passes(&other.bytes(), PassReason::ForeignClaim);
        expect(script, &[(VIP.into(), OTHER_MAC, 1), (OTHER_VIP.into(), ROUTER_MAC, 1)]);
    }),
    Case::v4(
        "our own",
        "Our own announcements, reflected by a switch, claim nothing; neither does what we say for somebody else",
        one,
        |script| {
            for mac in [NODE_MAC, SECOND_MAC] {
                script.passes(&gratuitous(mac).bytes(), PassReason::Arp);
                let mut said_by_us = gratuitous(OTHER_MAC);
                said_by_us.link.source = mac;
                script.passes(&said_by_us.bytes(), PassReason::Arp);
                let mut about_us = gratuitous(mac);
                about_us.link.source = OTHER_MAC;
                script.passes(&about_us.bytes(), PassReason::Arp);
            }
            expect(script, &[]);
        },
    ),
    Case::v4("probe", "Who asks before it takes an address (RFC 5227) claims nothing", one, |script| {
        script.passes(&Arp::request(OTHER_MAC, Ipv4Addr::UNSPECIFIED, VIP).bytes(), PassReason::Arp);
        expect(script, &[]);
    }),
    Case::v4("others", "Who asks for a VIP, or has another address, claims nothing", one, |script| {
        script.passes(&Arp::request(OTHER_MAC, NEIGHBOUR, VIP).bytes(), PassReason::Arp);
        let twin = (0x0a00_0000u32..)
            .map(Ipv4Addr::from)
            .find(|&address| script.world.node.may_be_vip(lb_common::wire::Be32::from(address)))
            .expect("a twelve-bit filter has twins");
        for address in [NEIGHBOUR, NODE, twin] {
            script.passes(&Arp::request(OTHER_MAC, address, address).bytes(), PassReason::Arp);
        }
        expect(script, &[]);
    }),
    Case::v4(
        "malformed arp",
        "ARP about a VIP that is not of IPv4 over Ethernet, or from no Ethernet address, is counted by name and claims nothing",
        one,
        |script| {
            let good = gratuitous(OTHER_MAC).bytes();
            let changes: [(usize, u8); 11] = [
                (14, 1), (15, 0), (15, 6), (16, 0x86), (17, 6), (18, 8), (19, 16), (20, 1), (21, 0), (21, 3), (21, 9),
            ];
            for (at, value) in changes {
                let mut bad = good.clone();
                bad[at] = value;
                script.passes(&bad, PassReason::BadArp);
            }
            for mac in [[0; 6], GROUP_MAC, [0xff; 6]] {
                let mut bad = gratuitous(OTHER_MAC);
                bad.sender_mac = mac;
                script.passes(&bad.bytes(), PassReason::BadArp);
            }
            for length in 14..42 {
                script.passes(&good[..length], PassReason::Arp);
            }
            expect(script, &[]);
        },
    ),
    Case::v4(
        "fenced",
        "While the controller is not running, claims are noted all the same, whether the frame is silenced or not",
        stale,
        |script| {
            script.drops(&gratuitous(OTHER_MAC).bytes(), DropReason::Fenced);
            script.passes(&Arp::request(OTHER_MAC, VIP, NEIGHBOUR).bytes(), PassReason::ForeignClaim);
            expect(script, &[(VIP.into(), OTHER_MAC, 2)]);
        },
    ),
    Case::v4("arp in a VLAN", "A claim counts in our VLAN, and only there", in_vlan, |script| {
        script.passes(&tagged(&gratuitous(OTHER_MAC).bytes(), &[vlan(8)]), PassReason::OtherVlan);
        script.passes(&gratuitous(OTHER_MAC).bytes(), PassReason::OtherVlan);
        expect(script, &[]);
        script.passes(&tagged(&gratuitous(OTHER_MAC).bytes(), &[vlan(7)]), PassReason::ForeignClaim);
        expect(script, &[(VIP.into(), OTHER_MAC, 1)]);
    }),
    Case::new(
        "advertisement",
        "A neighbour advertisement of a VIP is a claim, to everybody or to us, with or without the option that says where",
        one,
        |script| {
            let to_us = neighbour_advertisement(OTHER_MAC, VIP6, VIP6, Some((NODE_MAC, NODE6)));
            let mut bare = advertised(OTHER_MAC);
            bare.body.truncate(16);
            let mut elsewhere = advertised(OTHER_MAC);
            elsewhere.body[18..].copy_from_slice(&ROUTER_MAC);
            let mut with_more = advertised(OTHER_MAC);
            with_more.body.extend([14, 1, 1, 2, 3, 4, 5, 6]);
            for (n, (message, mac)) in (1..).zip([
                (advertised(OTHER_MAC), OTHER_MAC),
                (to_us, OTHER_MAC),
                (bare, OTHER_MAC),
                (elsewhere, ROUTER_MAC),
                (with_more, OTHER_MAC),
            ]) {
                script.passes(&message.bytes(), PassReason::ForeignClaim);
                expect(script, &[(VIP6.into(), mac, n)]);
            }
        },
    )
    .on(V6),
    Case::new("solicitation", "Who solicits from a VIP claims it", one, |script| {
        let message = neighbour_solicitation(OTHER_MAC, VIP6, NEIGHBOUR6);
        script.passes(&message.bytes(), PassReason::ForeignClaim);
        let other = neighbour_solicitation(ROUTER_MAC, OTHER_VIP6, VIP6);
        script.passes(&other.bytes(), PassReason::ForeignClaim);
        expect(script, &[(VIP6.into(), OTHER_MAC, 1), (OTHER_VIP6.into(), ROUTER_MAC, 1)]);
    })
    .on(V6),
    Case::new(
        "no claim, IPv6",
        "Duplicate address detection, our own frames and what is about other addresses claim nothing",
        one,
        |script| {
            let mut probe = neighbour_solicitation(OTHER_MAC, Ipv6Addr::UNSPECIFIED, VIP6);
            probe.body.truncate(16);
            script.passes(&probe.bytes(), PassReason::NeighbourSolicitation);
            script.passes(&advertised(NODE_MAC).bytes(), PassReason::NeighbourAdvertisement);
            let mut by_us = advertised(OTHER_MAC);
            by_us.link.source = NODE_MAC;
            script.passes(&by_us.bytes(), PassReason::NeighbourAdvertisement);
            let ours = neighbour_solicitation(NODE_MAC, VIP6, NEIGHBOUR6);
            script.passes(&ours.bytes(), PassReason::NeighbourSolicitation);
            for address in [NEIGHBOUR6, NODE6] {
                let message = neighbour_advertisement(OTHER_MAC, address, address, None);
                script.passes(&message.bytes(), PassReason::NeighbourAdvertisement);
            }
            // The target counts, not who says it.
            let message = neighbour_advertisement(OTHER_MAC, VIP6, NEIGHBOUR6, None);
            script.passes(&message.bytes(), PassReason::NeighbourAdvertisement);
            expect(script, &[]);
        },
    )
    .on(V6),
    Case::new(
        "malformed advertisement",
        "Neighbour discovery that a host must ignore (RFC 4861 §7.1.2) is counted by name and claims nothing",
        one,
        |script| {
            let good = advertised(OTHER_MAC);
            let with = |change: &dyn Fn(&mut IcmpMessage)| {
                let mut message = good.clone();
                change(&mut message);
                message.bytes()
            };
            let mut frames = vec![
                with(&|message| message.ttl = 254),
                with(&|message| message.ttl = 1),
                with(&|message| message.code = 1),
                // Solicited, yet to a group.
                with(&|message| message.rest = [0x60, 0, 0, 0]),
                with(&|message| message.src = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into()),
                // Options of no length, longer than the message, not of whole units, an address in two units, too many.
                with(&|message| message.body[17] = 0),
                with(&|message| message.body[17] = 2),
                with(&|message| message.body.truncate(20)),
                with(&|message| message.body.push(0)),
                with(&|message| {
                    message.body[17] = 2;
                    message.body.extend([0; 8]);
                }),
                with(&|message| message.body.extend([14, 1, 0, 0, 0, 0, 0, 0].repeat(8))),
                with(&|message| message.body[18..].copy_from_slice(&GROUP_MAC)),
                with(&|message| message.body[18..].fill(0)),
            ];
            let bytes = good.bytes();
            // Any bit of addresses, checksum or message; lengths that the frame does not have.
            frames.extend((36..62).chain(78..86).map(|at| {
                let mut bad = bytes.clone();
                bad[at] ^= if at == 54 { 0 } else { 0x10 };
                if at == 54 {
                    bad[56] ^= 1;
                }
                bad
            }));
            frames.extend((78..86).map(|length| bytes[..length].to_vec()));
            for frame in frames {
                script.passes(&frame, PassReason::BadNeighbour);
            }
            for length in 62..78 {
                script.passes(&bytes[..length], PassReason::NeighbourAdvertisement);
            }
            expect(script, &[]);
        },
    )
    .on(V6),
    Case::new("malformed solicitation", "So is a solicitation (§7.1.1)", one, |script| {
        let good = neighbour_solicitation(OTHER_MAC, VIP6, NEIGHBOUR6);
        let with = |change: &dyn Fn(&mut IcmpMessage)| {
            let mut message = good.clone();
            change(&mut message);
            message.bytes()
        };
        let unspecified = |message: &mut IcmpMessage| {
            message.src = Ipv6Addr::UNSPECIFIED.into();
            message.body[..16].copy_from_slice(&VIP6.octets());
        };
        let frames = [
            with(&|message| message.ttl = 64),
            with(&|message| message.code = 7),
            with(&|message| message.body[17] = 0),
            with(&|message| message.body[17] = 9),
            // Nobody has an address on the link without one.
            with(&unspecified),
            // Nor asks anybody but the group.
            with(&|message| {
                unspecified(message);
                message.body.truncate(16);
                message.dst = NODE6.into();
            }),
        ];
        for frame in frames {
            script.passes(&frame, PassReason::BadNeighbour);
        }
        expect(script, &[]);
    })
    .on(V6),
    Case::new("fenced, IPv6", "While the controller is not running, claims are noted all the same", stale, |script| {
        script.passes(&advertised(OTHER_MAC).bytes(), PassReason::ForeignClaim);
        let asks = neighbour_solicitation(ROUTER_MAC, OTHER_VIP6, VIP6);
        script.drops(&asks.bytes(), DropReason::Fenced);
        expect(script, &[(VIP6.into(), OTHER_MAC, 1), (OTHER_VIP6.into(), ROUTER_MAC, 1)]);
    })
    .on(V6),
    Case::new("advertisement in a VLAN", "A claim counts in our VLAN, and only there", in_vlan, |script| {
        script.passes(&tagged(&advertised(OTHER_MAC).bytes(), &[vlan(8)]), PassReason::OtherVlan);
        script.passes(&advertised(OTHER_MAC).bytes(), PassReason::OtherVlan);
        expect(script, &[]);
        script.passes(&tagged(&advertised(OTHER_MAC).bytes(), &[vlan(7)]), PassReason::ForeignClaim);
        expect(script, &[(VIP6.into(), OTHER_MAC, 1)]);
    })
    .on(V6),
];
