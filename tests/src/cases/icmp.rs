//! ICMP errors about a flow, from the client's side and from the backend's, and everything else that is ICMP.

use std::net::IpAddr;

use lb_common::{
    layout::{Hop, MODE_DSR_IPIP, MODE_LOCAL, MODE_NAT},
    reason::{DropReason, PassReason, TransmitReason, Verdict},
};

use super::{
    Case, Connection, Script, Setting,
    settings::{DIRECT, EVERY_NAT, FORWARDING, LOCAL, NAT, one, three},
};
use crate::{
    frames::{
        ACK, Datagram, Extension, IcmpMessage, Link, PSH, Rewrite, SYN, Tag, echo_request, fix_ip_checksum,
        fragments, passed_on, quote, rewritten, service_vlan, udp, vlan,
    },
    plane::{NODE_MAC, ROUTER_MAC, backend_mac, node_of},
};

/// Every kind of error about a packet, with a code and what follows the checksum.
fn kinds(v6: bool) -> Vec<(u8, u8, u32)> {
    if v6 {
        vec![
            (1, 0, 0),
            (1, 1, 0),
            (1, 3, 0),
            (1, 4, 0),
            (2, 0, 1280),
            (2, 0, 1400),
            (3, 0, 0),
            (3, 1, 0),
            (4, 1, 40),
        ]
    } else {
        vec![
            (3, 0, 0),
            (3, 1, 0),
            (3, 3, 0),
            (3, 4, 1400),
            (3, 10, 0),
            (3, 13, 0),
            (11, 0, 0),
            (11, 1, 0),
            (12, 0, 9 << 24),
        ]
    }
}

/// Some router on the way, of the family.
fn router(setting: Setting) -> IpAddr {
    setting.client(0x0909)
}

fn link(source: [u8; 6], tags: &[Tag]) -> Link {
    Link { destination: NODE_MAC, source, tags: tags.to_vec() }
}

/// An error from `src`, by `link`, about what it quotes.
fn error(
    link: Link,
    (src, dst): (IpAddr, IpAddr),
    (kind, code, rest): (u8, u8, u32),
    body: Vec<u8>,
) -> IcmpMessage {
    IcmpMessage {
        link,
        src,
        dst,
        ttl: 61,
        ip_options: vec![],
        dont_fragment: false,
        kind,
        code,
        rest: rest.to_be_bytes(),
        body,
        padding: vec![],
    }
}

/// A packet of the service as its client, or a router before it, gets it; and the same as the backend has sent it.
fn reply(script: &Script<'_>, connection: &Connection, payload: &[u8]) -> [Vec<u8>; 2] {
    if script.setting.mode == MODE_NAT {
        let sent = connection.from_backend(ACK | PSH, payload).bytes();
        [rewritten(&sent, &script.way_down(connection, &sent)), taken_hop(&sent)]
    } else {
        // Straight from the backend, with the service's address.
        let mut segment = connection.from_client(ACK | PSH, payload);
        (segment.src, segment.dst) = (connection.service, connection.client);
        (segment.src_mac, segment.dst_mac) = (segment.dst_mac, segment.src_mac);
        let sent = segment.bytes();
        [sent.clone(), sent]
    }
}

/// The same frame with one hop less: what quotes it has seen it after we have.
fn taken_hop(frame: &[u8]) -> Vec<u8> {
    let datagram = Datagram::read(frame).expect("an IP packet");
    passed_on(frame, &Rewrite { link: datagram.link, ends: None, tunnel: None })
}

/// An error about a packet to the client reaches the backend, which gets to see the packet that it has sent.
fn told_to_backend(script: &mut Script<'_>, connection: &Connection, told: &IcmpMessage, quoted: Vec<u8>) {
    let frame = told.bytes();
    let way = script.way_up(connection, &frame);
    let hidden = if script.setting.mode == MODE_NAT && told.src == connection.client.ip() {
        connection.nat_source
    } else {
        told.src
    };
    let dst = if script.setting.mode == MODE_NAT {
        script.setting.backend(connection.backend).ip()
    } else {
        told.dst
    };
    let inner =
        IcmpMessage { link: way.link, src: hidden, dst, ttl: told.ttl - 1, body: quoted, ..told.clone() };
    let expected = crate::frames::through(&inner.bytes(), way.tunnel);
    let outcome = script.leaves_flows_alone(&frame, Verdict::Transmit(TransmitReason::IcmpToBackend));
    assert_eq!(outcome.frame, expected, "the error to the backend");
}

/// An error about a packet to the backend reaches the client, which gets to see the packet that it has sent.
fn told_to_client(script: &mut Script<'_>, connection: &Connection, told: &IcmpMessage, quoted: Vec<u8>) {
    let frame = told.bytes();
    let way = script.way_down(connection, &frame);
    let own = told.src == script.setting.backend(connection.backend).ip();
    let src = if own { connection.service.ip() } else { told.src };
    let dst = connection.client.ip();
    let expected = IcmpMessage { link: way.link, src, dst, ttl: told.ttl - 1, body: quoted, ..told.clone() };
    let outcome = script.leaves_flows_alone(&frame, Verdict::Transmit(TransmitReason::IcmpToClient));
    assert_eq!(outcome.frame, expected.bytes(), "the error to the client");
}

/// A router between the service and its client has an error about a packet of 40 bytes.
fn from_outside(
    script: &Script<'_>,
    connection: &Connection,
    kind: (u8, u8, u32),
    length: usize,
) -> (IcmpMessage, Vec<u8>) {
    let [seen, sent] = reply(script, connection, &[0x5a; 40]);
    let ends = (router(script.setting), connection.service.ip());
    let link = link(connection.client_mac, &connection.client_tags);
    (error(link, ends, kind, quote(&seen, length)), quote(&sent, length))
}

/// A router between us and the backend has an error about a packet of 40 bytes.
fn from_inside(
    script: &Script<'_>,
    connection: &Connection,
    kind: (u8, u8, u32),
    length: usize,
) -> (IcmpMessage, Vec<u8>) {
    let sent = connection.from_client(ACK | PSH, &[0x5a; 40]).bytes();
    let seen = rewritten(&sent, &script.way_up(connection, &sent));
    let ends = (router(script.setting), connection.nat_source);
    let link = link(backend_mac(connection.backend), &connection.backend_tags);
    (error(link, ends, kind, quote(&seen, length)), quote(&taken_hop(&sent), length))
}

/// Enough for any header of the family and all of TCP's.
const WHOLE: usize = 2_000;

fn established(script: &mut Script<'_>) -> Connection {
    let mut connection = script.connection(40_000);
    script.handshake(&mut connection);
    connection
}

/// The shortest quotes, and longer ones: eight bytes of TCP, all before its checksum, all up to it, all.
fn lengths(v6: bool) -> Vec<usize> {
    let header = if v6 { 40 } else { 20 };
    vec![header + 4, header + 8, header + 16, header + 18, header + 20, header + 33, WHOLE]
}

pub(super) const CASES: &[Case] = &[
    Case::new(
        "errors from outside",
        "Each kind of error about a packet to the client reaches the backend, which recognises its packet",
        three,
        |script| {
            let connection = established(script);
            for kind in kinds(script.setting.v6) {
                let (told, quoted) = from_outside(script, &connection, kind, WHOLE);
                told_to_backend(script, &connection, &told, quoted);
            }
        },
    )
    .on(&[
        Setting::NAT,
        Setting::NAT6,
        Setting::SNAT,
        Setting::SNAT6,
        Setting::L2,
        Setting::L2_6,
        Setting::IPIP44,
        Setting::IPIP46,
        Setting::IPIP66,
        Setting::IPIP64,
    ]),
    Case::new(
        "errors from inside",
        "Each kind of error about a packet to the backend reaches the client, which recognises its packet",
        three,
        |script| {
            let connection = established(script);
            for kind in kinds(script.setting.v6) {
                let (told, quoted) = from_inside(script, &connection, kind, WHOLE);
                told_to_client(script, &connection, &told, quoted);
            }
        },
    )
    .on(EVERY_NAT),
    Case::new("short quotes from outside", "However much of the packet is quoted", one, |script| {
        let connection = established(script);
        for length in lengths(script.setting.v6) {
            let (told, quoted) = from_outside(script, &connection, kinds(script.setting.v6)[3], length);
            told_to_backend(script, &connection, &told, quoted);
        }
    })
    .on(FORWARDING),
    Case::new("short quotes from inside", "However much of the packet is quoted", one, |script| {
        let connection = established(script);
        for length in lengths(script.setting.v6) {
            let (told, quoted) = from_inside(script, &connection, kinds(script.setting.v6)[3], length);
            told_to_client(script, &connection, &told, quoted);
        }
    })
    .on(EVERY_NAT),
    Case::new(
        "quote and padding",
        "What follows a short quote within the frame is no part of the message, nor of its checksum",
        one,
        |script| {
            let connection = established(script);
            for length in lengths(script.setting.v6) {
                let kind = kinds(script.setting.v6)[3];
                let (mut told, quoted) = from_outside(script, &connection, kind, length);
                told.padding = vec![0xa5; 40];
                told_to_backend(script, &connection, &told, quoted);
                let (mut told, quoted) = from_inside(script, &connection, kind, length);
                told.padding = vec![0xa5; 40];
                told_to_client(script, &connection, &told, quoted);
            }
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "hidden peers",
        "Where the other end of the flow itself has the error, its address is hidden as in each of its packets",
        one,
        |script| {
            let connection = established(script);
            let kind = kinds(script.setting.v6)[2];
            let (mut told, quoted) = from_outside(script, &connection, kind, WHOLE);
            told.src = connection.client.ip();
            told_to_backend(script, &connection, &told, quoted);
            let (mut told, quoted) = from_inside(script, &connection, kind, WHOLE);
            told.src = script.setting.backend(0).ip();
            told_to_client(script, &connection, &told, quoted);
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "during the handshake",
        "An error about a half-open flow finds its way as well: the backend is unreachable",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.syn(&mut connection);
            for kind in kinds(script.setting.v6) {
                if script.setting.mode == MODE_NAT {
                    let (told, quoted) = from_inside(script, &connection, kind, WHOLE);
                    told_to_client(script, &connection, &told, quoted);
                }
                let (told, quoted) = from_outside(script, &connection, kind, WHOLE);
                told_to_backend(script, &connection, &told, quoted);
            }
        },
    )
    .on(FORWARDING),
    Case::new(
        "port translation",
        "The quoted ports are those of the packet that was sent, at either end",
        one,
        |script| {
            let mut connection = script.translated(800);
            script.handshake(&mut connection);
            let kind = kinds(script.setting.v6)[3];
            let (told, quoted) = from_outside(script, &connection, kind, WHOLE);
            told_to_backend(script, &connection, &told, quoted);
            let (told, quoted) = from_inside(script, &connection, kind, WHOLE);
            told_to_client(script, &connection, &told, quoted);
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "unknown, but the table knows",
        "An error about an unknown flow goes to the backend that the table has for it",
        three,
        |script| {
            for port in 40_000..40_008 {
                let mut connection = script.connection(port);
                script.syn(&mut connection);
                script.client(&mut connection, crate::frames::RST, b"");
                script.expect_gone(&connection);
                let (told, quoted) = from_outside(script, &connection, kinds(script.setting.v6)[3], WHOLE);
                told_to_backend(script, &connection, &told, quoted);
            }
        },
    )
    .on(DIRECT),
    Case::new("unrelated", "An error about something else is the host's", one, |script| {
        let connection = established(script);
        let kind = kinds(script.setting.v6)[3];
        // Another flow.
        let other = Connection { nat_port: 50_000, ..script.connection(50_000) };
        let (told, _) = from_outside(script, &other, kind, WHOLE);
        script.passes(&told.bytes(), PassReason::IcmpUnrelated);
        let (told, _) = from_inside(script, &other, kind, WHOLE);
        script.passes(&told.bytes(), PassReason::IcmpUnrelated);
        // Another protocol.
        let datagram = udp(NODE_MAC, ROUTER_MAC, connection.service, connection.client, b"hello");
        let (mut told, _) = from_outside(script, &connection, kind, WHOLE);
        told.body = quote(&datagram, WHOLE);
        script.passes(&told.bytes(), PassReason::IcmpUnrelated);
        // A packet that came from somebody else.
        let mut told = from_outside(script, &connection, kind, WHOLE).0;
        told.body = quote(&connection.from_client(ACK, b"x").bytes(), WHOLE);
        script.passes(&told.bytes(), PassReason::IcmpUnrelated);
    })
    .on(EVERY_NAT),
    Case::new(
        "no error",
        "What is ICMP and no error is the host's, whatever it quotes",
        one,
        |script| {
            let connection = established(script);
            let (told, _) = from_outside(script, &connection, kinds(script.setting.v6)[3], WHOLE);
            let errors: &[u8] = if script.setting.v6 { &[1, 2, 3, 4, 135, 136] } else { &[3, 11, 12] };
            for kind in (0..=255).filter(|kind| !errors.contains(kind)) {
                script.passes(&IcmpMessage { kind, ..told.clone() }.bytes(), PassReason::NotTcp);
            }
            let (client, vip) = (connection.client.ip(), connection.service.ip());
            script.passes(&echo_request(ROUTER_MAC, NODE_MAC, client, vip), PassReason::NotTcp);
        },
    )
    .on(FORWARDING),
    Case::new(
        "cut short",
        "An error that does not quote as much as the ports is of no use to anybody",
        one,
        |script| {
            let connection = established(script);
            let (header, kind) = if script.setting.v6 { (40, 1) } else { (20, 3) };
            for length in 0..header + 4 {
                let (mut told, _) = from_outside(script, &connection, (kind, 1, 0), length);
                told.body.truncate(length);
                if length < header {
                    script.passes(&told.bytes(), PassReason::IcmpUnrelated);
                } else {
                    script.drops(&told.bytes(), DropReason::BadIcmp);
                }
            }
            let whole = from_outside(script, &connection, (kind, 1, 0), WHOLE).0.bytes();
            // Not even a whole ICMP header.
            for length in 0..8usize {
                let mut frame = whole[..14 + header + length].to_vec();
                if script.setting.v6 {
                    frame[18..20].copy_from_slice(&(length as u16).to_be_bytes());
                } else {
                    frame[16..18].copy_from_slice(&(20 + length as u16).to_be_bytes());
                    fix_ip_checksum(&mut frame);
                }
                script.passes(&frame, PassReason::NotTcp);
            }
        },
    )
    .on(&[Setting::NAT, Setting::NAT6, Setting::L2]),
    Case::new(
        "quoted nonsense",
        "A quote that is no IP header, or shorter than one says, matches nothing",
        one,
        |script| {
            let connection = established(script);
            let (told, _) = from_outside(script, &connection, kinds(script.setting.v6)[3], WHOLE);
            let right = if script.setting.v6 { 6 } else { 4 };
            let versions = (0..16u8).filter(|&version| version != right);
            for version in versions {
                let mut told = told.clone();
                told.body[0] = version << 4 | told.body[0] & 0x0f;
                script.passes(&told.bytes(), PassReason::IcmpUnrelated);
            }
            for words in 0..5 {
                if !script.setting.v6 {
                    let mut told = told.clone();
                    told.body[0] = 0x40 | words;
                    script.passes(&told.bytes(), PassReason::IcmpUnrelated);
                }
            }
        },
    )
    .on(&[Setting::NAT, Setting::NAT6, Setting::SNAT, Setting::L2, Setting::L2_6]),
    Case::v4(
        "quoted fragment",
        "A quoted fragment other than the first has no ports: what lies in their place is data",
        one,
        |script| {
            let connection = established(script);
            let [seen, _] = reply(script, &connection, &[0x5a; 40]);
            let mut told = from_outside(script, &connection, (11, 1, 0), WHOLE).0;
            told.body = quote(&fragments(&seen, &[24])[1], WHOLE);
            // As if it were the flow's ports.
            let ports = [connection.service.port(), connection.client.port()].map(u16::to_be_bytes);
            told.body[20..24].copy_from_slice(&ports.concat());
            script.passes(&told.bytes(), PassReason::IcmpUnrelated);
        },
    ),
    Case::v4(
        "options",
        "IPv4 options, of the error and of what it quotes, shift nothing",
        one,
        |script| {
            let connection = established(script);
            for words in [1, 5, 10] {
                let mut sent = connection.from_backend(ACK | PSH, b"data");
                sent.ip_options = vec![0x81; words * 4];
                let sent = sent.bytes();
                let seen = rewritten(&sent, &script.way_down(&connection, &sent));
                let (mut told, _) = from_outside(script, &connection, (3, 4, 1400), WHOLE);
                told.ip_options = vec![0x82; words * 4];
                told.body = quote(&seen, WHOLE);
                told_to_backend(script, &connection, &told, quote(&taken_hop(&sent), WHOLE));
            }
        },
    ),
    Case::new(
        "behind extensions",
        "An ICMPv6 error behind extension headers",
        one,
        |script| {
            let connection = established(script);
            let (told, _) = from_outside(script, &connection, (2, 0, 1280), WHOLE);
            let frame = told.bytes();
            let extension = Extension::padded(60, 0);
            let mut with = frame[..54].to_vec();
            with.push(58);
            with.extend(&extension.rest);
            with.extend(&frame[54..]);
            with[20] = 60;
            let length = u16::from_be_bytes([frame[18], frame[19]]) + 8;
            with[18..20].copy_from_slice(&length.to_be_bytes());
            let outcome = script.frame(&with);
            assert_eq!(outcome.verdict, Verdict::Transmit(TransmitReason::IcmpToBackend));
            // Without the extension header it is the message that a plain one becomes.
            let plain = script.frame(&frame).frame;
            assert_eq!(outcome.frame[62..], plain[54..]);
        },
    )
    .on(&[Setting::NAT6]),
    Case::new("fragmented", "Fragments of ICMP are the host's", one, |script| {
        let connection = established(script);
        let (told, _) = from_outside(script, &connection, kinds(script.setting.v6)[3], WHOLE);
        for piece in fragments(&told.bytes(), &[16, 48]) {
            script.passes(&piece, PassReason::NotTcp);
        }
    })
    .on(NAT),
    Case::new("no hop left", "No error is about an error: it ends here", one, |script| {
        let connection = established(script);
        for ttl in [0, 1] {
            let (told, _) = from_outside(script, &connection, kinds(script.setting.v6)[3], WHOLE);
            script.drops(&IcmpMessage { ttl, ..told }.bytes(), DropReason::TtlExpired);
        }
    })
    .on(FORWARDING),
    Case::new(
        "next hop unknown",
        "An error to a backend whose next hop is unknown is dropped as its packets are; one to the client is not",
        one,
        |script| {
            let connection = established(script);
            let kind = kinds(script.setting.v6)[3];
            let (outside, _) = from_outside(script, &connection, kind, WHOLE);
            let inside = (script.setting.mode == MODE_NAT).then(|| from_inside(script, &connection, kind, WHOLE));
            script.change(|world| world.backend_mut(0).hop = Hop::NONE);
            script.drops(&outside.bytes(), DropReason::NextHopUnknown);
            if let Some((told, quoted)) = inside {
                told_to_client(script, &connection, &told, quoted);
            }
        },
    )
    .on(FORWARDING),
    Case::new(
        "to the node itself",
        "Errors about flows to the node itself are the host's, on their last hop as well",
        one,
        |script| {
            let connection = established(script);
            for kind in kinds(script.setting.v6) {
                let [seen, _] = reply(script, &connection, b"data");
                let ends = (router(script.setting), connection.service.ip());
                let mut told = error(link(ROUTER_MAC, &[]), ends, kind, quote(&seen, WHOLE));
                script.passes(&told.bytes(), PassReason::LocalBackend);
                told.ttl = 1;
                script.passes(&told.bytes(), PassReason::LocalBackend);
            }
            assert_eq!(script.setting.mode, MODE_LOCAL);
        },
    )
    .on(LOCAL),
    Case::new(
        "tagged errors",
        "Errors go from VLAN to VLAN as other packets do",
        |setting| one(setting).on_vlans(&[7, 9, 100], false).with_backend_tags(0, &[service_vlan(100), vlan(9)]),
        |script| {
            let mut connection = script.connection(40_000);
            connection.client_tags = vec![vlan(7)];
            connection.backend_tags = vec![service_vlan(100), vlan(9)];
            script.handshake(&mut connection);
            let kind = kinds(script.setting.v6)[3];
            let (told, quoted) = from_outside(script, &connection, kind, WHOLE);
            told_to_backend(script, &connection, &told, quoted);
            if script.setting.mode == MODE_NAT {
                let (told, quoted) = from_inside(script, &connection, kind, WHOLE);
                told_to_client(script, &connection, &told, quoted);
            }
        },
    )
    .on(FORWARDING),
    Case::new(
        "wrong icmp checksum",
        "A wrong ICMP checksum is as wrong afterwards as it was: the receiver finds it",
        one,
        |script| {
            let connection = established(script);
            let (told, _) = from_outside(script, &connection, kinds(script.setting.v6)[3], WHOLE);
            let right = script.frame(&told.bytes());
            let mut frame = told.bytes();
            let last = frame.len() - 1;
            frame[last] ^= 0x01;
            let wrong = script.frame(&frame);
            assert_eq!(wrong.verdict, right.verdict);
            let mut expected = right.frame;
            let last = expected.len() - 1;
            expected[last] ^= 0x01;
            assert_eq!(wrong.frame, expected);
        },
    )
    .on(FORWARDING),
    Case::new(
        "errors for the node's own packets",
        "What is for an address of the node's own and about none of its flows is the host's",
        |setting| if setting.mode == MODE_DSR_IPIP { one(setting) } else { one(setting).with_snat_node() },
        |script| {
            let v6 = script.setting.v6;
            let own = std::net::SocketAddr::new(node_of(v6), 50_000);
            let client = script.connection(40_000).client;
            let mut segment = script.connection(40_000).from_client(SYN, b"");
            (segment.src, segment.dst) = (own, client);
            let quoted = quote(&segment.bytes(), WHOLE);
            for kind in kinds(v6) {
                let told = error(link(ROUTER_MAC, &[]), (router(script.setting), own.ip()), kind, quoted.clone());
                script.passes(&told.bytes(), PassReason::IcmpUnrelated);
            }
            let echo = echo_request(ROUTER_MAC, NODE_MAC, client.ip(), own.ip());
            script.passes(&echo, PassReason::NotTcp);
            let mut answer = script.connection(40_000).from_client(SYN | ACK, b"");
            (answer.src, answer.dst) = (client, own);
            script.passes(&answer.bytes(), PassReason::NoService);
            let mut bad = answer.bytes();
            bad[14] = 0x55;
            script.passes(&bad, PassReason::NotVip);
        },
    )
    .on(FORWARDING),
];
