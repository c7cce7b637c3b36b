//! The flow tables from user space: counting flows, and removing those that are over.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    path::Path,
    sync::Arc,
};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, PerCpuArray},
};
use lb_common::{
    family::Address,
    layout::{
        BackendCounters, BackendEntry, BackendId, FlowEntry, FlowKey, Load, MAX_BACKENDS, PulseEntry,
        Removed, TO_BACKEND,
    },
    wire::{Be32, Be128},
};

use super::{
    DataplaneError,
    cache::Settler,
    hash_walk::HashWalk,
    in_map, maps_path,
    stamps::{Established, Stamps},
};
use crate::connections::{
    snapshot::Snapshot,
    tap::{News, Tap},
};
use crate::drift::Drift;
use crate::flows::{self, Flow, Phase, Timeouts, pairs::Pairs};

/// What this process removed, by backend. Only user space reads and writes it, so the object does not have it; it is
/// pinned with the others to outlive the process.
pub(super) const TOTALS: &str = "TOTALS";
/// The connection log gets what was removed in pieces.
const TOLD_AT_ONCE: usize = 1024;

/// The flow tables, for a thread of their own: walking a million flows takes seconds.
pub struct FlowTables {
    settler: Arc<Settler>,
    v4: FamilyTables<Be32>,
    v6: FamilyTables<Be128>,
    loads: Array<MapData, Load>,
    drifts: BTreeMap<BackendId, Drift>,
    backend_counters: PerCpuArray<MapData, BackendCounters>,
    totals: Array<MapData, Removed>,
    /// The connection log, which is told what a sweep removes.
    tap: Option<Tap>,
}

struct FamilyTables<A>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    half_open: Table<A>,
    established: Established<A>,
    walk_half_open: HashWalk<FlowKey<A>, FlowEntry<A>>,
    walk_established: HashWalk<FlowKey<A>, FlowEntry<A>>,
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
    /// What there is of each backend that was asked for, or has flows in whatever phase: its id is in use then.
    pub by_backend: BTreeMap<BackendId, BackendFlows>,
}

/// A backend's flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendFlows {
    /// Established, neither closed nor reset.
    pub active: u64,
    /// Before their handshake has completed.
    pub half_open: u64,
    /// Closed by one of two sides. They still count for the load, as the data plane has it.
    pub half_closed: u64,
    /// Ended, and still remembered.
    pub ended: u64,
    /// How its flows have ended, and what all of them have carried, the living ones included.
    pub figures: Removed,
}

impl BackendFlows {
    /// Flows of whatever phase.
    pub const fn all(&self) -> u64 {
        self.active + self.half_open + self.half_closed + self.ended
    }
}

impl FlowTables {
    /// Opens the pinned tables in the directory `maps`.
    pub(super) fn open(maps: &Path, settler: Arc<Settler>) -> Result<Self, DataplaneError> {
        Ok(Self {
            settler,
            v4: FamilyTables::open(maps, "HALF_OPEN4", "ESTABLISHED4")?,
            v6: FamilyTables::open(maps, "HALF_OPEN6", "ESTABLISHED6")?,
            drifts: BTreeMap::new(),
            loads: Array::try_from(Map::Array(pinned(maps, "LOADS")?)).map_err(in_map("LOADS"))?,
            backend_counters: PerCpuArray::try_from(Map::PerCpuArray(pinned(maps, "BACKEND_COUNTERS")?))
                .map_err(in_map("BACKEND_COUNTERS"))?,
            totals: open_totals(maps)?,
            tap: None,
        })
    }

    /// These, with the connection log told of what a sweep removes.
    #[must_use]
    pub fn told_to(self, tap: Tap) -> Self {
        Self { tap: Some(tap), ..self }
    }

    /// Removes the flows that are over at `now` (flow clock, seconds), counts the others, and sets the loads of the
    /// backends `ids` right.
    ///
    /// # Errors
    ///
    /// Where a map cannot be read; what one removal says does not matter, the entry may be gone already.
    pub fn sweep(
        &mut self,
        now: u32,
        timeouts: &Timeouts,
        ids: &BTreeSet<BackendId>,
    ) -> Result<Census, DataplaneError> {
        self.settler.settle();
        let mut census = Census::default();
        let mut before = BTreeMap::new();
        for &id in ids {
            before.insert(id, self.loads.get(&id.into(), 0).map_err(in_map("LOADS"))?);
            // Before the walk: a flow that the data plane removes meanwhile is then missed once, not counted twice.
            let cpus = self.backend_counters.get(&id.into(), 0).map_err(in_map("BACKEND_COUNTERS"))?;
            let figures = cpus.iter().fold(Removed::default(), |sum, cpu| flows::plus(&sum, &cpu.removed));
            census.by_backend.insert(id, BackendFlows { figures, ..BackendFlows::default() });
        }
        let mut removed = BTreeMap::new();
        let mut gone = Gone { tap: self.tap.as_ref().filter(|tap| tap.is_open()), flows: Vec::new() };
        self.v4.sweep(now, timeouts, &mut census, &mut removed, &mut gone)?;
        self.v6.sweep(now, timeouts, &mut census, &mut removed, &mut gone)?;
        gone.tell();

        for (id, removed) in removed {
            let index = u32::from(id);
            let total = self.totals.get(&index, 0).map_err(in_map(TOTALS))?;
            self.totals.set(index, flows::plus(&total, &removed), 0).map_err(in_map(TOTALS))?;
        }
        for &id in ids {
            let total = self.totals.get(&id.into(), 0).map_err(in_map(TOTALS))?;
            let flows = census.by_backend.entry(id).or_default();
            flows.figures = flows::plus(&flows.figures, &total);
            let load = self.loads.get(&id.into(), 0).map_err(in_map("LOADS"))?;
            let counted = i64::try_from(flows.active + flows.half_closed).unwrap_or(i64::MAX);
            let drift = self.drifts.entry(id).or_default();
            if let Some(active) = drift.corrected(before.get(&id).copied().unwrap_or_default(), load, counted)
            {
                self.loads.set(id.into(), Load { active, ..load }, 0).map_err(in_map("LOADS"))?;
            }
        }
        Ok(census)
    }
}

impl<A: Address> FamilyTables<A>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    fn open(maps: &Path, half_open: &'static str, established: &'static str) -> Result<Self, DataplaneError> {
        let (half_open_table, established_table) = open_levels(maps, half_open, established)?;
        Ok(Self {
            half_open: half_open_table,
            established: established_table,
            walk_half_open: HashWalk::new(pinned(maps, half_open)?, half_open),
            walk_established: HashWalk::new(pinned(maps, established)?, established),
        })
    }

    fn sweep(
        &mut self,
        now: u32,
        timeouts: &Timeouts,
        census: &mut Census,
        totals: &mut BTreeMap<BackendId, Removed>,
        gone: &mut Gone<'_>,
    ) -> Result<(), DataplaneError> {
        let mut over = Vec::new();
        let mut count = |key: &FlowKey<A>, entry: &FlowEntry<A>, other: Option<&FlowEntry<A>>| {
            let backend = census.by_backend.entry(entry.backend).or_default();
            if flows::is_over(entry, other, now, timeouts) {
                over.push(*key);
                return;
            }
            backend.figures = flows::plus(&backend.figures, &flows::carried(entry, other));
            match flows::phase(entry, other) {
                Phase::Open => {
                    census.established += 1;
                    backend.active += 1;
                    return;
                }
                Phase::HalfClosed if flows::has_reply(entry) => {
                    census.closing += 1;
                    backend.half_closed += 1;
                    return;
                }
                // What has ended counts at once, not when its time-out is over.
                Phase::HalfClosed | Phase::Closed => backend.figures.closed += 1,
                Phase::Reset => backend.figures.reset += 1,
            }
            census.closing += 1;
            backend.ended += 1;
        };
        let mut pairs = Pairs::default();
        self.walk_established.run(|key, entry| {
            if let Some(other) = pairs.meet(key, entry) {
                count(key, entry, other.as_ref());
            }
        })?;
        // Halves, and flows that came or went meanwhile.
        for key in pairs.left() {
            let Ok(entry) = self.established.get(&key, 0) else { continue };
            let is_reply = entry.direction != TO_BACKEND;
            // Whether it is half a flow need not be known yet.
            if is_reply && entry.seen.silence(now) <= timeouts.shortest() {
                continue;
            }
            let other = other_direction(&self.established, &entry);
            if !is_reply || other.is_none() {
                count(&key, &entry, other.as_ref());
            }
        }
        for key in over {
            // It may have gone on since it was read, or the client may have opened it anew.
            let Ok(entry) = self.established.get(&key, 0) else { continue };
            let other = other_direction(&self.established, &entry);
            if !flows::is_over(&entry, other.as_ref(), now, timeouts) {
                continue;
            }
            let total = totals.entry(entry.backend).or_default();
            *total = flows::plus(total, &flows::removed(&entry, other.as_ref()));
            let _ = self.established.remove(&key);
            gone.add(&key, &entry, other.as_ref());
            if flows::has_reply(&entry) {
                let _ = self.established.remove(&entry.rewritten.reversed());
            }
            census.removed += 1;
        }

        let mut over = Vec::new();
        self.walk_half_open.run(|key, entry| {
            if entry.seen.silence(now) > timeouts.half_open {
                over.push((*key, *entry));
            } else if entry.direction == TO_BACKEND {
                census.half_open += 1;
                census.by_backend.entry(entry.backend).or_default().half_open += 1;
            }
        })?;
        for (key, entry) in over {
            // As the programs see it: while one side is heard, the other one's entry stays.
            let is_heard = other_direction(&self.half_open, &entry).is_some_and(|other| {
                other.rewritten == key.reversed() && other.seen.silence(now) <= timeouts.half_open
            });
            if !is_heard {
                let _ = self.half_open.remove(&key);
            }
        }
        Ok(())
    }
}

/// What a sweep has removed, for the connection log.
struct Gone<'a> {
    tap: Option<&'a Tap>,
    flows: Vec<Snapshot>,
}

impl Gone<'_> {
    fn add<A: Address>(&mut self, key: &FlowKey<A>, entry: &FlowEntry<A>, other: Option<&FlowEntry<A>>) {
        if self.tap.is_none() {
            return;
        }
        self.flows.push(match other {
            _ if entry.direction == TO_BACKEND => Snapshot::new(key, entry, other),
            Some(forward) => Snapshot::new(&entry.rewritten.reversed(), forward, Some(entry)),
            // Half a flow does not say whose it was.
            None => return,
        });
        if self.flows.len() >= TOLD_AT_ONCE {
            self.tell();
        }
    }

    fn tell(&mut self) {
        if let Some(tap) = self.tap.filter(|_| !self.flows.is_empty()) {
            tap.tell(News::Removed(mem::take(&mut self.flows)));
        }
    }
}

/// A table of flows.
pub(super) type Table<A> = HashMap<MapData, FlowKey<A>, FlowEntry<A>>;

/// Opens the pinned tables of a family: that of half-open flows, and that of established ones.
pub(super) fn open_levels<A>(
    maps: &Path,
    half_open: &'static str,
    established: &'static str,
) -> Result<(Table<A>, Established<A>), DataplaneError>
where
    A: Address,
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    let lru = Map::LruHashMap(pinned(maps, half_open)?);
    let hash = Map::HashMap(pinned(maps, established)?);
    Ok((
        HashMap::try_from(lru).map_err(in_map(half_open))?,
        Established::new(HashMap::try_from(hash).map_err(in_map(established))?, Stamps::open(maps)?),
    ))
}

/// The other entry of a flow that has one; the entry's own key would be found otherwise.
pub(super) fn other_direction<A: Address>(
    table: &HashMap<MapData, FlowKey<A>, FlowEntry<A>>,
    entry: &FlowEntry<A>,
) -> Option<FlowEntry<A>>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    if flows::has_reply(entry) { table.get(&entry.rewritten.reversed(), 0).ok() } else { None }
}

/// Opens the totals of the flows that user space removed, or makes them.
pub(super) fn open_totals(maps: &Path) -> Result<Array<MapData, Removed>, DataplaneError> {
    if !maps.join(TOTALS).exists() {
        let made: Array<MapData, Removed> = Array::create(MAX_BACKENDS, 0).map_err(in_map(TOTALS))?;
        made.pin(maps.join(TOTALS)).map_err(DataplaneError::Pin)?;
    }
    Array::try_from(Map::Array(pinned(maps, TOTALS)?)).map_err(in_map(TOTALS))
}

pub(super) fn pinned(maps: &Path, name: &'static str) -> Result<MapData, DataplaneError> {
    MapData::from_pin(maps.join(name)).map_err(in_map(name))
}

/// What the pinned tables have, for whoever only looks: no daemon has to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PinnedFlows {
    /// The flows, in no order.
    pub flows: Vec<Flow>,
    /// The backends that they name.
    pub backends: BTreeMap<BackendId, BackendEntry>,
}

impl PinnedFlows {
    /// Reads the flows of an instance that `keep` wants. Nothing is changed. Flows may come and go meanwhile: one that
    /// is promoted while it is read can be missing, or be there twice.
    ///
    /// # Errors
    ///
    /// Where there are no pinned maps, or they cannot be read.
    pub fn read(pin_path: &Path, keep: &dyn Fn(&Flow) -> bool) -> Result<Self, DataplaneError> {
        let maps = maps_path(pin_path);
        let pulse: Array<MapData, PulseEntry> =
            Array::try_from(Map::Array(pinned(&maps, "PULSE")?)).map_err(in_map("PULSE"))?;
        let now = pulse.get(&0, 0).map_err(in_map("PULSE"))?.flow_clock;
        let mut read = Self::default();
        let v4: FamilyTables<Be32> = FamilyTables::open(&maps, "HALF_OPEN4", "ESTABLISHED4")?;
        v4.read(now, keep, &mut read.flows)?;
        let v6: FamilyTables<Be128> = FamilyTables::open(&maps, "HALF_OPEN6", "ESTABLISHED6")?;
        v6.read(now, keep, &mut read.flows)?;

        let backends: Array<MapData, BackendEntry> =
            Array::try_from(Map::Array(pinned(&maps, "BACKENDS")?)).map_err(in_map("BACKENDS"))?;
        let ids: BTreeSet<BackendId> = read.flows.iter().map(|flow| flow.backend).collect();
        for id in ids {
            let entry = backends.get(&id.into(), 0).map_err(in_map("BACKENDS"))?;
            read.backends.insert(id, entry);
        }
        Ok(read)
    }
}

impl<A: Address> FamilyTables<A>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    fn read(&self, now: u32, keep: &dyn Fn(&Flow) -> bool, to: &mut Vec<Flow>) -> Result<(), DataplaneError> {
        for (table, walk, is_half_open) in [
            (&self.half_open, &self.walk_half_open, true),
            (&self.established, &self.walk_established, false),
        ] {
            walk.run(|key, entry| {
                if entry.direction == TO_BACKEND {
                    let other = other_direction(table, entry);
                    let flow = Flow::new(key, entry, other.as_ref(), is_half_open, now);
                    if keep(&flow) {
                        to.push(flow);
                    }
                }
            })?;
        }
        Ok(())
    }
}
