//! A backend's death and a fail-over as they can be read afterwards: in the log alone, and by `xvip explain`, with the daemon up
//! and down. Needs root, for the network namespaces.
//!
//! Runner: threads 1, minutes 6

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Output;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use lb_tests::node::LbNode;
use lb_tests::topology::{Lab, VIP};
use lb_tests::wait;
use serde_json::Value;

type TestResult = Result<(), Box<dyn Error>>;

/// Generous, because the machine may be busy; nothing waits for it unless something is wrong.
const SOON: Duration = Duration::from_secs(60);

fn text(output: &Output) -> String {
    (String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr)).into_owned()
}

fn explain(lb: &LbNode, words: &[&str]) -> Result<(Option<i32>, String), Box<dyn Error>> {
    let words: Vec<&str> = ["explain"].iter().chain(words).copied().collect();
    let output = lb.xvip_with_config(&words)?;
    let text = text(&output);
    println!("{}: xvip {}:\n{text}", lb.name(), words.join(" "));
    Ok((output.status.code(), text))
}

fn explained(lb: &LbNode, name: &str) -> Result<Value, Box<dyn Error>> {
    let output = lb.xvip_with_config(&["explain", name, "--json"])?;
    assert!(output.status.success(), "{}", text(&output));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The kinds and the new states of a time line.
fn line(explained: &Value) -> Vec<(String, String)> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let events = explained["subjects"][0]["events"].as_array().cloned().unwrap_or_default();
    events.iter().map(|event| (word(&event["kind"]), word(&event["to"]))).collect()
}

/// Whether these stand in that order, whatever else is between them.
fn in_order(found: &[(String, String)], expected: &[(&str, &str)]) -> bool {
    let mut rest = found.iter();
    expected.iter().all(|(kind, to)| rest.any(|(found, state)| found == kind && state == to))
}

/// Whether these texts stand in that order in the log, each on a line after the one before.
fn reads(lb: &LbNode, expected: &[&str]) -> TestResult {
    let log = fs::read_to_string(lb.log())?;
    let mut lines = log.lines();
    for text in expected {
        assert!(
            lines.any(|line| line.contains(text)),
            "{text:?} is not in the log of {}, or too early:\n{log}",
            lb.name()
        );
    }
    Ok(())
}

#[test]
fn a_death_and_a_fail_over_can_be_read_afterwards() -> TestResult {
    let lab = Lab::builder().lbs(2).masters(2).patience(4).build()?;
    lab.start_lbs()?;
    lab.wait_owner(Some("lb1"), SOON)?;
    let (lb1, lb2) = (lab.lb(0), lab.lb(1));
    let up = |explained: &Value| in_order(&line(explained), &[("daemon", "started"), ("backend", "up")]);
    wait::until("both servers to be up", SOON, || {
        ["master1", "master2"].iter().all(|name| explained(lb1, name).is_ok_and(|found| up(&found)))
    })?;

    // A server dies.
    lab.master(0).kill();
    let expected = [("backend", "up"), ("backend", "down (dead)")];
    for lb in lab.lbs() {
        wait::until("the death to be told", SOON, || {
            explained(lb, "master1").is_ok_and(|found| in_order(&line(&found), &expected))
        })?;
        let address = lab.master(0).socket_address();
        let died = format!(
            "backend master1 of kube-apiserver ({address}): up -> down (dead): connection refused (checks 2, "
        );
        reads(lb, &["xvip started: version", ": unknown -> up: status 200", &died])?;
    }
    let (code, text) = explain(lb1, &["master1"])?;
    assert_eq!(code, Some(0), "{text}");
    let head = format!(
        "backend master1 of kube-apiserver ({})\nIt is down (dead) since ",
        lab.master(0).socket_address()
    );
    assert!(text.starts_with(&head) && text.contains("It gets no new connections: it is down."), "{text}");
    assert!(text.contains("  up -> down (dead): connection refused (checks 2, decided within "), "{text}");
    let longest = text.lines().map(|line| line.chars().count()).max().unwrap_or_default();
    assert!(longest <= 120 && !text.contains('\u{1b}'), "{longest} columns, or colour in a pipe");

    // An operator says something.
    assert!(lb1.xvip(&["backend", "drain", "master2", "--service", "kube-apiserver"])?.status.success());
    let (_, text) = explain(lb1, &["kube-apiserver"])?;
    assert!(text.contains("None of its 2 backends gets new connections"), "{text}");
    assert!(text.contains("backend master2 of kube-apiserver") && text.contains("drain: by root"), "{text}");
    assert!(lb1.xvip(&["backend", "enable", "master2"])?.status.success());

    // The node dies.
    lb1.kill();
    lab.wait_owner(Some("lb2"), SOON)?;
    wait::until("lb2 to tell of it", SOON, || {
        let expected = [
            ("owner", format!("{} (priority 100)", lb1.address())),
            ("vrrp", "active".into()),
            ("vip", "here".into()),
        ];
        let expected: Vec<(&str, &str)> = expected.iter().map(|(kind, to)| (*kind, to.as_str())).collect();
        explained(lb2, VIP.to_string().as_str()).is_ok_and(|found| in_order(&line(&found), &expected))
    })?;
    let silent = "vrrp main: backup -> active: active router silent for ";
    let last =
        format!("; the last one heard was {} (priority 100) (own priority 90, backup for ", lb1.address());
    let here = format!("VIP {VIP}: not here -> here: on eth0 and forwarding; gratuitous ARP sent (within ");
    reads(lb2, &[silent, &here])?;
    let log = fs::read_to_string(lb2.log())?;
    assert!(log.lines().any(|line| line.contains(silent) && line.contains(&last)), "{log}");
    let (_, text) = explain(lb2, &["main"])?;
    assert!(
        text.contains(&format!("This node has {VIP}/24 (VRRP instance main, priority 90) since ")),
        "{text}"
    );

    // The dead one's last words are there all the same.
    let (code, text) = explain(lb1, &["master1"])?;
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.starts_with(
            "The daemon does not run: what follows is what was so last. It ended without a word"
        ),
        "{text}"
    );
    assert!(
        text.contains("It was down (dead) since ") && text.contains("up -> down (dead): connection refused"),
        "{text}"
    );
    let (code, text) = explain(lb1, &["master7"])?;
    assert!(code == Some(1) && text.contains("nothing is called \"master7\"; there are VIP "), "{text}");

    // And its successor goes on with them.
    lb1.start()?;
    lab.wait_owner(Some("lb1"), SOON)?;
    let both = [
        ("daemon", "started"),
        ("backend", "down (dead)"),
        ("daemon", "started"),
        ("backend", "down (dead)"),
    ];
    wait::until("the second life to be told", SOON, || {
        explained(lb1, "master1").is_ok_and(|found| in_order(&line(&found), &both))
    })?;
    // lb2 says who took the VIP from it.
    wait::until("lb2 to have told of it", SOON, || {
        fs::read_to_string(lb2.log())
            .is_ok_and(|log| log.contains(": here -> not here: taken off eth0 (here for "))
    })?;
    let lost =
        format!("vrrp main: active -> backup: preempted by higher priority 100 from {}", lb1.address());
    reads(lb2, &[silent, &lost, ": here -> not here: taken off eth0 (here for "])?;

    let (ended, _) = lb1.stop()?;
    assert!(ended.success());
    let (_, text) = explain(lb1, &["main", "--since", "1h"])?;
    assert!(text.contains("It was stopped "), "{text}");
    let cleaned = lb1.xvip_with_config(&["cleanup"])?;
    let cleaned = String::from_utf8_lossy(&cleaned.stdout).into_owned();
    assert!(cleaned.contains("history.jsonl"), "{cleaned}");
    let (_, text) = explain(lb1, &["main"])?;
    assert!(text.starts_with("The daemon does not run, and has left no history."), "{text}");
    println!("the log of lb2:\n{}", fs::read_to_string(lb2.log())?);
    Ok(())
}

#[test]
fn the_log_can_be_json_and_its_level_changes_with_a_reload() -> TestResult {
    let lab = Lab::builder().lbs(1).masters(1).patience(4).build()?;
    let lb = lab.lb(0);
    let extra = |level: &str| format!("[log]\nformat = \"json\"\nlevel = \"{level}\"\n");
    lb.configure(|config| config.extra.push_str(&extra("info")))?;
    lab.start_lbs()?;
    lab.wait_owner(Some("lb1"), SOON)?;
    let events = || -> Result<Vec<Value>, Box<dyn Error>> {
        let log = fs::read_to_string(lb.log())?;
        let lines: Result<Vec<Value>, _> = log.lines().map(serde_json::from_str).collect();
        Ok(lines.map_err(|error| format!("{error}:\n{log}"))?)
    };
    let told = |kind: &str, to: &str| {
        events().is_ok_and(|all| all.iter().any(|line| line["event"] == kind && line["to"] == to))
    };
    wait::until("the VIP's arrival to be in the log", SOON, || told("vip", "here"))?;
    let active = events()?
        .into_iter()
        .find(|line| line["event"] == "vrrp" && line["to"] == "active")
        .ok_or("no event")?;
    assert_eq!(
        (&active["from"], &active["name"], &active["level"]),
        (&"backup".into(), &"main".into(), &"INFO".into())
    );
    assert!(
        active["reason"].as_str().is_some_and(|why| why.starts_with("no active router heard for ")),
        "{active}"
    );

    lb.configure(|config| config.extra = extra("error"))?;
    assert!(lb.xvip(&["reload"])?.status.success());
    lab.master(0).kill();
    wait::until("the death", SOON, || {
        explained(lb, "master1").is_ok_and(|found| in_order(&line(&found), &[("backend", "down (dead)")]))
    })?;
    assert!(!told("backend", "down (dead)"), "it is a warning");
    // What cannot change while it runs is refused.
    lb.configure(|config| config.extra = "[log]\nformat = \"text\"\n".to_owned())?;
    let refused = text(&lb.xvip(&["reload"])?);
    assert!(refused.contains("log.format cannot change while xvip runs"), "{refused}");
    Ok(())
}

/// What the journal's socket gets: its own form, fields of their own for an event, and nothing on stderr.
#[test]
fn the_journal_gets_each_event_with_its_fields() -> TestResult {
    let lab = Lab::builder().lbs(1).masters(1).patience(4).build()?;
    let lb = lab.lb(0);
    // Where journald listens; the machine's /run is its own.
    let journal = lb.machine().run(|| {
        fs::create_dir_all("/run/systemd/journal")?;
        UnixDatagram::bind("/run/systemd/journal/socket")
    })??;
    // Somebody must take what comes all the time, as journald does: whoever writes waits where much lies there.
    let (sender, received) = mpsc::channel();
    journal.set_read_timeout(Some(Duration::from_secs(5)))?;
    thread::spawn(move || {
        let mut datagram = vec![0; 1 << 16];
        loop {
            let entry = journal.recv(&mut datagram).ok().and_then(|length| entry(&datagram[..length]));
            // None within that time: is anybody still there?
            if sender.send(entry.unwrap_or_default()).is_err() {
                return;
            }
        }
    });
    lb.configure(|config| config.extra.push_str("[log]\ntarget = \"journal\"\n"))?;
    lab.start_lbs()?;
    let mut entries: Vec<BTreeMap<String, String>> = Vec::new();
    let mut heard = |kind: &str, to: &str| {
        wait::value(&format!("{kind} {to} in the journal"), SOON, || {
            entries.extend(received.try_iter());
            let is_it = |entry: &&BTreeMap<String, String>| {
                entry.get("XVIP_EVENT").is_some_and(|event| event == kind)
                    && entry.get("XVIP_TO").is_some_and(|state| state == to)
            };
            entries.iter().find(is_it).cloned()
        })
    };
    let active = heard("vrrp", "active")?;
    for (field, value) in [
        ("SYSLOG_IDENTIFIER", "xvip"),
        ("PRIORITY", "6"),
        ("XVIP_NAME", "main"),
        ("XVIP_INSTANCE", "main"),
        ("XVIP_FROM", "backup"),
        ("XVIP_VIPS", &VIP.to_string()),
    ] {
        assert_eq!(active.get(field).map(String::as_str), Some(value), "{field} of {active:#?}");
    }
    assert!(
        active["MESSAGE"].starts_with("vrrp main: backup -> active: no active router heard"),
        "{active:#?}"
    );
    assert!(!active.contains_key("XVIP_SERVICE") && !active.contains_key("XVIP_ADDRESS"), "{active:#?}");
    heard("backend", "up")?;
    lab.master(0).kill();
    let dead = heard("backend", "down (dead)")?;
    let address = lab.master(0).socket_address().to_string();
    for (field, value) in [
        ("PRIORITY", "4"),
        ("XVIP_NAME", "master1"),
        ("XVIP_SERVICE", "kube-apiserver"),
        ("XVIP_ADDRESS", &address),
        ("XVIP_REASON", "connection refused"),
    ] {
        assert_eq!(dead.get(field).map(String::as_str), Some(value), "{field} of {dead:#?}");
    }
    let numbers: Value = serde_json::from_str(&dead["XVIP_NUMBERS"])?;
    assert!(
        numbers["checks"].as_u64() >= Some(1) && dead["XVIP_LASTED_MS"].parse::<u64>().is_ok(),
        "{dead:#?}"
    );
    let said = fs::read_to_string(lb.log())?;
    assert!(!said.contains("master1") && !said.contains("vrrp"), "stderr has the log, too:\n{said}");
    Ok(())
}

/// An entry in the journal's own form (systemd, "Native Journal Protocol"): `NAME=VALUE` lines, or a name, a length of eight
/// bytes and as many of a value that may have line ends. Those that come in a file of their own are none here.
fn entry(mut datagram: &[u8]) -> Option<BTreeMap<String, String>> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut fields = BTreeMap::new();
    while !datagram.is_empty() {
        let end = datagram.iter().position(|byte| *byte == b'\n')?;
        let (line, rest) = (&datagram[..end], &datagram[end + 1..]);
        match line.iter().position(|byte| *byte == b'=') {
            Some(at) => {
                fields.insert(text(&line[..at]), text(&line[at + 1..]));
                datagram = rest;
            }
            None => {
                let length = u64::from_le_bytes(rest.get(..8)?.try_into().ok()?);
                let length = usize::try_from(length).ok()?;
                fields.insert(text(line), text(rest.get(8..8 + length)?));
                datagram = rest.get(8 + length + 1..)?;
            }
        }
    }
    (!fields.is_empty()).then_some(fields)
}
