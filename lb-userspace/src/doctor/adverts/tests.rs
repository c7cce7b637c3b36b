use super::*;
use crate::{
    config::model::VrrpChecksum,
    vrrp::{
        advert::{Centiseconds, Priority},
        frame,
    },
};

const MAC: Mac = [2, 0, 0, 0, 0, 7];

/// A frame with an advertisement, made by what sends them.
fn advert(source: IpAddr, group: IpAddr, vip: IpAddr) -> Vec<u8> {
    let advertisement = Advertisement {
        vrid: Vrid(std::num::NonZeroU8::new(60).expect("a VRID")),
        priority: Priority(90),
        dialect: Dialect::V3 {
            interval: Centiseconds::new(100).expect("an interval"),
            checksum: VrrpChecksum::Keepalived,
        },
        addresses: vec![vip],
    };
    let mut message = [0; 64];
    let len = advertisement.emit(source, group, None, &mut message).expect("emitted");
    let mut frame = [0; frame::LONGEST];
    let len = frame::multicast(MAC, source, group, &message[..len], &mut frame).expect("framed");
    frame[..len].to_vec()
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn an_advertisement_of_either_family_is_read_from_its_frame() {
    for (source, group, vip) in
        [("172.16.0.3", "224.0.0.18", "172.16.0.10"), ("fe80::3", "ff02::12", "fe80::10")]
    {
        let frame = advert(address(source), address(group), address(vip));
        let heard = Heard::read(&frame, false, SystemTime::UNIX_EPOCH).expect("an advertisement");
        assert_eq!((heard.mac, heard.envelope.source), (MAC, address(source)));
        assert_eq!(heard.advertisement.addresses, [address(vip)]);
        assert_eq!(heard.sender(), format!("{source} (02:00:00:00:00:07)"));
        assert_eq!(heard.clock_ahead(), None);
        for end in 0..frame.len() {
            assert!(Heard::read(&frame[..end], false, SystemTime::UNIX_EPOCH).is_none(), "{end}");
        }
    }
}

#[test]
fn a_probe_tells_nobody_an_address_and_its_answer_is_understood() {
    let target = Ipv4Addr::new(172, 16, 0, 10);
    let mut frame = arp_probe(MAC, target);
    assert_eq!(frame.len(), 42);
    assert_eq!(frame[28..32], [0; 4], "the sender's address");
    assert_eq!(owner_of(&frame), None, "a question is no answer");
    // The owner's answer.
    frame[21] = 2;
    frame[22..28].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    frame[28..32].copy_from_slice(&target.octets());
    assert_eq!(owner_of(&frame), Some((target.into(), [2, 0, 0, 0, 0, 9])));
    assert_eq!(owner_of(&frame[..41]), None);
}

#[test]
fn a_solicitation_goes_to_the_target_s_group_and_an_advertisement_is_understood() {
    let (own, target): (Ipv6Addr, Ipv6Addr) =
        ("fd10::2".parse().expect("own"), "fd10::1:10".parse().expect("VIP"));
    let frame = neighbour_solicitation(MAC, own, target);
    assert_eq!(frame[..6], [0x33, 0x33, 0xff, 1, 0, 0x10]);
    assert_eq!(frame[38..54], "ff02::1:ff01:10".parse::<Ipv6Addr>().expect("the group").octets());
    // Summed with its checksum in place, a message gives nothing.
    assert_eq!(icmpv6_checksum(&frame[22..54], &frame[54..]), 0);
    assert_eq!(owner_of(&frame), None);
    let answer = crate::announce::unsolicited_advertisement([2, 0, 0, 0, 0, 9], target);
    assert_eq!(owner_of(&answer), Some((target.into(), [2, 0, 0, 0, 0, 9])));
}

/// Anybody may send anything.
#[test]
fn no_frame_makes_it_panic() {
    use proptest::prelude::*;

    let heads = [
        advert(address("172.16.0.3"), address("224.0.0.18"), address("172.16.0.10")),
        advert(address("fe80::3"), address("ff02::12"), address("fe80::10")),
        arp_probe(MAC, Ipv4Addr::new(172, 16, 0, 10)),
        crate::announce::unsolicited_advertisement(MAC, Ipv6Addr::LOCALHOST).to_vec(),
    ];
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let frames = (prop::sample::select(heads.to_vec()), changes, any::<prop::sample::Index>());
    proptest!(ProptestConfig::with_cases(2000), |((mut frame, changes, end) in frames)| {
        for (at, byte) in changes {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        frame.truncate(end.index(frame.len()) + 1);
        let _ = Heard::read(&frame, false, SystemTime::UNIX_EPOCH);
        let _ = owner_of(&frame);
    });
}
