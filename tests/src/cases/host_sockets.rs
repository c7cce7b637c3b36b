//! Connections that the host has, and a node that only observes. The first need sockets, which on the host are said to be
//! there and in the kernel are made: not in the table of cases, but played by both runners.

use std::net::SocketAddr;

use lb_common::{
    frame::HostSocket,
    layout::{MODE_NAT, NODE_OBSERVES, SERVICE_REBUILDS},
    reason::{DropReason, PassReason, TransmitReason},
};

use super::{
    Case, Script, Setting, Step,
    settings::{EVERY_NAT, FORWARDING, one, three},
};
use crate::{
    frames::{ACK, FIN, PSH, RST, SYN},
    host_tables::HostSockets,
    plane::{Plane, World, flow_key},
};

/// Port of a client that has an open connection with a process on the host, which listens on the service's address.
pub const OPEN: u16 = 41_001;
/// That of one whose SYN the host has answered, and whose ACK it waits for.
pub const OPENING: u16 = 41_002;
/// That of one whose connection is over, and in TIME-WAIT on the host.
pub const OVER: u16 = 41_003;
/// The number of these clients.
pub const CLIENT: u16 = 100;
const STRANGER: u16 = 41_004;

/// What the case is played in.
pub const SETTINGS: &[Setting] = &[Setting::NAT, Setting::NAT6, Setting::L2, Setting::L2_6];

/// What the host has then.
pub fn sockets(setting: Setting) -> HostSockets {
    let key = |port| flow_key(SocketAddr::new(setting.client(CLIENT), port), setting.service());
    [
        (key(OPEN), (HostSocket::Connected, false)),
        (key(OPENING), (HostSocket::Connected, true)),
        (key(OVER), (HostSocket::Connected, false)),
        (key(STRANGER), (HostSocket::Listening, false)),
    ]
    .into()
}

/// Plays the case on a plane whose host has [`sockets`], and returns what happened.
///
/// # Panics
/// Where the host does not get what is its own, or gets more.
pub fn beside_a_proxy(plane: &mut dyn Plane, setting: Setting) -> Vec<Step> {
    let world = one(setting);
    plane.reset(&world);
    let mut script = Script::new(plane, world, setting);
    meet(&mut script);
    script.into_transcript()
}

fn meet(script: &mut Script<'_>) {
    let setting = script.setting;
    for port in [OPEN, OPENING, OVER] {
        let connection = script.of_client(CLIENT, port);
        for flags in [ACK, PSH | ACK, FIN | ACK, RST, RST | ACK, SYN | ACK] {
            script.passes(&connection.from_client(flags, b"data").bytes(), PassReason::HostSocket);
        }
    }

    // Nobody's: as if there were no proxy.
    let stranger = script.of_client(CLIENT, STRANGER);
    if setting.mode == MODE_NAT {
        script.resets(&stranger.from_client(ACK, b"data").bytes(), TransmitReason::ResetUnknownFlow);
        script.drops(&stranger.from_client(RST, b"").bytes(), DropReason::UnknownFlow);
    }
    script.handshake(&mut script.of_client(CLIENT, STRANGER));
    let mut reused = script.of_client(CLIENT, OVER);
    script.handshake(&mut reused);
    script.client(&mut reused, PSH | ACK, b"of the new connection");

    // A SYN that comes again is no new one while this node may have begun to forward just now.
    let again = script.of_client(CLIENT, OPENING).from_client(SYN, b"").bytes();
    script.change(|world| world.service_mut(setting.service()).flags |= SERVICE_REBUILDS);
    script.passes(&again, PassReason::HostSocket);
    script.syn(&mut script.of_client(CLIENT, OPEN));
    script.change(|world| world.service_mut(setting.service()).flags = 0);
    script.syn(&mut script.of_client(CLIENT, OPENING));
}

fn observing(setting: Setting) -> World {
    let mut world = three(setting);
    world.node.flags |= NODE_OBSERVES;
    world
}

pub(super) const CASES: &[Case] = &[
    Case::new(
        "observed",
        "A node that only observes counts which backend a SYN would go to, passes it, and remembers nothing",
        observing,
        |script| {
            for port in 40_000..40_032 {
                let mut connection = script.connection(port);
                script.passes(&connection.from_client(SYN, b"").bytes(), PassReason::Observed);
                connection.client_seq = connection.client_seq.wrapping_add(1);
                for flags in [ACK, PSH | ACK, FIN | ACK, RST, SYN | FIN, 0] {
                    script.passes(&connection.from_client(flags, b"data").bytes(), PassReason::Observed);
                }
            }
            script.expect_flows(0, 0);
            let opened: Vec<u64> = (0..3).map(|id| script.counters(id).opened).collect();
            assert_eq!(opened.iter().sum::<u64>(), 32, "{opened:?}");
            assert!(opened.iter().all(|opened| *opened > 0), "{opened:?}");
            assert!(script.notes.loads.iter().all(|load| (load.active, load.pending) == (0, 0)));
        },
    )
    .on(FORWARDING),
    Case::new(
        "observed without a backend",
        "What would be answered or dropped passes, too",
        |setting| {
            let mut world = observing(setting);
            world.service_mut(setting.service()).usable = 0;
            world
        },
        |script| {
            let connection = script.connection(40_000);
            script.passes(&connection.from_client(SYN, b"").bytes(), PassReason::Observed);
            let mut frame = connection.from_client(SYN, b"").bytes();
            let data_offset = if script.setting.v6 { 14 + 40 + 12 } else { 14 + 20 + 12 };
            frame[data_offset] = 0x10;
            script.passes(&frame, PassReason::Observed);
            assert_eq!((0..3).map(|id| script.counters(id).opened).sum::<u64>(), 0);
            let other = SocketAddr::new(script.setting.service().ip(), 22);
            let other = script.between(SocketAddr::new(script.setting.client(1), 40_000), other);
            script.passes(&other.from_client(SYN, b"").bytes(), PassReason::NoService);
        },
    ),
    Case::new(
        "observed from now on",
        "Flows that the node had before it only observes go on to their end",
        three,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            script.change(|world| world.node.flags |= NODE_OBSERVES);
            script.client(&mut connection, PSH | ACK, b"more");
            script.server(&mut connection, PSH | ACK, b"of it");
            script.close(&mut connection);
            script.passes(&script.connection(40_001).from_client(SYN, b"").bytes(), PassReason::Observed);
        },
    )
    .on(EVERY_NAT),
];
