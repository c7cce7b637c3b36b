//! What a node does that does not hear, and should not believe that nobody speaks: late and lost deliveries, firewalls,
//! dead gateways, stepped wall clocks.

use std::{cell::RefCell, rc::Rc};

use super::lan::{CLEAN, Lan, SECOND};
use crate::vrrp::fsm::{ArrivalCredit, Event};

/// Makes every delivery to the Backups late, and starves them; how often states changed meanwhile.
fn starve(lan: &mut Lan) -> u64 {
    let active = lan.the_active();
    let transitions = lan.transitions();
    for _ in 0..6 {
        for node in (0..lan.nodes.len()).filter(|node| *node != active) {
            lan.nodes[node].socket_lag = lan.random.range(0, 5 * lan.interval());
            if lan.random.percent(30) {
                let pause = lan.random.range(0, 6 * lan.interval());
                lan.pause(node, pause);
            }
        }
        let pause = lan.random.range(0, 10 * lan.interval());
        lan.run_for(pause);
    }
    lan.transitions() - transitions
}

properties! {
    /// Packets that reach the socket late, and processes that do not run: no take-over from a living router that the
    /// network card sees.
    fn starvation_causes_no_takeover(schedule) {
        let mut lan = Lan::random(schedule, CLEAN, schedule.is_multiple_of(2));
        if schedule.is_multiple_of(3) {
            for node in &mut lan.nodes {
                node.settings[0].arrival_credit = ArrivalCredit::OneInterval;
            }
        }
        lan.boot_all();
        assert_eq!(starve(&mut lan), 0, "schedule {schedule}");
    }

    /// A firewall that drops protocol 112 on a Backup: it stays Backup, says that it is deaf, and still takes over when
    /// the Active router dies.
    fn a_deaf_backup_is_quiet_until_the_card_hears_nobody(schedule) {
        let mut lan = Lan::settled(schedule, CLEAN, true);
        let active = lan.the_active();
        let transitions = lan.transitions();
        for node in (0..lan.nodes.len()).filter(|node| *node != active) {
            lan.nodes[node].deaf = true;
            assert_eq!(lan.router(node).deaf(), None, "schedule {schedule}");
        }
        lan.run_for(20 * lan.interval());
        assert_eq!(lan.transitions(), transitions, "schedule {schedule}");
        for node in (0..lan.nodes.len()).filter(|node| *node != active) {
            assert!(lan.router(node).deaf().is_some(), "schedule {schedule}: it does not know");
        }
        lan.kill(active);
        lan.run_for(lan.longest_down_interval());
        assert!(!lan.actives().is_empty(), "schedule {schedule}: for ever quiet");
    }

    /// Where the card cannot verify what it sees, credit ends: nobody is kept quiet for longer than two down intervals.
    fn unverified_arrivals_buy_one_interval(schedule) {
        let mut lan = Lan::random(schedule, CLEAN, true);
        for node in &mut lan.nodes {
            node.settings[0].arrival_credit = ArrivalCredit::OneInterval;
        }
        lan.boot_all();
        let active = lan.the_active();
        lan.nodes.iter_mut().for_each(|node| node.deaf = true);
        let best = lan.best(|node| node != active);
        lan.run_for(2 * lan.down_interval(best) - lan.interval() - CLEAN.delay.1);
        assert_eq!(lan.actives(), [active], "schedule {schedule}: it got no credit");
        lan.run_for(lan.interval() + 2 * CLEAN.delay.1);
        assert!(lan.actives().len() > 1, "schedule {schedule}: a forger keeps it quiet");
    }

    /// A Backup that is cut off and reaches no gateway never claims the addresses, and says why; when it is connected
    /// again, it disturbs nobody.
    fn an_isolated_node_without_a_witness_never_claims(schedule) {
        let mut lan = Lan::settled(schedule, CLEAN, schedule.is_multiple_of(2));
        let active = lan.the_active();
        let transitions = lan.transitions();
        let isolated: Vec<usize> = (0..lan.nodes.len()).filter(|node| *node != active).collect();
        for node in &isolated {
            lan.nodes[*node].sides[0] = 1 + *node as u64;
            // The pinger notices some time later, but before the down timer.
            let notices = lan.random.range(0, lan.interval() / 2);
            lan.run_for(notices);
            lan.feed(*node, 0, Event::Witness(Err("10.0.0.1 does not answer".to_owned())));
        }
        for _ in 0..5 {
            let pause = lan.random.range(0, 10 * lan.interval());
            lan.run_for(pause);
            if lan.random.percent(30) {
                let (node, pause) = (isolated[0], lan.random.range(0, 10 * lan.interval()));
                lan.pause(node, pause);
            }
        }
        lan.run_for(20 * lan.interval());
        assert_eq!(lan.transitions(), transitions, "schedule {schedule}");
        for node in &isolated {
            assert_eq!(lan.router(*node).blocked(), Some("10.0.0.1 does not answer"), "schedule {schedule}");
            lan.nodes[*node].sides[0] = 0;
            lan.feed(*node, 0, Event::Witness(Ok(())));
            assert_eq!(lan.router(*node).blocked(), None, "schedule {schedule}");
        }
        lan.run_for(lan.settling());
        assert_eq!(lan.transitions(), transitions, "schedule {schedule}: it disturbed somebody");
        lan.assert_stays_settled();
    }

    /// A dead gateway keeps nobody from a graceful hand-over, and the witness keeps nobody from taking over from a dead
    /// router once it answers again.
    fn a_witness_is_asked_about_silence_only(schedule) {
        let mut lan = Lan::settled(schedule, CLEAN, true);
        let first = lan.the_active();
        for node in 0..lan.nodes.len() {
            lan.feed(node, 0, Event::Witness(Err("10.0.0.1 does not answer".to_owned())));
        }
        lan.look();
        lan.feed(first, 0, Event::Release);
        lan.run_for(lan.settling());
        let second = lan.the_active();
        assert_ne!(second, first, "schedule {schedule}");
        lan.feed(first, 0, Event::Acquire);
        lan.run_for(lan.settling());
        lan.assert_best_is_active();
        assert_eq!(lan.owners(0).fewest, 1, "schedule {schedule}");
        lan.kill(lan.the_active());
        lan.run_for(lan.settling());
        assert!(lan.actives().is_empty(), "schedule {schedule}: it claimed without a witness");
        for node in 0..lan.nodes.len() {
            lan.feed(node, 0, Event::Witness(Ok(())));
        }
        lan.run_for(lan.longest_down_interval());
        assert!(!lan.actives().is_empty(), "schedule {schedule}: nobody claimed with one");
        lan.run_for(lan.settling());
        lan.assert_best_is_active();
    }

    /// Steps of the wall clocks change nothing at all: the same schedule with them takes the same course to the last
    /// advertisement. They are there: an authenticator would see them.
    fn stepped_wall_clocks_change_nothing(schedule) {
        let course = |stepped: bool| {
            let mut lan = Lan::settled(schedule, CLEAN, true);
            let apart = Rc::new(RefCell::new(0));
            let widest = Rc::clone(&apart);
            lan.verify = Box::new(move |packet, _, clock| {
                let skew = (clock - packet.stamped).unsigned_abs();
                let so_far = *widest.borrow();
                widest.replace(skew.max(so_far));
                true
            });
            for _ in 0..6 {
                let node = lan.random.index(lan.nodes.len());
                let step = lan.random.range(0, 7200 * SECOND) as i64 - 3600 * SECOND as i64;
                if stepped {
                    lan.nodes[node].wall += step;
                }
                if lan.random.percent(20) {
                    lan.kill(node);
                    lan.boot(node);
                }
                let pause = lan.random.range(0, 4 * lan.interval());
                lan.run_for(pause);
            }
            lan.run_for(lan.settling());
            let apart = *apart.borrow();
            (lan.trace, apart)
        };
        let ((still, together), (moved, apart)) = (course(false), course(true));
        assert_eq!(still, moved, "schedule {schedule}");
        assert!(together <= CLEAN.delay.1 && apart > SECOND, "schedule {schedule}: {together} and {apart} µs");
    }
}

/// `starvation_causes_no_takeover` can fail: without the arrival clock the same schedules move the addresses.
#[test]
fn without_the_arrival_clock_starvation_moves_the_addresses() {
    let moved = (0..50).filter(|schedule| {
        let mut lan = Lan::settled(*schedule, CLEAN, true);
        lan.nodes.iter_mut().for_each(|node| node.arrival_clock = false);
        starve(&mut lan) > 0
    });
    assert!(moved.count() > 25);
}

/// `an_isolated_node_without_a_witness_never_claims` can fail: with a witness it does.
#[test]
fn an_isolated_node_with_a_witness_claims() {
    let mut lan = Lan::settled(1, CLEAN, true);
    let active = lan.the_active();
    lan.nodes[active].sides[0] = 1;
    lan.run_for(lan.settling());
    assert_eq!(lan.actives().len(), 2);
}
