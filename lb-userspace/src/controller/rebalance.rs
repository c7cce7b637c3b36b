//! Rebalances that go on, and when they begin; what is decided is in `crate::rebalance`.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use lb_common::layout::{BackendId, ServiceKey};
use tokio::sync::oneshot;
use tracing::error;

use super::Controller;
use crate::{
    config::model::{Rebalance, RebalanceMode, Service},
    control::protocol::{PlannedBackend, RebalanceAnswer, RebalanceOrder, RebalancePlan},
    dataplane::PinnedFlows,
    desired::{PoolEntry, pool, service_key},
    flows::{Flow, FlowState},
    health::rise_fall::HealthState,
    history::{Event, Kind, Severity},
    rebalance::{
        course::{Candidate, Course, Outcome, Step},
        plan::{Member, Tolerance, plan},
        trigger::Trigger,
        victims::Victims,
    },
    resets::{FlowId, ResetOrder, ResetReason, What},
    status::{LastRebalanceStatus, RebalanceStatus},
    steering::rfc3339,
};

/// How often to look.
pub const PERIOD: Duration = Duration::from_millis(100);
/// Flows are chosen for so many seconds at a time: later, others may be the most silent ones.
const CHOSEN_FOR: u64 = 10;
/// An order to reset some flows that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many connections a rebalance resets in a second: not more than a backend may be led to (`slow_start_rate`), or the
/// rest would come back to where they were.
fn rate(service: &Service) -> u32 {
    match service.health.slow_start_rate {
        0 => service.rebalance.rate,
        most => service.rebalance.rate.min(most),
    }
}

/// Every service's rebalances.
#[derive(Debug, Default)]
pub struct Rebalances(BTreeMap<ServiceKey, Watched>);

#[derive(Debug, Default)]
struct Watched {
    trigger: Trigger,
    running: Option<Running>,
    last: Option<LastRebalanceStatus>,
    /// Flows reset since this process began.
    resets: u64,
}

#[derive(Debug)]
struct Running {
    course: Course,
    settings: Rebalance,
    is_manual: bool,
    began: Instant,
    began_at: SystemTime,
    /// Of each backend the next ones to be reset, the very next at the end.
    victims: BTreeMap<BackendId, Vec<Flow>>,
    choosing: Option<oneshot::Receiver<BTreeMap<BackendId, Vec<Flow>>>>,
    ordered: BTreeMap<BackendId, Ordered>,
}

/// An order that has been given.
#[derive(Clone, Copy, Debug)]
struct Ordered {
    at: Instant,
    /// The last order before it, and how many flows had been reset by all of these.
    before: u64,
    resets_before: u64,
}

impl Rebalances {
    /// Above how many connections a new flow goes elsewhere if it can; 0 where no rebalance goes on.
    pub fn share(&self, service: &ServiceKey, id: BackendId) -> u32 {
        let running = self.0.get(service).and_then(|watched| watched.running.as_ref());
        running.and_then(|running| running.course.shares().get(&id).copied()).unwrap_or(0)
    }
}

impl Controller {
    /// Looks at every service: carries on what goes on, and begins what is to begin.
    pub(super) fn look_at_balance(&mut self) {
        let now = Instant::now();
        let known: Vec<ServiceKey> = self.config.services.iter().map(service_key).collect();
        self.rebalances.0.retain(|key, _| known.contains(key));
        for n in 0..self.config.services.len() {
            self.look_at_balance_of(n, now);
        }
    }

    fn look_at_balance_of(&mut self, n: usize, now: Instant) {
        let Some(service) = self.config.services.get(n) else { return };
        let key = service_key(service);
        let settings = Rebalance { rate: rate(service), ..service.rebalance };
        let name = service.name.clone();
        let runs = self.rebalances.0.get(&key).is_some_and(|watched| watched.running.is_some());
        if !runs && settings.mode != RebalanceMode::Auto {
            // What was seen until now says nothing about a time when it is switched on again.
            if let Some(watched) = self.rebalances.0.get_mut(&key) {
                watched.trigger = Trigger::default();
            }
            return;
        }
        if !self.answers_for(service) {
            if let Some(watched) = self.rebalances.0.get_mut(&key) {
                watched.trigger = Trigger::default();
                if watched.running.is_some() {
                    self.end_rebalance(key, &name, Outcome::Interrupted, now);
                }
            }
            return;
        }
        let candidates = self.candidates(service);
        let tolerance = Tolerance { margin: settings.margin, floor: settings.floor };
        if runs {
            self.carry_on(key, &name, &candidates, settings, now);
            return;
        }
        let watched = self.rebalances.0.entry(key).or_default();
        if watched.trigger.observe(&candidates, tolerance, now)
            && let Some(course) = Course::begin(&candidates, tolerance, settings.rate, now)
        {
            self.begin_rebalance(key, &name, course, settings, None, now);
        }
    }

    fn begin_rebalance(
        &mut self,
        key: ServiceKey,
        name: &str,
        course: Course,
        settings: Rebalance,
        by: Option<&str>,
        now: Instant,
    ) {
        let asked = by.map_or_else(|| "there is skew".to_owned(), |by| format!("{by} has asked for it"));
        let event = Event::new(Kind::Rebalance, name, SystemTime::now()).of_service(name).became("begins");
        let event = event.because(asked).with("connections_to_reset", course.left());
        self.tell(event.with("per_second", settings.rate.into()));
        let running = Running {
            course,
            settings,
            is_manual: by.is_some(),
            began: now,
            began_at: SystemTime::now(),
            victims: BTreeMap::new(),
            choosing: None,
            ordered: BTreeMap::new(),
        };
        self.rebalances.0.entry(key).or_default().running = Some(running);
        // The data plane is told the shares first: `carry_on` resets nobody before the next look.
        self.schedule(Duration::ZERO);
    }

    fn carry_on(
        &mut self,
        key: ServiceKey,
        name: &str,
        candidates: &[Candidate],
        settings: Rebalance,
        now: Instant,
    ) {
        let Some(watched) = self.rebalances.0.get_mut(&key) else { return };
        watched.trigger.follow(candidates, now);
        let Some(running) = &mut watched.running else { return };
        watched.resets += running.take_reports(&self.resets.progress().borrow(), now);
        let may_go_on = settings == running.settings && settings.mode != RebalanceMode::Off;
        if !may_go_on || running.course.has_others(candidates) {
            self.end_rebalance(key, name, Outcome::Interrupted, now);
            return;
        }
        running.take_choice();
        if !running.ordered.is_empty() || running.choosing.is_some() {
            return;
        }
        let shares = running.course.shares();
        match running.course.step(candidates, now) {
            Step::Wait => {}
            Step::Ended(outcome) => return self.end_rebalance(key, name, outcome, now),
            Step::Reset(from) => {
                let progress = self.resets.progress();
                let progress = progress.borrow();
                for (id, count) in from {
                    let chosen = running.victims.entry(id).or_default();
                    let at = chosen.len().saturating_sub(count as usize);
                    let flows: Vec<FlowId> = chosen
                        .split_off(at)
                        .into_iter()
                        .map(|flow| FlowId { client: flow.client, service: flow.service })
                        .collect();
                    if flows.is_empty() {
                        running.choose(&self.config.node.pin_path, candidates);
                        break;
                    }
                    let report = progress.orders.get(&(id, ResetReason::Rebalance));
                    let total = progress.totals.get(&(id, ResetReason::Rebalance));
                    let ordered = Ordered {
                        at: now,
                        before: report.map_or(0, |report| report.order),
                        resets_before: total.copied().unwrap_or(0),
                    };
                    running.ordered.insert(id, ordered);
                    let what = What::Flows(flows);
                    self.resets.submit(ResetOrder {
                        backend: id,
                        what,
                        rate: 0,
                        why: ResetReason::Rebalance,
                    });
                }
            }
        }
        if running.course.shares() != shares {
            self.schedule(Duration::ZERO);
        }
    }

    fn end_rebalance(&mut self, key: ServiceKey, name: &str, outcome: Outcome, now: Instant) {
        let Some(watched) = self.rebalances.0.get_mut(&key) else { return };
        let Some(running) = watched.running.take() else { return };
        for &id in running.ordered.keys() {
            self.resets.cancel(id, ResetReason::Rebalance);
        }
        watched.trigger.ended(outcome, now);
        let took = now.saturating_duration_since(running.began);
        let resets: u64 = running.course.resets().values().sum();
        let names = self.names_of(key);
        let by_backend: BTreeMap<String, u64> = (running.course.resets().iter())
            .map(|(id, count)| (names.get(id).cloned().unwrap_or_else(|| id.to_string()), *count))
            .collect();
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let outcome_name = outcome.name();
        let of_whom: Vec<String> =
            by_backend.iter().map(|(name, count)| format!("{count} of {name}")).collect();
        let reason = match outcome {
            Outcome::Stuck => "clients that are reset do not come back to where there is room",
            _ => outcome_name,
        };
        let reason = if of_whom.is_empty() {
            reason.to_owned()
        } else {
            format!("{reason}; reset: {}", of_whom.join(", "))
        };
        let severity = if outcome == Outcome::Stuck { Severity::Warn } else { Severity::Info };
        let event = Event::new(Kind::Rebalance, name, SystemTime::now()).of_service(name).became("ends");
        let event = event.because(reason).grave(severity).with("connections_reset", resets);
        self.teller.tell(event.with("took_ms", took_ms));
        if let Some(watched) = self.rebalances.0.get_mut(&key) {
            watched.last = Some(LastRebalanceStatus {
                began: rfc3339(running.began_at),
                took_ms,
                asked_for: running.is_manual,
                outcome: outcome_name.to_owned(),
                resets,
                resets_by_backend: by_backend,
            });
        }
        self.schedule(Duration::ZERO);
    }

    fn names_of(&self, key: ServiceKey) -> BTreeMap<BackendId, String> {
        let service = self.config.services.iter().find(|service| service_key(service) == key);
        let entries = service.into_iter().flat_map(|service| pool(service).zip(&service.backends));
        entries.filter_map(|(entry, backend)| Some((self.ids.id(&entry)?, backend.name.clone()))).collect()
    }

    /// Why a backend takes no part in a rebalance.
    fn left_out(
        &self,
        service: &Service,
        entry: &PoolEntry,
        health: &BTreeMap<PoolEntry, HealthState>,
    ) -> Option<&'static str> {
        let backend = service.backends.iter().find(|backend| backend.address == entry.address)?;
        let one = self.steering.overrides.of(service, backend);
        let reachable = self.ids.id(entry).and_then(|id| self.dataplane.as_ref()?.backend(id));
        if let Some((standing, _)) = one.and_then(|one| one.standing.as_ref()) {
            Some(standing.name())
        } else if health.get(entry) != Some(&HealthState::Up) {
            Some("not up")
        } else if one.map_or(backend.weight, |one| one.weight(backend.weight)) == 0 {
            Some("weight 0")
        } else if reachable.is_none_or(|known| !known.is_reachable()) {
            Some("no next hop")
        } else {
            None
        }
    }

    /// Who takes part, in the file's order.
    fn candidates(&self, service: &Service) -> Vec<Candidate> {
        let health = self.checks.states();
        let mut candidates = Vec::new();
        for (entry, backend) in pool(service).zip(&service.backends) {
            if self.left_out(service, &entry, &health).is_some() {
                continue;
            }
            let Some(id) = self.ids.id(&entry) else { continue };
            let Some(active) = self.load_of(id) else { continue };
            let one = self.steering.overrides.of(service, backend);
            let weight = one.map_or(backend.weight, |one| one.weight(backend.weight));
            candidates
                .push(Candidate { id, member: Member { weight, active, limit: backend.max_connections } });
        }
        candidates
    }

    /// `xvip rebalance`.
    pub(super) fn rebalance(&mut self, order: &RebalanceOrder) -> RebalanceAnswer {
        let refused = |error: String| RebalanceAnswer { error: Some(error), ..RebalanceAnswer::default() };
        let may = |service: &Service| service.rebalance.mode != RebalanceMode::Off;
        let list = |services: &mut dyn Iterator<Item = &Service>| {
            services.map(|service| service.name.as_str()).collect::<Vec<_>>().join(", ")
        };
        let chosen: Vec<usize> = match &order.service {
            Some(name) => match self.config.services.iter().position(|service| service.name == *name) {
                None => {
                    let known = list(&mut self.config.services.iter());
                    return refused(format!("no service is called {name:?}; there are: {known}"));
                }
                Some(n) if !order.dry_run && !may(&self.config.services[n]) => {
                    return refused(format!(
                        "service {name} may not be rebalanced: in its [service.rebalance], write mode = \"manual\" or \
                         mode = \"auto\", then `xvip reload`"
                    ));
                }
                Some(n) => vec![n],
            },
            None => {
                let all = 0..self.config.services.len();
                all.filter(|&n| order.dry_run || may(&self.config.services[n])).collect()
            }
        };
        if chosen.is_empty() {
            return refused(
                "no service may be rebalanced: in its [service.rebalance], write mode = \"manual\" or mode = \"auto\", \
                 then `xvip reload`"
                    .to_owned(),
            );
        }
        let now = Instant::now();
        let plans = chosen.into_iter().filter_map(|n| self.plan_for(n, order, now)).collect();
        RebalanceAnswer { plans, error: None }
    }

    fn plan_for(&mut self, n: usize, order: &RebalanceOrder, now: Instant) -> Option<RebalancePlan> {
        let service = self.config.services.get(n)?.clone();
        let settings = Rebalance { rate: rate(&service), ..service.rebalance };
        let key = service_key(&service);
        let tolerance = Tolerance { margin: settings.margin, floor: settings.floor };
        let candidates = self.candidates(&service);
        let members: Vec<Member> = candidates.iter().map(|candidate| candidate.member).collect();
        let planned = plan(&members, tolerance);
        let parts: BTreeMap<BackendId, _> =
            candidates.iter().zip(&planned.parts).map(|(candidate, part)| (candidate.id, part)).collect();
        let health = self.checks.states();
        let backends = pool(&service).zip(&service.backends).map(|(entry, backend)| {
            let id = self.ids.id(&entry);
            let active = id.and_then(|id| self.load_of(id)).unwrap_or(0);
            let part = id.and_then(|id| parts.get(&id)).map(|part| **part).unwrap_or_default();
            let one = self.steering.overrides.of(&service, backend);
            PlannedBackend {
                name: backend.name.clone(),
                weight: one.map_or(backend.weight, |one| one.weight(backend.weight)),
                active,
                left_out: self.left_out(&service, &entry, &health).map(str::to_owned),
                fair: part.fair,
                resets: part.loses,
                after: part.after(active),
            }
        });
        let mut answer = RebalancePlan {
            service: service.name.clone(),
            margin: settings.margin,
            floor: settings.floor,
            rate: settings.rate,
            resets: planned.resets(),
            begun: false,
            note: None,
            backends: backends.collect(),
        };
        let running = self.rebalances.0.get(&key).and_then(|watched| watched.running.as_ref());
        if !self.answers_for(&service) {
            answer.note = Some("another node has its VIP: rebalance there".to_owned());
        } else if let Some(running) = running {
            answer.note =
                Some(format!("a rebalance goes on already; {} are to be reset yet", running.course.left()));
        } else if answer.resets == 0 {
            answer.note = Some("everybody is within the margin, or at the floor".to_owned());
        } else if !order.dry_run
            && let Some(course) = Course::begin(&candidates, tolerance, settings.rate, now)
        {
            let by = order.by.as_deref().unwrap_or("an operator");
            self.begin_rebalance(key, &service.name, course, settings, Some(by), now);
            answer.begun = true;
        }
        Some(answer)
    }

    /// For `xvip status`; none where no rebalance is possible.
    pub(super) fn rebalance_status(&self, service: &Service) -> Option<RebalanceStatus> {
        let watched = self.rebalances.0.get(&service_key(service));
        let running = watched.and_then(|watched| watched.running.as_ref());
        if service.rebalance.mode == RebalanceMode::Off && watched.is_none() {
            return None;
        }
        Some(RebalanceStatus {
            mode: match service.rebalance.mode {
                RebalanceMode::Off => "off",
                RebalanceMode::Manual => "manual",
                RebalanceMode::Auto => "auto",
            }
            .to_owned(),
            running: running.is_some(),
            left: running.map_or(0, |running| running.course.left()),
            done: running.map_or(0, |running| running.course.resets().values().sum()),
            resets: watched.map_or(0, |watched| watched.resets),
            last: watched.and_then(|watched| watched.last.clone()),
        })
    }
}

impl Running {
    /// Takes in what became of orders. Returns how many flows they have reset.
    fn take_reports(&mut self, progress: &crate::resets::Progress, now: Instant) -> u64 {
        let mut resets = 0;
        let course = &mut self.course;
        self.ordered.retain(|&id, ordered| {
            let key = (id, ResetReason::Rebalance);
            let report = progress.orders.get(&key);
            let is_over = report.is_some_and(|report| report.order > ordered.before && report.last);
            if !is_over && now.saturating_duration_since(ordered.at) < PATIENCE {
                return true;
            }
            let total = progress.totals.get(&key).copied().unwrap_or(0);
            let done = total.saturating_sub(ordered.resets_before);
            course.was_reset(id, done, now);
            resets += done;
            false
        });
        resets
    }

    /// Begins to look for the flows that lose least, on another thread: there may be a million.
    fn choose(&mut self, pin_path: &Path, candidates: &[Candidate]) {
        let rate = usize::try_from(u64::from(self.settings.rate) * CHOSEN_FOR).unwrap_or(usize::MAX);
        let left = usize::try_from(self.course.left()).unwrap_or(usize::MAX);
        let most = rate.min(left).max(1);
        let from: Vec<BackendId> = candidates.iter().map(|candidate| candidate.id).collect();
        let (sender, receiver) = oneshot::channel();
        let pin_path: PathBuf = pin_path.to_owned();
        self.choosing = Some(receiver);
        tokio::task::spawn_blocking(move || {
            let victims: BTreeMap<BackendId, Victims> =
                from.into_iter().map(|id| (id, Victims::new(most))).collect();
            let victims = RefCell::new(victims);
            let read = PinnedFlows::read(&pin_path, &|flow| {
                if flow.state == FlowState::Established
                    && let Some(victims) = victims.borrow_mut().get_mut(&flow.backend)
                {
                    victims.offer(*flow);
                }
                false
            });
            if let Err(error) = read {
                error!("flows cannot be read: {:#}", anyhow::Error::from(error));
            }
            let chosen =
                victims.into_inner().into_iter().map(|(id, victims)| (id, victims.into_worst_first()));
            // Whoever asked may have ended.
            let _ = sender.send(chosen.collect());
        });
    }

    /// Takes what was found, if it is there.
    fn take_choice(&mut self) {
        let Some(choosing) = &mut self.choosing else { return };
        let chosen = match choosing.try_recv() {
            Ok(chosen) => chosen,
            Err(oneshot::error::TryRecvError::Empty) => return,
            Err(oneshot::error::TryRecvError::Closed) => BTreeMap::new(),
        };
        self.choosing = None;
        for &id in self.course.shares().keys() {
            if chosen.get(&id).is_none_or(Vec::is_empty) {
                self.course.has_no_more(id);
            }
        }
        self.victims = chosen;
    }
}
