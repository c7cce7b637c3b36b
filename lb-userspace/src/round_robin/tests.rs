use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use proptest::prelude::*;

use super::*;

/// Backends 0, 1, ... in the order of their addresses.
fn members(weights: &[u16]) -> Vec<Member> {
    weights
        .iter()
        .zip(0..)
        .map(|(&weight, id)| {
            let address = Ipv4Addr::from(0xac10_0004 + u32::from(id));
            Member { id, address: SocketAddr::new(address.into(), 6443), weight }
        })
        .collect()
}

/// The first period, with a letter for each backend.
fn letters(weights: &[u16], turns: usize) -> String {
    let slots = super::turns(&members(weights)).unwrap().slots;
    slots[..turns].iter().map(|&id| char::from(b'a' + id as u8)).collect()
}

/// nginx's algorithm, word by word: `ngx_http_upstream_get_peer`.
fn nginx(weights: &[i64], turns: usize) -> Vec<BackendId> {
    let mut current = vec![0; weights.len()];
    (0..turns)
        .map(|_| {
            let mut total = 0;
            let mut best: Option<usize> = None;
            for (n, &weight) in weights.iter().enumerate() {
                current[n] += weight;
                total += weight;
                if best.is_none_or(|best| current[n] > current[best]) {
                    best = Some(n);
                }
            }
            let best = best.unwrap();
            current[best] -= total;
            best as BackendId
        })
        .collect()
}

#[test]
fn turns_in_letters() {
    for (weights, order) in [
        // The example in nginx's change log.
        (&[5, 1, 1][..], "aabacaa"),
        (&[1, 1, 1], "abc"),
        (&[100, 100], "ab"),
        (&[200, 100, 100], "abca"),
        (&[0, 7], "b"),
        (&[2, 3], "babab"),
    ] {
        assert_eq!(letters(weights, order.len()), order, "{weights:?}");
        assert_eq!(letters(weights, order.len() * 3), order.repeat(3), "{weights:?} again");
    }
}

#[test]
fn the_walk_is_the_largest_number_of_whole_periods() {
    for (weights, period) in [
        (&[100][..], 1),
        (&[100, 100, 100], 3),
        (&[5, 1, 1], 7),
        (&[256, 100, 60], 104),
        (&[256, 255, 1], 512),
        (&[0, 9, 0], 1),
    ] {
        let length = turns(&members(weights)).unwrap().length;
        assert_eq!(length % period, 0, "{weights:?}");
        assert!(length <= 65_537 && length + period > 65_537, "{weights:?}: {length}");
    }
}

#[test]
fn without_weight_there_is_no_turn() {
    assert_eq!(turns(&[]), None);
    assert_eq!(turns(&members(&[0, 0])), None);
}

#[test]
fn nobody_has_two_turns_in_a_row_at_equal_weights() {
    for count in [2, 3, 10, 100, 1000] {
        let Turns { slots, length } = turns(&members(&vec![100; count])).unwrap();
        let walk = &slots[..length as usize];
        assert!(walk.windows(2).all(|pair| pair[0] != pair[1]), "{count}");
        assert_ne!(walk[0], walk[walk.len() - 1], "{count}: where the walk begins again");
        // And everybody has had a turn before anybody has the second.
        assert!(walk.chunks(count).all(|round| round == &walk[..count]), "{count}");
    }
}

#[test]
fn a_period_that_exceeds_the_table_is_scaled_down() {
    // 257 backends of 256 are no such case: what the weights have in common is taken out first.
    let equal = turns(&members(&[256; 257])).unwrap();
    assert_eq!(equal.length, 65_535);

    // Periods of 68,481 and 524,288 turns; in the second, a light backend's part of the table is an eighth of a slot.
    let one_odd = [&[256; 267][..], &[129]].concat();
    let many_light: Vec<u16> = (0..4096).map(|n| if n % 2 == 0 { 1 } else { 255 }).collect();
    for weights in [one_odd, many_light] {
        let Turns { slots, length } = turns(&members(&weights)).unwrap();
        assert_eq!(length, 65_537, "the table is the period");
        let mut had = vec![0; weights.len()];
        slots.iter().for_each(|&id| had[usize::from(id)] += 1);
        let total: f64 = weights.iter().copied().map(f64::from).sum();
        for (&had, &weight) in had.iter().zip(&weights) {
            let exact = f64::from(weight) * 65_537.0 / total;
            assert!(had >= 1, "weight {weight} is not left out");
            assert!((f64::from(had) - exact).abs() < 2.0, "weight {weight}: {had}, not {exact}");
        }
    }
}

#[test]
fn a_backend_that_is_named_twice_has_its_turns_once() {
    let members = members(&[3, 1]);
    let light = Member { weight: 1, ..members[0] };
    assert_eq!(turns(&[&[light], &members[..]].concat()), turns(&members));
}

#[test]
fn families_take_turns_by_address() {
    let v6 = Member {
        id: 7,
        address: SocketAddr::new(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 4).into(), 6443),
        weight: 1,
    };
    let v4 = members(&[1])[0];
    assert_eq!(turns(&[v6, v4]).unwrap().slots[..4], [0, 7, 0, 7]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn as_nginx_takes_turns(weights in proptest::collection::vec(0..=40u16, 1..12)) {
        let Some(Turns { slots, length }) = turns(&members(&weights)) else {
            prop_assert!(weights.iter().all(|&weight| weight == 0));
            return Ok(());
        };
        let as_i64: Vec<i64> = weights.iter().copied().map(i64::from).collect();
        let total: u32 = weights.iter().copied().map(u32::from).sum();
        prop_assert_eq!(&slots[..total as usize], &nginx(&as_i64, total as usize)[..]);
        prop_assert!(length > 65_537 - total);
        // Exact in the whole walk: each has as many turns as its weight says.
        let mut had = vec![0; weights.len()];
        slots[..length as usize].iter().for_each(|&id| had[usize::from(id)] += 1u32);
        for (&had, &weight) in had.iter().zip(&weights) {
            prop_assert_eq!(had * total, length * u32::from(weight));
        }
    }

    #[test]
    fn order_and_ids_do_not_matter(
        order in Just((0..9u16).collect::<Vec<_>>()).prop_shuffle(),
        weights in proptest::collection::vec(1..=256u16, 9),
    ) {
        let straight = members(&weights);
        let shuffled: Vec<Member> =
            order.iter().map(|&n| Member { id: n + 100, ..straight[usize::from(n)] }).collect();
        let (one, other) = (turns(&straight).unwrap(), turns(&shuffled).unwrap());
        prop_assert_eq!(one.length, other.length);
        prop_assert!(one.slots.iter().zip(other.slots.iter()).all(|(a, b)| a + 100 == *b));
    }
}
