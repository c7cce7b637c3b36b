//! What the page says, to whom, and that nothing in it is more than text.

use super::*;
use crate::{
    control::protocol::{PlannedBackend, RebalancePlan},
    history::{Event, Kind, Severity},
    status::{AdminStatus, HttpStatus, ProcessStatus, Status, WeightOverrideStatus, text::tests::status},
    web::order::What,
};

/// What a hostile peer, backend or file could bring into a status.
const HOSTILE: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;";

fn seen() -> Seen {
    let at = humantime::parse_rfc3339("2026-01-02T04:00:00Z").expect("a time");
    let event = Event::new(Kind::Backend, "master1", at).of_service("kube-apiserver").changed("up", "down");
    Seen { at, status: status(), events: vec![event.because("connection refused").grave(Severity::Warn)] }
}

const fn view(role: Option<Role>) -> View<'static> {
    View {
        base: "/stats",
        user: match role {
            Some(role) => Some(("ann", role)),
            None => None,
        },
        token: match role {
            Some(_) => Some("t0ken"),
            None => None,
        },
        may_act: matches!(role, Some(Role::Admin)),
        users: true,
        version: true,
    }
}

fn page(role: Option<Role>) -> String {
    overview(&view(role), &seen(), &Samples::default(), None)
}

#[test]
fn who_may_act_finds_a_way_to_and_nobody_else() {
    let (admin, viewer, nobody) = (page(Some(Role::Admin)), page(Some(Role::Viewer)), page(None));
    for what in ["drain", "disable", "weight"] {
        let link = format!("/stats/order?what={what}&amp;service=");
        assert!(admin.contains(&link), "{link} in {admin}");
    }
    for other in [&viewer, &nobody] {
        assert!(!other.contains("/order"), "{other}");
    }
    assert!(viewer.contains("Log out") && !viewer.contains(">Log in<"));
    assert!(nobody.contains(">Log in<") && !nobody.contains("Log out"));
    assert!(viewer.contains("value=\"t0ken\"") && !nobody.contains("t0ken"));
}

#[test]
fn the_state_is_told_in_words() {
    let mut seen = seen();
    seen.status.problems = vec!["no carrier on eth0".to_owned()];
    let backend = &mut seen.status.services[0].backends[0];
    backend.state = "down".to_owned();
    backend.down = Some("dead".to_owned());
    backend.reason = "connection refused".to_owned();
    backend.admin = Some(AdminStatus {
        state: "drain".to_owned(),
        maintenance: false,
        deadline: None,
        by: "web:ann".to_owned(),
        at: "2026-01-02T03:59:00Z".to_owned(),
    });
    let name = backend.name.clone();
    let page = overview(&view(None), &seen, &Samples::default(), None);
    for part in [
        "no carrier on eth0",
        "1 problem<",
        "down (dead), draining",
        "connection refused",
        "By web:ann, <time datetime=\"2026-01-02T03:59:00Z\" title=\"2026-01-02T03:59:00Z\">1m</time> ago.",
        "backend master1 of kube-apiserver: up -&gt; down: connection refused",
        &name,
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }
    assert!(page.find("no carrier on eth0") < page.find("Virtual IPs"), "problems come first");
}

#[test]
fn what_is_lost_is_said_at_the_top() {
    let head = |change: &dyn Fn(&mut Status)| {
        let mut seen = seen();
        let service = &mut seen.status.services[0];
        let usual = service.backends[0].clone();
        service.backends = (4..7)
            .map(|host| {
                let mut backend = usual.clone();
                backend.address = format!("172.16.0.{host}:6443");
                backend
            })
            .collect();
        service.usable = 3;
        let mut twin = service.clone();
        twin.name = "web".to_owned();
        seen.status.services.push(twin);
        change(&mut seen.status);
        node::head(&seen).into_string()
    };
    let well = head(&|_| ());
    assert!(well.contains("problems good") && well.matches("class=\"badge").count() == 1, "{well}");
    let one_host = head(&|status| {
        for service in &mut status.services {
            service.backends[1].state = "down".to_owned();
        }
    });
    assert!(one_host.contains("problems warn") && one_host.contains(" 1 backend down<"), "{one_host}");
    let two = head(&|status| {
        status.services[0].backends[1].state = "down".to_owned();
        status.services[1].backends[2].state = "down".to_owned();
        status.services[1].usable = 0;
    });
    assert!(two.contains(" 2 backends down<") && two.contains(" web: no backend<"), "{two}");
    let both = head(&|status| {
        status.services[0].backends[1].state = "down".to_owned();
        status.problems.push("no carrier".to_owned());
    });
    assert!(both.contains("problems bad") && both.contains("1 problem<"), "{both}");
}

#[test]
fn a_certificate_that_ends_soon_is_a_warning() {
    let says = |end: &str| validity(&seen(), end).into_string();
    assert!(
        says("2026-02-02T04:00:00Z").contains("certificate until <time")
            && says("2026-02-02T04:00:00Z").contains(">2026-02-02<")
    );
    let soon = says("2026-01-31T04:00:00Z");
    assert!(soon.contains("badge warn") && soon.contains("certificate ends in 29d"), "{soon}");
    for ended in ["2026-01-02T04:00:00Z", "2025-01-01T00:00:00Z"] {
        assert!(says(ended).contains("badge bad") && says(ended).contains("has ended"), "{}", says(ended));
    }
    let page = {
        let mut seen = seen();
        seen.status.services[0].backends[0].certificate_not_after = Some("2026-01-31T04:00:00Z".to_owned());
        let end = Some("2026-01-05T04:00:00Z".to_owned());
        seen.status.http = Some(HttpStatus { certificate_not_after: end, ..HttpStatus::default() });
        overview(&view(None), &seen, &Samples::default(), None)
    };
    assert!(page.contains("ends in 29d") && page.contains("ends in 3d"), "{page}");
}

#[test]
fn figures_have_their_units() {
    let mut seen = seen();
    let status = &mut seen.status;
    status.process = Some(ProcessStatus {
        cpu_seconds: 75.9,
        resident_bytes: 5 << 20,
        open_files: 41,
        ..ProcessStatus::default()
    });
    let backend = &mut status.services[0].backends[0];
    backend.pace.rate = 17;
    backend.admin = Some(AdminStatus {
        state: "drain".to_owned(),
        deadline: Some("2026-01-02T05:06:07.123Z".to_owned()),
        ..AdminStatus::default()
    });
    backend.checks.add(Duration::from_micros(1_260), None);
    status.services[0].backends[1].checks.add(Duration::from_micros(250_400), None);
    status.vrrp[0].lateness.add(Duration::from_micros(300));
    let mut samples = Samples::default();
    for active in [3, 9, 5] {
        status.services[0].backends[0].flows.active = active;
        samples.take(status);
    }
    let page = overview(&view(None), &seen, &samples, None);
    for part in [
        "17 new/s",
        "last check took 1.3 ms",
        "last check took 250 ms",
        "at most 9",
        "1m 15s of CPU, 5.0 MiB in RAM, 41 open files",
        ">01-02 05:06:07 UTC</time>",
        "times in UTC",
        "this node owns it<",
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }
    seen.status.vrrp[0].vips.push("172.16.0.11/24".to_owned());
    assert!(overview(&view(None), &seen, &samples, None).contains("this node owns them<"));
}

#[test]
fn a_version_is_told_only_where_it_may_be() {
    let mut view = view(None);
    assert!(live(&view, &seen(), &Samples::default()).into_string().contains(&seen().status.version));
    view.version = false;
    let page = overview(&view, &seen(), &Samples::default(), None);
    assert!(!page.contains(&format!("xvip {}", seen().status.version)), "{page}");
}

/// Every text that comes from somewhere else, made hostile.
fn poisoned() -> Seen {
    let mut seen = seen();
    let poison = |text: &mut String| HOSTILE.clone_into(text);
    let status = &mut seen.status;
    poison(&mut status.node);
    status.problems = vec![HOSTILE.to_owned()];
    status.config.path = HOSTILE.into();
    status.config.last_reload_error = Some(HOSTILE.to_owned());
    for vrrp in &mut status.vrrp {
        for text in [&mut vrrp.name, &mut vrrp.state, &mut vrrp.reason, &mut vrrp.since] {
            poison(text);
        }
        vrrp.vips = vec![HOSTILE.to_owned()];
        vrrp.blocked = Some(HOSTILE.to_owned());
        vrrp.sync_group = Some(HOSTILE.to_owned());
        vrrp.discarded.insert(HOSTILE.to_owned(), 1);
        vrrp.send_errors = 1;
        vrrp.send_error = Some(HOSTILE.to_owned());
    }
    for service in &mut status.services {
        for text in [&mut service.name, &mut service.vip, &mut service.mode, &mut service.balance] {
            poison(text);
        }
        for backend in &mut service.backends {
            for text in [&mut backend.name, &mut backend.address, &mut backend.state, &mut backend.reason] {
                poison(text);
            }
            backend.admin = Some(AdminStatus {
                state: "drain".to_owned(),
                maintenance: false,
                deadline: Some(HOSTILE.to_owned()),
                by: HOSTILE.to_owned(),
                at: HOSTILE.to_owned(),
            });
            backend.certificate_not_after = Some(HOSTILE.to_owned());
            backend.weight_override =
                Some(WeightOverrideStatus { weight: 1, by: HOSTILE.to_owned(), at: HOSTILE.to_owned() });
        }
    }
    status.http =
        Some(HttpStatus { certificate_not_after: Some(HOSTILE.to_owned()), ..HttpStatus::default() });
    status.packets.dropped.insert(HOSTILE.to_owned(), 7);
    for interface in &mut status.interfaces {
        poison(&mut interface.name);
    }
    seen.events = vec![Event::new(Kind::Problem, HOSTILE, seen.at).because(HOSTILE)];
    seen
}

#[test]
fn whatever_is_in_a_name_stays_text() {
    let seen = poisoned();
    let admin = view(Some(Role::Admin));
    let admin = View { user: Some((HOSTILE, Role::Admin)), token: Some(HOSTILE), ..admin };
    let message = Message { lines: vec![HOSTILE.to_owned()], is_error: true };
    let plan = RebalanceAnswer {
        plans: vec![RebalancePlan {
            service: HOSTILE.to_owned(),
            note: Some(HOSTILE.to_owned()),
            backends: vec![PlannedBackend {
                name: HOSTILE.to_owned(),
                left_out: Some(HOSTILE.to_owned()),
                ..PlannedBackend::default()
            }],
            ..RebalancePlan::default()
        }],
        error: Some(HOSTILE.to_owned()),
    };
    let mut pages = vec![
        overview(&admin, &seen, &Samples::default(), Some(&message)),
        login(&admin, Some(HOSTILE)),
        refused(&admin, HOSTILE),
    ];
    for what in [What::Drain, What::Weight, What::Release, What::Rebalance] {
        let subject = Subject { what, service: HOSTILE.to_owned(), name: HOSTILE.to_owned() };
        pages.push(confirm(&admin, &subject, &seen, &plan));
    }
    for page in pages {
        assert!(page.contains("&lt;script&gt;alert(1)"), "the text is there: {page}");
        assert!(!page.contains("<script>") && !page.contains("<img"), "{page}");
        // Every attribute is in double quotes, and none ends early.
        assert!(!page.contains("\"'>"), "{page}");
    }
}

/// The policy forbids all that is inline.
#[test]
fn nothing_is_inline_and_nothing_comes_from_elsewhere() {
    let admin = view(Some(Role::Admin));
    let subject =
        Subject { what: What::Drain, service: "kube-apiserver".to_owned(), name: "master1".to_owned() };
    for page in [
        page(Some(Role::Admin)),
        login(&admin, None),
        confirm(&admin, &subject, &seen(), &RebalanceAnswer::default()),
    ] {
        for forbidden in ["style=", "onclick", "javascript:", "http://", "https://", "src=\"//"] {
            assert!(!page.contains(forbidden), "{forbidden} in {page}");
        }
        assert_eq!(
            page.matches("<script").count(),
            page.matches("<script src=\"/stats/script.js\" defer>").count()
        );
    }
}

/// Whoever cannot see the colours, or uses no mouse, has a name for every control.
#[test]
fn every_control_has_a_name() {
    let admin = view(Some(Role::Admin));
    let subject =
        Subject { what: What::Weight, service: "kube-apiserver".to_owned(), name: "master1".to_owned() };
    for page in [login(&admin, None), confirm(&admin, &subject, &seen(), &RebalanceAnswer::default())] {
        for input in page.split("<input ").skip(1).filter(|input| !input.starts_with("type=\"hidden\"")) {
            let id = input.split("id=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("an id");
            assert!(page.contains(&format!("<label for=\"{id}\">")), "{id} in {page}");
        }
    }
    let overview = page(Some(Role::Admin));
    for link in overview.split("<a class=\"button\"").skip(1) {
        let tag = link.split('>').next().unwrap_or_default();
        assert!(tag.contains("aria-label=\""), "{tag}");
    }
    for drawing in overview.split("<svg").skip(1) {
        assert!(
            drawing.split('>').next().unwrap_or_default().contains("role=\"img\" aria-label=\""),
            "{drawing}"
        );
    }
}

#[test]
fn a_plan_says_what_it_would_do_and_whether_there_is_anything_to_do() {
    let admin = view(Some(Role::Admin));
    let subject =
        Subject { what: What::Rebalance, service: "kube-apiserver".to_owned(), name: String::new() };
    let plan = |resets, note: Option<&str>| RebalanceAnswer {
        plans: vec![RebalancePlan {
            service: "kube-apiserver".to_owned(),
            resets,
            rate: 10,
            margin: 10,
            note: note.map(str::to_owned),
            ..RebalancePlan::default()
        }],
        error: None,
    };
    let page = confirm(&admin, &subject, &seen(), &plan(40, None));
    assert!(
        page.contains("40 connections to reset, 10 each second")
            && page.contains("type=\"submit\">Rebalance"),
        "{page}"
    );
    let page = confirm(&admin, &subject, &seen(), &plan(0, Some("everybody is within the margin")));
    assert!(
        page.contains("everybody is within the margin")
            && !page.contains(">Rebalance kube-apiserver</button>"),
        "{page}"
    );
}

#[test]
fn whoever_takes_out_the_last_backend_is_warned() {
    let admin = view(Some(Role::Admin));
    let mut seen = seen();
    let service = &mut seen.status.services[0];
    let warning = "No other backend of";
    let subject = |what, name: &str| Subject { what, service: service.name.clone(), name: name.to_owned() };
    let first = service.backends[0].name.clone();
    let (drain, disable, enable) =
        (subject(What::Drain, &first), subject(What::Disable, &first), subject(What::Enable, &first));
    for (place, backend) in service.backends.iter_mut().enumerate() {
        backend.share = if place < 2 { 0.5 } else { 0.0 };
    }
    let said = |subject: &Subject, seen: &Seen| confirm(&admin, subject, seen, &RebalanceAnswer::default());
    assert!(!said(&drain, &seen).contains(warning));
    seen.status.services[0].backends[1].share = 0.0;
    assert!(said(&drain, &seen).contains(warning) && said(&disable, &seen).contains(warning));
    assert!(!said(&enable, &seen).contains(warning));
}

#[test]
fn what_is_down_is_loud_and_who_is_active_has_nothing_to_acquire() {
    let admin = view(Some(Role::Admin));
    let mut seen = seen();
    for backend in seen.status.services.iter_mut().flat_map(|service| &mut service.backends) {
        backend.state = "up".to_owned();
    }
    let page = |seen: &Seen| overview(&admin, seen, &Samples::default(), None);
    let loud = |page: &str| page.matches("badge bad").count();
    let before = page(&seen);
    seen.status.services[0].backends[0].state = "down".to_owned();
    assert_eq!(loud(&page(&seen)), loud(&before) + 1);

    let acquires = |seen: &Seen| page(seen).matches("what=acquire").count();
    for vrrp in &mut seen.status.vrrp {
        (vrrp.state, vrrp.released) = ("active".to_owned(), false);
    }
    assert_eq!(acquires(&seen), 0);
    seen.status.vrrp[0].state = "backup".to_owned();
    assert_eq!(acquires(&seen), 1);
}
