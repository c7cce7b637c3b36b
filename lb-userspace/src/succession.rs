//! The word that a daemon leaves for its successor on the same node: which virtual routers were Active, and until when
//! the other nodes wait for them. Pure; where it lies, and the clocks, are the controller's.
//!
//! Whoever resumes by it must be sure that nobody else has taken over. So it is good for one boot of the machine, until a
//! moment by a clock that goes on while the machine sleeps (`CLOCK_BOOTTIME`), for the same virtual routers only, and once:
//! whoever reads it removes it.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    config::model::{Config, Family, family_of},
    desired::vips_of,
    vrrp::advert::Priority,
};

/// Changes with any change of the form; others are not understood.
const FORMAT: u32 = 1;

/// Nobody waits longer than three times the longest interval that there is (RFC 9568 §5.2.7).
const LONGEST: Duration = Duration::from_secs(3 * 41);

/// What a daemon leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    format: u32,
    /// The kernel's number of this boot.
    boot: String,
    /// `CLOCK_MONOTONIC` in nanoseconds when the last word had been sent: whoever advertises later has taken over.
    pub left_ns: u64,
    routers: Vec<LeftRouter>,
}

/// A virtual router that was Active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftRouter {
    /// Its instance.
    pub instance: String,
    /// Its VRID.
    pub virtual_router_id: u8,
    /// 2 or 3.
    pub version: u8,
    /// Whether it speaks over IPv4.
    pub ipv4: bool,
    /// What it advertised last.
    pub priority: u8,
    /// `CLOCK_BOOTTIME` in nanoseconds when it is too late to resume.
    pub until_ns: u64,
}

/// A virtual router that may be resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// The priority to begin with: what is tracked is not known yet.
    pub priority: Priority,
    /// For so long, from the moment that was given.
    pub respite: Duration,
}

/// Why a note is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Not our form.
    #[error("it is not understood")]
    Form,
    /// The machine has been booted since.
    #[error("it is of an earlier boot of this machine")]
    Boot,
    /// All of it is too late.
    #[error("it is too late: other nodes may have taken over")]
    Late,
}

impl Note {
    /// A note of this boot.
    pub fn new(boot: &str, left_ns: u64, routers: Vec<LeftRouter>) -> Self {
        Self { format: FORMAT, boot: boot.to_owned(), left_ns, routers }
    }

    /// As it is written.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// As it was written.
    ///
    /// # Errors
    /// [`Unusable::Form`].
    pub fn parse(text: &str) -> Result<Self, Unusable> {
        serde_json::from_str(text).ok().filter(|note: &Self| note.format == FORMAT).ok_or(Unusable::Form)
    }

    /// Which instances of a configuration may be resumed, in this boot, at `now_ns` of `CLOCK_BOOTTIME`: those that are
    /// the same virtual routers as they were, and of a sync group all or none.
    ///
    /// # Errors
    /// Where none can be, whatever the configuration.
    pub fn inherited(
        &self,
        boot: &str,
        now_ns: u64,
        config: &Config,
    ) -> Result<BTreeMap<String, Inherited>, Unusable> {
        if self.boot != boot {
            return Err(Unusable::Boot);
        }
        let respite = |router: &LeftRouter| {
            let respite = Duration::from_nanos(router.until_ns.checked_sub(now_ns)?);
            (!respite.is_zero() && respite < LONGEST).then_some(respite)
        };
        if !self.routers.is_empty() && self.routers.iter().all(|router| respite(router).is_none()) {
            return Err(Unusable::Late);
        }
        let mut inherited = BTreeMap::new();
        for instance in &config.vrrp {
            let vips: Vec<_> = vips_of(config, &instance.name).into_iter().map(|(vip, _)| vip).collect();
            let is_same = |router: &&LeftRouter| {
                router.instance == instance.name
                    && router.virtual_router_id == instance.virtual_router_id.get()
                    && router.version == u8::from(instance.version)
                    && router.ipv4 == (family_of(&vips) == Family::Ipv4)
                    && router.priority > 0
            };
            let left = self.routers.iter().find(is_same).filter(|_| !vips.is_empty());
            if let Some((left, respite)) = left.and_then(|left| Some((left, respite(left)?))) {
                inherited
                    .insert(instance.name.clone(), Inherited { priority: Priority(left.priority), respite });
            }
        }
        let is_whole = |name: &String, inherited: &BTreeMap<String, Inherited>| {
            let group =
                config.vrrp.iter().find(|own| own.name == *name).and_then(|own| own.sync_group.as_ref());
            let Some(group) = group else { return true };
            let mut members = config.vrrp.iter().filter(|other| {
                other.sync_group.as_ref() == Some(group) && !vips_of(config, &other.name).is_empty()
            });
            members.all(|member| inherited.contains_key(&member.name))
        };
        let whole: Vec<String> =
            inherited.keys().filter(|name| is_whole(name, &inherited)).cloned().collect();
        inherited.retain(|name, _| whole.contains(name));
        Ok(inherited)
    }
}

/// Whether systemd is about to restart a unit, by what `systemctl list-jobs --no-legend --plain` prints: number, unit, type
/// and state of each job, in columns.
pub fn is_being_restarted(unit: &str, jobs: &str) -> bool {
    jobs.lines().any(|line| {
        let mut columns = line.split_whitespace();
        columns.nth(1) == Some(unit)
            && columns.next().is_some_and(|kind| kind == "restart" || kind == "try-restart")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::tests::{config, service};

    const SECOND: u64 = 1_000_000_000;

    fn left(instance: &str, until_ns: u64) -> LeftRouter {
        LeftRouter {
            instance: instance.to_owned(),
            virtual_router_id: 60,
            version: 3,
            ipv4: true,
            priority: 100,
            until_ns,
        }
    }

    fn one() -> (Config, LeftRouter) {
        let config = config(vec![service("api", [172, 16, 0, 10].into(), &[4])]);
        let instance = &config.vrrp[0];
        let left = LeftRouter {
            virtual_router_id: instance.virtual_router_id.get(),
            version: instance.version.into(),
            ..left(&instance.name, 10 * SECOND)
        };
        (config, left)
    }

    fn resumed(note: &Note, now_ns: u64, config: &Config) -> Vec<String> {
        note.inherited("boot", now_ns, config).map(|all| all.into_keys().collect()).unwrap_or_default()
    }

    #[test]
    fn a_note_is_good_for_its_time_and_its_boot() {
        let (config, left) = one();
        let note = Note::new("boot", 7, vec![left]);
        assert_eq!(Note::parse(&note.to_text()), Ok(note.clone()));
        let inherited = note.inherited("boot", 4 * SECOND, &config).expect("in time");
        let expected = Inherited { priority: Priority(100), respite: Duration::from_secs(6) };
        assert_eq!(inherited.into_values().collect::<Vec<_>>(), [expected]);
        assert_eq!(note.inherited("boot", 10 * SECOND, &config), Err(Unusable::Late));
        assert_eq!(note.inherited("boot", 11 * SECOND, &config), Err(Unusable::Late));
        assert_eq!(note.inherited("another", 4 * SECOND, &config), Err(Unusable::Boot));
        // One that promises years was not written by us.
        let long = Note::new("boot", 7, vec![LeftRouter { until_ns: u64::MAX, ..one().1 }]);
        assert_eq!(long.inherited("boot", 0, &config), Err(Unusable::Late));
    }

    #[test]
    fn only_the_same_virtual_router_is_resumed() {
        let (config, left) = one();
        for (other, what) in [
            (LeftRouter { virtual_router_id: 99, ..left.clone() }, "VRID"),
            (LeftRouter { version: 2, ..left.clone() }, "version"),
            (LeftRouter { ipv4: false, ..left.clone() }, "family"),
            (LeftRouter { instance: "other".to_owned(), ..left.clone() }, "name"),
            (LeftRouter { priority: 0, ..left.clone() }, "priority"),
        ] {
            assert!(resumed(&Note::new("boot", 0, vec![other]), SECOND, &config).is_empty(), "{what}");
        }
        assert_eq!(resumed(&Note::new("boot", 0, vec![left]), SECOND, &config).len(), 1);
        assert!(resumed(&Note::new("boot", 0, Vec::new()), SECOND, &config).is_empty());
    }

    #[test]
    fn of_a_sync_group_all_are_resumed_or_none() {
        let mut services = Vec::new();
        for (name, host) in [("one", 10), ("two", 11)] {
            let mut service = service(name, [172, 16, 0, host].into(), &[4]);
            service.vrrp = Some(name.to_owned());
            services.push(service);
        }
        let mut config = config(services);
        config.vrrp = [(1, "one"), (2, "two")]
            .map(|(vrid, name)| crate::config::model::VrrpInstance {
                sync_group: Some("both".to_owned()),
                ..crate::config::model::VrrpInstance::new(name, vrid.try_into().expect("not 0"))
            })
            .to_vec();
        let router = |instance: &str, virtual_router_id| LeftRouter {
            virtual_router_id,
            ..left(instance, 10 * SECOND)
        };
        let both = Note::new("boot", 0, vec![router("one", 1), router("two", 2)]);
        assert_eq!(resumed(&both, SECOND, &config), ["one", "two"]);
        let half = Note::new("boot", 0, vec![router("one", 1), router("two", 3)]);
        assert!(resumed(&half, SECOND, &config).is_empty());
    }

    #[test]
    fn what_is_no_note_is_refused() {
        for text in ["", "{}", "null", "{\"format\":2}", "\u{0}", "[1]"] {
            assert_eq!(Note::parse(text), Err(Unusable::Form), "{text}");
        }
        let strange = one().1;
        let text = Note::new("boot", 0, vec![strange]).to_text().replace("\"format\":1", "\"format\":9");
        assert_eq!(Note::parse(&text), Err(Unusable::Form));
    }

    #[test]
    fn a_restart_job_is_told_from_a_stop() {
        let jobs = "101 xvip.service restart running\n102 other.service stop waiting\n";
        assert!(is_being_restarted("xvip.service", jobs));
        assert!(!is_being_restarted("other.service", jobs));
        assert!(!is_being_restarted("xvip", jobs));
        assert!(!is_being_restarted("xvip.service", "101 xvip.service stop running"));
        assert!(!is_being_restarted("xvip.service", "No jobs running."));
        assert!(!is_being_restarted("xvip.service", ""));
        assert!(is_being_restarted("xvip.service", "  7 xvip.service try-restart running"));
    }
}
