//! The pinned maps for whoever only looks: no daemon has to run, and nothing is changed.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use aya::maps::{Array, ArrayOfMaps, HashMap, Map, MapData, MapError, PerCpuArray};
use lb_common::{
    layout::{
        BackendCounters, BackendEntry, BackendId, LocalCounters, MAX_BACKENDS, Members, NodeEntry,
        PulseEntry, Removed, ServiceEntry, ServiceKey, VipEntry,
    },
    reason,
    wire::Be128,
};

use super::{
    AttachedMode, DataplaneError, Ring, Tables, WideKey, array_walk::ArrayWalk, flow_tables, in_map,
    local_clients, maps_path, pins::pins_named, total_of,
};
use crate::flows;

/// What the maps of an instance say, and where its program is attached. Its flows are in
/// [`PinnedFlows`](super::PinnedFlows).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedTables {
    /// The node's entry.
    pub node: NodeEntry,
    /// The last heartbeat, and the flow clock.
    pub pulse: PulseEntry,
    /// VIPs, services, and the backends that these choose from; `allowed` stays empty.
    pub tables: Tables,
    /// Packets by reason, summed over the CPUs; the index is `Verdict::counter`.
    pub counters: Vec<u64>,
    /// What the data plane has counted of each backend, in [`BackendCounters::removed`] with what sweeps have removed.
    pub backend_counters: BTreeMap<BackendId, BackendCounters>,
    /// Connects of clients on this node, by `ServiceEntry::index`.
    pub local_counters: BTreeMap<u32, LocalCounters>,
    /// Where links are pinned: index of the interface, and how the program is attached.
    pub attached: Vec<(u32, AttachedMode)>,
}

impl PinnedTables {
    /// Reads what an instance has pinned at `pin_path`.
    ///
    /// # Errors
    ///
    /// Where there are no pinned maps of this layout, or they cannot be read.
    pub fn read(pin_path: &Path) -> Result<Self, DataplaneError> {
        let maps = &maps_path(pin_path);
        let node: Array<MapData, NodeEntry> = open(maps, "NODE", Map::Array)?;
        let pulse: Array<MapData, PulseEntry> = open(maps, "PULSE", Map::Array)?;
        let vips: HashMap<MapData, WideKey, VipEntry> = open(maps, "VIPS", Map::HashMap)?;
        let services: HashMap<MapData, ServiceKey, ServiceEntry> = open(maps, "SERVICES", Map::HashMap)?;
        let backends = ArrayWalk::<BackendEntry>::of_array(maps, "BACKENDS")?;
        let rings: ArrayOfMaps<MapData, Ring> = open(maps, "RINGS", Map::ArrayOfMaps)?;
        let counters: PerCpuArray<MapData, u64> = open(maps, "COUNTERS", Map::PerCpuArray)?;
        let of_backends: PerCpuArray<MapData, BackendCounters> =
            open(maps, "BACKEND_COUNTERS", Map::PerCpuArray)?;
        let local: PerCpuArray<MapData, LocalCounters> = open(maps, "LOCAL_COUNTERS", Map::PerCpuArray)?;
        // A daemon that was killed early has not made it yet.
        let totals: Option<Array<MapData, Removed>> = open(maps, flow_tables::TOTALS, Map::Array).ok();

        let mut tables = Tables {
            vips: (vips.iter())
                .map(|entry| entry.map(|(address, vip)| (Be128::from_octets(address).into(), vip)))
                .collect::<Result<_, _>>()
                .map_err(in_map("VIPS"))?,
            services: services.iter().collect::<Result<_, _>>().map_err(in_map("SERVICES"))?,
            ..Tables::default()
        };
        let mut backend_counters = BTreeMap::new();
        for (id, entry) in (0..).zip(backends.first(MAX_BACKENDS)?) {
            let index = u32::from(id);
            if entry == BackendEntry::default() {
                continue;
            }
            tables.backends.insert(id, entry);
            let cpus = of_backends.get(&index, 0).map_err(in_map("BACKEND_COUNTERS"))?;
            let mut counted = total_of(&cpus);
            if let Some(total) = totals.as_ref().and_then(|totals| totals.get(&index, 0).ok()) {
                counted.removed = flows::plus(&counted.removed, &total);
            }
            backend_counters.insert(id, counted);
        }
        let choices: Array<MapData, Members> = open(maps, "MEMBERS", Map::Array)?;
        let mut local_counters = BTreeMap::new();
        for service in tables.services.values() {
            match rings.get(&service.index, 0) {
                Ok(inner) => {
                    let slots = inner.get(&0, 0).map_err(in_map("RINGS"))?;
                    tables.rings.insert(service.index, Arc::new(slots));
                }
                Err(MapError::KeyNotFound) => {}
                Err(source) => return Err(DataplaneError::Map { map: "RINGS", source }),
            }
            let members = choices.get(&service.index, 0).map_err(in_map("MEMBERS"))?;
            if members.count > 0 {
                tables.members.insert(service.index, members);
            }
            let cpus = local.get(&service.index, 0).map_err(in_map("LOCAL_COUNTERS"))?;
            local_counters.insert(service.index, local_clients::total_of(&cpus));
        }
        Ok(Self {
            node: node.get(&0, 0).map_err(in_map("NODE"))?,
            pulse: pulse.get(&0, 0).map_err(in_map("PULSE"))?,
            tables,
            counters: (0..reason::COUNTERS)
                .map(|index| counters.get(&index, 0).map(|cpus| cpus.iter().sum()))
                .collect::<Result<_, _>>()
                .map_err(in_map("COUNTERS"))?,
            backend_counters,
            local_counters,
            attached: attached(pin_path)?,
        })
    }
}

/// The links that are pinned, by their names.
fn attached(pin_path: &Path) -> Result<Vec<(u32, AttachedMode)>, DataplaneError> {
    let mut attached = Vec::new();
    for pin in pins_named(pin_path, "link-")? {
        let name = pin.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mode = [AttachedMode::Native, AttachedMode::Generic].into_iter().find_map(|mode| {
            let index = name.strip_prefix("link-")?.strip_suffix(mode.name())?.strip_suffix('-')?;
            Some((index.parse().ok()?, mode))
        });
        attached.extend(mode);
    }
    attached.sort_by_key(|(index, _)| *index);
    Ok(attached)
}

fn open<M: TryFrom<Map, Error = MapError>>(
    maps: &Path,
    name: &'static str,
    kind: fn(MapData) -> Map,
) -> Result<M, DataplaneError> {
    M::try_from(kind(flow_tables::pinned(maps, name)?)).map_err(in_map(name))
}
