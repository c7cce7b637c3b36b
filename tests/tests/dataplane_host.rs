//! The table of cases on the host: the shared code over plain collections. No root, milliseconds.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind},
};

use lb_common::{
    layout::{MacWord, SERVICE_HAS_LIMITS, VipEntry},
    reason::{DropReason, PassReason, TransmitReason, Verdict},
};
use lb_tests::{
    cases::{self, Connection, host_sockets},
    frames::{ACK, Link, SYN, Segment},
    host_tables::HostPlane,
    plane::{LINK, NODE_MAC, Plane as _, SECOND_LINK, SECOND_MAC, SERVICE, START_NS, World},
};

#[test]
fn every_case_on_the_host() {
    let mut failed = vec![];
    for case in cases::all() {
        let played = catch_unwind(AssertUnwindSafe(|| case.play(&mut HostPlane::new(&World::one_backend()))));
        if played.is_err() {
            failed.push(format!("{}: {}", case.name(), case.sentence));
        }
    }
    assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), cases::all().count(), failed.join("\n"));
}

#[test]
fn cases_have_names_of_their_own_and_a_sentence() {
    let names: BTreeSet<String> = cases::all().map(|case| case.name()).collect();
    assert_eq!(names.len(), cases::all().count());
    assert!(cases::all().all(|case| case.sentence.len() > 10), "each case says what it is about");
}

#[test]
fn a_frame_shorter_than_an_ethernet_header_is_passed() {
    // `BPF_PROG_TEST_RUN` takes no such frame.
    let client = SocketAddr::from(([172, 17, 0, 100], 40_000));
    let frame = Connection::from(client, SERVICE).from_client(SYN, b"").bytes();
    let mut plane = HostPlane::new(&World::one_backend());
    for length in 0..14 {
        let outcome = plane.run(&frame[..length]);
        assert_eq!(outcome.verdict, Verdict::Pass(PassReason::TooShort));
        assert_eq!(outcome.frame, &frame[..length]);
    }
}

/// A flow whose client is behind one interface and whose backend is behind another.
#[test]
fn packets_leave_by_the_interface_that_their_hop_says() {
    let mut world = World::one_backend();
    let hop = &mut world.backend_mut(0).hop;
    (hop.if_index, hop.source) = (SECOND_LINK, MacWord::new(SECOND_MAC));
    let mut plane = HostPlane::new(&world);
    let mut connection = Connection::from(SocketAddr::from(([172, 17, 0, 100], 40_000)), SERVICE);
    connection.nat_port = 40_000;
    let send = |plane: &mut HostPlane, segment: Segment, from: u32, to: u32| {
        let outcome = plane.run_at(&segment.bytes(), from);
        assert!(matches!(outcome.verdict, Verdict::Transmit(_)), "{:?}", outcome.verdict);
        assert_eq!((plane.left_by(), outcome.redirected), (Some(to), from != to));
        let source = if to == SECOND_LINK { SECOND_MAC } else { NODE_MAC };
        assert_eq!(outcome.frame[6..12], source, "the address of the interface that it leaves by");
    };
    let reply = |connection: &Connection, flags| Segment {
        dst_mac: SECOND_MAC,
        ..connection.from_backend(flags, b"")
    };
    send(&mut plane, connection.from_client(SYN, b""), LINK, SECOND_LINK);
    connection.client_seq = connection.client_seq.wrapping_add(1);
    send(&mut plane, reply(&connection, SYN | ACK), SECOND_LINK, LINK);
    connection.backend_seq = connection.backend_seq.wrapping_add(1);
    send(&mut plane, connection.from_client(ACK, b""), LINK, SECOND_LINK);
    send(&mut plane, connection.from_client(ACK, b"data"), LINK, SECOND_LINK);
    send(&mut plane, reply(&connection, ACK), SECOND_LINK, LINK);
    // The client comes by a third interface now, and its replies leave there.
    let third = 9;
    send(&mut plane, connection.from_client(ACK, b"data"), third, SECOND_LINK);
    let outcome = plane.run_at(&reply(&connection, ACK).bytes(), SECOND_LINK);
    assert_eq!(
        (outcome.verdict, plane.left_by()),
        (Verdict::Transmit(TransmitReason::ToClient), Some(third))
    );
}

#[test]
fn a_source_gets_its_rate_back_with_time() {
    let mut world = World::one_backend();
    let service = world.service_mut(SERVICE);
    (service.source_rate, service.source_burst) = (2, 3);
    let mut plane = HostPlane::new(&world);
    let mut ports = 40_000..;
    let mut admitted = |plane: &mut HostPlane| {
        let port = ports.next().expect("there are ports");
        let connection = Connection::from(SocketAddr::from(([172, 17, 0, 100], port)), SERVICE);
        match plane.run(&connection.from_client(SYN, b"").bytes()).verdict {
            Verdict::Transmit(TransmitReason::ToBackend) => true,
            Verdict::Drop(DropReason::SourceRateLimited) => false,
            other => panic!("{other:?}"),
        }
    };
    let mut at = |plane: &mut HostPlane, after_ms: u64| {
        world.now_ns = START_NS + after_ms * 1_000_000;
        plane.apply(&world);
    };
    assert_eq!([(); 4].map(|()| admitted(&mut plane)), [true, true, true, false]);
    at(&mut plane, 499);
    assert!(!admitted(&mut plane), "two a second: not before half a second has gone");
    at(&mut plane, 500);
    assert_eq!([(); 2].map(|()| admitted(&mut plane)), [true, false]);
    at(&mut plane, 1_500);
    assert_eq!([(); 3].map(|()| admitted(&mut plane)), [true, true, false]);
    // Never more than the burst, however long nothing came; nor after a clock that seems to go backwards.
    at(&mut plane, 3_600_000_000);
    assert_eq!([(); 4].map(|()| admitted(&mut plane)), [true, true, true, false]);
    at(&mut plane, 3_599_000_000);
    assert!(!admitted(&mut plane));
}

#[test]
fn a_thousand_errors_a_second_and_no_more() {
    let mut world = World::one_backend();
    let mut plane = HostPlane::new(&world);
    let mut segment =
        Connection::from(SocketAddr::from(([172, 17, 0, 100], 40_000)), SERVICE).from_client(SYN, b"");
    segment.ttl = 1;
    let frame = segment.bytes();
    for second in 0..3 {
        world.now_ns = START_NS + second * 1_000_000_000;
        plane.apply(&world);
        for _ in 0..1_000 {
            assert_eq!(plane.run(&frame).verdict, Verdict::Transmit(TransmitReason::TimeExceeded));
        }
        assert_eq!(plane.run(&frame).verdict, Verdict::Drop(DropReason::TtlExpired));
    }
}

/// The time costs a helper call: a packet of a known flow does without.
#[test]
fn known_flows_do_not_ask_for_the_time() {
    let mut plane = HostPlane::new(&World::one_backend());
    let mut connection = Connection::from(SocketAddr::from(([172, 17, 0, 100], 40_000)), SERVICE);
    connection.nat_port = 40_000;
    plane.run(&connection.from_client(SYN, b"").bytes());
    connection.client_seq = connection.client_seq.wrapping_add(1);
    plane.run(&connection.from_backend(SYN | ACK, b"").bytes());
    connection.backend_seq = connection.backend_seq.wrapping_add(1);
    for _ in 0..3 {
        plane.run(&connection.from_client(ACK, b"data").bytes());
        let outcome = plane.run(&connection.from_backend(ACK, b"data").bytes());
        assert_eq!(outcome.verdict, Verdict::Transmit(TransmitReason::ToClient));
    }
    assert_eq!(plane.tables.clock_reads(), 0);
}

/// What keepalived sends; `golden/vrrp/README.md` says how it was recorded.
#[test]
fn keepalived_s_advertisements_and_announcements_are_noted() {
    let frame = |hex: &str| -> Vec<u8> {
        let hex = hex.trim().as_bytes().chunks(2);
        hex.map(|byte| u8::from_str_radix(str::from_utf8(byte).expect("text"), 16).expect("hex")).collect()
    };
    let link = |destination| Link { destination, source: [2, 0, 0, 0, 0, 3], tags: vec![] };
    let mut plane = HostPlane::new(&World::one_backend());
    for (n, (packet, to_us)) in (1..).zip([
        (include_str!("../golden/vrrp/v2-unicast.hex"), true),
        (include_str!("../golden/vrrp/v2-multicast-pass.hex"), false),
        (include_str!("../golden/vrrp/v3-unicast.hex"), true),
        (include_str!("../golden/vrrp/v3-multicast.hex"), false),
    ]) {
        let link = link(if to_us { NODE_MAC } else { [0x01, 0, 0x5e, 0, 0, 0x12] });
        let bytes = [link.bytes(etherparse::EtherType::IPV4), frame(packet)].concat();
        assert_eq!(plane.run(&bytes).verdict, Verdict::Pass(PassReason::Vrrp), "{n}");
        assert_eq!(plane.tables.sightings(), (0, n), "noted");
    }
    for packet in [
        include_str!("../golden/vrrp/v2-multicast-pass-priority-0.hex"),
        include_str!("../golden/vrrp/v3-multicast-priority-0.hex"),
    ] {
        let link = link([0x01, 0, 0x5e, 0, 0, 0x12]);
        let bytes = [link.bytes(etherparse::EtherType::IPV4), frame(packet)].concat();
        assert_eq!(plane.run(&bytes).verdict, Verdict::Pass(PassReason::Vrrp));
        assert_eq!(plane.tables.sightings(), (0, 4), "who gives up is not up");
    }
    // The recording is of another VIP over IPv6, and its sender has the address of our second interface.
    let mut world = World::one_backend();
    world.node.macs[1] = MacWord::ZERO;
    let vip6 = std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x10);
    world.node.add_vip(lb_common::wire::Be128::from(vip6));
    world.tables.vips.insert(vip6.into(), VipEntry::new(true));
    let mut plane = HostPlane::new(&world);
    for (n, packet) in
        (1..).zip([include_str!("../golden/vrrp/garp.hex"), include_str!("../golden/vrrp/na.hex")])
    {
        assert_eq!(plane.run(&frame(packet)).verdict, Verdict::Pass(PassReason::ForeignClaim));
        assert_eq!(plane.tables.sightings(), (n, 0));
    }
}

#[test]
fn a_flood_fills_no_backend() {
    let mut world = World::one_backend();
    world.backend_mut(0).max_connections = 4;
    let mut plane = HostPlane::new(&world.with_flags(SERVICE_HAS_LIMITS));
    let mut sent = 0;
    for n in 0..1_200u32 {
        let client = SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + n), 40_000));
        let outcome = plane.run(&Connection::from(client, SERVICE).from_client(SYN, b"").bytes());
        sent += u32::from(outcome.verdict == Verdict::Transmit(TransmitReason::ToBackend));
        // Up to a thousand may be clients that answer slowly; more than that are nobody's.
        assert!(n >= 1_024 || sent <= 4, "{sent} of {n}");
    }
    let client = SocketAddr::from(([172, 17, 0, 100], 40_000));
    let outcome = plane.run(&Connection::from(client, SERVICE).from_client(SYN, b"").bytes());
    assert_eq!(outcome.verdict, Verdict::Transmit(TransmitReason::ToBackend), "a real client gets through");
}

#[test]
fn what_a_proxy_on_the_node_has_stays_its_own() {
    for &setting in host_sockets::SETTINGS {
        let mut plane = HostPlane::new(&World::one_backend());
        plane.host_sockets = host_sockets::sockets(setting).into();
        host_sockets::beside_a_proxy(&mut plane, setting);
    }
}
