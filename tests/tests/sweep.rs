//! Sweeping real tables: the two directions of a flow come by in any order, each flow counts once, what is over goes with both of
//! them and is told of, and half a flow does not stay. Needs root.
//!
//! Runner: once

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_common::{layout::FlowKey, wire::Be16};
use lb_tests::{
    kernel_tables::can_load,
    mass::{Mass, Opened, Service, VIP, VIP6, client},
};
use lb_userspace::{
    config::model::Flows,
    connections::tap::{News, tap},
    dataplane::{Census, FlowTables},
    flows::{Carried, Timeouts},
};

/// So many that each order of the two directions comes up.
const FLOWS: u32 = 200;
const BACKENDS: u16 = 4;
const IDLE: u32 = 3600;

fn services() -> [(IpAddr, SocketAddr); 2] {
    [("100.64.0.1", VIP.into()), ("fd20::1", VIP6.into())]
        .map(|(first, vip): (&str, IpAddr)| (first.parse().expect("an address"), SocketAddr::new(vip, 6443)))
}

/// A data plane with flows of both families: its clients' addresses, the service, and where each was sent.
fn opened() -> (Mass, BTreeMap<(SocketAddr, SocketAddr), Opened>) {
    let limits = Flows {
        max: 4096,
        half_open_max: 1024,
        sources_max: 1024,
        idle_timeout: Duration::from_secs(IDLE.into()),
        rebuild: Duration::ZERO,
    };
    let [(_, v4), (_, v6)] = services();
    let mass =
        Mass::load(&limits, &[Service::nat(v4, 0..BACKENDS), Service::nat(v6, BACKENDS..2 * BACKENDS)])
            .expect("the programs load");
    let mut runner = mass.runner();
    let mut flows = BTreeMap::new();
    for (first, service) in services() {
        for n in 0..FLOWS {
            let from = client(first, n);
            let opened = runner.open(from, service).expect("the kernel runs it").expect("a handshake");
            flows.insert((from, service), opened);
        }
    }
    (mass, flows)
}

fn sweep(tables: &mut FlowTables, now: u32) -> Census {
    tables.sweep(now, &Timeouts::new(IDLE), &(0..2 * BACKENDS).collect()).expect("the tables can be read")
}

#[test]
fn what_is_over_goes_with_both_directions_and_is_told_of() {
    if !can_load("what_is_over_goes_with_both_directions_and_is_told_of") {
        return;
    }
    let (mut mass, flows) = opened();
    let (tap, outlet) = tap();
    tap.open(true);
    let clock = mass.clock();
    let mut tables = mass.dataplane().flow_tables().expect("the tables are there").told_to(tap);
    let found = sweep(&mut tables, clock + IDLE);
    assert_eq!((found.established, found.closing, found.removed), (flows.len() as u64, 0, 0));
    let figures = found.by_backend.values().map(|backend| (backend.active, backend.figures));
    let (active, packets) = figures.fold((0, (0, 0)), |(active, (inward, outward)), (flows, figures)| {
        (active + flows, (inward + figures.packets_in, outward + figures.packets_out))
    });
    // A SYN and the handshake's ACK, and the SYN-ACK between them.
    assert_eq!((active, packets), (flows.len() as u64, (2 * flows.len() as u64, flows.len() as u64)));

    let found = sweep(&mut tables, clock + IDLE + 1);
    assert_eq!((found.established, found.closing, found.removed), (0, 0, flows.len() as u64));
    let mut told = BTreeMap::new();
    while let Ok(next) = outlet.next(Duration::ZERO) {
        let News::Removed(removed) = next.news else { panic!("{:?}", next.news) };
        for flow in removed {
            let Carried { packets_in, packets_out, .. } = flow.carried;
            assert_eq!((packets_in, packets_out, flow.ended), (2, 1, None), "{flow:?}");
            let to = (flow.backend.expect("NAT"), flow.nat.expect("NAT"));
            assert_eq!(told.insert((flow.id.client, flow.id.service), to), None, "told twice");
        }
    }
    let opened: BTreeMap<_, _> = flows.iter().map(|(ends, to)| (*ends, (to.backend, to.nat))).collect();
    assert_eq!(told, opened);
    let found = sweep(&mut tables, clock + IDLE + 1);
    assert_eq!((found.established, found.closing, found.removed), (0, 0, 0), "nothing is left");
}

#[test]
fn half_a_flow_goes_and_whole_ones_stay() {
    if !can_load("half_a_flow_goes_and_whole_ones_stay") {
        return;
    }
    const HALVES: u64 = 5;
    let (mut mass, flows) = opened();
    let of_v4 = flows.iter().filter(|((_, service), _)| service.is_ipv4());
    for (n, ((client, service), opened)) in of_v4.take(2 * HALVES as usize).enumerate() {
        let (src, dst) = if n % 2 == 0 { (client, service) } else { (&opened.backend, &opened.nat) };
        let (SocketAddr::V4(src), SocketAddr::V4(dst)) = (src, dst) else { panic!("of IPv4") };
        let (src_port, dst_port) = (Be16::new(src.port()), Be16::new(dst.port()));
        mass.lose(&FlowKey::new((*src.ip()).into(), src_port, (*dst.ip()).into(), dst_port))
            .expect("it is there");
    }
    let (clock, whole) = (mass.clock(), flows.len() as u64 - 2 * HALVES);
    let mut tables = mass.dataplane().flow_tables().expect("the tables are there");
    let found = sweep(&mut tables, clock + 10);
    // Of those without a forward direction it is not asked yet.
    assert_eq!((found.established, found.closing, found.removed), (whole, HALVES, 0));
    let found = sweep(&mut tables, clock + 11);
    assert_eq!((found.established, found.closing, found.removed), (whole, 0, 2 * HALVES));
    let found = sweep(&mut tables, clock + IDLE);
    assert_eq!((found.established, found.closing, found.removed), (whole, 0, 0));
}
