//! Connections by the million, opened by real frames through the real programs (`BPF_PROG_TEST_RUN`).
//!
//! A frame takes a system call of about a microsecond, and what is around it must not take longer: frames are written in
//! place, nothing is allocated, nothing is counted. What the frames look like inside is for other tests.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use anyhow::Context as _;
use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::{ProgramFd, ProgramInfo, loaded_programs};
use lb_common::layout::{
    ALL_SETS, BackendEntry, BackendId, FlowEntry, FlowKey, Hop, Load, MODE_NAT, MacWord, NodeEntry,
    PulseEntry, ServiceEntry, ServiceKey, VipEntry,
};
use lb_common::wire::{Be16, Be32, Be128};
use lb_userspace::config::model::Flows;
use lb_userspace::dataplane::{Dataplane, ReplicaSource, cleanup};
use lb_userspace::desired::BackendIds;
use lb_userspace::maglev::{self, Member};
use lb_userspace::netlink::Link;
use lb_userspace::replica::Landmarks;

use crate::bpf::test_run;

/// `enum xdp_action` of the kernel's `include/uapi/linux/bpf.h`.
pub const XDP_ABORTED: u32 = 0;
/// See [`XDP_ABORTED`].
pub const XDP_DROP: u32 = 1;
/// See [`XDP_ABORTED`].
pub const XDP_PASS: u32 = 2;
/// See [`XDP_ABORTED`].
pub const XDP_TX: u32 = 3;
/// See [`XDP_ABORTED`].
const XDP_REDIRECT: u32 = 4;

/// TCP flags.
pub const SYN: u8 = 0x02;
/// See [`SYN`].
pub const ACK: u8 = 0x10;

/// The VIP.
pub const VIP: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 10);
/// The VIP in IPv6.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, 0x10);
/// Where the backends listen.
pub const BACKEND_PORT: u16 = 6443;
/// The node's Ethernet address.
pub const NODE_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];
/// Its IPv4 address, the outer source of tunnelled packets.
pub const NODE_IP: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);
/// Its IPv6 address.
pub const NODE_IP6: Ipv6Addr = Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, 2);
/// The Ethernet address that clients' frames come from.
pub const CLIENT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xc1];

const ETHERNET: usize = 14;
const TCP: usize = 20;
const TTL: u8 = 64;
const WINDOW: u16 = 64_240;
/// The interface that `BPF_PROG_TEST_RUN` says frames come in by: loopback.
const IF_INDEX: u32 = 1;
/// Longer than any frame here, tunnel headers included.
const ROOM: usize = 256;
/// The flow clock; any value, but not so early that a time-out reaches before 0.
const CLOCK: u32 = 100_000;
const HALF_OPEN_TIMEOUT: u32 = 60;

/// A service to set up.
#[derive(Debug, Clone)]
pub struct Service {
    /// VIP and port.
    pub at: SocketAddr,
    /// One of the `MODE_` constants of the layout.
    pub mode: u8,
    /// Ids of its backends; the backend of an id is [`backend`].
    pub backends: std::ops::Range<BackendId>,
    /// Whether their addresses are of the other family than the VIP; only in a tunnel.
    pub crosses: bool,
    /// New connections per second and source; 0: no limit.
    pub source_rate: u32,
    /// And at once.
    pub source_burst: u32,
}

impl Service {
    /// A service in nat without limits.
    #[must_use]
    pub fn nat(at: SocketAddr, backends: std::ops::Range<BackendId>) -> Self {
        Self { at, mode: MODE_NAT, backends, crosses: false, source_rate: 0, source_burst: 0 }
    }
}

/// The address of a backend.
#[must_use]
pub fn backend(id: BackendId, v6: bool) -> SocketAddr {
    let ip = if v6 {
        Ipv6Addr::new(0xfd10, 0, 0, 2, 0, 0, 0, id + 1).into()
    } else {
        IpAddr::from([172, 16, 2 + (id >> 8) as u8, id as u8])
    };
    SocketAddr::new(ip, BACKEND_PORT)
}

/// Its Ethernet address.
#[must_use]
pub fn backend_mac(id: BackendId) -> [u8; 6] {
    let [high, low] = id.to_be_bytes();
    [0x02, 0xbe, 0, 0, high, low]
}

/// The programs in the kernel, with maps of their own, attached nowhere.
pub struct Mass {
    dataplane: Dataplane,
    program: ProgramFd,
    maps: PathBuf,
    /// Last, so that it is removed after the maps are closed.
    pins: Pins,
}

/// A pin path of its own, removed on drop.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = cleanup(&self.0) {
            eprintln!("{} could not be removed: {error}", self.0.display());
        }
    }
}

impl Mass {
    /// Loads the programs with tables of these sizes, and sets up the services.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn load(flows: &Flows, services: &[Service]) -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let pins = Pins(PathBuf::from(format!("/sys/fs/bpf/xvip-mass-{}-{n}", process::id())));
        let mut dataplane = Dataplane::load(&pins.0, flows).context("loading the XDP programs")?;
        let maps = fs::read_dir(&pins.0)?.next().context("no maps are pinned")??.path();
        let program = program_with(&maps.join("NODE"))?;

        let mut node = NodeEntry {
            idle_timeout: flows.idle_timeout.as_secs() as u32,
            half_open_timeout: HALF_OPEN_TIMEOUT,
            cache_sets: ALL_SETS,
            ..NodeEntry::EMPTY
        };
        (node.macs[0], node.if_indices[0]) = (MacWord::new(NODE_MAC), IF_INDEX);
        (node.v4, node.v6) = (NODE_IP.into(), NODE_IP6.into());
        for (index, service) in (0..).zip(services) {
            let v6 = service.at.is_ipv6() != service.crosses;
            let members =
                service.backends.clone().map(|id| Member { id, address: backend(id, v6), weight: 1 });
            let slots = maglev::table(&members.collect::<Vec<_>>()).context("a service without backends")?;
            for id in service.backends.clone() {
                dataplane.set_backend(id, backend_entry(id, v6))?;
            }
            dataplane.set_ring(index, &slots)?;
            let vip = Be128::from(service.at.ip());
            let key = ServiceKey::new(vip, Be16::new(service.at.port()));
            let entry = ServiceEntry {
                snat: vip,
                index,
                usable: service.backends.len() as u32,
                source_rate: service.source_rate,
                source_burst: service.source_burst,
                mode: service.mode,
                ..ServiceEntry::default()
            };
            dataplane.set_service(key, entry)?;
            dataplane.set_vip(service.at.ip(), VipEntry::default())?;
            match service.at.ip() {
                IpAddr::V4(ip) => node.add_vip(Be32::from(ip)),
                IpAddr::V6(_) => node.add_vip(vip),
            }
        }
        dataplane.set_node(&node)?;
        dataplane.set_pulse(PulseEntry { heartbeat_ns: u64::MAX, flow_clock: CLOCK, _pad: 0 })?;
        Ok(Self { dataplane, program, maps, pins })
    }

    /// The maps.
    pub fn dataplane(&mut self) -> &mut Dataplane {
        &mut self.dataplane
    }

    /// What the flow clock says.
    #[must_use]
    pub fn clock(&self) -> u32 {
        CLOCK
    }

    /// The program that is called for each frame.
    #[must_use]
    pub fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    /// What the kernel says of each of the programs.
    ///
    /// # Errors
    /// Where it says nothing.
    pub fn programs(&self) -> anyhow::Result<Vec<ProgramInfo>> {
        programs_with(&self.maps.join("NODE"))
    }

    /// A hand on the programs; each thread has its own.
    #[must_use]
    pub fn runner(&self) -> Runner<'_> {
        Runner::on(&self.program, NODE_MAC)
    }

    /// Where its flows are, for the nodes' exchange of them.
    #[must_use]
    pub fn replica_source(&self) -> ReplicaSource {
        ReplicaSource::at(&self.pins.0)
    }

    /// What its numbers stand for. `held`: the VIPs that it holds, and since when.
    ///
    /// # Errors
    /// Where the maps cannot be read.
    pub fn landmarks(&self, held: BTreeMap<IpAddr, Instant>) -> anyhow::Result<Landmarks> {
        let tables = self.dataplane.observe()?;
        let link = Link {
            name: "lo".to_owned(),
            index: IF_INDEX,
            mac: Some(NODE_MAC),
            up: true,
            running: true,
            mtu: 1500,
            parent: IF_INDEX,
            parent_name: "lo".to_owned(),
            xdp_programs: vec![],
            tags: vec![],
            addresses: vec![],
        };
        Ok(Landmarks::new(&tables, &BackendIds::adopt(&tables, CLOCK), &[link], held))
    }

    /// How many active flows a backend has, as the data plane counts.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn active(&self, id: BackendId) -> anyhow::Result<i64> {
        let loads: Array<MapData, Load> =
            Array::try_from(Map::Array(MapData::from_pin(self.maps.join("LOADS"))?))?;
        Ok(loads.get(&id.into(), 0)?.active)
    }

    /// Removes one direction of an established flow of IPv4, and tells nobody.
    ///
    /// # Errors
    /// Where it is not there.
    pub fn lose(&self, key: &FlowKey<Be32>) -> anyhow::Result<()> {
        let map = Map::HashMap(MapData::from_pin(self.maps.join("ESTABLISHED4"))?);
        let mut flows: HashMap<MapData, FlowKey<Be32>, FlowEntry<Be32>> = HashMap::try_from(map)?;
        Ok(flows.remove(key)?)
    }

    /// What the kernel says that a map takes, in bytes (`memlock` in its `fdinfo`). Exact since Linux 6.4: what has
    /// been allocated for the entries that are there, and for the buckets.
    ///
    /// # Errors
    /// Where there is no such map.
    pub fn memory_of(&self, map: &str) -> anyhow::Result<u64> {
        let map = MapData::from_pin(self.maps.join(map)).with_context(|| format!("opening {map}"))?;
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd()))?;
        let value = text.lines().find_map(|line| line.strip_prefix("memlock:")).context("no memlock")?;
        Ok(value.trim().parse()?)
    }
}

fn backend_entry(id: BackendId, v6: bool) -> BackendEntry {
    let address = backend(id, v6);
    let hop = Hop {
        mac: MacWord::new(backend_mac(id)),
        source: MacWord::new(NODE_MAC),
        if_index: IF_INDEX,
        ..Hop::NONE
    };
    BackendEntry {
        address: address.ip().into(),
        hop,
        weight: 1,
        port: Be16::new(address.port()),
        ..BackendEntry::default()
    }
}

/// The name of the entry program.
pub const ENTRY: &str = "xvip";

/// The programs that use this map, among all that are loaded.
fn programs_with(map: &Path) -> anyhow::Result<Vec<ProgramInfo>> {
    let id = MapData::from_pin(map)?.info()?.id();
    let uses = |program: &ProgramInfo| program.map_ids().ok().flatten().is_some_and(|ids| ids.contains(&id));
    Ok(loaded_programs().flatten().filter(uses).collect())
}

/// The entry program among them.
fn program_with(map: &Path) -> anyhow::Result<ProgramFd> {
    let ours = programs_with(map)?.into_iter().find(|program| program.name_as_str() == Some(ENTRY));
    Ok(ours.context("the program is not loaded")?.fd()?)
}

/// Runs frames.
pub struct Runner<'a> {
    program: &'a ProgramFd,
    node: [u8; 6],
    frame: [u8; ROOM],
    out: [u8; ROOM],
}

/// Where a packet is from and to, and what its TCP header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Source.
    pub src: SocketAddr,
    /// Destination, of the same family.
    pub dst: SocketAddr,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags.
    pub flags: u8,
}

/// A flow in the table, as its backend sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// The source of its packets there: the VIP and the NAT port.
    pub nat: SocketAddr,
    /// The backend.
    pub backend: SocketAddr,
    /// The Ethernet address that they are sent to.
    pub mac: [u8; 6],
}

/// The programs that a running daemon has loaded, on its own maps.
///
/// # Errors
/// Where there are none of that kernel-wide id.
pub fn programs_of(id: u32) -> io::Result<ProgramFd> {
    let mut programs = loaded_programs().flatten();
    let program = programs.find(|program| program.id() == id).ok_or(io::ErrorKind::NotFound)?;
    program.fd().map_err(io::Error::other)
}

impl<'a> Runner<'a> {
    /// On these programs, with frames for this Ethernet address.
    #[must_use]
    pub fn on(program: &'a ProgramFd, node: [u8; 6]) -> Self {
        Self { program, node, frame: [0; ROOM], out: [0; ROOM] }
    }
}

impl Runner<'_> {
    /// Runs the programs on a packet. Returns the XDP action, and the packet afterwards where it is sent on ([`XDP_TX`],
    /// whatever the interface).
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn run(&mut self, packet: &Packet) -> io::Result<(u32, Packet)> {
        let length = write(&mut self.frame, packet);
        self.frame[..6].copy_from_slice(&self.node);
        let (action, _) = test_run::run_once(self.program.as_fd(), &self.frame[..length], &mut self.out)?;
        // To another interface than loopback, which test runs come in by.
        let action = if action == XDP_REDIRECT { XDP_TX } else { action };
        Ok((action, if action == XDP_TX { read(&self.out) } else { *packet }))
    }

    /// Runs them on any frame. Returns the XDP action, and the frame afterwards.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn run_frame(&mut self, frame: &[u8]) -> io::Result<(u32, &[u8])> {
        let (action, length) = test_run::run_once(self.program.as_fd(), frame, &mut self.out)?;
        Ok((action, &self.out[..length]))
    }

    /// Sends a SYN from `client` to `service`. Where it goes, or the action that was taken instead.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn syn(&mut self, client: SocketAddr, service: SocketAddr) -> io::Result<Result<Opened, u32>> {
        let packet = Packet { src: client, dst: service, seq: initial(client), ack: 0, flags: SYN };
        let (action, sent) = self.run(&packet)?;
        let is_forwarded = action == XDP_TX && sent.flags == SYN;
        Ok(if is_forwarded { Ok(self.opened(&sent)) } else { Err(action) })
    }

    /// What the frame that was just sent on says of its flow.
    fn opened(&self, sent: &Packet) -> Opened {
        let mac = [0, 1, 2, 3, 4, 5].map(|n| self.out[n]);
        Opened { nat: sent.src, backend: sent.dst, mac }
    }

    /// A whole handshake in nat. What became of it, or the action at the step that failed.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn open(&mut self, client: SocketAddr, service: SocketAddr) -> io::Result<Result<Opened, u32>> {
        let opened = match self.syn(client, service)? {
            Ok(opened) => opened,
            Err(action) => return Ok(Err(action)),
        };
        let seq = initial(client);
        let answer = initial(opened.nat);
        let packet = Packet {
            src: opened.backend,
            dst: opened.nat,
            seq: answer,
            ack: seq.wrapping_add(1),
            flags: SYN | ACK,
        };
        let (action, sent) = self.run(&packet)?;
        if action != XDP_TX || (sent.src, sent.dst) != (service, client) {
            return Ok(Err(action));
        }
        Ok(self.ack(client, service, answer.wrapping_add(1))?.map(|_| opened))
    }

    /// Sends an ACK from the client. Where it goes, or the action that was taken instead.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn ack(
        &mut self,
        client: SocketAddr,
        service: SocketAddr,
        ack: u32,
    ) -> io::Result<Result<Opened, u32>> {
        let seq = initial(client).wrapping_add(1);
        let (action, sent) = self.run(&Packet { src: client, dst: service, seq, ack, flags: ACK })?;
        let is_forwarded = action == XDP_TX && sent.flags == ACK;
        Ok(if is_forwarded { Ok(self.opened(&sent)) } else { Err(action) })
    }
}

/// Some sequence number that belongs to an address.
fn initial(of: SocketAddr) -> u32 {
    let last = match of.ip() {
        IpAddr::V4(ip) => ip.to_bits(),
        IpAddr::V6(ip) => ip.to_bits() as u32,
    };
    last.wrapping_mul(0x9e37_79b1).wrapping_add(u32::from(of.port()))
}

/// The `n`th client of many: four of them at an address, each with another port than the next 64,511.
#[must_use]
pub fn client(first: IpAddr, n: u32) -> SocketAddr {
    // 40,507 and 64,512 have no common divisor.
    let port = 1024 + n.wrapping_mul(40_507) % 64_512;
    let ip = match first {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() + n / 4).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() + u128::from(n / 4)).into(),
    };
    SocketAddr::new(ip, port as u16)
}

/// A packet's frame, both checksums right, filled up with zeros to so many bytes.
///
/// # Panics
/// Where that is less than it takes, or more than [`crate::rig`] writes anew.
#[must_use]
pub fn frame(packet: &Packet, length: usize) -> Vec<u8> {
    let mut room = [0; ROOM];
    let end = write(&mut room, packet);
    room[end..length].fill(0);
    room[..length].to_vec()
}

/// Writes a frame, both checksums right. Returns its length.
fn write(frame: &mut [u8; ROOM], packet: &Packet) -> usize {
    frame[..6].copy_from_slice(&NODE_MAC);
    frame[6..12].copy_from_slice(&CLIENT_MAC);
    let tcp = match (packet.src.ip(), packet.dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            frame[12..14].copy_from_slice(&[0x08, 0x00]);
            let ip = &mut frame[ETHERNET..ETHERNET + 20];
            ip[..12].copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0x40, 0, TTL, 6, 0, 0]);
            ip[12..16].copy_from_slice(&src.octets());
            ip[16..20].copy_from_slice(&dst.octets());
            let sum = checksum(words(ip));
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            ETHERNET + 20
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            let ip = &mut frame[ETHERNET..ETHERNET + 40];
            ip[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 20, 6, TTL]);
            ip[8..24].copy_from_slice(&src.octets());
            ip[24..40].copy_from_slice(&dst.octets());
            ETHERNET + 40
        }
        _ => panic!("a packet has one family: {packet:?}"),
    };
    let addresses = if packet.src.is_ipv4() { tcp - 8..tcp } else { tcp - 32..tcp };
    let pseudo = words(&frame[addresses]) + 6 + TCP as u32;
    let header = &mut frame[tcp..tcp + TCP];
    header[..2].copy_from_slice(&packet.src.port().to_be_bytes());
    header[2..4].copy_from_slice(&packet.dst.port().to_be_bytes());
    header[4..8].copy_from_slice(&packet.seq.to_be_bytes());
    header[8..12].copy_from_slice(&packet.ack.to_be_bytes());
    header[12..14].copy_from_slice(&[0x50, packet.flags]);
    header[14..16].copy_from_slice(&WINDOW.to_be_bytes());
    header[16..20].fill(0);
    let sum = checksum(words(header) + pseudo);
    header[16..18].copy_from_slice(&sum.to_be_bytes());
    tcp + TCP
}

/// Reads one of the frames that [`write()`] makes, sent on.
fn read(frame: &[u8; ROOM]) -> Packet {
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let number = |at: usize| u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
    let wide = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap_or_default());
    let (src, dst, tcp) = if frame[12..14] == [0x08, 0x00] {
        let address = |at: usize| IpAddr::from(number(at).to_be_bytes());
        (address(ETHERNET + 12), address(ETHERNET + 16), ETHERNET + 20)
    } else {
        (wide(ETHERNET + 8), wide(ETHERNET + 24), ETHERNET + 40)
    };
    Packet {
        src: SocketAddr::new(src, port(tcp)),
        dst: SocketAddr::new(dst, port(tcp + 2)),
        seq: number(tcp + 4),
        ack: number(tcp + 8),
        flags: frame[tcp + 13],
    }
}

fn words(bytes: &[u8]) -> u32 {
    let mut sum = 0;
    let mut at = 0;
    // Without optimisation this is several times as fast as an iterator.
    while at + 1 < bytes.len() {
        sum += u32::from(bytes[at]) << 8 | u32::from(bytes[at + 1]);
        at += 2;
    }
    sum
}

/// RFC 1071.
fn checksum(sum: u32) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    !((sum >> 16) + (sum & 0xffff)) as u16
}
