//! What is said, and where.

use super::*;

use crate::status::{
    AdminStatus, BackendFlowsStatus, ConfigStatus, DaemonState, FlowsStatus, InterfaceStatus,
    LastRebalanceStatus, Packets, ProcessStatus, WeightOverrideStatus,
};
use crate::sync::status::Refused;

pub(crate) fn status() -> Status {
    let since = "2026-01-02T03:04:05.678Z".to_owned();
    let backend = |name: &str, down: Option<&str>| BackendStatus {
        name: name.into(),
        address: "172.16.0.4:6443".into(),
        weight: 100,
        state: if down.is_some() { "down" } else { "up" }.into(),
        down: down.map(str::to_owned),
        since: since.clone(),
        reason: "status 200".into(),
        share: if down.is_some() { 0.0 } else { 1.0 },
        next_hop: down.is_none().then(|| "02:00:00:00:00:04".into()),
        effective_weight: 100,
        admin: None,
        weight_override: None,
        share_limit: None,
        max_connections: 0,
        local: false,
        flows: BackendFlowsStatus { opened: 12, active: 3, bytes_out: 5 << 20, ..Default::default() },
        pace: Default::default(),
        certificate_not_after: None,
        resets: Default::default(),
        checks: Default::default(),
    };
    let interface = InterfaceStatus {
        name: "eth0".into(),
        xdp_mode: "native".into(),
        mac: "02:00:00:00:00:02".into(),
        attached_to: "eth0".into(),
        vlans: Vec::new(),
        mtu: 1500,
    };
    let vrrp = serde_json::json!({
        "name": "main",
        "state": "active",
        "since": since,
        "reason": "active router silent for 700 ms",
        "priority": 100,
        "virtual_router_id": 60,
        "version": 3,
        "vips": ["172.16.0.10/24"],
        "active_router": { "address": "172.16.0.2", "priority": 100 },
        "adverts_sent": 1,
        "adverts_received": 0,
        "discarded": {},
    });
    let vrrp: VrrpStatus = serde_json::from_value(vrrp).expect("the rest has defaults");
    Status {
        daemon: DaemonState::Up,
        without_daemon: None,
        node: "lb1".into(),
        version: "0.1.0".into(),
        pid: 1,
        uptime_seconds: 61,
        process: Some(ProcessStatus { began_at: since.clone(), ..Default::default() }),
        problems: Vec::new(),
        rivals: Default::default(),
        config: ConfigStatus {
            path: "/etc/xvip/xvip.toml".into(),
            loaded_at: since.clone(),
            last_reload_error: None,
            last_reload_at: None,
            fingerprint: String::new(),
        },
        interface: interface.clone(),
        interfaces: vec![interface],
        vrrp: vec![vrrp],
        services: vec![ServiceStatus {
            rebalance: None,
            name: "api".into(),
            vip: "172.16.0.10".into(),
            port: 6443,
            mode: "nat".into(),
            balance: "maglev".into(),
            usable: 1,
            local_clients: LocalClientsStatus::default(),
            host_connections: 0,
            pace: Default::default(),
            backends: vec![backend("m1", None), backend("m2", Some("dead"))],
        }],
        packets: Packets {
            passed: [("arp".to_owned(), 0)].into(),
            dropped: [("fragment".to_owned(), 7)].into(),
            transmitted: [("to-backend".to_owned(), 42)].into(),
        },
        flows: FlowsStatus { max: 1024, half_open_max: 512, established: 3, half_open: 0, closing: 2 },
        pace: Default::default(),
        http: None,
        sync: None,
        hooks: Vec::new(),
        connection_log: None,
        observing: None,
    }
}

#[test]
fn the_owner_and_the_reason_come_first() {
    let text = render(&status(), &Screen::PIPE);
    let first = text.lines().next().expect("a line");
    assert!(first.contains("active since") && first.contains("this node owns 172.16.0.10/24"), "{first}");
    assert!(first.contains("active router silent for 700 ms"), "{first}");
}

#[test]
fn the_exchange_of_flows_is_told_by_peer() {
    let mut status = status();
    assert!(!render(&status, &Screen::PIPE).contains("sync:"));
    let mut peer = PeerStatus::new("172.16.0.3:7946".parse().expect("an address"));
    let mut line = |peer: &PeerStatus| {
        status.sync = Some(SyncStatus { peers: vec![peer.clone()], ..SyncStatus::default() });
        let text = render(&status, &Screen::PIPE);
        text.lines().filter(|line| line.starts_with("sync:")).collect::<Vec<_>>().join("|")
    };
    assert_eq!(line(&peer), "sync: 172.16.0.3:7946 does not get our flows yet; we do not get its flows");
    peer.node = Some("lb2".into());
    peer.sending.state = SendingState::Up;
    (peer.sending.lag_max_ms, peer.sending.lag_p50_ms) = (40, 3);
    (peer.receiving.connected, peer.receiving.complete) = (true, true);
    peer.receiving.complete = false;
    assert!(line(&peer).ends_with("; we are getting its flows"), "{}", line(&peer));
    peer.receiving.complete = true;
    peer.refused.insert(Refused::WrongKey, 7);
    assert_eq!(
        line(&peer),
        "sync: lb2 at 172.16.0.3:7946 has our flows, at most 40 ms late (median 3 ms); we have its flows|\
         sync: refused: the key is none of ours 7"
    );
}

#[test]
fn a_backup_names_the_owner() {
    let mut status = status();
    status.vrrp[0].state = "backup".into();
    assert!(render(&status, &Screen::PIPE).starts_with("vrrp main: backup"));
    assert!(render(&status, &Screen::PIPE).contains("172.16.0.2 (priority 100) owns 172.16.0.10/24"));
    status.vrrp[0].active_router = None;
    assert!(render(&status, &Screen::PIPE).contains("no owner of 172.16.0.10/24 is known"));
}

#[test]
fn what_an_instance_depends_on_is_told() {
    let mut status = status();
    assert_eq!(render(&status, &Screen::PIPE).lines().filter(|line| line.starts_with("  ")).count(), 0);
    let track = |name: &str, weight, state: &str, reason: &str| TrackStatus {
        name: name.into(),
        weight,
        state: state.into(),
        since: "2026-01-02T03:04:05.678Z".into(),
        reason: reason.into(),
    };
    let vrrp = &mut status.vrrp[0];
    vrrp.released = true;
    vrrp.tracks =
        vec![track("script /bin/x -q", -50, "down", "exit 1: no"), track("interface eth1", 0, "up", "up")];
    vrrp.witness = Some(WitnessStatus { addresses: vec!["172.16.0.1".into()], answers: true, problem: None });
    let text = render(&status, &Screen::PIPE);
    for line in [
        "  released: the VIP is left to any other node, until `xvip vip acquire main`",
        "  script /bin/x -q (weight -50): down since 2026-01-02T03:04:05.678Z: exit 1: no",
        "  interface eth1: up since 2026-01-02T03:04:05.678Z: up",
        "  witness 172.16.0.1: answers",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    let silent = "witness 172.16.0.1 has not answered for 812 ms";
    status.vrrp[0].witness = Some(WitnessStatus {
        addresses: vec!["172.16.0.1".into()],
        answers: false,
        problem: Some(silent.into()),
    });
    assert!(render(&status, &Screen::PIPE).contains(&format!("  {silent}: it does not take over")));
}

#[test]
fn counters_that_are_zero_are_not_shown() {
    let text = render(&status(), &Screen::PIPE);
    assert!(text.contains("fragment") && text.contains("to-backend") && !text.contains("arp"), "{text}");
}

#[test]
fn a_service_that_lacks_backends_stands_out() {
    let coloured = Screen { colours: crate::cli::colour::Colours::On, ..Screen::PIPE };
    let warned = coloured.paint("1 of 2 backends usable", Tone::Warn);
    assert!(render(&status(), &coloured).contains(&warned), "{warned:?}");
    let mut whole = status();
    whole.services[0].usable = 2;
    assert!(render(&whole, &coloured).contains("), 2 of 2 backends usable"));
}

#[test]
fn plain_text_has_no_lines_around_cells() {
    let text = render(&status(), &Screen::PIPE);
    assert!(text.is_ascii(), "{text}");
    assert!(text.lines().any(|line| line.contains("m2") && line.contains("down (dead)")), "{text}");
    assert!(!render(&status(), &Screen { look: Look::Terminal, ..Screen::PIPE }).is_ascii());
}

#[test]
fn problems_are_said_before_anything_else_but_ownership() {
    let mut status = status();
    status.problems.push("XDP is not attached".into());
    status.config.last_reload_error = Some("xvip.toml: 2 errors".into());
    let text = render(&status, &Screen::PIPE);
    assert!(text.lines().nth(1).is_some_and(|line| line == "problem: XDP is not attached"), "{text}");
    assert!(text.contains("the last reload changed nothing: xvip.toml: 2 errors"), "{text}");
}

#[test]
fn every_interface_says_where_xdp_is() {
    let mut status = status();
    let vlan = InterfaceStatus {
        name: "bond0.100".into(),
        attached_to: "bond0".into(),
        vlans: vec![100],
        xdp_mode: "generic".into(),
        ..status.interface.clone()
    };
    status.interfaces.push(vlan);
    let text = render(&status, &Screen::PIPE);
    assert!(
        text.contains("eth0 (XDP native, 02:00:00:00:00:02), bond0.100 (XDP generic at bond0, "),
        "{text}"
    );
}

#[test]
fn a_backend_shows_what_is_special_about_it() {
    let mut status = status();
    let service = &mut status.services[0];
    service.vip = "fd00::10".into();
    let backend = &mut service.backends[0];
    (backend.effective_weight, backend.max_connections, backend.local) = (10, 500, true);
    let text = render(&status, &Screen::PIPE);
    assert!(text.contains("service api: [fd00::10]:6443 ("), "{text}");
    let line = text.lines().find(|line| line.contains("m1")).expect("its line");
    assert!(line.contains("10 of 100") && line.contains("3 of 500") && line.contains("this node"), "{line}");
    assert!(line.ends_with("5.0 MiB"), "{line}");
}

#[test]
fn what_operators_have_said_and_what_rebalances_did_is_told() {
    let mut status = status();
    let service = &mut status.services[0];
    let (by, at) = ("root (alice)".to_owned(), "2026-01-02T03:04:05.678Z".to_owned());
    let admin = AdminStatus {
        state: "drain".into(),
        maintenance: false,
        deadline: None,
        by: by.clone(),
        at: at.clone(),
    };
    let backend = &mut service.backends[0];
    (backend.effective_weight, backend.admin) = (0, Some(admin));
    backend.weight_override = Some(WeightOverrideStatus { weight: 50, by, at });
    service.rebalance = Some(RebalanceStatus {
        mode: "auto".into(),
        running: true,
        left: 20,
        done: 70,
        resets: 160,
        last: Some(LastRebalanceStatus {
            began: "2026-01-01T00:00:00.000Z".into(),
            took_ms: 9100,
            asked_for: false,
            outcome: "balanced".into(),
            resets: 90,
            resets_by_backend: BTreeMap::new(),
        }),
    });
    let text = render(&status, &Screen::PIPE);
    let row = text.lines().find(|line| line.contains("172.16.0.4")).expect("its row");
    assert!(row.contains("0 of 50") && row.contains("up, drain"), "{row}");
    for line in [
        "m1: drained: no new connections; those that it has stay; by root (alice) at 2026-01-02T03:04:05.678Z; \
         `xvip backend enable m1` ends it",
        "m1: weight 50 instead of 100; by root (alice) at 2026-01-02T03:04:05.678Z; `xvip backend weight m1 \
         default` ends it",
        "rebalance (auto): goes on, 70 connections reset, 20 to go; 160 reset in all; the last one, \
         2026-01-01T00:00:00.000Z (by itself), took 9s 100ms and reset 90: balanced",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    let admin = status.services[0].backends[0].admin.as_mut().expect("set");
    admin.deadline = Some("2026-01-02T03:09:05.678Z".into());
    assert!(
        render(&status, &Screen::PIPE).contains("those that it has stay until 2026-01-02T03:09:05.678Z;")
    );
}

#[test]
fn connects_on_this_node_are_told_where_there_were_any() {
    let mut status = status();
    assert!(!render(&status, &Screen::PIPE).contains("connects on this node"));
    status.services[0].local_clients = LocalClientsStatus { redirected: 7, stale: 2, ..Default::default() };
    let text = render(&status, &Screen::PIPE);
    let line = "connects on this node: 7 redirected, 2 left to the VIP's owner\n";
    assert!(text.contains(line), "{text}");
    status.services[0].local_clients = LocalClientsStatus { other_namespace: 3, ..Default::default() };
    let text = render(&status, &Screen::PIPE);
    assert!(text.contains("connects on this node: 3 from other network namespaces\n"), "{text}");
}

#[test]
fn what_a_proxy_still_has_is_told() {
    let mut status = status();
    assert!(!render(&status, &Screen::PIPE).contains("a process on this node"));
    status.services[0].host_connections = 57;
    let text = render(&status, &Screen::PIPE);
    let line = "connections that a process on this node has with clients: 57 (xvip leaves them to it)\n";
    assert!(text.contains(line), "{text}");
}

#[test]
fn who_only_observes_says_what_it_would_do_before_anything_else() {
    let mut status = status();
    let vip = ObservedVipStatus {
        vip: "172.16.0.10/24".into(),
        vrrp: "main".into(),
        virtual_router_id: 60,
        priority: 100,
        heard: None,
    };
    let heard =
        ObservedVipStatus { heard: status.vrrp[0].active_router.clone(), vrrp: "b".into(), ..vip.clone() };
    status.observing = Some(ObservingStatus { interface: "eth0".into(), vips: vec![vip, heard] });
    status.services[0].backends[1].flows.opened = 36;
    let text = render(&status, &Screen::PIPE);
    let expected = "observing: this node changes nothing; without node.observe it would\n  \
        have 172.16.0.10/24 on eth0 while active in VRRP main (VRID 60, priority 100); no other node is heard to\n  \
        have 172.16.0.10/24 on eth0 while active in VRRP b (VRID 60, priority 100); 172.16.0.2 (priority 100) is heard to\n  \
        forward 172.16.0.10:6443: of 48 new connections seen, m1 25.0 %, m2 75.0 % would have got\n";
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn the_answer_of_an_older_daemon_is_understood() {
    let mut value = serde_json::to_value(status()).expect("serializable");
    value.as_object_mut().expect("an object").remove("interfaces");
    let backend = value["services"][0]["backends"][0].as_object_mut().expect("an object");
    for key in ["local", "effective_weight", "max_connections"] {
        backend.remove(key);
    }
    backend["flows"] = serde_json::json!({ "opened": 1, "active": 1 });
    let status: Status = serde_json::from_value(value).expect("all that is new has a default");
    assert!(render(&status, &Screen::PIPE).contains("eth0 (XDP native"));
}

#[test]
fn json_reads_back_as_it_was_written() {
    let status = status();
    let text = serde_json::to_string(&status).expect("serializable");
    assert_eq!(serde_json::from_str::<Status>(&text).expect("its own form"), status);
    assert!(!text.contains("last_reload_error") && text.contains(r#""next_hop":null"#), "{text}");
    assert!(status.owns([172, 16, 0, 10]) && !status.owns([172, 16, 0, 1]));
}

#[test]
fn what_was_said_heard_and_not_used_is_told() {
    let mut vrrp = status().vrrp.remove(0);
    assert_eq!(advertisements(&vrrp), "1 sent, 0 received");
    vrrp.lateness.add(Duration::from_micros(250));
    vrrp.discarded = [("auth".to_owned(), 3), ("ttl".to_owned(), 1)].into();
    (vrrp.address_mismatches, vrrp.send_errors) = (2, 1);
    vrrp.send_error = Some("Network is down".to_owned());
    vrrp.authentication = "password".to_owned();
    assert_eq!(
        advertisements(&vrrp),
        "1 sent (99 % at most 250us late), 0 received; not used: auth 3, ttl 1; used although they differ: \
         other-addresses 2; not sent: 1 (Network is down); authentication password"
    );
}

#[test]
fn every_line_fits_the_screen_and_nothing_that_matters_is_lost() {
    let mut status = status();
    status.services[0].backends[1].reason = "connection refused".into();
    status.problems.push(
        "the clock of this node is not synchronised, which auth_hmac needs, and so on and so on".into(),
    );
    let now = humantime::parse_rfc3339("2026-01-02T03:09:05.678Z").ok();
    for width in [80, 100, 120, 200] {
        let screen = Screen { look: Look::Terminal, width: Some(width), now, ..Screen::PIPE };
        let text = render(&status, &screen);
        for line in text.lines() {
            assert!(line.chars().count() <= width.into(), "{width}: {line}");
        }
        assert!(text.starts_with("vrrp main: active for 5m: active router silent for 700 ms"), "{text}");
        for part in ["m1", "m2", "down (dead)", "connection refused", "for 5m"] {
            assert!(text.contains(part), "{width}: {part} in\n{text}");
        }
    }
    let narrow = render(&status, &Screen { look: Look::Terminal, width: Some(80), now, ..Screen::PIPE });
    assert!(narrow.contains("\nm2: down (dead) for 5m: connection refused\n"), "{narrow}");
    assert!(!narrow.contains("\nm1: "), "nothing is wrong with it: {narrow}");
    // What never happened is left out on a screen alone.
    let titles = |screen: &Screen, status: &Status| {
        let columns = backend_columns(&status.services[0].backends, screen);
        columns.iter().map(Column::title).collect::<Vec<_>>()
    };
    let wide = Screen { look: Look::Terminal, width: Some(400), ..Screen::PIPE };
    let all = titles(&Screen::PIPE, &status);
    let without: Vec<&str> = all.iter().copied().filter(|title| !["reset", "full"].contains(title)).collect();
    assert!(all.len() == without.len() + 2 && titles(&wide, &status) == without, "{all:?}");
}

#[test]
fn a_daemon_that_is_down_is_said_first_with_what_that_means() {
    let mut status = status();
    status.daemon = DaemonState::Down;
    status.problems = vec!["the daemon is down: nobody answers".into(), "no names".into()];
    let vip = |vip: &str, present, silenced| VipWithoutDaemon {
        vip: vip.into(),
        vrrp: Some("main".into()),
        present,
        silenced,
    };
    status.without_daemon = Some(WithoutDaemon {
        why: "nobody answers".into(),
        since: Some("2026-01-02T03:04:05.678Z".into()),
        forwarding: true,
        vips: vec![vip("10.0.0.1", true, true), vip("10.0.0.2", true, false), vip("10.0.0.3", false, true)],
    });
    let text = render(&status, &Screen::PIPE);
    let expected = "the daemon is down: nobody answers\n  \
        its last sign of life: 2026-01-02T03:04:05.678Z\n  \
        XDP goes on forwarding to the backends that were last chosen; nobody checks them\n  \
        10.0.0.1 (vrrp main) is here, but not answered for: another node may take it\n  \
        10.0.0.2 (vrrp main) is here, and answered for\n  \
        10.0.0.3 (vrrp main) is not on this node\n  \
        no names\n  `systemctl start xvip`";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.contains("service api:") && !text.contains("vrrp main: active"), "{text}");
    status.without_daemon.as_mut().expect("set").forwarding = false;
    assert!(render(&status, &Screen::PIPE).contains("XDP is not attached: nothing is forwarded"));
}
