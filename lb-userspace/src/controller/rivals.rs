//! Who else claims our VIPs or uses our VRIDs: looked up, told as problems, and answered by telling the network again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant, SystemTime},
};

use lb_common::{layout::virtual_mac, wire::Mac};
use nix::time::{ClockId, clock_gettime};
use tracing::info;

use super::Controller;
use crate::{
    config::model::{Family, VrrpInstance, family_of},
    dataplane::{AdvertSeen, Sightings},
    desired::vips_of,
    history::{Event, Kind, Severity},
    vrrp::{
        rivals::{self, Claim, Ownership, Rivals},
        status::RouterStatus,
    },
};

/// How often the data plane is asked.
pub(super) const PERIOD: Duration = Duration::from_millis(500);

/// What is known about rivals.
#[derive(Debug, Default)]
pub(super) struct RivalWatch {
    rivals: Rivals,
    /// What to say about each, by what it is about.
    problems: BTreeMap<Subject, String>,
    /// Instances whose router must not take over, since somebody is there whom it cannot hear, and why.
    unheard: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Vip(IpAddr),
    Instance(String),
}

impl RivalWatch {
    /// Whether an instance may take over from a router that it does not hear.
    ///
    /// # Errors
    /// Who is there all the same.
    pub(super) fn heard(&self, instance: &str) -> Result<(), String> {
        self.unheard.get(instance).cloned().map_or(Ok(()), Err)
    }

    /// What is wrong at the moment.
    pub(super) fn problems(&self) -> impl Iterator<Item = &String> {
        self.problems.values()
    }

    /// The same by VIP or name of the instance.
    pub(super) fn status(&self) -> BTreeMap<String, String> {
        let about = |subject: &Subject| match subject {
            Subject::Vip(vip) => vip.to_string(),
            Subject::Instance(name) => name.clone(),
        };
        self.problems.iter().map(|(subject, problem)| (about(subject), problem.clone())).collect()
    }
}

/// The moment of a time stamp of the data plane, `CLOCK_MONOTONIC` in nanoseconds.
pub(super) fn moment(at_ns: u64) -> Instant {
    // The standard library's clock is the same one on Linux, but does not say where it began.
    let now_ns =
        clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| Duration::from(now).as_nanos() as u64);
    let now = Instant::now();
    now.checked_sub(Duration::from_nanos(now_ns.saturating_sub(at_ns))).unwrap_or(now)
}

impl Controller {
    /// Looks at what the data plane has seen of others, tells what is new about it, and defends what is ours.
    pub(super) fn look_at_rivals(&mut self) {
        let Some(sightings) = &self.sightings else { return };
        let now = Instant::now();
        let adverts = sightings.adverts();
        let own_vrids = self.config.vrrp.iter().map(|instance| instance.virtual_router_id.get());
        let used_vrids: BTreeSet<u8> = adverts.iter().map(|(_, vrid, _)| *vrid).chain(own_vrids).collect();
        let mut found = BTreeMap::new();
        let mut unheard = BTreeMap::new();
        let mut defend = Vec::new();
        for instance in &self.config.vrrp {
            let Some(status) = self.routers.status(&instance.name) else { continue };
            let vips: Vec<IpAddr> =
                vips_of(&self.config, &instance.name).into_iter().map(|(vip, _)| vip).collect();
            let vrid = instance.virtual_router_id.get();
            let ipv4 = family_of(&vips) == Family::Ipv4;
            let of_router: Vec<(IpAddr, Mac)> = (adverts.iter())
                .filter(|(source, seen_vrid, _)| *seen_vrid == vrid && source.is_ipv4() == ipv4)
                .map(|(source, _, seen)| (*source, seen.mac))
                .collect();
            let mac_of = |source: IpAddr| of_router.iter().find(|(s, _)| *s == source).map(|(_, mac)| *mac);
            for vip in vips {
                let Some(claim) = claim(sightings, vip) else { continue };
                let ownership = Ownership {
                    since: status.holds_since,
                    ours: status.holds_addresses,
                    active: status
                        .active_router
                        .as_ref()
                        .map(|active| (active.address, mac_of(active.address))),
                    virtual_mac: virtual_mac(vip.is_ipv6(), vrid),
                };
                let Some(problem) = rivals::told(vip, claim, &ownership, &of_router, now) else { continue };
                found.insert(Subject::Vip(vip), problem);
                if ownership.ours && self.rivals.rivals.defend(vip, claim, now) {
                    defend.push(vip);
                }
            }
            if let Some(why) = unheard_router(instance, &status, &adverts, ipv4, now) {
                unheard.insert(instance.name.clone(), why);
            }
            let collision = status.refused.as_ref().and_then(|refused| {
                rivals::collision(vrid, refused, mac_of(refused.source), &used_vrids, now)
            });
            if let Some(problem) = collision {
                found.insert(Subject::Instance(instance.name.clone()), problem);
            }
        }
        if self.rivals.unheard != unheard {
            self.rivals.unheard = unheard;
            self.tell_routers();
        }
        for vip in defend {
            info!(%vip, "telling the network again where it is: somebody else claims it");
            self.announce_again(vip);
        }
        self.tell_rivals(found);
    }

    /// Logs what is new and what is over. The age in a sentence changes without being news.
    fn tell_rivals(&mut self, found: BTreeMap<Subject, String>) {
        let known = &self.rivals.problems;
        let event = |subject: &Subject| {
            let at = SystemTime::now();
            match subject {
                Subject::Vip(vip) => Event::new(Kind::Rival, vip.to_string(), at).with_vips([vip]),
                Subject::Instance(name) => Event::new(Kind::Rival, name, at).of_instance(name),
            }
        };
        for (subject, problem) in found.iter().filter(|(subject, _)| !known.contains_key(subject)) {
            self.tell(event(subject).became("begins").because(problem).grave(Severity::Error));
        }
        for (subject, problem) in known.iter().filter(|(subject, _)| !found.contains_key(subject)) {
            self.tell(event(subject).became("ends").because(problem));
        }
        self.rivals.problems = found;
    }
}

/// Who advertises our virtual router at this moment without this process hearing anything of it: a firewall drops
/// protocol 112. The machine itself knows about those whom it has heard before; this is for one that begins deaf. Where
/// advertisements are authenticated nobody is believed whose signature was not seen.
fn unheard_router(
    instance: &VrrpInstance,
    status: &RouterStatus,
    adverts: &[(IpAddr, u8, AdvertSeen)],
    ipv4: bool,
    now: Instant,
) -> Option<String> {
    let authenticated = instance.auth_hmac.is_some() || instance.auth_pass.is_some();
    if authenticated || status.holds_addresses || status.adverts_received > 0 || status.refused.is_some() {
        return None;
    }
    let patience = 3 * instance.advert_interval;
    let (source, ..) = adverts.iter().find(|(source, vrid, seen)| {
        *vrid == instance.virtual_router_id.get()
            && source.is_ipv4() == ipv4
            && (instance.unicast_peers.is_empty() || instance.unicast_peers.contains(source))
            && now.saturating_duration_since(moment(seen.at_ns)) <= patience
    })?;
    Some(format!(
        "advertisements of {source} reach the interface, but not xvip: a firewall drops IP protocol 112, or one of the two \
         sends unicast and the other multicast"
    ))
}

fn claim(sightings: &Sightings, vip: IpAddr) -> Option<Claim> {
    sightings.claim(vip).map(|seen| Claim { mac: seen.mac, at: moment(seen.at_ns) })
}
