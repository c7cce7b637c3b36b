//! What is written of each kind of life; then random lives, of which each connection is written once, whole, in order.

use std::{collections::BTreeMap, net::Ipv4Addr};

use lb_common::layout::{SEEN_FIN, SEEN_REBUILT, SEEN_RST, SEEN_SEVERED};
use proptest::{collection, prelude::*};

use super::*;
use crate::{
    connections::snapshot::{Snapshot, tests::nat},
    desired::tests::{config, service},
};

/// The flow tables, and the book.
#[derive(Default)]
struct World {
    flows: BTreeMap<FlowId, Snapshot>,
    book: Book,
    now: Now,
    written: Vec<Record>,
}

const VIP: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 10);

impl World {
    /// The VIP is ours, and the one service is logged.
    fn new(skip_empty: bool) -> Self {
        let mut world = Self { now: Now { wall: 1_767_323_045_000, mono: 0, clock: 100 }, ..Self::default() };
        world.configure(skip_empty);
        world.hold(true);
        world.pass(60_000);
        world
    }

    fn configure(&mut self, skip_empty: bool) {
        let mut config = config(vec![service("api", VIP, &[4, 5])]);
        config.services[0].connection_log = true;
        let flows = &self.flows;
        self.book.configure(logged_services(&config), skip_empty, self.now, &|id| flows.get(id).copied());
    }

    fn hold(&mut self, holds: bool) {
        let flows = &self.flows;
        let held = holds.then_some(IpAddr::V4(VIP)).into_iter().collect();
        self.book.hold(held, self.now, &|id| flows.get(id).copied());
        self.take();
    }

    fn pass(&mut self, ms: u64) {
        let until = self.now.mono + ms;
        loop {
            let next = self.book.wake_at().filter(|at| *at <= until).unwrap_or(until).max(self.now.mono);
            self.now.wall += next - self.now.mono;
            self.now.clock += u32::try_from(next / 1000 - self.now.mono / 1000).expect("not long");
            self.now.mono = next;
            let flows = &self.flows;
            self.book.look_again(self.now, &|id| flows.get(id).copied());
            self.take();
            if next == until {
                return;
            }
        }
    }

    /// A flow changes, or is new, and that is told.
    fn change(&mut self, flow: Snapshot) {
        self.flows.insert(flow.id, flow);
        self.event(&flow.id);
    }

    fn event(&mut self, id: &FlowId) {
        self.book.changed(self.now, id, self.flows.get(id));
        self.take();
    }

    fn walk(&mut self) {
        let flows = &self.flows;
        self.book.walked(self.now, flows.values().copied(), &|id| flows.get(id).copied());
        self.take();
    }

    /// The sweep removes a flow that is over.
    fn sweep(&mut self, flow: &Snapshot) {
        let flow = self.flows.remove(&flow.id).expect("it is there");
        self.book.removed(self.now, &flow);
        self.take();
    }

    fn sever(&mut self, flow: &Snapshot, reason: ResetReason) {
        let before = self.flows[&flow.id];
        let mut after = before;
        after.client.flags |= SEEN_SEVERED;
        after.ended = Some(Ended::ResetByXvip);
        self.flows.insert(flow.id, after);
        self.book.severed(self.now, &before, reason);
        self.take();
    }

    fn take(&mut self) {
        self.written.extend(self.book.records());
    }

    /// What has been written since: `start handshake`, `end closed` and the like.
    fn words(&mut self) -> Vec<String> {
        let words = mem::take(&mut self.written).into_iter().map(|record| match record.end {
            None => format!("start {}", word(&record.connection.via)),
            Some(end) => {
                let late = if end.late { " late" } else { "" };
                let reason = end.reason.map(|reason| format!(" {reason}")).unwrap_or_default();
                format!("end {}{reason}{late}", end.ended.name())
            }
        });
        words.collect()
    }
}

fn word(via: &Via) -> String {
    serde_json::to_value(via).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

/// A flow of the client's port, just opened.
fn flow(port: u16, clock: u32) -> Snapshot {
    let (key, forward, reply) = nat(port);
    Snapshot { opened: clock, ..Snapshot::new(&key, &forward, Some(&reply)) }
}

fn talks(flow: &Snapshot) -> Snapshot {
    let mut flow = *flow;
    flow.carried.packets_in += 1;
    flow.carried.bytes_in += 500;
    flow.client.next_seq = flow.client.next_seq.wrapping_add(448);
    flow
}

fn ends(flow: &Snapshot, ended: Ended) -> Snapshot {
    let mut flow = *flow;
    flow.ended = Some(ended);
    let flag = if ended == Ended::Closed { SEEN_FIN } else { SEEN_RST };
    flow.client.flags |= flag;
    flow.carried.packets_in += 1;
    flow.carried.bytes_in += 52;
    flow
}

#[test]
fn a_connection_begins_and_is_closed() {
    let mut world = World::new(false);
    let one = flow(1000, world.now.clock);
    let begun = world.now.wall;
    world.change(one);
    assert_eq!(world.written.len(), 1, "at once");
    world.pass(1500);
    world.change(ends(&talks(&one), Ended::Closed));
    assert_eq!(world.written.len(), 1);
    // The last acknowledgement.
    world.pass(300);
    let mut last = world.flows[&one.id];
    last.carried.packets_out += 1;
    world.flows.insert(last.id, last);
    world.pass(5000);
    let [start, end] = &world.written[..] else { panic!("{:?}", world.written) };
    assert_eq!(start.time, time_text(begun));
    assert_eq!(end.time, time_text(begun + 1500), "when it ended, not when that was written");
    assert_eq!(start.connection, end.connection);
    let connection = &start.connection;
    assert_eq!((connection.service.as_str(), connection.backend.as_str()), ("api", "m4"));
    assert_eq!((connection.nat_port, connection.nat_address), (Some(1000), Some(IpAddr::V4(VIP))));
    let end = end.end.as_ref().expect("an end");
    assert_eq!((end.ended, end.duration_ms, end.late, end.empty), (Ended::Closed, 1500, false, false));
    let carried = end.carried.expect("known");
    assert_eq!((carried.packets_in, carried.packets_out), (4, 2));
    assert_eq!(world.book.counts().open, 0);
    // What comes after that says nothing new, and its removal neither.
    world.written.clear();
    world.event(&one.id);
    world.walk();
    world.pass(60_000);
    world.sweep(&one);
    assert_eq!(world.words(), NOTHING);
    assert!(world.book.entries.is_empty() && world.book.due.is_empty());
}

const NOTHING: [&str; 0] = [];

#[test]
fn each_end_has_its_word() {
    for (ended, expected) in [
        (Ended::Closed, "end closed"),
        (Ended::ResetByClient, "end reset-by-client"),
        (Ended::ResetByBackend, "end reset-by-backend"),
    ] {
        let mut world = World::new(false);
        let one = flow(1, world.now.clock);
        world.change(one);
        world.change(ends(&one, ended));
        world.pass(2000);
        assert_eq!(world.words(), ["start handshake", expected]);
    }
    for reason in ResetReason::ALL {
        let mut world = World::new(false);
        let one = flow(1, world.now.clock);
        world.change(one);
        world.sever(&one, reason);
        // The client answers with a RST of its own.
        let mut after = world.flows[&one.id];
        after.client.flags |= SEEN_RST;
        world.change(after);
        world.pass(2000);
        assert_eq!(world.words(), ["start handshake".to_owned(), format!("end reset-by-xvip {reason}")]);
    }
    let mut world = World::new(false);
    let one = flow(1, world.now.clock);
    world.change(one);
    world.sweep(&one);
    assert_eq!(world.words(), ["start handshake", "end expired"]);
}

#[test]
fn a_reset_that_was_not_told_in_time_has_no_reason() {
    let mut world = World::new(false);
    let one = flow(1, world.now.clock);
    world.change(one);
    let mut severed = one;
    severed.ended = Some(Ended::ResetByXvip);
    world.flows.insert(one.id, severed);
    world.walk();
    world.pass(2000);
    assert_eq!(world.words(), ["start handshake", "end reset-by-xvip late"]);
}

#[test]
fn a_port_that_is_used_again_is_another_connection() {
    let mut world = World::new(false);
    let one = flow(1, world.now.clock);
    world.change(talks(&talks(&one)));
    world.change(ends(&talks(&talks(&one)), Ended::Closed));
    // Within the second, of the same port, and the same backend.
    world.pass(300);
    let two = flow(1, world.now.clock);
    world.change(two);
    world.pass(5000);
    assert_eq!(world.words(), ["start handshake", "end closed", "start handshake"]);
    // Its end was missed, and its successor is found.
    world.pass(60_000);
    let three = flow(1, world.now.clock);
    world.change(three);
    assert_eq!(world.words(), ["end unknown late", "start handshake"]);
    // The removal of one that is long gone ends no other.
    world.book.removed(world.now, &two);
    world.take();
    assert_eq!(world.words(), NOTHING);
}

#[test]
fn a_rst_that_nobody_believed_ends_nothing() {
    let mut world = World::new(false);
    let one = talks(&talks(&flow(1, world.now.clock)));
    world.change(one);
    world.change(ends(&one, Ended::ResetByClient));
    world.pass(500);
    let one = talks(&talks(&one));
    world.change(one);
    world.pass(5000);
    assert_eq!(world.words(), ["start handshake"]);
    // Believed for too long: it begins again.
    world.change(ends(&one, Ended::ResetByClient));
    world.pass(5000);
    world.change(talks(&talks(&one)));
    assert_eq!(world.words(), ["end reset-by-client", "start found"]);
}

#[test]
fn what_moves_with_the_vip() {
    let mut world = World::new(false);
    let (stays, leaves) = (flow(1, world.now.clock), flow(2, world.now.clock));
    world.change(stays);
    world.change(leaves);
    world.pass(5000);
    world.words();
    world.hold(false);
    assert_eq!(world.words(), ["end moved", "end moved"]);
    // Its new owner tells us of it, and of another one.
    world.change(talks(&stays));
    world.flows.remove(&leaves.id);
    let other = flow(3, world.now.clock);
    world.change(other);
    world.walk();
    world.pass(30_000);
    assert_eq!(world.words(), NOTHING);
    world.hold(true);
    world.walk();
    assert_eq!(world.words(), ["start taken-over", "start taken-over"]);
    let mut rebuilt = flow(4, world.now.clock);
    rebuilt.client.flags |= SEEN_REBUILT;
    world.change(rebuilt);
    let fresh = flow(5, world.now.clock);
    world.change(fresh);
    assert_eq!(world.words(), ["start rebuilt", "start handshake"]);
    let first = world.book.entries.get(&stays.id).expect("known");
    assert!(world.now.wall - first.opened >= 35_000, "it was opened before");
}

#[test]
fn nothing_is_written_of_the_silent_where_they_are_left_out() {
    let mut world = World::new(true);
    // A probe.
    let probe = flow(1, world.now.clock);
    world.change(probe);
    world.pass(20);
    world.change(ends(&probe, Ended::Closed));
    world.pass(5000);
    assert_eq!((world.words().len(), world.book.counts().skipped), (0, 1));
    // One that takes its time, and is not told about.
    let slow = flow(2, world.now.clock);
    let begun = world.now.wall;
    world.change(slow);
    world.pass(100_000);
    assert_eq!(world.words(), NOTHING);
    world.flows.insert(slow.id, talks(&slow));
    world.pass(70_000);
    assert_eq!(world.written[0].time, time_text(begun));
    assert_eq!(world.words(), ["start handshake"]);
    // One whose first bytes are its last.
    let quick = flow(3, world.now.clock);
    world.change(quick);
    world.change(ends(&talks(&quick), Ended::ResetByClient));
    world.pass(5000);
    assert_eq!(world.words(), ["start handshake", "end reset-by-client"]);
    // What was removed before anybody looked.
    let lost = flow(4, world.now.clock);
    world.change(lost);
    world.flows.remove(&lost.id);
    world.pass(5000);
    assert_eq!((world.words().len(), world.book.counts().skipped), (0, 2));
}

#[test]
fn what_happened_while_nobody_looked_is_found_by_the_walk() {
    let mut world = World::new(false);
    let (known, new, closed) = (flow(1, 100), flow(2, 100), flow(3, 100));
    world.change(known);
    world.words();
    world.pass(30_000);
    world.flows.clear();
    world.flows.insert(new.id, new);
    world.flows.insert(closed.id, ends(&talks(&closed), Ended::Closed));
    world.walk();
    world.pass(2000);
    let mut words = world.words();
    words.sort_unstable();
    assert_eq!(words, ["end closed late", "end unknown late", "start found", "start found"]);
    world.walk();
    world.pass(2000);
    assert_eq!(world.words(), NOTHING, "once is enough");
}

#[test]
fn what_every_node_forwards_is_logged_by_whose_packets_it_is() {
    let mut world = World::new(false);
    let mut config = config(vec![service("api", VIP, &[4, 5])]);
    (config.services[0].connection_log, config.services[0].vrrp) = (true, None);
    let mut services = logged_services(&config);
    services.values_mut().for_each(|service| service.is_shared = true);
    world.book.configure(services, false, world.now, &|_| None);
    let (ours, a_peer_s) = (flow(1, 160), flow(2, 160));
    world.change(ours);
    world.flows.insert(a_peer_s.id, a_peer_s);
    world.walk();
    world.sweep(&a_peer_s);
    assert_eq!(world.words(), ["start handshake"]);
    // The packets come this way now.
    world.change(flow(3, 160));
    world.flows.clear();
    world.walk();
    assert_eq!(world.words(), ["start handshake", "end unknown late", "end unknown late"]);
}

/// What the files of a daemon say that has crashed now.
fn memory(world: &World, written: &[Record]) -> Memory {
    let mut memory = Memory::default();
    for record in written {
        let id = FlowId { client: record.connection.client, service: record.connection.vip };
        if record.record == RecordKind::Start {
            memory.open.insert(id, record.connection.clone());
        } else {
            memory.open.remove(&id);
            if world.flows.contains_key(&id) {
                memory.ended.insert(id, record.connection.flow_clock);
            }
        }
    }
    memory
}

#[test]
fn a_successor_goes_on_where_the_files_end() {
    let mut world = World::new(false);
    let flows: Vec<Snapshot> = (1..=5).map(|port| talks(&talks(&flow(port, 160)))).collect();
    flows[..4].iter().for_each(|flow| world.change(*flow));
    world.change(ends(&flows[3], Ended::Closed));
    world.pass(2000);
    let memory = memory(&world, &world.written);
    world.words();
    // The daemon is gone; the second is closed, the third is closed and removed, the fifth begins.
    world.book = Book::default();
    world.flows.insert(flows[1].id, ends(&flows[1], Ended::Closed));
    world.flows.remove(&flows[2].id);
    world.flows.insert(flows[4].id, flows[4]);
    world.configure(false);
    world.hold(false);
    world.book.remember(memory, world.now);
    world.walk();
    // Its VIP is back before anybody could say that it has moved.
    world.pass(3000);
    assert_eq!(world.words(), ["end unknown late"]);
    world.hold(true);
    world.walk();
    world.pass(60_000);
    let mut words = world.words();
    words.sort_unstable();
    assert_eq!(words, ["end closed late", "start taken-over"]);
    assert_eq!(world.book.counts().open, 2, "the first goes on");
}

#[test]
fn a_vip_that_does_not_come_back_took_its_connections_along() {
    let mut world = World::new(false);
    world.change(flow(1, 160));
    let memory = memory(&world, &world.written);
    world.words();
    world.book = Book::default();
    world.configure(false);
    world.hold(false);
    world.book.remember(memory, world.now);
    world.walk();
    world.pass(59_000);
    assert_eq!(world.words(), NOTHING, "it may be back");
    world.pass(2000);
    assert_eq!(world.words(), ["end moved late"]);
}

#[test]
fn a_service_that_is_logged_no_more_leaves_nothing_open() {
    let mut world = World::new(false);
    world.change(flow(1, 160));
    world.words();
    let flows = &world.flows;
    world.book.configure(LoggedServices::new(), false, world.now, &|id| flows.get(id).copied());
    world.take();
    assert_eq!(world.words(), ["end unknown"]);
    assert!(world.book.entries.is_empty());
}

/// A step of a random life: of a client's port.
#[derive(Clone, Copy, Debug)]
enum Step {
    Open(u16),
    Talk(u16),
    End(u16, bool),
    Sever(u16),
    Sweep(u16),
    /// The data plane takes it away without a word.
    Vanish(u16),
    Walk,
    Hold(bool),
    Pass(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let port = 1..5_u16;
    prop_oneof![
        4 => port.clone().prop_map(Step::Open),
        3 => port.clone().prop_map(Step::Talk),
        3 => (port.clone(), any::<bool>()).prop_map(|(port, resets)| Step::End(port, resets)),
        1 => port.clone().prop_map(Step::Sever),
        2 => port.clone().prop_map(Step::Sweep),
        1 => port.prop_map(Step::Vanish),
        1 => Just(Step::Walk),
        1 => any::<bool>().prop_map(Step::Hold),
        3 => prop_oneof![0..1500_u16, 1500..20_000_u16].prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens, and whichever events are lost: starts and ends of a client's port alternate, an end has the same
    /// connection as its start, no time runs backwards within one; and in the end nothing is left open.
    #[test]
    fn every_connection_has_one_start_and_one_end(
        steps in collection::vec((step(), prop::bool::weighted(0.9)), 1..60),
        skip_empty in any::<bool>(),
    ) {
        let mut world = World::new(skip_empty);
        for (step, is_told) in steps {
            let at = |port: u16| flow(port, 0).id;
            let changed = match step {
                Step::Open(port) => {
                    let can = world.flows.get(&at(port)).is_none_or(|flow| flow.ended.is_some());
                    can.then(|| flow(port, world.now.clock))
                }
                Step::Talk(port) => {
                    world.flows.get(&at(port)).filter(|flow| flow.ended.is_none()).map(talks)
                }
                Step::End(port, resets) => {
                    let ended = if resets { Ended::ResetByBackend } else { Ended::Closed };
                    world.flows.get(&at(port)).filter(|flow| flow.ended.is_none()).map(|flow| ends(flow, ended))
                }
                Step::Sever(port) => {
                    if let Some(flow) = world.flows.get(&at(port)).filter(|flow| flow.ended.is_none()).copied() {
                        world.sever(&flow, ResetReason::BackendDead);
                    }
                    None
                }
                Step::Sweep(port) => {
                    if let Some(flow) = world.flows.get(&at(port)).copied() {
                        world.sweep(&flow);
                    }
                    None
                }
                Step::Vanish(port) => {
                    world.flows.remove(&at(port));
                    None
                }
                Step::Walk => {
                    world.walk();
                    None
                }
                Step::Hold(holds) => {
                    world.hold(holds);
                    world.walk();
                    None
                }
                Step::Pass(ms) => {
                    world.pass(ms.into());
                    None
                }
            };
            if let Some(flow) = changed {
                world.flows.insert(flow.id, flow);
                if is_told {
                    world.event(&flow.id);
                }
            }
        }
        world.flows.clear();
        world.walk();
        world.pass(100_000);
        world.walk();
        prop_assert!(world.book.entries.is_empty());

        let mut open: BTreeMap<SocketAddr, &Record> = BTreeMap::new();
        for record in &world.written {
            let client = record.connection.client;
            match &record.end {
                None => {
                    let before = open.insert(client, record);
                    prop_assert!(before.is_none(), "two starts: {before:?}, {record:?}");
                }
                Some(end) => {
                    let start = open.remove(&client);
                    prop_assert!(start.is_some(), "no start: {record:?}");
                    if let Some(start) = start {
                        prop_assert_eq!(&start.connection, &record.connection);
                        prop_assert!(start.time <= record.time);
                    }
                    prop_assert_eq!(end.reason.is_some(), end.ended == Ended::ResetByXvip && !end.late);
                    prop_assert!(!(skip_empty && end.empty), "it carried nothing");
                }
            }
        }
        prop_assert!(open.is_empty(), "left open: {open:?}");
        let counts = world.book.counts();
        prop_assert_eq!((counts.open, counts.starts), (0, counts.ends));
    }
}
