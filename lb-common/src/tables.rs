//! What the forwarding decision asks of the maps.

use core::ptr::NonNull;

use crate::{
    layout::{
        BackendEntry, BackendId, FlowEntry, FlowKey, NodeEntry, PulseEntry, ServiceEntry, ServiceKey,
        VipEntry,
    },
    wire::{Be16, Be32},
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
}

/// A value in a map: shared with other CPUs, alive at least until the program returns.
///
/// Reads and writes are plain loads and stores. Two CPUs that write the same entry at the same time can lose one
/// update of a counter; nothing else depends on them being exact.
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

/// The maps, as the forwarding decision sees them. In XDP these are map look-ups, in tests plain collections.
pub trait Tables {
    /// The node's entry; `None` never happens in the kernel, where arrays are complete.
    fn node(&self) -> Option<&NodeEntry>;
    /// The controller's last sign of life.
    fn pulse(&self) -> Option<PulseEntry>;
    /// `CLOCK_MONOTONIC` in nanoseconds. Costs a helper call: not for every packet.
    fn monotonic_ns(&self) -> u64;
    /// Whether the address is a VIP, exactly.
    fn vip(&self, address: Be32) -> Option<VipEntry>;
    /// The service of a VIP and port.
    fn service(&self, key: &ServiceKey) -> Option<ServiceEntry>;
    /// The backend in a slot of a service's Maglev table.
    fn ring(&self, ring: u32, slot: usize) -> Option<BackendId>;
    /// A backend.
    fn backend(&self, id: BackendId) -> Option<BackendEntry>;
    /// Counts for a backend.
    fn count(&self, id: BackendId, counter: BackendCounter);
    /// Whether a port may not be a NAT port: a service's, or one that the host listens on.
    fn port_reserved(&self, port: Be16) -> bool;
    /// A direction of a flow.
    fn flow(&self, level: Level, key: &FlowKey) -> Option<Slot<FlowEntry>>;
    /// Inserts where the key is absent, in one step.
    fn insert_flow(&self, level: Level, key: &FlowKey, entry: &FlowEntry) -> Inserted;
    /// Removes, if it is there.
    fn remove_flow(&self, level: Level, key: &FlowKey);
}
