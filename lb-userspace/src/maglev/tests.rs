use std::{
    collections::BTreeMap,
    hash::Hasher as _,
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6},
    time::Instant,
};

use proptest::prelude::*;

use super::*;

/// At most one slot in a hundred may change hands between those that stay.
const ONE_PERCENT: usize = MAGLEV_SLOTS / 100;

fn v4(count: u16) -> Vec<Member> {
    let address = |n| SocketAddrV4::new(Ipv4Addr::from(0xac10_0004 + u32::from(n)), 6443);
    (0..count).map(|n| Member { id: n, address: address(n).into(), weight: 100 }).collect()
}

fn v6(count: u16) -> Vec<Member> {
    let address = |n| Ipv6Addr::from((0xfd00_u128 << 112) + 4 + u128::from(n));
    (0..count)
        .map(|n| Member { id: n, address: SocketAddrV6::new(address(n), 6443, 0, 0).into(), weight: 100 })
        .collect()
}

/// Four kinds of weight, the lightest and the heaviest among them.
fn uneven(mut members: Vec<Member>) -> Vec<Member> {
    members.iter_mut().zip([256, 1, 100, 77].into_iter().cycle()).for_each(|(m, weight)| m.weight = weight);
    members
}

fn shares(slots: &MaglevSlots) -> BTreeMap<BackendId, usize> {
    let mut shares = BTreeMap::new();
    slots.iter().for_each(|&id| *shares.entry(id).or_default() += 1);
    shares
}

fn without(members: &[Member], gone: usize) -> Vec<Member> {
    let mut members = members.to_vec();
    members.remove(gone);
    members
}

/// How many slots change between two tables, beyond those that are `id`'s in one of them.
fn moved(one: &MaglevSlots, other: &MaglevSlots, id: BackendId) -> usize {
    one.iter().zip(other).filter(|&(&a, &b)| a != b && a != id && b != id).count()
}

fn fingerprint(members: &[Member]) -> u64 {
    let mut hasher = SipHasher24::new();
    table(members).unwrap().iter().for_each(|id| hasher.write(&id.to_be_bytes()));
    hasher.finish()
}

#[test]
fn equal_weights_get_shares_that_differ_by_at_most_one_slot() {
    for count in [1, 2, 3, 10, 100, 1000] {
        for members in [v4(count), v6(count)] {
            let shares = shares(&table(&members).unwrap());
            assert_eq!(shares.len(), usize::from(count), "every backend has slots");
            let (min, max) = (shares.values().min().unwrap(), shares.values().max().unwrap());
            assert!(max - min <= 1, "{count} backends: {min} to {max}");
        }
    }
}

#[test]
fn weights_are_proportions() {
    // The last: one heavy backend must not collect what 255 light ones lose by rounding.
    for weights in
        [vec![256, 128, 64], vec![256, 1], vec![3, 2, 7, 100, 99], [&[256][..], &[1; 255]].concat()]
    {
        let mut members = v4(weights.len() as u16);
        members.iter_mut().zip(&weights).for_each(|(member, &weight)| member.weight = weight);
        let shares = shares(&table(&members).unwrap());
        let total: usize = weights.iter().copied().map(usize::from).sum();
        for (member, &weight) in members.iter().zip(&weights) {
            // Both sides times the total, to stay exact.
            let off = (shares[&member.id] * total).abs_diff(MAGLEV_SLOTS * usize::from(weight));
            assert!(off < total, "{weights:?}: weight {weight} has {} slots", shares[&member.id]);
        }
    }
}

#[test]
fn only_the_proportion_of_weights_matters() {
    let scaled = |factor: u16| {
        let mut members = v4(10);
        members.iter_mut().zip(1u16..).for_each(|(member, n)| member.weight = n * factor);
        table(&members).unwrap()
    };
    assert!(scaled(1) == scaled(25));
}

#[test]
fn without_weight_there_is_no_slot_and_no_table() {
    assert!(table(&[]).is_none());
    assert!(table(&[Member { weight: 0, ..v4(1)[0] }]).is_none());
    let mut members = v4(3);
    members[1].weight = 0;
    assert!(table(&members) == table(&without(&members, 1)));
}

#[test]
fn removing_or_adding_any_backend_moves_few_slots_of_the_others() {
    for (count, step) in [(3, 1), (10, 1), (100, 11)] {
        for (what, members) in [
            ("v4", v4(count)),
            ("v6", v6(count)),
            ("v4, uneven", uneven(v4(count))),
            ("both families", [v4(count / 2), v6(count)].concat()),
        ] {
            let mut members = members;
            members.iter_mut().zip(0..).for_each(|(member, id)| member.id = id);
            let all = table(&members).unwrap();
            let worst = (0..members.len())
                .step_by(step)
                .map(|n| moved(&all, &table(&without(&members, n)).unwrap(), members[n].id))
                .max();
            println!("{count} backends, {what}: at most {} slots of the others moved", worst.unwrap());
            // Adding one is the same two tables the other way round.
            assert!(worst <= Some(ONE_PERCENT), "{count} backends, {what}: {worst:?} slots moved");
        }
    }
}

#[test]
fn backends_that_would_walk_in_lockstep_do_not_disturb_each_other() {
    // By the paper's permutation, two backends whose skips are equal or one twice the other's claim slots at the same
    // distance from each other all the way. With that, removing one of such a pair moved thousands of slots.
    let all = v6(400);
    let skip = |member| Walk::new(member, 0).skip;
    let pairs: Vec<(&Member, &Member)> = (all
        .iter()
        .flat_map(|one| all.iter().map(move |other| (one, other))))
    .filter(|(one, other)| one.id != other.id)
    .filter(|(one, other)| {
        skip(one) == skip(other) || 2 * skip(one) % SLOTS == skip(other) || skip(one) + skip(other) == SLOTS
    })
    .collect();
    assert!(pairs.len() >= 3, "{} such pairs among 400", pairs.len());
    for (one, other) in pairs {
        let members = [*one, *other, v4(1000)[999]];
        let all = table(&members).unwrap();
        for gone in 0..3 {
            let moved = moved(&all, &table(&without(&members, gone)).unwrap(), members[gone].id);
            assert!(moved <= ONE_PERCENT, "{one:?}, {other:?}: {moved} slots moved");
        }
    }
}

#[test]
fn a_step_of_a_weight_moves_few_slots_of_the_others() {
    // What slow start does ten times.
    let mut members = v4(10);
    let full = table(&members).unwrap();
    for weight in [1, 10, 50, 90] {
        members[4].weight = weight;
        let moved = moved(&full, &table(&members).unwrap(), 4);
        assert!(moved <= ONE_PERCENT, "weight {weight}: {moved} slots moved");
    }
}

#[test]
fn the_tables_are_frozen() {
    // Nodes of different versions must agree in the DSR modes; a change here is a change of protocol. A program of
    // thirty lines in another language, written from the description of this module, has made the same three tables.
    assert_eq!(fingerprint(&v4(3)), 3_247_360_694_472_885_708, "v4");
    assert_eq!(fingerprint(&v6(3)), 17_737_662_131_819_098_668, "v6");
    let mixed: Vec<Member> =
        [v4(5), v6(5)].concat().into_iter().zip(0..).map(|(member, id)| Member { id, ..member }).collect();
    assert_eq!(fingerprint(&uneven(mixed)), 7_345_130_790_154_598_979, "both families, uneven");
}

#[test]
fn an_ipv4_address_and_the_ipv6_address_that_ends_like_it_are_two_backends() {
    let [plain] = v4(1)[..] else { unreachable!() };
    let IpAddr::V4(address) = plain.address.ip() else { unreachable!() };
    for v6 in [address.to_ipv6_mapped(), Ipv6Addr::from(u128::from(address.to_bits()))] {
        let other = Member { id: 1, address: SocketAddr::new(v6.into(), plain.address.port()), ..plain };
        assert_ne!((hash(0, &plain), hash(1, &plain)), (hash(0, &other), hash(1, &other)));
        assert_eq!(shares(&table(&[plain, other]).unwrap()).len(), 2);
    }
}

#[test]
fn the_zone_of_an_address_is_not_part_of_its_identity() {
    let link_local = |zone, id| Member {
        id,
        address: SocketAddrV6::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1), 6443, 0, zone).into(),
        weight: 100,
    };
    let other = v6(3)[2];
    assert!(table(&[link_local(2, 0), other]) == table(&[other, link_local(7, 0)]));
}

#[test]
fn a_backend_that_is_named_twice_counts_once() {
    let members = v4(3);
    let light = Member { weight: 1, ..members[1] };
    let expected = table(&members).unwrap();
    assert!(table(&[&members[..], &[light]].concat()).unwrap() == expected);
    assert!(table(&[&[light], &members[..]].concat()).unwrap() == expected);
}

/// What a rebuild costs, in slots looked at: unlike time, the same on every machine. In a release build a look takes
/// some nanoseconds.
#[test]
fn a_rebuild_takes_about_as_many_probes_as_the_paper_expects() {
    let expected = (MAGLEV_SLOTS as f64 * (MAGLEV_SLOTS as f64).ln()) as u64;
    for count in [1, 3, 10, 100, 1000, 4096] {
        for (what, members) in [("v4", v4(count)), ("v6", v6(count)), ("v4, uneven", uneven(v4(count)))] {
            let (begun, mut probes) = (Instant::now(), 0);
            assert!(fill(&members, &mut probes).is_some());
            println!("{count} backends, {what}: {probes} probes in {:?}", begun.elapsed());
            // Alone, a backend looks at each slot once: its walk is a permutation.
            assert!(
                if count == 1 { probes == SLOTS } else { probes > SLOTS },
                "{count} backends, {what}: {probes}"
            );
            assert!(probes < expected * 3 / 2, "{count} backends, {what}: {probes}, expected {expected}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn order_and_ids_do_not_matter(
        order in Just((0..12u16).collect::<Vec<_>>()).prop_shuffle(),
        weights in proptest::collection::vec(0..=256u16, 12),
    ) {
        let mut straight = [v4(6), v6(6)].concat();
        for ((member, id), &weight) in straight.iter_mut().zip(0..).zip(&weights) {
            (member.id, member.weight) = (id, weight);
        }
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

    #[test]
    fn any_weights_get_their_proportion(weights in proptest::collection::vec(0..=256u16, 1..60)) {
        let mut members = v6(weights.len() as u16);
        members.iter_mut().zip(&weights).for_each(|(member, &weight)| member.weight = weight);
        let total: usize = weights.iter().copied().map(usize::from).sum();
        let shares = table(&members).map(|table| shares(&table)).unwrap_or_default();
        prop_assert_eq!(shares.is_empty(), total == 0);
        for member in &members {
            let share = shares.get(&member.id).copied().unwrap_or_default();
            let off = (share * total).abs_diff(MAGLEV_SLOTS * usize::from(member.weight));
            prop_assert!(off < total, "weight {} of {} has {} slots", member.weight, total, share);
        }
    }
}
