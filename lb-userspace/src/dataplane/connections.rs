//! The established flows for the connection log: looked up one by one, and walked through.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use aya::{
    Pod,
    maps::{Array, Map, MapData},
};
use lb_common::{
    family::Address,
    layout::{BackendEntry, BackendId, FlowEntry, FlowKey, PulseEntry, TO_BACKEND},
    wire::{Be32, Be128},
};

use super::{
    AnyKey, DataplaneError,
    flow_tables::{open_levels, other_direction, pinned},
    hash_walk::HashWalk,
    in_map, maps_path,
    stamps::Established,
};
use crate::{connections::snapshot::Snapshot, sync::record::FlowId};

/// Where the tables are, for the thread that will open them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionSource {
    maps: PathBuf,
}

impl ConnectionSource {
    /// Below this `node.pin_path`.
    pub fn at(pin_path: &Path) -> Self {
        Self { maps: maps_path(pin_path) }
    }

    /// Opens the tables.
    ///
    /// # Errors
    ///
    /// Where the pinned maps cannot be opened (yet).
    pub fn open(&self) -> Result<ConnectionTables, DataplaneError> {
        let maps = &self.maps;
        let array = |name| Ok::<_, DataplaneError>(Map::Array(pinned(maps, name)?));
        Ok(ConnectionTables {
            v4: Tables::open(maps, "HALF_OPEN4", "ESTABLISHED4")?,
            v6: Tables::open(maps, "HALF_OPEN6", "ESTABLISHED6")?,
            backends: Array::try_from(array("BACKENDS")?).map_err(in_map("BACKENDS"))?,
            pulse: Array::try_from(array("PULSE")?).map_err(in_map("PULSE"))?,
        })
    }
}

/// A handle of its own on the established flows, which it only reads.
pub struct ConnectionTables {
    v4: Tables<Be32>,
    v6: Tables<Be128>,
    backends: Array<MapData, BackendEntry>,
    pulse: Array<MapData, PulseEntry>,
}

struct Tables<A>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    established: Established<A>,
    walk: HashWalk<FlowKey<A>, FlowEntry<A>>,
}

impl ConnectionTables {
    /// The flow clock.
    ///
    /// # Errors
    ///
    /// Where the map cannot be read.
    pub fn clock(&self) -> Result<u32, DataplaneError> {
        Ok(self.pulse.get(&0, 0).map_err(in_map("PULSE"))?.flow_clock)
    }

    /// A flow as it is now; `None` where there is none.
    pub fn look(&self, id: &FlowId) -> Option<Snapshot> {
        let (snapshot, backend) = match AnyKey::of(id)? {
            AnyKey::V4(key) => self.v4.look(&key)?,
            AnyKey::V6(key) => self.v6.look(&key)?,
        };
        Some(self.with_backend(snapshot, backend))
    }

    /// Shows every flow that `wanted` wants.
    ///
    /// # Errors
    ///
    /// Where a table cannot be read.
    pub fn walk(
        &self,
        wanted: &dyn Fn(SocketAddr) -> bool,
        each: &mut dyn FnMut(Snapshot),
    ) -> Result<(), DataplaneError> {
        let mut each = |(snapshot, backend)| each(self.with_backend(snapshot, backend));
        self.v4.walk(wanted, &mut each)?;
        self.v6.walk(wanted, &mut each)
    }

    /// With direct server return a flow does not say where its backend is.
    fn with_backend(&self, snapshot: Snapshot, backend: BackendId) -> Snapshot {
        let address = snapshot.backend.or_else(|| {
            let entry = self.backends.get(&backend.into(), 0).ok()?;
            (entry != BackendEntry::default())
                .then(|| SocketAddr::new(entry.address.into(), entry.port.get()))
        });
        Snapshot { backend: address, ..snapshot }
    }
}

impl<A: Address> Tables<A>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    fn open(maps: &Path, half_open: &'static str, established: &'static str) -> Result<Self, DataplaneError> {
        let (_, table) = open_levels(maps, half_open, established)?;
        Ok(Self { established: table, walk: HashWalk::new(pinned(maps, established)?, established) })
    }

    fn look(&self, key: &FlowKey<A>) -> Option<(Snapshot, BackendId)> {
        let entry = self.established.get(key, 0).ok().filter(|entry| entry.direction == TO_BACKEND)?;
        let other = other_direction(&self.established, &entry);
        Some((Snapshot::new(key, &entry, other.as_ref()), entry.backend))
    }

    fn walk(
        &self,
        wanted: &dyn Fn(SocketAddr) -> bool,
        each: &mut dyn FnMut((Snapshot, BackendId)),
    ) -> Result<(), DataplaneError> {
        self.walk.run(|key, entry| {
            let service = SocketAddr::new(key.dst.wide().into(), key.dst_port.get());
            if entry.direction == TO_BACKEND && wanted(service) {
                let other = other_direction(&self.established, entry);
                each((Snapshot::new(key, entry, other.as_ref()), entry.backend));
            }
        })
    }
}
