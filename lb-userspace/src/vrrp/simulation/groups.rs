//! Sync groups: several virtual routers of a node with one fate, each on a link of its own.

use super::lan::{CLEAN, Lan};
use crate::vrrp::{
    advert::Priority,
    fsm::{Event, VrrpState},
};

/// A LAN of 2 to 4 nodes with 2 or 3 links. What members of one node have in common is left to chance: priorities,
/// and, where `equal`, nothing but the order of addresses, which differs from link to link.
fn any_lan(schedule: u64, equal: bool, preempt: bool) -> Lan {
    let mut lan = Lan::new(schedule, CLEAN);
    let interval = lan.any_interval();
    let links = lan.random.range(2, 3);
    let nodes = lan.random.range(2, 4);
    for _ in 0..nodes {
        let mut any = |_| if equal { 100 } else { lan.any_priority() };
        let priorities: Vec<u8> = (0..links).map(&mut any).collect();
        lan.add(&priorities, interval, preempt);
    }
    for link in 0..lan.links() {
        if lan.random.percent(50) {
            let addresses: Vec<_> =
                lan.nodes.iter().map(|node| node.settings[link].primary_address).rev().collect();
            for (node, address) in lan.nodes.iter_mut().zip(addresses) {
                node.settings[link].primary_address = address;
            }
        }
    }
    lan
}

/// The nodes come up together, as after a power cut: all of them wake at once.
fn boot_together(lan: &mut Lan) {
    for node in 0..lan.nodes.len() {
        lan.boot(node);
        let pause = lan.random.range(0, 200);
        lan.run_for(pause);
    }
    lan.run_for(lan.settling());
}

properties! {
    /// Whatever each member's priority and address: one node has all of the addresses, it is the one whose lowest
    /// priority is the highest, and it keeps them.
    fn opposite_preferences_settle(schedule) {
        let mut lan = any_lan(schedule, false, true);
        if schedule.is_multiple_of(2) { lan.boot_all() } else { boot_together(&mut lan) }
        lan.assert_best_is_active();
        lan.assert_stays_settled();
    }

    /// Nodes of equal priority whose addresses are in another order on each link wake at once: none gives way to one
    /// that gives way to it.
    fn crossed_addresses_settle(schedule) {
        let mut lan = any_lan(schedule, true, schedule.is_multiple_of(2));
        boot_together(&mut lan);
        lan.the_active();
        lan.assert_stays_settled();
    }

    /// One of the links is cut, before or after the elections: one node has all of the addresses of the side that it is
    /// on and of the whole links, and none comes and goes. So it is when the link is whole again.
    fn a_cut_link_settles(schedule) {
        let mut lan = any_lan(schedule, schedule.is_multiple_of(2), schedule.is_multiple_of(3));
        let cut = lan.random.index(lan.links());
        let cut_before = lan.random.percent(50);
        if !cut_before {
            boot_together(&mut lan);
        }
        for node in 0..lan.nodes.len() {
            lan.nodes[node].sides[cut] = node as u64 % 2;
        }
        if cut_before {
            boot_together(&mut lan);
        }
        lan.run_for(2 * lan.settling());
        lan.assert_few_words();
        lan.the_active();
        lan.assert_stays_settled();
        // And when it is whole again.
        for node in 0..lan.nodes.len() {
            lan.nodes[node].sides[cut] = 0;
        }
        lan.run_for(lan.settling());
        lan.assert_stays_settled();
    }

    /// Every link cut, each in another way, and then whole again.
    fn cut_links_heal(schedule) {
        let mut lan = any_lan(schedule, schedule.is_multiple_of(2), !schedule.is_multiple_of(3));
        boot_together(&mut lan);
        for _ in 0..4 {
            for node in 0..lan.nodes.len() {
                for link in 0..lan.links() {
                    lan.nodes[node].sides[link] = lan.random.range(0, 1);
                }
            }
            let pause = lan.random.range(0, 2 * lan.settling());
            lan.run_for(pause);
        }
        lan.nodes.iter_mut().for_each(|node| node.sides.fill(0));
        lan.run_for(lan.settling());
        lan.assert_stays_settled();
        if !schedule.is_multiple_of(3) {
            lan.assert_best_is_active();
        }
    }

    /// Fewer than three advertisements lost in a row on each link: no takeover.
    fn bounded_loss_moves_no_group(schedule) {
        let mut lan = any_lan(schedule, false, true);
        lan.boot_all();
        lan.nodes.iter_mut().for_each(|node| node.arrival_clock = false);
        lan.wires = lan.bad_wires(60);
        let transitions = lan.transitions();
        lan.run_for(30 * lan.interval());
        assert_eq!(lan.transitions(), transitions, "schedule {schedule}");
    }

    /// A dead node is replaced, on all links at once, within the down interval of the best that is left; a link's last
    /// advertisement may be an answer, up to an interval later than that of the others.
    fn a_dead_group_is_replaced_in_time(schedule) {
        let mut lan = any_lan(schedule, false, true);
        lan.boot_all();
        let pause = lan.random.range(0, 2 * lan.interval());
        lan.run_for(pause);
        let dead = lan.the_active();
        lan.kill(dead);
        let best = lan.best(|node| node != dead);
        lan.run_for(lan.down_interval(best) + 2 * CLEAN.delay.1);
        assert!(!lan.actives().is_empty(), "schedule {schedule}: nobody took over");
        lan.run_for(lan.settling());
        lan.assert_best_is_active();
    }

    /// A fault of one member is a fault of all, with its name; the addresses of all go to another node together, and
    /// come back together.
    fn a_fault_of_one_is_a_fault_of_all(schedule) {
        let mut lan = any_lan(schedule, false, true);
        lan.boot_all();
        let failing = lan.the_active();
        let member = lan.random.index(lan.links());
        lan.feed(failing, member, Event::TrackingFailed("eth1 is down".to_owned()));
        let names = ["one", "two", "three"];
        for (other, router) in lan.nodes[failing].group.as_ref().unwrap().members().iter().enumerate() {
            let reason = router.reason().to_string();
            assert_eq!(router.state(), VrrpState::Fault, "schedule {schedule}");
            if other == member {
                assert_eq!(reason, "eth1 is down");
            } else {
                assert_eq!(reason, format!("sync group: instance {}: eth1 is down", names[member]));
            }
        }
        lan.run_for(lan.settling());
        assert_ne!(lan.the_active(), failing, "schedule {schedule}");
        lan.feed(failing, member, Event::TrackingRecovered);
        lan.run_for(lan.settling());
        lan.assert_best_is_active();
        lan.assert_stays_settled();
    }

    /// A group that is told to hand over does so on all links, and somebody holds each address at every moment.
    fn a_group_hands_over_as_one(schedule) {
        let mut lan = any_lan(schedule, false, schedule.is_multiple_of(2));
        lan.boot_all();
        lan.look();
        let (leaving, member) = (lan.the_active(), lan.random.index(lan.links()));
        let event = if lan.random.percent(50) { Event::Release } else { Event::Shutdown };
        lan.feed(leaving, member, event.clone());
        let best = lan.best(|node| node != leaving);
        lan.run_for(lan.skew(best) + 2 * CLEAN.delay.1);
        assert!(lan.actives().iter().all(|node| *node != leaving), "schedule {schedule}");
        assert!(!lan.actives().is_empty(), "schedule {schedule}: nobody took over");
        lan.run_for(lan.settling());
        for event in [Event::Start, Event::Acquire] {
            lan.feed(leaving, member, event);
        }
        lan.run_for(lan.settling());
        lan.the_active();
        for link in 0..lan.links() {
            assert!(lan.owners(link).fewest > 0, "schedule {schedule}: nobody held the address of {link}");
        }
        lan.assert_stays_settled();
    }

    /// What tracking takes from one member it takes from all: the node goes down in rank on every link.
    fn a_weight_of_one_member_moves_all(schedule) {
        let mut lan = any_lan(schedule, true, true);
        lan.boot_all();
        let (first, member) = (lan.the_active(), lan.random.index(lan.links()));
        lan.look();
        lan.feed(first, member, Event::Weighted(Priority(50)));
        lan.run_for(lan.longest_down_interval() + lan.interval());
        assert_ne!(lan.the_active(), first, "schedule {schedule}");
        for link in 0..lan.links() {
            assert!(lan.owners(link).fewest > 0, "schedule {schedule}: nobody held the address of {link}");
        }
        lan.assert_stays_settled();
    }
}
