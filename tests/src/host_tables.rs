//! The data plane on the host: [`lb_common::tables::Tables`] over plain collections, a [`Frame`] over bytes.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    ptr::NonNull,
};

use lb_common::{
    forward::forward,
    frame::{Frame, Header},
    layout::{
        BackendCounters, BackendEntry, BackendId, FlowEntry, FlowKey, NodeEntry, PulseEntry, ServiceEntry,
        ServiceKey, VipEntry,
    },
    tables::{BackendCounter, Inserted, Level, Slot, Tables},
    wire::{Be16, Be32},
};

use crate::plane::{FlowState, Heartbeat, LEASE_NS, Outcome, Plane, World};

/// What `CLOCK_MONOTONIC` says on the host, in nanoseconds: it stands still.
const NOW_NS: u64 = 1_000_000_000_000;

/// A frame in a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BufferFrame(pub Vec<u8>);

impl Frame for BufferFrame {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn header<H: Header>(&self, offset: usize) -> Option<&H> {
        let bytes = self.0.get(offset..)?.get(..size_of::<H>())?;
        // SAFETY: as many bytes as an `H` has, borrowed for as long; any bytes at any address are one (its contract).
        Some(unsafe { &*bytes.as_ptr().cast() })
    }

    fn reread(&self, offset: usize) -> Option<u8> {
        self.0.get(offset).copied()
    }

    fn header_mut<H: Header>(&mut self, offset: usize) -> Option<&mut H> {
        let bytes = self.0.get_mut(offset..)?.get_mut(..size_of::<H>())?;
        // SAFETY: as in `header`, borrowed mutably.
        Some(unsafe { &mut *bytes.as_mut_ptr().cast() })
    }

    fn truncate(&mut self, len: usize) -> bool {
        let fits = len <= self.0.len();
        if fits {
            self.0.truncate(len);
        }
        fits
    }
}

/// A flow table. Values never move, and outlive their removal, as in the kernel: a slot may still point to one.
#[derive(Debug)]
struct FlowMap {
    live: BTreeMap<FlowKey, NonNull<FlowEntry>>,
    removed: Vec<NonNull<FlowEntry>>,
    max_entries: usize,
}

impl FlowMap {
    const fn new(max_entries: usize) -> Self {
        Self { live: BTreeMap::new(), removed: vec![], max_entries }
    }

    fn insert(&mut self, key: &FlowKey, entry: &FlowEntry) -> Inserted {
        if self.live.contains_key(key) {
            Inserted::Exists
        } else if self.live.len() >= self.max_entries {
            Inserted::Full
        } else {
            self.live.insert(*key, NonNull::from(Box::leak(Box::new(*entry))));
            Inserted::Yes
        }
    }

    fn remove(&mut self, key: &FlowKey) {
        self.removed.extend(self.live.remove(key));
    }

    fn entries(&self) -> BTreeMap<FlowKey, FlowEntry> {
        // SAFETY: what is in `live` is freed only in `drop`, and no slot is in use between frames.
        self.live.iter().map(|(key, entry)| (*key, unsafe { entry.read() })).collect()
    }
}

impl Drop for FlowMap {
    fn drop(&mut self) {
        for entry in self.live.values().chain(&self.removed) {
            // SAFETY: leaked by `insert`, in one of the two collections, and freed once; no slot outlives a frame.
            drop(unsafe { Box::from_raw(entry.as_ptr()) });
        }
    }
}

/// The maps, on the host.
#[derive(Debug)]
pub struct HostTables {
    world: World,
    half_open: RefCell<FlowMap>,
    established: RefCell<FlowMap>,
    counters: RefCell<BTreeMap<BackendId, BackendCounters>>,
    /// How often `monotonic_ns` was asked.
    clock_reads: Cell<u32>,
}

impl HostTables {
    /// The maps of a world without flows.
    pub fn new(world: &World) -> Self {
        // The kernel's table of half-open flows is an LRU that never refuses. Tests stay below where it begins to evict,
        // since which entry goes is up to the kernel.
        let half_open = FlowMap::new(usize::MAX);
        let established = FlowMap::new(world.max_flows as usize * 2);
        Self {
            world: world.clone(),
            half_open: RefCell::new(half_open),
            established: RefCell::new(established),
            counters: RefCell::default(),
            clock_reads: Cell::new(0),
        }
    }

    /// How often a frame asked for the time; in the kernel each costs a helper call.
    pub fn clock_reads(&self) -> u32 {
        self.clock_reads.get()
    }

    fn flow_map(&self, level: Level) -> &RefCell<FlowMap> {
        match level {
            Level::HalfOpen => &self.half_open,
            Level::Established => &self.established,
        }
    }
}

impl Tables for HostTables {
    fn node(&self) -> Option<&NodeEntry> {
        Some(&self.world.node)
    }

    fn pulse(&self) -> Option<PulseEntry> {
        let heartbeat_ns = match self.world.heartbeat {
            Heartbeat::Fresh => NOW_NS,
            Heartbeat::Stale => NOW_NS - 2 * LEASE_NS,
        };
        Some(PulseEntry { heartbeat_ns, flow_clock: self.world.clock, _pad: 0 })
    }

    fn monotonic_ns(&self) -> u64 {
        self.clock_reads.set(self.clock_reads.get() + 1);
        NOW_NS
    }

    fn vip(&self, address: Be32) -> Option<VipEntry> {
        self.world.tables.vips.get(&address.into()).copied()
    }

    fn service(&self, key: &ServiceKey) -> Option<ServiceEntry> {
        self.world.tables.services.get(key).copied()
    }

    fn ring(&self, ring: u32, slot: usize) -> Option<BackendId> {
        self.world.tables.rings.get(&ring)?.get(slot).copied()
    }

    fn backend(&self, id: BackendId) -> Option<BackendEntry> {
        // The kernel's map is an array: an unused id reads as zeros.
        Some(self.world.tables.backends.get(&id).copied().unwrap_or_default())
    }

    fn count(&self, id: BackendId, counter: BackendCounter) {
        let mut counters = self.counters.borrow_mut();
        let counters = counters.entry(id).or_default();
        match counter {
            BackendCounter::Opened => counters.opened += 1,
            BackendCounter::Established => counters.established += 1,
            BackendCounter::PortsExhausted => counters.ports_exhausted += 1,
            BackendCounter::Unresolved => counters.unresolved += 1,
            BackendCounter::Refused => counters.refused += 1,
            BackendCounter::Unanswered => counters.unanswered += 1,
        }
    }

    fn port_reserved(&self, port: Be16) -> bool {
        self.world.port_is_reserved(port.get())
    }

    fn flow(&self, level: Level, key: &FlowKey) -> Option<Slot<FlowEntry>> {
        let entry = self.flow_map(level).borrow().live.get(key).copied()?;
        // SAFETY: a leaked box, freed only with the map, which outlives the frame; one thread.
        Some(unsafe { Slot::new(entry) })
    }

    fn insert_flow(&self, level: Level, key: &FlowKey, entry: &FlowEntry) -> Inserted {
        self.flow_map(level).borrow_mut().insert(key, entry)
    }

    fn remove_flow(&self, level: Level, key: &FlowKey) {
        self.flow_map(level).borrow_mut().remove(key);
    }
}

/// The shared code on the host.
#[derive(Debug)]
pub struct HostPlane(pub HostTables);

impl HostPlane {
    /// The data plane of a world without flows.
    pub fn new(world: &World) -> Self {
        Self(HostTables::new(world))
    }
}

impl Plane for HostPlane {
    fn reset(&mut self, world: &World) {
        self.0 = HostTables::new(world);
    }

    fn apply(&mut self, world: &World) {
        self.0.world = world.clone();
    }

    fn run(&mut self, frame: &[u8]) -> Outcome {
        let mut buffer = BufferFrame(frame.to_vec());
        let verdict = forward(&mut buffer, &self.0);
        Outcome { verdict, frame: buffer.0 }
    }

    fn flows(&mut self) -> FlowState {
        FlowState {
            half_open: self.0.half_open.borrow().entries(),
            established: self.0.established.borrow().entries(),
        }
    }

    fn backend_counters(&mut self, id: BackendId) -> BackendCounters {
        self.0.counters.borrow().get(&id).copied().unwrap_or_default()
    }
}
