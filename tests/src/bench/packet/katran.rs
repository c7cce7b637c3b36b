//! The peer: Katran's balancer, as somebody has built it. The object file is the user's; nothing of it is here but the names
//! of its maps and the form of their keys and values (`balancer_maps.h` and `balancer_structs.h` there), without which
//! one cannot talk to it.
//!
//! It runs as its own library sets it up: an LRU table of flows for the CPU that packets come by, a hash ring, counters.
//! Flows are written into that table from here: learning them by packets would wait for its limit of new flows per second.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use anyhow::Context as _;
use aya::maps::of_maps::ArrayOfMaps;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use lb_common::layout::BackendId;
use lb_userspace::maglev::{self, Member};

use super::plane::Size;
use crate::bpf;
use crate::mass::NODE_MAC;

/// `struct flow_key`: source, destination, ports, protocol, all as on the wire; filled up to a multiple of four.
type FlowKey = [u8; 40];
/// `struct real_pos_lru`: the number of the backend, and a time for UDP.
type FlowValue = [u8; 16];
/// `struct vip_definition`: address, port, protocol, and a byte to fill it up.
type VipKey = [u8; 20];
/// `struct vip_meta`: flags, number.
type VipValue = [u8; 8];
/// `struct real_definition`: address, flags; filled up.
type Real = [u8; 20];
/// `struct lb_stats`: packets and bytes, or whatever two counts belong together.
type Stats = [u64; 2];

const TCP: u8 = 6;
/// `F_IPV6`.
const IS_V6: u8 = 1;
/// Slots of a ring (`RING_SIZE`), and the VIPs before ours: as it was measured before, of six.
const RING: u32 = 65_537;
const OTHER_VIPS: u32 = 3;
/// `XDP_TX_CNTR` and `XDP_PASS_CNTR`, after as many counters as there may be VIPs.
const SENT: u32 = 17;
const PASSED: u32 = 19;
/// `LRU_CNTRS`: packets for VIPs, and those of flows that the table did not have.
const LRU: u32 = 0;

/// What it has counted since it was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Packets that it sent on.
    pub sent: u64,
    /// Packets that it left to the host.
    pub passed: u64,
    /// Packets of flows that its table did not have.
    pub missed: u64,
}

/// The program in the kernel.
pub struct Katran {
    ebpf: Ebpf,
    stats: PerCpuArray<MapData, Stats>,
    flows: HashMap<MapData, FlowKey, FlowValue>,
    name: String,
}

impl Katran {
    /// Loads an object file, with a flow table of that many entries for this CPU.
    ///
    /// # Errors
    /// Where it is no such object, or the kernel refuses.
    pub fn load(object: &Path, cpu: u32, table: u32) -> anyhow::Result<Self> {
        let bytes = fs::read(object).with_context(|| format!("reading {}", object.display()))?;
        let mut ebpf = EbpfLoader::new().load(&bytes).context("reading Katran's object")?;
        let name = ebpf.programs().next().map(|(name, _)| name.to_owned()).context("it has no program")?;
        let program: &mut Xdp = ebpf.program_mut(&name).context("it has no program")?.try_into()?;
        program.load().context("loading Katran")?;
        let stats = PerCpuArray::try_from(take(&mut ebpf, "stats")?)?;
        let flows = bpf::lru_hash(size_of::<FlowKey>() as u32, size_of::<FlowValue>() as u32, table)?;
        let flows: HashMap<_, FlowKey, FlowValue> =
            HashMap::try_from(Map::LruHashMap(MapData::from_fd(flows)?))?;
        let mut tables: ArrayOfMaps<_, HashMap<MapData, FlowKey, FlowValue>> =
            ArrayOfMaps::try_from(take(&mut ebpf, "lru_mapping")?)?;
        tables.set(cpu, &flows, 0).context("its flow table")?;
        let mut settings: Array<_, [u8; 8]> = Array::try_from(take(&mut ebpf, "ctl_array")?)?;
        let [a, b, c, d, e, f] = NODE_MAC;
        // Where everything goes: its router.
        settings.set(0, [a, b, c, d, e, f ^ 1, 0, 0], 0)?;
        Ok(Self { ebpf, stats, flows, name })
    }

    /// Balances these services over backends of these addresses, counted from 1 over all services.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn serve(&mut self, services: &[(SocketAddr, Vec<IpAddr>)]) -> anyhow::Result<()> {
        let mut vips: HashMap<_, VipKey, VipValue> = HashMap::try_from(take(&mut self.ebpf, "vip_map")?)?;
        let mut ring: Array<_, u32> = Array::try_from(take(&mut self.ebpf, "ch_rings")?)?;
        let mut reals: Array<_, Real> = Array::try_from(take(&mut self.ebpf, "reals")?)?;
        let mut first = 1;
        for (number, (at, backends)) in (OTHER_VIPS..).zip(services) {
            for (id, address) in (first..).zip(backends) {
                let mut real: Real = [0; 20];
                real[..16].copy_from_slice(&wide(*address));
                real[16] = if address.is_ipv6() { IS_V6 } else { 0 };
                reals.set(id, real, 0)?;
            }
            let members = (0..).zip(backends).map(|(id, address)| Member {
                id,
                address: SocketAddr::new(*address, at.port()),
                weight: 1,
            });
            let slots = maglev::table(&members.collect::<Vec<_>>()).context("a service without backends")?;
            for (slot, id) in (number * RING..).zip(slots.iter()) {
                let id: BackendId = *id;
                ring.set(slot, first + u32::from(id), 0)?;
            }
            vips.insert(vip(*at), meta(number), 0)?;
            first += backends.len() as u32;
        }
        for number in 0..OTHER_VIPS {
            vips.insert(vip(SocketAddr::from(([10, 200, 0, number as u8 + 1], 443))), meta(number), 0)?;
        }
        Ok(())
    }

    /// Writes an established flow down: its packets go to backend number `real`.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn open(&mut self, client: SocketAddr, vip: SocketAddr, real: u32) -> anyhow::Result<()> {
        let mut key: FlowKey = [0; 40];
        key[..16].copy_from_slice(&wide(client.ip()));
        key[16..32].copy_from_slice(&wide(vip.ip()));
        key[32..34].copy_from_slice(&client.port().to_be_bytes());
        key[34..36].copy_from_slice(&vip.port().to_be_bytes());
        key[36] = TCP;
        let mut value: FlowValue = [0; 16];
        value[..4].copy_from_slice(&real.to_ne_bytes());
        Ok(self.flows.insert(key, value, 0)?)
    }

    /// The program.
    ///
    /// # Errors
    /// None, unless it was not loaded.
    pub fn program(&self) -> anyhow::Result<BorrowedFd<'_>> {
        Ok(self.xdp()?.fd()?.as_fd())
    }

    /// How large it is.
    ///
    /// # Errors
    /// Where the kernel does not say.
    pub fn size(&self) -> anyhow::Result<Size> {
        Ok(Size::of(&self.xdp()?.info()?))
    }

    fn xdp(&self) -> anyhow::Result<&Xdp> {
        Ok(self.ebpf.program(&self.name).context("it has no program")?.try_into()?)
    }

    /// What it has counted.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn counts(&self) -> anyhow::Result<Counts> {
        // Half of the counters belong to VIPs.
        let base = self.stats.len() / 2;
        let sum = |index, place: usize| -> anyhow::Result<u64> {
            Ok(self.stats.get(&(base + index), 0)?.iter().map(|counts| counts[place]).sum())
        };
        Ok(Counts { sent: sum(SENT, 0)?, passed: sum(PASSED, 0)?, missed: sum(LRU, 1)? })
    }
}

fn take(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<Map> {
    ebpf.take_map(name).with_context(|| format!("Katran has no map {name}: is this its balancer?"))
}

fn vip(at: SocketAddr) -> VipKey {
    let mut key: VipKey = [0; 20];
    key[..16].copy_from_slice(&wide(at.ip()));
    key[16..18].copy_from_slice(&at.port().to_be_bytes());
    key[18] = TCP;
    key
}

/// Without flags.
fn meta(number: u32) -> VipValue {
    let [a, b, c, d] = number.to_ne_bytes();
    [0, 0, 0, 0, a, b, c, d]
}

/// An address at the beginning of the room for either family.
fn wide(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(ip) => ip.octets(),
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
    }
}
