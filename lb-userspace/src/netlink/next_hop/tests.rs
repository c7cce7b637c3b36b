use netlink_packet_route::{neighbour::NeighbourHeader, route::RouteHeader};

use super::*;

const BACKEND: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 16, 0, 4));
const ROUTER: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
const BACKEND6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 4));
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

#[test]
fn a_route_names_the_neighbour_to_send_to() {
    use RouteAttribute::{Gateway, Oif, Via};
    use RouteType::{BlackHole, Local, Unicast};
    let rows = [
        (BACKEND, Unicast, vec![Oif(7)], Route::Neighbour((7, BACKEND))),
        (
            BACKEND,
            Unicast,
            vec![Oif(7), Gateway(RouteAddress::Inet(ROUTER))],
            Route::Neighbour((7, ROUTER.into())),
        ),
        (
            BACKEND,
            Unicast,
            vec![Oif(7), Via(RouteVia::Inet6(ROUTER6))],
            Route::Neighbour((7, ROUTER6.into())),
        ),
        (BACKEND6, Unicast, vec![Oif(8)], Route::Neighbour((8, BACKEND6))),
        (
            BACKEND6,
            Unicast,
            vec![Oif(8), Gateway(RouteAddress::Inet6(ROUTER6))],
            Route::Neighbour((8, ROUTER6.into())),
        ),
        (BACKEND6, Local, vec![Oif(1)], Route::Local),
        (BACKEND, Local, vec![Oif(1)], Route::Local),
        (BACKEND, BlackHole, vec![Oif(7)], Route::None),
        (BACKEND, Unicast, vec![], Route::None),
    ];
    for (backend, kind, attributes, expected) in rows {
        let mut message = RouteMessage::default();
        message.header = RouteHeader { kind, ..RouteHeader::default() };
        message.attributes = attributes.clone();
        assert_eq!(route_of(&message, backend), expected, "{kind:?} {attributes:?}");
    }
}

#[test]
fn only_states_with_an_address_count_as_known() {
    let mac = [2, 0, 0, 0, 0, 4];
    let of = |state, mac: Option<&[u8]>| {
        let mut message = NeighbourMessage::default();
        message.header = NeighbourHeader { state, ..NeighbourHeader::default() };
        message.attributes.extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.to_vec())));
        neighbour(&message)
    };
    use NeighbourState::{Failed, Incomplete, Noarp, Permanent, Probe, Reachable, Stale};
    for state in [Reachable, Stale, Probe, Permanent] {
        assert_eq!(of(state, Some(&mac)), Some(Neighbour::Known(mac)), "{state}");
    }
    assert_eq!(of(Failed, Some(&mac)), None, "an old address of a neighbour that does not answer");
    assert_eq!(of(Incomplete, None), Some(Neighbour::Resolving));
    assert_eq!(of(Noarp, Some(&[0; 6])), None, "loopback-like");
    assert_eq!(of(Reachable, Some(&[1, 2, 3, 4])), None, "not Ethernet");
}

#[test]
fn a_neighbour_is_of_either_family() {
    let of = |destination| {
        let mut message = NeighbourMessage::default();
        message.attributes = vec![NeighbourAttribute::Destination(destination)];
        neighbour_address(&message)
    };
    assert_eq!(of(NeighbourAddress::Inet(ROUTER)), Some(ROUTER.into()));
    assert_eq!(of(NeighbourAddress::Inet6(ROUTER6)), Some(ROUTER6.into()));
    assert_eq!(of(NeighbourAddress::Other(vec![1, 2])), None);
}
