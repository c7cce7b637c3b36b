//! Who may open connections, and how many.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::{
    layout::{ALLOWED_SERVICE_BITS, AllowedKey, SERVICE_HAS_ALLOW_LIST},
    reason::{DropReason, TransmitReason, Verdict},
    wire::Be32,
};

use super::{
    Case, Setting,
    settings::{FORWARDING, NAT, one},
};
use crate::{
    frames::{ACK, SYN},
    plane::World,
};

/// The network of the settings' clients.
fn clients(setting: Setting) -> (IpAddr, u32) {
    if setting.v6 {
        (Ipv6Addr::new(0xfd10, 0, 0, 1, 0, 0, 0, 0).into(), 64)
    } else {
        (Ipv4Addr::new(172, 17, 0, 0).into(), 16)
    }
}

fn listed(setting: Setting) -> World {
    let (network, prefix) = clients(setting);
    one(setting).allowing(network, prefix)
}

/// So many new connections per second and source, so many at once.
fn limited(setting: Setting, rate: u32, burst: u32) -> World {
    let mut world = one(setting);
    let service = world.service_mut(setting.service());
    (service.source_rate, service.source_burst) = (rate, burst);
    world
}

/// A source outside of that network.
fn stranger(setting: Setting) -> SocketAddr {
    let address: IpAddr = if setting.v6 {
        Ipv6Addr::new(0xfd10, 0, 0, 2, 0, 0, 0, 1).into()
    } else {
        Ipv4Addr::new(172, 18, 0, 1).into()
    };
    SocketAddr::new(address, 40_000)
}

pub(super) const CASES: &[Case] = &[
    Case::new("allowed", "Who is in the list may connect; who is not may not", listed, |script| {
        script.handshake(&mut script.connection(40_000));
        let outside = script.between(stranger(script.setting), script.setting.service());
        script.drops(&outside.from_client(SYN, b"").bytes(), DropReason::SourceNotAllowed);
    })
    .on(FORWARDING),
    Case::new(
        "nobody allowed",
        "A list without an entry lets nobody in",
        |setting| one(setting).with_flags(SERVICE_HAS_ALLOW_LIST),
        |script| {
            let frame = script.connection(40_000).from_client(SYN, b"").bytes();
            script.drops(&frame, DropReason::SourceNotAllowed);
        },
    )
    .on(NAT),
    Case::new(
        "one address allowed",
        "An entry may be one address, and the one beside it stays outside",
        |setting| one(setting).allowing(setting.client(100), if setting.v6 { 128 } else { 32 }),
        |script| {
            script.handshake(&mut script.of_client(100, 40_000));
            for n in [99, 101] {
                let frame = script.of_client(n, 40_000).from_client(SYN, b"").bytes();
                script.drops(&frame, DropReason::SourceNotAllowed);
            }
        },
    )
    .on(NAT),
    Case::new(
        "everybody allowed",
        "An entry of length zero lets one family in",
        |setting| {
            let any: IpAddr =
                if setting.v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            one(setting).allowing(any, 0)
        },
        |script| {
            script.handshake(&mut script.connection(40_000));
            script.handshake(&mut script.between(stranger(script.setting), script.setting.service()));
        },
    )
    .on(NAT),
    Case::new(
        "another service's list",
        "A list is its service's own",
        |setting| {
            let mut world = one(setting).with_flags(SERVICE_HAS_ALLOW_LIST);
            let source = setting.client(0).into();
            world.tables.allowed.insert((AllowedKey { service: Be32::new(1), source }, ALLOWED_SERVICE_BITS));
            world
        },
        |script| {
            let frame = script.connection(40_000).from_client(SYN, b"").bytes();
            script.drops(&frame, DropReason::SourceNotAllowed);
        },
    )
    .on(NAT),
    Case::new(
        "known flows go on",
        "Who is taken off the list keeps its connections, and opens no more",
        listed,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            script.change(|world| world.tables.allowed.clear());
            script.client(&mut connection, ACK, b"data");
            let frame = script.connection(40_001).from_client(SYN, b"").bytes();
            script.drops(&frame, DropReason::SourceNotAllowed);
        },
    )
    .on(FORWARDING),
    Case::new(
        "not rebuilt",
        "An unknown packet of somebody who is not in the list does not become a flow",
        listed,
        |script| {
            let outside = script.between(stranger(script.setting), script.setting.service());
            script.drops(&outside.from_client(ACK, b"").bytes(), DropReason::SourceNotAllowed);
        },
    )
    .on(super::settings::DIRECT),
    Case::new(
        "burst",
        "A source opens so many connections at once, and then none; another source has as many",
        |setting| limited(setting, 1, 3),
        |script| {
            for n in 0..3 {
                script.syn(&mut script.of_client(1, 40_000 + n));
            }
            let frame = script.of_client(1, 41_000).from_client(SYN, b"").bytes();
            script.drops(&frame, DropReason::SourceRateLimited);
            // An IPv6 source is a /64.
            let other = script.between(stranger(script.setting), script.setting.service());
            script.syn(&mut other.clone());
            assert_eq!(script.notes.sources.len(), 2);
            let neighbour = script.of_client(2, 40_000).from_client(SYN, b"").bytes();
            if script.setting.v6 {
                script.drops(&neighbour, DropReason::SourceRateLimited);
            } else {
                script.syn(&mut script.of_client(2, 40_000));
            }
        },
    )
    .on(FORWARDING),
    Case::new(
        "limit of one",
        "A burst of one is one",
        |setting| limited(setting, 1, 1),
        |script| {
            script.handshake(&mut script.connection(40_000));
            let frame = script.connection(40_001).from_client(SYN, b"").bytes();
            script.drops(&frame, DropReason::SourceRateLimited);
        },
    )
    .on(NAT),
    Case::new(
        "retransmitted",
        "A SYN that is sent again for want of an answer costs nothing",
        |setting| limited(setting, 1, 1),
        |script| {
            let mut connection = script.connection(40_000);
            for _ in 0..4 {
                connection = script.connection(40_000);
                script.syn(&mut connection);
            }
            script.server(&mut connection, SYN | ACK, b"");
            script.client(&mut connection, ACK, b"data");
        },
    )
    .on(FORWARDING),
    Case::new(
        "data costs nothing",
        "Only new connections count, not the packets of those that are there",
        |setting| limited(setting, 1, 1),
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            for _ in 0..10 {
                script.client(&mut connection, ACK, b"data");
                script.server(&mut connection, ACK, b"data");
            }
            script.close(&mut connection);
        },
    )
    .on(NAT),
    Case::new(
        "no backend",
        "While there is no backend, nobody's tokens are taken: the RST costs nothing",
        |setting| {
            let mut world = limited(setting, 1, 1);
            world.service_mut(setting.service()).usable = 0;
            world
        },
        |script| {
            for port in 40_000..40_003 {
                let frame = script.connection(port).from_client(SYN, b"").bytes();
                script.resets(&frame, TransmitReason::ResetNoBackend);
            }
            assert!(script.notes.sources.is_empty());
        },
    )
    .on(NAT),
    Case::new(
        "services apart",
        "Each service has a limit of its own",
        |setting| {
            let mut world = limited(setting, 1, 1);
            let service = world.service_mut(setting.translated());
            (service.source_rate, service.source_burst, service.index) = (1, 1, 1);
            let (ring, members) = (world.tables.rings[&0].clone(), world.tables.members[&0]);
            world.tables.rings.insert(1, ring);
            world.tables.members.insert(1, members);
            world
        },
        |script| {
            script.syn(&mut script.connection(40_000));
            script.syn(&mut script.translated(40_000));
            let frame = script.connection(40_001).from_client(SYN, b"").bytes();
            script.drops(&frame, DropReason::SourceRateLimited);
            let frame = script.translated(40_001).from_client(SYN, b"").bytes();
            script.drops(&frame, DropReason::SourceRateLimited);
            let outcome = script.frame(&script.translated(40_000).from_client(SYN, b"").bytes());
            assert_eq!(outcome.verdict, Verdict::Transmit(TransmitReason::ToBackend));
        },
    )
    .on(NAT),
];
