//! `xvip backend`: who is drained, disabled or weighted, what becomes of the connections, and that it outlives the daemon. Real
//! connections through a real `xvip`. Needs root, for the network namespaces.
//!
//! Runner: threads 1, minutes 10

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::time::{Duration, Instant};

use lb_tests::client_host::plain;
use lb_tests::measure::ClientProcess;
use lb_tests::node::{LbNode, Status};
use lb_tests::shared_flows::{key_file, listens_at};
use lb_tests::topology::{Connections, Family, Lab, Mode};
use lb_tests::traffic::{ask, start, start_with};
use lb_tests::wait;

type TestResult = Result<(), Box<dyn Error>>;

/// Generous, because the machine may be busy; nothing waits for it unless something is wrong.
const SOON: Duration = Duration::from_secs(60);

fn running(mode: Mode, family: Family) -> Result<Lab, Box<dyn Error>> {
    start(Lab::builder().lbs(1).mode(mode), &[family], |_| ())
}

fn hold(lab: &Lab, family: Family, count: u32) -> Result<ClientProcess, Box<dyn Error>> {
    let client = lab.hold(&Connections { address: plain(family), count, ..Connections::default() })?;
    client.wait_done(SOON)?;
    assert_eq!(client.held_by_server().values().sum::<usize>(), count as usize, "{:?}", client.failures(0));
    Ok(client)
}

/// `xvip backend WORDS`: its exit code, and what it printed.
fn backend(lb: &LbNode, words: &[&str]) -> Result<(Option<i32>, String), Box<dyn Error>> {
    let words: Vec<&str> = ["backend"].iter().chain(words).copied().collect();
    let output = lb.xvip(&words)?;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    println!("xvip {}: {}", words.join(" "), text.trim());
    Ok((output.status.code(), text.trim().to_owned()))
}

fn done(lb: &LbNode, words: &[&str]) -> Result<String, Box<dyn Error>> {
    let (code, text) = backend(lb, words)?;
    assert_eq!(code, Some(0), "{words:?}: {text}");
    Ok(text)
}

/// Who answers so many new connections.
fn new_ones(lab: &Lab, family: Family) -> Result<BTreeMap<String, usize>, Box<dyn Error>> {
    ask(lab, &Connections { address: plain(family), count: 60, ..Connections::default() })
}

fn service_name(family: Family) -> &'static str {
    if family == Family::V4 { "plain" } else { "plain6" }
}

/// What of a backend is so now: its state by an operator's word, and the weight that counts.
fn told(status: &Status, service: &str, name: &str) -> Option<(Option<String>, u32)> {
    let backend = status.service(service)?.backends.iter().find(|backend| backend.name == name)?;
    Some((backend.admin.as_ref().map(|admin| admin.state.clone()), backend.effective_weight))
}

fn wait_told(lb: &LbNode, service: &str, name: &str, expected: (Option<&str>, u32)) -> TestResult {
    let expected = (expected.0.map(str::to_owned), expected.1);
    wait::until(&format!("{name} to be {expected:?}"), SOON, || {
        lb.status().is_ok_and(|status| told(&status, service, name).as_ref() == Some(&expected))
    })?;
    Ok(())
}

fn state_file(lb: &LbNode) -> std::path::PathBuf {
    lb.state_dir().join("xvip.json")
}

#[test]
fn a_drained_backend_keeps_what_it_has_and_gets_nothing_new_until_it_is_enabled() -> TestResult {
    let lab = running(Mode::Nat, Family::V4)?;
    let lb = lab.lb(0);
    let held = hold(&lab, Family::V4, 60)?;
    let at_first = held.held_by_server();
    assert_eq!(at_first.len(), 3, "{at_first:?}");

    let text = done(lb, &["drain", "master1"])?;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "the API's and the plain one: {text}");
    let expected = format!(
        "master1 of service plain: gets no new connections; its {} stay until they end; weight 100",
        at_first["master1"]
    );
    assert!(lines.contains(&expected.as_str()), "{text}");
    let others = |when: &str| -> TestResult {
        let servers = new_ones(&lab, Family::V4)?;
        assert!(servers.len() == 2 && !servers.contains_key("master1"), "{when}: {servers:?}");
        assert_eq!((held.breaks(0), held.held_by_server()), (0, at_first.clone()), "{when}");
        wait_told(lb, "plain", "master1", (Some("drain"), 0))
    };
    others("drained")?;
    let (_, shown) = {
        let output = lb.xvip(&["status"])?;
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert!(
        shown.contains("master1: drained: no new connections; those that it has stay; by root"),
        "{shown}"
    );
    assert!(shown.contains("`xvip backend enable master1` ends it"), "{shown}");
    let text = fs::read_to_string(state_file(lb))?;
    assert!(text.contains("\"version\": 1") && text.contains("\"drain\""), "{text}");

    lb.stop()?;
    lb.start()?;
    wait::until("the node to serve again", SOON, || lb.status().is_ok_and(|s| s.service_up("plain") == 3))?;
    others("stopped and started")?;
    lb.kill();
    lb.start()?;
    wait::until("the node to serve again", SOON, || lb.status().is_ok_and(|s| s.service_up("plain") == 3))?;
    others("killed and started")?;
    lb.configure(|config| config.flows.push("idle_timeout = \"23h\"".to_owned()))?;
    assert!(lb.xvip(&["reload"])?.status.success());
    others("reloaded")?;

    done(lb, &["enable", "master1"])?;
    wait_told(lb, "plain", "master1", (None, 100))?;
    assert_eq!(new_ones(&lab, Family::V4)?.len(), 3);
    assert_eq!(held.breaks(0), 0);
    Ok(())
}

#[test]
fn at_the_deadline_what_is_left_is_reset_also_if_the_daemon_was_killed_meanwhile() -> TestResult {
    let lab = running(Mode::Nat, Family::V4)?;
    let lb = lab.lb(0);
    let held = hold(&lab, Family::V4, 60)?;
    let at_first = held.held_by_server();
    let begin = Instant::now();
    let text = done(lb, &["drain", "master1", "--deadline", "8s", "--service", "plain"])?;
    assert!(text.contains(" stay until 20") && text.lines().count() == 1, "{text}");
    wait_told(lb, "kube-apiserver", "master1", (None, 100))?;
    lb.kill();
    lb.start()?;
    assert_eq!(held.breaks(0), 0, "not yet");
    wait::until("the connections of master1 to end", SOON, || held.breaks(0) >= at_first["master1"])?;
    let took = begin.elapsed();
    println!("{} connections told {took:.2?} after the drain began", at_first["master1"]);
    assert!(took >= Duration::from_secs(8), "{took:?}");
    std::thread::sleep(Duration::from_secs(1));
    let mut left = at_first.clone();
    let gone = left.remove("master1").unwrap_or_default();
    assert_eq!((held.breaks(0), held.held_by_server()), (gone, left.clone()), "nobody else's");
    let ended = held.streams().into_values().filter_map(|stream| stream.broken.first().cloned());
    assert!(ended.into_iter().all(|(_, why)| why.starts_with("reset")), "by a RST");

    // It stays out, and is so after the next start, too.
    lb.kill();
    lb.start()?;
    wait_told(lb, "plain", "master1", (Some("drain"), 0))?;
    assert!(!new_ones(&lab, Family::V4)?.contains_key("master1"));
    assert_eq!(held.held_by_server(), left);
    Ok(())
}

#[test]
fn a_disabled_backend_loses_all_at_once_in_every_mode() -> TestResult {
    for (mode, family) in [(Mode::Nat, Family::V6), (Mode::DsrL2, Family::V4), (Mode::DsrIpip, Family::V4)] {
        let lab = running(mode, family)?;
        let lb = lab.lb(0);
        let held = hold(&lab, family, 60)?;
        let at_first = held.held_by_server();
        // With direct server return a flow is established by its second packet.
        let service = service_name(family);
        wait::until("all flows to be counted", SOON, || {
            lb.status().is_ok_and(|status| {
                status.service(service).is_some_and(|service| {
                    service.backends.iter().map(|backend| backend.flows.active).sum::<u64>() == 60
                })
            })
        })?;
        let begin = Instant::now();
        done(lb, &["disable", "master2"])?;
        wait::until("the connections of master2 to end", SOON, || held.breaks(0) >= at_first["master2"])?;
        println!(
            "{mode:?} {family:?}: {} connections told after {:.0?}",
            at_first["master2"],
            begin.elapsed()
        );
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        let servers = new_ones(&lab, family)?;
        assert!(servers.len() == 2 && !servers.contains_key("master2"), "{servers:?}");
        let mut left = at_first;
        left.remove("master2");
        assert_eq!(held.held_by_server(), left, "nobody else's");
        done(lb, &["enable", "master2"])?;
        wait_told(lb, service, "master2", (None, 100))?;
        assert_eq!(new_ones(&lab, family)?.len(), 3);
    }
    Ok(())
}

#[test]
fn a_weight_changes_the_share_until_the_files_holds_again() -> TestResult {
    let lab = running(Mode::Nat, Family::V4)?;
    let lb = lab.lb(0);
    let shares = |service: &str| -> Result<Vec<f64>, Box<dyn Error>> {
        let status = lb.status()?;
        let service = status.service(service).ok_or("no such service")?;
        Ok(service.backends.iter().map(|backend| (backend.share * 1000.0).round() / 1000.0).collect())
    };
    done(lb, &["weight", "master1", "50", "--service", "plain"])?;
    assert_eq!(shares("plain")?, [0.2, 0.4, 0.4]);
    assert_eq!(shares("kube-apiserver")?, [0.333, 0.333, 0.333]);
    let many = Connections { count: 1500, ..Connections::default() };
    let servers = ask(&lab, &many)?;
    println!("weights 50, 100, 100: {servers:?}");
    assert!(servers["master1"].abs_diff(300) < 80, "{servers:?}");

    lb.kill();
    lb.start()?;
    wait_told(lb, "plain", "master1", (None, 50))?;
    done(lb, &["drain", "master1", "--service", "plain"])?;
    wait_told(lb, "plain", "master1", (Some("drain"), 0))?;
    let text = done(lb, &["enable", "master1"])?;
    assert!(text.contains("weight 50 instead of 100 until `xvip backend weight master1 default`"), "{text}");
    wait_told(lb, "plain", "master1", (None, 50))?;
    done(lb, &["weight", "master1", "default"])?;
    wait_told(lb, "plain", "master1", (None, 100))?;
    wait::until("the shares to be even", SOON, || {
        shares("plain").is_ok_and(|now| now == [0.333, 0.333, 0.333])
    })?;
    Ok(())
}

#[test]
fn what_cannot_be_meant_is_refused_and_what_is_damaged_is_said() -> TestResult {
    let lab = running(Mode::Nat, Family::V4)?;
    let lb = lab.lb(0);
    let known =
        "master1, master2, master3 (service kube-apiserver); master1, master2, master3 (service plain)";
    for (words, code, expected) in [
        (&["drain", "master9"][..], 1, format!("no backend is called \"master9\"; there are: {known}")),
        (&["disable", "master1", "--service", "web"], 1, "there are: kube-apiserver, plain".to_owned()),
        (&["weight", "master1", "257"], 2, "write 0 to 256, or default".to_owned()),
        (&["drain", "master1", "--deadline", "soon"], 2, "write 90s, 5m, 2h".to_owned()),
    ] {
        let (given, text) = backend(lb, words)?;
        assert!(given == Some(code) && text.contains(&expected), "{words:?}: {given:?} {text}");
    }
    assert!(!state_file(lb).exists(), "nothing was said");
    for name in ["master1", "master2"] {
        assert!(!done(lb, &["disable", name, "--service", "plain"])?.contains("warning"));
    }
    let text = done(lb, &["disable", "master3", "--service", "plain"])?;
    assert!(text.contains("warning: service plain: no backend is left for new connections"), "{text}");
    done(lb, &["enable", "master3"])?;

    // Of a backend that is not in the configuration any more it is kept, and holds when it is back.
    let backends = lb.config().services.iter().find(|s| s.name == "plain").map(|s| s.backends.clone());
    let plain = |lb: &LbNode, keep: usize| -> TestResult {
        lb.configure(|config| {
            for service in config.services.iter_mut().filter(|service| service.name == "plain") {
                service.backends = backends.clone().unwrap_or_default();
                service.backends.retain(|backend| keep == 3 || backend.name != "master1");
            }
        })?;
        assert!(lb.xvip(&["reload"])?.status.success());
        Ok(())
    };
    plain(lb, 2)?;
    assert!(fs::read_to_string(state_file(lb))?.contains("master1"));
    let log = fs::read_to_string(lb.log())?;
    let kept = "about master1 of service plain is kept, but the configuration has no such backend";
    assert!(log.contains(kept), "{log}");
    lb.kill();
    lb.start()?;
    done(lb, &["enable", "master2"])?;
    assert!(fs::read_to_string(state_file(lb))?.contains("master1"));
    plain(lb, 3)?;
    wait_told(lb, "plain", "master1", (Some("disabled"), 0))?;

    // A damaged file is no reason not to start.
    lb.stop()?;
    fs::write(state_file(lb), "{\"version\": 1, \"overr")?;
    lb.start()?;
    let status = lb.status()?;
    assert_eq!(told(&status, "plain", "master1").map(|(state, _)| state), Some(None), "as the file says");
    let problems = status.raw["problems"].to_string();
    assert!(problems.contains("every backend is as the configuration says; the file is now"), "{problems}");
    let aside: Vec<String> = fs::read_dir(lb.state_dir())?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.contains("history"))
        .collect();
    assert!(aside.len() == 1 && aside[0].starts_with("xvip.json.unusable-"), "{aside:?}");
    done(lb, &["drain", "master1"])?;
    assert_eq!(
        lb.status()?.raw["problems"].to_string().matches("unusable").count(),
        0,
        "a new one is written"
    );

    // Nowhere to keep it: then it is not so.
    fs::remove_dir_all(lb.state_dir())?;
    fs::write(lb.state_dir(), "in the way")?;
    let (code, text) = backend(lb, &["enable", "master1"])?;
    assert!(code == Some(1) && text.contains("nothing was changed: the state cannot be kept in"), "{text}");
    wait_told(lb, "plain", "master1", (Some("drain"), 0))
}

/// Two nodes with `[sync]` that are told different things at different times agree in the end, who was away included.
#[test]
fn an_order_reaches_the_other_nodes_and_the_later_one_counts() -> TestResult {
    let lab = start_with(Lab::builder(), &[Family::V4], |lab, config| {
        let Ok(key) = key_file(lab, "sync.key", "5a") else { return };
        let own = usize::from(config.name != "lb1");
        config.exchange_flows(listens_at(lab.lb(own)), &[listens_at(lab.lb(1 - own))], &key);
    })?;
    let of = |node: usize, name: &str| {
        lab.lb(node).status().ok().and_then(|status| told(&status, "plain", name)).unwrap_or_default()
    };
    let agree = |name: &str, state: Option<&str>, weight: u32| -> TestResult {
        for node in [0, 1] {
            let what = format!("lb{} to have heard of {name}: {state:?}, {weight}", node + 1);
            let expected = (state.map(str::to_owned), weight);
            wait::until(&what, SOON, || of(node, name) == expected)
                .map_err(|why| format!("{why}: {:?}\n{}", of(node, name), lab.last_lines()))?;
        }
        Ok(())
    };
    let is_up = |node: usize| {
        let status = lab.lb(node).status();
        status.is_ok_and(|status| status.raw["sync"]["peers"][0]["sending"]["state"] == "up")
    };
    wait::until("the nodes to exchange flows", SOON, || is_up(0) && is_up(1))?;

    let text = done(lab.lb(0), &["drain", "master1", "--service", "plain"])?;
    assert!(!text.contains("not reached"), "{text}");
    agree("master1", Some("drain"), 0)?;
    done(lab.lb(1), &["weight", "master3", "7", "--service", "plain"])?;
    agree("master3", None, 7)?;
    let log = fs::read_to_string(lab.lb(1).log())?;
    assert!(log.contains("on lb1"), "who and where: {log}");

    lab.lb(1).stop()?;
    wait::until("lb1 to miss its peer", SOON, || !is_up(0))?;
    let text = done(lab.lb(0), &["enable", "master1", "--service", "plain"])?;
    assert!(text.contains("told once they are: lb2"), "{text}");
    done(lab.lb(0), &["disable", "master2", "--service", "plain"])?;
    // Nor does lb1 remember it in memory alone.
    lab.lb(0).stop()?;
    lab.lb(1).start()?;
    lab.lb(0).start()?;
    agree("master1", None, 100)?;
    agree("master2", Some("disabled"), 0)?;

    lab.lb(0).configure(|config| config.extra.clear())?;
    assert!(lab.lb(0).xvip(&["reload"])?.status.success());
    let text = done(lab.lb(0), &["enable", "master2", "--service", "plain"])?;
    assert!(text.contains("without [sync] the others are not told"), "{text}");
    Ok(())
}
