//! Planned restarts: the process of the Active router is replaced, and nobody else notices.

use super::lan::{CLEAN, Lan, Micros, SECOND, Wires};
use crate::vrrp::{
    advert::Interval,
    fsm::{Reason, VrrpState, parting_interval, parting_respite},
};

/// How long a process that leaves may be away.
fn respite(lan: &Lan) -> Micros {
    let interval = lan.nodes[0].settings[0].interval;
    parting_respite(parting_interval(interval)).as_micros() as Micros
}

/// Lets time pass, and looks each 5 ms how many nodes answer for the address: the fewest.
fn fewest_answering(lan: &mut Lan, duration: Micros) -> usize {
    let end = lan.now + duration;
    let mut fewest = lan.answering();
    while lan.now < end {
        lan.run_until((lan.now + 5_000).min(end));
        fewest = fewest.min(lan.answering());
    }
    fewest
}

properties! {
    /// The Active router leaves and its successor comes before its word ends, on wires that lose packets: nobody else
    /// becomes Active, and one node answers for the address at every moment.
    fn a_planned_restart_moves_nothing(schedule) {
        let mut lan = Lan::settled(schedule, CLEAN, schedule.is_multiple_of(2));
        // A parting word that is overtaken by one before it would be in vain; no switch does that.
        lan.wires = Wires { reorders: false, ..lan.bad_wires(20) };
        let active = lan.the_active();
        let contended = lan.contended_for();
        let pause = lan.random.range(0, 3 * lan.interval());
        lan.run_for(pause);
        let others: u64 = transitions_of_others(&lan, active);
        for _ in 0..lan.random.range(1, 3) {
            lan.leave(active);
            // What three parting words take, then the time without a process.
            let away = lan.random.range(100_000, respite(&lan) - 1);
            assert_eq!(fewest_answering(&mut lan, away), 1, "schedule {schedule}");
            assert!(!lan.alive(active), "schedule {schedule}: it has not left");
            lan.resume(active);
            assert!(matches!(lan.router(active).reason(), Reason::Resumed), "schedule {schedule}");
            let after = lan.random.range(0, 5 * lan.interval());
            assert_eq!(fewest_answering(&mut lan, after), 1, "schedule {schedule}: afterwards");
        }
        lan.run_for(lan.settling());
        assert_eq!(lan.the_active(), active, "schedule {schedule}");
        assert_eq!(transitions_of_others(&lan, active), others, "schedule {schedule}: somebody noticed");
        assert_eq!(lan.contended_for(), contended, "schedule {schedule}");
    }

    /// If no successor comes, the node falls silent before anybody takes over, and somebody does.
    fn a_successor_that_never_comes_is_replaced(schedule) {
        let mut lan = Lan::settled(schedule, CLEAN, true);
        let left = lan.the_active();
        let pause = lan.random.range(0, 2 * lan.interval());
        lan.run_for(pause);
        lan.leave(left);
        while lan.actives().is_empty() || lan.actives() == [left] {
            lan.run_for(1_000);
            let taken_over = !lan.actives().is_empty() && lan.actives() != [left];
            assert!(!(taken_over && lan.answers(left, 0)), "schedule {schedule}: two answer");
        }
        lan.run_for(5 * SECOND + lan.settling());
        assert_ne!(lan.the_active(), left, "schedule {schedule}");
        // Then it is too late, and like any other start.
        lan.resume(left);
        assert_eq!(lan.router(left).state(), VrrpState::Backup, "schedule {schedule}");
        lan.run_for(lan.settling());
        lan.assert_best_is_active();
    }

    /// A node that boots during a planned restart has not heard the parting word, and becomes Active. The one that left
    /// falls silent for it within the shortest lease, and its successor finds the better one, or outranks it.
    fn who_boots_meanwhile_is_no_second_owner_for_long(schedule) {
        let mut lan = Lan::settled(schedule, CLEAN, true);
        let left = lan.the_active();
        let other = (left + 1) % lan.nodes.len();
        lan.leave(left);
        lan.run_for(100_000);
        lan.kill(other);
        lan.boot(other);
        let pause = lan.random.range(0, respite(&lan));
        lan.run_for(pause);
        lan.resume(left);
        lan.run_for(lan.settling());
        lan.assert_best_is_active();
        let bound = lan.lease() + 4 * CLEAN.delay.1;
        assert!(lan.contended_for() <= bound, "schedule {schedule}: {} µs", lan.contended_for());
    }
}

fn transitions_of_others(lan: &Lan, node: usize) -> u64 {
    (0..lan.nodes.len()).filter(|other| *other != node).map(|other| lan.router(other).transitions()).sum()
}

/// The property can fail: without a longer interval the others would not wait.
#[test]
fn without_a_parting_word_the_others_take_over() {
    let mut lan = Lan::settled(3, CLEAN, true);
    assert!(matches!(lan.nodes[0].settings[0].interval, Interval::V3(_)));
    let active = lan.the_active();
    let others = transitions_of_others(&lan, active);
    lan.kill(active);
    lan.run_for(2 * lan.longest_down_interval());
    lan.boot(active);
    lan.run_for(lan.settling());
    assert!(
        lan.nodes.len() > 1 && {
            let now: u64 = transitions_of_others(&lan, active);
            now != others
        }
    );
}
