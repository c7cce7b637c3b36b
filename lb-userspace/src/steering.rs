//! What operators have said about backends with `xvip backend`, and the form in which it outlives the daemon. Pure: no clock,
//! no file.
//!
//! Two things can be said of a backend, each until it is taken back: that it gets no new connections ([`Standing`]), and
//! another weight than the file's. They are known by the names in the file, so that they still hold where an address has
//! changed; what is of nobody in the present configuration is kept, and holds again when the name comes back.

pub mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use self::words::{Saying, Side};
use crate::{
    config::model::{Backend, Config, MAX_WEIGHT, Service},
    control::protocol::{BackendAction, BackendOrder},
};

/// The version of the state file's form. A file of another one is not read.
pub const VERSION: u32 = 1;
/// The longest deadline of a drain: a year.
pub const LONGEST_DEADLINE: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// A backend by its names in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// The service's.
    pub service: String,
    /// The backend's, unique there.
    pub backend: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of service {}", self.backend, self.service)
    }
}

/// Who said something, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// A user.
    pub by: String,
    /// The wall clock.
    pub at: SystemTime,
}

/// Why a backend gets no new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Those that it has go on, until the deadline if there is one. Then they are reset.
    Drain {
        /// By the wall clock, so that a restart does not move it.
        deadline: Option<SystemTime>,
    },
    /// As a drain without a deadline, ordered as HAProxy's `maint`, which ends no connection, either.
    Maintenance,
    /// Those that it has are reset at once.
    Disabled,
}

impl Standing {
    /// The word in the state file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drain { .. } => "drain",
            Self::Maintenance => "maintenance",
            Self::Disabled => "disabled",
        }
    }

    /// When its connections are reset, if they are not at once.
    pub const fn deadline(self) -> Option<SystemTime> {
        match self {
            Self::Drain { deadline } => deadline,
            Self::Maintenance | Self::Disabled => None,
        }
    }

    /// Whether its connections are to be reset.
    pub fn resets_at(self, now: SystemTime) -> bool {
        match self {
            Self::Drain { deadline } => deadline.is_some_and(|deadline| deadline <= now),
            Self::Maintenance => false,
            Self::Disabled => true,
        }
    }
}

/// What has been said about a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Override {
    /// Whether it is out.
    pub standing: Option<(Standing, Said)>,
    /// Its weight instead of the file's.
    pub weight: Option<(u16, Said)>,
}

impl Override {
    /// Whether it gets no new connections.
    pub fn is_out(&self) -> bool {
        self.standing.is_some()
    }

    /// The weight that counts.
    pub fn weight(&self, configured: u16) -> u16 {
        self.weight.as_ref().map_or(configured, |(weight, _)| *weight)
    }

    fn is_nothing(&self) -> bool {
        self.standing.is_none() && self.weight.is_none()
    }
}

/// Why an order is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// No service is called that.
    #[error("no service is called {name:?}; there are: {known}")]
    UnknownService {
        /// What was said.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// No backend is.
    #[error("no backend is called {name:?}{}; there are: {known}", service.as_ref().map(|service| format!(" in service {service:?}")).unwrap_or_default())]
    UnknownBackend {
        /// What was said.
        name: String,
        /// The service, if one was named.
        service: Option<String>,
        /// Those that there are.
        known: String,
    },
    /// A weight that is none.
    #[error("a weight is 0 to {MAX_WEIGHT}, not {0}")]
    Weight(u32),
    /// A deadline beyond all reason.
    #[error("a deadline is at most {} days away", LONGEST_DEADLINE.as_secs() / 86_400)]
    Deadline,
}

/// Why a state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It is not what we write.
    #[error("it is not a state file: {0}")]
    Form(#[from] serde_json::Error),
    /// Another xvip wrote it.
    #[error("it has version {0}, and this xvip knows version {VERSION}")]
    Version(u64),
    /// A time that is none, a weight that is too large.
    #[error("{name}: {what}")]
    Value {
        /// Of whom.
        name: Name,
        /// What is wrong.
        what: String,
    },
}

/// Everything that has been said and not taken back, and what was taken back by whom: a node that was away must not bring it
/// back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    given: BTreeMap<Name, Override>,
    taken_back: BTreeMap<(Name, Side), Said>,
}

impl Overrides {
    /// What was said about a backend.
    pub fn of(&self, service: &Service, backend: &Backend) -> Option<&Override> {
        // Few have been told anything.
        let is_it = |name: &&Name| name.service == service.name && name.backend == backend.name;
        self.given.keys().find(is_it).and_then(|name| self.given.get(name))
    }

    /// Whether nothing holds.
    pub fn is_empty(&self) -> bool {
        self.given.is_empty()
    }

    /// The names that nobody has in this configuration.
    pub fn unknown(&self, config: &Config) -> Vec<&Name> {
        let known: BTreeSet<Name> = config.services.iter().flat_map(names).collect();
        self.given.keys().filter(|name| !known.contains(name)).collect()
    }

    /// The first deadline after `now`.
    pub fn next_deadline(&self, now: SystemTime) -> Option<SystemTime> {
        let standings = self.given.values().filter_map(|one| one.standing.as_ref());
        let deadlines = standings.filter_map(|(standing, _)| standing.deadline());
        deadlines.filter(|deadline| *deadline > now).min()
    }

    /// Takes an order in. Returns whom it is about, in the file's order.
    ///
    /// # Errors
    /// It means nobody, or nothing; nothing has changed then.
    pub fn apply(
        &mut self,
        order: &BackendOrder,
        config: &Config,
        said: &Said,
    ) -> Result<Vec<Name>, OrderError> {
        let meant = meant(config, &order.backend, order.service.as_deref())?;
        let saying = match order.action {
            BackendAction::Drain { deadline_s } => {
                let deadline = deadline_s.map(|seconds| {
                    let after = Duration::from_secs(seconds);
                    let is_sane = after <= LONGEST_DEADLINE;
                    said.at.checked_add(after).filter(|_| is_sane).ok_or(OrderError::Deadline)
                });
                Saying::of_standing(Standing::Drain { deadline: deadline.transpose()? })
            }
            BackendAction::Maintain => Saying::Maintenance,
            BackendAction::Disable => Saying::Disabled,
            BackendAction::Enable => Saying::In,
            BackendAction::Weight { weight: None } => Saying::Weight(None),
            BackendAction::Weight { weight: Some(weight) } => {
                let weight = u16::try_from(weight).ok().filter(|weight| *weight <= MAX_WEIGHT);
                let weight = weight.ok_or(OrderError::Weight(match order.action {
                    BackendAction::Weight { weight: Some(weight) } => weight,
                    _ => 0,
                }))?;
                Saying::Weight(Some(weight))
            }
        };
        for name in &meant {
            let at = self.moment(name, saying.side(), said.at);
            self.set(name, saying, Said { by: said.by.clone(), at });
        }
        Ok(meant)
    }

    /// The state file.
    pub fn to_json(&self) -> String {
        let overrides = self.given.iter().map(|(name, one)| Entry {
            service: name.service.clone(),
            backend: name.backend.clone(),
            standing: one.standing.as_ref().map(|(standing, said)| StandingEntry {
                kind: standing.name().to_owned(),
                deadline: standing.deadline().map(rfc3339),
                by: said.by.clone(),
                at: rfc3339(said.at),
            }),
            weight: one.weight.as_ref().map(|(value, said)| WeightEntry {
                value: *value,
                by: said.by.clone(),
                at: rfc3339(said.at),
            }),
        });
        let taken_back = self.taken_back.iter().map(|((name, side), said)| TakenBackEntry {
            service: name.service.clone(),
            backend: name.backend.clone(),
            what: match side {
                Side::Standing => "state".to_owned(),
                Side::Weight => "weight".to_owned(),
            },
            by: said.by.clone(),
            at: rfc3339(said.at),
        });
        let file = File {
            version: VERSION.into(),
            overrides: overrides.collect(),
            taken_back: taken_back.collect(),
        };
        // Strings and numbers always have a form in JSON.
        let text = serde_json::to_string_pretty(&file).unwrap_or_default();
        format!("{text}\n")
    }

    /// What a state file says.
    ///
    /// # Errors
    /// It is none, or of another version.
    pub fn from_json(text: &str) -> Result<Self, StateError> {
        // The version first: of another one, nothing else needs to be as we know it.
        let Version { version } = serde_json::from_str(text)?;
        if version != u64::from(VERSION) {
            return Err(StateError::Version(version));
        }
        let file: File = serde_json::from_str(text)?;
        let mut overrides = BTreeMap::new();
        for Entry { service, backend, standing, weight } in file.overrides {
            let name = Name { service, backend };
            let wrong = |what: String| StateError::Value { name: name.clone(), what };
            let time = |text: &str| {
                humantime::parse_rfc3339(text).map_err(|error| wrong(format!("{text:?}: {error}")))
            };
            let standing = standing.map(|StandingEntry { kind, deadline, by, at }| {
                let standing = match (kind.as_str(), deadline) {
                    ("drain", deadline) => {
                        Standing::Drain { deadline: deadline.as_deref().map(time).transpose()? }
                    }
                    ("maintenance", None) => Standing::Maintenance,
                    ("disabled", None) => Standing::Disabled,
                    _ => return Err(wrong(format!("{kind:?} is no state, or has no deadline"))),
                };
                Ok((standing, Said { by, at: time(&at)? }))
            });
            let weight = weight.map(|WeightEntry { value, by, at }| {
                if value > MAX_WEIGHT {
                    return Err(wrong(format!("a weight is 0 to {MAX_WEIGHT}, not {value}")));
                }
                Ok((value, Said { by, at: time(&at)? }))
            });
            let one = Override { standing: standing.transpose()?, weight: weight.transpose()? };
            if !one.is_nothing() {
                overrides.insert(name, one);
            }
        }
        let mut taken_back = BTreeMap::new();
        for TakenBackEntry { service, backend, what, by, at } in file.taken_back {
            let name = Name { service, backend };
            let wrong = |what: String| StateError::Value { name: name.clone(), what };
            let side = match what.as_str() {
                "state" => Side::Standing,
                "weight" => Side::Weight,
                _ => return Err(wrong(format!("{what:?} cannot be taken back"))),
            };
            let at = humantime::parse_rfc3339(&at).map_err(|error| wrong(format!("{at:?}: {error}")))?;
            taken_back.insert((name, side), Said { by, at });
        }
        Ok(Self { given: overrides, taken_back })
    }
}

fn names(service: &Service) -> impl Iterator<Item = Name> {
    let name = |backend: &Backend| Name { service: service.name.clone(), backend: backend.name.clone() };
    service.backends.iter().map(name)
}

/// Whom a name means: every backend of that name, or the one in the service that is named, too.
fn meant(config: &Config, backend: &str, service: Option<&str>) -> Result<Vec<Name>, OrderError> {
    let services: Vec<&Service> =
        config.services.iter().filter(|known| service.is_none_or(|service| known.name == service)).collect();
    if let Some(name) = service.filter(|_| services.is_empty()) {
        let known: Vec<&str> = config.services.iter().map(|service| service.name.as_str()).collect();
        return Err(OrderError::UnknownService { name: name.to_owned(), known: known.join(", ") });
    }
    let found: Vec<Name> =
        services.iter().flat_map(|service| names(service)).filter(|name| name.backend == backend).collect();
    if found.is_empty() {
        let known: Vec<String> = services
            .iter()
            .map(|service| {
                let backends: Vec<String> = names(service).map(|name| name.backend).collect();
                format!("{} (service {})", backends.join(", "), service.name)
            })
            .collect();
        return Err(OrderError::UnknownBackend {
            name: backend.to_owned(),
            service: service.map(str::to_owned),
            known: known.join("; "),
        });
    }
    Ok(found)
}

/// A time as the state file and the status have it: UTC with milliseconds.
pub fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

#[derive(Deserialize)]
struct Version {
    version: u64,
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u64,
    overrides: Vec<Entry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    taken_back: Vec<TakenBackEntry>,
}

#[derive(Serialize, Deserialize)]
struct TakenBackEntry {
    service: String,
    backend: String,
    what: String,
    by: String,
    at: String,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    service: String,
    backend: String,
    #[serde(rename = "state", default, skip_serializing_if = "Option::is_none")]
    standing: Option<StandingEntry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<WeightEntry>,
}

#[derive(Serialize, Deserialize)]
struct StandingEntry {
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline: Option<String>,
    by: String,
    at: String,
}

#[derive(Serialize, Deserialize)]
struct WeightEntry {
    value: u16,
    by: String,
    at: String,
}

#[cfg(test)]
mod tests;
