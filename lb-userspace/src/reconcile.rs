//! Desired and observed -> ordered changes. Pure.
//!
//! The order is a contract, so that no packet ever meets half of a change, and no address outlives its ownership:
//!
//! 1. what we no longer own goes first: the data plane stops answering for it, announcements stop, addresses leave the
//!    interface;
//! 2. what is new is built from the bottom up: backends, tables and lists of members, who may connect, services, VIPs,
//!    the node's filter, answers of the data plane, addresses, announcements;
//! 3. what is no longer used is taken down from the top: VIPs, services, who might connect, backends.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use lb_common::{
    layout::{
        ALLOWED_SERVICE_BITS, BackendEntry, BackendId, MacWord, MaglevSlots, Members, NodeEntry,
        ServiceEntry, ServiceKey, VipEntry,
    },
    wire::Mac,
};

use crate::{
    dataplane::{AllowedPrefix, Tables},
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
    pub announced: BTreeMap<IpAddr, u64>,
}

/// One step from observed to desired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Write a VIP that the data plane has answered for under another Ethernet address than it is to have now, if any.
    StopAnswering(IpAddr, VipEntry),
    /// Stop repeating the announcement of a VIP.
    StopAnnouncing(IpAddr),
    /// Take an address off the interface.
    RemoveAddress(InterfaceAddress),
    /// Write a backend.
    SetBackend(BackendId, BackendEntry),
    /// Replace a service's table.
    SetRing(u32, Arc<MaglevSlots>),
    /// Replace the list of a service's backends that can be chosen.
    SetMembers(u32, Box<Members>),
    /// Let a network connect to a service.
    Allow(AllowedPrefix),
    /// Write a service.
    SetService(ServiceKey, ServiceEntry),
    /// Write a VIP.
    SetVip(IpAddr, VipEntry),
    /// Write the node's entry.
    SetNode(Box<NodeEntry>),
    /// Put an address on the interface.
    AddAddress(InterfaceAddress),
    /// Tell the network where a VIP is, with the number of the announcement; at the virtual router's Ethernet address, if
    /// there is one, or the interface's own.
    Announce(IpAddr, u64, Option<Mac>),
    /// Remove a VIP.
    RemoveVip(IpAddr),
    /// Remove a service.
    RemoveService(ServiceKey),
    /// Do not let a network connect to a service any more, or not because of this.
    Disallow(AllowedPrefix),
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
            Self::StopAnswering(..) | Self::StopAnnouncing(_) | Self::RemoveAddress(_) => Stage::Disown,
            Self::SetBackend(..)
            | Self::SetRing(..)
            | Self::SetMembers(..)
            | Self::Allow(_)
            | Self::SetService(..)
            | Self::SetVip(..)
            | Self::SetNode(_)
            | Self::AddAddress(_)
            | Self::Announce(..) => Stage::Build,
            Self::RemoveVip(_) | Self::RemoveService(_) | Self::Disallow(_) | Self::RemoveBackend(_) => {
                Stage::Remove
            }
        }
    }
}

/// The changes that lead from `observed` to `desired`, in the order in which they must be applied.
///
/// Tables and lists of members that no service uses are left alone: nothing reads them.
pub fn diff(desired: &Desired, observed: &Observed) -> Vec<Change> {
    let (want, have) = (&desired.tables, &observed.tables);
    let mut changes = Vec::new();

    let answered = |vip: &IpAddr| have.vips.get(vip).map(|entry| entry.virtual_mac);
    let silenced = have.vips.iter().filter_map(|(vip, had)| {
        let now = want.vips.get(vip).copied().unwrap_or(VipEntry::new(had.fenced != 0));
        (had.virtual_mac != MacWord::ZERO && now.virtual_mac != had.virtual_mac).then_some((*vip, now))
    });
    changes.extend(silenced.map(|(vip, entry)| {
        Change::StopAnswering(vip, VipEntry { virtual_mac: MacWord::ZERO, if_index: 0, ..entry })
    }));
    let stopped = observed.announced.keys().filter(|vip| !desired.announce.contains_key(*vip));
    changes.extend(stopped.map(|&vip| Change::StopAnnouncing(vip)));
    changes.extend(observed.addresses.difference(&desired.addresses).map(|&a| Change::RemoveAddress(a)));

    changes
        .extend(changed(&want.backends, &have.backends).map(|(&id, &entry)| Change::SetBackend(id, entry)));
    changes.extend(
        changed(&want.rings, &have.rings).map(|(&ring, slots)| Change::SetRing(ring, Arc::clone(slots))),
    );
    changes.extend(
        changed(&want.members, &have.members)
            .map(|(&service, &members)| Change::SetMembers(service, Box::new(members))),
    );
    // Before the service asks for them.
    changes.extend(want.allowed.difference(&have.allowed).map(|&prefix| Change::Allow(prefix)));
    changes
        .extend(changed(&want.services, &have.services).map(|(&key, &entry)| Change::SetService(key, entry)));
    let (answering, silent): (Vec<_>, Vec<_>) =
        changed(&want.vips, &have.vips).partition(|(_, entry)| entry.virtual_mac != MacWord::ZERO);
    // What was silenced is written already.
    let silent = silent.into_iter().filter(|(vip, _)| answered(vip).unwrap_or_default() == MacWord::ZERO);
    changes.extend(silent.map(|(&vip, &entry)| Change::SetVip(vip, entry)));
    if desired.node != observed.node {
        changes.push(Change::SetNode(Box::new(desired.node)));
    }
    // What is told an Ethernet address uses it at once: the node must take its frames by then.
    changes.extend(answering.into_iter().map(|(&vip, &entry)| Change::SetVip(vip, entry)));
    let added: BTreeSet<InterfaceAddress> =
        desired.addresses.difference(&observed.addresses).copied().collect();
    changes.extend(added.iter().map(|&address| Change::AddAddress(address)));
    // An address that had gone missing is announced again too: its traffic may have gone elsewhere meanwhile.
    let due = desired.announce.iter().filter(|&(vip, generation)| {
        observed.announced.get(vip) != Some(generation)
            || added.iter().any(|(address, _)| address == vip)
            || answered(vip) != want.vips.get(vip).map(|entry| entry.virtual_mac)
    });
    changes.extend(due.map(|(&vip, &generation)| {
        let mac = want.vips.get(&vip).map(|entry| entry.virtual_mac).filter(|&mac| mac != MacWord::ZERO);
        Change::Announce(vip, generation, mac.map(MacWord::octets))
    }));

    changes.extend(unwanted(&want.vips, &have.vips).map(|&vip| Change::RemoveVip(vip)));
    changes.extend(unwanted(&want.services, &have.services).map(|&key| Change::RemoveService(key)));
    // After the service has been told to ask for others, or for none.
    changes.extend(have.allowed.difference(&want.allowed).map(|&prefix| Change::Disallow(prefix)));
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
            Self::StopAnswering(vip, _) => write!(f, "stop answering for {vip}"),
            Self::StopAnnouncing(vip) => write!(f, "stop announcing {vip}"),
            Self::RemoveAddress((address, prefix)) => write!(f, "remove address {address}/{prefix}"),
            Self::SetBackend(id, entry) => {
                let address = SocketAddr::new(entry.address.into(), entry.port.get());
                write!(f, "backend {id}: {address}, weight {}, ", entry.weight)?;
                match (entry.local, entry.hop.is_resolved()) {
                    (0, false) => write!(f, "next hop unresolved"),
                    (0, true) => write!(f, "next hop {}", MacText(entry.hop.mac.octets())),
                    _ => write!(f, "on this node"),
                }
            }
            Self::SetRing(service, _) => write!(f, "table {service}"),
            Self::SetMembers(service, members) => write!(f, "members {service}: {}", members.count),
            Self::Allow(prefix) => write!(f, "allow {}", PrefixText(*prefix)),
            Self::SetService(key, entry) => {
                write!(f, "service {}: table {}, {} usable", KeyText(*key), entry.index, entry.usable)
            }
            Self::SetVip(vip, entry) => {
                write!(f, "VIP {vip}{}", if entry.fenced == 1 { ", fenced" } else { "" })?;
                if entry.virtual_mac != MacWord::ZERO {
                    write!(f, ", answered with {}", MacText(entry.virtual_mac.octets()))?;
                }
                Ok(())
            }
            Self::SetNode(node) => {
                write!(f, "node:")?;
                let mut macs = node.macs.iter().filter(|mac| **mac != MacWord::ZERO);
                macs.try_for_each(|mac| write!(f, " {}", MacText(mac.octets())))
            }
            Self::AddAddress((address, prefix)) => write!(f, "add address {address}/{prefix}"),
            Self::Announce(vip, _, None) => write!(f, "announce {vip}"),
            Self::Announce(vip, _, Some(mac)) => write!(f, "announce {vip} at {}", MacText(*mac)),
            Self::RemoveVip(vip) => write!(f, "remove VIP {vip}"),
            Self::RemoveService(key) => write!(f, "remove service {}", KeyText(*key)),
            Self::Disallow(prefix) => write!(f, "do not allow {}", PrefixText(*prefix)),
            Self::RemoveBackend(id) => write!(f, "remove backend {id}"),
        }
    }
}

struct KeyText(ServiceKey);

impl fmt::Display for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", SocketAddr::new(self.0.vip.into(), self.0.port()))
    }
}

struct PrefixText(AllowedPrefix);

impl fmt::Display for PrefixText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, len) = self.0;
        let len = len.saturating_sub(ALLOWED_SERVICE_BITS);
        let (network, len): (IpAddr, u32) = match len.checked_sub(96) {
            Some(len) if key.source.is_mapped() => (key.source.into(), len),
            // The mapped form is of IPv4 only where its first 96 bits count.
            _ => (IpAddr::V6(key.source.octets().into()), len),
        };
        write!(f, "{network}/{len} at service {}", key.service.get())
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
