//! `[stats_socket]` beside a real HAProxy with the same backends: the same questions to both, and the answers held against each
//! other; then what is ordered there, by whom, and what is in the way. Needs root, and HAProxy.
//!
//! Runner: threads 1, minutes 4

#[path = "forwarding/streams.rs"]
mod streams;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lb_tests::daemon::Daemon;
use lb_tests::node::LbNode;
use lb_tests::other_user::{NOBODY, as_nobody};
use lb_tests::topology::{Connections, Family, Lab};
use lb_tests::traffic::{ask as ask_backends, start_with};
use lb_tests::wait;

use streams::Streams;

type TestResult = Result<(), Box<dyn Error>>;

/// Generous: nothing waits for it unless something is wrong.
const SOON: Duration = Duration::from_secs(60);

/// Everything that is answered until the end of the connection.
fn talk(socket: &Path, text: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(text.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The answer to one command.
fn ask(socket: &Path, command: &str) -> Result<String, Box<dyn Error>> {
    Ok(talk(socket, &format!("{command}\n")).map_err(|error| format!("{command}: {error}"))?)
}

fn our_socket(lb: &LbNode) -> PathBuf {
    lb.config_path().with_extension("admin")
}

fn table(lb: &LbNode, keys: &str) -> String {
    format!("[stats_socket]\npath = {:?}\n{keys}\n", our_socket(lb))
}

/// A lab with one node whose socket is open.
fn running(keys: &str) -> Result<Lab, Box<dyn Error>> {
    let lab = start_with(Lab::builder().lbs(1).patience(5), &[Family::V4], |lab, config| {
        config.extra = table(lab.lb(0), keys);
    })?;
    wait::until("the stats socket", SOON, || ask(&our_socket(lab.lb(0)), "show version").is_ok())?;
    wait::until("the backends", SOON, || {
        lab.lb(0).status().is_ok_and(|status| status.service_up("plain") == 3)
    })?;
    Ok(lab)
}

/// HAProxy with the node's services, on ports where it disturbs nobody.
fn haproxy(lb: &LbNode, socket: &Path) -> Result<Daemon, Box<dyn Error>> {
    let mut text = format!(
        "global\n  stats socket {} mode 600 level admin\n  maxconn 100\ndefaults\n  mode tcp\n  timeout connect 1s\n  \
         timeout client 5s\n  timeout server 5s\n",
        socket.display()
    );
    for (service, port) in lb.config().services.iter().zip(20_001..) {
        write!(text, "listen {}\n  bind 127.0.0.1:{port}\n  balance roundrobin\n", service.name)?;
        for backend in &service.backends {
            writeln!(text, "  server {} {} check inter 500ms weight 100", backend.name, backend.address)?;
        }
    }
    let config = socket.with_extension("cfg");
    fs::write(&config, text)?;
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(&config);
    let mut daemon = Daemon::start(lb.machine(), "haproxy", &mut command, &socket.with_extension("log"))?;
    daemon.wait_ready("HAProxy's socket", SOON, || ask(socket, "show info").is_ok())?;
    Ok(daemon)
}

type Rows = BTreeMap<(String, String), BTreeMap<String, String>>;

/// The rows of a table with commas, by proxy and server, each by its columns; every row has all columns.
fn rows(text: &str) -> Result<(String, Rows), Box<dyn Error>> {
    assert!(text.ends_with(",\n\n"), "an empty line is the end: {text:?}");
    let mut lines = text.trim_end().lines();
    let header = lines.next().ok_or("no header")?.to_owned();
    let names: Vec<&str> = header.trim_start_matches("# ").split(',').collect();
    let mut rows = Rows::new();
    for line in lines {
        let values: Vec<&str> = line.split(',').collect();
        assert_eq!(values.len(), names.len(), "{line}");
        let row = names.iter().map(|name| (*name).to_owned()).zip(values.iter().map(|v| (*v).to_owned()));
        rows.insert((values[0].to_owned(), values[1].to_owned()), row.collect());
    }
    Ok((header, rows))
}

/// `KEY: VALUE`, or `KEY:TAGS:TYPE:VALUE` without the value.
fn keys(text: &str, parts: usize) -> BTreeSet<String> {
    text.lines()
        .filter(|line| !line.is_empty())
        .map(|line| line.splitn(4, ':').take(parts).collect::<Vec<_>>().join(":"))
        .collect()
}

#[test]
fn the_answers_are_haproxy_s() -> TestResult {
    let lab = running("level = \"admin\"\ntimeout = \"5s\"")?;
    let lb = lab.lb(0);
    let ours = our_socket(lb);
    let theirs = lb.config_path().with_extension("haproxy");
    let haproxy = haproxy(lb, &theirs)?;
    let mut found = (String::new(), Rows::new());
    wait::until("HAProxy to find its servers up", SOON, || {
        found = ask(&theirs, "show stat").ok().and_then(|text| rows(&text).ok()).unwrap_or_default();
        let servers = found.1.values().filter(|row| row["type"] == "2").collect::<Vec<_>>();
        servers.len() == 6 && servers.iter().all(|row| row["status"] == "UP" && row["check_status"] == "L4OK")
    })?;

    // The same table: header, rows, and what both know.
    let (header, their_rows) = found;
    let (our_header, our_rows) = rows(&ask(&ours, "show stat")?)?;
    assert_eq!(our_header, header);
    assert_eq!(our_rows.keys().collect::<Vec<_>>(), their_rows.keys().collect::<Vec<_>>());
    let mut known = BTreeSet::new();
    for (name, row) in &our_rows {
        let theirs = &their_rows[name];
        for (column, value) in row.iter().filter(|(_, value)| !value.is_empty()) {
            let is_number = |text: &str| text.parse::<i64>().is_ok();
            let other = &theirs[column];
            assert!(
                other.is_empty() || is_number(value) == is_number(other),
                "{name:?} {column}: {value} {other}"
            );
            known.insert(column.as_str());
        }
        for column in
            ["iid", "sid", "pid", "type", "status", "weight", "act", "bck", "addr", "mode", "uweight"]
        {
            let kept = column != "uweight" || theirs["type"] != "0";
            assert!(
                !kept || row[column] == theirs[column],
                "{name:?} {column}: {} {}",
                row[column],
                theirs[column]
            );
        }
    }
    println!("{} of {} columns have figures", known.len(), header.split(',').count());
    assert!(known.len() > 35, "{known:?}");
    // Both may say more of a server than the other does; what both say is of the same type, with the same tags.
    for command in ["show stat typed", "show info typed"] {
        let (ours, theirs) = (keys(&ask(&ours, command)?, 3), keys(&ask(&theirs, command)?, 3));
        let name = |line: &String| line.split(':').next().unwrap_or_default().to_owned();
        let named: BTreeMap<String, &String> = theirs.iter().map(|line| (name(line), line)).collect();
        for line in &ours {
            match named.get(&name(line)) {
                Some(other) => assert_eq!(line, *other, "{command}"),
                None => assert!(command.contains("stat"), "{command}: {line} is nothing that HAProxy says"),
            }
        }
    }
    for command in ["show stat json", "show info json"] {
        let (ours, theirs): (serde_json::Value, serde_json::Value) =
            (serde_json::from_str(&ask(&ours, command)?)?, serde_json::from_str(&ask(&theirs, command)?)?);
        let first = |value: &serde_json::Value| match &value[0] {
            serde_json::Value::Array(row) => row[0].clone(),
            other => other.clone(),
        };
        let (mut ours, theirs) = (first(&ours), first(&theirs));
        ours["value"]["value"] = theirs["value"]["value"].clone();
        assert_eq!(ours, theirs, "{command}");
    }
    assert!(keys(&ask(&ours, "show info")?, 1).is_subset(&keys(&ask(&theirs, "show info")?, 1)));

    // Each server's state, without times and checks.
    let states = |text: String| -> Vec<Vec<String>> {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        text.lines()
            .map(words)
            .map(|line| match line.len() {
                25 => line[..9].iter().chain(&line[15..]).cloned().collect(),
                _ => line,
            })
            .collect()
    };
    assert_eq!(states(ask(&ours, "show servers state")?), states(ask(&theirs, "show servers state")?));
    let shape = |text: &str| text.lines().map(|line| line.split(' ').count()).collect::<Vec<_>>();
    let (mine, other) = (ask(&ours, "show servers conn")?, ask(&theirs, "show servers conn")?);
    let columns = |text: &str| text.split('[').next().map(str::to_owned);
    assert_eq!(columns(&mine), columns(&other));
    // HAProxy has a figure for each of its threads.
    assert_eq!(shape(&mine)[1], 14, "{mine}");

    // Word for word.
    for command in [
        "show backend",
        "show cli level",
        "show servers state nobody",
        "show servers conn nobody",
        "show stat nobody 4 -1",
        "show stat domain moon",
        "get weight plain/master1",
        "get weight #2/#1",
        "get weight",
        "get weight plain",
        "get weight /master1",
        "get weight nobody/master1",
        "get weight plain/nobody",
        "set weight plain/master1",
        "set weight plain/master1 x",
        "set weight plain/master1 5x",
        "set weight plain/master1 -5",
        "set weight plain/master1 257",
        "set weight plain/master1 -5%",
        "set weight plain/master1 99999999999999999999",
        "set weight nobody/master1 1",
        "set weight /master1 1",
        "set server",
        "set server plain/nobody weight",
        "set server nobody/x state ready",
        "set server plain/master1 state off",
        "set server plain/master1 weight",
        "enable server",
        "disable server plain",
        "shutdown sessions server plain/nobody",
        "set timeout cli",
        "set timeout cli x",
        "set timeout cli 5",
        "set timeout client 5",
        "show cli level;show cli level;get weight plain/x",
        "user;set server plain/master1 state drain;show cli level;show errors;operator",
        "operator;show cli level;set weight plain/master1 1;user;show cli level",
        "quit",
        "prompt\nshow cli level\nget weight plain/master1\nuser\nset server x\nquit\nshow backend",
        "prompt\nprompt\nshow cli level",
        "set weight plain/master1 <<\nwhatever\n\nshow cli level",
        "show\\ cli level;quit",
    ] {
        let (mine, other) = (ask(&ours, command)?, ask(&theirs, command)?);
        // Of keywords, each has its own.
        let begin = |text: &str| text.lines().next().map(str::to_owned);
        match other.contains("Unknown command") {
            true => assert_eq!(begin(&mine), begin(&other), "{command}"),
            false => assert_eq!(mine, other, "{command}"),
        }
    }
    for (command, part) in [
        ("", "Unknown command. Please"),
        ("show me", "Unknown command, but"),
        ("help", "The following commands"),
    ] {
        let (mine, other) = (ask(&ours, command)?, ask(&theirs, command)?);
        assert!(mine.starts_with(part) && other.starts_with(part), "{command}: {mine} {other}");
        let of_ours: BTreeSet<&str> =
            mine.lines().skip(1).map(|line| line.split(':').next().unwrap_or_default()).collect();
        let of_theirs: BTreeSet<&str> =
            other.lines().skip(1).map(|line| line.split(':').next().unwrap_or_default()).collect();
        assert!(command == "show me" || of_ours.is_subset(&of_theirs), "{of_ours:?}");
    }
    let captured = ask(&ours, "show errors")?;
    assert!(
        captured.starts_with("Total events captured on [") && captured.ends_with("] : 0\n\n"),
        "{captured}"
    );

    // Who says nothing is disconnected, by both.
    let mut silent = UnixStream::connect(&ours)?;
    silent.set_read_timeout(Some(SOON))?;
    assert_eq!(silent.read(&mut [0; 9])?, 0);
    drop(haproxy);
    Ok(())
}

/// What a column of a server says.
fn figure(socket: &Path, server: &str, column: &str) -> Option<String> {
    let (_, rows) = rows(&ask(socket, "show stat").ok()?).ok()?;
    rows.get(&("plain".to_owned(), server.to_owned()))?.get(column).cloned()
}

#[test]
fn what_is_ordered_is_done_and_only_by_who_may() -> TestResult {
    let lab = running("level = \"admin\"")?;
    let lb = lab.lb(0);
    let socket = our_socket(lb);
    assert_eq!(fs::metadata(&socket)?.permissions().mode() & 0o777, 0o660);
    let done = |command: &str| -> TestResult {
        let answer = ask(&socket, command)?;
        if answer == "\n" { Ok(()) } else { Err(format!("{command}: {answer}").into()) }
    };
    let becomes = |server: &str, column: &str, value: &str| {
        wait::until(&format!("{server}: {column} {value}"), SOON, || {
            figure(&socket, server, column).as_deref() == Some(value)
        })
    };
    let servers = || ask_backends(&lab, &Connections { count: 60, ..Connections::default() });

    done("set server plain/master1 state drain")?;
    becomes("master1", "status", "DRAIN")?;
    let by = lb.status()?.raw["services"][1]["backends"][0]["admin"]["by"].to_string();
    assert_eq!(by, "\"stats-socket:root\"", "{by}");
    assert!(
        ask(&socket, "show servers state plain")?
            .lines()
            .any(|line| line.contains("master1") && line.contains(" 2 8 "))
    );
    let answered = servers()?;
    assert!(answered.len() == 2 && !answered.contains_key("master1"), "{answered:?}");
    let number = |server: &str, column: &str| figure(&socket, server, column)?.parse::<i64>().ok();
    wait::until("the new connections to be counted", SOON, || {
        ["master2", "BACKEND"]
            .iter()
            .all(|server| number(server, "rate_max") > Some(0) && number(server, "lastsess") >= Some(0))
    })?;
    assert_eq!(
        (number("master1", "rate_max"), number("master1", "lastsess")),
        (Some(0), Some(-1)),
        "drained since before"
    );
    done("disable server plain/master1")?;
    becomes("master1", "status", "MAINT")?;
    done("shutdown sessions server plain/master1")?;
    done("enable server plain/master1")?;
    becomes("master1", "status", "UP")?;
    done("set server plain/master1 weight 50%")?;
    becomes("master1", "weight", "50")?;
    assert_eq!(ask(&socket, "get weight plain/master1")?, "50 (initial 100)\n\n");
    done("set weight plain/master1 100%")?;
    becomes("master1", "weight", "100")?;
    assert_eq!(
        lb.status()?.raw["services"][1]["backends"][0].get("weight_override"),
        None,
        "the file's again"
    );
    assert_eq!(servers()?.len(), 3);
    assert_eq!(lb.status()?.raw["services"][0]["backends"][0].get("admin"), None, "no other service's");
    let refused = ask(&socket, "shutdown sessions server plain/master1")?;
    assert!(refused.starts_with("plain/master1 gets new connections: "), "{refused}");

    // As in HAProxy, a server in maintenance keeps its connections, and `shutdown sessions` ends them.
    let streams = Streams::open(&lab, 24)?;
    let server = format!("{}/master1", lb.config().services[0].name);
    done(&format!("set server {server} state maint"))?;
    assert_eq!(streams.go_on()?, 24);
    done(&format!("shutdown sessions server {server}"))?;
    let of_it = |number: &u32| streams.servers.get(number).is_some_and(|server| server == "master1");
    wait::until("its connections to be reset", SOON, || {
        let now = streams.client.streams();
        now.iter().filter(|(number, _)| of_it(number)).all(|(_, stream)| !stream.broken.is_empty())
    })?;
    streams.go_on_at(|server| server != "master1")?;
    done(&format!("set server {server} state ready"))?;
    drop(streams);

    // Another level, and who may connect: by reload.
    let change = |keys: &str| -> TestResult {
        lb.configure(|config| config.extra = table(lb, keys))?;
        let output = lb.xvip(&["reload"])?;
        if !output.status.success() {
            return Err(format!("{output:?}").into());
        }
        Ok(())
    };
    fs::set_permissions(lab.dir(), fs::Permissions::from_mode(0o711))?;
    let from_nobody = |text: &str| as_nobody(|| talk(&socket, text));
    let refused = from_nobody("show version\n")?.expect_err("only root and its group");
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    change("mode = \"600\"\nlevel = \"user\"")?;
    wait::until("the new level", SOON, || {
        ask(&socket, "show cli level").is_ok_and(|text| text == "user\n\n")
    })?;
    assert_eq!(fs::metadata(&socket)?.permissions().mode() & 0o777, 0o600);
    assert_eq!(ask(&socket, "set server plain/master1 state drain")?, "Permission denied\n\n");
    assert_eq!(figure(&socket, "master1", "addr").as_deref(), Some(""));
    change("mode = \"660\"\ngroup = \"nogroup\"\nlevel = \"admin\"")?;
    wait::until("the new group", SOON, || {
        from_nobody("show cli level\n").is_ok_and(|text| text.is_ok_and(|text| text == "admin\n\n"))
    })?;
    assert_eq!(from_nobody("set weight plain/master2 7\n")??, "\n");
    becomes("master2", "weight", "7")?;
    let by = lb.status()?.raw["services"][1]["backends"][1]["weight_override"]["by"].to_string();
    assert_eq!(by, "\"stats-socket:nobody\"");
    let history = lb.xvip_with_config(&["explain", "master2"])?;
    assert!(String::from_utf8_lossy(&history.stdout).contains("stats-socket:nobody"), "{history:?}");

    // Idle connections of others keep nobody out who is root.
    let idle = as_nobody(|| (0..40).map(|_| UnixStream::connect(&socket)).collect::<io::Result<Vec<_>>>())??;
    assert_eq!(ask(&socket, "show cli level")?, "admin\n\n");
    assert!(lb.status().is_ok());
    drop(idle);
    in_the_way(&lab, lb, &socket, &change)
}

/// What cannot be had is a problem, and had once it can be.
fn in_the_way(lab: &Lab, lb: &LbNode, socket: &Path, change: &dyn Fn(&str) -> TestResult) -> TestResult {
    let problems = || lb.status().map(|status| status.raw["problems"].to_string()).unwrap_or_default();
    change("group = \"no-such-group\"")?;
    wait::until("a problem", SOON, || {
        problems().contains("stats_socket: there is no group \\\"no-such-group\\\"")
    })?;
    assert!(!socket.exists());
    // HAProxy is still there.
    let haproxy = haproxy(lb, socket)?;
    change("level = \"admin\"")?;
    let taken = format!("stats_socket: another program listens on {} (pid ", socket.display());
    wait::until("another problem", SOON, || problems().contains(&taken))?;
    assert!(ask(socket, "show info")?.starts_with("Name: HAProxy"));
    drop(haproxy);
    wait::until("ours in its place", SOON, || {
        ask(socket, "show info").is_ok_and(|text| text.starts_with("Name: xvip"))
    })?;
    wait::until("no problem", SOON, || !problems().contains("stats_socket"))?;
    let events = lb.xvip_with_config(&["explain", lb.name()])?;
    let events = String::from_utf8_lossy(&events.stdout).into_owned();
    assert!(events.contains("another program listens on"), "{events}");

    // Kept by a successor, and removed with the daemon or its table.
    lb.replace()?;
    wait::until("the successor's", SOON, || {
        ask(socket, "show info").is_ok_and(|text| text.contains("Name: xvip"))
    })?;
    lb.kill();
    assert!(socket.exists(), "nobody has removed it");
    lb.start()?;
    wait::until("ours again", SOON, || ask(socket, "show info").is_ok())?;
    lb.configure(|config| config.extra = String::new())?;
    assert!(lb.xvip(&["reload"])?.status.success());
    wait::until("its end", SOON, || !socket.exists())?;
    lb.configure(|config| config.extra = table(lb, ""))?;
    assert!(lb.xvip(&["reload"])?.status.success());
    wait::until("it again", SOON, || socket.exists())?;
    chown(socket, None, Some(NOBODY))?;
    lb.stop()?;
    assert!(
        !socket.exists(),
        "{:?}",
        fs::read_dir(lab.dir())?.flatten().map(|e| e.file_name()).collect::<Vec<_>>()
    );
    Ok(())
}
