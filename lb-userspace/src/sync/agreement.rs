//! What must be the same on all nodes, so that they can take over each other's flows, as a few hashes.

use std::{collections::BTreeMap, net::SocketAddr};

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::config::model::{Config, Service, VrrpInstance, duration_text, family_of};

/// Hashes of what nodes must agree on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreement {
    /// SHA-256 over all parts.
    pub total: [u8; 32],
    /// The first 8 bytes (big-endian) of each part's SHA-256, by its name: `service 172.16.0.10:6443`, `vrrp 60 IPv4`, `flows`.
    pub parts: BTreeMap<String, u64>,
}

impl Agreement {
    /// That of a configuration.
    ///
    /// Left out is what differs from node to node (priorities, addresses and interfaces of the node) or changes no packet (names,
    /// how backends are checked), and the order of services and backends.
    pub fn of(config: &Config) -> Self {
        let mut parts = BTreeMap::new();
        let mut put = |name: String, content: &serde_json::Value| {
            let hash = digest(&SHA256, content.to_string().as_bytes());
            let mut first = [0; 8];
            first.copy_from_slice(&hash.as_ref()[..8]);
            parts.insert(name, u64::from_be_bytes(first));
        };
        for service in &config.services {
            let address = SocketAddr::new(service.vip.address, service.port.get());
            put(format!("service {address}"), &service_content(service));
        }
        for instance in &config.vrrp {
            let vips = config.services.iter().filter(|service| service.vrrp.as_ref() == Some(&instance.name));
            let mut vips: Vec<_> = vips.map(|service| service.vip.address).collect();
            vips.sort_unstable();
            vips.dedup();
            let name = format!("vrrp {} {}", instance.virtual_router_id, family_of(&vips));
            let vips: Vec<String> = vips.iter().map(ToString::to_string).collect();
            put(name, &vrrp_content(instance, &vips));
        }
        let flows = &config.flows;
        put(
            "flows".to_owned(),
            &serde_json::json!({
                "max": flows.max,
                "half_open_max": flows.half_open_max,
                "idle_timeout": duration_text(flows.idle_timeout),
                "rebuild": duration_text(flows.rebuild),
            }),
        );
        let all = serde_json::to_vec(&parts).unwrap_or_default();
        let mut total = [0; 32];
        total.copy_from_slice(digest(&SHA256, &all).as_ref());
        Self { total, parts }
    }

    /// The names of the parts that differ, or that one of the two does not have; sorted.
    pub fn drift(&self, other: &Self) -> Vec<String> {
        if self.total == other.total {
            return Vec::new();
        }
        let mut names: Vec<String> = self
            .parts
            .iter()
            .filter(|(name, hash)| other.parts.get(*name) != Some(hash))
            .map(|(name, _)| name.clone())
            .collect();
        names.extend(other.parts.keys().filter(|name| !self.parts.contains_key(*name)).cloned());
        names.sort_unstable();
        names
    }
}

fn service_content(service: &Service) -> serde_json::Value {
    let mut backends: Vec<_> = service
        .backends
        .iter()
        .map(|backend| (backend.address, backend.weight, backend.max_connections))
        .collect();
    backends.sort_unstable();
    serde_json::json!({
        "mode": service.mode,
        "snat": service.snat,
        "balance": service.balance,
        "on_all_down": service.on_all_down,
        "on_all_full": service.on_all_full,
        "allow": service.allow.iter().collect::<std::collections::BTreeSet<_>>(),
        "new_connections_per_source": service.new_connections_per_source,
        "new_connections_burst": service.new_connections_burst,
        "on_down": service.on_down,
        "backends": backends,
        "owned": service.vrrp.is_some(),
    })
}

fn vrrp_content(instance: &VrrpInstance, vips: &[String]) -> serde_json::Value {
    serde_json::json!({
        "version": instance.version,
        "advert_interval": duration_text(instance.advert_interval),
        "virtual_mac": instance.virtual_mac,
        "signed": instance.auth_hmac.is_some(),
        "password": instance.auth_pass.is_some(),
        "multicast": instance.unicast_peers.is_empty(),
        "vips": vips,
    })
}

#[cfg(test)]
mod tests;
