//! Looks, computes what should be, and does what is missing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use lb_common::wire::Mac;
use tokio::time::Instant;
use tracing::debug;

use super::{Controller, RETRY, inheritance::former_router, set_problem};
use crate::{
    config::model::{Config, Family, family_of},
    dataplane::{Dataplane, DataplaneError, Tables},
    desired::{
        Desired, Inputs, InterfaceAddress, NextHop, PoolEntry, desired, keep_until_sure, pool, vips_of,
    },
    health::rise_fall::HealthState,
    reconcile::{Change, Observed, Stage, diff},
};

impl Controller {
    /// Looks, computes what should be, and does what is missing.
    pub(super) async fn reconcile(&mut self) {
        self.due = None;
        if std::mem::take(&mut self.look_at_link) {
            self.refresh_links().await;
            self.tell_routers();
        }
        if std::mem::take(&mut self.look_at_neighbours) {
            self.refresh_next_hops().await;
        }
        let outcome = self.try_reconcile().await;
        let problem = outcome.err().map(|error| format!("{error:#}"));
        if problem.is_some() {
            self.schedule(RETRY);
        }
        set_problem(&mut self.problems.reconcile, problem);
        self.tell_routers();
        self.tell_service_manager();
    }

    pub(super) async fn try_reconcile(&mut self) -> anyhow::Result<()> {
        // Of an earlier time than what is read of them below.
        let as_of = self.routers.as_of();
        let observed = match self.observe().await {
            Ok(observed) => observed,
            Err(error) => {
                if error.is::<DataplaneError>() {
                    let problem = format!("the maps cannot be read: {error:#}");
                    set_problem(&mut self.problems.maps, Some(problem));
                }
                return Err(error);
            }
        };
        set_problem(&mut self.problems.maps, None);
        let desired = self.desired(&observed);
        let problem = (!desired.problems.is_empty()).then(|| desired.problems.join("; "));
        set_problem(&mut self.problems.services, problem);
        let changes = diff(&desired, &observed);
        let applied = self.apply(changes, &observed).await;
        self.replication.know(&desired, &self.ids, &self.links, Instant::now().into_std());
        self.connections.know(desired.addresses.iter().map(|(vip, _)| *vip).collect());
        // As long as addresses that are not ours any more are still here, answering for them would be a lie.
        let disowned = !matches!(applied, Err((Stage::Disown, _)));
        if let Some(as_of) = as_of.filter(|_| disowned && self.dataplane.is_some()) {
            self.heartbeat.settled(as_of);
        }
        if applied.is_ok() {
            self.follow_vips();
        }
        // Only now do those who are told to go find their way to somebody else.
        self.follow_dead();
        applied.map_err(|(_, error)| error)?;
        if let Some(dataplane) = &mut self.dataplane {
            dataplane.set_holds_vip(!desired.addresses.is_empty())?;
        }
        Ok(())
    }

    fn desired(&mut self, observed: &Observed) -> Desired {
        let active = self.routers.active();
        if self.dataplane.is_none() {
            // Nothing can be forwarded, so nothing is ours; the maps are left as they are.
            return Desired {
                tables: observed.tables.clone(),
                node: observed.node,
                addresses: BTreeSet::new(),
                announce: BTreeMap::new(),
                problems: Vec::new(),
            };
        }
        let mut health = self.checks.states();
        keep_until_sure(&mut health, &self.checks.doubted(), &self.ids, &observed.tables);
        let now = Instant::now().into_std();
        self.follow_recoveries(&health, now);
        let steers = self.steers();
        let heirs = self.follow_inheritance(&active, now);
        let inputs = Inputs {
            config: &self.config,
            links: &self.links,
            lease: self.node_lease(),
            half_open_timeout: Duration::from_secs(self.timeouts().half_open.into()),
            health: &health,
            slow_starts: &self.slow_starts,
            now,
            steers: &steers,
            active: &active,
            heirs: &heirs,
            next_hops: &self.next_hops.by_backend,
            ids: &self.ids,
            observed: &observed.tables,
        };
        desired(&inputs, &mut self.rings)
    }

    /// Notes who has recovered, and comes back when the next of them is due for more.
    fn follow_recoveries(&mut self, health: &BTreeMap<PoolEntry, HealthState>, now: std::time::Instant) {
        self.slow_starts.retain(|entry, _| health.contains_key(entry));
        for service in &self.config.services {
            for entry in pool(service) {
                let state = health.get(&entry).copied().unwrap_or(HealthState::Unknown);
                self.slow_starts.entry(entry).or_default().observe(state, service.health.slow_start, now);
            }
        }
        if let Some(next) = self.slow_starts.values().filter_map(|start| start.next_step(now)).min() {
            self.schedule(next.saturating_duration_since(now));
        }
    }

    /// Notes who has become active, and comes back when the first of them has been so for long.
    fn follow_inheritance(
        &mut self,
        active: &BTreeMap<String, u64>,
        now: std::time::Instant,
    ) -> BTreeMap<String, Option<Mac>> {
        let rebuild = self.config.flows.rebuild;
        let mut inheritance = std::mem::take(&mut self.inheritance);
        inheritance.follow(active.keys(), |name| self.former_router(name), now);
        self.inheritance = inheritance;
        if let Some(end) = self.inheritance.next_end(rebuild, now) {
            self.schedule(end.saturating_duration_since(now));
        }
        self.inheritance.heirs(rebuild, now)
    }

    /// Where the router is that was active before an instance became so here.
    fn former_router(&self, instance: &str) -> Option<Mac> {
        let instance = self.config.vrrp.iter().find(|other| other.name == instance)?;
        let vips: Vec<IpAddr> =
            vips_of(&self.config, &instance.name).into_iter().map(|(vip, _)| vip).collect();
        let is_ipv6 = family_of(&vips) == Family::Ipv6;
        let adverts = self.sightings.as_ref()?.adverts();
        let own_mac = |router| match self.next_hops.by_backend.get(&router) {
            Some(&NextHop::Mac { mac, routed: false, .. }) => Some(mac),
            _ => None,
        };
        former_router(instance.virtual_router_id.get(), is_ipv6, &adverts, own_mac)
    }

    async fn observe(&self) -> anyhow::Result<Observed> {
        let (tables, node) = match &self.dataplane {
            Some(dataplane) => (dataplane.observe()?, dataplane.node()?),
            None => (Tables::default(), lb_common::layout::NodeEntry::EMPTY),
        };
        // Those of the configuration, and those that a former one had: the maps still know them.
        let mut ours = our_vips(&self.config);
        ours.extend(tables.vips.iter().filter(|(_, entry)| entry.fenced == 1).map(|(vip, _)| *vip));
        let mut addresses: BTreeSet<InterfaceAddress> = match self.netlink.addresses().await {
            Ok(addresses) => addresses,
            // An interface that is gone has none.
            Err(_) if self.problems.interface.is_some() => BTreeSet::new(),
            Err(error) => return Err(error.into()),
        };
        // While this node only observes, none is ours to take off, whoever has put it there.
        addresses.retain(|(address, _)| ours.contains(address) && !self.config.node.observe);
        Ok(Observed { tables, node, addresses, announced: self.announced.clone() })
    }

    /// Applies changes in order. After a failure, what depends on the failed one is left out.
    async fn apply(
        &mut self,
        changes: Vec<Change>,
        observed: &Observed,
    ) -> Result<(), (Stage, anyhow::Error)> {
        let mut failed: Option<(Stage, anyhow::Error)> = None;
        let owners: BTreeMap<_, _> = self.ids.all().collect();
        let mut changes = changes.into_iter().peekable();
        while let Some(change) = changes.next() {
            let wait = match (&failed, change.stage()) {
                (None, _) | (_, Stage::Disown) => false,
                (Some((stage, _)), Stage::Build) => *stage == Stage::Build,
                (Some(_), Stage::Remove) => true,
            };
            if wait {
                continue;
            }
            match &change {
                Change::SetService(key, entry) => {
                    let was = observed.tables.services.get(key).map_or(0, |old| old.usable);
                    debug!(was, usable = entry.usable, "{change}");
                    if was != entry.usable {
                        self.tell_usable(key, was, entry.usable);
                    }
                }
                Change::SetBackend(id, entry) => {
                    debug!("{change}");
                    let was = observed.tables.backends.get(id).map(|old| old.weight);
                    let of = owners.get(id);
                    if let (Some(was), Some(of)) = (was.filter(|was| *was != entry.weight), of) {
                        self.tell_weight(of, was, entry.weight);
                    }
                }
                _ => debug!("{change}"),
            }
            let stage = change.stage();
            let text = change.to_string();
            let applied = match change {
                Change::SetRing(ring, slots) => {
                    let mut tables = vec![(ring, slots)];
                    while let Some(Change::SetRing(ring, slots)) =
                        changes.next_if(|next| matches!(next, Change::SetRing(..)))
                    {
                        debug!("table {ring}, too");
                        tables.push((ring, slots));
                    }
                    self.dataplane
                        .as_mut()
                        .map_or(Ok(()), |dataplane| dataplane.set_rings(&tables))
                        .map_err(Into::into)
                }
                change => self.apply_one(change).await,
            };
            if let Err(error) = applied {
                let error = error.context(format!("applying `{text}`"));
                failed = failed.or(Some((stage, error)));
            }
            // Many changes take time.
            self.heartbeat.alive(std::time::Instant::now());
        }
        failed.map_or(Ok(()), Err)
    }

    async fn apply_one(&mut self, change: Change) -> anyhow::Result<()> {
        match change {
            Change::StopAnnouncing(vip) => {
                self.announcer.stop(vip);
                self.announced.remove(&vip);
            }
            Change::RemoveAddress(address) => self.netlink.remove_address(address).await?,
            Change::AddAddress(address) => self.netlink.add_address(address).await?,
            Change::Announce(vip, generation, virtual_mac) => {
                self.announcer.announce(vip, virtual_mac);
                if self.announced.insert(vip, generation).is_some() {
                    // Announced again: another router was Active, too. If we were cut off until now, what the checks
                    // know is of no use.
                    self.checks.probe_now();
                }
            }
            change => {
                let Some(dataplane) = &mut self.dataplane else { return Ok(()) };
                apply_to_maps(dataplane, change)?;
            }
        }
        Ok(())
    }
}

/// The VIPs that a VRRP instance owns: those whose addresses are ours to add and remove.
fn our_vips(config: &Config) -> BTreeSet<IpAddr> {
    let instances = config.vrrp.iter();
    instances.flat_map(|instance| vips_of(config, &instance.name)).map(|(vip, _)| vip).collect()
}

fn apply_to_maps(dataplane: &mut Dataplane, change: Change) -> Result<(), DataplaneError> {
    match change {
        Change::SetBackend(id, entry) => dataplane.set_backend(id, entry),
        Change::SetRing(ring, slots) => dataplane.set_ring(ring, &slots),
        Change::SetMembers(service, members) => dataplane.set_members(service, &members),
        Change::Allow(prefix) => dataplane.allow(prefix),
        Change::SetService(key, entry) => dataplane.set_service(key, entry),
        Change::SetVip(vip, entry) | Change::StopAnswering(vip, entry) => dataplane.set_vip(vip, entry),
        Change::SetNode(node) => dataplane.set_node(&node),
        Change::RemoveVip(vip) => dataplane.remove_vip(vip),
        Change::RemoveService(key) => dataplane.remove_service(key),
        Change::Disallow(prefix) => dataplane.disallow(prefix),
        Change::RemoveBackend(id) => dataplane.remove_backend(id),
        Change::StopAnnouncing(_)
        | Change::RemoveAddress(_)
        | Change::AddAddress(_)
        | Change::Announce(..) => Ok(()),
    }
}
