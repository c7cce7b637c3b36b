//! ICMP errors of our own: no hop left, too big.

use lb_common::{
    layout::{BALANCE_LEAST_CONNECTIONS, MODE_DSR_IPIP, MODE_NAT, NodeEntry},
    reason::{DropReason, TransmitReason},
    tables::Level,
};

use super::{
    Case, Script, Setting,
    settings::{DIRECT, FORWARDING, NAT, one},
};
use crate::{
    frames::{ACK, Extension, FIN, RST, SYN, error_about, fix_ip_checksum},
    plane::{World, node_of},
};

/// Every way to forward IPv4.
const V4: &[Setting] = &[Setting::NAT, Setting::L2, Setting::IPIP44, Setting::IPIP46];
/// Every way to forward IPv6.
const V6: &[Setting] = &[Setting::NAT6, Setting::L2_6, Setting::IPIP66, Setting::IPIP64];

/// The frame is answered: no hop left.
fn expires(script: &mut Script<'_>, frame: &[u8]) {
    let v6 = script.setting.v6;
    let expected = error_about(frame, node_of(v6), if v6 { 3 } else { 11 }, 0, 0).bytes();
    script.answers(frame, TransmitReason::TimeExceeded, &expected);
}

/// The frame is answered: larger than that.
fn exceeds(script: &mut Script<'_>, frame: &[u8], mtu: u32) {
    let v6 = script.setting.v6;
    let (kind, code) = if v6 { (2, 0) } else { (3, 4) };
    let expected = error_about(frame, node_of(v6), kind, code, mtu).bytes();
    script.answers(frame, TransmitReason::PacketTooBig, &expected);
}

/// The way to the backend takes packets of 1,400 bytes.
fn narrow(setting: Setting) -> World {
    let mut world = one(setting);
    world.backend_mut(0).mtu = 1400;
    world
}

/// What the client's packets may have on that way.
fn room(setting: Setting) -> usize {
    match (setting.mode, setting.backend_v6) {
        (MODE_DSR_IPIP, false) => 1400 - 20,
        (MODE_DSR_IPIP, true) => 1400 - 40,
        _ => 1400,
    }
}

/// Payload that makes a packet without options so long.
fn payload(setting: Setting, packet: usize) -> Vec<u8> {
    vec![0x5a; packet - if setting.v6 { 60 } else { 40 }]
}

pub(super) const CASES: &[Case] = &[
    Case::new(
        "no hop left",
        "SYN, data, FIN and RST without a hop left are answered, of known and unknown flows, and leave no trace",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            for ttl in [0, 1] {
                let mut syn = script.connection(50_000).from_client(SYN, b"");
                syn.ttl = ttl;
                expires(script, &syn.bytes());
                for flags in [ACK, ACK | FIN, RST] {
                    let mut segment = connection.from_client(flags, b"data");
                    segment.ttl = ttl;
                    expires(script, &segment.bytes());
                }
                if script.setting.mode == MODE_NAT {
                    let mut reply = connection.from_backend(ACK, b"data");
                    reply.ttl = ttl;
                    expires(script, &reply.bytes());
                }
            }
            for ttl in [2, 255] {
                let mut segment = connection.from_client(ACK, b"data");
                segment.ttl = ttl;
                script.up(&connection, &segment.bytes());
            }
        },
    )
    .on(FORWARDING),
    Case::new(
        "no hop left to rebuild",
        "A packet of an unknown flow without a hop left does not become one",
        one,
        |script| {
            let mut segment = script.connection(40_000).from_client(ACK, b"data");
            segment.ttl = 1;
            expires(script, &segment.bytes());
            script.expect_flows(0, 0);
        },
    )
    .on(DIRECT),
    Case::new(
        "no hop left in the handshake",
        "The last ACK without a hop left completes nothing that its backend has not seen",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.syn(&mut connection);
            script.server(&mut connection, SYN | ACK, b"");
            let mut rst = connection.from_client(RST, b"");
            rst.ttl = 1;
            expires(script, &rst.bytes());
            script.expect_level(&connection, Level::HalfOpen);
            script.client(&mut connection, ACK, b"");
        },
    )
    .on(FORWARDING),
    Case::v4(
        "no own address",
        "A node without an address of its own answers from the VIP",
        |setting| {
            let world = one(setting);
            World { node: NodeEntry { v4: NodeEntry::EMPTY.v4, ..world.node }, ..world }
        },
        |script| {
            let mut segment = script.connection(40_000).from_client(SYN, b"");
            segment.ttl = 1;
            let frame = segment.bytes();
            let expected = error_about(&frame, segment.dst.ip(), 11, 0, 0).bytes();
            script.answers(&frame, TransmitReason::TimeExceeded, &expected);
        },
    ),
    Case::new(
        "with options",
        "With IPv4 options there is no answer: the quote would have to leave out TCP",
        narrow,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            let mut segment = connection.from_client(ACK, b"data");
            segment.ip_options = vec![0x01; 8];
            segment.ttl = 1;
            script.drops(&segment.bytes(), DropReason::TtlExpired);
            segment.ttl = 64;
            segment.payload = payload(script.setting, room(script.setting));
            script.drops(&segment.bytes(), DropReason::TooBig);
        },
    )
    .on(V4),
    Case::new(
        "with extensions",
        "With IPv6 extension headers as much is quoted as without",
        narrow,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            let mut segment = connection.from_client(ACK, b"data");
            segment.extensions = vec![Extension::padded(0, 0), Extension::padded(60, 1)];
            segment.ttl = 1;
            expires(script, &segment.bytes());
            segment.ttl = 64;
            segment.payload = payload(script.setting, room(script.setting));
            exceeds(script, &segment.bytes(), room(script.setting) as u32);
        },
    )
    .on(V6),
    Case::new(
        "too big",
        "A packet that just fits is forwarded, one byte more is answered with what fits; a tunnel takes its share",
        narrow,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            let room = room(script.setting);
            let fits = connection.from_client(ACK, &payload(script.setting, room)).bytes();
            script.up(&connection, &fits);
            for length in [room + 1, room + 2, 1500, 3000] {
                let frame = connection.from_client(ACK, &payload(script.setting, length)).bytes();
                exceeds(script, &frame, room as u32);
            }
            let mut syn = script.connection(50_000).from_client(SYN, b"");
            syn.payload = payload(script.setting, room + 1);
            let frame = syn.bytes();
            let outcome = script.frame(&frame);
            let (kind, code) = if script.setting.v6 { (2, 0) } else { (3, 4) };
            let expected = error_about(&frame, node_of(script.setting.v6), kind, code, room as u32);
            assert_eq!(outcome.frame, expected.bytes(), "a SYN with data");
        },
    )
    .on(FORWARDING),
    Case::new(
        "too big, without a limit",
        "Where the way is as wide as the one that it came by, nothing is too big",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            let frame = connection.from_client(ACK, &payload(script.setting, 3000)).bytes();
            script.up(&connection, &frame);
        },
    )
    .on(FORWARDING),
    Case::new(
        "too big to the client",
        "Only the way to the backend has a limit: to the client goes what the backend sends",
        narrow,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            let frame = connection.from_backend(ACK, &payload(script.setting, 1500)).bytes();
            script.down(&connection, &frame);
        },
    )
    .on(NAT),
    Case::v4(
        "padding is not packet",
        "What follows a packet in its frame makes it no bigger",
        narrow,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            let mut segment = connection.from_client(ACK, &payload(script.setting, 1400));
            segment.padding = vec![0xa5; 100];
            script.up(&connection, &segment.bytes());
        },
    ),
    Case::v4(
        "without don't fragment",
        "A packet that might be fragmented is answered as well: we do not fragment",
        narrow,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            let mut frame = connection.from_client(ACK, &payload(script.setting, 1401)).bytes();
            frame[20] = 0;
            fix_ip_checksum(&mut frame);
            let expected = error_about(&frame, node_of(false), 3, 4, 1400).bytes();
            script.answers(&frame, TransmitReason::PacketTooBig, &expected);
        },
    ),
    Case::new(
        "no error about an answer",
        "Where no flow is known and none can be made, a RST comes before any ICMP error",
        |setting| one(setting).with_balance(BALANCE_LEAST_CONNECTIONS),
        |script| {
            let mut segment = script.connection(40_000).from_client(ACK, b"data");
            segment.ttl = 1;
            script.resets(&segment.bytes(), TransmitReason::ResetUnknownFlow);
        },
    )
    .on(FORWARDING),
];
