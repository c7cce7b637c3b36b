use lb_common::{
    checksum::Delta,
    layout::{Hop, MODE_DSR_IPIP, MODE_DSR_L2, MODE_LOCAL, Seen, TO_CLIENT},
    wire::{Be16, Be32, Be128},
};

use super::*;

const TIMEOUTS: Timeouts = Timeouts::new(86_400);

fn entry(flags: u32, at: u32) -> FlowEntry<Be32> {
    FlowEntry {
        rewritten: FlowKey::new(
            Be32::new(0xac10_000a),
            Be16::new(40_001),
            Be32::new(0xac10_0004),
            Be16::new(6443),
        ),
        client: Hop::NONE,
        ip_delta: Delta::default(),
        tcp_delta: Delta::default(),
        backend: 3,
        direction: TO_BACKEND,
        mode: MODE_NAT,
        opened: 0,
        attempt: 0,
        _pad: 0,
        seen: Seen { flags, at, ..Seen::default() },
    }
}

fn one_way(mode: u8, flags: u32, at: u32) -> FlowEntry<Be32> {
    FlowEntry { mode, ..entry(flags, at) }
}

/// Forward flags, reply flags, seconds of silence that are survived, and one more that is not.
#[test]
fn each_phase_has_its_time_out() {
    for (forward, reply, phase_expected, lives_for) in [
        (0, 0, Phase::Open, 86_400),
        (SEEN_FIN, 0, Phase::HalfClosed, 600),
        (0, SEEN_FIN, Phase::HalfClosed, 600),
        (SEEN_FIN, SEEN_FIN, Phase::Closed, 60),
        (SEEN_RST, 0, Phase::Reset, 10),
        (0, SEEN_RST, Phase::Reset, 10),
        (SEEN_FIN, SEEN_FIN | SEEN_RST, Phase::Reset, 10),
        (SEEN_SEVERED, SEEN_SEVERED, Phase::Reset, 10),
        (SEEN_SEVERED, 0, Phase::Reset, 10),
        (SEEN_FIN, SEEN_FIN | SEEN_SEVERED, Phase::Reset, 10),
    ] {
        let (forward, reply) = (entry(forward, 100), entry(reply, 100));
        assert_eq!(phase(&forward, Some(&reply)), phase_expected);
        assert!(!is_over(&forward, Some(&reply), 100 + lives_for, &TIMEOUTS), "{phase_expected:?}");
        assert!(is_over(&forward, Some(&reply), 101 + lives_for, &TIMEOUTS), "{phase_expected:?}");
    }
}

#[test]
fn a_flow_of_one_direction_is_whole_without_the_other() {
    for mode in [MODE_DSR_L2, MODE_DSR_IPIP, MODE_LOCAL] {
        for (flags, phase_expected, lives_for) in [
            (0, Phase::Open, 86_400),
            (SEEN_FIN, Phase::HalfClosed, 600),
            (SEEN_RST, Phase::Reset, 10),
            (SEEN_FIN | SEEN_RST, Phase::Reset, 10),
            (SEEN_SEVERED, Phase::Reset, 10),
        ] {
            let forward = one_way(mode, flags, 100);
            assert_eq!(phase(&forward, None), phase_expected, "mode {mode}");
            assert!(!is_over(&forward, None, 100 + lives_for, &TIMEOUTS), "mode {mode} {phase_expected:?}");
            assert!(is_over(&forward, None, 101 + lives_for, &TIMEOUTS), "mode {mode} {phase_expected:?}");
        }
    }
}

#[test]
fn either_direction_keeps_a_flow_alive() {
    let (quiet, busy) = (entry(0, 0), entry(0, 200_000));
    assert!(!is_over(&quiet, Some(&busy), 200_001, &TIMEOUTS));
    assert!(!is_over(&busy, Some(&quiet), 200_001, &TIMEOUTS));
    assert!(is_over(&quiet, Some(&quiet), 200_001, &TIMEOUTS));
}

#[test]
fn half_a_flow_goes_soon() {
    assert!(!is_over(&entry(0, 100), None, 110, &TIMEOUTS));
    assert!(is_over(&entry(0, 100), None, 111, &TIMEOUTS));
}

#[test]
fn nothing_is_over_before_the_shortest_time_out() {
    assert_eq!(TIMEOUTS.shortest(), TIMEOUTS.reset);
    assert_eq!(Timeouts::new(5).shortest(), 5);
}

#[test]
fn packets_after_the_sweep_began_do_not_make_a_flow_old() {
    // `now` is read once, and walking a large table takes seconds in which flows go on.
    let busy = entry(0, 103);
    assert!(!is_over(&busy, Some(&busy), 100, &TIMEOUTS));
    assert!(!is_over(&entry(SEEN_RST, 103), Some(&busy), 100, &TIMEOUTS));
}

#[test]
fn the_clock_may_wrap() {
    let late = entry(0, u32::MAX - 1);
    assert!(!is_over(&late, Some(&late), 5, &TIMEOUTS));
}

#[test]
fn a_removed_flow_leaves_what_it_carried_and_how_it_ended() {
    let with = |entry: FlowEntry<Be32>, direction, packets, bytes| FlowEntry {
        direction,
        seen: Seen { packets, bytes, ..entry.seen },
        ..entry
    };
    for (forward, reply, ended) in [
        (entry(SEEN_FIN, 0), Some(SEEN_FIN), (1, 0, 0)),
        (entry(SEEN_RST, 0), Some(0), (0, 1, 0)),
        (entry(SEEN_FIN, 0), Some(SEEN_FIN | SEEN_RST), (0, 1, 0)),
        (entry(0, 0), Some(0), (0, 0, 1)),
        (entry(SEEN_FIN, 0), Some(0), (0, 0, 1)),
        (entry(0, 0), None, (0, 0, 1)),
        (entry(SEEN_RST, 0), None, (0, 1, 0)),
        (one_way(MODE_DSR_L2, SEEN_FIN, 0), None, (1, 0, 0)),
        (one_way(MODE_DSR_L2, SEEN_RST, 0), None, (0, 1, 0)),
        (one_way(MODE_LOCAL, 0, 0), None, (0, 0, 1)),
    ] {
        let forward = with(forward, TO_BACKEND, 7, 700);
        let reply = reply.map(|flags| with(entry(flags, 0), TO_CLIENT, 5, 5_000));
        let removed = removed(&forward, reply.as_ref());
        assert_eq!((removed.closed, removed.reset, removed.expired), ended, "{forward:?} {reply:?}");
        assert_eq!((removed.packets_in, removed.bytes_in), (7, 700));
        let out = if reply.is_some() { (5, 5_000) } else { (0, 0) };
        assert_eq!((removed.packets_out, removed.bytes_out), out);
    }
    let orphan = with(entry(0, 0), TO_CLIENT, 5, 5_000);
    assert_eq!(carried(&orphan, None), Removed { packets_out: 5, bytes_out: 5_000, ..Removed::default() });
}

#[test]
fn totals_add_up_and_never_fall() {
    let one =
        Removed { closed: 1, reset: 2, expired: 3, packets_in: 4, bytes_in: 5, packets_out: 6, bytes_out: 7 };
    let two = plus(&one, &one);
    assert_eq!((two.closed, two.bytes_out), (2, 14));
    assert_eq!(at_least(&one, &two), two);
    assert_eq!(at_least(&two, &one), two);
}

#[test]
fn a_flow_is_listed_as_the_client_and_the_backend_know_it() {
    let key =
        FlowKey::new(Be32::new(0xc0a8_0107), Be16::new(40_000), Be32::new(0xac10_000a), Be16::new(6443));
    let reply = FlowEntry { direction: TO_CLIENT, ..entry(0, 90) };
    let flow = Flow::new(&key, &entry(0, 70), Some(&reply), false, 100);
    assert_eq!(flow.client, "192.168.1.7:40000".parse().expect("an address"));
    assert_eq!(flow.service, "172.16.0.10:6443".parse().expect("an address"));
    assert_eq!(flow.translated_to, Some("172.16.0.4:6443".parse().expect("an address")));
    assert_eq!((flow.nat_port, flow.backend, flow.age, flow.idle), (Some(40_001), 3, 100, 10));
    assert_eq!(flow.state, FlowState::Established);
    assert_eq!(Flow::new(&key, &entry(0, 70), None, true, 100).state, FlowState::HalfOpen);
    assert_eq!(Flow::new(&key, &entry(SEEN_FIN, 70), Some(&reply), false, 100).state, FlowState::Closing);
    assert_eq!(Flow::new(&key, &entry(SEEN_RST, 70), Some(&reply), false, 100).state, FlowState::Reset);

    let direct = Flow::new(&key, &one_way(MODE_DSR_L2, 0, 100), None, false, 100);
    assert_eq!((direct.translated_to, direct.nat_port, direct.state), (None, None, FlowState::Established));
    let younger = FlowEntry { opened: 101, ..entry(0, 101) };
    assert_eq!(Flow::new(&key, &younger, None, true, 100).age, 0);
}

#[test]
fn ipv6_flows_are_listed_as_such() {
    let address = |last: u16| Be128::from(std::net::Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, last));
    let key = FlowKey::new(address(7), Be16::new(40_000), address(10), Be16::new(6443));
    let forward = FlowEntry {
        rewritten: FlowKey::new(address(10), Be16::new(40_000), address(4), Be16::new(6443)),
        client: Hop::NONE,
        ip_delta: Delta::default(),
        tcp_delta: Delta::default(),
        backend: 0,
        direction: TO_BACKEND,
        mode: MODE_NAT,
        opened: 0,
        attempt: 0,
        _pad: 0,
        seen: Seen::default(),
    };
    let flow = Flow::new(&key, &forward, None, true, 0);
    assert_eq!(flow.client.to_string(), "[fd10::7]:40000");
    assert_eq!(flow.translated_to.map(|to| to.to_string()).as_deref(), Some("[fd10::4]:6443"));
}
