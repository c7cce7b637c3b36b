//! What is answered to what is asked, for a small status.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::{
    answer,
    columns::{Column, HEADER, INFO, STAT},
    command::{Command, Order, understood},
    conversation::{Conversation, Next},
    servers, show_stat,
    stat::rows,
};
use crate::{
    config::model::StatsLevel::{Admin, Operator, User},
    control::protocol::{BackendAction, BackendOrder},
    status::{AdminStatus, Status, WeightOverrideStatus},
};

/// When everything began.
const SINCE: &str = "2026-01-02T03:04:05.678Z";

pub(super) fn now() -> SystemTime {
    humantime::parse_rfc3339("2026-01-02T03:05:05Z").expect("a time")
}

/// Two services: `api` with `m1` (up), `m2` (drained), `m3` (down, weight 50); and `web` with one that is down.
pub(super) fn status() -> Status {
    let backend = |name: &str, address: &str, weight: u16, state: &str, reason: &str| {
        json!({
            "name": name, "address": address, "weight": weight, "state": state, "since": SINCE, "reason": reason,
            "effective_weight": if state == "up" { weight } else { 0 }, "share": 0.5, "next_hop": null,
            "checks": { "count": 9, "failed": { "refused": 2, "timeout": 1 }, "transitions": 3, "last_us": 4_700, "sum_us": 9_000, "down_ms": 7_900, "buckets": vec![0_u64; 13] },
            "flows": { "opened": 12, "active": 3, "bytes_in": 1000, "bytes_out": 5_000_000_000_u64, "refused": 2, "unanswered": 1 },
            "pace": { "rate": 4, "rate_max": 40, "active_max": 11, "last_opened": (state == "up").then_some("2026-01-02T03:05:02Z") },
        })
    };
    let service = |name: &str, balance: &str, backends: Json| json!({ "name": name, "vip": "172.16.0.10", "port": 6443, "mode": "nat", "balance": balance, "usable": 1, "backends": backends, "pace": { "rate": 12, "rate_max": 99, "active_max": 30, "last_opened": "2026-01-02T03:05:00Z" } });
    let status = json!({
        "node": "lb1", "version": "0.1.0", "pid": 77, "uptime_seconds": 90_061, "problems": [],
        "config": { "path": "/etc/xvip/xvip.toml", "loaded_at": SINCE },
        "interface": { "name": "eth0", "xdp_mode": "native", "mac": "02:00:00:00:00:02" },
        "vrrp": [],
        "services": [
            service("api", "round-robin", json!([
                backend("m1", "172.16.0.4:6443", 100, "up", "status 200"),
                backend("m2", "172.16.0.5:6443", 100, "up", "status 200"),
                backend("m3", "172.16.0.6:6443", 50, "down", "connection refused"),
            ])),
            service("web", "maglev", json!([backend("w1", "[fd00::4]:80", 1, "down", "no answer within 1s (TCP handshake)")])),
        ],
        "packets": { "passed": {}, "dropped": {}, "transmitted": {} },
        "flows": { "max": 1024, "established": 9, "half_open": 0 },
        "pace": { "rate": 24, "rate_max": 130, "active_max": 60 },
    });
    let mut status: Status = serde_json::from_value(status).expect("the rest has defaults");
    let m2 = &mut status.services[0].backends[1];
    m2.admin = Some(AdminStatus { state: "drain".to_owned(), ..AdminStatus::default() });
    m2.effective_weight = 0;
    status
}

fn asked(line: &str, status: &Status) -> String {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let command = understood(&words, Admin);
    match answer::figures(&command, status, now(), Admin) {
        Some(text) => text,
        None => match command {
            Command::Say(text) => text,
            other => panic!("{other:?}"),
        },
    }
}

/// The figures of a row by the names of their columns.
fn row(table: &str, proxy: &str, server: &str) -> Vec<(String, String)> {
    let mut lines = table.lines();
    let header = lines.next().expect("a header").trim_start_matches("# ");
    let line = lines.find(|line| line.starts_with(&format!("{proxy},{server},"))).expect(server);
    assert_eq!(line.matches(',').count(), header.matches(',').count(), "{line}");
    header.split(',').zip(line.split(',')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn figure(table: &str, proxy: &str, server: &str, column: &str) -> String {
    row(table, proxy, server)
        .into_iter()
        .find(|(name, _)| name == column)
        .map(|(_, value)| value)
        .expect(column)
}

#[test]
fn the_table_has_haproxy_s_columns_and_a_row_for_each_thing() {
    let status = status();
    let table = asked("show stat", &status);
    assert!(table.starts_with("# pxname,svname,qcur,") && table.ends_with(",\n"), "{table}");
    let names: Vec<Vec<&str>> = table.lines().skip(1).map(|line| line.split(',').take(2).collect()).collect();
    let expected = [
        ["api", "FRONTEND"],
        ["api", "m1"],
        ["api", "m2"],
        ["api", "m3"],
        ["api", "BACKEND"],
        ["web", "FRONTEND"],
        ["web", "w1"],
        ["web", "BACKEND"],
    ];
    assert_eq!(names, expected);
    for (server, column, value) in [
        ("m1", "chkfail", "3"),
        ("m1", "chkdown", "1"),
        ("m3", "chkdown", "2"),
        ("m1", "check_duration", "4"),
        ("BACKEND", "chkdown", ""),
        ("m1", "status", "UP"),
        ("m1", "weight", "100"),
        ("m1", "scur", "3"),
        ("m1", "stot", "12"),
        ("m1", "slim", ""),
        ("m1", "bout", "5000000000"),
        ("m1", "lastchg", "59"),
        ("m1", "check_status", "L7OK"),
        ("m1", "check_code", "200"),
        ("m1", "addr", "172.16.0.4:6443"),
        ("m1", "type", "2"),
        ("m1", "iid", "2"),
        ("m1", "sid", "1"),
        ("m1", "econ", "2"),
        ("m1", "wretr", "1"),
        ("m1", "throttle", ""),
        ("m1", "smax", "11"),
        ("m1", "rate", "4"),
        ("m1", "rate_max", "40"),
        ("m1", "lastsess", "3"),
        ("m3", "lastsess", "-1"),
        ("m1", "downtime", "7"),
        ("m3", "downtime", "66"),
        ("m1", "qtime", "0"),
        ("m1", "qtime_max", "0"),
        ("m1", "ttime", ""),
        ("m1", "conn_rate", ""),
        ("FRONTEND", "smax", "30"),
        ("FRONTEND", "rate", "12"),
        ("FRONTEND", "rate_max", "99"),
        ("FRONTEND", "conn_rate", "12"),
        ("FRONTEND", "conn_rate_max", "99"),
        ("FRONTEND", "dcon", "0"),
        ("FRONTEND", "lastsess", ""),
        ("BACKEND", "smax", "30"),
        ("BACKEND", "rate_max", "99"),
        ("BACKEND", "lastsess", "5"),
        ("BACKEND", "qtime", "0"),
        ("m2", "status", "DRAIN"),
        ("m2", "weight", "100"),
        ("m3", "status", "DOWN"),
        ("m3", "check_status", "L4CON"),
        ("m3", "last_chk", "connection refused"),
        ("FRONTEND", "status", "OPEN"),
        ("FRONTEND", "scur", "9"),
        ("FRONTEND", "type", "0"),
        ("FRONTEND", "slim", "1024"),
        ("FRONTEND", "mode", "tcp"),
        ("BACKEND", "status", "UP"),
        ("BACKEND", "act", "1"),
        ("BACKEND", "weight", "100"),
        ("BACKEND", "algo", "roundrobin"),
        ("BACKEND", "stot", "36"),
        ("BACKEND", "uweight", "250"),
        ("BACKEND", "lastchg", "59"),
    ] {
        assert_eq!(figure(&table, "api", server, column), value, "{server} {column}");
    }
    assert_eq!(figure(&table, "web", "BACKEND", "status"), "DOWN");
    assert_eq!(figure(&table, "web", "w1", "check_status"), "L4TOUT");
    assert_eq!(figure(&table, "web", "BACKEND", "algo"), "maglev");
    assert_eq!(figure(&table, "web", "w1", "iid"), "3");
    assert_eq!(show_stat(&status).lines().count(), table.lines().count());
}

#[test]
fn what_an_operator_and_a_slow_start_change_is_seen() {
    let mut status = status();
    let m1 = &mut status.services[0].backends[0];
    m1.admin = Some(AdminStatus { state: "disabled".to_owned(), ..AdminStatus::default() });
    m1.max_connections = 250;
    let m3 = &mut status.services[0].backends[2];
    (m3.state, m3.effective_weight) = ("up".to_owned(), 20);
    m3.weight_override = Some(WeightOverrideStatus { weight: 80, ..WeightOverrideStatus::default() });
    let table = asked("show stat", &status);
    for (server, column, value) in [
        ("m1", "status", "MAINT"),
        ("m1", "slim", "250"),
        ("m3", "weight", "20"),
        ("m3", "uweight", "80"),
        ("m3", "throttle", "25"),
        ("BACKEND", "act", "1"),
        ("BACKEND", "weight", "20"),
    ] {
        assert_eq!(figure(&table, "api", server, column), value, "{server} {column}");
    }
    let without = asked("show stat no-maint", &status);
    assert!(!without.contains("api,m1,") && without.contains("api,m2,"), "{without}");
    let up = asked("show stat up", &status);
    assert!(
        !up.contains("web,w1,")
            && !up.contains("api,m1,")
            && up.contains("api,m2,")
            && up.contains("web,BACKEND"),
        "{up}"
    );
    // The same as `maint` in HAProxy, which keeps connections, too.
    if let Some(admin) = &mut status.services[0].backends[1].admin {
        admin.maintenance = true;
    }
    assert_eq!(figure(&asked("show stat", &status), "api", "m2", "status"), "MAINT");
    assert!(!asked("show stat no-maint", &status).contains("api,m2,"));
    assert!(asked("show servers state api", &status).contains("m2 172.16.0.5 0 1 100"));
    // A clock that was set back.
    assert_eq!(
        servers::state(&status, None, SystemTime::UNIX_EPOCH)
            .lines()
            .nth(2)
            .map(|line| line.contains(" 0 15 ")),
        Some(true)
    );
}

#[test]
fn a_service_is_as_those_are_that_get_new_connections() {
    let mut status = status();
    let of_all = |status: &Status, expected: [&str; 4]| {
        let table = asked("show stat", status);
        let found =
            ["status", "act", "weight", "lastchg"].map(|column| figure(&table, "api", "BACKEND", column));
        assert_eq!(found, expected.map(str::to_owned));
    };
    // The one that has been so for the longest time counts.
    let m3 = &mut status.services[0].backends[2];
    (m3.state, m3.effective_weight) = ("up".to_owned(), 50);
    m3.since = "2026-01-02T03:04:55Z".to_owned();
    of_all(&status, ["UP", "2", "150", "59"]);
    // With a weight of 0 it gets none.
    status.services[0].backends[0].effective_weight = 0;
    of_all(&status, ["UP", "1", "50", "10"]);
    status.services[0].backends[2].effective_weight = 0;
    of_all(&status, ["DOWN", "0", "0", "10"]);
}

#[test]
fn rows_are_chosen_by_name_number_and_kind() {
    let status = status();
    let names = |line: &str| -> Vec<String> {
        let table = asked(line, &status);
        table.lines().skip(1).map(|line| line.split(',').take(2).collect::<Vec<_>>().join("/")).collect()
    };
    assert_eq!(names("show stat api 4 -1"), ["api/m1", "api/m2", "api/m3"]);
    assert_eq!(names("show stat 3 -1 -1"), ["web/FRONTEND", "web/w1", "web/BACKEND"]);
    assert_eq!(names("show stat -1 4 2"), ["api/m2"]);
    assert_eq!(names("show stat -1 3 -1"), ["api/FRONTEND", "api/BACKEND", "web/FRONTEND", "web/BACKEND"]);
    assert_eq!(names("show stat 99 -1 -1"), Vec::<String>::new());
    assert_eq!(asked("show stat nobody 1 1", &status), "No such proxy.\n");
}

#[test]
fn who_may_only_look_sees_no_addresses() {
    let status = status();
    let shows =
        |level, column: &str| rows(&status, now(), level).iter().any(|row| row.figures.get(column).is_some());
    for (level, expected) in [(User, false), (Operator, true), (Admin, true)] {
        assert_eq!((shows(level, "addr"), shows(level, "algo")), (expected, expected), "{level:?}");
    }
}

#[test]
fn every_figure_has_its_column() {
    let known = |columns: &[Column], name: &str| columns.iter().any(|column| column.name == name);
    for row in rows(&status(), now(), Admin) {
        for name in row.figures.names() {
            assert!(known(STAT, name), "{name}");
        }
    }
    let header: Vec<&str> = HEADER.trim_start_matches("# ").split(',').collect();
    let columns: Vec<&str> = STAT.iter().map(|column| column.name).collect();
    assert_eq!(header[..columns.len()], columns[..]);
    assert_eq!(header[columns.len()], "-");
    assert_eq!(super::info::unknown(), Vec::<&str>::new());
    assert!(INFO.iter().chain(STAT).all(|column| column.tags.len() == 3));
}

#[test]
fn figures_have_other_forms() {
    let status = status();
    let typed = asked("show stat api 4 1 typed", &status);
    for line in [
        "S.2.1.0.pxname.1:KNS:str:api",
        "S.2.1.4.scur.1:MGP:u32:3",
        "S.2.1.7.stot.1:MCP:u64:12",
        "S.2.1.17.status.1:SGP:str:UP",
        "S.2.1.55.lastsess.1:MAP:s32:3",
        "S.2.1.32.type.1:CGS:u32:2",
    ] {
        assert!(typed.lines().any(|found| found == line), "{line} in\n{typed}");
    }
    // HAProxy calls them so in that row alone.
    let of_all = asked("show stat api 2 -1 typed", &status);
    for line in ["B.2.0.33.rate.1:MGP:u32:12", "B.2.0.35.rate_max.1:MGP:u32:99", "B.2.0.5.smax.1:MMP:u32:30"]
    {
        assert!(of_all.lines().any(|found| found == line), "{line} in\n{of_all}");
    }
    let found: Json = serde_json::from_str(&asked("show stat json", &status)).expect("JSON");
    assert_eq!(found.as_array().map(Vec::len), Some(8));
    let expected = json!({
        "objType": "Frontend", "proxyId": 2, "id": 0, "field": { "pos": 0, "name": "pxname" }, "processNum": 1,
        "tags": { "origin": "Key", "nature": "Name", "scope": "Service" }, "value": { "type": "str", "value": "api" },
    });
    assert_eq!(found[0][0], expected);
}

#[test]
fn the_process_is_told_of() {
    let status = status();
    let info = asked("show info", &status);
    for line in [
        "Name: xvip",
        "Version: 2.6.0-xvip-0.1.0",
        "Pid: 77",
        "Uptime: 1d 1h01m01s",
        "Uptime_sec: 90061",
        "Maxconn: 1024",
        "CurrConns: 12",
        "CumConns: 48",
        "ConnRate: 24",
        "MaxConnRate: 130",
        "SessRate: 24",
        "MaxSessRate: 130",
        "ConnRateLimit: 0",
        "node: lb1",
        "Stopping: 0",
    ] {
        assert!(info.lines().any(|found| found == line), "{line} in\n{info}");
    }
    let typed = asked("show info typed", &status);
    assert!(typed.contains("0.Name.1:POS:str:xvip\n") && typed.contains("6.Pid.1:SGP:u32:77\n"), "{typed}");
    let found: Json = serde_json::from_str(&asked("show info json", &status)).expect("JSON");
    assert_eq!(found[0]["value"]["value"], "xvip");
    assert_eq!(asked("show version", &status), "2.6.0-xvip-0.1.0\n");
    assert_eq!(asked("show backend", &status), "# name\napi\nweb\n");
    assert!(asked("show errors", &status).starts_with("Total events captured on ["));
}

#[test]
fn servers_are_listed_with_their_states() {
    let mut status = status();
    let text = asked("show servers state", &status);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0] == "1" && lines[1].starts_with("# be_id be_name srv_id ") && lines.len() == 6, "{text}");
    assert_eq!(lines[2], "2 api 1 m1 172.16.0.4 2 0 100 100 59 15 3 1 6 0 0 0 - 6443 - 0 0 - - 0");
    assert_eq!(lines[3], "2 api 2 m2 172.16.0.5 2 8 100 100 59 15 3 1 6 0 0 0 - 6443 - 0 0 - - 0");
    assert_eq!(lines[4], "2 api 3 m3 172.16.0.6 0 0 50 50 59 8 2 0 6 0 0 0 - 6443 - 0 0 - - 0");
    assert_eq!(lines[5], "3 web 1 w1 fd00::4 0 0 1 1 59 7 2 0 6 0 0 0 - 80 - 0 0 - - 0");
    let columns = lines[1].trim_start_matches("# ").split(' ').count();
    assert!(lines[2..].iter().all(|line| line.split(' ').count() == columns), "{text}");
    assert_eq!(asked("show servers state web", &status).lines().count(), 3);
    assert_eq!(asked("show servers state nobody", &status), "Can't find backend.\n");
    status.services[0].backends[1].admin =
        Some(AdminStatus { state: "disabled".to_owned(), ..AdminStatus::default() });
    assert!(asked("show servers state api", &status).contains("m2 172.16.0.5 0 1 100"));

    let text = asked("show servers conn api", &status);
    assert_eq!(text.lines().nth(1), Some("api/m1 2/1 172.16.0.4 6443 - 0 3 3 0 0 0 0 0 0"));
    assert_eq!(asked("show servers conn nobody", &status), "Can't find backend.\n");
}

#[test]
fn a_server_is_found_by_name_or_number() {
    let mut status = status();
    for (target, expected) in [
        ("api/m1", "100 (initial 100)\n"),
        ("#2/#3", "50 (initial 50)\n"),
        ("api/#3", "50 (initial 50)\n"),
        ("", "Require 'backend/server'.\n"),
        ("api", "Require 'backend/server'.\n"),
        ("/", "Require 'backend/server'.\n"),
        ("/m1", "No such backend.\n"),
        ("nobody/m1", "No such backend.\n"),
        ("api/nobody", "No such server.\n"),
        ("api/#9", "No such server.\n"),
        ("#9/m1", "No such backend.\n"),
        ("#x/m1", "No such backend.\n"),
    ] {
        assert_eq!(asked(&format!("get weight {target}"), &status), expected, "{target}");
    }
    status.services[0].backends[0].weight_override =
        Some(WeightOverrideStatus { weight: 7, ..WeightOverrideStatus::default() });
    assert_eq!(asked("get weight api/m1", &status), "7 (initial 100)\n");
}

fn ordered(line: &str, status: &Status) -> Result<Option<BackendAction>, String> {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let Command::Order(target, order) = understood(&words, Admin) else { panic!("{line}") };
    let ordered = answer::order(status, &target, &order)?;
    Ok(ordered.map(|BackendOrder { backend, service, action, by }| {
        assert_eq!((service.as_deref(), by), (Some("api"), None));
        assert!(line.contains(&backend), "{backend}");
        action
    }))
}

#[test]
fn an_order_is_the_daemon_s() {
    let mut status = status();
    let weight = |weight| Ok(Some(BackendAction::Weight { weight }));
    for (line, expected) in [
        ("set server api/m1 state ready", Ok(Some(BackendAction::Enable))),
        ("set server api/m1 state drain", Ok(Some(BackendAction::Drain { deadline_s: None }))),
        ("set server api/m1 state maint", Ok(Some(BackendAction::Maintain))),
        ("enable server api/m1", Ok(Some(BackendAction::Enable))),
        ("disable server api/m1", Ok(Some(BackendAction::Maintain))),
        ("set server api/m1 weight 7", weight(Some(7))),
        ("set weight api/m1 0", weight(Some(0))),
        ("set weight api/m1 256", weight(Some(256))),
        // What the file says holds again.
        ("set weight api/m1 100", weight(None)),
        ("set weight api/m1 100%", weight(None)),
        ("set weight api/m3 50%", weight(Some(25))),
        ("set weight api/m1 99999%", weight(Some(256))),
        ("set weight api/m1 99999999999999999999%", weight(Some(256))),
        ("set weight api/m1", Err("Require <weight> or <weight%>.\n")),
        ("set weight api/m1 x", Err("Empty weight string empty or preceded by garbage")),
        ("set weight api/m1 -", Err("Empty weight string empty or preceded by garbage")),
        ("set weight api/m1 5x", Err("Trailing garbage in weight string")),
        ("set weight api/m1 -5", Err("Absolute weight can only be between 0 and 256 inclusive.\n")),
        ("set weight api/m1 257", Err("Absolute weight can only be between 0 and 256 inclusive.\n")),
        (
            "set weight api/m1 99999999999999999999",
            Err("Absolute weight can only be between 0 and 256 inclusive.\n"),
        ),
        ("set weight api/m1 -5%", Err("Relative weight must be positive.\n")),
        ("set weight /m1 1", Err("Require 'backend/server'.\n")),
        ("set weight api/nobody x", Err("No such server.\n")),
        ("set server nobody/m1 state off", Err("No such backend.\n")),
        (
            "set server api/m1 state off",
            Err("'set server <srv> state' expects 'ready', 'drain' and 'maint'.\n"),
        ),
        ("shutdown sessions server api/m2", Ok(Some(BackendAction::Drain { deadline_s: Some(0) }))),
        (
            "shutdown sessions server api/m1",
            Err("api/m1 gets new connections: 'set server api/m1 state maint' ends that\n"),
        ),
    ] {
        assert_eq!(ordered(line, &status), expected.map_err(str::to_owned), "{line}");
    }
    let said = |state: &str, maintenance| {
        Some(AdminStatus { state: state.to_owned(), maintenance, ..AdminStatus::default() })
    };
    status.services[0].backends[0].admin = said("drain", true);
    let reset = Ok(Some(BackendAction::Disable));
    assert_eq!(ordered("shutdown sessions server api/m1", &status), reset, "it stays in maintenance");
    status.services[0].backends[0].admin = said("disabled", false);
    assert_eq!(ordered("shutdown sessions server api/m1", &status), Ok(None), "they are reset already");
    assert_eq!(answer::order(&status, "api/m1", &Order::Ready).map(|order| order.is_some()), Ok(true));
    assert!(now().duration_since(SystemTime::UNIX_EPOCH).expect("later") > Duration::ZERO);
}

/// Words that mean something somewhere.
#[rustfmt::skip]
const WORDS: &[&str] = &[
    "show",
    "stat",
    "info",
    "servers",
    "state",
    "conn",
    "errors",
    "set",
    "server",
    "weight",
    "timeout",
    "cli",
    "get",
    "api/m1",
    "api/#2",
    "#2/m3",
    "nobody/x",
    "api",
    "ready",
    "drain",
    "maint",
    "json",
    "typed",
    "domain",
    "proxy",
    "-1",
    "4",
    "99999999999999999999",
    "50%",
    "-7%",
    "%",
    "help",
    "prompt",
    "user",
    "operator",
    "shutdown",
    "sessions",
    "<<",
    ";",
    "\n",
    "\\",
    "\0",
    "\u{fffd}",
    "/",
    "#",
    "",
];

proptest! {
    #[test]
    fn whatever_is_said_is_answered(words in prop::collection::vec(prop::sample::select(WORDS), 0..40), bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let status = status();
        let mut talk = Conversation::new(Admin, Duration::from_secs(1));
        talk.hear(words.join(" ").as_bytes());
        talk.hear(&bytes);
        talk.hear(b"\n");
        loop {
            match talk.next() {
                Next::More | Next::End => break,
                Next::Payload => {}
                Next::Command(words) => {
                    let command = understood(&words, Admin);
                    let text = match &command {
                        Command::Order(target, order) => answer::order(&status, target, order).err(),
                        Command::Say(text) => Some(text.clone()),
                        command => answer::figures(command, &status, now(), Admin),
                    };
                    if let Some(text) = text {
                        prop_assert!(text.len() < 20_000, "{text}");
                        prop_assert!(!text.contains("\n\n"), "an empty line ends an answer: {text:?}");
                    }
                }
            }
        }
    }
}
