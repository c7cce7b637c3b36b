use proptest::prelude::*;

use super::*;

/// Three hundred connections and more, and clients that open anew what was reset, as data plane and network would have it.
struct World {
    now: Instant,
    members: Vec<Member>,
    /// When each that was reset comes back, and whether it goes to where there is room.
    returning: Vec<(Instant, bool)>,
    shares: BTreeMap<BackendId, u32>,
    resets: Vec<(Instant, u64)>,
    draw: u64,
}

/// How clients behave.
#[derive(Clone, Copy, Debug)]
struct Clients {
    /// They come back within so many milliseconds.
    within: u64,
    /// So many of a hundred never do.
    dead: u64,
    /// So many of a hundred come back to anybody.
    astray: u64,
}

const QUICK: Clients = Clients { within: 300, dead: 0, astray: 0 };

impl World {
    fn new(active: &[u64]) -> Self {
        Self::of(active.iter().map(|&active| Member { weight: 100, active, limit: 0 }).collect())
    }

    fn of(members: Vec<Member>) -> Self {
        Self {
            now: Instant::now(),
            members,
            returning: Vec::new(),
            shares: BTreeMap::new(),
            resets: Vec::new(),
            draw: 1,
        }
    }

    fn candidates(&self) -> Vec<Candidate> {
        (0..).zip(&self.members).map(|(id, &member)| Candidate { id, member }).collect()
    }

    fn active(&self) -> Vec<u64> {
        self.members.iter().map(|member| member.active).collect()
    }

    fn random(&mut self, below: u64) -> u64 {
        self.draw = self.draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.draw >> 33) % below.max(1)
    }

    /// A tenth of a second: some come back, to whoever is below its share, or to anybody.
    fn pass(&mut self) {
        self.now += Duration::from_millis(100);
        let (back, still): (Vec<_>, Vec<_>) = self.returning.iter().partition(|(at, _)| *at <= self.now);
        self.returning = still;
        for (_, is_led) in back {
            let count = self.members.len() as u64;
            let first = self.random(count) as usize;
            let has_room = |n: &usize| {
                let share = self.shares.get(&(*n as BackendId)).copied().unwrap_or(0);
                let member = &self.members[*n];
                is_led && member.weight > 0 && share > 0 && member.active < u64::from(share)
            };
            let n = (0..self.members.len()).map(|n| (n + first) % self.members.len()).find(has_room);
            self.members[n.unwrap_or(first)].active += 1;
        }
    }

    /// Carries a rebalance out to its end.
    fn carry_out(&mut self, course: &mut Course, clients: Clients) -> Outcome {
        for _ in 0..200_000 {
            self.shares = course.shares();
            match course.step(&self.candidates(), self.now) {
                Step::Wait => {}
                Step::Ended(outcome) => return outcome,
                Step::Reset(from) => {
                    for (id, count) in from {
                        let member = &mut self.members[usize::from(id)];
                        assert!(member.active >= u64::from(count), "more than there are");
                        member.active -= u64::from(count);
                        for _ in 0..count {
                            let after = Duration::from_millis(self.random(clients.within + 1));
                            let lot = self.random(100);
                            if lot >= clients.dead {
                                let is_led = lot >= clients.dead + clients.astray;
                                self.returning.push((self.now + after, is_led));
                            }
                        }
                        course.was_reset(id, count.into(), self.now);
                        self.resets.push((self.now, count.into()));
                    }
                }
            }
            self.pass();
        }
        panic!("it does not end: {:?}, {course:?}", self.active());
    }

    fn all_resets(&self) -> u64 {
        self.resets.iter().map(|(_, count)| count).sum()
    }

    /// The most in any second.
    fn most_in_a_second(&self) -> u64 {
        let second = |n: usize, from: Instant| {
            let within = self.resets[n..].iter().take_while(|(at, _)| *at - from < Duration::from_secs(1));
            within.map(|(_, count)| count).sum()
        };
        self.resets.iter().enumerate().map(|(n, (from, _))| second(n, *from)).max().unwrap_or(0)
    }
}

fn exact(margin: u8, floor: u32) -> Tolerance {
    Tolerance { margin, floor }
}

fn begin(world: &World, tolerance: Tolerance, rate: u32) -> Course {
    Course::begin(&world.candidates(), tolerance, rate, world.now).expect("something to do")
}

#[test]
fn a_third_that_comes_back_gets_its_third_in_ten_seconds_with_a_hundred_resets() {
    for (margin, resets, expected) in [(0, 100, [100, 100, 100]), (10, 90, [105, 105, 90])] {
        let mut world = World::new(&[150, 150, 0]);
        let began = world.now;
        let mut course = begin(&world, exact(margin, 10), 10);
        assert_eq!(world.carry_out(&mut course, QUICK), Outcome::Balanced);
        assert_eq!((world.active(), world.all_resets()), (expected.to_vec(), resets));
        assert_eq!(course.resets().values().sum::<u64>(), resets);
        assert!(world.most_in_a_second() <= 10);
        assert!(world.now - began <= Duration::from_secs(14), "{:?}", world.now - began);
    }
}

#[test]
fn shares_lead_what_comes_back() {
    let mut world = World::new(&[150, 150, 0]);
    let mut course = begin(&world, exact(10, 10), 10);
    assert_eq!(course.shares(), BTreeMap::from([(0, 105), (1, 105), (2, 90)]));
    assert_eq!(course.left(), 90);
    world.carry_out(&mut course, QUICK);
    assert_eq!(course.left(), 0);
}

#[test]
fn who_comes_or_goes_ends_it_at_once() {
    let world = World::new(&[150, 150, 0]);
    let mut course = begin(&world, exact(10, 10), 10);
    assert!(matches!(course.step(&world.candidates(), world.now), Step::Reset(_)));
    let later = world.now + Duration::from_secs(1);
    assert_eq!(course.step(&world.candidates()[..2], later), Step::Ended(Outcome::Interrupted));
    let mut heavier = world.candidates();
    heavier[2].member.weight = 101;
    assert_eq!(course.step(&heavier, later), Step::Ended(Outcome::Interrupted));
}

#[test]
fn where_nobody_comes_back_or_all_come_back_to_the_same_it_ends() {
    // Who was silent for longest is likely to be dead: each round has to do what the dead of the last one left.
    let mut world = World::new(&[150, 150, 0]);
    let mut course = begin(&world, exact(0, 10), 10);
    let outcome = world.carry_out(&mut course, Clients { dead: 100, ..QUICK });
    assert!(world.all_resets() < 300 && world.active().iter().all(|count| *count <= 150), "{outcome:?}");

    let mut world = World::new(&[150, 150, 0]);
    let mut course = begin(&world, exact(0, 10), 10);
    let outcome = world.carry_out(&mut course, Clients { dead: 30, ..QUICK });
    assert!(matches!(outcome, Outcome::Balanced | Outcome::Nearly), "{outcome:?}");
    let active = world.active();
    assert!(active.iter().max().zip(active.iter().min()).is_some_and(|(most, least)| most - least <= 10));

    let mut world = World::new(&[3000, 0]);
    let mut course = begin(&world, exact(0, 10), 100);
    // All come back to where they were.
    let mut outcome = None;
    for _ in 0..100_000 {
        match course.step(&world.candidates(), world.now) {
            Step::Wait => {}
            Step::Ended(how) => {
                outcome = Some(how);
                break;
            }
            Step::Reset(from) => {
                from.into_iter().for_each(|(id, n)| course.was_reset(id, n.into(), world.now));
            }
        }
        world.now += Duration::from_millis(100);
    }
    assert_eq!(outcome, Some(Outcome::Stuck));
    assert_eq!(course.resets(), &BTreeMap::from([(0, 1500)]), "no more than was planned");
}

#[test]
fn a_backend_without_a_connection_to_reset_does_not_stop_the_others() {
    let mut world = World::new(&[150, 150, 0]);
    let mut course = begin(&world, exact(0, 10), 10);
    course.has_no_more(0);
    assert_eq!(world.carry_out(&mut course, QUICK), Outcome::Stuck, "a half cannot be done");
    assert_eq!(world.active(), [150, 100, 50]);
    assert_eq!(course.resets(), &BTreeMap::from([(1, 50)]));
}

#[test]
fn what_comes_meanwhile_saves_resets() {
    let mut world = World::new(&[150, 150, 0]);
    let mut course = begin(&world, exact(10, 10), 10);
    for _ in 0..1000 {
        world.shares = course.shares();
        match course.step(&world.candidates(), world.now) {
            Step::Wait => {}
            Step::Ended(outcome) => {
                assert_eq!(outcome, Outcome::Balanced);
                break;
            }
            Step::Reset(from) => {
                for (id, count) in from {
                    world.members[usize::from(id)].active -= u64::from(count);
                    world.returning.push((world.now, true));
                    course.was_reset(id, count.into(), world.now);
                    world.resets.push((world.now, count.into()));
                }
            }
        }
        // Somebody new, ten times a second, for ten seconds.
        if world.resets.len() < 100 && world.active().iter().sum::<u64>() < 400 {
            world.returning.push((world.now, true));
        }
        world.pass();
    }
    let active = world.active();
    assert!(active.iter().all(|count| (120..=147).contains(count)), "{active:?}");
    assert!(world.all_resets() <= 60, "{} of 90", world.all_resets());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_pool_converges_and_nobody_is_reset_in_vain(
        members in proptest::collection::vec(
            (1..=256u16, 0..400u64).prop_map(|(weight, active)| Member { weight, active, limit: 0 }), 2..8),
        margin in 0..=50u8,
        floor in 0..30u32,
        rate in prop_oneof![Just(10u32), 1..500u32],
        within in prop_oneof![Just(0u64), 0..1800u64],
    ) {
        let tolerance = exact(margin, floor);
        let mut world = World::of(members.clone());
        let planned = plan::plan(&members, tolerance);
        let Some(mut course) = Course::begin(&world.candidates(), tolerance, rate, world.now) else {
            prop_assert_eq!(planned.resets(), 0);
            return Ok(());
        };
        let outcome = world.carry_out(&mut course, Clients { within, ..QUICK });
        prop_assert_eq!(outcome, Outcome::Balanced);
        prop_assert_eq!(world.all_resets(), planned.resets(), "no more and no fewer than needed");
        prop_assert!(world.most_in_a_second() <= rate.into());
        for ((before, after), part) in members.iter().zip(&world.members).zip(&planned.parts) {
            // No overshoot: whoever had too many is not below its share, whoever had too few is not above it.
            if before.active > part.fair {
                prop_assert!(after.active >= part.fair && after.active >= before.active.min(floor.into()));
            } else {
                prop_assert!(after.active <= part.fair);
            }
        }
        prop_assert_eq!(plan::plan(&world.members, tolerance).resets(), 0);
    }

    #[test]
    fn whatever_clients_do_it_ends_and_is_bounded(
        members in proptest::collection::vec(
            (1..=256u16, 0..400u64, prop_oneof![Just(0u32), 1..300u32])
                .prop_map(|(weight, active, limit)| Member { weight, active, limit }), 2..8),
        margin in 0..=50u8,
        floor in 0..30u32,
        rate in 1..500u32,
        within in 0..4000u64,
        dead in 0..=100u64,
        astray in 0..=100u64,
        seed in any::<u64>(),
    ) {
        let tolerance = exact(margin, floor);
        let mut world = World::of(members.clone());
        world.draw = seed;
        let planned = plan::plan(&members, tolerance).resets();
        if let Some(mut course) = Course::begin(&world.candidates(), tolerance, rate, world.now) {
            world.carry_out(&mut course, Clients { within, dead, astray: astray.min(100 - dead) });
        }
        prop_assert!(world.all_resets() <= 2 * planned, "{} of {}", world.all_resets(), planned);
        prop_assert!(world.most_in_a_second() <= rate.into());
    }
}
