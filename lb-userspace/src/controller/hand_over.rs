//! `xvip vip`: whose VIPs are meant, and telling their routers.

use std::time::{Duration, SystemTime};

use tracing::warn;

use super::Controller;
use crate::{
    config::model::{Config, VrrpInstance},
    control::protocol::{VipAction, VipAnswer},
    desired::vips_of,
    history::{Event, Kind},
    status::VrrpStatus,
};

/// How long a hand-over is waited for, at least.
const PATIENCE: Duration = Duration::from_secs(5);

impl Controller {
    /// Hands VIPs over, or takes them back, since `by` says so. Answers at once; what becomes of it is in the status.
    pub(super) fn hand_over(&self, action: VipAction, name: Option<&str>, by: Option<&str>) -> VipAnswer {
        let instances = match meant(&self.config, name) {
            Ok(instances) => instances,
            Err(error) => return VipAnswer { error: Some(error), ..VipAnswer::default() },
        };
        // They are one sync group, or a single one: whom one router drives.
        if let Some(instance) = instances.first() {
            let event =
                Event::new(Kind::Order, &instance.name, SystemTime::now()).of_instance(&instance.name);
            let vips: Vec<_> =
                vips_of(&self.config, &instance.name).into_iter().map(|(vip, _)| vip).collect();
            self.tell(
                event
                    .with_vips(&vips)
                    .became(action.to_string())
                    .because(format!("by {}", by.unwrap_or("`xvip vip`"))),
            );
            let told = match action {
                VipAction::Release => self.routers.release(&instance.name),
                VipAction::Acquire => self.routers.acquire(&instance.name),
            };
            if !told {
                // Whoever asks sees that nothing becomes of it, and why the router does not run.
                warn!(vrrp = instance.name, "its router does not run");
            }
        }
        let patience = instances.iter().map(|instance| patience(instance)).max().unwrap_or(PATIENCE);
        VipAnswer {
            instances: instances.into_iter().map(|instance| instance.name.clone()).collect(),
            patience_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
            error: None,
        }
    }

    /// Every instance.
    pub(super) fn vrrp_statuses(&self) -> Vec<VrrpStatus> {
        self.config.vrrp.iter().map(|instance| self.vrrp_status(instance)).collect()
    }
}

/// Three times what it takes to notice that nobody is there: `Active_Down_Interval` is less than four intervals.
fn patience(instance: &VrrpInstance) -> Duration {
    PATIENCE.max(12 * instance.advert_interval)
}

/// The instances that a name means: that instance, the one of that service or VIP, or the only one; together with the
/// others of its sync group.
fn meant<'a>(config: &'a Config, name: Option<&str>) -> Result<Vec<&'a VrrpInstance>, String> {
    let has_vip = |instance: &&VrrpInstance| !vips_of(config, &instance.name).is_empty();
    let used: Vec<&VrrpInstance> = config.vrrp.iter().filter(has_vip).collect();
    let together = |one: &VrrpInstance, other: &VrrpInstance| {
        one.name == other.name || (one.sync_group.is_some() && one.sync_group == other.sync_group)
    };
    let choice = || {
        let vips = |name: &str| {
            let vips = vips_of(config, name);
            vips.iter().map(|(vip, _)| vip.to_string()).collect::<Vec<_>>().join(", ")
        };
        let all = used.iter().map(|instance| format!("{} ({})", instance.name, vips(&instance.name)));
        all.collect::<Vec<_>>().join(", ")
    };
    let named = |name: &str| {
        let known = config.vrrp.iter().find(|instance| instance.name == name);
        known.map(|instance| {
            let used = used.iter().find(|used| used.name == instance.name);
            used.copied().ok_or_else(|| format!("no service uses the VRRP instance {name:?}"))
        })
    };
    let one = match name {
        None => match used.as_slice() {
            [] => return Err("no VRRP instance has a VIP".to_owned()),
            [first, rest @ ..] if rest.iter().all(|other| together(first, other)) => *first,
            _ => return Err(format!("say whose VIP is meant: {}", choice())),
        },
        Some(name) => match named(name) {
            Some(instance) => instance?,
            None => {
                let address = name.split('/').next().and_then(|address| address.parse().ok());
                let service = (config.services.iter())
                    .find(|service| service.name == name || Some(service.vip.address) == address)
                    .ok_or_else(|| {
                        format!("no instance, service or VIP is called {name:?}; there are {}", choice())
                    })?;
                let instance = service.vrrp.as_deref().and_then(named);
                instance.ok_or_else(|| {
                    format!(
                        "the VIP of service {:?} has no VRRP instance: it is not xvip's to move",
                        service.name
                    )
                })??
            }
        },
    };
    Ok(used.into_iter().filter(|other| together(one, other)).collect())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU8;

    use super::*;
    use crate::desired::tests::{config, service};

    /// `main` has 172.16.0.10 and 172.16.0.11, `left` .12, `right` .13, `idle` none; .14 has no instance.
    fn many(group: Option<&str>) -> Config {
        let mut services = Vec::new();
        for (name, host, vrrp) in [
            ("api", 10, Some("main")),
            ("etcd", 11, Some("main")),
            ("west", 12, Some("left")),
            ("east", 13, Some("right")),
            ("anycast", 14, None),
        ] {
            let mut service = service(name, [172, 16, 0, host].into(), &[4]);
            service.vrrp = vrrp.map(str::to_owned);
            services.push(service);
        }
        let mut config = config(services);
        let instance = |(vrid, name): (u8, &str)| VrrpInstance {
            sync_group: group.filter(|_| name == "left" || name == "right").map(str::to_owned),
            ..VrrpInstance::new(name, NonZeroU8::new(vrid).expect("not 0"))
        };
        config.vrrp = [(1, "main"), (2, "left"), (3, "right"), (4, "idle")].map(instance).to_vec();
        config
    }

    fn names(config: &Config, name: Option<&str>) -> Result<Vec<String>, String> {
        meant(config, name).map(|all| all.into_iter().map(|instance| instance.name.clone()).collect())
    }

    #[test]
    fn a_name_is_that_of_an_instance_a_service_or_a_vip() {
        let config = many(Some("both"));
        for (name, expected) in [
            ("main", &["main"][..]),
            ("api", &["main"]),
            ("172.16.0.11", &["main"]),
            ("172.16.0.11/24", &["main"]),
            ("left", &["left", "right"]),
            ("east", &["left", "right"]),
            ("172.16.0.13", &["left", "right"]),
        ] {
            assert_eq!(names(&config, Some(name)).expect(name), expected, "{name}");
        }
        assert_eq!(names(&many(None), Some("east")).expect("it is there"), ["right"]);
    }

    #[test]
    fn what_is_meant_must_be_clear_and_xvips_own() {
        let config = many(None);
        for (name, expected) in [
            (None, "say whose VIP is meant: main (172.16.0.10, 172.16.0.11), left (172.16.0.12)"),
            (Some("nobody"), "no instance, service or VIP is called \"nobody\"; there are main (172"),
            (Some("10.9.8.7"), "no instance, service or VIP is called \"10.9.8.7\""),
            (Some("idle"), "no service uses the VRRP instance \"idle\""),
            (Some("anycast"), "it is not xvip's to move"),
            (Some("172.16.0.14"), "it is not xvip's to move"),
        ] {
            let error = names(&config, name).expect_err("unclear");
            assert!(error.contains(expected), "{name:?}: {error}");
        }
    }

    #[test]
    fn the_only_one_needs_no_name() {
        let mut config = many(Some("both"));
        config.services.retain(|service| service.vrrp.as_deref() == Some("main"));
        assert_eq!(names(&config, None).expect("one"), ["main"]);
        let mut config = many(Some("both"));
        config.services.retain(|service| service.vrrp.as_deref() != Some("main"));
        assert_eq!(names(&config, None).expect("one group"), ["left", "right"]);
        config.services.clear();
        assert_eq!(names(&config, None).expect_err("none"), "no VRRP instance has a VIP");
    }

    #[test]
    fn slow_instances_get_more_time() {
        let mut instance = VrrpInstance::new("main", NonZeroU8::MIN);
        assert_eq!(patience(&instance), PATIENCE);
        instance.advert_interval = Duration::from_secs(2);
        assert_eq!(patience(&instance), Duration::from_secs(24));
    }
}
