//! What is none of our business: the host gets it, byte for byte.

use std::net::{Ipv4Addr, SocketAddrV4};

use lb_common::{
    layout::NodeEntry,
    reason::{DropReason, PassReason},
};

use super::{Case, Connection};
use crate::{
    frames::{ACK, Mac, SYN, arp_request, echo_request, fix_ip_checksum, ipv6_syn, udp},
    plane::{NODE_MAC, OTHER_VIP, ROUTER_MAC, SERVICE, VIP, World},
};

const CLIENT: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 100);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 200);
const ANOTHER_MAC: Mac = [0x02, 0, 0, 0, 0, 0x77];

pub(super) const CASES: &[Case] = &[
    Case::new("ipv6", "IPv6 is not IPv4", World::one_backend, |script| {
        script.passes(&ipv6_syn(ROUTER_MAC, NODE_MAC), PassReason::NotIpv4);
    }),
    Case::new("ethertypes", "Only 0x0800 and 0x0806 are looked into", World::one_backend, |script| {
        let frame = Connection::new(40_000).from_client(SYN, b"").bytes();
        for ethertype in [0x0000u16, 0x05ff, 0x0801, 0x8035, 0x8100, 0x86dd, 0x88a8, 0x88cc, 0xffff] {
            let mut other = frame.clone();
            other[12..14].copy_from_slice(&ethertype.to_be_bytes());
            script.passes(&other, PassReason::NotIpv4);
        }
    }),
    Case::new("vlan", "A tagged frame for the VIP is the host's", World::one_backend, |script| {
        let mut frame = Connection::new(40_000).from_client(SYN, b"").bytes();
        frame.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
        script.passes(&frame, PassReason::NotIpv4);
    }),
    Case::new("arp", "ARP for another address is the host's", World::one_backend, |script| {
        script.passes(&arp_request(ROUTER_MAC, CLIENT, OUTSIDE), PassReason::Arp);
    }),
    Case::new("runts", "Too short for an IPv4 header is too short to judge", World::one_backend, |script| {
        let frame = Connection::new(40_000).from_client(SYN, b"").bytes();
        for length in 14..34 {
            script.passes(&frame[..length], PassReason::TooShort);
        }
    }),
    Case::new(
        "flooded",
        "A frame for another host's Ethernet address, flooded by a switch, is not ours though it names our VIP",
        World::one_backend,
        |script| {
            for mac in [ANOTHER_MAC, ROUTER_MAC, [0xff; 6], [0x01, 0, 0x5e, 0, 0, 1], [0; 6]] {
                let mut segment = Connection::new(40_000).from_client(SYN, b"");
                segment.dst_mac = mac;
                script.passes(&segment.bytes(), PassReason::OtherHost);
            }
        },
    ),
    Case::new(
        "flooded data",
        "A flooded frame of a flow that is ours is not forwarded: whoever it was for gets it",
        World::one_backend,
        |script| {
            let mut connection = Connection::new(40_000);
            script.handshake(&mut connection);
            let mut segment = connection.from_client(ACK, b"data");
            segment.dst_mac = ANOTHER_MAC;
            script.passes(&segment.bytes(), PassReason::OtherHost);
        },
    ),
    Case::new(
        "not a vip",
        "TCP for another address, SYN or not, is untouched",
        World::one_backend,
        |script| {
            for flags in [SYN, ACK, SYN | ACK] {
                let connection = Connection::from(
                    SocketAddrV4::new(CLIENT, 40_000),
                    SocketAddrV4::new(OUTSIDE, SERVICE.port()),
                );
                script.passes(&connection.from_client(flags, b"data").bytes(), PassReason::NotVip);
            }
        },
    ),
    Case::new(
        "malformed, not a vip",
        "Nonsense for another address is the host's to judge",
        World::one_backend,
        |script| {
            let connection = Connection::from(SocketAddrV4::new(CLIENT, 1), SocketAddrV4::new(OUTSIDE, 0));
            let mut frame = connection.from_client(0, b"").bytes();
            frame[14] = 0xff;
            frame[22] = 0;
            script.passes(&frame, PassReason::NotVip);
        },
    ),
    Case::new(
        "hashes like a vip",
        "The filter may take another address for a VIP; nothing comes of it, and malformed frames are not dropped",
        World::one_backend,
        |script| {
            let node = World::one_backend().node;
            let twin = (0x0a00_0000u32..)
                .map(Ipv4Addr::from)
                .find(|&address| node.may_be_vip(address.into()))
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
            for (offset, value) in [(14, 0x44), (14, 0x65), (20, 0x20), (46, 0x40)] {
                let mut bad = good.clone();
                bad[offset] = value;
                fix_ip_checksum(&mut bad);
                script.passes(&bad, PassReason::NotVip);
            }
            script.passes(&good[..40], PassReason::NotVip);
        },
    ),
    Case::new("ping", "The host answers an echo request for the VIP", World::one_backend, |script| {
        script.passes(&echo_request(ROUTER_MAC, NODE_MAC, CLIENT, VIP), PassReason::NotTcp);
    }),
    Case::new("udp", "UDP for the service's port is not TCP", World::one_backend, |script| {
        let frame = udp(ROUTER_MAC, NODE_MAC, SocketAddrV4::new(CLIENT, 40_000), SERVICE, b"hello");
        script.passes(&frame, PassReason::NotTcp);
    }),
    Case::new(
        "udp fragment",
        "A fragment of something else than TCP is the host's",
        World::one_backend,
        |script| {
            let mut frame = udp(ROUTER_MAC, NODE_MAC, SocketAddrV4::new(CLIENT, 40_000), SERVICE, b"hello");
            frame[20] = 0x20;
            fix_ip_checksum(&mut frame);
            script.passes(&frame, PassReason::NotTcp);
        },
    ),
    Case::new(
        "no service",
        "TCP for a port of the VIP without a service is the host's",
        World::one_backend,
        |script| {
            for (vip, port) in [(VIP, 22), (VIP, 6442), (VIP, 0), (OTHER_VIP, SERVICE.port())] {
                let connection =
                    Connection::from(SocketAddrV4::new(CLIENT, 40_000), SocketAddrV4::new(vip, port));
                for flags in [SYN, ACK, 0, SYN | ACK] {
                    script.passes(&connection.from_client(flags, b"").bytes(), PassReason::NoService);
                }
            }
        },
    ),
    Case::new(
        "no service, other source",
        "Without a service not even a source that nobody can answer is judged",
        World::one_backend,
        |script| {
            let connection =
                Connection::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 40_000), SocketAddrV4::new(VIP, 22));
            script.passes(&connection.from_client(SYN, b"").bytes(), PassReason::NoService);
        },
    ),
    Case::new(
        "not configured",
        "Before the controller has written the node's entry, nothing is a VIP",
        || World { node: NodeEntry::EMPTY, ..World::one_backend() },
        |script| {
            script.passes(&Connection::new(40_000).from_client(SYN, b"").bytes(), PassReason::NotVip);
            script.passes(&arp_request(ROUTER_MAC, CLIENT, VIP), PassReason::Arp);
        },
    ),
    Case::new(
        "vip removed",
        "An address that is no VIP any more is untouched again; malformed frames for it, too",
        World::one_backend,
        |script| {
            let frame = Connection::new(40_000).from_client(SYN, b"").bytes();
            let mut bad = frame.clone();
            bad[24] ^= 1;
            script.drops(&bad, DropReason::BadIpChecksum);
            script.change(|world| {
                world.tables.vips.remove(&VIP);
                world.tables.services.clear();
                let mut node = NodeEntry { vip_filter: NodeEntry::EMPTY.vip_filter, ..world.node };
                node.add_vip(OTHER_VIP.into());
                world.node = node;
            });
            script.passes(&frame, PassReason::NotVip);
            script.passes(&bad, PassReason::NotVip);
        },
    ),
];
