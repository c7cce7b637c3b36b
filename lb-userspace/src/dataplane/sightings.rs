//! What the data plane has seen of other nodes: whose VRRP advertisements arrived when, and who else says that a VIP is
//! its own. Nothing of it is authenticated: anybody on the link can have written it.

use std::{net::IpAddr, path::Path};

use aya::maps::{HashMap, Map, MapData};
use lb_common::{
    layout::{AdvertEntry, AdvertKey, ClaimEntry},
    wire::{Be128, Mac},
};

use super::{DataplaneError, WideKey, in_map, maps_path};

/// A handle of its own on what was seen, for any thread.
#[derive(Debug)]
pub struct Sightings {
    adverts: HashMap<MapData, AdvertKey, AdvertEntry>,
    claims: HashMap<MapData, WideKey, ClaimEntry>,
}

/// The last advertisement of a sender with a priority above 0: hop limit 255, version 2 or 3, lengths and checksum right.
/// Of one longer than 256 bytes the checksum was not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdvertSeen {
    /// `CLOCK_MONOTONIC` in nanoseconds when it arrived.
    pub at_ns: u64,
    /// The Ethernet address that it came from: the sender's own, or the virtual router's.
    pub mac: Mac,
    /// 1 to 255.
    pub priority: u8,
    /// 2 or 3.
    pub version: u8,
}

/// Somebody else's word that a VIP is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimSeen {
    /// `CLOCK_MONOTONIC` in nanoseconds at the last time.
    pub at_ns: u64,
    /// The Ethernet address that it was said to have then.
    pub mac: Mac,
    /// How often it was said since the address became a VIP; never less from one look to the next.
    pub count: u64,
}

impl Sightings {
    /// Opens what a predecessor with our layout has pinned at `pin_path`.
    ///
    /// # Errors
    ///
    /// Where there is nothing of the kind.
    pub fn pinned(pin_path: &Path) -> Result<Self, DataplaneError> {
        Self::open(&maps_path(pin_path))
    }

    /// Opens the pinned maps in the directory `maps`.
    pub(super) fn open(maps: &Path) -> Result<Self, DataplaneError> {
        let open = |name| MapData::from_pin(maps.join(name)).map_err(in_map(name));
        Ok(Self {
            adverts: HashMap::try_from(Map::LruHashMap(open("ADVERTS")?)).map_err(in_map("ADVERTS"))?,
            claims: HashMap::try_from(Map::HashMap(open("CLAIMS")?)).map_err(in_map("CLAIMS"))?,
        })
    }

    /// The last advertisement for a virtual router from that address, if there was one. One system call.
    pub fn advert(&self, vrid: u8, source: IpAddr) -> Option<AdvertSeen> {
        self.adverts.get(&AdvertKey::new(source.into(), vrid), 0).ok().map(AdvertSeen::from)
    }

    /// The last advertisements of everybody, with their senders and virtual routers. Senders may come and go meanwhile.
    pub fn adverts(&self) -> Vec<(IpAddr, u8, AdvertSeen)> {
        let seen = self.adverts.iter().flatten();
        seen.map(|(key, entry)| (key.source.into(), key.vrid(), entry.into())).collect()
    }

    /// Who else has said last that this VIP is its own. While another node holds it, that is as it should be. One system
    /// call.
    pub fn claim(&self, vip: IpAddr) -> Option<ClaimSeen> {
        self.claims.get(&Be128::from(vip).octets(), 0).ok().map(ClaimSeen::from)
    }
}

impl From<AdvertEntry> for AdvertSeen {
    fn from(entry: AdvertEntry) -> Self {
        Self {
            at_ns: entry.at_ns,
            mac: entry.mac.octets(),
            priority: entry.priority as u8,
            version: entry.version as u8,
        }
    }
}

impl From<ClaimEntry> for ClaimSeen {
    fn from(entry: ClaimEntry) -> Self {
        Self { at_ns: entry.at_ns, mac: entry.mac.octets(), count: entry.count }
    }
}
