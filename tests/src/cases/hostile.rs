//! Bad input: each malformed or hostile frame ends under a name of its own, and none reaches a backend.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::{
    layout::MODE_NAT,
    reason::{DropReason, PassReason},
};

use super::{
    Case, Script, Setting,
    settings::{FORWARDING, one},
};
use crate::{
    frames::{ACK, ETHERNET, Extension, RST, SYN, Segment, fix_ip_checksum},
    plane::{OTHER_VIP6, SERVICE6, VIP6},
};

/// Every way to forward IPv6.
const V6: &[Setting] = &[Setting::NAT6, Setting::L2_6, Setting::IPIP66, Setting::IPIP64];

/// What is done to a frame, and what becomes of it.
struct Malformed {
    what: &'static str,
    make: fn(Segment) -> Vec<u8>,
    reason: DropReason,
}

const fn malformed(what: &'static str, make: fn(Segment) -> Vec<u8>, reason: DropReason) -> Malformed {
    Malformed { what, make, reason }
}

/// The frame with one byte replaced, counted from the IP header, and a right IPv4 checksum.
fn with(segment: &Segment, offset: usize, value: u8) -> Vec<u8> {
    let mut frame = segment.bytes();
    frame[ETHERNET + offset] = value;
    if segment.dst.is_ipv4() {
        fix_ip_checksum(&mut frame);
    }
    frame
}

/// The IPv4 frame with two bytes replaced, counted likewise, and a right checksum.
fn pair(segment: &Segment, offset: usize, value: u16) -> Vec<u8> {
    let mut frame = segment.bytes();
    frame[ETHERNET + offset..ETHERNET + offset + 2].copy_from_slice(&value.to_be_bytes());
    fix_ip_checksum(&mut frame);
    frame
}

/// The frame cut to so many bytes of its packet, with a length that says so.
fn cut(segment: &Segment, length: usize) -> Vec<u8> {
    let mut frame = segment.bytes();
    frame.truncate(ETHERNET + length);
    if segment.dst.is_ipv4() {
        frame[16..18].copy_from_slice(&(length as u16).to_be_bytes());
        fix_ip_checksum(&mut frame);
    } else {
        frame[18..20].copy_from_slice(&(length as u16 - 40).to_be_bytes());
    }
    frame
}

const V4_TABLE: &[Malformed] = &[
    malformed("version 0", |segment| with(&segment, 0, 0x05), DropReason::BadIpHeader),
    malformed("version 6", |segment| with(&segment, 0, 0x65), DropReason::BadIpHeader),
    malformed("header of 0 bytes", |segment| with(&segment, 0, 0x40), DropReason::BadIpHeader),
    malformed("header of 16 bytes", |segment| with(&segment, 0, 0x44), DropReason::BadIpHeader),
    malformed("header longer than the packet", |segment| with(&segment, 0, 0x4f), DropReason::BadIpHeader),
    malformed("length beyond the frame", |segment| with(&segment, 2, 0xff), DropReason::BadIpHeader),
    malformed("no length", |segment| pair(&segment, 2, 0x0000), DropReason::BadIpHeader),
    malformed("wrong checksum", |segment| flipped(&segment, 10), DropReason::BadIpChecksum),
    malformed("wrong bit in the header", |segment| flipped(&segment, 1), DropReason::BadIpChecksum),
    malformed("stray last fragment", |segment| pair(&segment, 6, 0x0040), DropReason::FragmentUnknown),
    malformed("stray middle fragment", |segment| pair(&segment, 6, 0x2040), DropReason::FragmentUnknown),
    malformed("overlapping fragment", |segment| pair(&segment, 6, 0x0001), DropReason::BadFragment),
    malformed("tiny first fragment", |segment| tiny(&segment), DropReason::BadFragment),
    malformed("no TCP header", |segment| cut(&segment, 20), DropReason::BadTcpHeader),
    malformed("half a TCP header", |segment| cut(&segment, 30), DropReason::BadTcpHeader),
    malformed("all but a byte of one", |segment| cut(&segment, 39), DropReason::BadTcpHeader),
    malformed("data offset 0", |segment| with(&segment, 32, 0x00), DropReason::BadTcpHeader),
    malformed("data offset 4", |segment| with(&segment, 32, 0x40), DropReason::BadTcpHeader),
    malformed("data offset 15", |segment| with(&segment, 32, 0xf0), DropReason::BadTcpHeader),
    malformed("no flags", |segment| with(&segment, 33, 0x00), DropReason::BadTcpFlags),
    malformed("every flag", |segment| with(&segment, 33, 0xff), DropReason::BadTcpFlags),
    malformed("SYN and FIN", |segment| with(&segment, 33, 0x03), DropReason::BadTcpFlags),
    malformed("SYN and RST", |segment| with(&segment, 33, 0x06), DropReason::BadTcpFlags),
    malformed("FIN and RST", |segment| with(&segment, 33, 0x15), DropReason::BadTcpFlags),
    malformed("FIN alone", |segment| with(&segment, 33, 0x01), DropReason::BadTcpFlags),
    malformed("URG and PSH alone", |segment| with(&segment, 33, 0x28), DropReason::BadTcpFlags),
];

const V6_TABLE: &[Malformed] = &[
    malformed("version 0", |segment| with(&segment, 0, 0x00), DropReason::BadIpHeader),
    malformed("version 4", |segment| with(&segment, 0, 0x45), DropReason::BadIpHeader),
    malformed("version 15", |segment| with(&segment, 0, 0xf0), DropReason::BadIpHeader),
    malformed("length beyond the frame", |segment| with(&segment, 4, 0xff), DropReason::BadIpHeader),
    malformed("no TCP header", |segment| cut(&segment, 40), DropReason::BadTcpHeader),
    malformed("half a TCP header", |segment| cut(&segment, 50), DropReason::BadTcpHeader),
    malformed("all but a byte of one", |segment| cut(&segment, 59), DropReason::BadTcpHeader),
    malformed("data offset 0", |segment| with(&segment, 52, 0x00), DropReason::BadTcpHeader),
    malformed("data offset 4", |segment| with(&segment, 52, 0x40), DropReason::BadTcpHeader),
    malformed("data offset 15", |segment| with(&segment, 52, 0xf0), DropReason::BadTcpHeader),
    malformed("no flags", |segment| with(&segment, 53, 0x00), DropReason::BadTcpFlags),
    malformed("every flag", |segment| with(&segment, 53, 0xff), DropReason::BadTcpFlags),
    malformed("SYN and FIN", |segment| with(&segment, 53, 0x03), DropReason::BadTcpFlags),
    malformed("SYN and RST", |segment| with(&segment, 53, 0x06), DropReason::BadTcpFlags),
    malformed("hop-by-hop into nothing", |segment| with(&segment, 6, 0), DropReason::BadExtension),
    malformed("stray last fragment", |segment| fragment(&segment, 0x0040), DropReason::FragmentUnknown),
    malformed("stray middle fragment", |segment| fragment(&segment, 0x0041), DropReason::FragmentUnknown),
    malformed("overlapping fragment", |segment| fragment(&segment, 0x0008), DropReason::BadFragment),
    malformed("overlapping middle fragment", |segment| fragment(&segment, 0x0009), DropReason::BadFragment),
    malformed(
        "seven extensions",
        |segment| Segment { extensions: vec![Extension::padded(60, 0); 7], ..segment }.bytes(),
        DropReason::BadExtension,
    ),
    malformed(
        "extension beyond the packet",
        |segment| with(&Segment { extensions: vec![Extension::padded(43, 0)], ..segment }, 41, 0xff),
        DropReason::BadExtension,
    ),
    malformed(
        "half an extension",
        |segment| cut(&Segment { extensions: vec![Extension::padded(0, 0)], ..segment }, 44),
        DropReason::BadExtension,
    ),
    malformed(
        "half a fragment header",
        |segment| cut(&Segment { extensions: vec![Extension::atomic_fragment()], ..segment }, 44),
        DropReason::BadExtension,
    ),
    malformed(
        "tiny first fragment",
        |segment| {
            let mut rest = vec![0; 7];
            rest[2] = 1;
            cut(&Segment { extensions: vec![Extension { kind: 44, rest }], ..segment }, 56)
        },
        DropReason::BadFragment,
    ),
];

/// The frame with a wrong bit.
fn flipped(segment: &Segment, offset: usize) -> Vec<u8> {
    let mut frame = segment.bytes();
    frame[ETHERNET + offset] ^= 0x04;
    frame
}

/// A first fragment that ends within its TCP header.
fn tiny(segment: &Segment) -> Vec<u8> {
    let mut frame = cut(segment, 36);
    frame[20] = 0x20;
    fix_ip_checksum(&mut frame);
    frame
}

/// An IPv6 fragment with these offset and flag bits.
fn fragment(segment: &Segment, bits: u16) -> Vec<u8> {
    let [high, low] = bits.to_be_bytes();
    let rest = vec![0, high, low, 0, 0, 0, 9];
    Segment { extensions: vec![Extension { kind: 44, rest }], payload: vec![0x5a; 64], ..segment.clone() }
        .bytes()
}

fn play(script: &mut Script<'_>, table: &[Malformed]) {
    let mut connection = script.connection(40_000);
    script.handshake(&mut connection);
    let mut segments =
        vec![script.connection(50_000).from_client(SYN, b""), connection.from_client(ACK, b"x")];
    if script.setting.mode == MODE_NAT {
        segments.push(connection.from_backend(ACK, b"y"));
    }
    for Malformed { what, make, reason } in table {
        for segment in &segments {
            println!("{what}: {:#04x}", segment.flags);
            script.drops(&make(segment.clone()), *reason);
        }
    }
}

pub(super) const CASES: &[Case] = &[
    Case::new(
        "malformed IPv4",
        "Each malformed frame, of a new flow, of a known one, of its backend, ends under its name",
        one,
        |script| play(script, V4_TABLE),
    )
    .on(&[Setting::NAT, Setting::L2, Setting::IPIP44, Setting::IPIP46]),
    Case::new(
        "malformed IPv6",
        "Each malformed frame, of a new flow, of a known one, of its backend, ends under its name",
        one,
        |script| play(script, V6_TABLE),
    )
    .on(V6),
    Case::new(
        "truncated IPv6",
        "A legal frame cut at each byte: too short to judge, then dropped, and nothing remembered",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            let mut options = script.connection(50_000).from_client(SYN, b"some data");
            options.extensions = vec![Extension::padded(0, 0), Extension::padded(60, 1)];
            options.tcp_options = vec![0x01; 8];
            for segment in [options, connection.from_client(ACK, b"data")] {
                let frame = segment.bytes();
                for length in 14..frame.len() {
                    if length < 54 {
                        script.passes(&frame[..length], PassReason::TooShort);
                    } else {
                        script.drops(&frame[..length], DropReason::BadIpHeader);
                    }
                }
            }
            script.expect_flows(0, 1);
        },
    )
    .on(V6),
    Case::new(
        "IPv6 sources",
        "A source that nobody can answer to gets neither a flow nor a RST",
        one,
        |script| {
            let bad = [
                Ipv6Addr::UNSPECIFIED,
                Ipv6Addr::LOCALHOST,
                Ipv4Addr::new(172, 16, 0, 100).to_ipv6_mapped(),
                Ipv4Addr::LOCALHOST.to_ipv6_mapped(),
                Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0),
                Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
                Ipv6Addr::new(0xffff, 1, 2, 3, 4, 5, 6, 7),
                VIP6,
                OTHER_VIP6,
            ];
            for source in bad {
                for flags in [SYN, ACK, RST, SYN | ACK] {
                    let connection = script.between(SocketAddr::new(source.into(), 40_000), SERVICE6.into());
                    script.drops(&connection.from_client(flags, b"").bytes(), DropReason::BadSource);
                }
            }
            script.drops(&script.connection(0).from_client(SYN, b"").bytes(), DropReason::BadSource);
            for source in [
                Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
                Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0xac10, 0x64),
            ] {
                let source = SocketAddr::new(source.into(), 40_000);
                script.syn(&mut script.between(source, SERVICE6.into()));
            }
        },
    )
    .on(V6),
    Case::new(
        "flooded",
        "A frame for another host's Ethernet address is passed, whatever is wrong with it",
        one,
        |script| {
            let table = if script.setting.v6 { V6_TABLE } else { V4_TABLE };
            for Malformed { make, .. } in table {
                let mut frame = make(script.connection(40_000).from_client(SYN, b""));
                frame[5] = 0x77;
                script.passes(&frame, PassReason::OtherHost);
            }
        },
    )
    .on(FORWARDING),
];
