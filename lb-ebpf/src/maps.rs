//! The maps, and [`Tables`] over them.
//!
//! Sizes of the flow tables are set by the loader; what stands here are the names, the types and the defaults.

use core::{cell::UnsafeCell, ptr::NonNull};

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST},
    btf_maps::{
        Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf,
        lpm_trie::Key as LpmKey,
    },
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::btf_map,
    programs::XdpContext,
};
use lb_common::{
    forward::{Stage, cache},
    layout::{
        ALLOWED_SERVICE_BITS, AdvertEntry, AdvertKey, AllowedKey, BackendCounters, BackendEntry, BackendId,
        CacheSet, ClaimEntry, FlowEntry, FlowEvent, FlowKey, FragmentEntry, FragmentKey, Load, LocalCounters,
        LocalEntry, LocalPeer, MAX_ADVERTS, MAX_ALLOWED, MAX_BACKENDS, MAX_SERVICES, MaglevSlots, Members,
        NodeEntry, PulseEntry, RESERVED_PORT_WORDS, Removed, STAMPS as STAMPS_LEN, Scratch, ServiceEntry,
        ServiceKey, SourceEntry, SourceKey, VipEntry,
    },
    local::{LocalTables, Outcome},
    reason::{self, TransmitReason, Verdict},
    tables::{BackendCounter, FlowTables, Inserted, Level, PortSpace, Slot, Tables},
    trace::{Event, Note, TraceEntry, Wanted, Watcher},
    wire::{Be16, Be32, Be128},
};

/// What does not change from packet to packet.
#[btf_map]
static NODE: Array<NodeEntry, 1> = Array::new();

/// The controller's heartbeat and the flow clock.
#[btf_map]
static PULSE: Array<PulseEntry, 1> = Array::new();

/// The VIPs, exactly; `NODE` has a filter that spares most packets this look-up.
#[btf_map]
static VIPS: HashMap<Be128, VipEntry, { MAX_SERVICES as usize }> = HashMap::new();

/// VIP and port -> service.
#[btf_map]
static SERVICES: HashMap<ServiceKey, ServiceEntry, { MAX_SERVICES as usize }> = HashMap::new();

/// Service -> its table of backends. A table is one value of an inner map, and the inner map is replaced as a whole: no
/// packet sees half of one.
#[btf_map]
static RINGS: ArrayOfMaps<Array<MaglevSlots, 1>, { MAX_SERVICES as usize }> = ArrayOfMaps::new();

/// Service -> its backends, once each.
#[btf_map]
static MEMBERS: Array<Members, { MAX_SERVICES as usize }> = Array::new();

/// Service -> how many new flows have taken turns.
#[btf_map]
static TURNS: Array<u32, { MAX_SERVICES as usize }> = Array::new();

/// Backends by their dense id.
#[btf_map]
static BACKENDS: Array<BackendEntry, { MAX_BACKENDS as usize }> = Array::new();

/// How busy each backend is.
#[btf_map]
static LOADS: Array<Load, { MAX_BACKENDS as usize }> = Array::new();

/// What happened to the flows of each backend.
#[btf_map]
static BACKEND_COUNTERS: PerCpuArray<BackendCounters, { MAX_BACKENDS as usize }> = PerCpuArray::new();

/// One bit per port that may not be a NAT port; first at the VIPs, then at the node's own addresses.
#[btf_map]
static RESERVED_PORTS: Array<u64, { RESERVED_PORT_WORDS }> = Array::new();

/// IPv4 flows before their handshake has completed, both directions.
#[btf_map]
static HALF_OPEN4: LruHashMap<FlowKey<Be32>, FlowEntry<Be32>, 65_536> = LruHashMap::new();

/// IPv6 flows likewise.
#[btf_map]
static HALF_OPEN6: LruHashMap<FlowKey<Be128>, FlowEntry<Be128>, 65_536> = LruHashMap::new();

/// IPv4 flows after it, both directions. Memory is taken as flows come, not for the largest number of them.
#[btf_map]
static ESTABLISHED4: HashMap<FlowKey<Be32>, FlowEntry<Be32>, 2_097_152, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// IPv6 flows likewise.
#[btf_map]
static ESTABLISHED6: HashMap<FlowKey<Be128>, FlowEntry<Be128>, 2_097_152, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// The cache of IPv4 flows: as many sets for each CPU as [`NodeEntry::cache_sets`] says. Mapped memory begins with a cache line,
/// and so does each of its lines.
#[btf_map]
static CACHE4: Array<CacheSet<Be32>, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// The cache of IPv6 flows.
#[btf_map]
static CACHE6: Array<CacheSet<Be128>, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// When an established flow with this stamp has changed last (`CLOCK_MONOTONIC`, nanoseconds). User space writes its changes
/// here, too.
#[btf_map]
static STAMPS: Array<u64, { STAMPS_LEN as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// What is in each set of `CACHE4`.
#[btf_map]
static TAGS4: Array<u64, 1> = Array::new();

/// What is in each set of `CACHE6`.
#[btf_map]
static TAGS6: Array<u64, 1> = Array::new();

/// Which set of the cache is settled next.
#[btf_map]
static SETTLED: PerCpuArray<u32, 1> = PerCpuArray::new();

/// The ports of first fragments, for those that follow.
#[btf_map]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentEntry, 8_192> = LruHashMap::new();

/// How many connections each source may still open.
#[btf_map]
static SOURCES: LruHashMap<SourceKey, SourceEntry, 65_536> = LruHashMap::new();

/// Sender and virtual router -> its last advertisement.
#[btf_map]
static ADVERTS: LruHashMap<AdvertKey, AdvertEntry, { MAX_ADVERTS as usize }> = LruHashMap::new();

/// VIP -> who else has said that it is its own. No larger than `VIPS`, since only its keys get in.
#[btf_map]
static CLAIMS: HashMap<Be128, ClaimEntry, { MAX_SERVICES as usize }> = HashMap::new();

/// Service and source prefix -> may connect.
#[btf_map]
static ALLOWED: LpmTrie<AllowedKey, u32, { MAX_ALLOWED as usize }> = LpmTrie::new();

/// What has changed about established flows, for those who tell other nodes.
#[btf_map]
static FLOW_EVENTS: RingBuf<FlowEvent, { 1 << 22 }> = RingBuf::new();

/// How many of these found no room.
#[btf_map]
static LOST_FLOW_EVENTS: PerCpuArray<u64, 1> = PerCpuArray::new();

/// What one program leaves for the next one on the same frame.
#[btf_map]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// Room for a new IPv4 flow's entry.
#[btf_map]
static DRAFT4: PerCpuArray<FlowEntry<Be32>, 1> = PerCpuArray::new();

/// Room for a new IPv6 flow's entry.
#[btf_map]
static DRAFT6: PerCpuArray<FlowEntry<Be128>, 1> = PerCpuArray::new();

/// One counter for each reason.
#[btf_map]
static COUNTERS: PerCpuArray<u64, { reason::COUNTERS as usize }> = PerCpuArray::new();

/// The programs of the stages.
#[btf_map]
static PROGRAMS: ProgramArray<32> = ProgramArray::new();

/// Whose connects are redirected.
#[btf_map]
static LOCAL: Array<LocalEntry, 1> = Array::new();

/// Socket cookie -> the VIP that it connected to.
#[btf_map]
static LOCAL_PEERS: LruHashMap<u64, LocalPeer, 65_536> = LruHashMap::new();

/// Service -> what became of connects on this node.
#[btf_map]
static LOCAL_COUNTERS: PerCpuArray<LocalCounters, { MAX_SERVICES as usize }> = PerCpuArray::new();

/// What the tracer wants to see: a variable of a section of its own, which is a map with one value to user space. A load
/// from it costs one instruction, a look-up in an array map eight.
#[unsafe(link_section = ".data.trace")]
#[unsafe(no_mangle)]
static TRACE: Shared<TraceEntry> = Shared(UnsafeCell::new(TraceEntry {
    until_ns: 0,
    session: 0,
    owner: 0,
    depth: 0,
    _pad: 0,
    wanted: Wanted::EVERYTHING,
}));

/// The tracer's records.
#[btf_map]
static EVENTS: RingBuf<Event, { 1 << 20 }> = RingBuf::new();

/// What the programs leave for each other about the frame at hand, for the tracer and for the log.
#[btf_map]
static NOTES: PerCpuArray<Note, 1> = PerCpuArray::new();

/// When a drop for each reason was last logged (`CLOCK_MONOTONIC`, nanoseconds).
#[btf_map]
static LOGGED: PerCpuArray<u64, 32> = PerCpuArray::new();

/// The programs that only watch.
#[btf_map]
static WATCHERS: ProgramArray<4> = ProgramArray::new();

/// A variable that user space writes, too.
struct Shared<T>(UnsafeCell<T>);

// SAFETY: read and written through `Slot` alone, which is made for values that others write at the same time.
unsafe impl<T> Sync for Shared<T> {}

/// What the tracer wants to see.
#[inline(always)]
pub fn trace() -> Slot<TraceEntry> {
    // SAFETY: a static lives for ever and is never null.
    unsafe { Slot::new(NonNull::new_unchecked(TRACE.0.get())) }
}

/// Whether somebody traces.
#[inline(always)]
pub fn is_traced() -> bool {
    // SAFETY: aligned, and alive for ever. Volatile, since only user space writes anything else than zero there.
    unsafe { (&raw const (*TRACE.0.get()).session).read_volatile() != 0 }
}

/// The note on the frame at hand.
#[inline(always)]
pub fn note() -> Option<Slot<Note>> {
    slot(NOTES.get_ptr_mut(0))
}

/// When a drop for this reason was last logged.
#[inline(always)]
pub fn last_logged(reason: u32) -> Option<Slot<u64>> {
    slot(LOGGED.get_ptr_mut(reason))
}

/// Sends the first `N` words of a note to the tracer. False where there is no room.
#[inline(always)]
pub fn send_words<const N: usize>(note: Slot<Note>) -> bool {
    const { assert!(N * 8 <= size_of::<Note>()) };
    note.with(|note| {
        // SAFETY: a note is that large and that aligned, and has no padding.
        let words = unsafe { &*core::ptr::from_ref(note).cast::<[u64; N]>() };
        EVENTS.output_untyped::<[u64; N]>(words, 0).is_ok()
    })
}

/// Goes on with a program that watches. Returns where the loader has not put it into its place.
#[inline(always)]
pub fn watch(context: &XdpContext, watcher: Watcher) {
    // SAFETY: the context is the one that the kernel called us with; the index is in range.
    unsafe { WATCHERS.tail_call(context, watcher as u32) };
}

/// Goes on with the program of a stage. Returns only where the loader has not put it into its place.
#[inline(always)]
pub fn go_on(context: &XdpContext, stage: Stage) {
    // SAFETY: the context is the one that the kernel called us with; the index is in range.
    unsafe { PROGRAMS.tail_call(context, stage as u32) };
}

/// Counts a packet under its reason.
#[inline(always)]
pub fn count(counter: u32) {
    if let Some(count) = COUNTERS.get_ptr_mut(counter) {
        // SAFETY: a per-CPU value, and the program is not preempted by itself on this CPU.
        unsafe { *count += 1 };
    }
}

/// The number of the set that this CPU settles next, of so many.
#[inline(always)]
pub fn next_to_settle(sets: u32) -> Option<u32> {
    let next = slot(SETTLED.get_ptr_mut(0))?;
    let set = next.read() & sets.wrapping_sub(1);
    next.update(|next| *next = set.wrapping_add(1));
    Some(set)
}

/// The maps above.
pub struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn node(&self) -> Option<&NodeEntry> {
        NODE.get(0)
    }

    #[inline(always)]
    fn pulse(&self) -> Option<PulseEntry> {
        PULSE.get(0).copied()
    }

    #[inline(always)]
    fn monotonic_ns(&self) -> u64 {
        // SAFETY: the helper takes no argument and is allowed in XDP.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn vip(&self, address: Be128) -> Option<VipEntry> {
        // SAFETY: the value is copied at once; only user space writes it.
        unsafe { VIPS.get(address) }.copied()
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<ServiceEntry> {
        // SAFETY: as above.
        unsafe { SERVICES.get(key) }.copied()
    }

    #[inline(always)]
    fn ring(&self, service: u32, slot: usize) -> Option<BackendId> {
        RINGS.get_value(service, &0)?.get(slot).copied()
    }

    #[inline(always)]
    fn members(&self, service: u32) -> Option<&Members> {
        MEMBERS.get(service)
    }

    #[inline(always)]
    fn next_turn(&self, service: u32) -> u32 {
        let Some(turn) = slot(TURNS.get_ptr_mut(service)) else { return 0 };
        let number = turn.read();
        // Two CPUs at the same time may take the same turn; over many flows that evens out.
        turn.update(|turn| *turn = number.wrapping_add(1));
        number
    }

    #[inline(always)]
    fn backend(&self, id: BackendId) -> Option<BackendEntry> {
        BACKENDS.get(u32::from(id)).copied()
    }

    #[inline(always)]
    fn backend_slot(&self, id: BackendId) -> Option<Slot<BackendEntry>> {
        slot(BACKENDS.get_ptr_mut(u32::from(id)))
    }

    #[inline(always)]
    fn cpu(&self) -> u32 {
        // SAFETY: the helper takes no argument and is allowed in XDP.
        unsafe { bpf_get_smp_processor_id() }
    }

    #[inline(always)]
    fn stamp(&self, index: u32) -> Option<u32> {
        let stamp = STAMPS.get_ptr(index)?;
        // SAFETY: aligned, and alive for as long as the program runs. Volatile, since others write it at any time.
        Some(unsafe { stamp.read_volatile() } as u32)
    }

    #[inline(always)]
    fn renew_stamp(&self, index: u32) {
        let now = Tables::monotonic_ns(self);
        let Some(stamp) = STAMPS.get_ptr_mut(index) else { return };
        // SAFETY: as above.
        unsafe { stamp.write_volatile(now) };
    }

    #[inline(always)]
    fn count_sent(&self, reason: TransmitReason, packets: u64) {
        if let Some(count) = COUNTERS.get_ptr_mut(Verdict::Transmit(reason).counter()) {
            // SAFETY: a per-CPU value, and the program is not preempted by itself on this CPU.
            unsafe { *count += packets };
        }
    }

    #[inline(always)]
    fn load(&self, id: BackendId) -> Option<Slot<Load>> {
        slot(LOADS.get_ptr_mut(u32::from(id)))
    }

    #[inline(always)]
    fn count(&self, id: BackendId, counter: BackendCounter) {
        let Some(counters) = BACKEND_COUNTERS.get_ptr_mut(u32::from(id)) else { return };
        // SAFETY: a per-CPU value, and the program is not preempted by itself on this CPU.
        let counters = unsafe { &mut *counters };
        let count = match counter {
            BackendCounter::Opened => &mut counters.opened,
            BackendCounter::Established => &mut counters.established,
            BackendCounter::PortsExhausted => &mut counters.ports_exhausted,
            BackendCounter::Unresolved => &mut counters.unresolved,
            BackendCounter::Refused => &mut counters.refused,
            BackendCounter::Unanswered => &mut counters.unanswered,
            BackendCounter::Full => &mut counters.full,
            BackendCounter::Answered => &mut counters.answered,
            BackendCounter::Broken => &mut counters.broken,
        };
        *count += 1;
    }

    #[inline(always)]
    fn count_removed(&self, id: BackendId, removed: &Removed) {
        let Some(counters) = BACKEND_COUNTERS.get_ptr_mut(u32::from(id)) else { return };
        // SAFETY: a per-CPU value, and the program is not preempted by itself on this CPU.
        let sum = unsafe { &mut (*counters).removed };
        sum.closed += removed.closed;
        sum.reset += removed.reset;
        sum.expired += removed.expired;
        sum.packets_in += removed.packets_in;
        sum.bytes_in += removed.bytes_in;
        sum.packets_out += removed.packets_out;
        sum.bytes_out += removed.bytes_out;
    }

    #[inline(always)]
    fn port_reserved(&self, space: PortSpace, port: Be16) -> bool {
        let first = match space {
            PortSpace::Vip => 0,
            PortSpace::Node => RESERVED_PORT_WORDS as u32 / 2,
        };
        let port = u32::from(port.get());
        RESERVED_PORTS.get(first + (port >> 6)).is_none_or(|word| word & (1 << (port & 63)) != 0)
    }

    #[inline(always)]
    fn scratch(&self) -> Option<Slot<Scratch>> {
        slot(SCRATCH.get_ptr_mut(0))
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentEntry> {
        // SAFETY: the value is copied at once, and written as a whole.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn remember_fragment(&self, key: &FragmentKey, entry: &FragmentEntry) {
        // Where it cannot be remembered, those that follow are dropped and counted.
        let _ = FRAGMENTS.insert(key, entry, 0);
    }

    #[inline(always)]
    fn source(&self, key: &SourceKey) -> Option<Slot<SourceEntry>> {
        slot(SOURCES.get_ptr_mut(key))
    }

    #[inline(always)]
    fn remember_source(&self, key: &SourceKey, entry: &SourceEntry) {
        // A source that cannot be remembered is not limited.
        let _ = SOURCES.insert(key, entry, 0);
    }

    #[inline(always)]
    fn claim(&self, vip: &Be128) -> Option<Slot<ClaimEntry>> {
        slot(CLAIMS.get_ptr_mut(vip))
    }

    #[inline(always)]
    fn remember_claim(&self, vip: &Be128, entry: &ClaimEntry) {
        // There is room for every VIP; another CPU that was faster says the same.
        let _ = CLAIMS.insert(vip, entry, 0);
    }

    #[inline(always)]
    fn remember_advert(&self, key: &AdvertKey, entry: &AdvertEntry) {
        // Without it the controller goes by what its socket hears.
        let _ = ADVERTS.insert(key, entry, 0);
    }

    #[inline(always)]
    fn tell_flow(&self, event: &FlowEvent) {
        if FLOW_EVENTS.output(event, 0).is_err()
            && let Some(lost) = LOST_FLOW_EVENTS.get_ptr_mut(0)
        {
            // SAFETY: a per-CPU value, and the program is not preempted by itself on this CPU.
            unsafe { *lost += 1 };
        }
    }

    #[inline(always)]
    fn is_allowed(&self, key: &AllowedKey) -> bool {
        ALLOWED.get(&LpmKey::new(ALLOWED_SERVICE_BITS + 128, *key)).is_some()
    }
}

impl LocalTables for Maps {
    #[inline(always)]
    fn node(&self) -> Option<&NodeEntry> {
        Tables::node(self)
    }

    #[inline(always)]
    fn pulse(&self) -> Option<PulseEntry> {
        Tables::pulse(self)
    }

    #[inline(always)]
    fn monotonic_ns(&self) -> u64 {
        Tables::monotonic_ns(self)
    }

    #[inline(always)]
    fn vip(&self, address: Be128) -> Option<VipEntry> {
        Tables::vip(self, address)
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<ServiceEntry> {
        Tables::service(self, key)
    }

    #[inline(always)]
    fn ring(&self, service: u32, slot: usize) -> Option<BackendId> {
        Tables::ring(self, service, slot)
    }

    #[inline(always)]
    fn members(&self, service: u32) -> Option<&Members> {
        Tables::members(self, service)
    }

    #[inline(always)]
    fn next_turn(&self, service: u32) -> u32 {
        Tables::next_turn(self, service)
    }

    #[inline(always)]
    fn backend(&self, id: BackendId) -> Option<BackendEntry> {
        Tables::backend(self, id)
    }

    #[inline(always)]
    fn local(&self) -> Option<LocalEntry> {
        LOCAL.get(0).copied()
    }

    #[inline(always)]
    fn peer(&self, socket: u64) -> Option<LocalPeer> {
        // SAFETY: the value is copied at once, and written as a whole.
        unsafe { LOCAL_PEERS.get(socket) }.copied()
    }

    #[inline(always)]
    fn remember_peer(&self, socket: u64, peer: &LocalPeer) {
        // Where it cannot be remembered, `getpeername` tells the backend.
        let _ = LOCAL_PEERS.insert(socket, peer, 0);
    }

    #[inline(always)]
    fn count(&self, service: u32, outcome: Outcome) {
        let Some(counters) = LOCAL_COUNTERS.get_ptr_mut(service) else { return };
        // SAFETY: a per-CPU value, aligned, and valid while the program runs. Unlike XDP a hook can be preempted by another
        // one on its CPU: no reference is made to what both write, and of two counts one may be lost.
        unsafe {
            let count = match outcome {
                Outcome::Redirected => &raw mut (*counters).redirected,
                Outcome::NoBackend => &raw mut (*counters).no_backend,
                Outcome::Stale => &raw mut (*counters).stale,
                Outcome::OtherNamespace => &raw mut (*counters).other_namespace,
            };
            count.write(count.read() + 1);
        }
    }
}

/// A look-up's result as a slot.
#[inline(always)]
fn slot<T: Copy>(value: Option<*mut T>) -> Option<Slot<T>> {
    // SAFETY: a look-up's result stays readable and writable while the program runs (RCU).
    NonNull::new(value?).map(|value| unsafe { Slot::new(value) })
}

macro_rules! flow_tables {
    ($address:ty, $half_open:ident, $established:ident, $cache:ident, $tags:ident, $draft:ident) => {
        impl FlowTables<$address> for Maps {
            #[inline(always)]
            fn flow(&self, level: Level, key: &FlowKey<$address>) -> Option<Slot<FlowEntry<$address>>> {
                slot(match level {
                    Level::HalfOpen => $half_open.get_ptr_mut(key),
                    Level::Established => $established.get_ptr_mut(key),
                })
            }

            #[inline(always)]
            fn insert_flow(
                &self,
                level: Level,
                key: &FlowKey<$address>,
                entry: &FlowEntry<$address>,
            ) -> Inserted {
                let flags = u64::from(BPF_NOEXIST);
                outcome(match level {
                    Level::HalfOpen => $half_open.insert(key, entry, flags),
                    Level::Established => {
                        let result = $established.insert(key, entry, flags);
                        cache::changed(self, key);
                        result
                    }
                })
            }

            #[inline(always)]
            fn remove_flow(&self, level: Level, key: &FlowKey<$address>) {
                // What is not there need not be removed.
                let _ = match level {
                    Level::HalfOpen => $half_open.remove(key),
                    Level::Established => {
                        let result = $established.remove(key);
                        cache::changed(self, key);
                        result
                    }
                };
            }

            #[inline(always)]
            fn cache(&self, index: u32) -> Option<Slot<CacheSet<$address>>> {
                slot($cache.get_ptr_mut(index))
            }

            #[inline(always)]
            fn cache_tags(&self, index: u32) -> Option<Slot<u64>> {
                slot($tags.get_ptr_mut(index))
            }

            #[inline(always)]
            fn draft(&self) -> Option<Slot<FlowEntry<$address>>> {
                slot($draft.get_ptr_mut(0))
            }
        }
    };
}

flow_tables!(Be32, HALF_OPEN4, ESTABLISHED4, CACHE4, TAGS4, DRAFT4);
flow_tables!(Be128, HALF_OPEN6, ESTABLISHED6, CACHE6, TAGS6, DRAFT6);

/// What an insertion of an absent key came to.
#[inline(always)]
fn outcome(result: Result<(), i32>) -> Inserted {
    const EEXIST: i32 = -17;
    match result {
        Ok(()) => Inserted::Yes,
        Err(EEXIST) => Inserted::Exists,
        Err(_) => Inserted::Full,
    }
}
