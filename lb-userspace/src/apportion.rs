//! Dividing the slots of a table among backends in proportion to their weights.

use std::cmp::Reverse;

/// How many of `slots` each weight is worth, in the order of `weights`. They add up to `slots`, unless all weights are 0.
///
/// Largest remainders (Hamilton's method): no share is a whole slot off its exact proportion, and of equal weights the
/// first ones get the slots that cannot be shared. But a weight above 0 is worth at least one slot, where there are
/// enough: a backend that is in the table at all must be found. What that costs is taken from the heavier ones, and
/// happens only where the weights add up to more than `slots`.
pub fn apportion(weights: &[u16], slots: u32) -> Vec<u32> {
    let mut shares = vec![0; weights.len()];
    let mut left = u64::from(slots);
    let mut weight_left: u64 = weights.iter().copied().map(u64::from).sum();

    let mut ascending: Vec<usize> = (0..weights.len()).filter(|&n| weights[n] > 0).collect();
    ascending.sort_by_key(|&n| weights[n]);
    let mut light = 0;
    for &n in &ascending {
        let weight = u64::from(weights[n]);
        if left == 0 || weight * left >= weight_left {
            break;
        }
        shares[n] = 1;
        left -= 1;
        weight_left -= weight;
        light += 1;
    }

    let mut remainders = Vec::new();
    let mut unshared = left;
    for &n in &ascending[light..] {
        let exact = u64::from(weights[n]) * left;
        let whole = exact / weight_left;
        shares[n] = whole as u32;
        unshared -= whole;
        remainders.push((Reverse(exact % weight_left), n));
    }
    remainders.sort_unstable();
    for &(_, n) in remainders.iter().take(unshared as usize) {
        shares[n] += 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shares_in_words() {
        for (weights, slots, shares) in [
            // What cannot be shared goes to the first.
            (&[1, 1, 1][..], 11, &[4, 4, 3][..]),
            // To the largest remainder before that: 7/6, 14/6, 21/6.
            (&[1, 2, 3], 7, &[1, 2, 4]),
            (&[0, 5, 0], 7, &[0, 7, 0]),
            // A hundredth of a slot is one slot.
            (&[256, 1, 256], 4, &[2, 1, 1]),
            // More backends than slots.
            (&[1, 1, 2], 2, &[1, 1, 0]),
            (&[3, 3, 3], 2, &[1, 1, 0]),
            (&[0, 0], 7, &[0, 0]),
            (&[], 7, &[]),
        ] {
            assert_eq!(apportion(weights, slots), shares, "{weights:?} of {slots}");
        }
    }

    #[test]
    fn four_thousand_light_ones_beside_heavy_ones_are_not_left_out() {
        let weights: Vec<u16> = (0..4096).map(|n| if n % 40 == 0 { 1 } else { 256 }).collect();
        let shares = apportion(&weights, 65_537);
        assert!(shares.iter().all(|&share| share >= 1));
        assert_eq!(shares.iter().sum::<u32>(), 65_537);
    }

    proptest! {
        #[test]
        fn within_one_slot_of_proportion(weights in proptest::collection::vec(0..=256u16, 1..200)) {
            // 199 weights of at most 256 add up to less than the slots, so nobody needs to be helped.
            let total: u64 = weights.iter().copied().map(u64::from).sum();
            prop_assume!(total > 0);
            let shares = apportion(&weights, 65_537);
            prop_assert_eq!(shares.iter().sum::<u32>(), 65_537);
            for (&share, &weight) in shares.iter().zip(&weights) {
                // Both sides times `total`, to stay exact.
                let off = (u64::from(share) * total).abs_diff(u64::from(weight) * 65_537);
                prop_assert!(off < total, "weight {} of {} has {} slots", weight, total, share);
            }
        }

        #[test]
        fn the_order_of_different_weights_does_not_matter(weights in Just((1..=40u16).collect::<Vec<_>>()).prop_shuffle()) {
            let sorted = apportion(&(1..=40).collect::<Vec<_>>(), 65_537);
            for (&weight, share) in weights.iter().zip(apportion(&weights, 65_537)) {
                prop_assert_eq!(share, sorted[usize::from(weight) - 1]);
            }
        }
    }
}
