//! Virtual routers on a simulated LAN with a virtual clock: loss, delay, duplication, partitions, pauses, restarts.
//!
//! Every schedule follows from its number, so that a failing one can be run again alone.

use std::{cmp::Reverse, collections::BinaryHeap, net::Ipv4Addr};

use super::*;
use crate::vrrp::advert::{Centiseconds, Seconds};

/// Schedules of each property; together more than 20,000.
const SCHEDULES: u64 = 3_000;

/// Microseconds since the start of a schedule.
type Micros = u64;

const SECOND: Micros = 1_000_000;

/// SplitMix64: small, seeded, good enough.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, both included.
    fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.range(1, 100) <= chance
    }
}

/// What the wires do to packets.
#[derive(Clone, Copy)]
struct Wires {
    delay: (Micros, Micros),
    loss_percent: u64,
    /// So many in a row from one sender to one receiver are lost at most.
    losses_in_a_row: u32,
    duplicate_percent: u64,
}

const CLEAN: Wires = Wires { delay: (50, 300), loss_percent: 0, losses_in_a_row: 0, duplicate_percent: 0 };

#[derive(Clone, Copy)]
struct Packet {
    from: usize,
    priority: Priority,
    interval: Interval,
}

/// One machine on the LAN.
struct Node {
    settings: Settings,
    /// `None` while it is dead.
    router: Option<VirtualRouter>,
    /// Nodes hear each other within a side only.
    side: u64,
    paused_until: Micros,
    /// What arrived during a pause.
    inbox: Vec<Packet>,
    lost_in_a_row: [u32; 5],
}

struct Lan {
    /// Which schedule this is, for messages.
    schedule: u64,
    random: Random,
    epoch: Instant,
    now: Micros,
    wires: Wires,
    nodes: Vec<Node>,
    sent: usize,
    order: u64,
    in_flight: BinaryHeap<Reverse<(Micros, u64, usize, usize)>>,
    packets: Vec<Packet>,
}

impl Lan {
    fn new(schedule: u64, wires: Wires) -> Self {
        Self {
            schedule,
            random: Random(schedule),
            epoch: Instant::now(),
            now: 0,
            wires,
            nodes: Vec::new(),
            sent: 0,
            order: 0,
            in_flight: BinaryHeap::new(),
            packets: Vec::new(),
        }
    }

    /// A LAN of 2 to 5 nodes of one version and one interval, none of them started.
    fn random(schedule: u64, wires: Wires, preempt: bool) -> Self {
        let mut lan = Self::new(schedule, wires);
        let interval = match lan.random.range(0, 3) {
            0 => Interval::V2(Seconds::new(1).unwrap()),
            1 => Interval::V3(Centiseconds::new(20).unwrap()),
            _ => Interval::V3(Centiseconds::new(lan.random.range(10, 150) as u16).unwrap()),
        };
        for _ in 0..lan.random.range(2, 5) {
            // Few different priorities, so that there are ties.
            let priority = lan.random.range(1, 8) as u8 * 25;
            lan.add(priority, interval, preempt);
        }
        lan
    }

    fn add(&mut self, priority: u8, interval: Interval, preempt: bool) {
        let settings = Settings {
            priority: NonZeroU8::new(priority).unwrap(),
            interval,
            preempt,
            preempt_delay: Duration::ZERO,
            primary_address: Ipv4Addr::new(172, 16, 0, 2 + self.nodes.len() as u8).into(),
        };
        self.nodes.push(Node {
            settings,
            router: None,
            side: 0,
            paused_until: 0,
            inbox: Vec::new(),
            lost_in_a_row: [0; 5],
        });
    }

    fn at(&self, micros: Micros) -> Instant {
        self.epoch + Duration::from_micros(micros)
    }

    fn boot(&mut self, node: usize) {
        let router = VirtualRouter::new(self.nodes[node].settings.clone(), self.at(self.now));
        self.nodes[node].router = Some(router);
        self.nodes[node].inbox.clear();
        self.nodes[node].paused_until = 0;
        self.feed(node, Event::Start);
    }

    fn kill(&mut self, node: usize) {
        self.nodes[node].router = None;
    }

    /// Gives one event to one node, checks what must hold after every event, and puts on the wires what it sends.
    fn feed(&mut self, node: usize, event: Event) {
        let now = self.at(self.now);
        let schedule = self.schedule;
        let Some(router) = self.nodes[node].router.as_mut() else { return };
        let before = router.state();
        let transitions = router.transitions();
        let generation = router.announce_generation();
        router.handle(now, event.clone());
        let after = router.state();
        let context = format_args!("schedule {schedule}: {before} and {event:?} gave {after}");
        assert_eq!(router.transitions() != transitions, before != after, "{context}");
        if before != VrrpState::Active && after == VrrpState::Active {
            assert!(router.announce_generation() > generation, "{context}: nobody was told");
        }
        if let Some(deadline) = router.deadline() {
            assert!(event != Event::Timer || deadline > now, "{context}: the timer would spin");
            assert!(deadline <= now + Duration::from_secs(200), "{context}: it would sleep for ever");
        }
        assert_eq!(
            router.deadline().is_some(),
            matches!(after, VrrpState::Backup | VrrpState::Active),
            "{context}"
        );
        let mut adverts = Vec::new();
        while let Some(priority) = router.poll_advert() {
            if priority == Priority::RELEASE {
                assert!(
                    before == VrrpState::Active && after != VrrpState::Active,
                    "{context}: a false farewell"
                );
            } else {
                let active = before == VrrpState::Active || after == VrrpState::Active;
                assert!(active, "{context}: only the Active router advertises");
            }
            adverts.push(priority);
        }
        assert!(adverts.len() <= 1, "{context}: sent {adverts:?}");
        for priority in adverts {
            self.transmit(node, priority);
        }
    }

    fn transmit(&mut self, from: usize, priority: Priority) {
        self.sent += 1;
        self.packets.push(Packet { from, priority, interval: self.nodes[from].settings.interval });
        let packet = self.packets.len() - 1;
        for to in 0..self.nodes.len() {
            if to == from || self.nodes[to].side != self.nodes[from].side {
                continue;
            }
            let in_a_row = self.nodes[to].lost_in_a_row[from];
            if in_a_row < self.wires.losses_in_a_row && self.random.percent(self.wires.loss_percent) {
                self.nodes[to].lost_in_a_row[from] += 1;
                continue;
            }
            self.nodes[to].lost_in_a_row[from] = 0;
            let copies = if self.random.percent(self.wires.duplicate_percent) { 2 } else { 1 };
            for _ in 0..copies {
                let arrival = self.now + self.random.range(self.wires.delay.0, self.wires.delay.1);
                self.order += 1;
                self.in_flight.push(Reverse((arrival, self.order, to, packet)));
            }
        }
    }

    /// When a node's timer is due; a paused one comes late.
    fn due(&self, node: usize) -> Option<Micros> {
        let node = &self.nodes[node];
        let deadline = node.router.as_ref()?.deadline();
        let deadline = deadline.map(|deadline| deadline.duration_since(self.epoch).as_micros() as u64);
        let resumed = (!node.inbox.is_empty()).then_some(node.paused_until);
        [deadline.map(|deadline| deadline.max(node.paused_until)), resumed].into_iter().flatten().min()
    }

    fn run_until(&mut self, end: Micros) {
        loop {
            let arrival = self.in_flight.peek().map(|Reverse((at, ..))| *at);
            let timer = (0..self.nodes.len()).filter_map(|node| Some((self.due(node)?, node))).min();
            let next = [arrival, timer.map(|(at, _)| at)].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if arrival == Some(next) {
                let Some(Reverse((_, _, to, packet))) = self.in_flight.pop() else { break };
                let packet = self.packets[packet];
                if self.nodes[to].side != self.nodes[packet.from].side {
                    continue;
                }
                if self.nodes[to].paused_until > self.now {
                    if self.nodes[to].router.is_some() {
                        self.nodes[to].inbox.push(packet);
                    }
                } else {
                    self.receive(to, packet);
                }
            } else if let Some((_, node)) = timer {
                // As the driver does: first what was received, then the timer.
                for packet in std::mem::take(&mut self.nodes[node].inbox) {
                    self.receive(node, packet);
                }
                self.feed(node, Event::Timer);
            }
        }
        self.now = end;
    }

    fn run_for(&mut self, micros: Micros) {
        self.run_until(self.now + micros);
    }

    fn receive(&mut self, to: usize, packet: Packet) {
        let source = self.nodes[packet.from].settings.primary_address;
        self.feed(to, Event::Advert { source, priority: packet.priority, interval: packet.interval });
    }

    fn actives(&self) -> Vec<usize> {
        let active =
            |node: &Node| node.router.as_ref().is_some_and(|router| router.state() == VrrpState::Active);
        (0..self.nodes.len()).filter(|node| active(&self.nodes[*node])).collect()
    }

    fn the_active(&self) -> usize {
        let actives = self.actives();
        assert_eq!(actives.len(), 1, "schedule {} at {} µs: {actives:?} are Active", self.schedule, self.now);
        actives[0]
    }

    fn router(&self, node: usize) -> &VirtualRouter {
        self.nodes[node].router.as_ref().unwrap()
    }

    fn rank(&self, node: usize) -> (NonZeroU8, IpAddr) {
        (self.nodes[node].settings.priority, self.nodes[node].settings.primary_address)
    }

    fn interval(&self) -> Micros {
        self.nodes[0].settings.interval.duration().as_micros() as u64
    }

    fn down_interval(&self, node: usize) -> Micros {
        let Settings { interval, priority, .. } = &self.nodes[node].settings;
        active_down_interval(*interval, Priority(priority.get())).as_micros() as u64
    }

    fn skew(&self, node: usize) -> Micros {
        let Settings { interval, priority, .. } = &self.nodes[node].settings;
        skew_time(*interval, Priority(priority.get())).as_micros() as u64
    }

    /// Time for one election after another to end, whatever the priorities.
    fn settling(&self) -> Micros {
        5 * (3 * self.interval() + self.interval().max(SECOND))
    }

    fn transitions(&self) -> u64 {
        self.nodes.iter().filter_map(|node| node.router.as_ref()).map(VirtualRouter::transitions).sum()
    }

    /// A random number of nodes, started within two seconds and settled.
    fn settled(schedule: u64, wires: Wires, preempt: bool) -> Self {
        let mut lan = Self::random(schedule, wires, preempt);
        for node in 0..lan.nodes.len() {
            let pause = lan.random.range(0, 2 * SECOND / lan.nodes.len() as u64);
            lan.run_for(pause);
            lan.boot(node);
        }
        lan.run_for(lan.settling());
        lan
    }

    fn assert_best_is_active(&self) {
        let active = self.the_active();
        let best =
            self.nodes.iter().filter(|node| node.router.is_some()).map(|node| node.settings.priority).max();
        assert_eq!(Some(self.nodes[active].settings.priority), best, "schedule {}", self.schedule);
    }
}

/// On a clean link exactly one is Active once settled, with preemption it is the highest priority, and it stays so.
#[test]
fn one_active_and_it_is_the_best() {
    for schedule in 0..SCHEDULES {
        let mut lan = Lan::settled(schedule, CLEAN, true);
        lan.assert_best_is_active();
        let (transitions, sent) = (lan.transitions(), lan.sent);
        lan.run_for(10 * lan.interval());
        assert_eq!(lan.transitions(), transitions, "schedule {schedule}: it did not stay settled");
        assert!((9..=11).contains(&(lan.sent - sent)), "schedule {schedule}: one advertisement per interval");
    }
}

/// Equal priorities that wake at the same moment: the highest address wins.
#[test]
fn of_equal_priorities_the_highest_address_wins() {
    for schedule in 0..500 {
        let mut lan = Lan::random(schedule, CLEAN, true);
        let priority = lan.nodes[0].settings.priority;
        for node in 0..lan.nodes.len() {
            lan.nodes[node].settings.priority = priority;
            lan.boot(node);
        }
        lan.run_for(lan.settling());
        assert_eq!(lan.the_active(), lan.nodes.len() - 1, "schedule {schedule}");
    }
}

/// Fewer than three advertisements lost in a row, duplicates, and jitter below every skew time: no takeover.
#[test]
fn bounded_loss_causes_no_takeover() {
    for schedule in 0..SCHEDULES {
        let mut lan = Lan::settled(schedule, CLEAN, true);
        let jitter = (0..lan.nodes.len()).map(|node| lan.skew(node)).min().unwrap();
        let jitter = jitter.min(lan.interval()) - 10;
        lan.wires = Wires { delay: (5, jitter), loss_percent: 60, losses_in_a_row: 2, duplicate_percent: 10 };
        let transitions = lan.transitions();
        lan.run_for(30 * lan.interval());
        assert_eq!(lan.transitions(), transitions, "schedule {schedule}");
    }
}

/// The test above can fail: one lost advertisement more, and somebody takes over.
#[test]
fn three_losses_in_a_row_do_cause_a_takeover() {
    let mut lan = Lan::settled(1, CLEAN, true);
    let transitions = lan.transitions();
    lan.wires = Wires { loss_percent: 100, losses_in_a_row: 3, ..CLEAN };
    lan.run_for(10 * lan.interval());
    assert!(lan.transitions() > transitions);
}

/// A dead Active router is replaced within the `active_down_interval` of the best that is left.
#[test]
fn a_dead_active_router_is_replaced_in_time() {
    for schedule in 0..SCHEDULES {
        let mut lan = Lan::settled(schedule, CLEAN, true);
        let pause = lan.random.range(0, 2 * lan.interval());
        lan.run_for(pause);
        let dead = lan.the_active();
        lan.kill(dead);
        let best =
            (0..lan.nodes.len()).filter(|node| *node != dead).max_by_key(|node| lan.rank(*node)).unwrap();
        lan.run_for(lan.down_interval(best) + CLEAN.delay.1);
        assert!(!lan.actives().is_empty(), "schedule {schedule}: nobody took over");
        let reason = lan.router(lan.actives()[0]).reason().clone();
        assert!(matches!(reason, Reason::ActiveSilent(_)), "schedule {schedule}: {reason}");
        lan.run_for(lan.settling());
        lan.assert_best_is_active();
    }
}

/// A released virtual router is taken over within the skew time of the best that is left.
#[test]
fn a_released_router_is_taken_over_within_skew_time() {
    for schedule in 0..SCHEDULES {
        let mut lan = Lan::settled(schedule, CLEAN, true);
        let pause = lan.random.range(0, 2 * lan.interval());
        lan.run_for(pause);
        let leaving = lan.the_active();
        let event = match lan.random.range(0, 2) {
            0 => Event::Shutdown,
            1 => Event::Release,
            _ => Event::TrackingFailed("test".to_owned()),
        };
        lan.feed(leaving, event.clone());
        let best =
            (0..lan.nodes.len()).filter(|node| *node != leaving).max_by_key(|node| lan.rank(*node)).unwrap();
        lan.run_for(lan.skew(best) + CLEAN.delay.1);
        let reason = lan.router(*lan.actives().first().expect("nobody took over")).reason().clone();
        assert!(matches!(reason, Reason::PriorityZero { .. }), "schedule {schedule}: {reason}");
        lan.run_for(lan.settling());
        assert_ne!(lan.the_active(), leaving, "schedule {schedule}: {event:?} was not the last word");
    }
}

/// With preemption off a router that returns stays Backup, whatever its priority.
#[test]
fn without_preemption_a_returning_router_stays_backup() {
    for schedule in 0..SCHEDULES {
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
}

/// After a partition heals, all but the best step down, and the best announces again.
#[test]
fn a_healed_partition_leaves_one_that_announces_again() {
    for schedule in 0..SCHEDULES {
        let mut lan = Lan::settled(schedule, CLEAN, schedule % 2 == 0);
        let first = lan.the_active();
        for node in 0..lan.nodes.len() {
            lan.nodes[node].side = lan.random.range(0, 1);
        }
        let other = (first + 1) % lan.nodes.len();
        lan.nodes[first].side = 0;
        lan.nodes[other].side = 1;
        lan.run_for(lan.settling());
        let actives = lan.actives();
        assert_eq!(actives.len(), 2, "schedule {schedule}: one on each side");
        let best = *actives.iter().max_by_key(|node| lan.rank(**node)).unwrap();
        let generation = lan.router(best).announce_generation();
        for node in 0..lan.nodes.len() {
            lan.nodes[node].side = 0;
        }
        lan.run_for(lan.interval() + 3 * CLEAN.delay.1);
        assert_eq!(lan.the_active(), best, "schedule {schedule}: within one interval");
        // Whichever spoke first: neighbours on the loser's side still believe in it.
        assert!(lan.router(best).announce_generation() > generation, "schedule {schedule}: nobody was told");
        lan.run_for(lan.settling());
        assert_eq!(lan.the_active(), best, "schedule {schedule}");
    }
}

/// Everything at once; then peace. Whatever happened, one Active is left, and it is the best.
#[test]
fn after_any_chaos_one_active_is_left() {
    for schedule in 0..SCHEDULES {
        let wires =
            Wires { delay: (50, 30_000), loss_percent: 20, losses_in_a_row: u32::MAX, duplicate_percent: 10 };
        let mut lan = Lan::random(schedule, wires, true);
        for _ in 0..lan.random.range(5, 25) {
            let node = lan.random.range(0, lan.nodes.len() as u64 - 1) as usize;
            match lan.random.range(0, 11) {
                0 | 1 => lan.boot(node),
                2 => lan.kill(node),
                3 => lan.feed(node, Event::Shutdown),
                4 => lan.feed(node, Event::Start),
                5 => lan.feed(node, Event::Release),
                6 => lan.feed(node, Event::Acquire),
                7 => lan.feed(node, Event::TrackingFailed("chaos".to_owned())),
                8 => lan.feed(node, Event::TrackingRecovered),
                9 => lan.nodes[node].paused_until = lan.now + lan.random.range(0, 10 * lan.interval()),
                10 => lan.nodes[node].side = lan.random.range(0, 1),
                _ => lan.wires.loss_percent = lan.random.range(0, 100),
            }
            let pause = lan.random.range(0, 4 * lan.interval());
            lan.run_for(pause);
        }
        lan.wires = CLEAN;
        for node in 0..lan.nodes.len() {
            lan.nodes[node].side = 0;
            lan.nodes[node].paused_until = lan.now;
            if lan.nodes[node].router.is_none() {
                lan.boot(node);
            }
            for event in [Event::TrackingRecovered, Event::Start, Event::Acquire] {
                lan.feed(node, event);
            }
        }
        lan.run_for(2 * lan.settling());
        lan.assert_best_is_active();
        let transitions = lan.transitions();
        lan.run_for(10 * lan.interval());
        assert_eq!(lan.transitions(), transitions, "schedule {schedule}: it did not stay settled");
    }
}

/// A paused Active router does not fight the one that took over while it slept.
#[test]
fn a_paused_active_router_returns_as_backup() {
    for schedule in 0..SCHEDULES {
        let mut lan = Lan::settled(schedule, CLEAN, false);
        let paused = lan.the_active();
        lan.nodes[paused].paused_until = lan.now + lan.settling();
        lan.run_for(lan.settling() - 1);
        let successor = *lan.actives().iter().find(|node| **node != paused).expect("nobody took over");
        let transitions = lan.router(successor).transitions();
        lan.run_for(lan.settling());
        assert_eq!(lan.the_active(), successor, "schedule {schedule}");
        assert_eq!(lan.router(successor).transitions(), transitions, "schedule {schedule}: it was disturbed");
        assert!(matches!(lan.router(paused).reason(), Reason::Paused(_)), "schedule {schedule}");
    }
}
