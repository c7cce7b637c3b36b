use std::time::{Duration, SystemTime};

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
