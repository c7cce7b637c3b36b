//! Direct server return, and the node itself as a backend: replies are not seen here.

use lb_common::{
    layout::{
        BALANCE_LEAST_CONNECTIONS, BALANCE_ROUND_ROBIN, HOP_KEEPS_TAGS, MODE_LOCAL, MODE_NAT, SEEN_FIN,
    },
    reason::{DropReason, PassReason, TransmitReason, Verdict},
    tables::Level,
};

use super::{
    Case, Script, Setting,
    settings::{DIRECT, FORWARDING, LOCAL, one, three},
};
use crate::{
    frames::{ACK, FIN, PSH, RST, SYN},
    plane::{BACKENDS, IDLE_TIMEOUT, OTHER_ROUTER_MAC, START, World, backend_mac},
};

/// Direct server return and the node itself.
const UNSEEN: &[Setting] = &[
    Setting::L2,
    Setting::L2_6,
    Setting::IPIP44,
    Setting::IPIP46,
    Setting::IPIP66,
    Setting::IPIP64,
    Setting::LOCAL,
    Setting::LOCAL6,
];

/// How many connections each backend is thought to have, and how many handshakes.
fn loads(script: &Script<'_>) -> Vec<(i64, i64)> {
    (0..BACKENDS).map(|id| (script.load(id).active, script.load(id).pending)).collect()
}

pub(super) const CASES: &[Case] = &[
    Case::new(
        "second packet",
        "Where the backend's answer is not seen, the client's second packet shows that there was one",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.syn(&mut connection);
            script.expect_flows(1, 0);
            assert_eq!(loads(script)[0], (0, 1));
            connection.backend_seq = connection.backend_seq.wrapping_add(1);
            script.client(&mut connection, ACK, b"");
            script.expect_flows(0, 1);
            assert_eq!(loads(script)[0], (1, 0));
            assert_eq!((script.counters(0).opened, script.counters(0).established), (1, 1));
        },
    )
    .on(UNSEEN),
    Case::new(
        "syn again",
        "A retransmitted SYN goes where every node would send it, and completes nothing",
        three,
        |script| {
            let mut first = script.connection(40_000);
            script.syn(&mut first);
            for _ in 0..4 {
                let mut again = script.connection(40_000);
                script.syn(&mut again);
                assert_eq!(again.backend, first.backend);
            }
            assert_eq!(script.counters(first.backend).unanswered, 4);
            assert_eq!(script.counters(first.backend).opened, 1);
            script.client(&mut first, ACK, b"");
            script.expect_level(&first, Level::Established);
        },
    )
    .on(UNSEEN),
    Case::new(
        "given up half-open",
        "A RST before anything else ends the flow, and takes nothing from its backend's load but the handshake",
        one,
        |script| {
            script.handshake(&mut script.connection(40_000));
            let mut other = script.connection(40_001);
            script.syn(&mut other);
            assert_eq!(loads(script)[0], (1, 1));
            script.client(&mut other, RST, b"");
            script.expect_gone(&other);
            assert_eq!(loads(script)[0], (1, 0));
        },
    )
    .on(UNSEEN),
    Case::new(
        "rebuilt",
        "A packet of no flow goes to the backend that the table has for it: another node may have opened it",
        three,
        |script| {
            for port in 40_000..40_008 {
                let mut before = script.connection(port);
                script.syn(&mut before);
                script.client(&mut before, RST, b"");
                script.expect_gone(&before);
                let opened = script.counters(before.backend).opened;
                let mut after = script.connection(port);
                let frame = after.from_client(ACK | PSH, b"in the middle").bytes();
                script.open(&mut after, &frame);
                assert_eq!(after.backend, before.backend);
                assert_eq!(script.counters(after.backend).opened, opened, "nothing was opened");
                after.client_seq = after.client_seq.wrapping_add(13);
                script.client(&mut after, ACK, b"on it goes");
                script.expect_level(&after, Level::Established);
            }
        },
    )
    .on(DIRECT),
    Case::new(
        "rebuilt beside a handshake",
        "A rebuilt flow completes no handshake but its own",
        one,
        |script| {
            script.syn(&mut script.connection(40_000));
            assert_eq!(loads(script)[0], (0, 1));
            let mut rebuilt = script.connection(40_001);
            let frame = rebuilt.from_client(ACK, b"").bytes();
            script.open(&mut rebuilt, &frame);
            script.client(&mut rebuilt, ACK, b"");
            script.expect_level(&rebuilt, Level::Established);
            assert_eq!(loads(script)[0], (1, 1), "the handshake is still to be completed");
            let mut unknown = script.connection(40_002);
            script.client(&mut unknown, RST, b"");
            assert_eq!(loads(script)[0], (1, 1));
        },
    )
    .on(DIRECT),
    Case::new(
        "rebuilt by a fin",
        "The last packets of an unknown flow reach its backend as well",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.client(&mut connection, FIN | ACK, b"");
            script.client(&mut connection, ACK, b"");
            assert_eq!(script.flows.established[&connection.client_key()].seen.flags & SEEN_FIN, SEEN_FIN);
            script.handshake(&mut script.connection(40_000));
        },
    )
    .on(DIRECT),
    Case::new(
        "unknown rst",
        "A RST of no flow reaches the backend that the table has for it, and leaves nothing behind",
        three,
        |script| {
            let mut connection = script.connection(40_000);
            script.syn(&mut connection);
            script.client(&mut connection, RST, b"");
            script.client(&mut connection, RST, b"");
            script.expect_flows(0, 0);
        },
    )
    .on(DIRECT),
    Case::new(
        "not rebuilt, taking turns",
        "Where backends take turns, nobody knows whose an unknown packet is",
        |setting| three(setting).with_balance(BALANCE_ROUND_ROBIN),
        |script| {
            let frame = script.connection(40_000).from_client(ACK, b"lost").bytes();
            script.resets(&frame, TransmitReason::ResetUnknownFlow);
            let frame = script.connection(40_000).from_client(RST, b"").bytes();
            script.drops(&frame, DropReason::UnknownFlow);
        },
    )
    .on(FORWARDING),
    Case::new(
        "not rebuilt, fewest connections",
        "Nor where the one with the fewest connections was chosen",
        |setting| three(setting).with_balance(BALANCE_LEAST_CONNECTIONS),
        |script| {
            let frame = script.connection(40_000).from_client(ACK, b"lost").bytes();
            script.resets(&frame, TransmitReason::ResetUnknownFlow);
        },
    )
    .on(DIRECT),
    Case::new(
        "not rebuilt, nobody there",
        "Without a backend an unknown packet gets a RST",
        |setting| {
            let mut world = one(setting);
            world.service_mut(setting.service()).usable = 0;
            world
        },
        |script| {
            let frame = script.connection(40_000).from_client(ACK, b"lost").bytes();
            script.resets(&frame, TransmitReason::ResetUnknownFlow);
        },
    )
    .on(DIRECT),
    Case::new(
        "insane flags are not rebuilt",
        "What no sender makes does not become a flow, whatever the mode",
        one,
        |script| {
            for flags in (0..=255u8).filter(|&flags| !super::flags_are_sane(flags)) {
                let frame = script.connection(40_000).from_client(flags, b"").bytes();
                script.drops(&frame, DropReason::BadTcpFlags);
            }
            script.expect_flows(0, 0);
        },
    )
    .on(FORWARDING),
    Case::new(
        "insane flags of a known flow",
        "Nor do they reach the backend of one",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            for flags in (0..=255u8).filter(|&flags| !super::flags_are_sane(flags)) {
                let frame = connection.from_client(flags, b"").bytes();
                script.drops(&frame, DropReason::BadTcpFlags);
            }
        },
    )
    .on(UNSEEN),
    Case::new(
        "table full, stateless",
        "Where the table of established flows is full, flows whose replies go straight back do without an entry",
        |setting| World { max_flows: 2, ..three(setting) },
        |script| {
            let mut flows = [0, 1, 2, 3, 4].map(|n| script.connection(40_000 + n));
            let [known @ .., stateless] = &mut flows;
            known.iter_mut().for_each(|connection| script.handshake(connection));
            script.expect_flows(0, 4);
            script.syn(stateless);
            let before = loads(script);
            for _ in 0..3 {
                script.client(stateless, ACK, b"data");
                script.expect_level(stateless, Level::HalfOpen);
            }
            script.client(stateless, FIN | ACK, b"");
            script.client(stateless, ACK, b"");
            assert_eq!(loads(script), before, "a flow that was not counted is not counted off");
            script.client(stateless, RST, b"");
            script.expect_gone(stateless);
            script.client(&mut known[0], ACK, b"unharmed");
        },
    )
    .on(UNSEEN),
    Case::new(
        "client closes",
        "The client's FIN ends the flow: its backend has one connection less, and a SYN opens a new one",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            assert_eq!(loads(script)[0].0, 1);
            script.client(&mut connection, FIN | ACK, b"");
            assert_eq!(loads(script)[0].0, 0);
            script.client(&mut connection, ACK, b"");
            assert_eq!(loads(script)[0].0, 0);
            script.handshake(&mut script.connection(40_000));
            script.expect_flows(0, 1);
            assert_eq!(loads(script)[0].0, 1);
            assert_eq!(script.counters(0).removed.closed, 1);
        },
    )
    .on(UNSEEN),
    Case::new(
        "client resets",
        "The client's RST ends the flow, and whoever sends on did not send it",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            script.client(&mut connection.clone(), RST, b"");
            assert_eq!(loads(script)[0].0, 0);
            script.client(&mut connection, ACK, b"I am here");
            assert_eq!(loads(script)[0].0, 1);
            script.client(&mut connection, RST, b"");
            script.handshake(&mut script.connection(40_000));
            assert_eq!((loads(script)[0].0, script.counters(0).removed.reset), (1, 1));
        },
    )
    .on(UNSEEN),
    Case::new(
        "idle",
        "A flow that was silent for too long is made anew by its next packet",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            script.at(START + IDLE_TIMEOUT);
            script.client(&mut connection, ACK, b"just in time");
            script.at(START + 2 * IDLE_TIMEOUT + 1);
            let frame = connection.from_client(ACK, b"too late").bytes();
            script.open(&mut connection, &frame);
            assert_eq!((loads(script)[0].0, script.counters(0).removed.expired), (0, 1));
        },
    )
    .on(DIRECT),
    Case::new(
        "counts",
        "A flow counts its packets and bytes without what the tunnel adds",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            script.client(&mut connection, ACK, b"12345");
            let seen = script.flows.established[&connection.client_key()].seen;
            let header = if script.setting.v6 { 60 } else { 40 };
            assert_eq!((seen.packets, seen.bytes), (3, 3 * header + 5));
            // Nobody needs it of the node's own flows.
            let next_seq = if script.setting.mode == MODE_LOCAL { 0 } else { connection.client_seq };
            assert_eq!(seen.next_seq, next_seq);
        },
    )
    .on(UNSEEN),
    Case::new(
        "service gone",
        "Known flows go on without their service; unknown packets are the host's",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            script.change(|world| world.tables.services.clear());
            script.client(&mut connection, ACK, b"data");
            let frame = script.connection(40_001).from_client(ACK, b"").bytes();
            script.passes(&frame, PassReason::NoService);
        },
    )
    .on(UNSEEN),
    Case::new(
        "backend moves",
        "A backend's new Ethernet address is used at once, without a look at the flows",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            script.change(|world| {
                world.backend_mut(0).hop.mac = lb_common::layout::MacWord::new(backend_mac(7));
            });
            script.client(&mut connection, ACK, b"data");
        },
    )
    .on(FORWARDING),
    Case::new(
        "router fails over",
        "The flow notes where its client's packets come from now",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            connection.client_mac = OTHER_ROUTER_MAC;
            script.client(&mut connection, ACK, b"data");
            let hop = script.flows.established[&connection.client_key()].client;
            assert_eq!(hop.mac.octets(), OTHER_ROUTER_MAC);
        },
    )
    .on(UNSEEN),
    Case::new(
        "padding",
        "What follows the packet in the frame is kept behind it, in a tunnel, too",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            for length in [1, 6, 46] {
                let mut segment = connection.from_client(ACK, b"odd");
                segment.padding = vec![0xa5; length];
                script.up(&connection, &segment.bytes());
            }
        },
    )
    .on(FORWARDING),
    Case::new(
        "only the last hop",
        "The node takes its own backend's packets with the last hop: they go no further",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            let mut syn = connection.from_client(SYN, b"");
            syn.ttl = 1;
            script.open(&mut connection, &syn.bytes());
            connection.client_seq = connection.client_seq.wrapping_add(1);
            let mut ack = connection.from_client(ACK, b"");
            ack.ttl = 1;
            script.up(&connection, &ack.bytes());
            script.expect_level(&connection, Level::Established);
        },
    )
    .on(LOCAL),
    Case::new(
        "unknown to the node",
        "A packet of no flow gets a RST though the backend is the node: with full NAT nobody else may have it",
        one,
        |script| {
            let frame = script.connection(40_000).from_client(ACK, b"").bytes();
            script.resets(&frame, TransmitReason::ResetUnknownFlow);
        },
    )
    .on(LOCAL),
    Case::new(
        "one of three is the node",
        "Flows spread over the node and the others; each stays where it is",
        |setting| three(setting).with_local(1),
        |script| {
            let (mut here, mut there) = (0, 0);
            for port in 40_000..40_030 {
                let frame = script.connection(port).from_client(SYN, b"").bytes();
                match script.frame(&frame).verdict {
                    Verdict::Pass(PassReason::LocalBackend) => here += 1,
                    Verdict::Transmit(TransmitReason::ToBackend) => there += 1,
                    other => panic!("{other:?}"),
                }
                let entry = script.flows.half_open[&script.connection(port).client_key()];
                assert_eq!(entry.mode == MODE_LOCAL, entry.backend == 1);
                assert_eq!(entry.mode == MODE_NAT, entry.backend != 1 && script.setting.mode == MODE_NAT);
                let again = script.frame(&script.connection(port).from_client(ACK, b"").bytes()).verdict;
                let passed = matches!(again, Verdict::Pass(PassReason::LocalBackend));
                assert_eq!(passed, entry.backend == 1, "{again:?}");
            }
            assert!(here > 3 && there > 10, "{here} {there}");
        },
    )
    .on(FORWARDING),
    Case::new(
        "tags that stay",
        "A hop that keeps tags adds none to frames without",
        |setting| {
            let mut world = one(setting);
            world.backend_mut(0).hop.flags = HOP_KEEPS_TAGS;
            world
        },
        |script| script.handshake(&mut script.connection(40_000)),
    )
    .on(FORWARDING),
];
