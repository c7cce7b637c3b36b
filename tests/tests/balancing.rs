//! Who gets a new connection, and who gets none: algorithms, weights, limits of backends and of sources, slow start, on
//! real connections through a real `xvip`. Needs root, for the network namespaces.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::net::IpAddr;
use std::time::Duration;

use lb_tests::client_host::plain;
use lb_tests::measure::ClientProcess;
use lb_tests::node::{LbNode, ServiceConfig, Status};
use lb_tests::topology::{Connections, Family, Lab, host, host6};
use lb_tests::traffic::{ask, dropped, start, transmitted};
use lb_tests::wait;

type TestResult = Result<(), Box<dyn Error>>;

/// Generous, because the machine may be busy; nothing waits for it unless something is wrong.
const SOON: Duration = Duration::from_secs(60);

/// A lab with one LB node and the plain service as `change` says, in each of `families`.
fn running(families: &[Family], mut change: impl FnMut(&mut ServiceConfig)) -> Result<Lab, Box<dyn Error>> {
    start(Lab::builder().lbs(1), families, |config| {
        config.services.iter_mut().filter(|service| service.name.starts_with("plain")).for_each(&mut change);
    })
}

/// Changes the plain service of a running node.
fn reload(lb: &LbNode, change: impl FnOnce(&mut ServiceConfig)) -> TestResult {
    lb.configure(|config| {
        if let Some(service) = config.services.iter_mut().find(|service| service.name == "plain") {
            change(service);
        }
    })?;
    let output = lb.xvip(&["reload"])?;
    assert!(output.status.success(), "{output:?}");
    Ok(())
}

/// One after the other.
fn in_turn(count: u32) -> Connections {
    Connections { count, parallel: 1, ..Connections::default() }
}

fn hold(lab: &Lab, connections: &Connections) -> Result<ClientProcess, Box<dyn Error>> {
    let client = lab.hold(connections)?;
    client.wait_done(SOON)?;
    Ok(client)
}

fn counts(of: [(&str, usize); 3]) -> BTreeMap<String, usize> {
    of.into_iter().filter(|(_, count)| *count > 0).map(|(name, count)| (name.to_owned(), count)).collect()
}

fn masters(one: usize, two: usize, three: usize) -> BTreeMap<String, usize> {
    counts([("master1", one), ("master2", two), ("master3", three)])
}

fn weights(service: &mut ServiceConfig, weights: [u32; 3]) {
    for (backend, weight) in service.backends.iter_mut().zip(weights) {
        backend.weight = Some(weight);
    }
}

/// A field of each backend of the plain service.
fn each(status: &Status, field: &str) -> Vec<f64> {
    let services = status.raw["services"].as_array();
    let plain = services.and_then(|all| all.iter().find(|service| service["name"] == "plain"));
    let backends = plain.and_then(|service| service["backends"].as_array());
    backends.into_iter().flatten().filter_map(|backend| backend[field].as_f64()).collect()
}

#[test]
fn round_robin_takes_each_in_its_turn_and_as_often_as_its_weight_says() -> TestResult {
    let lab = running(&Family::BOTH, |service| service.balance = Some("round-robin".to_owned()))?;
    for family in Family::BOTH {
        let thirty = Connections { address: plain(family), ..in_turn(30) };
        assert_eq!(ask(&lab, &thirty)?, masters(10, 10, 10), "{family:?}");
    }
    reload(lab.lb(0), |service| weights(service, [100, 50, 0]))?;
    assert_eq!(ask(&lab, &in_turn(30))?, masters(20, 10, 0));
    Ok(())
}

#[test]
fn least_connections_goes_to_whom_has_the_fewest() -> TestResult {
    let lab = running(&[Family::V4], |service| {
        service.balance = Some("least-connections".to_owned());
        weights(service, [100, 100, 0]);
    })?;
    let first = hold(&lab, &in_turn(30))?;
    assert_eq!(first.held_by_server(), masters(15, 15, 0));
    reload(lab.lb(0), |service| weights(service, [100, 100, 100]))?;
    let second = hold(&lab, &in_turn(15))?;
    assert_eq!(second.held_by_server(), masters(0, 0, 15), "it had none");
    // Many at once are spread as well, since handshakes count.
    let third = hold(&lab, &Connections { count: 30, parallel: 30, ..Connections::default() })?;
    println!("30 at once: {:?}", third.held_by_server());
    assert!(third.held_by_server().values().all(|count| (8..=12).contains(count)));
    // master1 loses all that it has.
    lab.master(0).kill();
    wait::until("its connections to break", SOON, || first.breaks(0) == 15)?;
    lab.master(0).start()?;
    wait::until("master1 to be up", SOON, || lab.lb(0).status().is_ok_and(|s| s.service_up("plain") == 3))?;
    let fourth = hold(&lab, &in_turn(15))?;
    assert_eq!(fourth.held_by_server(), masters(15, 0, 0), "it has none any more");
    Ok(())
}

#[test]
fn weights_of_nothing_half_and_all() -> TestResult {
    let lab = running(&Family::BOTH, |service| weights(service, [0, 50, 100]))?;
    for family in Family::BOTH {
        let many = Connections { address: plain(family), count: 3000, ..Connections::default() };
        let servers = ask(&lab, &many)?;
        println!("{family:?}: weights 0, 50, 100: {servers:?}");
        assert_eq!(servers.len(), 2, "{servers:?}");
        // Five standard deviations.
        assert!(servers["master2"].abs_diff(1000) < 130, "{servers:?}");
    }
    let shares = each(&lab.lb(0).status()?, "share");
    for (share, expected) in shares.iter().zip([0.0, 1.0 / 3.0, 2.0 / 3.0]) {
        assert!((share - expected).abs() < 0.001, "{shares:?}");
    }
    Ok(())
}

#[test]
fn a_full_backend_passes_on_what_is_too_much_until_all_are_full() -> TestResult {
    let lab = running(&[Family::V4], |service| {
        for (backend, max) in service.backends.iter_mut().zip([5, 5, 0]) {
            backend.max_connections = Some(max);
        }
    })?;
    let lb = lab.lb(0);
    let all = hold(&lab, &in_turn(40))?;
    assert_eq!(all.held_by_server(), masters(5, 5, 30));
    drop(all);

    reload(lb, |service| service.backends[2].max_connections = Some(5))?;
    let full = |what: &str| -> Result<ClientProcess, Box<dyn Error>> {
        // What is closed is counted out as its last packets pass.
        let mut last = BTreeMap::new();
        let held = wait::value(what, SOON, || {
            let held = hold(&lab, &in_turn(15)).ok()?;
            last = held.held_by_server();
            (last == masters(5, 5, 5)).then_some(held)
        });
        Ok(held.map_err(|why| format!("{why}: {last:?}"))?)
    };
    let held = full("fifteen to fit")?;
    let quick = Connections { timeout: Duration::from_millis(700), ..in_turn(10) };
    let begin = transmitted(&lb.status()?, "reset-all-full")?;
    let more = hold(&lab, &quick)?;
    assert_eq!(more.failures(0), BTreeMap::from([("refused".to_owned(), 10)]));
    assert_eq!(transmitted(&lb.status()?, "reset-all-full")? - begin, 10);

    reload(lb, |service| service.on_all_full = Some("drop".to_owned()))?;
    let begin = dropped(&lb.status()?, "all-backends-full")?;
    let more = hold(&lab, &Connections { parallel: 10, ..quick })?;
    assert_eq!(more.failures(0), BTreeMap::from([("timeout".to_owned(), 10)]));
    assert_eq!(dropped(&lb.status()?, "all-backends-full")? - begin, 10);
    // Nobody was thrown out meanwhile, and who leaves makes room.
    assert_eq!(held.held_by_server(), masters(5, 5, 5));
    drop(held);
    let held = full("fifteen to fit again")?;
    drop(held);

    // Many at once: never more than the limit.
    reload(lb, |service| service.on_all_full = Some("reset".to_owned()))?;
    wait::until("all of them to be gone", SOON, || lb.status().is_ok_and(|s| s.flows.established == 0))?;
    let rush = hold(&lab, &Connections { count: 200, parallel: 64, ..Connections::default() })?;
    println!("200 at once for 15 places: {:?}, {:?}", rush.held_by_server(), rush.failures(0));
    let servers = rush.held_by_server();
    assert!(servers.values().all(|count| *count <= 5), "{servers:?}");
    assert!(servers.values().sum::<usize>() >= 12, "{servers:?}");
    assert_eq!(rush.failures(0).keys().collect::<Vec<_>>(), ["refused"]);
    Ok(())
}

#[test]
fn a_backend_that_is_back_gets_its_weight_in_ten_steps() -> TestResult {
    let lab = running(&[Family::V4], |service| service.health.push("slow_start = \"5s\"".to_owned()))?;
    let lb = lab.lb(0);
    assert_eq!(each(&lb.status()?, "effective_weight"), [100.0; 3], "none at start");
    lab.master(2).kill();
    wait::until("master3 to be down", SOON, || lb.status().is_ok_and(|s| s.service_up("plain") == 2))?;
    lab.master(2).start()?;
    let mut seen = Vec::new();
    let mut shares = Vec::new();
    wait::until("master3 to have its whole weight", SOON, || {
        let Ok(status) = lb.status() else { return false };
        if status.service_up("plain") == 3 {
            let (weights, share) = (each(&status, "effective_weight"), each(&status, "share"));
            assert_eq!(weights[..2], [100.0; 2], "the others keep theirs");
            seen.push(weights[2]);
            shares.push((weights[2], share[2]));
        }
        seen.last() == Some(&100.0)
    })?;
    println!("{seen:?}");
    assert!(seen.is_sorted(), "{seen:?}");
    let steps: BTreeSet<u64> = seen.iter().map(|weight| *weight as u64).collect();
    assert!(steps.len() <= 10 && steps.len() >= 8, "{steps:?}");
    assert!(steps.iter().all(|step| step % 10 == 0) && steps.first() <= Some(&20), "{steps:?}");
    for (weight, share) in shares.iter().rev().step_by(5) {
        assert!((share - weight / (200.0 + weight)).abs() < 0.02, "{weight} has a share of {share}");
    }
    let servers = ask(&lab, &Connections { count: 900, ..Connections::default() })?;
    assert!(servers["master3"].abs_diff(300) < 75, "{servers:?}");
    Ok(())
}

/// Another address of the client.
fn another(lab: &Lab, family: Family) -> Result<IpAddr, Box<dyn Error>> {
    match family {
        Family::V4 => lab.client().ip("address add 172.16.0.101/24 dev eth0")?,
        Family::V6 => lab.client().ip("-6 address add fd10::101/64 dev eth0 nodad")?,
    }
    Ok(if family == Family::V4 { host(101).into() } else { host6(101).into() })
}

#[test]
fn who_is_not_allowed_is_not_answered() -> TestResult {
    let lab = running(&Family::BOTH, |service| {
        let list = if service.name == "plain" {
            "allow = [\"172.16.0.100/32\", \"10.0.0.0/8\"]"
        } else {
            "allow = [\"fd10::100/128\"]"
        };
        service.extra.push(list.to_owned());
    })?;
    let lb = lab.lb(0);
    for family in Family::BOTH {
        let ours = Connections {
            address: plain(family),
            sources: vec![lab.client_address(family)],
            ..Connections::default()
        };
        assert_eq!(ask(&lab, &ours)?.values().sum::<usize>(), 100);
        let before = dropped(&lb.status()?, "source-not-allowed")?;
        let sources = vec![another(&lab, family)?];
        let theirs = Connections { sources, count: 7, timeout: Duration::from_millis(700), ..ours };
        let client = hold(&lab, &theirs)?;
        assert_eq!(client.failures(0), BTreeMap::from([("timeout".to_owned(), 7)]), "{family:?}");
        assert_eq!(dropped(&lb.status()?, "source-not-allowed")? - before, 7);
    }
    Ok(())
}

#[test]
fn a_source_opens_no_more_than_it_may() -> TestResult {
    let lab = running(&Family::BOTH, |service| {
        service.extra.push("new_connections_per_source = 5\nnew_connections_burst = 20".to_owned());
    })?;
    let lb = lab.lb(0);
    // Less than a second, after which a SYN is sent again.
    let timeout = Duration::from_millis(700);
    let (count, parallel) = (60, 60);
    for family in Family::BOTH {
        let ours = Connections {
            address: plain(family),
            sources: vec![lab.client_address(family)],
            count,
            parallel,
            timeout,
            reconnect: false,
        };
        let before = dropped(&lb.status()?, "source-rate-limited")?;
        let client = hold(&lab, &ours)?;
        let (opened, refused) = (client.held_by_server().values().sum::<usize>(), client.failures(0));
        println!("{family:?}: {opened} of {count} at once; {refused:?}");
        // The burst, and what is added in the second that the machine may need to open them all.
        assert!((20..=26).contains(&opened), "{opened}");
        assert_eq!(refused, BTreeMap::from([("timeout".to_owned(), count as usize - opened)]));
        assert_eq!(dropped(&lb.status()?, "source-rate-limited")? - before, u64::from(count) - opened as u64);
    }
    // Another source has a burst of its own, IPv4 at least: in IPv6 a source is a /64.
    let theirs = Connections { sources: vec![another(&lab, Family::V4)?], count: 20, ..in_turn(20) };
    assert_eq!(ask(&lab, &theirs)?.values().sum::<usize>(), 20);
    let neighbour = Connections {
        address: plain(Family::V6),
        sources: vec![another(&lab, Family::V6)?],
        count: 20,
        parallel: 20,
        timeout,
        reconnect: false,
    };
    assert!(hold(&lab, &neighbour)?.failed(0) > 0, "a host has more addresses than anybody could count");
    Ok(())
}
