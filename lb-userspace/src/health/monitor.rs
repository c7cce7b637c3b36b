//! Watches one backend: checks it again and again, and publishes what that adds up to.
//!
//! One task per backend, which owns the [`Probe`] and the [`RiseFall`] machine:
//!
//! ```text
//!   probe_now() --Notify--> task: check, observe, publish, pause --watch--> BackendHealth
//!   stop(), drop --oneshot--^
//! ```
//!
//! What is published is a level, not a row of edges: a slow reader skips flaps and still ends up right. It changes with
//! every check (counters, last check); a reader that only cares for the condition compares `state` and `down`.
//!
//! The task is not aborted from outside. It is told to stop, finishes or drops its check within [`LINGER`], and closes
//! its connection, so that the backend's log has no broken handshake in it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::FutureExt;
use serde::{Serialize, Serializer};
use siphasher::sip::SipHasher13;
use tokio::{
    sync::{Notify, oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};
use tracing::debug;

pub use super::probe::{Recipe, SetupError};
use super::{
    failure::ProbeError,
    probe::{Connection, LINGER, LONGEST, Outcome, Probe},
    rise_fall::{CheckResult, Condition, DownKind, HealthState, RiseFall, Transition},
    tally::CheckTally,
};
use crate::config::model::Health;

/// What is known about a backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BackendHealth {
    /// Whether it gets new flows.
    pub state: HealthState,
    /// While it is down: whether its flows may be reset. `None` as long as that is not known (see
    /// [`Condition::Down`]); leave them alone then.
    pub down: Option<DownKind>,
    /// When `state` or `down` last changed.
    #[serde(serialize_with = "as_rfc3339")]
    pub since: SystemTime,
    /// The newest check.
    pub last_check: Option<LastCheck>,
    /// Checks so far.
    pub checks: u64,
    /// Those that failed.
    pub failures: u64,
    /// Why `state` and `down` are what they are: the result that decided.
    pub reason: String,
    /// What all of them have come to, for metrics.
    #[serde(skip)]
    pub tally: CheckTally,
    /// When the certificate ends that the backend showed last.
    #[serde(skip)]
    pub certificate: Option<SystemTime>,
    /// The newest row of checks to which something came back from there, be it a refusal: from the end of the first to the end of
    /// the last.
    #[serde(skip)]
    pub heard: Option<Row>,
    /// The row of checks to which nothing has come back, if the newest ones are such: from the beginning of the first to the
    /// beginning of the last.
    #[serde(skip)]
    pub silent: Option<Row>,
}

/// From when to when checks, one after the other, had a result of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The first.
    pub first: std::time::Instant,
    /// The last until now.
    pub last: std::time::Instant,
}

impl Row {
    /// With one more, or begun with it.
    fn extended(row: Option<Self>, at: std::time::Instant) -> Self {
        Self { first: row.map_or(at, |row| row.first), last: at }
    }
}

/// The newest check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LastCheck {
    /// Whether it passed.
    pub passed: bool,
    /// Its result in words: "status 200", "connection refused".
    pub result: String,
    /// From its start to its result; serialized as `latency_ms`, a fraction.
    #[serde(rename = "latency_ms", serialize_with = "as_milliseconds")]
    pub latency: Duration,
    /// When it ended.
    #[serde(serialize_with = "as_rfc3339")]
    pub at: SystemTime,
}

/// A result that says something new: it changes the condition, or is a failure after a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// When the check ended.
    pub at: SystemTime,
    /// Its result in words.
    pub reason: String,
    /// How long it took.
    pub took: Duration,
    /// What it changed; `None` for a first failure that changes nothing yet.
    pub change: Option<Change>,
    /// How many results in a row were like it, itself included.
    pub in_a_row: u32,
    /// From the beginning of the first of these to now.
    pub row: Duration,
}

/// A change of condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Before.
    pub from: Condition,
    /// Now.
    pub to: Condition,
    /// How long it was as before.
    pub lasted: Duration,
}

/// Is told of news at once, by the task that checks: it must not wait for anything.
pub type Observer = Box<dyn Fn(News) + Send>;

/// The watch over one backend; ends when this is dropped.
#[derive(Debug)]
pub struct Monitor {
    health: watch::Receiver<BackendHealth>,
    wake: Arc<Notify>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Monitor {
    /// Begins to watch; the first check starts at once. Reads the files that `health` names, and fails if it cannot, or
    /// outside of a Tokio runtime (either flavour will do).
    pub fn spawn(health: &Health, backend: SocketAddr) -> Result<Self, SetupError> {
        Self::spawn_observed(health, backend, Box::new(|_| ()))
    }

    /// The same, and tells `observer` what is new.
    ///
    /// # Errors
    /// As [`Self::spawn`].
    pub fn spawn_observed(
        health: &Health,
        backend: SocketAddr,
        observer: Observer,
    ) -> Result<Self, SetupError> {
        let recipe = Recipe::read(&health.check, health.timeout)?;
        Self::spawn_by(&recipe, health, backend, observer)
    }

    /// The same by a recipe that was made of `health` before, for many backends.
    ///
    /// # Errors
    /// As [`Self::spawn`].
    pub fn spawn_by(
        recipe: &Recipe,
        health: &Health,
        backend: SocketAddr,
        observer: Observer,
    ) -> Result<Self, SetupError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| SetupError::NoRuntime)?;
        let probe = Probe::new(recipe, backend)?;
        let (publish, receiver) = watch::channel(BackendHealth {
            state: HealthState::Unknown,
            down: None,
            since: SystemTime::now(),
            last_check: None,
            checks: 0,
            failures: 0,
            reason: "not checked yet".into(),
            tally: CheckTally::default(),
            certificate: None,
            heard: None,
            silent: None,
        });
        let wake = Arc::new(Notify::new());
        let (stop, stopped) = oneshot::channel();
        let watch = Watch {
            backend,
            fast_interval: health.fast_interval,
            machine: RiseFall::new(health),
            since: Instant::now(),
            row: None,
            observer,
            publish,
        };
        let task = runtime.spawn(watch.run(probe, Arc::clone(&wake), stopped));
        Ok(Self { health: receiver, wake, stop, task })
    }

    /// What is known now, and each time it changes.
    pub fn health(&self) -> watch::Receiver<BackendHealth> {
        self.health.clone()
    }

    /// Asks for a check over a fresh connection: something was seen that speaks against (or for) the backend. Starts
    /// at once, but not within `fast_interval` of the last one, however often this is called.
    pub fn probe_now(&self) {
        self.wake.notify_one();
    }

    /// Ends the watch and waits until its connection is closed; at most twice [`LINGER`].
    pub async fn stop(self) {
        drop(self.stop);
        // The task does not panic by itself; at shutdown the runtime may have cancelled it already.
        let _ended = self.task.await;
    }
}

/// The task's own part.
struct Watch {
    backend: SocketAddr,
    fast_interval: Duration,
    machine: RiseFall,
    /// Of the condition; the wall clock may jump.
    since: Instant,
    /// Whether the newest results passed, since when, and how many they are.
    row: Option<(bool, Instant, u32)>,
    observer: Observer,
    publish: watch::Sender<BackendHealth>,
}

impl Watch {
    async fn run(mut self, mut probe: Probe, wake: Arc<Notify>, mut stopped: oneshot::Receiver<()>) {
        let mut connection = Connection::Fresh;
        let mut first = true;
        loop {
            // The check that begins now answers everything that was seen before it.
            let _answered = wake.notified().now_or_never();
            let outcome = tokio::select! {
                outcome = probe.check(connection) => outcome,
                () = async { let _told = (&mut stopped).await; sleep(LINGER).await } => break,
            };
            if stopped.is_terminated() || stopped.try_recv() != Err(oneshot::error::TryRecvError::Empty) {
                break;
            }
            let ended = Instant::now();
            self.record(&outcome);
            let mut pause = self.machine.next_delay().min(LONGEST);
            if first {
                pause = shortened(pause, self.backend);
                first = false;
            }
            let soonest = ended + self.fast_interval.min(pause);
            let evidence = async {
                wake.notified().await;
                sleep_until(soonest).await;
            };
            connection = tokio::select! {
                biased;
                _told = &mut stopped => break,
                () = evidence => Connection::Fresh,
                () = sleep_until(ended + pause) => Connection::Kept,
            };
        }
        probe.close().await;
    }

    fn record(&mut self, outcome: &Outcome) {
        let (result, words) = match &outcome.result {
            Ok(answer) => (CheckResult::Pass, answer.to_string()),
            Err(error) => (CheckResult::Fail(error.kind()), error.to_string()),
        };
        debug!(backend = %self.backend, latency = ?outcome.latency, result = words, "checked");
        let transition = self.machine.observe(result);
        let now = SystemTime::now();
        let ended = std::time::Instant::now();
        let was_heard = outcome.result.as_ref().map_or_else(ProbeError::was_heard, |_| Some(true));
        let ends = transition.filter(|transition| transition.from.state() == HealthState::Down);
        let was_down = ends.map(|_| Instant::now().saturating_duration_since(self.since));
        self.tell(transition, result == CheckResult::Pass, outcome.latency, &words, now);
        self.publish.send_modify(|health| {
            health.checks += 1;
            health.failures += u64::from(result != CheckResult::Pass);
            health.tally.add(outcome.latency, outcome.result.as_ref().err().map(ProbeError::name));
            health.tally.was_down(was_down.unwrap_or_default());
            health.certificate = outcome.certificate.or(health.certificate);
            if let Some(transition) = transition {
                health.state = transition.to.state();
                health.down = transition.to.down();
                health.since = now;
                health.tally.transitions += 1;
                health.reason.clone_from(&words);
            }
            match was_heard {
                Some(true) => {
                    // What was heard before a silence says nothing about the time since.
                    let row = health.heard.filter(|_| health.silent.is_none());
                    health.heard = Some(Row::extended(row, ended));
                    health.silent = None;
                }
                Some(false) => health.silent = Some(Row::extended(health.silent, ended - outcome.latency)),
                None => {}
            }
            health.last_check = Some(LastCheck {
                passed: result == CheckResult::Pass,
                result: words,
                latency: outcome.latency,
                at: now,
            });
        });
    }

    /// Tells a result that has just come, if it says anything new.
    fn tell(
        &mut self,
        transition: Option<Transition>,
        passed: bool,
        took: Duration,
        words: &str,
        at: SystemTime,
    ) {
        let now = Instant::now();
        let before = self.row;
        let (_, first, in_a_row) = match before {
            Some((kind, first, count)) if kind == passed => (kind, first, count.saturating_add(1)),
            _ => (passed, now.checked_sub(took).unwrap_or(now), 1),
        };
        self.row = Some((passed, first, in_a_row));
        let change = transition.map(|Transition { from, to }| {
            let lasted = now.saturating_duration_since(self.since);
            self.since = now;
            Change { from, to, lasted }
        });
        let fails_anew = !passed && before.is_some_and(|(passed, ..)| passed);
        if change.is_some() || fails_anew {
            let row = now.saturating_duration_since(first);
            (self.observer)(News { at, reason: words.to_owned(), took, change, in_a_row, row });
        }
    }
}

/// The first pause: between half of it and all of it, by the backend's address. The first checks of all backends start
/// together, and without this so would all others. Never longer, so that nothing is noticed late.
fn shortened(pause: Duration, backend: SocketAddr) -> Duration {
    let mut bytes = match backend.ip() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    bytes.extend(backend.port().to_be_bytes());
    // 16 bits are fine enough; their square fits into any arithmetic.
    let [high, low, ..] = SipHasher13::new().hash(&bytes).to_be_bytes();
    let share = u32::from(u16::from_be_bytes([high, low]));
    pause - pause / 2 / u32::from(u16::MAX) * share
}

fn as_rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*time))
}

fn as_milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests;
