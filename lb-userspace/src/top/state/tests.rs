//! Keys in, orders out.

use std::collections::BTreeSet;

use super::*;
use crate::status::text::tests as known;

/// Two backends of one service, and one VRRP instance.
fn state() -> State {
    let mut state = State::default();
    state.seen(Duration::ZERO, Ok(known::status()));
    state
}

fn press(state: &mut State, keys: &str) -> Vec<Action> {
    keys.chars()
        .filter_map(|c| {
            state.press(match c {
                '\r' => Key::Enter,
                '\x1b' => Key::Escape,
                '\x7f' => Key::Backspace,
                c => Key::Char(c),
            })
        })
        .collect()
}

fn selected(state: &State) -> String {
    match state.selected() {
        Some(Item::Instance(name)) => format!("vrrp {name}"),
        Some(Item::Backend { service, backend }) => format!("{service}/{backend}"),
        None => "nothing".to_owned(),
    }
}

fn backend(name: &str, action: BackendAction) -> Action {
    Action::CarryOut(Order::Backend { service: "api".into(), backend: name.into(), action })
}

#[test]
fn the_selection_moves_and_stops_at_the_ends() {
    let mut state = state();
    let mut seen = vec![selected(&state)];
    for key in ["j", "j", "k", "k", "k", "G", "g"] {
        press(&mut state, key);
        seen.push(selected(&state));
    }
    assert_eq!(
        seen,
        ["api/m1", "api/m2", "api/m2", "api/m1", "vrrp main", "vrrp main", "api/m2", "vrrp main"]
    );
}

#[test]
fn nothing_is_ordered_before_it_is_said_twice() {
    let drain = BackendAction::Drain { deadline_s: None };
    for (keys, expected) in [
        ("d", vec![]),
        ("dn", vec![]),
        ("d\x1b", vec![]),
        ("dq", vec![]),
        ("dxy", vec![backend("m1", drain)]),
        ("dy", vec![backend("m1", drain)]),
        ("jd\r", vec![backend("m2", drain)]),
        ("Dy", vec![backend("m1", BackendAction::Disable)]),
        ("ey", vec![backend("m1", BackendAction::Enable)]),
        ("w50\r", vec![backend("m1", BackendAction::Weight { weight: Some(50) })]),
        ("w5\x7f7\r", vec![backend("m1", BackendAction::Weight { weight: Some(7) })]),
        ("wdefault\r", vec![backend("m1", BackendAction::Weight { weight: None })]),
        ("w257\r", vec![]),
        ("w\r", vec![]),
        ("w50\x1b", vec![]),
        ("q", vec![Action::Quit]),
        ("dnq", vec![Action::Quit]),
    ] {
        let mut state = state();
        assert_eq!(press(&mut state, keys), expected, "{keys:?}");
        assert_eq!(state.mode() == &Mode::Watch, !matches!(keys, "d"), "{keys:?}: {:?}", state.mode());
    }
}

#[test]
fn what_is_about_to_happen_is_said_with_its_price() {
    let mut state = state();
    press(&mut state, "D");
    let Mode::Confirm { question, .. } = state.mode() else { panic!("{:?}", state.mode()) };
    assert_eq!(question, "disable m1: its 3 connections are RESET (service api)");
}

#[test]
fn the_vip_of_the_only_instance_moves_whatever_is_selected() {
    let release = Action::CarryOut(Order::Vip { instance: "main".into(), action: VipAction::Release });
    let acquire = Action::CarryOut(Order::Vip { instance: "main".into(), action: VipAction::Acquire });
    assert_eq!(press(&mut state(), "ryay"), [release, acquire]);
}

#[test]
fn with_two_instances_one_has_to_be_selected() {
    let mut status = known::status();
    let mut other = status.vrrp[0].clone();
    other.name = "other".into();
    status.vrrp.push(other);
    let mut state = State::default();
    state.seen(Duration::ZERO, Ok(status));
    assert_eq!(press(&mut state, "ry"), []);
    assert_eq!(state.message().map(|message| message.text.as_str()), None, "the next key clears it");
    press(&mut state, "r");
    assert_eq!(state.message().map(|message| message.text.as_str()), Some("select a VRRP instance first"));
    let order = Order::Vip { instance: "other".into(), action: VipAction::Release };
    assert_eq!(press(&mut state, "gjry"), [Action::CarryOut(order)]);
    // A VRRP instance is no backend.
    assert_eq!(press(&mut state, "dy"), []);
}

#[test]
fn without_a_daemon_nothing_is_ordered() {
    let down = Status { daemon: DaemonState::Down, ..known::status() };
    let mut state = state();
    state.seen(Duration::from_secs(1), Ok(down));
    for keys in ["dy", "Dy", "ey", "w5\r", "ry", "ay"] {
        assert_eq!(press(&mut state, keys), [], "{keys}");
    }
    press(&mut state, "d");
    assert_eq!(state.message().map(|message| message.well), Some(false));
    // What is known stays, also where nothing is heard at all; and it comes back.
    state.seen(Duration::from_secs(2), Err("permission denied".into()));
    assert_eq!((state.is_up(), state.failure(), state.items().len()), (false, Some("permission denied"), 3));
    state.seen(Duration::from_secs(3), Ok(known::status()));
    assert!(state.is_up() && press(&mut state, "dy").len() == 1);
}

#[test]
fn a_filter_holds_while_it_is_typed() {
    let mut state = state();
    press(&mut state, "/M2");
    assert_eq!((selected(&state).as_str(), state.items().len()), ("vrrp main", 2));
    press(&mut state, "\r");
    assert_eq!((state.filter(), state.mode()), ("M2", &Mode::Watch));
    press(&mut state, "\x1b");
    assert_eq!((state.filter(), state.items().len()), ("", 3));
    press(&mut state, "/down");
    let shown: BTreeSet<String> = state.items().iter().map(|item| format!("{item:?}")).collect();
    assert!(shown.iter().any(|item| item.contains("m2")) && !shown.iter().any(|item| item.contains("m1")));
    press(&mut state, "\x1b");
    assert_eq!(state.filter(), "");
}

#[test]
fn a_backend_that_is_gone_is_not_selected_any_more() {
    let mut state = state();
    press(&mut state, "G");
    let mut status = known::status();
    status.services[0].backends.pop();
    state.seen(Duration::from_secs(1), Ok(status));
    assert_eq!(selected(&state), "api/m1");
}

#[test]
fn rates_are_those_of_each_backend_and_of_all() {
    let mut state = state();
    let mut status = known::status();
    status.services[0].backends[0].flows.opened += 10;
    status.services[0].backends[1].flows.opened += 20;
    state.seen(Duration::from_secs(1), Ok(status));
    assert_eq!(state.rates("api", "m1").map(|rates| rates.opened.per_second()), Some(10.0));
    assert_eq!(state.total().opened.per_second(), 30.0);
    assert_eq!(state.rates("api", "m9"), None);
}

#[test]
fn ctrl_c_leaves_in_every_mode() {
    for keys in ["", "d", "w", "/", "?"] {
        let mut state = state();
        press(&mut state, keys);
        assert_eq!(state.press(Key::Interrupt), Some(Action::Quit), "{keys}");
    }
}
