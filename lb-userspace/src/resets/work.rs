//! The thread: takes orders, finds flows, ends them, and says so to both sides.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::mpsc,
    time::{Duration, Instant},
};

use lb_common::layout::{BackendEntry, BackendId, NodeEntry};
use tracing::warn;

use super::{
    Command, Progress, What,
    agenda::{Agenda, OrderKey},
    injector::Injector,
    segments::{self, OutFrame},
};
use crate::{
    connections::tap::{News, Tap},
    dataplane::{AnyFlow, AnyKey, DataplaneError, SeverFlows, SeverTables},
};

/// So many flows at most are ended before new orders are looked at.
const AT_ONCE: usize = 256;
/// Who has not heard it the first time hears it again so much later, each time after the time before.
const AGAIN_AFTER: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(1200)];
/// No more flows than that wait to be told again; the others must do with once.
const AGAIN_AT_MOST: usize = 1 << 16;

/// The thread's own part.
pub(super) struct Work<P> {
    publish: P,
    tables: Option<Box<SeverTables>>,
    agenda: Agenda<AnyKey>,
    teller: Teller,
    totals: BTreeMap<OrderKey, u64>,
    problem: Option<String>,
}

impl<P: Fn(Progress)> Work<P> {
    pub(super) fn new(publish: P) -> Self {
        Self {
            publish,
            tables: None,
            agenda: Agenda::default(),
            teller: Teller::default(),
            totals: BTreeMap::new(),
            problem: None,
        }
    }

    /// Until nobody can give an order any more.
    pub(super) fn serve(mut self, commands: &mpsc::Receiver<Command>) {
        loop {
            let now = Instant::now();
            let next = self
                .tables
                .as_ref()
                .and_then(|_| [self.agenda.next(now), self.teller.next()].into_iter().flatten().min());
            let command = match next {
                None => commands.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
                Some(next) => commands.recv_timeout(next.saturating_duration_since(now)),
            };
            match command {
                Ok(command) => {
                    self.take(command);
                    // Those that come together need one walk.
                    while let Ok(command) = commands.try_recv() {
                        self.take(command);
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            if let Err(error) = self.work() {
                let problem = format!("{:#}", anyhow::Error::from(error));
                warn!("flows are not reset: {problem}");
                self.problem = Some(problem);
                // Whoever gives orders gives them again.
                self.agenda.cancel_all(Instant::now());
            }
            (self.publish)(Progress {
                orders: self.agenda.reports().clone(),
                totals: self.totals.clone(),
                problem: self.problem.clone().or_else(|| self.teller.problem.clone()),
            });
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Tables(tables) => {
                self.tables = tables;
                self.teller.again.iter_mut().for_each(VecDeque::clear);
            }
            Command::Submit(order, given) => self.agenda.submit(order, given),
            Command::Cancel(backend, why) => self.agenda.cancel((backend, why), Instant::now()),
            Command::Forget(backend) => {
                self.agenda.forget(backend);
                self.totals.retain(|(id, _), _| *id != backend);
            }
            Command::Tap(tap) => self.teller.tap = Some(tap),
        }
    }

    fn work(&mut self) -> Result<(), DataplaneError> {
        let Some(mut tables) = self.tables.take() else { return Ok(()) };
        let worked = self.work_on(&mut tables);
        self.tables = Some(tables);
        worked
    }

    fn work_on(&mut self, tables: &mut SeverTables) -> Result<(), DataplaneError> {
        self.find(tables)?;
        let now = Instant::now();
        let mut ended = Ended::default();
        for (key, flow) in self.agenda.due(AT_ONCE, now) {
            let is_done = self.teller.end(&mut tables.flows, &flow, key, &mut ended)?;
            let done = ended.done.entry(key).or_default();
            *done += u64::from(is_done);
        }
        self.count(&mut tables.flows, &ended)?;
        for (key, done) in ended.done {
            self.agenda.did(key, done, Instant::now());
        }
        self.teller.tell_again(&tables.flows, Instant::now())?;
        self.problem = None;
        Ok(())
    }

    /// Finds the flows that new orders are about. Where all are to go at once, they go as they are found.
    fn find(&mut self, tables: &mut SeverTables) -> Result<(), DataplaneError> {
        let fresh = self.agenda.fresh();
        let mut found: BTreeMap<OrderKey, Vec<(u32, AnyKey)>> = BTreeMap::new();
        let mut by_backend: BTreeMap<BackendId, Vec<(OrderKey, bool)>> = BTreeMap::new();
        for (key, what, at_once) in &fresh {
            match what {
                What::Flows(flows) => {
                    let keys = flows.iter().filter_map(AnyKey::of).map(|flow| (0, flow));
                    found.insert(*key, keys.collect());
                }
                What::All | What::Excess(_) => by_backend.entry(key.0).or_default().push((*key, *at_once)),
            }
        }
        let mut ended = Ended::default();
        if !by_backend.is_empty() {
            let teller = &mut self.teller;
            let mut failed = None;
            let backends: BTreeSet<BackendId> = by_backend.keys().copied().collect();
            tables.walk(&backends, &mut |flows, flow| {
                for &(key, at_once) in by_backend.get(&flow.backend).into_iter().flatten() {
                    if !at_once {
                        found.entry(key).or_default().push((flow.silence, flow.key));
                        continue;
                    }
                    match teller.end(flows, &flow.key, key, &mut ended) {
                        Ok(is_done) => *ended.done.entry(key).or_default() += u64::from(is_done),
                        Err(error) => failed = failed.take().or(Some(error)),
                    }
                }
            })?;
            if let Some(error) = failed {
                return Err(error);
            }
        }
        self.count(&mut tables.flows, &ended)?;
        for (key, what, _) in &fresh {
            let mut flows = found.remove(key).unwrap_or_default();
            if let What::Excess(excess) = what {
                flows.retain(|(_, flow)| tables.flows.flow(flow).is_some_and(|flow| flow.is_open()));
                flows.sort_by_key(|(silence, _)| std::cmp::Reverse(*silence));
                flows.truncate(usize::try_from(*excess).unwrap_or(usize::MAX));
            }
            let done = ended.done.get(key).copied().unwrap_or(0);
            self.agenda.found(*key, flows.into_iter().map(|(_, flow)| flow), done, Instant::now());
        }
        let all = fresh.iter().filter(|((_, why), what, _)| why.ends_handshakes() && *what == What::All);
        let all: BTreeSet<BackendId> = all.map(|((backend, _), ..)| *backend).collect();
        if !all.is_empty() {
            tables.forget_handshakes(&all)?;
        }
        Ok(())
    }

    fn count(&mut self, flows: &mut SeverFlows, ended: &Ended) -> Result<(), DataplaneError> {
        for (&key, &done) in &ended.done {
            *self.totals.entry(key).or_default() += done;
        }
        flows.unload(&ended.unloaded)
    }
}

/// What was ended in one go.
#[derive(Default)]
struct Ended {
    done: BTreeMap<OrderKey, u64>,
    /// Those of them that their backends' loads counted.
    unloaded: BTreeMap<BackendId, i64>,
    /// The same for all of them.
    backends: BTreeMap<BackendId, (BackendEntry, NodeEntry)>,
}

/// Who says to both ends of a flow that it has ended.
#[derive(Default)]
struct Teller {
    injector: Injector,
    tap: Option<Tap>,
    /// Whom to tell again, how often that has been done, and when.
    again: [VecDeque<(Instant, AnyKey)>; AGAIN_AFTER.len()],
    problem: Option<String>,
}

impl Teller {
    /// Ends a flow of this order's backend: marks it, tells both sides. False where there is no such flow (any more).
    fn end(
        &mut self,
        flows: &mut SeverFlows,
        key: &AnyKey,
        (backend, why): OrderKey,
        ended: &mut Ended,
    ) -> Result<bool, DataplaneError> {
        let Some(flow) = flows.sever(key, backend)? else { return Ok(false) };
        if let Some(tap) = self.tap.as_ref().filter(|tap| tap.is_open()) {
            tap.tell(News::Severed(Box::new(flow.snapshot()), why));
        }
        *ended.unloaded.entry(backend).or_default() += i64::from(flow.counts());
        let (entry, node) = match ended.backends.get(&backend) {
            Some(known) => known,
            None => {
                let read = flows.backend(backend)?;
                ended.backends.entry(backend).or_insert(read)
            }
        };
        self.tell(&flow, entry, node);
        self.later(0, *key, Instant::now());
        Ok(true)
    }

    fn tell(&mut self, flow: &AnyFlow, backend: &BackendEntry, node: &NodeEntry) {
        let (client, server) = match flow {
            AnyFlow::V4(flow) => (segments::to_client(flow), segments::to_backend(flow, backend, node)),
            AnyFlow::V6(flow) => (segments::to_client(flow), segments::to_backend(flow, backend, node)),
        };
        let told = client.iter().try_for_each(|frame: &OutFrame| self.injector.send(frame));
        let problem =
            told.err().map(|error| format!("clients are not told that their flows were reset: {error}"));
        if let Some(problem) = &problem
            && self.problem.is_none()
        {
            warn!("{problem}");
        }
        self.problem = problem;
        // A dead one need not hear it.
        let _ = server.iter().try_for_each(|frame| self.injector.send(frame));
    }

    fn later(&mut self, round: usize, key: AnyKey, now: Instant) {
        if let (Some(queue), Some(&after)) = (self.again.get_mut(round), AGAIN_AFTER.get(round))
            && queue.len() < AGAIN_AT_MOST
        {
            queue.push_back((now + after, key));
        }
    }

    fn next(&self) -> Option<Instant> {
        self.again.iter().filter_map(|queue| queue.front()).map(|(at, _)| *at).min()
    }

    /// Tells those again whose time has come, unless the client has opened the flow anew.
    fn tell_again(&mut self, flows: &SeverFlows, now: Instant) -> Result<(), DataplaneError> {
        let mut backends: BTreeMap<BackendId, (BackendEntry, NodeEntry)> = BTreeMap::new();
        for round in 0..AGAIN_AFTER.len() {
            for _ in 0..AT_ONCE {
                let queue = &mut self.again[round];
                if queue.front().is_none_or(|(at, _)| *at > now) {
                    break;
                }
                let Some((_, key)) = queue.pop_front() else { break };
                let Some(flow) = flows.flow(&key).filter(AnyFlow::is_severed) else { continue };
                let id = flow.backend();
                let (entry, node) = match backends.get(&id) {
                    Some(known) => known,
                    None => {
                        let read = flows.backend(id)?;
                        backends.entry(id).or_insert(read)
                    }
                };
                self.tell(&flow, entry, node);
                self.later(round + 1, key, now);
            }
        }
        Ok(())
    }
}
