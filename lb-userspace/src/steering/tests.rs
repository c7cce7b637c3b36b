use proptest::prelude::*;

use super::*;
use crate::desired::tests::{config, service};

/// Two services with three backends each of the same names, `backend4` to `backend6` where the fixture names them so.
fn two() -> Config {
    let mut config = config(vec![
        service("api", [172, 16, 0, 10].into(), &[4, 5, 6]),
        service("etcd", [172, 16, 0, 11].into(), &[4, 5]),
    ]);
    for service in &mut config.services {
        for (n, backend) in service.backends.iter_mut().enumerate() {
            backend.name = format!("m{}", n + 1);
        }
    }
    config
}

fn order(backend: &str, service: Option<&str>, action: BackendAction) -> BackendOrder {
    BackendOrder { backend: backend.to_owned(), service: service.map(str::to_owned), action, by: None }
}

fn said(seconds: u64) -> Said {
    Said { by: "root".to_owned(), at: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) }
}

fn of<'a>(overrides: &'a Overrides, config: &Config, service: usize, backend: usize) -> Option<&'a Override> {
    let service = &config.services[service];
    overrides.of(service, &service.backends[backend])
}

#[test]
fn a_name_means_every_backend_that_has_it_and_with_a_service_one() {
    let config = two();
    let mut overrides = Overrides::default();
    let both = overrides.apply(&order("m1", None, BackendAction::Disable), &config, &said(1)).expect("known");
    assert_eq!(
        both.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["m1 of service api", "m1 of service etcd"]
    );
    let one = order("m2", Some("etcd"), BackendAction::Drain { deadline_s: Some(300) });
    assert_eq!(overrides.apply(&one, &config, &said(1)).expect("known").len(), 1);
    assert!(of(&overrides, &config, 0, 0).is_some_and(Override::is_out));
    assert_eq!(of(&overrides, &config, 0, 1), None);
    let drained = of(&overrides, &config, 1, 1).and_then(|one| one.standing.as_ref()).expect("drained");
    let deadline = said(301).at;
    assert_eq!(drained, &(Standing::Drain { deadline: Some(deadline) }, said(1)));
    assert_eq!(overrides.next_deadline(said(1).at), Some(deadline));
    assert_eq!(overrides.next_deadline(deadline), None);
    assert!(!drained.0.resets_at(said(300).at) && drained.0.resets_at(deadline));
    assert!(Standing::Disabled.resets_at(said(0).at));
    assert!(!Standing::Maintenance.resets_at(said(u64::from(u32::MAX)).at), "as in HAProxy");
    assert!(!Standing::Drain { deadline: None }.resets_at(deadline));
}

#[test]
fn enable_ends_the_one_and_default_the_other() {
    let config = two();
    let mut overrides = Overrides::default();
    let mut apply =
        |action| overrides.apply(&order("m3", None, action), &config, &said(1)).map(|_| overrides.clone());
    let three = |overrides: &Overrides| of(overrides, &config, 0, 2).cloned();
    let now = apply(BackendAction::Weight { weight: Some(7) }).expect("done");
    assert_eq!(three(&now).map(|one| (one.is_out(), one.weight(100))), Some((false, 7)));
    let now = apply(BackendAction::Drain { deadline_s: None }).expect("done");
    assert_eq!(three(&now).map(|one| (one.is_out(), one.weight(100))), Some((true, 7)));
    let now = apply(BackendAction::Enable).expect("done");
    assert_eq!(three(&now).map(|one| (one.is_out(), one.weight(100))), Some((false, 7)));
    let now = apply(BackendAction::Weight { weight: None }).expect("done");
    assert!(now.is_empty(), "nothing is left");
    let now = apply(BackendAction::Maintain).expect("done");
    let standing = three(&now).and_then(|one| one.standing).map(|(standing, _)| standing);
    assert_eq!(standing, Some(Standing::Maintenance));
    assert!(three(&now).is_some_and(|one| one.is_out()), "it gets no new connections");
    assert!(apply(BackendAction::Enable).expect("done").is_empty());
    assert!(apply(BackendAction::Enable).expect("it was not out").is_empty());
    assert_eq!(apply(BackendAction::Weight { weight: Some(257) }), Err(OrderError::Weight(257)));
    assert_eq!(apply(BackendAction::Drain { deadline_s: Some(u64::MAX) }), Err(OrderError::Deadline));
}

#[test]
fn an_unknown_name_is_told_what_there_is() {
    let config = two();
    let mut overrides = Overrides::default();
    for (backend, service, expected) in [
        (
            "m9",
            None,
            "no backend is called \"m9\"; there are: m1, m2, m3 (service api); m1, m2 (service etcd)",
        ),
        (
            "m3",
            Some("etcd"),
            "no backend is called \"m3\" in service \"etcd\"; there are: m1, m2 (service etcd)",
        ),
        ("m1", Some("web"), "no service is called \"web\"; there are: api, etcd"),
    ] {
        let error = overrides.apply(&order(backend, service, BackendAction::Disable), &config, &said(1));
        assert_eq!(error.expect_err("unknown").to_string(), expected);
    }
    assert_eq!(overrides, Overrides::default());
}

#[test]
fn what_is_of_nobody_is_kept_and_holds_again() {
    let config = two();
    let mut overrides = Overrides::default();
    overrides.apply(&order("m2", None, BackendAction::Disable), &config, &said(1)).expect("known");
    let mut without = two();
    without.services.truncate(1);
    without.services[0].backends.remove(1);
    let unknown: Vec<String> = overrides.unknown(&without).iter().map(ToString::to_string).collect();
    assert_eq!(unknown, ["m2 of service api", "m2 of service etcd"]);
    overrides.apply(&order("m1", None, BackendAction::Disable), &without, &said(2)).expect("known");
    let read = Overrides::from_json(&overrides.to_json()).expect("ours");
    assert_eq!(read, overrides);
    assert!(read.unknown(&config).is_empty());
    assert!(of(&read, &config, 0, 1).is_some_and(Override::is_out));
}

/// The documented form. A change that this test notices needs another version.
const DOCUMENTED: &str = r#"{
  "version": 1,
  "overrides": [
    {
      "service": "api",
      "backend": "m1",
      "state": {
        "kind": "drain",
        "deadline": "2026-01-02T03:09:05.678Z",
        "by": "root (alice)",
        "at": "2026-01-02T03:04:05.678Z"
      }
    },
    {
      "service": "api",
      "backend": "m2",
      "weight": {
        "value": 50,
        "by": "root",
        "at": "2026-01-02T03:04:05.678Z"
      }
    },
    {
      "service": "etcd",
      "backend": "m1",
      "state": {
        "kind": "disabled",
        "by": "root",
        "at": "2026-01-02T03:04:05.678Z"
      }
    }
  ]
}
"#;

#[test]
fn the_file_is_as_documented() {
    let config = two();
    let at = humantime::parse_rfc3339("2026-01-02T03:04:05.678Z").expect("a time");
    let root = Said { by: "root".to_owned(), at };
    let alice = Said { by: "root (alice)".to_owned(), at };
    let mut overrides = Overrides::default();
    for (one, said) in [
        (order("m1", Some("api"), BackendAction::Drain { deadline_s: Some(300) }), &alice),
        (order("m2", Some("api"), BackendAction::Weight { weight: Some(50) }), &root),
        (order("m1", Some("etcd"), BackendAction::Disable), &root),
    ] {
        overrides.apply(&one, &config, said).expect("known");
    }
    assert_eq!(overrides.to_json(), DOCUMENTED);
    assert_eq!(Overrides::from_json(DOCUMENTED).expect("documented"), overrides);
}

#[test]
fn what_is_no_state_file_is_refused_and_never_a_panic() {
    for (from, to, expected) in [
        (DOCUMENTED, "", "not a state file"),
        (DOCUMENTED, "null", "not a state file"),
        (DOCUMENTED, "{\"version\": 1}", "not a state file"),
        (DOCUMENTED, "{\"version\": 2, \"backends\": {}}", "it has version 2"),
        ("\"version\": 1", "\"version\": -1", "not a state file"),
        ("disabled", "asleep", "m1 of service etcd: \"asleep\" is no state"),
        ("03:09:05", "33:09:05", "m1 of service api: \"2026-01-02T33"),
        ("\"value\": 50", "\"value\": 257", "m2 of service api: a weight is 0 to 256"),
        ("\"value\": 50", "\"value\": 70000", "not a state file"),
        ("\"kind\": \"disabled\"", "\"kind\": \"disabled\", \"deadline\": \"x\"", "is no state"),
    ] {
        let error = Overrides::from_json(&DOCUMENTED.replace(from, to)).expect_err(to);
        assert!(error.to_string().contains(expected), "{to}: {error}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_file_or_refused(text in "\\PC*", cut in 0..600usize, with in "\\PC{0,3}") {
        let _ = Overrides::from_json(&text);
        let head: String = DOCUMENTED.chars().take(cut).collect();
        let tail: String = DOCUMENTED.chars().skip(cut + 1).collect();
        let _ = Overrides::from_json(&format!("{head}{with}{tail}"));
    }

    #[test]
    fn what_was_said_survives_the_file(
        steps in proptest::collection::vec((0..4usize, 0..3usize, 0..6u8, 0..400u32), 0..30),
    ) {
        let config = two();
        let mut overrides = Overrides::default();
        for (which, service, action, number) in steps {
            let action = match action {
                0 => BackendAction::Disable,
                1 => BackendAction::Enable,
                2 => BackendAction::Drain { deadline_s: (number > 100).then_some(number.into()) },
                3 => BackendAction::Weight { weight: Some(number) },
                4 => BackendAction::Maintain,
                _ => BackendAction::Weight { weight: None },
            };
            let service = [None, Some("api"), Some("etcd")][service];
            let before = overrides.clone();
            let applied = overrides.apply(&order(&format!("m{which}"), service, action), &config, &said(number.into()));
            if applied.is_err() {
                prop_assert_eq!(&overrides, &before);
            }
            prop_assert_eq!(&Overrides::from_json(&overrides.to_json()).expect("ours"), &overrides);
        }
    }
}
