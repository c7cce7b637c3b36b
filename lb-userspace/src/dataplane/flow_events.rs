//! What the programs tell of flows that begin, end and move: which, not what. What there is to know is in the tables.

use std::{io, net::SocketAddr, path::Path};

use aya::maps::{Map, MapData, PerCpuArray, RingBuf};
use lb_common::{layout::FlowEvent, wire::Be128};
use tokio::io::unix::AsyncFd;

use super::{DataplaneError, flow_tables::pinned, in_map, ring};
use crate::sync::record::FlowId;

/// The one reader of the ring buffer `FLOW_EVENTS`.
pub struct FlowEvents {
    ring: AsyncFd<RingBuf<MapData>>,
    lost: PerCpuArray<MapData, u64>,
    /// What had been lost before.
    before: u64,
}

impl FlowEvents {
    /// Opens the pinned ring buffer in the directory `maps`. What nobody was there to read is gone. Needs a Tokio runtime with
    /// I/O, the one that it is read in.
    pub(super) fn open(maps: &Path) -> Result<Self, DataplaneError> {
        let mut events =
            RingBuf::try_from(Map::RingBuf(pinned(maps, "FLOW_EVENTS")?)).map_err(in_map("FLOW_EVENTS"))?;
        let lost = PerCpuArray::try_from(Map::PerCpuArray(pinned(maps, "LOST_FLOW_EVENTS")?))
            .map_err(in_map("LOST_FLOW_EVENTS"))?;
        while events.next().is_some() {}
        let ring = ring::watched(events).map_err(DataplaneError::Log)?;
        let before = count(&lost)?;
        Ok(Self { ring, lost, before })
    }

    /// Waits until something is told, and appends what there is, at most `limit`, each flow as often as it was told. May be
    /// cancelled: nothing is lost then.
    ///
    /// # Errors
    ///
    /// Where the ring buffer cannot be waited for.
    pub async fn next(&mut self, batch: &mut Vec<FlowId>, limit: usize) -> io::Result<()> {
        let begin = batch.len();
        loop {
            let mut guard = self.ring.readable_mut().await?;
            while batch.len() - begin < limit {
                let Some(bytes) = guard.get_inner_mut().next() else {
                    guard.clear_ready();
                    break;
                };
                batch.extend(parse(&bytes));
            }
            if batch.len() > begin {
                return Ok(());
            }
        }
    }

    /// How many found no room since this was opened.
    ///
    /// # Errors
    ///
    /// Where the map cannot be read.
    pub fn lost(&self) -> Result<u64, DataplaneError> {
        Ok(count(&self.lost)?.wrapping_sub(self.before))
    }
}

fn count(lost: &PerCpuArray<MapData, u64>) -> Result<u64, DataplaneError> {
    Ok(lost.get(&0, 0).map_err(in_map("LOST_FLOW_EVENTS"))?.iter().sum())
}

/// The flow that an event is of. `None` for what is no event.
fn parse(bytes: &[u8]) -> Option<FlowId> {
    const ADDRESS: usize = size_of::<Be128>();
    if bytes.len() != size_of::<FlowEvent>() {
        return None;
    }
    let (client, rest) = bytes.split_first_chunk::<ADDRESS>()?;
    let (vip, rest) = rest.split_first_chunk::<ADDRESS>()?;
    let &[a, b, c, d, ..] = rest else { return None };
    let at = |address: &[u8; ADDRESS], port: [u8; 2]| {
        SocketAddr::new(Be128::from_octets(*address).into(), u16::from_be_bytes(port))
    };
    Some(FlowId { client: at(client, [a, b]), service: at(vip, [c, d]) })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use lb_common::{layout::FLOW_ENDING, wire::Be16};

    use super::*;

    #[test]
    fn an_event_names_its_flow() {
        let flow = |client: &str, service: &str| FlowId {
            client: client.parse().expect("an address"),
            service: service.parse().expect("an address"),
        };
        for id in [flow("10.0.0.7:40000", "172.16.0.10:6443"), flow("[fd00::7]:40000", "[fd10::10]:6443")] {
            let wide = |address: IpAddr| Be128::from(address);
            let event = FlowEvent {
                client: wide(id.client.ip()),
                vip: wide(id.service.ip()),
                client_port: Be16::new(id.client.port()),
                port: Be16::new(id.service.port()),
                kind: FLOW_ENDING,
            };
            let mut bytes = Vec::new();
            bytes.extend(event.client.octets());
            bytes.extend(event.vip.octets());
            bytes.extend(id.client.port().to_be_bytes());
            bytes.extend(id.service.port().to_be_bytes());
            bytes.extend(event.kind.to_ne_bytes());
            assert_eq!(bytes.len(), size_of::<FlowEvent>());
            assert_eq!(parse(&bytes), Some(id));
            assert_eq!(parse(&bytes[1..]), None);
        }
    }
}
