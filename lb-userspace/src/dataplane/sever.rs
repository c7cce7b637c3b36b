//! The flow tables, for whoever ends flows: finding a backend's, and marking them as severed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    sync::Arc,
};

use aya::{
    Pod,
    maps::{Array, Map, MapData},
};
use lb_common::{
    family::Address,
    layout::{
        BackendEntry, BackendId, FlowEntry, FlowKey, Load, NodeEntry, PulseEntry, SEEN_SEVERED, TO_BACKEND,
    },
    wire::{Be16, Be32, Be128},
};

use super::{
    DataplaneError,
    cache::Settler,
    flow_tables::{Table, open_levels, pinned},
    hash_walk::HashWalk,
    in_map,
    stamps::Established,
};
use crate::{
    connections::snapshot::Snapshot,
    flows::has_reply,
    resets::{FlowId, segments::Flow},
};

/// `BPF_EXIST` of the kernel's `include/uapi/linux/bpf.h`: what the data plane has removed meanwhile stays so.
const ONLY_IF_THERE: u64 = 2;

/// The key of a flow's client direction, of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnyKey {
    /// IPv4.
    V4(FlowKey<Be32>),
    /// IPv6.
    V6(FlowKey<Be128>),
}

/// A flow of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnyFlow {
    /// IPv4.
    V4(Flow<Be32>),
    /// IPv6.
    V6(Flow<Be128>),
}

/// A flow that a walk has found: its client's direction, as it was when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name in the tables.
    pub key: AnyKey,
    /// Whose it is.
    pub backend: BackendId,
    /// Seconds of the flow clock without a packet of the client.
    pub silence: u32,
}

/// The flow tables, for a thread of its own.
pub struct SeverTables {
    settler: Arc<Settler>,
    walks: Walks,
    /// What one flow is looked up and changed with.
    pub flows: SeverFlows,
}

/// The established flows and what they depend on.
pub struct SeverFlows {
    established4: Established<Be32>,
    established6: Established<Be128>,
    half_open4: Table<Be32>,
    half_open6: Table<Be128>,
    loads: Array<MapData, Load>,
    backends: Array<MapData, BackendEntry>,
    node: Array<MapData, NodeEntry>,
    pulse: Array<MapData, PulseEntry>,
}

struct Walks {
    established4: HashWalk<FlowKey<Be32>, FlowEntry<Be32>>,
    established6: HashWalk<FlowKey<Be128>, FlowEntry<Be128>>,
    half_open4: HashWalk<FlowKey<Be32>, FlowEntry<Be32>>,
    half_open6: HashWalk<FlowKey<Be128>, FlowEntry<Be128>>,
}

impl SeverTables {
    /// Opens the pinned tables in the directory `maps`.
    pub(super) fn open(maps: &Path, settler: Arc<Settler>) -> Result<Self, DataplaneError> {
        let open = |name| pinned(maps, name);
        let (half_open4, established4) = open_levels(maps, "HALF_OPEN4", "ESTABLISHED4")?;
        let (half_open6, established6) = open_levels(maps, "HALF_OPEN6", "ESTABLISHED6")?;
        let array = |name| Ok::<_, DataplaneError>(Map::Array(open(name)?));
        Ok(Self {
            settler,
            walks: Walks {
                established4: HashWalk::new(open("ESTABLISHED4")?, "ESTABLISHED4"),
                established6: HashWalk::new(open("ESTABLISHED6")?, "ESTABLISHED6"),
                half_open4: HashWalk::new(open("HALF_OPEN4")?, "HALF_OPEN4"),
                half_open6: HashWalk::new(open("HALF_OPEN6")?, "HALF_OPEN6"),
            },
            flows: SeverFlows {
                established4,
                established6,
                half_open4,
                half_open6,
                loads: Array::try_from(array("LOADS")?).map_err(in_map("LOADS"))?,
                backends: Array::try_from(array("BACKENDS")?).map_err(in_map("BACKENDS"))?,
                node: Array::try_from(array("NODE")?).map_err(in_map("NODE"))?,
                pulse: Array::try_from(array("PULSE")?).map_err(in_map("PULSE"))?,
            },
        })
    }

    /// Shows every established flow of these backends that nobody has severed yet, while the walk goes on. Whether it has
    /// ended [`SeverFlows::flow`] can tell. `each` may end flows. First come those of the backends' own family, which nearly
    /// all are: even an empty table takes a while, by the size that it may grow to.
    ///
    /// # Errors
    /// Where a table cannot be read.
    pub fn walk(
        &mut self,
        backends: &BTreeSet<BackendId>,
        each: &mut dyn FnMut(&mut SeverFlows, Found),
    ) -> Result<(), DataplaneError> {
        // The RSTs are made of the last sequence numbers.
        self.settler.settle();
        let Self { walks, flows, .. } = self;
        let clock = flows.clock()?;
        let wanted = |backend, direction, flags| {
            direction == TO_BACKEND && flags & SEEN_SEVERED == 0 && backends.contains(&backend)
        };
        for is_ipv6 in flows.families_of(backends)? {
            if is_ipv6 {
                walks.established6.run(|key, entry| {
                    if wanted(entry.backend, entry.direction, entry.seen.flags) {
                        let (key, silence) = (AnyKey::V6(*key), entry.seen.silence(clock));
                        each(flows, Found { key, backend: entry.backend, silence });
                    }
                })?;
            } else {
                walks.established4.run(|key, entry| {
                    if wanted(entry.backend, entry.direction, entry.seen.flags) {
                        let (key, silence) = (AnyKey::V4(*key), entry.seen.silence(clock));
                        each(flows, Found { key, backend: entry.backend, silence });
                    }
                })?;
            }
        }
        Ok(())
    }

    /// Forgets the handshakes with these backends: a SYN that is sent again goes where it would go now.
    ///
    /// # Errors
    /// Where a table cannot be read.
    pub fn forget_handshakes(&mut self, backends: &BTreeSet<BackendId>) -> Result<(), DataplaneError> {
        let Self { walks, flows, .. } = self;
        walks.half_open4.run(|key, entry| {
            if backends.contains(&entry.backend) {
                let _ = flows.half_open4.remove(key);
            }
        })?;
        walks.half_open6.run(|key, entry| {
            if backends.contains(&entry.backend) {
                let _ = flows.half_open6.remove(key);
            }
        })
    }
}

impl SeverFlows {
    /// A flow as it is now.
    pub fn flow(&self, key: &AnyKey) -> Option<AnyFlow> {
        match key {
            AnyKey::V4(key) => look_up(&self.established4, key).map(AnyFlow::V4),
            AnyKey::V6(key) => look_up(&self.established6, key).map(AnyFlow::V6),
        }
    }

    /// Marks an open flow of this backend in every direction: from now on XDP answers its packets with a RST. Returns the
    /// flow as it was before, `None` where there is none (any more).
    ///
    /// # Errors
    /// Where the flow clock cannot be read.
    pub fn sever(&mut self, key: &AnyKey, backend: BackendId) -> Result<Option<AnyFlow>, DataplaneError> {
        let clock = self.clock()?;
        Ok(match key {
            AnyKey::V4(key) => mark(&mut self.established4, key, backend, clock).map(AnyFlow::V4),
            AnyKey::V6(key) => mark(&mut self.established6, key, backend, clock).map(AnyFlow::V6),
        })
    }

    /// Whether IPv6 is to be looked at, and whether IPv4 is: both, and first the one that most of these backends are of.
    fn families_of(&self, backends: &BTreeSet<BackendId>) -> Result<[bool; 2], DataplaneError> {
        let mut ipv6 = 0;
        for &id in backends {
            ipv6 += usize::from(!self.backend(id)?.0.address.is_mapped());
        }
        let ipv6_first = 2 * ipv6 > backends.len();
        Ok([ipv6_first, !ipv6_first])
    }

    fn clock(&self) -> Result<u32, DataplaneError> {
        Ok(self.pulse.get(&0, 0).map_err(in_map("PULSE"))?.flow_clock)
    }

    /// Takes flows that no longer are from their backends' loads.
    ///
    /// # Errors
    /// Where the map cannot be read or written.
    pub fn unload(&mut self, flows: &BTreeMap<BackendId, i64>) -> Result<(), DataplaneError> {
        for (&id, &count) in flows.iter().filter(|(_, count)| **count != 0) {
            let load = self.loads.get(&id.into(), 0).map_err(in_map("LOADS"))?;
            let load = Load { active: load.active - count, ..load };
            self.loads.set(id.into(), load, 0).map_err(in_map("LOADS"))?;
        }
        Ok(())
    }

    /// What the frames that are sent depend on.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub fn backend(&self, id: BackendId) -> Result<(BackendEntry, NodeEntry), DataplaneError> {
        let backend = self.backends.get(&id.into(), 0).map_err(in_map("BACKENDS"))?;
        Ok((backend, self.node.get(&0, 0).map_err(in_map("NODE"))?))
    }
}

impl AnyKey {
    /// The key of a flow's client direction; `None` where its addresses are not of one family.
    pub fn of(id: &FlowId) -> Option<Self> {
        let ports = (Be16::new(id.client.port()), Be16::new(id.service.port()));
        match (id.client, id.service) {
            (SocketAddr::V4(client), SocketAddr::V4(service)) => {
                let (src, dst) = (Be32::from(*client.ip()), Be32::from(*service.ip()));
                Some(Self::V4(FlowKey::new(src, ports.0, dst, ports.1)))
            }
            (SocketAddr::V6(_), SocketAddr::V6(_)) => {
                let (src, dst) = (Be128::from(id.client.ip()), Be128::from(id.service.ip()));
                Some(Self::V6(FlowKey::new(src, ports.0, dst, ports.1)))
            }
            _ => None,
        }
    }
}

impl AnyFlow {
    /// Whether it is marked in every direction.
    pub fn is_severed(&self) -> bool {
        match self {
            Self::V4(flow) => flow.is_severed(),
            Self::V6(flow) => flow.is_severed(),
        }
    }

    /// Whether somebody may still believe in it.
    pub fn is_open(&self) -> bool {
        match self {
            Self::V4(flow) => flow.is_open(),
            Self::V6(flow) => flow.is_open(),
        }
    }

    /// Whether it is one of those that its backend's load counts.
    pub fn counts(&self) -> bool {
        match self {
            Self::V4(flow) => flow.counts(),
            Self::V6(flow) => flow.counts(),
        }
    }

    /// What the connection log has of it.
    pub fn snapshot(&self) -> Snapshot {
        match self {
            Self::V4(flow) => Snapshot::new(&flow.key, &flow.forward, flow.reply.as_ref()),
            Self::V6(flow) => Snapshot::new(&flow.key, &flow.forward, flow.reply.as_ref()),
        }
    }

    /// Its backend.
    pub fn backend(&self) -> BackendId {
        match self {
            Self::V4(flow) => flow.forward.backend,
            Self::V6(flow) => flow.forward.backend,
        }
    }
}

fn look_up<A: Address>(table: &Table<A>, key: &FlowKey<A>) -> Option<Flow<A>>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    let forward = table.get(key, 0).ok()?;
    if forward.direction != TO_BACKEND {
        return None;
    }
    let reply = if has_reply(&forward) { table.get(&forward.rewritten.reversed(), 0).ok() } else { None };
    Some(Flow { key: *key, forward, reply })
}

/// What the data plane counts between our reading and our writing is lost: a packet or two of a flow that ends. It is
/// remembered from now on as one that has just ended, however long it had been idle.
fn mark<A: Address>(
    table: &mut Established<A>,
    key: &FlowKey<A>,
    backend: BackendId,
    clock: u32,
) -> Option<Flow<A>>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    let flow = look_up(table, key).filter(|flow| flow.forward.backend == backend && flow.is_open())?;
    let severed = |mut entry: FlowEntry<A>| {
        entry.seen.flags |= SEEN_SEVERED;
        entry.seen.at = clock;
        entry
    };
    table.insert(key, severed(flow.forward), ONLY_IF_THERE).ok()?;
    if let Some(reply) = flow.reply {
        let _ = table.insert(flow.forward.rewritten.reversed(), severed(reply), ONLY_IF_THERE);
    }
    Some(flow)
}
