//! The connection log of real daemons, and `xvip who`: real connections, opened here, so that the test knows what is true. Needs
//! root, for the network namespaces.
//!
//! Runner: threads 2, minutes 5

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    process::Command,
    time::Duration,
};

use lb_tests::{
    client_host::plain,
    json_schema::validate,
    node::{LbNode, NodeConfig},
    topology::{Family, Lab, Mode},
    traffic::{start, start_with},
    wait,
};
use serde_json::Value;
use socket2::SockRef;

type TestResult = Result<(), Box<dyn Error>>;

/// Generous: nothing waits for it unless something is wrong.
const SOON: Duration = Duration::from_secs(60);
const SYNC_PORT: u16 = 7946;

/// A connection to the plain service, and what the client knows of it.
struct Open {
    stream: TcpStream,
    /// The client's address and port.
    client: String,
    /// Who answered; nobody was asked without.
    server: String,
}

/// Opens a connection and asks for the server's name.
fn open(lab: &Lab, family: Family) -> Result<Open, Box<dyn Error>> {
    let mut open = connect(lab, family)?;
    open.stream.write_all(b"name\n")?;
    let mut answer = String::new();
    BufReader::new(&open.stream).read_line(&mut answer)?;
    open.server = answer.trim().to_owned();
    Ok(open)
}

/// Only opens one.
fn connect(lab: &Lab, family: Family) -> Result<Open, Box<dyn Error>> {
    let stream = lab.client().run(|| {
        let stream = TcpStream::connect_timeout(&plain(family), Duration::from_secs(10))?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).map(|()| stream)
    })??;
    let client = stream.local_addr()?.to_string();
    Ok(Open { stream, client, server: String::new() })
}

impl Open {
    /// Ends it by a RST.
    fn reset(self) -> std::io::Result<()> {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))
    }
}

/// Turns the log of the plain services on.
fn logged(config: &mut NodeConfig, directory: &str, keys: &str) {
    for service in config.services.iter_mut().filter(|service| service.name.starts_with("plain")) {
        service.extra.push("connection_log = true".to_owned());
    }
    config.extra += &format!("\n[connection_log]\ndirectory = {directory:?}\n{keys}\n");
}

fn directory(lab: &Lab, node: &str) -> PathBuf {
    lab.dir().join(format!("{node}.connections"))
}

/// A lab with one node that logs.
fn one(families: &[Family], mode: Mode, keys: &str) -> Result<Lab, Box<dyn Error>> {
    start_with(Lab::builder().lbs(1).patience(4).mode(mode), families, |lab, config| {
        let directory = directory(lab, &config.name);
        logged(config, &directory.to_string_lossy(), keys);
    })
}

/// The records of a node, in the order of its files: those that were put aside come first by their names.
fn records(lab: &Lab, node: &LbNode) -> Result<Vec<Value>, Box<dyn Error>> {
    let mut records = Vec::new();
    let files = fs::read_dir(directory(lab, node.name()))?;
    let mut files = files.map(|file| Ok(file?.path())).collect::<std::io::Result<Vec<_>>>()?;
    files.sort();
    for file in files {
        for line in fs::read_to_string(file)?.lines() {
            records.push(serde_json::from_str(line)?);
        }
    }
    Ok(records)
}

/// What a node has of a client: `start handshake`, `end closed` and so on.
fn story(lab: &Lab, node: &LbNode, client: &str) -> Vec<String> {
    let records = records(lab, node).unwrap_or_default();
    let of_client = records.iter().filter(|record| record["client"] == client);
    let word = |record: &Value, key: &str| record[key].as_str().unwrap_or_default().to_owned();
    of_client
        .map(|record| {
            let what = if record["record"] == "start" { "via" } else { "ended" };
            let reason = record["reason"].as_str().map(|reason| format!(" {reason}")).unwrap_or_default();
            format!("{} {}{reason}", word(record, "record"), word(record, what))
        })
        .collect()
}

/// Waits until a node has that of a client, and nothing else.
fn wait_story(lab: &Lab, node: &LbNode, client: &str, expected: &[&str]) -> TestResult {
    wait::until(&format!("{expected:?} of {client}"), SOON, || story(lab, node, client) == expected).map_err(
        |why| {
            let all = records(lab, node).map(|records| format!("{records:#?}")).unwrap_or_default();
            format!("{why}: {:?}\n{all}\n{}", story(lab, node, client), node.last_lines()).into()
        },
    )
}

/// What `xvip who --json` with these words says, and whether it says that it has found somebody.
fn who(node: &LbNode, words: &[&str]) -> Result<(Value, bool), Box<dyn Error>> {
    let words: Vec<&str> = ["who", "--json"].into_iter().chain(words.iter().copied()).collect();
    let output = node.machine().output(&mut node.tool(&words))?;
    let answer = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)))?;
    Ok((answer, output.status.success()))
}

fn clients(answer: &Value) -> BTreeSet<String> {
    let found = answer["connections"].as_array().into_iter().flatten();
    found.filter_map(|found| found["client"].as_str().map(str::to_owned)).collect()
}

/// The ports that an API server's kernel has connections of the plain service from: what is really so.
fn seen_by(lab: &Lab, server: &str) -> Result<BTreeSet<u16>, Box<dyn Error>> {
    let master = lab.masters().iter().find(|master| master.name() == server).ok_or("no such server")?;
    let sport = format!("sport = :{}", plain(Family::V4).port());
    let mut ss = Command::new("ss");
    let output = master.machine().output(ss.args(["-Htn", "state", "established", &sport]))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let peers = text.lines().filter_map(|line| line.split_whitespace().last());
    Ok(peers.filter_map(|peer| peer.rsplit(':').next()?.parse().ok()).collect())
}

fn is_vip(node: &LbNode, address: &str) -> bool {
    address.parse::<IpAddr>().is_ok_and(|address| node.holds(address))
}

#[test]
fn each_end_is_told_and_who_names_the_client_that_a_server_saw() -> TestResult {
    let lab = one(&Family::BOTH, Mode::Nat, "")?;
    let lb = lab.lb(0);
    for family in Family::BOTH {
        let held: Vec<Open> = (0..4).map(|_| open(&lab, family)).collect::<Result<_, _>>()?;
        for one in &held {
            wait_story(&lab, lb, &one.client, &["start handshake"])?;
        }
        // Each port that a server sees is of one of these clients, and `who` knows of which.
        let mut named = BTreeMap::new();
        for server in held.iter().map(|one| one.server.as_str()).collect::<BTreeSet<_>>() {
            for port in seen_by(&lab, server)? {
                let (answer, found) = who(lb, &["--nat-port", &port.to_string(), "--backend", server])?;
                let connections = answer["connections"].as_array().ok_or("no list")?;
                // A health check has a port of this node's own, which no client has.
                for connection in connections {
                    assert!(
                        found && connection["open"] == true && connection["source"] == "log",
                        "{answer:#}"
                    );
                    assert_eq!(connection["backend"], server);
                    named.insert(
                        connection["client"].as_str().unwrap_or_default().to_owned(),
                        server.to_owned(),
                    );
                }
            }
        }
        let expected: BTreeMap<String, String> =
            held.iter().map(|one| (one.client.clone(), one.server.clone())).collect();
        assert_eq!(named, expected, "{family:?}");

        let names: Vec<String> = held.iter().map(|one| one.client.clone()).collect();
        let mut held = held.into_iter();
        held.next().ok_or("four")?.reset()?;
        wait_story(&lab, lb, &names[0], &["start handshake", "end reset-by-client"])?;
        drop(held.next());
        wait_story(&lab, lb, &names[1], &["start handshake", "end closed"])?;
        // Of one that has ended, the log knows who it was.
        let records = records(&lab, lb)?;
        let end = records
            .iter()
            .find(|record| record["record"] == "end" && record["client"] == names[1].as_str())
            .ok_or("its end")?;
        assert!(end["carried"]["bytes_in"].as_u64() > Some(100) && end["empty"].is_null(), "{end}");
        assert!(is_vip(lb, end["nat_address"].as_str().unwrap_or_default()), "{end}");
        let port = end["nat_port"].to_string();
        let at = end["opened"].as_str().ok_or("a time")?;
        let (then, _) = who(lb, &["--nat-port", &port, "--at", at])?;
        assert!(clients(&then).contains(&names[1]), "{then:#}");
        let schema = lb.machine().output(&mut lb.tool(&["who", "--json-schema"]))?;
        validate(&String::from_utf8_lossy(&schema.stdout), &then)?;
        let (early, found) = who(lb, &["--nat-port", &port, "--at", "1h ago"])?;
        assert!(!found && clients(&early).is_empty() && !early["notes"][0].is_null(), "{early:#}");
    }
    let status = lb.status()?;
    let log = &status.raw["connection_log"];
    assert_eq!((&log["dropped"], &log["lost"], &log["error"]), (&0.into(), &0.into(), &Value::Null), "{log}");
    assert!(log["starts"].as_u64() >= Some(8), "{log}");
    Ok(())
}

#[test]
fn what_xvip_resets_has_its_reason_and_the_silent_are_left_out() -> TestResult {
    let lab = one(&[Family::V4], Mode::Nat, "skip_empty = true\njournal = true")?;
    let lb = lab.lb(0);
    let silent = connect(&lab, Family::V4)?;
    let probe = connect(&lab, Family::V4)?.client;
    let held = open(&lab, Family::V4)?;
    wait_story(&lab, lb, &held.client, &["start handshake"])?;
    let output = lb.xvip(&["backend", "disable", &held.server, "--service", "plain"])?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    wait_story(&lab, lb, &held.client, &["start handshake", "end reset-by-xvip disabled"])?;
    wait::until("the probe to be counted", SOON, || {
        lb.status().is_ok_and(|status| status.raw["connection_log"]["skipped"].as_u64() >= Some(1))
    })?;
    assert!(story(&lab, lb, &probe).is_empty() && story(&lab, lb, &silent.client).is_empty());
    let log = fs::read_to_string(lb.log())?;
    assert!(log.contains("connection ends") && log.contains("reset-by-xvip"), "{log}");

    // Without the log a reload leaves nothing running, and with it the log goes on.
    let is_logged = || lb.status().is_ok_and(|status| !status.raw["connection_log"].is_null());
    for wanted in [false, true] {
        lb.configure(|config| {
            let plain = config.services.iter_mut().filter(|service| service.name.starts_with("plain"));
            plain.for_each(|service| service.extra = vec![format!("connection_log = {wanted}")]);
        })?;
        let reloaded = lb.xvip(&["reload"])?;
        assert!(reloaded.status.success(), "{}", String::from_utf8_lossy(&reloaded.stderr));
        assert_eq!(is_logged(), wanted);
    }
    let again = open(&lab, Family::V4)?;
    wait_story(&lab, lb, &again.client, &["start handshake"])?;
    Ok(())
}

#[test]
fn a_daemon_that_was_killed_has_a_successor_that_finds_what_happened() -> TestResult {
    let lab = one(&[Family::V4], Mode::Nat, "")?;
    let lb = lab.lb(0);
    let (stays, ends) = (open(&lab, Family::V4)?, open(&lab, Family::V4)?);
    for one in [&stays, &ends] {
        wait_story(&lab, lb, &one.client, &["start handshake"])?;
    }
    lb.kill();
    // XDP goes on: this one begins and ends while nobody looks.
    let short = open(&lab, Family::V4)?.client;
    let ended = ends.client.clone();
    drop(ends);
    lb.start()?;
    wait_story(&lab, lb, &ended, &["start handshake", "end closed"])?;
    wait::until("the one that nobody has seen", SOON, || {
        let story = story(&lab, lb, &short);
        story.len() == 2 && story[0].starts_with("start") && story[1] == "end closed"
    })
    .map_err(|why| format!("{why}: {:?}\n{}", story(&lab, lb, &short), lb.last_lines()))?;
    wait_story(&lab, lb, &stays.client, &["start handshake"])?;
    // A planned restart changes nothing, either.
    lb.replace()?;
    let client = stays.client.clone();
    drop(stays);
    wait_story(&lab, lb, &client, &["start handshake", "end closed"])?;
    Ok(())
}

#[test]
fn with_direct_server_return_the_client_s_own_port_is_seen() -> TestResult {
    let lab = one(&[Family::V4], Mode::DsrL2, "")?;
    let held = open(&lab, Family::V4)?;
    wait_story(&lab, lab.lb(0), &held.client, &["start handshake"])?;
    let client = held.client.clone();
    drop(held);
    wait_story(&lab, lab.lb(0), &client, &["start handshake", "end closed"])?;
    let records = records(&lab, lab.lb(0))?;
    assert!(records.iter().all(|record| record["nat_port"].is_null()), "{records:#?}");
    assert!(
        records
            .iter()
            .all(|record| record["backend"].as_str().is_some_and(|name| name.starts_with("master")))
    );
    Ok(())
}

/// What a log that is full leaves behind: so many files, none too large, each line whole, the newest connections in them,
/// and `who` finds what is in any of them.
#[test]
fn a_log_that_is_full_is_put_aside_and_the_oldest_goes() -> TestResult {
    const LARGEST: u64 = 100_000;
    let lab = one(&[Family::V4], Mode::Nat, "max_size = \"100KB\"\nfiles = 3")?;
    let lb = lab.lb(0);
    let files = || -> Result<Vec<PathBuf>, Box<dyn Error>> {
        let entries = fs::read_dir(directory(&lab, lb.name()))?;
        let mut files = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
        // Those that were put aside have their time in their names; the one that is written to has none.
        files.sort_by_key(|path| (path.to_string_lossy().ends_with("-connections.jsonl"), path.clone()));
        Ok(files)
    };
    let held = open(&lab, Family::V4)?;
    let first = held.client.clone();
    wait_story(&lab, lb, &first, &["start handshake"])?;
    drop(held);
    wait_story(&lab, lb, &first, &["start handshake", "end closed"])?;
    let begun = records(&lab, lb)?[0]["opened"].clone();
    // Its port may be another one's later. While files change, they may not be there to be read.
    let is_kept = || {
        let is_first = |record: &Value| record["client"] == first && record["opened"] == begun;
        records(&lab, lb).map_or(true, |records| records.iter().any(is_first))
    };
    // Until the first one is in a file that is gone: a few hundred, at some hundred bytes for each beginning and each end.
    let mut opened = 0;
    while is_kept() {
        for _ in 0..50 {
            drop(connect(&lab, Family::V4)?);
        }
        opened += 50;
        assert!(opened < 5_000, "{:?}", files()?);
        assert!(files()?.len() <= 3, "{:?}", files()?);
    }
    // Ends are written when they are found: many at once could push out the beginning of the last one.
    wait::until("all of them to have ended", SOON, || {
        lb.status().is_ok_and(|status| status.raw["connection_log"]["open"] == 0)
    })?;
    let held = open(&lab, Family::V4)?;
    let last = held.client.clone();
    // Before it, its port may have been another one's.
    let ends_with = |expected: &str| {
        wait::until(&format!("{expected} of {last}"), SOON, || {
            story(&lab, lb, &last).last().is_some_and(|record| record == expected)
        })
        .map_err(|why| format!("{why}: {:?} {:?}\n{}", story(&lab, lb, &last), files(), lb.last_lines()))
    };
    ends_with("start handshake")?;
    drop(held);
    ends_with("end closed")?;
    let left = files()?;
    assert_eq!(left.len(), 3, "{left:?}");
    let mut seen = BTreeSet::new();
    for path in &left {
        let text = fs::read_to_string(path)?;
        assert!(text.len() as u64 <= LARGEST && text.ends_with('\n'), "{}: {}", path.display(), text.len());
        for line in text.lines() {
            let record: Value = serde_json::from_str(line)?;
            let what = format!("{} {} {}", record["record"], record["client"], record["nat_port"]);
            assert!(seen.insert((what, record["opened"].to_string())), "twice: {line}");
        }
    }
    assert!(seen.len() > 300, "{} records", seen.len());
    // Of the oldest that is left, and of one that is gone.
    let oldest = fs::read_to_string(&left[0])?;
    let ended = oldest
        .lines()
        .map(serde_json::from_str::<Value>)
        .find(|record| record.as_ref().is_ok_and(|record| record["record"] == "end"));
    let ended = ended.ok_or("an end")??;
    let (port, at) = (ended["nat_port"].to_string(), ended["opened"].as_str().ok_or("a time")?.to_owned());
    let (found, _) = who(lb, &["--nat-port", &port, "--at", &at])?;
    assert!(clients(&found).contains(ended["client"].as_str().unwrap_or_default()), "{found:#}");
    let status = lb.status()?.raw["connection_log"].clone();
    assert_eq!((&status["dropped"], &status["lost"]), (&0.into(), &0.into()), "{status}");
    println!("{opened} connections, {} records in {left:?}", seen.len());
    Ok(())
}

/// Where a node tells its peers.
fn sync_at(node: &LbNode) -> SocketAddr {
    SocketAddr::new(node.address(), SYNC_PORT)
}

#[test]
fn a_connection_that_moves_with_the_vip_is_in_both_logs() -> TestResult {
    let lab = start_with(Lab::builder().patience(4), &[Family::V4], |lab, config| {
        let key = lab.dir().join("sync.key");
        let mut options = fs::OpenOptions::new();
        if let Ok(mut file) = options.write(true).create(true).truncate(true).mode(0o600).open(&key) {
            let _ = writeln!(file, "hex:{}", "5a".repeat(32));
        }
        let own = usize::from(config.name != "lb1");
        config.exchange_flows(sync_at(lab.lb(own)), &[sync_at(lab.lb(1 - own))], &key);
        let directory = directory(lab, &config.name);
        logged(config, &directory.to_string_lossy(), "");
    })?;
    let (first, second) = (lab.lb(0), lab.lb(1));
    lab.wait_owner(Some(first.name()), SOON)?;
    let mut held = open(&lab, Family::V4)?;
    wait_story(&lab, first, &held.client, &["start handshake"])?;
    assert!(story(&lab, second, &held.client).is_empty(), "it has the flow, but not the VIP");
    first.stop()?;
    lab.wait_owner(Some(second.name()), SOON)?;
    wait_story(&lab, first, &held.client, &["start handshake", "end moved"])?;
    wait_story(&lab, second, &held.client, &["start taken-over"])?;
    held.stream.write_all(b"name\n")?;
    let mut answer = String::new();
    BufReader::new(&held.stream).read_line(&mut answer)?;
    assert_eq!(answer.trim(), held.server);
    let client = held.client.clone();
    drop(held);
    wait_story(&lab, second, &client, &["start taken-over", "end closed"])?;
    Ok(())
}

#[test]
fn a_service_without_the_log_is_in_nobody_s() -> TestResult {
    let lab = start(Lab::builder().lbs(1).patience(4), &[Family::V4], |_| {})?;
    let held = open(&lab, Family::V4)?;
    let status = lab.lb(0).status()?;
    assert!(status.raw["connection_log"].is_null());
    // Who is connected now is known all the same.
    let mut found = BTreeSet::new();
    for port in seen_by(&lab, &held.server)? {
        let (answer, _) = who(lab.lb(0), &["--nat-port", &port.to_string(), "--backend", &held.server])?;
        found.append(&mut clients(&answer));
    }
    assert_eq!(found, BTreeSet::from([held.client]));
    Ok(())
}
