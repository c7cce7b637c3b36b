//! The cache of flows: what a packet of a busy flow needs, without a look-up in the kernel's hash table.
//!
//! Each CPU has lines of its own, so nobody else writes them, and neither locks nor atomics are needed. A line is a copy of a
//! flow's entry with what its packets have left to be written down there. It comes about when a packet has found its flow in the
//! table ([`fill`]), and goes when it is settled ([`settle`]): its counts are added to the entry then, and to the
//! counters of what was sent. The controller has every CPU settle all its lines once a second, and before it wants to know exactly.
//! While no controller runs, lines stay; the flow clock stands still then, too.
//!
//! A line may not outlive what it is a copy of. Whoever changes or removes an established flow's entry, or inserts one, renews
//! the flow's stamp afterwards ([`changed`]); a line has the stamp from before its entry was read, and is good only while the two
//! agree. A stamp is a time in nanoseconds, of which a line has the last 32 bits: one change in four thousand million of a flow that has
//! a line on another CPU would not be noticed there, until that is settled within a second. A counter would need atomic additions, which Rust does
//! not have for BPF.

use crate::{
    family::Address,
    layout::{
        CACHE_TO_CLIENT, CACHE_WAYS, CacheLine, CacheSet, FlowEntry, FlowKey, MODE_LOCAL, NodeEntry, STAMPS, TO_BACKEND,
    },
    reason::TransmitReason,
    tables::{FlowTables, Level, Slot, Tables},
};

/// Sets of a group: one run of the programs `xvip_settle4` and `xvip_settle6` settles one, if there is anything in it. A CPU's cache
/// has a multiple of that.
pub const CACHE_GROUP: u32 = 8;

/// A hash for the cache: no protocol, and cheaper than [`crate::hash::flow`]. The set is taken from its middle, the stamp from
/// its top.
#[inline(always)]
fn hash<A: Address>(key: &FlowKey<A>) -> u64 {
    // Odd constants without a pattern (those of SplitMix64).
    const FIRST: u64 = 0x9e37_79b9_7f4a_7c15;
    const SECOND: u64 = 0xbf58_476d_1ce4_e5b9;
    let [a, b, c, d] = key.src.wide().words();
    let [e, f, g, h] = key.dst.wide().words();
    let pair = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
    let mut hash = pair(d.word(), h.word());
    if A::IS_V6 {
        hash ^= pair(a.word(), b.word()).wrapping_mul(SECOND).rotate_left(31);
        hash = hash.wrapping_mul(FIRST) ^ pair(e.word(), f.word()).wrapping_mul(SECOND);
        hash ^= pair(c.word(), g.word()).rotate_left(17);
    }
    hash = hash.wrapping_mul(FIRST);
    hash ^= hash >> 32;
    let ports = u32::from(key.src_port.word()) << 16 | u32::from(key.dst_port.word());
    (hash.wrapping_add(u64::from(ports))).wrapping_mul(SECOND)
}

/// The number of a flow's stamp.
#[inline(always)]
#[must_use]
pub fn stamp_of<A: Address>(key: &FlowKey<A>) -> u32 {
    (hash(key) >> 48) as u32 & (STAMPS - 1)
}

/// An established flow with this key has been changed, removed or inserted: its lines are no longer good.
#[inline(always)]
pub fn changed<A: Address, T: Tables>(tables: &T, key: &FlowKey<A>) {
    tables.renew_stamp(stamp_of(key));
}

/// The set of this CPU that a flow's line would be in.
#[inline(always)]
fn set_of<A: Address, T: FlowTables<A>>(
    tables: &T,
    node: &NodeEntry,
    hash: u64,
) -> Option<Slot<CacheSet<A>>> {
    let sets = node.cache_sets;
    if sets == 0 { None } else { tables.cache(sets, index_of(sets, hash)) }
}

/// The place of that set.
#[inline(always)]
const fn index_of(sets: u32, hash: u64) -> u32 {
    (hash >> 32) as u32 & sets.wrapping_sub(1)
}

/// The line with this key, good or not.
#[inline(always)]
fn line_of<A: Address>(set: Slot<CacheSet<A>>, key: &FlowKey<A>) -> Option<Slot<CacheLine<A>>> {
    for way in 0..CACHE_WAYS {
        if set.with(|set| set.ways[way].key == *key) {
            return Some(set.field(|set| &mut set.ways[way]));
        }
    }
    None
}

/// The line of a flow, if it has one that is good.
#[inline(always)]
pub(super) fn find<A: Address, T: Tables + FlowTables<A>>(
    tables: &T,
    node: &NodeEntry,
    key: &FlowKey<A>,
) -> Option<Slot<CacheLine<A>>> {
    let hash = hash(key);
    let line = line_of(set_of(tables, node, hash)?, key)?;
    let stamp = tables.stamp((hash >> 48) as u32 & (STAMPS - 1))?;
    (line.with(|line| line.stamp) == stamp).then_some(line)
}

/// Settles the line of a flow, where it has one: whoever looks at its entry finds all that this CPU knows.
#[inline(always)]
pub(super) fn settle_flow<A: Address, T: Tables + FlowTables<A>>(
    tables: &T,
    node: &NodeEntry,
    key: &FlowKey<A>,
    clock: u32,
) {
    if let Some(set) = set_of(tables, node, hash(key))
        && let Some(line) = line_of(set, key)
    {
        settle(tables, line, clock);
    }
}

/// Gives a flow a line, where there is room. `stamp`: the flow's, from before `entry` was read. Those whose packets need more than
/// the first stage does get none.
#[inline(always)]
pub(super) fn fill<A: Address, T: Tables + FlowTables<A>>(
    tables: &T,
    node: &NodeEntry,
    key: &FlowKey<A>,
    entry: Slot<FlowEntry<A>>,
    stamp: u32,
) {
    let hash = hash(key);
    let Some(set) = set_of(tables, node, hash) else { return };
    let client = entry.with(|entry| entry.client);
    let (mode, direction) = entry.with(|entry| (entry.mode, entry.direction));
    let Some(link) = place_of(node, client.if_index) else { return };
    if mode == MODE_LOCAL || client.outer.is_some() || client.source != node.macs[link] {
        return;
    }
    for way in 0..CACHE_WAYS {
        if set.with(|set| set.ways[way].is_used()) {
            continue;
        }
        let line = set.field(|set| &mut set.ways[way]);
        line.update(|line| {
            entry.with(|entry| {
                line.rewritten = entry.rewritten;
                line.ip_delta = entry.ip_delta;
                line.tcp_delta = entry.tcp_delta;
                line.backend = entry.backend;
            });
            copy(&mut line.key, key);
            line.stamp = stamp;
            line.client = client.mac;
            line.bytes = 0;
            line.packets = 0;
            line.how = if direction == TO_BACKEND { mode } else { mode | CACHE_TO_CLIENT };
            line.link = link as u8;
        });
        let group = index_of(node.cache_sets, hash) / CACHE_GROUP;
        FlowTables::<A>::note_filled(tables, node.cache_sets, group);
        return;
    }
}

/// Copies a key to or from the stack, where the verifier takes aligned words only, and LLVM would make pairs of them.
#[inline(always)]
fn copy<A: Address>(to: &mut FlowKey<A>, from: &FlowKey<A>) {
    let (to, from) = (core::ptr::from_mut(to).cast::<u32>(), core::ptr::from_ref(from).cast::<u32>());
    for word in 0..size_of::<FlowKey<A>>() / size_of::<u32>() {
        // SAFETY: a key is aligned to four bytes, of so many words, and has no padding.
        unsafe { to.add(word).write_volatile(from.add(word).read_volatile()) };
    }
}

/// The place of an interface in [`NodeEntry::if_indices`].
#[inline(always)]
fn place_of(node: &NodeEntry, if_index: u32) -> Option<usize> {
    let [first, second, third, fourth] = node.if_indices;
    match if_index {
        0 => None,
        index if index == first => Some(0),
        index if index == second => Some(1),
        index if index == third => Some(2),
        index if index == fourth => Some(3),
        _ => None,
    }
}

/// Writes down what a line has to say, and makes it nobody's. Of a line whose flow is gone, or another one by now, only
/// what was sent is counted.
#[inline(always)]
pub fn settle<A: Address, T: Tables + FlowTables<A>>(tables: &T, line: Slot<CacheLine<A>>, clock: u32) {
    let (packets, how) = line.with(|line| (line.packets, line.how));
    if packets != 0 {
        // By itself: what the kernel gets the address of stays in memory, and all that is beside it.
        let mut key = CacheLine::<A>::EMPTY.key;
        line.with(|line| copy(&mut key, &line.key));
        if let Some(entry) = tables.flow(Level::Established, &key)
            && entry.with(|entry| line.with(|line| entry.rewritten == line.rewritten))
        {
            let (bytes, next_seq, ack) = line.with(|line| (line.bytes, line.next_seq, line.ack));
            entry.update(|entry| {
                let seen = &mut entry.seen;
                seen.packets += u64::from(packets);
                seen.bytes += bytes;
                seen.at = clock;
                // Another CPU may have seen later ones.
                if is_after(next_seq, seen.next_seq) {
                    seen.next_seq = next_seq;
                }
                if is_after(ack, seen.ack) {
                    seen.ack = ack;
                }
            });
        }
        let reason =
            if how & CACHE_TO_CLIENT != 0 { TransmitReason::ToClient } else { TransmitReason::ToBackend };
        tables.count_sent(reason, packets.into());
    }
    line.update(|line| line.key.dst_port = crate::wire::Be16::new(0));
}

/// Whether one sequence number comes after another (RFC 9293 §3.4).
#[inline(always)]
const fn is_after(one: u32, other: u32) -> bool {
    (one.wrapping_sub(other) as i32) > 0
}
