//! Shares: where new flows go while a rebalance or a slow start leads them, and that nobody is ever turned away for it.

use std::sync::Arc;

use lb_common::{
    hash::MAGLEV_SLOTS,
    layout::{
        BALANCE_LEAST_CONNECTIONS, BALANCE_MAGLEV, BALANCE_ROUND_ROBIN, MODE_NAT, SERVICE_HAS_LIMITS,
        SERVICE_HAS_SHARES,
    },
    reason::TransmitReason,
};

use super::{
    Case, Script, Setting,
    settings::{DIRECT, FORWARDING, NAT, three},
};
use crate::{
    frames::{ACK, PSH, SYN},
    plane::{BACKENDS, START, World},
};

/// Each backend has that share, and takes so many new flows in a tick; 0 is no limit.
fn shared(setting: Setting, balance: u8, shares: [u32; 3], new_per_tick: [u32; 3]) -> World {
    let mut world = three(setting).with_balance(balance).with_flags(SERVICE_HAS_SHARES);
    if balance == BALANCE_ROUND_ROBIN {
        let mut slots = [0; MAGLEV_SLOTS];
        slots.iter_mut().zip((0..BACKENDS).cycle()).for_each(|(slot, id)| *slot = id);
        world.tables.rings.insert(0, Arc::new(slots));
        world.tables.services.values_mut().for_each(|service| service.turns = BACKENDS.into());
    }
    for (id, (share, new)) in (0..).zip(shares.into_iter().zip(new_per_tick)) {
        let backend = world.backend_mut(id);
        (backend.share, backend.new_per_tick) = (share, new);
    }
    world
}

/// Opens that many connections, from this port on. Returns how many each backend got.
fn handshakes(script: &mut Script<'_>, first: u16, count: u16) -> [u16; 3] {
    let mut got = [0; 3];
    for port in first..first + count {
        let mut connection = script.connection(port);
        script.handshake(&mut connection);
        got[usize::from(connection.backend)] += 1;
    }
    got
}

const EVERY_BALANCE: [u8; 3] = [BALANCE_MAGLEV, BALANCE_ROUND_ROBIN, BALANCE_LEAST_CONNECTIONS];

/// The same for each balance: the world is changed before the first frame.
fn with_each_balance(script: &mut Script<'_>, play: impl Fn(&mut Script<'_>, u16)) {
    for (balance, first) in EVERY_BALANCE.into_iter().zip([40_000, 42_000, 44_000]) {
        let setting = script.setting;
        script.change(|world| {
            let [shares, new] = [
                [0, 1, 2].map(|id| world.tables.backends[&id].share),
                [0, 1, 2].map(|id| world.tables.backends[&id].new_per_tick),
            ];
            let clock = world.clock + 10;
            *world = World { clock, ..shared(setting, balance, shares, new) };
        });
        play(script, first);
    }
}

pub(super) const CASES: &[Case] = &[
    Case::new(
        "others have room",
        "A backend that has its share gets no more flows while another has less than its own",
        |setting| shared(setting, BALANCE_MAGLEV, [2, 100, 100], [0; 3]),
        |script| {
            let got = handshakes(script, 40_000, 30);
            assert_eq!(got[0], 2);
            assert!(got[1] > 5 && got[2] > 5, "{got:?}");
            assert_eq!(script.counters(0).full, 0, "it is not full");
        },
    )
    .on(FORWARDING),
    Case::new(
        "to where there is room, taking turns",
        "So where backends take turns",
        |setting| shared(setting, BALANCE_ROUND_ROBIN, [1, 2, 100], [0; 3]),
        |script| assert_eq!(handshakes(script, 40_000, 30), [1, 2, 27]),
    )
    .on(NAT),
    Case::new(
        "to where there is room, fewest connections",
        "And where the one with the fewest connections is looked for, though it has them",
        |setting| shared(setting, BALANCE_LEAST_CONNECTIONS, [1, 2, 100], [0; 3]),
        |script| assert_eq!(handshakes(script, 40_000, 30), [1, 2, 27]),
    )
    .on(NAT),
    Case::new(
        "nobody is turned away",
        "Where each has its share, flows go where they would have gone without",
        |setting| shared(setting, BALANCE_MAGLEV, [1, 1, 1], [0; 3]),
        |script| {
            handshakes(script, 30_000, 20);
            let wanted: Vec<_> = (40_000..40_020)
                .map(|port| {
                    let mut connection = script.connection(port);
                    script.syn(&mut connection);
                    connection.backend
                })
                .collect();
            script.at(START + 100);
            script.change(|world| {
                world.tables.services.values_mut().for_each(|service| service.flags = 0);
            });
            for (port, wanted) in (40_000..40_020).zip(wanted) {
                let mut connection = script.connection(port);
                script.syn(&mut connection);
                assert_eq!(connection.backend, wanted, "as without shares");
            }
        },
    )
    .on(FORWARDING),
    Case::new(
        "nobody is turned away, taking turns",
        "So where backends take turns",
        |setting| shared(setting, BALANCE_ROUND_ROBIN, [1, 1, 1], [0; 3]),
        |script| assert_eq!(handshakes(script, 40_000, 12), [4, 4, 4]),
    )
    .on(NAT),
    Case::new(
        "nobody is turned away, fewest connections",
        "And where the one with the fewest connections is looked for",
        |setting| shared(setting, BALANCE_LEAST_CONNECTIONS, [1, 1, 1], [0; 3]),
        |script| assert_eq!(handshakes(script, 40_000, 12), [4, 4, 4]),
    )
    .on(NAT),
    Case::new(
        "so many in a tick",
        "A backend takes so many new flows in a tick of the flow clock, its own and others', and so many in the next",
        |setting| shared(setting, BALANCE_MAGLEV, [0; 3], [2, 0, 0]),
        |script| {
            with_each_balance(script, |script, first| {
                for round in 0..3 {
                    let got = handshakes(script, first + round * 30, 30);
                    assert_eq!(got[0], 2, "round {round}");
                    let clock = script.world.clock;
                    script.at(clock + 1);
                }
            });
        },
    )
    .on(NAT),
    Case::new(
        "nobody may have more in a tick",
        "Where each has had its flows of the tick, the rest goes where it would have gone without",
        |setting| shared(setting, BALANCE_MAGLEV, [0; 3], [1, 1, 1]),
        |script| {
            with_each_balance(script, |script, first| {
                let got = handshakes(script, first, 30);
                assert_eq!(got.iter().sum::<u16>(), 30);
                assert!(got.iter().all(|&got| got >= 4), "{got:?}");
            });
        },
    )
    .on(NAT),
    Case::new(
        "limits count more",
        "A backend without room gets nothing, shares or not; where nobody has room, that is said",
        |setting| {
            let mut world = shared(setting, BALANCE_MAGLEV, [1, 1, 1], [0; 3]).with_flags(SERVICE_HAS_LIMITS);
            (0..BACKENDS).for_each(|id| world.backend_mut(id).max_connections = 2);
            world
        },
        |script| {
            assert_eq!(handshakes(script, 40_000, 6), [2, 2, 2]);
            let frame = script.connection(41_000).from_client(SYN, b"").bytes();
            script.resets(&frame, TransmitReason::ResetAllFull);
        },
    )
    .on(FORWARDING),
    Case::new(
        "retransmissions",
        "A SYN that was left unanswered finds somebody, too",
        |setting| shared(setting, BALANCE_MAGLEV, [1, 1, 1], [1, 1, 1]),
        |script| {
            for _ in 0..12 {
                script.syn(&mut script.connection(40_000));
            }
        },
    )
    .on(NAT),
    Case::new(
        "known flows stay",
        "Flows that are known, or rebuilt, stay where they are, however little their backend's share",
        |setting| shared(setting, BALANCE_MAGLEV, [1, 1, 1], [1, 1, 1]),
        |script| {
            for port in 40_000..40_012 {
                let mut connection = script.connection(port);
                let flags = script.world.service(connection.service).expect("the service").flags;
                script.change(|world| {
                    world.tables.services.values_mut().for_each(|service| service.flags = 0);
                });
                let mut without = script.connection(port);
                script.syn(&mut without);
                script.client(&mut without, lb_common::wire::TCP_RST, b"");
                script.change(|world| {
                    world.tables.services.values_mut().for_each(|service| service.flags = flags);
                });
                let frame = connection.from_client(ACK | PSH, b"in the middle").bytes();
                script.open(&mut connection, &frame);
                assert_eq!(connection.backend, without.backend);
                assert_ne!(script.setting.mode, MODE_NAT);
                connection.client_seq = connection.client_seq.wrapping_add(13);
                script.client(&mut connection, ACK, b"on it goes");
            }
        },
    )
    .on(DIRECT),
];
