//! Flows in memory, for tests.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::record::{
    Applied, Authority, ClientHop, Direction, FlowId, FlowRecord, FlowStore, Place, StoreError,
};

/// The VIP of every flow here.
pub const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(172, 16, 0, 10));

/// Into how many slices [`FlowStore::retire`] is cut here.
pub const SLICES: u32 = 4;

/// A flow of a client that is told by a number.
pub fn flow(number: u32) -> FlowRecord {
    let [_, a, b, c] = number.to_be_bytes();
    let direction =
        Direction { packets: 7, bytes: 4242, next_seq: number, ack: !number, flags: 1, silence: 3 };
    FlowRecord {
        id: FlowId { client: SocketAddr::from(([10, a, b, c], 40_000)), service: SocketAddr::new(VIP, 6443) },
        backend: SocketAddr::from(([172, 16, 0, 4], 6443)),
        mode: 0,
        nat: Some(SocketAddr::new(VIP, 40_000)),
        hop: ClientHop { mac: [2, 0, 0, a, b, c], ..ClientHop::default() },
        age: 60,
        attempt: 1,
        to_backend: direction,
        to_client: Some(direction),
    }
}

/// Shared flows: every clone is the same table.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<HashMap<FlowId, FlowRecord>>>);

impl Memory {
    /// Those with these numbers.
    pub fn with(numbers: impl IntoIterator<Item = u32>) -> Self {
        let memory = Self::default();
        memory.lock().extend(numbers.into_iter().map(flow).map(|record| (record.id, record)));
        memory
    }

    /// The table itself.
    pub fn lock(&self) -> MutexGuard<'_, HashMap<FlowId, FlowRecord>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts one in its place.
    pub fn put(&self, record: FlowRecord) {
        self.lock().insert(record.id, record);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }
}

impl FlowStore for Memory {
    fn read(&self, id: &FlowId) -> Option<FlowRecord> {
        self.lock().get(id).copied()
    }

    fn walk(&self, each: &mut dyn FnMut(FlowRecord)) -> Result<(), StoreError> {
        let all: Vec<FlowRecord> = self.lock().values().copied().collect();
        all.into_iter().for_each(each);
        Ok(())
    }

    fn apply(&mut self, record: &FlowRecord, authority: Authority) -> Applied {
        let mut flows = self.lock();
        let Some(known) = flows.get(&record.id) else {
            flows.insert(record.id, *record);
            return Applied::Inserted;
        };
        let replaces = match authority {
            Authority::Sender => true,
            Authority::Receiver => false,
            Authority::Nobody => record.silence() < known.silence(),
        };
        if !replaces {
            return Applied::Kept;
        }
        flows.insert(record.id, *record);
        Applied::Updated
    }

    /// In [`SLICES`] slices, by the client's last octet.
    fn retire(
        &mut self,
        vips: &BTreeSet<IpAddr>,
        mentioned: &HashSet<FlowId>,
        at: Place,
    ) -> (usize, Option<Place>) {
        let slice = at.position.unwrap_or_default();
        let is_in_it = |id: &FlowId| match id.client.ip() {
            IpAddr::V4(client) => u32::from(client) % SLICES == slice,
            IpAddr::V6(_) => slice == 0,
        };
        let mut flows = self.lock();
        let before = flows.len();
        flows.retain(|id, _| !is_in_it(id) || !vips.contains(&id.vip()) || mentioned.contains(id));
        let next = Place { table: 0, position: Some(slice + 1) };
        (before - flows.len(), (slice + 1 < SLICES).then_some(next))
    }
}
