//! Something that has happened: one type for the log, the history, `xvip explain`, and the hooks. Pure: the time is an
//! argument.
//!
//! The serialized form is documented in `docs/events.md`; fields and kinds are only ever added.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    net::IpAddr,
    time::{Duration, SystemTime},
};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::config::model::Topic;

/// What kind of thing has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The daemon: `started`, `up` (it takes part in VRRP from now on), `stopping`, `stopped`, `leaving`, `left` (to a
    /// successor on this node).
    Daemon,
    /// The state of a VRRP instance: `initialize`, `backup`, `active`, `fault`.
    Vrrp,
    /// The priority that an instance advertises.
    Priority,
    /// Who owns the VIPs of an instance that is not active here, as its advertisements say.
    Owner,
    /// A VIP came to this node (`here`: the address is on the interface, the data plane answers, and the network has been
    /// told) or left it (`not here`).
    Vip,
    /// Something that a VRRP instance depends on: `up` or `down`.
    Track,
    /// A backend's state: `unknown`, `up`, `down`, `down (dead)`, `down (shutting down)`.
    Backend,
    /// A check that failed after one that passed. Those that follow are not told, unless they change the state.
    Check,
    /// How many backends of a service get new connections.
    Service,
    /// The weight that counts of a backend: it grows step by step after a recovery with `slow_start`.
    Weight,
    /// Connections of a backend were reset: why, and how many.
    Reset,
    /// What an operator has said: of a backend, or of a VIP.
    Order,
    /// A rebalance of a service begins or ends.
    Rebalance,
    /// The configuration was read again: `applied`, or `refused`.
    Reload,
    /// Something is wrong (`begins`), or is not any more (`ends`); as `xvip status` lists it.
    Problem,
    /// Another node of `[sync]`: `gets our flows`, `sends its flows`, or not.
    Peer,
    /// Parts of the configuration that differ on a peer.
    Drift,
    /// Somebody else claims a VIP, or uses its VRID.
    Rival,
}

impl Kind {
    /// As it is serialized.
    pub fn name(self) -> &'static str {
        match self {
            Self::Daemon => "daemon",
            Self::Vrrp => "vrrp",
            Self::Priority => "priority",
            Self::Owner => "owner",
            Self::Vip => "vip",
            Self::Track => "track",
            Self::Backend => "backend",
            Self::Check => "check",
            Self::Service => "service",
            Self::Weight => "weight",
            Self::Reset => "reset",
            Self::Order => "order",
            Self::Rebalance => "rebalance",
            Self::Reload => "reload",
            Self::Problem => "problem",
            Self::Peer => "peer",
            Self::Drift => "drift",
            Self::Rival => "rival",
        }
    }
}

/// How much it matters: the level of its line in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// As it should be, or as somebody wanted.
    #[default]
    Info,
    /// Somebody should know.
    Warn,
    /// It does not work.
    Error,
}

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// When: RFC 3339 in UTC, with milliseconds.
    #[serde(serialize_with = "as_rfc3339", deserialize_with = "from_rfc3339")]
    #[schemars(with = "String")]
    pub at: SystemTime,
    /// What kind of thing.
    pub kind: Kind,
    /// How much it matters.
    #[serde(default)]
    pub severity: Severity,
    /// Whom it is about: the name of a backend, a service, a VRRP instance or a peer; a VIP; the node's name for all else.
    pub name: String,
    /// The service, where it is about one or about one of its backends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The VRRP instance, where it is about one or about its VIPs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The address and port of the backend or peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The VIPs that it is about, without prefix length.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vips: Vec<String>,
    /// What was so before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What is so now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long what was before had lasted, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lasted_ms: Option<u64>,
    /// Figures by name; a name that ends with `_ms` is of milliseconds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub numbers: BTreeMap<String, u64>,
}

impl Event {
    /// One about `name` at `at`, with nothing else said.
    pub fn new(kind: Kind, name: impl Into<String>, at: SystemTime) -> Self {
        Self {
            at,
            kind,
            severity: Severity::Info,
            name: name.into(),
            service: None,
            instance: None,
            address: None,
            vips: Vec::new(),
            from: None,
            to: None,
            reason: None,
            lasted_ms: None,
            numbers: BTreeMap::new(),
        }
    }

    /// Of this service.
    #[must_use]
    pub fn of_service(mut self, service: impl Into<String>) -> Self {
        self.service = Some(service.into());
        self
    }

    /// Of this VRRP instance.
    #[must_use]
    pub fn of_instance(mut self, instance: impl Into<String>) -> Self {
        self.instance = Some(instance.into());
        self
    }

    /// At this address.
    #[must_use]
    pub fn at_address(mut self, address: impl fmt::Display) -> Self {
        self.address = Some(address.to_string());
        self
    }

    /// About these VIPs.
    #[must_use]
    pub fn with_vips<'a>(mut self, vips: impl IntoIterator<Item = &'a IpAddr>) -> Self {
        self.vips = vips.into_iter().map(IpAddr::to_string).collect();
        self
    }

    /// From what to what.
    #[must_use]
    pub fn changed(mut self, from: impl Into<String>, to: impl Into<String>) -> Self {
        self.from = Some(from.into());
        self.to = Some(to.into());
        self
    }

    /// What is so now, where nothing was before.
    #[must_use]
    pub fn became(mut self, to: impl Into<String>) -> Self {
        self.to = Some(to.into());
        self
    }

    /// Why; an empty text is none.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into()).filter(|reason| !reason.is_empty());
        self
    }

    /// How long what was before had lasted.
    #[must_use]
    pub fn after(mut self, lasted: Duration) -> Self {
        self.lasted_ms = Some(milliseconds(lasted));
        self
    }

    /// A figure.
    #[must_use]
    pub fn with(mut self, name: &str, number: u64) -> Self {
        self.numbers.insert(name.to_owned(), number);
        self
    }

    /// How much it matters.
    #[must_use]
    pub fn grave(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }

    /// What keeps those of one subject together in the history: one backend of one service, one instance, one VIP.
    pub fn subject(&self) -> String {
        match (&self.service, &self.instance) {
            (Some(service), _) if *service != self.name => format!("{service}/{}", self.name),
            (_, Some(instance)) => format!("vrrp {instance}"),
            _ => self.name.clone(),
        }
    }

    /// Whether it is about something of this name: its own, its service, its instance, its address, or one of its VIPs.
    pub fn concerns(&self, name: &str) -> bool {
        let host = |address: &str| {
            let address: Option<std::net::SocketAddr> = address.parse().ok();
            address.map(|address| address.ip().to_string())
        };
        self.name == name
            || self.service.as_deref() == Some(name)
            || self.instance.as_deref() == Some(name)
            || self.vips.iter().any(|vip| vip == name)
            || self
                .address
                .as_ref()
                .is_some_and(|address| address == name || host(address).as_deref() == Some(name))
    }

    /// Which hooks may be told of it; `None`: none.
    pub fn topic(&self) -> Option<Topic> {
        match self.kind {
            Kind::Vrrp => Some(Topic::Vrrp),
            Kind::Backend | Kind::Service => Some(Topic::Backend),
            // Of a VIP or instance it is told as the state that follows.
            Kind::Order => self.service.as_ref().map(|_| Topic::Backend),
            Kind::Problem | Kind::Rival | Kind::Drift => Some(Topic::Problem),
            Kind::Daemon
            | Kind::Priority
            | Kind::Owner
            | Kind::Vip
            | Kind::Track
            | Kind::Check
            | Kind::Weight
            | Kind::Reset
            | Kind::Rebalance
            | Kind::Reload
            | Kind::Peer => None,
        }
    }

    /// Whom it is about, in words.
    fn about(&self) -> String {
        let name = &self.name;
        match (self.kind, &self.service) {
            (Kind::Vip, _) => format!("VIP {name}"),
            (Kind::Vrrp | Kind::Priority | Kind::Owner | Kind::Track, _) => format!("vrrp {name}"),
            (Kind::Service, _) => format!("service {name}"),
            (Kind::Rebalance, _) => format!("rebalance of {name}"),
            (Kind::Reload, _) => "configuration".to_owned(),
            (Kind::Problem, _) => "problem".to_owned(),
            (Kind::Rival, _) => format!("rival of {name}"),
            (Kind::Drift, _) if self.instance.is_some() => format!("vrrp {name}"),
            (Kind::Peer | Kind::Drift, _) => match &self.address {
                Some(address) if address != name => format!("peer {name} ({address})"),
                _ => format!("peer {name}"),
            },
            (Kind::Daemon, _) => "xvip".to_owned(),
            (Kind::Order, None) => format!("vrrp {name}"),
            (_, Some(service)) => match &self.address {
                Some(address) => format!("backend {name} of {service} ({address})"),
                None => format!("backend {name} of {service}"),
            },
            (_, None) => name.clone(),
        }
    }

    /// What has happened, without whom it is about: old -> new, why, the figures, and how long the old had lasted.
    pub fn what(&self) -> String {
        let mut text = match self.kind {
            Kind::Check => "check ",
            Kind::Order => "order: ",
            Kind::Owner => "owner: ",
            Kind::Priority => "priority ",
            Kind::Service => "backends in use ",
            Kind::Track => "track ",
            _ => "",
        }
        .to_owned();
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => text.push_str(&format!("{from} -> {to}")),
            (None, Some(to)) => text.push_str(to),
            (Some(from), None) => text.push_str(&format!("not {from} any more")),
            (None, None) => {}
        }
        if let Some(reason) = &self.reason {
            let colon = if text.is_empty() { "" } else { ": " };
            // Writing to a string does not fail.
            let _ = write!(text, "{colon}{reason}");
        }
        let mut figures: Vec<String> =
            self.numbers.iter().map(|(name, number)| figure(name, *number)).collect();
        if let Some(lasted) = self.lasted_ms {
            let lasted = duration(lasted);
            figures.push(match &self.from {
                Some(from) => format!("{from} for {lasted}"),
                None => format!("after {lasted}"),
            });
        }
        if !figures.is_empty() {
            let _ = write!(text, " ({})", figures.join(", "));
        }
        text
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What begins or is done is a verb.
        let between = match self.kind {
            Kind::Daemon | Kind::Rebalance | Kind::Reload | Kind::Problem | Kind::Rival | Kind::Peer => " ",
            _ => ": ",
        };
        write!(f, "{}{between}{}", self.about(), self.what())
    }
}

/// `took_ms`, 7 -> `took 7 ms`; `connections`, 12 -> `connections 12`.
fn figure(name: &str, number: u64) -> String {
    match name.strip_suffix("_ms") {
        Some(name) => format!("{} {}", name.replace('_', " "), duration(number)),
        None => format!("{} {number}", name.replace('_', " ")),
    }
}

/// Milliseconds for people: exact below ten seconds, whole seconds below an hour, then its two largest units.
pub fn duration(ms: u64) -> String {
    let (s, m, h, d) = (ms / 1000, ms / 60_000, ms / 3_600_000, ms / 86_400_000);
    match ms {
        0..10_000 => format!("{ms} ms"),
        10_000..60_000 => format!("{s} s"),
        60_000..3_600_000 => format!("{m} min {} s", s % 60),
        3_600_000..86_400_000 => format!("{h} h {} min", m % 60),
        _ => format!("{d} d {} h", h % 24),
    }
}

/// Whole milliseconds.
pub fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn as_rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*time))
}

fn from_rfc3339<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_rfc3339(&text).map_err(D::Error::custom)
}
