//! What operators say about backends: taken in, kept in the state file, and carried out.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use lb_common::layout::BackendId;
use tokio::time::timeout;
use tracing::{error, warn};

use super::{Controller, Options};
use crate::{
    config::model::{Config, Service, duration_text},
    control::protocol::{BackendAction, BackendAnswer, BackendOrder},
    dataplane::Sightings,
    desired::{PoolEntry, Steer, pool, service_key},
    health::rise_fall::HealthState,
    history::{Event, Kind},
    resets::{ResetOrder, ResetReason, What},
    state_file,
    steering::{
        Name, Override, Overrides, Said, Standing, rfc3339,
        words::{Saying, Word},
    },
};

/// The state is written while everything else waits: a disk that takes longer must not silence the VIPs.
const WRITTEN_WITHIN: Duration = Duration::from_secs(2);

/// The overrides in force.
#[derive(Debug)]
pub struct Steering {
    pub(super) overrides: Overrides,
    path: PathBuf,
    /// What is wrong with the state file, until it has been written again.
    pub(super) problem: Option<String>,
    /// Whose flows are reset because of an override, why, and at which rate.
    ordered: BTreeMap<BackendId, (ResetReason, u32)>,
    unknown: Vec<Name>,
}

impl Steering {
    /// Reads what outlived the last daemon.
    pub fn read(options: &Options, config: &Config) -> Self {
        let path = state_file::path(&options.state_directory, &config.node.pin_path);
        let state_file::Found { overrides, problem } = state_file::read(&path);
        if let Some(problem) = &problem {
            error!("{problem}");
        }
        let mut steering = Self { overrides, path, problem, ordered: BTreeMap::new(), unknown: Vec::new() };
        steering.look_for_unknown(config);
        steering
    }

    /// Says which overrides are of nobody, where that is news.
    pub(super) fn look_for_unknown(&mut self, config: &Config) {
        let unknown: Vec<Name> = self.overrides.unknown(config).into_iter().cloned().collect();
        for name in unknown.iter().filter(|name| !self.unknown.contains(name)) {
            warn!(
                "what `xvip backend` was told about {name} is kept, but the configuration has no such backend"
            );
        }
        self.unknown = unknown;
    }
}

impl Controller {
    /// Carries an order out once it is sure to survive a restart; else nothing changes.
    pub(super) async fn steer(&mut self, order: BackendOrder, by: String) -> BackendAnswer {
        let refused = |error: String| BackendAnswer { error: Some(error), ..BackendAnswer::default() };
        let away = self.replication.who_is_away();
        // On the other nodes it has to be told where it was said.
        let by = if away.is_some() { format!("{by} on {}", self.config.node.name) } else { by };
        let said = Said { by, at: SystemTime::now() };
        let mut overrides = self.steering.overrides.clone();
        let meant = match overrides.apply(&order, &self.config, &said) {
            Ok(meant) => meant,
            Err(error) => return refused(error.to_string()),
        };
        if let Err(error) = self.keep(overrides.clone()).await {
            let path = self.steering.path.display();
            error!("the state cannot be kept in {path}: {error}");
            return refused(format!("nothing was changed: the state cannot be kept in {path}: {error}"));
        }
        self.steering.overrides = overrides;
        self.steering.problem = None;
        self.steering.look_for_unknown(&self.config);
        let mut answer = BackendAnswer::default();
        for name in &meant {
            let line = self.line(name);
            self.tell(order_event(name, order.action, &said));
            answer.lines.push(line);
        }
        self.replication.tell_orders(self.steering.overrides.words());
        self.reconcile().await;
        self.follow_orders();
        answer.warnings = self.left_alone(&meant, order.action);
        answer.warnings.iter().for_each(|warning| warn!("{warning}"));
        answer.lines.extend(self.who_does_not_hear(away));
        answer
    }

    /// Which other nodes an order does not reach, or not now.
    fn who_does_not_hear(&self, away: Option<Vec<String>>) -> Option<String> {
        match away {
            None if !self.knows_of_others() => None,
            None => Some(
                "this node only: without [sync] the others are not told; give them the same order".to_owned(),
            ),
            Some(away) if away.is_empty() => None,
            Some(away) => Some(format!("not reached now, and told once they are: {}", away.join(", "))),
        }
    }

    /// Whether there are other nodes: named in the file, or heard.
    fn knows_of_others(&self) -> bool {
        let instances = &self.config.vrrp;
        let is_ours = |vrid: u8| instances.iter().any(|instance| instance.virtual_router_id.get() == vrid);
        let heard = self.sightings.as_ref().map(Sightings::adverts).unwrap_or_default();
        instances.iter().any(|instance| !instance.unicast_peers.is_empty())
            || heard.iter().any(|(_, vrid, _)| is_ours(*vrid))
    }

    /// Carries out what operators have told the peers, where that was later than what is known here.
    pub(super) async fn hear_orders(&mut self) {
        let Some(words) = self.replication.new_orders() else { return };
        let mut overrides = self.steering.overrides.clone();
        let changed = overrides.hear(&words);
        if changed.is_empty() {
            return;
        }
        // Whether it can be kept or not, the nodes should do the same.
        let kept = self.keep(overrides.clone()).await;
        self.steering.overrides = overrides;
        self.steering.problem = kept.err().map(|error| {
            let problem = format!("the state cannot be kept in {}: {error}", self.steering.path.display());
            error!("{problem}");
            problem
        });
        self.steering.look_for_unknown(&self.config);
        for name in &changed {
            let of_it =
                words.iter().filter(|word| word.service == name.service && word.backend == name.backend);
            if let Some(last) = of_it.max_by_key(|word| word.at_ms) {
                let at = SystemTime::UNIX_EPOCH + Duration::from_millis(last.at_ms);
                self.tell(order_event(name, ordered(last), &Said { by: last.by.clone(), at }));
            }
        }
        self.replication.tell_orders(self.steering.overrides.words());
        self.reconcile().await;
        self.follow_orders();
    }

    async fn keep(&self, overrides: Overrides) -> Result<(), String> {
        let path = self.steering.path.clone();
        let writing = tokio::task::spawn_blocking(move || state_file::write(&path, &overrides));
        match timeout(WRITTEN_WITHIN, writing).await {
            Ok(Ok(written)) => written.map_err(|error| error.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("the disk did not answer within {} s", WRITTEN_WITHIN.as_secs())),
        }
    }

    /// What is so of a backend now.
    fn line(&self, name: &Name) -> String {
        let service = self.config.services.iter().find(|service| service.name == name.service);
        let backend =
            service.and_then(|service| service.backends.iter().find(|backend| backend.name == name.backend));
        let Some((service, backend)) = service.zip(backend) else { return name.to_string() };
        let entry = PoolEntry { service: service_key(service), address: backend.address };
        let active = self.ids.id(&entry).and_then(|id| self.load_of(id)).unwrap_or_default();
        let one = self.steering.overrides.of(service, backend);
        let standing = match one.and_then(|one| one.standing.as_ref()) {
            Some((Standing::Drain { deadline }, _)) => {
                let until = deadline.map_or_else(
                    || "until they end".to_owned(),
                    |deadline| format!("until {}", rfc3339(deadline)),
                );
                format!("gets no new connections; its {active} stay {until}")
            }
            Some((Standing::Maintenance, _)) => {
                format!("gets no new connections; its {active} stay until they end")
            }
            Some((Standing::Disabled, _)) => {
                format!("gets no new connections; its {active} are reset")
            }
            None => "gets new connections while it is up".to_owned(),
        };
        let weight = match one.and_then(|one| one.weight.as_ref()) {
            Some((weight, _)) => {
                format!(
                    "weight {weight} instead of {} until `xvip backend weight {} default`",
                    backend.weight, backend.name
                )
            }
            None => format!("weight {}", backend.weight),
        };
        format!("{name}: {standing}; {weight}")
    }

    /// Services in which nobody is left for new connections.
    fn left_alone(&self, meant: &[Name], action: BackendAction) -> Vec<String> {
        let takes = matches!(action, BackendAction::Enable);
        let health = self.checks.states();
        let is_alone = |service: &&Service| {
            !service.backends.iter().any(|backend| {
                let one = self.steering.overrides.of(service, backend);
                let entry = PoolEntry { service: service_key(service), address: backend.address };
                !one.is_some_and(Override::is_out)
                    && one.map_or(backend.weight, |one| one.weight(backend.weight)) > 0
                    && health.get(&entry) == Some(&HealthState::Up)
            })
        };
        let services = self.config.services.iter();
        let services = services.filter(|service| meant.iter().any(|name| name.service == service.name));
        let alone = services.filter(|_| !takes).filter(is_alone);
        alone
            .map(|service| format!("service {}: no backend is left for new connections", service.name))
            .collect()
    }

    /// How each backend is steered, for the reconciler.
    pub(super) fn steers(&self) -> BTreeMap<PoolEntry, Steer> {
        let mut steers = BTreeMap::new();
        for service in &self.config.services {
            for (entry, backend) in pool(service).zip(&service.backends) {
                let one = self.steering.overrides.of(service, backend);
                let steer = Steer {
                    is_out: one.is_some_and(Override::is_out),
                    weight: one.and_then(|one| one.weight.as_ref()).map(|(weight, _)| *weight),
                    share: self.ids.id(&entry).map_or(0, |id| self.rebalances.share(&entry.service, id)),
                };
                if steer != Steer::default() {
                    steers.insert(entry, steer);
                }
            }
        }
        steers
    }

    /// Has the flows reset that an override says, and of nobody else. A level: looked at several times a second, since
    /// deadlines pass, VIPs come and go, and sweeps find flows.
    pub(super) fn follow_orders(&mut self) {
        let due = self.due_resets(SystemTime::now());
        for (&id, &(why, _)) in &self.steering.ordered {
            if due.get(&id).is_none_or(|(now, _)| *now != why) {
                self.resets.cancel(id, why);
            }
        }
        for (&backend, &(why, rate)) in &due {
            if self.steering.ordered.get(&backend) != Some(&(why, rate)) {
                self.resets.submit(ResetOrder { backend, what: What::All, rate, why });
            }
        }
        self.steering.ordered = due;
    }

    /// After a sweep: who is out and still has flows, has got them since.
    pub(super) fn follow_orders_after_sweep(&mut self) {
        self.follow_orders();
        let progress = self.resets.progress();
        let progress = progress.borrow();
        for (&backend, &(why, rate)) in &self.steering.ordered {
            let runs = progress.orders.get(&(backend, why)).is_some_and(|report| !report.last);
            let flows = self.census.by_backend.get(&backend);
            if !runs && flows.is_some_and(|flows| flows.active + flows.half_closed + flows.half_open > 0) {
                self.resets.submit(ResetOrder { backend, what: What::All, rate, why });
            }
        }
    }

    fn due_resets(&self, now: SystemTime) -> BTreeMap<BackendId, (ResetReason, u32)> {
        let mut due = BTreeMap::new();
        for service in self.config.services.iter().filter(|service| self.answers_for(service)) {
            for (entry, backend) in pool(service).zip(&service.backends) {
                let one = self.steering.overrides.of(service, backend);
                let Some((standing, _)) = one.and_then(|one| one.standing.as_ref()) else { continue };
                let why = match standing {
                    Standing::Drain { .. } => ResetReason::DrainDeadline,
                    // Never due.
                    Standing::Maintenance => continue,
                    Standing::Disabled => ResetReason::Disabled,
                };
                if standing.resets_at(now)
                    && let Some(id) = self.ids.id(&entry)
                {
                    due.insert(id, (why, service.reset_rate));
                }
            }
        }
        due
    }

    /// Whether a service's flows are this node's to end: whoever has the VIP tells the clients, and their answers would not
    /// come to anybody else.
    pub(super) fn answers_for(&self, service: &Service) -> bool {
        self.dataplane.is_some()
            && !self.config.node.observe
            && service.vrrp.as_ref().is_none_or(|instance| self.routers.active().contains_key(instance))
    }

    /// The connections of a backend, as the data plane counts them.
    pub(super) fn load_of(&self, id: BackendId) -> Option<u64> {
        let load = self.dataplane.as_ref()?.load_of(id).ok()?;
        // Two CPUs at once can lose a count.
        Some(u64::try_from(load.active).unwrap_or(0))
    }
}

/// What a word that another node was told would be as an order.
fn ordered(word: &Word) -> BackendAction {
    match word.saying {
        Saying::In => BackendAction::Enable,
        Saying::Drain(until) => BackendAction::Drain {
            deadline_s: until.map(|until| Duration::from_millis(until.saturating_sub(word.at_ms)).as_secs()),
        },
        Saying::Maintenance => BackendAction::Maintain,
        Saying::Disabled => BackendAction::Disable,
        Saying::Weight(weight) => BackendAction::Weight { weight: weight.map(u32::from) },
    }
}

/// What an operator has said of a backend.
fn order_event(name: &Name, action: BackendAction, said: &Said) -> Event {
    let to = match action {
        BackendAction::Drain { deadline_s: None } => "drain".to_owned(),
        BackendAction::Drain { deadline_s: Some(seconds) } => {
            format!("drain, connections reset after {}", duration_text(Duration::from_secs(seconds)))
        }
        BackendAction::Maintain => "drain (maint)".to_owned(),
        BackendAction::Disable => "disable".to_owned(),
        BackendAction::Enable => "enable".to_owned(),
        BackendAction::Weight { weight: Some(weight) } => format!("weight {weight}"),
        BackendAction::Weight { weight: None } => "weight as configured".to_owned(),
    };
    let event = Event::new(Kind::Order, &name.backend, said.at).of_service(&name.service);
    event.became(to).because(format!("by {}", said.by))
}
