use proptest::prelude::*;

use super::*;

fn member(active: u64) -> Member {
    Member { weight: 100, active, limit: 0 }
}

fn pool(active: &[u64]) -> Vec<Member> {
    active.iter().copied().map(member).collect()
}

fn exact(margin: u8, floor: u32) -> Tolerance {
    Tolerance { margin, floor }
}

fn losses(members: &[Member], tolerance: Tolerance) -> Vec<u64> {
    plan(members, tolerance).parts.iter().map(|part| part.loses).collect()
}

fn after(members: &[Member], tolerance: Tolerance) -> Vec<u64> {
    let plan = plan(members, tolerance);
    members.iter().zip(&plan.parts).map(|(member, part)| part.after(member.active)).collect()
}

#[test]
fn a_third_that_comes_back_gets_its_third() {
    let members = pool(&[150, 150, 0]);
    assert_eq!(losses(&members, exact(0, 10)), [50, 50, 0]);
    assert_eq!(after(&members, exact(0, 10)), [100, 100, 100]);
    // A tenth of a hundred may be missing.
    assert_eq!(losses(&members, exact(10, 10)), [45, 45, 0]);
    assert_eq!(after(&members, exact(10, 10)), [105, 105, 90]);
    assert_eq!(losses(&members, exact(100, 10)), [0, 0, 0]);
}

#[test]
fn what_is_even_stays_as_it_is() {
    for even in [&[100, 100, 100][..], &[33, 34, 33], &[0, 0, 0], &[0], &[7], &[], &[1, 0, 0], &[5, 6, 5, 6]]
    {
        assert_eq!(plan(&pool(even), exact(0, 0)).resets(), 0, "{even:?}");
        assert!(!is_no_chance(&pool(even)), "{even:?}");
    }
}

#[test]
fn weights_say_what_is_fair() {
    let members = [Member { weight: 200, ..member(0) }, member(200), member(200)];
    assert_eq!(after(&members, exact(0, 0)), [200, 100, 100]);
    let nothing = [Member { weight: 0, ..member(50) }, member(0)];
    assert_eq!(after(&nothing, exact(0, 0)), [0, 50]);
}

#[test]
fn nobody_goes_below_the_floor() {
    assert_eq!(losses(&pool(&[12, 12, 0]), exact(0, 10)), [2, 2, 0]);
    assert_eq!(losses(&pool(&[10, 10, 0]), exact(0, 10)), [0, 0, 0]);
    assert_eq!(losses(&pool(&[10, 10, 0]), exact(0, 0)), [3, 3, 0]);
}

#[test]
fn who_may_not_have_its_share_gets_what_it_may() {
    let members = [member(150), member(150), Member { limit: 30, ..member(0) }];
    assert_eq!(after(&members, exact(0, 0)), [135, 135, 30]);
    let full = [member(150), member(120), Member { limit: 30, ..member(30) }];
    assert_eq!(after(&full, exact(0, 0)), [135, 135, 30]);
    // Nobody has room: nobody is reset.
    let all = [Member { limit: 100, ..member(150) }, Member { limit: 10, ..member(10) }];
    assert_eq!(losses(&all, exact(0, 0)), [0, 0]);
}

#[test]
fn what_is_on_its_way_is_not_missed() {
    let members = pool(&[140, 140, 0]);
    let arrived = with_arrivals(&members, 20);
    assert_eq!(arrived, pool(&[140, 140, 20]));
    assert_eq!(losses(&arrived, exact(0, 10)), [40, 40, 0]);
    assert_eq!(with_arrivals(&pool(&[0, 0]), 3), pool(&[2, 1]));
}

#[test]
fn chance_is_known_by_how_rare_it_is() {
    assert!(is_no_chance(&pool(&[150, 150, 0])));
    assert!(!is_no_chance(&pool(&[10, 10, 0])));
    assert!(is_no_chance(&pool(&[12, 12, 0])));
    assert!(!is_no_chance(&pool(&[115, 102, 83])));
    assert!(is_no_chance(&pool(&[11_500, 10_200, 8300])));
}

/// The fewest resets there can be, by trying every way to divide few connections.
fn fewest(members: &[Member], tolerance: Tolerance) -> Option<u64> {
    let total = total(members);
    let shares = shares(members, total);
    let fits = |n: usize, count: u64| {
        let share = shares[n].exact;
        let margin = u128::from(tolerance.margin);
        let most = share.times(100 + margin).floor().max(share.ceil());
        let least = share.times(100 - margin).ceil().min(share.floor());
        (least..=most).contains(&count)
    };
    fn try_all(
        members: &[Member],
        left: u64,
        counts: &mut Vec<u64>,
        fits: &dyn Fn(usize, u64) -> bool,
        best: &mut Option<u64>,
    ) {
        let n = counts.len();
        if n == members.len() {
            if left == 0 {
                let resets =
                    members.iter().zip(counts.iter()).map(|(m, c)| m.active.saturating_sub(*c)).sum();
                *best = Some(best.map_or(resets, |best| best.min(resets)));
            }
            return;
        }
        for count in (0..=left).filter(|&count| fits(n, count)) {
            counts.push(count);
            try_all(members, left - count, counts, fits, best);
            counts.pop();
        }
    }
    let mut best = None;
    try_all(members, total, &mut Vec::new(), &fits, &mut best);
    best
}

fn any_member(most: u64, limits: bool) -> impl Strategy<Value = Member> {
    let limit =
        if limits { prop_oneof![3 => Just(0), 1 => 1..=most as u32].boxed() } else { Just(0).boxed() };
    (1..=256u16, 0..=most, limit).prop_map(|(weight, active, limit)| Member { weight, active, limit })
}

proptest! {
    #[test]
    fn nobody_loses_or_gets_more_than_it_should(
        members in proptest::collection::vec(any_member(5000, true), 1..20),
        margin in 0..=100u8,
        floor in 0..200u32,
    ) {
        let plan = plan(&members, exact(margin, floor));
        let gains: u64 = plan.parts.iter().map(|part| part.gains).sum();
        prop_assert_eq!(plan.resets(), gains, "each that is reset has a place");
        for (member, part) in members.iter().zip(&plan.parts) {
            prop_assert!(part.loses == 0 || part.gains == 0);
            if part.loses > 0 {
                prop_assert!(member.active - part.loses >= part.fair, "never below its fair share");
                prop_assert!(member.active - part.loses >= u64::from(floor), "never below the floor");
            }
            if part.gains > 0 {
                let after = member.active + part.gains;
                prop_assert!(after <= part.fair, "none that would have to go again");
                prop_assert!(member.limit == 0 || after <= u64::from(member.limit));
            }
        }
    }

    #[test]
    fn without_floor_and_limits_everybody_is_within_the_margin(
        members in proptest::collection::vec(any_member(5000, false), 1..20),
        margin in 0..=100u8,
    ) {
        let tolerance = exact(margin, 0);
        let plan = plan(&members, tolerance);
        let shares = shares(&members, total(&members));
        for ((member, part), share) in members.iter().zip(&plan.parts).zip(shares) {
            let after = part.after(member.active);
            prop_assert!(after <= share.exact.times(100 + u128::from(margin)).floor().max(share.exact.ceil()));
            prop_assert!(after >= share.exact.times(100 - u128::from(margin)).ceil().min(share.exact.floor()));
        }
        let moved: Vec<Member> = members.iter().zip(&plan.parts)
            .map(|(member, part)| Member { active: part.after(member.active), ..*member }).collect();
        prop_assert_eq!(super::plan(&moved, tolerance).resets(), 0, "it is done then");
        prop_assert_eq!(plan.parts.iter().map(|part| part.fair).sum::<u64>(), total(&members));
    }

    #[test]
    fn no_plan_has_fewer_resets(
        members in proptest::collection::vec(any_member(6, false), 1..5),
        margin in 0..=60u8,
    ) {
        prop_assert_eq!(Some(plan(&members, exact(margin, 0)).resets()), fewest(&members, exact(margin, 0)));
    }

    #[test]
    fn a_wider_margin_and_a_higher_floor_reset_no_more(
        members in proptest::collection::vec(any_member(2000, true), 1..10),
        margin in 0..100u8,
        floor in 0..100u32,
    ) {
        let resets = |margin, floor| plan(&members, exact(margin, floor)).resets();
        prop_assert!(resets(margin + 1, floor) <= resets(margin, floor));
        prop_assert!(resets(margin, floor + 1) <= resets(margin, floor));
    }

    #[test]
    fn numbers_of_any_size_are_no_trouble(
        members in proptest::collection::vec(
            (0..=u16::MAX, 0..u64::MAX / 64, any::<u32>())
                .prop_map(|(weight, active, limit)| Member { weight, active, limit }), 0..20),
        margin in any::<u8>(),
        floor in any::<u32>(),
    ) {
        let plan = plan(&members, exact(margin, floor));
        prop_assert!(plan.resets() <= total(&members));
        let _ = is_no_chance(&members);
    }
}
