//! `xvip flows`, and what `xvip status` counts of each backend, on real connections. Needs root.
//!
//! Runner: threads 2

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use lb_tests::client_host::plain;
use lb_tests::measure::ClientProcess;
use lb_tests::node::LbNode;
use lb_tests::topology::{Connections, Family, Lab, Mode};
use lb_tests::traffic::{ask, both_ways, start};
use lb_tests::wait;
use serde_json::Value;

type TestResult = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(60);

/// The flows that `xvip flows --json` shows with these arguments.
fn flows(lb: &LbNode, words: &[&str]) -> Result<Vec<Value>, Box<dyn Error>> {
    let words: Vec<&str> = ["flows", "--json"].into_iter().chain(words.iter().copied()).collect();
    let output = lb.machine().output(&mut lb.tool(&words))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Six idle connections to the plain service, opened one after the other.
fn six(lab: &Lab, family: Family) -> Result<ClientProcess, Box<dyn Error>> {
    let held =
        lab.hold(&Connections { address: plain(family), count: 6, parallel: 1, ..Connections::default() })?;
    held.wait_done(SOON)?;
    Ok(held)
}

/// How many of the established flows of the plain service each backend has.
fn by_backend(flows: &[Value], service: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for flow in flows.iter().filter(|flow| flow["service"] == service && flow["state"] == "established") {
        *counts.entry(flow["backend"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    counts
}

#[test]
fn each_connection_is_shown_with_its_backend_whether_the_daemon_runs_or_not() -> TestResult {
    let lab = start(Lab::builder().lbs(1), &Family::BOTH, |_| {})?;
    let lb = lab.lb(0);
    for family in Family::BOTH {
        let held = six(&lab, family)?;
        let service = plain(family).to_string();
        let shown = flows(lb, &[])?;
        assert_eq!(by_backend(&shown, &service), held.held_by_server(), "{family:?}");
        for flow in shown.iter().filter(|flow| flow["service"] == service.as_str()) {
            assert!(flow["nat_port"].as_u64().is_some_and(|port| port >= 1024), "{flow}");
            assert!(
                flow["packets_in"].as_u64() >= Some(2) && flow["packets_out"].as_u64() >= Some(1),
                "{flow}"
            );
        }
        let client = lab.client_address(family).to_string();
        assert_eq!(by_backend(&flows(lb, &["--client", &client])?, &service).values().sum::<usize>(), 6);
        assert!(flows(lb, &["--client", "198.51.100.0/24"])?.is_empty(), "another network");
        let of_one = by_backend(&flows(lb, &["--backend", "master1"])?, &service);
        assert!(of_one.keys().all(|name| name == "master1"), "{of_one:?}");
        if family == Family::V6 {
            lb.kill();
            assert_eq!(by_backend(&flows(lb, &[])?, &service), held.held_by_server(), "the daemon is down");
        }
    }
    Ok(())
}

#[test]
fn with_direct_server_return_a_flow_has_no_nat_port() -> TestResult {
    let lab = start(Lab::builder().lbs(1).mode(Mode::DsrL2), &[Family::V4], |_| {})?;
    let held = six(&lab, Family::V4)?;
    let service = plain(Family::V4).to_string();
    let shown = flows(lab.lb(0), &[])?;
    assert_eq!(by_backend(&shown, &service), held.held_by_server());
    let mut of_service = shown.iter().filter(|flow| flow["service"] == service.as_str());
    assert!(of_service.all(|flow| flow["nat_port"].is_null() && flow["packets_out"] == 0), "{shown:?}");
    Ok(())
}

#[test]
fn status_counts_what_each_backend_was_sent_and_how_its_flows_ended() -> TestResult {
    const BYTES: u64 = 5_000_000;
    let lab = start(Lab::builder().lbs(1), &[Family::V4], |_| {})?;
    let lb = lab.lb(0);
    let sum = |field: &str| -> Option<u64> {
        let status = lb.status().ok()?;
        let services = status.raw["services"].as_array()?;
        let plain = services.iter().find(|service| service["name"] == "plain")?;
        plain["backends"].as_array()?.iter().map(|backend| backend["flows"][field].as_u64()).sum()
    };
    let answered = ask(&lab, &Connections { count: 30, ..Connections::default() })?;
    assert_eq!(answered.values().sum::<usize>(), 30);
    both_ways(&lab, Family::V4, BYTES)?;
    let held = six(&lab, Family::V4)?;
    // 30 short ones, one up, one down, and six that are open.
    wait::until("all flows to be counted", SOON, || {
        sum("opened") == Some(38) && sum("established") == Some(38) && sum("active") == Some(6)
    })
    .map_err(|why| format!("{why}: {:?}", ["opened", "established", "active"].map(&sum)))?;
    wait::until("the bytes of both transfers", SOON, || {
        sum("bytes_in") >= Some(BYTES) && sum("bytes_out") >= Some(BYTES)
    })?;
    let slack = BYTES / 5;
    assert!(sum("bytes_in") < Some(BYTES + slack) && sum("bytes_out") < Some(BYTES + slack));
    drop(held);
    wait::until("the open ones to end", SOON, || {
        sum("active") == Some(0) && sum("closed").zip(sum("reset")).is_some_and(|(a, b)| a + b == 38)
    })
    .map_err(|why| format!("{why}: {:?}", ["active", "closed", "reset", "closing"].map(&sum)))?;
    Ok(())
}
