//! Slow start: a backend that has recovered gets its share of new flows in steps, not at once. Pure: no clock.
//!
//! An API server that has just come back has cold caches, and every client that lost it opens a watch again. So its
//! weight begins at a tenth and grows by a tenth at a time until it is whole. There are ten steps, the first at the
//! moment of recovery and the last at the end of the ramp: at most ten new Maglev tables, each of which moves few flows.
//!
//! - *Only after a recovery.* A backend that is up when the daemon first hears of it has its whole weight: all of them
//!   come up together then, and the daemon may just have been restarted over a data plane that works.
//! - *A restart ends it.* A ramp is not kept anywhere. The daemon that is started during one finds the backend up and
//!   gives it its whole weight. That is a step in the right direction, and earlier than configured.
//! - *Together.* Backends that recover at the same moment take each step at the same moment, so their shares are as
//!   without slow start, within what rounding leaves of small weights: a weight of 100 or more loses nothing by it.

use std::time::{Duration, Instant};

use crate::health::rise_fall::HealthState;

/// How many weights a ramp goes through. The last is the whole weight.
const STEPS: u128 = 10;

/// The way of one backend from a tenth of its weight to all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ramp {
    /// When the backend recovered.
    pub since: Instant,
    /// `health.slow_start`: how long after that it has its whole weight. With zero it has it at once.
    pub length: Duration,
}

impl Ramp {
    /// The weight that counts at `now`: 0 stays 0, and anything else is at least 1. Never falls while time goes on, takes
    /// on at most ten values, and is `weight` from the end of the ramp on.
    pub fn effective_weight(&self, weight: u16, now: Instant) -> u16 {
        let tenths = self.steps_taken(now) + 1;
        // Rounded up, so that a small weight is not nothing. At most `weight`, which fits.
        (u128::from(weight) * tenths).div_ceil(STEPS) as u16
    }

    /// When the weight may change next; `None` once it is whole. Always later than `now`.
    pub fn next_step(&self, now: Instant) -> Option<Instant> {
        let step = self.steps_taken(now) + 1;
        if step >= STEPS {
            return None;
        }
        // Rounded up to the nanosecond from which `steps_taken` counts it.
        let nanos = (self.length.as_nanos() * step).div_ceil(STEPS - 1);
        let after = Duration::new(u64::try_from(nanos / 1_000_000_000).ok()?, (nanos % 1_000_000_000) as u32);
        self.since.checked_add(after)
    }

    /// How many steps there were after the first; 9 at the end.
    fn steps_taken(&self, now: Instant) -> u128 {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= self.length {
            return STEPS - 1;
        }
        elapsed.as_nanos() * (STEPS - 1) / self.length.as_nanos()
    }
}

/// Follows the health of one backend, and knows whether it is on a ramp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlowStart {
    was_down: bool,
    ramp: Option<Ramp>,
}

impl SlowStart {
    /// Takes in what the checks say. `length` is the service's `slow_start`; it counts for ramps that begin now, and one
    /// of zero begins none.
    ///
    /// A backend that goes down in the middle of its ramp begins a new one when it recovers.
    pub fn observe(&mut self, state: HealthState, length: Duration, now: Instant) {
        match state {
            // Not checked yet, or not checked again: no news.
            HealthState::Unknown => {}
            HealthState::Down => *self = Self { was_down: true, ramp: None },
            HealthState::Up => {
                if self.was_down && !length.is_zero() {
                    self.ramp = Some(Ramp { since: now, length });
                }
                self.was_down = false;
            }
        }
        self.ramp = self.ramp.filter(|ramp| ramp.next_step(now).is_some());
    }

    /// The weight that counts at `now`; see [`Ramp::effective_weight`].
    pub fn effective_weight(&self, weight: u16, now: Instant) -> u16 {
        self.ramp.map_or(weight, |ramp| ramp.effective_weight(weight, now))
    }

    /// When to ask again; `None` while the weight is whole.
    pub fn next_step(&self, now: Instant) -> Option<Instant> {
        self.ramp?.next_step(now)
    }
}

#[cfg(test)]
mod tests;
