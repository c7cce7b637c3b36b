//! The virtual routers that run: one for each VRRP instance that has a VIP.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use tokio::sync::{Notify, watch};
use tracing::{error, info};

use crate::{
    config::model::{Config, VrrpInstance},
    desired::vips_of,
    vrrp::{
        advert::Priority,
        fsm::VrrpState,
        router::{Router, RouterStatus},
    },
};

/// The running routers, and those that could not be started yet. Wakes the controller when one changes its state or
/// wants its VIPs announced.
#[derive(Debug)]
pub struct Routers {
    interface: String,
    changed: Arc<Notify>,
    tracking: Result<(), String>,
    /// What each instance tracks beyond that: its priority, or why it is in Fault.
    weighed: BTreeMap<String, Result<Priority, String>>,
    running: BTreeMap<String, Running>,
    /// Why they do not run; tried again.
    failed: BTreeMap<String, (Wanted, String)>,
    /// How many were ever started, so that announcements of different lives differ.
    lives: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    instance: VrrpInstance,
    vips: Vec<Ipv4Addr>,
}

#[derive(Debug)]
struct Running {
    wanted: Wanted,
    life: u32,
    router: Router,
    status: watch::Receiver<RouterStatus>,
}

impl Routers {
    /// None yet.
    pub fn new(interface: &str, changed: Arc<Notify>) -> Self {
        Self {
            interface: interface.to_owned(),
            changed,
            tracking: Ok(()),
            weighed: BTreeMap::new(),
            running: BTreeMap::new(),
            failed: BTreeMap::new(),
            lives: 0,
        }
    }

    /// Starts, stops and replaces routers until they are as configured; one that is unchanged notices nothing. One that
    /// is replaced hands over first.
    pub async fn configure(&mut self, config: &Config) {
        let mut wanted: BTreeMap<String, Wanted> = BTreeMap::new();
        for instance in &config.vrrp {
            // VRRP itself is IPv4: an IPv6 VIP goes where the instance's IPv4 VIPs are.
            let vips: Vec<Ipv4Addr> = (vips_of(config, &instance.name).into_iter())
                .filter_map(|(vip, _)| match vip {
                    IpAddr::V4(vip) => Some(vip),
                    IpAddr::V6(_) => None,
                })
                .collect();
            if !vips.is_empty() {
                wanted.insert(instance.name.clone(), Wanted { instance: instance.clone(), vips });
            }
        }
        self.failed.clear();
        let stale: Vec<String> = (self.running.iter())
            .filter(|(name, running)| wanted.get(*name) != Some(&running.wanted))
            .map(|(name, _)| name.clone())
            .collect();
        for name in stale {
            if let Some(running) = self.running.remove(&name) {
                info!(vrrp = name, "stopping: its configuration has changed");
                end(running).await;
            }
        }
        for (name, wanted) in wanted {
            if !self.running.contains_key(&name) {
                self.start(name, wanted);
            }
        }
    }

    /// Starts those that could not be started.
    pub async fn retry(&mut self) {
        for (name, (wanted, _)) in std::mem::take(&mut self.failed) {
            self.start(name, wanted);
        }
    }

    fn start(&mut self, name: String, wanted: Wanted) {
        match Router::spawn(&wanted.instance, &self.interface, &wanted.vips) {
            Ok(router) => {
                router.set_tracking(self.tracking_of(&name));
                let status = router.status();
                tokio::spawn(follow(status.clone(), Arc::clone(&self.changed)));
                self.lives += 1;
                self.running.insert(name, Running { wanted, life: self.lives, router, status });
            }
            Err(error) => {
                let problem = format!("vrrp {name}: {:#}", anyhow::Error::from(error));
                error!("{problem}");
                self.failed.insert(name, (wanted, problem));
            }
        }
    }

    /// Tells every router whether what it depends on is well.
    pub fn set_tracking(&mut self, tracking: Result<(), String>) {
        if self.tracking != tracking {
            self.tracking = tracking;
            for (name, running) in &self.running {
                running.router.set_tracking(self.tracking_of(name));
            }
        }
    }

    /// Tells a router, running or about to, what it tracks beyond that: its priority, or why it is in Fault.
    pub fn weigh(&mut self, name: &str, verdict: Result<Priority, String>) {
        if self.weighed.get(name) != Some(&verdict) {
            self.weighed.insert(name.to_owned(), verdict);
            if let Some(running) = self.running.get(name) {
                running.router.set_tracking(self.tracking_of(name));
            }
        }
    }

    fn tracking_of(&self, name: &str) -> Result<(), String> {
        let own = self.weighed.get(name).map_or(Ok(()), |verdict| verdict.clone().map(|_| ()));
        self.tracking.clone().and(own)
    }

    /// Lets a router hand its VIPs over, and leave them to anybody else.
    pub fn release(&self, name: &str) {
        if let Some(running) = self.running.get(name) {
            running.router.release();
        }
    }

    /// Ends a release.
    pub fn acquire(&self, name: &str) {
        if let Some(running) = self.running.get(name) {
            running.router.acquire();
        }
    }

    /// The instances that are active, with the number of their last announcement; it differs between lives.
    pub fn active(&self) -> BTreeMap<String, u64> {
        (self.running.iter())
            .filter_map(|(name, running)| {
                let status = running.status.borrow();
                let generation = u64::from(running.life) << 32 | (status.announce_generation & 0xffff_ffff);
                (status.state == VrrpState::Active).then(|| (name.clone(), generation))
            })
            .collect()
    }

    /// What a router tells; `None` if it does not run.
    pub fn status(&self, name: &str) -> Option<RouterStatus> {
        self.running.get(name).map(|running| running.status.borrow().clone())
    }

    /// Why routers do not run.
    pub fn problems(&self) -> impl Iterator<Item = &String> {
        self.failed.values().map(|(_, problem)| problem)
    }

    /// Why a router does not run.
    pub fn problem(&self, name: &str) -> Option<&String> {
        self.failed.get(name).map(|(_, problem)| problem)
    }

    /// Ends all of them; those that are active hand over.
    pub async fn shutdown(&mut self) {
        self.failed.clear();
        for (_, running) in std::mem::take(&mut self.running) {
            end(running).await;
        }
    }
}

async fn end(running: Running) {
    // It waits for its threads.
    if tokio::task::spawn_blocking(move || running.router.shutdown()).await.is_err() {
        error!("a virtual router could not be shut down in order");
    }
}

/// Ends with the router.
async fn follow(mut status: watch::Receiver<RouterStatus>, changed: Arc<Notify>) {
    let relevant = |status: &RouterStatus| (status.state, status.announce_generation);
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
