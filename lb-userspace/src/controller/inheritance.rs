//! How long ago this node took a VIP over: for a while after that, packets of flows that it does not know may be of those
//! that the former owner had. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// Since when each VRRP instance has been active here. Starting as the active one counts as taking over: what happened to
/// the VIP before is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inheritance(BTreeMap<String, Instant>);

impl Inheritance {
    /// These instances, and no others, are active at `now`.
    pub fn follow<'a>(&mut self, active: impl Iterator<Item = &'a String>, now: Instant) {
        let mut before = std::mem::take(&mut self.0);
        self.0 = active.map(|name| (name.clone(), before.remove(name).unwrap_or(now))).collect();
    }

    /// Those that became active less than `rebuild` before `now`.
    pub fn heirs(&self, rebuild: Duration, now: Instant) -> BTreeSet<String> {
        let lately = |since: &Instant| now.saturating_duration_since(*since) < rebuild;
        self.0.iter().filter(|(_, since)| lately(since)).map(|(name, _)| name.clone()).collect()
    }

    /// When the next of these ceases to be one.
    pub fn next_end(&self, rebuild: Duration, now: Instant) -> Option<Instant> {
        self.0.values().map(|since| *since + rebuild).filter(|end| *end > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REBUILD: Duration = Duration::from_secs(300);

    fn names(all: &[&str]) -> BTreeSet<String> {
        all.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn an_heir_is_one_for_a_while_after_it_became_active() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut inheritance = Inheritance::default();
        assert_eq!(inheritance.next_end(REBUILD, begin), None);
        inheritance.follow(names(&["main"]).iter(), at(0));
        inheritance.follow(names(&["main", "other"]).iter(), at(100));
        assert_eq!(inheritance.heirs(REBUILD, at(100)), names(&["main", "other"]));
        assert_eq!(inheritance.next_end(REBUILD, at(100)), Some(at(300)));
        assert_eq!(inheritance.heirs(REBUILD, at(299)), names(&["main", "other"]));
        assert_eq!(inheritance.heirs(REBUILD, at(300)), names(&["other"]));
        assert_eq!(inheritance.next_end(REBUILD, at(300)), Some(at(400)));
        assert_eq!(inheritance.heirs(REBUILD, at(400)), names(&[]));
        assert_eq!(inheritance.next_end(REBUILD, at(400)), None);
        // Still active: nothing begins anew.
        inheritance.follow(names(&["main", "other"]).iter(), at(500));
        assert_eq!(inheritance.heirs(REBUILD, at(500)), names(&[]));
    }

    #[test]
    fn whoever_loses_the_vip_and_gets_it_back_inherits_again() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut inheritance = Inheritance::default();
        inheritance.follow(names(&["main"]).iter(), at(0));
        inheritance.follow(names(&[]).iter(), at(10));
        assert_eq!(inheritance.heirs(REBUILD, at(10)), names(&[]), "it is somebody else's now");
        assert_eq!(inheritance.next_end(REBUILD, at(10)), None);
        inheritance.follow(names(&["main"]).iter(), at(1000));
        assert_eq!(inheritance.heirs(REBUILD, at(1000)), names(&["main"]));
    }

    #[test]
    fn nobody_inherits_where_that_is_switched_off() {
        let begin = Instant::now();
        let mut inheritance = Inheritance::default();
        inheritance.follow(names(&["main"]).iter(), begin);
        assert_eq!(inheritance.heirs(Duration::ZERO, begin), names(&[]));
        assert_eq!(inheritance.next_end(Duration::ZERO, begin), None);
    }
}
