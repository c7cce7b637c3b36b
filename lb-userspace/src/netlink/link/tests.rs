use netlink_packet_route::link::XdpAttached;

use super::*;

const ETH0: u32 = 2;
const MAC: Mac = [2, 0, 0, 0, 0, 2];

fn message(index: u32, name: &str, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Address(MAC.to_vec()),
        LinkAttribute::Mtu(1500),
    ];
    message.attributes.extend(attributes);
    message
}

fn of_kind(kind: InfoKind) -> LinkAttribute {
    LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])
}

fn vlan(index: u32, on: u32, id: u16, protocol: Option<VlanProtocol>) -> LinkMessage {
    let mut data = vec![InfoVlan::Id(id)];
    data.extend(protocol.map(InfoVlan::Protocol));
    let info = vec![LinkInfo::Kind(InfoKind::Vlan), LinkInfo::Data(InfoData::Vlan(data))];
    let name = format!("vlan{id}");
    message(index, &name, vec![LinkAttribute::Link(on), LinkAttribute::LinkInfo(info)])
}

#[test]
fn an_ordinary_interface_is_its_own_parent() {
    let ordinary = [
        vec![],
        vec![of_kind(InfoKind::Bond)],
        vec![of_kind(InfoKind::Dummy)],
        // The other end, in this namespace or in another one.
        vec![of_kind(InfoKind::Veth), LinkAttribute::Link(3)],
        vec![of_kind(InfoKind::Veth), LinkAttribute::Link(ETH0), LinkAttribute::LinkNetNsId(0)],
        vec![LinkAttribute::Link(ETH0)],
    ];
    for attributes in ordinary {
        let link = link_of(&[message(ETH0, "eth0", attributes.clone())]).expect("an ordinary interface");
        let expected = Link {
            name: "eth0".into(),
            index: ETH0,
            mac: Some(MAC),
            up: true,
            running: true,
            mtu: 1500,
            parent: ETH0,
            parent_name: "eth0".into(),
            xdp_programs: vec![],
            tags: vec![],
            addresses: vec![],
        };
        assert_eq!(link, expected, "{attributes:?}");
    }
}

#[test]
fn the_programs_at_the_bottom_are_seen() {
    let programs = LinkAttribute::Xdp(vec![
        LinkXdp::Attached(XdpAttached::Driver),
        LinkXdp::ProgId(7),
        LinkXdp::DrvProgId(7),
    ]);
    let stack = [vlan(7, ETH0, 100, None), message(ETH0, "eth0", vec![programs])];
    assert_eq!(link_of(&stack).expect("a VLAN").xdp_programs, [7, 7]);
}

#[test]
fn a_vlan_is_found_on_its_parent() {
    let stack = [vlan(7, ETH0, 100, Some(VlanProtocol::Ieee8021Q)), message(ETH0, "eth0", vec![])];
    let link = link_of(&stack).expect("a VLAN");
    assert_eq!((link.name.as_str(), link.index), ("vlan100", 7));
    assert_eq!((link.parent_name.as_str(), link.parent), ("eth0", ETH0));
    assert_eq!(link.tags, [VlanTag { protocol: 0x8100, id: 100 }]);
    // A kernel that does not tell the protocol knows only one.
    let old = [vlan(7, ETH0, 100, None), message(ETH0, "eth0", vec![of_kind(InfoKind::Bond)])];
    assert_eq!(link_of(&old).expect("a VLAN").tags, link.tags);
}

#[test]
fn the_lower_of_two_vlans_has_the_outer_tag() {
    let stack = [
        vlan(8, 7, 42, Some(VlanProtocol::Ieee8021Q)),
        vlan(7, ETH0, 100, Some(VlanProtocol::Ieee8021Ad)),
        message(ETH0, "eth0", vec![]),
    ];
    let link = link_of(&stack).expect("a VLAN on a VLAN");
    assert_eq!(link.tags, [VlanTag { protocol: 0x88a8, id: 100 }, VlanTag { protocol: 0x8100, id: 42 }]);
    assert_eq!((link.index, link.parent), (8, ETH0));
    let deeper = [vlan(9, 8, 1, None), stack[0].clone(), stack[1].clone(), stack[2].clone()];
    assert_eq!(link_of(&deeper), Err("has more than 2 VLAN tags".into()));
}

#[test]
fn a_vlan_has_a_carrier_where_its_parent_has() {
    let mut stack = [vlan(7, ETH0, 100, None), message(ETH0, "eth0", vec![])];
    stack[1].header.flags = LinkFlags::Up;
    let link = link_of(&stack).expect("a VLAN");
    assert_eq!((link.up, link.running), (true, false));
    stack[1].header.flags = LinkFlags::empty();
    assert!(!link_of(&stack).expect("a VLAN").up);
}

#[test]
fn what_frames_cannot_be_taken_from_says_so() {
    let mut moved = vlan(7, ETH0, 100, None);
    moved.attributes.push(LinkAttribute::LinkNetNsId(1));
    let rows = [
        (message(7, "mv0", vec![of_kind(InfoKind::MacVlan), LinkAttribute::Link(ETH0)]), "of kind macvlan"),
        (message(7, "vx0", vec![of_kind(InfoKind::Vxlan)]), "of kind vxlan"),
        (message(7, "new0", vec![of_kind(InfoKind::Other("novel".into()))]), "of kind novel"),
        (message(7, "p0", vec![LinkAttribute::Link(ETH0)]), "on another interface"),
        (message(7, "v0", vec![of_kind(InfoKind::Vlan), LinkAttribute::Link(ETH0)]), "does not tell the tag"),
        (message(7, "v0", vec![of_kind(InfoKind::Vlan)]), "of kind vlan"),
        (moved, "in another network namespace"),
    ];
    for (message, expected) in rows {
        let reason = link_of(std::slice::from_ref(&message)).expect_err(expected);
        assert!(reason.contains(expected), "{reason}");
    }
    assert!(link_of(&[]).is_err());
}

#[test]
fn the_node_s_own_address_is_no_vip() {
    let mut link = link_of(&[message(ETH0, "eth0", vec![])]).expect("an ordinary interface");
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    link.addresses = ["172.16.0.10", "172.16.0.2", "2001:db8::10", "2001:db8::2"].map(address).to_vec();
    let vips = ["172.16.0.10", "2001:db8::10"].map(address).into();
    assert_eq!(link.v4(&vips).map(IpAddr::V4), Some(address("172.16.0.2")));
    assert_eq!(link.v6(&vips).map(IpAddr::V6), Some(address("2001:db8::2")));
    link.addresses.truncate(1);
    assert_eq!((link.v4(&vips), link.v6(&vips)), (None, None));
}
