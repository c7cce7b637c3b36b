//! From the maps of a former layout to ours, while packets go on.
//!
//! ```text
//! former program, former maps --copy--> our maps; flows last, and once more
//! our program into the links, in one step; the former one behind it: PROGRAMS[Former], NODE_HAS_FORMER
//! what the former maps still learn --copy--> our maps, until they learn nothing any more
//! the former program and its maps go
//! ```
//!
//! Between the last copy and the swap a handshake may have begun or ended that ours knows nothing of: its packets go to the
//! former program by a tail call, untouched, and the flow follows once it is established. A flow is taken out of the former
//! table only when it has been in ours for a whole pass: a packet that is just between the two look-ups finds it in one
//! of them.
//!
//! Layouts that are not known here (a later release's, before a downgrade) cannot be read: their flows are lost, and the log
//! says so.

pub mod v4;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use aya::{
    Pod,
    maps::{
        Array, ArrayOfMaps, HashMap, Map, MapData, MapError, MapInfo, PerCpuArray, PerCpuValues,
        ProgramArray, lpm_trie::LpmTrie,
    },
    programs::{
        ProgramInfo,
        links::{FdLink, PinnedLink},
        loaded_programs,
    },
};
use lb_common::{
    forward::Stage,
    layout::{
        AdvertEntry, AdvertKey, AllowedKey, BackendCounters, BackendEntry, ClaimEntry, FlowEntry, FlowKey,
        FragmentEntry, FragmentKey, LAYOUT_VERSION, Load, LocalEntry, LocalPeer, MAX_SERVICES, Members,
        NODE_HAS_FORMER, NodeEntry, PulseEntry, RESERVED_PORT_WORDS, Removed, SEEN_FIN, SEEN_RST,
        ServiceEntry, ServiceKey, SourceEntry, SourceKey, VipEntry,
    },
    wire::{Be32, Be128},
};

use super::{
    Dataplane, DataplaneError, Ring, WideKey,
    hash_walk::{HashWalk, write_all},
    in_map, is_forbidden,
    pins::{pins_named, remove_other_layouts},
    refused,
};

/// How often the former tables are looked at.
const PASS: Duration = Duration::from_millis(500);
/// So long they must have learned nothing.
const QUIET: Duration = Duration::from_secs(3);
/// And so long the former program is kept at least: a handshake takes no longer.
const KEPT: Duration = Duration::from_secs(5);
/// And at most, whatever it learns.
const KEPT_AT_MOST: Duration = Duration::from_secs(120);
/// What is on its way through the former program when it is not asked any more has left by then.
const LEAVES_WITHIN: Duration = Duration::from_secs(1);
/// Copies before the swap, each of what the one before was too slow for.
const COPIES: u32 = 3;
/// A copy that is this fast is the last one.
const FAST_COPY: Duration = Duration::from_millis(100);

/// How far it is.
#[derive(Debug)]
pub(super) enum Migration {
    /// The former program is asked for what our maps do not know.
    Following(Follower),
    /// It is asked no more.
    Leaving(Instant),
}

/// The former layout that can be read, if there is one.
pub(super) fn find(pins: &Path) -> Result<Option<PathBuf>, DataplaneError> {
    let mut found = None;
    for directory in pins_named(pins, "maps-v")? {
        let version =
            directory.file_name().and_then(|name| name.to_str()?.strip_prefix("maps-v")?.parse().ok());
        match version {
            Some(LAYOUT_VERSION) => {}
            Some(v4::VERSION) => found = Some(directory),
            _ => tracing::error!(
                maps = %directory.display(),
                "these maps are of a layout that this release does not know: the connections in them are lost"
            ),
        }
    }
    Ok(found)
}

impl Dataplane {
    /// Brings over what a former layout's maps have. Our program is not attached yet.
    pub(super) fn migrate(&mut self, former: &Path) -> Result<(), DataplaneError> {
        let attached = attached_program(&self.pins)?;
        let ours = MapInfo::from_pin(self.maps_path.join("NODE")).map_err(in_map("NODE"))?.id();
        let is_ours =
            |program: &ProgramInfo| program.map_ids().ok().flatten().is_some_and(|maps| maps.contains(&ours));
        if attached.as_ref().is_some_and(is_ours) {
            // A predecessor has got as far as that, and no further.
            tracing::info!(maps = %former.display(), "going on with a migration that was interrupted");
        } else {
            let begun = Instant::now();
            copy_settings(former, &self.maps_path)?;
            let mut flows = FormerFlows::open(former, &self.maps_path)?;
            for _ in 0..COPIES {
                let begun = Instant::now();
                flows.copy()?;
                if begun.elapsed() < FAST_COPY {
                    break;
                }
            }
            if let Some(program) = attached {
                let program = program.fd().map_err(refused)?;
                programs(&self.maps_path)?
                    .set(Stage::Former as u32, &program, 0)
                    .map_err(in_map("PROGRAMS"))?;
            }
            tracing::info!(
                from = %former.display(),
                entries = flows.copied,
                took_ms = begun.elapsed().as_millis(),
                "the maps of a former release were copied"
            );
        }
        self.read_back()?;
        let has_program =
            programs(&self.maps_path)?.indices().flatten().any(|index| index == Stage::Former as u32);
        if has_program || attached_program(&self.pins)?.is_some() {
            let node = self.node()?;
            self.migration = Some(Migration::Following(Follower::spawn(former, &self.maps_path)?));
            self.set_node(&node)?;
        }
        Ok(())
    }

    /// What [`Dataplane::set_node`] adds.
    pub(super) const fn migration_flag(&self) -> u32 {
        match self.migration {
            Some(Migration::Following(_)) => NODE_HAS_FORMER,
            Some(Migration::Leaving(_)) | None => 0,
        }
    }

    /// Ends a migration step by step: call it every few seconds.
    ///
    /// # Errors
    ///
    /// Where a map or pin cannot be changed; it is tried again with the next call.
    pub fn go_on_migrating(&mut self) -> Result<(), DataplaneError> {
        match &self.migration {
            Some(Migration::Following(follower)) if follower.is_done() => {
                tracing::info!(
                    flows = follower.moved(),
                    "the former release's program has learned nothing any more: it goes"
                );
                let node = self.node()?;
                self.migration = Some(Migration::Leaving(Instant::now()));
                self.set_node(&node)
            }
            Some(Migration::Leaving(since)) if since.elapsed() >= LEAVES_WITHIN => {
                match programs(&self.maps_path)?.clear_index(&(Stage::Former as u32)) {
                    Ok(()) | Err(MapError::KeyNotFound) => {}
                    Err(error) => tracing::debug!(%error, "the former program was not there"),
                }
                remove_other_layouts(&self.pins, &self.maps_path)?;
                self.migration = None;
                tracing::info!("the upgrade is complete: nothing of the former release is left");
                Ok(())
            }
            Some(_) | None => Ok(()),
        }
    }
}

fn programs(maps: &Path) -> Result<ProgramArray<MapData>, DataplaneError> {
    ProgramArray::try_from(Map::ProgramArray(pinned(maps, "PROGRAMS")?)).map_err(in_map("PROGRAMS"))
}

/// The program that the pinned links attach: it is one and the same.
fn attached_program(pins: &Path) -> Result<Option<ProgramInfo>, DataplaneError> {
    for pin in pins_named(pins, "link-")? {
        let link = PinnedLink::from_pin(&pin).map_err(DataplaneError::Link)?;
        let id = FdLink::from(link).info().map_err(DataplaneError::Link)?.program_id();
        if let Some(program) = loaded_programs().flatten().find(|program| program.id() == id) {
            return Ok(Some(program));
        }
    }
    Ok(None)
}

fn pinned(maps: &Path, name: &'static str) -> Result<MapData, DataplaneError> {
    MapData::from_pin(maps.join(name)).map_err(in_map(name))
}

/// Everything but the flows.
fn copy_settings(from: &Path, to: &Path) -> Result<(), DataplaneError> {
    copy_array::<PulseEntry, PulseEntry>(from, to, "PULSE", 1)?;
    copy_array::<BackendEntry, v4::BackendEntry>(from, to, "BACKENDS", v4::MAX_BACKENDS)?;
    copy_array::<Load, Load>(from, to, "LOADS", v4::MAX_BACKENDS)?;
    copy_array::<Removed, Removed>(from, to, "TOTALS", v4::MAX_BACKENDS)?;
    copy_array::<u64, u64>(from, to, "RESERVED_PORTS", RESERVED_PORT_WORDS as u32)?;
    copy_array::<u32, u32>(from, to, "TURNS", MAX_SERVICES)?;
    copy_array::<LocalEntry, LocalEntry>(from, to, "LOCAL", 1)?;
    copy_members(from, to)?;
    copy_rings(from, to)?;
    copy_counters(from, to)?;
    copy_allowed(from, to)?;
    copy_hash::<ServiceKey, ServiceEntry, ServiceEntry>(from, to, "SERVICES", Map::HashMap)?;
    copy_hash::<WideKey, VipEntry, v4::VipEntry>(from, to, "VIPS", Map::HashMap)?;
    copy_hash::<WideKey, ClaimEntry, ClaimEntry>(from, to, "CLAIMS", Map::HashMap)?;
    copy_hash::<AdvertKey, AdvertEntry, AdvertEntry>(from, to, "ADVERTS", Map::LruHashMap)?;
    copy_hash::<u64, LocalPeer, LocalPeer>(from, to, "LOCAL_PEERS", Map::LruHashMap)?;
    copy_hash::<SourceKey, SourceEntry, SourceEntry>(from, to, "SOURCES", Map::LruHashMap)?;
    copy_hash::<FragmentKey, FragmentEntry, FragmentEntry>(from, to, "FRAGMENTS", Map::LruHashMap)?;
    // Last: with it, packets are for us.
    copy_array::<NodeEntry, v4::NodeEntry>(from, to, "NODE", 1)
}

fn array<V: Pod>(maps: &Path, name: &'static str) -> Result<Array<MapData, V>, DataplaneError> {
    Array::try_from(Map::Array(pinned(maps, name)?)).map_err(in_map(name))
}

fn copy_array<V: Pod, Old: Pod + Into<V>>(
    from: &Path,
    to: &Path,
    name: &'static str,
    entries: u32,
) -> Result<(), DataplaneError> {
    let (from, mut to) = (array::<Old>(from, name)?, array::<V>(to, name)?);
    for index in 0..entries {
        let old = from.get(&index, 0).map_err(in_map(name))?;
        to.set(index, old.into(), 0).map_err(in_map(name))?;
    }
    Ok(())
}

fn copy_members(from: &Path, to: &Path) -> Result<(), DataplaneError> {
    copy_array::<Members, Members>(from, to, "MEMBERS", MAX_SERVICES)
}

fn copy_rings(from: &Path, to: &Path) -> Result<(), DataplaneError> {
    let open = |maps| {
        pinned(maps, "RINGS").and_then(|data| {
            ArrayOfMaps::<MapData, Ring>::try_from(Map::ArrayOfMaps(data)).map_err(in_map("RINGS"))
        })
    };
    let (from, mut to) = (open(from)?, open(to)?);
    for service in 0..MAX_SERVICES {
        match from.get(&service, 0) {
            // Each is a map of its own, and no different.
            Ok(ring) => to.set(service, &ring, 0).map_err(in_map("RINGS"))?,
            Err(MapError::KeyNotFound) => {}
            // They are made anew.
            Err(error) if is_forbidden(&error) => {}
            Err(error) => return Err(in_map("RINGS")(error)),
        }
    }
    Ok(())
}

fn copy_counters(from: &Path, to: &Path) -> Result<(), DataplaneError> {
    const NAME: &str = "BACKEND_COUNTERS";
    let from: PerCpuArray<MapData, v4::BackendCounters> =
        PerCpuArray::try_from(Map::PerCpuArray(pinned(from, NAME)?)).map_err(in_map(NAME))?;
    let mut to: PerCpuArray<MapData, BackendCounters> =
        PerCpuArray::try_from(Map::PerCpuArray(pinned(to, NAME)?)).map_err(in_map(NAME))?;
    for id in 0..v4::MAX_BACKENDS {
        let cpus = from.get(&id, 0).map_err(in_map(NAME))?;
        if cpus.iter().all(|cpu| *cpu == v4::BackendCounters::default()) {
            continue;
        }
        let cpus: Vec<BackendCounters> = cpus.iter().map(|&cpu| cpu.into()).collect();
        if let Ok(cpus) = PerCpuValues::try_from(cpus) {
            to.set(id, cpus, 0).map_err(in_map(NAME))?;
        }
    }
    Ok(())
}

fn copy_allowed(from: &Path, to: &Path) -> Result<(), DataplaneError> {
    let open = |maps| {
        pinned(maps, "ALLOWED").and_then(|data| {
            LpmTrie::<MapData, AllowedKey, u32>::try_from(Map::LpmTrie(data)).map_err(in_map("ALLOWED"))
        })
    };
    let (from, mut to) = (open(from)?, open(to)?);
    for key in from.keys() {
        to.insert(&key.map_err(in_map("ALLOWED"))?, 1, 0).map_err(in_map("ALLOWED"))?;
    }
    Ok(())
}

fn copy_hash<K: Pod, V: Pod, Old: Pod + Into<V>>(
    from: &Path,
    to: &Path,
    name: &'static str,
    kind: fn(MapData) -> Map,
) -> Result<(), DataplaneError> {
    let mut to: HashMap<MapData, K, V> = HashMap::try_from(kind(pinned(to, name)?)).map_err(in_map(name))?;
    let mut failed = None;
    HashWalk::<K, Old>::new(pinned(from, name)?, name).run(|key, old| {
        if let Err(error) = to.insert(key, Into::<V>::into(*old), 0) {
            failed = Some(error);
        }
    })?;
    failed.map_or(Ok(()), |error| Err(in_map(name)(error)))
}

/// The flow tables of both layouts.
struct FormerFlows {
    v4: FamilyFlows<Be32>,
    v6: FamilyFlows<Be128>,
    copied: u64,
}

struct FamilyFlows<A>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
    v4::FlowKey<A>: Pod,
    v4::FlowEntry<A>: Pod,
{
    half_open: (HashWalk<v4::FlowKey<A>, v4::FlowEntry<A>>, MapData),
    walk: HashWalk<v4::FlowKey<A>, v4::FlowEntry<A>>,
    former: HashMap<MapData, v4::FlowKey<A>, v4::FlowEntry<A>>,
    ours: HashMap<MapData, FlowKey<A>, FlowEntry<A>>,
    ours_data: MapData,
}

impl FormerFlows {
    fn open(from: &Path, to: &Path) -> Result<Self, DataplaneError> {
        Ok(Self {
            v4: FamilyFlows::open(from, to, "HALF_OPEN4", "ESTABLISHED4")?,
            v6: FamilyFlows::open(from, to, "HALF_OPEN6", "ESTABLISHED6")?,
            copied: 0,
        })
    }

    /// Every entry, over what ours has: nobody else writes there yet.
    fn copy(&mut self) -> Result<(), DataplaneError> {
        self.copied = self.v4.copy()? + self.v6.copy()?;
        Ok(())
    }

    /// What ours does not have; and out of the former what ours had before. How many entries were new.
    fn follow(&mut self) -> Result<u64, DataplaneError> {
        Ok(self.v4.follow()? + self.v6.follow()?)
    }
}

impl<A: Copy> FamilyFlows<A>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
    v4::FlowKey<A>: Pod,
    v4::FlowEntry<A>: Pod,
{
    fn open(
        from: &Path,
        to: &Path,
        half_open: &'static str,
        established: &'static str,
    ) -> Result<Self, DataplaneError> {
        Ok(Self {
            half_open: (HashWalk::new(pinned(from, half_open)?, half_open), pinned(to, half_open)?),
            walk: HashWalk::new(pinned(from, established)?, established),
            former: table(from, established)?,
            ours: table(to, established)?,
            ours_data: pinned(to, established)?,
        })
    }

    fn copy(&self) -> Result<u64, DataplaneError> {
        // Those that are promoted meanwhile are then in both, and the established ones count.
        let (walk, to) = &self.half_open;
        Ok(copy_flows(walk, to)? + copy_flows(&self.walk, &self.ours_data)?)
    }

    fn follow(&mut self) -> Result<u64, DataplaneError> {
        let (mut new, mut known) = (Vec::new(), Vec::new());
        let ours = &self.ours;
        self.walk.run(|former_key, entry| {
            let key = FlowKey::from(*former_key);
            match ours.get(&key, 0) {
                Ok(own) => known.push((*former_key, key, *entry, own)),
                Err(_) => new.push((key, FlowEntry::from(*entry))),
            }
        })?;
        // BPF_NOEXIST: a SYN may have opened it anew.
        let inserted = new.iter().filter(|(key, entry)| self.ours.insert(key, entry, 1).is_ok()).count();
        for (former_key, key, entry, mut own) in known {
            let ended = entry.seen.flags & (SEEN_FIN | SEEN_RST) & !own.seen.flags;
            if ended != 0 {
                // It ended after it had been copied for the last time.
                own.seen.flags |= ended;
                // BPF_EXIST: it may be gone by now.
                let _ = self.ours.insert(key, own, 2);
            }
            let _ = self.former.remove(&former_key);
        }
        Ok(inserted as u64)
    }
}

/// Opens a table of flows for single entries.
fn table<K: Pod, V: Pod>(maps: &Path, name: &'static str) -> Result<HashMap<MapData, K, V>, DataplaneError> {
    pinned(maps, name).and_then(|data| HashMap::try_from(Map::HashMap(data)).map_err(in_map(name)))
}

/// Copies a table. How many entries there were.
fn copy_flows<A: Copy>(
    walk: &HashWalk<v4::FlowKey<A>, v4::FlowEntry<A>>,
    to: &MapData,
) -> Result<u64, DataplaneError>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
    v4::FlowKey<A>: Pod,
    v4::FlowEntry<A>: Pod,
{
    const BATCH: usize = 4096;
    let (mut keys, mut values) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
    let (mut copied, mut failed) = (0, None);
    walk.run(|key, value| {
        keys.push(FlowKey::from(*key));
        values.push(FlowEntry::from(*value));
        if keys.len() == BATCH {
            copied += keys.len() as u64;
            failed = failed.take().or(write_all(to, &keys, &values).err());
            keys.clear();
            values.clear();
        }
    })?;
    copied += keys.len() as u64;
    failed = failed.take().or(write_all(to, &keys, &values).err());
    if let Some(error) = failed {
        // What does not fit stays with the former program as long as that is there.
        tracing::warn!(%error, "not every flow of the former release has a place: is flows.max smaller now?");
    }
    Ok(copied)
}

/// The thread that looks what the former tables learn.
#[derive(Debug)]
pub(super) struct Follower {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    stop: AtomicBool,
    done: AtomicBool,
    moved: AtomicU64,
}

impl Follower {
    fn spawn(from: &Path, to: &Path) -> Result<Self, DataplaneError> {
        let mut flows = FormerFlows::open(from, to)?;
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let thread =
            thread::Builder::new().name("migration".to_owned()).spawn(move || follow(&mut flows, &shared));
        let thread = thread.map_err(DataplaneError::Thread)?;
        Ok(Self { state, thread: Some(thread) })
    }

    fn is_done(&self) -> bool {
        self.state.done.load(Ordering::Acquire)
    }

    fn moved(&self) -> u64 {
        self.state.moved.load(Ordering::Relaxed)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ended = thread.join();
        }
    }
}

fn follow(flows: &mut FormerFlows, state: &State) {
    let begun = Instant::now();
    let mut news = begun;
    while !state.stop.load(Ordering::Acquire) {
        thread::park_timeout(PASS);
        match flows.follow() {
            Ok(0) => {}
            Ok(moved) => {
                state.moved.fetch_add(moved, Ordering::Relaxed);
                news = Instant::now();
            }
            Err(error) => tracing::warn!("{:#}", anyhow::Error::from(error)),
        }
        let is_quiet = news.elapsed() >= QUIET && begun.elapsed() >= KEPT;
        if is_quiet || begun.elapsed() >= KEPT_AT_MOST {
            state.done.store(true, Ordering::Release);
            return;
        }
    }
}
