//! Who becomes Active, and how fast (style-anchors: the properties of an election).

use super::lan::{CLEAN, Lan, Wires};
use crate::vrrp::advert::Priority;
use crate::vrrp::fsm::{Event, Reason};

properties! {
    /// On a clean link exactly one is Active once settled, with preemption it is the highest priority, and it stays so.
    fn one_active_and_it_is_the_best(schedule) {
        let mut lan = Lan::settled(schedule, CLEAN, true);
        lan.assert_best_is_active();
        lan.assert_stays_settled();
    }

    /// Equal priorities that wake at the same moment: the highest address wins.
    fn of_equal_priorities_the_highest_address_wins(schedule) {
        let mut lan = Lan::random(schedule, CLEAN, schedule.is_multiple_of(2));
        let priority = lan.nodes[0].settings[0].priority;
        for node in 0..lan.nodes.len() {
            lan.nodes[node].settings[0].priority = priority;
            lan.boot(node);
        }
        lan.run_for(lan.settling());
        assert_eq!(lan.the_active(), lan.nodes.len() - 1, "schedule {schedule}");
    }

    /// Fewer than three advertisements lost in a row, duplicates, and jitter below every skew time: no takeover.
    fn bounded_loss_causes_no_takeover(schedule) {
        let mut lan = Lan::settled(schedule, CLEAN, true);
        // The arrival clock must not be what saves us.
        lan.nodes.iter_mut().for_each(|node| node.arrival_clock = false);
        lan.wires = lan.bad_wires(60);
        let transitions = lan.transitions();
        lan.run_for(30 * lan.interval());
        assert_eq!(lan.transitions(), transitions, "schedule {schedule}");
    }

    /// A dead Active router is replaced within the `active_down_interval` of the best that is left.
    fn a_dead_active_router_is_replaced_in_time(schedule) {
        let mut lan = Lan::settled(schedule, CLEAN, true);
        let pause = lan.random.range(0, 2 * lan.interval());
        lan.run_for(pause);
        let dead = lan.the_active();
        lan.kill(dead);
        let best = lan.best(|node| node != dead);
        lan.run_for(lan.down_interval(best) + CLEAN.delay.1);
        assert!(!lan.actives().is_empty(), "schedule {schedule}: nobody took over");
        let reason = lan.router(lan.actives()[0]).reason().clone();
        assert!(matches!(reason, Reason::ActiveSilent(_)), "schedule {schedule}: {reason}");
        lan.run_for(lan.settling());
        lan.assert_best_is_active();
    }

    /// With preemption off a router that returns stays Backup, whatever its priority.
    fn without_preemption_a_returning_router_stays_backup(schedule) {
        let mut lan = Lan::settled(schedule, CLEAN, false);
        let gone = lan.the_active();
        lan.kill(gone);
        lan.run_for(lan.settling());
        let active = lan.the_active();
        let transitions = lan.transitions();
        lan.boot(gone);
        lan.run_for(lan.settling());
        assert_eq!(lan.the_active(), active, "schedule {schedule}");
        assert_eq!(lan.transitions(), transitions + 1, "schedule {schedule}: only the start itself");
    }

    /// After a partition heals, all but the best step down, and the best announces again.
    fn a_healed_partition_leaves_one_that_announces_again(schedule) {
        let mut lan = Lan::settled(schedule, CLEAN, schedule.is_multiple_of(2));
        let first = lan.the_active();
        for node in 0..lan.nodes.len() {
            lan.nodes[node].sides[0] = lan.random.range(0, 1);
        }
        let other = (first + 1) % lan.nodes.len();
        lan.nodes[first].sides[0] = 0;
        lan.nodes[other].sides[0] = 1;
        lan.run_for(lan.settling());
        let actives = lan.actives();
        assert_eq!(actives.len(), 2, "schedule {schedule}: one on each side");
        let best = lan.best(|node| actives.contains(&node));
        let generation = lan.router(best).announce_generation();
        lan.nodes.iter_mut().for_each(|node| node.sides[0] = 0);
        lan.run_for(lan.interval() + 3 * CLEAN.delay.1);
        assert_eq!(lan.the_active(), best, "schedule {schedule}: within one interval");
        // Whichever spoke first: neighbours on the loser's side still believe in it.
        assert!(lan.router(best).announce_generation() > generation, "schedule {schedule}: nobody was told");
        lan.run_for(lan.settling());
        assert_eq!(lan.the_active(), best, "schedule {schedule}");
    }

    /// A priority that tracking lowers or raises moves the addresses to whoever is the best now, and at no moment does
    /// nobody have them.
    fn a_weight_moves_the_addresses_to_the_best(schedule) {
        let mut lan = Lan::settled(schedule, CLEAN, true);
        lan.look();
        let node = lan.random.index(lan.nodes.len());
        let priority = lan.random.range(1, 254) as u8;
        lan.feed(node, 0, Event::Weighted(Priority(priority)));
        lan.run_for(lan.longest_down_interval() + lan.interval());
        let priorities = (0..lan.nodes.len()).map(|node| lan.router(node).priority());
        assert_eq!(lan.router(lan.the_active()).priority(), priorities.max().unwrap(), "schedule {schedule}");
        assert!(lan.owners(0).fewest > 0, "schedule {schedule}: nobody had the address");
        lan.assert_stays_settled();
    }

    /// New settings in the running machine: an Active router stays that unless it is outranked now, nobody is without
    /// an address meanwhile, and the shorter or longer interval makes nobody take over.
    fn new_settings_lose_no_state(schedule) {
        let mut lan = Lan::settled(schedule, CLEAN, true);
        lan.look();
        let interval = lan.any_interval();
        let active = lan.the_active();
        let (transitions, slow) = (lan.transitions(), lan.longest_down_interval());
        // As an operator does: the Active router last, whose new interval the others cannot know before.
        let order = (0..lan.nodes.len()).filter(|node| *node != active).chain([active]);
        for node in order {
            lan.nodes[node].settings[0].interval = interval;
            let settings = lan.nodes[node].settings[0].clone();
            lan.feed(node, 0, Event::Reconfigure(settings));
            let pause = lan.random.range(0, lan.interval());
            lan.run_for(pause);
        }
        lan.run_for(slow.max(lan.longest_down_interval()));
        assert_eq!(lan.transitions(), transitions, "schedule {schedule}");
        assert_eq!((lan.owners(0).fewest, lan.owners(0).most), (1, 1), "schedule {schedule}");
        lan.assert_stays_settled();
    }
}

/// `bounded_loss_causes_no_takeover` can fail: one lost advertisement more, and somebody takes over.
#[test]
fn three_losses_in_a_row_do_cause_a_takeover() {
    let mut lan = Lan::settled(1, CLEAN, true);
    let transitions = lan.transitions();
    lan.wires = Wires { loss_percent: 100, losses_in_a_row: 3, ..CLEAN };
    lan.run_for(10 * lan.interval());
    assert!(lan.transitions() > transitions);
}
