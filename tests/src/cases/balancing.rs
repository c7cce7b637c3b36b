//! Which backend a new flow goes to, and what is known of how busy each is.

use std::sync::Arc;

use lb_common::{
    hash::MAGLEV_SLOTS,
    layout::{
        BALANCE_LEAST_CONNECTIONS, BALANCE_ROUND_ROBIN, BackendId, Hop, MODE_NAT, SERVICE_DROPS_WHEN_FULL,
        SERVICE_HAS_LIMITS,
    },
    reason::{DropReason, TransmitReason},
    tables::Level,
};

use super::{
    Case, Connection, Script, Setting,
    settings::{FORWARDING, NAT, one, three},
};
use crate::{
    frames::{ACK, FIN, PSH, RST, SYN},
    plane::{BACKENDS, HALF_OPEN_TIMEOUT, IDLE_TIMEOUT, START, World},
};

/// Backends take turns in this order.
fn turns(setting: Setting, order: &[BackendId]) -> World {
    let mut world = three(setting).with_balance(BALANCE_ROUND_ROBIN);
    let mut slots = [0; MAGLEV_SLOTS];
    slots.iter_mut().zip(order.iter().cycle()).for_each(|(slot, &id)| *slot = id);
    world.tables.rings.insert(0, Arc::new(slots));
    world.tables.services.values_mut().for_each(|service| service.turns = order.len() as u32);
    world
}

/// The backend with the fewest connections for its weight.
fn fewest(setting: Setting, weights: [u16; 3]) -> World {
    let mut world = three(setting).with_balance(BALANCE_LEAST_CONNECTIONS);
    for (id, weight) in (0..).zip(weights) {
        world.backend_mut(id).weight = weight;
    }
    world
}

/// Each backend may have so many connections.
fn limited(world: World, limits: [u32; 3]) -> World {
    let mut world = world.with_flags(SERVICE_HAS_LIMITS);
    for (id, limit) in (0..).zip(limits) {
        world.backend_mut(id).max_connections = limit;
    }
    world
}

/// Opens that many connections, from this port on. Returns them.
fn handshakes(script: &mut Script<'_>, first: u16, count: u16) -> Vec<Connection> {
    (first..first + count)
        .map(|port| {
            let mut connection = script.connection(port);
            script.handshake(&mut connection);
            connection
        })
        .collect()
}

fn backends(connections: &[Connection]) -> Vec<BackendId> {
    connections.iter().map(|connection| connection.backend).collect()
}

/// How many of them each backend has.
fn shares(connections: &[Connection]) -> [usize; 3] {
    [0, 1, 2].map(|id| connections.iter().filter(|connection| connection.backend == id).count())
}

fn active(script: &Script<'_>) -> [i64; 3] {
    [0, 1, 2].map(|id| script.load(id).active)
}

fn full(script: &Script<'_>) -> u64 {
    (0..BACKENDS).map(|id| script.counters(id).full).sum()
}

pub(super) const CASES: &[Case] = &[
    Case::new(
        "turns",
        "Backends take turns in the order of the table, over and over",
        |setting| turns(setting, &[0, 1, 2]),
        |script| {
            let connections = handshakes(script, 40_000, 7);
            assert_eq!(backends(&connections), [0, 1, 2, 0, 1, 2, 0]);
        },
    )
    .on(FORWARDING),
    Case::new(
        "weighted turns",
        "A backend with more weight has more turns",
        |setting| turns(setting, &[0, 1, 0, 2]),
        |script| {
            let connections = handshakes(script, 40_000, 8);
            assert_eq!(backends(&connections), [0, 1, 0, 2, 0, 1, 0, 2]);
        },
    )
    .on(NAT),
    Case::new(
        "turn of a retransmission",
        "A SYN that was left unanswered takes another turn",
        |setting| turns(setting, &[0, 1, 2]),
        |script| {
            for expected in [0, 1, 2, 0] {
                let mut connection = script.connection(40_000);
                script.syn(&mut connection);
                assert_eq!(connection.backend, expected);
            }
        },
    )
    .on(NAT),
    Case::new(
        "turn of a full one",
        "Whoever is full misses its turn",
        |setting| limited(turns(setting, &[0, 1, 2]), [1, 0, 0]),
        |script| {
            let connections = handshakes(script, 40_000, 6);
            assert_eq!(backends(&connections)[..3], [0, 1, 2]);
            assert_eq!(shares(&connections)[0], 1);
            assert_eq!(script.counters(0).full, 1, "its turn came once more");
        },
    )
    .on(FORWARDING),
    Case::new(
        "fewest connections",
        "Each new connection goes where the fewest are",
        |setting| fewest(setting, [1, 1, 1]),
        |script| {
            for round in 1..=4 {
                handshakes(script, 40_000 + round * 10, 3);
                assert_eq!(active(script), [i64::from(round); 3]);
            }
        },
    )
    .on(FORWARDING),
    Case::new(
        "fewest for their weight",
        "Connections are in proportion to the weights; no weight is no connection",
        |setting| fewest(setting, [3, 1, 0]),
        |script| {
            let connections = handshakes(script, 40_000, 16);
            assert_eq!(shares(&connections), [12, 4, 0]);
        },
    )
    .on(NAT),
    Case::new(
        "fewest after some have ended",
        "Who has lost connections gets the next ones",
        |setting| fewest(setting, [1, 1, 1]),
        |script| {
            let mut connections = handshakes(script, 40_000, 9);
            for connection in connections.iter_mut().filter(|connection| connection.backend == 1) {
                script.close(connection);
            }
            assert_eq!(active(script), [3, 0, 3]);
            assert_eq!(shares(&handshakes(script, 41_000, 3)), [0, 3, 0]);
        },
    )
    .on(FORWARDING),
    Case::new(
        "handshakes count",
        "A handshake that is not completed counts as a connection, for two seconds",
        |setting| fewest(setting, [1, 1, 1]),
        |script| {
            let mut opened = vec![];
            for port in 40_000..40_003 {
                let mut connection = script.connection(port);
                script.syn(&mut connection);
                opened.push(connection);
            }
            assert_eq!(shares(&opened), [1, 1, 1]);
            script.at(START + 1);
            assert_eq!(shares(&handshakes(script, 41_000, 3)), [1, 1, 1]);
        },
    )
    .on(NAT),
    Case::new(
        "unanswered, fewest connections",
        "A SYN that was left unanswered goes elsewhere: the fewest connections would lead it there again",
        |setting| fewest(setting, [1, 1, 1]),
        |script| {
            let mut tried = [false; 3];
            for _ in 0..16 {
                let mut connection = script.connection(40_000);
                script.syn(&mut connection);
                tried[usize::from(connection.backend)] = true;
            }
            assert_eq!(tried, [true; 3]);
        },
    )
    .on(NAT),
    Case::new(
        "full",
        "Flows of a full backend go to others, evenly, and are counted for it",
        |setting| limited(three(setting), [2, 0, 0]),
        |script| {
            let connections = handshakes(script, 40_000, 60);
            let [first, second, third] = shares(&connections);
            assert_eq!(first, 2);
            assert!(second.abs_diff(third) < 20, "{second} {third}");
            assert!(script.counters(0).full > 3, "{}", script.counters(0).full);
            assert_eq!(full(script), script.counters(0).full, "nobody else is full");
        },
    )
    .on(FORWARDING),
    Case::new(
        "handshakes fill",
        "Handshakes that are not completed fill a backend for two seconds, unless there is a flood of them",
        |setting| limited(one_limited(setting), [2, 0, 0]),
        |script| {
            script.syn(&mut script.connection(40_000));
            script.syn(&mut script.connection(40_001));
            let third = script.connection(40_002).from_client(SYN, b"").bytes();
            script.resets(&third, TransmitReason::ResetAllFull);
            script.at(START + 1);
            script.resets(&third, TransmitReason::ResetAllFull);
            script.at(START + 2);
            script.syn(&mut script.connection(40_002));
        },
    )
    .on(FORWARDING),
    Case::new(
        "room again",
        "Where a connection has ended, there is room for another",
        |setting| limited(one_limited(setting), [1, 0, 0]),
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            let other = script.connection(40_001).from_client(SYN, b"").bytes();
            script.resets(&other, TransmitReason::ResetAllFull);
            script.client(&mut connection, ACK | PSH, b"unharmed");
            script.close(&mut connection);
            script.handshake(&mut script.connection(40_001));
        },
    )
    .on(FORWARDING),
    Case::new(
        "room after a refusal",
        "A backend that refuses has the room back at once",
        |setting| limited(one_limited(setting), [1, 0, 0]),
        |script| {
            let mut connection = script.connection(40_000);
            script.syn(&mut connection);
            script.server(&mut connection, RST | ACK, b"");
            script.handshake(&mut script.connection(40_001));
        },
    )
    .on(NAT),
    Case::new(
        "all full",
        "Where every backend is full, a SYN gets a RST, and known flows go on",
        |setting| limited(three(setting), [1, 1, 1]),
        |script| {
            let mut connections = handshakes(script, 40_000, 3);
            assert_eq!(shares(&connections), [1, 1, 1]);
            let frame = script.connection(41_000).from_client(SYN, b"").bytes();
            script.resets(&frame, TransmitReason::ResetAllFull);
            for connection in &mut connections {
                script.client(connection, ACK, b"data");
            }
        },
    )
    .on(FORWARDING),
    Case::new(
        "all full, and dropped",
        "Or it is dropped, where the service says so: the client tries again",
        |setting| limited(three(setting), [1, 1, 1]).with_flags(SERVICE_DROPS_WHEN_FULL),
        |script| {
            handshakes(script, 40_000, 3);
            let frame = script.connection(41_000).from_client(SYN, b"").bytes();
            script.drops(&frame, DropReason::AllBackendsFull);
        },
    )
    .on(FORWARDING),
    Case::new(
        "all full, fewest connections",
        "The same where the fewest connections are looked for",
        |setting| limited(fewest(setting, [1, 1, 1]), [1, 2, 3]),
        |script| {
            let connections = handshakes(script, 40_000, 6);
            assert_eq!(shares(&connections), [1, 2, 3]);
            let frame = script.connection(41_000).from_client(SYN, b"").bytes();
            script.resets(&frame, TransmitReason::ResetAllFull);
        },
    )
    .on(NAT),
    Case::new(
        "all full, taking turns",
        "And where backends take turns",
        |setting| limited(turns(setting, &[0, 1, 2]), [1, 2, 3]),
        |script| {
            let connections = handshakes(script, 40_000, 6);
            assert_eq!(shares(&connections), [1, 2, 3]);
            let frame = script.connection(41_000).from_client(SYN, b"").bytes();
            script.resets(&frame, TransmitReason::ResetAllFull);
        },
    )
    .on(NAT),
    Case::new(
        "load of a life",
        "A connection counts from its handshake to its end, whichever side ends it",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.syn(&mut connection);
            assert_eq!((script.load(0).active, script.load(0).pending), (0, 1));
            script.server(&mut connection, SYN | ACK, b"");
            assert_eq!((script.load(0).active, script.load(0).pending), (0, 1));
            script.client(&mut connection, ACK, b"");
            assert_eq!((script.load(0).active, script.load(0).pending), (1, 0));
            script.server(&mut connection, FIN | ACK, b"");
            assert_eq!(script.load(0).active, 1, "half-closed");
            script.client(&mut connection, FIN | ACK, b"");
            assert_eq!(script.load(0).active, 0);
            script.client(&mut connection.clone(), ACK, b"");
            script.server(&mut connection.clone(), FIN | ACK, b"");
            assert_eq!(script.load(0).active, 0, "only once");
        },
    )
    .on(NAT),
    Case::new(
        "load after resets",
        "A RST from either side ends it; if its sender goes on, it was forged, and the connection counts again",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            script.client(&mut connection.clone(), RST, b"");
            assert_eq!(script.load(0).active, 0);
            script.server(&mut connection.clone(), RST, b"");
            assert_eq!(script.load(0).active, 0, "only once");
            script.client(&mut connection, ACK, b"I am here");
            assert_eq!(script.load(0).active, 0, "the backend's RST stands");
            script.server(&mut connection, ACK, b"so am I");
            assert_eq!(script.load(0).active, 1);
            script.handshake(&mut script.connection(40_001));
            assert_eq!(script.load(0).active, 2);
        },
    )
    .on(NAT),
    Case::new(
        "load of forgotten flows",
        "Flows that went idle or were taken over are counted off, once",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            script.at(START + IDLE_TIMEOUT + 1);
            script.syn(&mut script.connection(40_000));
            assert_eq!(script.load(0).active, 0);
            assert_eq!(script.counters(0).removed.expired, 1);
        },
    )
    .on(FORWARDING),
    Case::new(
        "load of half-open flows",
        "A handshake that was given up, or took too long, does not count",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.syn(&mut connection);
            script.client(&mut connection, RST, b"");
            assert_eq!((script.load(0).active, script.load(0).pending), (0, 0));
            script.syn(&mut script.connection(40_001));
            script.at(START + HALF_OPEN_TIMEOUT + 1);
            script.syn(&mut script.connection(40_001));
            assert_eq!((script.load(0).active, script.load(0).pending), (0, 1));
        },
    )
    .on(FORWARDING),
    Case::new(
        "removed with its counts",
        "What a removed flow had carried is added to its backend's counters",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            script.client(&mut connection, ACK, b"12345");
            script.server(&mut connection, ACK, b"123");
            script.close(&mut connection);
            let established = script.flows.level(Level::Established).clone();
            let seen = established[&connection.client_key()].seen;
            script.syn(&mut script.connection(40_000));
            let removed = script.counters(0).removed;
            assert_eq!((removed.closed, removed.packets_in, removed.bytes_in), (1, seen.packets, seen.bytes));
            if script.setting.mode == MODE_NAT {
                let seen = established[&script.backend_key(&connection)].seen;
                assert_eq!((removed.packets_out, removed.bytes_out), (seen.packets, seen.bytes));
            }
        },
    )
    .on(FORWARDING),
    Case::new(
        "unreachable",
        "A backend whose next hop is unknown is counted, and its flows wait for it",
        three,
        |script| {
            script.change(|world| (0..BACKENDS).for_each(|id| world.backend_mut(id).hop = Hop::NONE));
            let frame = script.connection(40_000).from_client(SYN, b"").bytes();
            script.drops(&frame, DropReason::NextHopUnknown);
            let unresolved: u64 = (0..BACKENDS).map(|id| script.counters(id).unresolved).sum();
            assert_eq!(unresolved, 1);
        },
    )
    .on(FORWARDING),
    Case::new(
        "many are no flood",
        "A hundred SYNs within a second are no flood: a backend that handshakes have filled stays full",
        |setting| limited(one_limited(setting), [2, 0, 0]),
        |script| {
            script.syn(&mut script.connection(40_000));
            script.syn(&mut script.connection(40_001));
            for n in 0..100 {
                let frame = script.of_client(n, 41_000).from_client(SYN, b"").bytes();
                script.resets(&frame, TransmitReason::ResetAllFull);
            }
            assert_eq!(script.load(0).asked, 102, "each asks once");
        },
    )
    .on(NAT),
];

/// Three backends in the maps, of which only the first can be chosen.
fn one_limited(setting: Setting) -> World {
    let mut world = three(setting);
    let only = one(setting);
    world.tables.rings = only.tables.rings;
    world.tables.members = only.tables.members;
    world
}
