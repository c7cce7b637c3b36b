//! The kernel side: load, adopt, attach, pin; maps: observe and apply.
//!
//! Everything lives in pins below `node.pin_path`: the maps in `maps-v<layout version>/`, each link as
//! `link-<interface index>-<mode>`, the hooks for clients on the node itself as `local-<hook>`. So the program goes on forwarding while no controller runs, and the next
//! controller adopts what it finds: it puts its own program into the link in one step and keeps the maps, flows
//! included.

mod array_walk;
mod attach;
mod cache;
mod connections;
mod flow_events;
mod flow_tables;
mod hash_walk;
mod interface;
mod local_clients;
mod migrate;
mod pinned;
mod pins;
mod programs;
mod pulse;
mod replica;
pub mod ring;
mod rings;
mod sever;
mod sightings;
mod stamps;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use aya::{
    Ebpf, EbpfError, EbpfLoader, Pod,
    maps::{
        Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues,
        lpm_trie::{Key, LpmTrie},
    },
    pin::PinError,
    programs::{ProgramError, TestRun as _, TestRunOptions, Xdp, links::LinkError},
    sys::SyscallError,
    util::nr_cpus,
};
use aya_log::EbpfLogger;
use lb_common::{
    layout::{
        ALL_SETS, AllowedKey, BackendCounters, BackendEntry, BackendId, ClaimEntry, LAYOUT_VERSION, Load,
        LocalCounters, LocalEntry, MAX_BACKENDS, MAX_SERVICES, MaglevSlots, Members, NODE_HAS_FORMER,
        NodeEntry, PulseEntry, RESERVED_PORT_WORDS, Removed, ServiceEntry, ServiceKey, VipEntry,
    },
    reason,
    wire::Be128,
};

use tokio::io::unix::AsyncFd;

use self::array_walk::ArrayWalk;
use self::migrate::Migration;
use self::pins::{BPFFS, mount_bpffs, remove_other_layouts};
use self::rings::Rings;
pub use self::{
    attach::{AttachPoint, AttachedMode, Attachment},
    cache::{Settler, cache_bytes},
    connections::{ConnectionSource, ConnectionTables},
    flow_events::FlowEvents,
    flow_tables::{BackendFlows, Census, FlowTables, PinnedFlows},
    interface::{driver, keep_vlan_tags},
    local_clients::{LocalClientsError, cgroup2_mount},
    migrate::v4::VipEntry as VipEntryV4,
    pinned::PinnedTables,
    pins::cleanup,
    programs::ProgramCost,
    pulse::PulseWriter,
    replica::{ReplicaSource, ReplicaStore},
    sever::{AnyFlow, AnyKey, Found, SeverFlows, SeverTables},
    sightings::{AdvertSeen, ClaimSeen, Sightings},
};
use crate::{
    config::model::{Flows, Node},
    flows,
};

/// The XDP programs, built from source by `build.rs`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xvip-xdp"));
/// How much longer a frame can become: a tunnel header, or what an ICMP error quotes.
const GROWS_AT_MOST: usize = 128;
/// The program that is attached.
const PROGRAM: &str = "xvip";
/// The maps of the object: each is pinned under its own name.
const MAPS: [&str; 37] = [
    "NODE",
    "PULSE",
    "VIPS",
    "SERVICES",
    "RINGS",
    "MEMBERS",
    "TURNS",
    "BACKENDS",
    "LOADS",
    "BACKEND_COUNTERS",
    "RESERVED_PORTS",
    "HALF_OPEN4",
    "HALF_OPEN6",
    "ESTABLISHED4",
    "ESTABLISHED6",
    "CACHE4",
    "CACHE6",
    "TAGS4",
    "TAGS6",
    "STAMPS",
    "SETTLED",
    "FRAGMENTS",
    "SOURCES",
    "ADVERTS",
    "CLAIMS",
    "ALLOWED",
    "FLOW_EVENTS",
    "LOST_FLOW_EVENTS",
    "SCRATCH",
    "COUNTERS",
    "PROGRAMS",
    "LOCAL",
    "LOCAL_PEERS",
    "LOCAL_COUNTERS",
    "EVENTS",
    "NOTES",
    "WATCHERS",
];
/// The section of the variable that switches tracing on, and the name that it is pinned under.
const TRACE: (&str, &str) = (".data.trace", "TRACE");

/// What the maps say, or should say. Both sides of the reconciler have this form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// The VIPs.
    pub vips: BTreeMap<IpAddr, VipEntry>,
    /// VIP and port -> service.
    pub services: BTreeMap<ServiceKey, ServiceEntry>,
    /// Backends by id; unused ids are absent.
    pub backends: BTreeMap<BackendId, BackendEntry>,
    /// Maglev tables, or turns, by `ServiceEntry::index`.
    pub rings: BTreeMap<u32, Arc<MaglevSlots>>,
    /// The backends that can be chosen, by `ServiceEntry::index`; a service that has none is absent.
    pub members: BTreeMap<u32, Members>,
    /// Who may connect to the services that do not let everybody.
    pub allowed: BTreeSet<AllowedPrefix>,
}

/// An entry of `ALLOWED`: a service and a network. Its length is in bits of the key: [`ALLOWED_SERVICE_BITS`] and those of
/// the network in its wide form.
///
/// [`ALLOWED_SERVICE_BITS`]: lb_common::layout::ALLOWED_SERVICE_BITS
pub type AllowedPrefix = (AllowedKey, u32);

/// Why the data plane could not be set up, read or changed.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// The kernel refused the program; the verifier's log is in the source.
    #[error("the kernel refused the XDP program")]
    Load(#[source] Box<ProgramError>),
    /// The object or one of its maps could not be created.
    #[error(
        "the maps of the XDP program could not be created; is this root, with CAP_BPF and CAP_NET_ADMIN?"
    )]
    Object(#[source] Box<EbpfError>),
    /// No mode of attaching worked.
    #[error("XDP could not be attached to {interface} ({mode}); {remedy}")]
    Attach {
        /// The interface.
        interface: String,
        /// The mode tried last.
        mode: &'static str,
        /// What the operator can do.
        remedy: &'static str,
        /// The kernel's answer.
        #[source]
        source: Box<ProgramError>,
    },
    /// The monotonic clock could not be read.
    #[error("CLOCK_MONOTONIC cannot be read")]
    Clock(#[source] nix::Error),
    /// The cache of flows could not be set up.
    #[error("the cache of flows")]
    Cache(#[source] io::Error),
    /// A thread could not be made, or has ended before its time.
    #[error("no thread for the data plane")]
    Thread(#[source] io::Error),
    /// The link could not be handled.
    #[error("the XDP link could not be adopted or pinned")]
    Link(#[source] LinkError),
    /// A pin could not be made.
    #[error("the XDP link could not be pinned")]
    Pin(#[source] PinError),
    /// The interface does not exist, or its address could not be read.
    #[error("interface {interface}: {source}")]
    Interface {
        /// The interface.
        interface: String,
        /// What reading it said.
        source: io::Error,
    },
    /// The pin directory could not be made, listed or cleared.
    #[error("{path}: {source}")]
    PinPath {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The pin path is on another kind of file system, and not where we may mount one.
    #[error(
        "{0} is not on a BPF file system; write a `node.pin_path` below {BPFFS}, or mount one there: mount -t bpf bpf DIR"
    )]
    NotBpffs(PathBuf),
    /// A map or program is not in the object: object and controller do not belong together.
    #[error("the XDP object has nothing called {0}")]
    NotInObject(&'static str),
    /// What the programs log cannot be read.
    #[error("the log of the XDP programs")]
    Log(#[source] io::Error),
    /// A map could not be read or written.
    #[error("map {map}")]
    Map {
        /// Its name.
        map: &'static str,
        /// What the kernel said.
        #[source]
        source: MapError,
    },
}

/// The loaded programs and their maps.
pub struct Dataplane {
    ebpf: Ebpf,
    attachments: Vec<Attachment>,
    pins: PathBuf,
    maps_path: PathBuf,
    node: Array<MapData, NodeEntry>,
    pulse: Array<MapData, PulseEntry>,
    vips: HashMap<MapData, WideKey, VipEntry>,
    claims: HashMap<MapData, WideKey, ClaimEntry>,
    services: HashMap<MapData, ServiceKey, ServiceEntry>,
    rings: Rings,
    members: Array<MapData, Members>,
    backends: Array<MapData, BackendEntry>,
    loads: Array<MapData, Load>,
    backend_counters: PerCpuArray<MapData, BackendCounters>,
    all_backend_counters: ArrayWalk<BackendCounters>,
    totals: Array<MapData, Removed>,
    allowed: LpmTrie<MapData, AllowedKey, u32>,
    reserved_ports: Array<MapData, u64>,
    counters: PerCpuArray<MapData, u64>,
    local: Array<MapData, LocalEntry>,
    local_counters: PerCpuArray<MapData, LocalCounters>,
    /// What the maps hold that nobody else writes. Reading them back costs a quarter of a megabyte a ring and thousands
    /// of system calls.
    written: Written,
    settler: Arc<Settler>,
    /// While a former layout's flows are being brought over.
    migration: Option<Migration>,
}

/// See [`Dataplane`].
#[derive(Debug, Default)]
struct Written {
    rings: BTreeMap<u32, Arc<MaglevSlots>>,
    members: BTreeMap<u32, Members>,
    backends: BTreeMap<BackendId, BackendEntry>,
    allowed: BTreeSet<AllowedPrefix>,
}

/// A VIP as a map key: the octets of its wide form.
type WideKey = [u8; 16];
/// The inner map of `RINGS`.
type Ring = Array<MapData, MaglevSlots>;

impl Dataplane {
    /// Loads the programs, adopts the maps and the links of a predecessor or creates them, attaches to every point and
    /// pins.
    ///
    /// # Errors
    ///
    /// Where the kernel, a driver or the BPF file system refuses; nothing is left behind that was not there before,
    /// but for pinned maps.
    pub fn open(node: &Node, flows: &Flows, points: &[AttachPoint]) -> Result<Self, DataplaneError> {
        Self::load(&node.pin_path, flows)?.begin(node, points)
    }

    /// The second half of that, for programs that were loaded before: perhaps while a predecessor still ran.
    ///
    /// # Errors
    ///
    /// See [`Dataplane::open`].
    pub fn begin(mut self, node: &Node, points: &[AttachPoint]) -> Result<Self, DataplaneError> {
        // It may have written since.
        self.read_back()?;
        if let Some(former) = &migrate::find(&node.pin_path)?
            && let Err(error) = self.migrate(former)
        {
            let error = anyhow::Error::from(error);
            tracing::error!("the connections of the former release are lost: {error:#}");
        }
        self.attachments = self.attach(points, node.xdp_mode)?;
        if self.migration.is_none() {
            remove_other_layouts(&node.pin_path, &self.maps_path)?;
        }
        Ok(self)
    }

    /// Loads the programs and adopts or creates their maps, without attaching them anywhere: for tests of the programs.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses a program, or `pin_path` is not on a BPF file system.
    pub fn load(pin_path: &Path, flows: &Flows) -> Result<Self, DataplaneError> {
        let maps_path = maps_path(pin_path);
        mount_bpffs(pin_path)?;
        fs::create_dir_all(&maps_path)
            .map_err(|source| DataplaneError::PinPath { path: maps_path.clone(), source })?;
        let mut loader = EbpfLoader::new();
        for map in MAPS {
            loader.map_pin_path(map, maps_path.join(map));
        }
        loader.map_pin_path(TRACE.0, maps_path.join(TRACE.1));
        for (half_open, established) in [("HALF_OPEN4", "ESTABLISHED4"), ("HALF_OPEN6", "ESTABLISHED6")] {
            loader.map_max_entries(half_open, flows.half_open_max);
            // A flow has an entry for each direction.
            loader.map_max_entries(established, flows.max.saturating_mul(2));
        }
        loader.map_max_entries("SOURCES", flows.sources_max);
        let cpus = nr_cpus().map_err(|(_, source)| DataplaneError::Cache(source))? as u32;
        let sets = cache::sets(cpus, flows.max);
        for (cache, tags) in cache::CACHES {
            loader.map_max_entries(cache, cpus * sets);
            loader.map_max_entries(tags, cpus * sets);
        }
        let mut ebpf = loader.load(OBJECT).map_err(|error| DataplaneError::Object(Box::new(error)))?;
        programs::load(&mut ebpf)?;
        let settler = Settler::open(&mut ebpf, &maps_path, cpus)?;

        let mut dataplane = Self {
            node: take(&mut ebpf, "NODE")?,
            pulse: take(&mut ebpf, "PULSE")?,
            vips: take(&mut ebpf, "VIPS")?,
            claims: take(&mut ebpf, "CLAIMS")?,
            services: take(&mut ebpf, "SERVICES")?,
            rings: Rings::open(&maps_path)?,
            members: take(&mut ebpf, "MEMBERS")?,
            backends: take(&mut ebpf, "BACKENDS")?,
            loads: take(&mut ebpf, "LOADS")?,
            backend_counters: take(&mut ebpf, "BACKEND_COUNTERS")?,
            all_backend_counters: ArrayWalk::of_cpus(&maps_path, "BACKEND_COUNTERS")?,
            totals: flow_tables::open_totals(&maps_path)?,
            allowed: take(&mut ebpf, "ALLOWED")?,
            reserved_ports: take(&mut ebpf, "RESERVED_PORTS")?,
            counters: take(&mut ebpf, "COUNTERS")?,
            local: take(&mut ebpf, "LOCAL")?,
            local_counters: take(&mut ebpf, "LOCAL_COUNTERS")?,
            written: Written::default(),
            migration: None,
            attachments: Vec::new(),
            pins: pin_path.to_owned(),
            maps_path,
            settler: Arc::new(settler),
            ebpf,
        };
        dataplane.read_back()?;
        Ok(dataplane)
    }

    /// Where the program is attached; nowhere after [`Dataplane::load`] alone.
    pub fn attachments(&self) -> &[Attachment] {
        &self.attachments
    }

    /// How many frames XDP has said to send and the drivers have not, since the interfaces exist; `None` where no
    /// driver counts them.
    pub fn transmit_failures(&self) -> Option<u64> {
        interface::transmit_failures(self.attachments.iter().map(|attachment| attachment.interface.as_str()))
    }

    /// What the maps say.
    ///
    /// # Errors
    ///
    /// Where a map cannot be read.
    pub fn observe(&self) -> Result<Tables, DataplaneError> {
        Ok(Tables {
            vips: self
                .vips
                .iter()
                .map(|entry| entry.map(|(address, vip)| (Be128::from_octets(address).into(), vip)))
                .collect::<Result<_, _>>()
                .map_err(in_map("VIPS"))?,
            services: self.services.iter().collect::<Result<_, _>>().map_err(in_map("SERVICES"))?,
            backends: self.written.backends.clone(),
            rings: self.written.rings.clone(),
            members: self.written.members.clone(),
            allowed: self.written.allowed.clone(),
        })
    }

    /// The node's entry.
    ///
    /// # Errors
    ///
    /// Where the map cannot be read.
    pub fn node(&self) -> Result<NodeEntry, DataplaneError> {
        let node = self.node.get(&0, 0).map_err(in_map("NODE"))?;
        // Nobody else's business.
        Ok(NodeEntry { flags: node.flags & !NODE_HAS_FORMER, cache_sets: ALL_SETS, ..node })
    }

    /// Writes the node's entry.
    ///
    /// # Errors
    ///
    /// Where the map cannot be written; so for each `set_` and `remove_` below.
    pub fn set_node(&mut self, entry: &NodeEntry) -> Result<(), DataplaneError> {
        let flags = entry.flags | self.migration_flag();
        // What was cached under another size would not be found any more.
        self.settler.settle();
        let entry = NodeEntry { flags, cache_sets: self.settler.use_sets(entry.cache_sets), ..*entry };
        let written = self.node.set(0, entry, 0).map_err(in_map("NODE"));
        self.settler.invalidate();
        written
    }

    /// The last pulse, a predecessor's perhaps.
    ///
    /// # Errors
    ///
    /// Where the map cannot be read.
    pub fn pulse(&self) -> Result<PulseEntry, DataplaneError> {
        self.pulse.get(&0, 0).map_err(in_map("PULSE"))
    }

    /// Writes the pulse.
    ///
    /// # Errors
    ///
    /// See [`Dataplane::set_node`].
    pub fn set_pulse(&mut self, pulse: PulseEntry) -> Result<(), DataplaneError> {
        self.pulse.set(0, pulse, 0).map_err(in_map("PULSE"))
    }

    /// Makes an address a VIP.
    ///
    /// # Errors
    ///
    /// See [`Dataplane::set_node`].
    pub fn set_vip(&mut self, vip: IpAddr, entry: VipEntry) -> Result<(), DataplaneError> {
        self.vips.insert(Be128::from(vip).octets(), entry, 0).map_err(in_map("VIPS"))
    }

    /// Makes an address an ordinary one again. Who else claimed it is forgotten.
    ///
    /// # Errors
    ///
    /// See [`Dataplane::set_node`].
    pub fn remove_vip(&mut self, vip: IpAddr) -> Result<(), DataplaneError> {
        let key = Be128::from(vip).octets();
        self.vips.remove(&key).map_err(in_map("VIPS"))?;
        match self.claims.remove(&key) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(in_map("CLAIMS")(error)),
        }
    }

    /// Adds or changes a service. A new one begins with counters of zero.
    ///
    /// # Errors
    ///
    /// See [`Dataplane::set_node`].
    pub fn set_service(&mut self, key: ServiceKey, entry: ServiceEntry) -> Result<(), DataplaneError> {
        if let Err(MapError::KeyNotFound) = self.services.get(&key, 0) {
            forget(&mut self.local_counters, "LOCAL_COUNTERS", entry.index)?;
        }
        self.services.insert(key, entry, 0).map_err(in_map("SERVICES"))
    }

    /// Removes a service. Its flows go on.
    ///
    /// # Errors
    ///
    /// See [`Dataplane::set_node`].
    pub fn remove_service(&mut self, key: ServiceKey) -> Result<(), DataplaneError> {
        self.services.remove(&key).map_err(in_map("SERVICES"))
    }

    /// Adds or changes a backend. One that gets an id that was unused begins with counters of zero.
    ///
    /// # Errors
    ///
    /// See [`Dataplane::set_node`].
    pub fn set_backend(&mut self, id: BackendId, entry: BackendEntry) -> Result<(), DataplaneError> {
        if !self.written.backends.contains_key(&id) {
            self.forget_counts(id)?;
        }
        self.backends.set(u32::from(id), entry, 0).map_err(in_map("BACKENDS"))?;
        self.written.backends.insert(id, entry);
        Ok(())
    }

    /// Frees a backend's id. No flow may use it any more.
    ///
    /// # Errors
    ///
    /// See [`Dataplane::set_node`].
    pub fn remove_backend(&mut self, id: BackendId) -> Result<(), DataplaneError> {
        self.backends.set(u32::from(id), BackendEntry::default(), 0).map_err(in_map("BACKENDS"))?;
        self.written.backends.remove(&id);
        Ok(())
    }

    /// Replaces a service's table in one step: the new one is filled before the data plane can see it.
    ///
    /// # Errors
    ///
    /// See [`Dataplane::set_node`].
    pub fn set_ring(&mut self, service: u32, slots: &Arc<MaglevSlots>) -> Result<(), DataplaneError> {
        self.set_rings(&[(service, Arc::clone(slots))])
    }

    /// Replaces the tables of many services. That takes hardly longer than one of them, since the kernel waits once.
    ///
    /// # Errors
    ///
    /// See [`Dataplane::set_node`]; some may have been replaced then, and are replaced again the next time.
    pub fn set_rings(&mut self, tables: &[(u32, Arc<MaglevSlots>)]) -> Result<(), DataplaneError> {
        self.rings.replace(tables)?;
        self.written.rings.extend(tables.iter().cloned());
        Ok(())
    }

    /// Replaces the list of a service's backends that can be chosen.
    ///
    /// The kernel copies half a kilobyte while packets may read it: one of these may find an id of the old list behind
    /// the new ones, which still is a backend.
    ///
    /// # Errors
    ///
    /// See [`Dataplane::set_node`].
    pub fn set_members(&mut self, service: u32, members: &Members) -> Result<(), DataplaneError> {
        self.members.set(service, members, 0).map_err(in_map("MEMBERS"))?;
        if members.count == 0 {
            self.written.members.remove(&service);
        } else {
            self.written.members.insert(service, *members);
        }
        Ok(())
    }

    /// Lets a network connect to a service.
    ///
    /// # Errors
    ///
    /// See [`Dataplane::set_node`].
    pub fn allow(&mut self, prefix: AllowedPrefix) -> Result<(), DataplaneError> {
        self.allowed.insert(&trie_key(prefix), 1, 0).map_err(in_map("ALLOWED"))?;
        self.written.allowed.insert(prefix);
        Ok(())
    }

    /// Lets it no more.
    ///
    /// # Errors
    ///
    /// See [`Dataplane::set_node`].
    pub fn disallow(&mut self, prefix: AllowedPrefix) -> Result<(), DataplaneError> {
        self.allowed.remove(&trie_key(prefix)).map_err(in_map("ALLOWED"))?;
        self.written.allowed.remove(&prefix);
        Ok(())
    }

    /// Says which ports may not be NAT ports: bit `port % 64` of word `port / 64`.
    ///
    /// # Errors
    ///
    /// See [`Dataplane::set_node`].
    pub fn set_reserved_ports(&mut self, ports: &[u64; RESERVED_PORT_WORDS]) -> Result<(), DataplaneError> {
        for (index, &word) in (0..).zip(ports) {
            let current = self.reserved_ports.get(&index, 0).map_err(in_map("RESERVED_PORTS"))?;
            if current != word {
                self.reserved_ports.set(index, word, 0).map_err(in_map("RESERVED_PORTS"))?;
            }
        }
        Ok(())
    }

    /// The counters of all reasons, summed over the CPUs; the index is `Verdict::counter`.
    ///
    /// # Errors
    ///
    /// Where the map cannot be read.
    pub fn counters(&self) -> Result<Vec<u64>, DataplaneError> {
        self.settler.settle();
        (0..reason::COUNTERS)
            .map(|index| self.counters.get(&index, 0).map(|cpus| cpus.iter().sum()))
            .collect::<Result<_, _>>()
            .map_err(in_map("COUNTERS"))
    }

    /// A backend's counters, summed over the CPUs.
    ///
    /// # Errors
    ///
    /// Where the map cannot be read.
    pub fn backend_counters(&self, id: BackendId) -> Result<BackendCounters, DataplaneError> {
        let cpus = self.backend_counters.get(&u32::from(id), 0).map_err(in_map("BACKEND_COUNTERS"))?;
        Ok(total_of(&cpus))
    }

    /// The counters of all backends with an id below `count`, in the order of their ids.
    ///
    /// # Errors
    ///
    /// Where the map cannot be read.
    pub fn backend_counters_below(&self, count: u32) -> Result<Vec<BackendCounters>, DataplaneError> {
        let values = self.all_backend_counters.first(count)?;
        Ok(values.chunks(self.all_backend_counters.copies()).map(total_of).collect())
    }

    /// How busy a backend is, as the data plane counts it.
    ///
    /// # Errors
    ///
    /// Where the map cannot be read.
    pub fn load_of(&self, id: BackendId) -> Result<Load, DataplaneError> {
        self.loads.get(&u32::from(id), 0).map_err(in_map("LOADS"))
    }

    /// A backend, as it was written.
    pub fn backend(&self, id: BackendId) -> Option<&BackendEntry> {
        self.written.backends.get(&id)
    }

    /// A handle of its own on the heartbeat, for the thread that keeps it. `base` is the flow clock, in seconds, at
    /// `since`.
    ///
    /// # Errors
    ///
    /// Where the pinned map cannot be opened or read.
    pub fn pulse_writer(&self, base: u32, since: Instant) -> Result<PulseWriter, DataplaneError> {
        PulseWriter::open(&self.maps_path, base, since)
    }

    /// A handle of its own on the flow tables, for a thread that may take its time.
    ///
    /// # Errors
    ///
    /// Where the pinned maps cannot be opened.
    pub fn flow_tables(&self) -> Result<FlowTables, DataplaneError> {
        FlowTables::open(&self.maps_path, Arc::clone(&self.settler))
    }

    /// A handle of its own on the flow tables, for the thread that ends flows.
    ///
    /// # Errors
    ///
    /// Where the pinned maps cannot be opened.
    pub fn sever_tables(&self) -> Result<SeverTables, DataplaneError> {
        SeverTables::open(&self.maps_path, Arc::clone(&self.settler))
    }

    /// A handle of its own on what was seen of other nodes, for any thread.
    ///
    /// # Errors
    ///
    /// Where the pinned maps cannot be opened.
    pub fn sightings(&self) -> Result<Sightings, DataplaneError> {
        Sightings::open(&self.maps_path)
    }

    /// Has every CPU write down what its cache of flows knows and the tables do not.
    pub fn settle(&self) {
        self.settler.settle();
    }

    /// Runs the programs once on a frame (`BPF_PROG_TEST_RUN`), with the maps as they are. Returns the XDP action and
    /// the frame afterwards.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses the run.
    pub fn test_run(&mut self, frame: &[u8]) -> Result<(u32, Vec<u8>), DataplaneError> {
        self.run_once(frame, None)
    }

    /// The same for a frame that came in by an interface of the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses the run, or there is no such interface.
    pub fn test_run_at(&mut self, frame: &[u8], if_index: u32) -> Result<(u32, Vec<u8>), DataplaneError> {
        // struct xdp_md of include/uapi/linux/bpf.h: data, data_end, data_meta, ingress_ifindex, rx_queue_index,
        // egress_ifindex. The kernel wants data_end to be the length of the frame.
        let words = [0, frame.len() as u32, 0, if_index, 0, 0];
        let context: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
        self.run_once(frame, Some(&context))
    }

    fn run_once(&mut self, frame: &[u8], context: Option<&[u8]>) -> Result<(u32, Vec<u8>), DataplaneError> {
        let mut out = vec![0; frame.len() + GROWS_AT_MOST];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: context,
            ..TestRunOptions::default()
        };
        let result = program(&mut self.ebpf, PROGRAM)?.test_run(options).map_err(refused)?;
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value, out))
    }

    /// The lines that the data plane logs, as they come. There is one reader; who asks again gets an error. Needs a Tokio
    /// runtime with I/O.
    ///
    /// # Errors
    ///
    /// Where the object logs nothing, or somebody reads already.
    pub fn log_lines<T: log::Log>(&mut self, logger: T) -> Result<AsyncFd<EbpfLogger<T>>, DataplaneError> {
        EbpfLogger::init_with_logger(&mut self.ebpf, logger)
            .map_err(io::Error::other)
            .and_then(ring::watched_log)
            .map_err(DataplaneError::Log)
    }

    /// Begins anew with what was counted for an id.
    fn forget_counts(&mut self, id: BackendId) -> Result<(), DataplaneError> {
        let id = u32::from(id);
        forget(&mut self.backend_counters, "BACKEND_COUNTERS", id)?;
        self.totals.set(id, Removed::default(), 0).map_err(in_map("TOTALS"))?;
        self.loads.set(id, Load::default(), 0).map_err(in_map("LOADS"))
    }

    /// Reads what a predecessor wrote into the maps that are not read again later.
    fn read_back(&mut self) -> Result<(), DataplaneError> {
        self.written = Written::default();
        let backends =
            ArrayWalk::<BackendEntry>::of_array(&self.maps_path, "BACKENDS")?.first(MAX_BACKENDS)?;
        for (id, entry) in (0..).zip(backends) {
            if entry != BackendEntry::default() {
                self.written.backends.insert(id, entry);
            }
        }
        for service in 0..MAX_SERVICES {
            match self.rings.get(service) {
                Ok(inner) => {
                    let slots = inner.get(&0, 0).map_err(in_map("RINGS"))?;
                    self.written.rings.insert(service, Arc::new(slots));
                }
                Err(MapError::KeyNotFound) => {}
                // As if there were none: it is made anew, the same, of the members below, and written again.
                Err(error) if is_forbidden(&error) => {}
                Err(source) => return Err(DataplaneError::Map { map: "RINGS", source }),
            }
            let members = self.members.get(&service, 0).map_err(in_map("MEMBERS"))?;
            if members.count > 0 {
                self.written.members.insert(service, members);
            }
        }
        for key in self.allowed.keys() {
            let key = key.map_err(in_map("ALLOWED"))?;
            self.written.allowed.insert((key.data(), key.prefix_len()));
        }
        Ok(())
    }
}

/// A map within a map is found by its id, for which the kernel wants `CAP_SYS_ADMIN` (`bpf_map_get_fd_by_id`, kernel/bpf/syscall.c). The
/// package's unit does without.
fn is_forbidden(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(error) if error.io_error.kind() == io::ErrorKind::PermissionDenied)
}

/// What all CPUs have counted together.
fn total_of(cpus: &[BackendCounters]) -> BackendCounters {
    cpus.iter().fold(BackendCounters::default(), |sum, cpu| BackendCounters {
        opened: sum.opened + cpu.opened,
        established: sum.established + cpu.established,
        ports_exhausted: sum.ports_exhausted + cpu.ports_exhausted,
        unresolved: sum.unresolved + cpu.unresolved,
        refused: sum.refused + cpu.refused,
        unanswered: sum.unanswered + cpu.unanswered,
        full: sum.full + cpu.full,
        answered: sum.answered + cpu.answered,
        broken: sum.broken + cpu.broken,
        removed: flows::plus(&sum.removed, &cpu.removed),
    })
}

/// Sets the counters of an index to zero on every CPU.
fn forget<V: Pod + Default>(
    counters: &mut PerCpuArray<MapData, V>,
    map: &'static str,
    index: u32,
) -> Result<(), DataplaneError> {
    let cpus = counters.get(&index, 0).map_err(in_map(map))?;
    let zeros = cpus.iter().map(|_| V::default()).collect::<Vec<_>>();
    let zeros = PerCpuValues::try_from(zeros).map_err(|source| {
        let source = SyscallError { call: "reading the number of CPUs", io_error: source };
        DataplaneError::Map { map, source: source.into() }
    })?;
    counters.set(index, zeros, 0).map_err(in_map(map))
}

/// Where the maps of this layout are pinned.
pub fn maps_path(pin_path: &Path) -> PathBuf {
    pin_path.join(format!("maps-v{LAYOUT_VERSION}"))
}

fn trie_key((key, len): AllowedPrefix) -> Key<AllowedKey> {
    Key::new(len, key)
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, DataplaneError> {
    let Some(program) = ebpf.program_mut(name) else { return Err(DataplaneError::NotInObject(name)) };
    program.try_into().map_err(refused)
}

fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, DataplaneError> {
    let map = ebpf.take_map(name).ok_or(DataplaneError::NotInObject(name))?;
    M::try_from(map).map_err(in_map(name))
}

fn refused(error: ProgramError) -> DataplaneError {
    DataplaneError::Load(Box::new(error))
}

fn in_map(map: &'static str) -> impl Fn(MapError) -> DataplaneError {
    move |source| DataplaneError::Map { map, source }
}
