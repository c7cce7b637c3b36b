//! Headers that lie, and headers that are merely unusual.

use std::net::{Ipv4Addr, SocketAddrV4};

use lb_common::{
    reason::{DropReason, PassReason, TransmitReason, Verdict},
    tables::Level,
};

use super::{Case, Connection, Script, flags_are_sane, settings::one};
use crate::{
    frames::{ACK, ETHERNET, FIN, PSH, RST, SYN, URG, error_about, fix_ip_checksum},
    plane::{NODE, SERVICE, VIP},
};

/// Where the TCP header begins in a frame without IP options.
const TCP: usize = ETHERNET + 20;

/// A frame of the same bytes with some replaced and the IP checksum right again.
fn with(frame: &[u8], offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[offset..offset + bytes.len()].copy_from_slice(bytes);
    fix_ip_checksum(&mut frame);
    frame
}

/// The frame has no hop left, and its sender is told.
fn expires(script: &mut Script<'_>, frame: &[u8]) {
    let expected = error_about(frame, NODE.into(), 11, 0, 0).bytes();
    script.answers(frame, TransmitReason::TimeExceeded, &expected);
}

/// A SYN, and a data segment of an established flow: what is malformed is dropped in both programs.
fn both(script: &mut Script<'_>) -> [Vec<u8>; 2] {
    let mut connection = script.connection(40_000);
    script.handshake(&mut connection);
    [script.connection(50_000).from_client(SYN, b"").bytes(), connection.from_client(ACK, b"data").bytes()]
}

pub(super) const CASES: &[Case] = &[
    Case::v4("version", "An IPv4 Ethertype with another version inside", one, |script| {
        for frame in both(script) {
            for version in (0..16u8).filter(|&version| version != 4) {
                let bad = with(&frame, ETHERNET, &[version << 4 | 5]);
                script.drops(&bad, DropReason::BadIpHeader);
            }
        }
    }),
    Case::v4("short ihl", "A header length below 20 bytes", one, |script| {
        for frame in both(script) {
            for words in 0..5 {
                script.drops(&with(&frame, ETHERNET, &[0x40 | words]), DropReason::BadIpHeader);
            }
        }
    }),
    Case::v4(
        "long ihl",
        "A header length that reaches into the TCP header, checksum right: TCP is not where it says",
        one,
        |script| {
            let frame = script.connection(40_000).from_client(SYN, b"").bytes();
            for words in 6..=10 {
                script.drops(&with(&frame, ETHERNET, &[0x40 | words]), DropReason::BadTcpHeader);
            }
            for words in 11..=15 {
                script.drops(&with(&frame, ETHERNET, &[0x40 | words]), DropReason::BadIpHeader);
            }
        },
    ),
    Case::v4("total length", "A total length below the header or beyond the frame", one, |script| {
        for frame in both(script) {
            let room = (frame.len() - ETHERNET) as u16;
            for length in [0, 1, 19, room + 1, room + 2, 1500, u16::MAX] {
                script.drops(&with(&frame, 16, &length.to_be_bytes()), DropReason::BadIpHeader);
            }
            for length in 20..40u16 {
                script.drops(&with(&frame, 16, &length.to_be_bytes()), DropReason::BadTcpHeader);
            }
        }
    }),
    Case::v4("ip checksum", "Any wrong bit of the IP checksum", one, |script| {
        for frame in both(script) {
            for bit in 0..16 {
                let mut bad = frame.clone();
                bad[24 + bit / 8] ^= 1 << (bit % 8);
                script.drops(&bad, DropReason::BadIpChecksum);
            }
        }
    }),
    Case::v4("ip checksum with options", "A wrong bit in the options is seen", one, |script| {
        let mut segment = script.connection(40_000).from_client(SYN, b"");
        segment.ip_options = vec![0x01; 40];
        let frame = segment.bytes();
        for offset in 34..74 {
            let mut bad = frame.clone();
            bad[offset] ^= 0x10;
            script.drops(&bad, DropReason::BadIpChecksum);
        }
        script.open(&mut script.connection(40_000), &frame);
    }),
    Case::v4(
        "ip options",
        "IP options of every length are kept, on a SYN, on data both ways, and in the checksum",
        one,
        |script| {
            for words in 0..=10u16 {
                let options: Vec<u8> = (0..words * 4).map(|n| 0x80 | n as u8).collect();
                let mut connection = script.connection(40_000 + words);
                let mut syn = connection.from_client(SYN, b"");
                syn.ip_options.clone_from(&options);
                script.open(&mut connection, &syn.bytes());
                connection.client_seq = connection.client_seq.wrapping_add(1);
                let mut syn_ack = connection.from_backend(SYN | ACK, b"");
                syn_ack.ip_options.clone_from(&options);
                script.down(&connection, &syn_ack.bytes());
                connection.backend_seq = connection.backend_seq.wrapping_add(1);
                for payload in [&b""[..], b"x", b"odd"] {
                    let mut segment = connection.from_client(ACK, payload);
                    segment.ip_options.clone_from(&options);
                    script.up(&connection, &segment.bytes());
                    let mut segment = connection.from_backend(ACK, payload);
                    segment.ip_options.clone_from(&options);
                    script.down(&connection, &segment.bytes());
                }
                script.expect_level(&connection, Level::Established);
            }
        },
    ),
    Case::v4("tcp options", "TCP options of every length are kept", one, |script| {
        for words in 0..=10u16 {
            let options: Vec<u8> = (0..words * 4).map(|n| 0xf0 ^ n as u8).collect();
            let mut connection = script.connection(40_000 + words);
            let mut syn = connection.from_client(SYN, b"");
            syn.tcp_options.clone_from(&options);
            script.open(&mut connection, &syn.bytes());
            connection.client_seq = connection.client_seq.wrapping_add(1);
            script.server(&mut connection, SYN | ACK, b"");
            let mut ack = connection.from_client(ACK, b"data");
            ack.tcp_options.clone_from(&options);
            script.up(&connection, &ack.bytes());
            script.expect_level(&connection, Level::Established);
        }
    }),
    Case::v4("data offset", "A TCP header length below 20 bytes or beyond the datagram", one, |script| {
        for frame in both(script) {
            for words in 0..5u8 {
                script.drops(&with(&frame, TCP + 12, &[words << 4]), DropReason::BadTcpHeader);
            }
            let first_bad = if frame.len() == 54 { 6 } else { 7 };
            for words in first_bad..16u8 {
                script.drops(&with(&frame, TCP + 12, &[words << 4]), DropReason::BadTcpHeader);
            }
        }
    }),
    Case::v4(
        "data offset into padding",
        "Padding does not count as TCP header, though the frame reaches that far",
        one,
        |script| {
            let mut segment = script.connection(40_000).from_client(SYN, b"");
            segment.padding = vec![0; 60];
            let frame = segment.bytes();
            for words in 6..16u8 {
                script.drops(&with(&frame, TCP + 12, &[words << 4]), DropReason::BadTcpHeader);
            }
            for length in 20..40u16 {
                script.drops(&with(&frame, 16, &length.to_be_bytes()), DropReason::BadTcpHeader);
            }
        },
    ),
    Case::v4(
        "truncated",
        "A legal frame cut at each byte: too short to judge, then dropped, and nothing remembered",
        one,
        |script| {
            let mut segment = script.connection(50_000).from_client(SYN, b"some data");
            segment.ip_options = vec![0x01; 12];
            segment.tcp_options = vec![0x01; 8];
            let with_options = segment.bytes();
            let [syn, data] = both(script);
            for frame in [syn, data, with_options] {
                for length in 14..frame.len() {
                    if length < 34 {
                        script.passes(&frame[..length], PassReason::TooShort);
                    } else {
                        script.drops(&frame[..length], DropReason::BadIpHeader);
                    }
                }
            }
            script.expect_flows(0, 1);
        },
    ),
    Case::v4(
        "truncated, length mended",
        "The same with a total length that fits: the TCP header is cut short",
        one,
        |script| {
            for frame in both(script) {
                for length in 34..54u16 {
                    let cut = with(&frame[..usize::from(length)], 16, &(length - 14).to_be_bytes());
                    script.drops(&cut, DropReason::BadTcpHeader);
                }
            }
        },
    ),
    Case::v4(
        "padding",
        "What follows the datagram in the frame is kept, and is no part of any checksum",
        one,
        |script| {
            for length in [1u16, 5, 6, 7, 46, 200] {
                let mut connection = script.connection(40_000 + length);
                let mut syn = connection.from_client(SYN, b"");
                syn.padding = vec![0xa5; length.into()];
                script.open(&mut connection, &syn.bytes());
                connection.client_seq = connection.client_seq.wrapping_add(1);
                script.server(&mut connection, SYN | ACK, b"");
                let mut ack = connection.from_client(ACK, b"odd");
                ack.padding = vec![0x5a; length.into()];
                script.up(&connection, &ack.bytes());
                assert_eq!(script.directions(&connection).0.seen.bytes, 40 + 43, "padding is not counted");
            }
        },
    ),
    Case::v4(
        "stray fragments",
        "A fragment that would overlap the TCP header, or whose first one has not come, is dropped by name",
        one,
        |script| {
            for frame in both(script) {
                for fragment in [0x2001u16, 0x0001, 0xa001] {
                    script.drops(&with(&frame, 20, &fragment.to_be_bytes()), DropReason::BadFragment);
                }
                for fragment in [0x2002u16, 0x0002, 0x1fff, 0x3fff, 0xbfff] {
                    script.drops(&with(&frame, 20, &fragment.to_be_bytes()), DropReason::FragmentUnknown);
                }
            }
        },
    ),
    Case::v4("whole", "With or without Don't Fragment a datagram is whole", one, |script| {
        let frame = script.connection(40_000).from_client(SYN, b"").bytes();
        script.open(&mut script.connection(40_000), &with(&frame, 20, &[0, 0]));
        let frame = script.connection(40_001).from_client(SYN, b"").bytes();
        script.open(&mut script.connection(40_001), &with(&frame, 20, &[0x40, 0]));
    }),
    Case::v4(
        "ttl",
        "With no hop left a frame is not forwarded, SYN or data: its sender is told (RFC 1812 §5.3.1)",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            for ttl in [0, 1] {
                let mut syn = script.connection(50_000).from_client(SYN, b"");
                syn.ttl = ttl;
                expires(script, &syn.bytes());
                let mut data = connection.from_client(ACK, b"data");
                data.ttl = ttl;
                expires(script, &data.bytes());
                let mut reply = connection.from_backend(ACK, b"data");
                reply.ttl = ttl;
                expires(script, &reply.bytes());
            }
            for ttl in [2, 255] {
                let mut data = connection.from_client(ACK, b"data");
                data.ttl = ttl;
                script.up(&connection, &data.bytes());
            }
        },
    ),
    Case::v4(
        "ttl of a refusal",
        "A RST that is not forwarded does not end a handshake: the client will not hear of it",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.syn(&mut connection);
            let mut refusal = connection.from_backend(RST | ACK, b"");
            refusal.ttl = 1;
            expires(script, &refusal.bytes());
            script.server(&mut connection, SYN | ACK, b"");
        },
    ),
    Case::v4(
        "flags, no flow",
        "Each of the 256 combinations of flags, of a flow that nobody knows",
        one,
        |script| {
            for flags in 0..=255u8 {
                let mut connection = script.connection(40_000 + u16::from(flags));
                let frame = connection.from_client(flags, b"x").bytes();
                if !flags_are_sane(flags) {
                    script.drops(&frame, DropReason::BadTcpFlags);
                } else if flags & (SYN | ACK) == SYN {
                    script.open(&mut connection, &frame);
                } else if flags & RST != 0 {
                    script.drops(&frame, DropReason::UnknownFlow);
                } else {
                    script.resets(&frame, TransmitReason::ResetUnknownFlow);
                }
            }
        },
    ),
    Case::v4(
        "flags, half-open",
        "Each insane combination on a half-open flow, from either side: dropped, and the flow lives",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.syn(&mut connection);
            for flags in (0..=255u8).filter(|&flags| !flags_are_sane(flags)) {
                script.drops(&connection.from_client(flags, b"").bytes(), DropReason::BadTcpFlags);
                script.drops(&connection.from_backend(flags, b"").bytes(), DropReason::BadTcpFlags);
            }
            script.server(&mut connection, SYN | ACK, b"");
            for flags in (0..=255u8).filter(|&flags| !flags_are_sane(flags)) {
                script.drops(&connection.from_client(flags, b"").bytes(), DropReason::BadTcpFlags);
                script.drops(&connection.from_backend(flags, b"").bytes(), DropReason::BadTcpFlags);
            }
            script.client(&mut connection, ACK, b"");
            script.expect_level(&connection, Level::Established);
        },
    ),
    Case::v4(
        "flags, established",
        "Each combination on an established flow, from either side: the insane dropped, the others forwarded",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            for flags in (0..=255u8).filter(|&flags| flags & (RST | FIN) == 0 || !flags_are_sane(flags)) {
                let (up, down) =
                    (connection.from_client(flags, b"").bytes(), connection.from_backend(flags, b"").bytes());
                if flags_are_sane(flags) {
                    script.up(&connection, &up);
                    script.down(&connection, &down);
                } else {
                    script.drops(&up, DropReason::BadTcpFlags);
                    script.drops(&down, DropReason::BadTcpFlags);
                }
            }
        },
    ),
    Case::v4("flags, closed", "An insane SYN does not make a closed flow forgotten", one, |script| {
        let mut connection = script.connection(40_000);
        script.handshake(&mut connection);
        script.close(&mut connection);
        for flags in [SYN | FIN, SYN | RST, SYN | FIN | RST, SYN | FIN | PSH | URG] {
            script.drops(&connection.from_client(flags, b"").bytes(), DropReason::BadTcpFlags);
        }
    }),
    Case::v4("sources", "A source that nobody can answer to gets neither a flow nor a RST", one, |script| {
        let bad = [
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::new(0, 1, 2, 3),
            Ipv4Addr::LOCALHOST,
            Ipv4Addr::new(127, 255, 255, 254),
            Ipv4Addr::new(224, 0, 0, 1),
            Ipv4Addr::new(239, 255, 255, 255),
            Ipv4Addr::new(240, 0, 0, 1),
            Ipv4Addr::BROADCAST,
            VIP,
            crate::plane::OTHER_VIP,
        ];
        for source in bad {
            for flags in [SYN, ACK, RST, SYN | ACK] {
                let connection = Connection::from(SocketAddrV4::new(source, 40_000), SERVICE);
                script.drops(&connection.from_client(flags, b"").bytes(), DropReason::BadSource);
            }
        }
        script.drops(&script.connection(0).from_client(SYN, b"").bytes(), DropReason::BadSource);
        for source in [Ipv4Addr::new(1, 0, 0, 1), Ipv4Addr::new(126, 1, 1, 1), Ipv4Addr::new(223, 1, 1, 1)] {
            script.syn(&mut Connection::from(SocketAddrV4::new(source, 40_000), SERVICE));
        }
    }),
    Case::v4(
        "tcp checksum",
        "A wrong TCP checksum is the receiver's to find: it is as wrong afterwards as it was",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            let good = connection.from_client(ACK, b"data").bytes();
            script.up(&connection, &good);
            let mut bad = good;
            bad[TCP + 20] ^= 0x01;
            script.frame(&bad);
        },
    ),
    Case::v4(
        "reserved bits",
        "Reserved bits of IPv4 and TCP mean nothing to us, stay as they are, and count in the checksums",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            let mut frame = with(&connection.from_client(ACK, b"data").bytes(), 20, &[0x80, 0x00]);
            frame[TCP + 12] |= 0x0e;
            let outcome = script.frame(&frame);
            assert_eq!(outcome.verdict, Verdict::Transmit(TransmitReason::ToBackend));
            assert_eq!((outcome.frame[20], outcome.frame[TCP + 12]), (0x80, 0x5e));
        },
    ),
    Case::v4("long frame", "A frame of 3,000 bytes, about as long as a page lets it be", one, |script| {
        let mut connection = script.connection(40_000);
        script.handshake(&mut connection);
        let payload: Vec<u8> = (0..2946u16).map(|n| n as u8).collect();
        script.client(&mut connection, ACK | PSH, &payload);
        script.server(&mut connection, ACK | PSH, &payload);
        script.resets(
            &script.connection(50_000).from_client(ACK, &payload).bytes(),
            TransmitReason::ResetUnknownFlow,
        );
    }),
];
