//! The data plane in the kernel: the programs run by `BPF_PROG_TEST_RUN`, the maps filled by `dataplane.rs` and read
//! back from their pins.

use std::{
    collections::BTreeMap,
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
use aya::maps::{HashMap, Map, MapData};
use lb_common::{
    layout::{BackendCounters, BackendId, FlowEntry, FlowKey, PulseEntry},
    reason::{DropReason, PassReason, TransmitReason, Verdict},
};
use lb_userspace::{
    config::model::{Flows, MIN_ENTRIES, default_half_open_max},
    dataplane::{Dataplane, cleanup},
};
use nix::{
    time::{ClockId, clock_gettime},
    unistd::geteuid,
};

use crate::plane::{BACKENDS, FlowState, Heartbeat, IDLE_TIMEOUT, LEASE_NS, Outcome, Plane, World};

/// `enum xdp_action` of the kernel's `include/uapi/linux/bpf.h`.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

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
    half_open: HashMap<MapData, FlowKey, FlowEntry>,
    established: HashMap<MapData, FlowKey, FlowEntry>,
    applied: Option<World>,
    /// As of the last frame; empty where they are not known.
    counters: Vec<u64>,
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
        };
        let dataplane = Dataplane::load(&pins.0, &flows).context("loading the XDP programs")?;
        let maps = maps_below(&pins.0)?;
        let open = |name| MapData::from_pin(maps.join(name)).with_context(|| format!("opening {name}"));
        Ok(Self {
            dataplane,
            half_open: HashMap::try_from(Map::LruHashMap(open("HALF_OPEN")?))?,
            established: HashMap::try_from(Map::HashMap(open("ESTABLISHED")?))?,
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

    fn counters(&self) -> Vec<u64> {
        self.dataplane.counters().expect("the counters can be read")
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

impl Plane for KernelPlane {
    fn reset(&mut self, world: &World) {
        for map in [&mut self.half_open, &mut self.established] {
            let keys: Vec<FlowKey> = map.keys().collect::<Result<_, _>>().expect("the flows can be read");
            for key in keys {
                map.remove(&key).expect("a flow can be removed");
            }
        }
        self.apply(world);
        self.counters = self.counters();
        self.backend_counters = (0..BACKENDS)
            .map(|id| (id, self.dataplane.backend_counters(id).expect("the counters can be read")))
            .collect();
    }

    fn apply(&mut self, world: &World) {
        self.write(world).expect("the maps can be written");
    }

    fn run(&mut self, frame: &[u8]) -> Outcome {
        if self.counters.is_empty() {
            self.counters = self.counters();
        }
        let (action, frame) = self.dataplane.test_run(frame).expect("the kernel runs the program");
        let counters = self.counters();
        let moved: Vec<u32> = (0..)
            .zip(counters.iter().zip(&self.counters))
            .flat_map(|(index, (after, before))| (*before..*after).map(move |_| index))
            .collect();
        self.counters = counters;
        let [counter] = moved[..] else { panic!("one packet moved the counters {moved:?}") };
        let verdict = verdict_of(counter).expect("the counter of a reason");
        let expected_action = match verdict {
            Verdict::Pass(_) => XDP_PASS,
            Verdict::Drop(_) => XDP_DROP,
            Verdict::Transmit(_) => XDP_TX,
        };
        assert_eq!(action, expected_action, "the XDP action agrees with the counter of {verdict:?}");
        Outcome { verdict, frame }
    }

    fn flows(&mut self) -> FlowState {
        let read = |map: &HashMap<MapData, FlowKey, FlowEntry>| {
            map.iter().collect::<Result<BTreeMap<_, _>, _>>().expect("the flows can be read")
        };
        FlowState { half_open: read(&self.half_open), established: read(&self.established) }
    }

    fn backend_counters(&mut self, id: BackendId) -> BackendCounters {
        let now = self.dataplane.backend_counters(id).expect("the counters can be read");
        let before = self.backend_counters.get(&id).copied().unwrap_or_default();
        BackendCounters {
            opened: now.opened - before.opened,
            established: now.established - before.established,
            ports_exhausted: now.ports_exhausted - before.ports_exhausted,
            unresolved: now.unresolved - before.unresolved,
            refused: now.refused - before.refused,
            unanswered: now.unanswered - before.unanswered,
        }
    }
}

/// The verdict that a counter belongs to.
fn verdict_of(counter: u32) -> Option<Verdict> {
    let passes = PassReason::ALL.iter().map(|&reason| Verdict::Pass(reason));
    let drops = DropReason::ALL.iter().map(|&reason| Verdict::Drop(reason));
    let transmits = TransmitReason::ALL.iter().map(|&reason| Verdict::Transmit(reason));
    passes.chain(drops).chain(transmits).find(|verdict| verdict.counter() == counter)
}

/// The directory of pinned maps, whatever their layout version.
fn maps_below(pin_path: &Path) -> anyhow::Result<PathBuf> {
    let mut entries = fs::read_dir(pin_path)?;
    Ok(entries.next().context("no maps are pinned")??.path())
}
