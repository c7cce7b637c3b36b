//! The interface: what netlink says about it, its carrier, and the way to the backends.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use tracing::{info, warn};

use super::{Controller, DEBOUNCE, FIRST_ROUND_AT_MOST, set_problem};
use crate::{
    config::model::{Config, Health},
    netlink::{Link, Netlink, NetlinkEvent},
};

/// The backends are being checked because the carrier came back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recheck {
    /// When it did; only checks that pass after that count.
    pub since: SystemTime,
    /// VRRP waits no longer than until then.
    pub by: Instant,
}

impl Controller {
    /// What the kernel reports is looked at soon, together with what else it reports until then.
    pub(super) fn netlink_event(&mut self, event: Option<NetlinkEvent>) {
        match event {
            Some(NetlinkEvent::Link) => (self.look_at_link, self.look_at_neighbours) = (true, true),
            Some(NetlinkEvent::Address) => {}
            Some(NetlinkEvent::Neighbour(address)) if self.next_hops.neighbours.contains(&address) => {
                self.look_at_neighbours = true;
            }
            Some(NetlinkEvent::Neighbour(_)) => return,
            Some(NetlinkEvent::Route) => self.look_at_neighbours = true,
            Some(NetlinkEvent::Lost) | None => (self.look_at_link, self.look_at_neighbours) = (true, true),
        }
        if event.is_none() {
            self.events = None;
            warn!("the netlink connection broke; opening another one");
        }
        self.schedule(DEBOUNCE);
    }

    /// Looks at the link; starts over where it is another one now.
    pub(super) async fn refresh_link(&mut self) {
        if self.events.is_none() {
            self.reopen_netlink().await;
        }
        match self.netlink.links().await {
            Ok(links) if links.iter().map(|link| link.index).eq(self.netlink.indices()) => {
                if let Some(link) = first(links) {
                    self.link = link;
                }
                set_problem(&mut self.problems.interface, None);
                self.look_at_carrier();
            }
            Ok(_) => {
                info!(
                    interface = self.config.node.interface(),
                    "the interface was made anew; starting over on it"
                );
                self.start_over().await;
            }
            Err(error) => {
                let problem = format!("{:#}", anyhow::Error::from(error));
                set_problem(&mut self.problems.interface, Some(problem));
            }
        }
    }

    /// Without a carrier VRRP is in Fault. When the carrier comes back, what the checks know is out of date: VRRP stays
    /// away until they have looked again, so that a node that sees no backend does not take the VIP from one that does.
    pub(super) fn look_at_carrier(&mut self) {
        let interface = self.config.node.interface();
        let problem = if let Some(problem) = carrier_problem(interface, &self.link) {
            self.recheck = None;
            Some(problem)
        } else if self.problems.link.is_none() {
            None
        } else {
            // Also where all are still up: checks that hang since before may be about to say otherwise.
            if self.recheck.is_none() {
                self.checks.probe_now();
                let by = Instant::now() + recovery_time(&self.config);
                self.recheck = Some(Recheck { since: SystemTime::now(), by });
            }
            Some(format!("interface {interface} is back: checking the backends first"))
        };
        set_problem(&mut self.problems.link, problem);
    }

    /// The checks have looked again after the carrier came back, or have had their time.
    pub(super) fn rechecked(&mut self) {
        self.recheck = None;
        set_problem(&mut self.problems.link, None);
        self.routers.set_tracking(self.problems.tracked());
    }

    /// Opens another netlink connection. False where that failed, too.
    pub(super) async fn reopen_netlink(&mut self) -> bool {
        match Netlink::open(&self.config.node.interfaces).await {
            Ok((netlink, events)) => {
                (self.netlink, self.events) = (netlink, Some(events));
                true
            }
            Err(error) => {
                set_problem(&mut self.problems.interface, Some(format!("{:#}", anyhow::Error::from(error))));
                false
            }
        }
    }

    /// The interface has another index: everything that was on the old one is gone with it.
    pub(super) async fn start_over(&mut self) {
        if !self.reopen_netlink().await {
            return;
        }
        if let Some(link) = self.netlink.links().await.ok().and_then(first) {
            self.link = link;
        }
        set_problem(&mut self.problems.interface, None);
        self.look_at_carrier();
        self.announced.clear();
        self.dataplane = None;
        if let Err(error) = self.open_dataplane() {
            set_problem(&mut self.problems.dataplane, Some(format!("{error:#}")));
        }
    }

    /// Looks up where frames for each backend go.
    pub(super) async fn refresh_next_hops(&mut self) {
        let backends: BTreeSet<IpAddr> =
            self.ids.all().map(|(_, address)| IpAddr::V4(*address.ip())).collect();
        match self.netlink.next_hops(&backends).await {
            Ok(next_hops) => {
                for (backend, next_hop) in &next_hops.by_backend {
                    if next_hop.is_unusable() && self.next_hops.by_backend.get(backend) != Some(next_hop) {
                        warn!(%backend, ?next_hop, "XDP cannot reach this backend: it gets no new connections");
                    }
                }
                self.next_hops = next_hops;
            }
            // The next resync tries again; the maps keep what they have.
            Err(error) => warn!("next hops are not known: {:#}", anyhow::Error::from(error)),
        }
    }
}

/// The interface that VIPs are on.
pub(super) fn first(links: Vec<Link>) -> Option<Link> {
    links.into_iter().next()
}

/// How long a backend that works again takes to be up at most: a check that hangs, and then `rise` that pass.
fn recovery_time(config: &Config) -> Duration {
    let of = |health: &Health| 2 * health.timeout + health.fast_interval * health.rise;
    let longest = config.services.iter().map(|service| of(&service.health)).max();
    longest.unwrap_or_default().min(FIRST_ROUND_AT_MOST)
}

/// Why nothing can be sent or received, if so.
fn carrier_problem(interface: &str, link: &Link) -> Option<String> {
    match (link.up, link.running) {
        (true, true) => None,
        (true, false) => Some(format!("interface {interface} has no carrier")),
        (false, _) => Some(format!("interface {interface} is switched off")),
    }
}
