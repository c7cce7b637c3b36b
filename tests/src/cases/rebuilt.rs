//! Flows that another node had, made anew from a packet in their middle: what is guessed, what proves it, and what becomes of
//! a wrong guess.

use lb_common::{
    layout::{
        BALANCE_LEAST_CONNECTIONS, BALANCE_ROUND_ROBIN, MODE_NAT, MacWord, SEEN_REBUILT, SERVICE_REBUILDS,
        SERVICE_SNAT_NODE, virtual_mac,
    },
    reason::{DropReason, PassReason, TransmitReason, Verdict},
    tables::Level,
};

use super::{
    Case, Connection, Script, Setting,
    settings::{EVERY_NAT, NAT, one, three},
};
use crate::{
    frames::{ACK, Arp, FIN, Mac, PSH, RST, SYN, Segment, vlan},
    plane::{BACKENDS, HALF_OPEN_TIMEOUT, NODE_MAC, SECOND_MAC, START, VIP, World},
};

/// Where the node is that had the VIPs.
const FORMER_MAC: Mac = [0x02, 0, 0, 0, 0, 0x03];
/// And the one that has them now.
const OWNER_MAC: Mac = [0x02, 0, 0, 0, 0, 0x04];

fn rebuilding(world: World) -> World {
    let mut world = world.with_flags(SERVICE_REBUILDS);
    world.tables.vips.values_mut().for_each(|vip| vip.inherited = 1);
    world
}

fn one_rebuilding(setting: Setting) -> World {
    rebuilding(one(setting))
}

fn three_rebuilding(setting: Setting) -> World {
    rebuilding(three(setting))
}

/// A connection that another node had under the client's own port.
fn inherited(script: &Script<'_>, port: u16) -> Connection {
    Connection {
        nat_port: port,
        client_seq: 0x1234_5678,
        backend_seq: 0x9abc_def0,
        ..script.connection(port)
    }
}

/// The same of another client.
fn inherited_by(script: &Script<'_>, client: u16, port: u16) -> Connection {
    Connection {
        nat_port: port,
        client_seq: 0x7654_3210,
        backend_seq: 0x0fed_cba9,
        ..script.of_client(client, port)
    }
}

/// Its client sends, and the flow is half-open.
fn rebuild(script: &mut Script<'_>, connection: &mut Connection) {
    let segment = connection.from_client(ACK | PSH, b"middle");
    script.open(connection, &segment.bytes());
    connection.client_seq = super::script::after(&segment);
}

/// Both its directions are half-open, and say why.
fn is_rebuilt(script: &Script<'_>, connection: &Connection) -> bool {
    let keys = [connection.client_key(), script.backend_key(connection)];
    keys.iter()
        .all(|key| script.flows.half_open.get(key).is_some_and(|entry| entry.seen.flags & SEEN_REBUILT != 0))
}

fn load(script: &Script<'_>) -> (i64, i64, i64) {
    let all = || (0..BACKENDS).map(|id| script.load(id));
    (
        all().map(|load| load.active).sum(),
        all().map(|load| load.pending).sum(),
        all().map(|load| i64::from(load.asked)).sum(),
    )
}

pub(super) const CASES: &[Case] = &[
    Case::new(
        "proved",
        "A packet in the middle goes to the backend of the table, from the client's own port; the answer proves the guess",
        three_rebuilding,
        |script| {
            for port in 40_000..40_008 {
                let mut before = script.connection(port);
                script.syn(&mut before);
                script.client(&mut before, RST, b"");
                let opened = script.counters(before.backend).opened;
                let (active, ..) = load(script);
                let mut connection = inherited(script, port);
                rebuild(script, &mut connection);
                assert_eq!((connection.backend, connection.nat_port), (before.backend, port));
                assert!(is_rebuilt(script, &connection));
                assert_eq!(script.counters(connection.backend).opened, opened, "nothing was opened");
                assert_eq!(load(script), (active, 0, 0), "nor is a handshake pending");
                script.server(&mut connection, ACK | PSH, b"answer");
                script.expect_level(&connection, Level::Established);
                assert_eq!(load(script), (active + 1, 0, 0));
                script.client(&mut connection, ACK, b"on it goes");
                script.server(&mut connection, ACK, b"both ways");
                script.close(&mut connection);
                assert_eq!(load(script), (active, 0, 0));
            }
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "another balance",
        "So where backends take turns, or the fewest connections count: the table is what there is to go by",
        three_rebuilding,
        |script| {
            for (balance, port) in [(BALANCE_ROUND_ROBIN, 40_000), (BALANCE_LEAST_CONNECTIONS, 40_001)] {
                script.change(|world| *world = world.clone().with_balance(balance));
                let mut connection = inherited(script, port);
                rebuild(script, &mut connection);
                script.server(&mut connection, ACK, b"");
                script.expect_level(&connection, Level::Established);
            }
        },
    )
    .on(NAT),
    Case::new(
        "wrong",
        "Where the backend knows nothing of it, its RST reaches the client, and no entry is left",
        one_rebuilding,
        |script| {
            let mut connection = inherited(script, 40_000);
            rebuild(script, &mut connection);
            let rst = Segment { ack: 0, ..connection.from_backend(RST, b"") };
            script.down(&connection, &rst.bytes());
            script.expect_flows(0, 0);
            let counters = script.counters(0);
            assert_eq!((counters.refused, counters.broken, counters.unanswered, counters.answered), (0, 0, 0, 0));
            assert_eq!(load(script), (0, 0, 0));
            script.handshake(&mut script.connection(40_000));
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "flood",
        "Packets of flows that nobody has take no established entry, and each RST gives its place back",
        one_rebuilding,
        |script| {
            let mut real = script.connection(39_000);
            script.handshake(&mut real);
            for n in 0..200 {
                let mut forged = inherited_by(script, n, 40_000 + n);
                rebuild(script, &mut forged);
                script.up(&forged, &forged.from_client(ACK, b"again").bytes());
                script.expect_flows(1, 1);
                let rst = Segment { ack: 0, ..forged.from_backend(RST, b"") };
                script.down(&forged, &rst.bytes());
            }
            script.expect_flows(0, 1);
            assert_eq!(load(script), (1, 0, 0));
            script.client(&mut real, ACK, b"unharmed");
        },
    )
    .on(NAT),
    Case::new(
        "only acknowledged data",
        "Neither a RST nor a SYN-ACK of an unknown flow is worth a guess; a FIN is",
        one_rebuilding,
        |script| {
            let mut connection = inherited(script, 40_000);
            script.drops(&connection.from_client(RST, b"").bytes(), DropReason::UnknownFlow);
            script.drops(&connection.from_client(RST | ACK, b"").bytes(), DropReason::UnknownFlow);
            let frame = connection.from_client(SYN | ACK, b"").bytes();
            script.resets(&frame, TransmitReason::ResetUnknownFlow);
            script.drops(&connection.from_client(FIN, b"").bytes(), DropReason::BadTcpFlags);
            script.drops(&connection.from_client(PSH, b"").bytes(), DropReason::BadTcpFlags);
            script.client(&mut connection, FIN | ACK, b"");
            assert!(is_rebuilt(script, &connection));
            script.server(&mut connection, FIN | ACK, b"");
            script.expect_level(&connection, Level::Established);
            assert_eq!(load(script).0, 0, "it ends as it begins");
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "not told to",
        "Where nothing says that flows may be another node's, an unknown one gets a RST",
        one,
        |script| {
            let frame = inherited(script, 40_000).from_client(ACK, b"data").bytes();
            script.resets(&frame, TransmitReason::ResetUnknownFlow);
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "nobody there",
        "Nor is a flow rebuilt where no backend can be chosen",
        one_rebuilding,
        |script| {
            script.change(|world| {
                world.tables.services.values_mut().for_each(|service| service.usable = 0);
            });
            let frame = inherited(script, 40_000).from_client(ACK, b"data").bytes();
            script.resets(&frame, TransmitReason::ResetUnknownFlow);
        },
    )
    .on(NAT),
    Case::new(
        "no port but its own",
        "Where the client's own port cannot be its NAT port, there is nothing to guess",
        |setting| {
            let mut world = one_rebuilding(setting);
            world.reserve_port(40_000);
            world
        },
        |script| {
            for port in [40_000, 1_023, 80] {
                let frame = inherited(script, port).from_client(ACK, b"data").bytes();
                script.resets(&frame, TransmitReason::ResetUnknownFlow);
            }
            script.expect_flows(0, 0);
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "another's port",
        "A guess takes no port that another flow has: neither an open one's, nor a closed one's, nor a half-open one's",
        one_rebuilding,
        |script| {
            let mut owner = script.connection(40_000);
            script.syn(&mut owner);
            let other = inherited_by(script, 101, 40_000);
            let frame = other.from_client(ACK, b"data").bytes();
            script.resets(&frame, TransmitReason::ResetUnknownFlow);
            script.server(&mut owner, SYN | ACK, b"");
            script.resets(&frame, TransmitReason::ResetUnknownFlow);
            script.client(&mut owner, ACK, b"");
            script.resets(&frame, TransmitReason::ResetUnknownFlow);
            script.client(&mut owner, ACK, b"unharmed");
            script.close(&mut owner);
            script.resets(&frame, TransmitReason::ResetUnknownFlow);
            script.expect_flows(0, 1);
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "another's connection",
        "Where the port is another connection's that is not known yet, the guess is refuted by the backend's numbers: the \
         client gets nothing of it but a RST, and the port is free for its owner",
        one_rebuilding,
        |script| {
            let mut owner = inherited_by(script, 101, 40_000);
            let mut wrong = inherited(script, 40_000);
            rebuild(script, &mut wrong);
            let answer = owner.from_backend(ACK | PSH, b"secret").bytes();
            script_drops(script, &answer, DropReason::UnknownReply);
            assert!(!script.flows.half_open.contains_key(&script.backend_key(&owner)), "the port is free");
            assert!(script.flows.established.is_empty());
            let again = wrong.from_client(ACK | PSH, b"middle").bytes();
            script.resets(&again, TransmitReason::ResetUnknownFlow);
            rebuild(script, &mut owner);
            script.server(&mut owner, ACK | PSH, b"secret");
            script.expect_level(&owner, Level::Established);
            script.resets(&again, TransmitReason::ResetUnknownFlow);
            // A new connection of that client gets another port.
            wrong = script.connection(40_000);
            script.handshake(&mut wrong);
            assert_ne!(wrong.nat_port, 40_000);
            script.client(&mut owner, ACK, b"unharmed");
            script.expect_flows(0, 2);
            assert_eq!(load(script), (2, 0, 0));
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "a forged packet first",
        "Somebody who forges a packet of a connection that is not known yet cannot keep it from being rebuilt",
        one_rebuilding,
        |script| {
            let mut real = inherited(script, 40_000);
            let forged = Segment { seq: 1, ack: 2, ..real.from_client(ACK, b"forged") };
            script.open(&mut real.clone(), &forged.bytes());
            let answer = real.from_backend(ACK, b"").bytes();
            script_drops(script, &answer, DropReason::UnknownReply);
            script.resets(&forged.bytes(), TransmitReason::ResetUnknownFlow);
            rebuild(script, &mut real);
            script.server(&mut real, ACK, b"");
            script.expect_level(&real, Level::Established);
        },
    )
    .on(NAT),
    Case::new(
        "data on its way",
        "What proves a guess may be behind or ahead of it by what was on its way",
        one_rebuilding,
        |script| {
            for (port, seq, ack) in [(40_000, 1_000_000, 0), (40_001, -1_000_000, 0), (40_002, 0, -1_000_000)] {
                let mut connection = inherited(script, port);
                rebuild(script, &mut connection);
                let mut answer = connection.from_backend(ACK | PSH, b"data");
                answer.seq = answer.seq.wrapping_add_signed(seq);
                answer.ack = answer.ack.wrapping_add_signed(ack);
                script.down(&connection, &answer.bytes());
                script.expect_level(&connection, Level::Established);
            }
        },
    )
    .on(NAT),
    Case::new(
        "insane answers",
        "What no sender means proves nothing",
        one_rebuilding,
        |script| {
            let mut connection = inherited(script, 40_000);
            rebuild(script, &mut connection);
            for flags in [PSH, SYN | FIN | ACK, 0, FIN] {
                let frame = connection.from_backend(flags, b"").bytes();
                script_drops(script, &frame, DropReason::BadTcpFlags);
                assert!(is_rebuilt(script, &connection));
            }
        },
    )
    .on(NAT),
    Case::new(
        "silent backend",
        "A backend that need not answer proves it with its next packet, whatever the client sent meanwhile",
        one_rebuilding,
        |script| {
            let mut connection = inherited(script, 40_000);
            rebuild(script, &mut connection);
            for _ in 0..5 {
                script.client(&mut connection, ACK, b"");
                assert!(is_rebuilt(script, &connection));
            }
            script.at(START + HALF_OPEN_TIMEOUT);
            script.server(&mut connection, ACK | PSH, b"event");
            script.expect_level(&connection, Level::Established);
        },
    )
    .on(NAT),
    Case::new(
        "a syn after all",
        "A SYN is a new connection, not a retransmission: the source's rate counts, and nobody left it unanswered",
        |setting| {
            let mut world = three_rebuilding(setting);
            world.tables.services.values_mut().for_each(|service| {
                (service.source_rate, service.source_burst) = (1, 1);
            });
            world
        },
        |script| {
            for port in 40_000..40_004 {
                let mut connection = inherited(script, port);
                rebuild(script, &mut connection);
            }
            assert!(script.notes.sources.is_empty(), "no rebuilt flow is counted");
            script.syn(&mut script.connection(40_000));
            let unanswered: u64 = (0..BACKENDS).map(|id| script.counters(id).unanswered).sum();
            assert_eq!(unanswered, 0);
            let frame = script.connection(40_001).from_client(SYN, b"").bytes();
            let outcome = script.frame(&frame);
            assert_eq!(outcome.verdict, Verdict::Drop(DropReason::SourceRateLimited));
        },
    )
    .on(NAT),
    Case::new(
        "not allowed",
        "Who may not connect has no flows to be rebuilt",
        |setting| one_rebuilding(setting).with_flags(lb_common::layout::SERVICE_HAS_ALLOW_LIST),
        |script| {
            let frame = inherited(script, 40_000).from_client(ACK, b"data").bytes();
            script.drops(&frame, DropReason::SourceNotAllowed);
        },
    )
    .on(NAT),
    Case::new(
        "full backends",
        "A backend that has all the connections that it may have keeps those that it has",
        |setting| {
            let mut world = one_rebuilding(setting).with_flags(lb_common::layout::SERVICE_HAS_LIMITS);
            world.backend_mut(0).max_connections = 1;
            world
        },
        |script| {
            script.handshake(&mut script.connection(40_000));
            let mut connection = inherited(script, 40_001);
            rebuild(script, &mut connection);
            script.server(&mut connection, ACK, b"");
            script.expect_flows(0, 2);
            let frame = script.connection(40_002).from_client(SYN, b"").bytes();
            script.resets(&frame, TransmitReason::ResetAllFull);
        },
    )
    .on(NAT),
    Case::new(
        "table full",
        "Where the table of established flows is full, it goes on half-open, and moves when there is room",
        |setting| World { max_flows: 1, ..one_rebuilding(setting) },
        |script| {
            let mut known = script.connection(39_000);
            script.handshake(&mut known);
            let mut connection = inherited(script, 40_000);
            rebuild(script, &mut connection);
            script.server(&mut connection, ACK, b"answer");
            assert!(is_rebuilt(script, &connection));
            script.client(&mut connection, ACK, b"data");
            script.close(&mut known);
            script.syn(&mut script.connection(39_000));
            script.server(&mut connection, ACK, b"answer");
            script.expect_level(&connection, Level::Established);
        },
    )
    .on(NAT),
    Case::new(
        "unknown replies",
        "What a backend sends of a flow that is not known yet is dropped: a RST by the host would end it. A SYN passes, and \
         so does everything where the VIP has been here all the time",
        one_rebuilding,
        |script| {
            let mut connection = inherited(script, 40_000);
            if script.world.service(connection.service).expect("the service").flags & SERVICE_SNAT_NODE == 0 {
                for flags in [SYN | ACK, ACK, ACK | PSH, FIN | ACK, RST, RST | ACK] {
                    let frame = connection.from_backend(flags, b"").bytes();
                    script.drops(&frame, DropReason::UnknownReply);
                }
            }
            let frame = connection.from_backend(SYN, b"").bytes();
            script.passes(&frame, PassReason::NoService);
            rebuild(script, &mut connection);
            script.server(&mut connection, ACK | PSH, b"the client has spoken");
            script.change(|world| world.tables.vips.values_mut().for_each(|vip| vip.inherited = 0));
            let frame = inherited(script, 40_001).from_backend(ACK, b"").bytes();
            script.passes(&frame, PassReason::NoService);
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "the former owner",
        "Where it is known who had the VIP, that one gets what a backend sends of a flow that is not known here: it may be a \
         handshake that was under way. Not what comes from there, has no hop left, or opens a connection",
        one_rebuilding,
        |script| {
            let connection = inherited(script, 40_000);
            let reply = |flags| connection.from_backend(flags, b"");
            script.change(|world| former_is(world, FORMER_MAC));
            for flags in [SYN | ACK, ACK, ACK | PSH, FIN | ACK, RST, RST | ACK] {
                sends_on(script, &reply(flags), FORMER_MAC);
            }
            for tags in [&[vlan(7)][..], &[vlan(7), vlan(100)]] {
                script.change(|world| *world = world.clone().on_vlans(&[7], true));
                sends_on(script, &Segment { tags: tags.to_vec(), ..reply(SYN | ACK) }, FORMER_MAC);
            }
            script.drops(&Segment { ttl: 1, ..reply(SYN | ACK) }.bytes(), DropReason::UnknownReply);
            script.drops(&Segment { src_mac: FORMER_MAC, ..reply(ACK) }.bytes(), DropReason::UnknownReply);
            script.passes(&reply(SYN).bytes(), PassReason::NoService);
            for ours in [NODE_MAC, SECOND_MAC] {
                script.change(|world| former_is(world, ours));
                script.drops(&reply(ACK).bytes(), DropReason::UnknownReply);
            }
            script.expect_flows(0, 0);
        },
    )
    .on(NAT),
    Case::new(
        "a handshake that moves",
        "The client's ACK reaches the new owner, whose backend answers what it knows: the flow is rebuilt as ever, and its \
         packets are not sent on any more",
        one_rebuilding,
        |script| {
            script.change(|world| former_is(world, FORMER_MAC));
            let mut connection = inherited(script, 40_000);
            sends_on(script, &connection.from_backend(SYN | ACK, b""), FORMER_MAC);
            rebuild(script, &mut connection);
            script.server(&mut connection, ACK, b"answer");
            script.expect_level(&connection, Level::Established);
        },
    )
    .on(NAT),
    Case::v4(
        "the next owner",
        "While somebody else says that the VIP is its own, it gets what a backend sends of a flow that is not known here, \
         whether we had the VIP or have it; and nothing that comes from there",
        one,
        |script| {
            let connection = inherited(script, 40_000);
            let reply = |flags| connection.from_backend(flags, b"");
            script.passes(&reply(SYN | ACK).bytes(), PassReason::NoService);
            script.passes(&Arp::request(OWNER_MAC, VIP, VIP).bytes(), PassReason::ForeignClaim);
            for flags in [SYN | ACK, ACK | PSH, RST] {
                sends_on(script, &reply(flags), OWNER_MAC);
            }
            script.passes(&reply(SYN).bytes(), PassReason::NoService);
            script.passes(&Segment { src_mac: OWNER_MAC, ..reply(ACK) }.bytes(), PassReason::NoService);
            script.change(|world| {
                world.tables.vips.values_mut().for_each(|vip| vip.inherited = 1);
                former_is(world, FORMER_MAC);
            });
            sends_on(script, &reply(SYN | ACK), OWNER_MAC);
            script.drops(&Segment { src_mac: OWNER_MAC, ..reply(ACK) }.bytes(), DropReason::UnknownReply);
            // Of a service's port it may be a client's.
            let client = connection.from_client(ACK, b"data").bytes();
            script.resets(&client, TransmitReason::ResetUnknownFlow);
        },
    ),
    Case::v4(
        "the next owner's virtual address",
        "A virtual router's Ethernet address is ours as long as we answer with it",
        one,
        |script| {
            let reply = inherited(script, 40_000).from_backend(SYN | ACK, b"");
            let mac = virtual_mac(false, 60);
            let claim = Arp::request(mac, VIP, VIP).bytes();
            script.passes(&claim, PassReason::ForeignClaim);
            sends_on(script, &reply, mac);
            script.change(|world| {
                world.tables.vips.values_mut().for_each(|vip| vip.virtual_mac = MacWord::new(mac));
            });
            script.passes(&reply.bytes(), PassReason::NoService);
            script.change(|world| {
                world.tables.vips.values_mut().for_each(|vip| vip.inherited = 1);
                former_is(world, FORMER_MAC);
            });
            sends_on(script, &reply, FORMER_MAC);
        },
    ),
    Case::new(
        "this very node",
        "A flow of another node to this one as its backend cannot go on here: our host knows it by the VIP's port",
        |setting| one_rebuilding(setting).with_local(0),
        |script| {
            let frame = inherited(script, 40_000).from_client(ACK, b"data").bytes();
            script.resets(&frame, TransmitReason::ResetUnknownFlow);
            assert_eq!(script.setting.mode, MODE_NAT);
            assert_eq!(script.flows.half_open.len() + script.flows.established.len(), 0);
        },
    )
    .on(NAT),
    Case::new(
        "out of hops",
        "A packet that may go no further rebuilds nothing",
        one_rebuilding,
        |script| {
            let segment = Segment { ttl: 1, ..inherited(script, 40_000).from_client(ACK, b"data") };
            let outcome = script.frame(&segment.bytes());
            assert_eq!(outcome.verdict, Verdict::Transmit(TransmitReason::TimeExceeded));
            script.expect_flows(0, 0);
        },
    )
    .on(NAT),
    Case::new(
        "no way there",
        "Nor does one whose backend's next hop is unknown; it is counted",
        one_rebuilding,
        |script| {
            script.change(|world| world.backend_mut(0).hop = lb_common::layout::Hop::NONE);
            let frame = inherited(script, 40_000).from_client(ACK, b"data").bytes();
            script.drops(&frame, DropReason::NextHopUnknown);
            assert_eq!(script.counters(0).unresolved, 1);
        },
    )
    .on(NAT),
    Case::new(
        "answered and broken",
        "A SYN-ACK counts once for its backend, and so does the RST that ends an established flow",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.syn(&mut connection);
            assert_eq!(script.counters(0).answered, 0);
            script.server(&mut connection.clone(), SYN | ACK, b"");
            script.server(&mut connection, SYN | ACK, b"");
            assert_eq!((script.counters(0).opened, script.counters(0).answered), (1, 1));
            script.client(&mut connection, ACK, b"");
            script.client(&mut connection.clone(), RST, b"");
            assert_eq!(script.counters(0).broken, 0, "the client's");
            script.client(&mut connection, ACK, b"it was forged");
            script.server(&mut connection.clone(), RST, b"");
            script.server(&mut connection, RST, b"");
            assert_eq!(script.counters(0).broken, 1);
            let mut refused = script.connection(40_001);
            script.syn(&mut refused);
            script.server(&mut refused, RST | ACK, b"");
            assert_eq!((script.counters(0).answered, script.counters(0).broken), (1, 1), "that is refused");
        },
    )
    .on(EVERY_NAT),
];

/// Where the node is that had the VIPs.
fn former_is(world: &mut World, mac: Mac) {
    world.tables.vips.values_mut().for_each(|vip| vip.former = MacWord::new(mac));
}

/// It goes to that node, with one hop less.
fn sends_on(script: &mut Script<'_>, segment: &Segment, to: Mac) {
    let outcome = script.frame(&segment.bytes());
    assert_eq!(outcome.verdict, Verdict::Transmit(TransmitReason::ToOtherNode));
    let expected = Segment { src_mac: NODE_MAC, dst_mac: to, ttl: segment.ttl - 1, ..segment.clone() };
    assert_eq!(outcome.frame, expected.bytes());
}

/// A frame that nobody gets, though flows may change.
fn script_drops(script: &mut Script<'_>, frame: &[u8], reason: DropReason) {
    assert_eq!(script.frame(frame).verdict, Verdict::Drop(reason));
}
