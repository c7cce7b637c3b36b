//! A million established flows, a SYN flood of millions of sources, full tables: on the real maps, by real frames. Needs
//! root, and about a gigabyte of memory.
//!
//! Runner: alone, threads 1, minutes 5

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use etherparse::{EtherType, LinkHeader, NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};
use lb_common::{
    layout::{BackendId, MODE_DSR_L2},
    reason::{DropReason, PassReason, TransmitReason, Verdict},
};
use lb_tests::mass::{
    CLIENT_MAC, Mass, NODE_MAC, Opened, Runner, Service, VIP, VIP6, XDP_DROP, XDP_TX, backend, backend_mac,
    client,
};
use lb_userspace::{
    config::model::{Flows, default_half_open_max},
    dataplane::Census,
    flows::Timeouts,
};
use nix::unistd::geteuid;

const IDLE_TIMEOUT: u32 = 24 * 3600;
/// Each takes about a third of the NAT ports at a backend.
const BACKENDS: BackendId = 50;
const BACKENDS6: BackendId = 10;

const FLOWS: u32 = 1_000_000;
const FLOWS6: u32 = 100_000;
const FLOOD: u32 = 5_000_000;
/// Of the flood's SYNs, after each so many a real client opens a connection.
const A_CLIENT_IN: u32 = 1_000;
/// Established flows that are looked at closely.
const SAMPLE: u32 = 1_000;

const CLIENTS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0));
const CLIENTS6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 0));
/// Those that come during the flood.
const LATECOMERS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 0, 0));

fn is_root() -> bool {
    let root = geteuid().is_root();
    if !root {
        println!("SKIP: loading XDP programs needs root");
    }
    root
}

fn flows(max: u32) -> Flows {
    Flows {
        max,
        half_open_max: default_half_open_max(max),
        sources_max: 65_536,
        idle_timeout: Duration::from_secs(IDLE_TIMEOUT.into()),
        rebuild: Duration::ZERO,
    }
}

fn vip(port: u16) -> SocketAddr {
    SocketAddr::new(VIP.into(), port)
}

fn threads() -> u32 {
    thread::available_parallelism().map_or(1, |count| count.get() as u32)
}

/// Does something for all numbers of a range, each thread for its share.
fn share(range: Range<u32>, plane: &Mass, work: impl Fn(&mut Runner<'_>, Range<u32>) + Sync) {
    let (count, length) = (threads(), range.end - range.start);
    thread::scope(|scope| {
        for n in 0..count {
            let begin = range.start + (u64::from(length) * u64::from(n) / u64::from(count)) as u32;
            let end = range.start + (u64::from(length) * u64::from(n + 1) / u64::from(count)) as u32;
            let (work, mut runner) = (&work, plane.runner());
            scope.spawn(move || work(&mut runner, begin..end));
        }
    });
}

/// Opens flows by whole handshakes, and returns how the backends see them.
fn open(plane: &Mass, first: IpAddr, service: SocketAddr, count: u32) -> Vec<Opened> {
    let mut opened = vec![None; count as usize];
    let share = (count as usize).div_ceil(threads() as usize);
    thread::scope(|scope| {
        for (chunk, n) in opened.chunks_mut(share).zip(0..) {
            let mut runner = plane.runner();
            scope.spawn(move || {
                for (place, n) in chunk.iter_mut().zip(n * share as u32..) {
                    let client = client(first, n);
                    let flow = runner.open(client, service).expect("the kernel runs the programs");
                    *place =
                        Some(flow.unwrap_or_else(|action| panic!("{client}, flow {n}: action {action}")));
                }
            });
        }
    });
    opened.into_iter().flatten().collect()
}

/// Numbers that look random, the same in each run (Steele, Lea, Flood: SplitMix64).
fn random(state: &mut u64) -> u32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 32) as u32
}

/// Sends data through an established flow, both ways, and looks at all of both frames with etherparse.
fn both_ways(runner: &mut Runner<'_>, client: SocketAddr, service: SocketAddr, flow: &Opened) {
    let id = match flow.backend.ip() {
        IpAddr::V4(ip) => u16::from(ip.octets()[3]),
        IpAddr::V6(ip) => ip.segments()[7] - 1,
    };
    assert_eq!((flow.backend, flow.mac), (backend(id, client.is_ipv6()), backend_mac(id)));
    let way = format!("{client} -> {service}, {} -> {}", flow.nat, flow.backend);
    let (action, sent) = runner.run_frame(&data(client, service)).expect("the kernel runs the programs");
    assert_eq!(action, XDP_TX, "{way}");
    looks_like(sent, backend_mac(id), flow.nat, flow.backend, &way);
    let (action, sent) =
        runner.run_frame(&data(flow.backend, flow.nat)).expect("the kernel runs the programs");
    assert_eq!(action, XDP_TX, "{way}, back");
    looks_like(sent, CLIENT_MAC, service, client, &way);
}

const PAYLOAD: &[u8] = b"GET /readyz HTTP/1.1\r\n\r\n";
const HOPS: u8 = 61;

fn data(src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(CLIENT_MAC, NODE_MAC);
    let ip = match (src.ip(), dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet.ipv4(src.octets(), dst.octets(), HOPS),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet.ipv6(src.octets(), dst.octets(), HOPS),
        _ => panic!("{src} and {dst} are not of one family"),
    };
    let packet = ip.tcp(src.port(), dst.port(), 1000, 64_240).ack(2000).psh();
    let mut frame = Vec::with_capacity(packet.size(PAYLOAD.len()));
    packet.write(&mut frame, PAYLOAD).expect("a frame is written to memory");
    frame
}

/// Addresses, ports, one hop less, both checksums, and the payload.
fn looks_like(frame: &[u8], mac: [u8; 6], src: SocketAddr, dst: SocketAddr, way: &str) {
    let headers = PacketHeaders::from_ethernet_slice(frame).expect("a frame");
    let ethernet = headers.link.and_then(LinkHeader::ethernet2).expect("Ethernet");
    assert_eq!((ethernet.destination, ethernet.source), (mac, NODE_MAC), "{way}");
    let Some(TransportHeader::Tcp(tcp)) = headers.transport else { panic!("{way}: no TCP") };
    let payload = headers.payload.slice();
    let (ends, hops, sum) = match headers.net {
        Some(NetHeaders::Ipv4(ip, _)) => {
            assert_eq!(ethernet.ether_type, EtherType::IPV4, "{way}");
            assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "{way}");
            let ends = (IpAddr::from(ip.source), IpAddr::from(ip.destination));
            (ends, ip.time_to_live, tcp.calc_checksum_ipv4(&ip, payload))
        }
        Some(NetHeaders::Ipv6(ip, _)) => {
            assert_eq!(ethernet.ether_type, EtherType::IPV6, "{way}");
            let ends = (IpAddr::from(ip.source), IpAddr::from(ip.destination));
            (ends, ip.hop_limit, tcp.calc_checksum_ipv6(&ip, payload))
        }
        _ => panic!("{way}: no IP"),
    };
    assert_eq!(ends, (src.ip(), dst.ip()), "{way}");
    assert_eq!((tcp.source_port, tcp.destination_port), (src.port(), dst.port()), "{way}");
    assert_eq!(hops, HOPS - 1, "{way}");
    assert_eq!(tcp.checksum, sum.expect("a checksum"), "{way}");
    assert_eq!(payload, PAYLOAD, "{way}");
}

/// Looks at a random thousand of the flows.
fn sample(plane: &Mass, first: IpAddr, service: SocketAddr, flows: &[Opened], seed: u64) {
    let (mut runner, mut state) = (plane.runner(), seed);
    for _ in 0..SAMPLE {
        let n = random(&mut state) % flows.len() as u32;
        both_ways(&mut runner, client(first, n), service, &flows[n as usize]);
    }
}

/// Walks over all flows, as the controller does it.
fn census(plane: &mut Mass) -> Census {
    let clock = plane.clock();
    let ids: BTreeSet<BackendId> = (0..BACKENDS + BACKENDS6).collect();
    let mut tables = plane.dataplane().flow_tables().expect("the tables are pinned");
    tables.sweep(clock, &Timeouts::new(IDLE_TIMEOUT), &ids).expect("the tables can be read")
}

/// The counters that are not 0, by name, less what they were.
fn moved(plane: &mut Mass, before: &[u64]) -> Vec<(&'static str, u64)> {
    let now = plane.dataplane().counters().expect("the counters can be read");
    let passes = PassReason::ALL.iter().map(|&reason| (reason.name(), Verdict::Pass(reason)));
    let drops = DropReason::ALL.iter().map(|&reason| (reason.name(), Verdict::Drop(reason)));
    let sent = TransmitReason::ALL.iter().map(|&reason| (reason.name(), Verdict::Transmit(reason)));
    passes
        .chain(drops)
        .chain(sent)
        .map(|(name, verdict)| {
            let index = verdict.counter() as usize;
            (name, now[index] - before.get(index).copied().unwrap_or(0))
        })
        .filter(|(_, count)| *count > 0)
        .collect()
}

fn dropped(plane: &mut Mass, reason: DropReason) -> u64 {
    plane.dataplane().counters().expect("the counters can be read")[reason.counter() as usize]
}

/// What the system has allocated for itself, in bytes: `Slab` and `Percpu` of `/proc/meminfo`.
fn kernel_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("/proc/meminfo");
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a line of /proc/meminfo");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    };
    value("Slab:") + value("Percpu:")
}

fn rate(count: u32, since: Instant) -> String {
    let seconds = since.elapsed().as_secs_f64();
    format!("{count} in {seconds:.1} s, {:.0} a second", f64::from(count) / seconds)
}

/// The whole of it: a million flows, their memory, five million forged SYNs, and everybody is still there.
#[test]
fn a_million_flows_outlive_a_syn_flood_of_five_million_sources() {
    if !is_root() {
        return;
    }
    let (service, service6) = (vip(6443), SocketAddr::new(VIP6.into(), 6443));
    let services =
        [Service::nat(service, 0..BACKENDS), Service::nat(service6, BACKENDS..BACKENDS + BACKENDS6)];
    let limits = flows(1 << 20);
    let mut plane = Mass::load(&limits, &services).expect("the programs load");

    let (map4, slab) = (plane.memory_of("ESTABLISHED4").expect("memory"), kernel_memory());
    let begin = Instant::now();
    let v4 = open(&plane, CLIENTS, service, FLOWS);
    println!("IPv4 flows opened: {}", rate(FLOWS, begin));
    let (used4, slab4) = (plane.memory_of("ESTABLISHED4").expect("memory"), kernel_memory());
    let map6 = plane.memory_of("ESTABLISHED6").expect("memory");
    let begin = Instant::now();
    let v6 = open(&plane, CLIENTS6, service6, FLOWS6);
    println!("IPv6 flows opened: {}", rate(FLOWS6, begin));
    let used6 = plane.memory_of("ESTABLISHED6").expect("memory");
    println!(
        "memory of an IPv4 flow: {} bytes by the map's own account (memlock), {} by Slab and Percpu of /proc/meminfo; \
         of an IPv6 flow: {} bytes (memlock); beside that {} MiB for each family, flows or not",
        (used4 - map4) / u64::from(FLOWS),
        slab4.saturating_sub(slab) / u64::from(FLOWS),
        (used6 - map6) / u64::from(FLOWS6),
        map4 >> 20,
    );
    assert!((used4 - map4) / u64::from(FLOWS) < 512, "a flow takes too much");

    let ports: BTreeSet<(SocketAddr, u16)> = v4.iter().map(|flow| (flow.backend, flow.nat.port())).collect();
    assert_eq!(ports.len(), v4.len(), "two flows have the same NAT port at the same backend");
    let begin = Instant::now();
    let found = census(&mut plane);
    println!("a walk over all flows took {:.1} s", begin.elapsed().as_secs_f64());
    assert_eq!(found.established, u64::from(FLOWS + FLOWS6));
    assert_eq!((found.half_open, found.closing, found.removed), (0, 0, 0));
    sample(&plane, CLIENTS, service, &v4, 1);
    sample(&plane, CLIENTS6, service6, &v6, 2);

    let before = plane.dataplane().counters().expect("the counters can be read");
    let latecomers = AtomicU64::new(0);
    let begin = Instant::now();
    share(0..FLOOD, &plane, |runner, range| {
        let mut state = u64::from(range.start);
        for n in range {
            // Each from another address and another port, all over the address space.
            let forged = SocketAddr::new(
                Ipv4Addr::from_bits(0x0b00_0000 + n * 37).into(),
                1 + (n.wrapping_mul(0x9e37_79b1) >> 16) as u16 % u16::MAX,
            );
            let _ = runner.syn(forged, service).expect("the kernel runs the programs");
            if n % A_CLIENT_IN == 0 {
                let late = client(LATECOMERS, n / A_CLIENT_IN);
                match runner.open(late, service).expect("the kernel runs the programs") {
                    Ok(flow) => {
                        latecomers.fetch_add(1, Relaxed);
                        both_ways(runner, late, service, &flow);
                    }
                    Err(action) => panic!("{late} was refused during the flood: action {action}"),
                }
                let known = random(&mut state) % FLOWS;
                both_ways(runner, client(CLIENTS, known), service, &v4[known as usize]);
            }
        }
    });
    println!(
        "the flood: {}; what became of the frames: {:?}",
        rate(FLOOD, begin),
        moved(&mut plane, &before)
    );

    let latecomers = latecomers.into_inner();
    assert_eq!(latecomers, u64::from(FLOOD / A_CLIENT_IN));
    let found = census(&mut plane);
    assert_eq!(found.established, u64::from(FLOWS + FLOWS6) + latecomers, "flows were evicted: {found:?}");
    assert!(found.half_open <= u64::from(limits.half_open_max), "{} half-open flows", found.half_open);
    assert!(found.half_open > u64::from(limits.half_open_max) / 4, "the flood did not fill the table");
    println!(
        "after it: {} established, {} half-open flows in a table of {} entries",
        found.established, found.half_open, limits.half_open_max
    );
    sample(&plane, CLIENTS, service, &v4, 3);
    sample(&plane, CLIENTS6, service6, &v6, 4);
    assert_eq!(dropped(&mut plane, DropReason::FlowTableFull), 0);
    assert_eq!(dropped(&mut plane, DropReason::Internal), 0);
    // A third of the ports are taken, and a new flow tries sixteen: hardly a forged SYN finds none.
    assert!(dropped(&mut plane, DropReason::NatPortsExhausted) < 100);
}

/// One source that opens connections as fast as it can is stopped at its limit; another is not.
#[test]
fn one_source_is_limited_while_others_open() {
    const RATE: u32 = 10;
    const BURST: u32 = 20;
    /// Each from another port: a SYN that is sent again is no new connection.
    const TRIES: u32 = 60_000;
    if !is_root() {
        return;
    }
    let service = vip(6443);
    let limited = Service { source_rate: RATE, source_burst: BURST, ..Service::nat(service, 0..BACKENDS) };
    let mut plane = Mass::load(&flows(65_536), &[limited]).expect("the programs load");
    let attacker = IpAddr::from([198, 51, 100, 7]);
    let (admitted, others) = (AtomicU64::new(0), AtomicU64::new(0));
    let begin = Instant::now();
    share(0..TRIES, &plane, |runner, range| {
        for n in range {
            let from = SocketAddr::new(attacker, 1024 + n as u16);
            if runner.syn(from, service).expect("the kernel runs the programs").is_ok() {
                admitted.fetch_add(1, Relaxed);
            }
            if n % 100 == 0 {
                let other = client(CLIENTS, n / 100);
                runner.open(other, service).expect("the kernel runs the programs").unwrap_or_else(|action| {
                    panic!("{other} has done nothing, and got action {action}");
                });
                others.fetch_add(1, Relaxed);
            }
        }
    });
    let seconds = begin.elapsed().as_secs_f64();
    let (admitted, others) = (admitted.into_inner(), others.into_inner());
    let limited = dropped(&mut plane, DropReason::SourceRateLimited);
    println!(
        "{admitted} of {TRIES} SYNs of one source were let in within {seconds:.1} s, and {others} others' connections"
    );
    // Two CPUs may take the same token.
    let may = f64::from(BURST) + seconds * f64::from(RATE);
    assert!(admitted >= u64::from(BURST), "{admitted}");
    assert!((admitted as f64) < 2.0 * may + 10.0, "{admitted} were let in, {may:.0} may be");
    assert_eq!(limited + admitted, u64::from(TRIES));
    assert_eq!(others, u64::from(TRIES / 100));
}

/// With a full table nothing that is established suffers. In nat new connections are counted drops; with direct server
/// return they need no entry.
#[test]
fn a_full_flow_table_harms_no_established_flow() {
    const MAX: u32 = 1024;
    if !is_root() {
        return;
    }
    let (service, direct) = (vip(6443), vip(7443));
    let services = [Service::nat(service, 0..4), Service { mode: MODE_DSR_L2, ..Service::nat(direct, 4..8) }];
    let mut plane = Mass::load(&flows(MAX), &services).expect("the programs load");
    let known = open(&plane, CLIENTS, service, MAX);
    assert_eq!(dropped(&mut plane, DropReason::FlowTableFull), 0);

    let mut runner = plane.runner();
    for n in MAX..MAX + 100 {
        let refused = runner.open(client(CLIENTS, n), service).expect("the kernel runs the programs");
        assert_eq!(refused, Err(XDP_DROP), "flow {n}");
    }
    // Replies do not come through here: SYN and ACK are all there is.
    let mut places = vec![];
    for n in 0..100 {
        let from = client(LATECOMERS, n);
        let there =
            runner.syn(from, direct).expect("the kernel runs the programs").expect("a SYN is sent on");
        for _ in 0..3 {
            let next = runner.ack(from, direct, 1).expect("the kernel runs the programs");
            assert_eq!(next, Ok(there), "{from}");
        }
        assert_eq!((there.nat, there.backend), (from, direct), "addresses stay");
        places.push((from, there));
    }
    assert_eq!(dropped(&mut plane, DropReason::FlowTableFull), 100);

    // A flood takes the half-open entries away, and with them all that was remembered of these.
    share(0..100_000, &plane, |runner, range| {
        for n in range {
            let forged = client(IpAddr::from([11, 0, 0, 0]), n);
            let _ = runner.syn(forged, service).expect("the kernel runs the programs");
        }
    });
    let mut runner = plane.runner();
    for (from, there) in places {
        let next = runner.ack(from, direct, 1).expect("the kernel runs the programs");
        assert_eq!(next, Ok(there), "{from} is led elsewhere");
    }
    for (n, flow) in (0..).zip(&known) {
        both_ways(&mut plane.runner(), client(CLIENTS, n), service, flow);
    }
    let found = census(&mut plane);
    assert_eq!(found.established, u64::from(MAX), "{found:?}");
}

/// A backend that all NAT ports lead to gets no more connections; those that it has go on.
#[test]
fn when_all_nat_ports_are_taken_that_is_counted() {
    const PORTS: u32 = 65_536 - 1024;
    if !is_root() {
        return;
    }
    let service = vip(6443);
    let mut plane = Mass::load(&flows(1 << 17), &[Service::nat(service, 0..1)]).expect("the programs load");
    // Their ports are all of them, and each gets its own.
    let known = open(&plane, CLIENTS, service, PORTS);
    let ports: BTreeSet<u16> = known.iter().map(|flow| flow.nat.port()).collect();
    assert_eq!(ports.len(), PORTS as usize);
    let mut runner = plane.runner();
    for n in PORTS..PORTS + 1000 {
        let refused = runner.open(client(CLIENTS, n), service).expect("the kernel runs the programs");
        assert_eq!(refused, Err(XDP_DROP), "flow {n}");
    }
    assert_eq!(dropped(&mut plane, DropReason::NatPortsExhausted), 1000);
    let counters = plane.dataplane().backend_counters(0).expect("the counters can be read");
    assert_eq!(counters.ports_exhausted, 1000);
    assert_eq!(census(&mut plane).established, u64::from(PORTS));
    sample(&plane, CLIENTS, service, &known, 5);
}
