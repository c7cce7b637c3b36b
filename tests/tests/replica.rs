//! Flows that one data plane has made and another one carries on: read from the maps of the first, written into those of
//! the second, and then by real frames. Needs root.
//!
//! Runner: alone, threads 1, minutes 5

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use lb_common::layout::{MODE_DSR_L2, NODE_TELLS_FLOWS, PulseEntry, SEEN_RST};
use lb_tests::{
    kernel_tables::can_load,
    mass::{ACK, Mass, Opened, Packet, SYN, Service, VIP, VIP6, XDP_TX, backend_mac, client},
};
use lb_userspace::{
    config::model::Flows,
    dataplane::ReplicaStore,
    flows::Timeouts,
    replica::Landmarks,
    sync::record::{Applied, Authority, FlowId, FlowRecord, FlowStore as _, Place},
};
use nix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

const CLIENTS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0));
const CLIENTS6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 0));
const FLOWS: u32 = 300;
/// The most that the first data plane has had when the second one joins.
const MANY: u32 = 100_000;
/// Of CPU time, since others may be busy here, in a test build; the issue asks for 5 s in all.
const JOIN_LIMIT: Duration = Duration::from_secs(5);
/// Those of the first service, and all.
const HALF: u16 = 8;
const BACKENDS: std::ops::Range<u16> = 0..2 * HALF;

fn flows(max: u32) -> Flows {
    Flows {
        max,
        half_open_max: 8192,
        sources_max: 1024,
        idle_timeout: Duration::from_secs(24 * 3600),
        rebuild: Duration::ZERO,
    }
}

fn services() -> [SocketAddr; 2] {
    [SocketAddr::new(VIP.into(), 6443), SocketAddr::new(VIP6.into(), 6443)]
}

fn first_client(service: SocketAddr) -> IpAddr {
    if service.is_ipv4() { CLIENTS } else { CLIENTS6 }
}

/// A data plane, and its flows for others.
struct Node {
    plane: Mass,
    store: ReplicaStore,
    landmarks: watch::Sender<Arc<Landmarks>>,
}

impl Node {
    fn load(max: u32) -> Self {
        let [first, second] = services();
        let services = [Service::nat(first, 0..HALF), Service::nat(second, HALF..2 * HALF)];
        let plane = Mass::load(&flows(max), &services).expect("the programs load");
        let landmarks = plane.landmarks(BTreeMap::new()).expect("the maps can be read");
        let landmarks = watch::Sender::new(Arc::new(landmarks));
        let store = plane.replica_source().store(landmarks.subscribe()).expect("the maps are there");
        Self { plane, store, landmarks }
    }

    fn hold(&self, held: BTreeMap<IpAddr, Instant>) {
        let landmarks = self.plane.landmarks(held).expect("the maps can be read");
        self.landmarks.send_replace(Arc::new(landmarks));
    }

    fn open(&self, service: SocketAddr, count: u32) -> Vec<Opened> {
        let mut runner = self.plane.runner();
        let first = first_client(service);
        (0..count)
            .map(|n| {
                let opened = runner.open(client(first, n), service).expect("the kernel runs the programs");
                opened.unwrap_or_else(|action| panic!("flow {n}: action {action}"))
            })
            .collect()
    }

    fn all(&self) -> Vec<FlowRecord> {
        let mut all = Vec::new();
        self.store.walk(&mut |record| all.push(record)).expect("the maps can be read");
        all
    }

    fn apply_all(&mut self, records: &[FlowRecord], authority: Authority) -> BTreeMap<Applied, usize> {
        let mut outcomes = BTreeMap::new();
        for record in records {
            *outcomes.entry(self.store.apply(record, authority)).or_default() += 1;
        }
        outcomes
    }

    /// Flows that are active by the loads, and by counting.
    fn active(&mut self) -> (i64, u64) {
        let clock = self.plane.clock();
        let loads = BACKENDS.map(|id| self.plane.active(id).expect("there is a load")).sum();
        let mut tables = self.plane.dataplane().flow_tables().expect("the tables are there");
        let census = tables.sweep(clock, &Timeouts::new(24 * 3600), &BACKENDS.collect());
        (loads, census.expect("they can be read").established)
    }

    fn set_clock(&mut self, clock: u32) {
        let pulse = PulseEntry { heartbeat_ns: u64::MAX, flow_clock: clock, _pad: 0 };
        self.plane.dataplane().set_pulse(pulse).expect("the map can be written");
        // The store does not read it for each flow.
        sleep(Duration::from_millis(100));
    }

    /// A packet of the client's, and one of the backend's, go where they went on the other node.
    fn carries_on(&self, service: SocketAddr, n: u32, opened: &Opened) {
        let mut runner = self.plane.runner();
        let client = client(first_client(service), n);
        let sent = runner.ack(client, service, 1).expect("the kernel runs the programs");
        assert_eq!(sent, Ok(*opened), "flow {n} of {service}");
        let reply = Packet { src: opened.backend, dst: opened.nat, seq: 5, ack: 6, flags: ACK };
        let (action, sent) = runner.run(&reply).expect("the kernel runs the programs");
        assert_eq!(action, XDP_TX);
        assert_eq!((sent.src, sent.dst), (service, client), "flow {n} of {service}");
    }
}

/// What this thread has used.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("there is such a clock").into()
}

#[test]
fn a_flow_goes_on_at_another_node() {
    if !can_load("a_flow_goes_on_at_another_node") {
        return;
    }
    let (first, mut second) = (Node::load(4096), Node::load(4096));
    let opened = services().map(|service| first.open(service, FLOWS));
    let records = first.all();
    assert_eq!(records.len(), 2 * FLOWS as usize);
    assert_eq!(second.apply_all(&records, Authority::Sender), [(Applied::Inserted, records.len())].into());
    assert_eq!(second.active(), (2 * i64::from(FLOWS), 2 * u64::from(FLOWS)));
    for (service, opened) in services().into_iter().zip(&opened) {
        for (n, opened) in (0..).zip(opened) {
            second.carries_on(service, n, opened);
        }
    }
    // What is read back is what was told, but for what has just been sent.
    let told: BTreeMap<FlowId, FlowRecord> = records.iter().map(|record| (record.id, *record)).collect();
    for record in second.all() {
        let told = told[&record.id];
        assert_eq!((record.backend, record.nat, record.hop), (told.backend, told.nat, told.hop));
        assert_eq!(record.to_backend.packets, told.to_backend.packets + 1);
        assert_eq!(second.store.read(&record.id), Some(record));
    }
    // Told again they count once.
    assert_eq!(second.apply_all(&records, Authority::Sender), [(Applied::Updated, records.len())].into());
    assert_eq!(second.apply_all(&records, Authority::Receiver), [(Applied::Kept, records.len())].into());
    assert_eq!(second.apply_all(&records, Authority::Nobody), [(Applied::Kept, records.len())].into());
    assert_eq!(second.active().0, 2 * i64::from(FLOWS));
}

#[test]
fn what_has_ended_is_no_load_and_what_comes_back_is() {
    if !can_load("what_has_ended_is_no_load_and_what_comes_back_is") {
        return;
    }
    let (first, mut second) = (Node::load(4096), Node::load(4096));
    first.open(services()[0], 2);
    let records = first.all();
    let mut ended = records.clone();
    for record in &mut ended {
        record.to_backend.flags |= SEEN_RST;
    }
    second.apply_all(&ended[..1], Authority::Sender);
    assert_eq!(second.active(), (0, 0));
    second.apply_all(&records, Authority::Sender);
    assert_eq!(second.active(), (2, 2));
    second.apply_all(&ended, Authority::Sender);
    assert_eq!(second.active(), (0, 0));
}

#[test]
fn two_flows_with_one_nat_port_the_holders_stays() {
    if !can_load("two_flows_with_one_nat_port_the_holders_stays") {
        return;
    }
    let service = services()[0];
    let (first, mut second) = (Node::load(4096), Node::load(4096));
    // Two clients with the same port, which is the NAT port then, at the same backend.
    let at = |host: u8| SocketAddr::from(([10, 9, 9, host], 40_000));
    let opened = |node: &Node, host: u8| {
        node.plane.runner().open(at(host), service).expect("the kernel runs the programs").expect("opened")
    };
    let there = opened(&first, 1);
    let mut hosts = (2..250).map(|host| (host, opened(&second, host)));
    let (host, here) =
        hosts.find(|(_, here)| here.backend == there.backend).expect("one of the same backend");
    let others = i64::from(host) - 2;
    assert_eq!((here.nat, here.backend), (there.nat, there.backend));

    let record = first.all()[0];
    for authority in [Authority::Receiver, Authority::Nobody] {
        assert_eq!(second.store.apply(&record, authority), Applied::PortTaken);
    }
    let ack =
        |node: &Node, host| node.plane.runner().ack(at(host), service, 1).expect("the kernel runs them");
    assert_eq!(ack(&second, host), Ok(here), "the one that was here goes on");
    assert_eq!(second.store.apply(&record, Authority::Sender), Applied::Inserted);
    assert_eq!(second.active(), (1 + others, 1 + others as u64));
    assert_eq!(ack(&second, 1), Ok(there));
    assert!(ack(&second, host).is_err(), "the one that was here is gone");

    // A half-open one has its port, too, until the holder's word.
    let mut third = Node::load(4096);
    third.plane.runner().syn(at(host), service).expect("the kernel runs the programs").expect("opened");
    assert_eq!(third.store.apply(&record, Authority::Nobody), Applied::PortTaken);
    assert_eq!(third.active(), (0, 0));
    assert_eq!(third.store.apply(&record, Authority::Sender), Applied::Inserted);
    assert_eq!(ack(&third, 1), Ok(there));
}

#[test]
fn the_same_client_port_again_is_another_flow() {
    if !can_load("the_same_client_port_again_is_another_flow") {
        return;
    }
    let service = services()[0];
    let (first, mut second) = (Node::load(4096), Node::load(4096));
    let opened = first.open(service, 1)[0];
    let record = first.all()[0];
    let mut other = record;
    other.nat = other.nat.map(|nat| SocketAddr::new(nat.ip(), nat.port() ^ 1));
    assert_eq!(second.store.apply(&other, Authority::Sender), Applied::Inserted);
    assert_eq!(second.store.apply(&record, Authority::Nobody), Applied::Kept);
    assert_eq!(second.store.apply(&record, Authority::Sender), Applied::Updated);
    assert_eq!(second.active(), (1, 1));
    second.carries_on(service, 0, &opened);
    assert_eq!(second.all().len(), 1, "nothing of the former one is left");
}

#[test]
fn a_full_table_takes_no_half_flows() {
    if !can_load("a_full_table_takes_no_half_flows") {
        return;
    }
    const MAX: u32 = 1024;
    let (first, mut second) = (Node::load(4096), Node::load(MAX));
    first.open(services()[0], MAX + 100);
    let records = first.all();
    let outcomes = second.apply_all(&records, Authority::Sender);
    assert_eq!(outcomes, [(Applied::Inserted, MAX as usize), (Applied::Full, 100)].into());
    assert_eq!(second.all().len(), MAX as usize);
    assert_eq!(second.active(), (MAX.into(), MAX.into()));
}

/// All slices.
fn retired(node: &mut Node, vips: &BTreeSet<IpAddr>, mentioned: &HashSet<FlowId>) -> usize {
    let (mut sum, mut next) = (0, Some(Place::default()));
    while let Some(at) = next {
        let (retired, more) = node.store.retire(vips, mentioned, at);
        sum += retired;
        next = more;
    }
    sum
}

#[test]
fn what_the_holder_does_not_have_is_forgotten_unless_it_is_in_use() {
    if !can_load("what_the_holder_does_not_have_is_forgotten_unless_it_is_in_use") {
        return;
    }
    let vips: BTreeSet<IpAddr> = [VIP.into()].into();
    let mut node = Node::load(4096);
    for service in services() {
        node.open(service, 20);
    }
    let mentioned: HashSet<FlowId> =
        node.all().iter().map(|record| record.id).filter(|id| id.client.port() % 2 == 0).collect();
    let of_vip = |node: &Node| node.all().iter().filter(|record| record.id.service == services()[0]).count();
    assert_eq!(retired(&mut node, &vips, &mentioned), 0, "each has just had a packet");
    let later = node.plane.clock() + 20;
    node.set_clock(later);
    node.hold([(VIP.into(), Instant::now())].into());
    assert_eq!(retired(&mut node, &vips, &mentioned), 0, "it is ours by now");
    node.hold(BTreeMap::new());
    let left = mentioned.iter().filter(|id| id.service == services()[0]).count();
    assert!((1..20).contains(&left));
    assert_eq!(retired(&mut node, &vips, &mentioned), 20 - left);
    assert_eq!(of_vip(&node), left);
    assert_eq!(node.all().len(), left + 20, "the other VIP is nobody's business");
    assert_eq!(node.active().0, left as i64 + 20);
}

#[test]
fn direct_server_return_has_one_direction() {
    if !can_load("direct_server_return_has_one_direction") {
        return;
    }
    let load = || {
        let service = Service { mode: MODE_DSR_L2, ..Service::nat(services()[0], 0..HALF) };
        let plane = Mass::load(&flows(4096), &[service]).expect("the programs load");
        let landmarks = plane.landmarks(BTreeMap::new()).expect("the maps can be read");
        let landmarks = watch::Sender::new(Arc::new(landmarks));
        let store = plane.replica_source().store(landmarks.subscribe()).expect("the maps are there");
        Node { plane, store, landmarks }
    };
    let (first, mut second) = (load(), load());
    let (at, service) = (client(CLIENTS, 1), services()[0]);
    let mut runner = first.plane.runner();
    for flags in [SYN, ACK] {
        let packet = Packet { src: at, dst: service, seq: 1, ack: 1, flags };
        assert_eq!(runner.run(&packet).expect("the kernel runs the programs").0, XDP_TX);
    }
    let records = first.all();
    assert_eq!((records.len(), records[0].nat, records[0].to_client), (1, None, None));
    assert_eq!(second.store.apply(&records[0], Authority::Nobody), Applied::Inserted);
    assert_eq!(second.active(), (1, 1));
    let sent = second.plane.runner().ack(at, service, 1).expect("the kernel runs the programs");
    let id = BACKENDS.into_iter().find(|&id| lb_tests::mass::backend(id, false) == records[0].backend);
    assert_eq!(sent.map(|sent| sent.mac), Ok(backend_mac(id.expect("a backend"))));
}

#[test]
fn a_hundred_thousand_flows_are_read_and_written_in_time() {
    if !can_load("a_hundred_thousand_flows_are_read_and_written_in_time") {
        return;
    }
    let (first, mut second) = (Node::load(2 * MANY), Node::load(2 * MANY));
    first.open(services()[0], MANY);
    let (begin, on_cpu) = (Instant::now(), cpu_time());
    let records = first.all();
    let read = cpu_time() - on_cpu;
    let outcomes = second.apply_all(&records, Authority::Sender);
    let written = cpu_time() - on_cpu - read;
    let elapsed = begin.elapsed();
    println!("{MANY} flows: read in {read:.2?}, written in {written:.2?} of CPU time, {elapsed:.2?} in all");
    assert_eq!(outcomes, [(Applied::Inserted, MANY as usize)].into());
    assert_eq!(second.active(), (MANY.into(), MANY.into()));
    let on_cpu = cpu_time();
    second.apply_all(&records, Authority::Sender);
    println!("and told once more in {:.2?}", cpu_time() - on_cpu);
    assert!(read + written < JOIN_LIMIT, "{:?}", read + written);
}

#[tokio::test]
async fn the_data_plane_tells_what_begins_and_what_ends() {
    if !can_load("the_data_plane_tells_what_begins_and_what_ends") {
        return;
    }
    let mut node = Node::load(4096);
    let dataplane = node.plane.dataplane();
    let mut entry = dataplane.node().expect("the map can be read");
    entry.flags |= NODE_TELLS_FLOWS;
    dataplane.set_node(&entry).expect("the map can be written");
    let mut events = node.plane.replica_source().events().expect("the ring is there");
    let mut told = Vec::new();
    for service in services() {
        let opened = node.open(service, 10);
        told.clear();
        while told.len() < 10 {
            let next = events.next(&mut told, 4);
            tokio::time::timeout(Duration::from_secs(5), next)
                .await
                .expect("told in time")
                .expect("readable");
        }
        let first = first_client(service);
        let expected: Vec<FlowId> = (0..10).map(|n| FlowId { client: client(first, n), service }).collect();
        assert_eq!(told, expected);
        assert!(told.iter().all(|id| node.store.read(id).is_some()));

        let reset = Packet { src: opened[3].backend, dst: opened[3].nat, seq: 1, ack: 1, flags: 4 | ACK };
        node.plane.runner().run(&reset).expect("the kernel runs the programs");
        told.clear();
        let next = events.next(&mut told, 100);
        tokio::time::timeout(Duration::from_secs(5), next).await.expect("told in time").expect("readable");
        assert_eq!(told, [expected[3]], "the client's name for it, whoever ends it");
        let flags = node.store.read(&told[0]).and_then(|record| record.to_client).map(|other| other.flags);
        assert_eq!(flags.map(|flags| flags & SEEN_RST), Some(SEEN_RST));
    }
    assert_eq!(events.lost().expect("the map can be read"), 0);
}
