use etherparse::{NetSlice, SlicedPacket};

use super::{
    super::golden::{ALL_ROUTERS_V6, GROUP, LINK_LOCAL, SOURCE},
    *,
};

const MAC: [u8; 6] = [0, 0, 0x5e, 0, 1, 60];

/// Whole frames as another reader sees them.
#[test]
fn a_frame_is_from_the_virtual_mac_to_the_group() {
    let mut buffer = [0xa5; LONGEST];
    let len = multicast(MAC, SOURCE, GROUP, b"message", &mut buffer).unwrap();
    let frame = SlicedPacket::from_ethernet(&buffer[..len]).unwrap();
    let ethernet = frame.link.as_ref().unwrap().to_header().unwrap().ethernet2().unwrap();
    assert_eq!((ethernet.source, ethernet.destination), (MAC, [1, 0, 0x5e, 0, 0, 0x12]));
    let Some(NetSlice::Ipv4(packet)) = frame.net else { panic!("not IPv4: {frame:?}") };
    let header = packet.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    assert_eq!((header.source.into(), header.destination.into(), header.time_to_live), (SOURCE, GROUP, 255));
    assert_eq!((header.protocol.0, header.dscp.value(), header.total_len), (112, 0xc0 >> 2, 27));
    assert_eq!(packet.payload().payload, b"message");

    let mut buffer = [0xa5; LONGEST];
    let len = multicast(MAC, LINK_LOCAL, ALL_ROUTERS_V6, b"message", &mut buffer).unwrap();
    let frame = SlicedPacket::from_ethernet(&buffer[..len]).unwrap();
    let ethernet = frame.link.as_ref().unwrap().to_header().unwrap().ethernet2().unwrap();
    assert_eq!((ethernet.source, ethernet.destination), (MAC, [0x33, 0x33, 0, 0, 0, 0x12]));
    let Some(NetSlice::Ipv6(packet)) = frame.net else { panic!("not IPv6: {frame:?}") };
    let header = packet.header();
    assert_eq!((header.source_addr(), header.destination_addr()), (as_v6(LINK_LOCAL), as_v6(ALL_ROUTERS_V6)));
    assert_eq!((header.hop_limit(), header.next_header().0, header.traffic_class()), (255, 112, 0xc0));
    assert_eq!((header.payload_length(), packet.payload().payload), (7, &b"message"[..]));
}

#[test]
fn what_makes_no_frame_is_refused() {
    let mut buffer = [0; LONGEST];
    assert_eq!(multicast(MAC, SOURCE, ALL_ROUTERS_V6, b"", &mut buffer), None);
    assert_eq!(multicast(MAC, LINK_LOCAL, GROUP, b"", &mut buffer), None);
    let longest = [0; LONGEST_MESSAGE];
    assert_eq!(multicast(MAC, LINK_LOCAL, ALL_ROUTERS_V6, &longest, &mut buffer), Some(LONGEST));
    assert_eq!(multicast(MAC, LINK_LOCAL, ALL_ROUTERS_V6, &[0; LONGEST_MESSAGE + 1], &mut buffer), None);
}

fn as_v6(address: IpAddr) -> std::net::Ipv6Addr {
    match address {
        IpAddr::V6(address) => address,
        IpAddr::V4(_) => panic!("{address} is not IPv6"),
    }
}
