//! Every row of the table, the two texts, and what could spoil them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::*;
use crate::{
    connections::status::ConnectionLogStatus,
    hooks::HookStatus,
    status::{
        AdminStatus, DaemonState, HttpStatus, ProcessStatus, RebalanceStatus, TrackStatus,
        WeightOverrideStatus, WitnessStatus,
    },
    sync::{
        record::Applied,
        status::{PeerStatus, Refused, SendingState, SyncStatus},
    },
};

/// One that has something for each metric.
fn full() -> Status {
    let mut status = crate::status::text::tests::status();
    status.config.fingerprint = "0123456789abcdef".into();
    status.config.last_reload_at = Some("1970-01-01T00:00:01.500Z".into());
    status.rivals = BTreeMap::from([("172.16.0.10".to_owned(), "somebody".to_owned())]);
    status.process = Some(ProcessStatus {
        began_at: "1970-01-01T00:00:07.500Z".into(),
        cpu_seconds: 12.25,
        resident_bytes: 1 << 20,
        virtual_bytes: 3 << 20,
        open_files: 9,
        max_files: 1024,
    });
    status.http = Some(HttpStatus {
        certificate_not_after: Some("1970-01-01T00:02:00.000Z".into()),
        ..HttpStatus::default()
    });
    let vrrp = &mut status.vrrp[0];
    vrrp.holds_addresses = true;
    vrrp.discarded = BTreeMap::from([("checksum".to_owned(), 3)]);
    vrrp.lateness.add(std::time::Duration::from_millis(2));
    let track = |name: &str, state: &str| TrackStatus {
        name: name.into(),
        weight: 0,
        state: state.into(),
        since: String::new(),
        reason: String::new(),
    };
    vrrp.tracks = vec![
        track("script /bin/ask --password secret", "up"),
        track("script /bin/ask --other", "down"),
        track("interface eth1", "up"),
    ];
    vrrp.witness = Some(WitnessStatus { addresses: vec!["172.16.0.1".into()], answers: true, problem: None });
    let service = &mut status.services[0];
    service.rebalance = Some(RebalanceStatus { running: true, left: 4, ..RebalanceStatus::default() });
    let backend = &mut service.backends[0];
    backend.max_connections = 500;
    backend.certificate_not_after = Some("1970-01-01T00:01:00.000Z".into());
    backend.checks.down_ms = 2500;
    backend.resets = BTreeMap::from([("backend-dead".to_owned(), 12)]);
    for (ms, failure) in [(1, None), (3, None), (6_000, Some("timeout"))] {
        backend.checks.add(std::time::Duration::from_millis(ms), failure);
    }
    let mut peer = PeerStatus::new(([172, 16, 0, 3], 7946).into());
    peer.node = Some("lb2".into());
    peer.sending.state = SendingState::Up;
    peer.sending.lag_ms = 250;
    peer.receiving.applied = BTreeMap::from([(Applied::Inserted, 5)]);
    peer.refused = BTreeMap::from([(Refused::Malformed, 1)]);
    peer.holds.insert([172, 16, 0, 10].into());
    status.sync = Some(SyncStatus {
        refused: BTreeMap::from([(Refused::WrongKey, 2)]),
        peers: vec![peer],
        ..SyncStatus::default()
    });
    let hook = HookStatus { name: "/usr/bin/page".into(), told: 7, ..HookStatus::default() };
    status.hooks = vec![hook.clone(), HookStatus { told: 8, ..hook }];
    status.connection_log = Some(ConnectionLogStatus { starts: 9, ..ConnectionLogStatus::default() });
    status
}

#[track_caller]
fn has(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|found| found == *line), "{line}\nin\n{text}");
    }
}

#[test]
fn every_row_of_the_table_is_well_formed_and_read() {
    let status = full();
    let mut names = BTreeSet::new();
    for family in families() {
        let metric = family.full_name();
        assert!(names.insert(family.open_name()), "{metric} twice");
        let word = |word: &str| {
            word.starts_with(|c: char| c.is_ascii_lowercase())
                && word.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '_'))
        };
        assert!(word(&metric) && family.labels.iter().all(|label| word(label)), "{metric}");
        for suffix in ["_total", "_info", "_count", "_sum", "_bucket", "_seconds", "_bytes"] {
            assert!(!family.name.ends_with(suffix), "{metric}: the table adds that");
        }
        // These are Prometheus' own for the target.
        assert!(!family.labels.iter().any(|label| ["job", "instance", "le"].contains(label)), "{metric}");
        assert!(!family.help.is_empty() && !family.help.ends_with('.'), "{metric}");
        assert!(!family.help.contains(['\\', '"', '\n', '|']), "{metric}: nothing to escape");
        let read = family.read(&status).unwrap_or_else(|| panic!("{metric} has no sample"));
        for sample in read.samples {
            assert_eq!(sample.labels.len(), family.labels.len(), "{metric} {:?}", sample.labels);
            let distribution = matches!(sample.value, family::Value::Distribution { .. });
            assert_eq!(distribution, family.kind == Kind::Histogram, "{metric}");
        }
    }
}

#[test]
fn what_is_marked_as_conditional_is_what_may_be_absent() {
    let mut least = crate::status::text::tests::status();
    least.vrrp[0].active_router = None;
    for family in families() {
        assert_eq!(family.read(&least).is_none(), family.only.is_some(), "{}", family.full_name());
    }
}

#[test]
fn the_open_text_says_what_the_status_says() {
    let text = text(&full());
    has(
        &text,
        &[
            "# HELP xvip_vip_held Whether this node has the VIP; over all nodes that share it, the sum is 1",
            "# TYPE xvip_vip_held gauge",
            r#"xvip_vip_held{vrrp="main",vip="172.16.0.10"} 1"#,
            "# TYPE xvip_build info",
            r#"xvip_build_info{version="0.1.0"} 1"#,
            "# TYPE xvip_uptime_seconds gauge",
            "# UNIT xvip_uptime_seconds seconds",
            "xvip_uptime_seconds 61.0",
            "xvip_config_last_reload_timestamp_seconds 1.5",
            r#"xvip_vrrp_state{vrrp="main",state="active"} 1"#,
            r#"xvip_vrrp_state{vrrp="main",state="backup"} 0"#,
            r#"xvip_vrrp_rivals{vrrp="main"} 1"#,
            r#"xvip_vrrp_track_up{vrrp="main",track="script /bin/ask"} 0"#,
            r#"xvip_vrrp_track_up{vrrp="main",track="interface eth1"} 1"#,
            "# TYPE xvip_vrrp_adverts_discarded counter",
            r#"xvip_vrrp_adverts_discarded_total{vrrp="main",reason="checksum"} 3"#,
            "# TYPE xvip_backend_check_duration_seconds histogram",
            r#"xvip_backend_check_failures_total{service="api",backend="m1",reason="timeout"} 1"#,
            r#"xvip_backend_last_check_duration_seconds{service="api",backend="m1"} 6.0"#,
            r#"xvip_backend_down_seconds_total{service="api",backend="m1"} 2.5"#,
            r#"xvip_backend_certificate_not_after_timestamp_seconds{service="api",backend="m1"} 60.0"#,
            "xvip_http_certificate_not_after_timestamp_seconds 120.0",
            "# TYPE process_cpu_seconds counter",
            "# UNIT process_cpu_seconds seconds",
            "process_cpu_seconds_total 12.25",
            "process_resident_memory_bytes 1048576",
            "process_virtual_memory_bytes 3145728",
            "process_open_fds 9",
            "process_max_fds 1024",
            "process_start_time_seconds 7.5",
            "# TYPE xvip_backend_bytes counter",
            "# UNIT xvip_backend_bytes bytes",
            r#"xvip_backend_bytes_total{service="api",backend="m1",direction="out"} 5242880"#,
            r#"xvip_sync_peer_lag_seconds{peer="172.16.0.3:7946"} 0.25"#,
            r#"xvip_sync_peer_vip_held{peer="172.16.0.3:7946",vip="172.16.0.10"} 1"#,
            r#"xvip_sync_peer_applied_records_total{peer="172.16.0.3:7946",outcome="inserted"} 5"#,
            r#"xvip_sync_refused_total{reason="wrong-key"} 2"#,
            r#"xvip_notify_told_events_total{number="1",hook="/usr/bin/page"} 7"#,
            r#"xvip_notify_told_events_total{number="2",hook="/usr/bin/page"} 8"#,
            r#"xvip_flow_table_entries{table="established"} 5"#,
            r#"xvip_flow_table_limit{table="half-open"} 512"#,
        ],
    );
    assert!(!text.contains("secret"), "arguments of scripts are not for everybody");
    assert!(text.ends_with("# EOF\n"));
    let histogram: Vec<&str> =
        text.lines().filter(|line| line.starts_with("xvip_backend_check_duration_seconds")).collect();
    let of_m1 = |suffix: &str, le: &str, value: &str| {
        format!(r#"xvip_backend_check_duration_seconds_{suffix}{{{le}service="api",backend="m1"}} {value}"#)
    };
    for line in [
        of_m1("count", "", "3"),
        of_m1("sum", "", "6.004"),
        of_m1("bucket", "le=\"0.001\",", "1"),
        of_m1("bucket", "le=\"0.002\",", "1"),
        of_m1("bucket", "le=\"0.005\",", "2"),
        of_m1("bucket", "le=\"5.0\",", "2"),
        of_m1("bucket", "le=\"+Inf\",", "3"),
    ] {
        assert!(histogram.contains(&line.as_str()), "{line}\nin {histogram:#?}");
    }
}

#[test]
fn what_is_wrong_is_told() {
    let mut status = full();
    let well = ["xvip_up 1", "xvip_config_last_reload_successful 1"];
    has(&text(&status), &well);
    status.daemon = DaemonState::Down;
    status.config.last_reload_error = Some("line 7".into());
    status.packets.passed = BTreeMap::from([("not-vip".to_owned(), 5)]);
    status.packets.dropped = BTreeMap::from([("bad-checksum".to_owned(), 6)]);
    let service = &mut status.services[0];
    (service.name, service.usable) = ("api".into(), 0);
    let [first, second, ..] = &mut service.backends[..] else { panic!("two backends") };
    (first.name, first.state, first.down) = ("m1".into(), "down".into(), Some("dead".into()));
    (second.name, second.state) = ("m2".into(), "up".into());
    second.admin = Some(AdminStatus { state: "drain".into(), ..AdminStatus::default() });
    has(
        &text(&status),
        &[
            "xvip_up 0",
            "xvip_config_last_reload_successful 0",
            r#"xvip_packets_total{verdict="passed",reason="not-vip"} 5"#,
            r#"xvip_packets_total{verdict="dropped",reason="bad-checksum"} 6"#,
            r#"xvip_service_usable_backends{service="api"} 0"#,
            r#"xvip_backend_up{service="api",backend="m1"} 0"#,
            r#"xvip_backend_state{service="api",backend="m1",state="dead"} 1"#,
            r#"xvip_backend_state{service="api",backend="m1",state="down"} 0"#,
            r#"xvip_backend_up{service="api",backend="m2"} 1"#,
        ],
    );
}

#[test]
fn the_older_text_has_the_same_series_under_their_own_names() {
    let (open, classic) = (text(&full()), encode(&full(), Format::Text));
    let series = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    };
    assert_eq!(series(&open), series(&classic));
    has(
        &classic,
        &[
            "# HELP xvip_vrrp_adverts_discarded_total VRRP packets that were not used, by reason",
            "# TYPE xvip_vrrp_adverts_discarded_total counter",
            "# HELP xvip_build_info Version of the daemon",
            "# TYPE xvip_build_info gauge",
            "# TYPE xvip_backend_check_duration_seconds histogram",
        ],
    );
    assert!(!classic.contains("# EOF") && !classic.contains("# UNIT"));
    // Whatever has a line of its own has its type before it.
    let mut typed = "";
    for line in classic.lines() {
        match line.strip_prefix("# TYPE ").and_then(|rest| rest.split(' ').next()) {
            Some(name) => typed = name,
            None if line.starts_with('#') => {}
            None => assert!(line.starts_with(typed), "{line} after the type of {typed}"),
        }
    }
}

#[test]
fn names_from_the_configuration_cannot_spoil_the_text() {
    let mut status = full();
    status.services[0].backends[0].name = "a\"b\\c\nd} 1".into();
    let twin = status.services[0].backends[0].clone();
    status.services[0].backends.push(twin);
    let text = text(&status);
    has(&text, &[r#"xvip_backend_up{service="api",backend="a\"b\\c\nd} 1"} 1"#]);
    let mut series = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, _) = line.rsplit_once(' ').expect("a value");
        assert!(series.insert(name), "{name} twice");
    }
}

#[test]
fn a_state_that_is_not_known_is_one_and_a_time_that_is_none_is_left_out() {
    let mut status = full();
    status.vrrp[0].state = "unknown".into();
    status.vrrp[0].since = String::new();
    let text = text(&status);
    let states: Vec<&str> = text.lines().filter(|line| line.starts_with("xvip_vrrp_state{")).collect();
    assert_eq!(states.len(), 5);
    assert_eq!(
        states.iter().filter(|line| line.ends_with(" 1")).collect::<Vec<_>>(),
        [&r#"xvip_vrrp_state{vrrp="main",state="unknown"} 1"#]
    );
    assert!(!text.contains("xvip_vrrp_state_since_timestamp_seconds"));
}

#[test]
fn who_asks_for_openmetrics_gets_it() {
    use Format::{OpenMetrics, Text};
    for (accept, format) in [
        (None, Text),
        (Some(""), Text),
        (Some("*/*"), Text),
        (Some("text/plain"), Text),
        (Some("application/openmetrics-text"), OpenMetrics),
        // Prometheus 2.42 and 3.
        (
            Some(
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            ),
            OpenMetrics,
        ),
        (
            Some(
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,*/*;q=0.2",
            ),
            OpenMetrics,
        ),
        (Some("Application/OpenMetrics-Text; Version=\"1.0.0\"; Q=0.5"), OpenMetrics),
        (Some("application/openmetrics-text;q=0.5,text/plain"), Text),
        (Some("text/plain,application/openmetrics-text"), OpenMetrics),
        (Some("application/openmetrics-text;q=0"), Text),
        (Some("application/openmetrics-text;version=2.0.0"), Text),
        (Some("application/openmetrics-text;q=nan,text/plain"), Text),
        (Some(";;q=,,=;q=x"), Text),
    ] {
        assert_eq!(Format::accepted(accept), format, "{accept:?}");
    }
}

#[test]
fn the_catalogue_names_each_series() {
    let catalogue = catalogue();
    let known: BTreeSet<String> = catalogue.iter().flat_map(Metric::series).collect();
    let text = text(&full());
    let scraped: BTreeSet<String> = (text.lines().filter(|line| !line.starts_with('#')))
        .filter_map(|line| line.split(['{', ' ']).next().map(str::to_owned))
        .collect();
    assert_eq!(scraped, known);
    let markdown = catalogue::markdown();
    for metric in &catalogue {
        assert_eq!(markdown.matches(&format!("| `{}` |", metric.name)).count(), 1, "{}", metric.name);
    }
}

/// What `xvip status` shows and no metric does, and why not.
const NOT_TOLD: [(&str, &[&str]); 6] = [
    (
        "words: that there is such a thing is told, not what it says",
        &[
            "config/path",
            "problems",
            "rivals/172.16.0.10",
            "config/last_reload_error",
            "vrrp/reason",
            "vrrp/blocked",
            "vrrp/send_error",
            "vrrp/tracks/reason",
            "vrrp/witness/addresses",
            "services/backends/reason",
            "sync/listen_error",
            "sync/store_error",
            "sync/peers/sending/last_error",
            "sync/peers/drift",
            "hooks/last_error",
            "connection_log/file",
            "connection_log/error",
        ],
    ),
    (
        "settings that change no figure",
        &[
            "http/listen",
            "http/path",
            "interfaces/vlans",
            "services/backends/local",
            "services/rebalance/mode",
            "vrrp/tracks/weight",
            "vrrp/virtual_mac",
        ],
    ),
    (
        "told under another name, or to be had by rate()",
        &[
            "interface/attached_to",
            "interface/mac",
            "interface/mtu",
            "interface/name",
            "interface/xdp_mode",
            "pace/active_max",
            "pace/last_opened",
            "pace/rate",
            "pace/rate_max",
            "services/backends/pace/active_max",
            "services/backends/pace/last_opened",
            "services/backends/pace/rate",
            "services/backends/pace/rate_max",
            "services/pace/active_max",
            "services/pace/last_opened",
            "services/pace/rate",
            "services/pace/rate_max",
            "services/rebalance/done",
        ],
    ),
    (
        "who said it and when: an event tells that",
        &[
            "services/backends/admin/at",
            "services/backends/admin/by",
            "services/backends/admin/deadline",
            "services/backends/weight_override/at",
            "services/backends/weight_override/by",
            "services/backends/weight_override/weight",
        ],
    ),
    (
        "of the moment",
        &["pid", "vrrp/lateness/last_us", "vrrp/tracks/since", "services/backends/share_limit"],
    ),
    (
        "whether it is known is told",
        &[
            "services/backends/next_hop",
            "sync/listening",
            "sync/peers/sending/since_ms",
            "sync/peers/receiving/since_ms",
        ],
    ),
];

/// Every part of a JSON value that is no object and no array: its path without the numbers of arrays' elements, and where it is.
fn leaves(value: &Json, path: &str, pointer: &str, out: &mut Vec<(String, String)>) {
    match value {
        Json::Object(parts) => {
            for (key, part) in parts {
                let path = if path.is_empty() { key.clone() } else { format!("{path}/{key}") };
                leaves(part, &path, &format!("{pointer}/{key}"), out);
            }
        }
        Json::Array(parts) => {
            for (index, part) in parts.iter().enumerate() {
                leaves(part, path, &format!("{pointer}/{index}"), out);
            }
        }
        _ => out.push((path.to_owned(), pointer.to_owned())),
    }
}

/// Another one of its kind.
fn other(value: &Json) -> Json {
    match value {
        Json::Bool(is_so) => Json::from(!is_so),
        Json::Number(number) => match number.as_u64() {
            Some(whole) => Json::from(whole + 1),
            None => Json::from(number.as_f64().unwrap_or_default() + 0.25),
        },
        Json::String(time) if humantime::parse_rfc3339(time).is_ok() => {
            Json::from("2033-01-02T03:04:05.678Z")
        }
        Json::String(text) => Json::from(format!("x{text}")),
        other => other.clone(),
    }
}

#[test]
fn whatever_the_status_shows_is_told() {
    let mut status = full();
    let some = || Some("some".to_owned());
    status.problems = vec!["a problem".to_owned()];
    status.config.last_reload_error = some();
    let vrrp = &mut status.vrrp[0];
    (vrrp.blocked, vrrp.send_error, vrrp.sync_group, vrrp.virtual_mac) = (some(), some(), some(), some());
    let backend = &mut status.services[0].backends[1];
    backend.admin =
        Some(AdminStatus { state: "drain".to_owned(), deadline: some(), ..AdminStatus::default() });
    backend.weight_override = Some(WeightOverrideStatus::default());
    backend.share_limit = Some(7);
    backend.pace.last_opened = some();
    status.services[0].pace.last_opened = some();
    status.pace.last_opened = some();
    let sync = status.sync.as_mut().expect("there is one");
    sync.store_error = some();
    sync.peers[0].sending.last_error = some();
    sync.peers[0].drift = vec!["service api".to_owned()];
    status.hooks[0].last_error = some();
    status.connection_log.as_mut().expect("there is one").error = some();

    let usual = text(&status);
    let json = serde_json::to_value(&status).expect("JSON");
    let mut all = Vec::new();
    leaves(&json, "", "", &mut all);
    let (mut told, mut untold) = (BTreeSet::new(), BTreeSet::new());
    for (path, pointer) in all {
        let mut changed = json.clone();
        let leaf = changed.pointer_mut(&pointer).expect("it was found there");
        *leaf = other(leaf);
        // Of some words there are only so many.
        let Ok(changed) = serde_json::from_value(changed) else { continue };
        if text(&changed) == usual {
            untold.insert(path)
        } else {
            told.insert(path)
        };
    }
    assert!(told.len() > 90, "{told:?}");
    let untold: BTreeSet<&str> = untold.difference(&told).map(String::as_str).collect();
    let known: BTreeSet<&str> = NOT_TOLD.iter().flat_map(|(_, paths)| paths.iter().copied()).collect();
    let news: Vec<_> = untold.difference(&known).collect();
    assert!(news.is_empty(), "no metric tells {news:?}: add one, or say here why there is none");
    let told: Vec<_> = known.difference(&untold).filter(|path| told.contains(**path)).collect();
    assert!(told.is_empty(), "there is a metric of {told:?}");
}
