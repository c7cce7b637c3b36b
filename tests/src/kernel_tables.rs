//! The data plane in the kernel: the programs run by `BPF_PROG_TEST_RUN`, the maps filled by `dataplane.rs` and read
//! back from their pins.

use std::{
    borrow::BorrowMut,
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, PerCpuArray, RingBuf},
};
use lb_common::{
    layout::{
        AdvertEntry, AdvertKey, BackendCounters, BackendId, ClaimEntry, FlowEntry, FlowEvent, FlowKey,
        FragmentEntry, FragmentKey, Load, MAX_SERVICES, Members, PulseEntry, Removed, SEEN_SEVERED,
        SourceEntry, SourceKey,
    },
    reason::{DropReason, PassReason, TransmitReason, Verdict},
    wire::{Be16, Be32, Be128},
};
use lb_userspace::{
    config::model::{Flows, MIN_ENTRIES, default_half_open_max},
    dataplane::{Dataplane, cleanup},
};
use nix::{
    time::{ClockId, clock_gettime},
    unistd::geteuid,
};

use crate::plane::{
    BACKENDS, FlowState, Heartbeat, IDLE_TIMEOUT, Key, LEASE_NS, Notes, Outcome, Plane, World, wide_entry,
    wide_key,
};

/// `enum xdp_action` of the kernel's `include/uapi/linux/bpf.h`.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;

/// Whether programs can be loaded here: for root. Says so where not. As root, a kernel that refuses is a failure.
pub fn can_load(test: &str) -> bool {
    let root = geteuid().is_root();
    if !root {
        println!("SKIP {test}: loading XDP programs needs root");
    }
    root
}

/// The programs in the kernel, with maps of their own, attached nowhere.
pub struct KernelPlane {
    dataplane: Dataplane,
    flows: Flows,
    half_open4: HashMap<MapData, FlowKey<Be32>, FlowEntry<Be32>>,
    half_open6: HashMap<MapData, FlowKey<Be128>, FlowEntry<Be128>>,
    established4: HashMap<MapData, FlowKey<Be32>, FlowEntry<Be32>>,
    established6: HashMap<MapData, FlowKey<Be128>, FlowEntry<Be128>>,
    fragments: HashMap<MapData, FragmentKey, FragmentEntry>,
    sources: HashMap<MapData, SourceKey, SourceEntry>,
    adverts: HashMap<MapData, AdvertKey, AdvertEntry>,
    claims: HashMap<MapData, [u8; 16], ClaimEntry>,
    loads: Array<MapData, Load>,
    turns: Array<MapData, u32>,
    reasons: PerCpuArray<MapData, u64>,
    flow_events: RingBuf<MapData>,
    applied: Option<World>,
    /// As of the last frame; empty where they are not known.
    counters: Vec<(u32, u64)>,
    backend_counters: BTreeMap<BackendId, BackendCounters>,
    /// Last, so that it is removed after the maps are closed.
    pins: Pins,
}

/// A pin path of its own, removed on drop.
struct Pins(PathBuf);

impl Pins {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(PathBuf::from(format!("/sys/fs/bpf/xvip-test-{}-{n}", process::id())))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = cleanup(&self.0) {
            eprintln!("{} could not be removed: {error}", self.0.display());
        }
    }
}

impl KernelPlane {
    /// Loads the programs, with tables for `max_flows` flows.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses; the verifier's log is in the chain of causes.
    pub fn load(max_flows: u32) -> anyhow::Result<Self> {
        let pins = Pins::new();
        let flows = Flows {
            max: max_flows,
            half_open_max: default_half_open_max(max_flows),
            sources_max: MIN_ENTRIES,
            idle_timeout: Duration::from_secs(IDLE_TIMEOUT.into()),
            rebuild: Duration::ZERO,
        };
        let dataplane = Dataplane::load(&pins.0, &flows).context("loading the XDP programs")?;
        let maps = maps_below(&pins.0)?;
        let open = |name| MapData::from_pin(maps.join(name)).with_context(|| format!("opening {name}"));
        Ok(Self {
            dataplane,
            half_open4: HashMap::try_from(Map::LruHashMap(open("HALF_OPEN4")?))?,
            half_open6: HashMap::try_from(Map::LruHashMap(open("HALF_OPEN6")?))?,
            established4: HashMap::try_from(Map::HashMap(open("ESTABLISHED4")?))?,
            established6: HashMap::try_from(Map::HashMap(open("ESTABLISHED6")?))?,
            fragments: HashMap::try_from(Map::LruHashMap(open("FRAGMENTS")?))?,
            sources: HashMap::try_from(Map::LruHashMap(open("SOURCES")?))?,
            adverts: HashMap::try_from(Map::LruHashMap(open("ADVERTS")?))?,
            claims: HashMap::try_from(Map::HashMap(open("CLAIMS")?))?,
            loads: Array::try_from(Map::Array(open("LOADS")?))?,
            turns: Array::try_from(Map::Array(open("TURNS")?))?,
            reasons: PerCpuArray::try_from(Map::PerCpuArray(open("COUNTERS")?))?,
            flow_events: RingBuf::try_from(Map::RingBuf(open("FLOW_EVENTS")?))?,
            applied: None,
            counters: vec![],
            backend_counters: BTreeMap::new(),
            flows,
            pins,
        })
    }

    /// The programs loaded once more over the same maps, as a daemon's successor does it: a second hand on the data
    /// plane, for another thread.
    ///
    /// # Errors
    ///
    /// See [`KernelPlane::load`].
    pub fn successor(&self) -> anyhow::Result<Dataplane> {
        Dataplane::load(&self.pins.0, &self.flows).context("loading the XDP programs again")
    }

    /// The loaded programs and maps.
    pub fn dataplane(&mut self) -> &mut Dataplane {
        &mut self.dataplane
    }

    /// Runs a frame without reading the counters: for many at once. Returns the XDP action.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses the run, for a frame that is too short or too long for it.
    pub fn run_uncounted(&mut self, frame: &[u8]) -> anyhow::Result<u32> {
        self.counters.clear();
        Ok(self.dataplane.test_run(frame)?.0)
    }

    /// Of the reasons that there are: a run with all the others would take twice as long.
    fn counters(&self) -> Vec<(u32, u64)> {
        verdicts()
            .map(|verdict| {
                let cpus = self.reasons.get(&verdict.counter(), 0).expect("the counters can be read");
                (verdict.counter(), cpus.iter().sum())
            })
            .collect()
    }

    fn write(&mut self, world: &World) -> anyhow::Result<()> {
        let observed = self.dataplane.observe()?;
        for vip in observed.vips.keys().filter(|vip| !world.tables.vips.contains_key(vip)) {
            self.dataplane.remove_vip(*vip)?;
        }
        for key in observed.services.keys().filter(|key| !world.tables.services.contains_key(key)) {
            self.dataplane.remove_service(*key)?;
        }
        for id in observed.backends.keys().filter(|id| !world.tables.backends.contains_key(id)) {
            self.dataplane.remove_backend(*id)?;
        }
        for (id, entry) in &world.tables.backends {
            self.dataplane.set_backend(*id, *entry)?;
        }
        for (ring, slots) in &world.tables.rings {
            if !observed.rings.get(ring).is_some_and(|old| Arc::ptr_eq(old, slots)) {
                self.dataplane.set_ring(*ring, slots)?;
            }
        }
        for service in 0..MAX_SERVICES {
            let (old, new) = (observed.members.get(&service), world.tables.members.get(&service));
            if old != new {
                self.dataplane.set_members(service, new.unwrap_or(&Members::EMPTY))?;
            }
        }
        for prefix in observed.allowed.difference(&world.tables.allowed) {
            self.dataplane.disallow(*prefix)?;
        }
        for prefix in world.tables.allowed.difference(&observed.allowed) {
            self.dataplane.allow(*prefix)?;
        }
        for (key, entry) in &world.tables.services {
            self.dataplane.set_service(*key, *entry)?;
        }
        for (vip, entry) in &world.tables.vips {
            self.dataplane.set_vip(*vip, *entry)?;
        }
        if self.applied.as_ref().is_none_or(|old| old.reserved_ports != world.reserved_ports) {
            self.dataplane.set_reserved_ports(&world.reserved_ports)?;
        }
        self.dataplane.set_node(&world.node)?;
        let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?).as_nanos() as u64;
        let heartbeat_ns = match world.heartbeat {
            Heartbeat::Fresh => now,
            Heartbeat::Stale => now.saturating_sub(2 * LEASE_NS),
        };
        self.dataplane.set_pulse(PulseEntry { heartbeat_ns, flow_clock: world.clock, _pad: 0 })?;
        self.applied = Some(world.clone());
        Ok(())
    }
}

fn clear<K: Pod, V: Pod>(map: &mut HashMap<MapData, K, V>) -> anyhow::Result<()> {
    let keys: Vec<K> = map.keys().collect::<Result<_, _>>()?;
    for key in keys {
        map.remove(&key)?;
    }
    Ok(())
}

fn sever<A: Copy>(map: &mut HashMap<MapData, FlowKey<A>, FlowEntry<A>>, key: &FlowKey<A>)
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    let mut entry = map.get(key, 0).expect("an established flow");
    entry.seen.flags |= SEEN_SEVERED;
    map.insert(key, entry, 0).expect("the map can be written");
}

fn entries<K: Pod + Ord, V: Pod>(map: &HashMap<MapData, K, V>) -> BTreeMap<K, V> {
    map.iter().collect::<Result<_, _>>().expect("the map can be read")
}

fn fill<T: BorrowMut<MapData>, V: Pod + Default>(map: &mut Array<T, V>, count: u32) -> anyhow::Result<()> {
    for index in 0..count {
        map.set(index, V::default(), 0)?;
    }
    Ok(())
}

impl KernelPlane {
    /// Nothing is in the cache afterwards.
    fn settle(&self) {
        self.dataplane.settle();
    }

    fn forget(&mut self) -> anyhow::Result<()> {
        self.dataplane.settle();
        clear(&mut self.half_open4)?;
        clear(&mut self.half_open6)?;
        clear(&mut self.established4)?;
        clear(&mut self.established6)?;
        clear(&mut self.fragments)?;
        clear(&mut self.sources)?;
        clear(&mut self.adverts)?;
        clear(&mut self.claims)?;
        fill(&mut self.loads, BACKENDS.into())?;
        fill(&mut self.turns, 4)
    }

    /// What was told about flows since the last call.
    fn told(&mut self) -> Vec<FlowEvent> {
        let mut told = vec![];
        while let Some(event) = self.flow_events.next() {
            let event: &[u8; size_of::<FlowEvent>()] = (*event).try_into().expect("an event");
            let half = |at: usize| <[u8; 16]>::try_from(&event[at..at + 16]).expect("16 bytes");
            let port = |at: usize| Be16::new(u16::from_be_bytes([event[at], event[at + 1]]));
            told.push(FlowEvent {
                client: Be128::from_octets(half(0)),
                vip: Be128::from_octets(half(16)),
                client_port: port(32),
                port: port(34),
                kind: u32::from_ne_bytes([event[36], event[37], event[38], event[39]]),
            });
        }
        told
    }

    fn backend_counters(&self, id: BackendId) -> BackendCounters {
        let now = self.dataplane.backend_counters(id).expect("the counters can be read");
        let before = self.backend_counters.get(&id).copied().unwrap_or_default();
        BackendCounters {
            opened: now.opened - before.opened,
            established: now.established - before.established,
            ports_exhausted: now.ports_exhausted - before.ports_exhausted,
            unresolved: now.unresolved - before.unresolved,
            refused: now.refused - before.refused,
            unanswered: now.unanswered - before.unanswered,
            full: now.full - before.full,
            answered: now.answered - before.answered,
            broken: now.broken - before.broken,
            removed: Removed {
                closed: now.removed.closed - before.removed.closed,
                reset: now.removed.reset - before.removed.reset,
                expired: now.removed.expired - before.removed.expired,
                packets_in: now.removed.packets_in - before.removed.packets_in,
                bytes_in: now.removed.bytes_in - before.removed.bytes_in,
                packets_out: now.removed.packets_out - before.removed.packets_out,
                bytes_out: now.removed.bytes_out - before.removed.bytes_out,
            },
        }
    }
}

impl Plane for KernelPlane {
    fn reset(&mut self, world: &World) {
        self.forget().expect("the maps can be cleared");
        let _before = self.told();
        self.apply(world);
        self.counters = self.counters();
        self.backend_counters = (0..BACKENDS)
            .map(|id| (id, self.dataplane.backend_counters(id).expect("the counters can be read")))
            .collect();
    }

    fn apply(&mut self, world: &World) {
        self.settle();
        self.write(world).expect("the maps can be written");
    }

    fn run(&mut self, frame: &[u8]) -> Outcome {
        if self.counters.is_empty() {
            self.settle();
            self.counters = self.counters();
        }
        let (action, frame) = self.dataplane.test_run(frame).expect("the kernel runs the program");
        let mut counters = self.counters();
        if counters == self.counters {
            // Counted with its flow so far.
            self.settle();
            counters = self.counters();
        }
        let moved: Vec<u32> = counters
            .iter()
            .zip(&self.counters)
            .flat_map(|((index, after), (_, before))| (*before..*after).map(|_| *index))
            .collect();
        self.counters = counters;
        let [counter] = moved[..] else { panic!("one packet moved the counters {moved:?}") };
        let verdict = verdict_of(counter).expect("the counter of a reason");
        let redirected = action == XDP_REDIRECT;
        let expected_action = match verdict {
            Verdict::Pass(_) => XDP_PASS,
            Verdict::Drop(_) => XDP_DROP,
            Verdict::Transmit(_) if redirected => XDP_REDIRECT,
            Verdict::Transmit(_) => XDP_TX,
        };
        assert_eq!(action, expected_action, "the XDP action agrees with the counter of {verdict:?}");
        Outcome { verdict, frame, redirected }
    }

    fn flows(&mut self) -> FlowState {
        self.settle();
        let both = |v4, v6| -> BTreeMap<_, _> {
            let v4 = entries::<FlowKey<Be32>, FlowEntry<Be32>>(v4).into_iter();
            v4.map(|(key, entry)| (wide_key(&key), wide_entry(&entry))).chain(entries(v6)).collect()
        };
        FlowState {
            half_open: both(&self.half_open4, &self.half_open6),
            established: both(&self.established4, &self.established6),
        }
    }

    fn notes(&mut self) -> Notes {
        let load = |id: BackendId| self.loads.get(&id.into(), 0).expect("the map can be read");
        Notes {
            fragments: entries(&self.fragments),
            adverts: entries(&self.adverts).iter().map(|(key, entry)| (*key, entry.into())).collect(),
            claims: entries(&self.claims)
                .iter()
                .map(|(vip, entry)| (Be128::from_octets(*vip), entry.into()))
                .collect(),
            sources: entries(&self.sources).into_keys().collect::<BTreeSet<_>>(),
            loads: (0..BACKENDS).map(load).collect(),
            counters: (0..BACKENDS).map(|id| self.backend_counters(id)).collect(),
            events: self.told(),
        }
    }

    fn sever(&mut self, key: &Key) {
        self.settle();
        if key.src.is_mapped() {
            let key = FlowKey::new(key.src.low(), key.src_port, key.dst.low(), key.dst_port);
            sever(&mut self.established4, &key);
        } else {
            sever(&mut self.established6, key);
        }
    }

    fn left_by(&self) -> Option<u32> {
        None
    }
}

/// The verdict that a counter belongs to.
fn verdict_of(counter: u32) -> Option<Verdict> {
    verdicts().find(|verdict| verdict.counter() == counter)
}

fn verdicts() -> impl Iterator<Item = Verdict> {
    let passes = PassReason::ALL.iter().map(|&reason| Verdict::Pass(reason));
    let drops = DropReason::ALL.iter().map(|&reason| Verdict::Drop(reason));
    let transmits = TransmitReason::ALL.iter().map(|&reason| Verdict::Transmit(reason));
    passes.chain(drops).chain(transmits)
}

/// The directory of pinned maps, whatever their layout version.
fn maps_below(pin_path: &Path) -> anyhow::Result<PathBuf> {
    let mut entries = fs::read_dir(pin_path)?;
    Ok(entries.next().context("no maps are pinned")??.path())
}
