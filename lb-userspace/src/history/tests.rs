use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use tracing::{
    Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt as _},
};

use super::{event::duration, *};
use crate::config::model::Topic;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn backend(name: &str, seconds: u64) -> Event {
    Event::new(Kind::Backend, name, at(seconds))
        .of_service("api")
        .at_address("172.16.0.4:6443")
        .changed("up", "down (dead)")
        .because("connection refused")
        .after(Duration::from_millis(303_000))
}

fn times(events: &[Event]) -> Vec<u64> {
    let seconds = |event: &Event| event.at.duration_since(SystemTime::UNIX_EPOCH).expect("after").as_secs();
    events.iter().map(seconds).collect()
}

#[test]
fn one_that_flaps_does_not_push_out_the_others() {
    let mut chronicle = Chronicle::default();
    chronicle.add(backend("quiet", 1));
    for n in 0..3 * KEPT as u64 {
        chronicle.add(backend("flapping", 10 + n));
    }
    assert_eq!(times(&chronicle.find(Some("quiet"), 10)), [1]);
    let flapping = chronicle.find(Some("flapping"), usize::MAX);
    assert_eq!(flapping.len(), KEPT, "as many as are kept of all");
    assert!(flapping.is_sorted_by_key(|event| event.at));
    let all = chronicle.find(None, usize::MAX);
    assert_eq!((all.len(), times(&all)[0]), (KEPT + 1, 1));
    assert_eq!(times(&chronicle.find(None, 2)), [3 * KEPT as u64 + 8, 3 * KEPT as u64 + 9], "the last ones");
    assert_eq!(chronicle.find(None, 0), []);
}

#[test]
fn of_each_its_last_ones_are_kept() {
    let mut chronicle = Chronicle::default();
    for n in 0..1000 {
        chronicle.add(backend("one", n));
    }
    for n in 0..KEPT as u64 {
        chronicle.add(backend("two", 2000 + n));
    }
    let one = chronicle.find(Some("one"), usize::MAX);
    assert_eq!((one.len(), times(&one)[0]), (KEPT_OF_EACH, 1000 - KEPT_OF_EACH as u64));
}

#[test]
fn subjects_are_bounded() {
    let mut chronicle = Chronicle::default();
    for n in 0..2 * KEPT {
        chronicle.add(backend(&format!("m{n}"), n as u64));
    }
    assert_eq!(chronicle.by_subject.len(), SUBJECTS);
    assert_eq!(chronicle.find(Some("m0"), 9), []);
    assert_eq!(chronicle.find(Some(&format!("m{}", 2 * KEPT - 1)), 9).len(), 1);
}

#[test]
fn who_was_told_of_lately_is_not_forgotten() {
    let mut chronicle = Chronicle::default();
    chronicle.add(backend("old", 1));
    for n in 1..SUBJECTS {
        chronicle.add(backend(&format!("m{n}"), 1 + n as u64));
    }
    chronicle.add(backend("old", 5000));
    chronicle.add(backend("new", 5001));
    let is_kept = |name: &str| chronicle.by_subject.contains_key(&backend(name, 1).subject());
    assert!(is_kept("old") && is_kept("new") && !is_kept("m1") && is_kept("m2"));
}

#[test]
fn what_was_told_is_on_the_disk_once_that_was_waited_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("history.jsonl");
    let teller = Teller::begin(path.clone());
    for n in 0..50 {
        teller.tell(backend("m1", n));
    }
    teller.finish(Duration::from_secs(60));
    let written = std::fs::read_to_string(path).expect("written");
    assert_eq!(written.lines().count(), 50, "{written}");
}

#[test]
fn a_backend_of_two_services_is_two_subjects() {
    let one = backend("m1", 1);
    let other = backend("m1", 2).of_service("konnectivity");
    assert_ne!(one.subject(), other.subject());
    for name in ["m1", "api", "172.16.0.4", "172.16.0.4:6443"] {
        assert!(one.concerns(name), "{name}");
    }
    for name in ["m", "konnectivity", "172.16.0.40", "6443", ""] {
        assert!(!one.concerns(name), "{name}");
    }
    let service = Event::new(Kind::Service, "api", at(1)).of_service("api");
    assert_eq!((service.subject().as_str(), one.subject().as_str()), ("api", "api/m1"));
    let vip = Event::new(Kind::Vrrp, "main", at(1)).of_instance("main").with_vips(&[[172, 16, 0, 10].into()]);
    assert!(vip.concerns("main") && vip.concerns("172.16.0.10") && !vip.concerns("172.16.0.1"));
}

#[test]
fn an_event_reads_as_a_sentence() {
    for (event, expected) in [
        (
            backend("m1", 1),
            "backend m1 of api (172.16.0.4:6443): up -> down (dead): connection refused (up for 5 min 3 s)",
        ),
        (
            Event::new(Kind::Reset, "m1", at(1))
                .of_service("api")
                .at_address("172.16.0.4:6443")
                .because("its backend is dead")
                .with("connections", 12)
                .with("took_ms", 7),
            "backend m1 of api (172.16.0.4:6443): its backend is dead (connections 12, took 7 ms)",
        ),
        (
            Event::new(Kind::Vrrp, "main", at(1))
                .changed("backup", "active")
                .because("active router silent for 640 ms")
                .after(Duration::from_secs(7300)),
            "vrrp main: backup -> active: active router silent for 640 ms (backup for 2 h 1 min)",
        ),
        (Event::new(Kind::Vip, "172.16.0.10", at(1)).became("here"), "VIP 172.16.0.10: here"),
        (
            Event::new(Kind::Service, "api", at(1)).of_service("api").changed("2", "1").with("configured", 3),
            "service api: backends in use 2 -> 1 (configured 3)",
        ),
        (Event::new(Kind::Daemon, "lb1", at(1)).became("started"), "xvip started"),
        (
            Event::new(Kind::Problem, "lb1", at(1)).became("begins").because("no carrier"),
            "problem begins: no carrier",
        ),
        (
            Event::new(Kind::Peer, "lb2", at(1)).at_address("10.0.0.3:7946").became("gets our flows"),
            "peer lb2 (10.0.0.3:7946) gets our flows",
        ),
    ] {
        assert_eq!(event.to_string(), expected);
    }
    for (ms, text) in [
        (0, "0 ms"),
        (9_999, "9999 ms"),
        (10_000, "10 s"),
        (3_599_999, "59 min 59 s"),
        (3_600_000, "1 h 0 min"),
        (90_000_000, "1 d 1 h"),
    ] {
        assert_eq!(duration(ms), text);
    }
}

#[test]
fn an_event_survives_its_form() {
    let event = backend("m1", 1).with("checks", 2).grave(Severity::Warn).with_vips(&[[10, 0, 0, 1].into()]);
    let text = serde_json::to_string(&event).expect("JSON");
    assert!(
        text.starts_with("{\"at\":\"1970-01-01T00:00:01.000Z\",\"kind\":\"backend\",\"severity\":\"warn\""),
        "{text}"
    );
    assert!(!text.contains('\n') && !text.contains("null"), "{text}");
    assert_eq!(serde_json::from_str::<Event>(&text).expect("read"), event);
}

#[test]
fn every_kind_is_written_as_it_is_called() {
    for kind in [
        Kind::Daemon,
        Kind::Vrrp,
        Kind::Priority,
        Kind::Owner,
        Kind::Vip,
        Kind::Track,
        Kind::Backend,
        Kind::Check,
        Kind::Service,
        Kind::Weight,
        Kind::Reset,
        Kind::Order,
        Kind::Rebalance,
        Kind::Reload,
        Kind::Problem,
        Kind::Peer,
        Kind::Drift,
        Kind::Rival,
    ] {
        assert_eq!(serde_json::to_value(kind).expect("JSON"), kind.name());
    }
}

#[test]
fn hooks_are_told_of_what_somebody_would_be_woken_for() {
    assert_eq!(backend("m1", 1).topic(), Some(Topic::Backend));
    let order = Event::new(Kind::Order, "m1", at(1));
    assert_eq!((order.topic(), order.of_service("api").topic()), (None, Some(Topic::Backend)));
    assert_eq!(Event::new(Kind::Check, "m1", at(1)).topic(), None);
    assert_eq!(Event::new(Kind::Rival, "10.0.0.1", at(1)).topic(), Some(Topic::Problem));
}

/// The fields of a log line.
#[derive(Default)]
struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

/// Keeps the level and the fields of the lines of this thread.
struct Lines(Arc<Mutex<Vec<(Level, Fields)>>>);

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        self.0.lock().expect("not poisoned").push((*event.metadata().level(), fields));
    }
}

/// What the log has of some events.
fn logged(events: &[Event]) -> Vec<(Level, BTreeMap<String, String>)> {
    let lines = Arc::default();
    let log = tracing_subscriber::registry().with(Lines(Arc::clone(&lines)));
    tracing::subscriber::with_default(log, || {
        let teller = Teller::default();
        events.iter().for_each(|event| teller.tell(event.clone()));
    });
    let lines = std::mem::take(&mut *lines.lock().expect("not poisoned"));
    lines.into_iter().map(|(level, Fields(fields))| (level, fields)).collect()
}

#[test]
fn the_log_has_each_field_of_an_event_and_none_that_it_has_not() {
    let full = backend("m1", 1)
        .of_instance("main")
        .with_vips(&[[10, 0, 0, 1].into(), [10, 0, 0, 2].into()])
        .with("checks", 2);
    let bare = Event::new(Kind::Daemon, "lb1", at(1));
    let levels = [Severity::Info, Severity::Warn, Severity::Error];
    let mut events: Vec<Event> = levels.map(|severity| full.clone().grave(severity)).to_vec();
    events.push(bare);
    let lines = logged(&events);
    let told: Vec<Level> = lines.iter().map(|(level, _)| *level).collect();
    assert_eq!(told, [Level::INFO, Level::WARN, Level::ERROR, Level::INFO]);
    // By name, as they are serialized: a new field is missed here. The level and the time are the line's own.
    let serialized = serde_json::to_value(&events[0]).expect("JSON");
    let mut names: Vec<&str> =
        serialized.as_object().expect("an object").keys().map(String::as_str).collect();
    names.retain(|name| !["at", "severity", "kind"].contains(name));
    names.extend(["event", "message"]);
    names.sort_unstable();
    for (_, fields) in &lines[..3] {
        assert_eq!(fields.keys().map(String::as_str).collect::<Vec<_>>(), names);
        for (name, value) in [
            ("event", "backend"),
            ("name", "m1"),
            ("service", "api"),
            ("instance", "main"),
            ("address", "172.16.0.4:6443"),
            ("vips", "10.0.0.1 10.0.0.2"),
            ("from", "up"),
            ("to", "down (dead)"),
            ("reason", "connection refused"),
            ("lasted_ms", "303000"),
            ("message", &events[0].to_string()),
        ] {
            assert_eq!(fields[name], value, "{name}");
        }
        assert!(fields["numbers"].contains("checks"), "{fields:?}");
    }
    assert_eq!(lines[3].1.keys().map(String::as_str).collect::<Vec<_>>(), ["event", "message", "name"]);
}
