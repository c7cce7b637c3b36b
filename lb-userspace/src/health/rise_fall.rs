//! From a row of check results to the condition of a backend. Pure: no clock, no socket.
//!
//! Two questions are answered apart, because a wrong answer costs differently:
//!
//! - *Does the backend get new flows?* [`Condition::Up`] or not. The first result decides at once; afterwards `fall`
//!   failures in a row take it out and `rise` successes in a row bring it back. Failures of either kind count.
//! - *May its flows be reset?* Only when it is [`DownKind::Dead`], and that needs `fall` *dead* results in a row,
//!   wherever they started. One lost packet while an API server lets its clients finish (`/readyz` says 500) must not
//!   reset them, and neither must the first check of a controller that was just restarted over pinned flows: "nothing is
//!   lost by a restart" would then depend on a single answer.
//!
//! So these are the ways, all of them transitions that the controller gets to see:
//!
//! ```text
//!  Unknown --pass--> Up <---------------- rise passes ----------------+
//!     |               |                                               |
//!     |               +- fall dead results ----------------------> Down(Dead)
//!     |               |                                             ^     |
//!     |               +- fall failures, mixed or answered           |     | one answered
//!     |                            |                  fall dead in a row  | failure
//!     |                            v                                |     v
//!     +--answered failure----> Down(ShuttingDown) ------------------+-----+
//!     |                            ^ one answered failure           |
//!     +--dead failure--------> Down(not known yet) -----------------+
//! ```
//!
//! - Shutting down, then dead: the normal end of an API server. Its remaining flows hang now, so this is the moment to
//!   reset them.
//! - Dead, then shutting down: it is starting up, or a black hole has healed. One answer proves that it lives, so one is
//!   enough. The flows of before have been reset already; those that exist now are left alone.
//! - Dead can follow again after that, and means the same again.

use std::time::Duration;

use serde::Serialize;

use crate::config::model::Health;

/// Whether a backend gets new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// Not checked yet.
    Unknown,
    /// Checks pass.
    Up,
    /// Checks fail.
    Down,
}

/// What a failed check, or a row of them, says about the flows that a backend still has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DownKind {
    /// Nobody answers (no SYN-ACK, refused, reset, time-out, broken TLS): its flows may be reset.
    Dead,
    /// It answers, but not what is wanted: its flows are left to finish.
    ShuttingDown,
}

/// The result of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckResult {
    /// The wanted answer.
    Pass,
    /// Anything else.
    Fail(DownKind),
}

/// What the results so far add up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// No result yet.
    Unknown,
    /// Gets new flows.
    Up,
    /// Gets none. `None` while too few results tell dead from shutting down: treat its flows as those of a backend that
    /// is shutting down. That window is at most `fall` checks at `fast_interval`.
    Down(Option<DownKind>),
}

impl Condition {
    /// Whether it gets new flows.
    pub fn state(self) -> HealthState {
        match self {
            Self::Unknown => HealthState::Unknown,
            Self::Up => HealthState::Up,
            Self::Down(_) => HealthState::Down,
        }
    }

    /// Which kind of down, if it is down and the kind is known.
    pub fn down(self) -> Option<DownKind> {
        match self {
            Self::Unknown | Self::Up => None,
            Self::Down(kind) => kind,
        }
    }
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down(None) => "down",
            Self::Down(Some(DownKind::Dead)) => "down (dead)",
            Self::Down(Some(DownKind::ShuttingDown)) => "down (shutting down)",
        })
    }
}

/// A change of condition; `from` and `to` differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Before the result.
    pub from: Condition,
    /// After it.
    pub to: Condition,
}

/// The machine: thresholds, pauses, and how many results of each sort came in a row.
#[derive(Clone, Debug)]
pub struct RiseFall {
    rise: u32,
    fall: u32,
    interval: Duration,
    down_interval: Duration,
    fast_interval: Duration,
    condition: Condition,
    last: Option<CheckResult>,
    passes: u32,
    fails: u32,
    deads: u32,
}

impl RiseFall {
    /// A machine without results. A `rise` or `fall` of 0 counts as 1.
    pub fn new(health: &Health) -> Self {
        Self {
            rise: health.rise.max(1),
            fall: health.fall.max(1),
            interval: health.interval,
            down_interval: health.down_interval,
            fast_interval: health.fast_interval,
            condition: Condition::Unknown,
            last: None,
            passes: 0,
            fails: 0,
            deads: 0,
        }
    }

    /// What the results so far add up to.
    pub fn condition(&self) -> Condition {
        self.condition
    }

    /// Takes the next result, and tells what it changed.
    pub fn observe(&mut self, result: CheckResult) -> Option<Transition> {
        self.last = Some(result);
        self.passes = if result == CheckResult::Pass { self.passes.saturating_add(1) } else { 0 };
        self.fails = if result == CheckResult::Pass { 0 } else { self.fails.saturating_add(1) };
        self.deads =
            if result == CheckResult::Fail(DownKind::Dead) { self.deads.saturating_add(1) } else { 0 };

        let dead_for_sure = self.deads >= self.fall;
        let from = self.condition;
        let to = match (from, result) {
            (Condition::Unknown | Condition::Up, CheckResult::Pass) => Condition::Up,
            (Condition::Down(_), CheckResult::Pass) if self.passes >= self.rise => Condition::Up,
            (Condition::Down(kind), CheckResult::Pass) => Condition::Down(kind),

            (Condition::Up, CheckResult::Fail(_)) if self.fails < self.fall => Condition::Up,
            (_, CheckResult::Fail(DownKind::Dead)) if dead_for_sure => Condition::Down(Some(DownKind::Dead)),
            (Condition::Unknown, CheckResult::Fail(DownKind::Dead)) => Condition::Down(None),
            // `fall` failures, but one of them was answered: it lived a moment ago.
            (Condition::Up, CheckResult::Fail(DownKind::Dead)) => {
                Condition::Down(Some(DownKind::ShuttingDown))
            }
            (Condition::Down(kind), CheckResult::Fail(DownKind::Dead)) => Condition::Down(kind),
            (_, CheckResult::Fail(DownKind::ShuttingDown)) => Condition::Down(Some(DownKind::ShuttingDown)),
        };
        self.condition = to;
        (from != to).then_some(Transition { from, to })
    }

    /// The pause before the next check: none before the first, `fast_interval` while the last result disagrees with the
    /// condition (HAProxy's `fastinter`), else `interval` or `down_interval`.
    pub fn next_delay(&self) -> Duration {
        match (self.condition, self.last) {
            (Condition::Unknown, _) | (_, None) => Duration::ZERO,
            (Condition::Up, Some(CheckResult::Pass)) => self.interval,
            (Condition::Up, Some(CheckResult::Fail(_))) => self.fast_interval,
            (Condition::Down(_), Some(CheckResult::Pass)) => self.fast_interval,
            (Condition::Down(kind), Some(CheckResult::Fail(failure))) if kind == Some(failure) => {
                self.down_interval
            }
            (Condition::Down(_), Some(CheckResult::Fail(_))) => self.fast_interval,
        }
    }
}

#[cfg(test)]
mod tests;
