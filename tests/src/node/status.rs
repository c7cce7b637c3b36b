//! What `xvip status --json` says.

use std::collections::BTreeMap;

use serde::Deserialize;

/// `xvip status --json`, as much of it as the lab looks at; what is missing takes its default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The node's name.
    pub node: String,
    /// Where XDP is attached.
    pub interface: InterfaceStatus,
    /// Each VRRP instance.
    pub vrrp: Vec<VrrpStatus>,
    /// Each service.
    pub services: Vec<ServiceStatus>,
    /// What became of the packets.
    pub packets: PacketStatus,
    /// The flow tables.
    pub flows: FlowStatus,
    /// Everything, as it was printed.
    #[serde(skip)]
    pub raw: serde_json::Value,
}

/// Where XDP is attached.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct InterfaceStatus {
    /// The interface.
    pub name: String,
    /// `native` or `generic`.
    pub xdp_mode: String,
}

/// One VRRP instance.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct VrrpStatus {
    /// Its name.
    pub name: String,
    /// `initialize`, `backup`, `active` or `fault`.
    pub state: String,
    /// Why it is in that state.
    pub reason: String,
    /// The priority that counts now.
    pub priority: u32,
}

/// One service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Its VIP.
    pub vip: String,
    /// Its port.
    pub port: u16,
    /// Its rebalances; none where none may be.
    pub rebalance: Option<RebalanceStatus>,
    /// Its backends.
    pub backends: Vec<BackendStatus>,
}

/// The rebalances of a service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RebalanceStatus {
    /// Whether one goes on.
    pub running: bool,
    /// Connections that all of them have reset.
    pub resets: u64,
    /// The last one that has ended.
    pub last: Option<LastRebalance>,
}

/// A rebalance that has ended.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct LastRebalance {
    /// `balanced`, `nearly-balanced`, `stuck` or `interrupted`.
    pub outcome: String,
    /// Connections that it has reset.
    pub resets: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// Why a backend is out, by an operator's word.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct AdminStatus {
    /// `drain` or `disabled`.
    pub state: String,
    /// When what is left of its connections is reset.
    pub deadline: Option<String>,
    /// Who said so.
    pub by: String,
}

/// One backend.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct BackendStatus {
    /// Its name.
    pub name: String,
    /// Its address and port.
    pub address: String,
    /// Its weight.
    pub weight: u32,
    /// What counts of it now.
    pub effective_weight: u32,
    /// Why it is out, by an operator's word.
    pub admin: Option<AdminStatus>,
    /// `unknown`, `up` or `down`.
    pub state: String,
    /// What the last check said.
    pub reason: String,
    /// Its part of the Maglev table, 0 to 1.
    pub share: f64,
    /// Its flows.
    pub flows: BackendFlows,
}

/// The flows of one backend.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct BackendFlows {
    /// Ever.
    pub opened: u64,
    /// Now.
    pub active: u64,
}

/// What became of the packets: how many, by reason.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PacketStatus {
    /// Given to the host's own stack.
    pub passed: BTreeMap<String, u64>,
    /// Dropped.
    pub dropped: BTreeMap<String, u64>,
    /// Sent on by XDP.
    pub transmitted: BTreeMap<String, u64>,
}

/// The flow tables.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct FlowStatus {
    /// Places.
    pub max: u64,
    /// Flows whose handshake is complete.
    pub established: u64,
    /// Flows whose handshake is not.
    pub half_open: u64,
}

impl Status {
    /// The state of the first VRRP instance; empty without one.
    #[must_use]
    pub fn vrrp_state(&self) -> &str {
        self.vrrp.first().map_or("", |vrrp| vrrp.state.as_str())
    }

    /// The backends of the first service.
    #[must_use]
    pub fn backends(&self) -> &[BackendStatus] {
        self.services.first().map_or(&[], |service| &service.backends)
    }

    /// A backend of the first service.
    #[must_use]
    pub fn backend(&self, name: &str) -> Option<&BackendStatus> {
        self.backends().iter().find(|backend| backend.name == name)
    }

    /// How many backends of the first service are up.
    #[must_use]
    pub fn backends_up(&self) -> usize {
        self.backends().iter().filter(|backend| backend.state == "up").count()
    }

    /// How many backends of this service are up; 0 when there is no such service.
    #[must_use]
    pub fn service_up(&self, name: &str) -> usize {
        let service = self.services.iter().find(|service| service.name == name);
        service.map_or(0, |service| service.backends.iter().filter(|b| b.state == "up").count())
    }

    /// A service.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&ServiceStatus> {
        self.services.iter().find(|service| service.name == name)
    }

    /// How many packets XDP sent on, for whatever reason.
    #[must_use]
    pub fn transmitted(&self) -> u64 {
        self.packets.transmitted.values().sum()
    }
}

/// Why a node's status could not be had.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The command could not be run.
    #[error(transparent)]
    Machine(#[from] crate::netns::NetnsError),
    /// `xvip status` failed, for instance because the daemon does not run.
    #[error("{node}: xvip status: {message}")]
    Failed {
        /// The node.
        node: String,
        /// What it said.
        message: String,
    },
    /// It printed something else than we expect.
    #[error("{node}: xvip status --json: {source}")]
    Json {
        /// The node.
        node: String,
        /// What is wrong.
        source: serde_json::Error,
    },
}

pub(super) fn parse_status(text: &[u8]) -> Result<Status, serde_json::Error> {
    let raw: serde_json::Value = serde_json::from_slice(text)?;
    let mut status: Status = serde_json::from_value(raw.clone())?;
    status.raw = raw;
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_reads_what_it_knows_and_keeps_the_rest() {
        let text = br#"{"node":"lb1","interface":{"name":"eth0","xdp_mode":"native","mtu":1500},
            "vrrp":[{"name":"main","state":"active","since":"x","reason":"no advert","priority":100}],
            "services":[{"name":"s","vip":"172.16.0.10","port":6443,"backends":[
                {"name":"master1","state":"up","share":0.5,"flows":{"opened":7,"active":2}},
                {"name":"master2","state":"down","share":0.0}]}],
            "packets":{"transmitted":{"to-backend":3,"to-client":4}}}"#;
        let status = parse_status(text).unwrap();
        assert_eq!((status.vrrp_state(), status.backends_up(), status.transmitted()), ("active", 1, 7));
        assert_eq!(status.backend("master1").map(|b| (b.flows.opened, b.share)), Some((7, 0.5)));
        assert_eq!(status.raw["interface"]["mtu"], 1500);
        assert!(parse_status(b"not json").is_err());
    }
}
