use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// On interface 7; `created` in hundredths of a second.
fn message(address: &str, flags: AddressFlags, created: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = 7;
    message.header.prefix_len = 64;
    // As the kernel does: the first eight here, and all of them in the attribute.
    message.header.flags = AddressHeaderFlags::from_bits_retain(flags.bits() as u8);
    let mut lifetimes = CacheInfo::default();
    lifetimes.cstamp = created;
    message.attributes = vec![
        AddressAttribute::Address(ip(address)),
        AddressAttribute::CacheInfo(lifetimes),
        AddressAttribute::Flags(flags),
    ];
    message
}

#[test]
fn the_local_end_of_a_point_to_point_address_is_ours() {
    let mut message = AddressMessage::default();
    message.header.prefix_len = 30;
    message.attributes =
        vec![AddressAttribute::Address(ip("172.16.0.1")), AddressAttribute::Local(ip("172.16.0.4"))];
    assert_eq!(interface_address(&message), Some((ip("172.16.0.4"), 30)));
}

#[test]
fn link_local_addresses_are_not_listed() {
    let of = |address| interface_address(&message(address, AddressFlags::Permanent, 0));
    assert_eq!(of("fe80::1"), None);
    assert_eq!(of("2001:db8::1"), Some((ip("2001:db8::1"), 64)));
    assert_eq!(of("fd00::1"), Some((ip("fd00::1"), 64)));
}

#[test]
fn a_node_is_known_by_what_lasts_and_has_been_there_longest() {
    use AddressFlags as Flags;
    let permanent = Flags::Permanent;
    let messages = [
        message("192.0.2.9", permanent, 900),
        message("192.0.2.1", permanent | Flags::Secondary, 100),
        message("2001:db8::5", Flags::empty(), 5),
        message("2001:db8::6", Flags::Secondary, 6),
        message("2001:db8::20", permanent, 200),
        message("2001:db8::10", permanent, 100),
        message("2001:db8::d", permanent | Flags::Deprecated, 1),
        message("2001:db8::bad", permanent | Flags::Dadfailed, 2),
        message("2001:db8::7", permanent | Flags::Tentative, 3),
        message("fe80::1", permanent, 0),
    ];
    let expected = [
        // The kernel's order, whatever their age.
        "192.0.2.9",
        "192.0.2.1",
        "2001:db8::10",
        "2001:db8::20",
        // By router advertisement; a temporary one (the flag is the same as a secondary one's) and a deprecated one.
        "2001:db8::5",
        "2001:db8::d",
        "2001:db8::6",
    ];
    assert_eq!(known_by(&messages), BTreeMap::from([(7, expected.map(ip).to_vec())]));
    let mut reversed = messages;
    reversed[2..].reverse();
    assert_eq!(known_by(&reversed)[&7], expected.map(ip), "IPv6 addresses come in any order");
}

#[test]
fn an_ipv6_vip_is_usable_at_once_and_never_a_source() {
    let message = address_message(7, (ip("2001:db8::10"), 64));
    let flags = flags_of(&message);
    assert!(flags.contains(AddressFlags::Nodad | AddressFlags::Noprefixroute), "{flags:?}");
    let lifetimes = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::CacheInfo(lifetimes) => Some((lifetimes.ifa_preferred, lifetimes.ifa_valid)),
        _ => None,
    });
    assert_eq!(lifetimes, Some((0, u32::MAX)));
    assert_eq!(interface_address(&message), Some((ip("2001:db8::10"), 64)));
}

#[test]
fn an_ipv4_vip_has_neither_route_nor_broadcast_address() {
    let message = address_message(7, (ip("172.16.0.10"), 24));
    assert_eq!(flags_of(&message), AddressFlags::Noprefixroute);
    assert!(!message.attributes.iter().any(|attribute| matches!(attribute, AddressAttribute::Broadcast(_))));
}
