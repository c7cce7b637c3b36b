//! How many connections came in the last second, and the most that there were: of each backend, of each service, of the node.
//! Pure; somebody looks at the counters once a second.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use lb_common::layout::ServiceKey;

use crate::{desired::PoolEntry, status::PaceStatus, steering::rfc3339};

/// What the counters of a backend say.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    /// Whose they are.
    pub entry: PoolEntry,
    /// SYNs that chose it, until now.
    pub opened: u64,
    /// Connections that it has.
    pub active: u64,
}

/// Since the daemon was started.
#[derive(Debug, Default)]
pub struct Peaks {
    looked: Option<Instant>,
    opened: BTreeMap<PoolEntry, u64>,
    backends: BTreeMap<PoolEntry, Peak>,
    services: BTreeMap<ServiceKey, Peak>,
    node: Peak,
}

#[derive(Clone, Copy, Debug, Default)]
struct Peak {
    rate: u64,
    rate_max: u64,
    active_max: u64,
    last_opened: Option<SystemTime>,
}

impl Peak {
    fn look(&mut self, new: u64, elapsed: Duration, active: u64, at: SystemTime) {
        let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
        // To the nearest whole number.
        self.rate = new.saturating_mul(1000).saturating_add(ms / 2) / ms;
        self.rate_max = self.rate_max.max(self.rate);
        self.active_max = self.active_max.max(active);
        if new > 0 {
            self.last_opened = Some(at);
        }
    }

    fn status(&self) -> PaceStatus {
        let &Self { rate, rate_max, active_max, last_opened } = self;
        PaceStatus { rate, rate_max, active_max, last_opened: last_opened.map(rfc3339) }
    }
}

impl Peaks {
    /// Takes what all backends have come to by `now`. Those that are not among them are forgotten.
    pub fn look(&mut self, now: Instant, at: SystemTime, counts: &[Count]) {
        let elapsed = self.looked.map_or(Duration::ZERO, |looked| now.saturating_duration_since(looked));
        self.looked = Some(now);
        let before = std::mem::take(&mut self.opened);
        let mut of_services: BTreeMap<ServiceKey, (u64, u64)> = BTreeMap::new();
        let mut of_node = (0, 0);
        for count in counts {
            // Of one that is seen for the first time, or begins anew, it is not known when they came.
            let new =
                before.get(&count.entry).and_then(|before| count.opened.checked_sub(*before)).unwrap_or(0);
            self.opened.insert(count.entry, count.opened);
            self.backends.entry(count.entry).or_default().look(new, elapsed, count.active, at);
            for sum in [of_services.entry(count.entry.service).or_default(), &mut of_node] {
                *sum = (sum.0.saturating_add(new), sum.1.saturating_add(count.active));
            }
        }
        self.backends.retain(|entry, _| self.opened.contains_key(entry));
        for (service, (new, active)) in &of_services {
            self.services.entry(*service).or_default().look(*new, elapsed, *active, at);
        }
        self.services.retain(|service, _| of_services.contains_key(service));
        self.node.look(of_node.0, elapsed, of_node.1, at);
    }

    /// Of a backend of a service.
    pub fn of_backend(&self, entry: &PoolEntry) -> PaceStatus {
        self.backends.get(entry).map(Peak::status).unwrap_or_default()
    }

    /// Of all backends of a service together.
    pub fn of_service(&self, service: &ServiceKey) -> PaceStatus {
        self.services.get(service).map(Peak::status).unwrap_or_default()
    }

    /// Of all services together.
    pub fn of_node(&self) -> PaceStatus {
        self.node.status()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::service_key;
    use crate::desired::tests::service;

    fn entry(port: u16, host: u8) -> PoolEntry {
        let mut service = service("api", [172, 16, 0, 10].into(), &[4]);
        service.port = port.try_into().expect("a port");
        PoolEntry { service: service_key(&service), address: ([172, 16, 0, host], port).into() }
    }

    /// Looks once a second at backends with these ports, hosts, SYNs and connections.
    fn looked(rows: &[&[(u16, u8, u64, u64)]]) -> Peaks {
        let (begin, mut peaks) = (Instant::now(), Peaks::default());
        for (second, row) in (0..).zip(rows) {
            let counts: Vec<Count> = (row.iter())
                .map(|&(port, host, opened, active)| Count { entry: entry(port, host), opened, active })
                .collect();
            peaks.look(begin + Duration::from_secs(second), moment(second), &counts);
        }
        peaks
    }

    fn moment(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn pace(rate: u64, rate_max: u64, active_max: u64, last: Option<u64>) -> PaceStatus {
        PaceStatus { rate, rate_max, active_max, last_opened: last.map(|second| rfc3339(moment(second))) }
    }

    #[test]
    fn the_last_second_counts_and_the_most_is_kept() {
        let peaks = looked(&[
            &[(443, 4, 1000, 5), (443, 5, 0, 1), (80, 4, 7, 2)],
            &[(443, 4, 1030, 9), (443, 5, 2, 1), (80, 4, 7, 2)],
            &[(443, 4, 1040, 3), (443, 5, 22, 2), (80, 4, 7, 2)],
        ]);
        assert_eq!(peaks.of_backend(&entry(443, 4)), pace(10, 30, 9, Some(2)));
        assert_eq!(peaks.of_backend(&entry(443, 5)), pace(20, 20, 2, Some(2)));
        assert_eq!(peaks.of_backend(&entry(80, 4)), pace(0, 0, 2, None), "a predecessor's");
        assert_eq!(peaks.of_service(&entry(443, 4).service), pace(30, 32, 10, Some(2)), "not 50");
        assert_eq!(peaks.of_service(&entry(80, 4).service), pace(0, 0, 2, None));
        assert_eq!(peaks.of_node(), pace(30, 32, 12, Some(2)));
    }

    #[test]
    fn who_is_gone_is_forgotten_and_one_that_begins_anew_has_no_rate() {
        let rows: [&[(u16, u8, u64, u64)]; 3] =
            [&[(443, 4, 50, 1), (80, 4, 0, 0)], &[(443, 4, 60, 1), (80, 4, 9, 0)], &[(443, 4, 3, 1)]];
        let peaks = looked(&rows);
        assert_eq!(peaks.of_backend(&entry(443, 4)), pace(0, 10, 1, Some(1)));
        assert_eq!(peaks.of_backend(&entry(80, 4)), PaceStatus::default());
        assert_eq!(peaks.of_service(&entry(80, 4).service), PaceStatus::default());
        assert_eq!(peaks.of_node().rate_max, 19, "what was is not forgotten with it");
        let mut again = rows.to_vec();
        again.push(&[(443, 4, 4, 1), (80, 4, 1000, 0)]);
        assert_eq!(looked(&again).of_backend(&entry(80, 4)), PaceStatus::default());
    }

    #[test]
    fn a_second_that_was_longer_or_shorter_is_allowed_for() {
        let (begin, mut peaks) = (Instant::now(), Peaks::default());
        let mut look = |ms: u64, opened: u64| {
            let count = Count { entry: entry(443, 4), opened, active: 0 };
            peaks.look(begin + Duration::from_millis(ms), moment(0), &[count]);
            peaks.of_node().rate
        };
        let rates = [
            look(0, 0),
            look(1500, 30),
            look(1510, 31),
            look(1510, 31),
            look(4510, 32),
            look(4510, u64::MAX),
        ];
        assert_eq!(rates[..5], [0, 20, 100, 0, 0]);
        assert!(rates[5] > 1 << 50, "no overflow: {}", rates[5]);
    }
}
