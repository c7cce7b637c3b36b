//! When a rebalance begins by itself. Pure: no clock.
//!
//! It begins when skew that chance does not explain has lasted for [`LASTS`], and nobody has come or gone for as long. A
//! backend that comes and goes must not cause one each time: every life of it that was shorter than [`SHORT`] doubles the
//! time for which nobody may have come or gone. After a rebalance that did not help there is a pause, which doubles as well.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use lb_common::layout::BackendId;

use super::{
    course::{Candidate, Outcome, identity},
    plan::{self, Member, Tolerance},
};

/// For so long there must have been skew, and the same backends.
pub const LASTS: Duration = Duration::from_secs(3);
/// A backend that leaves within that time after it came is a flapping one.
const SHORT: Duration = Duration::from_secs(5 * 60);
/// For so long that is remembered.
const REMEMBERED: Duration = Duration::from_secs(30 * 60);
/// The first pause after a rebalance that did not help.
const PAUSE: Duration = Duration::from_secs(30);
/// The longest pause, and the longest time for which nobody may have come or gone.
const LONGEST: Duration = Duration::from_secs(10 * 60);

/// Watches one service.
#[derive(Clone, Debug, Default)]
pub struct Trigger {
    who: Vec<(BackendId, u16, u32)>,
    changed: Option<Instant>,
    /// When each came; `None` of those that were there when the watch began.
    came: BTreeMap<BackendId, Option<Instant>>,
    /// When short lives ended.
    short_lives: BTreeMap<BackendId, Vec<Instant>>,
    skewed_since: Option<Instant>,
    /// The last one was cut off in the middle: what it left needs no more proof.
    is_unfinished: bool,
    stuck: u32,
    not_before: Option<Instant>,
}

impl Trigger {
    /// Takes in what is. True where a rebalance is to begin; whoever begins one tells [`Self::ended`] of its end, and does
    /// not ask meanwhile. Time never goes back.
    pub fn observe(&mut self, candidates: &[Candidate], tolerance: Tolerance, now: Instant) -> bool {
        self.follow(candidates, now);
        let members: Vec<Member> = candidates.iter().map(|candidate| candidate.member).collect();
        let is_skewed = plan::plan(&members, tolerance).resets() > 0
            && (self.is_unfinished || plan::is_no_chance(&members));
        self.skewed_since = if is_skewed { self.skewed_since.or(Some(now)) } else { None };
        let lasted = |since: Option<Instant>| {
            since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
        };
        lasted(self.skewed_since) >= LASTS
            && lasted(self.changed) >= self.hold(now)
            && self.not_before.is_none_or(|until| now >= until)
    }

    /// Notes who came and went; also while a rebalance goes on.
    pub fn follow(&mut self, candidates: &[Candidate], now: Instant) {
        let who = identity(candidates);
        if self.changed.is_some() && who == self.who {
            return;
        }
        let is_here = |id: BackendId| candidates.iter().any(|candidate| candidate.id == id);
        let gone: Vec<(BackendId, Option<Instant>)> =
            self.came.iter().map(|(&id, &came)| (id, came)).filter(|(id, _)| !is_here(*id)).collect();
        for (id, came) in gone {
            self.came.remove(&id);
            if came.is_some_and(|came| now.saturating_duration_since(came) < SHORT) {
                self.short_lives.entry(id).or_default().push(now);
            }
        }
        let came = self.changed.map(|_| now);
        for candidate in candidates {
            self.came.entry(candidate.id).or_insert(came);
        }
        for ends in self.short_lives.values_mut() {
            ends.retain(|end| now.saturating_duration_since(*end) < REMEMBERED);
        }
        self.short_lives.retain(|_, ends| !ends.is_empty());
        (self.who, self.changed) = (who, Some(now));
        (self.skewed_since, self.not_before, self.stuck) = (None, None, 0);
    }

    /// For how long nobody may have come or gone.
    fn hold(&self, now: Instant) -> Duration {
        let lives = |ends: &Vec<Instant>| {
            ends.iter().filter(|end| now.saturating_duration_since(**end) < REMEMBERED).count()
        };
        let most = self.short_lives.values().map(lives).max().unwrap_or(0);
        doubled(LASTS, most)
    }

    /// A rebalance has ended.
    pub fn ended(&mut self, outcome: Outcome, now: Instant) {
        self.skewed_since = None;
        self.is_unfinished = outcome == Outcome::Interrupted;
        match outcome {
            Outcome::Balanced | Outcome::Nearly => (self.stuck, self.not_before) = (0, None),
            Outcome::Stuck => {
                self.not_before = now.checked_add(doubled(PAUSE, self.stuck as usize));
                self.stuck += 1;
            }
            Outcome::Interrupted => {}
        }
    }
}

fn doubled(time: Duration, times: usize) -> Duration {
    let factor = 1u32.checked_shl(u32::try_from(times.min(16)).unwrap_or(16)).unwrap_or(u32::MAX);
    time.saturating_mul(factor).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLERANCE: Tolerance = Tolerance { margin: 10, floor: 10 };

    fn candidates(active: &[(BackendId, u64)]) -> Vec<Candidate> {
        let candidate = |&(id, active)| Candidate { id, member: Member { weight: 100, active, limit: 0 } };
        active.iter().map(candidate).collect()
    }

    /// Asks ten times a second for so long; when it began, if it did.
    fn first(
        trigger: &mut Trigger,
        active: &[(BackendId, u64)],
        from: Instant,
        seconds: u64,
    ) -> Option<Duration> {
        let times = (0..seconds * 10).map(|tenth| Duration::from_millis(tenth * 100));
        times.into_iter().find(|after| trigger.observe(&candidates(active), TOLERANCE, from + *after))
    }

    const SKEWED: [(BackendId, u64); 3] = [(1, 150), (2, 150), (3, 0)];
    const TWO: [(BackendId, u64); 2] = [(1, 150), (2, 150)];

    #[test]
    fn skew_that_lasts_begins_one() {
        let begin = Instant::now();
        let mut trigger = Trigger::default();
        assert_eq!(first(&mut trigger, &TWO, begin, 60), None, "nobody is missing");
        let back = begin + Duration::from_secs(60);
        assert_eq!(first(&mut trigger, &SKEWED, back, 60), Some(LASTS));
    }

    #[test]
    fn a_moment_of_skew_and_what_chance_explains_begin_none() {
        let begin = Instant::now();
        let mut trigger = Trigger::default();
        for second in 0..60 {
            let active = if second % 3 == 0 { [(1, 100), (2, 100), (3, 100)] } else { SKEWED };
            assert_eq!(first(&mut trigger, &active, begin + Duration::from_secs(second), 1), None);
        }
        let chance = [(1, 115), (2, 102), (3, 83)];
        assert_eq!(first(&mut Trigger::default(), &chance, begin, 60), None);
        let mut cut_off = Trigger::default();
        cut_off.ended(Outcome::Interrupted, begin);
        assert_eq!(first(&mut cut_off, &chance, begin, 60), Some(LASTS), "its rest is done");
        // Of many connections a tenth is no chance.
        let many = [(1, 11_500), (2, 10_200), (3, 8300)];
        assert_eq!(first(&mut Trigger::default(), &many, begin, 60), Some(LASTS));
        // And few are few.
        assert_eq!(first(&mut Trigger::default(), &[(1, 10), (2, 10), (3, 0)], begin, 60), None);
    }

    #[test]
    fn a_flapping_backend_begins_none() {
        for (up, down) in [(1, 1), (2, 5), (4, 2), (5, 3), (20, 10), (100, 10)] {
            let mut now = Instant::now();
            let mut trigger = Trigger::default();
            assert_eq!(first(&mut trigger, &TWO, now, 10), None);
            let mut begun = Vec::new();
            for life in 0..60 {
                now += Duration::from_secs(up + down);
                if first(&mut trigger, &SKEWED, now, up).is_some() {
                    begun.push(life);
                    trigger.ended(Outcome::Interrupted, now);
                }
                assert_eq!(first(&mut trigger, &TWO, now + Duration::from_secs(up), down), None);
            }
            // Before it is known to flap, nobody can know; a rare one is tried again when that is forgotten.
            let most = if up <= 3 {
                0
            } else if up <= 5 {
                1
            } else {
                10
            };
            assert!(begun.len() <= most, "up {up} s, down {down} s: {begun:?}");
        }
    }

    #[test]
    fn a_rolling_upgrade_is_no_flapping() {
        let mut now = Instant::now();
        let mut trigger = Trigger::default();
        let all = [(1, 100), (2, 100), (3, 100)];
        assert_eq!(first(&mut trigger, &all, now, 10), None);
        for gone in 1..=3 {
            now += Duration::from_secs(60);
            let without: Vec<_> =
                all.into_iter().filter(|(id, _)| *id != gone).map(|(id, _)| (id, 150)).collect();
            assert_eq!(first(&mut trigger, &without, now, 30), None);
            now += Duration::from_secs(30);
            let back: Vec<_> = all.iter().map(|(id, _)| (*id, if *id == gone { 0 } else { 150 })).collect();
            assert_eq!(first(&mut trigger, &back, now, 30), Some(LASTS), "{gone}");
            trigger.ended(Outcome::Balanced, now + LASTS);
        }
    }

    #[test]
    fn what_did_not_help_is_tried_again_later_and_later() {
        let mut now = Instant::now();
        let mut trigger = Trigger::default();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let after = first(&mut trigger, &SKEWED, now, 2000).expect("in the end");
            pauses.push(after.as_secs());
            now += after;
            trigger.ended(Outcome::Stuck, now);
        }
        assert_eq!(pauses, [3, 30, 60, 120, 240, 480, 600, 600]);
        // Who comes changes everything.
        let four = [(1, 150), (2, 150), (3, 0), (4, 0)];
        assert_eq!(first(&mut trigger, &four, now, 60), Some(LASTS));
    }
}
