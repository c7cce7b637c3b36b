//! The kernel side: load, adopt, attach, pin; maps: observe and apply.
//!
//! Everything lives in pins below `node.pin_path`: the maps in `maps-v<layout version>/`, the link as
//! `link-<interface index>-<mode>`. So the program goes on forwarding while no controller runs, and the next
//! controller adopts what it finds: it puts its own program into the link in one step and keeps the maps, flows
//! included.

mod flow_tables;
mod interface;
mod pins;

use std::{
    collections::BTreeMap,
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Array, ArrayOfMaps, HashMap, Map, MapData, MapError, PerCpuArray, ProgramArray},
    pin::PinError,
    programs::{
        ProgramError, TestRun as _, TestRunOptions, Xdp, XdpMode as AyaXdpMode,
        links::{FdLink, LinkError, PinnedLink},
        xdp::XdpLink,
    },
};
use lb_common::{
    layout::{
        BackendCounters, BackendEntry, BackendId, LAYOUT_VERSION, MAX_BACKENDS, MAX_SERVICES, MaglevSlots,
        NodeEntry, PulseEntry, ServiceEntry, ServiceKey, VipEntry,
    },
    reason,
    wire::Mac,
};

use self::pins::{BPFFS, link_pin, mount_bpffs, remove_links, remove_other_layouts};
pub use self::{
    flow_tables::{BackendFlows, Census, FlowTables},
    pins::cleanup,
};
use crate::config::model::{Flows, Node, XdpMode};

/// The XDP program, built from source by `build.rs`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xvip-xdp"));
/// Its name in the object.
const PROGRAM: &str = "xvip";
/// The program that it goes on with for packets of no established flow.
const SLOW_PROGRAM: &str = "xvip_slow";
/// Its maps: each is pinned under its own name.
const MAPS: [&str; 12] = [
    "NODE",
    "PULSE",
    "VIPS",
    "SERVICES",
    "RINGS",
    "BACKENDS",
    "BACKEND_COUNTERS",
    "RESERVED_PORTS",
    "HALF_OPEN",
    "ESTABLISHED",
    "COUNTERS",
    "PROGRAMS",
];
/// A link without a pin is gone by then; what is in the way still is another's.
const LINK_GOES_WITHIN: Duration = Duration::from_millis(200);
/// Words of the `RESERVED_PORTS` map: one bit for each port.
pub const RESERVED_PORT_WORDS: usize = 1024;

/// What the maps say, or should say. Both sides of the reconciler have this form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// The VIPs.
    pub vips: BTreeMap<Ipv4Addr, VipEntry>,
    /// VIP and port -> service.
    pub services: BTreeMap<ServiceKey, ServiceEntry>,
    /// Backends by id; unused ids are absent.
    pub backends: BTreeMap<BackendId, BackendEntry>,
    /// Maglev tables by `ServiceEntry::ring`.
    pub rings: BTreeMap<u32, Arc<MaglevSlots>>,
}

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

/// How the program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachedMode {
    /// In the driver.
    Native,
    /// In the stack.
    Generic,
}

impl AttachedMode {
    /// The word in `status` and in the name of the pin.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    const fn for_aya(self) -> AyaXdpMode {
        match self {
            Self::Native => AyaXdpMode::Driver,
            Self::Generic => AyaXdpMode::Skb,
        }
    }
}

/// Where the program is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The interface's name.
    pub interface: String,
    /// Its index.
    pub if_index: u32,
    /// Its Ethernet address.
    pub mac: Mac,
    /// How.
    pub mode: AttachedMode,
    /// Whether a predecessor's link was taken over, so that no packet missed a program.
    pub adopted: bool,
}

/// The loaded program and its maps.
pub struct Dataplane {
    ebpf: Ebpf,
    attachment: Option<Attachment>,
    pins: PathBuf,
    maps_path: PathBuf,
    node: Array<MapData, NodeEntry>,
    pulse: Array<MapData, PulseEntry>,
    vips: HashMap<MapData, Be32Key, VipEntry>,
    services: HashMap<MapData, ServiceKey, ServiceEntry>,
    rings: ArrayOfMaps<MapData, Ring>,
    backends: Array<MapData, BackendEntry>,
    backend_counters: PerCpuArray<MapData, BackendCounters>,
    reserved_ports: Array<MapData, u64>,
    counters: PerCpuArray<MapData, u64>,
    /// What `rings` and `backends` hold. Nobody else writes them, and reading them back costs a quarter of a megabyte
    /// a ring and thousands of system calls.
    written_rings: BTreeMap<u32, Arc<MaglevSlots>>,
    written_backends: BTreeMap<BackendId, BackendEntry>,
}

/// A VIP as a map key: its octets.
type Be32Key = [u8; 4];
/// The inner map of `RINGS`.
type Ring = Array<MapData, MaglevSlots>;

impl Dataplane {
    /// Loads the program, adopts the maps and the link of a predecessor or creates them, attaches and pins.
    ///
    /// # Errors
    ///
    /// Where the kernel, the driver or the BPF file system refuses; nothing is left behind that was not there before,
    /// but for pinned maps.
    pub fn open(node: &Node, flows: &Flows) -> Result<Self, DataplaneError> {
        let mut dataplane = Self::load(&node.pin_path, flows)?;
        let attachment = dataplane.attach(node.interface(), node.xdp_mode, &node.pin_path)?;
        dataplane.attachment = Some(attachment);
        remove_other_layouts(&node.pin_path, &dataplane.maps_path)?;
        Ok(dataplane)
    }

    /// Loads the program and adopts or creates its maps, without attaching it anywhere: for tests of the program.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses the program, or `pin_path` is not on a BPF file system.
    pub fn load(pin_path: &Path, flows: &Flows) -> Result<Self, DataplaneError> {
        let maps_path = pin_path.join(format!("maps-v{LAYOUT_VERSION}"));
        mount_bpffs(pin_path)?;
        fs::create_dir_all(&maps_path)
            .map_err(|source| DataplaneError::PinPath { path: maps_path.clone(), source })?;
        let mut loader = EbpfLoader::new();
        for map in MAPS {
            loader.map_pin_path(map, maps_path.join(map));
        }
        // Each flow has an entry for each direction.
        loader.map_max_entries("ESTABLISHED", flows.max.saturating_mul(2));
        loader.map_max_entries("HALF_OPEN", flows.half_open_max);
        let mut ebpf = loader.load(OBJECT).map_err(|error| DataplaneError::Object(Box::new(error)))?;
        for name in [SLOW_PROGRAM, PROGRAM] {
            program(&mut ebpf, name)?.load().map_err(refused)?;
        }
        let mut programs: ProgramArray<MapData> = take(&mut ebpf, "PROGRAMS")?;
        let slow = program(&mut ebpf, SLOW_PROGRAM)?.fd().map_err(refused)?;
        programs.set(0, slow, 0).map_err(in_map("PROGRAMS"))?;

        let mut dataplane = Self {
            node: take(&mut ebpf, "NODE")?,
            pulse: take(&mut ebpf, "PULSE")?,
            vips: take(&mut ebpf, "VIPS")?,
            services: take(&mut ebpf, "SERVICES")?,
            rings: take(&mut ebpf, "RINGS")?,
            backends: take(&mut ebpf, "BACKENDS")?,
            backend_counters: take(&mut ebpf, "BACKEND_COUNTERS")?,
            reserved_ports: take(&mut ebpf, "RESERVED_PORTS")?,
            counters: take(&mut ebpf, "COUNTERS")?,
            written_rings: BTreeMap::new(),
            written_backends: BTreeMap::new(),
            attachment: None,
            pins: pin_path.to_owned(),
            maps_path,
            ebpf,
        };
        dataplane.read_back()?;
        Ok(dataplane)
    }

    /// Where the program is attached; `None` after [`Dataplane::load`] alone.
    pub const fn attachment(&self) -> Option<&Attachment> {
        self.attachment.as_ref()
    }

    /// How many frames XDP has said to send and the driver has not, since the interface exists; `None` where the driver
    /// does not count them.
    pub fn transmit_failures(&self) -> Option<u64> {
        interface::transmit_failures([self.attachment.as_ref()?.interface.as_str()])
    }

    /// Attaches in generic mode instead, for a driver that takes a program but does not send for it.
    ///
    /// # Errors
    ///
    /// Where that is refused, too; nothing is attached then.
    pub fn fall_back_to_generic(&mut self) -> Result<(), DataplaneError> {
        let Some(attachment) = self.attachment.take() else { return Ok(()) };
        remove_links(&self.pins, None)?;
        let mode = AttachedMode::Generic;
        self.create_link(attachment.if_index, mode, &link_pin(&self.pins, attachment.if_index, mode))?;
        self.attachment = Some(Attachment { mode, adopted: false, ..attachment });
        Ok(())
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
                .map(|entry| entry.map(|(address, vip)| (Ipv4Addr::from(address), vip)))
                .collect::<Result<_, _>>()
                .map_err(in_map("VIPS"))?,
            services: self.services.iter().collect::<Result<_, _>>().map_err(in_map("SERVICES"))?,
            backends: self.written_backends.clone(),
            rings: self.written_rings.clone(),
        })
    }

    /// The node's entry.
    ///
    /// # Errors
    ///
    /// Where the map cannot be read.
    pub fn node(&self) -> Result<NodeEntry, DataplaneError> {
        self.node.get(&0, 0).map_err(in_map("NODE"))
    }

    /// Writes the node's entry.
    ///
    /// # Errors
    ///
    /// Where the map cannot be written; so for each `set_` and `remove_` below.
    pub fn set_node(&mut self, entry: &NodeEntry) -> Result<(), DataplaneError> {
        self.node.set(0, entry, 0).map_err(in_map("NODE"))
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
    pub fn set_vip(&mut self, vip: Ipv4Addr, entry: VipEntry) -> Result<(), DataplaneError> {
        self.vips.insert(vip.octets(), entry, 0).map_err(in_map("VIPS"))
    }

    /// Makes an address an ordinary one again.
    ///
    /// # Errors
    ///
    /// See [`Dataplane::set_node`].
    pub fn remove_vip(&mut self, vip: Ipv4Addr) -> Result<(), DataplaneError> {
        self.vips.remove(&vip.octets()).map_err(in_map("VIPS"))
    }

    /// Adds or changes a service.
    ///
    /// # Errors
    ///
    /// See [`Dataplane::set_node`].
    pub fn set_service(&mut self, key: ServiceKey, entry: ServiceEntry) -> Result<(), DataplaneError> {
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

    /// Adds or changes a backend.
    ///
    /// # Errors
    ///
    /// See [`Dataplane::set_node`].
    pub fn set_backend(&mut self, id: BackendId, entry: BackendEntry) -> Result<(), DataplaneError> {
        self.backends.set(u32::from(id), entry, 0).map_err(in_map("BACKENDS"))?;
        self.written_backends.insert(id, entry);
        Ok(())
    }

    /// Frees a backend's id. No flow may use it any more.
    ///
    /// # Errors
    ///
    /// See [`Dataplane::set_node`].
    pub fn remove_backend(&mut self, id: BackendId) -> Result<(), DataplaneError> {
        self.backends.set(u32::from(id), BackendEntry::default(), 0).map_err(in_map("BACKENDS"))?;
        self.written_backends.remove(&id);
        Ok(())
    }

    /// Replaces a service's Maglev table in one step: the new one is filled before the data plane can see it.
    ///
    /// # Errors
    ///
    /// See [`Dataplane::set_node`].
    pub fn set_ring(&mut self, ring: u32, slots: &Arc<MaglevSlots>) -> Result<(), DataplaneError> {
        let mut inner = Ring::create(1, 0).map_err(in_map("RINGS"))?;
        inner.set(0, slots.as_ref(), 0).map_err(in_map("RINGS"))?;
        self.rings.set(ring, &inner, 0).map_err(in_map("RINGS"))?;
        self.written_rings.insert(ring, Arc::clone(slots));
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
        Ok(cpus.iter().fold(BackendCounters::default(), |sum, cpu| BackendCounters {
            opened: sum.opened + cpu.opened,
            established: sum.established + cpu.established,
            ports_exhausted: sum.ports_exhausted + cpu.ports_exhausted,
            unresolved: sum.unresolved + cpu.unresolved,
            refused: sum.refused + cpu.refused,
            unanswered: sum.unanswered + cpu.unanswered,
        }))
    }

    /// A handle of its own on the flow tables, for a thread that may take its time.
    ///
    /// # Errors
    ///
    /// Where the pinned maps cannot be opened.
    pub fn flow_tables(&self) -> Result<FlowTables, DataplaneError> {
        FlowTables::open(&self.maps_path)
    }

    /// Runs the program once on a frame (`BPF_PROG_TEST_RUN`), with the maps as they are. Returns the XDP action and
    /// the frame afterwards.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses the run.
    pub fn test_run(&mut self, frame: &[u8]) -> Result<(u32, Vec<u8>), DataplaneError> {
        let mut out = vec![0; frame.len()];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::default() };
        let result = program(&mut self.ebpf, PROGRAM)?.test_run(options).map_err(refused)?;
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value, out))
    }

    /// How many instructions each program has after the verifier, where the kernel tells.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses to tell anything.
    pub fn instructions(&mut self) -> Result<Vec<(&'static str, Option<u32>)>, DataplaneError> {
        [PROGRAM, SLOW_PROGRAM]
            .into_iter()
            .map(|name| {
                let info = program(&mut self.ebpf, name)?.info().map_err(refused)?;
                Ok((name, info.size_translated().map(|bytes| bytes / 8)))
            })
            .collect()
    }

    /// Reads what a predecessor wrote into the maps that are not read again later.
    fn read_back(&mut self) -> Result<(), DataplaneError> {
        for id in 0..MAX_BACKENDS as BackendId {
            let entry = self.backends.get(&u32::from(id), 0).map_err(in_map("BACKENDS"))?;
            if entry != BackendEntry::default() {
                self.written_backends.insert(id, entry);
            }
        }
        for ring in 0..MAX_SERVICES {
            match self.rings.get(&ring, 0) {
                Ok(inner) => {
                    let slots = inner.get(&0, 0).map_err(in_map("RINGS"))?;
                    self.written_rings.insert(ring, Arc::new(slots));
                }
                Err(MapError::KeyNotFound) => {}
                Err(source) => return Err(DataplaneError::Map { map: "RINGS", source }),
            }
        }
        Ok(())
    }

    fn attach(
        &mut self,
        interface: &str,
        wanted: XdpMode,
        pins: &Path,
    ) -> Result<Attachment, DataplaneError> {
        let unusable = |source| DataplaneError::Interface { interface: interface.to_owned(), source };
        let if_index = interface::index(interface).map_err(unusable)?;
        let mac = interface::mac(interface).map_err(unusable)?;
        let modes: &[AttachedMode] = match wanted {
            XdpMode::Auto => &[AttachedMode::Native, AttachedMode::Generic],
            XdpMode::Native => &[AttachedMode::Native],
            XdpMode::Generic => &[AttachedMode::Generic],
        };
        let attached =
            |mode, adopted| Attachment { interface: interface.to_owned(), if_index, mac, mode, adopted };

        for &mode in modes {
            let pin = link_pin(pins, if_index, mode);
            if self.adopt_link(&pin)? {
                remove_links(pins, Some(&pin))?;
                return Ok(attached(mode, true));
            }
        }
        // No link of ours that fits: one on another interface or in another mode would be in the way.
        remove_links(pins, None)?;
        let mut last = None;
        for &mode in modes {
            match self.create_link(if_index, mode, &link_pin(pins, if_index, mode)) {
                Ok(()) => return Ok(attached(mode, false)),
                Err(DataplaneError::Load(refusal)) => last = Some((mode, refusal)),
                Err(error) => return Err(error),
            }
        }
        let Some((mode, source)) = last else { unreachable!("every wish has at least one mode") };
        Err(DataplaneError::Attach {
            interface: interface.to_owned(),
            mode: mode.name(),
            remedy: "another XDP program may be there (`ip link show`), or the driver lacks queues or room for the MTU",
            source,
        })
    }

    /// Attaches and pins. The kernel frees a link a moment after its last pin is gone, and until then it is in the way.
    fn create_link(&mut self, if_index: u32, mode: AttachedMode, pin: &Path) -> Result<(), DataplaneError> {
        let program = program(&mut self.ebpf, PROGRAM)?;
        let begun = Instant::now();
        let id = loop {
            match program.attach_to_if_index(if_index, mode.for_aya()) {
                Ok(id) => break id,
                Err(error) if is_in_the_way(&error) && begun.elapsed() < LINK_GOES_WITHIN => {
                    sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(refused(error)),
            }
        };
        let link = program.take_link(id).map_err(refused)?;
        let link = FdLink::try_from(link).map_err(DataplaneError::Link)?;
        link.pin(pin).map_err(DataplaneError::Pin)?;
        Ok(())
    }

    /// Puts our program into a predecessor's link. False where there is none, or its interface is gone.
    fn adopt_link(&mut self, pin: &Path) -> Result<bool, DataplaneError> {
        if !pin.exists() {
            return Ok(false);
        }
        let pinned = PinnedLink::from_pin(pin).map_err(DataplaneError::Link)?;
        let link: XdpLink = FdLink::from(pinned).try_into().map_err(DataplaneError::Link)?;
        match program(&mut self.ebpf, PROGRAM)?.attach_to_link(link) {
            Ok(id) => {
                // Closing our handle leaves the link where it is: the pin holds it.
                drop(program(&mut self.ebpf, PROGRAM)?.take_link(id).map_err(refused)?);
                Ok(true)
            }
            Err(error) => {
                tracing::debug!(%error, "a pinned link could not be adopted");
                Ok(false)
            }
        }
    }
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

/// Whether another program or link on the interface is why attaching failed.
fn is_in_the_way(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(error) = error else { return false };
    matches!(error.io_error.raw_os_error(), Some(libc::EEXIST | libc::EBUSY))
}

fn in_map(map: &'static str) -> impl Fn(MapError) -> DataplaneError {
    move |source| DataplaneError::Map { map, source }
}
