use serde_json::json;

use super::*;

const MINUTE: u64 = 60_000;
/// 2026-01-02T03:00:00Z
const BASE: u64 = 1_767_322_800_000;

fn line(record: &str, client: u16, nat_port: u16, backend: u8, opened: u64, at: u64) -> String {
    let mut line = json!({
        "time": time_text(at), "record": record, "client": format!("10.0.0.7:{client}"), "service": "api",
        "vip": "172.16.0.10:6443", "backend": format!("m{backend}"), "backend_address": format!("172.16.0.{backend}:6443"),
        "nat_port": nat_port, "nat_address": "172.16.0.10", "via": "handshake", "opened": time_text(opened),
        "flow_clock": opened / 1000 % 1_000_000,
    });
    if record == "end" {
        line["ended"] = "closed".into();
        line["duration_ms"] = (at - opened).into();
    }
    line.to_string()
}

fn question(nat_port: u16, at: u64) -> Question {
    Question { nat_port, at: Moment { from: at, to: at + 1000 }, slack: 1000, backend: None }
}

fn flow(client: u16, nat_port: u16, backend: u8, opened: u64) -> LiveFlow {
    LiveFlow {
        client: ([10, 0, 0, 7], client).into(),
        vip: ([172, 16, 0, 10], 6443).into(),
        service: "api".to_owned(),
        backend: format!("m{backend}"),
        backend_address: ([172, 16, 0, backend], 6443).into(),
        nat_port,
        opened,
    }
}

/// Port 5000: of client 1 at m4 from minute 0 to 10, of client 2 at m4 from 20 on, of client 3 at m5 from 5 to 25; client 4
/// has 50001; client 5 begins at minute 8, and the log does not say when it ends.
fn log() -> Vec<String> {
    let at = |minute: u64| BASE + minute * MINUTE;
    vec![
        line("start", 1, 5000, 4, at(0), at(0)),
        line("start", 4, 50_001, 4, at(0), at(0)),
        line("start", 3, 5000, 5, at(5), at(5)),
        line("start", 5, 5000, 6, at(8), at(8)),
        "{\"time\": half".to_owned(),
        line("end", 1, 5000, 4, at(0), at(10)),
        line("start", 2, 5000, 4, at(20), at(20)),
        line("end", 3, 5000, 5, at(5), at(25)),
    ]
}

fn ask(question: Question, flows: &[LiveFlow]) -> Answer {
    let mut search = Search::new(question);
    log().iter().for_each(|line| search.line(line.as_bytes()));
    search.finish(flows, BASE + 30 * MINUTE)
}

fn clients(answer: &Answer) -> Vec<(u16, u64)> {
    answer.connections.iter().map(|found| (found.client.port(), found.off_by_ms)).collect()
}

#[test]
fn all_who_had_the_port_then_and_nobody_else() {
    let flows = [flow(2, 5000, 4, BASE + 20 * MINUTE), flow(9, 5000, 7, BASE + 29 * MINUTE)];
    let at = |minute: u64| ask(question(5000, BASE + minute * MINUTE), &flows);
    assert_eq!(clients(&at(1)), [(1, 0)]);
    assert_eq!(clients(&at(7)), [(1, 0), (3, 0)]);
    assert_eq!(clients(&at(15)), [(3, 0), (5, 0)]);
    assert_eq!(clients(&at(22)), [(3, 0), (5, 0), (2, 0)]);
    assert_eq!(clients(&at(29)), [(5, 0), (2, 0), (9, 0)]);
    let last = at(29);
    let [lost, open, unlogged] = &last.connections[..] else { panic!("{last:?}") };
    assert!(!lost.open && lost.closed.is_none());
    assert!(open.open && open.source == Origin::Log);
    assert!(unlogged.open && unlogged.source == Origin::FlowTable);
    assert_eq!(last.notes.len(), 1, "{:?}", last.notes);
    let first = at(1);
    assert_eq!((first.connections[0].ended, first.connections[0].open), (Some(Ended::Closed), false));
    assert_eq!(first.connections[0].closed.as_deref(), Some("2026-01-02T03:10:00.000Z"));
    assert_eq!(first.unreadable_lines, 1);
}

#[test]
fn of_one_backend_by_name_or_address() {
    for name in ["m4", "172.16.0.4", "172.16.0.4:6443"] {
        let question = Question { backend: Some(name.to_owned()), ..question(5000, BASE + 7 * MINUTE) };
        assert_eq!(clients(&ask(question, &[])), [(1, 0)], "{name}");
    }
    let question = Question { backend: Some("172.16.0.4:1".to_owned()), ..question(5000, BASE + 7 * MINUTE) };
    assert_eq!(clients(&ask(question, &[])), []);
}

#[test]
fn clocks_may_be_apart_a_little() {
    let near = |ms: u64| clients(&ask(question(5000, BASE + 10 * MINUTE + ms), &[]));
    assert_eq!(near(0), [(1, 0), (3, 0), (5, 0)]);
    assert_eq!(near(600), [(3, 0), (5, 0), (1, 600)], "exact ones come first");
    assert_eq!(near(1001), [(3, 0), (5, 0)]);
    // The second before it begins is near, and the second that it begins in is it.
    let before = Question { at: Moment { from: BASE - 1500, to: BASE - 500 }, ..question(5000, 0) };
    assert_eq!(clients(&ask(before, &[])), [(1, 501)]);
}

#[test]
fn it_says_what_it_cannot_know() {
    let early = ask(question(5000, BASE - 10 * MINUTE), &[]);
    assert_eq!(clients(&early), []);
    assert_eq!(early.log_begins.as_deref(), Some("2026-01-02T03:00:00.000Z"));
    assert!(early.notes[0].starts_with("the log begins at 2026-01-02T03:00:00.000Z"), "{:?}", early.notes);
    let late = ask(question(5000, BASE + 100 * MINUTE), &[]);
    assert!(late.notes.iter().any(|note| note.contains("yet to come")), "{:?}", late.notes);
    let none = Search::new(question(5000, BASE)).finish(&[flow(2, 5000, 4, BASE - MINUTE)], BASE);
    assert_eq!(clients(&none), [(2, 0)]);
    assert!(none.notes[0].starts_with("there is no connection log"), "{:?}", none.notes);
}

#[test]
fn one_that_has_just_ended_is_there_once() {
    // Its flow is still remembered, closed.
    let flows = [flow(3, 5000, 5, BASE + 5 * MINUTE + 700)];
    assert_eq!(clients(&ask(question(5000, BASE + 24 * MINUTE), &flows)), [(3, 0), (5, 0), (2, 0)]);
}

#[test]
fn whatever_the_lines_are_nothing_panics() {
    let mut search = Search::new(question(5000, BASE));
    for line in [&b""[..], b"\xff\xfe", b"null", b"{}", b"[\"nat_port\":5000]", b"{\"nat_port\":5000}"] {
        search.line(line);
    }
    assert_eq!(search.finish(&[], BASE).unreadable_lines, 5);
}
