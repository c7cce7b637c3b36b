//! An LB node between two networks, clients on one of its interfaces and API servers on the other: XDP redirects between
//! them. And whom the backends take for the client (`snat`). Needs root, for the network namespaces.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use lb_tests::capture::Capture;
use lb_tests::client_host::plain;
use lb_tests::syn::{Answer, syn};
use lb_tests::topology::{Connections, Family, Lab, Mode};
use lb_tests::traffic::{ask, both_ways, drops, start, transmitted};
use lb_tests::wait;

type TestResult = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(60);
const BYTES: u64 = 30_000_000;

fn between_networks(mode: Mode, xdp_mode: &str) -> TestResult {
    let lab = start(Lab::builder().lbs(1).mode(mode).two_networks(), &Family::BOTH, |config| {
        config.xdp_mode = Some(xdp_mode.to_owned());
    })?;
    let lb = lab.lb(0);
    let status = lb.status()?;
    let interfaces = status.raw["interfaces"].as_array().cloned().unwrap_or_default();
    let attached: Vec<_> = interfaces.iter().map(|i| (i["name"].as_str(), i["xdp_mode"].as_str())).collect();
    assert_eq!(attached, [(Some("eth0"), Some(xdp_mode)), (Some("eth1"), Some(xdp_mode))]);

    for family in Family::BOTH {
        both_ways(&lab, family, BYTES)?;
        let many = Connections { address: plain(family), count: 2000, ..Connections::default() };
        let servers = ask(&lab, &many)?;
        println!("{mode:?} {family:?} {xdp_mode}: {servers:?}");
        assert_eq!(servers.len(), 3, "{servers:?}");
        let readyz = lab.curl(&["--max-time", "10", &lab.vip_url_of(family, "/readyz")])?;
        assert_eq!(String::from_utf8_lossy(&readyz.stdout), "ok", "{readyz:?}");
    }

    let near = Capture::start(&lab, lab.switch(), "p-lb1", "")?;
    let far = Capture::start(&lab, lab.switch(), "p-lb1-eth1", "")?;
    for family in Family::BOTH {
        both_ways(&lab, family, 1_000_000)?;
        let to = SocketAddr::new(family.vip(), plain(family).port());
        let from = lb.address_of(family);
        assert_eq!(syn(lab.client(), to, 1, SOON)?, Answer::Expired { from }, "{mode:?} {family:?}");
        // In nat mode the answer has as many hops less. Else it takes the router, but starts anew.
        assert_eq!(syn(lab.client(), to, 2, SOON)?, Answer::Connected, "{mode:?} {family:?}");
    }
    let (near, far) = (near.stop()?, far.stop()?);
    for (captured, other) in [(&near, "the API servers' network"), (&far, "the client's network")] {
        assert!(captured.frames > 500 && captured.lost == 0, "{captured:?}");
        assert_eq!(captured.bad_frames()?, []);
        println!("{mode:?} {xdp_mode}: {} frames on the side that is not {other}", captured.frames);
    }
    // Each side sees its own half: no backend's address at the client's, in nat no client's at the backends'.
    let backends = "ip.addr == 172.16.2.0/24 || ipv6.addr == fd10:0:0:2::/64";
    let flows = format!("tcp.port == {} && ({backends})", plain(Family::V4).port());
    let leaked = near.ask(&format!("eth.addr == 02:00:ac:10:00:02 && {flows}"), &["frame.number"])?;
    assert_eq!(leaked, Vec::<String>::new(), "at the client's side");
    assert!(!far.ask(&flows, &["frame.number"])?.is_empty(), "that question finds nothing anywhere");

    let status = lb.status()?;
    assert!(transmitted(&status, "to-backend")? > BYTES / 1460);
    assert_eq!(transmitted(&status, "to-client")? > BYTES / 1460, mode == Mode::Nat);
    assert_eq!(drops(&status), BTreeMap::new());
    Ok(())
}

#[test]
fn nat_in_native_mode() -> TestResult {
    between_networks(Mode::Nat, "native")
}

#[test]
fn nat_in_generic_mode() -> TestResult {
    between_networks(Mode::Nat, "generic")
}

#[test]
fn dsr_ipip_in_native_mode() -> TestResult {
    between_networks(Mode::DsrIpip, "native")
}

#[test]
fn dsr_ipip_in_generic_mode() -> TestResult {
    between_networks(Mode::DsrIpip, "generic")
}

#[test]
fn without_the_backends_network_clients_are_refused_and_with_it_served_again() -> TestResult {
    let lab = start(Lab::builder().lbs(1).two_networks(), &[Family::V4], |_| ())?;
    let up = || lab.lb(0).status().map_or(0, |status| status.service_up("plain"));
    lab.cut("lb1-eth1")?;
    wait::until("no backend to be up", SOON, || up() == 0)?;
    let few = Connections { count: 3, timeout: Duration::from_secs(1), ..Connections::default() };
    let client = lab.short(&few)?;
    client.wait_done(SOON)?;
    assert_eq!(client.failures(0), BTreeMap::from([("refused".to_owned(), 3)]));
    lab.heal("lb1-eth1")?;
    wait::until("all backends to be up", SOON, || up() == 3)?;
    assert_eq!(ask(&lab, &Connections::default())?.len(), 3);
    Ok(())
}

/// Whom the API servers see.
fn peer(lab: &Lab, family: Family) -> Result<String, Box<dyn Error>> {
    let url = lab.vip_url_of(family, "/livez");
    let output = lab.curl(&["--max-time", "10", "-o", "/dev/null", "--dump-header", "-", &url])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let peer = text.lines().find_map(|line| line.strip_prefix("x-peer: "));
    Ok(peer.ok_or_else(|| format!("{output:?}"))?.trim().to_owned())
}

fn is_seen_as_the_node(two_networks: bool) -> TestResult {
    let builder = Lab::builder().lbs(2);
    let builder = if two_networks { builder.two_networks() } else { builder };
    let lab = start(builder, &Family::BOTH, |config| {
        config.services.iter_mut().for_each(|service| service.snat = Some("node".to_owned()));
    })?;
    let owner = lab.wait_owner(Some("lb1"), SOON)?;
    for family in Family::BOTH {
        let node = match (two_networks, family) {
            (false, family) => owner.address_of(family).to_string(),
            (true, Family::V4) => "172.16.2.2".to_owned(),
            (true, Family::V6) => "fd10:0:0:2::2".to_owned(),
        };
        let seen: SocketAddr = peer(&lab, family)?.parse()?;
        assert_eq!(seen.ip().to_string(), node);
        let capture = Capture::start(&lab, lab.switch(), "p-lb1", "")?;
        both_ways(&lab, family, 2_000_000)?;
        assert_eq!(capture.check()?, []);
        both_ways(&lab, family, BYTES)?;
        let many = Connections { address: plain(family), count: 5000, ..Connections::default() };
        assert_eq!(ask(&lab, &many)?.len(), 3);
    }
    // The other node serves just as well, under its own address.
    lab.lb(0).stop()?;
    let owner = lab.wait_owner(Some("lb2"), SOON)?;
    let seen: SocketAddr = peer(&lab, Family::V4)?.parse()?;
    let node = if two_networks { "172.16.2.3".to_owned() } else { owner.address().to_string() };
    assert_eq!(seen.ip().to_string(), node);
    assert_eq!(drops(&owner.status()?), BTreeMap::new());
    Ok(())
}

#[test]
fn with_snat_node_backends_see_the_node() -> TestResult {
    is_seen_as_the_node(false)
}

#[test]
fn with_snat_node_backends_see_the_address_in_their_own_network() -> TestResult {
    is_seen_as_the_node(true)
}

#[test]
fn without_it_they_see_the_vip_and_with_direct_return_the_client() -> TestResult {
    for mode in Mode::ALL {
        let lab = start(Lab::builder().lbs(1).masters(2).mode(mode), &Family::BOTH, |_| ())?;
        for family in Family::BOTH {
            let seen: SocketAddr = peer(&lab, family)?.parse()?;
            let expected = if mode == Mode::Nat { family.vip() } else { lab.client_address(family) };
            assert_eq!(seen.ip(), expected, "{mode:?}");
        }
    }
    Ok(())
}
