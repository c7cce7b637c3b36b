use crate::vrrp::status::ActiveRouter;

use super::*;

const LB2: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(172, 16, 0, 3));
const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(172, 16, 0, 10));

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn router(state: VrrpState, reason: &str, owner: Option<(IpAddr, u8)>) -> RouterStatus {
    let source = [172, 16, 0, 2].into();
    RouterStatus {
        reason: reason.to_owned(),
        holds_addresses: state == VrrpState::Active,
        active_router: owner.map(|(address, priority)| ActiveRouter { address, priority }),
        transitions: match state {
            VrrpState::Initialize => 0,
            VrrpState::Backup => 1,
            VrrpState::Active | VrrpState::Fault => 2,
        },
        ..RouterStatus::begin("main".to_owned(), state, 100, source, Instant::now(), at(50))
    }
}

fn told(before: &RouterStatus, now: &RouterStatus) -> Vec<String> {
    let events = router_events(before, now, Duration::from_secs(303), &[VIP], at(60));
    for event in &events {
        assert_eq!(
            (event.instance.as_deref(), event.vips.as_slice()),
            (Some("main"), &["172.16.0.10".to_owned()][..])
        );
    }
    events.iter().map(ToString::to_string).collect()
}

#[test]
fn a_take_over_says_who_fell_silent_and_for_how_long_this_node_had_waited() {
    let backup = router(VrrpState::Backup, "started: listening first", Some((LB2, 101)));
    let active = router(VrrpState::Active, "active router silent for 640 ms", None);
    assert_eq!(
        told(&backup, &active),
        [
            "vrrp main: backup -> active: active router silent for 640 ms; the last one heard was 172.16.0.3 (priority 101) \
          (own priority 100, backup for 5 min 3 s)"
        ]
    );
    let events = router_events(&backup, &active, Duration::ZERO, &[], at(60));
    assert_eq!(events[0].at, at(50), "when it happened, not when it was heard of");
    let left = router(VrrpState::Active, "priority 0 from 172.16.0.3", None);
    assert_eq!(
        told(&backup, &left),
        ["vrrp main: backup -> active: priority 0 from 172.16.0.3 (own priority 100, backup for 5 min 3 s)"],
        "nobody is named twice"
    );
}

#[test]
fn who_loses_the_vip_says_to_whom() {
    let active = router(VrrpState::Active, "x", None);
    let backup = RouterStatus {
        transitions: 3,
        ..router(VrrpState::Backup, "preempted by higher priority 101 from 172.16.0.3", Some((LB2, 101)))
    };
    assert_eq!(
        told(&active, &backup),
        [
            "vrrp main: active -> backup: preempted by higher priority 101 from 172.16.0.3 (own priority 100, active for 5 min 3 s)",
            "vrrp main: owner: 172.16.0.3 (priority 101)",
        ]
    );
    let events = router_events(&active, &backup, Duration::ZERO, &[], at(60));
    assert_eq!((events[0].severity, events[1].kind), (Severity::Warn, Kind::Owner));
}

#[test]
fn the_first_state_has_not_followed_any() {
    let new = router(VrrpState::Initialize, "not started", None);
    let backup = router(VrrpState::Backup, "started: listening first", None);
    assert_eq!(
        told(&new, &backup),
        ["vrrp main: initialize -> backup: started: listening first (own priority 100)"]
    );
    assert_eq!(told(&backup, &backup.clone()), [] as [&str; 0]);
    let fault = router(VrrpState::Fault, "no carrier", None);
    assert_eq!(router_events(&backup, &fault, Duration::ZERO, &[], at(1))[0].severity, Severity::Warn);
}

#[test]
fn another_owner_is_told_where_this_node_only_listens() {
    let one = router(VrrpState::Backup, "x", Some((LB2, 101)));
    let other = router(VrrpState::Backup, "x", Some(([172, 16, 0, 4].into(), 90)));
    assert_eq!(
        told(&one, &other),
        ["vrrp main: owner: 172.16.0.3 (priority 101) -> 172.16.0.4 (priority 90)"]
    );
    let same = router(VrrpState::Backup, "x", Some((LB2, 80)));
    assert_eq!(told(&one, &same), [] as [&str; 0], "a priority that changes is the other node's to tell");
}

#[test]
fn problems_of_a_router_begin_and_end_once() {
    let well = router(VrrpState::Backup, "x", None);
    let mut ill = well.clone();
    ill.blocked = Some("no witness answers for 300 ms".to_owned());
    ill.send_error = Some("Network is unreachable".to_owned());
    ill.deaf = Some(Duration::from_secs(1));
    ill.priority = 50;
    let texts = told(&well, &ill);
    assert_eq!(texts.len(), 4, "{texts:?}");
    assert_eq!(texts[0], "vrrp main: priority 100 -> 50");
    assert!(texts[1..].iter().all(|text| text.starts_with("problem begins: vrrp main: ")), "{texts:?}");
    let mut still = ill.clone();
    still.blocked = Some("no witness answers for 900 ms".to_owned());
    still.deaf = Some(Duration::from_secs(9));
    assert_eq!(told(&ill, &still), [] as [&str; 0], "another age is no news");
    assert!(told(&still, &ill).is_empty());
    let ended = told(&ill, &well);
    assert!(
        ended.len() == 4 && ended[1..].iter().all(|text| text.starts_with("problem ends: ")),
        "{ended:?}"
    );
}

fn news(change: Option<(Condition, Condition)>, in_a_row: u32) -> News {
    News {
        at: at(5),
        reason: "connection refused".to_owned(),
        took: Duration::from_millis(2),
        change: change.map(|(from, to)| monitor::Change { from, to, lasted: Duration::from_secs(303) }),
        in_a_row,
        row: Duration::from_millis(204),
    }
}

fn check(news: News) -> Event {
    check_event("api", "m1", "172.16.0.4:6443".parse().expect("an address"), news)
}

#[test]
fn a_backend_s_death_says_how_it_was_decided() {
    use crate::health::rise_fall::DownKind;
    let died = check(news(Some((Condition::Up, Condition::Down(Some(DownKind::Dead)))), 2));
    assert_eq!(
        died.to_string(),
        "backend m1 of api (172.16.0.4:6443): up -> down (dead): connection refused (checks 2, decided within 204 ms, up \
         for 5 min 3 s)"
    );
    assert_eq!((died.at, died.severity), (at(5), Severity::Warn));
    let first = check(news(None, 1));
    assert_eq!(
        first.to_string(),
        "backend m1 of api (172.16.0.4:6443): check failed: connection refused (took 2 ms)"
    );
    assert_eq!(first.kind, Kind::Check);
    let up = check(news(Some((Condition::Unknown, Condition::Up)), 1));
    assert_eq!((up.severity, up.lasted_ms, up.numbers.len()), (Severity::Info, None, 1));
}

#[test]
fn a_track_is_told_once_it_is_known() {
    let track = |state: &str| TrackStatus {
        name: "script /bin/check".to_owned(),
        weight: 0,
        state: state.to_owned(),
        since: String::new(),
        reason: "exit 1".to_owned(),
    };
    let told = |state: &str, known: Option<(&str, u64)>| {
        let known = known.map(|(state, seconds)| (state.to_owned(), at(seconds)));
        track_event("main", &track(state), known.as_ref(), at(100)).map(|event| event.to_string())
    };
    assert_eq!(told("unknown", None), None);
    assert_eq!(
        told("up", Some(("unknown", 0))).as_deref(),
        Some("vrrp main: track up: script /bin/check: exit 1")
    );
    assert_eq!(
        told("down", Some(("up", 40))).as_deref(),
        Some("vrrp main: track up -> down: script /bin/check: exit 1 (up for 1 min 0 s)")
    );
    let witness = WitnessStatus {
        addresses: vec!["172.16.0.1".into()],
        answers: false,
        problem: Some("silent".into()),
    };
    assert_eq!(
        (witness_as_track(&witness).name.as_str(), witness_as_track(&witness).state.as_str()),
        ("witness 172.16.0.1", "down")
    );
}

#[test]
fn a_peer_comes_goes_and_differs() {
    let new = PeerStatus::new("172.16.0.3:7946".parse().expect("an address"));
    let mut up = new.clone();
    up.node = Some("lb2".to_owned());
    up.sending.state = SendingState::Joining;
    up.receiving.connected = true;
    up.receiving.since_ms = 2_000;
    let texts = |before: &PeerStatus, now: &PeerStatus| -> Vec<String> {
        peer_events(before, now, at(100)).iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        texts(&new, &up),
        ["peer lb2 (172.16.0.3:7946) gets our flows", "peer lb2 (172.16.0.3:7946) sends its flows"]
    );
    assert_eq!(peer_events(&new, &up, at(100))[1].at, at(98), "when it happened");
    let mut further = up.clone();
    further.sending.state = SendingState::Up;
    assert_eq!(texts(&up, &further), [] as [&str; 0]);
    let mut differs = further.clone();
    differs.drift = vec!["backends".to_owned()];
    assert!(texts(&further, &differs)[0].contains("configured differently: backends; some connections"));
    assert!(texts(&differs, &further)[0].contains("configured alike: it differed in backends"));
    let mut gone = new.clone();
    gone.sending.last_error = Some("connection refused".to_owned());
    let texts = texts(&further, &gone);
    assert_eq!(texts[0], "peer lb2 (172.16.0.3:7946) does not get our flows any more: connection refused");
    assert_eq!(texts.len(), 2);
}
