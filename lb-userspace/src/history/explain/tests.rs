use super::*;
use crate::desired::tests::{config, service};

const NOW: u64 = 10_000;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// `m4` and `m5` of `api`, whose VIP `main` has, and of `web`, which nobody moves.
fn two_services() -> Config {
    let mut api = service("api", [172, 16, 0, 10].into(), &[4, 5]);
    api.vrrp = Some("main".to_owned());
    let mut web = service("web", [172, 16, 0, 11].into(), &[4, 6]);
    web.vrrp = None;
    config(vec![api, web])
}

fn story() -> Vec<Event> {
    let backend = |kind, name: &str, host: u8, service: &str, seconds| {
        Event::new(kind, name, at(seconds)).of_service(service).at_address(format!("172.16.0.{host}:6443"))
    };
    let vrrp = |kind, seconds| {
        Event::new(kind, "main", at(seconds)).of_instance("main").with_vips(&[[172, 16, 0, 10].into()])
    };
    vec![
        Event::new(Kind::Daemon, "lb1", at(100)).became("started").because("version 0.1.0"),
        backend(Kind::Backend, "m4", 4, "api", 101).changed("unknown", "up").because("status 200"),
        backend(Kind::Backend, "m5", 5, "api", 101).changed("unknown", "up").because("status 200"),
        vrrp(Kind::Vrrp, 102).changed("backup", "active").because("no active router heard for 700 ms"),
        backend(Kind::Check, "m4", 4, "api", 9_000).became("failed").because("connection refused"),
        backend(Kind::Backend, "m4", 4, "api", 9_001)
            .changed("up", "down (dead)")
            .because("connection refused")
            .after(Duration::from_secs(8_900))
            .grave(Severity::Warn),
        backend(Kind::Reset, "m4", 4, "api", 9_002)
            .because("its connections were reset: it is dead")
            .with("connections", 12),
        backend(Kind::Backend, "m4", 4, "web", 9_003).changed("up", "down").because("no answer"),
        backend(Kind::Backend, "old", 9, "api", 9_004).changed("up", "down").because("no answer"),
    ]
}

fn status(text: &str) -> Status {
    serde_json::from_str(text).expect("a status")
}

/// What the daemon says at the end of the story.
fn daemon() -> Status {
    let backend = |name: &str, address: &str, more: &str| {
        format!(
            r#"{{"name":"{name}","address":"{address}:6443","weight":100,"effective_weight":100,"state":"up",
            "since":"1970-01-01T00:01:41.000Z","reason":"status 200","share":1.0,"next_hop":"02:00:00:00:00:05",
            "flows":{{"opened":9,"active":3}}{more}}}"#
        )
    };
    let m4 = backend("m4", "172.16.0.4", r#","resets":{"backend-dead":12}"#)
        .replace("\"up\"", "\"down\"")
        .replace("00:01:41", "02:30:01")
        .replace("status 200", "connection refused")
        .replace("\"share\":1.0", "\"down\":\"dead\",\"share\":0.0");
    let m5 = backend("m5", "172.16.0.5", "");
    let text = format!(
        r#"{{"node":"lb1","version":"0.1.0","pid":1,"uptime_seconds":9900,"problems":["no carrier on eth1"],
        "config":{{"path":"/x","loaded_at":"1970-01-01T00:01:40.000Z"}},
        "interface":{{"name":"eth0","xdp_mode":"native","mac":""}},
        "vrrp":[{{"name":"main","state":"active","since":"1970-01-01T00:01:42.000Z","reason":"no active router heard for 700 ms",
          "priority":100,"virtual_router_id":60,"version":3,"vips":["172.16.0.10/24"],"adverts_sent":1,"adverts_received":0,
          "discarded":{{}}}}],
        "services":[{{"name":"api","vip":"172.16.0.10","port":6443,"mode":"nat","balance":"maglev","usable":1,
          "backends":[{m4},{m5}]}}],
        "packets":{{"passed":{{}},"dropped":{{}},"transmitted":{{}}}},"flows":{{"max":1,"established":0,"half_open":0}}}}"#
    );
    status(&text)
}

struct Scene {
    config: Config,
    status: Option<Status>,
    events: Vec<Event>,
    since: Option<Duration>,
}

impl Scene {
    fn new(status: Option<Status>) -> Self {
        Self { config: two_services(), status, events: story(), since: None }
    }

    fn ask(&self, name: &str) -> Result<Explanation, UnknownName> {
        let known = Knowledge {
            config: &self.config,
            status: self.status.as_ref(),
            events: &self.events,
            now: at(NOW),
            since: self.since,
        };
        explain(name, &known)
    }

    fn titles(&self, name: &str) -> Vec<String> {
        self.ask(name).expect("known").subjects.into_iter().map(|subject| subject.title).collect()
    }

    fn text(&self, name: &str, width: usize) -> String {
        render(&self.ask(name).expect("known"), width, &|line, _| line.to_owned())
    }
}

#[test]
fn a_name_means_each_thing_that_has_it() {
    let scene = Scene::new(None);
    let both = ["backend m4 of api (172.16.0.4:6443)", "backend m4 of web (172.16.0.4:6443)"];
    for name in ["m4", "172.16.0.4", "172.16.0.4:6443"] {
        assert_eq!(scene.titles(name), both, "{name}");
    }
    let vip = ["VIP 172.16.0.10/24 of VRRP instance main"];
    for name in ["main", "172.16.0.10", "172.16.0.10/24"] {
        assert_eq!(scene.titles(name), vip, "{name}");
    }
    assert_eq!(scene.titles("api"), ["service api at 172.16.0.10:6443"]);
    assert_eq!(scene.titles("172.16.0.11"), ["service web at 172.16.0.11:6443"], "a VIP that nobody moves");
    assert_eq!(scene.titles("old"), ["old"], "one that has left the configuration");
    let unknown = scene.ask("m7").expect_err("nobody").to_string();
    assert!(
        unknown.starts_with(
            "nothing is called \"m7\"; there are VIP 172.16.0.10, VIP 172.16.0.11, VRRP instance main"
        ),
        "{unknown}"
    );
}

#[test]
fn a_dead_backend_s_story_is_told() {
    let scene = Scene::new(Some(daemon()));
    assert_eq!(
        scene.text("172.16.0.4:6443", 120).split("\n\nbackend m4 of web").next().expect("the first"),
        "backend m4 of api (172.16.0.4:6443)\n\
         It is down (dead) since 1970-01-01 02:30:01 UTC, 16 min 39 s ago: connection refused. It gets no new connections: it is\n\
         down. It has 3 connections at 172.16.0.10:6443. Reset since the daemon was started: 12 (backend dead).\n\
         \n\
         1970-01-01 (UTC)\n\
         \x20 00:01:40.000  xvip started: version 0.1.0\n\
         \x20 00:01:41.000  unknown -> up: status 200\n\
         \x20 02:30:00.000  check failed: connection refused\n\
         \x20 02:30:01.000  up -> down (dead): connection refused (up for 2 h 28 min)\n\
         \x20 02:30:02.000  its connections were reset: it is dead (connections 12)"
    );
}

#[test]
fn a_vip_and_a_service_say_where_they_are_and_who_serves() {
    let scene = Scene::new(Some(daemon()));
    let vip = scene.text("main", 200);
    assert!(
        vip.contains(
            "This node has 172.16.0.10/24 (VRRP instance main, priority 100) since 1970-01-01 00:01:42 UTC, 2 h 44 min ago: \
             no active router heard for 700 ms. Problem: no carrier on eth1.\n"
        ),
        "{vip}"
    );
    assert!(vip.contains("  00:01:42.000  backup -> active: no active router heard for 700 ms\n"), "{vip}");
    assert!(!vip.contains("m4"), "{vip}");
    let service = scene.text("api", 200);
    assert!(!service.contains("m5 gets none"), "{service}");
    assert!(
        service.contains("1 of its 2 backends get new connections: m5. m4 gets none: down since"),
        "{service}"
    );
    assert!(service.contains("backend m4 of api (172.16.0.4:6443): up -> down (dead)"), "{service}");
    assert!(service.contains("vrrp main: backup -> active") && !service.contains("of web"), "{service}");
}

#[test]
fn why_a_backend_gets_nothing_is_said_whatever_it_is() {
    let gets = |change: &dyn Fn(&mut BackendStatus)| {
        let mut status = daemon();
        change(&mut status.services[0].backends[1]);
        let explained = Scene::new(Some(status)).ask("m5").expect("known");
        explained.subjects[0].now[1].clone()
    };
    assert_eq!(gets(&|_| ()), "It gets 100.0 % of the new connections.");
    assert_eq!(
        gets(&|backend| backend.effective_weight = 10),
        "It gets 100.0 % of the new connections: its weight is 10 of 100 for now (slow start)."
    );
    let out = gets(&|backend| {
        backend.share = 0.0;
        backend.effective_weight = 0;
        backend.admin = Some(crate::status::AdminStatus {
            state: "drain".into(),
            maintenance: false,
            deadline: None,
            by: "root".into(),
            at: "1970-01-01T02:46:30.000Z".into(),
        });
    });
    assert_eq!(out, "It gets no new connections: root has drained it, 1970-01-01 02:46:30 UTC, 10 s ago.");
    let hidden = gets(&|backend| (backend.share, backend.next_hop) = (0.0, None));
    assert_eq!(hidden, "It gets no new connections: its Ethernet address is not known.");
    let own = gets(&|backend| (backend.share, backend.next_hop, backend.local) = (0.0, None, true));
    assert_eq!(own, "It gets no new connections.", "nothing is to be known where no frame is sent");
    assert_eq!(gets(&|backend| backend.share = 0.3), "It gets 30.0 % of the new connections.");
    let light = gets(&|backend| (backend.share, backend.effective_weight) = (0.0, 0));
    assert_eq!(light, "It gets no new connections: its weight is 0.");
}

#[test]
fn what_keeps_a_vip_away_is_told() {
    let mut status = daemon();
    let vrrp = &mut status.vrrp[0];
    let track = |name: &str, state: &str| crate::status::TrackStatus {
        name: name.to_owned(),
        weight: 0,
        state: state.to_owned(),
        since: "1970-01-01T02:46:30.000Z".to_owned(),
        reason: "no carrier".to_owned(),
    };
    (vrrp.released, vrrp.tracks) =
        (true, vec![track("interface eth1", "down"), track("interface eth2", "up")]);
    let text = Scene::new(Some(status)).text("main", 1000);
    assert!(text.contains("It was released: any other node may have the VIP"), "{text}");
    let down = "interface eth1 is down since 1970-01-01 02:46:30 UTC, 10 s ago: no carrier.";
    assert!(text.contains(down) && !text.contains("eth2"), "{text}");
    assert!(!Scene::new(Some(daemon())).text("main", 1000).contains("released"));
}

#[test]
fn what_belongs_to_a_time_line_is_in_it_and_named_where_it_must_be() {
    let mut scene = Scene::new(Some(daemon()));
    let backend =
        |kind, name: &str| Event::new(kind, name, at(9_500)).of_service("api").at_address("172.16.0.4:6443");
    scene.events.extend([
        backend(Kind::Order, "m4").became("drain").because("by root"),
        // As it was called before.
        backend(Kind::Check, "former").became("failed").because("no route"),
        Event::new(Kind::Problem, "lb1", at(9_501)).became("begins").because("the maps cannot be read"),
    ]);
    let (m4, m5, vip) = (scene.text("m4", 200), scene.text("m5", 200), scene.text("main", 200));
    assert!(m4.contains("  order: drain: by root\n") && m4.contains("check failed: no route"), "{m4}");
    assert!(!m5.contains("no route") && !m5.contains("the maps"), "{m5}");
    assert!(vip.contains("problem begins: the maps cannot be read") && !vip.contains("drain"), "{vip}");
    let service = scene.text("api", 200);
    assert!(service.contains("backend m4 of api (172.16.0.4:6443): order: drain: by root\n"), "{service}");
}

#[test]
fn without_a_daemon_its_last_words_are_told() {
    let mut scene = Scene::new(None);
    let text = scene.text("m5", 200);
    assert!(
        text.starts_with(
            "The daemon does not run: what follows is what was so last. It ended without a word; the last one before that was \
             1970-01-01 02:30:04 UTC, 16 min 36 s ago.\n\nbackend m5 of api (172.16.0.5:6443)\nIt was up since \
             1970-01-01 00:01:41 UTC, 2 h 44 min ago: status 200.\n"
        ),
        "{text}"
    );
    scene.events.push(Event::new(Kind::Daemon, "lb1", at(9_999)).became("stopped"));
    let explained = scene.ask("main").expect("known");
    assert_eq!(explained.daemon, "down");
    assert!(explained.note.expect("said").ends_with("It was stopped 1970-01-01 02:46:39 UTC, 1 s ago."));
    assert!(explained.subjects[0].now[0].starts_with("VRRP instance main was active since"));
    scene.events.push(Event::new(Kind::Daemon, "lb1", at(9_999)).became("left"));
    let left = scene.ask("main").expect("known").note.expect("said");
    assert!(
        left.contains("It left to a successor, which has told nothing, 1970-01-01 02:46:39 UTC"),
        "{left}"
    );
    scene.events.clear();
    let empty = scene.text("m5", 80);
    assert!(empty.contains("has left no history") && empty.contains("Nothing is known of it."), "{empty}");
    assert!(empty.ends_with("Nothing has happened to it, as far back as is remembered.\n"), "{empty}");
}

#[test]
fn since_leaves_out_what_is_older() {
    let mut scene = Scene::new(Some(daemon()));
    scene.since = Some(Duration::from_secs(999));
    let events = scene.ask("m4").expect("known").subjects.remove(0).events;
    assert_eq!(events.iter().map(|event| event.kind).collect::<Vec<_>>(), [Kind::Backend, Kind::Reset]);
}

#[test]
fn lines_fit_the_terminal() {
    let scene = Scene::new(Some(daemon()));
    for width in [60, 80, 200] {
        for name in ["m4", "main", "api"] {
            let text = scene.text(name, width);
            let longest = text.lines().map(|line| line.chars().count()).max().unwrap_or_default();
            assert!(longest <= width, "{longest} of {width}:\n{text}");
        }
    }
    // A width that nothing fits into is no reason to fail.
    assert!(!scene.text("m4", 0).is_empty());
}

#[test]
fn only_what_matters_is_marked() {
    let scene = Scene::new(Some(daemon()));
    let marked =
        render(&scene.ask("m4").expect("known"), 80, &|line, severity| format!("<{severity:?}>{line}"));
    assert!(
        marked.contains("  <Warn>up -> down (dead)") && marked.contains("  <Info>unknown -> up"),
        "{marked}"
    );
}
