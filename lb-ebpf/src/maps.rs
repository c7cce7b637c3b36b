//! The maps, and [`Tables`] over them.
//!
//! Sizes of the flow tables are set by the loader; what stands here are the names, the types and the defaults.

use core::ptr::NonNull;

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST},
    btf_maps::{Array, ArrayOfMaps, HashMap, LruHashMap, PerCpuArray, ProgramArray},
    helpers::bpf_ktime_get_ns,
    macros::btf_map,
    programs::XdpContext,
};
use lb_common::{
    layout::{
        BackendCounters, BackendEntry, BackendId, FlowEntry, FlowKey, MAX_BACKENDS, MAX_SERVICES,
        MaglevSlots, NodeEntry, PulseEntry, ServiceEntry, ServiceKey, VipEntry,
    },
    reason,
    tables::{BackendCounter, Inserted, Level, Slot, Tables},
    wire::{Be16, Be32},
};

/// What does not change from packet to packet.
#[btf_map]
static NODE: Array<NodeEntry, 1> = Array::new();

/// The controller's heartbeat and the flow clock.
#[btf_map]
static PULSE: Array<PulseEntry, 1> = Array::new();

/// The VIPs, exactly; `NODE` has a filter that spares most packets this look-up.
#[btf_map]
static VIPS: HashMap<Be32, VipEntry, { MAX_SERVICES as usize }> = HashMap::new();

/// VIP and port -> service.
#[btf_map]
static SERVICES: HashMap<ServiceKey, ServiceEntry, { MAX_SERVICES as usize }> = HashMap::new();

/// Service -> Maglev table. A table is one value of an inner map, and the inner map is replaced as a whole: no packet
/// sees half of one.
#[btf_map]
static RINGS: ArrayOfMaps<Array<MaglevSlots, 1>, { MAX_SERVICES as usize }> = ArrayOfMaps::new();

/// Backends by their dense id.
#[btf_map]
static BACKENDS: Array<BackendEntry, { MAX_BACKENDS as usize }> = Array::new();

/// What happened to the new flows of each backend.
#[btf_map]
static BACKEND_COUNTERS: PerCpuArray<BackendCounters, { MAX_BACKENDS as usize }> = PerCpuArray::new();

/// One bit per port that may not be a NAT port.
#[btf_map]
static RESERVED_PORTS: Array<u64, 1024> = Array::new();

/// Flows before their handshake has completed, both directions.
#[btf_map]
static HALF_OPEN: LruHashMap<FlowKey, FlowEntry, 65_536> = LruHashMap::new();

/// Flows after it, both directions. Memory is taken as flows come, not for the largest number of them.
#[btf_map]
static ESTABLISHED: HashMap<FlowKey, FlowEntry, 2_097_152, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// One counter for each reason.
#[btf_map]
static COUNTERS: PerCpuArray<u64, { reason::COUNTERS as usize }> = PerCpuArray::new();

/// The program that [`tail_call_slow`] goes on with.
#[btf_map]
static PROGRAMS: ProgramArray<1> = ProgramArray::new();

/// Goes on with the second program. Returns only where the loader has not put it into its place.
#[inline(always)]
pub fn tail_call_slow(context: &XdpContext) {
    // SAFETY: the context is the one that the kernel called us with; the index is in range.
    unsafe { PROGRAMS.tail_call(context, 0) };
}

/// Counts a packet under its reason.
#[inline(always)]
pub fn count(counter: u32) {
    if let Some(count) = COUNTERS.get_ptr_mut(counter) {
        // SAFETY: a per-CPU value, and the program is not preempted by itself on this CPU.
        unsafe { *count += 1 };
    }
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
    fn vip(&self, address: Be32) -> Option<VipEntry> {
        // SAFETY: the value is copied at once; only user space writes it.
        unsafe { VIPS.get(address) }.copied()
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<ServiceEntry> {
        // SAFETY: as above.
        unsafe { SERVICES.get(key) }.copied()
    }

    #[inline(always)]
    fn ring(&self, ring: u32, slot: usize) -> Option<BackendId> {
        RINGS.get_value(ring, &0)?.get(slot).copied()
    }

    #[inline(always)]
    fn backend(&self, id: BackendId) -> Option<BackendEntry> {
        BACKENDS.get(u32::from(id)).copied()
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
        };
        *count += 1;
    }

    #[inline(always)]
    fn port_reserved(&self, port: Be16) -> bool {
        let port = u32::from(port.get());
        RESERVED_PORTS.get(port >> 6).is_none_or(|word| word & (1 << (port & 63)) != 0)
    }

    #[inline(always)]
    fn flow(&self, level: Level, key: &FlowKey) -> Option<Slot<FlowEntry>> {
        let entry = match level {
            Level::HalfOpen => HALF_OPEN.get_ptr_mut(key),
            Level::Established => ESTABLISHED.get_ptr_mut(key),
        };
        // SAFETY: a look-up's result stays readable and writable while the program runs (RCU).
        NonNull::new(entry?).map(|entry| unsafe { Slot::new(entry) })
    }

    #[inline(always)]
    fn insert_flow(&self, level: Level, key: &FlowKey, entry: &FlowEntry) -> Inserted {
        const EEXIST: i32 = -17;
        let flags = u64::from(BPF_NOEXIST);
        let result = match level {
            Level::HalfOpen => HALF_OPEN.insert(key, entry, flags),
            Level::Established => ESTABLISHED.insert(key, entry, flags),
        };
        match result {
            Ok(()) => Inserted::Yes,
            Err(EEXIST) => Inserted::Exists,
            Err(_) => Inserted::Full,
        }
    }

    #[inline(always)]
    fn remove_flow(&self, level: Level, key: &FlowKey) {
        // What is not there need not be removed.
        let _ = match level {
            Level::HalfOpen => HALF_OPEN.remove(key),
            Level::Established => ESTABLISHED.remove(key),
        };
    }
}
