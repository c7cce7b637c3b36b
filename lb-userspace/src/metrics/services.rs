//! Virtual services.

use super::family::Family;

pub(super) const FAMILIES: &[Family] = &[
    Family::info(
        "service",
        "A virtual service",
        &["service", "vip", "port", "mode", "balance"],
        |status, out| {
            for service in &status.services {
                let port = service.port.to_string();
                out.add(&[&service.name, &service.vip, &port, &service.mode, &service.balance], true);
            }
        },
    ),
    Family::gauge("service_backends", "How many backends the service has", &["service"], |status, out| {
        for service in &status.services {
            out.add(&[&service.name], service.backends.len());
        }
    }),
    Family::gauge(
        "service_usable_backends",
        "How many backends get new connections; with 0, new connections get a RST",
        &["service"],
        |status, out| {
            for service in &status.services {
                out.add(&[&service.name], service.usable);
            }
        },
    ),
    Family::gauge(
        "service_host_connections",
        "Connections that a process on this node has at VIP and port, such as a proxy that xvip takes the place of",
        &["service"],
        |status, out| {
            for service in &status.services {
                out.add(&[&service.name], service.host_connections);
            }
        },
    ),
    Family::counter(
        "service_local_connects",
        "Connects to the service by processes of this node: redirected to a backend, or not, and why",
        &["service", "outcome"],
        |status, out| {
            for service in &status.services {
                let local = &service.local_clients;
                for (outcome, count) in [
                    ("redirected", local.redirected),
                    ("no-backend", local.no_backend),
                    ("stale", local.stale),
                    ("other-namespace", local.other_namespace),
                ] {
                    out.add(&[&service.name, outcome], count);
                }
            }
        },
    ),
    Family::gauge("service_rebalance_running", "Whether a rebalance goes on", &["service"], |status, out| {
        for service in &status.services {
            if let Some(rebalance) = &service.rebalance {
                out.add(&[&service.name], rebalance.running);
            }
        }
    })
    .only("where a rebalance may be"),
    Family::gauge(
        "service_rebalance_connections_left",
        "How many connections the rebalance that goes on still has to reset",
        &["service"],
        |status, out| {
            for service in &status.services {
                if let Some(rebalance) = &service.rebalance {
                    out.add(&[&service.name], rebalance.left);
                }
            }
        },
    )
    .only("where a rebalance may be"),
    Family::counter(
        "service_rebalance_resets",
        "Connections that rebalances have reset since the daemon was started",
        &["service"],
        |status, out| {
            for service in &status.services {
                if let Some(rebalance) = &service.rebalance {
                    out.add(&[&service.name], rebalance.resets);
                }
            }
        },
    )
    .only("where a rebalance may be"),
];
