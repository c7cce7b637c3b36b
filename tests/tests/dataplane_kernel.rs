//! The table of cases in the kernel, through `BPF_PROG_TEST_RUN`, and step by step the same as on the host. Needs root.
//!
//! Every run has pins and maps of its own; nothing is attached to an interface.
//!
//! Runner: once

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io::{self, Read as _},
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

use lb_common::{
    layout::{SERVICE_REBUILDS, VipEntry},
    reason::{DropReason, TransmitReason, Verdict},
    tables::Level,
};
use lb_tests::{
    cases::{self, Connection, Setting, Step, describe, host_sockets},
    frames::{ACK, Advert, Arp, Mac, SYN},
    host_tables::HostPlane,
    kernel_tables::{KernelPlane, can_load},
    netns::Netns,
    plane::{MAX_FLOWS, Plane as _, SERVICE, VIP, World},
};
use lb_userspace::dataplane::ProgramCost;
use socket2::{Domain, Socket, Type};

const PEER_MAC: Mac = [0x02, 0, 0, 0, 0, 0x03];

fn connection(port: u16) -> Connection {
    Connection::from(SocketAddr::from(([172, 17, 0, 100], port)), SERVICE)
}

/// Loads the programs. The verifier's log is what makes a refusal worth reading.
fn load(max_flows: u32) -> KernelPlane {
    KernelPlane::load(max_flows).unwrap_or_else(|error| panic!("the XDP programs do not load\n{error:?}"))
}

#[test]
fn every_case_in_the_kernel_as_on_the_host() {
    if !can_load("every_case_in_the_kernel_as_on_the_host") {
        return;
    }
    // One load for each size of the flow table; a case starts from empty tables.
    let mut planes: BTreeMap<u32, KernelPlane> = BTreeMap::new();
    let mut failed = vec![];
    for case in cases::all() {
        let world = case.world();
        let kernel = match planes.entry(world.max_flows) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(load(world.max_flows)),
        };
        let played = catch_unwind(AssertUnwindSafe(|| {
            let in_kernel = case.play(kernel);
            let on_host = case.play(&mut HostPlane::new(&world));
            assert_same(&in_kernel, &on_host);
        }));
        if played.is_err() {
            failed.push(format!("{}: {}", case.name(), case.sentence));
        }
    }
    assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), cases::all().count(), failed.join("\n"));
}

fn assert_same(in_kernel: &[Step], on_host: &[Step]) {
    assert_eq!(in_kernel.len(), on_host.len(), "as many frames");
    for (n, (kernel, host)) in in_kernel.iter().zip(on_host).enumerate() {
        let what = describe(&kernel.input);
        assert_eq!(kernel.input, host.input, "frame {n}: the case plays the same");
        assert_eq!(kernel.outcome, host.outcome, "frame {n}, {what}: kernel left, host right");
        assert_eq!(kernel.notes, host.notes, "frame {n}, {what}: kernel left, host right");
        assert_eq!(kernel.flows, host.flows, "frame {n}, {what}: kernel left, host right");
    }
}

/// How many instructions the verifier may look at, in a program and in all of them. Linux 6.18 looks at 290,000, 6.1 at 360,000,
/// of which 150,000 are for one program.
const STEPS_OF_A_PROGRAM: u32 = 250_000;
const STEPS_OF_ALL: u32 = 500_000;

#[test]
fn the_programs_load_and_are_small() {
    if !can_load("the_programs_load_and_are_small") {
        return;
    }
    let costs = load(MAX_FLOWS).dataplane().program_costs().expect("the programs are loaded");
    let mut sum = 0;
    for cost in costs {
        println!("{cost:?}");
        let ProgramCost { name, instructions, steps } = cost;
        // The kernel limits a program to a million verified instructions; a size that doubles unnoticed gets there.
        assert!(instructions.is_none_or(|count| count < 4_000), "{name}: {instructions:?}");
        assert!(steps.is_none_or(|steps| steps < STEPS_OF_A_PROGRAM), "{name}: {steps:?}");
        sum += steps.unwrap_or(0);
    }
    println!("{sum} steps in all");
    assert!(sum < STEPS_OF_ALL, "each is a microsecond of a daemon's start");
}

#[test]
fn what_was_seen_of_others_is_read_by_any_thread() {
    if !can_load("what_was_seen_of_others_is_read_by_any_thread") {
        return;
    }
    let mut kernel = load(MAX_FLOWS);
    kernel.reset(&World::one_backend());
    let sightings = kernel.dataplane().sightings().expect("the pins are there");
    let (peer, vip) = (IpAddr::from([172, 16, 0, 3]), IpAddr::from(VIP));
    assert_eq!((sightings.advert(51, peer), sightings.claim(vip)), (None, None));
    let advert = Advert::new(PEER_MAC, peer, &[vip]);
    let before = monotonic_ns();
    kernel.run(&advert.bytes());
    let claim = Arp::request(PEER_MAC, VIP, VIP).bytes();
    kernel.run(&claim);
    kernel.run(&claim);
    let after = monotonic_ns();
    let reader = thread::spawn(move || {
        let seen = sightings.advert(51, peer).expect("it was seen");
        assert!((before..=after).contains(&seen.at_ns), "{before} {} {after}", seen.at_ns);
        assert_eq!((seen.mac, seen.priority, seen.version), (PEER_MAC, 100, 3));
        assert_eq!(sightings.adverts(), [(peer, 51, seen)]);
        assert_eq!((sightings.advert(52, peer), sightings.advert(51, vip)), (None, None));
        let claim = sightings.claim(vip).expect("it was claimed");
        assert!((before..=after).contains(&claim.at_ns));
        assert_eq!((claim.mac, claim.count), (PEER_MAC, 2));
        sightings
    });
    let sightings = reader.join().expect("the other thread");
    let dataplane = kernel.dataplane();
    dataplane.remove_vip(vip).expect("it is there");
    assert_eq!(sightings.claim(vip), None, "an address that is no VIP is nobody's business");
    dataplane.set_vip(vip, VipEntry::new(true)).expect("there is room");
    dataplane.remove_vip(vip).expect("also where nobody has claimed it");
}

/// A process on the node with the connections that [`host_sockets::sockets`] tells of, in the network of this thread. They
/// last as long as what it returns.
fn proxy(setting: Setting) -> io::Result<impl Sized> {
    let (client, service) = (setting.client(host_sockets::CLIENT), setting.service());
    let listener = Socket::new(Domain::for_address(service), Type::STREAM, None)?;
    listener.set_reuse_address(true)?;
    listener.bind(&service.into())?;
    listener.listen(8)?;
    // Until its first byte arrives, a connection is in its handshake.
    defer_accept(&listener)?;
    let connect = |port| -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(service), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(client, port).into())?;
        socket.connect(&service.into())?;
        Ok(socket)
    };
    let accept = |socket: &Socket| -> io::Result<Socket> {
        socket.send(b"x")?;
        let (mut accepted, _) = listener.accept()?;
        accepted.read_exact(&mut [0])?;
        Ok(accepted)
    };
    let open = connect(host_sockets::OPEN)?;
    let accepted = accept(&open)?;
    let over = connect(host_sockets::OVER)?;
    // Whoever closes first waits.
    drop(accept(&over)?);
    assert_eq!((&over).read(&mut [0])?, 0);
    drop(over);
    Ok((connect(host_sockets::OPENING)?, open, accepted, listener))
}

/// nix has no `TCP_DEFER_ACCEPT`.
fn defer_accept(listener: &Socket) -> io::Result<()> {
    let seconds: libc::c_int = 60;
    // SAFETY: the kernel reads a C int at the pointer, which is that of one, and the descriptor is open.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of_val(&seconds) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[test]
fn what_a_proxy_on_the_node_has_stays_its_own() {
    if !can_load("what_a_proxy_on_the_node_has_stays_its_own") {
        return;
    }
    for &setting in host_sockets::SETTINGS {
        // A network and a BPF file system of its own.
        let node = Netns::create("proxy", true).expect("root may");
        for address in [setting.service().ip(), setting.client(host_sockets::CLIENT)] {
            let nodad = if address.is_ipv6() { "nodad" } else { "" };
            node.ip(&format!("address add {address} dev lo {nodad}")).expect("loopback takes any address");
        }
        let played = node.run(|| {
            let _proxy = proxy(setting).expect("loopback connects");
            let in_kernel = host_sockets::beside_a_proxy(&mut load(MAX_FLOWS), setting);
            let mut host = HostPlane::new(&World::one_backend());
            host.host_sockets = host_sockets::sockets(setting).into();
            assert_same(&in_kernel, &host_sockets::beside_a_proxy(&mut host, setting));
        });
        played.expect("the namespaces can be entered");
    }
}

fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("the clock");
    std::time::Duration::from(now).as_nanos() as u64
}

#[test]
fn a_syn_flood_churns_half_open_flows_only() {
    if !can_load("a_syn_flood_churns_half_open_flows_only") {
        return;
    }
    let mut kernel = load(MAX_FLOWS);
    let world = World::one_backend();
    kernel.reset(&world);
    open(&mut kernel, &mut connection(40_000));
    // Twice as many flows as the table of half-open entries can hold.
    for n in 0..16_384u32 {
        let mut flood = connection(1_024 + (n % 60_000) as u16);
        flood.client.set_ip(std::net::Ipv4Addr::from(0x0a00_0000 + n).into());
        let action = kernel.run_uncounted(&flood.from_client(SYN, b"").bytes()).expect("the kernel runs it");
        assert_eq!(action, 3, "SYN {n} is sent");
    }
    let flows = kernel.flows();
    assert!(flows.level(Level::HalfOpen).len() <= 8_192);
    assert_eq!(flows.level(Level::Established).len(), 2, "the established flow is still there");
    let mut after = connection(40_001);
    open(&mut kernel, &mut after);
    assert_eq!(kernel.flows().level(Level::Established).len(), 4, "and a new one can be made");
}

#[test]
fn a_flood_of_packets_in_the_middle_churns_half_open_flows_only() {
    if !can_load("a_flood_of_packets_in_the_middle_churns_half_open_flows_only") {
        return;
    }
    let mut kernel = load(MAX_FLOWS);
    kernel.reset(&World::one_backend().with_flags(SERVICE_REBUILDS));
    let mut known = connection(40_000);
    open(&mut kernel, &mut known);
    // A backend that answers none of them.
    for n in 0..16_384u32 {
        let mut flood = connection(1_024 + (n % 60_000) as u16);
        flood.client.set_ip(std::net::Ipv4Addr::from(0x0a00_0000 + n).into());
        kernel.run_uncounted(&flood.from_client(ACK, b"").bytes()).expect("the kernel runs it");
    }
    let flows = kernel.flows();
    assert!(flows.level(Level::HalfOpen).len() <= 8_192);
    assert_eq!(flows.level(Level::Established).len(), 2, "the established flow is still there");
    let outcome = kernel.run(&known.from_client(ACK, b"data").bytes());
    assert_eq!(outcome.verdict, Verdict::Transmit(TransmitReason::ToBackend));
    let mut after = connection(40_001);
    open(&mut kernel, &mut after);
    assert_eq!(kernel.flows().level(Level::Established).len(), 4, "and a new one can be made");
}

fn open(kernel: &mut KernelPlane, connection: &mut Connection) {
    let syn = kernel.run(&connection.from_client(SYN, b"").bytes());
    let sent = lb_tests::frames::Packet::read(&syn.frame).expect("the SYN goes out");
    connection.nat_port = sent.src().port();
    connection.client_seq = connection.client_seq.wrapping_add(1);
    kernel.run(&connection.from_backend(SYN | ACK, b"").bytes());
    connection.backend_seq = connection.backend_seq.wrapping_add(1);
    kernel.run(&connection.from_client(ACK, b"").bytes());
}

#[test]
fn a_jumbo_frame_is_forwarded_on_the_host_and_refused_by_the_kernel() {
    let payload = vec![0xa5; 9_000 - 40];
    let jumbo = connection(40_000).from_client(ACK, &payload).bytes();
    let outcome = HostPlane::new(&World::one_backend()).run(&jumbo);
    cases::check_outcome(&World::one_backend(), &jumbo, &outcome);
    assert_eq!(outcome.verdict, Verdict::Transmit(TransmitReason::ResetUnknownFlow));
    if !can_load("a_jumbo_frame_is_forwarded_on_the_host_and_refused_by_the_kernel") {
        return;
    }
    // The programs take a frame in one piece, and a test run lays the part beyond the first page out of their sight. An
    // interface would refuse the program or the MTU instead. When this changes, such a frame belongs into the cases.
    let mut kernel = load(MAX_FLOWS);
    kernel.reset(&World::one_backend());
    assert_eq!(kernel.run(&jumbo).verdict, Verdict::Drop(DropReason::BadIpHeader));
}
