//! Clients on the node itself. Their packets never come in by an interface, so XDP does not see them: hooks on the
//! cgroup send each `connect` to a VIP straight to a backend, and let `getpeername` tell the VIP.
//!
//! Which backend is a matter of chance, weighted as the Maglev table is: the source port, which the hash of a flow needs,
//! is not known yet. Neither the allow list nor the limits of a service apply to its own node.

use crate::{
    hash,
    layout::{
        BALANCE_ROUND_ROBIN, BackendEntry, BackendId, LOCAL_ALL, LOCAL_HOLDS_VIP, LOCAL_HOST, LocalEntry,
        LocalPeer, MAX_MEMBERS, Members, NodeEntry, PulseEntry, ServiceEntry, ServiceKey, VipEntry,
    },
    wire::{Be16, Be128},
};

/// How much longer than the lease the heartbeat may be missing before what the maps say is too old for a node without the
/// VIP. Enough for a service manager to start the daemon again.
pub const STALE_AFTER_NS: u64 = 10_000_000_000;
/// How many slots of the ring are looked at for a backend of the socket's family, before the list of all is.
const PREFERENCES: u32 = 8;

/// A TCP socket that connects, or that is asked for its peer.
pub trait Socket {
    /// Address, in its wide form, and port of the other end; `None` where it does not speak TCP.
    fn target(&self) -> Option<(Be128, Be16)>;
    /// Replaces both; the address is of the same family, IPv4 in its wide form.
    fn set_target(&mut self, address: Be128, port: Be16);
    /// The kernel's number of the socket, unique since boot.
    fn cookie(&self) -> u64;
    /// The kernel's number of its network namespace.
    fn namespace(&self) -> u64;
    /// A random number.
    fn random(&self) -> u32;
}

/// What the hooks ask of the maps; where [`crate::tables::Tables`] has a method of that name, it is the same.
#[expect(missing_docs, reason = "documented there")]
pub trait LocalTables {
    fn node(&self) -> Option<&NodeEntry>;
    fn pulse(&self) -> Option<PulseEntry>;
    fn monotonic_ns(&self) -> u64;
    fn vip(&self, address: Be128) -> Option<VipEntry>;
    fn service(&self, key: &ServiceKey) -> Option<ServiceEntry>;
    fn ring(&self, service: u32, slot: usize) -> Option<BackendId>;
    fn members(&self, service: u32) -> Option<&Members>;
    fn next_turn(&self, service: u32) -> u32;
    fn backend(&self, id: BackendId) -> Option<BackendEntry>;
    /// Whose sockets are redirected.
    fn local(&self) -> Option<LocalEntry>;
    /// The VIP that a socket connected to.
    fn peer(&self, socket: u64) -> Option<LocalPeer>;
    /// Remembers it; the least recently used are forgotten.
    fn remember_peer(&self, socket: u64, peer: &LocalPeer);
    /// Counts a connect to a service.
    fn count(&self, service: u32, outcome: Outcome);
}

/// What became of a connect to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// See `LocalCounters::redirected`.
    Redirected,
    /// See `LocalCounters::no_backend`.
    NoBackend,
    /// See `LocalCounters::stale`.
    Stale,
    /// See `LocalCounters::other_namespace`.
    OtherNamespace,
}

/// Sends a connect to a service to one of its backends. `None` where it is for no service: it goes on as it is, as it does
/// with every outcome but [`Outcome::Redirected`].
#[inline(always)]
pub fn connect<S: Socket, T: LocalTables>(socket: &mut S, tables: &T) -> Option<Outcome> {
    let (vip, port) = socket.target()?;
    let node = tables.node()?;
    // Nearly all connects end here.
    if !may_be_vip(node, vip) {
        return None;
    }
    let service = tables.service(&ServiceKey::new(vip, port))?;
    let outcome = redirect(socket, tables, node, &service, vip, port);
    tables.count(service.index, outcome);
    Some(outcome)
}

#[inline(always)]
fn redirect<S: Socket, T: LocalTables>(
    socket: &mut S,
    tables: &T,
    node: &NodeEntry,
    service: &ServiceEntry,
    vip: Be128,
    port: Be16,
) -> Outcome {
    let Some(local) = tables.local() else { return Outcome::OtherNamespace };
    let is_in_scope = match local.scope {
        LOCAL_ALL => true,
        LOCAL_HOST => socket.namespace() == local.namespace,
        _ => false,
    };
    if !is_in_scope {
        return Outcome::OtherNamespace;
    }
    if is_stale(tables, node, &local, vip) {
        return Outcome::Stale;
    }
    if service.usable == 0 {
        return Outcome::NoBackend;
    }
    let chosen = choose(tables, service, vip.is_mapped(), socket.random());
    let Some(backend) = chosen.and_then(|id| tables.backend(id)) else { return Outcome::NoBackend };
    let peer =
        LocalPeer { vip, backend: backend.address, vip_port: port, backend_port: backend.port, _pad: [0; 4] };
    tables.remember_peer(socket.cookie(), &peer);
    socket.set_target(backend.address, backend.port);
    Outcome::Redirected
}

/// Tells the VIP to who asks for the peer of a redirected socket.
#[inline(always)]
pub fn peer_name<S: Socket, T: LocalTables>(socket: &mut S, tables: &T) {
    let Some((address, port)) = socket.target() else { return };
    let Some(peer) = tables.peer(socket.cookie()) else { return };
    // A socket may connect again, and elsewhere, after a failure.
    if address == peer.backend && port == peer.backend_port {
        socket.set_target(peer.vip, peer.vip_port);
    }
}

/// `NodeEntry::may_be_vip` for either family.
#[inline(always)]
fn may_be_vip(node: &NodeEntry, address: Be128) -> bool {
    if address.is_mapped() { node.may_be_vip(address.low()) } else { node.may_be_vip(address) }
}

/// Whether nobody has kept the maps for so long that the VIP itself is the better choice: another node has taken it over,
/// and knows which backends live. Not so where the VIP still is an address of this host, which the connect would meet.
#[inline(always)]
fn is_stale<T: LocalTables>(tables: &T, node: &NodeEntry, local: &LocalEntry, vip: Be128) -> bool {
    if local.flags & LOCAL_HOLDS_VIP != 0 {
        return false;
    }
    let Some(pulse) = tables.pulse() else { return false };
    let age = tables.monotonic_ns().saturating_sub(pulse.heartbeat_ns);
    age > node.lease_ns.saturating_add(STALE_AFTER_NS) && tables.vip(vip).is_some_and(|vip| vip.fenced != 0)
}

/// A backend of a family, since the socket has one.
#[inline(always)]
fn choose<T: LocalTables>(tables: &T, service: &ServiceEntry, is_v4: bool, random: u32) -> Option<BackendId> {
    let takes_turns = service.balance == BALANCE_ROUND_ROBIN && service.turns != 0;
    let turn = if takes_turns { tables.next_turn(service.index) } else { 0 };
    for preference in 0..PREFERENCES {
        let slot = if takes_turns {
            (turn.wrapping_add(preference) % service.turns) as usize
        } else {
            hash::slot(hash::attempt(random, preference))
        };
        let id = tables.ring(service.index, slot)?;
        if fits(&tables.backend(id)?, is_v4) {
            return Some(id);
        }
    }
    // Few of them are of that family.
    let members = tables.members(service.index)?;
    let count = members.count;
    if count == 0 {
        return None;
    }
    let first = random % count;
    for step in 0..MAX_MEMBERS as u32 {
        if step >= count {
            break;
        }
        // Not by comparing: the verifier would follow all further steps once for each outcome.
        let place = first.wrapping_add(step) % count;
        let Some(&id) = members.ids.get(place as usize) else { break };
        let Some(backend) = tables.backend(id) else { continue };
        if fits(&backend, is_v4) {
            return Some(id);
        }
    }
    None
}

#[inline(always)]
fn fits(backend: &BackendEntry, is_v4: bool) -> bool {
    backend.address.is_mapped() == is_v4 && backend.address.halves() != [0, 0]
}

#[cfg(test)]
mod tests;
