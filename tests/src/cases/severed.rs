//! Flows that the controller has ended: whoever still sends is told, whatever else comes.

use lb_common::{
    layout::{SEEN_RST, SEEN_SEVERED},
    reason::{DropReason, TransmitReason},
    tables::Level,
};

use super::{
    Case,
    settings::{ALL, EVERY_NAT, FORWARDING, one, three},
};
use crate::{
    frames::{ACK, FIN, PSH, RST, SYN, fragments},
    plane::{IDLE_TIMEOUT, OTHER_ROUTER_MAC, START},
};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "the client is told",
        "What a client sends on a severed flow is answered with a RST from its own acknowledgement, however often",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            script.client(&mut connection, ACK | PSH, b"data");
            script.sever(&connection);
            for (flags, payload) in [(ACK, &b""[..]), (ACK | PSH, b"more"), (ACK | FIN, b""), (ACK, b"x")] {
                let frame = connection.from_client(flags, payload).bytes();
                script.resets(&frame, TransmitReason::ResetSevered);
            }
            script.expect_level(&connection, Level::Established);
        },
    )
    .on(ALL),
    Case::new(
        "the backend is told",
        "And so is the backend, which may be alive: the flow was severed for another reason",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            script.sever(&connection);
            for (flags, payload) in [(ACK, &b""[..]), (ACK | PSH, b"more"), (ACK | FIN, b"")] {
                let frame = connection.from_backend(flags, payload).bytes();
                script.resets(&frame, TransmitReason::ResetSevered);
            }
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "nobody answers a rst",
        "A RST on a severed flow, by whomever, is dropped and changes nothing",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            script.sever(&connection);
            script.drops(&connection.from_client(RST, b"").bytes(), DropReason::UnknownFlow);
            script.drops(&connection.from_client(RST | ACK, b"").bytes(), DropReason::UnknownFlow);
            script.drops(&connection.from_client(SYN | FIN, b"").bytes(), DropReason::BadTcpFlags);
            let frame = connection.from_client(ACK, b"still told").bytes();
            script.resets(&frame, TransmitReason::ResetSevered);
        },
    )
    .on(FORWARDING),
    Case::new(
        "only the controller severs",
        "A forged RST of either side severs nothing: whoever goes on clears it",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            script.client(&mut connection.clone(), RST, b"");
            script.server(&mut connection.clone(), RST, b"");
            let (client, backend) = script.directions(&connection);
            assert_eq!((client.seen.flags | backend.seen.flags) & (SEEN_SEVERED | SEEN_RST), SEEN_RST);
            script.client(&mut connection, ACK, b"I am here");
            script.server(&mut connection, ACK, b"so am I");
            let (client, backend) = script.directions(&connection);
            assert_eq!((client.seen.flags | backend.seen.flags) & (SEEN_SEVERED | SEEN_RST), 0);
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "anew",
        "A SYN of the same client opens a new flow at once, wherever the first one was",
        three,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            let active = script.load(connection.backend).active;
            script.sever(&connection);
            let mut again = script.connection(40_000);
            script.syn(&mut again);
            script.expect_flows(1, 0);
            assert_eq!(script.counters(connection.backend).removed.reset, 1, "it counts as reset");
            assert_eq!(script.load(connection.backend).active, active, "who severs counts it off");
            script.server(&mut again, SYN | ACK, b"");
            script.client(&mut again, ACK, b"");
            script.expect_flows(0, 1);
            script.client(&mut again, ACK, b"data");
        },
    )
    .on(ALL),
    Case::new(
        "the port of a severed flow",
        "Where NAT ports are scarce, that of a severed flow is another's; no other flow loses its own",
        |setting| {
            let mut world = one(setting);
            world.reserved_ports.fill(u64::MAX);
            let (word, bit) = (40_000 / 64, 40_000 % 64);
            let half = world.reserved_ports.len() / 2;
            for space in [0, half] {
                world.reserved_ports[space + word] &= !(1 << bit);
            }
            world
        },
        |script| {
            let mut one = script.connection(40_000);
            script.handshake(&mut one);
            let other = script.of_client(101, 40_000).from_client(SYN, b"").bytes();
            script.drops(&other, DropReason::NatPortsExhausted);
            script.sever(&one);
            script.syn(&mut script.of_client(101, 40_000));
            assert!(!script.flows.established.contains_key(&one.client_key()));
            script.expect_flows(1, 0);
        },
    )
    .on(&[crate::cases::Setting::SNAT]),
    Case::new(
        "fragments",
        "Of a severed flow's fragments the first is answered, the others go the way of all unknown ones",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            script.sever(&connection);
            let whole = connection.from_client(ACK | PSH, &[0x5a; 200]).bytes();
            let pieces = fragments(&whole, &[80]);
            let outcome = script.frame(&pieces[0]);
            assert_eq!(
                outcome.verdict,
                lb_common::reason::Verdict::Transmit(TransmitReason::ResetSevered)
            );
            script.drops(&pieces[1], DropReason::FragmentUnknown);
        },
    )
    .on(FORWARDING),
    Case::new(
        "another router",
        "The RST goes where the packet came from, though the client's router has failed over since",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            script.sever(&connection);
            connection.client_mac = OTHER_ROUTER_MAC;
            let frame = connection.from_client(ACK, b"data").bytes();
            script.resets(&frame, TransmitReason::ResetSevered);
        },
    )
    .on(ALL),
    Case::new(
        "forgotten",
        "When a severed flow is forgotten, it is one that is not known",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            script.sever(&connection);
            script.at(START + IDLE_TIMEOUT + 1);
            let frame = connection.from_client(ACK, b"data").bytes();
            let outcome = script.frame(&frame);
            assert_eq!(
                outcome.verdict,
                lb_common::reason::Verdict::Transmit(TransmitReason::ResetUnknownFlow)
            );
            script.expect_flows(0, 0);
        },
    )
    .on(EVERY_NAT),
];
