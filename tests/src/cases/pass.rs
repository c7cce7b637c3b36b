//! What is none of our business: the host gets it, byte for byte.

use std::net::{Ipv4Addr, SocketAddrV4};

use lb_common::{
    layout::NodeEntry,
    reason::{DropReason, PassReason},
    wire::Be32,
};

use super::{Case, Connection, settings::one};
use crate::{
    frames::{ACK, Arp, Mac, SYN, echo_request, fix_ip_checksum, udp},
    plane::{NODE_MAC, OTHER_VIP, ROUTER_MAC, SERVICE, VIP, World},
};

const CLIENT: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 100);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 200);
const ANOTHER_MAC: Mac = [0x02, 0, 0, 0, 0, 0x77];

pub(super) const CASES: &[Case] = &[
    Case::new("ethertypes", "Only IP, ARP and VLAN tags are looked into", one, |script| {
        let frame = script.connection(40_000).from_client(SYN, b"").bytes();
        for ethertype in [0x0000u16, 0x05ff, 0x0801, 0x8035, 0x8847, 0x8864, 0x88cc, 0x9100, 0xffff] {
            let mut other = frame.clone();
            other[12..14].copy_from_slice(&ethertype.to_be_bytes());
            script.passes(&other, PassReason::NotIp);
        }
    }),
    Case::v4("arp", "ARP for another address is the host's", one, |script| {
        script.passes(&Arp::request(ROUTER_MAC, CLIENT, OUTSIDE).bytes(), PassReason::Arp);
    }),
    Case::v4("runts", "Too short for an IPv4 header is too short to judge", one, |script| {
        let frame = script.connection(40_000).from_client(SYN, b"").bytes();
        for length in 14..34 {
            script.passes(&frame[..length], PassReason::TooShort);
        }
    }),
    Case::v4(
        "flooded",
        "A frame for another host's Ethernet address, flooded by a switch, is not ours though it names our VIP",
        one,
        |script| {
            for mac in [ANOTHER_MAC, ROUTER_MAC, [0xff; 6], [0x01, 0, 0x5e, 0, 0, 1], [0; 6]] {
                let mut segment = script.connection(40_000).from_client(SYN, b"");
                segment.dst_mac = mac;
                script.passes(&segment.bytes(), PassReason::OtherHost);
            }
        },
    ),
    Case::v4(
        "flooded data",
        "A flooded frame of a flow that is ours is not forwarded: whoever it was for gets it",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            let mut segment = connection.from_client(ACK, b"data");
            segment.dst_mac = ANOTHER_MAC;
            script.passes(&segment.bytes(), PassReason::OtherHost);
        },
    ),
    Case::v4("not a vip", "TCP for another address, SYN or not, is untouched", one, |script| {
        for flags in [SYN, ACK, SYN | ACK] {
            let connection = Connection::from(
                SocketAddrV4::new(CLIENT, 40_000),
                SocketAddrV4::new(OUTSIDE, SERVICE.port()),
            );
            script.passes(&connection.from_client(flags, b"data").bytes(), PassReason::NotVip);
        }
    }),
    Case::v4("malformed, not a vip", "Nonsense for another address is the host's to judge", one, |script| {
        let connection = Connection::from(SocketAddrV4::new(CLIENT, 1), SocketAddrV4::new(OUTSIDE, 0));
        let mut frame = connection.from_client(0, b"").bytes();
        frame[14] = 0xff;
        frame[22] = 0;
        script.passes(&frame, PassReason::NotVip);
    }),
    Case::v4(
        "hashes like a vip",
        "The filter may take another address for a VIP; nothing comes of it, and malformed frames are not dropped",
        one,
        |script| {
            let node = World::one_backend().node;
            let twin = (0x0a00_0000u32..)
                .map(Ipv4Addr::from)
                .find(|&address| node.may_be_vip(Be32::from(address)))
                .expect("a twelve-bit filter has twins");
            let connection =
                Connection::from(SocketAddrV4::new(CLIENT, 40_000), SocketAddrV4::new(twin, SERVICE.port()));
            for flags in [SYN, ACK] {
                script.passes(&connection.from_client(flags, b"").bytes(), PassReason::NoService);
            }
            let good = connection.from_client(SYN, b"").bytes();
            let mut bad = good.clone();
            bad[24] ^= 1;
            script.passes(&bad, PassReason::NotVip);
            for (offset, value) in [(14, 0x44), (14, 0x65), (21, 0x01), (21, 0x02), (46, 0x40)] {
                let mut bad = good.clone();
                bad[offset] = value;
                fix_ip_checksum(&mut bad);
                script.passes(&bad, PassReason::NotVip);
            }
            script.passes(&good[..40], PassReason::NotVip);
        },
    ),
    Case::v4("ping", "The host answers an echo request for the VIP", one, |script| {
        script.passes(&echo_request(ROUTER_MAC, NODE_MAC, CLIENT.into(), VIP.into()), PassReason::NotTcp);
    }),
    Case::v4("udp", "UDP for the service's port is not TCP", one, |script| {
        let frame =
            udp(ROUTER_MAC, NODE_MAC, SocketAddrV4::new(CLIENT, 40_000).into(), SERVICE.into(), b"hello");
        script.passes(&frame, PassReason::NotTcp);
    }),
    Case::v4("udp fragment", "A fragment of something else than TCP is the host's", one, |script| {
        let mut frame =
            udp(ROUTER_MAC, NODE_MAC, SocketAddrV4::new(CLIENT, 40_000).into(), SERVICE.into(), b"hello");
        frame[20] = 0x20;
        fix_ip_checksum(&mut frame);
        script.passes(&frame, PassReason::NotTcp);
    }),
    Case::v4("no service", "TCP for a port of the VIP without a service is the host's", one, |script| {
        for (vip, port) in [(VIP, 22), (VIP, 6442), (VIP, 0), (OTHER_VIP, SERVICE.port())] {
            let connection =
                Connection::from(SocketAddrV4::new(CLIENT, 40_000), SocketAddrV4::new(vip, port));
            for flags in [SYN, ACK, 0, SYN | ACK] {
                script.passes(&connection.from_client(flags, b"").bytes(), PassReason::NoService);
            }
        }
    }),
    Case::v4(
        "no service, other source",
        "Without a service not even a source that nobody can answer is judged",
        one,
        |script| {
            let connection =
                Connection::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 40_000), SocketAddrV4::new(VIP, 22));
            script.passes(&connection.from_client(SYN, b"").bytes(), PassReason::NoService);
        },
    ),
    Case::v4(
        "not configured",
        "Before the controller has written the node's entry, nothing is a VIP",
        |setting| World { node: NodeEntry::EMPTY, ..one(setting) },
        |script| {
            script.passes(&script.connection(40_000).from_client(SYN, b"").bytes(), PassReason::NotVip);
            script.passes(&Arp::request(ROUTER_MAC, CLIENT, VIP).bytes(), PassReason::Arp);
        },
    ),
    Case::v4(
        "vip removed",
        "An address that is no VIP any more is untouched again; malformed frames for it, too",
        one,
        |script| {
            let frame = script.connection(40_000).from_client(SYN, b"").bytes();
            let mut bad = frame.clone();
            bad[24] ^= 1;
            script.drops(&bad, DropReason::BadIpChecksum);
            script.change(|world| {
                world.tables.vips.remove(&VIP.into());
                world.tables.services.clear();
                let mut node = NodeEntry { vip_filter: NodeEntry::EMPTY.vip_filter, ..world.node };
                node.add_vip(Be32::from(OTHER_VIP));
                world.node = node;
            });
            script.passes(&frame, PassReason::NotVip);
            script.passes(&bad, PassReason::NotVip);
        },
    ),
];
