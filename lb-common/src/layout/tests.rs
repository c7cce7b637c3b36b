use super::*;

#[test]
fn the_filter_knows_every_vip_and_few_others() {
    let mut node = NodeEntry::EMPTY;
    let vips = [0xac10_000a, 0xac10_000b, 0x0a00_0001].map(Be32::new);
    vips.iter().for_each(|&vip| node.add_vip(vip));
    assert!(vips.iter().all(|&vip| node.may_be_vip(vip)));
    // The neighbours of a VIP in its /24 are the traffic that the filter is for.
    let false_hits = (0xac10_0000..0xac10_0100).filter(|&a| node.may_be_vip(Be32::new(a))).count();
    assert!(false_hits <= 4, "{false_hits}");
}

#[test]
fn the_filter_knows_ipv6_vips_and_few_of_their_neighbours() {
    let address = |last: u16| Be128::from(core::net::Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, last));
    let mut node = NodeEntry::EMPTY;
    node.add_vip(address(10));
    assert!(node.may_be_vip(address(10)));
    assert!((11..256).filter(|&last| node.may_be_vip(address(last))).count() <= 2);
}

#[test]
fn silence_is_never_negative_and_survives_the_clocks_wrap() {
    for (at, clock, silence) in
        [(100, 100, 0), (100, 160, 60), (u32::MAX - 1, 5, 7), (100, 99, 0), (5, u32::MAX, 0)]
    {
        let seen = Seen { at, ..Seen::default() };
        assert_eq!(seen.silence(clock), silence, "{at} {clock}");
        for limit in [0, 6, 7, 59, 60, 61, u32::MAX] {
            assert_eq!(seen.is_heard_within(limit, clock), silence <= limit, "{at} {clock} {limit}");
        }
    }
}

#[test]
fn reversing_twice_changes_nothing() {
    let key = FlowKey::new(Be32::new(1), Be16::new(2), Be32::new(3), Be16::new(4));
    assert_eq!(key.reversed().reversed(), key);
    assert_ne!(key.reversed(), key);
}

#[test]
fn a_tag_is_its_bytes_on_the_wire() {
    let tag = TagWord::new(Be16::new(0x8100), Be16::new(0xa064));
    assert_eq!(tag.octets(), [0x81, 0x00, 0xa0, 0x64]);
    assert_eq!(tag.vlan(), 0x064);
    assert!(tag.is_some() && !TagWord::NONE.is_some());
}

#[test]
fn a_mac_is_its_bytes_on_the_wire() {
    let bytes = [0x02, 0x11, 0x22, 0x33, 0x44, 0xf5];
    let mac = MacWord::new(bytes);
    assert_eq!((mac.octets(), MacWord::read(&bytes)), (bytes, mac));
    let mut frame = [0; 6];
    mac.write(&mut frame);
    assert_eq!(frame, bytes);
    assert_eq!(mac.0.to_ne_bytes()[6..], [0, 0]);
}
