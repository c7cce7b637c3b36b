//! The interfaces: what netlink says about them, their carriers, and the way to the backends.

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
    dataplane::{self, AttachPoint, Sightings},
    desired::{pool, unreachable_because},
    netlink::{Link, Netlink, NetlinkEvent, NextHops},
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
            // The node's own addresses are among what the data plane knows.
            Some(NetlinkEvent::Address) => self.look_at_link = true,
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

    /// Looks at the links; starts over where one is another one now.
    pub(super) async fn refresh_links(&mut self) {
        if self.events.is_none() {
            self.reopen_netlink().await;
        }
        match self.netlink.links().await {
            Ok(links) if links.iter().map(|link| link.index).eq(self.netlink.indices()) => {
                self.links = links;
                set_problem(&mut self.problems.interface, None);
                self.look_at_carrier();
                self.look_at_program();
            }
            Ok(_) => {
                info!(interfaces = ?self.config.node.interfaces, "an interface was made anew; starting over");
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
        let problem = if let Some(problem) = self.links.iter().find_map(carrier_problem) {
            self.recheck = None;
            Some(problem)
        } else if self.problems.link.is_none() {
            None
        } else {
            // Also where all are still up: checks that hang since before may be about to say otherwise.
            if self.recheck.is_none() {
                self.checks.probe_now();
                self.replication.rejoin();
                let by = Instant::now() + recovery_time(&self.config);
                self.recheck = Some(Recheck { since: SystemTime::now(), by });
            }
            let interfaces = self.config.node.interfaces.join(", ");
            Some(format!("interface {interfaces} is back: checking the backends first"))
        };
        set_problem(&mut self.problems.link, problem);
    }

    /// Whether our program is still where it was attached: somebody may have taken it off (`bpftool link detach`). Then it
    /// is put back; where that fails, this node forwards nothing, and VRRP hears of it.
    fn look_at_program(&mut self) {
        let Some(dataplane) = &mut self.dataplane else { return };
        let Ok(ours) = dataplane.program_id() else { return };
        let bare = |link: &&Link| !link.xdp_programs.contains(&ours);
        let Some(bare) = self.links.iter().find(bare).map(|link| link.parent_name.clone()) else { return };
        warn!(interface = bare, "somebody has taken the XDP program off; attaching it again");
        if let Err(error) = dataplane.attach_again(&attach_points(&self.links), self.config.node.xdp_mode) {
            let problem = format!("{:#}", anyhow::Error::from(error));
            set_problem(&mut self.problems.dataplane, Some(problem));
            self.tell_routers();
            // Opened anew at the next look at everything.
            self.close_dataplane();
        }
    }

    /// The checks have looked again after the carrier came back, or have had their time.
    pub(super) fn rechecked(&mut self) {
        if let Some(recheck) = &mut self.recheck
            && !self.replication.is_synced()
        {
            // That has a bound of its own.
            recheck.by = Instant::now() + DEBOUNCE;
            return;
        }
        self.recheck = None;
        set_problem(&mut self.problems.link, None);
        self.tell_routers();
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

    /// An interface has another index: everything that was on the old one is gone with it.
    pub(super) async fn start_over(&mut self) {
        if !self.reopen_netlink().await {
            return;
        }
        if let Ok(links) = self.netlink.links().await {
            self.links = links;
        }
        set_problem(&mut self.problems.interface, None);
        self.look_at_carrier();
        self.announced.clear();
        self.close_dataplane();
        self.reopen_dataplane_now();
    }

    /// The other routers that advertise from the virtual router's Ethernet address, which is ours once we are active: what
    /// is to reach them then needs their own.
    fn routers_behind_virtual_macs(&self) -> Vec<IpAddr> {
        let with_virtual_mac = self.config.vrrp.iter().filter(|instance| instance.virtual_mac);
        let vrids: BTreeSet<u8> = with_virtual_mac.map(|instance| instance.virtual_router_id.get()).collect();
        let adverts = self.sightings.as_ref().filter(|_| !vrids.is_empty()).map(Sightings::adverts);
        let seen = adverts.unwrap_or_default().into_iter();
        seen.filter(|(_, vrid, _)| vrids.contains(vrid)).map(|(source, ..)| source).collect()
    }

    /// Looks up where frames for each backend go.
    pub(super) async fn refresh_next_hops(&mut self) {
        let backends = self.ids.all().map(|(_, identity)| identity.address.ip());
        let wanted: BTreeSet<IpAddr> = backends.chain(self.routers_behind_virtual_macs()).collect();
        match self.netlink.next_hops(&wanted).await {
            Ok(next_hops) => {
                for (service, entry) in self
                    .config
                    .services
                    .iter()
                    .flat_map(|service| pool(service).map(move |entry| (service, entry)))
                {
                    let of = |known: &NextHops| known.by_backend.get(&entry.address.ip()).copied();
                    let now = of(&next_hops);
                    if now != of(&self.next_hops)
                        && let Some(reason) =
                            now.and_then(|now| unreachable_because(now, &entry, service.mode))
                    {
                        warn!(backend = %entry.address, "this backend gets no new connections: {reason}");
                    }
                }
                self.next_hops = next_hops;
            }
            // The next resync tries again; the maps keep what they have.
            Err(error) => warn!("next hops are not known: {:#}", anyhow::Error::from(error)),
        }
    }
}

/// Where XDP is attached for these interfaces: each parent once.
pub(super) fn attach_points(links: &[Link]) -> Vec<AttachPoint> {
    let mut points: Vec<AttachPoint> = Vec::new();
    for link in links {
        let point = AttachPoint { if_index: link.parent, interface: link.parent_name.clone() };
        if !points.contains(&point) {
            points.push(point);
        }
    }
    points
}

/// Where frames have tags, XDP has to see them.
pub(super) fn keep_vlan_tags(links: &[Link]) {
    let tagged: BTreeSet<&str> =
        links.iter().filter(|link| !link.tags.is_empty()).map(|link| link.parent_name.as_str()).collect();
    for interface in tagged {
        match dataplane::keep_vlan_tags(interface) {
            Ok(true) => info!(interface, "VLAN tags stay in the frames now (rx-vlan-offload off)"),
            Ok(false) => {}
            Err(error) => warn!(
                interface,
                "whether VLAN tags stay in the frames is not known, and without them nothing is forwarded: {error}; \
                 write: ethtool -K {interface} rxvlan off"
            ),
        }
    }
}

/// How long a backend that works again takes to be up at most: a check that hangs, and then `rise` that pass.
fn recovery_time(config: &Config) -> Duration {
    let of = |health: &Health| 2 * health.timeout + health.fast_interval * health.rise;
    let longest = config.services.iter().map(|service| of(&service.health)).max();
    longest.unwrap_or_default().min(FIRST_ROUND_AT_MOST)
}

/// Why nothing can be sent or received by an interface, if so.
fn carrier_problem(link: &Link) -> Option<String> {
    match (link.up, link.running) {
        (true, true) => None,
        (true, false) => Some(format!("interface {} has no carrier", link.name)),
        (false, _) => Some(format!("interface {} is switched off", link.name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::tests::{link, vlan};

    #[test]
    fn each_parent_is_attached_to_once_and_in_order() {
        let links = [vlan("b.100", 3, 100), link("a", 2), vlan("b.200", 3, 200)];
        let points: Vec<_> =
            attach_points(&links).into_iter().map(|point| (point.if_index, point.interface)).collect();
        assert_eq!(points, [(3, "parent3".to_owned()), (2, "a".to_owned())]);
    }

    #[test]
    fn every_interface_needs_a_carrier() {
        let mut links = [link("a", 2), link("b", 3)];
        assert_eq!(links.iter().find_map(carrier_problem), None);
        links[1].running = false;
        assert_eq!(links.iter().find_map(carrier_problem).as_deref(), Some("interface b has no carrier"));
        links[1].up = false;
        assert_eq!(links.iter().find_map(carrier_problem).as_deref(), Some("interface b is switched off"));
    }
}
