//! Counters that should stand still: a packet that was dropped because a table is full is an operator's affair. Pure.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use lb_common::reason::{DropReason, TransmitReason};

/// How often to look.
pub const PERIOD: Duration = Duration::from_secs(1);
/// A warning about the same thing comes at most that often; and that long after the last rise it is no problem any more.
const PAUSE: Duration = Duration::from_secs(10);

/// What is watched.
struct Watched {
    name: &'static str,
    counters: &'static [u32],
    /// What it means for clients, and what to do.
    remedy: &'static str,
}

const WATCHED: [Watched; 4] = [
    Watched {
        name: DropReason::FlowTableFull.name(),
        counters: &[DropReason::FlowTableFull.counter()],
        remedy: "new connections are dropped: raise flows.max",
    },
    Watched {
        name: DropReason::NatPortsExhausted.name(),
        counters: &[DropReason::NatPortsExhausted.counter()],
        remedy: "new connections are dropped: add backends, or a second VIP",
    },
    Watched {
        name: DropReason::NextHopUnknown.name(),
        counters: &[DropReason::NextHopUnknown.counter()],
        remedy: "packets to a backend are dropped: see that it, or its router, answers ARP (`ip neigh show`)",
    },
    Watched {
        name: DropReason::AllBackendsFull.name(),
        counters: &[DropReason::AllBackendsFull.counter(), TransmitReason::ResetAllFull.counter()],
        remedy: "new connections are turned away: raise max_connections, or add backends",
    },
];

/// Something that is to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alert {
    /// The name of the reason.
    pub name: &'static str,
    /// How many packets since the last alert of this name.
    pub packets: u64,
    /// What it means, and what to do.
    pub remedy: &'static str,
}

/// What the counters were at the last look.
#[derive(Debug, Default)]
pub struct Alerts {
    seen: BTreeMap<&'static str, Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    count: u64,
    /// The count at the last alert.
    told: u64,
    told_at: Option<Instant>,
    rose_at: Option<Instant>,
}

impl Alerts {
    /// Takes the counters of all reasons as they are at `now`, and returns what is to be logged. What is there at the
    /// first look is a predecessor's.
    pub fn look(&mut self, counters: &[u64], now: Instant) -> Vec<Alert> {
        let mut alerts = Vec::new();
        for watched in &WATCHED {
            let of = |index: &u32| counters.get(*index as usize).copied().unwrap_or(0);
            let count = watched.counters.iter().map(of).sum();
            let new = Seen { count, told: count, told_at: None, rose_at: None };
            let seen = self.seen.entry(watched.name).or_insert(new);
            if count < seen.count {
                // The maps were made anew.
                *seen = new;
            }
            if count > seen.count {
                (seen.count, seen.rose_at) = (count, Some(now));
            }
            let may_tell = seen.told_at.is_none_or(|told_at| now.saturating_duration_since(told_at) >= PAUSE);
            if seen.count > seen.told && may_tell {
                let packets = seen.count - seen.told;
                (seen.told, seen.told_at) = (seen.count, Some(now));
                alerts.push(Alert { name: watched.name, packets, remedy: watched.remedy });
            }
        }
        alerts
    }

    /// What has risen lately, in words.
    pub fn problems(&self, now: Instant) -> Vec<String> {
        let rises =
            |seen: &Seen| seen.rose_at.is_some_and(|rose_at| now.saturating_duration_since(rose_at) < PAUSE);
        (WATCHED.iter())
            .filter_map(|watched| Some((watched, self.seen.get(watched.name)?)))
            .filter(|(_, seen)| rises(seen))
            .map(|(watched, seen)| format!("{} ({} packets): {}", watched.name, seen.count, watched.remedy))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use lb_common::reason;

    use super::*;

    fn counters(full_tables: u64, full_backends: (u64, u64)) -> Vec<u64> {
        let mut counters = vec![0; reason::COUNTERS as usize];
        counters[DropReason::FlowTableFull.counter() as usize] = full_tables;
        counters[DropReason::AllBackendsFull.counter() as usize] = full_backends.0;
        counters[TransmitReason::ResetAllFull.counter() as usize] = full_backends.1;
        // Of no concern.
        counters[DropReason::UnknownFlow.counter() as usize] = full_tables * 100;
        counters
    }

    fn told(alerts: &[Alert]) -> Vec<(&str, u64)> {
        alerts.iter().map(|alert| (alert.name, alert.packets)).collect()
    }

    #[test]
    fn a_rise_is_told_at_once_and_then_every_ten_seconds() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut alerts = Alerts::default();
        assert_eq!(alerts.look(&counters(5, (0, 0)), at(0)), [], "a predecessor's");
        assert_eq!(told(&alerts.look(&counters(7, (0, 0)), at(1))), [("flow-table-full", 2)]);
        assert_eq!(alerts.look(&counters(100, (0, 0)), at(2)), []);
        assert_eq!(alerts.look(&counters(100, (0, 0)), at(10)), []);
        assert_eq!(told(&alerts.look(&counters(100, (0, 0)), at(11))), [("flow-table-full", 93)]);
        assert_eq!(alerts.look(&counters(100, (0, 0)), at(60)), [], "nothing new");
    }

    #[test]
    fn both_answers_of_a_full_service_are_one_alert() {
        let mut alerts = Alerts::default();
        let now = Instant::now();
        alerts.look(&counters(0, (0, 0)), now);
        let alert = alerts.look(&counters(0, (2, 3)), now)[0];
        assert_eq!((alert.name, alert.packets), ("all-backends-full", 5));
        assert!(alert.remedy.contains("max_connections"));
    }

    #[test]
    fn it_is_a_problem_while_it_rises() {
        let begin = Instant::now();
        let mut alerts = Alerts::default();
        alerts.look(&counters(5, (0, 0)), begin);
        assert!(alerts.problems(begin).is_empty());
        alerts.look(&counters(6, (0, 0)), begin);
        let problems = alerts.problems(begin + PAUSE - Duration::from_millis(1));
        assert!(matches!(&problems[..], [only] if only.contains("raise flows.max")), "{problems:?}");
        assert!(alerts.problems(begin + PAUSE).is_empty());
    }

    #[test]
    fn maps_that_were_made_anew_are_no_rise() {
        let begin = Instant::now();
        let mut alerts = Alerts::default();
        alerts.look(&counters(50, (0, 0)), begin);
        assert_eq!(alerts.look(&counters(3, (0, 0)), begin), []);
        assert_eq!(told(&alerts.look(&counters(4, (0, 0)), begin)), [("flow-table-full", 1)]);
    }
}
