//! The flows of the pinned tables for the nodes' exchange of them: read as they tell them each other, and written as this
//! node has them.
//!
//! What is inserted goes the way of a flow that is promoted: first the backend's direction, which is what a NAT port is
//! claimed by, then the client's. Whoever opens a flow meanwhile looks for its port in the table of half-open flows first
//! and then here, so one of the two sees the other.

use std::{
    cell::Cell,
    collections::{BTreeSet, HashSet},
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use aya::{
    Pod,
    maps::{Array, Map, MapData, MapError},
};
use lb_common::{
    family::Address,
    layout::{BackendId, FlowEntry, FlowKey, Load, PulseEntry, TO_BACKEND},
    wire::{Be16, Be32, Be128},
};
use tokio::sync::watch;

use super::{
    DataplaneError, FlowEvents,
    flow_tables::{Table, open_levels, other_direction, pinned},
    hash_walk::HashWalk,
    in_map, maps_path,
    stamps::Established,
};
use crate::{
    flows::{self, Phase, silence},
    replica::{Landmarks, OwnFlow, Standing, has_ended, id_of, is_same},
    sync::record::{Applied, Authority, FlowId, FlowRecord, FlowStore, Place, StoreError},
};

/// `BPF_NOEXIST` of the kernel's `include/uapi/linux/bpf.h`.
const NOEXIST: u64 = 1;
/// A system call less for each of many flows.
const CLOCK_IS_GOOD_FOR: Duration = Duration::from_millis(50);
/// A flow that has had a packet here so lately is no leftover, whoever does not know it.
const IN_USE: u32 = 10;

/// Where the tables are, for the thread that will open them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSource {
    maps: PathBuf,
}

impl ReplicaSource {
    /// Below this `node.pin_path`.
    pub fn at(pin_path: &Path) -> Self {
        Self { maps: maps_path(pin_path) }
    }

    /// Opens the flow tables. `landmarks` are as of now at any time.
    ///
    /// # Errors
    ///
    /// Where the pinned maps cannot be opened.
    pub fn store(&self, landmarks: watch::Receiver<Arc<Landmarks>>) -> Result<ReplicaStore, DataplaneError> {
        ReplicaStore::open(&self.maps, landmarks)
    }

    /// Begins to read what the programs tell; there is one reader. Needs a Tokio runtime with I/O.
    ///
    /// # Errors
    ///
    /// Where the pinned maps cannot be opened.
    pub fn events(&self) -> Result<FlowEvents, DataplaneError> {
        FlowEvents::open(&self.maps)
    }
}

/// A handle of its own on the flow tables, for the thread that exchanges flows with other nodes.
pub struct ReplicaStore {
    v4: Tables<Be32>,
    v6: Tables<Be128>,
    loads: Array<MapData, Load>,
    pulse: Array<MapData, PulseEntry>,
    /// The flow clock, and when it was read.
    clock: Cell<Option<(Instant, u32)>>,
    landmarks: watch::Receiver<Arc<Landmarks>>,
}

struct Tables<A>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    half_open: Table<A>,
    established: Established<A>,
    walk: HashWalk<FlowKey<A>, FlowEntry<A>>,
}

/// How a change of the tables changes loads: by so many active flows, for each backend of a flow that came or went.
#[derive(Debug, Default)]
struct LoadChanges(Vec<(BackendId, i64)>);

impl ReplicaStore {
    /// Opens the pinned tables in the directory `maps`.
    pub(super) fn open(
        maps: &Path,
        landmarks: watch::Receiver<Arc<Landmarks>>,
    ) -> Result<Self, DataplaneError> {
        Ok(Self {
            v4: Tables::open(maps, "HALF_OPEN4", "ESTABLISHED4")?,
            v6: Tables::open(maps, "HALF_OPEN6", "ESTABLISHED6")?,
            loads: Array::try_from(Map::Array(pinned(maps, "LOADS")?)).map_err(in_map("LOADS"))?,
            pulse: Array::try_from(Map::Array(pinned(maps, "PULSE")?)).map_err(in_map("PULSE"))?,
            clock: Cell::new(None),
            landmarks,
        })
    }

    /// The flow clock, at most a moment old.
    fn clock(&self) -> u32 {
        let now = Instant::now();
        if let Some((at, clock)) = self.clock.get()
            && now.saturating_duration_since(at) < CLOCK_IS_GOOD_FOR
        {
            return clock;
        }
        // An array is complete; without it every time would be wrong by as much.
        let clock = self.pulse.get(&0, 0).map_or(0, |pulse| pulse.flow_clock);
        self.clock.set(Some((now, clock)));
        clock
    }

    fn landmarks(&self) -> Arc<Landmarks> {
        Arc::clone(&self.landmarks.borrow())
    }

    /// Sets loads right. Two writers at once can lose a count; the next sweep finds it.
    fn change_loads(&mut self, changes: LoadChanges) {
        for (backend, change) in changes.0 {
            let index = u32::from(backend);
            if change != 0
                && let Ok(load) = self.loads.get(&index, 0)
            {
                let _ = self.loads.set(index, Load { active: load.active + change, ..load }, 0);
            }
        }
    }
}

impl FlowStore for ReplicaStore {
    fn read(&self, id: &FlowId) -> Option<FlowRecord> {
        let (landmarks, clock) = (self.landmarks(), self.clock());
        if id.service.is_ipv4() {
            self.v4.record(id, &landmarks, clock)
        } else {
            self.v6.record(id, &landmarks, clock)
        }
    }

    fn walk(&self, each: &mut dyn FnMut(FlowRecord)) -> Result<(), StoreError> {
        let (landmarks, clock) = (self.landmarks(), self.clock());
        self.v4
            .walk(&landmarks, clock, each)
            .and_then(|()| self.v6.walk(&landmarks, clock, each))
            .map_err(refused)
    }

    fn apply(&mut self, record: &FlowRecord, authority: Authority) -> Applied {
        let (landmarks, clock) = (self.landmarks(), self.clock());
        let FlowId { client, service } = record.id;
        if client.is_ipv4() != service.is_ipv4() {
            return Applied::NotHere;
        }
        let standing = landmarks.standing(service.ip(), authority, record.silence(), Instant::now());
        let mut loads = LoadChanges::default();
        let applied = if service.is_ipv4() {
            landmarks.own(record, clock).map(|flow| self.v4.apply(&flow, standing, clock, &mut loads))
        } else {
            landmarks.own(record, clock).map(|flow| self.v6.apply(&flow, standing, clock, &mut loads))
        };
        self.change_loads(loads);
        applied.unwrap_or_else(|why| why)
    }

    fn retire(
        &mut self,
        vips: &BTreeSet<IpAddr>,
        mentioned: &HashSet<FlowId>,
        at: Place,
    ) -> (usize, Option<Place>) {
        let (landmarks, clock) = (self.landmarks(), self.clock());
        let is_leftover =
            |id: &FlowId| vips.contains(&id.vip()) && !landmarks.holds(id.vip()) && !mentioned.contains(id);
        let mut loads = LoadChanges::default();
        let Place { table, mut position } = at;
        let (retired, is_last) = if table == 0 {
            self.v4.retire(&landmarks, clock, &is_leftover, &mut loads, &mut position)
        } else {
            self.v6.retire(&landmarks, clock, &is_leftover, &mut loads, &mut position)
        };
        self.change_loads(loads);
        let next = match (table, is_last) {
            (_, false) => Some(Place { table, position }),
            (0, true) => Some(Place { table: 1, position: None }),
            (_, true) => None,
        };
        (retired, next)
    }
}

impl<A: Address> Tables<A>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    fn open(maps: &Path, half_open: &'static str, established: &'static str) -> Result<Self, DataplaneError> {
        let (half_open_table, established_table) = open_levels(maps, half_open, established)?;
        Ok(Self {
            half_open: half_open_table,
            established: established_table,
            walk: HashWalk::new(pinned(maps, established)?, established),
        })
    }

    fn get(&self, key: &FlowKey<A>) -> Option<FlowEntry<A>> {
        self.established.get(key, 0).ok()
    }

    fn other(&self, entry: &FlowEntry<A>) -> Option<FlowEntry<A>> {
        other_direction(&self.established, entry)
    }

    fn record(&self, id: &FlowId, landmarks: &Landmarks, clock: u32) -> Option<FlowRecord> {
        let key = key_of(id);
        let forward = self.get(&key)?;
        landmarks.record(&key, &forward, self.other(&forward).as_ref(), clock)
    }

    fn walk(
        &self,
        landmarks: &Landmarks,
        clock: u32,
        each: &mut dyn FnMut(FlowRecord),
    ) -> Result<(), DataplaneError> {
        self.walk.run(|key, entry| {
            if entry.direction == TO_BACKEND
                && let Some(record) = landmarks.record(key, entry, self.other(entry).as_ref(), clock)
            {
                each(record);
            }
        })
    }

    /// Puts a flow into the table, or what is new of it.
    fn apply(
        &mut self,
        flow: &OwnFlow<A>,
        standing: Standing,
        clock: u32,
        loads: &mut LoadChanges,
    ) -> Applied {
        let Some(here) = self.get(&flow.key) else {
            return match standing {
                Standing::Stale => Applied::Kept,
                Standing::Right | Standing::Welcome | Standing::Addition => {
                    self.insert(flow, standing, loads)
                }
            };
        };
        let other = self.other(&here);
        if is_same(&here, &flow.forward) && other.is_some() == flow.reply.is_some() {
            let is_news = match standing {
                Standing::Right => true,
                Standing::Welcome => {
                    silence(&flow.forward, flow.reply.as_ref(), clock) < silence(&here, other.as_ref(), clock)
                }
                Standing::Addition | Standing::Stale => false,
            };
            if !is_news {
                return Applied::Kept;
            }
            return self.update(flow, has_ended(&here, other.as_ref()), loads);
        }
        // The client's port has been used again, perhaps since.
        let gives_way = has_ended(&here, other.as_ref()) && standing != Standing::Stale;
        if standing != Standing::Right && !gives_way {
            return Applied::Kept;
        }
        self.forget(&flow.key, &here, loads);
        match self.insert(flow, standing, loads) {
            Applied::Inserted => Applied::Updated,
            other => other,
        }
    }

    /// Replaces both directions of the same flow.
    fn update(&mut self, flow: &OwnFlow<A>, had_ended: bool, loads: &mut LoadChanges) -> Applied {
        if let Some(reply) = &flow.reply {
            let _ = self.established.insert(flow.forward.rewritten.reversed(), reply, 0);
        }
        if self.established.insert(flow.key, flow.forward, 0).is_err() {
            return Applied::Full;
        }
        let ended = has_ended(&flow.forward, flow.reply.as_ref());
        loads.add(flow.forward.backend, i64::from(had_ended) - i64::from(ended));
        Applied::Updated
    }

    /// Adds a flow that is not there.
    fn insert(&mut self, flow: &OwnFlow<A>, standing: Standing, loads: &mut LoadChanges) -> Applied {
        let reply_key = flow.forward.rewritten.reversed();
        if let Some(reply) = &flow.reply {
            if let Err(refused) = self.claim(&reply_key, reply, standing, loads) {
                return refused;
            }
            if let Ok(half_open) = self.half_open.get(&reply_key, 0) {
                if half_open.rewritten != flow.key.reversed() && standing != Standing::Right {
                    let _ = self.established.remove(&reply_key);
                    return Applied::PortTaken;
                }
                // Ours, or one that loses its port.
                let _ = self.half_open.remove(&half_open.rewritten.reversed());
                let _ = self.half_open.remove(&reply_key);
            }
        }
        match self.established.insert(flow.key, flow.forward, NOEXIST) {
            Ok(()) => {
                let ended = has_ended(&flow.forward, flow.reply.as_ref());
                loads.add(flow.forward.backend, i64::from(!ended));
                Applied::Inserted
            }
            // A packet has just opened it: that one's other direction is not ours.
            Err(error) => {
                if flow.reply.is_some() {
                    let _ = self.established.remove(&reply_key);
                }
                if is_there_already(&error) { Applied::Kept } else { Applied::Full }
            }
        }
    }

    /// Takes a NAT port by the entry of the backend's direction.
    fn claim(
        &mut self,
        key: &FlowKey<A>,
        reply: &FlowEntry<A>,
        standing: Standing,
        loads: &mut LoadChanges,
    ) -> Result<(), Applied> {
        match self.established.insert(*key, *reply, NOEXIST) {
            Ok(()) => return Ok(()),
            Err(error) if is_there_already(&error) => {}
            Err(_) => return Err(Applied::Full),
        }
        if let Some(taken) = self.get(key)
            && taken.rewritten != reply.rewritten
        {
            let client_key = taken.rewritten.reversed();
            let forward = self.get(&client_key).filter(|forward| forward.rewritten == key.reversed());
            if let Some(forward) = forward {
                let is_over = matches!(flows::phase(&forward, Some(&taken)), Phase::Closed | Phase::Reset);
                if standing != Standing::Right && !is_over {
                    return Err(Applied::PortTaken);
                }
                self.forget(&client_key, &forward, loads);
            }
        }
        // What is left there is nobody's, or half of this very flow.
        self.established.insert(*key, *reply, 0).map_err(|_| Applied::Full)
    }

    /// Removes both directions of a flow.
    fn forget(&mut self, key: &FlowKey<A>, forward: &FlowEntry<A>, loads: &mut LoadChanges) {
        let reply = self.other(forward);
        let _ = self.established.remove(key);
        if reply.is_some() {
            let _ = self.established.remove(&forward.rewritten.reversed());
        }
        loads.add(forward.backend, -i64::from(!has_ended(forward, reply.as_ref())));
    }

    fn retire(
        &mut self,
        landmarks: &Landmarks,
        clock: u32,
        is_leftover: &dyn Fn(&FlowId) -> bool,
        loads: &mut LoadChanges,
        position: &mut Option<u32>,
    ) -> (usize, bool) {
        let mut leftovers = Vec::new();
        // There is no look-up for what the peer has just told: nothing else is done for any peer meanwhile.
        let stepped = self.walk.step(position, |key, entry| {
            if entry.direction == TO_BACKEND
                && entry.seen.silence(clock) >= IN_USE
                && is_leftover(&id_of(key))
                && landmarks
                    .record(key, entry, self.other(entry).as_ref(), clock)
                    .is_some_and(|record| record.silence() >= IN_USE)
            {
                leftovers.push((*key, *entry));
            }
        });
        let mut retired = 0;
        for (key, entry) in leftovers {
            // A packet may have come since.
            if self.get(&key).is_some_and(|now| now == entry) {
                self.forget(&key, &entry, loads);
                retired += 1;
            }
        }
        // Where it cannot be read, no more is removed: the next full sync tries again.
        (retired, stepped.unwrap_or(true))
    }
}

impl LoadChanges {
    fn add(&mut self, backend: BackendId, change: i64) {
        match self.0.iter_mut().find(|(other, _)| *other == backend) {
            Some((_, sum)) => *sum += change,
            None => self.0.push((backend, change)),
        }
    }
}

fn key_of<A: Address>(id: &FlowId) -> FlowKey<A> {
    FlowKey::new(
        A::narrow(id.client.ip().into()),
        Be16::new(id.client.port()),
        A::narrow(id.service.ip().into()),
        Be16::new(id.service.port()),
    )
}

/// `EEXIST`, as [`NOEXIST`] has it; a full table says `E2BIG`.
fn is_there_already(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(error) if error.io_error.kind() == io::ErrorKind::AlreadyExists)
}

fn refused(error: DataplaneError) -> StoreError {
    StoreError(format!("{:#}", anyhow::Error::from(error)))
}
