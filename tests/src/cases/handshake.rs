//! How a connection comes about.

use std::{collections::BTreeSet, net::SocketAddr};

use lb_common::{
    layout::{Hop, SEEN_FIN, SEEN_SYN},
    reason::{DropReason, TransmitReason},
    tables::Level,
};

use super::{
    Case, Connection,
    settings::{ALL, EVERY_NAT, one, three},
};
use crate::{
    frames::{ACK, FIN, PSH, RST, SYN},
    plane::{BACKENDS, OTHER_ROUTER_MAC, ROUTER_MAC, START, World, backend_entry, backend_mac},
};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "life",
        "SYN, SYN-ACK, ACK, data both ways, FIN both ways, and a new connection on the same ports",
        three,
        |script| {
            let mut connection = script.connection(40_000);
            script.syn(&mut connection);
            script.expect_flows(1, 0);
            script.server(&mut connection, SYN | ACK, b"");
            script.expect_flows(1, 0);
            script.client(&mut connection, ACK, b"");
            script.expect_flows(0, 1);
            script.client(&mut connection, ACK | PSH, b"GET /version");
            script.server(&mut connection, ACK, b"");
            script.server(&mut connection, ACK | PSH, b"{}");
            script.client(&mut connection, ACK, b"");
            script.close(&mut connection);
            script.expect_level(&connection, Level::Established);
            let again = &mut Connection { client_seq: 77, ..script.connection(40_000) };
            script.handshake(again);
            script.expect_flows(0, 1);
            assert_eq!(again.nat_port, connection.nat_port, "its NAT port is free for the same client");
        },
    )
    .on(ALL),
    Case::new(
        "counts",
        "Each direction counts its packets and bytes, and notes flags, sequence numbers and the time",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            script.at(START + 5);
            script.client(&mut connection, ACK, b"12345");
            script.at(START + 7);
            script.server(&mut connection, ACK | FIN, b"123");
            let (client, backend) = script.directions(&connection);
            let seen = |seen: lb_common::layout::Seen| {
                (seen.packets, seen.bytes, seen.next_seq, seen.ack, seen.flags, seen.at)
            };
            // SYN 0xfffffffe, ACK, 5 bytes; SYN-ACK 0xfffffffd, 3 bytes and a FIN.
            let header = if script.setting.v6 { 60 } else { 40 };
            let bytes = (3 * header + 5, 2 * header + 3);
            assert_eq!(seen(client.seen), (3, bytes.0, 4, 0xffff_fffe, SEEN_SYN, START + 5));
            assert_eq!(seen(backend.seen), (2, bytes.1, 2, 4, SEEN_SYN | SEEN_FIN, START + 7));
            assert_eq!((client.opened, backend.opened), (START, START));
            let counters = script.counters(0);
            assert_eq!((counters.opened, counters.established), (1, 1));
            assert_eq!((counters.unresolved, counters.ports_exhausted), (0, 0));
        },
    ),
    Case::new(
        "port translation",
        "VIP:9443 reaches the backends' 6443, and its replies come from 9443",
        three,
        |script| {
            let mut connection = script.translated(40_000);
            script.handshake(&mut connection);
            script.client(&mut connection, ACK, b"up");
            script.server(&mut connection, ACK, b"down");
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "both services",
        "One client port on two services is two flows, with two NAT ports where they share a backend",
        one,
        |script| {
            let mut one = script.connection(40_000);
            let mut other = script.translated(40_000);
            script.handshake(&mut one);
            script.handshake(&mut other);
            assert_ne!(one.nat_port, other.nat_port);
            script.client(&mut one, ACK, b"one");
            script.server(&mut other, ACK, b"other");
            script.server(&mut one, ACK, b"one");
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "syn with options and data",
        "A SYN with options and with data (TCP Fast Open) goes as it came",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            let mut syn = connection.from_client(SYN, b"early data");
            // MSS 1460, SACK permitted, time stamps, window scale 7.
            syn.tcp_options = vec![2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
            script.open(&mut connection, &syn.bytes());
            connection.client_seq = connection.client_seq.wrapping_add(11);
            script.server(&mut connection, SYN | ACK, b"");
            script.client(&mut connection, ACK, b"");
            script.expect_level(&connection, Level::Established);
        },
    )
    .on(ALL),
    Case::new("ecn", "A SYN that offers ECN (ECE and CWR) is a SYN", one, |script| {
        let mut connection = script.connection(40_000);
        let syn = connection.from_client(SYN | 0xc0, b"").bytes();
        script.open(&mut connection, &syn);
    }),
    Case::new(
        "ack too early",
        "An ACK before the backend has answered is forwarded, and completes nothing",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.syn(&mut connection);
            script.up(&connection, &connection.from_client(ACK, b"").bytes());
            let guess = connection.from_client(ACK, b"");
            script.up(&connection, &crate::frames::Segment { ack: 0, ..guess }.bytes());
            script.expect_level(&connection, Level::HalfOpen);
        },
    ),
    Case::new(
        "ack of something else",
        "Only an ACK of exactly the backend's SYN completes the handshake: a flood cannot guess it",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.syn(&mut connection);
            script.server(&mut connection, SYN | ACK, b"");
            for wrong in [1u32, u32::MAX, 0x8000_0000] {
                let mut ack = connection.from_client(ACK, b"");
                ack.ack = ack.ack.wrapping_add(wrong);
                script.up(&connection, &ack.bytes());
                script.expect_level(&connection, Level::HalfOpen);
            }
            script.client(&mut connection, ACK, b"");
            script.expect_level(&connection, Level::Established);
        },
    ),
    Case::new(
        "syn-ack from the client",
        "A SYN-ACK with the right number completes nothing",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.syn(&mut connection);
            script.server(&mut connection, SYN | ACK, b"");
            script.up(&connection, &connection.from_client(SYN | ACK, b"").bytes());
            script.expect_level(&connection, Level::HalfOpen);
        },
    ),
    Case::new(
        "ack lost",
        "Where the client's ACK is lost, its first data completes the handshake",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.syn(&mut connection);
            script.server(&mut connection, SYN | ACK, b"");
            script.server(&mut connection.clone(), SYN | ACK, b"");
            connection.backend_seq = connection.backend_seq.wrapping_sub(1);
            script.server(&mut connection, SYN | ACK, b"");
            script.client(&mut connection, ACK | PSH, b"data");
            script.expect_level(&connection, Level::Established);
        },
    ),
    Case::new(
        "fin completes",
        "A client that connects and closes at once: its FIN carries the ACK",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.syn(&mut connection);
            script.server(&mut connection, SYN | ACK, b"");
            script.client(&mut connection, FIN | ACK, b"");
            script.expect_level(&connection, Level::Established);
            script.server(&mut connection, FIN | ACK, b"");
        },
    ),
    Case::new(
        "retransmitted syn, no answer",
        "A SYN that a backend leaves unanswered tries others: all three are tried in few attempts, one flow at a time",
        three,
        |script| {
            let mut tried = BTreeSet::new();
            for attempt in 0..16u32 {
                let mut connection = script.connection(40_000);
                script.syn(&mut connection);
                script.expect_flows(1, 0);
                tried.insert(connection.backend);
                let entry = script.flows.half_open[&connection.client_key()];
                assert_eq!(entry.attempt, attempt);
                assert_eq!(connection.nat_port, 40_000, "the port of the last attempt is free again");
            }
            assert_eq!(tried.len(), usize::from(BACKENDS), "backends tried: {tried:?}");
            let unanswered: u64 = (0..BACKENDS).map(|id| script.counters(id).unanswered).sum();
            assert_eq!(unanswered, 15, "each attempt but the last one");
        },
    ),
    Case::new(
        "many attempts",
        "The count of attempts wraps after 256, and the flow can still be opened",
        three,
        |script| {
            let mut connection = script.connection(40_000);
            for _ in 0..260 {
                connection = script.connection(40_000);
                script.syn(&mut connection);
            }
            script.server(&mut connection, SYN | ACK, b"");
            script.client(&mut connection, ACK, b"");
        },
    ),
    Case::new(
        "retransmitted syn, late answer",
        "The SYN-ACK of a backend that was given up belongs to no flow any more",
        three,
        |script| {
            let mut first = script.connection(40_000);
            script.syn(&mut first);
            let second = (0..16).find_map(|_| {
                let mut second = script.connection(40_000);
                script.syn(&mut second);
                (second.backend != first.backend).then_some(second)
            });
            let mut second = second.expect("another backend is tried");
            let late = first.from_backend(SYN | ACK, b"").bytes();
            script.passes(&late, lb_common::reason::PassReason::NoService);
            script.server(&mut second, SYN | ACK, b"");
        },
    ),
    Case::new(
        "retransmitted syn, answered",
        "Once the backend has answered, a retransmitted SYN stays with it: the SYN-ACK was lost on its way",
        three,
        |script| {
            let mut connection = script.connection(40_000);
            script.syn(&mut connection);
            script.server(&mut connection, SYN | ACK, b"");
            for _ in 0..8 {
                let syn = script.connection(40_000).from_client(SYN, b"").bytes();
                script.up(&connection, &syn);
            }
            script.server(
                &mut Connection { backend_seq: u32::MAX - 2, ..connection.clone() },
                SYN | ACK,
                b"",
            );
            script.client(&mut connection, ACK, b"");
            script.expect_flows(0, 1);
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "refused",
        "A backend's RST reaches the client and frees the NAT port at once",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.syn(&mut connection);
            script.server(&mut connection, RST | ACK, b"");
            script.expect_gone(&connection);
            assert_eq!((script.counters(0).refused, script.counters(0).unanswered), (1, 0));
            let mut other = script.of_client(101, 40_000);
            script.handshake(&mut other);
            assert_eq!(other.nat_port, 40_000);
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "given up",
        "A client's RST during the handshake reaches the backend and ends the flow",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.syn(&mut connection);
            script.server(&mut connection, SYN | ACK, b"");
            script.client(&mut connection, RST, b"");
            script.expect_gone(&connection);
            assert_eq!(script.counters(0).refused, 0, "the client gave up, not the backend");
            script.drops(&connection.from_client(RST, b"").bytes(), DropReason::UnknownFlow);
        },
    ),
    Case::new(
        "hairpin",
        "A backend that connects to the VIP and is balanced to itself sees the VIP as its peer, and is forwarded both ways",
        one,
        |script| {
            let kubelet = SocketAddr::new(script.setting.backend(0).ip(), 40_000);
            let connection = script.between(kubelet, script.setting.service());
            let mut connection = Connection { client_mac: backend_mac(0), ..connection };
            script.handshake(&mut connection);
            script.client(&mut connection, ACK, b"to myself");
            script.server(&mut connection, ACK, b"from myself");
            script.close(&mut connection);
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "hairpin from the server's port",
        "Even where the backend's own client uses the port that it serves on, both flows keep apart",
        one,
        |script| {
            let connection = script.between(script.setting.backend(0), script.setting.service());
            let mut connection = Connection { client_mac: backend_mac(0), ..connection };
            script.handshake(&mut connection);
            assert_ne!(connection.nat_port, 6443, "it is reserved");
            script.client(&mut connection, ACK, b"to myself");
            script.server(&mut connection, ACK, b"from myself");
        },
    ),
    Case::new(
        "two routers",
        "Replies go to the Ethernet address that each client's packets came from",
        one,
        |script| {
            let mut one = script.connection(40_000);
            let mut other = Connection { client_mac: OTHER_ROUTER_MAC, ..script.connection(40_001) };
            script.handshake(&mut one);
            script.handshake(&mut other);
            script.server(&mut one, ACK, b"one");
            script.server(&mut other, ACK, b"other");
        },
    ),
    Case::new(
        "router fails over",
        "When the client's packets come from another router, its replies go there",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            connection.client_mac = OTHER_ROUTER_MAC;
            script.client(&mut connection, ACK, b"data");
            script.server(&mut connection, ACK, b"data");
            connection.client_mac = ROUTER_MAC;
            script.client(&mut connection, ACK, b"data");
            script.server(&mut connection, ACK, b"data");
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "router fails over in the handshake",
        "A retransmitted SYN from another router brings the SYN-ACK there: the first one was lost with the old router",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.syn(&mut connection);
            script.server(&mut connection.clone(), SYN | ACK, b"");
            connection.client_mac = OTHER_ROUTER_MAC;
            let mut syn = connection.from_client(SYN, b"");
            syn.seq = syn.seq.wrapping_sub(1);
            script.up(&connection, &syn.bytes());
            script.server(&mut connection, SYN | ACK, b"");
            script.client(&mut connection, ACK, b"");
            script.server(&mut connection, ACK, b"data");
        },
    ),
    Case::new(
        "next hop unknown",
        "While the backend's next hop is unresolved a SYN is dropped without a trace, but for the counter",
        |setting| {
            let mut world = one(setting);
            world.backend_mut(0).hop = Hop::NONE;
            world
        },
        |script| {
            let mut connection = script.connection(40_000);
            let syn = connection.from_client(SYN, b"").bytes();
            script.drops(&syn, DropReason::NextHopUnknown);
            assert_eq!(script.counters(0).unresolved, 1);
            assert_eq!(script.counters(0).opened, 0);
            script.change(|world| world.backend_mut(0).hop = backend_entry(false, 0).hop);
            script.handshake(&mut connection);
        },
    ),
    Case::new(
        "next hop lost",
        "A flow whose next hop becomes unknown loses packets, not itself; replies still go out",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            script.change(|world| world.backend_mut(0).hop = Hop::NONE);
            script.drops(&connection.from_client(ACK, b"data").bytes(), DropReason::NextHopUnknown);
            assert_eq!(script.counters(0).unresolved, 1);
            script.server(&mut connection, ACK, b"data");
            script.change(|world| world.backend_mut(0).hop = backend_entry(false, 0).hop);
            script.client(&mut connection, ACK, b"data");
        },
    ),
    Case::new(
        "drained",
        "A service without usable backends, or without a service at all, keeps the flows it has",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            let service = connection.service;
            script.change(|world| world.service_mut(service).usable = 0);
            script.client(&mut connection, ACK, b"data");
            script.server(&mut connection, ACK, b"data");
            let syn = script.connection(40_001).from_client(SYN, b"").bytes();
            script.resets(&syn, TransmitReason::ResetNoBackend);
            script.change(|world| world.tables.services.clear());
            script.client(&mut connection, ACK, b"data");
            script.server(&mut connection, ACK, b"data");
            script.passes(&syn, lb_common::reason::PassReason::NoService);
        },
    ),
    Case::new(
        "table full",
        "Where the table of established flows is full, the handshake cannot complete; when a flow has gone, it does",
        |setting| World { max_flows: 2, ..one(setting) },
        |script| {
            let mut flows = [40_000, 40_001, 40_002].map(|port| script.connection(port));
            let [one, other, third] = &mut flows;
            script.handshake(one);
            script.handshake(other);
            script.syn(third);
            script.server(third, SYN | ACK, b"");
            let ack = third.from_client(ACK, b"").bytes();
            script.drops(&ack, DropReason::FlowTableFull);
            assert_eq!(script.counters(0).established, 2);
            script.client(one, ACK, b"data");
            script.server(other, ACK, b"data");
            // The client of the first reopens it, which takes its old entries away.
            script.close(one);
            script.syn(&mut script.connection(40_000));
            script.client(third, ACK, b"");
            script.expect_level(third, Level::Established);
            script.expect_flows(1, 2);
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "spread",
        "The connections of one client spread over the backends, within a tenth of a third each",
        three,
        |script| {
            let mut shares = [0u32; 3];
            for port in 0..600 {
                let mut connection = script.connection(30_000 + port);
                script.syn(&mut connection);
                shares[usize::from(connection.backend)] += 1;
                // So that the tables stay small.
                script.server(&mut connection, RST | ACK, b"");
            }
            assert!(shares.iter().all(|share| share.abs_diff(200) <= 20), "{shares:?}");
        },
    ),
    Case::new(
        "same backend",
        "The same client and port reach the same backend, whatever came between",
        three,
        |script| {
            let mut first = script.connection(40_000);
            script.handshake(&mut first);
            script.client(&mut first, RST | ACK, b"");
            script.handshake(&mut script.connection(40_001));
            let mut again = script.connection(40_000);
            script.handshake(&mut again);
            assert_eq!(again.backend, first.backend);
        },
    ),
];
