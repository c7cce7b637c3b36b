//! The virtual routers that run: one for each VRRP instance that has a VIP, or for each sync group of them.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch};
use tracing::{error, info};

use super::history::{Vips, note_vips, router_observer};
use crate::{
    config::model::{Config, Family, family_of},
    dataplane::Sightings,
    desired::vips_of,
    heartbeat::Beat,
    history::Teller,
    succession::Inherited,
    vrrp::{
        advert::Priority,
        router::{ArrivalClock, Legacy, MemberPlan, Router},
        status::RouterStatus,
    },
};

/// What a router is told about one of its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The priority that it takes part with, or why it must not.
    pub tracking: Result<Priority, String>,
    /// Whether it may take over from a router that it does not hear.
    pub witness: Result<(), String>,
}

/// The running routers, and those that could not be started yet. Wakes the controller when one changes its state or
/// wants its VIPs announced.
pub struct Routers {
    interface: String,
    changed: Arc<Notify>,
    /// The controller's own sign of life.
    controller: Arc<Beat>,
    /// By group, or by instance where it is in none.
    running: BTreeMap<String, Running>,
    /// Why they do not run; tried again.
    failed: BTreeMap<String, (Vec<MemberPlan>, String)>,
    teller: Teller,
    vips: Vips,
    /// How many were ever started, so that announcements of different lives differ.
    lives: u32,
}

#[derive(Debug)]
struct Running {
    life: u32,
    router: Router,
    told: Vec<Option<Told>>,
}

impl Running {
    fn statuses(&self) -> impl Iterator<Item = &watch::Receiver<RouterStatus>> {
        self.router.statuses().iter()
    }
}

impl Routers {
    /// None yet.
    pub fn new(interface: &str, changed: Arc<Notify>, controller: Arc<Beat>, teller: Teller) -> Self {
        Self {
            interface: interface.to_owned(),
            changed,
            controller,
            running: BTreeMap::new(),
            failed: BTreeMap::new(),
            teller,
            vips: Vips::default(),
            lives: 0,
        }
    }

    /// Starts, stops and changes routers until they are as configured. One that stays the same virtual router keeps its
    /// state, whatever else changes about it; one that becomes another hands over first.
    pub async fn configure(&mut self, config: &Config) {
        note_vips(&self.vips, config);
        let mut wanted = plans(config);
        self.failed.clear();
        let mut stale = Vec::new();
        for (name, running) in &mut self.running {
            let goes_on = wanted.get(name).is_some_and(|plans| {
                plans.as_slice() == running.router.plans() || running.router.reconfigure(plans.clone())
            });
            if !goes_on {
                stale.push(name.clone());
            }
        }
        for name in stale {
            if let Some(running) = self.running.remove(&name) {
                info!(vrrp = name, "stopping: its configuration has changed");
                end(running).await;
            }
        }
        wanted.retain(|name, _| !self.running.contains_key(name));
        for (name, plans) in wanted {
            self.start(name, plans);
        }
    }

    /// Starts those that could not be started.
    pub fn retry(&mut self) {
        for (name, (plans, _)) in std::mem::take(&mut self.failed) {
            self.start(name, plans);
        }
    }

    /// Starts those that a predecessor on this node has left Active, as its successors. The others wait for
    /// [`Routers::configure`].
    pub fn resume(&mut self, config: &Config, inherited: &BTreeMap<String, Inherited>, now: Instant) {
        note_vips(&self.vips, config);
        for (name, plans) in plans(config) {
            let left: Option<Vec<Inherited>> =
                plans.iter().map(|plan| inherited.get(&plan.instance.name).copied()).collect();
            let Some(left) = left else { continue };
            let Some(respite) = left.iter().map(|inherited| inherited.respite).min() else { continue };
            let priorities = left.into_iter().map(|inherited| inherited.priority).collect();
            self.begin(name, plans, Some(Legacy { until: now + respite, priorities }));
        }
    }

    /// Waits until every running router has begun, no longer than `limit`. Whether all have.
    pub async fn all_begun(&self, limit: Duration) -> bool {
        let statuses: Vec<_> = self.running.values().flat_map(Running::statuses).cloned().collect();
        let begun = async {
            for mut status in statuses {
                // One whose router has ended says so, too.
                let _ = status.wait_for(|status| status.transitions > 0).await;
            }
        };
        tokio::time::timeout(limit, begun).await.is_ok()
    }

    /// Lets all of them leave to a successor on this node; see [`Router::leave`].
    pub async fn leave(&mut self) -> Vec<RouterStatus> {
        self.failed.clear();
        let leaving: Vec<_> = std::mem::take(&mut self.running)
            .into_values()
            // It waits for its threads.
            .map(|running| tokio::task::spawn_blocking(move || running.router.leave()))
            .collect();
        let mut left = Vec::new();
        for leaving in leaving {
            match leaving.await {
                Ok(statuses) => left.extend(statuses),
                Err(_) => error!("a virtual router could not leave in order"),
            }
        }
        left
    }

    fn start(&mut self, name: String, plans: Vec<MemberPlan>) {
        self.begin(name, plans, None);
    }

    fn begin(&mut self, name: String, plans: Vec<MemberPlan>, legacy: Option<Legacy>) {
        let (interface, controller) = (&self.interface, Some(Arc::clone(&self.controller)));
        let observer = router_observer(self.teller.clone(), Arc::clone(&self.vips));
        let router = match legacy {
            None => Router::spawn(&name, interface, plans.clone(), controller, observer),
            Some(legacy) => Router::resume(&name, interface, plans.clone(), controller, legacy, observer),
        };
        match router {
            Ok(router) => {
                for status in router.statuses() {
                    tokio::spawn(follow(status.clone(), Arc::clone(&self.changed)));
                }
                self.lives += 1;
                let told = plans.iter().map(|_| None).collect();
                self.running.insert(name, Running { life: self.lives, router, told });
            }
            Err(error) => {
                let problem = format!("vrrp {name}: {:#}", anyhow::Error::from(error));
                error!("{problem}");
                self.failed.insert(name, (plans, problem));
            }
        }
    }

    /// Tells every member what it depends on; only what is new to it.
    pub fn tell(&mut self, of: impl Fn(&str) -> Told) {
        for running in self.running.values_mut() {
            for (member, known) in running.told.iter_mut().enumerate() {
                let Some(plan) = running.router.plans().get(member) else { continue };
                let told = of(&plan.instance.name);
                if known.as_ref().is_none_or(|known| known.tracking != told.tracking) {
                    running.router.set_tracking(member, told.tracking.clone());
                }
                if known.as_ref().is_none_or(|known| known.witness != told.witness) {
                    running.router.set_witness(member, told.witness.clone());
                }
                *known = Some(told);
            }
        }
    }

    /// Gives every router the data plane's clock, or takes it away. `clock` opens one.
    pub fn set_clocks(&self, clock: impl Fn() -> Option<Sightings>) {
        for running in self.running.values() {
            let clock = clock().map(|clock| Box::new(clock) as Box<dyn ArrivalClock>);
            running.router.set_clock(clock);
        }
    }

    /// The threads that the heartbeat depends on.
    pub fn beats(&self) -> Vec<(String, Arc<Beat>)> {
        self.running.iter().map(|(name, running)| (name.clone(), running.router.alive())).collect()
    }

    /// The oldest news among those of all routers; now where there are none.
    pub fn as_of(&self) -> Option<Instant> {
        let all = self.running.values().flat_map(Running::statuses);
        Some(all.map(|status| status.borrow().as_of).min().unwrap_or_else(Instant::now))
    }

    /// The instances whose VIPs are ours, with the number of their last announcement; it differs between lives.
    pub fn active(&self) -> BTreeMap<String, u64> {
        let all =
            self.running.values().flat_map(|running| running.statuses().map(|status| (running.life, status)));
        all.filter_map(|(life, status)| {
            let status = status.borrow();
            let generation = u64::from(life) << 32 | (status.announce_generation & 0xffff_ffff);
            status.holds_addresses.then(|| (status.name.clone(), generation))
        })
        .collect()
    }

    /// What the router of an instance tells; `None` if it does not run.
    pub fn status(&self, instance: &str) -> Option<RouterStatus> {
        let mut all = self.running.values().flat_map(Running::statuses);
        all.find(|status| status.borrow().name == instance).map(|status| status.borrow().clone())
    }

    fn of(&self, instance: &str) -> Option<&Running> {
        let is_member =
            |running: &&Running| running.router.plans().iter().any(|plan| plan.instance.name == instance);
        self.running.values().find(is_member)
    }

    /// Hands over the VIPs of an instance, and of its sync group. False if it does not run.
    pub fn release(&self, instance: &str) -> bool {
        self.of(instance).map(|running| running.router.release()).is_some()
    }

    /// Ends that. False if it does not run.
    pub fn acquire(&self, instance: &str) -> bool {
        self.of(instance).map(|running| running.router.acquire()).is_some()
    }

    /// Why routers do not run.
    pub fn problems(&self) -> impl Iterator<Item = &String> {
        self.failed.values().map(|(_, problem)| problem)
    }

    /// Why the router of an instance does not run.
    pub fn problem(&self, instance: &str) -> Option<&String> {
        let mut failed = self.failed.values();
        failed.find_map(|(plans, problem)| {
            plans.iter().any(|plan| plan.instance.name == instance).then_some(problem)
        })
    }

    /// Ends all of them; those that are active hand over.
    pub async fn shutdown(&mut self) {
        self.failed.clear();
        // All at once: each may wait for its successor.
        let ending: Vec<_> = std::mem::take(&mut self.running)
            .into_values()
            .map(|running| tokio::spawn(end(running)))
            .collect();
        for ended in ending {
            if ended.await.is_err() {
                error!("a virtual router could not be shut down in order");
            }
        }
    }
}

impl ArrivalClock for Sightings {
    fn last_arrival(&self, vrid: u8, source: IpAddr) -> Option<Instant> {
        self.advert(vrid, source).map(|seen| super::rivals::moment(seen.at_ns))
    }
}

/// The routers of a configuration: one for each sync group, and for each instance in none.
fn plans(config: &Config) -> BTreeMap<String, Vec<MemberPlan>> {
    let mut plans: BTreeMap<String, Vec<MemberPlan>> = BTreeMap::new();
    for instance in &config.vrrp {
        let all: Vec<IpAddr> = vips_of(config, &instance.name).into_iter().map(|(vip, _)| vip).collect();
        let family = family_of(&all);
        let vips: Vec<IpAddr> = all.into_iter().filter(|vip| Family::of(*vip) == family).collect();
        if !vips.is_empty() {
            let name = match &instance.sync_group {
                // A group may be called as an instance is.
                Some(group) => format!("{group} (sync group)"),
                None => instance.name.clone(),
            };
            plans.entry(name).or_default().push(MemberPlan { instance: instance.clone(), vips });
        }
    }
    // The same on every node, whatever the order of their files: a sync group counts on it.
    for members in plans.values_mut() {
        members.sort_by_key(|plan| (plan.vips.iter().any(IpAddr::is_ipv6), plan.instance.virtual_router_id));
    }
    plans
}

async fn end(running: Running) {
    // It waits for its threads.
    if tokio::task::spawn_blocking(move || running.router.shutdown()).await.is_err() {
        error!("a virtual router could not be shut down in order");
    }
}

/// Ends with the router.
async fn follow(mut status: watch::Receiver<RouterStatus>, changed: Arc<Notify>) {
    let relevant = |status: &RouterStatus| (status.state, status.holds_addresses, status.announce_generation);
    let mut known = relevant(&status.borrow_and_update());
    // What happened before this task ran has woken nobody.
    changed.notify_one();
    while status.changed().await.is_ok() {
        let now = relevant(&status.borrow_and_update());
        if now != known {
            known = now;
            changed.notify_one();
        }
    }
}
