//! Graceful hand-overs: fast, and never nobody.

use super::lan::{CLEAN, Lan, SECOND};
use crate::vrrp::fsm::{Event, Reason};

properties! {
    /// A released virtual router is taken over within the skew time of the best that is left.
    fn a_released_router_is_taken_over_within_skew_time(schedule) {
        let mut lan = Lan::settled(schedule, CLEAN, true);
        let pause = lan.random.range(0, 2 * lan.interval());
        lan.run_for(pause);
        let leaving = lan.the_active();
        let event = match lan.random.range(0, 2) {
            0 => Event::Shutdown,
            1 => Event::Release,
            _ => Event::TrackingFailed("test".to_owned()),
        };
        lan.feed(leaving, 0, event.clone());
        let best = lan.best(|node| node != leaving);
        lan.run_for(lan.skew(best) + CLEAN.delay.1);
        let reason = lan.router(*lan.actives().first().expect("nobody took over")).reason().clone();
        assert!(matches!(reason, Reason::PriorityZero { .. }), "schedule {schedule}: {reason}");
        lan.run_for(lan.settling());
        assert_ne!(lan.the_active(), leaving, "schedule {schedule}: {event:?} was not the last word");
    }

    /// Releases, acquisitions, shutdowns and restarts in any order, one after another as soon as advertisements and their
    /// answers have travelled: while another node is there to take over, somebody holds the addresses at every moment, and never more
    /// than two nodes do.
    fn somebody_holds_the_addresses_throughout_a_hand_over(schedule) {
        let mut lan = Lan::settled(schedule, CLEAN, schedule.is_multiple_of(2));
        lan.look();
        for _ in 0..lan.random.range(1, 8) {
            let leaving = lan.the_active();
            let event = if lan.random.percent(50) { Event::Release } else { Event::Shutdown };
            lan.feed(leaving, 0, event.clone());
            if lan.random.percent(30) {
                // Whoever changes his mind never let go.
                let pause = lan.random.range(0, lan.interval());
                lan.run_for(pause);
                lan.feed(leaving, 0, Event::Start);
                lan.feed(leaving, 0, Event::Acquire);
            }
            if lan.random.percent(20) {
                // The last word of whom it has thrown out must not look like that of a successor.
                lan.run_for(2 * CLEAN.delay.1);
                lan.feed(leaving, 0, Event::Release);
                lan.feed(leaving, 0, Event::Shutdown);
            }
            lan.run_for(lan.settling());
            assert_eq!(lan.owners(0).fewest, 1, "schedule {schedule}: {event:?}: nobody held the address");
            // It is there again for the next one.
            lan.feed(leaving, 0, Event::Start);
            lan.feed(leaving, 0, Event::Acquire);
            lan.run_for(lan.settling());
            lan.the_active();
            assert_eq!(lan.owners(0).fewest, 1, "schedule {schedule}: on the way back");
        }
        assert!(lan.contended_for() <= 4 * CLEAN.delay.1, "schedule {schedule}: {} µs", lan.contended_for());
    }

    /// Two hold the addresses of a hand-over for no longer than an advertisement travels; and the one that leaves lets
    /// go in the end even if nobody comes.
    fn a_hand_over_ends(schedule) {
        let mut lan = Lan::settled(schedule, CLEAN, true);
        let leaving = lan.the_active();
        let nobody_comes = schedule.is_multiple_of(4);
        if nobody_comes {
            (0..lan.nodes.len()).filter(|node| *node != leaving).for_each(|node| lan.kill(node));
        }
        lan.feed(leaving, 0, Event::Shutdown);
        lan.run_for(lan.interval().max(SECOND) + 100_000);
        assert!(!lan.router(leaving).holds_addresses(), "schedule {schedule}");
        assert_eq!(lan.router(leaving).deadline(), None, "schedule {schedule}: it would not end");
        // Two of equal rank come at once perhaps, and hear each other first.
        assert!(lan.contended_for() <= 3 * CLEAN.delay.1, "schedule {schedule}: {} µs", lan.contended_for());
        assert_eq!(lan.actives().len(), usize::from(!nobody_comes), "schedule {schedule}");
    }

    /// An Active router that fails says so, and holds on to nothing.
    fn a_fault_lets_go_at_once(schedule) {
        let mut lan = Lan::settled(schedule, CLEAN, true);
        let failing = lan.the_active();
        lan.feed(failing, 0, Event::TrackingFailed("eth0 is down".to_owned()));
        assert!(!lan.router(failing).holds_addresses(), "schedule {schedule}");
        lan.look();
        lan.run_for(lan.settling());
        lan.feed(failing, 0, Event::TrackingRecovered);
        lan.run_for(lan.settling());
        lan.assert_best_is_active();
        assert_eq!(lan.owners(0).fewest, 0, "schedule {schedule}: the skew time of its successor");
    }
}
