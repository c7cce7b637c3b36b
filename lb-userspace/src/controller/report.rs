//! What the controller tells about itself.

use std::collections::BTreeMap;

use lb_common::layout::{BackendCounters, BackendId};

use super::Controller;
use crate::{
    config::{
        effective::fingerprint,
        model::{Backend, Service, VrrpInstance},
    },
    dataplane::{Dataplane, Tables},
    desired::{PoolEntry, service_key, vips_of},
    health::tally::CheckTally,
    netlink::Link,
    process,
    reconcile::MacText,
    status::{
        ActiveRouterStatus, AdminStatus, BackendFlowsStatus, BackendStatus, ConfigStatus, DaemonState,
        FlowsStatus, InterfaceStatus, LocalClientsStatus, PaceStatus, Packets, ServiceStatus, Status,
        VrrpStatus, WeightOverrideStatus, without_daemon, word,
    },
    steering::rfc3339,
};

impl Controller {
    /// Everything, as of now; flows as of the last count.
    pub(super) fn status(&self) -> Status {
        let tables =
            self.dataplane.as_ref().and_then(|dataplane| dataplane.observe().ok()).unwrap_or_default();
        let end = self.ids.end();
        let counters =
            self.dataplane.as_ref().and_then(|dataplane| dataplane.backend_counters_below(end).ok());
        let counters = counters.unwrap_or_default();
        let interfaces: Vec<InterfaceStatus> =
            self.links.iter().map(|link| self.interface_status(link)).collect();
        Status {
            daemon: DaemonState::Up,
            without_daemon: None,
            node: self.config.node.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            process: Some(process::look(self.began_at)),
            problems: self.problems(),
            rivals: self.rivals.status(),
            config: ConfigStatus {
                path: self.options.config_path.clone(),
                loaded_at: rfc3339(self.loaded_at),
                last_reload_error: self.last_reload_error.clone(),
                last_reload_at: self.last_reload_at.map(rfc3339),
                fingerprint: fingerprint(&self.config),
            },
            interface: interfaces.first().cloned().unwrap_or_default(),
            interfaces,
            vrrp: self.config.vrrp.iter().map(|instance| self.vrrp_status(instance)).collect(),
            services: self
                .config
                .services
                .iter()
                .map(|service| self.service_status(service, &tables, &counters))
                .collect(),
            packets: self.packets(),
            flows: FlowsStatus {
                max: self.config.flows.max,
                half_open_max: self.config.flows.half_open_max,
                established: self.census.established,
                half_open: self.census.half_open,
                closing: self.census.closing,
            },
            pace: self.peaks.of_node(),
            http: self.http_status(),
            sync: self.replication.status(),
            hooks: self.teller.hooks().status(),
            connection_log: self.connections.status(),
            observing: self.observing(),
        }
    }

    fn interface_status(&self, link: &Link) -> InterfaceStatus {
        let attachments = self.dataplane.as_ref().map_or(&[][..], Dataplane::attachments);
        let attachment = attachments.iter().find(|attachment| attachment.if_index == link.parent);
        let mac = link.mac.or(attachment.map(|attachment| attachment.mac)).unwrap_or_default();
        InterfaceStatus {
            name: link.name.clone(),
            xdp_mode: attachment.map_or("none", |attachment| attachment.mode.name()).to_owned(),
            mac: MacText(mac).to_string(),
            attached_to: link.parent_name.clone(),
            vlans: link.tags.iter().map(|tag| tag.id).collect(),
            mtu: link.mtu,
        }
    }

    fn problems(&self) -> Vec<String> {
        let problems = &self.problems;
        let own = [
            &problems.interface,
            &problems.link,
            &problems.dataplane,
            &problems.maps,
            &problems.reconcile,
            &problems.heartbeat,
            &problems.services,
            &problems.local_clients,
            &self.steering.problem,
            &problems.flows,
            &problems.resets,
            &problems.doubt,
            &problems.stats_socket,
            &problems.web,
        ];
        let own = own.into_iter().flatten().chain(self.routers.problems()).cloned();
        let routers = self.config.vrrp.iter().filter_map(|instance| {
            let status = self.routers.status(&instance.name)?;
            status.deaf.map(|deaf| {
                format!(
                    "vrrp {}: advertisements have been reaching the interface, but not xvip, for {} s: a firewall drops IP \
                     protocol 112; let it pass",
                    instance.name,
                    deaf.as_secs()
                )
            })
        });
        let own = own.chain(self.rivals.problems().cloned()).chain(routers);
        own.chain(self.alerts.problems(std::time::Instant::now()))
            .chain(self.replication.problems())
            .chain(self.connections.problem())
            .collect()
    }

    pub(super) fn vrrp_status(&self, instance: &VrrpInstance) -> VrrpStatus {
        let vips = vips_of(&self.config, &instance.name);
        let mut status = VrrpStatus {
            state: "initialize".to_owned(),
            since: rfc3339(self.loaded_at),
            tracks: self.tracking.status(&instance.name),
            witness: self.tracking.witness_status(&instance.name),
            ..VrrpStatus::configured(instance, &vips)
        };
        match self.routers.status(&instance.name) {
            Some(router) => {
                status.state = router.state.to_string();
                status.since = rfc3339(router.since);
                status.reason = router.reason;
                status.priority = router.priority;
                status.released = router.released;
                status.active_router = router.active_router.map(|active| ActiveRouterStatus {
                    address: active.address.to_string(),
                    priority: active.priority,
                });
                status.holds_addresses = router.holds_addresses;
                status.blocked = router.blocked;
                status.transitions = router.transitions;
                status.send_errors = router.send_errors;
                status.send_error = router.send_error;
                status.address_mismatches = router.address_mismatches;
                status.interval_mismatches = router.interval_mismatches;
                status.lateness = router.lateness;
                status.realtime = router.realtime;
                status.adverts_sent = router.adverts_sent;
                status.adverts_received = router.adverts_received;
                status.discarded =
                    router.discards.into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect();
            }
            None => {
                status.reason = match self.routers.problem(&instance.name) {
                    Some(problem) => problem.clone(),
                    None if vips.is_empty() => "no service uses this instance".to_owned(),
                    None if self.config.node.observe => "observing: it takes no part".to_owned(),
                    None => "waiting for the first results of the health checks".to_owned(),
                };
            }
        }
        status
    }

    /// `counters` are the backends', by id.
    fn service_status(
        &self,
        service: &Service,
        tables: &Tables,
        counters: &[BackendCounters],
    ) -> ServiceStatus {
        let entry = tables.services.get(&service_key(service));
        let mut slots = vec![0usize; self.ids.end() as usize];
        let ring = entry.filter(|entry| entry.usable > 0).and_then(|entry| tables.rings.get(&entry.index));
        if let Some(ring) = ring {
            let turns = entry.map_or(0, |entry| entry.turns as usize);
            let part = if turns > 0 { turns } else { ring.len() };
            for &id in ring.iter().take(part) {
                if let Some(slots) = slots.get_mut(usize::from(id)) {
                    *slots += 1;
                }
            }
        }
        let local = entry.zip(self.dataplane.as_ref());
        let local = local.and_then(|(entry, dataplane)| dataplane.local_counters(entry.index).ok());
        let local = local.unwrap_or_default();
        let total: usize = slots.iter().sum::<usize>().max(1);
        let share = |id: BackendId| slots.get(usize::from(id)).copied().unwrap_or(0) as f64 / total as f64;
        ServiceStatus {
            name: service.name.clone(),
            vip: service.vip.address.to_string(),
            port: service.port.get(),
            mode: word(&service.mode),
            balance: word(&service.balance),
            usable: entry.map_or(0, |entry| entry.usable),
            local_clients: LocalClientsStatus {
                redirected: local.redirected,
                no_backend: local.no_backend,
                stale: local.stale,
                other_namespace: local.other_namespace,
            },
            rebalance: self.rebalance_status(service),
            host_connections: self.host_connections(service, tables),
            pace: self.peaks.of_service(&service_key(service)),
            backends: (service.backends.iter())
                .map(|backend| self.backend_status(service, backend, tables, counters, &share))
                .collect(),
        }
    }

    fn host_connections(&self, service: &Service, tables: &Tables) -> u64 {
        let key = service_key(service);
        let mut ids = service
            .backends
            .iter()
            .filter_map(|backend| self.ids.id(&PoolEntry { service: key, address: backend.address }));
        if ids.any(|id| tables.backends.get(&id).is_some_and(|backend| backend.local != 0)) {
            return 0;
        }
        self.host_connections.get(&(service.vip.address, service.port.get())).copied().unwrap_or(0)
    }

    fn backend_status(
        &self,
        service: &Service,
        backend: &Backend,
        tables: &Tables,
        counters: &[BackendCounters],
        share: &dyn Fn(BackendId) -> f64,
    ) -> BackendStatus {
        let mut status = BackendStatus {
            name: backend.name.clone(),
            address: backend.address.to_string(),
            weight: backend.weight,
            effective_weight: backend.weight,
            admin: None,
            weight_override: None,
            share_limit: None,
            max_connections: backend.max_connections,
            local: false,
            state: "unknown".to_owned(),
            down: None,
            since: rfc3339(self.loaded_at),
            reason: "not checked".to_owned(),
            share: 0.0,
            next_hop: None,
            flows: BackendFlowsStatus::default(),
            pace: PaceStatus::default(),
            certificate_not_after: None,
            resets: BTreeMap::new(),
            checks: CheckTally::default(),
        };
        let entry = PoolEntry { service: service_key(service), address: backend.address };
        status.pace = self.peaks.of_backend(&entry);
        if let Some(one) = self.steering.overrides.of(service, backend) {
            status.admin = one.standing.as_ref().map(|(standing, said)| AdminStatus::of(*standing, said));
            status.weight_override = one.weight.as_ref().map(|(weight, said)| WeightOverrideStatus {
                weight: *weight,
                by: said.by.clone(),
                at: rfc3339(said.at),
            });
        }
        if let Some(health) = self.checks.health(&entry) {
            status.state = word(&health.state);
            status.down = health.down.map(|kind| word(&kind));
            status.since = rfc3339(health.since);
            status.reason = health.reason;
            status.checks = health.tally;
            status.certificate_not_after = health.certificate.map(rfc3339);
        }
        let Some(id) = self.ids.id(&entry) else { return status };
        status.share = share(id);
        status.resets = self.resets_of(id);
        if let Some(entry) = tables.backends.get(&id) {
            let hop = &entry.hop;
            status.next_hop = hop.is_resolved().then(|| MacText(hop.mac.octets()).to_string());
            status.effective_weight = entry.weight;
            status.share_limit = Some(entry.share).filter(|share| *share > 0);
            status.local = entry.local != 0;
        }
        let counters = counters.get(usize::from(id)).copied().unwrap_or_default();
        let counted = self.census.by_backend.get(&id).copied().unwrap_or_default();
        let figures = counted.figures;
        status.flows = BackendFlowsStatus {
            opened: counters.opened,
            established: counters.established,
            active: counted.active,
            half_open: counted.half_open,
            closing: counted.half_closed + counted.ended,
            closed: figures.closed,
            reset: figures.reset,
            expired: figures.expired,
            full: counters.full,
            refused: counters.refused,
            unanswered: counters.unanswered,
            packets_in: figures.packets_in,
            bytes_in: figures.bytes_in,
            packets_out: figures.packets_out,
            bytes_out: figures.bytes_out,
        };
        status
    }

    fn packets(&self) -> Packets {
        let counters =
            self.dataplane.as_ref().and_then(|dataplane| dataplane.counters().ok()).unwrap_or_default();
        without_daemon::packets(&counters)
    }

    /// One line for the service manager.
    pub(super) fn summary(&self) -> String {
        let routers = self.config.vrrp.iter().map(|instance| {
            let state =
                self.routers.status(&instance.name).map_or("initialize".to_owned(), |s| s.state.to_string());
            format!("{}: {state}", instance.name)
        });
        let states = self.checks.states();
        let up = states.values().filter(|state| **state == crate::health::rise_fall::HealthState::Up).count();
        let backends = format!("{up} of {} backends up", states.len());
        let problems = self.problems().len();
        let problems = (problems > 0).then(|| format!("{problems} problems, see `xvip status`"));
        routers.chain([backends]).chain(problems).collect::<Vec<_>>().join("; ")
    }
}
