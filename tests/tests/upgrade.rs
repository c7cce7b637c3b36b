//! An upgrade from a real former release, whose maps have another layout: no connection is lost, and nothing of the former
//! release is left in the end. Needs root, and the repository's history.
//!
//! Runner: threads 1, alone, minutes 25

#[path = "forwarding/streams.rs"]
mod streams;

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use lb_tests::{
    client_host::plain,
    former::{self, FormerError},
    master::Master,
    node::LbNode,
    topology::{Connections, Family, Lab, Load},
    traffic::{both_ways, start},
    wait,
};
use serde_json::Value;

use streams::{SOON, Streams};

type TestResult = Result<(), Box<dyn Error>>;

/// The former release, or the reason why there is none.
fn former_xvip(test: &str) -> Result<Option<PathBuf>, Box<dyn Error>> {
    match former::xvip(former::LAYOUT_4) {
        Ok(program) => Ok(Some(program)),
        Err(error @ FormerError::NoHistory(_)) => {
            println!("SKIP {test}: {error}");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The established flows by client, each with its backend and NAT port, as `xvip flows` of `program` shows them.
fn flows(lb: &LbNode) -> Result<BTreeMap<String, (String, Value)>, Box<dyn Error>> {
    let output = lb.machine().output(&mut lb.tool(&["flows", "--json"]))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let shown: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let established = shown.iter().filter(|flow| flow["state"] == "established");
    let flows = established.map(|flow| {
        let key = format!("{} {}", text(&flow["client"]), text(&flow["service"]));
        (key, (text(&flow["backend"]), flow["nat_port"].clone()))
    });
    Ok(flows.collect())
}

/// The names below the node's pin path.
fn pins(lb: &LbNode) -> Vec<String> {
    let shown = lb.machine().output(Command::new("sh").args(["-c", "ls -1 /sys/fs/bpf/xvip*"]));
    let shown = shown.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    shown.lines().map(str::to_owned).collect()
}

fn log_of(lb: &LbNode) -> String {
    fs::read_to_string(lb.log()).unwrap_or_default()
}

/// Whoever talks to the VIP knows where it is, whether anybody answers for it or not: what is tested here are connections. (A
/// killed node that is alone is silent about its VIP until it is back, which takes seconds on a busy machine.)
fn know_the_vip(lab: &Lab) -> TestResult {
    let machines = lab.masters().iter().map(Master::machine).chain([lab.client()]);
    for machine in machines {
        for family in Family::BOTH {
            machine.ip(&format!(
                "neighbour replace {} lladdr 02:00:ac:10:00:02 nud permanent dev eth0",
                family.vip()
            ))?;
        }
    }
    Ok(())
}

/// Upgrades under load; `end` ends the former daemon.
fn upgrade(test: &str, end: impl FnOnce(&LbNode) -> TestResult) -> TestResult {
    let Some(old) = former_xvip(test)? else { return Ok(()) };
    let lab = Lab::builder().lbs(1).ipv6().patience(4).build()?;
    let lb = lab.lb(0);
    let new = lb.program();
    lb.use_program(&old);
    let lab = {
        lb.configure(|config| {
            config.services.push(lab.plain_service(Family::V4));
            config.services.push(lab.plain_service(Family::V6));
        })?;
        lab.start_lbs()?;
        lab
    };
    let lb = lab.lb(0);
    know_the_vip(&lab)?;
    assert!(pins(lb).iter().any(|pin| pin == "maps-v4"), "{:?}", pins(lb));

    let streams = Streams::open(&lab, 12)?;
    let mut held = Vec::new();
    for family in Family::BOTH {
        let connections =
            Connections { address: plain(family), count: 20, parallel: 5, ..Connections::default() };
        let idle = lab.hold(&connections)?;
        idle.wait_done(SOON)?;
        held.push(idle);
    }
    // A machine that is busy verifying programs may let one wait; a lost connection never gets its answer.
    let load =
        lab.load(&Load { interval: Duration::from_millis(50), timeout: 4 * SOON, ..Load::default() })?;
    load.wait_steady(load.mark(), 30, SOON)?;
    let mark = load.mark();
    let before = flows(lb)?;
    assert!(before.len() >= 52, "{}", before.len());

    let begun = Instant::now();
    thread::scope(|scope| -> TestResult {
        // Every byte is compared, both ways.
        let moved =
            scope.spawn(|| both_ways(&lab, Family::V4, 20_000_000).map_err(|error| error.to_string()));
        thread::sleep(Duration::from_millis(200));
        end(lb)?;
        lb.use_program(&new);
        lb.start()?;
        println!("the new daemon answers {:.1?} after the end of the former one began", begun.elapsed());
        let after = flows(lb)?;
        for (client, flow) in before.iter().filter(|(client, _)| !client.is_empty()) {
            // Those of the requests have ended meanwhile.
            if let Some(known) = after.get(client) {
                assert_eq!(known, flow, "{client}");
            }
        }
        let of_plain = |flows: &BTreeMap<String, (String, Value)>| {
            let ports = [plain(Family::V4).to_string(), plain(Family::V6).to_string()];
            flows
                .iter()
                .filter(|(key, _)| ports.iter().any(|port| key.ends_with(port.as_str())))
                .filter(|(key, _)| before.contains_key(*key))
                .map(|(key, flow)| (key.clone(), flow.clone()))
                .collect::<BTreeMap<_, _>>()
        };
        assert!(of_plain(&before).len() >= 40);
        assert_eq!(of_plain(&after), of_plain(&before), "idle flows are where they were");
        moved.join().map_err(|_| "the transfer panicked")??;
        Ok(())
    })?;
    lab.wait_owner(Some("lb1"), SOON)?;
    println!("{} streams go on", streams.go_on()?);
    load.wait_answered(load.mark(), 50, SOON)?;
    println!(
        "{} of {} requests failed; no answer for {:.0?} at most",
        load.failed(mark),
        load.answered(mark),
        load.longest_gap(mark)
    );
    let failed_at = load.read(|tally| {
        let failed = tally.since(mark).filter(|outcome| outcome.result.is_err());
        failed.map(|outcome| (outcome.at_us - outcome.took_us - mark) / 1000).collect::<Vec<_>>()
    });
    assert!(
        failed_at.is_empty(),
        "failed, after ms: {failed_at:?}: {:?}\n{}",
        load.failures(mark),
        lb.status().map(|status| status.raw["packets"].to_string()).unwrap_or_default()
    );

    wait::until("the former maps to go", 2 * SOON, || {
        let pins = pins(lb);
        !pins.iter().any(|pin| pin == "maps-v4") && pins.iter().any(|pin| pin.starts_with("maps-v"))
    })
    .map_err(|why| format!("{why}: {:?}\n{}", pins(lb), lb.last_lines()))?;
    println!("nothing of the former release is left after {:.1?}", begun.elapsed());
    streams.go_on()?;
    for idle in &held {
        assert_eq!(idle.held_by_server().values().sum::<usize>(), 20, "idle connections were lost");
    }
    assert_eq!(load.failed(mark), 0, "{:?}", load.failures(mark));
    assert!(log_of(lb).contains("the upgrade is complete"));

    lb.stop()?;
    let cleaned = lb.xvip_with_config(&["cleanup"])?;
    assert!(cleaned.status.success(), "{cleaned:?}");
    assert!(pins(lb).is_empty(), "{:?}", pins(lb));
    assert!(!lb.holds_vip());
    Ok(())
}

#[test]
fn a_killed_former_release_is_succeeded_without_a_loss() -> TestResult {
    upgrade("a_killed_former_release_is_succeeded_without_a_loss", |lb| {
        lb.kill();
        Ok(())
    })
}

#[test]
fn a_stopped_former_release_is_succeeded_without_a_loss() -> TestResult {
    upgrade("a_stopped_former_release_is_succeeded_without_a_loss", |lb| {
        lb.stop()?;
        Ok(())
    })
}

#[test]
fn an_upgrade_that_is_killed_half_way_is_finished_by_the_next() -> TestResult {
    let test = "an_upgrade_that_is_killed_half_way_is_finished_by_the_next";
    let Some(old) = former_xvip(test)? else { return Ok(()) };
    let lab = start(Lab::builder().lbs(1).ipv6().patience(4), &[Family::V4], |_| {})?;
    let lb = lab.lb(0);
    lb.stop()?;
    let cleaned = lb.xvip_with_config(&["cleanup"])?;
    assert!(cleaned.status.success(), "{cleaned:?}");
    let new = lb.program();
    lb.use_program(&old);
    lb.start()?;
    lab.wait_owner(Some("lb1"), SOON)?;
    know_the_vip(&lab)?;
    let streams = Streams::open(&lab, 9)?;
    lb.kill();
    lb.use_program(&new);
    for _ in 0..3 {
        lb.start()?;
        lb.kill();
        assert!(pins(lb).iter().any(|pin| pin == "maps-v4"), "it was faster than that: {:?}", pins(lb));
        streams.go_on()?;
    }
    lb.start()?;
    streams.go_on()?;
    wait::until("the former maps to go", 2 * SOON, || !pins(lb).iter().any(|pin| pin == "maps-v4"))
        .map_err(|why| format!("{why}: {:?}\n{}", pins(lb), lb.last_lines()))?;
    streams.go_on()?;
    Ok(())
}
