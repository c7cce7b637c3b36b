//! Whose packet is it? One table of frames.

extern crate std;

use core::net::IpAddr;
use std::{vec, vec::Vec};

use super::*;

const CLIENT: [u8; 4] = [10, 0, 0, 7];
const VIP: [u8; 4] = [10, 0, 0, 10];
const OTHER: [u8; 4] = [10, 0, 0, 8];
const CLIENT6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
const VIP6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10];

fn wanted(client: impl Into<IpAddr>, len: u32, port: u16) -> Wanted {
    let client = client.into();
    let bits = if client.is_ipv4() { len + 96 } else { len };
    let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
    let client = u128::from_be_bytes(Be128::from(client).octets()) & mask;
    Wanted {
        client: Be128::from_octets(client.to_be_bytes()),
        mask: Be128::from_octets(mask.to_be_bytes()),
        port: port.into(),
        _pad: 0,
    }
}

/// Whether it is wanted, as the second of two frames in the room, too.
fn is_in(wanted: &Wanted, frame: &[u8]) -> bool {
    let found = [0, HEADERS, WHOLE].map(|begin| {
        let mut room = [0xa5; FRAME_ROOM];
        room[begin..begin + frame.len()].copy_from_slice(frame);
        wanted.is_in(&Kept::new(&room, begin, frame.len()), &mut Cursor::default())
    });
    assert!(found.iter().all(|&one| one == found[0]), "{found:?}");
    found[0]
}

fn ethernet(tags: &[[u8; 4]], ethertype: Be16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    tags.iter().for_each(|tag| frame.extend(tag));
    frame.extend(ethertype.get().to_be_bytes());
    frame.extend(payload);
    frame
}

fn v4(
    source: [u8; 4],
    destination: [u8; 4],
    protocol: u8,
    offset: u16,
    options: usize,
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = vec![0; 20];
    packet[0] = 0x45 + (options / 4) as u8;
    packet[6..8].copy_from_slice(&offset.to_be_bytes());
    packet[9] = protocol;
    packet[12..16].copy_from_slice(&source);
    packet[16..20].copy_from_slice(&destination);
    packet.extend(vec![1; options]);
    packet.extend(payload);
    packet
}

fn v6(source: [u8; 16], destination: [u8; 16], next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 64];
    packet.extend(source);
    packet.extend(destination);
    packet.extend(payload);
    packet
}

fn tcp(from: u16, to: u16) -> Vec<u8> {
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0; 16]].concat()
}

fn about(kind: u8, packet: &[u8]) -> Vec<u8> {
    [&[kind, 4, 0, 0, 0, 0, 0, 0], packet].concat()
}

fn ip4(packet: &[u8]) -> Vec<u8> {
    ethernet(&[], ETHERTYPE_IPV4, packet)
}

fn ip6(packet: &[u8]) -> Vec<u8> {
    ethernet(&[], ETHERTYPE_IPV6, packet)
}

#[test]
fn a_frame_is_its_clients_whichever_way_it_goes_and_whatever_is_around_it() {
    let to_vip = v4(CLIENT, VIP, PROTOCOL_TCP, 0, 0, &tcp(4000, 6443));
    let cases = [
        ("from the client", true, ip4(&to_vip)),
        ("to the client", true, ip4(&v4(VIP, CLIENT, PROTOCOL_TCP, 0, 0, &tcp(6443, 4000)))),
        ("from its other port", false, ip4(&v4(CLIENT, VIP, PROTOCOL_TCP, 0, 0, &tcp(4001, 6443)))),
        ("to a service of that number", false, ip4(&v4(CLIENT, VIP, PROTOCOL_TCP, 0, 0, &tcp(4001, 4000)))),
        (
            "from another client's same port",
            false,
            ip4(&v4(OTHER, VIP, PROTOCOL_TCP, 0, 0, &tcp(4000, 6443))),
        ),
        ("with IP options", true, ip4(&v4(CLIENT, VIP, PROTOCOL_TCP, 0, 12, &tcp(4000, 6443)))),
        ("a first fragment", true, ip4(&v4(CLIENT, VIP, PROTOCOL_TCP, 0x2000, 0, &tcp(4000, 6443)))),
        (
            "a later fragment, whose ports are not known",
            true,
            ip4(&v4(CLIENT, VIP, PROTOCOL_TCP, 5, 0, &[0; 8])),
        ),
        ("another's later fragment", false, ip4(&v4(OTHER, VIP, PROTOCOL_TCP, 5, 0, &[0; 8]))),
        ("UDP", true, ip4(&v4(CLIENT, VIP, PROTOCOL_UDP, 0, 0, &tcp(4000, 53)))),
        ("ping, which has no port", false, ip4(&v4(CLIENT, VIP, PROTOCOL_ICMP, 0, 0, &about(8, &[])))),
        ("one VLAN tag", true, ethernet(&[[0x81, 0, 0, 9]], ETHERTYPE_IPV4, &to_vip)),
        ("two", true, ethernet(&[[0x88, 0xa8, 0, 9], [0x81, 0, 0, 9]], ETHERTYPE_IPV4, &to_vip)),
        ("three, which nobody looks behind", false, ethernet(&[[0x81, 0, 0, 9]; 3], ETHERTYPE_IPV4, &to_vip)),
        ("in a tunnel", true, ip4(&v4(VIP, OTHER, PROTOCOL_IPV4, 0, 0, &to_vip))),
        ("in a tunnel of the other family", true, ip6(&v6(VIP6, VIP6, PROTOCOL_IPV4, &to_vip))),
        ("a router's error about it", true, ip4(&v4(OTHER, VIP, PROTOCOL_ICMP, 0, 0, &about(3, &to_vip)))),
        (
            "an error about it in a tunnel",
            true,
            ip4(&v4(
                OTHER,
                VIP,
                PROTOCOL_ICMP,
                0,
                0,
                &about(3, &v4(VIP, OTHER, PROTOCOL_IPV4, 0, 0, &to_vip)),
            )),
        ),
        ("an echo that quotes it", false, ip4(&v4(OTHER, VIP, PROTOCOL_ICMP, 0, 0, &about(0, &to_vip)))),
        ("cut behind its source port", true, ip4(&v4(CLIENT, VIP, PROTOCOL_TCP, 0, 0, &[0xf, 0xa0, 0]))),
        ("cut in the IP header", false, ip4(&to_vip[..18])),
        ("no Ethernet header", false, vec![0; 13]),
        ("neither IP nor ARP", false, ethernet(&[], Be16::new(0x88cc), &to_vip)),
    ];
    for (what, expected, frame) in cases {
        assert_eq!(is_in(&wanted(CLIENT, 32, 4000), &frame), expected, "{what}");
    }
}

#[test]
fn ipv6_has_its_extensions() {
    let to_vip = v6(CLIENT6, VIP6, PROTOCOL_TCP, &tcp(4000, 6443));
    let hop_by_hop =
        [&[PROTOCOL_DESTINATION, 0, 0, 0, 0, 0, 0, 0][..], &[PROTOCOL_TCP, 1], &[0; 14], &tcp(4000, 6443)]
            .concat();
    let fragment = |offset: u8| [&[PROTOCOL_TCP, 0, 0, offset, 0, 0, 0, 1][..], &tcp(1, 1)].concat();
    let cases = [
        ("plain", true, to_vip.clone()),
        ("backwards", true, v6(VIP6, CLIENT6, PROTOCOL_TCP, &tcp(6443, 4000))),
        ("another port", false, v6(CLIENT6, VIP6, PROTOCOL_TCP, &tcp(4001, 6443))),
        ("two extensions", true, v6(CLIENT6, VIP6, PROTOCOL_HOP_BY_HOP, &hop_by_hop)),
        ("a later fragment", true, v6(CLIENT6, VIP6, PROTOCOL_FRAGMENT, &fragment(8))),
        ("a first fragment of another port", false, v6(CLIENT6, VIP6, PROTOCOL_FRAGMENT, &fragment(1))),
        ("an error about it", true, v6(VIP6, VIP6, PROTOCOL_ICMPV6, &about(2, &to_vip))),
        ("a neighbour solicitation", false, v6(CLIENT6, VIP6, PROTOCOL_ICMPV6, &about(135, &[]))),
        ("in a tunnel", true, v6(VIP6, VIP6, PROTOCOL_IPV6, &to_vip)),
    ];
    for (what, expected, packet) in cases {
        assert_eq!(is_in(&wanted(CLIENT6, 128, 4000), &ip6(&packet)), expected, "{what}");
    }
}

#[test]
fn without_a_port_everything_of_the_network_is_wanted() {
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
    arp.extend([&[2; 6][..], &CLIENT, &[0; 6], &VIP].concat());
    let arp = ethernet(&[], ETHERTYPE_ARP, &arp);
    let ping = ip4(&v4(CLIENT, VIP, PROTOCOL_ICMP, 0, 0, &about(8, &[])));
    for frame in [&arp, &ping] {
        assert!(is_in(&wanted(CLIENT, 32, 0), frame));
        assert!(is_in(&wanted([10, 0, 99, 1], 16, 0), frame));
        assert!(!is_in(&wanted([11, 0, 0, 0], 8, 0), frame));
        assert!(!is_in(&wanted(OTHER, 32, 0), frame));
        assert!(!is_in(&wanted(CLIENT6, 128, 0), frame));
    }
    assert!(!is_in(&wanted(CLIENT, 32, 4000), &arp));
}

#[test]
fn a_network_of_all_ipv4_addresses_is_not_everything() {
    let lldp = ethernet(&[], Be16::new(0x88cc), &[]);
    let v6 = ip6(&v6(CLIENT6, VIP6, PROTOCOL_TCP, &tcp(1, 2)));
    assert!(is_in(&Wanted::EVERYTHING, &lldp) && is_in(&Wanted::EVERYTHING, &v6));
    assert!(!is_in(&wanted([0, 0, 0, 0], 0, 0), &lldp) && !is_in(&wanted([0, 0, 0, 0], 0, 0), &v6));
}

#[test]
fn what_was_kept_of_an_earlier_frame_does_not_count() {
    let frame = ip4(&v4(CLIENT, VIP, PROTOCOL_TCP, 0, 0, &tcp(4000, 6443)));
    let mut room = [0; FRAME_ROOM];
    room[..frame.len()].copy_from_slice(&frame);
    for len in 0..frame.len() {
        let found = wanted(CLIENT, 32, 4000).is_in(&Kept::new(&room, 0, len), &mut Cursor::default());
        assert_eq!(found, len >= 36, "{len}");
    }
}
