//! The lab's networks and tools for all modes and both families, without xvip: IPv6, backends of direct return,
//! tunnels, routers, bulk data, captures. Needs root, for the network namespaces.

use std::error::Error;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Output;
use std::time::Duration;

use etherparse::{IpNumber, PacketBuilder};
use lb_tests::capture::Capture;
use lb_tests::network::NARROW_MTU;
use lb_tests::ping::{Answer, Ping, ping};
use lb_tests::plain::Direction;
use lb_tests::topology::{Bulk, Connections, Family, Lab, Mode, PLAIN_PORT};
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
