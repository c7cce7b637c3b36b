//! Which port of the VIP a flow gets towards its backend.

use std::collections::BTreeSet;

use lb_common::{layout::RESERVED_PORT_WORDS, reason::DropReason};

use super::{
    Case, Connection, Script,
    settings::{EVERY_NAT, one, three},
};
use crate::{
    frames::{ACK, FIN, RST, SYN},
    plane::{START, World},
};

/// Every port is reserved but for these.
fn only(script: &mut Script<'_>, free: &[u16]) {
    script.change(|world| {
        world.reserved_ports.fill(u64::MAX);
        for &port in free {
            for space in [0, RESERVED_PORT_WORDS / 2] {
                world.reserved_ports[space + usize::from(port / 64)] &= !(1 << (port % 64));
            }
        }
    });
}

/// The first two NAT ports that are tried for this connection, whose own port cannot be one.
fn candidates(script: &mut Script<'_>, connection: &Connection) -> [u16; 2] {
    let mut found = [0; 2];
    for slot in &mut found {
        let mut probe = connection.clone();
        script.syn(&mut probe);
        script.server(&mut probe, RST | ACK, b"");
        *slot = probe.nat_port;
        script.change(|world| world.reserve_port(probe.nat_port));
    }
    found
}

pub(super) const CASES: &[Case] = &[
    Case::new("own port", "The client's own port is its NAT port where it can be", one, |script| {
        for port in [1024, 1025, 32_768, 65_535] {
            let mut connection = script.of_client(1, port);
            script.handshake(&mut connection);
            assert_eq!(connection.nat_port, port);
        }
    })
    .on(EVERY_NAT),
    Case::new(
        "privileged client port",
        "A client port below 1024 is translated to one above",
        one,
        |script| {
            for port in [1, 22, 800, 1023] {
                let mut connection = script.of_client(1, port);
                script.handshake(&mut connection);
                assert!(connection.nat_port >= 1024);
                script.server(&mut connection, ACK, b"data");
            }
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "same client port",
        "Two hundred clients with one source port get distinct NAT ports to one backend",
        one,
        |script| {
            let mut ports = BTreeSet::new();
            for n in 0..200 {
                let mut connection = script.of_client(n, 40_000);
                script.syn(&mut connection);
                assert!(ports.insert(connection.nat_port), "{} twice", connection.nat_port);
            }
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "port of an established flow",
        "A NAT port is taken while its flow is half-open, and when it is established",
        one,
        |script| {
            let mut first = script.of_client(1, 40_000);
            script.handshake(&mut first);
            let mut second = script.of_client(2, 40_000);
            script.syn(&mut second);
            assert_ne!(second.nat_port, 40_000);
            script.server(&mut second, SYN | ACK, b"");
            script.client(&mut second, ACK, b"");
            script.server(&mut first, ACK, b"first");
            script.server(&mut second, ACK, b"second");
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "one port, several backends",
        "One NAT port serves flows to different backends at the same time",
        three,
        |script| {
            let mut first = script.of_client(1, 40_000);
            script.handshake(&mut first);
            let other = (2..=255).find_map(|n| {
                let mut other = script.of_client(n, 40_000);
                script.handshake(&mut other);
                (other.backend != first.backend).then_some(other)
            });
            let mut other = other.expect("some client is balanced to another backend");
            assert_eq!(other.nat_port, first.nat_port);
            script.server(&mut first, ACK, b"first");
            script.server(&mut other, ACK, b"other");
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "reserved port",
        "A port that the host listens on is never a NAT port, not even the client's own",
        |setting| {
            let mut world = one(setting);
            world.reserve_port(40_000);
            world
        },
        |script| {
            for port in [40_000, 6443, 9443] {
                let mut connection = script.of_client(1, port);
                script.handshake(&mut connection);
                assert_ne!(connection.nat_port, port);
            }
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "everything reserved",
        "Without a single port a SYN is dropped, and counted for the backend",
        one,
        |script| {
            only(script, &[]);
            script.drops(
                &script.of_client(1, 40_000).from_client(SYN, b"").bytes(),
                DropReason::NatPortsExhausted,
            );
            assert_eq!(script.counters(0).ports_exhausted, 1);
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "exhausted",
        "Where the only port is in use, by a half-open or an open flow, a SYN is dropped",
        one,
        |script| {
            only(script, &[40_000]);
            let mut first = script.of_client(1, 40_000);
            let syn = script.of_client(2, 40_000).from_client(SYN, b"").bytes();
            script.syn(&mut first);
            script.drops(&syn, DropReason::NatPortsExhausted);
            script.server(&mut first, SYN | ACK, b"");
            script.client(&mut first, ACK, b"");
            script.drops(&syn, DropReason::NatPortsExhausted);
            assert_eq!(script.counters(0).ports_exhausted, 2);
            script.client(&mut first, ACK, b"unharmed");
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "half-closed keeps its port",
        "A FIN from one side does not free a port for others",
        one,
        |script| {
            only(script, &[40_000, 40_001]);
            let [mut one, mut other] = [script.of_client(1, 40_000), script.of_client(1, 40_001)];
            script.handshake(&mut one);
            script.handshake(&mut other);
            script.client(&mut one, FIN | ACK, b"");
            script.server(&mut other, FIN | ACK, b"");
            for port in [40_000, 40_001] {
                let syn = script.of_client(2, port).from_client(SYN, b"").bytes();
                script.drops(&syn, DropReason::NatPortsExhausted);
            }
            script.server(&mut one, ACK, b"the answer");
            script.client(&mut other, ACK, b"the rest");
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "taken over",
        "When ports run out, a closed flow's port goes to the new one, and the old flow is forgotten",
        one,
        |script| {
            only(script, &[40_000]);
            let mut first = script.of_client(1, 40_000);
            script.handshake(&mut first);
            script.close(&mut first);
            let mut second = script.of_client(2, 40_000);
            script.handshake(&mut second);
            assert_eq!(second.nat_port, 40_000);
            script.expect_flows(0, 1);
            let late = first.from_client(ACK, b"").bytes();
            script.resets(&late, lb_common::reason::TransmitReason::ResetUnknownFlow);
            script.server(&mut second, ACK, b"to the second");
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "taken over after a reset",
        "A flow that its backend has reset gives its port up as well",
        one,
        |script| {
            only(script, &[40_000]);
            let mut first = script.of_client(1, 40_000);
            script.handshake(&mut first);
            script.server(&mut first, RST | ACK, b"");
            let mut second = script.of_client(2, 40_000);
            script.handshake(&mut second);
            script.expect_flows(0, 1);
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "taken over after the client's reset",
        "A flow that its client has reset gives its port up as well",
        one,
        |script| {
            only(script, &[40_000]);
            let mut first = script.of_client(1, 40_000);
            script.handshake(&mut first);
            script.client(&mut first, RST | ACK, b"");
            let mut second = script.of_client(2, 40_000);
            script.handshake(&mut second);
            script.expect_flows(0, 1);
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "closed ones wait",
        "While there are free ports a closed flow keeps its own: the backend may hold it in TIME_WAIT",
        one,
        |script| {
            let mut first = script.of_client(1, 40_000);
            script.handshake(&mut first);
            script.close(&mut first);
            let mut second = script.of_client(2, 40_000);
            script.handshake(&mut second);
            assert_ne!(second.nat_port, 40_000);
            script.expect_flows(0, 2);
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "longest closed first",
        "Of several closed flows the one that has been silent for longest gives its port up",
        one,
        |script| {
            for longest in [0, 1] {
                let newcomer = script.of_client(9, 800 + longest as u16);
                let setting = script.setting;
                script.change(|world| *world = World { clock: START, ..one(setting) });
                let ports = candidates(script, &newcomer);
                only(script, &ports);
                let mut owners = [script.of_client(1, ports[0]), script.of_client(2, ports[1])];
                script.handshake(&mut owners[0]);
                script.handshake(&mut owners[1]);
                for (second, which) in (1..).zip([longest, 1 - longest]) {
                    script.at(START + second * 10);
                    script.close(&mut owners[which]);
                }
                script.at(START + 50);
                let mut connection = newcomer;
                script.handshake(&mut connection);
                assert_eq!(connection.nat_port, ports[longest]);
                assert!(!script.flows.established.contains_key(&owners[longest].client_key()));
                // Whatever is left ends here, so that the next round finds the ports free.
                for owner in &mut owners {
                    owner.client_seq = 1;
                }
                script.at(START + crate::plane::IDLE_TIMEOUT * 2);
                let left = &owners[1 - longest];
                script.frame(&left.from_client(ACK, b"").bytes());
                script.frame(&connection.from_client(ACK, b"").bytes());
                script.expect_flows(0, 0);
            }
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "open one in the way",
        "An open flow on a port that was silent for longer does not hide a closed one",
        one,
        |script| {
            let newcomer = script.of_client(9, 800);
            let ports = candidates(script, &newcomer);
            only(script, &ports);
            let mut owners = [script.of_client(1, ports[0]), script.of_client(2, ports[1])];
            script.handshake(&mut owners[0]);
            script.handshake(&mut owners[1]);
            // Half-closed by the backend, and silent since.
            script.server(&mut owners[0], FIN | ACK, b"");
            script.at(START + 10);
            script.close(&mut owners[1]);
            script.at(START + 20);
            let mut connection = newcomer;
            script.handshake(&mut connection);
            assert_eq!(connection.nat_port, ports[1]);
            script.client(&mut owners[0], ACK, b"still sending");
        },
    )
    .on(EVERY_NAT),
];
