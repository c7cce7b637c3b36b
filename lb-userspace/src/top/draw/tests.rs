//! Screens of two sizes.

use std::time::Duration;

use ratatui::{Terminal, backend::TestBackend};

use super::*;
use crate::{
    history::Kind,
    status::{DaemonState, WithoutDaemon, text::tests as known},
    top::state::Key,
};

fn look() -> Look {
    let now = humantime::parse_rfc3339("2026-01-02T03:09:05.678Z").expect("a time");
    Look { colours: Colours::Off, now }
}

/// Six seconds of a node with 4 + 4 new connections a second.
fn state() -> State {
    let mut state = State::default();
    for second in 0..6 {
        let mut status = known::status();
        for backend in &mut status.services[0].backends {
            backend.flows.opened += 4 * second;
            backend.flows.bytes_in += 2048 * second;
        }
        state.seen(Duration::from_secs(second), Ok(status));
    }
    state
}

/// The rows of a screen, without blanks at their ends.
fn screen(state: &State, look: &Look, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a screen in memory");
    terminal.draw(|frame| draw(frame, state, look)).expect("drawn in memory");
    let buffer = terminal.backend().buffer().clone();
    let row = |y| (0..width).map(|x| buffer[(x, y)].symbol().to_owned()).collect::<String>();
    (0..height).map(|y| row(y).trim_end().to_owned()).collect()
}

#[test]
fn eighty_columns_have_what_matters() {
    let rows = screen(&state(), &look(), 80, 24);
    let expected = [
        "xvip top  lb1  xvip 0.1.0  up 1m 1s  eth0 XDP native",
        "main ACTIVE 5m  172.16.0.10/24  prio 100  active router silent for 700 ms",
        "3 connections, 0 half-open | new 8.0/s | in 4.0 KiB/s | out 0 B/s          █████",
        "backend   state      for       share  active   new/s       in/s  new connections",
        "api  172.16.0.10:6443  nat, maglev  1 of 2 usable",
    ];
    assert_eq!(rows[..3], expected[..3], "{rows:#?}");
    assert!(rows[3].starts_with("backend   ") && rows[3].contains("out/s"), "{rows:#?}");
    assert_eq!(rows[4], expected[4]);
    assert!(rows[5].starts_with("m1  ") && rows[5].contains(" up ") && rows[5].contains("4.0"), "{rows:#?}");
    assert!(rows[6].starts_with("m2  ") && rows[6].contains("down dead"), "{rows:#?}");
    assert!(rows[5].ends_with("█████"), "{rows:#?}");
    assert!(rows[23].starts_with("d drain") && rows[23].ends_with("? help"), "{rows:#?}");
}

#[test]
fn two_hundred_columns_have_everything() {
    let rows = screen(&state(), &look(), 200, 50);
    for title in COLUMNS.map(|column| column.title) {
        assert!(rows[3].contains(title), "{title} in {}", rows[3]);
    }
    assert!(rows[6].contains("172.16.0.4:6443") && rows[6].contains("status 200"), "{rows:#?}");
}

#[test]
fn problems_and_events_are_below_the_newest_first() {
    let mut state = state();
    let mut status = known::status();
    status.problems.push("XDP is not attached".into());
    state.seen(Duration::from_secs(7), Ok(status));
    let event = |number: u64| {
        let at = look().now + Duration::from_secs(number);
        Event::new(Kind::Daemon, "lb1", at).became(format!("event {number}"))
    };
    state.tell_events((0..30).map(event).collect());
    let rows = screen(&state, &look(), 80, 24);
    let at = rows.iter().position(|row| row.contains("what is wrong")).expect("its title");
    assert_eq!(
        rows[at + 1..at + 4],
        ["problem: XDP is not attached", "03:09:34 xvip event 29", "03:09:33 xvip event 28"],
        "{rows:#?}"
    );
    assert!(at >= 24 - 1 - 8 - 1, "no more than a third of the screen: {rows:#?}");
    assert!(rows.iter().any(|row| row.starts_with("m2")), "the backends stay: {rows:#?}");
}

/// What does not fit says so, on every line that can be long.
#[test]
fn what_is_cut_off_ends_with_an_ellipsis() {
    let mut state = state();
    let mut status = known::status();
    status.vrrp[0].reason =
        "advertisements of 172.16.0.3 are not heard any more, and so it goes on and on".into();
    status.services[0].name = "a-service-whose-name-is-as-long-as-nobody-would-ever-call-one-of-them".into();
    state.seen(Duration::from_secs(7), Ok(status));
    let event = Event::new(Kind::Backend, "m1", look().now).of_service("api").because("x".repeat(63));
    let just = Event::new(Kind::Backend, "m1", look().now).of_service("api").because("ü".repeat(51));
    state.tell_events(vec![just, event]);
    let rows = screen(&state, &look(), 80, 24);
    let row = |begin: &str| rows.iter().find(|row| row.starts_with(begin)).expect("its row").as_str();
    for long in ["main ACTIVE", "a-service-whose", "03:09:05 backend m1 of api: xxx"] {
        assert!(row(long).ends_with('…'), "{rows:#?}");
        assert!((78..=80).contains(&row(long).chars().count()), "{rows:#?}");
    }
    assert_eq!(row("03:09:05 backend m1 of api: üüü").chars().count(), 79, "what fits is whole: {rows:#?}");
    let wide = screen(&state, &look(), 200, 50);
    assert!(!wide.iter().any(|row| row.contains('…')), "{wide:#?}");
}

#[test]
fn a_daemon_that_is_down_is_in_the_first_line() {
    let mut state = state();
    let without = WithoutDaemon {
        why: "nobody answers".into(),
        since: Some("2026-01-02T03:08:05.678Z".into()),
        forwarding: true,
        vips: Vec::new(),
    };
    let down = Status { daemon: DaemonState::Down, without_daemon: Some(without), ..known::status() };
    state.seen(Duration::from_secs(9), Ok(down));
    assert_eq!(
        screen(&state, &look(), 80, 24)[0],
        "xvip top  lb1  DAEMON DOWN for 1m: XDP goes on forwarding"
    );
    state.seen(Duration::from_secs(10), Err("permission denied".into()));
    assert_eq!(screen(&state, &look(), 80, 24)[0], "xvip top  lb1  NOT UP TO DATE: permission denied");
}

#[test]
fn the_selected_backend_is_in_sight_and_marked() {
    let mut status = known::status();
    let one = status.services[0].backends[0].clone();
    let backend = |number| BackendStatus { name: format!("b{number:02}"), ..one.clone() };
    status.services[0].backends = (0..40).map(backend).collect();
    let mut state = State::default();
    state.seen(Duration::ZERO, Ok(status));
    assert!(screen(&state, &look(), 80, 24).iter().any(|row| row.starts_with("b00")));
    state.press(Key::End);
    let rows = screen(&state, &look(), 80, 24);
    assert!(rows.iter().any(|row| row.starts_with("b39")), "{rows:#?}");
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).expect("a screen in memory");
    terminal.draw(|frame| draw(frame, &state, &look())).expect("drawn in memory");
    let y = rows.iter().position(|row| row.starts_with("b39")).expect("its row") as u16;
    let buffer = terminal.backend().buffer();
    assert!((0..80).all(|x| buffer[(x, y)].modifier.contains(Modifier::REVERSED)), "to the edge");
    assert!(!buffer[(0, y - 1)].modifier.contains(Modifier::REVERSED));
}

#[test]
fn questions_are_asked_in_the_last_line() {
    let mut state = state();
    state.press(Key::Char('d'));
    let foot = |state: &State| screen(state, &look(), 80, 24)[23].clone();
    assert_eq!(foot(&state), "y/n drain m1: no new connections; it keeps its 3 (service api)?");
    state.press(Key::Char('n'));
    assert_eq!(foot(&state), "nothing was changed");
    "/m".chars().for_each(|c| drop(state.press(Key::Char(c))));
    assert_eq!(foot(&state), "filter: m_");
    state.press(Key::Enter);
    assert!(foot(&state).starts_with("filter \"m\", Esc ends it"));
    "w5".chars().for_each(|c| drop(state.press(Key::Char(c))));
    assert_eq!(foot(&state), "weight of m1 (service api), 0 to 256 or default: 5_");
}

#[test]
fn colours_are_only_where_they_are_wanted() {
    let colours_of = |colours| {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).expect("a screen in memory");
        terminal.draw(|frame| draw(frame, &state(), &Look { colours, ..look() })).expect("drawn in memory");
        let cells = terminal.backend().buffer().content().to_vec();
        cells.iter().filter(|cell| cell.fg != Color::Reset).count()
    };
    assert_eq!(colours_of(Colours::Off), 0);
    assert!(colours_of(Colours::On) > 10);
}

#[test]
fn no_size_is_too_small() {
    let mut state = state();
    state.press(Key::Char('?'));
    for (width, height) in [(1, 1), (3, 2), (10, 5), (20, 3), (80, 4), (300, 2)] {
        assert_eq!(screen(&state, &look(), width, height).len(), usize::from(height));
        assert_eq!(screen(&State::default(), &look(), width, height).len(), usize::from(height));
    }
}
