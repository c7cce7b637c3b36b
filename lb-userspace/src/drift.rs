//! How far a backend's load, as the data plane keeps it, is from what a walk of the flow tables counts. Pure.
//!
//! The data plane adds and subtracts; some ends of flows it does not see (a flow that falls silent, a restart), so that
//! now and then its number has to be set right. But a walk takes its time, flows come and go meanwhile, and a number
//! that is written over it would undo what they did: a limit of connections would let too many in.

use lb_common::layout::Load;

/// After so many walks in a row that all counted more, or all less, it is no coincidence.
const WALKS: u32 = 5;

/// What the last walks found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drift {
    /// The least that one of them differed by, with its sign.
    least: i64,
    /// How many of them in a row have had that sign.
    walks: u32,
}

impl Drift {
    /// What `Load::active` should be after a walk that counted so many flows, if it is to be written: at once where
    /// nothing happened during the walk, else where several walks agree that it is wrong.
    pub fn corrected(&mut self, before: Load, after: Load, counted: i64) -> Option<i64> {
        let differs = counted - after.active;
        if differs == 0 {
            *self = Self::default();
            return None;
        }
        let is_quiet = (before.active, before.pending, before.tick, before.asked)
            == (after.active, after.pending, after.tick, after.asked)
            && after.pending == 0;
        if is_quiet {
            *self = Self::default();
            return Some(counted);
        }
        if self.walks == 0 || differs.signum() != self.least.signum() {
            *self = Self { least: differs, walks: 1 };
            return None;
        }
        self.walks += 1;
        if differs.abs() < self.least.abs() {
            self.least = differs;
        }
        (self.walks >= WALKS).then(|| {
            let active = after.active + self.least;
            *self = Self::default();
            active
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(active: i64, pending: i64) -> Load {
        Load { active, pending, tick: 7, ..Load::default() }
    }

    #[test]
    fn in_a_quiet_moment_what_is_counted_is_right() {
        let mut drift = Drift::default();
        assert_eq!(drift.corrected(load(5, 0), load(5, 0), 5), None);
        assert_eq!(drift.corrected(load(5, 0), load(5, 0), 3), Some(3));
    }

    #[test]
    fn what_changes_during_a_walk_is_not_written_over() {
        let mut drift = Drift::default();
        assert_eq!(drift.corrected(load(5, 0), load(6, 0), 5), None, "one came behind the walk's back");
        assert_eq!(drift.corrected(load(6, 1), load(6, 1), 5), None, "a handshake is under way");
        assert_eq!(drift.corrected(load(6, 0), load(5, 0), 6), None, "one went, and was counted");
    }

    #[test]
    fn what_every_walk_finds_is_set_right_by_the_least_of_it() {
        let mut drift = Drift::default();
        for counted in [12, 14, 13, 15] {
            assert_eq!(drift.corrected(load(9, 3), load(10, 2), counted), None);
        }
        assert_eq!(drift.corrected(load(9, 3), load(10, 2), 13), Some(12));
        for counted in [12, 9, 12, 9, 12, 9, 12] {
            assert_eq!(drift.corrected(load(9, 3), load(10, 2), counted), None, "now more, now less");
        }
    }
}
