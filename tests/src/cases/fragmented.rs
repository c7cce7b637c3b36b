//! Fragments: only the first has ports, and the others follow it.

use lb_common::{
    layout::MODE_NAT,
    reason::{DropReason, PassReason, TransmitReason, Verdict},
    tables::Level,
};

use super::{
    Case, Connection, Script, Setting,
    settings::{ALL, FORWARDING, NAT, one, three},
};
use crate::{
    frames::{
        ACK, Extension, FRAGMENT_ID, PSH, SYN, error_about, fragments, fragments_behind, passed_on,
        rewritten, tagged, through, udp, vlan,
    },
    plane::{NODE_MAC, ROUTER_MAC, START, World, node_of},
};

/// The frame of a client in fragments, and what each has to become: as if the whole had been rewritten first.
fn pieces_up(
    script: &Script<'_>,
    connection: &Connection,
    frame: &[u8],
    offsets: &[usize],
) -> Vec<(Vec<u8>, Vec<u8>)> {
    let way = script.way_up(connection, frame);
    let tunnel = way.tunnel;
    let whole = rewritten(frame, &crate::frames::Rewrite { tunnel: None, ..way });
    let expected = fragments(&whole, offsets).into_iter().map(|piece| through(&piece, tunnel));
    fragments(frame, offsets).into_iter().zip(expected).collect()
}

/// A client's frame arrives at the backend in fragments.
fn up(script: &mut Script<'_>, connection: &Connection, frame: &[u8], offsets: &[usize]) {
    for (piece, expected) in pieces_up(script, connection, frame, offsets) {
        script.reaches_backend(connection, &piece, &expected);
    }
}

/// A backend's frame arrives at the client in fragments.
fn down(script: &mut Script<'_>, connection: &Connection, frame: &[u8], offsets: &[usize]) {
    let whole = rewritten(frame, &script.way_down(connection, frame));
    for (piece, expected) in fragments(frame, offsets).into_iter().zip(fragments(&whole, offsets)) {
        script.reaches_client(&piece, &expected);
    }
}

fn payload() -> Vec<u8> {
    (0..200u8).collect()
}

/// A connection, and a segment of its client of 200 bytes.
fn established(script: &mut Script<'_>) -> (Connection, Vec<u8>) {
    let mut connection = script.connection(40_000);
    script.handshake(&mut connection);
    let frame = connection.from_client(ACK | PSH, &payload()).bytes();
    (connection, frame)
}

pub(super) const CASES: &[Case] = &[
    Case::new("in order", "A segment in fragments is forwarded in fragments, both ways", one, |script| {
        let (connection, frame) = established(script);
        for offsets in [&[24][..], &[40, 80], &[24, 32, 40], &[104, 208], &[216]] {
            up(script, &connection, &frame, offsets);
            if script.setting.mode == MODE_NAT {
                let reply = connection.from_backend(ACK | PSH, &payload()).bytes();
                down(script, &connection, &reply, offsets);
            }
        }
    })
    .on(ALL),
    Case::new("a syn in fragments", "Even a SYN with data may come in fragments", one, |script| {
        let mut connection = script.connection(40_000);
        let frame = connection.from_client(SYN, &payload()).bytes();
        let first = fragments(&frame, &[40]).remove(0);
        let outcome = script.frame(&first);
        let mut learnt = script.connection(40_000);
        if script.setting.mode == MODE_NAT {
            let v6 = script.setting.v6;
            let ports = if v6 { &outcome.frame[62..64] } else { &outcome.frame[34..36] };
            learnt.nat_port = u16::from_be_bytes([ports[0], ports[1]]);
        }
        (connection.nat_port, connection.backend) = (learnt.nat_port, learnt.backend);
        let pieces = pieces_up(script, &connection, &frame, &[40]);
        if script.setting.mode != lb_common::layout::MODE_LOCAL {
            assert_eq!(outcome.frame, pieces[0].1, "the first fragment");
        }
        let (piece, expected) = &pieces[1];
        script.reaches_backend(&connection, piece, expected);
        script.expect_level(&connection, Level::HalfOpen);
    })
    .on(ALL),
    Case::new(
        "no first fragment",
        "A fragment that comes before its first is dropped, and those after it are forwarded",
        one,
        |script| {
            let (connection, frame) = established(script);
            let pieces = pieces_up(script, &connection, &frame, &[40, 80]);
            script.drops(&pieces[1].0, DropReason::FragmentUnknown);
            script.drops(&pieces[2].0, DropReason::FragmentUnknown);
            for (piece, expected) in [&pieces[0], &pieces[2], &pieces[1], &pieces[1]] {
                script.reaches_backend(&connection, piece, expected);
            }
        },
    )
    .on(FORWARDING),
    Case::new(
        "overlapping",
        "A fragment that would overwrite the TCP header is dropped, its first one seen or not (RFC 1858 §4.2)",
        one,
        |script| {
            let (connection, frame) = established(script);
            let overlapping = fragments(&frame, &[8]).remove(1);
            script.drops(&overlapping, DropReason::BadFragment);
            let pieces = pieces_up(script, &connection, &frame, &[40]);
            script.reaches_backend(&connection, &pieces[0].0, &pieces[0].1);
            script.drops(&overlapping, DropReason::BadFragment);
        },
    )
    .on(FORWARDING),
    Case::new(
        "tiny first",
        "A first fragment without a whole TCP header hides it: dropped, with all that follow (RFC 1858 §3)",
        one,
        |script| {
            let (connection, frame) = established(script);
            for cut in [8, 16] {
                let pieces = fragments(&frame, &[cut, 40]);
                script.drops(&pieces[0], DropReason::BadFragment);
                script.drops(&pieces[2], DropReason::FragmentUnknown);
            }
            // TCP options that the first fragment does not hold.
            let mut segment = connection.from_client(ACK, &payload());
            segment.tcp_options = vec![0x01; 40];
            let pieces = fragments(&segment.bytes(), &[40]);
            script.drops(&pieces[0], DropReason::BadFragment);
            script.drops(&pieces[1], DropReason::FragmentUnknown);
            let empty = fragments(&frame, &[0]).remove(0);
            script.drops(&empty, DropReason::BadFragment);
        },
    )
    .on(FORWARDING),
    Case::new(
        "forgotten",
        "Fragments may take thirty seconds, which is what Linux waits for them; then the first is forgotten",
        one,
        |script| {
            let (connection, frame) = established(script);
            let pieces = pieces_up(script, &connection, &frame, &[40, 80]);
            script.reaches_backend(&connection, &pieces[0].0, &pieces[0].1);
            script.at(START + 30);
            script.reaches_backend(&connection, &pieces[1].0, &pieces[1].1);
            script.at(START + 31);
            script.drops(&pieces[2].0, DropReason::FragmentUnknown);
        },
    )
    .on(FORWARDING),
    Case::new(
        "another's fragments",
        "Fragments are told apart by source, destination and identification",
        one,
        |script| {
            let (connection, frame) = established(script);
            let pieces = pieces_up(script, &connection, &frame, &[40]);
            script.reaches_backend(&connection, &pieces[0].0, &pieces[0].1);
            let stranger = script.of_client(101, 40_000).from_client(ACK, &payload()).bytes();
            script.drops(&fragments(&stranger, &[40])[1], DropReason::FragmentUnknown);
            let mut other = pieces[1].0.clone();
            if script.setting.v6 {
                other[14 + 40 + 4] ^= 1;
            } else {
                other[18] ^= 1;
                crate::frames::fix_ip_checksum(&mut other);
            }
            script.drops(&other, DropReason::FragmentUnknown);
            script.reaches_backend(&connection, &pieces[1].0, &pieces[1].1);
        },
    )
    .on(FORWARDING),
    Case::new(
        "two flows",
        "Where the same identification comes again, the newest first fragment counts",
        three,
        |script| {
            let mut flows = [40_000, 40_001, 40_002].map(|port| script.connection(port));
            flows.iter_mut().for_each(|connection| script.handshake(connection));
            for connection in &flows {
                let frame = connection.from_client(ACK, &payload()).bytes();
                up(script, connection, &frame, &[40, 80]);
            }
            assert_eq!(script.notes.fragments.len(), 1);
            assert!(script.notes.fragments.keys().all(|key| key.id == u32::from(FRAGMENT_ID)));
        },
    )
    .on(FORWARDING),
    Case::new(
        "fragments complete nothing",
        "A fragment other than the first shows no ACK: it completes no handshake",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.syn(&mut connection);
            script.server(&mut connection, SYN | ACK, b"");
            let frame = connection.from_client(ACK, &payload()).bytes();
            let pieces = pieces_up(script, &connection, &frame, &[40]);
            script.drops(&pieces[1].0, DropReason::FragmentUnknown);
            script.expect_level(&connection, Level::HalfOpen);
            script.reaches_backend(&connection, &pieces[0].0, &pieces[0].1);
            script.expect_level(&connection, Level::Established);
            script.reaches_backend(&connection, &pieces[1].0, &pieces[1].1);
        },
    )
    .on(FORWARDING),
    Case::new(
        "counted",
        "Each fragment is a packet with bytes of its own",
        one,
        |script| {
            let (connection, frame) = established(script);
            let before = script.flows.established[&connection.client_key()].seen;
            up(script, &connection, &frame, &[40, 80]);
            let after = script.flows.established[&connection.client_key()].seen;
            let header = if script.setting.v6 { 40 + 8 } else { 20 };
            assert_eq!(after.packets - before.packets, 3);
            assert_eq!(after.bytes - before.bytes, 3 * header + 20 + 200);
        },
    )
    .on(FORWARDING),
    Case::new(
        "answered first",
        "Where the first fragment got a RST, nobody wants the others",
        one,
        |script| {
            let frame = script.connection(40_000).from_client(ACK, &payload()).bytes();
            let pieces = fragments(&frame, &[40]);
            let outcome = script.frame(&pieces[0]);
            assert_eq!(outcome.verdict, Verdict::Transmit(TransmitReason::ResetUnknownFlow));
            script.drops(&pieces[1], DropReason::FragmentUnknown);
        },
    )
    .on(NAT),
    Case::new("no service", "Fragments for a port without a service are the host's", one, |script| {
        let client = script.connection(40_000).client;
        let ssh = std::net::SocketAddr::new(script.setting.service().ip(), 22);
        let frame = script.between(client, ssh).from_client(SYN, &payload()).bytes();
        for piece in fragments(&frame, &[40, 80]) {
            script.passes(&piece, PassReason::NoService);
        }
    })
    .on(NAT),
    Case::new("of udp", "Fragments of something else than TCP are the host's, each of them", one, |script| {
        let (client, service) = (script.connection(40_000).client, script.setting.service());
        let frame = udp(ROUTER_MAC, NODE_MAC, client, service, &payload());
        for piece in fragments(&frame, &[8, 40]) {
            script.passes(&piece, PassReason::NotTcp);
        }
    })
    .on(NAT),
    Case::new("no hop left", "No ICMP error is about a fragment other than the first (RFC 1812)", one, |script| {
        let mut connection = script.connection(40_000);
        script.handshake(&mut connection);
        let mut segment = connection.from_client(ACK, &payload());
        segment.ttl = 1;
        let pieces = fragments(&segment.bytes(), &[40]);
        let kind = if script.setting.v6 { 3 } else { 11 };
        let expected = error_about(&pieces[0], node_of(script.setting.v6), kind, 0, 0).bytes();
        script.answers(&pieces[0], TransmitReason::TimeExceeded, &expected);
        script.drops(&pieces[1], DropReason::TtlExpired);
    })
    .on(FORWARDING),
    Case::new(
        "too big",
        "The same where the way to the backend is too narrow",
        |setting| {
            let mut world = one(setting);
            world.backend_mut(0).mtu = 200;
            world
        },
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            let frame = connection.from_client(ACK, &[0xa5; 600]).bytes();
            let pieces = fragments(&frame, &[40, 400]);
            let way = script.way_up(&connection, &pieces[0]);
            assert_eq!(script.frame(&pieces[0]).verdict, Verdict::Transmit(TransmitReason::ToBackend));
            script.drops(&pieces[1], DropReason::TooBig);
            if way.tunnel.is_none() {
                script.drops(&pieces[2], DropReason::TooBig);
            }
        },
    )
    .on(FORWARDING),
    Case::new(
        "padded",
        "A short last fragment is padded by Ethernet: kept, and not counted",
        one,
        |script| {
            let (connection, frame) = established(script);
            let pieces = pieces_up(script, &connection, &frame, &[216]);
            script.reaches_backend(&connection, &pieces[0].0, &pieces[0].1);
            let padded = [&pieces[1].0[..], &[0xa5; 20]].concat();
            script.part_up(&connection, &padded);
            let seen = script.flows.established[&connection.client_key()].seen;
            let header = if script.setting.v6 { 48 } else { 20 };
            assert!(seen.bytes >= header + 4 && seen.packets == 4);
        },
    )
    .on(FORWARDING),
    Case::new(
        "fragments in a vlan",
        "Tags and fragments together",
        |setting| one(setting).on_vlans(&[7, 9], false).with_backend_tags(0, &[vlan(9)]),
        |script| {
            let mut connection = script.connection(40_000);
            connection.client_tags = vec![vlan(7)];
            connection.backend_tags = vec![vlan(9)];
            script.handshake(&mut connection);
            let frame = connection.from_client(ACK, &payload()).bytes();
            up(script, &connection, &frame, &[40, 80]);
            let bare = { Connection { client_tags: vec![], ..connection.clone() } };
            let frame = bare.from_client(ACK, &payload()).bytes();
            let piece = fragments(&frame, &[40]).remove(1);
            script.passes(&piece, PassReason::OtherVlan);
            script.part_up(&connection, &tagged(&piece, &[vlan(7)]));
        },
    )
    .on(FORWARDING),
    Case::new(
        "whose flow has gone",
        "A fragment whose flow ended after the first one came is dropped, not passed",
        one,
        |script| {
            let (connection, frame) = established(script);
            let pieces = pieces_up(script, &connection, &frame, &[40]);
            script.reaches_backend(&connection, &pieces[0].0, &pieces[0].1);
            let clock = START + 20;
            script.change(|world: &mut World| {
                world.clock = clock;
                world.node.idle_timeout = 10;
            });
            let outcome = script.frame(&pieces[1].0);
            assert_eq!(outcome.verdict, Verdict::Drop(DropReason::FragmentUnknown));
        },
    )
    .on(FORWARDING),
    Case::new(
        "extensions before and behind",
        "Extension headers before the fragment header are in each fragment, those behind it in the first alone",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            let mut segment = connection.from_client(ACK, &payload());
            segment.extensions = vec![Extension::padded(0, 0), Extension::padded(60, 0)];
            let frame = segment.bytes();
            let way = script.way_up(&connection, &frame);
            for each in [2, 1, 0] {
                let whole = rewritten(&frame, &crate::frames::Rewrite { tunnel: None, ..way.clone() });
                let expected = fragments_behind(&whole, &[56, 96], each);
                for (piece, expected) in fragments_behind(&frame, &[56, 96], each).iter().zip(expected) {
                    script.reaches_backend(&connection, piece, &through(&expected, way.tunnel));
                }
            }
        },
    )
    .on(&[Setting::NAT6, Setting::L2_6, Setting::IPIP66]),
    Case::new(
        "options in each",
        "IPv4 options may be in every fragment",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            let mut segment = connection.from_client(ACK, &payload());
            segment.ip_options = vec![0x81; 12];
            up(script, &connection, &segment.bytes(), &[40, 80]);
        },
    )
    .on(&[Setting::NAT, Setting::L2, Setting::IPIP44]),
    Case::new(
        "wrong tcp checksum",
        "Nobody here judges the checksum of a segment in fragments: addresses and ports change it by as much",
        one,
        |script| {
            let (connection, frame) = established(script);
            let pieces = pieces_up(script, &connection, &frame, &[40]);
            script.reaches_backend(&connection, &pieces[0].0, &pieces[0].1);
            let mut damaged = pieces[1].0.clone();
            let last = damaged.len() - 1;
            damaged[last] ^= 0xff;
            let way = script.way_up(&connection, &damaged);
            let expected = passed_on(&damaged, &way);
            script.reaches_backend(&connection, &damaged, &expected);
        },
    )
    .on(NAT),
];
