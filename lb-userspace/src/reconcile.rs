//! Desired and observed -> ordered changes. Pure.
//!
//! The order is a contract, so that no packet ever meets half of a change, and no address outlives its ownership:
//!
//! 1. what we no longer own goes first: announcements stop, addresses leave the interface;
//! 2. what is new is built from the bottom up: backends, Maglev tables, services, VIPs, the node's filter, addresses,
//!    announcements;
//! 3. what is no longer used is taken down from the top: VIPs, services, backends.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
};

use lb_common::layout::{
    BackendEntry, BackendId, MaglevSlots, NodeEntry, ServiceEntry, ServiceKey, VipEntry,
};

use crate::{
    dataplane::Tables,
    desired::{Desired, InterfaceAddress},
};

/// What the kernel has, and what the network was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The maps.
    pub tables: Tables,
    /// The `NODE` entry.
    pub node: NodeEntry,
    /// Our addresses on the interface: those of VIPs that are, or were, ours.
    pub addresses: BTreeSet<InterfaceAddress>,
    /// VIP -> the last announcement of it.
    pub announced: BTreeMap<Ipv4Addr, u64>,
}

/// One step from observed to desired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Stop repeating the announcement of a VIP.
    StopAnnouncing(Ipv4Addr),
    /// Take an address off the interface.
    RemoveAddress(InterfaceAddress),
    /// Write a backend.
    SetBackend(BackendId, BackendEntry),
    /// Replace a Maglev table.
    SetRing(u32, Arc<MaglevSlots>),
    /// Write a service.
    SetService(ServiceKey, ServiceEntry),
    /// Write a VIP.
    SetVip(Ipv4Addr, VipEntry),
    /// Write the node's entry.
    SetNode(Box<NodeEntry>),
    /// Put an address on the interface.
    AddAddress(InterfaceAddress),
    /// Tell the network where a VIP is, with the number of the announcement.
    Announce(Ipv4Addr, u64),
    /// Remove a VIP.
    RemoveVip(Ipv4Addr),
    /// Remove a service.
    RemoveService(ServiceKey),
    /// Mark a backend's index unused.
    RemoveBackend(BackendId),
}

/// Which part of the order a change belongs to; later ones wait for earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Giving up what we no longer own. Never waits for anything: the next owner is already at work.
    Disown,
    /// Building what is new. Each step needs those before it.
    Build,
    /// Removing what is unused. Needs all of [`Stage::Build`], by which it became unused.
    Remove,
}

impl Change {
    /// Its part of the order.
    pub fn stage(&self) -> Stage {
        match self {
            Self::StopAnnouncing(_) | Self::RemoveAddress(_) => Stage::Disown,
            Self::SetBackend(..)
            | Self::SetRing(..)
            | Self::SetService(..)
            | Self::SetVip(..)
            | Self::SetNode(_)
            | Self::AddAddress(_)
            | Self::Announce(..) => Stage::Build,
            Self::RemoveVip(_) | Self::RemoveService(_) | Self::RemoveBackend(_) => Stage::Remove,
        }
    }
}

/// The changes that lead from `observed` to `desired`, in the order in which they must be applied.
///
/// Maglev tables that no service uses are left alone: nothing reads them.
pub fn diff(desired: &Desired, observed: &Observed) -> Vec<Change> {
    let (want, have) = (&desired.tables, &observed.tables);
    let mut changes = Vec::new();

    let stopped = observed.announced.keys().filter(|vip| !desired.announce.contains_key(*vip));
    changes.extend(stopped.map(|&vip| Change::StopAnnouncing(vip)));
    changes.extend(observed.addresses.difference(&desired.addresses).map(|&a| Change::RemoveAddress(a)));

    changes
        .extend(changed(&want.backends, &have.backends).map(|(&id, &entry)| Change::SetBackend(id, entry)));
    changes.extend(
        changed(&want.rings, &have.rings).map(|(&ring, slots)| Change::SetRing(ring, Arc::clone(slots))),
    );
    changes
        .extend(changed(&want.services, &have.services).map(|(&key, &entry)| Change::SetService(key, entry)));
    changes.extend(changed(&want.vips, &have.vips).map(|(&vip, &entry)| Change::SetVip(vip, entry)));
    if desired.node != observed.node {
        changes.push(Change::SetNode(Box::new(desired.node)));
    }
    let added: BTreeSet<InterfaceAddress> =
        desired.addresses.difference(&observed.addresses).copied().collect();
    changes.extend(added.iter().map(|&address| Change::AddAddress(address)));
    // An address that had gone missing is announced again too: its traffic may have gone elsewhere meanwhile.
    let due = desired.announce.iter().filter(|&(vip, generation)| {
        observed.announced.get(vip) != Some(generation) || added.iter().any(|(address, _)| *address == *vip)
    });
    changes.extend(due.map(|(&vip, &generation)| Change::Announce(vip, generation)));

    changes.extend(unwanted(&want.vips, &have.vips).map(|&vip| Change::RemoveVip(vip)));
    changes.extend(unwanted(&want.services, &have.services).map(|&key| Change::RemoveService(key)));
    changes.extend(unwanted(&want.backends, &have.backends).map(|&id| Change::RemoveBackend(id)));
    changes
}

fn changed<'a, K: Ord, V: PartialEq>(
    want: &'a BTreeMap<K, V>,
    have: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    want.iter().filter(move |(key, value)| have.get(key) != Some(value))
}

fn unwanted<'a, K: Ord, V>(
    want: &'a BTreeMap<K, V>,
    have: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    have.keys().filter(move |key| !want.contains_key(key))
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StopAnnouncing(vip) => write!(f, "stop announcing {vip}"),
            Self::RemoveAddress((address, prefix)) => write!(f, "remove address {address}/{prefix}"),
            Self::SetBackend(id, entry) => {
                let address = SocketAddrV4::new(entry.address.into(), entry.port.get());
                let next_hop = if entry.is_resolved() {
                    MacText(entry.mac.octets()).to_string()
                } else {
                    "unresolved".into()
                };
                write!(f, "backend {id}: {address}, next hop {next_hop}")
            }
            Self::SetRing(ring, _) => write!(f, "Maglev table {ring}"),
            Self::SetService(key, entry) => {
                write!(f, "service {}: table {}, {} usable", KeyText(*key), entry.ring, entry.usable)
            }
            Self::SetVip(vip, entry) => {
                write!(f, "VIP {vip}{}", if entry.fenced == 1 { ", fenced" } else { "" })
            }
            Self::SetNode(node) => write!(f, "node: {}", MacText(node.mac.octets())),
            Self::AddAddress((address, prefix)) => write!(f, "add address {address}/{prefix}"),
            Self::Announce(vip, _) => write!(f, "announce {vip}"),
            Self::RemoveVip(vip) => write!(f, "remove VIP {vip}"),
            Self::RemoveService(key) => write!(f, "remove service {}", KeyText(*key)),
            Self::RemoveBackend(id) => write!(f, "remove backend {id}"),
        }
    }
}

struct KeyText(ServiceKey);

impl fmt::Display for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", SocketAddrV4::new(self.0.vip.into(), self.0.port.get()))
    }
}

/// An Ethernet address as everybody writes it.
#[derive(Clone, Copy, Debug)]
pub struct MacText(pub [u8; 6]);

impl fmt::Display for MacText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests;
