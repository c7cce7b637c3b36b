//! Rebalance: after an API server is back, connections move there, no more of them and no faster than they should. Real
//! connections through a real `xvip`. Needs root, for the network namespaces.
//!
//! Runner: threads 1, minutes 10

use std::collections::BTreeMap;
use std::error::Error;
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::measure::ClientProcess;
use lb_tests::node::{LbNode, ServiceStatus};
use lb_tests::topology::{Connections, Family, Lab};
use lb_tests::traffic::start;
use lb_tests::wait;

type TestResult = Result<(), Box<dyn Error>>;

/// Generous, because the machine may be busy; nothing waits for it unless something is wrong.
const SOON: Duration = Duration::from_secs(60);
/// Backends come and go quickly.
const QUICK: [&str; 4] =
    ["interval = \"200ms\"", "down_interval = \"200ms\"", "rise = 1", "timeout = \"2s\""];
const SECOND_US: u64 = 1_000_000;

/// A lab with one node, whose plain service is rebalanced as `keys` say.
fn running(keys: &str, balance: &str) -> Result<Lab, Box<dyn Error>> {
    start(Lab::builder().lbs(1), &[Family::V4], |config| {
        for service in config.services.iter_mut().filter(|service| service.name == "plain") {
            service.balance = Some(balance.to_owned());
            service.health.extend(QUICK.map(str::to_owned));
            service.health.push(format!("\n[service.rebalance]\n{keys}"));
        }
    })
}

fn up(lb: &LbNode, count: usize) -> TestResult {
    let what = format!("{count} backends to be up");
    Ok(wait::until(&what, SOON, || lb.status().is_ok_and(|status| status.service_up("plain") == count))?)
}

/// Connections that come back at once.
fn hold(lab: &Lab, count: u32) -> Result<ClientProcess, Box<dyn Error>> {
    let client = lab.hold(&Connections { count, reconnect: true, ..Connections::default() })?;
    client.wait_done(SOON)?;
    Ok(client)
}

/// Who has how many at the moment.
fn held(client: &ClientProcess) -> BTreeMap<String, u64> {
    let mut servers = BTreeMap::new();
    for stream in client.streams().into_values() {
        let broken = stream.broken.last().map_or(0, |(at, _)| *at);
        if let (Some(server), Some(at)) = (stream.server, stream.last_line_us)
            && at >= broken
        {
            *servers.entry(server).or_default() += 1;
        }
    }
    servers
}

fn of(servers: &BTreeMap<String, u64>, name: &str) -> u64 {
    servers.get(name).copied().unwrap_or(0)
}

/// When connections were reset.
fn resets(client: &ClientProcess, since: u64) -> Vec<u64> {
    let streams = client.streams();
    let breaks = streams.values().flat_map(|stream| stream.broken.iter().map(|(at, _)| *at));
    let mut at: Vec<u64> = breaks.filter(|at| *at >= since).collect();
    at.sort_unstable();
    at
}

/// The most of these in any second.
fn most_in_a_second(times: &[u64]) -> usize {
    let second =
        |(n, from): (usize, &u64)| times[n..].iter().take_while(|at| **at - from < SECOND_US).count();
    times.iter().enumerate().map(second).max().unwrap_or(0)
}

fn service(lb: &LbNode) -> Result<ServiceStatus, Box<dyn Error>> {
    Ok(lb.status()?.service("plain").cloned().ok_or("no plain service")?)
}

fn xvip(lb: &LbNode, words: &[&str]) -> Result<(Option<i32>, String), Box<dyn Error>> {
    let output = lb.xvip(words)?;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    println!("xvip {}:\n{}", words.join(" "), text.trim());
    Ok((output.status.code(), text.trim().to_owned()))
}

/// 300 connections at two backends, and a third that comes back. What it took is printed.
fn a_third_comes_back(margin: u64) -> TestResult {
    let keys = format!("mode = \"auto\"\nrate = 10\nmargin = \"{margin}%\"");
    let lab = running(&keys, "round-robin")?;
    let lb = lab.lb(0);
    lab.master(2).kill();
    up(lb, 2)?;
    let client = hold(&lab, 300)?;
    let before = held(&client);
    assert_eq!(before, BTreeMap::from([("master1".to_owned(), 150), ("master2".to_owned(), 150)]));
    thread::sleep(Duration::from_secs(5));
    let mark = client.mark();
    assert!(resets(&client, 0).is_empty(), "two are even");

    lab.master(2).start()?;
    up(lb, 3)?;
    let back = Instant::now();
    let within = |now: &BTreeMap<String, u64>| {
        let least = now.values().min().copied().unwrap_or(0);
        now.len() == 3 && least >= 90 && now.values().all(|count| *count <= 110)
    };
    wait::until("each to be within 10 % of its fair share", SOON, || within(&held(&client)))?;
    let took = back.elapsed();
    wait::until("the rebalance to end", SOON, || {
        service(lb).is_ok_and(|service| service.rebalance.is_some_and(|r| !r.running && r.last.is_some()))
    })?;
    let times = resets(&client, mark);
    let (most, after) = (most_in_a_second(&times), held(&client));
    println!(
        "margin {margin} %: within 10 % {took:.1?} after the third was up: {} resets, at most {most} in a second; {after:?}",
        times.len()
    );
    assert!(took < Duration::from_secs(60), "{took:?}");
    let needed = if margin == 0 { 100 } else { 90 };
    assert_eq!(times.len(), needed, "no more and no fewer than needed");
    assert!(most <= 10, "{most} in a second");
    let rebalance = service(lb)?.rebalance.ok_or("no rebalance in status")?;
    let last = rebalance.last.ok_or("none has ended")?;
    assert_eq!(
        (last.outcome.as_str(), last.resets, rebalance.resets),
        ("balanced", needed as u64, needed as u64)
    );
    for name in ["master1", "master2"] {
        assert!(of(&after, name) >= 100, "never below its fair share: {after:?}");
    }

    // And then there is peace.
    thread::sleep(Duration::from_secs(8));
    assert_eq!(resets(&client, mark).len(), needed);
    Ok(())
}

#[test]
fn a_third_that_comes_back_gets_its_share_with_ninety_resets() -> TestResult {
    a_third_comes_back(10)
}

#[test]
fn a_third_that_comes_back_gets_its_share_with_a_hundred_resets_where_no_margin_is() -> TestResult {
    a_third_comes_back(0)
}

#[test]
fn an_operator_asks_sees_the_plan_and_is_told_the_end() -> TestResult {
    let lab = running("mode = \"manual\"\nrate = 20\nmargin = \"0%\"\nfloor = 15", "maglev")?;
    let lb = lab.lb(0);
    lab.master(2).kill();
    up(lb, 2)?;
    let client = hold(&lab, 60)?;
    lab.master(2).start()?;
    up(lb, 3)?;
    let before = held(&client);
    thread::sleep(Duration::from_secs(6));
    assert!(resets(&client, 0).is_empty(), "nobody has asked");

    let (code, text) = xvip(lb, &["rebalance", "--dry-run"])?;
    assert_eq!(code, Some(0), "{text}");
    let needed: u64 = ["master1", "master2"].iter().map(|name| of(&before, name).saturating_sub(20)).sum();
    let expected = format!(
        "service plain, margin 0 %, floor 15: {needed} connections would be reset, at most 20 per second"
    );
    assert!(text.contains(&expected), "{expected} in {text}");
    assert!(text.contains("service kube-apiserver, margin 10 %"), "a dry run is of all: {text}");
    thread::sleep(Duration::from_secs(1));
    assert!(resets(&client, 0).is_empty(), "a dry run");

    let (code, text) = xvip(lb, &["rebalance"])?;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains(&format!(": {needed} connections reset (master1 ")), "{text}");
    assert!(!text.contains("kube-apiserver"), "which may not be: {text}");
    assert_eq!(resets(&client, 0).len() as u64, needed);
    wait::until("all to be back", SOON, || held(&client).values().sum::<u64>() == 60)?;
    assert_eq!(held(&client).into_values().collect::<Vec<_>>(), [20, 20, 20]);
    let (code, text) = xvip(lb, &["rebalance"])?;
    assert!(code == Some(0) && text.contains("everybody is within the margin"), "{text}");
    let (code, text) = xvip(lb, &["rebalance", "--service", "kube-apiserver"])?;
    assert!(code == Some(1) && text.contains("write mode = \"manual\" or mode = \"auto\""), "{text}");
    let (code, text) = xvip(lb, &["rebalance", "--service", "web"])?;
    assert!(code == Some(1) && text.contains("there are: kube-apiserver, plain"), "{text}");

    // Who is drained takes no part, and the floor holds.
    let (code, _) = xvip(lb, &["backend", "drain", "master3", "--service", "plain"])?;
    assert_eq!(code, Some(0));
    let (_, text) = xvip(lb, &["rebalance", "--dry-run", "--service", "plain"])?;
    let row = text.lines().find(|line| line.contains("master3")).unwrap_or_default();
    assert!(row.split_whitespace().eq(["master3", "100", "20", "drain", "-", "-"]), "{text}");
    Ok(())
}

#[test]
fn a_flapping_backend_moves_nobody() -> TestResult {
    let lab = running("mode = \"auto\"\nrate = 50\nmargin = \"0%\"\nfloor = 0", "maglev")?;
    let lb = lab.lb(0);
    lab.master(2).kill();
    up(lb, 2)?;
    let client = hold(&lab, 60)?;
    let before = held(&client);
    for _ in 0..5 {
        lab.master(2).start()?;
        up(lb, 3)?;
        thread::sleep(Duration::from_millis(1500));
        lab.master(2).kill();
        up(lb, 2)?;
    }
    println!("up five times: {:?}, then {:?}", before, held(&client));
    assert!(resets(&client, 0).is_empty());
    assert_eq!(held(&client), before);
    assert_eq!(service(lb)?.rebalance.map(|rebalance| rebalance.resets), Some(0));
    Ok(())
}
