//! "Too big" about a packet in one of our tunnels becomes "too big" about what was in it.

use std::net::SocketAddr;

use lb_common::reason::{DropReason, PassReason, TransmitReason, Verdict};

use super::{
    Case, Connection, Script, Setting,
    settings::{TUNNELS, one},
};
use crate::{
    frames::{
        ACK, ETHERNET, IcmpMessage, Link, PSH, SYN, decapsulated, error_about, quote, service_vlan, tagged,
        udp, vlan,
    },
    plane::{NODE_MAC, OTHER_ROUTER_MAC, ROUTER_MAC, node_of},
};

/// The length of the outer header.
const fn outer(setting: Setting) -> usize {
    if setting.backend_v6 { 40 } else { 20 }
}

/// The length of the inner header.
const fn inner(setting: Setting) -> usize {
    if setting.v6 { 40 } else { 20 }
}

fn established(script: &mut Script<'_>) -> Connection {
    let mut connection = script.connection(40_000);
    script.handshake(&mut connection);
    connection
}

/// A packet of the client as it is in the tunnel.
fn in_tunnel(script: &mut Script<'_>, connection: &Connection) -> Vec<u8> {
    let frame = connection.from_client(ACK | PSH, &[0x5a; 600]).bytes();
    let outcome = script.frame(&frame);
    assert_eq!(outcome.verdict, Verdict::Transmit(TransmitReason::ToBackend));
    outcome.frame
}

/// What a router in the middle of the tunnel says about a packet that is too big for it.
fn too_big(script: &Script<'_>, sent: &[u8], mtu: u32, length: usize) -> IcmpMessage {
    let v6 = script.setting.backend_v6;
    // Any address on the way.
    let router = if v6 { Setting::NAT6 } else { Setting::NAT }.client(0x0909);
    IcmpMessage {
        link: Link { destination: NODE_MAC, source: OTHER_ROUTER_MAC, tags: vec![] },
        src: router,
        dst: node_of(v6),
        ttl: 62,
        ip_options: vec![],
        dont_fragment: false,
        kind: if v6 { 2 } else { 3 },
        code: if v6 { 0 } else { 4 },
        rest: mtu.to_be_bytes(),
        body: quote(sent, length),
        padding: vec![],
    }
}

/// What the client is told about its packet.
fn told(script: &Script<'_>, connection: &Connection, sent: &[u8], mtu: u32) -> Vec<u8> {
    let v6 = script.setting.v6;
    let (kind, code) = if v6 { (2, 0) } else { (3, 4) };
    let inner = decapsulated(sent);
    let error = error_about(&inner, node_of(v6), kind, code, mtu);
    let link =
        Link { destination: connection.client_mac, source: NODE_MAC, tags: connection.client_tags.clone() };
    IcmpMessage { link, ..error }.bytes()
}

pub(super) const CASES: &[Case] = &[
    Case::new(
        "too big in a tunnel",
        "The client is told the MTU that the tunnel leaves, from the node's own address, about its own packet",
        one,
        |script| {
            let connection = established(script);
            let sent = in_tunnel(script, &connection);
            for mtu in [1280, 1400, 1500, 9000] {
                let frame = too_big(script, &sent, mtu, 500).bytes();
                let expected = told(script, &connection, &sent, mtu - outer(script.setting) as u32);
                script.answers(&frame, TransmitReason::PacketTooBig, &expected);
            }
        },
    )
    .on(TUNNELS),
    Case::new(
        "senseless mtu",
        "An MTU below the tunnel's own header, or none, is none",
        one,
        |script| {
            let connection = established(script);
            let sent = in_tunnel(script, &connection);
            for mtu in [0, 1, 19] {
                let frame = too_big(script, &sent, mtu, 500).bytes();
                let expected = told(script, &connection, &sent, 0);
                script.answers(&frame, TransmitReason::PacketTooBig, &expected);
            }
        },
    )
    .on(TUNNELS),
    Case::new(
        "how much is quoted",
        "Enough for the client to recognise its connection: up to its TCP header; less is of no use",
        one,
        |script| {
            let connection = established(script);
            let sent = in_tunnel(script, &connection);
            let enough = outer(script.setting) + inner(script.setting) + 20;
            for length in [enough, enough + 1, enough + 100] {
                let frame = too_big(script, &sent, 1400, length).bytes();
                let expected = told(script, &connection, &sent, 1400 - outer(script.setting) as u32);
                script.answers(&frame, TransmitReason::PacketTooBig, &expected);
            }
            for length in outer(script.setting)..enough {
                let frame = too_big(script, &sent, 1400, length).bytes();
                script.drops(&frame, DropReason::BadIcmp);
            }
        },
    )
    .on(TUNNELS),
    Case::new(
        "of a client in a vlan",
        "The client is told by the way that its packets came",
        |setting| {
            one(setting).on_vlans(&[7, 100], true)
        },
        |script| {
            for tags in [&[vlan(7)][..], &[service_vlan(100), vlan(7)]] {
                let mut connection = script.connection(40_000 + tags.len() as u16);
                connection.client_tags = tags.to_vec();
                script.handshake(&mut connection);
                let sent = in_tunnel(script, &connection);
                let expected = told(script, &connection, &sent, 1400 - outer(script.setting) as u32);
                let frame = too_big(script, &sent, 1400, 500).bytes();
                script.answers(&frame, TransmitReason::PacketTooBig, &expected);
                script.answers(&tagged(&frame, &[vlan(7)]), TransmitReason::PacketTooBig, &expected);
            }
        },
    )
    .on(TUNNELS),
    Case::new(
        "other errors about a tunnel",
        "What says nothing of size is the host's: the client can do nothing about it",
        one,
        |script| {
            let connection = established(script);
            let sent = in_tunnel(script, &connection);
            let told = too_big(script, &sent, 1400, 500);
            let others: &[(u8, u8)] =
                if script.setting.backend_v6 { &[(1, 0), (1, 3), (3, 0), (4, 1)] } else { &[(3, 0), (3, 1), (11, 0), (12, 0)] };
            for &(kind, code) in others {
                let other = IcmpMessage { kind, code, ..told.clone() };
                script.passes(&other.bytes(), PassReason::IcmpUnrelated);
            }
        },
    )
    .on(TUNNELS),
    Case::new(
        "another tunnel",
        "An error about a tunnel with something else in it, or with an unknown flow, is the host's",
        one,
        |script| {
            let connection = established(script);
            let sent = in_tunnel(script, &connection);
            let told = too_big(script, &sent, 1400, 500);
            let at = outer(script.setting);
            // UDP in it.
            let datagram = udp(ROUTER_MAC, NODE_MAC, connection.client, connection.service, &[0x5a; 200]);
            let body = [&told.body[..at], &datagram[ETHERNET..]].concat();
            script.passes(&IcmpMessage { body, ..told.clone() }.bytes(), PassReason::IcmpUnrelated);
            // Another connection in it.
            let stranger = Connection {
                client: SocketAddr::new(connection.client.ip(), 50_000),
                ..connection.clone()
            };
            let segment = stranger.from_client(ACK, &[0x5a; 200]).bytes();
            let body = [&told.body[..at], &segment[ETHERNET..]].concat();
            script.passes(&IcmpMessage { body, ..told.clone() }.bytes(), PassReason::IcmpUnrelated);
            // From another node.
            let mut other = told.clone();
            let source = if script.setting.backend_v6 { 8..24 } else { 12..16 };
            other.body[source.end - 1] ^= 1;
            script.passes(&other.bytes(), PassReason::IcmpUnrelated);
            // Bytes in it.
            let body = [&told.body[..at], &[0xff; 200]].concat();
            script.passes(&IcmpMessage { body, ..told }.bytes(), PassReason::IcmpUnrelated);
        },
    )
    .on(TUNNELS),
    Case::new(
        "half-open in a tunnel",
        "A SYN with data may be too big as well",
        one,
        |script| {
            let connection = script.connection(40_000);
            let frame = connection.from_client(SYN, &[0x5a; 600]).bytes();
            let sent = script.frame(&frame).frame;
            let expected = told(script, &connection, &sent, 1400 - outer(script.setting) as u32);
            let frame = too_big(script, &sent, 1400, 500).bytes();
            script.answers(&frame, TransmitReason::PacketTooBig, &expected);
        },
    )
    .on(TUNNELS),
];
