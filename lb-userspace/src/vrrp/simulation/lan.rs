//! The LAN, the nodes on it, and who answers for an address.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, VecDeque},
    env,
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU8,
    time::{Duration, Instant},
};

use crate::vrrp::{
    advert::{Centiseconds, Interval, Priority, Seconds},
    fsm::{
        ArrivalCredit, Event, Settings, VirtualRouter, VrrpState, active_down_interval, longest_lingering,
        parting_interval, parting_respite, skew_time,
    },
    group::SyncGroup,
};

/// Microseconds since the start of a schedule.
pub type Micros = u64;

pub const SECOND: Micros = 1_000_000;

/// A heartbeat that old is nobody's: `AWAY_NS` of the data plane.
const AWAY: Micros = 300_000;

/// More nodes and more links than any schedule has.
const MOST: usize = 5;

/// The highest priority that any node has.
pub const HIGHEST: Priority = Priority(200);

/// SplitMix64: small, seeded, good enough.
pub struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, both included.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    pub fn index(&mut self, len: usize) -> usize {
        self.range(0, len as u64 - 1) as usize
    }

    pub fn percent(&mut self, chance: u64) -> bool {
        self.range(1, 100) <= chance
    }
}

/// What the wires do to packets.
#[derive(Clone, Copy)]
pub struct Wires {
    pub delay: (Micros, Micros),
    pub loss_percent: u64,
    /// So many in a row from one sender to one receiver are lost at most.
    pub losses_in_a_row: u32,
    pub duplicate_percent: u64,
    /// Whether a packet may overtake one of the same sender.
    pub reorders: bool,
}

/// A switch.
pub const CLEAN: Wires =
    Wires { delay: (50, 300), loss_percent: 0, losses_in_a_row: 0, duplicate_percent: 0, reorders: false };

/// An advertisement on its way.
#[derive(Clone, Copy)]
pub struct Packet {
    pub from: usize,
    /// Which virtual router it is about: each has a link of its own.
    pub link: usize,
    pub source: IpAddr,
    pub priority: Priority,
    pub interval: Interval,
    /// The sender's wall clock when it was sent.
    pub stamped: i64,
}

/// How far a packet is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It will reach the network card, where XDP sees it.
    Card,
    /// It will reach the socket.
    Socket,
}

struct Flight {
    at: Micros,
    order: u64,
    to: usize,
    stage: Stage,
    packet: Packet,
}

impl Ord for Flight {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl PartialOrd for Flight {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Flight {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Flight {}

/// Whether the heartbeat is written that XDP wants to see before it answers for an address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Heartbeat {
    Beating,
    /// Nobody has written it since then.
    Stopped(Micros),
}

/// One machine on the LAN.
pub struct Node {
    /// Of each member, which is on the link of the same number.
    pub settings: Vec<Settings>,
    /// `None` while the process is dead.
    pub group: Option<SyncGroup>,
    /// On each link nodes hear each other within a side only.
    pub sides: Vec<u64>,
    /// The process does not run until then; XDP does.
    paused_until: Option<Micros>,
    /// What arrived during a pause.
    inbox: VecDeque<Packet>,
    /// So long packets take from the network card to the socket.
    pub socket_lag: Micros,
    /// They never get there.
    pub deaf: bool,
    /// Whether the driver asks XDP when the last advertisement arrived.
    pub arrival_clock: bool,
    /// When XDP last saw an advertisement, by link and sender.
    seen: [[Option<Micros>; MOST]; MOST],
    heartbeat: Heartbeat,
    /// So long XDP answers after the last heartbeat, where a process that left has said so.
    own_lease: Option<Micros>,
    /// Until when a process that left may be resumed, and the priorities of its routers.
    note: Option<(Micros, Vec<Priority>)>,
    /// What XDP was last told to answer for, by link; it outlives the process.
    held: [bool; MOST],
    /// How far its wall clock is off.
    pub wall: i64,
    lost_in_a_row: [[u32; MOST]; MOST],
    /// When the last packet arrives that is on its way, by link and sender.
    latest: [[Micros; MOST]; MOST],
}

/// Who had an address since [`Lan::look`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Owners {
    /// The fewest nodes that held it at a moment.
    pub fewest: usize,
    /// The most.
    pub most: usize,
}

/// Whether a received packet counts: from the packet, the receiver and the receiver's wall clock. The place for an
/// authenticator, which is the only part with a wall clock.
pub type Verify = Box<dyn FnMut(&Packet, usize, i64) -> bool>;

pub struct Lan {
    /// Which schedule this is, for messages.
    pub schedule: u64,
    pub random: Random,
    epoch: Instant,
    pub now: Micros,
    pub wires: Wires,
    pub nodes: Vec<Node>,
    pub sent: usize,
    pub verify: Verify,
    /// A digest of all that happened.
    pub trace: u64,
    /// A schedule that runs alone tells its story.
    narrate: bool,
    /// Another lease than the data plane's.
    pub lease: Option<Micros>,
    /// Whether XDP falls silent when somebody else has claimed an address since the heartbeat stopped.
    pub claims_silence: bool,
    /// The longest that anybody was told to wait for one that left.
    longest_patience: Micros,
    order: u64,
    in_flight: BinaryHeap<Reverse<Flight>>,
    owners: [Owners; MOST],
    /// Since when two nodes have answered for the address of a link.
    contended_since: [[[Option<Micros>; MOST]; MOST]; MOST],
    /// Whether anybody has taken or let go of an address since the last look at them.
    moved: bool,
    /// Whether any two do now.
    contended: bool,
    /// The longest that two did.
    contended_for: Micros,
}

impl Lan {
    pub fn new(schedule: u64, wires: Wires) -> Self {
        Self {
            schedule,
            random: Random(schedule),
            epoch: Instant::now(),
            now: 0,
            wires,
            nodes: Vec::new(),
            sent: 0,
            verify: Box::new(|_, _, _| true),
            trace: 0,
            narrate: env::var_os("XVIP_SCHEDULE").is_some(),
            lease: None,
            claims_silence: true,
            longest_patience: 0,
            order: 0,
            in_flight: BinaryHeap::new(),
            owners: [Owners::default(); MOST],
            contended_since: [[[None; MOST]; MOST]; MOST],
            moved: false,
            contended: false,
            contended_for: 0,
        }
    }

    /// Few different priorities, so that there are ties.
    pub fn any_priority(&mut self) -> u8 {
        self.random.range(1, u64::from(HIGHEST.0) / 25) as u8 * 25
    }

    /// A LAN of 2 to 5 nodes with one virtual router, of one version and one interval, none of them started.
    pub fn random(schedule: u64, wires: Wires, preempt: bool) -> Self {
        let mut lan = Self::new(schedule, wires);
        let interval = lan.any_interval();
        for _ in 0..lan.random.range(2, 5) {
            let priority = lan.any_priority();
            lan.add(&[priority], interval, preempt);
        }
        lan
    }

    pub fn any_interval(&mut self) -> Interval {
        match self.random.range(0, 5) {
            0 => Interval::V2(Seconds::new(1).unwrap()),
            1 => Interval::V2(Seconds::new(self.random.range(1, 3) as u8).unwrap()),
            2 | 3 => Interval::V3(Centiseconds::new(20).unwrap()),
            4 => Interval::V3(Centiseconds::new(self.random.range(2, 10) as u16).unwrap()),
            _ => Interval::V3(Centiseconds::new(self.random.range(10, 150) as u16).unwrap()),
        }
    }

    /// A node with a virtual router for each priority.
    pub fn add(&mut self, priorities: &[u8], interval: Interval, preempt: bool) {
        let number = self.nodes.len() as u8;
        let settings = |(link, priority): (usize, &u8)| Settings {
            priority: NonZeroU8::new(*priority).unwrap(),
            interval,
            preempt,
            preempt_delay: Duration::ZERO,
            primary_address: Ipv4Addr::new(172, 16, link as u8, 2 + number).into(),
            arrival_credit: ArrivalCredit::Unlimited,
        };
        self.nodes.push(Node {
            settings: priorities.iter().enumerate().map(settings).collect(),
            group: None,
            sides: vec![0; priorities.len()],
            paused_until: None,
            inbox: VecDeque::new(),
            socket_lag: 0,
            deaf: false,
            arrival_clock: true,
            seen: [[None; MOST]; MOST],
            heartbeat: Heartbeat::Beating,
            own_lease: None,
            note: None,
            held: [false; MOST],
            wall: 0,
            lost_in_a_row: [[0; MOST]; MOST],
            latest: [[0; MOST]; MOST],
        });
    }

    pub fn links(&self) -> usize {
        self.nodes[0].settings.len()
    }

    fn at(&self, micros: Micros) -> Instant {
        self.epoch + Duration::from_micros(micros)
    }

    /// Starts the process of a node, anew if it runs.
    pub fn boot(&mut self, node: usize) {
        self.start(node, &[Event::Start]);
    }

    /// A planned restart begins: the routers leave, and their process ends with them. Only of a node that runs.
    pub fn leave(&mut self, node: usize) {
        if self.nodes[node].group.is_none() || self.nodes[node].paused_until.is_some() {
            return;
        }
        let announced = parting_interval(self.nodes[node].settings[0].interval);
        let respite = parting_respite(announced).as_micros() as Micros;
        self.longest_patience = self.longest_patience.max(3 * announced.duration().as_micros() as Micros);
        let group = self.nodes[node].group.as_ref().expect("it runs");
        let priorities = group.members().iter().map(VirtualRouter::priority).collect();
        self.nodes[node].note = Some((self.now + respite, priorities));
        // The lease first.
        self.nodes[node].own_lease = Some(respite.max(self.lease()));
        self.tell(node, Event::Leave(announced));
        self.end_if_left(node);
    }

    /// The process ends once nothing is left to say.
    fn end_if_left(&mut self, node: usize) {
        let Some(group) = &self.nodes[node].group else { return };
        let is_done = |router: &VirtualRouter| router.has_left() || !router.holds_addresses();
        if self.nodes[node].note.is_none() || !group.members().iter().all(is_done) {
            return;
        }
        if !group.members().iter().all(VirtualRouter::has_left) {
            self.nodes[node].note = None;
        }
        self.kill(node);
        if let Some((until, _)) = self.nodes[node].note
            && let Heartbeat::Stopped(last) = self.nodes[node].heartbeat
        {
            // Counted from the last heartbeat, it must not be later than from the first parting word.
            self.nodes[node].own_lease = Some(until.saturating_sub(last));
        }
    }

    /// The successor of a process that left starts; without a note it is an ordinary start.
    pub fn resume(&mut self, node: usize) {
        let note = self.nodes[node].note.clone();
        let Some((until, priorities)) = note.filter(|_| self.nodes[node].group.is_none()) else {
            return self.boot(node);
        };
        let until = self.at(until);
        let events: Vec<Event> =
            priorities.into_iter().map(|priority| Event::Resume { until, priority }).collect();
        self.start(node, &events);
    }

    fn start(&mut self, node: usize, events: &[Event]) {
        let now = self.at(self.now);
        let routers =
            self.nodes[node].settings.iter().map(|settings| VirtualRouter::new(settings.clone(), now));
        let names = ["one", "two", "three", "four", "five"];
        let group = SyncGroup::new(names.map(str::to_owned).into_iter().zip(routers));
        let started = &mut self.nodes[node];
        started.group = Some(group);
        started.inbox.clear();
        started.paused_until = None;
        started.heartbeat = Heartbeat::Beating;
        (started.own_lease, started.note) = (None, None);
        started.held = [false; MOST];
        self.moved = true;
        for (member, event) in events.iter().enumerate() {
            self.run(node, member, event.clone());
        }
        self.observe();
    }

    /// Kills the process of a node. What XDP answers for stays as it was, until the lease ends.
    pub fn kill(&mut self, node: usize) {
        if self.narrate {
            println!("{:>10} µs: node {node} is killed", self.now);
        }
        self.stop_heartbeat(node);
        self.nodes[node].group = None;
        self.nodes[node].paused_until = None;
        self.moved = true;
        self.observe();
    }

    /// Stops the process of a node, as SIGSTOP does.
    pub fn pause(&mut self, node: usize, duration: Micros) {
        if self.nodes[node].group.is_some() {
            self.stop_heartbeat(node);
            let until = self.nodes[node].paused_until.unwrap_or(0).max(self.now + duration);
            self.nodes[node].paused_until = Some(until);
            if self.narrate {
                println!("{:>10} µs: node {node} is paused until {until} µs", self.now);
            }
        }
    }

    fn stop_heartbeat(&mut self, node: usize) {
        if self.nodes[node].heartbeat == Heartbeat::Beating {
            let age = self.random.range(0, (self.lease() / 5).min(SECOND / 4));
            self.nodes[node].heartbeat = Heartbeat::Stopped(self.now.saturating_sub(age));
        }
    }

    /// So long XDP answers after the last heartbeat.
    pub fn lease(&self) -> Micros {
        self.lease.unwrap_or_else(|| (3 * self.interval()).clamp(300_000, 3 * SECOND))
    }

    /// The same on one node.
    fn lease_of(&self, node: usize) -> Micros {
        self.nodes[node].own_lease.unwrap_or_else(|| self.lease())
    }

    /// An event for all members, or the only one.
    pub fn tell(&mut self, node: usize, event: Event) {
        for member in 0..self.links() {
            self.feed(node, member, event.clone());
        }
    }

    /// Gives one event to one member of one node, checks what must hold after every event, and puts on the wires what it
    /// sends. Does nothing to a node that is dead or paused.
    pub fn feed(&mut self, node: usize, member: usize, event: Event) {
        if self.nodes[node].paused_until.is_none_or(|until| until <= self.now) {
            self.run(node, member, event);
            self.observe();
        }
    }

    fn run(&mut self, node: usize, member: usize, event: Event) {
        let now = self.at(self.now);
        let schedule = self.schedule;
        let Node { group: Some(group), settings, .. } = &mut self.nodes[node] else { return };
        let glance = |router: &VirtualRouter| {
            (router.state(), router.transitions(), router.announce_generation(), router.holds_addresses())
        };
        let mut before = [(VrrpState::Initialize, 0, 0, false); MOST];
        for (before, router) in before.iter_mut().zip(group.members()) {
            *before = glance(router);
        }
        let timer = event == Event::Timer;
        let handing_over = matches!(event, Event::Release | Event::Shutdown);
        group.handle(now, member, event.clone());
        let mut adverts = Vec::new();
        while let Some((member, priority)) = group.poll_advert() {
            adverts.push((member, priority));
        }
        let active = |router: &VirtualRouter| router.state() == VrrpState::Active;
        let actives = group.members().iter().filter(|router| active(router)).count();
        assert!(
            actives == 0 || actives == group.members().len(),
            "schedule {schedule}: {actives} of a group are Active"
        );
        let mut digest = 0;
        let mut held = [false; MOST];
        for (link, router) in group.members().iter().enumerate() {
            let (state, transitions, generation, held_before) = before[link];
            let after = router.state();
            let context =
                format_args!("schedule {schedule} at {} µs: {state} and {event:?} gave {after}", self.now);
            if self.narrate && (state != after || !timer) {
                println!("{:>10} µs: node {node}, {link}: {event:?}: {state} -> {after}", self.now);
            }
            assert_eq!(router.transitions() != transitions, state != after, "{context}");
            if state != VrrpState::Active && after == VrrpState::Active {
                assert!(router.announce_generation() > generation, "{context}: nobody was told");
            }
            held[link] = router.holds_addresses();
            assert!(held[link] || after != VrrpState::Active, "{context}: Active without addresses");
            if router.has_left() {
                assert!(timer && held_before, "{context}: it left with what it did not have");
            } else if held[link] && after != VrrpState::Active {
                let began = state == VrrpState::Active;
                assert!(held_before, "{context}: it holds again what it had let go");
                assert!(!began || handing_over, "{context}: only a hand-over lingers");
                assert!(after != VrrpState::Fault, "{context}: a fault does not linger");
                let end = now + longest_lingering(settings[link].interval);
                assert!(
                    router.deadline().is_some_and(|deadline| deadline <= end),
                    "{context}: lingers for ever"
                );
            }
            let sent = || adverts.iter().filter(|(member, _)| *member == link).map(|(_, priority)| *priority);
            assert!(sent().count() <= 1, "{context}: sent {adverts:?}");
            for priority in sent() {
                if priority == Priority::RELEASE {
                    assert!(
                        state == VrrpState::Active && after != VrrpState::Active,
                        "{context}: false farewell"
                    );
                } else {
                    let active = state == VrrpState::Active || after == VrrpState::Active;
                    assert!(active, "{context}: only the Active router advertises");
                }
                digest = digest * 257 + u64::from(priority.0) + 1;
            }
            digest = digest * 31 + after as u64 * 2 + u64::from(held[link]);
        }
        match group.deadline() {
            Some(deadline) => {
                let late = format_args!("schedule {schedule} at {} µs: {event:?}", self.now);
                assert!(!timer || deadline > now, "{late}: the timer would spin");
                assert!(deadline <= now + Duration::from_secs(200), "{late}: it would sleep for ever");
            }
            None => {
                let idle = |router: &VirtualRouter| {
                    matches!(router.state(), VrrpState::Initialize | VrrpState::Fault)
                };
                assert!(group.members().iter().all(idle), "schedule {schedule}: it would sleep for ever");
            }
        }
        if self.nodes[node].held != held {
            self.nodes[node].held = held;
            self.moved = true;
        }
        let mixed = (self.trace ^ self.now ^ (node as u64) << 56).wrapping_mul(0x0100_0000_01b3);
        self.trace = mixed.rotate_left(17) ^ digest;
        for (member, priority) in adverts {
            self.transmit(node, member, priority);
        }
    }

    fn transmit(&mut self, from: usize, link: usize, priority: Priority) {
        self.sent += 1;
        let sender = &self.nodes[from];
        let router = sender.group.as_ref().and_then(|group| group.members().get(link));
        let interval = router.map_or(sender.settings[link].interval, VirtualRouter::announced_interval);
        let packet = Packet {
            from,
            link,
            source: sender.settings[link].primary_address,
            priority,
            interval,
            stamped: self.now as i64 + sender.wall,
        };
        for to in 0..self.nodes.len() {
            if to == from || self.nodes[to].sides[link] != self.nodes[from].sides[link] {
                continue;
            }
            let in_a_row = &mut self.nodes[to].lost_in_a_row[link][from];
            if *in_a_row < self.wires.losses_in_a_row && self.random.percent(self.wires.loss_percent) {
                *in_a_row += 1;
                continue;
            }
            *in_a_row = 0;
            let copies = if self.random.percent(self.wires.duplicate_percent) { 2 } else { 1 };
            for _ in 0..copies {
                let mut at = self.now + self.random.range(self.wires.delay.0, self.wires.delay.1);
                if !self.wires.reorders {
                    at = at.max(self.nodes[to].latest[link][from]);
                }
                self.nodes[to].latest[link][from] = at;
                self.fly(at, to, Stage::Card, packet);
            }
        }
    }

    fn fly(&mut self, at: Micros, to: usize, stage: Stage, packet: Packet) {
        self.order += 1;
        self.in_flight.push(Reverse(Flight { at, order: self.order, to, stage, packet }));
    }

    /// When a node does something of its own accord; a paused one comes late.
    fn due(&self, node: usize) -> Option<Micros> {
        let node = &self.nodes[node];
        let group = node.group.as_ref()?;
        if let Some(until) = node.paused_until {
            return Some(until);
        }
        group.deadline().map(|deadline| deadline.duration_since(self.epoch).as_micros() as u64)
    }

    /// When XDP next stops to answer for an address on a node whose heartbeat has stopped.
    fn lease_end(&self, node: usize) -> Option<Micros> {
        let ends = (0..self.links()).filter_map(|link| self.silent_from(node, link));
        ends.filter(|at| *at > self.now).min()
    }

    /// When XDP stops to answer for the address of a link: when the lease ends, or when somebody else has claimed it since
    /// the heartbeat stopped. Who becomes Active announces that; here its advertisement stands for it.
    fn silent_from(&self, node: usize, link: usize) -> Option<Micros> {
        let Heartbeat::Stopped(last) = self.nodes[node].heartbeat else { return None };
        let claimed = self.nodes[node].seen[link]
            .iter()
            .flatten()
            .filter(|at| self.claims_silence && **at > last)
            .min();
        let end = last + self.lease_of(node);
        self.nodes[node].held[link].then(|| claimed.map_or(end, |at| end.min((*at).max(last + AWAY))))
    }

    pub fn run_until(&mut self, end: Micros) {
        loop {
            let arrival = self.in_flight.peek().map(|Reverse(flight)| flight.at);
            let timer = (0..self.nodes.len()).filter_map(|node| Some((self.due(node)?, node))).min();
            let lease_end = (0..self.nodes.len()).filter_map(|node| self.lease_end(node)).min();
            let next = [arrival, timer.map(|(at, _)| at), lease_end].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            self.moved |= lease_end == Some(next);
            if arrival == Some(next) {
                if let Some(Reverse(flight)) = self.in_flight.pop() {
                    self.arrive(&flight);
                }
            } else if let Some((_, node)) = timer.filter(|(at, _)| *at <= self.now) {
                self.wake(node);
            }
            self.observe();
        }
        self.now = end;
    }

    pub fn run_for(&mut self, micros: Micros) {
        self.run_until(self.now + micros);
    }

    fn arrive(&mut self, flight: &Flight) {
        let Flight { to, packet, .. } = *flight;
        if flight.stage == Stage::Card {
            if self.nodes[to].sides[packet.link] != self.nodes[packet.from].sides[packet.link] {
                return;
            }
            let node = &mut self.nodes[to];
            if packet.priority != Priority::RELEASE {
                node.seen[packet.link][packet.from] = Some(self.now);
                self.moved |= node.heartbeat != Heartbeat::Beating;
            }
            if node.deaf {
                return;
            }
            if node.socket_lag > 0 {
                let at = self.now + node.socket_lag;
                return self.fly(at, to, Stage::Socket, packet);
            }
        }
        let node = &mut self.nodes[to];
        if node.group.is_none() {
            return;
        }
        if node.paused_until.is_some() {
            // About what the default receive buffer holds.
            if node.inbox.len() < 200 {
                node.inbox.push_back(packet);
            }
        } else {
            self.receive(to, packet);
        }
    }

    fn receive(&mut self, to: usize, packet: Packet) {
        let clock = self.now as i64 + self.nodes[to].wall;
        if (self.verify)(&packet, to, clock) {
            let Packet { source, priority, interval, .. } = packet;
            self.run(to, packet.link, Event::Advert { source, priority, interval });
        }
    }

    /// A node's deadline has come, or its pause is over. As the driver does: first what was received, then the arrival
    /// clock, then the timer; and the heartbeat after that.
    fn wake(&mut self, node: usize) {
        if self.nodes[node].paused_until.take().is_some() {
            let late = matches!(self.nodes[node].heartbeat, Heartbeat::Stopped(last) if self.now - last > self.lease_of(node));
            if !late {
                self.nodes[node].heartbeat = Heartbeat::Beating;
                self.moved = true;
                self.observe();
            }
        }
        while let Some(packet) = self.nodes[node].inbox.pop_front() {
            self.receive(node, packet);
        }
        for link in 0..self.links() {
            if let Some((source, at)) = self.arrival(node, link) {
                self.run(node, link, Event::Arrived { source, at });
            }
        }
        self.run(node, 0, Event::Timer);
        self.end_if_left(node);
        if self.nodes[node].group.is_none() {
            return;
        }
        self.moved |= self.nodes[node].heartbeat != Heartbeat::Beating;
        self.nodes[node].heartbeat = Heartbeat::Beating;
    }

    fn arrival(&self, node: usize, link: usize) -> Option<(IpAddr, Instant)> {
        let node = &self.nodes[node];
        let router = &node.group.as_ref()?.members()[link];
        if !node.arrival_clock || router.state() != VrrpState::Backup {
            return None;
        }
        let (source, _) = router.active_router()?;
        let from = self.nodes.iter().position(|peer| peer.settings[link].primary_address == source)?;
        Some((source, self.at(node.seen[link][from]?)))
    }

    /// Whether XDP on this node answers for the address of a link.
    pub fn answers(&self, node: usize, link: usize) -> bool {
        self.nodes[node].held[link] && self.silent_from(node, link).is_none_or(|at| self.now < at)
    }

    /// Who has the addresses now.
    fn observe(&mut self) {
        if !std::mem::take(&mut self.moved) {
            return;
        }
        for link in 0..self.links() {
            let (holding, answering) = self.count(link);
            let owners = &mut self.owners[link];
            owners.fewest = owners.fewest.min(holding);
            owners.most = owners.most.max(holding);
            // As long as one at most answers, no two do.
            if answering > 1 || self.contended {
                self.contend(link);
            }
        }
    }

    fn contend(&mut self, link: usize) {
        for one in 0..self.nodes.len() {
            for other in 0..one {
                let both = self.answers(one, link) && self.answers(other, link);
                let since = &mut self.contended_since[link][one][other];
                if let Some(since) = *since {
                    self.contended_for = self.contended_for.max(self.now - since);
                }
                *since = both.then(|| since.unwrap_or(self.now));
            }
        }
        let pairs = self.contended_since.iter().flatten().flatten();
        self.contended = pairs.flatten().next().is_some();
    }

    /// How many nodes with a live process hold the address of a link, and how many answer for it.
    fn count(&self, link: usize) -> (usize, usize) {
        let nodes = || (0..self.nodes.len()).filter(|node| self.nodes[*node].held[link]);
        let holding = nodes().filter(|node| self.nodes[*node].group.is_some()).count();
        (holding, nodes().filter(|node| self.answers(*node, link)).count())
    }

    /// How many nodes answer for the address of the first link.
    pub fn answering(&self) -> usize {
        self.count(0).1
    }

    /// Forgets who had the addresses until now.
    pub fn look(&mut self) {
        for link in 0..self.links() {
            let (holding, _) = self.count(link);
            self.owners[link] = Owners { fewest: holding, most: holding };
        }
    }

    /// Who had the address of a link since [`look`](Self::look).
    pub fn owners(&self, link: usize) -> Owners {
        self.owners[link]
    }

    /// The longest time for which two nodes answered for one address.
    pub fn contended_for(&self) -> Micros {
        let going_on = self.contended_since.iter().flatten().flatten().flatten();
        let longest = going_on.map(|since| self.now - since).max();
        self.contended_for.max(longest.unwrap_or(0))
    }

    pub fn actives(&self) -> Vec<usize> {
        let active = |node: &Node| {
            let first = node.group.as_ref().and_then(|group| group.members().first());
            first.is_some_and(|router| router.state() == VrrpState::Active)
        };
        (0..self.nodes.len()).filter(|node| active(&self.nodes[*node])).collect()
    }

    pub fn the_active(&self) -> usize {
        let actives = self.actives();
        assert_eq!(actives.len(), 1, "schedule {} at {} µs: {actives:?} are Active", self.schedule, self.now);
        actives[0]
    }

    /// No node has advertised more often on a link than its timer and its answers to others allow.
    pub fn assert_few_words(&self) {
        let intervals = self.now / self.interval() + 1;
        let most = intervals * 11 * (self.nodes.len() * self.links()) as u64;
        assert!(self.sent as u64 <= most, "schedule {}: {} of at most {most}", self.schedule, self.sent);
    }

    /// The only virtual router of a node, or its first.
    pub fn router(&self, node: usize) -> &VirtualRouter {
        &self.nodes[node].group.as_ref().unwrap().members()[0]
    }

    /// By which elections go; for sync groups the lowest priority, then the first address.
    pub fn rank(&self, node: usize) -> (u8, IpAddr) {
        let settings = &self.nodes[node].settings;
        let lowest = settings.iter().map(|settings| settings.priority.get()).min();
        (lowest.unwrap(), settings[0].primary_address)
    }

    /// The best of those for which `like` holds.
    pub fn best(&self, like: impl Fn(usize) -> bool) -> usize {
        (0..self.nodes.len()).filter(|node| like(*node)).max_by_key(|node| self.rank(*node)).unwrap()
    }

    pub fn alive(&self, node: usize) -> bool {
        self.nodes[node].group.is_some()
    }

    pub fn interval(&self) -> Micros {
        self.nodes[0].settings[0].interval.duration().as_micros() as u64
    }

    pub fn down_interval(&self, node: usize) -> Micros {
        let priority = Priority(self.rank(node).0);
        active_down_interval(self.nodes[node].settings[0].interval, priority).as_micros() as u64
    }

    pub fn skew(&self, node: usize) -> Micros {
        let priority = Priority(self.rank(node).0);
        skew_time(self.nodes[node].settings[0].interval, priority).as_micros() as u64
    }

    /// The longest `Active_Down_Interval` that any priority has.
    pub fn longest_down_interval(&self) -> Micros {
        let interval = self.nodes[0].settings[0].interval;
        let usual = active_down_interval(interval, Priority::RELEASE).as_micros() as u64;
        // Three intervals and the skew time, which is a third of that at most.
        usual.max(self.longest_patience / 3 * 4)
    }

    /// Time for one election after another to end, whatever the priorities.
    pub fn settling(&self) -> Micros {
        3 * self.longest_down_interval()
    }

    pub fn transitions(&self) -> u64 {
        let groups = self.nodes.iter().filter_map(|node| node.group.as_ref());
        groups.flat_map(SyncGroup::members).map(VirtualRouter::transitions).sum()
    }

    /// Starts all nodes within two seconds, and lets them settle.
    pub fn boot_all(&mut self) {
        for node in 0..self.nodes.len() {
            let pause = self.random.range(0, 2 * SECOND / self.nodes.len() as u64);
            self.run_for(pause);
            self.boot(node);
        }
        self.run_for(self.settling());
    }

    /// A random number of nodes, started within two seconds and settled.
    pub fn settled(schedule: u64, wires: Wires, preempt: bool) -> Self {
        let mut lan = Self::random(schedule, wires, preempt);
        lan.boot_all();
        lan
    }

    /// Duplicates, reordering, and delays that differ by less than any skew time, so that they decide no election; and
    /// losses, fewer than three in a row.
    pub fn bad_wires(&self, loss_percent: u64) -> Wires {
        let least = skew_time(self.nodes[0].settings[0].interval, HIGHEST).as_micros() as u64;
        let delay = (5, least.min(self.interval()) - 10);
        Wires { delay, loss_percent, losses_in_a_row: 2, duplicate_percent: 10, reorders: true }
    }

    pub fn assert_best_is_active(&self) {
        let active = self.the_active();
        let best = self.best(|node| self.alive(node));
        assert_eq!(self.rank(active).0, self.rank(best).0, "schedule {}", self.schedule);
    }

    /// Nothing changes for ten intervals, and one node advertises.
    pub fn assert_stays_settled(&mut self) {
        let (transitions, sent) = (self.transitions(), self.sent);
        self.look();
        self.run_for(10 * self.interval());
        assert_eq!(self.transitions(), transitions, "schedule {}: it did not stay settled", self.schedule);
        let sent = (self.sent - sent) / self.links();
        assert!(
            (9..=11).contains(&sent),
            "schedule {}: {sent} advertisements in ten intervals",
            self.schedule
        );
        for link in 0..self.links() {
            let Owners { fewest, most } = self.owners(link);
            assert_eq!((fewest, most), (1, 1), "schedule {}: owners on link {link}", self.schedule);
        }
    }
}
