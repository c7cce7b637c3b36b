//! One rebalance, from its beginning to its end. Pure: no clock.
//!
//! The plan is made anew at every step from the connections that there are, those that were reset a moment ago and are on
//! their way back counted where there is room for them. So what comes, goes or fails meanwhile is taken into account, and a
//! connection is reset only while it is still one too many.
//!
//! A rebalance comes to an end whatever the clients do. A round may reset as many connections as its plan had at its
//! beginning, and there is another round only if the last one has at least halved what is to be done: where connections that
//! were reset do not come back, or come back to where they were, nobody is reset for ever.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use lb_common::layout::BackendId;

use super::{
    pace::Pace,
    plan::{self, Member, Plan, Tolerance},
};

/// How long a client may need to connect again.
const RETURN: Duration = Duration::from_secs(2);
/// How old what is told to the data plane may become.
const REFRESH: Duration = Duration::from_secs(1);
/// Of each the plan is at most half of the one before: a million connections are down to one.
const MAX_ROUNDS: u32 = 20;

/// A backend that takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which one.
    pub id: BackendId,
    /// What the plan is made from.
    pub member: Member,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing; some are on their way, or it is too early for the next.
    Wait,
    /// Reset so many connections of these backends, and tell [`Course::was_reset`] or [`Course::has_no_more`].
    Reset(BTreeMap<BackendId, u32>),
    /// Nothing any more.
    Ended(Outcome),
}

/// How a rebalance ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everybody is within the margin, or as near as the floor and the limits allow.
    Balanced,
    /// No more than a tenth of what there was to do is left, which more resets would not make better: some of those that were
    /// reset went elsewhere, or not at all.
    Nearly,
    /// Resets do not help: what was reset does not come back to where there is room.
    Stuck,
    /// Who takes part, or how it is to be done, has changed.
    Interrupted,
}

impl Outcome {
    /// The word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Balanced => "balanced",
            Self::Nearly => "nearly-balanced",
            Self::Stuck => "stuck",
            Self::Interrupted => "interrupted",
        }
    }
}

/// What of a candidate must stay the same.
pub(super) fn identity(candidates: &[Candidate]) -> Vec<(BackendId, u16, u32)> {
    candidates
        .iter()
        .map(|candidate| (candidate.id, candidate.member.weight, candidate.member.limit))
        .collect()
}

/// A rebalance that goes on.
#[derive(Clone, Debug)]
pub struct Course {
    who: Vec<(BackendId, u16, u32)>,
    tolerance: Tolerance,
    pace: Pace,
    /// How many were to be reset at the very beginning.
    planned: u64,
    rounds: u32,
    /// What this round may reset, what of that is left, and how many connections there were at its beginning.
    round: u64,
    budget: u64,
    total: u64,
    recent: VecDeque<(Instant, u64)>,
    spent: BTreeSet<BackendId>,
    /// How many connections each is to have in the end.
    goals: BTreeMap<BackendId, u64>,
    /// When that was computed, and of how many connections.
    goals_of: (Instant, u64),
    left: u64,
    resets: BTreeMap<BackendId, u64>,
}

impl Course {
    /// Begins one; `None` where there is nothing to do.
    pub fn begin(candidates: &[Candidate], tolerance: Tolerance, rate: u32, now: Instant) -> Option<Self> {
        let members = members(candidates);
        let plan = plan::plan(&members, tolerance);
        let (round, total) = (plan.resets(), plan::total(&members));
        (round > 0).then(|| Self {
            who: identity(candidates),
            tolerance,
            pace: Pace::new(rate),
            planned: round,
            rounds: 1,
            round,
            budget: round,
            total,
            recent: VecDeque::new(),
            spent: BTreeSet::new(),
            goals: goals(candidates, &members, &plan),
            goals_of: (now, total),
            left: round,
            resets: BTreeMap::new(),
        })
    }

    /// What is to be done at `now`, when the candidates are as given. To be called several times a second; time never goes
    /// back.
    pub fn step(&mut self, candidates: &[Candidate], now: Instant) -> Step {
        if self.has_others(candidates) {
            return Step::Ended(Outcome::Interrupted);
        }
        while self.recent.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= RETURN) {
            self.recent.pop_front();
        }
        let members = members(candidates);
        let recent: u64 = self.recent.iter().map(|(_, count)| count).sum();
        let returning = recent.min(self.total.saturating_sub(plan::total(&members)));
        let arrived = plan::with_arrivals(&members, returning);
        let plan = plan::plan(&arrived, self.tolerance);
        let all = plan::total(&arrived);
        if all != self.goals_of.1 && now.saturating_duration_since(self.goals_of.0) >= REFRESH {
            (self.goals, self.goals_of) = (goals(candidates, &arrived, &plan), (now, all));
        }
        self.left = plan.resets();
        let goal = |id| self.goals.get(id).copied().unwrap_or(u64::MAX);
        let from: BTreeMap<BackendId, u64> = (candidates.iter().zip(&plan.parts))
            .filter(|(who, part)| who.member.active > part.fair && !self.spent.contains(&who.id))
            .map(|(who, _)| (who.id, who.member.active.saturating_sub(goal(&who.id))))
            .collect();
        let can = from.values().sum::<u64>().min(self.left);
        if can == 0 || self.budget == 0 {
            if recent > 0 {
                return Step::Wait;
            }
            return self.next_round(can, candidates, &plan, now);
        }
        let count = self.pace.take(can.min(self.budget), now);
        if count == 0 { Step::Wait } else { Step::Reset(most_first(from, count)) }
    }

    /// All have come back who will. Ends, or begins another round.
    fn next_round(&mut self, can: u64, candidates: &[Candidate], plan: &Plan, now: Instant) -> Step {
        let members = members(candidates);
        if self.left == 0 {
            return Step::Ended(Outcome::Balanced);
        }
        if can == 0 || self.left > self.round / 2 || self.rounds >= MAX_ROUNDS {
            let is_little = self.left <= self.planned / 10;
            return Step::Ended(if is_little { Outcome::Nearly } else { Outcome::Stuck });
        }
        self.rounds += 1;
        (self.round, self.budget, self.total) = (self.left, self.left, plan::total(&members));
        (self.goals, self.goals_of) = (goals(candidates, &members, plan), (now, self.total));
        Step::Wait
    }

    /// Whether others take part than at its beginning, or with other weights or limits: it is to end then.
    pub fn has_others(&self, candidates: &[Candidate]) -> bool {
        identity(candidates) != self.who
    }

    /// So many connections of a backend were reset.
    pub fn was_reset(&mut self, id: BackendId, count: u64, now: Instant) {
        if count == 0 {
            return;
        }
        *self.resets.entry(id).or_default() += count;
        self.budget = self.budget.saturating_sub(count);
        self.recent.push_back((now, count));
    }

    /// A backend has no connection that could be reset.
    pub fn has_no_more(&mut self, id: BackendId) {
        self.spent.insert(id);
    }

    /// Above how many connections a new one goes elsewhere if it can; for each backend that takes part, at least 1.
    ///
    /// Whoever is to get some has room for these, and nobody else has any: one that is within the margin would otherwise take
    /// what was reset for the sake of another.
    pub fn shares(&self) -> BTreeMap<BackendId, u32> {
        self.goals.iter().map(|(&id, &goal)| (id, u32::try_from(goal.max(1)).unwrap_or(u32::MAX))).collect()
    }

    /// How many are still to be reset.
    pub fn left(&self) -> u64 {
        self.left.min(self.budget)
    }

    /// How many were reset, by backend.
    pub fn resets(&self) -> &BTreeMap<BackendId, u64> {
        &self.resets
    }
}

fn members(candidates: &[Candidate]) -> Vec<Member> {
    candidates.iter().map(|candidate| candidate.member).collect()
}

fn goals(candidates: &[Candidate], members: &[Member], plan: &Plan) -> BTreeMap<BackendId, u64> {
    let parts = candidates.iter().zip(members.iter().zip(&plan.parts));
    parts.map(|(who, (member, part))| (who.id, part.after(member.active))).collect()
}

/// `count`, at most the sum of `from`, one after the other from whoever has most of them left.
fn most_first(mut from: BTreeMap<BackendId, u64>, count: u32) -> BTreeMap<BackendId, u32> {
    let mut chosen = BTreeMap::new();
    for _ in 0..count {
        let Some((&id, most)) = from.iter_mut().max_by_key(|(id, left)| (**left, std::cmp::Reverse(**id)))
        else {
            break;
        };
        if *most == 0 {
            break;
        }
        *most -= 1;
        *chosen.entry(id).or_default() += 1;
    }
    chosen
}

#[cfg(test)]
mod tests;
