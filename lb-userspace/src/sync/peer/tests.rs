//! The two ends of a connection on a simulated wire with a virtual clock: connections that break at any point, messages that are
//! late, walks that fail, nodes that are deaf, VIPs that move.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::IpAddr,
};

use super::*;
use crate::sync::{
    agreement::Agreement,
    codec::{Hello, Telling, VERSION, telling},
    memory::{Memory, VIP, flow},
    queue,
    receiver::Receiver,
    status::ReceivingStatus,
};

/// The same as for VRRP: `XVIP_SCHEDULES=100000 cargo test --release -p lb-userspace --lib sync::peer` is a long run.
fn schedules() -> std::ops::Range<u64> {
    let number = |variable| std::env::var(variable).ok().map(|text| text.parse::<u64>().expect("a number"));
    match number("XVIP_SCHEDULE") {
        Some(one) => one..one + 1,
        None => 0..number("XVIP_SCHEDULES").unwrap_or(150),
    }
}

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
struct Lot(u64);

impl Lot {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn one_in(&mut self, limit: u64) -> bool {
        self.below(limit) == 0
    }
}

fn hello(instance: u8) -> Hello {
    let listen = std::net::SocketAddr::from(([172, 16, 0, instance], 7946));
    Hello { version: VERSION, instance: [instance; 16], node: format!("lb{instance}"), listen }
}

/// Messages on their way, with the time at which they arrive.
type Wire = VecDeque<(Instant, Vec<u8>)>;

struct World {
    lot: Lot,
    now: Instant,
    ours: Ours,
    peer: Peer,
    flows: Memory,
    /// The flows that the walk has still to give, as they were when it began.
    walk: Option<VecDeque<FlowRecord>>,
    there: Memory,
    there_holds: BTreeSet<IpAddr>,
    receiver: Option<Receiver>,
    receiving: ReceivingStatus,
    forth: Wire,
    back: Wire,
    connected: bool,
    deaf: bool,
    /// Whether anything may still go wrong.
    wild: bool,
    next_flow: u32,
}

impl World {
    fn new(schedule: u64) -> Self {
        let now = Instant::now();
        let mut lot = Lot(schedule);
        let flows = lot.below(700) as u32;
        // Some of the other side's flows are older than this node, or of nobody any more.
        let there = Memory::with(flows / 2..flows / 2 + lot.below(200) as u32);
        let ours = Ours {
            hello: hello(1),
            holdings: BTreeSet::from([VIP]),
            agreement: Agreement::default(),
            orders: Default::default(),
            rate: [200_000, 1_000_000, 25_000_000][lot.below(3) as usize],
            refresh: Duration::from_secs([2, 5, 300][lot.below(3) as usize]),
        };
        Self {
            lot,
            now,
            ours,
            peer: Peer::new(now),
            flows: Memory::with(0..flows),
            walk: None,
            there,
            there_holds: BTreeSet::new(),
            receiver: None,
            receiving: ReceivingStatus::default(),
            forth: Wire::new(),
            back: Wire::new(),
            connected: false,
            deaf: false,
            wild: true,
            next_flow: flows,
        }
    }

    fn hang_up(&mut self) {
        self.peer.closed(self.now, "broken".to_owned());
        (self.connected, self.receiver, self.walk) = (false, None, None);
        self.forth.clear();
        self.back.clear();
    }

    fn happens(&mut self) {
        match self.lot.below(12) {
            0..4 => {
                let mut ids = Vec::new();
                for _ in 0..self.lot.below(40) {
                    self.flows.put(flow(self.next_flow));
                    ids.push(flow(self.next_flow).id);
                    self.next_flow += 1;
                }
                self.peer.events(self.now, &ids);
            }
            4..6 if self.next_flow > 0 => self.changes(),
            6 if self.next_flow > 0 => {
                let number = self.lot.below(u64::from(self.next_flow)) as u32;
                self.flows.lock().remove(&flow(number).id);
                self.peer.events(self.now, &[flow(number).id]);
            }
            7 if self.lot.one_in(4) => self.hang_up(),
            8 if self.lot.one_in(4) => self.deaf = !self.deaf,
            9 => self.peer.resync(self.now),
            10 => {
                if let Some(receiver) = &mut self.receiver {
                    receiver.ask_again();
                }
            }
            11 if self.lot.one_in(6) => {
                // A hand-over: one holds it, or the other, or for a moment both or none.
                self.ours.holdings = (0..self.lot.below(2)).map(|_| VIP).collect();
                self.there_holds = (0..self.lot.below(2)).map(|_| VIP).collect();
            }
            _ => {}
        }
    }

    fn changes(&mut self) {
        let number = self.lot.below(u64::from(self.next_flow).max(1)) as u32;
        let mut record = flow(number);
        record.to_backend.flags = 0xff;
        record.age = self.lot.below(1000) as u32;
        self.flows.put(record);
        self.peer.events(self.now, &[record.id]);
    }

    /// Everything that is due now.
    fn settle(&mut self) {
        if self.peer.dial(self.now) {
            if self.wild && self.lot.one_in(3) {
                self.hang_up();
            } else {
                self.peer.connected(self.now, &self.ours);
                self.connected = true;
            }
        }
        if !self.connected {
            return;
        }
        let delay = Duration::from_micros(self.lot.below(3000));
        while let Some(message) = self.peer.next_message(self.now, &self.ours, &self.flows) {
            let at = self.forth.back().map_or(self.now, |(at, _)| *at).max(self.now + delay);
            self.forth.push_back((at, message));
        }
        self.walks();
        while !self.deaf && self.forth.front().is_some_and(|(at, _)| *at <= self.now) {
            let (_, message) = self.forth.pop_front().expect("it is there");
            self.arrives(&message);
        }
        if let Some(receiver) = self.receiver.as_mut().filter(|_| !self.deaf) {
            receiver.retire_some(&self.there_holds, &mut self.there, &mut self.receiving);
            while let Some(message) = receiver.next_message(self.now) {
                let at = self.back.back().map_or(self.now, |(at, _)| *at).max(self.now + delay);
                self.back.push_back((at, message));
            }
        }
        while self.back.front().is_some_and(|(at, _)| *at <= self.now) {
            let (_, message) = self.back.pop_front().expect("it is there");
            self.peer.received(self.now, &message).expect("an honest peer is understood");
        }
        let silent = self.receiver.as_ref().is_some_and(|receiver| !self.deaf && receiver.is_dead(self.now));
        if self.peer.is_dead(self.now) || silent {
            assert!(self.wild, "nobody is silent on a sound wire");
            self.hang_up();
        }
    }

    fn arrives(&mut self, message: &[u8]) {
        match &mut self.receiver {
            None => {
                let first = telling(message).expect("sound");
                assert!(matches!(first, Telling::Hello(_)), "{first:?}");
                self.receiver = Some(Receiver::new(hello(2), self.now));
            }
            Some(receiver) => {
                let received = receiver.received(
                    self.now,
                    message,
                    &self.there_holds,
                    &mut self.there,
                    &mut self.receiving,
                );
                received.expect("an honest sender is understood");
            }
        }
    }

    fn walks(&mut self) {
        if self.peer.starts_walk() {
            self.walk = Some(self.flows.lock().values().copied().collect());
        }
        while self.peer.has_room() {
            if self.wild && self.lot.one_in(40) {
                self.walk = None;
                return self.peer.walk_ended(false, self.now);
            }
            let Some(walk) = &mut self.walk else { return };
            let piece: Vec<FlowRecord> = walk.drain(..walk.len().min(400)).collect();
            if piece.is_empty() {
                self.walk = None;
                return self.peer.walk_ended(true, self.now);
            }
            self.peer.walked(piece);
            if self.wild && self.lot.one_in(2) {
                return;
            }
        }
    }

    fn check(&self) {
        let status = self.peer.status(self.now);
        assert!(status.queued <= queue::MOST as u64);
        if !self.connected {
            assert_eq!((status.queued, status.lag_ms), (0, 0), "nothing is kept for a peer that is down");
        }
        let under_way: usize = self.forth.iter().map(|(_, message)| message.len()).sum();
        assert!(under_way < 700_000, "{under_way} bytes under way");
    }

    /// Lets time pass, as the timers say or less.
    fn wait(&mut self) {
        let forth = self.forth.front().filter(|_| !self.deaf);
        let arrivals = forth.into_iter().chain(self.back.front());
        let heard = self.receiver.as_ref().filter(|_| !self.deaf);
        let mut next = arrivals.map(|(at, _)| *at).min();
        for wake in self.peer.wake_at(self.now).into_iter().chain(heard.map(Receiver::wake_at)) {
            next = Some(next.map_or(wake, |next| next.min(wake)));
        }
        if heard.is_some_and(Receiver::is_retiring) {
            next = None;
        }
        let next = next.unwrap_or(self.now).max(self.now + Duration::from_micros(200));
        let most =
            if self.wild { Duration::from_millis(1 + self.lot.below(100)) } else { Duration::from_secs(1) };
        self.now = next.min(self.now + most);
    }

    /// From now on nothing goes wrong; gives how long it took until all is told.
    fn comes_to_rest(&mut self) -> Duration {
        (self.wild, self.deaf) = (false, false);
        // What went wrong last may still have to be noticed.
        self.hang_up();
        let calm = self.now;
        let rate = self.ours.rate;
        let limit = Duration::from_secs(10) + Duration::from_secs(400_000 / rate);
        for step in 0.. {
            // News of flows that the walk has in its hands already, and of others.
            if step < 30 {
                self.changes();
            }
            self.settle();
            if step % 16 == 0 {
                self.check();
            }
            assert!(self.now - calm < limit, "not within {limit:?}: {:?}", self.peer.status(self.now));
            if self.peer.state() != SendingState::Up {
                self.wait();
                continue;
            }
            let status = self.peer.status(self.now);
            let idle = status.lag_ms == 0 && self.back.is_empty();
            if idle && self.receiver.as_ref().is_some_and(Receiver::is_complete) && self.same() {
                return self.now - calm;
            }
            self.wait();
        }
        unreachable!("it ends or fails")
    }

    fn same(&self) -> bool {
        let (here, there) = (self.flows.lock(), self.there.lock());
        let known = |map: &HashMap<FlowId, FlowRecord>, id: &FlowId| map.get(id).copied();
        match (self.ours.holdings.contains(&VIP), self.there_holds.contains(&VIP)) {
            // The holder's word is the truth, to the last flow.
            (true, false) => *here == *there,
            // Nothing is missing.
            _ => here.keys().all(|id| known(&there, id).is_some()),
        }
    }
}

/// Whatever happens, both sides understand each other, memory is bounded, and once the wire is sound the other side knows every
/// flow, and no other where the sender holds the VIP.
#[test]
fn after_any_trouble_the_flows_are_there() {
    let (mut syncs, mut overflowed) = (0, 0);
    for schedule in schedules() {
        let result = std::panic::catch_unwind(|| {
            let mut world = World::new(schedule);
            for _ in 0..60 {
                world.happens();
                world.settle();
                world.check();
                world.wait();
            }
            world.comes_to_rest();
            let status = world.peer.status(world.now);
            (status.full_syncs, status.overflows)
        });
        match result {
            Ok((full, over)) => {
                syncs += full;
                overflowed += over;
            }
            Err(_) => panic!("schedule {schedule}; alone: XVIP_SCHEDULE={schedule}"),
        }
    }
    println!("{syncs} full syncs, {overflowed} overflows");
}

/// Single news arrive soon, without a full sync.
#[test]
fn news_take_milliseconds() {
    let mut world = World::new(1);
    world.ours.refresh = Duration::from_secs(3600);
    world.ours.rate = 25_000_000;
    world.ours.holdings = BTreeSet::from([VIP]);
    world.there_holds.clear();
    world.comes_to_rest();
    let before = world.peer.status(world.now).full_syncs;
    for number in 10_000..10_100 {
        world.flows.put(flow(number));
        world.peer.events(world.now, &[flow(number).id]);
        let happened = world.now;
        while !world.same() {
            world.settle();
            world.wait();
        }
        assert!(world.now - happened < Duration::from_millis(20), "{:?}", world.now - happened);
    }
    let status = world.peer.status(world.now);
    assert_eq!(status.full_syncs, before);
    assert!((5..20).contains(&status.lag_p50_ms), "{status:?}");
}

/// Who does not answer costs no more memory than the queue has room for; who answers again gets everything.
#[test]
fn a_slow_peer_costs_bounded_memory() {
    let mut world = World::new(2);
    world.ours.rate = 25_000_000;
    world.ours.refresh = Duration::from_secs(3600);
    world.ours.holdings = BTreeSet::from([VIP]);
    world.there_holds.clear();
    world.comes_to_rest();
    world.wild = true;
    for number in 0..100_000 {
        world.flows.put(flow(number));
        world.peer.events(world.now, &[flow(number).id]);
        if number % 10_000 == 0 {
            // Heartbeats, but no acknowledgement: nothing is taken from the wire.
            let beat = crate::sync::codec::encode(&crate::sync::codec::Answer::Alive);
            world.peer.received(world.now, &beat).expect("sound");
            while let Some(message) = world.peer.next_message(world.now, &world.ours, &world.flows) {
                world.forth.push_back((world.now, message));
            }
            world.check();
            world.now += Duration::from_millis(100);
        }
    }
    assert!(world.peer.status(world.now).overflows > 0);
    world.comes_to_rest();
}

#[test]
fn pauses_grow_to_a_second_and_shrink_when_greeted() {
    let start = Instant::now();
    let mut peer = Peer::new(start);
    let mut now = start;
    let mut pauses = Vec::new();
    for _ in 0..7 {
        assert!(peer.dial(now));
        assert!(!peer.dial(now), "once is enough");
        peer.closed(now, "refused".to_owned());
        let retry = peer.wake_at(now).expect("it is down");
        pauses.push((retry - now).as_millis());
        assert!(!peer.dial(retry - Duration::from_millis(1)));
        now = retry;
    }
    assert_eq!(pauses, [50, 100, 200, 400, 800, 1000, 1000]);
    peer.closed(now, "again".to_owned());
    peer.nudge(now);
    assert!(peer.dial(now), "it was heard of");
    assert_eq!(peer.status(now).last_error.as_deref(), Some("refused"), "there was no connection to close");
}

#[test]
fn answers_that_make_no_sense_end_the_connection() {
    use crate::sync::codec::{Answer, encode};
    let now = Instant::now();
    let ours = Ours {
        hello: hello(1),
        holdings: BTreeSet::new(),
        agreement: Agreement::default(),
        orders: Default::default(),
        rate: 1,
        refresh: Duration::from_secs(3600),
    };
    let greeted = |with: u8| {
        let mut peer = Peer::new(now);
        assert!(peer.dial(now));
        peer.connected(now, &ours);
        assert!(peer.next_message(now, &ours, &Memory::default()).is_some());
        let said = peer.received(now, &encode(&Answer::Hello(hello(with))));
        (peer, said)
    };
    assert_eq!(greeted(1).1, Err(Refused::Ourselves));
    for said in [Answer::Ack(1), Answer::Ack(u64::MAX), Answer::Hello(hello(2))] {
        let (mut peer, greeted) = greeted(2);
        assert_eq!((greeted, peer.node()), (Ok(()), Some("lb2")));
        assert_eq!(peer.received(now, &encode(&said)), Err(Refused::Malformed), "{said:?}");
    }
    let mut early = Peer::new(now);
    assert!(early.dial(now));
    early.connected(now, &ours);
    assert_eq!(early.received(now, &encode(&Answer::Alive)), Err(Refused::Malformed), "before its Hello");
}
