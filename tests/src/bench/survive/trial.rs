//! One pair to which one incident after the other happens, with streams through it and a request every 10 ms.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;

use crate::bench::stack::{Incident, Stack};
use crate::interrupt::Interrupt;
use crate::measure::{ClientProcess, Outcome};
use crate::streams::{Account, Plan, Streams};
use crate::topology::Load;
use crate::wait;

/// From one request to the next.
pub const INTERVAL: Duration = Duration::from_millis(10);
/// After which a request has failed. Less than the second after which the kernel repeats a SYN: see
/// [`crate::probe::ProbeOptions::timeout_ms`].
pub const TIMEOUT: Duration = Duration::from_millis(900);
/// An answer that took longer was slow.
pub const SLOW: Duration = Duration::from_millis(250);
/// How far from its fair share of connections a backend may be.
pub const MARGIN: f64 = 0.10;
/// A second of success: longer than a request that nobody answers takes to fail.
const STEADY: usize = 100;
/// Nothing waits for it unless something is wrong. HAProxy takes a dead API server out within 40 s.
const LIMIT: Duration = Duration::from_secs(90);
/// How long at most it is waited until each stream either moves or has ended: HAProxy ends one after 50 s.
const CALM_LIMIT: Duration = Duration::from_secs(60);
/// How long at least each incident is looked at, and how long when what follows has to be waited for.
const LOOK: Duration = Duration::from_secs(2);
const LOOK_AT_UNREADY: Duration = Duration::from_secs(10);
/// How long connections have to spread again. HAProxy needs 10 s to take a server back.
const SPREAD_LIMIT: Duration = Duration::from_secs(70);

/// One time that something happened.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    /// What.
    pub incident: Incident,
    /// How many streams there were.
    pub streams: usize,
    /// How many of them broke.
    pub broken: usize,
    /// How many of these were not at the API server that something happened to.
    pub broken_elsewhere: usize,
    /// How the broken ones ended.
    pub broken_how: BTreeMap<String, usize>,
    /// How many did not move for more than a second.
    pub hung: usize,
    /// The longest time that one did not move.
    pub longest_hang_us: u64,
    /// After which time half of the clients of broken streams knew.
    pub noticed_median_us: Option<u64>,
    /// After which time the last of them knew.
    pub noticed_last_us: Option<u64>,
    /// How many still did not move when it was no longer waited for.
    pub silent_at_end: usize,
    /// Requests that began in the time looked at.
    pub requests: usize,
    /// How many of them failed.
    pub failed: usize,
    /// How they failed.
    pub failed_how: BTreeMap<String, usize>,
    /// How many were answered late.
    pub slow: usize,
    /// The time without service: see [`crate::outage`].
    pub outage_us: u64,
    /// From the first request that failed to the last one.
    pub failing_us: u64,
    /// The longest time from one request to the next: far more than 10 ms, and the probe was kept from running.
    pub pause_us: u64,
    /// How many streams each API server had.
    pub spread_before: BTreeMap<String, usize>,
    /// How many it had in the end.
    pub spread_after: BTreeMap<String, usize>,
    /// How long it took until each was within [`MARGIN`] of its fair share.
    pub spread_us: Option<u64>,
    /// For how long an API server that was not ready was still asked, at least.
    pub unready_asked_us: Option<u64>,
    /// What became of streams and requests while the incident was undone, where that was looked at.
    pub undone: Option<Undone>,
}

/// What happened while all was brought back to what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Undone {
    /// How many of the streams broke.
    pub broken: usize,
    /// How many requests failed.
    pub failed: usize,
    /// The streams and the last failure in words.
    pub words: String,
}

/// The pair, its clients and its streams.
pub struct Trial<'a> {
    stack: &'a mut dyn Stack,
    interrupt: Option<&'a Interrupt>,
    probe: ClientProcess,
    plan: Plan,
    /// Streams outlive incidents, and what happens while one is undone is looked at.
    keep: bool,
    streams: Option<Streams>,
    /// Nothing has happened since all was well.
    is_well: bool,
}

impl<'a> Trial<'a> {
    /// Starts the requests. With `keep` the streams outlive incidents as long as none breaks.
    ///
    /// # Errors
    /// When they cannot be started.
    pub fn new(
        stack: &'a mut dyn Stack,
        plan: Plan,
        keep: bool,
        interrupt: Option<&'a Interrupt>,
    ) -> anyhow::Result<Self> {
        let lab = stack.lab();
        let probe = lab.on(lab.client()).probe(INTERVAL, TIMEOUT)?;
        Ok(Self { stack, interrupt, probe, plan, keep, streams: None, is_well: false })
    }

    /// Whether this can happen to the pair.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub fn knows(&self, incident: Incident) -> anyhow::Result<bool> {
        self.stack.knows(incident)
    }

    /// The ends of the pair's logs.
    #[must_use]
    pub fn last_lines(&self) -> String {
        self.stack.last_lines()
    }

    /// Lets it happen once, `phase` after the pair has settled.
    ///
    /// # Errors
    /// When it could not be done, or the pair does not settle.
    pub fn once(&mut self, incident: Incident, phase: Duration) -> anyhow::Result<Sample> {
        if !self.is_well {
            self.well()?;
        }
        self.is_well = false;
        if incident.needs_preparation() {
            self.prepare(incident)?;
        }
        let streams = self.open_streams(incident)?;
        let asked = (incident == Incident::ServerUnready).then(|| self.ask_for_versions()).transpose()?;
        self.pause(phase);

        let spread_before = streams.by_server();
        let begin = self.probe.mark();
        self.stack.befall(incident)?;
        self.settled(incident.owner_after())?;
        self.pause(Duration::from_micros(begin).saturating_add(LOOK).saturating_sub(now(&self.probe)));
        let mut spread_us = None;
        if incident == Incident::ServerBack {
            let spread = || evenly_spread(&streams.by_server(), 3);
            if wait::until("streams to spread", SPREAD_LIMIT, || self.interrupted() || spread()).is_ok() {
                spread_us = Some(self.probe.mark() - begin);
            }
        }
        if incident == Incident::ServerUnready {
            self.pause(LOOK_AT_UNREADY);
        }
        let silent_at_end = self.calm(&streams);
        let end = self.probe.mark();
        // All that began before that have their answer by then, or have failed.
        self.pause(TIMEOUT + INTERVAL * 20);
        if self.interrupted() {
            bail!("interrupted");
        }

        let first = self.stack.lab().master(0).name().to_owned();
        let account = streams.since(begin);
        let spread_after = streams.by_server();
        let last_asked = asked.map(|load| load.read(|tally| tally.last_answer_of(&first, begin)));
        let mut sample = Sample {
            silent_at_end,
            spread_before,
            spread_after,
            spread_us,
            unready_asked_us: last_asked.map(|last| last.map_or(0, |last| last - begin)),
            ..self.told(incident, &account, &first, (begin, end))
        };
        if self.keep && incident != Incident::ServerBack {
            self.streams = Some(streams);
            self.stack.undo(incident)?;
            sample.undone = Some(self.undone(end)?);
        } else {
            drop(streams);
            self.stack.undo(incident)?;
        }
        Ok(sample)
    }

    /// Waits until all is as it should be.
    fn well(&mut self) -> anyhow::Result<()> {
        self.settled("lb1")?;
        self.until("all nodes to take all API servers for healthy", || self.stack.is_whole())?;
        self.is_well = true;
        Ok(())
    }

    fn prepare(&mut self, incident: Incident) -> anyhow::Result<()> {
        self.stack.prepare(incident)?;
        self.settled(incident.owner_before())?;
        match incident {
            Incident::ServerBack => {
                self.until("the dead API server to be given up", || self.stack.has_given_up_server())
            }
            // One node is down.
            Incident::FailBack => Ok(()),
            _ => self.until("all nodes to take all API servers for healthy", || self.stack.is_whole()),
        }
    }

    /// What became of the streams until all is as it was.
    fn undone(&mut self, end: u64) -> anyhow::Result<Undone> {
        self.well()?;
        let Some(streams) = self.streams.take() else { bail!("no streams") };
        let silent = self.calm(&streams);
        self.pause(TIMEOUT + INTERVAL * 20);
        let account = streams.since(end);
        let (failed, last) = self.probe.read(|tally| {
            let last = tally.last_failure().filter(|(at, _)| *at > end).map(|(_, why)| why.to_owned());
            (tally.begun(end, u64::MAX).filter(failure).count(), last)
        });
        let words = format!("{account}, {silent} silent; last failure: {last:?}");
        if account.broken.is_empty()
            && streams.read(crate::streams::Tally::open) == self.plan.count() as usize
        {
            self.streams = Some(streams);
        }
        Ok(Undone { broken: account.broken.len() + silent, failed, words })
    }

    fn told(&self, incident: Incident, account: &Account, first: &str, (begin, end): (u64, u64)) -> Sample {
        let noticed = account.noticed();
        let elsewhere = |server: &str| !incident.harms_server() || server != first;
        let us = |time: &Duration| time.as_micros() as u64;
        self.probe.read(|tally| {
            let failures: Vec<_> = tally.begun(begin, end).filter(failure).map(Outcome::began_us).collect();
            let failing = failures.iter().max().zip(failures.iter().min());
            let slow = |o: &&Outcome| o.result.is_ok() && Duration::from_micros(o.took_us) > SLOW;
            Sample {
                incident,
                streams: account.streams,
                broken: account.broken.len(),
                broken_elsewhere: account.broken.iter().filter(|broken| elsewhere(&broken.server)).count(),
                broken_how: account.kinds(),
                hung: account.hung.len(),
                longest_hang_us: us(&account.longest),
                noticed_median_us: noticed.get(noticed.len().saturating_sub(1) / 2).map(us),
                noticed_last_us: noticed.last().map(us),
                silent_at_end: 0,
                requests: tally.begun(begin, end).count(),
                failed: failures.len(),
                failed_how: words(tally.begun(begin, end)),
                slow: tally.begun(begin, end).filter(slow).count(),
                outage_us: us(&tally.outage(begin, end)),
                failing_us: failing.map_or(0, |(last, first)| last - first + us(&INTERVAL)),
                pause_us: us(&tally.pause(begin, end)),
                spread_before: BTreeMap::new(),
                spread_after: BTreeMap::new(),
                spread_us: None,
                unready_asked_us: None,
                undone: None,
            }
        })
    }

    fn open_streams(&mut self, incident: Incident) -> anyhow::Result<Streams> {
        let mut plan = self.plan.clone();
        if incident == Incident::ServerBack {
            // As many as the others' fair share would be if there were no third, and a client opens again what breaks.
            plan = Plan { plain: plan.plain * 3 / 2, watch: plan.watch * 3 / 2, reopen: true, ..plan };
            self.streams = None;
        }
        match self.streams.take() {
            Some(streams) => Ok(streams),
            None => self.stack.lab().streams(&plan, LIMIT).context("opening streams"),
        }
    }

    /// What shows who of the API servers is asked by new clients: their checks look at `/readyz`.
    fn ask_for_versions(&self) -> anyhow::Result<ClientProcess> {
        let load = Load { interval: Duration::from_millis(50), ..Load::default() };
        Ok(self.stack.lab().load(&load)?)
    }

    /// Waits until each stream moves or has ended; how many did neither.
    fn calm(&self, streams: &Streams) -> usize {
        let mark = streams.mark();
        let silent = || streams.read(|tally| tally.silent_since(mark));
        let moved =
            wait::until("each stream to move or end", CALM_LIMIT, || self.interrupted() || silent() == 0);
        if moved.is_ok() { 0 } else { silent() }
    }

    /// Waits until this node owns the VIP and requests that begin after that succeed.
    fn settled(&self, owner: &str) -> anyhow::Result<()> {
        self.until(&format!("{owner} to own the VIP"), || self.stack.owner() == Some(owner))?;
        let mark = self.probe.mark();
        let steady = || self.probe.steady_since(mark) >= STEADY;
        self.until(&format!("{STEADY} answers in a row with {owner} as the owner"), steady)
    }

    fn until(&self, what: &str, mut condition: impl FnMut() -> bool) -> anyhow::Result<()> {
        wait::until(what, LIMIT, || self.interrupted() || condition())?;
        if self.interrupted() {
            bail!("interrupted");
        }
        Ok(())
    }

    fn interrupted(&self) -> bool {
        self.interrupt.is_some_and(Interrupt::asked)
    }

    fn pause(&self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end && !self.interrupted() {
            thread::sleep(Duration::from_millis(5).min(end.saturating_duration_since(Instant::now())));
        }
    }
}

fn now(probe: &ClientProcess) -> Duration {
    Duration::from_micros(probe.mark())
}

fn failure(outcome: &&Outcome) -> bool {
    outcome.result.is_err()
}

/// The failures by their words.
fn words<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> BTreeMap<String, usize> {
    let mut words = BTreeMap::new();
    for why in outcomes.filter_map(|outcome| outcome.result.as_ref().err()) {
        *words.entry(why.clone()).or_default() += 1;
    }
    words
}

/// Whether each of so many servers has its fair share, within [`MARGIN`].
fn evenly_spread(spread: &BTreeMap<String, usize>, servers: usize) -> bool {
    let fair = spread.values().sum::<usize>() as f64 / servers as f64;
    spread.len() == servers && spread.values().all(|count| (*count as f64 - fair).abs() <= fair * MARGIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_even_within_a_tenth() {
        let spread =
            |counts: &[usize]| counts.iter().map(|n| (format!("{n}"), *n)).collect::<BTreeMap<_, _>>();
        assert!(evenly_spread(&spread(&[90, 100, 110]), 3));
        assert!(!evenly_spread(&spread(&[89, 100, 111]), 3));
        assert!(!evenly_spread(&spread(&[149, 151]), 3), "the third has none");
    }
}
