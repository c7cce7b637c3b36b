//! What each backend was like in the last minutes: one sample each five seconds. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::status::{BackendStatus, Status};

/// A sample is taken that often.
pub const EVERY: Duration = Duration::from_secs(5);
/// So many are kept: five minutes.
pub const KEPT: usize = 60;

/// How a backend was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Up, and it gets new connections.
    Up,
    /// Up, or not checked yet, and an operator has taken it out.
    Out,
    /// Not checked yet.
    Unknown,
    /// Down.
    Down,
}

impl Health {
    /// What a status says of it.
    pub fn of(backend: &BackendStatus) -> Self {
        match backend.state.as_str() {
            "down" => Self::Down,
            _ if backend.admin.is_some() => Self::Out,
            "up" => Self::Up,
            _ => Self::Unknown,
        }
    }

    /// In a word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Out => "out",
            Self::Unknown => "unknown",
            Self::Down => "down",
        }
    }
}

/// One backend at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Established connections.
    pub active: u64,
    /// How it was.
    pub health: Health,
}

/// The samples of all backends, by service and name.
#[derive(Debug, Default)]
pub struct Samples {
    taken: BTreeMap<(String, String), VecDeque<Sample>>,
}

impl Samples {
    /// Takes one of each backend, and forgets those that are no more.
    pub fn take(&mut self, status: &Status) {
        let mut before = std::mem::take(&mut self.taken);
        for service in &status.services {
            for backend in &service.backends {
                let key = (service.name.clone(), backend.name.clone());
                let mut samples = before.remove(&key).unwrap_or_default();
                if samples.len() >= KEPT {
                    samples.pop_front();
                }
                samples.push_back(Sample { active: backend.flows.active, health: Health::of(backend) });
                self.taken.insert(key, samples);
            }
        }
    }

    /// Those of one backend, the oldest first.
    pub fn of(&self, service: &str, backend: &str) -> Vec<Sample> {
        let found = self.taken.get(&(service.to_owned(), backend.to_owned()));
        found.into_iter().flatten().copied().collect()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.taken.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::AdminStatus;

    fn status(active: u64, state: &str) -> Status {
        let mut status = crate::status::text::tests::status();
        status.services.truncate(1);
        let service = &mut status.services[0];
        service.name = "api".to_owned();
        service.backends.truncate(1);
        let backend = &mut service.backends[0];
        backend.name = "m1".to_owned();
        backend.admin = None;
        state.clone_into(&mut backend.state);
        backend.flows.active = active;
        status
    }

    #[test]
    fn five_minutes_are_kept() {
        let mut samples = Samples::default();
        for active in 0..100 {
            samples.take(&status(active, "up"));
        }
        samples.take(&status(7, "down"));
        let kept = samples.of("api", "m1");
        assert_eq!((kept.len(), kept[0].active), (KEPT, 41));
        assert_eq!(kept[KEPT - 1], Sample { active: 7, health: Health::Down });
        assert!(samples.of("api", "m2").is_empty() && samples.of("web", "m1").is_empty());
    }

    #[test]
    fn backends_that_are_gone_are_forgotten() {
        let mut samples = Samples::default();
        samples.take(&status(1, "up"));
        let mut renamed = status(1, "up");
        renamed.services[0].backends[0].name = "m9".to_owned();
        samples.take(&renamed);
        assert_eq!(samples.taken.len(), 1);
        assert_eq!(samples.of("api", "m9").len(), 1);
    }

    #[test]
    fn who_is_down_is_down_whatever_an_operator_says() {
        for (state, is_out, health) in [
            ("up", false, Health::Up),
            ("up", true, Health::Out),
            ("unknown", false, Health::Unknown),
            ("unknown", true, Health::Out),
            ("down", true, Health::Down),
            ("down", false, Health::Down),
        ] {
            let mut status = status(0, state);
            let backend = &mut status.services[0].backends[0];
            backend.admin = is_out.then(AdminStatus::default);
            assert_eq!(Health::of(backend), health, "{state}");
        }
    }
}
