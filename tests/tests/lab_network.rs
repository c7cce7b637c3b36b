//! The lab's networks and tools for all modes and both families, without xvip: IPv6, backends of direct return,
//! tunnels, routers, bulk data, captures. Needs root, for the network namespaces.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Output;
use std::time::{Duration, Instant};

use etherparse::{IpNumber, PacketBuilder};
use lb_tests::capture::Capture;
use lb_tests::network::NARROW_MTU;
use lb_tests::ping::{Answer, Ping, ping};
use lb_tests::plain::Direction;
use lb_tests::topology::{API_PORT, Bulk, Connections, Family, Lab, Mode, PLAIN_PORT, host};
use lb_tests::wait;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};

type TestResult = Result<(), Box<dyn Error>>;

/// Generous, because the machine may be busy; nothing waits for it unless something is wrong.
const SOON: Duration = Duration::from_secs(60);

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn every_machine_has_both_addresses_and_they_are_reached() -> TestResult {
    let lab = Lab::builder().lbs(0).masters(2).ipv6().build()?;
    let version =
        text(&lab.curl(&[&format!("https://{}/version", lab.master(1).socket_address_of(Family::V6))])?);
    assert!(version.contains("master2"), "{version}");
    let headers = text(&lab.curl(&["-I", "-X", "GET", &lab.master_url(0, "/livez")])?);
    assert!(headers.contains("x-peer: 172.16.0.100:"), "not as an IPv4-mapped address: {headers}");
    for family in Family::BOTH {
        let to = lab.master(0).address_of(family);
        assert_eq!(ping(lab.client(), to, &Ping::default())?, Answer::Reply { from: to });
        assert!(lab.client().addresses()?.contains(&lab.client_address(family)));
    }
    Ok(())
}

#[test]
fn a_backend_of_direct_return_answers_for_the_vip_and_tells_nobody() -> TestResult {
    let lab = Lab::builder().lbs(0).masters(2).mode(Mode::DsrL2).families(&Family::BOTH).build()?;
    let quick = Ping { timeout: Duration::from_millis(500), ..Ping::default() };
    for family in Family::BOTH {
        let vip = family.vip();
        let neighbour = |words: &str| lab.client().ip(&format!("neighbour {words}"));
        let answer = ping(lab.client(), vip, &quick)?;
        assert!(!matches!(answer, Answer::Reply { .. }), "{vip}: somebody says where it is: {answer:?}");
        // What an LB does by rewriting the address, the client does by knowing it.
        for (index, mac) in ["02:00:ac:10:00:04", "02:00:ac:10:00:05"].into_iter().enumerate() {
            neighbour(&format!("replace {vip} lladdr {mac} dev eth0"))?;
            let version = text(&lab.curl(&["--max-time", "5", &lab.vip_url_of(family, "/version")])?);
            assert!(version.contains(lab.master(index).name()), "{version}");
        }
        neighbour(&format!("delete {vip} dev eth0"))?;
    }
    Ok(())
}

/// A UDP datagram from the client to a port at the VIP, inside of a packet from the client to `to`.
fn tunnelled(lab: &Lab, to: IpAddr, vip: IpAddr, port: u16) -> Vec<u8> {
    let packet = |from: IpAddr, to: IpAddr| match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
        _ => panic!("{from} and {to} are of two families"),
    };
    let mut inner = Vec::new();
    packet(lab.client_address(Family::of(vip)), vip).udp(4000, port).write(&mut inner, b"hello").unwrap();
    let protocol = if vip.is_ipv4() { IpNumber::IPV4 } else { IpNumber::IPV6 };
    let mut outer = Vec::new();
    packet(lab.client_address(Family::of(to)), to).write(&mut outer, protocol, &inner).unwrap();
    outer
}

/// Sends an IP packet as it is.
fn send_raw(lab: &Lab, to: IpAddr, packet: &[u8]) -> TestResult {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let open = || socket(family, SockType::Raw, SockFlag::empty(), SockProtocol::Raw);
    let socket = lab.client().run(open)??;
    let to = SockaddrStorage::from(SocketAddr::new(to, 0));
    sendto(socket.as_raw_fd(), packet, &to, MsgFlags::empty())?;
    Ok(())
}

#[test]
fn a_backend_takes_the_outer_header_off_whatever_the_families() -> TestResult {
    let lab = Lab::builder().lbs(0).masters(1).mode(Mode::DsrIpip).ipv6().build()?;
    let master = lab.master(0);
    for inner in Family::BOTH {
        let receiver = master.machine().run(|| UdpSocket::bind((inner.vip(), 4001)))??;
        receiver.set_read_timeout(Some(Duration::from_secs(5)))?;
        for outer in Family::BOTH {
            let to = master.address_of(outer);
            send_raw(&lab, to, &tunnelled(&lab, to, inner.vip(), 4001))?;
            let mut got = [0; 16];
            let (count, from) =
                receiver.recv_from(&mut got).map_err(|e| format!("{inner:?} in {outer:?}: {e}"))?;
            assert_eq!(&got[..count], b"hello");
            assert_eq!(from.ip(), lab.client_address(inner), "{inner:?} in {outer:?}");
            if let Some(count) = master.decapsulated(outer, inner) {
                assert_eq!(count, 1, "{inner:?} in {outer:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_backend_without_tunnels_takes_nothing_off() -> TestResult {
    let lab = Lab::builder().lbs(0).masters(1).mode(Mode::DsrL2).build()?;
    let master = lab.master(0);
    let vip = Family::V4.vip();
    let receiver = master.machine().run(|| UdpSocket::bind((vip, 4001)))??;
    receiver.set_read_timeout(Some(Duration::from_millis(300)))?;
    send_raw(&lab, master.address(), &tunnelled(&lab, master.address(), vip, 4001))?;
    assert!(receiver.recv(&mut [0; 16]).is_err(), "the test above could not fail");
    assert_eq!(master.decapsulated(Family::V4, Family::V4), None);
    Ok(())
}

/// A lab whose client has the plain service of `master1` in front of it.
fn plain_lab() -> Result<(Lab, SocketAddr), Box<dyn Error>> {
    let lab = Lab::builder().lbs(0).masters(1).ipv6().build()?;
    let address = SocketAddr::new(lab.master(0).address(), PLAIN_PORT);
    Ok((lab, address))
}

#[test]
fn bulk_data_has_the_same_hash_at_both_ends() -> TestResult {
    let (lab, address) = plain_lab()?;
    let mut hashes = Vec::new();
    for family in Family::BOTH {
        for direction in [Direction::Upload, Direction::Download] {
            let address = SocketAddr::new(lab.master(0).address_of(family), PLAIN_PORT);
            let moved =
                lab.bulk(&Bulk { address, direction, bytes: 100_000_007, seed: 5, ..Bulk::default() })?;
            println!("{family:?} {direction:?}: {:.0} MB/s", 100.0 / moved.took.as_secs_f64());
            assert!(moved.is_intact(), "{moved:?}");
            assert_eq!((moved.server.as_str(), moved.direction), ("master1", direction));
            hashes.push(moved.received);
        }
    }
    hashes.dedup();
    assert_eq!(hashes.len(), 1, "the same seed makes the same bytes");
    let other = lab.bulk(&Bulk { address, bytes: 100_000_007, seed: 6, ..Bulk::default() })?;
    assert_ne!(other.received, hashes[0]);

    let late = Bulk { address, timeout: Duration::from_millis(20), ..Bulk::default() };
    let why = lab.bulk(&late).expect_err("a gigabyte in 20 ms").to_string();
    assert!(why.contains("timeout"), "{why}");
    Ok(())
}

#[test]
fn short_connections_are_counted_and_so_are_their_failures() -> TestResult {
    let (lab, address) = plain_lab()?;
    let begin = Instant::now();
    let many = Connections { address, count: 3000, ..Connections::default() };
    let client = lab.short(&many)?;
    client.wait_done(SOON)?;
    println!("3000 connections in {:?}", begin.elapsed());
    assert_eq!(client.failures(0), BTreeMap::new());
    assert_eq!(client.by_server(0), BTreeMap::from([("master1".to_owned(), 3000)]));

    // From several addresses in turn.
    lab.client().ip("address add 172.16.0.101/24 dev eth0")?;
    let sources = vec![lab.client_address(Family::V4), host(101).into()];
    let client = lab.short(&Connections { sources, count: 100, ..many.clone() })?;
    client.wait_done(SOON)?;
    assert_eq!((client.answered(0), client.failed(0)), (100, 0));

    lab.master(0).freeze()?;
    let quick = Connections { count: 3, timeout: Duration::from_millis(300), ..many.clone() };
    let client = lab.short(&quick)?;
    client.wait_done(SOON)?;
    assert_eq!(client.failures(0), BTreeMap::from([("timeout".to_owned(), 3)]));
    lab.master(0).kill();
    let client = lab.short(&quick)?;
    client.wait_done(SOON)?;
    assert_eq!(client.failures(0), BTreeMap::from([("refused".to_owned(), 3)]));
    Ok(())
}

#[test]
fn held_connections_say_where_they_are_and_when_they_end() -> TestResult {
    let (lab, address) = plain_lab()?;
    let client = lab.hold(&Connections { address, count: 1500, ..Connections::default() })?;
    client.wait_done(SOON)?;
    assert_eq!(client.held_by_server(), BTreeMap::from([("master1".to_owned(), 1500)]));
    assert_eq!((client.failed(0), client.breaks(0)), (0, 0));
    lab.master(0).kill();
    wait::until("all to break", SOON, || client.breaks(0) == 1500)?;
    assert_eq!(client.held_by_server(), BTreeMap::new());
    Ok(())
}

/// A TCP segment whose checksum is zero, written as 0xffff.
fn checksum_in_ones(lab: &Lab, to: IpAddr) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (lab.client_address(Family::V4), to) else { panic!("{to}") };
    let build = |payload: [u8; 2]| {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4(from.octets(), to.octets(), 64).tcp(4000, 9, 1, 1000);
        builder.write(&mut packet, &payload).unwrap();
        packet
    };
    let checksum = |packet: &[u8]| [packet[20 + 16], packet[20 + 17]];
    let mut packet = build(checksum(&build([0, 0])));
    assert_eq!(checksum(&packet), [0, 0]);
    packet[20 + 16..20 + 18].fill(0xff);
    packet
}

#[test]
fn a_capture_has_all_frames_and_finds_the_wrong_ones() -> TestResult {
    let lab = Lab::builder().lbs(0).masters(1).mode(Mode::DsrIpip).ipv6().build()?;
    let master = lab.master(0);
    let good = Capture::start(&lab, master.machine(), "eth0", "")?;
    for family in Family::BOTH {
        let to = master.address_of(family);
        assert_eq!(ping(lab.client(), to, &Ping::default())?, Answer::Reply { from: to });
        assert!(
            lab.curl(&["-g", &format!("https://{}/version", master.socket_address_of(family))])?
                .status
                .success()
        );
        // A closed port: an ICMP error about a UDP datagram.
        lab.client().run(|| UdpSocket::bind("[::]:0")?.send_to(b"x", (to, 9)))??;
    }
    let address = SocketAddr::new(master.address(), PLAIN_PORT);
    let moved = lab.bulk(&Bulk { address, bytes: 3_000_000, ..Bulk::default() })?;
    assert!(moved.is_intact());
    // Zero written in its other form is right, too.
    send_raw(&lab, master.address(), &checksum_in_ones(&lab, master.address()))?;
    let good = good.stop()?;
    assert!(good.frames > 2_000 && good.lost == 0, "{good:?}");
    assert_eq!(good.bad_frames()?, []);
    assert_eq!(good.ask("tcp.port == 4000 && tcp.checksum == 0xffff", &["frame.number"])?.len(), 1);
    assert_eq!(good.ask("icmp.type == 8 || icmpv6.type == 128", &["frame.number"])?.len(), 2);

    // One wrong byte in each of: the outer header, the inner one, the datagram, in IPv4 and IPv6.
    let bad = Capture::start(&lab, master.machine(), "eth0", "not arp")?;
    let (v4, v6) = (master.address_of(Family::V4), master.address_of(Family::V6));
    let (inner4, inner6) = (Family::V4.vip(), Family::V6.vip());
    // The checksum of an outer IPv4 header that a raw socket sends is the kernel's own work.
    for (to, vip, at) in [(v6, inner4, 40 + 10), (v4, inner4, 20 + 20 + 8), (v4, inner6, 20 + 40 + 8)] {
        let mut packet = tunnelled(&lab, to, vip, 4001);
        send_raw(&lab, to, &packet)?;
        packet[at] ^= 0x10;
        send_raw(&lab, to, &packet)?;
    }
    // Cut short: a header of TCP that promises more than there is.
    let mut malformed = Vec::new();
    let IpAddr::V4(to) = v4 else { panic!("{v4}") };
    PacketBuilder::ipv4([172, 16, 0, 100], to.octets(), 64).write(&mut malformed, IpNumber::TCP, &[0; 12])?;
    send_raw(&lab, v4, &malformed)?;
    wait::until("the last to be taken", SOON, || master.decapsulated(Family::V4, Family::V6) == Some(2))?;
    let bad = bad.stop()?;
    let found: Vec<u64> = bad.bad_frames()?.iter().map(|frame| frame.number).collect();
    let sent: Vec<u64> = bad
        .ask("eth.src == 02:00:ac:10:00:64 && !(icmpv6.type in {135, 136})", &["frame.number"])?
        .iter()
        .map(|number| number.parse())
        .collect::<Result<_, _>>()?;
    assert_eq!(sent.len(), 7, "{sent:?}");
    let expected: Vec<u64> = [1, 3, 5, 6].map(|index| sent[index]).to_vec();
    assert_eq!(found, expected, "{:?}", bad.bad_frames()?);
    Ok(())
}

/// What a request through a narrow link needs: routers that say so, hosts that learn it.
fn narrow(lab: &Lab, near: &str, far: &str) -> TestResult {
    let master = lab.master(0);
    for family in Family::BOTH {
        let (client, to) = (lab.client_address(family), master.address_of(family));
        let big = Ping { size: 1500, ..Ping::default() };
        // Who is asked to forward the packet over the narrow link answers.
        for (from, to) in [(lab.client(), to), (master.machine(), client)] {
            let answer = ping(from, to, &big)?;
            let Answer::TooBig { from: router, mtu } = answer else {
                return Err(format!("{family:?}, from {}: {answer:?}", from.name()).into());
            };
            assert_eq!(mtu, u32::from(NARROW_MTU));
            let known =
                |name| lab.router(name).is_ok_and(|r| r.addresses().is_ok_and(|a| a.contains(&router)));
            assert!(known(near) || known(far), "{router} is no router");
        }
        let fits = Ping { size: NARROW_MTU.into(), ..Ping::default() };
        assert_eq!(ping(lab.client(), to, &fits)?, Answer::Reply { from: to });
        // Two routers between.
        let mut hops = Vec::new();
        for ttl in 1..=3 {
            hops.push(ping(lab.client(), to, &Ping { ttl, ..Ping::default() })?);
        }
        assert!(matches!(hops[..2], [Answer::Expired { .. }, Answer::Expired { .. }]), "{hops:?}");
        assert_eq!(hops[2], Answer::Reply { from: to });
        for direction in [Direction::Upload, Direction::Download] {
            let address = SocketAddr::new(to, PLAIN_PORT);
            let moved = lab.bulk(&Bulk { address, direction, bytes: 5_000_000, ..Bulk::default() })?;
            assert!(moved.is_intact(), "{moved:?}");
        }
    }
    Ok(())
}

#[test]
fn a_narrow_link_on_the_clients_side() -> TestResult {
    let lab = Lab::builder().lbs(0).masters(1).ipv6().narrow_clients().build()?;
    narrow(&lab, "c-near", "c-far")
}

#[test]
fn a_narrow_link_on_the_servers_side() -> TestResult {
    let lab = Lab::builder().lbs(0).masters(1).ipv6().narrow_masters().build()?;
    narrow(&lab, "m-near", "m-far")
}

#[test]
fn the_last_server_alone_may_be_behind_the_narrow_link() -> TestResult {
    let lab = Lab::builder().lbs(0).masters(2).narrow_last_master().build()?;
    let big = Ping { size: 1500, ..Ping::default() };
    let to = lab.master(0).address();
    assert_eq!(ping(lab.client(), to, &big)?, Answer::Reply { from: to });
    assert!(matches!(ping(lab.client(), lab.master(1).address(), &big)?, Answer::TooBig { .. }));
    assert!(Lab::builder().mode(Mode::DsrL2).narrow_masters().build().is_err(), "no router in dsr-l2");
    Ok(())
}

#[test]
fn an_lb_between_two_networks_reaches_both_and_the_vip_is_reached_from_both() -> TestResult {
    let lab = Lab::builder().lbs(1).masters(1).ipv6().two_networks().build()?;
    let (lb, master) = (lab.lb(0).machine(), lab.master(0));
    lb.ip("address add 172.16.0.10/24 dev eth0")?;
    lb.ip("-6 address add fd10::10/64 dev eth0 nodad")?;
    let once = Ping { ttl: 1, ..Ping::default() };
    for family in Family::BOTH {
        for (from, to) in [
            (lb, lab.client_address(family)),
            (lb, master.address_of(family)),
            (lab.client(), family.vip()),
            (master.machine(), family.vip()),
        ] {
            assert_eq!(ping(from, to, &once)?, Answer::Reply { from: to }, "from {}", from.name());
        }
        // What does not go through the LB goes through the router.
        let to = lab.client_address(family);
        assert!(matches!(ping(master.machine(), to, &once)?, Answer::Expired { .. }));
        assert_eq!(ping(master.machine(), to, &Ping::default())?, Answer::Reply { from: to });
    }
    lab.cut("lb1-eth1")?;
    let quick = Ping { timeout: Duration::from_millis(300), ..once };
    assert!(!matches!(ping(lb, master.address(), &quick), Ok(Answer::Reply { .. })));
    let to = lab.client_address(Family::V4);
    assert_eq!(ping(lb, to, &quick)?, Answer::Reply { from: to });
    let config = lab.lb(0).config();
    assert_eq!(
        (config.interface.as_str(), config.interfaces),
        ("", vec!["eth0".to_owned(), "eth1".to_owned()])
    );
    Ok(())
}

#[test]
fn an_api_server_on_an_lb_node() -> TestResult {
    let lab = Lab::builder().lbs(1).masters(1).build()?;
    let server = lab.apiserver_on(0)?;
    assert_eq!(server.socket_address(), SocketAddr::new(lab.lb(0).address(), API_PORT));
    let url = format!("https://{}/version", server.socket_address());
    for machine in [lab.client(), lab.lb(0).machine()] {
        let version = text(&lab.on(machine).curl(&[&url])?);
        assert!(version.contains("+lb1\""), "{version}");
    }
    // It serves the VIP, too, once that is on the node.
    lab.lb(0).machine().ip("address add 172.16.0.10/24 dev eth0")?;
    assert_eq!(text(&lab.curl(&[&lab.vip_url("/readyz")])?), "ok");
    drop(server);
    assert!(!lab.curl(&["--max-time", "2", &url])?.status.success());
    Ok(())
}

#[test]
fn an_lb_serves_the_plain_port_and_every_frame_at_its_cable_is_correct() -> TestResult {
    let lab = Lab::builder().lbs(1).masters(2).build()?;
    lab.lb(0).configure(|config| config.services.push(lab.plain_service(Family::V4)))?;
    let capture = Capture::start(&lab, lab.switch(), "p-lb1", "")?;
    lab.start_lbs()?;
    for direction in [Direction::Upload, Direction::Download] {
        let moved = lab.bulk(&Bulk { direction, bytes: 10_000_000, ..Bulk::default() })?;
        assert!(moved.is_intact(), "{moved:?}");
    }
    let client = lab.short(&Connections { count: 500, ..Connections::default() })?;
    client.wait_done(SOON)?;
    assert_eq!((client.answered(0), client.failures(0)), (500, BTreeMap::new()));
    let held = lab.hold(&Connections::default())?;
    held.wait_done(SOON)?;
    assert_eq!(held.held_by_server().values().sum::<usize>(), 100, "{:?}", held.failures(0));
    assert_eq!(held.held_by_server().len(), 2);
    let captured = capture.stop()?;
    assert!(captured.frames > 20_000 && captured.lost == 0, "{captured:?}");
    assert_eq!(captured.bad_frames()?, []);
    Ok(())
}
