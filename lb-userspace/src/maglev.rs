//! Maglev consistent hashing (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer",
//! NSDI 2016, §3.4).
//!
//! The table is a pure function of the set of backends and their weights: the same on every node, whatever the order
//! in which it learned of them. A backend's identity is its address and port. Ids, which differ from node to node,
//! only name the backends in the finished table.

use std::{hash::Hasher as _, net::SocketAddrV4, sync::Arc};

use lb_common::{
    hash::MAGLEV_SLOTS,
    layout::{BackendId, MaglevSlots},
};
use siphasher::sip::SipHasher24;

/// A backend that takes part in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// What the slots hold.
    pub id: BackendId,
    /// Its identity.
    pub address: SocketAddrV4,
    /// Its share relative to the others'.
    pub weight: u16,
}

/// Where a backend's walk through the slots begins, and how far each step goes. The table size is prime, so every
/// walk visits every slot.
struct Permutation {
    id: BackendId,
    weight: u32,
    /// Weight saved up towards the next turn.
    credit: u32,
    next: u32,
    skip: u32,
}

impl Permutation {
    fn new(member: &Member) -> Self {
        let slots = MAGLEV_SLOTS as u64;
        Self {
            id: member.id,
            weight: u32::from(member.weight),
            credit: 0,
            next: (hash(0, member.address) % slots) as u32,
            skip: (hash(1, member.address) % (slots - 1) + 1) as u32,
        }
    }

    fn step(&mut self) -> usize {
        let slot = self.next;
        self.next = (self.next + self.skip) % MAGLEV_SLOTS as u32;
        slot as usize
    }
}

/// The table for a set of backends; `None` where no backend has any weight.
///
/// Backends take turns in claiming their next free slot; one with half the weight of the heaviest takes every other
/// turn. So shares at equal weights differ by at most one slot.
pub fn table(members: &[Member]) -> Option<Arc<MaglevSlots>> {
    let mut members: Vec<&Member> = members.iter().filter(|member| member.weight > 0).collect();
    members.sort_by_key(|member| member.address);
    members.dedup_by_key(|member| member.address);
    let heaviest = u32::from(members.iter().map(|member| member.weight).max()?);
    let mut walks: Vec<Permutation> = members.into_iter().map(Permutation::new).collect();

    let mut slots = vec![None; MAGLEV_SLOTS];
    let mut free = MAGLEV_SLOTS;
    while free > 0 {
        for walk in &mut walks {
            walk.credit += walk.weight;
            if walk.credit < heaviest {
                continue;
            }
            walk.credit -= heaviest;
            let slot = loop {
                let slot = walk.step();
                if slots[slot].is_none() {
                    break slot;
                }
            };
            slots[slot] = Some(walk.id);
            free -= 1;
            if free == 0 {
                break;
            }
        }
    }
    let filled: Vec<BackendId> = slots.into_iter().flatten().collect();
    let filled: Box<MaglevSlots> = filled.into_boxed_slice().try_into().ok()?;
    Some(Arc::from(filled))
}

/// SipHash-2-4 with a fixed key; part of the protocol between nodes, so it must never change.
fn hash(key: u64, address: SocketAddrV4) -> u64 {
    let mut hasher = SipHasher24::new_with_keys(0x7876_6970_6d61_676c, key);
    hasher.write(&address.ip().octets());
    hasher.write(&address.port().to_be_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn members(count: u16) -> Vec<Member> {
        (0..count)
            .map(|n| Member {
                id: n,
                address: SocketAddrV4::new(Ipv4Addr::from(0xac10_0004 + u32::from(n)), 6443),
                weight: 100,
            })
            .collect()
    }

    fn shares(slots: &MaglevSlots, backends: usize) -> Vec<usize> {
        let mut shares = vec![0; backends];
        slots.iter().for_each(|&id| shares[usize::from(id)] += 1);
        shares
    }

    #[test]
    fn equal_weights_get_shares_that_differ_by_at_most_one_slot() {
        for count in [1, 2, 3, 10, 100, 1000] {
            let shares = shares(&table(&members(count)).unwrap(), count.into());
            let (min, max) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            assert!(max - min <= 1, "{count} backends: {min} to {max}");
        }
    }

    #[test]
    fn weights_are_proportions() {
        let mut members = members(3);
        (members[0].weight, members[1].weight, members[2].weight) = (256, 128, 64);
        let shares = shares(&table(&members).unwrap(), 3);
        for (share, weight) in shares.iter().zip([256, 128, 64]) {
            assert!(share.abs_diff(MAGLEV_SLOTS * weight / 448) <= 2, "{shares:?}");
        }
    }

    #[test]
    fn no_weight_no_table() {
        assert!(table(&[]).is_none());
        assert!(table(&[Member { weight: 0, ..members(1)[0] }]).is_none());
    }

    #[test]
    fn removing_one_backend_moves_few_slots_of_the_others() {
        for count in [3, 10, 100] {
            let all = members(count);
            let before = table(&all).unwrap();
            let after = table(&all[1..]).unwrap();
            let moved = before.iter().zip(after.iter()).filter(|(b, a)| **b != 0 && b != a).count();
            assert!(moved < MAGLEV_SLOTS / 100, "{count} backends: {moved} slots moved");
        }
    }

    #[test]
    fn the_table_is_frozen() {
        // Nodes of different versions must agree in the DSR modes; a change here is a change of protocol.
        let slots = table(&members(3)).unwrap();
        let mut hasher = SipHasher24::new();
        slots.iter().for_each(|id| hasher.write(&id.to_be_bytes()));
        assert_eq!(hasher.finish(), 16_236_822_076_043_472_598);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn order_and_ids_do_not_matter(
            order in Just((0..12u16).collect::<Vec<_>>()).prop_shuffle(),
            weights in proptest::collection::vec(0..=256u16, 12),
        ) {
            let mut straight = members(12);
            straight.iter_mut().zip(&weights).for_each(|(member, &weight)| member.weight = weight);
            let shuffled: Vec<Member> = order
                .iter()
                .map(|&n| Member { id: n + 100, ..straight[usize::from(n)] })
                .collect();
            match (table(&straight), table(&shuffled)) {
                (None, None) => {}
                (Some(one), Some(other)) => {
                    prop_assert!(one.iter().zip(other.iter()).all(|(a, b)| a + 100 == *b));
                }
                _ => prop_assert!(false, "only one of the two orders has a table"),
            }
        }
    }
}
