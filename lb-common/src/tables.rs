//! What the forwarding decision asks of the maps.

use core::ptr::NonNull;

use crate::{
    layout::{
        AdvertEntry, AdvertKey, AllowedKey, BackendEntry, BackendId, CacheSet, ClaimEntry, FlowEntry,
        FlowEvent, FlowKey, FragmentEntry, FragmentKey, Load, Members, NodeEntry, PulseEntry, Removed,
        Scratch, ServiceEntry, ServiceKey, SourceEntry, SourceKey, VipEntry,
    },
    reason::TransmitReason,
    wire::{Be16, Be32, Be128},
};

/// The two levels of the flow table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Before the handshake has completed: least recently used go first, so that a SYN flood churns only this.
    HalfOpen,
    /// After it: never evicted by half-open ones.
    Established,
}

/// What became of an insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is in the table.
    Yes,
    /// The key was there already, and is as it was.
    Exists,
    /// The table is full.
    Full,
}

/// A counter of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendCounter {
    /// See `BackendCounters::opened`.
    Opened,
    /// See `BackendCounters::established`.
    Established,
    /// See `BackendCounters::ports_exhausted`.
    PortsExhausted,
    /// See `BackendCounters::unresolved`.
    Unresolved,
    /// See `BackendCounters::refused`.
    Refused,
    /// See `BackendCounters::unanswered`.
    Unanswered,
    /// See `BackendCounters::full`.
    Full,
    /// See `BackendCounters::answered`.
    Answered,
    /// See `BackendCounters::broken`.
    Broken,
}

/// A value in a map: shared with other CPUs, alive at least until the program returns.
///
/// Reads and writes are plain loads and stores. Two CPUs that write the same entry at the same time can lose one
/// update of a counter; what depends on counters ([`Load`]) is set right again by the next sweep.
#[derive(Debug)]
pub struct Slot<T>(NonNull<T>);

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Slot<T> {}

impl<T: Copy> Slot<T> {
    /// Wraps a pointer to a map value.
    ///
    /// # Safety
    ///
    /// `value` is aligned, initialised, and stays readable and writable for as long as the slot is used. In XDP the
    /// kernel guarantees that for what a look-up returned: the whole run is one RCU read-side critical section.
    #[inline(always)]
    pub const unsafe fn new(value: NonNull<T>) -> Self {
        Self(value)
    }

    /// A copy of the value; only the fields that are used are loaded.
    #[inline(always)]
    pub fn read(self) -> T {
        // SAFETY: `new` promised a readable value.
        unsafe { self.0.as_ptr().read() }
    }

    /// A copy, read from the map anew. What earlier branches implied about it is forgotten: the verifier then follows
    /// one path where it would follow one for each branch.
    #[inline(always)]
    pub fn reread(self) -> T {
        // SAFETY: `new` promised a readable value. Volatile, so that LLVM really reads it again.
        unsafe { self.0.as_ptr().read_volatile() }
    }

    /// One field of it.
    #[inline(always)]
    pub fn field<F: Copy>(self, pick: impl FnOnce(&mut T) -> &mut F) -> Slot<F> {
        // SAFETY: `new` promised a writable value; the reference does not outlive this call, and a part of the value lives as
        // long as the whole.
        Slot(NonNull::from(pick(unsafe { &mut *self.0.as_ptr() })))
    }

    /// Writes the value and reads it back: for the verifier it is then any number, whichever way it came about.
    #[inline(always)]
    pub fn pass(self, value: T) -> T {
        self.update(|place| *place = value);
        self.reread()
    }

    /// Shows the value in place, for what needs no copy.
    #[inline(always)]
    pub fn with<R>(self, look: impl FnOnce(&T) -> R) -> R {
        // SAFETY: `new` promised a readable value; the reference does not outlive this call.
        look(unsafe { &*self.0.as_ptr() })
    }

    /// Changes the value in place.
    #[inline(always)]
    pub fn update(self, change: impl FnOnce(&mut T)) {
        // SAFETY: `new` promised a writable value; the reference does not outlive this call, and `change` cannot
        // reach the map.
        change(unsafe { &mut *self.0.as_ptr() });
    }
}

/// Whose ports a NAT port is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortSpace {
    /// The VIP's.
    Vip,
    /// The node's own address's, which the host opens connections from, too.
    Node,
}

/// The flow tables of one family.
pub trait FlowTables<A> {
    /// A direction of a flow.
    fn flow(&self, level: Level, key: &FlowKey<A>) -> Option<Slot<FlowEntry<A>>>;
    /// Inserts where the key is absent, in one step.
    fn insert_flow(&self, level: Level, key: &FlowKey<A>, entry: &FlowEntry<A>) -> Inserted;
    /// Removes, if it is there.
    fn remove_flow(&self, level: Level, key: &FlowKey<A>);
    /// A set of the cache. The sets of each CPU follow those of the one before.
    fn cache(&self, index: u32) -> Option<Slot<CacheSet<A>>>;
    /// What is in that set: 16 bits for each of its lines.
    fn cache_tags(&self, index: u32) -> Option<Slot<u64>>;
    /// Room to write an entry in before it is inserted; the kernel's stack has little.
    fn draft(&self) -> Option<Slot<FlowEntry<A>>>;
}

/// The maps, as the forwarding decision sees them. In XDP these are map look-ups, in tests plain collections.
pub trait Tables: FlowTables<Be32> + FlowTables<Be128> {
    /// The node's entry; `None` never happens in the kernel, where arrays are complete.
    fn node(&self) -> Option<&NodeEntry>;
    /// The controller's last sign of life.
    fn pulse(&self) -> Option<PulseEntry>;
    /// `CLOCK_MONOTONIC` in nanoseconds. Costs a helper call: not for every packet.
    fn monotonic_ns(&self) -> u64;
    /// Whether the address (in its wide form) is a VIP, exactly.
    fn vip(&self, address: Be128) -> Option<VipEntry>;
    /// The service of a VIP and port.
    fn service(&self, key: &ServiceKey) -> Option<ServiceEntry>;
    /// The backend in a slot of a service's table.
    fn ring(&self, service: u32, slot: usize) -> Option<BackendId>;
    /// The backends of a service that can be chosen.
    fn members(&self, service: u32) -> Option<&Members>;
    /// Counts the new flows of a service that takes turns, and returns the number of this one. Wraps.
    fn next_turn(&self, service: u32) -> u32;
    /// A backend.
    fn backend(&self, id: BackendId) -> Option<BackendEntry>;
    /// A backend where it lies, for what needs little of it.
    fn backend_slot(&self, id: BackendId) -> Option<Slot<BackendEntry>>;
    /// How busy a backend is.
    fn load(&self, id: BackendId) -> Option<Slot<Load>>;
    /// The number of the CPU that this runs on.
    fn cpu(&self) -> u32;
    /// A stamp, of as many as [`STAMPS`](crate::layout::STAMPS).
    fn stamp(&self, index: u32) -> Option<u32>;
    /// Gives it a value that it has not had for long. Costs a reading of the clock.
    fn renew_stamp(&self, index: u32);
    /// Adds so many packets that were sent to those counted under their reason.
    fn count_sent(&self, reason: TransmitReason, packets: u64);
    /// Counts for a backend.
    fn count(&self, id: BackendId, counter: BackendCounter);
    /// Adds what a removed flow had carried to its backend's counters.
    fn count_removed(&self, id: BackendId, removed: &Removed);
    /// Whether a port may not be a NAT port: a service's, or one that the host uses.
    fn port_reserved(&self, space: PortSpace, port: Be16) -> bool;
    /// What one program leaves for the next one on the same frame.
    fn scratch(&self) -> Option<Slot<Scratch>>;
    /// What the first fragment of a packet said.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentEntry>;
    /// Remembers it; the least recently used are forgotten.
    fn remember_fragment(&self, key: &FragmentKey, entry: &FragmentEntry);
    /// How many connections a source may still open.
    fn source(&self, key: &SourceKey) -> Option<Slot<SourceEntry>>;
    /// Remembers a source; the least recently used are forgotten.
    fn remember_source(&self, key: &SourceKey, entry: &SourceEntry);
    /// Who else has said last that a VIP (in its wide form) is its own.
    fn claim(&self, vip: &Be128) -> Option<Slot<ClaimEntry>>;
    /// Remembers the first time.
    fn remember_claim(&self, vip: &Be128, entry: &ClaimEntry);
    /// Remembers an advertisement in place of the sender's last one; the least recently heard senders are forgotten.
    fn remember_advert(&self, key: &AdvertKey, entry: &AdvertEntry);
    /// Tells the controller what has changed about an established flow. What finds no room is counted.
    fn tell_flow(&self, event: &FlowEvent);
    /// Whether a source is in the service's list of those that may connect.
    fn is_allowed(&self, key: &AllowedKey) -> bool;
}
