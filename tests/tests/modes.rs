//! Real TCP through a real `xvip` in each mode and family: bulk data both ways, ten thousand short connections, TLS, and
//! every frame of it in order, as far as `tshark` can tell. Needs root, for the network namespaces.
//!
//! Runner: minutes 10

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Instant;

use lb_tests::capture::Capture;
use lb_tests::client_host::plain;
use lb_tests::node::NodeConfig;
use lb_tests::topology::{Connections, Family, Lab, Mode};
use lb_tests::traffic::{ask, both_ways, drops, start, start_with, transmitted};

type TestResult = Result<(), Box<dyn Error>>;

const GIGABYTE: u64 = 1_000_000_000;
const CONNECTIONS: u32 = 10_000;

/// Whether each of three has its third, within five standard deviations of a fair draw.
fn even(servers: &BTreeMap<String, usize>, all: u32) -> bool {
    let (third, variance) = (all as usize / 3, all as usize * 2 / 9);
    servers.len() == 3 && servers.values().all(|count| count.abs_diff(third).pow(2) <= 25 * variance)
}

fn everything_arrives(mode: Mode, family: Family) -> TestResult {
    let lab = start(Lab::builder().lbs(1).mode(mode), &[family], |_| ())?;
    let begin = Instant::now();
    both_ways(&lab, family, GIGABYTE)?;

    let short = Connections { address: plain(family), count: CONNECTIONS, ..Connections::default() };
    let counting = Instant::now();
    let servers = ask(&lab, &short)?;
    println!("{mode:?} {family:?}: {CONNECTIONS} connections in {:.2?}: {servers:?}", counting.elapsed());
    assert!(even(&servers, CONNECTIONS), "{servers:?}");
    for _ in 0..5 {
        let output = lab.curl(&["--max-time", "10", &lab.vip_url_of(family, "/readyz")])?;
        assert_eq!(String::from_utf8_lossy(&output.stdout), "ok", "{output:?}");
    }

    let captures = [(lab.client(), "eth0"), (lab.switch(), "p-lb1"), (lab.master(0).machine(), "eth0")]
        .into_iter()
        .map(|(machine, interface)| Capture::start(&lab, machine, interface, ""))
        .collect::<Result<Vec<_>, _>>()?;
    both_ways(&lab, family, 2_000_000)?;
    let few = Connections { count: 200, ..short };
    assert_eq!(ask(&lab, &few)?.values().sum::<usize>(), 200);
    for capture in captures {
        let captured = capture.stop()?;
        println!("{}: {} frames, {} lost", captured.file.display(), captured.frames, captured.lost);
        assert!(captured.frames > 200, "{captured:?}");
        assert_eq!(captured.bad_frames()?, []);
    }

    let status = lab.lb(0).status()?;
    let (up, down) = (transmitted(&status, "to-backend")?, transmitted(&status, "to-client")?);
    println!(
        "{mode:?} {family:?}: {:.1?} in all, {up} packets to backends, {down} to clients, dropped {:?}",
        begin.elapsed(),
        drops(&status)
    );
    assert!(up > GIGABYTE / 1460, "the data did not pass through XDP");
    assert_eq!(down > 0, mode == Mode::Nat, "answers come back through the LB in nat mode alone");
    assert_eq!(drops(&status), BTreeMap::new());
    Ok(())
}

#[test]
fn nat_v4() -> TestResult {
    everything_arrives(Mode::Nat, Family::V4)
}

#[test]
fn nat_v6() -> TestResult {
    everything_arrives(Mode::Nat, Family::V6)
}

#[test]
fn dsr_l2_v4() -> TestResult {
    everything_arrives(Mode::DsrL2, Family::V4)
}

#[test]
fn dsr_l2_v6() -> TestResult {
    everything_arrives(Mode::DsrL2, Family::V6)
}

#[test]
fn dsr_ipip_v4() -> TestResult {
    everything_arrives(Mode::DsrIpip, Family::V4)
}

#[test]
fn dsr_ipip_v6() -> TestResult {
    everything_arrives(Mode::DsrIpip, Family::V6)
}

/// The backends of each service by their addresses of the other family.
fn crossed(lab: &Lab, config: &mut NodeConfig) {
    for service in &mut config.services {
        let other = if service.vip.contains(':') { Family::V4 } else { Family::V6 };
        service.backends = lab.backends(other, service.port);
    }
}

/// Each family's VIP with backends that are known by addresses of the other one.
fn crosses_families(mode: Mode) -> TestResult {
    let lab = start_with(Lab::builder().lbs(1).mode(mode), &Family::BOTH, crossed)?;
    for family in Family::BOTH {
        let capture = Capture::start(&lab, lab.switch(), "p-lb1", "")?;
        both_ways(&lab, family, 5_000_000)?;
        assert_eq!(capture.check()?, []);
        both_ways(&lab, family, 50_000_000)?;
        let many = Connections { address: plain(family), count: 3000, ..Connections::default() };
        let servers = ask(&lab, &many)?;
        println!("{mode:?}, VIP {family:?}, backends of the other family: {servers:?}");
        assert!(even(&servers, 3000), "{servers:?}");
        if mode == Mode::DsrIpip && lab.master(0).decapsulated(Family::V4, Family::V4).is_some() {
            let other = if family == Family::V4 { Family::V6 } else { Family::V4 };
            let taken =
                |outer| lab.masters().iter().filter_map(|m| m.decapsulated(outer, family)).sum::<u64>();
            assert!(taken(other) > 10_000 && taken(family) == 0, "{} {}", taken(other), taken(family));
        }
    }
    assert_eq!(drops(&lab.lb(0).status()?), BTreeMap::new());
    Ok(())
}

#[test]
fn a_tunnel_takes_either_family_through_the_other() -> TestResult {
    crosses_families(Mode::DsrIpip)
}

#[test]
fn dsr_l2_finds_backends_by_addresses_of_the_other_family() -> TestResult {
    crosses_families(Mode::DsrL2)
}

#[test]
fn generic_xdp_does_the_same() -> TestResult {
    for mode in Mode::ALL {
        let lab = start(Lab::builder().lbs(1).mode(mode), &Family::BOTH, |config| {
            config.xdp_mode = Some("generic".to_owned());
        })?;
        assert_eq!(lab.lb(0).status()?.interface.xdp_mode, "generic");
        for family in Family::BOTH {
            let capture = Capture::start(&lab, lab.switch(), "p-lb1", "")?;
            both_ways(&lab, family, 5_000_000)?;
            assert_eq!(capture.check()?, []);
            both_ways(&lab, family, 30_000_000)?;
            let many = Connections { address: plain(family), count: 3000, ..Connections::default() };
            let servers = ask(&lab, &many)?;
            println!("{mode:?} {family:?}, generic: {servers:?}");
            assert!(even(&servers, 3000), "{servers:?}");
        }
        assert_eq!(drops(&lab.lb(0).status()?), BTreeMap::new());
    }
    Ok(())
}
