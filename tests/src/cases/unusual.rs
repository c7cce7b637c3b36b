//! Legal headers that few packets have: IPv4 options, IPv6 extension headers.

use lb_common::{
    reason::{DropReason, PassReason, TransmitReason},
    tables::Level,
};

use super::{
    Case, Script, Setting,
    settings::{DIRECT, one},
};
use crate::frames::{ACK, Extension, PSH, SYN, Segment, fix_ip_checksum};

/// Every way to forward IPv6.
const V6: &[Setting] =
    &[Setting::NAT6, Setting::SNAT6, Setting::L2_6, Setting::IPIP66, Setting::IPIP64, Setting::LOCAL6];
/// Every way to forward IPv4 whose replies go straight to the client.
const DIRECT_V4: &[Setting] = &[Setting::L2, Setting::IPIP44, Setting::IPIP46];

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;

fn chains() -> Vec<Vec<Extension>> {
    let padded = Extension::padded;
    vec![
        vec![padded(HOP_BY_HOP, 0)],
        vec![padded(ROUTING, 2)],
        vec![padded(DESTINATION, 1)],
        vec![Extension::atomic_fragment()],
        vec![padded(HOP_BY_HOP, 0), padded(DESTINATION, 0), padded(ROUTING, 0), padded(DESTINATION, 3)],
        vec![padded(HOP_BY_HOP, 1), Extension::atomic_fragment(), padded(DESTINATION, 0)],
        vec![padded(DESTINATION, 0); 6],
    ]
}

/// A connection with these extension headers in every segment.
fn talk(script: &mut Script<'_>, port: u16, extensions: &[Extension]) {
    let with = |segment: Segment| Segment { extensions: extensions.to_vec(), ..segment }.bytes();
    let mut connection = script.connection(port);
    let syn = with(connection.from_client(SYN, b""));
    script.open(&mut connection, &syn);
    connection.client_seq = connection.client_seq.wrapping_add(1);
    if script.setting.mode == lb_common::layout::MODE_NAT {
        script.down(&connection, &with(connection.from_backend(SYN | ACK, b"")));
    }
    connection.backend_seq = connection.backend_seq.wrapping_add(1);
    for payload in [&b""[..], b"x", b"odd", b"data"] {
        script.up(&connection, &with(connection.from_client(ACK | PSH, payload)));
        if script.setting.mode == lb_common::layout::MODE_NAT {
            script.down(&connection, &with(connection.from_backend(ACK | PSH, payload)));
        }
    }
    script.expect_level(&connection, Level::Established);
}

pub(super) const CASES: &[Case] = &[
    Case::new(
        "extensions",
        "Extension headers are looked past and kept: on a SYN, on data, on replies",
        one,
        |script| {
            for (port, chain) in (40_000..).zip(chains()) {
                talk(script, port, &chain);
            }
        },
    )
    .on(V6),
    Case::new("long extension", "Even the longest of them", one, |script| {
        talk(script, 40_000, &[Extension::padded(DESTINATION, 127)]);
        talk(script, 40_001, &[Extension::padded(HOP_BY_HOP, 60), Extension::padded(DESTINATION, 60)]);
    })
    .on(&[Setting::NAT6, Setting::L2_6]),
    Case::new(
        "too many extensions",
        "Nobody sends more than six: dropped by name, of a known flow as well",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            for kind in [HOP_BY_HOP, ROUTING, DESTINATION] {
                for count in [7, 8, 20] {
                    for flags in [SYN, ACK] {
                        let mut segment = connection.from_client(flags, b"");
                        segment.extensions = vec![Extension::padded(kind, 0); count];
                        script.drops(&segment.bytes(), DropReason::BadExtension);
                    }
                }
            }
        },
    )
    .on(V6),
    Case::new(
        "extension cut short",
        "An extension header that reaches beyond its packet, or beyond the frame",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            for segment in
                [script.connection(50_000).from_client(SYN, b""), connection.from_client(ACK, b"x")]
            {
                let bytes =
                    Segment { extensions: vec![Extension::padded(DESTINATION, 0)], ..segment }.bytes();
                for units in [20, 21, 100, 255] {
                    let mut frame = bytes.clone();
                    frame[14 + 40 + 1] = units;
                    script.drops(&frame, DropReason::BadExtension);
                }
                for end in 54..62 {
                    let mut frame = bytes[..end].to_vec();
                    frame[18..20].copy_from_slice(&(end as u16 - 54).to_be_bytes());
                    script.drops(&frame, DropReason::BadExtension);
                }
                // The next header is none of TCP's.
                for end in 62..82 {
                    let mut frame = bytes[..end].to_vec();
                    frame[18..20].copy_from_slice(&(end as u16 - 54).to_be_bytes());
                    script.drops(&frame, DropReason::BadTcpHeader);
                }
            }
        },
    )
    .on(&[Setting::NAT6, Setting::L2_6]),
    Case::new(
        "fragment header cut short",
        "A fragment header of which only a part is there",
        one,
        |script| {
            let mut segment = script.connection(40_000).from_client(SYN, b"");
            segment.extensions = vec![Extension::atomic_fragment()];
            let bytes = segment.bytes();
            for end in 54..62 {
                let mut frame = bytes[..end].to_vec();
                frame[18..20].copy_from_slice(&(end as u16 - 54).to_be_bytes());
                script.drops(&frame, DropReason::BadExtension);
            }
        },
    )
    .on(&[Setting::NAT6]),
    Case::new(
        "unknown extension",
        "What is behind a header of another kind nobody here can tell: the host's",
        one,
        |script| {
            for kind in [17u8, 50, 51, 59, 132, 135, 139, 140, 253, 255] {
                let mut frame = script.connection(40_000).from_client(SYN, b"").bytes();
                frame[20] = kind;
                script.passes(&frame, PassReason::NotTcp);
                let mut segment = script.connection(40_000).from_client(SYN, b"");
                segment.extensions = vec![Extension::padded(DESTINATION, 0)];
                let mut frame = segment.bytes();
                frame[54] = kind;
                script.passes(&frame, PassReason::NotTcp);
            }
        },
    )
    .on(&[Setting::NAT6]),
    Case::new("reset behind extensions", "A RST has none of what it answers", one, |script| {
        for chain in chains() {
            let mut segment = script.connection(40_000).from_client(ACK, b"data");
            segment.extensions = chain;
            script.resets(&segment.bytes(), TransmitReason::ResetUnknownFlow);
        }
    })
    .on(&[Setting::NAT6]),
    Case::new(
        "options, direct",
        "IPv4 options of every length are kept on the way to the backend, of a SYN and of data",
        one,
        |script| {
            for words in 0..=10u16 {
                let options: Vec<u8> = (0..words * 4).map(|n| 0x80 | n as u8).collect();
                let with = |segment: Segment| Segment { ip_options: options.clone(), ..segment }.bytes();
                let mut connection = script.connection(40_000 + words);
                let syn = with(connection.from_client(SYN, b""));
                script.open(&mut connection, &syn);
                connection.client_seq = connection.client_seq.wrapping_add(1);
                for payload in [&b""[..], b"x", b"odd"] {
                    script.up(&connection, &with(connection.from_client(ACK, payload)));
                }
                script.expect_level(&connection, Level::Established);
            }
        },
    )
    .on(DIRECT_V4),
    Case::v4(
        "options cut short",
        "Options that reach beyond the packet, or whose checksum is wrong, of a known flow",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            let mut segment = connection.from_client(ACK, b"data");
            segment.ip_options = vec![0x01; 8];
            let good = segment.bytes();
            for end in 34..42u16 {
                let mut frame = good[..usize::from(end)].to_vec();
                frame[16..18].copy_from_slice(&(end - 14).to_be_bytes());
                fix_ip_checksum(&mut frame);
                script.drops(&frame, DropReason::BadIpHeader);
            }
            for at in 34..42 {
                let mut frame = good.clone();
                frame[at] ^= 0x10;
                script.drops(&frame, DropReason::BadIpChecksum);
            }
            script.up(&connection, &good);
        },
    ),
    Case::new(
        "traffic class",
        "DSCP, ECN and flow label stay as they are; a tunnel's header has the first two (RFC 6040)",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            for class in [0x01u8, 0x03, 0xb8, 0xff] {
                let mut frame = connection.from_client(ACK, b"data").bytes();
                if script.setting.v6 {
                    frame[14] = 0x60 | class >> 4;
                    frame[15] = class << 4 | 0x05;
                } else {
                    frame[15] = class;
                    fix_ip_checksum(&mut frame);
                }
                script.up(&connection, &frame);
            }
        },
    )
    .on(DIRECT),
];
