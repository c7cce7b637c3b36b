//! VRRP advertisements: the host gets every one, and the data plane notes when whose arrived.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::{layout::AdvertKey, reason::PassReason};

use super::{Case, Script, Setting, settings::one};
use crate::{
    frames::{Advert, Mac, fix_ip_checksum, tagged, vlan},
    plane::{self, NODE, NODE_MAC, NODE6, SECOND_MAC, VIP, VIP6},
};

const V6: &[Setting] = &[Setting::NAT6];
const BOTH: &[Setting] = &[Setting::NAT, Setting::NAT6];
const PEER_MAC: Mac = [0x02, 0, 0, 0, 0, 0x03];
const PEER: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 3);
const PEER6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 3);

/// An advertisement of the peer for the VIP.
fn advert(script: &Script<'_>) -> Advert {
    let (src, vip): (IpAddr, IpAddr) =
        if script.setting.v6 { (PEER6.into(), VIP6.into()) } else { (PEER.into(), VIP.into()) };
    Advert::new(PEER_MAC, src, &[vip])
}

fn key(advert: &Advert) -> AdvertKey {
    AdvertKey::new(advert.src.into(), advert.vrid)
}

/// It is the only one that was noted.
fn expect_only(script: &Script<'_>, advert: &Advert) {
    let noted = plane::Advert {
        mac: advert.link.source,
        priority: advert.priority.into(),
        version: advert.version.into(),
    };
    assert_eq!(script.notes.adverts, [(key(advert), noted)].into());
}

/// No frame of these is an advertisement, and none is noted.
fn expect_bad(script: &mut Script<'_>, frames: &[Vec<u8>]) {
    for frame in frames {
        script.passes(frame, PassReason::BadVrrp);
        assert_eq!(script.notes.adverts, [].into(), "{frame:02x?}");
    }
}

/// The frame with another byte in its IP packet; the checksum of an IPv4 header is right again.
fn with_byte(frame: &[u8], offset: usize, value: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[14 + offset] = value;
    if frame[12..14] == [0x08, 0x00] {
        fix_ip_checksum(&mut frame);
    }
    frame
}

pub(super) const CASES: &[Case] = &[
    Case::new(
        "version 3",
        "An advertisement of version 3 is noted, and the next one in its place",
        one,
        |script| {
            let mut advert = advert(script);
            script.passes(&advert.bytes(), PassReason::Vrrp);
            expect_only(script, &advert);
            (advert.priority, advert.link.source) = (255, [0x00, 0x00, 0x5e, 0x00, 0x01, 51]);
            script.passes(&advert.bytes(), PassReason::Vrrp);
            expect_only(script, &advert);
        },
    )
    .on(BOTH),
    Case::v4("version 2", "So is one of version 2", one, |script| {
        let advert = Advert { version: 2, ..advert(script) };
        script.passes(&advert.bytes(), PassReason::Vrrp);
        expect_only(script, &advert);
    }),
    Case::v4(
        "no pseudo-header",
        "Version 3 over IPv4 comes with either checksum: with a pseudo-header, or without as keepalived can be told to",
        one,
        |script| {
            let advert = Advert { pseudo_header: false, ..advert(script) };
            script.passes(&advert.bytes(), PassReason::Vrrp);
            expect_only(script, &advert);
        },
    ),
    Case::new("no pseudo-header, IPv6", "Over IPv6 there is but one checksum", one, |script| {
        let advert = Advert { pseudo_header: false, ..advert(script) };
        expect_bad(script, &[advert.bytes()]);
    })
    .on(V6),
    Case::new("unicast", "A peer may send to us alone", one, |script| {
        let mut advert = advert(script);
        advert.dst = if script.setting.v6 { NODE6.into() } else { NODE.into() };
        advert.link.destination = NODE_MAC;
        script.passes(&advert.bytes(), PassReason::Vrrp);
        expect_only(script, &advert);
    })
    .on(BOTH),
    Case::new("flooded", "What a switch floods of somebody else's unicast is not ours", one, |script| {
        let mut advert = advert(script);
        advert.dst = if script.setting.v6 { NODE6.into() } else { NODE.into() };
        advert.link.destination = [0x02, 0, 0, 0, 0, 0x77];
        script.passes(&advert.bytes(), PassReason::OtherHost);
        assert_eq!(script.notes.adverts, [].into());
    })
    .on(BOTH),
    Case::new(
        "priority 0",
        "A router that gives up is not up: what was noted stays as it was",
        one,
        |script| {
            let advert = advert(script);
            let last = Advert { priority: 0, ..advert.clone() };
            script.passes(&last.bytes(), PassReason::Vrrp);
            assert_eq!(script.notes.adverts, [].into());
            script.passes(&advert.bytes(), PassReason::Vrrp);
            script.passes(&last.bytes(), PassReason::Vrrp);
            expect_only(script, &advert);
        },
    )
    .on(BOTH),
    Case::new("authenticated", "What follows for authentication does not matter here", one, |script| {
        for length in [4, 32, 56] {
            let advert = Advert { trailer: vec![0xa5; length], ..advert(script) };
            script.passes(&advert.bytes(), PassReason::Vrrp);
            expect_only(script, &advert);
        }
    })
    .on(BOTH),
    Case::new("several", "Each sender and each virtual router is noted for itself", one, |script| {
        let first = advert(script);
        let other = if script.setting.v6 {
            Advert { src: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 4).into(), ..first.clone() }
        } else {
            Advert { src: Ipv4Addr::new(172, 16, 0, 4).into(), ..first.clone() }
        };
        let third = Advert { vrid: 255, ..first.clone() };
        for advert in [&first, &other, &third] {
            script.passes(&advert.bytes(), PassReason::Vrrp);
        }
        let keys: Vec<AdvertKey> = script.notes.adverts.keys().copied().collect();
        let mut expected = vec![key(&first), key(&other), key(&third)];
        expected.sort();
        assert_eq!(keys, expected);
    })
    .on(BOTH),
    Case::new("reflected", "Our own advertisements, reflected by a switch, are nobody's", one, |script| {
        for mac in [NODE_MAC, SECOND_MAC] {
            let mut advert = advert(script);
            advert.link.source = mac;
            script.passes(&advert.bytes(), PassReason::Vrrp);
            assert_eq!(script.notes.adverts, [].into());
        }
    })
    .on(BOTH),
    Case::new(
        "in a VLAN",
        "In our VLAN they are noted as well, in another one not",
        |setting| one(setting).on_vlans(&[7], false),
        |script| {
            let advert = advert(script);
            script.passes(&tagged(&advert.bytes(), &[vlan(8)]), PassReason::OtherVlan);
            assert_eq!(script.notes.adverts, [].into());
            script.passes(&tagged(&advert.bytes(), &[vlan(7)]), PassReason::Vrrp);
            expect_only(script, &advert);
        },
    )
    .on(BOTH),
    Case::new("long", "Of a message over 256 bytes the checksum is not looked at", one, |script| {
        let mut advert = advert(script);
        let count = if script.setting.v6 { 15 } else { 62 };
        advert.vips = vec![advert.vips[0]; count];
        let l4 = if script.setting.v6 { 54 } else { 34 };
        let mut frame = advert.bytes();
        frame[l4 + 6] ^= 1;
        expect_bad(script, &[frame]);
        advert.vips.push(advert.vips[0]);
        let mut frame = advert.bytes();
        frame[l4 + 6] ^= 1;
        script.passes(&frame, PassReason::Vrrp);
        expect_only(script, &advert);
    })
    .on(BOTH),
    Case::new("malformed", "What no router sends is counted by name, and not noted", one, |script| {
        let good = advert(script);
        let none = Advert { vips: vec![], ..good.clone() };
        let mut frames: Vec<Vec<u8>> =
            [254, 64, 1, 0].map(|ttl| Advert { ttl, ..good.clone() }.bytes()).into();
        frames.extend([0, 1, 4, 15].map(|version| Advert { version, ..good.clone() }.bytes()));
        frames.extend([0, 2, 15].map(|kind| Advert { kind, ..good.clone() }.bytes()));
        frames.push(Advert { vrid: 0, ..good.clone() }.bytes());
        frames.push(none.bytes());
        let bytes = good.bytes();
        let header = if script.setting.v6 { 40 } else { 20 };
        // One address more than there are; every byte of the message damaged; a sender that nobody is.
        frames.push(with_byte(&bytes, header + 3, 2));
        frames.push(with_byte(&bytes, header + 3, 255));
        frames.extend((header..bytes.len() - 14).map(|at| with_byte(&bytes, at, bytes[14 + at] ^ 0x10)));
        let mut from_group = good.clone();
        from_group.link.source = [0x01, 0, 0x5e, 0, 0, 1];
        frames.push(from_group.bytes());
        from_group.link.source = [0; 6];
        frames.push(from_group.bytes());
        // Cut short, with lengths that say so and with lengths that do not.
        frames.extend((14 + header..bytes.len()).map(|length| bytes[..length].to_vec()));
        let length = if script.setting.v6 { 5 } else { 3 };
        frames.extend((0..bytes[14 + length]).map(|value| with_byte(&bytes, length, value)));
        expect_bad(script, &frames);
    })
    .on(BOTH),
    Case::v4("malformed header", "An IPv4 header that is wrong, or of a part, carries none", one, |script| {
        let bytes = advert(script).bytes();
        let mut frames = vec![
            with_byte(&bytes, 0, 0x65),
            with_byte(&bytes, 0, 0x44),
            with_byte(&bytes, 6, 0x20),
            with_byte(&bytes, 7, 0x01),
            Advert { ip_options: vec![1; 4], ..advert(script) }.bytes(),
            Advert { src: Ipv4Addr::UNSPECIFIED.into(), ..advert(script) }.bytes(),
        ];
        let mut wrong_sum = bytes;
        wrong_sum[24] ^= 1;
        frames.push(wrong_sum);
        expect_bad(script, &frames);
    }),
    Case::new("version 2 over IPv6", "There is no version 2 over IPv6", one, |script| {
        let advert = Advert { version: 2, ..advert(script) };
        expect_bad(script, &[advert.bytes()]);
    })
    .on(V6),
];
