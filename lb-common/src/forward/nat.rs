//! Full NAT: claiming a port towards a backend by remembering the reply direction.

use super::{
    Family,
    flow::{self, addresses, forget_established, port_sum},
};
use crate::{
    checksum::{Delta, Sum},
    hash,
    layout::{
        BackendEntry, BackendId, FlowEntry, FlowKey, Hop, MODE_NAT, SEEN_REBUILT, SERVICE_SNAT_NODE, Scratch,
        ServiceEntry, TO_CLIENT,
    },
    tables::{FlowTables, Inserted, Level, PortSpace, Slot, Tables},
    wire::Be16,
};

/// How many NAT ports a new flow tries before it takes over a closed flow's, or gives up.
pub const NAT_PORT_TRIES: u32 = 16;
/// NAT ports are not taken from the well-known ones (RFC 6335 §6).
const FIRST_NAT_PORT: u16 = 1024;

/// Finds a free NAT port towards a backend and takes it by inserting the reply direction: the client's own port if it
/// is free, else one of a few that the hash of the flow names. Where none is free, the port of a closed flow goes,
/// the one that has been closed for longest. Returns what the client's packets become.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "a flow is that much")]
pub fn claim<A: Family, T: Tables + FlowTables<A>>(
    tables: &T,
    scratch: Slot<Scratch>,
    key: &FlowKey<A>,
    service: &ServiceEntry,
    id: BackendId,
    backend: &BackendEntry,
    client: &Hop,
    hash: u32,
    clock: u32,
) -> Option<FlowKey<A>> {
    let space = port_space(service);
    let (mut reply_key, reply, without_nat_port) =
        draft_reply(tables, key, service, id, backend, client, clock)?;

    // In a map: the verifier would follow each further try once for each way to them.
    let closed_port = scratch.field(|scratch| &mut scratch.closed_port);
    let closed_for = scratch.field(|scratch| &mut scratch.closed_for);
    scratch.update(|scratch| (scratch.closed_port, scratch.closed_for) = (0, 0));
    for attempt in 0..NAT_PORT_TRIES {
        let port = candidate(key, hash, attempt);
        if tables.port_reserved(space, port) {
            continue;
        }
        set_nat_port(&mut reply_key, reply, without_nat_port, port);
        if reply.with(|reply| tables.insert_flow(Level::HalfOpen, &reply_key, reply)) != Inserted::Yes {
            continue;
        }
        let Some(taken) = tables.flow(Level::Established, &reply_key) else {
            return Some(reply_key.reversed());
        };
        tables.remove_flow(Level::HalfOpen, &reply_key);
        let taken = taken.read();
        let silent_for = taken.seen.silence(clock);
        if silent_for >= closed_for.reread() && flow::is_closed(tables, &taken) {
            closed_port.update(|closed| *closed = u32::from(port.get()));
            closed_for.update(|closed| *closed = silent_for);
        }
    }

    set_nat_port(&mut reply_key, reply, without_nat_port, Be16::new(closed_port.reread() as u16));
    let taken = tables.flow(Level::Established, &reply_key)?;
    let node = tables.node()?;
    forget_established(tables, node, &reply_key, taken, clock);
    let inserted = reply.with(|reply| tables.insert_flow(Level::HalfOpen, &reply_key, reply));
    (inserted == Inserted::Yes).then(|| reply_key.reversed())
}

/// What became of a flow's wish to have the client's own port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnPort {
    /// It has it.
    Claimed,
    /// It has had it all the time.
    Established,
    /// It cannot have it.
    Taken,
}

/// Takes the client's own port towards a backend for a flow that is rebuilt, by inserting the reply direction; no other
/// would do, and nobody loses one for a guess, not even a closed flow.
#[inline(always)]
pub fn claim_own<A: Family, T: Tables + FlowTables<A>>(
    tables: &T,
    key: &FlowKey<A>,
    service: &ServiceEntry,
    id: BackendId,
    backend: &BackendEntry,
    client: &Hop,
    clock: u32,
) -> OwnPort {
    let port = key.src_port;
    if port.get() < FIRST_NAT_PORT || tables.port_reserved(port_space(service), port) {
        return OwnPort::Taken;
    }
    let Some((mut reply_key, reply, without_nat_port)) =
        draft_reply(tables, key, service, id, backend, client, clock)
    else {
        return OwnPort::Taken;
    };
    set_nat_port(&mut reply_key, reply, without_nat_port, port);
    reply.update(|reply| reply.seen.flags = SEEN_REBUILT);
    let inserted = reply.with(|reply| tables.insert_flow(Level::HalfOpen, &reply_key, reply));
    if let Some(taken) = tables.flow(Level::Established, &reply_key) {
        if inserted == Inserted::Yes {
            tables.remove_flow(Level::HalfOpen, &reply_key);
        }
        return if is_of(taken, key) { OwnPort::Established } else { OwnPort::Taken };
    }
    // Another packet of this flow may have been faster, or its other direction is all that was evicted.
    let is_ours = inserted == Inserted::Yes
        || tables.flow(Level::HalfOpen, &reply_key).is_some_and(|taken| is_of(taken, key));
    if is_ours { OwnPort::Claimed } else { OwnPort::Taken }
}

/// Whether a reply direction is that of the flow whose client's packets have this key.
#[inline(always)]
fn is_of<A: Family>(reply: Slot<FlowEntry<A>>, key: &FlowKey<A>) -> bool {
    reply.with(|reply| reply.rewritten == key.reversed())
}

#[inline(always)]
const fn port_space(service: &ServiceEntry) -> PortSpace {
    if service.flags & SERVICE_SNAT_NODE != 0 { PortSpace::Node } else { PortSpace::Vip }
}

/// Writes the reply direction, but for its port, into the draft. Returns its key, and what the rewrite adds to the sum of
/// the TCP segment with port 0.
#[inline(always)]
fn draft_reply<A: Family, T: Tables + FlowTables<A>>(
    tables: &T,
    key: &FlowKey<A>,
    service: &ServiceEntry,
    id: BackendId,
    backend: &BackendEntry,
    client: &Hop,
    clock: u32,
) -> Option<(FlowKey<A>, Slot<FlowEntry<A>>, Sum)> {
    let (address, source) = (A::narrow(backend.address), A::narrow(service.snat));
    let reply_key = FlowKey::new(address, backend.port, source, Be16::new(0));
    let rewritten = key.reversed();
    let without_nat_port = addresses(&reply_key, &rewritten).plus(port_sum(&reply_key, &rewritten));
    let reply = FlowTables::<A>::draft(tables)?;
    reply.update(|reply| {
        *reply = flow::entry(&reply_key, &rewritten, (TO_CLIENT, MODE_NAT), id, client, clock);
    });
    Some((reply_key, reply, without_nat_port))
}

#[inline(always)]
fn set_nat_port<A: Family>(
    reply_key: &mut FlowKey<A>,
    reply: Slot<FlowEntry<A>>,
    without_nat_port: Sum,
    port: Be16,
) {
    reply_key.dst_port = port;
    // The sum was taken with port 0, whose complement is all ones: nothing, in one's complement.
    reply.update(|reply| reply.tcp_delta = Delta::new(without_nat_port.minus_be16(port)));
}

#[inline(always)]
fn candidate<A: Family>(key: &FlowKey<A>, hash: u32, attempt: u32) -> Be16 {
    if attempt == 0 && key.src_port.get() >= FIRST_NAT_PORT {
        return key.src_port;
    }
    // The golden ratio visits the range evenly (Knuth, TAOCP 3, §6.4); the top half of the product chooses within it.
    let mixed = hash::again(hash).wrapping_add(attempt.wrapping_mul(0x9e37_79b1));
    let span = u32::from(u16::MAX - FIRST_NAT_PORT) + 1;
    Be16::new(FIRST_NAT_PORT + (((mixed >> 16) * span) >> 16) as u16)
}
