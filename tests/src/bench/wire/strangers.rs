//! Frames that an LB node gets and does not forward. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::routes::{CLIENT, CLIENT6, Route};
use super::walk::{Says, Varies, Walk};
use crate::frames::{ACK, Arp, Mac, echo_request, udp};
use crate::mass::{CLIENT_MAC, NODE_MAC};

/// Somebody who is no VIP, and whose bit in the filter of VIPs is no VIP's either.
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 200, 9, 9);
const OTHER6: Ipv6Addr = Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 9, 9);
const OTHER_MAC: Mac = [0x02, 0, 0, 0, 0, 0x77];
/// A port without a service.
const OTHER_PORT: u16 = 22;

/// Each with its name.
pub fn frames() -> Vec<(&'static str, Vec<u8>)> {
    let (v4, v6) = (Route::Nat { v6: false }, Route::Nat { v6: true });
    let (vip, vip6) = (v4.service(), v6.service());
    let tcp = |mac: Mac, to: SocketAddr| {
        let src: IpAddr = if to.is_ipv4() { CLIENT.into() } else { CLIENT6.into() };
        let says = Says { flags: ACK, seq: 1, ack: 1 };
        Walk::new((CLIENT_MAC, mac), (SocketAddr::new(src, 0), to), Varies::Source, says, 1).frame(0)
    };
    let echo = |to: SocketAddr| {
        let src = if to.is_ipv4() { IpAddr::from(CLIENT) } else { CLIENT6.into() };
        echo_request(CLIENT_MAC, NODE_MAC, src, to.ip())
    };
    let from = SocketAddr::new(CLIENT.into(), 1234);
    vec![
        ("not a VIP, IPv4", tcp(NODE_MAC, SocketAddr::new(OTHER.into(), vip.port()))),
        ("not a VIP, IPv6", tcp(NODE_MAC, SocketAddr::new(OTHER6.into(), vip.port()))),
        ("another node's, IPv4", tcp(OTHER_MAC, vip)),
        ("another node's, IPv6", tcp(OTHER_MAC, vip6)),
        ("no service on the port, IPv4", tcp(NODE_MAC, SocketAddr::new(vip.ip(), OTHER_PORT))),
        ("no service on the port, IPv6", tcp(NODE_MAC, SocketAddr::new(vip6.ip(), OTHER_PORT))),
        ("UDP to the VIP", udp(CLIENT_MAC, NODE_MAC, from, vip, b"datagram")),
        ("echo request to the VIP, IPv4", echo(vip)),
        ("echo request to the VIP, IPv6", echo(vip6)),
        ("ARP request for another", Arp::request(CLIENT_MAC, CLIENT, OTHER).bytes()),
        ("ARP request for the VIP", Arp::request(CLIENT_MAC, CLIENT, v4_of(vip)).bytes()),
    ]
}

fn v4_of(at: SocketAddr) -> Ipv4Addr {
    match at.ip() {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}
