//! Real TCP through a real `xvip` in each mode and family: bulk data both ways, ten thousand short connections, TLS, and
//! every frame of it in order, as far as `tshark` can tell. Needs root, for the network namespaces.
//!
//! Runner: minutes 10

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Instant;

use lb_tests::capture::Capture;
use lb_tests::client_host::plain;
use lb_tests::topology::{Connections, Family, Lab, Mode};
use lb_tests::traffic::{ask, both_ways, drops, start, transmitted};

type TestResult = Result<(), Box<dyn Error>>;

const GIGABYTE: u64 = 1_000_000_000;
const CONNECTIONS: u32 = 10_000;

/// Every third that is within a tenth of a third of all.
fn even(servers: &BTreeMap<String, usize>, all: u32) -> bool {
    let third = all as usize / 3;
    servers.len() == 3 && servers.values().all(|count| count.abs_diff(third) <= third / 10)
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
