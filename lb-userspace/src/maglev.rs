//! Maglev consistent hashing (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer",
//! NSDI 2016, §3.4).
//!
//! The table is a pure function of the set of backends and their weights: the same on every node, whatever the order
//! in which it learned of them. A backend's identity is its address and port. Ids, which differ from node to node,
//! only name the backends in the finished table.
//!
//! Each backend walks through the slots in an order of its own and claims the free ones that it comes to, until it has
//! its share. Whose turn it is to claim follows from weights alone: the `n`th claim of a backend of weight `w` is due at
//! `n / w`, and of claims that are due together the lower address comes first. So which of two backends comes before
//! the other does not depend on a third, and when that one goes, few slots change hands between the two.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, binary_heap::PeekMut},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use lb_common::{
    hash::MAGLEV_SLOTS,
    layout::{BackendId, MaglevSlots},
};
use siphasher::sip::SipHasher24;

use crate::apportion::apportion;

/// M, for reckoning.
const SLOTS: u64 = MAGLEV_SLOTS as u64;

/// A backend that takes part in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// What the slots hold.
    pub id: BackendId,
    /// Its identity: address and port. Flow label and zone of an IPv6 address are not part of it; a zone's number means
    /// something on one node only.
    pub address: SocketAddr,
    /// Its share relative to the others'. With 0 it is not in the table.
    pub weight: u16,
}

impl Member {
    /// What members are ordered by, and what tells them apart.
    fn identity(&self) -> (IpAddr, u16) {
        (self.address.ip(), self.address.port())
    }
}

/// Those with a weight, by address, each once: the same whatever the order they come in.
pub(crate) fn in_order(members: &[Member]) -> Vec<Member> {
    let mut members: Vec<Member> = members.iter().filter(|member| member.weight > 0).copied().collect();
    members.sort_by_key(|member| (member.identity(), Reverse(member.weight)));
    members.dedup_by_key(|member| member.identity());
    members
}

/// A backend's walk through the slots: the `j`th step leads to `skip * (start + j)^3 + offset`, modulo the prime M of
/// slots. Cubing is a bijection there, since 3 does not divide M - 1, so every walk visits every slot.
///
/// The paper steps by a constant, `offset + skip * j`, and allows any other permutation. With constant steps one pair of
/// backends in some thousands walks in lockstep (one skip is a small multiple of the other's, or a half, or two thirds):
/// measured over random addresses, one removal in a thousand moved more than 1 % of the others' slots, and the worst of
/// them 27 %. Cubes show no such tail, no more than permutations by Fisher and Yates do, which cost far more memory.
struct Walk {
    id: BackendId,
    /// Slots that it will have claimed in the end.
    share: u32,
    /// `start + j`, modulo M.
    next: u64,
    skip: u64,
    offset: u64,
}

impl Walk {
    fn new(member: &Member, share: u32) -> Self {
        Self {
            id: member.id,
            share,
            offset: hash(0, member) % SLOTS,
            skip: hash(1, member) % (SLOTS - 1) + 1,
            next: hash(2, member) % SLOTS,
        }
    }

    fn step(&mut self) -> usize {
        let here = self.next;
        self.next = if here + 1 == SLOTS { 0 } else { here + 1 };
        let cube = modulo(modulo(here * here) * here);
        let slot = modulo(cube * self.skip) + self.offset;
        (if slot >= SLOTS { slot - SLOTS } else { slot }) as usize
    }
}

/// The remainder by M = 2^16 + 1 of a product of two remainders. Since 2^16 is -1 there, what is above the low 16 bits counts
/// negative; a division by any other constant takes three times as long.
const fn modulo(product: u64) -> u64 {
    const { assert!(SLOTS == (1 << 16) + 1) };
    let (low, high) = (product & 0xffff, product >> 16);
    if low >= high { low - high } else { low + SLOTS - high }
}

/// Backends of one weight: in each round of theirs all claims are due together.
struct Class {
    weight: u64,
    /// Those that have not got their share yet, in the order of their addresses.
    members: Vec<usize>,
    /// Rounds that are over: what each of these has claimed.
    rounds: u32,
}

impl Class {
    /// When its next claims are due, or `None` if all have their shares. Rounded down from a multiple of 2^-32, and still
    /// in the exact order: different fractions whose denominators fit 16 bits are at least 2^-32 apart.
    fn due(&self) -> Option<u64> {
        (!self.members.is_empty()).then(|| (u64::from(self.rounds + 1) << 32) / self.weight)
    }
}

/// The table for a set of backends; `None` where no backend has any weight.
///
/// Every share is within one slot of its exact proportion (but see [`apportion`] for weights that add up to more than
/// the slots), so equal weights differ by at most one slot.
pub fn table(members: &[Member]) -> Option<Arc<MaglevSlots>> {
    fill(members, &mut 0)
}

/// Makes the table, and adds to `probes` how many slots were looked at. The paper expects M ln M of them for M slots
/// and at least as many backends, and fewer for fewer.
fn fill(members: &[Member], probes: &mut u64) -> Option<Arc<MaglevSlots>> {
    let members = in_order(members);
    if members.is_empty() {
        return None;
    }
    let weights: Vec<u16> = members.iter().map(|member| member.weight).collect();
    let shares = apportion(&weights, MAGLEV_SLOTS as u32);
    let mut walks: Vec<Walk> =
        members.iter().zip(shares).map(|(member, share)| Walk::new(member, share)).collect();
    let mut table = Table { slots: vec![0; MAGLEV_SLOTS], claimed: [0; MAGLEV_SLOTS.div_ceil(64)], probes };
    let mut by_weight: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
    for (n, weight) in weights.iter().enumerate().filter(|(n, _)| walks[*n].share > 0) {
        by_weight.entry(*weight).or_default().push(n);
    }
    let class = |(weight, members): (u16, _)| Class { weight: weight.into(), members, rounds: 0 };
    let mut classes: Vec<Class> = by_weight.into_iter().map(class).collect();
    // The class whose claims are due first is on top.
    let mut turns: BinaryHeap<Reverse<(u64, usize)>> =
        classes.iter().enumerate().filter_map(|(n, class)| Some(Reverse((class.due()?, n)))).collect();
    let (mut due_now, mut claimants) = (Vec::new(), Vec::new());
    while let Some(Reverse((due, first))) = turns.pop() {
        due_now.push(first);
        while let Some(top) = turns.peek_mut().filter(|top| top.0.0 == due) {
            due_now.push(PeekMut::pop(top).0.1);
        }
        due_now.iter().for_each(|&class| claimants.extend_from_slice(&classes[class].members));
        if due_now.len() > 1 {
            // As many runs that are in order already, which this sort makes use of.
            claimants.sort();
        }
        claimants.drain(..).for_each(|n: usize| table.claim(&mut walks[n]));
        for n in due_now.drain(..) {
            let class = &mut classes[n];
            class.rounds += 1;
            class.members.retain(|&member| walks[member].share > class.rounds);
            turns.extend(class.due().map(|due| Reverse((due, n))));
        }
    }
    table.finished()
}

/// A table in the making.
struct Table<'a> {
    slots: Vec<BackendId>,
    /// A bit for each slot that is claimed: these 8 KiB are read at random, and stay in the nearest cache.
    claimed: [u64; MAGLEV_SLOTS.div_ceil(64)],
    probes: &'a mut u64,
}

impl Table<'_> {
    /// Gives a backend the next free slot on its walk.
    fn claim(&mut self, walk: &mut Walk) {
        let slot = loop {
            let slot = walk.step();
            *self.probes += 1;
            if self.claimed[slot / 64] & 1 << (slot % 64) == 0 {
                break slot;
            }
        };
        self.claimed[slot / 64] |= 1 << (slot % 64);
        self.slots[slot] = walk.id;
    }

    fn finished(self) -> Option<Arc<MaglevSlots>> {
        Arc::<[BackendId]>::from(self.slots).try_into().ok()
    }
}

/// SipHash-2-4 with a fixed key over the octets of address and port; part of the protocol between nodes, so it must
/// never change. SipHash takes in the length, so an IPv4 address never meets the IPv6 address that ends like it.
fn hash(key: u64, member: &Member) -> u64 {
    let hasher = SipHasher24::new_with_keys(0x7876_6970_6d61_676c, key);
    let port = member.address.port().to_be_bytes();
    match member.address.ip() {
        IpAddr::V4(address) => {
            let mut bytes = [0; 6];
            bytes[..4].copy_from_slice(&address.octets());
            bytes[4..].copy_from_slice(&port);
            hasher.hash(&bytes)
        }
        IpAddr::V6(address) => {
            let mut bytes = [0; 18];
            bytes[..16].copy_from_slice(&address.octets());
            bytes[16..].copy_from_slice(&port);
            hasher.hash(&bytes)
        }
    }
}

#[cfg(test)]
mod tests;
