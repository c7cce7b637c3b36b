//! A flow's entries: made, moved between the tables, ended and removed; and what that does to its backend's load.

use super::{Family, cache, send::unseen};
use crate::{
    checksum::{Delta, Sum},
    family::{Address, address_sum, header_delta},
    frame::Frame,
    layout::{
        BackendId, FLOW_ENDING, FLOW_ESTABLISHED, FLOW_MOVED, FlowEntry, FlowEvent, FlowKey, Hop, Load,
        MODE_NAT, NODE_TELLS_FLOWS, NodeEntry, Removed, SEEN_FIN, SEEN_REBUILT, SEEN_RST, SEEN_SEVERED, Seen,
        TO_BACKEND, TO_CLIENT,
    },
    link,
    segment::Segment,
    tables::{BackendCounter, FlowTables, Inserted, Level, Slot, Tables},
};

/// What a rewrite of the ports adds to the sum of the TCP segment.
#[inline(always)]
pub fn port_sum<A: Address>(key: &FlowKey<A>, rewritten: &FlowKey<A>) -> Sum {
    Sum::ZERO
        .minus_be16(key.src_port)
        .minus_be16(key.dst_port)
        .be16(rewritten.src_port)
        .be16(rewritten.dst_port)
}

/// What a rewrite of the addresses adds to either sum.
#[inline(always)]
pub fn addresses<A: Address>(key: &FlowKey<A>, rewritten: &FlowKey<A>) -> Sum {
    address_sum((key.src, key.dst), (rewritten.src, rewritten.dst))
}

/// A fresh entry for packets with `key` that leave with `rewritten`: one direction (`TO_BACKEND` or `TO_CLIENT`) of a flow
/// in a `MODE_`. `client` is the way back to the client, `clock` the flow clock.
#[inline(always)]
pub fn entry<A: Address>(
    key: &FlowKey<A>,
    rewritten: &FlowKey<A>,
    (direction, mode): (u8, u8),
    backend: BackendId,
    client: &Hop,
    clock: u32,
) -> FlowEntry<A> {
    let addresses = addresses(key, rewritten);
    let segment = addresses.plus(port_sum(key, rewritten));
    FlowEntry {
        rewritten: *rewritten,
        client: *client,
        ip_delta: header_delta::<A>(addresses),
        // Not even the other form of zero where nothing is rewritten.
        tcp_delta: if mode == MODE_NAT { Delta::new(segment) } else { Delta::default() },
        backend,
        direction,
        mode,
        opened: clock,
        attempt: 0,
        _pad: 0,
        seen: unseen(clock),
    }
}

/// Whether the packets of the other direction come through here, too.
#[inline(always)]
pub const fn has_reply<A>(entry: &FlowEntry<A>) -> bool {
    entry.mode == MODE_NAT
}

/// The other direction's entry.
#[inline(always)]
pub fn other<A: Family, T: FlowTables<A>>(
    tables: &T,
    level: Level,
    entry: &FlowEntry<A>,
) -> Option<Slot<FlowEntry<A>>> {
    if has_reply(entry) { tables.flow(level, &entry.rewritten.reversed()) } else { None }
}

/// The entry of a flow that is remembered, in whichever table.
#[inline(always)]
pub fn known<A: Family, T: FlowTables<A>>(tables: &T, key: &FlowKey<A>) -> Option<Slot<FlowEntry<A>>> {
    match tables.flow(Level::Established, key) {
        Some(slot) => Some(slot),
        None => tables.flow(Level::HalfOpen, key),
    }
}

/// Whether the established flow that `entry` is one direction of has ended: a RST from either side, or a FIN from both;
/// from the client where the other direction is not seen. Or the controller has ended it.
#[inline(always)]
pub fn is_closed<A: Family, T: FlowTables<A>>(tables: &T, entry: &FlowEntry<A>) -> bool {
    ended(entry, entry.seen.flags, other_flags(tables, entry))
}

#[inline(always)]
fn other_flags<A: Family, T: FlowTables<A>>(tables: &T, entry: &FlowEntry<A>) -> u32 {
    other(tables, Level::Established, entry).map_or(SEEN_RST, |slot| slot.with(|other| other.seen.flags))
}

#[inline(always)]
fn ended<A>(entry: &FlowEntry<A>, own: u32, other: u32) -> bool {
    if has_reply(entry) {
        (own | other) & (SEEN_RST | SEEN_SEVERED) != 0 || own & other & SEEN_FIN != 0
    } else {
        own & (SEEN_RST | SEEN_SEVERED | SEEN_FIN) != 0
    }
}

/// The key of a flow as its client's packets have it, from one of its directions.
#[inline(always)]
pub fn client_key<A: Family>(key: &FlowKey<A>, entry: &FlowEntry<A>) -> FlowKey<A> {
    if entry.direction == TO_BACKEND { *key } else { entry.rewritten.reversed() }
}

/// Tells whoever tells other nodes that something has changed about an established flow; `key` is its client's.
#[inline(always)]
fn tell<A: Family, T: Tables>(tables: &T, node: &NodeEntry, key: &FlowKey<A>, kind: u32) {
    if node.flags & NODE_TELLS_FLOWS != 0 {
        tables.tell_flow(&FlowEvent {
            client: key.src.wide(),
            vip: key.dst.wide(),
            client_port: key.src_port,
            port: key.dst_port,
            kind,
        });
    }
}

/// The flags of the direction with `own_key` have changed: where that ends an established flow, or brings one back, its
/// backend's load follows.
#[inline(always)]
pub fn ending_changed<A: Family, T: Tables + FlowTables<A>>(
    tables: &T,
    node: &NodeEntry,
    own_key: &FlowKey<A>,
    slot: Slot<FlowEntry<A>>,
    before: u32,
    now: u32,
) {
    let entry = slot.read();
    // Where replies are not seen, nothing is translated, and the flow's own key is what it is rewritten to.
    let key = if has_reply(&entry) { entry.rewritten.reversed() } else { entry.rewritten };
    // A half-open flow is not in that table, and does not count.
    let Some(found) = tables.flow(Level::Established, &key) else { return };
    let other = if has_reply(&entry) { found.with(|other| other.seen.flags) } else { 0 };
    if (before ^ now) & (SEEN_FIN | SEEN_RST) != 0 {
        tell(tables, node, &client_key(own_key, &entry), FLOW_ENDING);
    }
    let (was, is) = (ended(&entry, before, other), ended(&entry, now, other));
    if was == is {
        return;
    }
    if let Some(load) = tables.load(entry.backend) {
        load.update(|load| load.active += if is { -1 } else { 1 });
    }
    if is && now & SEEN_RST != 0 && entry.direction == TO_CLIENT {
        tables.count(entry.backend, BackendCounter::Broken);
    }
}

/// Moves a flow to the table of established ones. The order matters: a NAT port is in one of the two tables at every
/// moment, and whoever claims one looks in the same order.
#[inline(always)]
pub fn promote<A: Family, T: Tables + FlowTables<A>>(
    tables: &T,
    node: &NodeEntry,
    key: &FlowKey<A>,
    slot: Slot<FlowEntry<A>>,
    reply: Option<Slot<FlowEntry<A>>>,
    clock: u32,
) -> Inserted {
    let reply_key = slot.with(|entry| entry.rewritten.reversed());
    if let Some(reply) = reply {
        let inserted = reply.with(|reply| tables.insert_flow(Level::Established, &reply_key, reply));
        if inserted != Inserted::Yes {
            return inserted;
        }
    }
    let inserted = slot.with(|entry| tables.insert_flow(Level::Established, key, entry));
    if inserted != Inserted::Yes {
        if reply.is_some() && inserted == Inserted::Full {
            tables.remove_flow(Level::Established, &reply_key);
        }
        return inserted;
    }
    let entry = slot.read();
    if let Some(load) = tables.load(entry.backend) {
        if entry.seen.flags & SEEN_REBUILT == 0 {
            no_longer_pending(load, entry.opened, clock);
        }
        // The packet that a flow was rebuilt from may have been its last but one.
        let other = reply.map_or(0, |reply| reply.with(|reply| reply.seen.flags));
        if !ended(&entry, entry.seen.flags, other) {
            load.update(|load| load.active += 1);
        }
    }
    if reply.is_some() {
        tables.remove_flow(Level::HalfOpen, &reply_key);
    }
    tables.remove_flow(Level::HalfOpen, key);
    tables.count(entry.backend, BackendCounter::Established);
    tell(tables, node, key, FLOW_ESTABLISHED);
    Inserted::Yes
}

/// Brings a load up to the tick that it is now.
#[inline(always)]
pub fn tick(load: Slot<Load>, clock: u32) {
    let now = load.read();
    let passed = clock.wrapping_sub(now.tick);
    if passed == 0 {
        return;
    }
    load.update(|load| {
        (load.pending_before, load.asked_before) =
            if passed == 1 { (now.pending, now.asked) } else { (0, 0) };
        (load.pending, load.asked) = (0, 0);
        load.tick = clock;
    });
}

/// A handshake that began at `opened` is over, one way or the other.
#[inline(always)]
pub fn no_longer_pending(load: Slot<Load>, opened: u32, clock: u32) {
    tick(load, clock);
    match clock.wrapping_sub(opened) {
        0 => load.update(|load| load.pending -= 1),
        1 => load.update(|load| load.pending_before -= 1),
        _ => {}
    }
}

/// Removes both directions of a flow before its handshake has completed.
#[inline(always)]
pub fn forget_half_open<A: Family, T: Tables + FlowTables<A>>(
    tables: &T,
    key: &FlowKey<A>,
    entry: &FlowEntry<A>,
    clock: u32,
) {
    if entry.seen.flags & SEEN_REBUILT == 0
        && let Some(load) = tables.load(entry.backend)
    {
        no_longer_pending(load, entry.opened, clock);
    }
    if has_reply(entry) {
        tables.remove_flow(Level::HalfOpen, &entry.rewritten.reversed());
    }
    tables.remove_flow(Level::HalfOpen, key);
}

/// Removes both directions of an established flow, and adds what they had carried to its backend's counters. What this CPU has
/// not yet written down of them is: it would be taken for the next connection's that has the same keys.
#[inline(always)]
pub fn forget_established<A: Family, T: Tables + FlowTables<A>>(
    tables: &T,
    node: &NodeEntry,
    key: &FlowKey<A>,
    slot: Slot<FlowEntry<A>>,
    clock: u32,
) {
    cache::settle_flow(tables, node, key, clock);
    if slot.with(has_reply) {
        let reply_key = slot.with(|entry| entry.rewritten.reversed());
        cache::settle_flow(tables, node, &reply_key, clock);
    }
    let entry = slot.read();
    let other = other(tables, Level::Established, &entry).map(Slot::read);
    let other_seen = other.map_or(unseen(0), |other| other.seen);
    let other_flags = if has_reply(&entry) { other.map_or(SEEN_RST, |other| other.seen.flags) } else { 0 };
    let (inward, outward) =
        if entry.direction == TO_BACKEND { (entry.seen, other_seen) } else { (other_seen, entry.seen) };
    let is_reset = (entry.seen.flags | other_flags) & (SEEN_RST | SEEN_SEVERED) != 0;
    let is_closed = !is_reset && ended(&entry, entry.seen.flags, other_flags);
    if !is_reset
        && !is_closed
        && let Some(load) = tables.load(entry.backend)
    {
        load.update(|load| load.active -= 1);
    }
    let removed = Removed {
        closed: u64::from(is_closed),
        reset: u64::from(is_reset),
        expired: u64::from(!is_closed && !is_reset),
        packets_in: inward.packets,
        bytes_in: inward.bytes,
        packets_out: outward.packets,
        bytes_out: outward.bytes,
    };
    tables.count_removed(entry.backend, &removed);
    if has_reply(&entry) {
        tables.remove_flow(Level::Established, &entry.rewritten.reversed());
    }
    tables.remove_flow(Level::Established, key);
}

/// Where the client's packets come another way now (its router failed over), replies follow.
#[inline(always)]
pub fn client_moved<A: Family, F: Frame, T: Tables + FlowTables<A>>(
    frame: &F,
    tables: &T,
    node: &NodeEntry,
    level: Level,
    segment: &Segment<A>,
    slot: Slot<FlowEntry<A>>,
) {
    let way = link::way_back(frame, segment.l3);
    let entry = slot.read();
    if entry.client == way {
        return;
    }
    slot.update(|entry| entry.client = way);
    if let Some(reply) = other(tables, level, &entry) {
        reply.update(|reply| reply.client = way);
        cache::changed(tables, &entry.rewritten.reversed());
    }
    cache::changed(tables, &segment.key);
    if level == Level::Established {
        tell(tables, node, &segment.key, FLOW_MOVED);
    }
}

/// Whether an established flow has had no packet in either direction for longer than its time-out: one side may only
/// listen.
#[inline(always)]
pub fn is_idle<A: Family, T: FlowTables<A>>(
    tables: &T,
    node: &NodeEntry,
    entry: &FlowEntry<A>,
    clock: u32,
) -> bool {
    entry.seen.silence(clock) > node.idle_timeout
        && other(tables, Level::Established, entry)
            .is_none_or(|other| other.with(|other| other.seen.silence(clock)) > node.idle_timeout)
}

/// The same for the handshake, or the guess, that an entry with `key` is a direction of: as long as one side is heard, the
/// other one's answer must find it. The entry under the other direction's key may be another flow's by now.
#[inline(always)]
pub fn is_given_up<A: Family, T: FlowTables<A>>(
    tables: &T,
    node: &NodeEntry,
    key: &FlowKey<A>,
    entry: &FlowEntry<A>,
    clock: u32,
) -> bool {
    let is_over = |seen: &Seen| seen.silence(clock) > node.half_open_timeout;
    is_over(&entry.seen)
        && other(tables, Level::HalfOpen, entry)
            .is_none_or(|other| other.with(|other| other.rewritten != key.reversed() || is_over(&other.seen)))
}
