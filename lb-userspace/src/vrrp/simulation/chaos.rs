//! Everything at once.

use super::lan::{CLEAN, HIGHEST, Lan, Owners, Wires};
use crate::vrrp::{
    advert::Priority,
    fsm::{Event, VrrpState},
};

/// What does not cut anybody off: anything that happens to one node, and is over in a moment.
fn incident(lan: &mut Lan, node: usize) {
    let link = lan.random.index(lan.links());
    match lan.random.range(0, 14) {
        0 | 1 => lan.boot(node),
        2 => lan.kill(node),
        3 => lan.feed(node, link, Event::Shutdown),
        4 => lan.feed(node, link, Event::Start),
        5 => lan.feed(node, link, Event::Release),
        6 | 7 => lan.feed(node, link, Event::Acquire),
        8 => lan.feed(node, link, Event::TrackingFailed("chaos".to_owned())),
        9 => lan.feed(node, link, Event::TrackingRecovered),
        10 => {
            let weighted = Priority(lan.random.range(1, u64::from(HIGHEST.0)) as u8);
            lan.feed(node, link, Event::Weighted(weighted));
        }
        11 | 12 => lan.leave(node),
        13 => lan.resume(node),
        _ => {
            // Preemption is changed on all nodes, one after another.
            lan.nodes[node].settings[link].preempt ^= true;
            let settings = lan.nodes[node].settings[link].clone();
            lan.feed(node, link, Event::Reconfigure(settings));
        }
    }
}

/// What cuts off, starves or confuses.
fn calamity(lan: &mut Lan, node: usize) {
    let link = lan.random.index(lan.links());
    match lan.random.range(0, 6) {
        0 => {
            let pause = lan.random.range(0, 10 * lan.interval());
            lan.pause(node, pause);
        }
        1 => lan.nodes[node].sides[link] = lan.random.range(0, 1),
        2 => lan.wires.loss_percent = lan.random.range(0, 100),
        3 => lan.nodes[node].socket_lag = lan.random.range(0, 5 * lan.interval()),
        4 => lan.nodes[node].deaf ^= true,
        5 => lan.nodes[node].wall += lan.random.range(0, 1_000_000_000) as i64 - 500_000_000,
        _ => {
            let answers = lan.random.percent(50);
            let verdict = answers.then_some(()).ok_or_else(|| "no gateway".to_owned());
            lan.feed(node, link, Event::Witness(verdict));
        }
    }
}

/// A LAN of 2 to 5 nodes with 1 to 3 virtual routers each, in a sync group if more than one.
fn any_lan(schedule: u64, wires: Wires) -> Lan {
    let mut lan = Lan::new(schedule, wires);
    let interval = lan.any_interval();
    let links = if lan.random.percent(60) { 1 } else { lan.random.range(2, 3) };
    for _ in 0..lan.random.range(2, 5) {
        let priority = lan.any_priority();
        let priorities: Vec<u8> = (0..links).map(|_| priority).collect();
        lan.add(&priorities, interval, true);
    }
    lan
}

/// Whether a node may have the addresses: it runs, and nothing that it tracks has failed.
fn takes_part(lan: &Lan, node: usize) -> bool {
    lan.nodes[node].group.as_ref().is_some_and(|group| {
        let out = |state| matches!(state, VrrpState::Initialize | VrrpState::Fault);
        group.members().iter().all(|router| !out(router.state()))
    })
}

properties! {
    /// Everything at once; then peace. Whatever happened, one Active is left, and it is the best.
    fn after_any_chaos_one_active_is_left(schedule) {
        let wires = Wires {
            delay: (50, 30_000),
            loss_percent: 20,
            losses_in_a_row: u32::MAX,
            duplicate_percent: 10,
            reorders: true,
        };
        let mut lan = any_lan(schedule, wires);
        for _ in 0..lan.random.range(5, 25) {
            let node = lan.random.index(lan.nodes.len());
            if lan.random.percent(60) { incident(&mut lan, node) } else { calamity(&mut lan, node) }
            let pause = lan.random.range(0, 4 * lan.interval());
            lan.run_for(pause);
        }
        lan.wires = CLEAN;
        for node in &mut lan.nodes {
            node.sides.fill(0);
            node.settings.iter_mut().for_each(|settings| settings.preempt = true);
            (node.socket_lag, node.deaf) = (0, false);
        }
        // Pauses end.
        lan.run_for(20 * lan.interval());
        for node in 0..lan.nodes.len() {
            if !lan.alive(node) {
                lan.boot(node);
            }
            for link in 0..lan.links() {
                let settings = lan.nodes[node].settings[link].clone();
                lan.feed(node, link, Event::Weighted(Priority(settings.priority.get())));
                lan.feed(node, link, Event::Reconfigure(settings));
            }
            for event in [Event::TrackingRecovered, Event::Witness(Ok(())), Event::Start, Event::Acquire] {
                lan.tell(node, event);
            }
        }
        lan.run_for(2 * lan.settling());
        lan.assert_best_is_active();
        lan.assert_stays_settled();
    }

    /// No schedule without partition or pause ends with two owners or none: nodes die, come, leave, fail and change in
    /// any order, packets are lost (fewer than three in a row), late and doubled, and nothing is put in order at the
    /// end. From the last incident on everybody may need a whole down interval to notice, and three intervals to be
    /// heard. After that, as long as any node takes part, there is one owner at every moment.
    fn without_partition_or_pause_one_owner_is_left(schedule) {
        let mut lan = any_lan(schedule, CLEAN);
        lan.wires = lan.bad_wires(20);
        for node in 0..lan.nodes.len() {
            lan.boot(node);
        }
        for _ in 0..lan.random.range(1, 20) {
            let node = lan.random.index(lan.nodes.len());
            incident(&mut lan, node);
            let pause = lan.random.range(0, 5 * lan.interval());
            lan.run_for(pause);
        }
        lan.run_for(lan.longest_down_interval() + 3 * lan.interval() + lan.wires.delay.1);
        lan.look();
        lan.run_for(3 * lan.interval());
        let expected = usize::from((0..lan.nodes.len()).any(|node| takes_part(&lan, node)));
        for link in 0..lan.links() {
            let Owners { fewest, most } = lan.owners(link);
            assert_eq!((fewest, most), (expected, expected), "schedule {schedule}: owners on link {link}");
        }
    }
}
