//! The cache of flows: what a packet of a busy flow needs, without a look-up in the kernel's hash table.
//!
//! Each CPU has lines of its own, so nobody else writes them, and neither locks nor atomics are needed. A line is a copy of a
//! flow's entry with what its packets have left to be written down there. It comes about when a packet that is not one of
//! the flow's first few has found its flow in the table ([`fill`]), and goes when it is settled ([`settle`]): its counts are added to the entry then, and to the
//! counters of what was sent. The controller has every CPU settle all its lines every two seconds, and before it wants to know
//! exactly. While no controller runs, lines stay; the flow clock stands still then, too.
//!
//! Which line is whose is told by tags, 16 bits of a flow's hash: those of a set are in one word, and all words stay in the CPU's
//! second cache. So a flow that has no line costs no look into memory, and one that has, one.
//!
//! A line may not outlive what it is a copy of. Whoever changes or removes an established flow's entry, or inserts one, renews
//! the flow's stamp afterwards ([`changed`]); a line has the stamp from before its entry was read, and is good only while the two
//! agree. A stamp is a time in nanoseconds, of which a line has the last 32 bits: one change in four thousand million of a flow that has
//! a line on another CPU would not be noticed there, until that is settled within seconds. A counter would need atomic additions, which Rust does
//! not have for BPF.

use crate::{
    family::Address,
    layout::{
        CACHE_TO_CLIENT, CACHE_WAYS, CacheLine, FlowEntry, FlowKey, MODE_LOCAL, NodeEntry, STAMPS, TO_BACKEND,
    },
    reason::TransmitReason,
    tables::{FlowTables, Level, Slot, Tables},
    wire::Be32,
};

/// Sets that one run of the programs `xvip_settle4` and `xvip_settle6` settles. A CPU's cache has a multiple of that.
pub const SETTLED_AT_ONCE: u32 = 8;
/// A flow gets a line by that packet of its direction, and not before. A connection for one request has fewer: its line would be
/// fetched from memory to be filled, and once more to be settled, for nothing.
const FILLED_FROM: u64 = 5;

/// The last steps of SplitMix64: each bit depends on all.
#[inline(always)]
const fn mixed(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// A hash for the cache: no protocol, and cheaper than [`crate::hash::flow`]. The set, the tag and the stamp are parts of it.
#[inline(always)]
fn hash<A: Address>(key: &FlowKey<A>) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    const fn pair(high: Be32, low: Be32) -> u64 {
        (high.word() as u64) << 32 | low.word() as u64
    }
    let [a, b, c, d] = key.src.wide().words();
    let [e, f, g, h] = key.dst.wide().words();
    let ports = u64::from(key.src_port.word()) << 16 | u64::from(key.dst_port.word());
    let mut hash = ports.wrapping_mul(ODD) ^ pair(d, h);
    if A::IS_V6 {
        hash = hash.wrapping_mul(ODD) ^ pair(a, b);
        hash = hash.rotate_left(29).wrapping_mul(ODD) ^ pair(c, g);
        hash = hash.rotate_left(29).wrapping_mul(ODD) ^ pair(e, f);
    }
    mixed(hash)
}

/// The number of a flow's stamp.
#[inline(always)]
#[must_use]
pub fn stamp_of<A: Address>(key: &FlowKey<A>) -> u32 {
    stamp_in(hash(key))
}

/// The same of a key's hash.
#[inline(always)]
const fn stamp_in(hash: u64) -> u32 {
    (hash >> 48) as u32 & (STAMPS - 1)
}

/// An established flow with this key has been changed, removed or inserted: its lines are no longer good.
#[inline(always)]
pub fn changed<A: Address, T: Tables>(tables: &T, key: &FlowKey<A>) {
    tables.renew_stamp(stamp_of(key));
}

/// Where a flow's line would be.
#[derive(Clone, Copy)]
struct Place {
    /// The set, of this CPU.
    set: u32,
    /// What tells the flow from most others of that set; not 0.
    tag: u64,
    /// The number of the flow's stamp.
    stamp: u32,
}

impl Place {
    #[inline(always)]
    fn of<A: Address>(node: &NodeEntry, cpu: u32, key: &FlowKey<A>) -> Option<Self> {
        let (sets, hash) = (node.cache_sets, hash(key));
        (sets != 0).then_some(Self {
            set: cpu.wrapping_mul(sets) + ((hash >> 32) as u32 & sets.wrapping_sub(1)),
            tag: (hash >> 16 & 0xffff) | 1,
            stamp: stamp_in(hash),
        })
    }

    /// The way of the line with this key, good or not.
    #[inline(always)]
    fn find<A: Address, T: FlowTables<A>>(
        self,
        tables: &T,
        key: &FlowKey<A>,
    ) -> Option<(usize, Slot<CacheLine<A>>)> {
        let tags = tables.cache_tags(self.set)?.read();
        let mut way = CACHE_WAYS;
        for candidate in 0..CACHE_WAYS {
            if tag(tags, candidate) == self.tag {
                way = candidate;
            }
        }
        if way == CACHE_WAYS {
            return None;
        }
        let line = tables.cache(self.set)?.field(|set| &mut set.ways[way % CACHE_WAYS]);
        line.with(|line| line.key == *key).then_some((way, line))
    }
}

/// Bits of a tag. Those of a set are in one word, the first way's lowest.
const TAG_BITS: usize = 16;

/// The tag of a way; 0: nothing is in it.
#[inline(always)]
const fn tag(tags: u64, way: usize) -> u64 {
    tags >> (way * TAG_BITS) & 0xffff
}

/// The line of a flow, if it has one that is good.
#[inline(always)]
pub(super) fn find<A: Address, T: Tables + FlowTables<A>>(
    tables: &T,
    node: &NodeEntry,
    key: &FlowKey<A>,
) -> Option<Slot<CacheLine<A>>> {
    let place = Place::of(node, tables.cpu(), key)?;
    let (_, line) = place.find(tables, key)?;
    (line.with(|line| line.stamp) == tables.stamp(place.stamp)?).then_some(line)
}

/// Settles the line of a flow, where it has one: whoever looks at its entry finds all that this CPU knows.
#[inline(always)]
pub(super) fn settle_flow<A: Address, T: Tables + FlowTables<A>>(
    tables: &T,
    node: &NodeEntry,
    key: &FlowKey<A>,
    clock: u32,
) {
    if let Some(place) = Place::of(node, tables.cpu(), key)
        && let Some((way, line)) = place.find(tables, key)
    {
        settle_line(tables, line, clock);
        if let Some(tags) = FlowTables::<A>::cache_tags(tables, place.set) {
            tags.update(|tags| *tags &= !(0xffff << (way % CACHE_WAYS * TAG_BITS)));
        }
    }
}

/// Gives a flow a line, where it has had packets enough and there is room. `stamp`: the flow's, from before `entry` was read.
/// Those whose packets need more than the first stage does get none.
#[inline(always)]
pub(super) fn fill<A: Address, T: Tables + FlowTables<A>>(
    tables: &T,
    node: &NodeEntry,
    key: &FlowKey<A>,
    entry: Slot<FlowEntry<A>>,
    stamp: u32,
) {
    if entry.with(|entry| entry.seen.packets) < FILLED_FROM {
        return;
    }
    let Some(place) = Place::of(node, tables.cpu(), key) else { return };
    let client = entry.with(|entry| entry.client);
    let (mode, direction) = entry.with(|entry| (entry.mode, entry.direction));
    let Some(link) = node.place_of(client.if_index) else { return };
    if mode == MODE_LOCAL || client.outer.is_some() || client.source != node.macs[link] {
        return;
    }
    let Some(tags) = FlowTables::<A>::cache_tags(tables, place.set) else { return };
    let Some(set) = FlowTables::<A>::cache(tables, place.set) else { return };
    let taken = tags.read();
    let mut way = CACHE_WAYS;
    for candidate in 0..CACHE_WAYS {
        // Of two with the same tag only one would ever be found.
        if tag(taken, candidate) == place.tag {
            return;
        }
        if tag(taken, candidate) == 0 {
            way = candidate;
        }
    }
    if way == CACHE_WAYS {
        return;
    }
    tags.update(|tags| *tags |= place.tag << (way * TAG_BITS));
    set.field(|set| &mut set.ways[way % CACHE_WAYS]).update(|line| {
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

/// Settles the lines of one of the `sets` that this CPU uses. Nothing is in it afterwards.
#[inline(always)]
pub fn settle<A: Address, T: Tables + FlowTables<A>>(tables: &T, sets: u32, set: u32, clock: u32) {
    let set = tables.cpu().wrapping_mul(sets) + set;
    let Some(tags) = FlowTables::<A>::cache_tags(tables, set) else { return };
    let taken = tags.read();
    if taken == 0 {
        return;
    }
    tags.update(|tags| *tags = 0);
    let Some(set) = FlowTables::<A>::cache(tables, set) else { return };
    for way in 0..CACHE_WAYS {
        if tag(taken, way) != 0 {
            settle_line(tables, set.field(|set| &mut set.ways[way]), clock);
        }
    }
}

/// Writes down what a line has to say. Of a line whose flow is gone, or another one by now, only
/// what was sent is counted.
#[inline(always)]
fn settle_line<A: Address, T: Tables + FlowTables<A>>(tables: &T, line: Slot<CacheLine<A>>, clock: u32) {
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
}

/// Whether one sequence number comes after another (RFC 9293 §3.4).
#[inline(always)]
const fn is_after(one: u32, other: u32) -> bool {
    (one.wrapping_sub(other) as i32) > 0
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::{vec, vec::Vec};

    use super::*;
    use crate::wire::{Be16, Be128};

    /// How many of so many flows find a way in a set of four, where there are twice as many lines.
    fn placed<A: Address>(keys: impl Iterator<Item = FlowKey<A>>, count: usize) -> usize {
        let node = NodeEntry { cache_sets: (count / 2) as u32, ..NodeEntry::EMPTY };
        let mut sets = vec![Vec::<u64>::new(); count / 2];
        for key in keys {
            let place = Place::of(&node, 0, &key).expect("there is a cache");
            let tags = &mut sets[place.set as usize];
            if tags.len() < CACHE_WAYS && !tags.contains(&place.tag) {
                tags.push(place.tag);
            }
        }
        sets.iter().map(Vec::len).sum()
    }

    #[test]
    fn flows_spread_over_the_sets_whatever_tells_them_apart() {
        const COUNT: u32 = 65_536;
        // Of 65,536 at random 94.6 % find a way: five and more meet in a set by Poisson's law.
        let enough = COUNT as usize * 94 / 100;
        let v4 = |src: u32, src_port: u32, dst_port: u32| {
            let ports = (Be16::new(src_port as u16), Be16::new(dst_port as u16));
            FlowKey::new(Be32::new(src), ports.0, Be32::new(0x0ac8_0101), ports.1)
        };
        let v6 = |n: u32, at: usize| {
            let mut octets = [0xfd; 16];
            octets[at..at + 4].copy_from_slice(&n.to_be_bytes());
            let (address, own) = (Be128::from_octets(octets), Be128::from_octets([1; 16]));
            (
                FlowKey::new(address, Be16::new(40_000), own, Be16::new(6443)),
                FlowKey::new(own, Be16::new(6443), address, Be16::new(40_000)),
            )
        };
        let all = 0..COUNT;
        for (name, found) in [
            (
                "clients and ports in step",
                placed(all.clone().map(|n| v4(0x6440_0000 + n, 1024 + (n & 0x7fff), 6443)), COUNT as usize),
            ),
            ("clients", placed(all.clone().map(|n| v4(0x6440_0000 + n, 40_000, 6443)), COUNT as usize)),
            ("ports of one client", placed(all.clone().map(|n| v4(0x6440_0001, n, 6443)), COUNT as usize)),
            (
                "NAT ports of one backend",
                placed(all.clone().map(|n| v4(0x6440_0001, 6443, n)), COUNT as usize),
            ),
            ("IPv6 clients", placed(all.clone().map(|n| v6(n, 12).0), COUNT as usize)),
            ("IPv6 networks", placed(all.clone().map(|n| v6(n, 4).0), COUNT as usize)),
            ("IPv6 destinations", placed(all.clone().map(|n| v6(n, 12).1), COUNT as usize)),
            ("IPv6 destination networks", placed(all.map(|n| v6(n, 4).1), COUNT as usize)),
        ] {
            assert!(found > enough, "{name}: {found}");
        }
    }
}
