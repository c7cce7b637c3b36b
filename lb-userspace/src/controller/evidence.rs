//! What the packets themselves say about a backend: a SYN that it refused or left unanswered is a reason to check it at
//! once, rather than when its next check is due.

use std::{collections::BTreeMap, time::Duration};

use lb_common::layout::{BackendCounters, BackendId};

use super::Controller;

/// How often to look.
pub const PERIOD: Duration = Duration::from_millis(100);

/// How many SYNs each backend had refused or left unanswered when it was last looked.
#[derive(Debug, Default)]
pub struct Evidence {
    troubles: BTreeMap<BackendId, u64>,
}

impl Evidence {
    /// Takes a backend's counters of now. True where it refused a SYN, or left one unanswered, since the last look.
    fn is_new(&mut self, id: BackendId, counters: &BackendCounters) -> bool {
        let troubles = counters.refused + counters.unanswered;
        self.troubles.insert(id, troubles).is_some_and(|before| troubles > before)
    }
}

impl Controller {
    /// Has the backends checked that the packets speak against.
    pub(super) fn look_at_evidence(&mut self) {
        let Some(dataplane) = &self.dataplane else { return };
        for entry in self.checks.up() {
            let Some(id) = self.ids.id(&entry) else { continue };
            let Ok(counters) = dataplane.backend_counters(id) else { continue };
            if self.evidence.is_new(id, &counters) {
                self.checks.probe_one_now(&entry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_since_the_last_look_counts() {
        let counters =
            |refused, unanswered| BackendCounters { refused, unanswered, ..BackendCounters::default() };
        let mut evidence = Evidence::default();
        assert!(!evidence.is_new(1, &counters(5, 5)), "a predecessor's");
        assert!(!evidence.is_new(1, &counters(5, 5)));
        assert!(evidence.is_new(1, &counters(6, 5)));
        assert!(evidence.is_new(1, &counters(6, 6)));
        assert!(!evidence.is_new(2, &counters(1, 0)), "another backend");
        assert!(!evidence.is_new(1, &counters(0, 0)), "an id with another backend now");
    }
}
