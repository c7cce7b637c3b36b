//! Whose flows are reset because their backend is dead, as a level: looked at whenever health, VRRP or the configuration may
//! have changed something, and after each sweep, which may have found flows that came later.
//!
//! Never those of a backend that is shutting down or not known, and none while it is not sure that the backend is dead rather
//! than this node cut off ([`super::doubt`]).

use std::{collections::BTreeMap, time::SystemTime};

use super::{
    Controller,
    doubt::{self, Testimony, Verdict},
    set_problem,
};
use crate::{
    config::model::OnDown,
    desired::{PoolEntry, pool},
    history::{Event, Kind, Severity, event::milliseconds},
    resets::{ResetOrder, ResetReason, What},
};
use lb_common::layout::BackendId;

/// What has been ordered for dead backends, and what was told of it.
#[derive(Debug, Default)]
pub struct Condemned {
    /// Their flows are reset, at these rates.
    ordered: BTreeMap<BackendId, u32>,
    /// The order of each backend and reason whose end has been logged.
    told: BTreeMap<(BackendId, ResetReason), u64>,
}

impl Controller {
    /// Has the flows of the dead reset that are not yet, and of nobody else.
    pub(super) fn follow_dead(&mut self) {
        let dead = self.dead();
        for (&backend, _) in self.condemned.ordered.iter().filter(|(id, _)| !dead.contains_key(id)) {
            self.resets.cancel(backend, ResetReason::BackendDead);
        }
        for (&backend, &rate) in &dead {
            if self.condemned.ordered.get(&backend) != Some(&rate) {
                self.order_resets(backend, rate);
            }
        }
        self.condemned.ordered = dead;
    }

    /// After a sweep: who is dead and still has flows, has got them since.
    pub(super) fn follow_sweep(&mut self) {
        self.follow_dead();
        let progress = self.resets.progress();
        let progress = progress.borrow();
        for (&backend, &rate) in &self.condemned.ordered {
            let report = progress.orders.get(&(backend, ResetReason::BackendDead));
            let runs = report.is_some_and(|report| !report.last);
            let flows = self.census.by_backend.get(&backend);
            if !runs && flows.is_some_and(|flows| flows.active + flows.half_closed + flows.half_open > 0) {
                self.order_resets(backend, rate);
            }
        }
    }

    fn order_resets(&self, backend: BackendId, rate: u32) {
        self.resets.submit(ResetOrder { backend, what: What::All, rate, why: ResetReason::BackendDead });
    }

    /// The backends whose flows are reset, with the rate. Has somebody else checked where it is not sure who is dead.
    fn dead(&mut self) -> BTreeMap<BackendId, u32> {
        let mut dead = BTreeMap::new();
        if self.dataplane.is_none() || self.config.node.observe {
            return dead;
        }
        let known = self.checks.testimonies();
        let all: Vec<Testimony> = known.iter().map(|(_, one)| *one).collect();
        for one in all.iter().filter(|one| one.silent.is_some()) {
            let others = known.iter().filter(|(_, other)| doubt::is_wanted(other, one, &all));
            others.for_each(|(entry, _)| self.checks.probe_one_now(entry));
        }
        let verdicts: BTreeMap<PoolEntry, Verdict> =
            known.iter().map(|(entry, one)| (*entry, doubt::verdict(one, &all))).collect();

        let active = self.routers.active();
        let mut doubtful = 0;
        for service in self.config.services.iter().filter(|service| service.on_down == OnDown::Reset) {
            // Whoever has the VIP tells the clients; their answers would not come to us.
            if service.vrrp.as_ref().is_some_and(|instance| !active.contains_key(instance)) {
                continue;
            }
            for entry in pool(service) {
                match verdicts.get(&entry) {
                    Some(Verdict::Dead) => {
                        dead.extend(self.ids.id(&entry).map(|id| (id, service.reset_rate)));
                    }
                    Some(Verdict::Doubtful) => doubtful += 1,
                    Some(Verdict::Alive) | None => {}
                }
            }
        }
        self.checks.await_results(doubtful > 0);
        let problem = (doubtful > 0).then(|| {
            format!(
                "{doubtful} backends do not answer, but neither has any other since: this node may be cut off, and their \
                 flows are left alone"
            )
        });
        set_problem(&mut self.problems.doubt, problem);
        dead
    }

    /// An id will be another backend's.
    pub(super) fn forget_resets(&mut self, backend: BackendId) {
        self.resets.forget(backend);
        self.condemned.told.retain(|(id, _), _| *id != backend);
    }

    /// How many of a backend's flows this process has reset, by reason.
    pub(super) fn resets_of(&self, backend: BackendId) -> BTreeMap<String, u64> {
        let progress = self.resets.progress();
        let progress = progress.borrow();
        let totals = progress.totals.iter().filter(|((id, _), count)| *id == backend && **count > 0);
        totals.map(|((_, why), &count)| (why.name().to_owned(), count)).collect()
    }

    /// Tells of orders that have come to their end.
    pub(super) fn resets_progressed(&mut self) {
        let progress = self.resets.progress().borrow().clone();
        for (key, report) in progress.orders.iter().filter(|(_, report)| report.last) {
            if self.condemned.told.insert(*key, report.order) == Some(report.order) || report.done == 0 {
                continue;
            }
            // A rebalance gives an order for each few of its flows, and tells of all of them in the end.
            let Some((reason, severity)) = told(report.why) else { continue };
            let entry = self.ids.all().find(|(id, _)| *id == report.backend).map(|(_, entry)| entry);
            let event = match entry {
                Some(entry) => self.backend_event(Kind::Reset, &entry),
                None => Event::new(Kind::Reset, "?", SystemTime::now()),
            };
            let event = event.because(reason).grave(severity).with("connections", report.done);
            self.tell(event.with("took_ms", milliseconds(report.took)));
        }
        let problem = progress.problem;
        set_problem(&mut self.problems.resets, problem);
    }
}

/// Why connections were reset, in words; `None` where somebody else tells it.
fn told(why: ResetReason) -> Option<(&'static str, Severity)> {
    match why {
        ResetReason::BackendDead => Some(("its connections were reset: it is dead", Severity::Warn)),
        ResetReason::Disabled => Some(("its connections were reset: it is disabled", Severity::Info)),
        ResetReason::DrainDeadline => {
            Some(("its connections were reset: the deadline of its drain has passed", Severity::Info))
        }
        ResetReason::Rebalance => None,
    }
}
