//! The RST that answers for a service without a backend: exact numbers, no leak, never longer than what it answers.

use lb_common::reason::{DropReason, TransmitReason};

use super::{
    Case, Setting,
    settings::{FORWARDING, one},
};
use crate::{
    frames::{ACK, FIN, PSH, RST, SYN},
    plane::World,
};

fn no_backend(setting: Setting) -> World {
    let mut world = one(setting);
    world.service_mut(setting.service()).usable = 0;
    world
}

pub(super) const CASES: &[Case] = &[
    Case::new(
        "no backend",
        "With no backend a SYN gets RST and ACK at once: seq 0, ack one more (RFC 9293 §3.10.7.1)",
        no_backend,
        |script| {
            let mut connection = script.connection(40_000);
            for seq in [0, 1, 0x7fff_ffff, u32::MAX - 1, u32::MAX] {
                connection.client_seq = seq;
                let frame = connection.from_client(SYN, b"").bytes();
                script.resets(&frame, TransmitReason::ResetNoBackend);
            }
            script.expect_flows(0, 0);
            assert_eq!(script.counters(0).opened, 0);
            script.handshake(&mut script.translated(40_000));
        },
    )
    .on(FORWARDING),
    Case::new(
        "syn with data",
        "The RST for a SYN with data acknowledges SYN and data, and has none itself",
        no_backend,
        |script| {
            let frame = script.connection(40_000).from_client(SYN, b"early data").bytes();
            script.resets(&frame, TransmitReason::ResetNoBackend);
        },
    ),
    Case::new(
        "with an ack",
        "With no backend other segments get a RST from their ACK",
        no_backend,
        |script| {
            for flags in [ACK, ACK | PSH, SYN | ACK, FIN | ACK] {
                let frame = script.connection(40_000).from_client(flags, b"data").bytes();
                script.resets(&frame, TransmitReason::ResetUnknownFlow);
            }
            let rst = script.connection(40_000).from_client(RST, b"").bytes();
            script.drops(&rst, DropReason::UnknownFlow);
        },
    ),
    Case::new(
        "lengths",
        "Frames of every length around Ethernet's minimum: 60 bytes where there were so many, else 54; the client's \
         bytes do not come back",
        no_backend,
        |script| {
            for padding in 0..16usize {
                let mut segment = script.connection(40_000).from_client(SYN, b"");
                segment.padding = vec![0xa5; padding];
                script.resets(&segment.bytes(), TransmitReason::ResetNoBackend);
                let payload = vec![0xa5; padding];
                let frame = script.connection(40_000).from_client(SYN, &payload).bytes();
                script.resets(&frame, TransmitReason::ResetNoBackend);
            }
        },
    )
    .on(FORWARDING),
    Case::new(
        "options",
        "IP and TCP options of the segment do not come back, nor shift what does",
        no_backend,
        |script| {
            for words in 0..=10u8 {
                let mut segment = script.connection(40_000).from_client(SYN, b"data");
                segment.ip_options = vec![0xa5; usize::from(words) * 4];
                segment.tcp_options = vec![0x5a; usize::from(10 - words) * 4];
                script.resets(&segment.bytes(), TransmitReason::ResetNoBackend);
            }
        },
    ),
    Case::new(
        "translated service",
        "The RST comes from the port that the client connected to",
        |setting| {
            let mut world = one(setting);
            world.service_mut(setting.translated()).usable = 0;
            world
        },
        |script| {
            let connection = script.translated(40_000);
            script.resets(&connection.from_client(SYN, b"").bytes(), TransmitReason::ResetNoBackend);
        },
    ),
];
