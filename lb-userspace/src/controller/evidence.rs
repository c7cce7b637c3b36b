//! What the packets themselves say about a backend: a SYN that it refused or left unanswered, or an open flow that it broke,
//! is a reason to check it at once, rather than when its next check is due.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use lb_common::layout::{BackendCounters, BackendId};

use super::Controller;
use crate::config::model::Mode;

/// How often to look, unless looking takes more than a twentieth of that.
pub const PERIOD: Duration = Duration::from_millis(50);
/// A backend on the same network answers a SYN in less than a millisecond; in so much time one that works answers at least
/// one of several. No wait for the client to repeat it, which takes a second.
const ANSWERS_WITHIN: Duration = Duration::from_millis(100);

/// What each backend's counters said when it was last looked.
#[derive(Debug, Default)]
pub struct Evidence {
    known: BTreeMap<BackendId, Known>,
    not_before: Option<Instant>,
}

#[derive(Debug)]
struct Known {
    /// SYNs refused or left unanswered, open flows broken.
    troubles: u64,
    opened: u64,
    answered: u64,
    /// Since when SYNs have been sent to it none of which has been answered.
    waiting: Option<Instant>,
}

impl Evidence {
    /// Takes a backend's counters of `now`. True where since the last look it refused a SYN, left one unanswered until it was
    /// repeated, or broke an open flow; and where it `answers` through here, but has answered no SYN for a while in which
    /// there were some.
    fn is_new(&mut self, id: BackendId, counters: &BackendCounters, answers: bool, now: Instant) -> bool {
        let troubles = counters.refused + counters.unanswered + counters.broken;
        let &BackendCounters { opened, answered, .. } = counters;
        let Some(known) = self.known.get_mut(&id) else {
            // A predecessor's.
            self.known.insert(id, Known { troubles, opened, answered, waiting: None });
            return false;
        };
        let mut is_new = troubles > known.troubles;
        if answered != known.answered || opened < known.opened {
            known.waiting = None;
        } else if answers && opened > known.opened {
            known.waiting = known.waiting.or(Some(now));
        }
        if known.waiting.is_some_and(|since| now.saturating_duration_since(since) >= ANSWERS_WITHIN) {
            // The next SYN begins anew.
            known.waiting = None;
            is_new = true;
        }
        (known.troubles, known.opened, known.answered) = (troubles, opened, answered);
        is_new
    }
}

impl Controller {
    /// Has the backends checked that the packets speak against.
    pub(super) fn look_at_evidence(&mut self) {
        let Some(dataplane) = &self.dataplane else { return };
        let begin = Instant::now();
        if self.evidence.not_before.is_some_and(|not_before| begin < not_before) {
            return;
        }
        let modes: BTreeMap<_, _> = self
            .config
            .services
            .iter()
            .map(|service| (crate::desired::service_key(service), service.mode))
            .collect();
        let up = self.checks.up();
        let Ok(counters) = dataplane.backend_counters_below(self.ids.end()) else { return };
        let mut suspects = BTreeSet::new();
        for entry in &up {
            let Some(id) = self.ids.id(entry) else { continue };
            let Some(counters) = counters.get(usize::from(id)) else { continue };
            let answers = modes.get(&entry.service) == Some(&Mode::Nat);
            if self.evidence.is_new(id, counters, answers, begin) {
                suspects.insert(entry.address.ip());
            }
        }
        // What has happened to one service of a host may have happened to the host.
        for entry in up.iter().filter(|entry| suspects.contains(&entry.address.ip())) {
            self.checks.probe_one_now(entry);
        }
        self.evidence.not_before = Some(begin + begin.elapsed() * 20);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn troubles(refused: u64, unanswered: u64, broken: u64) -> BackendCounters {
        BackendCounters { refused, unanswered, broken, ..BackendCounters::default() }
    }

    fn syns(opened: u64, answered: u64) -> BackendCounters {
        BackendCounters { opened, answered, ..BackendCounters::default() }
    }

    #[test]
    fn only_what_is_new_since_the_last_look_counts() {
        let now = Instant::now();
        let mut evidence = Evidence::default();
        assert!(!evidence.is_new(1, &troubles(5, 5, 5), true, now), "a predecessor's");
        assert!(!evidence.is_new(1, &troubles(5, 5, 5), true, now));
        assert!(evidence.is_new(1, &troubles(6, 5, 5), true, now));
        assert!(evidence.is_new(1, &troubles(6, 6, 5), false, now));
        assert!(evidence.is_new(1, &troubles(6, 6, 6), false, now));
        assert!(!evidence.is_new(2, &troubles(1, 0, 0), true, now), "another backend");
        assert!(!evidence.is_new(1, &troubles(0, 0, 0), true, now), "an id with another backend now");
    }

    /// Looks every 50 ms; the row says what has been counted by then, and at which looks it is evidence.
    fn looks(answers: bool, rows: &[(u64, u64)]) -> Vec<usize> {
        let begin = Instant::now();
        let mut evidence = Evidence::default();
        evidence.is_new(1, &syns(0, 0), answers, begin);
        let looked = (1..).zip(rows).filter(|&(look, &(opened, answered))| {
            evidence.is_new(1, &syns(opened, answered), answers, begin + PERIOD * look)
        });
        looked.map(|(look, _)| look as usize).collect()
    }

    #[test]
    fn syns_of_which_none_is_answered_for_a_tenth_of_a_second_are_evidence() {
        assert_eq!(looks(true, &[(5, 5), (10, 5), (15, 5), (20, 5), (25, 5), (30, 5), (35, 5)]), [4, 7]);
        assert_eq!(looks(true, &[(1, 0), (1, 0), (1, 0), (1, 0), (1, 0), (1, 0)]), [3], "a single one");
    }

    #[test]
    fn answers_are_evidence_of_nothing() {
        assert_eq!(looks(true, &[(5, 4), (10, 9), (15, 14), (20, 19), (25, 24)]), [] as [usize; 0]);
        assert_eq!(looks(true, &[(1, 0), (1, 1), (2, 1), (2, 2), (3, 2), (3, 3)]), [] as [usize; 0]);
        assert_eq!(looks(true, &[(0, 0), (0, 0), (0, 0), (0, 0)]), [] as [usize; 0], "nobody asked");
        let no_answers = [(5, 0), (10, 0), (15, 0), (20, 0), (25, 0)];
        assert_eq!(looks(false, &no_answers), [] as [usize; 0], "they do not come through here");
    }
}
