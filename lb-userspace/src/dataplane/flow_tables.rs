//! The flow tables from user space: counting flows, and removing those that are over.

use std::{collections::BTreeMap, path::Path};

use aya::maps::{HashMap, Map, MapData};
use lb_common::layout::{BackendId, FlowEntry, FlowKey, TO_BACKEND};

use super::{DataplaneError, in_map};
use crate::flows::{self, Timeouts};

/// A walk begins anew where the entry it stands on goes away; under a flood it might never end. The most entries that
/// both tables can have (`flows.max` is at most 16 M).
const WALK_AT_MOST: usize = 1 << 25;

/// The flow tables, for a thread of their own: walking a million flows takes seconds.
#[derive(Debug)]
pub struct FlowTables {
    half_open: HashMap<MapData, FlowKey, FlowEntry>,
    established: HashMap<MapData, FlowKey, FlowEntry>,
}

/// What a sweep found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Flows that are established and neither closed nor reset.
    pub established: u64,
    /// Flows that have ended and wait for their time-out.
    pub closing: u64,
    /// Flows before their handshake has completed.
    pub half_open: u64,
    /// Flows that this sweep removed.
    pub removed: u64,
    /// Flows of each backend, in whatever phase: its id is in use while it is here.
    pub by_backend: BTreeMap<BackendId, BackendFlows>,
}

/// A backend's flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendFlows {
    /// Established, neither closed nor reset.
    pub active: u64,
    /// Half-open, closed and reset ones.
    pub other: u64,
}

impl FlowTables {
    /// Opens the pinned tables in the directory `maps`.
    pub(super) fn open(maps: &Path) -> Result<Self, DataplaneError> {
        let map = |name: &'static str| {
            MapData::from_pin(maps.join(name)).map_err(in_map(name)).map(|data| (name, data))
        };
        let typed = |(name, data): (&'static str, MapData), lru: bool| {
            let map = if lru { Map::LruHashMap(data) } else { Map::HashMap(data) };
            HashMap::try_from(map).map_err(in_map(name))
        };
        Ok(Self {
            half_open: typed(map("HALF_OPEN")?, true)?,
            established: typed(map("ESTABLISHED")?, false)?,
        })
    }

    /// Removes the flows that are over at `now` (flow clock, seconds) and counts the others.
    ///
    /// # Errors
    ///
    /// Where a map cannot be read; what one removal says does not matter, the entry may be gone already.
    pub fn sweep(&mut self, now: u32, timeouts: &Timeouts) -> Result<Census, DataplaneError> {
        let mut census = Census::default();
        let mut over = Vec::new();
        for item in self.established.iter().take(WALK_AT_MOST) {
            let (key, entry) = item.map_err(in_map("ESTABLISHED"))?;
            let other = self.established.get(&entry.rewritten.reversed(), 0).ok();
            if entry.direction != TO_BACKEND && other.is_some() {
                continue;
            }
            let backend = census.by_backend.entry(entry.backend).or_default();
            if flows::is_over(&entry, other.as_ref(), now, timeouts) {
                over.push((key, entry));
            } else if flows::phase(&entry, other.as_ref()) == flows::Phase::Open {
                census.established += 1;
                backend.active += 1;
            } else {
                census.closing += 1;
                backend.other += 1;
            }
        }
        for (key, entry) in over {
            // The client may have opened it anew since it was read.
            let unchanged = self.established.get(&key, 0).is_ok_and(|now| now == entry);
            if unchanged {
                let _ = self.established.remove(&key);
                let _ = self.established.remove(&entry.rewritten.reversed());
                census.removed += 1;
            }
        }

        let mut over = Vec::new();
        for item in self.half_open.iter().take(WALK_AT_MOST) {
            let (key, entry) = item.map_err(in_map("HALF_OPEN"))?;
            if entry.seen.silence(now) > timeouts.half_open {
                over.push(key);
            } else if entry.direction == TO_BACKEND {
                census.half_open += 1;
                census.by_backend.entry(entry.backend).or_default().other += 1;
            }
        }
        for key in over {
            let _ = self.half_open.remove(&key);
        }
        Ok(census)
    }
}
