//! A service's table is replaced in one step: lookups go on during ten thousand replacements, and each finds a whole
//! table. Needs root.
//!
//! The kernel lets a replacement return only when no program can still be looking at the old table, which takes it some
//! 15 ms. So there are several services, each with a writer of its own.
//!
//! Runner: threads 1, minutes 2

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use lb_common::{
    hash::MAGLEV_SLOTS,
    layout::{BackendEntry, BackendId, Hop, MacWord, MaglevSlots, ServiceEntry},
};
use lb_tests::{
    cases::Connection,
    frames::SYN,
    kernel_tables::{KernelPlane, can_load},
    plane::{MAX_FLOWS, Plane as _, VIP, World, backend_mac, service_key},
};
use lb_userspace::dataplane::Dataplane;

const SERVICES: u64 = 16;
/// Of each service's table: 10,000 together.
const SWAPS: u64 = 625;
/// Backends that have a table each, of nothing but themselves. A table comes again only after all the others, so that a
/// look-up tells old from new.
const GOOD: u64 = 16;
/// What a slot names that was never written. It is a backend like the others, so that flows can go astray to it.
const UNWRITTEN: BackendId = 0;
/// How long all the swaps may take.
const WITHIN: Duration = Duration::from_secs(60);

/// The backend whose table is put in place by the `swap`th swap; the 0th is there before the first.
fn backend_of(swap: u64) -> BackendId {
    (1 + swap % GOOD) as BackendId
}

fn address(service: u64) -> SocketAddrV4 {
    SocketAddrV4::new(VIP, 7_000 + service as u16)
}

/// The services, each with the first table, the good backends and the bad one.
fn world(table: &Arc<MaglevSlots>) -> World {
    let mut world = World::one_backend();
    let known: BackendEntry = world.tables.backends[&UNWRITTEN];
    for id in 0..=GOOD as BackendId {
        let hop = Hop { mac: MacWord::new(backend_mac(id)), ..known.hop };
        world.tables.backends.insert(id, BackendEntry { hop, ..known });
    }
    for service in 0..SERVICES {
        let (index, usable) = (service as u32, GOOD as u32);
        let entry = ServiceEntry { snat: IpAddr::from(VIP).into(), index, usable, ..ServiceEntry::default() };
        world.tables.services.insert(service_key(address(service)), entry);
        world.tables.rings.insert(index, Arc::clone(table));
        world.reserve_port(address(service).port());
    }
    world
}

/// Where the program sends the `flow`th SYN, which is of a flow of its own: the frame's destination says it.
fn look_up(dataplane: &mut Dataplane, service: u64, flow: u64) -> BackendId {
    const XDP_TX: u32 = 3;
    let client = Ipv4Addr::from(0x0a00_0000 + (flow & 0x00ff_ffff) as u32);
    let client = SocketAddrV4::new(client, 8_000 + (flow % 50_000) as u16);
    let syn = Connection::from(client, address(service)).from_client(SYN, b"").bytes();
    let (action, frame) = dataplane.test_run(&syn).expect("the kernel runs the program");
    assert_eq!(action, XDP_TX, "flow {flow} is sent somewhere");
    (0..=GOOD as BackendId).find(|&id| frame[..6] == backend_mac(id)).expect("to one of the backends")
}

/// How far one service's table has come.
#[derive(Default)]
struct Progress {
    begun: AtomicU64,
    done: AtomicU64,
}

impl Progress {
    fn write(&self, writer: &mut Dataplane, ring: u32, tables: &[Arc<MaglevSlots>], until: Instant) {
        for swap in 1..=SWAPS {
            if Instant::now() > until {
                return;
            }
            self.begun.store(swap, SeqCst);
            writer.set_ring(ring, &tables[(swap % GOOD) as usize]).expect("a ring can be replaced");
            self.done.store(swap, SeqCst);
        }
    }
}

/// What the look-ups have found out about one service.
#[derive(Default)]
struct Found {
    /// The newest swap whose table was seen.
    newest: u64,
    /// Look-ups that began or ended while a swap was going on.
    during_a_swap: u64,
    /// Look-ups that found a newer table than the one before.
    tables: u64,
}

impl Found {
    /// Looks up once. What is found must be a table from the one that was done before to the one that had begun after;
    /// and never an older one than the look-up before it found, or that one has seen part of a table.
    fn look(&mut self, reader: &mut Dataplane, service: u64, flow: u64, progress: &Progress) {
        let done = progress.done.load(SeqCst);
        let oldest = self.newest.max(done);
        let id = look_up(reader, service, flow);
        let last = progress.begun.load(SeqCst);
        let when = format!("flow {flow}, between swaps {oldest} and {last} of service {service}");
        assert_ne!(id, UNWRITTEN, "{when}: a slot that was not written");
        // Where so many swaps went by that a table could have come again, there is nothing more to tell.
        self.during_a_swap += u64::from(last > done);
        if last - oldest < GOOD {
            let found = (oldest..=last).find(|&swap| backend_of(swap) == id);
            let found = found.unwrap_or_else(|| panic!("{when}: the table of backend {id}"));
            self.tables += u64::from(found > self.newest);
            self.newest = found;
        }
    }
}

#[test]
fn every_look_up_finds_a_whole_table_during_ten_thousand_swaps() {
    if !can_load("every_look_up_finds_a_whole_table_during_ten_thousand_swaps") {
        return;
    }
    let tables: Vec<Arc<MaglevSlots>> =
        (0..GOOD).map(|swap| Arc::new([backend_of(swap); MAGLEV_SLOTS])).collect();
    let mut kernel = KernelPlane::load(MAX_FLOWS).expect("the XDP programs load");
    let mut writers: Vec<Dataplane> =
        (0..SERVICES).map(|_| kernel.successor().expect("the XDP programs load again")).collect();
    kernel.reset(&world(&tables[0]));
    let reader = kernel.dataplane();

    let started = Instant::now();
    let progress: Vec<Progress> = (0..SERVICES).map(|_| Progress::default()).collect();
    let mut found: Vec<Found> = (0..SERVICES).map(|_| Found::default()).collect();
    let mut flows = 0;
    thread::scope(|scope| {
        let mut running = vec![];
        for ((writer, ring), progress) in writers.iter_mut().zip(0..).zip(&progress) {
            let tables = &tables;
            running.push(scope.spawn(move || progress.write(writer, ring, tables, started + WITHIN)));
        }
        while running.iter().any(|writer| !writer.is_finished()) {
            for ((found, service), progress) in found.iter_mut().zip(0..).zip(&progress) {
                found.look(reader, service, flows, progress);
                flows += 1;
            }
        }
    });

    let done: u64 = progress.iter().map(|progress| progress.done.load(SeqCst)).sum();
    let during_a_swap: u64 = found.iter().map(|found| found.during_a_swap).sum();
    let seen: u64 = found.iter().map(|found| found.tables).sum();
    println!(
        "{done} swaps in {:?}: {flows} look-ups, {during_a_swap} of them during a swap, {seen} tables seen",
        started.elapsed()
    );
    assert_eq!(done, SERVICES * SWAPS, "within {WITHIN:?}");
    for service in 0..SERVICES {
        assert_eq!(look_up(reader, service, flows + service), backend_of(SWAPS), "the last table stays");
    }
    let astray = reader.backend_counters(UNWRITTEN).expect("the counters can be read").opened;
    assert_eq!(astray, 0, "flows to a slot that was not written");
    // Otherwise the test has looked at nothing.
    assert!(
        during_a_swap > done / 2 && seen > done / 2,
        "{during_a_swap} look-ups during a swap, {seen} tables seen"
    );
}
