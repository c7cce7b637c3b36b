use netlink_packet_route::{
    address::AddressMessage,
    link::{LinkAttribute, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState},
    route::RouteMessage,
};

use super::*;

const SUB_INTERFACE: u32 = 7;
const PARENT: u32 = 2;
const ADDRESS: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 4);

/// One VLAN sub-interface on an interface of another name.
fn watch() -> Watch {
    let mut watch = Watch::default();
    watch.add("vlan100", SUB_INTERFACE, [SUB_INTERFACE, PARENT]);
    watch
}

fn tell(watch: &mut Watch, message: RouteNetlinkMessage) -> Option<NetlinkEvent> {
    watch.event(&NetlinkPayload::InnerMessage(message))
}

fn link(index: u32, name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    message
}

fn neighbour_message(index: u32, state: NeighbourState, mac: Option<u8>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = index;
    message.header.state = state;
    message.attributes = vec![NeighbourAttribute::Destination(NeighbourAddress::Inet6(ADDRESS))];
    message
        .attributes
        .extend(mac.map(|last| NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, last])));
    message
}

#[test]
fn links_are_ours_by_index_and_by_name_and_those_below_by_index() {
    use RouteNetlinkMessage::{DelLink, NewLink};
    let mut watch = watch();
    assert_eq!(tell(&mut watch, NewLink(link(8, "eth1"))), None);
    assert_eq!(tell(&mut watch, DelLink(link(SUB_INTERFACE, "renamed"))), Some(NetlinkEvent::Link));
    assert_eq!(tell(&mut watch, NewLink(link(9, "vlan100"))), Some(NetlinkEvent::Link), "made anew");
    assert_eq!(tell(&mut watch, NewLink(link(PARENT, "eth0"))), Some(NetlinkEvent::Link));
}

#[test]
fn addresses_and_neighbours_of_other_interfaces_are_none_of_ours() {
    let mut watch = watch();
    let mut address = AddressMessage::default();
    address.header.index = PARENT;
    assert_eq!(tell(&mut watch, RouteNetlinkMessage::NewAddress(address.clone())), None);
    address.header.index = SUB_INTERFACE;
    assert_eq!(tell(&mut watch, RouteNetlinkMessage::DelAddress(address)), Some(NetlinkEvent::Address));
    let theirs = neighbour_message(PARENT, NeighbourState::Reachable, Some(4));
    assert_eq!(tell(&mut watch, RouteNetlinkMessage::NewNeighbour(theirs)), None);
    assert_eq!(
        tell(&mut watch, RouteNetlinkMessage::NewRoute(RouteMessage::default())),
        Some(NetlinkEvent::Route)
    );
}

#[test]
fn a_neighbour_is_told_of_when_frames_go_elsewhere_and_not_for_its_kernel_states() {
    use NeighbourState::{Delay, Failed, Incomplete, Probe, Reachable, Stale};
    let mut watch = watch();
    // State, last octet of the MAC address, gone; whether it is news.
    let rows = [
        (Reachable, Some(4), false, true),
        (Stale, Some(4), false, false),
        (Delay, Some(4), false, false),
        (Probe, Some(4), false, false),
        (Reachable, Some(5), false, true),
        (Reachable, Some(4), false, true),
        (Failed, None, false, true),
        (Failed, None, false, false),
        (Incomplete, None, false, true),
        (Reachable, Some(4), false, true),
        (Stale, Some(4), true, true),
        (Stale, Some(4), true, true),
        (Reachable, Some(4), false, true),
    ];
    for (step, (state, mac, gone, news)) in rows.into_iter().enumerate() {
        let message = neighbour_message(SUB_INTERFACE, state, mac);
        let message = if gone {
            RouteNetlinkMessage::DelNeighbour(message)
        } else {
            RouteNetlinkMessage::NewNeighbour(message)
        };
        let expected = news.then_some(NetlinkEvent::Neighbour(ADDRESS.into()));
        assert_eq!(tell(&mut watch, message), expected, "step {step}: {state}");
    }
}

#[test]
fn after_a_loss_everything_is_news() {
    let mut watch = watch();
    let message = || {
        RouteNetlinkMessage::NewNeighbour(neighbour_message(
            SUB_INTERFACE,
            NeighbourState::Reachable,
            Some(4),
        ))
    };
    let news = Some(NetlinkEvent::Neighbour(ADDRESS.into()));
    assert_eq!(tell(&mut watch, message()), news);
    assert_eq!(watch.event(&NetlinkPayload::Overrun(Vec::new())), Some(NetlinkEvent::Lost));
    assert_eq!(tell(&mut watch, message()), news);
    watch.lost();
    assert_eq!(tell(&mut watch, message()), Some(NetlinkEvent::Lost), "even if this one says nothing new");
    assert_eq!(tell(&mut watch, message()), None);
}
