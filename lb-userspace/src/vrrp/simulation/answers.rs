//! Who answers for an address: the dead-man lease, with pauses, kills and restarts.

use super::lan::{CLEAN, Lan};
use crate::vrrp::fsm::{Event, Reason};

properties! {
    /// Whatever is paused, killed, restarted or told to leave: no two nodes answer for the address at the same time for
    /// longer than the lease.
    fn never_two_answers_for_longer_than_the_lease(schedule) {
        let mut lan = Lan::settled(schedule, CLEAN, schedule.is_multiple_of(2));
        lan.wires = lan.bad_wires(0);
        for _ in 0..lan.random.range(5, 25) {
            let node = lan.random.index(lan.nodes.len());
            match lan.random.range(0, 12) {
                10 | 11 => lan.leave(node),
                12 => lan.resume(node),
                0 => lan.boot(node),
                1 => lan.kill(node),
                2 => lan.tell(node, Event::Release),
                3 => lan.tell(node, Event::Acquire),
                4 => lan.tell(node, Event::Start),
                5 => lan.tell(node, Event::Shutdown),
                _ => {
                    // The one that matters, more often than not; for as long as it hurts.
                    let node = lan.actives().first().copied().filter(|_| !schedule.is_multiple_of(3)).unwrap_or(node);
                    let longest = 2 * lan.lease().max(lan.longest_down_interval());
                    let pause = lan.random.range(0, longest);
                    lan.pause(node, pause);
                }
            }
            let pause = lan.random.range(0, 4 * lan.interval());
            lan.run_for(pause);
        }
        lan.run_for(lan.settling());
        // The news that somebody else has taken over travels before that.
        let (contended, lease, travels) = (lan.contended_for(), lan.lease(), lan.wires.delay.1);
        assert!(contended <= lease + travels, "schedule {schedule}: {contended} µs, the lease is {lease} µs");
    }

    /// The address of a node whose process is stopped or dead is answered for by one node again within the lease and the
    /// successor's down interval, and one that runs again steps down without disturbing its successor.
    fn a_stopped_node_is_replaced_and_returns_as_backup(schedule) {
        let mut lan = Lan::settled(schedule, CLEAN, false);
        let stopped = lan.the_active();
        lan.run_for(lan.interval() * (schedule % 7) / 3);
        let pause = 2 * (lan.lease() + lan.longest_down_interval());
        lan.pause(stopped, pause);
        let best = lan.best(|node| node != stopped);
        lan.run_for(lan.lease().max(lan.down_interval(best) + lan.interval()));
        assert_eq!(lan.answering(), 1, "schedule {schedule}");
        let successor = *lan.actives().iter().find(|node| **node != stopped).expect("nobody took over");
        let transitions = lan.router(successor).transitions();
        lan.run_for(pause);
        assert_eq!(lan.the_active(), successor, "schedule {schedule}");
        assert_eq!(lan.router(successor).transitions(), transitions, "schedule {schedule}: it was disturbed");
        assert!(matches!(lan.router(stopped).reason(), Reason::Paused(_)), "schedule {schedule}");
        assert!(lan.contended_for() <= lan.lease(), "schedule {schedule}");
    }
}

/// The properties above can fail: whoever is stopped for ever, and has neither a lease nor an ear for others' claims,
/// answers for ever.
#[test]
fn without_a_lease_two_answer() {
    let mut lan = Lan::settled(1, CLEAN, true);
    lan.lease = Some(u64::MAX / 2);
    lan.claims_silence = false;
    let stopped = lan.the_active();
    lan.pause(stopped, 100 * lan.settling());
    lan.run_for(lan.settling());
    assert_eq!(lan.answering(), 2);
}
