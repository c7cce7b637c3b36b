//! Stamps of established flows ([`lb_common::forward::cache`]): who changes a flow's entry from here tells the cache of it.

use std::{
    borrow::Borrow,
    num::NonZeroUsize,
    ops::Deref,
    path::Path,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aya::{
    Pod,
    maps::{HashMap, MapData, MapError},
};
use lb_common::{
    family::Address,
    forward::cache::stamp_of,
    layout::{FlowEntry, FlowKey, STAMPS},
};
use nix::{
    sys::mman::{MapFlags, ProtFlags, mmap, munmap},
    time::{ClockId, clock_gettime},
};

use super::{DataplaneError, flow_tables::pinned, in_map};

/// The `STAMPS` map, in memory that the data plane writes, too.
#[derive(Debug)]
pub(super) struct Stamps(NonNull<AtomicU64>);

// SAFETY: atomics, mapped for as long as this lives.
unsafe impl Send for Stamps {}
// SAFETY: as above.
unsafe impl Sync for Stamps {}

impl Stamps {
    const LEN: NonZeroUsize = NonZeroUsize::new(STAMPS as usize * size_of::<u64>()).expect("many");

    pub(super) fn open(maps: &Path) -> Result<Arc<Self>, DataplaneError> {
        let map = pinned(maps, "STAMPS")?;
        let info = map.info().map_err(in_map("STAMPS"))?;
        if info.max_entries() < STAMPS || info.value_size() as usize != size_of::<u64>() {
            let source =
                MapError::InvalidValueSize { size: size_of::<u64>(), expected: info.value_size() as usize };
            return Err(in_map("STAMPS")(source));
        }
        // SAFETY: a new mapping that nobody else has an address in. It is as long as the map's values: their number and size
        // were compared above.
        let memory = unsafe {
            mmap(
                None,
                Self::LEN,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                map.fd(),
                0,
            )
        };
        let memory = memory.map_err(|errno| DataplaneError::Cache(errno.into()))?;
        Ok(Arc::new(Self(memory.cast())))
    }

    /// The established flow with this key has been changed.
    fn changed<A: Address>(&self, key: &FlowKey<A>) {
        self.renew(stamp_of(key), now());
    }

    /// All of them may have been.
    pub(super) fn renew_all(&self) {
        let now = now();
        (0..STAMPS).for_each(|index| self.renew(index, now));
    }

    /// As the programs do it. Without a clock any other number will do.
    fn renew(&self, index: u32, now: Option<u64>) {
        // SAFETY: the mapping has `STAMPS`, of which there is one for each remainder.
        let stamp = unsafe { self.0.add((index % STAMPS) as usize).as_ref() };
        let now = now.unwrap_or_else(|| stamp.load(Ordering::SeqCst).wrapping_add(1));
        stamp.store(now, Ordering::SeqCst);
    }
}

/// `CLOCK_MONOTONIC`, in nanoseconds.
fn now() -> Option<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?;
    Some(Duration::from(now).as_nanos() as u64)
}

impl Drop for Stamps {
    fn drop(&mut self) {
        // SAFETY: made by `open`, and nobody has an address in it any more.
        let _ = unsafe { munmap(self.0.cast(), Self::LEN.get()) };
    }
}

/// A table of established flows. Each change is told, so that no CPU goes on with a copy of what was.
pub(super) struct Established<A>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    table: HashMap<MapData, FlowKey<A>, FlowEntry<A>>,
    stamps: Arc<Stamps>,
}

impl<A: Address> Established<A>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    pub(super) const fn new(table: HashMap<MapData, FlowKey<A>, FlowEntry<A>>, stamps: Arc<Stamps>) -> Self {
        Self { table, stamps }
    }

    /// Inserts or replaces, as `flags` say.
    pub(super) fn insert(
        &mut self,
        key: impl Borrow<FlowKey<A>>,
        entry: impl Borrow<FlowEntry<A>>,
        flags: u64,
    ) -> Result<(), MapError> {
        let result = self.table.insert(key.borrow(), entry, flags);
        self.stamps.changed(key.borrow());
        result
    }

    /// Removes, if it is there.
    pub(super) fn remove(&mut self, key: &FlowKey<A>) -> Result<(), MapError> {
        let result = self.table.remove(key);
        self.stamps.changed(key);
        result
    }
}

impl<A> Deref for Established<A>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    type Target = HashMap<MapData, FlowKey<A>, FlowEntry<A>>;

    fn deref(&self) -> &Self::Target {
        &self.table
    }
}
