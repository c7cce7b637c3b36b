//! The data plane on the host: [`lb_common::tables::Tables`] over plain collections, a [`Frame`] over bytes.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    ptr::NonNull,
    rc::Rc,
};

use lb_common::{
    family::Address,
    forward::{cache, forward},
    frame::{Frame, Header, HostSocket},
    layout::{
        ALLOWED_SERVICE_BITS, AdvertEntry, AdvertKey, AllowedKey, BackendCounters, BackendEntry, BackendId,
        CacheSet, ClaimEntry, FlowEntry, FlowEvent, FlowKey, FragmentEntry, FragmentKey, Load, MAX_SERVICES,
        MacWord, Members, NodeEntry, PulseEntry, Removed, SEEN_SEVERED, STAMPS, Scratch, Search, Seen,
        ServiceEntry, ServiceKey, SourceEntry, SourceKey, VipEntry,
    },
    reason::TransmitReason,
    tables::{BackendCounter, FlowTables, Inserted, Level, PortSpace, Slot, Tables},
    wire::{Be16, Be32, Be128},
};

use crate::plane::{
    BACKENDS, FlowState, Heartbeat, Key, LEASE_NS, LINK, Notes, Outcome, Plane, World, wide_entry, wide_key,
};

/// What lies in front of a frame and can be taken (`XDP_PACKET_HEADROOM`), less what the kernel keeps there
/// (`struct xdp_frame`).
const HEADROOM: usize = 256 - 40;

/// A frame in a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BufferFrame {
    buffer: Vec<u8>,
    begin: usize,
    if_index: u32,
    leaves_by: u32,
    host_sockets: Rc<HostSockets>,
}

/// The host's connections, by the key that their peers' packets have: what its TCP has for them, and whether it is still in
/// the handshake.
pub type HostSockets = BTreeMap<Key, (HostSocket, bool)>;

impl BufferFrame {
    /// A frame that came in by that interface.
    pub fn new(frame: &[u8], if_index: u32) -> Self {
        // What is in front of a frame in the kernel is not zero either.
        let mut buffer = vec![0xa5; HEADROOM];
        buffer.extend_from_slice(frame);
        Self { buffer, begin: HEADROOM, if_index, leaves_by: if_index, host_sockets: Rc::default() }
    }

    /// The same on a host that has these sockets.
    #[must_use]
    pub fn on_host(self, host_sockets: &Rc<HostSockets>) -> Self {
        Self { host_sockets: Rc::clone(host_sockets), ..self }
    }

    fn socket<A: Address>(&self, key: &FlowKey<A>) -> (HostSocket, bool) {
        let key = FlowKey::new(key.src.wide(), key.src_port, key.dst.wide(), key.dst_port);
        self.host_sockets.get(&key).copied().unwrap_or((HostSocket::None, false))
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[self.begin..]
    }
}

impl Frame for BufferFrame {
    fn len(&self) -> usize {
        self.bytes().len()
    }

    fn if_index(&self) -> u32 {
        self.if_index
    }

    fn leave_by(&mut self, if_index: u32) {
        self.leaves_by = if_index;
    }

    fn header<H: Header>(&self, offset: usize) -> Option<&H> {
        let bytes = self.bytes().get(offset..)?.get(..size_of::<H>())?;
        // SAFETY: as many bytes as an `H` has, borrowed for as long; any bytes at any address are one (its contract).
        Some(unsafe { &*bytes.as_ptr().cast() })
    }

    fn header_mut<H: Header>(&mut self, offset: usize) -> Option<&mut H> {
        let bytes = self.buffer[self.begin..].get_mut(offset..)?.get_mut(..size_of::<H>())?;
        // SAFETY: as in `header`, borrowed mutably.
        Some(unsafe { &mut *bytes.as_mut_ptr().cast() })
    }

    fn truncate(&mut self, len: usize) -> bool {
        let fits = len <= self.len();
        if fits {
            self.buffer.truncate(self.begin + len);
        }
        fits
    }

    fn grow_front(&mut self, bytes: i32) -> bool {
        // The kernel leaves at least an Ethernet header (`bpf_xdp_adjust_head`).
        let begin = self.begin.checked_add_signed(-bytes as isize);
        let begin = begin.filter(|begin| begin + 14 <= self.buffer.len());
        if let Some(begin) = begin {
            self.begin = begin;
        }
        begin.is_some()
    }

    fn host_socket<A: Address>(&self, key: &FlowKey<A>) -> HostSocket {
        self.socket(key).0
    }

    fn host_is_opening<A: Address>(&self, key: &FlowKey<A>) -> bool {
        self.socket(key).1
    }
}

/// A map. Values never move, and outlive their removal, as in the kernel: a slot may still point to one.
#[derive(Debug)]
struct SlotMap<K, V> {
    live: BTreeMap<K, NonNull<V>>,
    removed: Vec<NonNull<V>>,
    max_entries: usize,
}

impl<K: Ord + Copy, V: Copy> SlotMap<K, V> {
    const fn new(max_entries: usize) -> Self {
        Self { live: BTreeMap::new(), removed: vec![], max_entries }
    }

    fn insert(&mut self, key: &K, entry: &V) -> Inserted {
        if self.live.contains_key(key) {
            Inserted::Exists
        } else if self.live.len() >= self.max_entries {
            Inserted::Full
        } else {
            self.live.insert(*key, NonNull::from(Box::leak(Box::new(*entry))));
            Inserted::Yes
        }
    }

    fn remove(&mut self, key: &K) {
        self.removed.extend(self.live.remove(key));
    }

    fn slot(&self, key: &K) -> Option<Slot<V>> {
        let entry = self.live.get(key).copied()?;
        // SAFETY: a leaked box, freed only with the map, which outlives the frame; one thread.
        Some(unsafe { Slot::new(entry) })
    }

    /// The slot of a key, with that entry where there was none.
    fn slot_or(&mut self, key: K, entry: V) -> Option<Slot<V>> {
        self.insert(&key, &entry);
        self.slot(&key)
    }

    fn entries(&self) -> impl Iterator<Item = (K, V)> {
        // SAFETY: what is in `live` is freed only in `drop`, and no slot is in use between frames.
        self.live.iter().map(|(key, entry)| (*key, unsafe { entry.read() }))
    }
}

impl<K, V> Drop for SlotMap<K, V> {
    fn drop(&mut self) {
        for entry in self.live.values().chain(&self.removed) {
            // SAFETY: leaked by `insert`, in one of the two collections, and freed once; no slot outlives a frame.
            drop(unsafe { Box::from_raw(entry.as_ptr()) });
        }
    }
}

/// The flow tables of one family.
#[derive(Debug)]
struct FamilyMaps<A: Ord + Copy> {
    half_open: RefCell<SlotMap<FlowKey<A>, FlowEntry<A>>>,
    established: RefCell<SlotMap<FlowKey<A>, FlowEntry<A>>>,
    cache: RefCell<SlotMap<u32, CacheSet<A>>>,
    tags: RefCell<SlotMap<u32, u64>>,
    draft: RefCell<SlotMap<(), FlowEntry<A>>>,
}

impl<A: Ord + Copy> FamilyMaps<A> {
    fn new(max_flows: u32) -> Self {
        Self {
            // The kernel's table of half-open flows is an LRU that never refuses. Tests stay below where it begins to
            // evict, since which entry goes is up to the kernel.
            half_open: RefCell::new(SlotMap::new(usize::MAX)),
            established: RefCell::new(SlotMap::new(max_flows as usize * 2)),
            cache: RefCell::new(SlotMap::new(usize::MAX)),
            tags: RefCell::new(SlotMap::new(usize::MAX)),
            draft: RefCell::new(SlotMap::new(1)),
        }
    }

    fn level(&self, level: Level) -> &RefCell<SlotMap<FlowKey<A>, FlowEntry<A>>> {
        match level {
            Level::HalfOpen => &self.half_open,
            Level::Established => &self.established,
        }
    }
}

/// The maps, on the host.
#[derive(Debug)]
pub struct HostTables {
    world: World,
    v4: FamilyMaps<Be32>,
    v6: FamilyMaps<Be128>,
    fragments: RefCell<BTreeMap<FragmentKey, FragmentEntry>>,
    sources: RefCell<SlotMap<SourceKey, SourceEntry>>,
    adverts: RefCell<BTreeMap<AdvertKey, AdvertEntry>>,
    claims: RefCell<SlotMap<Be128, ClaimEntry>>,
    /// Copies of the world's backends, for those who ask where one lies.
    backends: RefCell<SlotMap<BackendId, BackendEntry>>,
    loads: RefCell<SlotMap<BackendId, Load>>,
    turns: RefCell<BTreeMap<u32, u32>>,
    stamps: RefCell<BTreeMap<u32, u32>>,
    flow_events: RefCell<Vec<FlowEvent>>,
    scratch: RefCell<SlotMap<(), Scratch>>,
    counters: RefCell<BTreeMap<BackendId, BackendCounters>>,
    /// How often an advertisement was noted.
    advert_writes: Cell<u64>,
    /// How often `monotonic_ns` was asked.
    clock_reads: Cell<u32>,
    /// Packets that went by the cache and have been settled.
    sent: Cell<u64>,
}

impl HostTables {
    /// The maps of a world without flows.
    pub fn new(world: &World) -> Self {
        Self {
            world: world.clone(),
            v4: FamilyMaps::new(world.max_flows),
            v6: FamilyMaps::new(world.max_flows),
            fragments: RefCell::default(),
            sources: RefCell::new(SlotMap::new(usize::MAX)),
            adverts: RefCell::default(),
            claims: RefCell::new(SlotMap::new(MAX_SERVICES as usize)),
            backends: RefCell::new(SlotMap::new(usize::MAX)),
            loads: RefCell::new(SlotMap::new(usize::MAX)),
            turns: RefCell::default(),
            stamps: RefCell::default(),
            flow_events: RefCell::default(),
            scratch: RefCell::new(SlotMap::new(1)),
            counters: RefCell::default(),
            advert_writes: Cell::new(0),
            clock_reads: Cell::new(0),
            sent: Cell::new(0),
        }
    }

    /// Settles the cache, as the controller has the programs do it.
    pub fn settle(&self) {
        let sets = self.world.node.cache_sets;
        for set in 0..sets {
            cache::settle::<Be32, _>(self, sets, set, self.world.clock);
            cache::settle::<Be128, _>(self, sets, set, self.world.clock);
        }
    }

    /// How many packets went by the cache and have been settled.
    pub fn sent_by_cache(&self) -> u64 {
        self.sent.get()
    }

    /// How often a frame asked for the time; in the kernel each costs a helper call.
    pub fn clock_reads(&self) -> u32 {
        self.clock_reads.get()
    }

    /// How many claims and advertisements have been noted so far.
    pub fn sightings(&self) -> (u64, u64) {
        let claims = self.claims.borrow().entries().map(|(_, claim)| claim.count).sum();
        (claims, self.advert_writes.get())
    }

    /// Whether nothing but VIPs has been claimed.
    pub fn claims_are_of_vips(&self) -> bool {
        self.claims.borrow().entries().all(|(vip, _)| self.world.tables.vips.contains_key(&vip.into()))
    }

    /// What an earlier frame left for its own stages must not matter to this one; only the count of ICMP errors stays.
    fn spoil_scratch(&self) {
        let Some(scratch) = self.scratch() else { return };
        scratch.update(|scratch| {
            let ports =
                FragmentEntry { src_port: Be16::new(0xa5a5), dst_port: Be16::new(0x5a5a), at: 0xa5a5_a5a5 };
            *scratch = Scratch {
                l3: 0xa5a5_a5a5,
                l4: 0xa5a5_a5a5,
                payload: 0xa5a5_a5a5,
                flags: 0xa5a5_a5a5,
                ports,
                attempt: 0xa5a5_a5a5,
                answer: 0xa5a5_a5a5,
                mtu: 0xa5a5_a5a5,
                if_index: 0xa5a5_a5a5,
                backend: 0xa5a5_a5a5,
                search: Search::default(),
                errors: scratch.errors,
                errors_since_ns: scratch.errors_since_ns,
                other_node: MacWord::new([0xa5; 6]),
                service: ServiceEntry { index: 0xa5a5_a5a5, ..ServiceEntry::default() },
                hash: 0xa5a5_a5a5,
                turn: 0xa5a5_a5a5,
                is_v6: 0xa5a5_a5a5,
                rest: 0xa5a5_a5a5,
                closed_port: 0xa5a5_a5a5,
                closed_for: 0xa5a5_a5a5,
            };
        });
    }
}

/// Whether the first `bits` of both are the same.
fn same_prefix(a: &AllowedKey, b: &AllowedKey, bits: u32) -> bool {
    let bytes = |key: &AllowedKey| [&key.service.octets()[..], &key.source.octets()].concat();
    (bytes(a).iter().zip(bytes(b)).zip((0..).step_by(8))).all(|((a, b), at)| {
        let compared = bits.saturating_sub(at).min(8);
        compared == 0 || (a ^ b) >> (8 - compared) == 0
    })
}

impl Tables for HostTables {
    fn node(&self) -> Option<&NodeEntry> {
        Some(&self.world.node)
    }

    fn pulse(&self) -> Option<PulseEntry> {
        let heartbeat_ns = match self.world.heartbeat {
            Heartbeat::Fresh => self.world.now_ns,
            Heartbeat::Stale => self.world.now_ns - 2 * LEASE_NS,
        };
        Some(PulseEntry { heartbeat_ns, flow_clock: self.world.clock, _pad: 0 })
    }

    fn monotonic_ns(&self) -> u64 {
        self.clock_reads.set(self.clock_reads.get() + 1);
        self.world.now_ns
    }

    fn vip(&self, address: Be128) -> Option<VipEntry> {
        self.world.tables.vips.get(&address.into()).copied()
    }

    fn service(&self, key: &ServiceKey) -> Option<ServiceEntry> {
        self.world.tables.services.get(key).copied()
    }

    fn ring(&self, service: u32, slot: usize) -> Option<BackendId> {
        self.world.tables.rings.get(&service)?.get(slot).copied()
    }

    fn members(&self, service: u32) -> Option<&Members> {
        // The kernel's map is an array: a service without members reads as zeros. So for the two below.
        Some(self.world.tables.members.get(&service).unwrap_or(&Members::EMPTY))
    }

    fn next_turn(&self, service: u32) -> u32 {
        let mut turns = self.turns.borrow_mut();
        let turn = turns.entry(service).or_default();
        *turn = turn.wrapping_add(1);
        turn.wrapping_sub(1)
    }

    fn backend(&self, id: BackendId) -> Option<BackendEntry> {
        Some(self.world.tables.backends.get(&id).copied().unwrap_or_default())
    }

    fn backend_slot(&self, id: BackendId) -> Option<Slot<BackendEntry>> {
        let entry = self.backend(id)?;
        let slot = self.backends.borrow_mut().slot_or(id, entry)?;
        slot.update(|slot| *slot = entry);
        Some(slot)
    }

    fn cpu(&self) -> u32 {
        0
    }

    fn stamp(&self, index: u32) -> Option<u32> {
        (index < STAMPS).then(|| self.stamps.borrow().get(&index).copied().unwrap_or_default())
    }

    fn renew_stamp(&self, index: u32) {
        *self.stamps.borrow_mut().entry(index).or_default() += 1;
    }

    fn count_sent(&self, _reason: TransmitReason, packets: u64) {
        self.sent.set(self.sent.get() + packets);
    }

    fn load(&self, id: BackendId) -> Option<Slot<Load>> {
        self.loads.borrow_mut().slot_or(id, Load::default())
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
            BackendCounter::Full => counters.full += 1,
            BackendCounter::Answered => counters.answered += 1,
            BackendCounter::Broken => counters.broken += 1,
        }
    }

    fn count_removed(&self, id: BackendId, removed: &Removed) {
        let mut counters = self.counters.borrow_mut();
        let sum = &mut counters.entry(id).or_default().removed;
        sum.closed += removed.closed;
        sum.reset += removed.reset;
        sum.expired += removed.expired;
        sum.packets_in += removed.packets_in;
        sum.bytes_in += removed.bytes_in;
        sum.packets_out += removed.packets_out;
        sum.bytes_out += removed.bytes_out;
    }

    fn port_reserved(&self, space: PortSpace, port: Be16) -> bool {
        self.world.port_is_reserved(space == PortSpace::Node, port.get())
    }

    fn scratch(&self) -> Option<Slot<Scratch>> {
        self.scratch.borrow_mut().slot_or((), Scratch::default())
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentEntry> {
        self.fragments.borrow().get(key).copied()
    }

    fn remember_fragment(&self, key: &FragmentKey, entry: &FragmentEntry) {
        self.fragments.borrow_mut().insert(*key, *entry);
    }

    fn source(&self, key: &SourceKey) -> Option<Slot<SourceEntry>> {
        self.sources.borrow().slot(key)
    }

    fn remember_source(&self, key: &SourceKey, entry: &SourceEntry) {
        self.sources.borrow_mut().insert(key, entry);
    }

    fn claim(&self, vip: &Be128) -> Option<Slot<ClaimEntry>> {
        self.claims.borrow().slot(vip)
    }

    fn remember_claim(&self, vip: &Be128, entry: &ClaimEntry) {
        assert_eq!(
            self.claims.borrow_mut().insert(vip, entry),
            Inserted::Yes,
            "a first claim, and room for it"
        );
    }

    fn remember_advert(&self, key: &AdvertKey, entry: &AdvertEntry) {
        self.advert_writes.set(self.advert_writes.get() + 1);
        self.adverts.borrow_mut().insert(*key, *entry);
    }

    fn tell_flow(&self, event: &FlowEvent) {
        self.flow_events.borrow_mut().push(*event);
    }

    fn is_allowed(&self, key: &AllowedKey) -> bool {
        let mut prefixes = self.world.tables.allowed.iter();
        prefixes.any(|(prefix, bits)| *bits >= ALLOWED_SERVICE_BITS && same_prefix(key, prefix, *bits))
    }
}

macro_rules! flow_tables {
    ($address:ty, $maps:ident) => {
        impl FlowTables<$address> for HostTables {
            fn flow(&self, level: Level, key: &FlowKey<$address>) -> Option<Slot<FlowEntry<$address>>> {
                self.$maps.level(level).borrow().slot(key)
            }

            fn insert_flow(
                &self,
                level: Level,
                key: &FlowKey<$address>,
                entry: &FlowEntry<$address>,
            ) -> Inserted {
                let inserted = self.$maps.level(level).borrow_mut().insert(key, entry);
                if level == Level::Established {
                    cache::changed(self, key);
                }
                inserted
            }

            fn remove_flow(&self, level: Level, key: &FlowKey<$address>) {
                self.$maps.level(level).borrow_mut().remove(key);
                if level == Level::Established {
                    cache::changed(self, key);
                }
            }

            fn cache(&self, index: u32) -> Option<Slot<CacheSet<$address>>> {
                self.$maps.cache.borrow_mut().slot_or(index, CacheSet::EMPTY)
            }

            fn cache_tags(&self, index: u32) -> Option<Slot<u64>> {
                assert!(index < self.world.node.cache_sets, "set {index}");
                self.$maps.tags.borrow_mut().slot_or(index, 0)
            }

            fn draft(&self) -> Option<Slot<FlowEntry<$address>>> {
                let zero = <$address>::ZERO;
                let nobody = FlowKey::new(zero, Be16::new(0), zero, Be16::new(0));
                self.$maps.draft.borrow_mut().slot_or(
                    (),
                    FlowEntry {
                        rewritten: nobody,
                        client: lb_common::layout::Hop::NONE,
                        ip_delta: lb_common::checksum::Delta::default(),
                        tcp_delta: lb_common::checksum::Delta::default(),
                        backend: 0,
                        direction: 0,
                        mode: 0,
                        opened: 0,
                        attempt: 0,
                        _pad: 0,
                        seen: lb_common::layout::Seen::default(),
                    },
                )
            }
        }
    };
}

flow_tables!(Be32, v4);
flow_tables!(Be128, v6);

/// The shared code on the host.
#[derive(Debug)]
pub struct HostPlane {
    /// Its maps.
    pub tables: HostTables,
    /// What its host's own TCP has.
    pub host_sockets: Rc<HostSockets>,
    left_by: u32,
}

impl HostPlane {
    /// The data plane of a world without flows.
    pub fn new(world: &World) -> Self {
        Self { tables: HostTables::new(world), host_sockets: Rc::default(), left_by: LINK }
    }

    /// Gives it a frame that came in by that interface.
    pub fn run_at(&mut self, frame: &[u8], if_index: u32) -> Outcome {
        self.tables.spoil_scratch();
        let mut buffer = BufferFrame::new(frame, if_index).on_host(&self.host_sockets);
        let verdict = forward(&mut buffer, &self.tables);
        self.left_by = buffer.leaves_by;
        let redirected =
            buffer.leaves_by != if_index && matches!(verdict, lb_common::reason::Verdict::Transmit(_));
        Outcome { verdict, frame: buffer.bytes().to_vec(), redirected }
    }
}

impl Plane for HostPlane {
    fn reset(&mut self, world: &World) {
        self.tables = HostTables::new(world);
    }

    fn apply(&mut self, world: &World) {
        // The flow clock goes on while there is a controller, which settles.
        if world.clock != self.tables.world.clock {
            self.tables.settle();
        }
        self.tables.world = world.clone();
    }

    fn run(&mut self, frame: &[u8]) -> Outcome {
        self.run_at(frame, LINK)
    }

    fn flows(&mut self) -> FlowState {
        self.tables.settle();
        let both = |level| {
            let v4 = self.tables.v4.level(level).borrow();
            let v6 = self.tables.v6.level(level).borrow();
            v4.entries()
                .map(|(key, entry)| (wide_key(&key), wide_entry(&entry)))
                .chain(v6.entries())
                .collect()
        };
        FlowState { half_open: both(Level::HalfOpen), established: both(Level::Established) }
    }

    fn notes(&mut self) -> Notes {
        let counters = self.tables.counters.borrow();
        Notes {
            fragments: self.tables.fragments.borrow().clone(),
            sources: self.tables.sources.borrow().entries().map(|(key, _)| key).collect(),
            adverts: self.tables.adverts.borrow().iter().map(|(key, entry)| (*key, entry.into())).collect(),
            claims: self
                .tables
                .claims
                .borrow()
                .entries()
                .map(|(vip, entry)| (vip, (&entry).into()))
                .collect(),
            loads: (0..BACKENDS).filter_map(|id| self.tables.load(id)).map(Slot::read).collect(),
            counters: (0..BACKENDS).map(|id| counters.get(&id).copied().unwrap_or_default()).collect(),
            events: self.tables.flow_events.take(),
        }
    }

    fn sever(&mut self, key: &Key) {
        let sever = |seen: &mut Seen| seen.flags |= SEEN_SEVERED;
        if key.src.is_mapped() {
            let key = FlowKey::new(key.src.low(), key.src_port, key.dst.low(), key.dst_port);
            let slot: Option<Slot<FlowEntry<Be32>>> = self.tables.flow(Level::Established, &key);
            slot.expect("an established flow").update(|entry| sever(&mut entry.seen));
            cache::changed(&self.tables, &key);
        } else {
            let slot: Option<Slot<FlowEntry<Be128>>> = self.tables.flow(Level::Established, key);
            slot.expect("an established flow").update(|entry| sever(&mut entry.seen));
            cache::changed(&self.tables, key);
        }
    }

    fn left_by(&self) -> Option<u32> {
        Some(self.left_by)
    }
}
